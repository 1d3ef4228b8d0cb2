"""One session that is followed: its journal is read on from where it stood, and said to the store as a client would.

Lines count as read once the store has taken them; said twice, they are still one row and one step. A session is live
while a process owns it, however long its epochs take; one whose process is gone was heard of last when its training said
its last word. A damaged line hides no other, and of a journal that cannot be read at all there is at least a page.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from hubstate.actions import AnyAction, CloseSession, EndSession, Memory, OpenSession, RecordUsage, Row
from hubstate.errors import StorageError
from hubstate.events import TRAINER_EVENTS, FitEpochEnd, TrainBatchEnd
from hubstate.hubs.bodies import end_body, opening, row_body
from hubstate.journal import BEGINNING, Damage, Entry, Head, Step, adopt_step, holds, read, segments
from hubstate.opening import time_of
from hubstate.ownership import owner_of
from hubstate.server import calls, models
from hubstate.server.answers import Caller
from hubstate.server.keys import DEFAULT_OWNER
from hubstate.server.mirror import Mirror
from hubstate.show.copies import Copies
from hubstate.show.told import conditions, is_over
from hubstate.states import TERMINAL_STATES, State

__all__ = ["Followed", "id_on_pages"]

#: How many lines are said to the store at once.
_LINES = 1_000
#: What a hub takes of a name, and of any other text, at most.
_NAME, _WORDS = 500, 2_000
#: A sign of life of a session that a process owns, at least so often (seconds).
_BEAT = 60.0
_ENCODER = msgspec.json.Encoder()
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_Call = Callable[[Mirror, Caller, str, bytes, float], Any]


class Followed:
    """The session in `folder`, as far as `store` shows it."""

    def __init__(self, store: Mirror, folder: Path) -> None:
        self.folder = folder
        self.id = id_on_pages(folder)
        self._store = store
        self._caller = Caller(DEFAULT_OWNER, "")
        #: Whether a process has it, and why its journal cannot be read, as of the last look at it.
        self._owned = False
        self._trouble = ""
        self._begin()

    def _begin(self) -> None:
        """Nothing is read yet."""
        self._position = BEGINNING
        self._memory: Memory | None = None
        #: The last word of whoever trained it; the newest attempt that the store knows; how much was said.
        self._contact: float | None = None
        self._opened = 0
        self._words = 0
        self._damages: list[Damage] = []
        self._copies = Copies(self.folder, self.id)
        #: Whether its journal holds more than was read, and whether a process trains it.
        self.behind = False
        self.lives = False
        #: What its files looked like when all of them was read; what was told of it, and when.
        self._stamp: tuple[int, ...] = ()
        self._told: object = None
        self._told_at = 0.0

    def forget(self) -> None:
        """Takes it out of the store."""
        if self._opened:
            models.delete_model(self._store, self._caller, self.id, hard=True, now=0.0)
        self._store.told.pop(self.id, None)
        self._begin()

    def read_on(self, now: float, most: int) -> int:
        """Says what was written since the last time, about `most` lines of it; how many it were.

        `behind` tells afterwards whether more is there to be read.
        """
        self._trouble, self._owned, lines = "", False, 0
        try:
            stamp = _stamp(self.folder)
            if stamp != self._stamp or self._memory is None or not is_over(self._memory):
                self._owned = owner_of(self.folder) is not None
            if stamp != self._stamp:
                if not holds(self.folder, self._position):
                    self.forget()  # a power cut took what had been read, or another journal was put there
                lines = self._read(most)
                self._stamp = () if self.behind else stamp
        except StorageError as failure:
            self._trouble, self.behind = str(failure), False
        self.lives = self._owned and self._memory is not None and not is_over(self._memory)
        self._tell(now)
        return lines

    def show_next_copy(self, now: float) -> bool:
        """Shows one kept checkpoint that is not shown yet; whether there was one. `now`: seconds since 1970."""
        memory = self._memory
        if memory is None:
            return False
        done = self._copies.show_next(self._store, self._caller, memory, memory.ended_at or self._last_word())
        if done:
            self._told = None  # it counted as a sign of life
            self._tell(now)
        return done

    # -- the journal -------------------------------------------------------------------------------------

    def _read(self, most: int) -> int:
        self.behind = False
        lines = 0
        entries: list[Entry] = []
        for entry in read(self.folder, self._position):
            entries.append(entry)
            if len(entries) >= _LINES:
                self._say(entries)
                lines += len(entries)
                entries = []
                if lines >= most:
                    self.behind = True
                    return lines
        self._say(entries)
        return lines + len(entries)

    def _say(self, entries: list[Entry]) -> None:
        """Says some lines to the store, and remembers that it has them."""
        memory, contact = self._memory, self._contact
        damages: list[Damage] = []
        steps: list[Step] = []
        rows: list[Row] = []
        for entry in entries:
            match entry.line:
                case Head() as head:
                    memory = head.memory
                case Damage() as damage:
                    damages.append(damage)
                case step:
                    steps.append(step)
                    memory = adopt_step(memory or Memory(session=self.folder.name), step)
                    if isinstance(step.event, TRAINER_EVENTS):
                        contact = step.event.at
                    for action in step.actions:
                        rows = self._act(action, step.event.at, rows)
                    if step.row and isinstance(step.event, FitEpochEnd | TrainBatchEnd):
                        rows.append(_row(step, step.event))
        if steps:
            self._open_by(memory, steps[0].event.at)
            self._send_rows(rows, memory)
            self._post(calls.post_steps, {"steps": steps}, steps[-1].event.at)
        if entries:
            self._position = entries[-1].position
        self._memory, self._contact = memory, contact
        self._damages += damages

    def _act(self, action: AnyAction, at: float, rows: list[Row]) -> list[Row]:
        """What was asked for beside rows and files; returns the rows that are still to be said."""
        if isinstance(action, OpenSession):
            self._send_rows(rows, self._memory)  # they belong before it
            self._open(action, at)
            return []
        if isinstance(action, RecordUsage):
            self._open_by(self._memory, at)
            self._post(calls.post_usage, {"what": action.what, "attempt": action.attempt}, at)
        return rows

    def _send_rows(self, rows: list[Row], memory: Memory | None) -> None:
        if rows:
            self._open_by(memory, rows[0].at)
            body = {"type": "metrics", "metrics": [row_body(row) for row in rows]}
            self._post(calls.post_rows, body, rows[-1].at)

    def _open(self, action: OpenSession, at: float) -> None:
        body = opening(action, own=True)
        told = body["hubstate"]
        told |= {"id": self.id, "name": action.name[:_NAME] or self.folder.name[:_NAME]}
        told["tags"] = [tag[:_WORDS] for tag in action.tags]
        told |= {name: told[name] and told[name][:_WORDS] for name in ("project", "group")}
        calls.open_model(self._store, self._caller, _ENCODER.encode(body), at)
        self._opened = max(self._opened, action.attempt)

    def _open_by(self, memory: Memory | None, at: float) -> None:
        """Opens a session whose opening cannot be read, or was written elsewhere, by what else is known of it."""
        memory = memory or Memory()
        if self._opened >= max(1, memory.attempt):
            return
        opened = OpenSession(
            "",
            max(1, memory.attempt),
            session=self.id,
            name=memory.name,
            first_epoch=memory.first_epoch,
            epochs=memory.epochs,
        )
        self._open(opened, memory.opened_at or at)

    # -- what stands beside its lines --------------------------------------------------------------------

    def _last_word(self) -> float:
        """When its training was heard of last."""
        if self._contact is not None:
            return self._contact
        opened = None if self._memory is None else self._memory.opened_at
        return opened or _born(self.folder.name)

    def _tell(self, now: float) -> None:
        """Says where it stands, if that changed or a sign of life is due."""
        memory, contact = self._memory, self._last_word()
        told = (memory, self._owned, self._trouble, self.behind, len(self._damages), self._copies.unshown)
        if told == self._told and not (self.lives and now - self._told_at >= _BEAT):
            return
        self._open_by(memory, contact)
        if memory is not None:
            self._say_state(memory, contact, now if self.lives else contact)
        self._store.told[self.id] = list(
            conditions(
                self.folder.name,
                memory,
                owned=self._owned,
                contact=contact,
                trouble=self._trouble,
                behind=self.behind,
                damages=self._damages,
                unshown=self._copies.unshown,
            )
        )
        self._told, self._told_at = told, now

    def _say_state(self, memory: Memory, contact: float, heard: float) -> None:
        attempt = max(1, memory.attempt)
        end: CloseSession | EndSession | None = None
        if memory.state is State.DONE:
            end = CloseSession("", attempt, outcome=memory.outcome, rows=memory.rows)
        elif memory.state in TERMINAL_STATES:
            reason = memory.reason[:_WORDS]
            end = EndSession("", attempt, outcome=memory.outcome, rows=memory.rows, reason=reason)
        if end is not None:
            self._post(calls.end_model, end_body(end), memory.ended_at or contact)
        life = {
            "attempt": attempt,
            "state": memory.state.value,
            "outcome": memory.outcome.value,
            "epoch": memory.epoch,
            "waiting": 0,  # what waits for a hub is a condition: for these pages nothing does
        }
        body = _ENCODER.encode({"hubstate": life})
        calls.heartbeat(self._store, self._caller, self.id, body, heard)

    def _post(self, call: _Call, body: dict[str, Any], at: float) -> None:
        """Says something of the session, as it would have come at the time `at`.

        Whoever counts rows looks whether a session was heard of since. So no two words come at the very same time, and
        only the last one, which tells where it stands, at a time that is exact.
        """
        self._words += 1
        call(self._store, self._caller, self.id, _ENCODER.encode(body), at + self._words * 1e-6)


def _stamp(folder: Path) -> tuple[int, ...]:
    """What changes when a journal is written: how many segments it has, and how long the newest is."""
    numbers = segments(folder)
    if not numbers:
        return (0,)
    try:
        size = (folder / f"journal-{numbers[-1]:06d}.jsonl").stat().st_size
    except FileNotFoundError:
        size = -1  # it is packed
    except OSError as error:
        raise StorageError(f"cannot look into {folder}: {error.strerror}") from error
    return len(numbers), numbers[-1], size


def _row(step: Step, event: FitEpochEnd | TrainBatchEnd) -> Row:
    return Row(
        number=step.row,
        attempt=step.attempt,
        epoch=event.epoch,
        step=event.step if isinstance(event, TrainBatchEnd) else None,
        final=isinstance(event, FitEpochEnd) and event.final,
        at=event.at,
        metrics=_ENCODER.encode(event.metrics),
        nonfinite=_ENCODER.encode(event.nonfinite),
    )


def id_on_pages(folder: Path) -> str:
    """The id of the session in a folder on the pages: the folder's name, where a hub can call a session so."""
    if _ID.fullmatch(folder.name):
        return folder.name
    return "named-" + hashlib.sha256(folder.name.encode("utf-8", "surrogateescape")).hexdigest()[:26]


def _born(session: str) -> float:
    """When a session began, as its id tells; 0 for what is no id."""
    try:
        return time_of(session)
    except ValueError:
        return 0.0
