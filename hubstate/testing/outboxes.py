"""`OutboxTests`: what a sender expects of the outbox of a session. Subclass it with one fixture.

class TestMyOutbox(OutboxTests):
    @pytest.fixture
    def open_outbox(self):
        return MyOutbox            # called with a file to keep it in, and the folder of the journal
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from hubstate.testing.needs import require

require("pytest")

import pytest  # noqa: E402

from hubstate import events as ev  # noqa: E402
from hubstate.actions import Memory, Row, SendRows  # noqa: E402
from hubstate.door import Door  # noqa: E402
from hubstate.journal import Journal, recover  # noqa: E402
from hubstate.outbox import FILES, WORDS, Delivery  # noqa: E402
from hubstate.states import Outcome  # noqa: E402
from hubstate.testing.clock import FakeClock  # noqa: E402

__all__ = ["OpenOutbox", "OutboxTests", "OutboxUnderTest"]


class OutboxUnderTest(Protocol):
    """What a sender uses of an outbox (see `hubstate.outbox.Outbox`)."""

    def ingest(self, limit: int = 1_000) -> int: ...
    def claim(self, lane: str, now: float) -> Delivery | float | None: ...
    def rows(self, action: SendRows, after: int) -> tuple[Row, ...]: ...
    def postpone(self, key: str, due: float, trouble: str) -> None: ...
    def hurry(self) -> None: ...
    def advance(self, key: str, progress: int, taken: int, not_taken: str) -> None: ...
    @property
    def reconciled(self) -> bool: ...
    def reconcile(self, end: tuple[int, int], memory: Memory) -> None: ...
    def count(self) -> tuple[int, int]: ...
    def close(self) -> None: ...


OpenOutbox = Callable[[Path, Path], OutboxUnderTest]


class _Session:
    """A session with a journal, and the outbox under test beside it."""

    def __init__(self, folder: Path, open_outbox: OpenOutbox) -> None:
        folder.mkdir()
        self._folder, self._open = folder, open_outbox
        self.clock = FakeClock()
        recovery = recover(folder)
        self.door = Door(Journal(folder, recovery), recovery.memory, self.clock, lambda _before, _after: None)
        self.door.tell(ev.PretrainRoutineStart, session="S", name="digits")
        self.door.tell(ev.PretrainRoutineEnd)
        self.door.tell(ev.TrainStart)
        self.file = folder / "outbox"
        self.outbox = open_outbox(self.file, folder)

    def reopen(self) -> None:
        self.outbox.close()
        self.outbox = self._open(self.file, self._folder)

    def row(self, count: int = 1) -> None:
        """Rows; at least 3 s after the last answer to some, so the first of them asks for a send."""
        self.clock.advance(3.0)
        for _ in range(count):
            self.door.tell(ev.FitEpochEnd, self.door.memory.rows, {"loss": 0.5})

    def save(self, name: str, fitness: float) -> None:
        """A checkpoint that is due."""
        self.clock.advance(900.0)
        fields: dict[str, Any] = {"epoch": 0, "path": name, "size": 1, "mtime_ns": 1, "snapshot": name}
        self.door.tell(ev.ModelSave, **fields, fitness=fitness)

    def answer(self, what: str, kind: type[ev.Event] = ev.Delivered, **fields: Any) -> None:
        """A hub's answer to the first delivery of a kind: `open`, `rows`, `checkpoint`, `close` or `end`."""
        action = next(a for a in self.door.memory.outstanding if a.key.split("/")[2] == what)
        if kind is ev.Delivered and isinstance(action, SendRows):
            fields = {"rows": action.last - action.first + 1} | fields
        self.door.tell(kind, key=action.key, **fields)

    def next(self, lane: str = WORDS) -> str | None:
        """What leaves next: `open`, `rows` and so on; None if nothing may."""
        found = self.claim(lane)
        return found.key.split("/")[2] if isinstance(found, Delivery) else None

    def claim(self, lane: str = WORDS) -> Delivery | float | None:
        while self.outbox.ingest():
            pass
        return self.outbox.claim(lane, self.door.now())

    def close(self) -> None:
        self.outbox.close()
        self.door.close()


class OutboxTests:
    """What the journal asks for leaves in order, once, and is forgotten only when the journal settles it."""

    @pytest.fixture
    def open_outbox(self) -> OpenOutbox:
        """How an outbox is opened: its file, and the folder of the journal."""
        raise NotImplementedError(
            "a subclass of OutboxTests says how one is opened: a fixture named open_outbox"
        )

    @pytest.fixture
    def session(self, tmp_path: Path, open_outbox: OpenOutbox) -> Iterator[_Session]:
        """A session that trains, and the outbox of it."""
        made = _Session(tmp_path / "S", open_outbox)
        yield made
        made.close()

    def test_the_opening_leaves_first(self, session: _Session) -> None:
        """Nothing overtakes an opening, neither rows nor files."""
        session.row()
        session.save("best-0", 0.5)
        assert (session.next(), session.next(FILES)) == ("open", None)
        session.answer("open")
        assert (session.next(), session.next(FILES)) == ("rows", "checkpoint")

    def test_a_claim_takes_nothing_away(self, session: _Session) -> None:
        """What was claimed and not settled is claimed again: whoever claimed it may have died."""
        assert session.claim() == session.claim()
        session.reopen()
        assert session.next() == "open"

    def test_what_is_settled_never_leaves_again(self, session: _Session) -> None:
        """A delivery that the journal calls delivered is gone, also after reopening."""
        session.answer("open")
        assert session.next() is None
        session.reopen()
        assert (session.next(), session.outbox.count()) == (None, (0, 0))

    def test_folding_again_changes_nothing(self, session: _Session) -> None:
        """Lines that were folded in are not folded in again."""
        session.row(3)
        before = (session.next(), session.outbox.count())
        assert session.outbox.ingest() == 0
        assert (session.next(), session.outbox.count()) == before

    def test_a_lost_file_loses_nothing(self, session: _Session) -> None:
        """The journal is the truth: an outbox that is begun anew has the same deliveries."""
        session.row(2)
        session.answer("open")
        before = (session.claim(), session.outbox.count())
        session.outbox.close()
        for file in session.file.parent.glob(f"{session.file.name}*"):
            file.unlink()
        session.reopen()
        assert (session.claim(), session.outbox.count()) == before

    def test_a_send_carries_its_rows(self, session: _Session) -> None:
        """A send of rows carries exactly the rows that it names, as they were told, and the rest after a part of them."""
        session.answer("open")
        session.row(1)
        session.answer("rows")
        session.row(1)
        session.answer("rows")
        session.row(4)
        session.answer("rows")
        session.row(1)
        found = session.claim()
        assert isinstance(found, Delivery)
        assert isinstance(found.action, SendRows)
        numbers = [row.number for row in session.outbox.rows(found.action, 0)]
        assert numbers == list(range(found.action.first, found.action.last + 1))
        assert [row.number for row in session.outbox.rows(found.action, numbers[0])] == numbers[1:]
        assert {row.metrics for row in session.outbox.rows(found.action, 0)} == {b'{"loss":0.5}'}

    def test_a_try_in_vain_has_its_time(self, session: _Session) -> None:
        """What was postponed is due at its time, at once when somebody hurries, and never behind what follows it."""
        found = session.claim()
        assert isinstance(found, Delivery)
        due = session.door.now() + 30.0
        session.outbox.postpone(found.key, due, "offline: no route")
        assert session.claim() == due
        session.outbox.hurry()
        assert session.next() == "open"

    def test_a_pause_that_the_hub_asked_for_is_kept(self, session: _Session) -> None:
        """Hurrying does not shorten what a hub set a time for."""
        found = session.claim()
        assert isinstance(found, Delivery)
        due = session.door.now() + 30.0
        session.outbox.postpone(found.key, due, "rate_limited: 429 for 30 s")
        session.outbox.hurry()
        assert session.claim() == due

    def test_what_is_refused_waits_for_a_retry(self, session: _Session) -> None:
        """A refused delivery is kept and does not leave, until it is retried under its key."""
        session.answer("open")
        session.row()
        before = session.claim()
        assert isinstance(before, Delivery)
        session.answer("rows", ev.Refused, reason="too large", status=413)
        assert (session.next(), session.outbox.count()) == (None, (0, 1))
        session.door.tell(ev.RetryRefused)
        after = session.claim()
        assert isinstance(after, Delivery)
        assert (after.key, session.outbox.count()) == (before.key, (1, 0))

    def test_the_close_leaves_last(self, session: _Session) -> None:
        """A close says that everything was delivered: it waits for rows and files, refused ones included."""
        session.answer("open")
        session.row()
        session.save("best-0", 0.5)
        session.door.tell(ev.TrainEnd)
        session.answer("rows", ev.Refused, reason="too large")
        session.answer("checkpoint")
        session.answer("checkpoint")
        assert session.next() is None
        session.door.tell(ev.RetryRefused)
        session.answer("rows")
        assert session.next() == "close"

    def test_the_end_leaves_behind_what_was_recorded(self, session: _Session) -> None:
        """After an abort rows and the newest checkpoint leave first, and then the word that it is over."""
        session.row()
        session.door.tell(ev.Abort, outcome=Outcome.FAILED, reason="out of memory")
        assert session.next() == "open"
        session.answer("open")
        assert session.next() == "rows"
        session.answer("rows")
        assert session.next() == "end"

    def test_what_is_given_up_never_leaves(self, session: _Session) -> None:
        """Giving up leaves nothing but the word of the end."""
        session.row()
        session.door.tell(ev.TrainEnd)
        session.door.tell(ev.GiveUp, "the hub is gone")
        assert session.next() == "end"
        assert session.outbox.count() == (1, 0)

    def test_reconciling_what_agrees_changes_nothing(self, session: _Session) -> None:
        """An outbox that holds what the session knows stays as it is, and says that it does."""
        session.row(2)
        before = (session.claim(), session.outbox.count())
        standing = session.door.standing()
        assert standing is not None, "everything was written"
        session.outbox.reconcile(*standing)
        assert session.outbox.reconciled
        assert (session.claim(), session.outbox.count()) == before
