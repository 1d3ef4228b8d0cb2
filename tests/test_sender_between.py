"""What is said, folded and sent between any two moves of the sender: nothing is dropped, refused or sent twice by it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fakes import door_in
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from journals import DAMAGED
from rigs import Rig
from test_sender import asked, condemn, due_rows

from hubstate import events as ev
from hubstate.outbox import FILES, WORDS
from hubstate.states import State


@pytest.fixture
def rig(tmp_path):
    made = Rig(tmp_path / "S")
    yield made
    made.sender.close()


def before(thing: object, name: str, happens: Callable[[], object]) -> None:
    """Lets something happen just before a method is called for the next time."""
    method = getattr(thing, name)

    def called(*args, **named):
        setattr(thing, name, method)
        happens()
        return method(*args, **named)

    setattr(thing, name, called)


def after(thing: object, name: str, happens: Callable[[], object]) -> None:
    """Lets something happen just after a method was called for the next time, before its caller goes on."""
    method = getattr(thing, name)

    def called(*args, **named):
        setattr(thing, name, method)
        result = method(*args, **named)
        happens()
        return result

    setattr(thing, name, called)


def deliveries(rig: Rig) -> list[tuple[str, bool]]:
    """The keys in the outbox, in their order, and whether each is refused."""
    with rig.outbox._lock:
        found = rig.outbox._db.execute("select key, refused from deliveries order by position").fetchall()
    return [(row["key"], bool(row["refused"])) for row in found]


def known(rig: Rig) -> list[tuple[str, bool]]:
    """What the session itself knows of: the plain truth."""
    memory = rig.door.memory
    refused = {entry.key for entry in memory.refused}
    return [(action.key, action.key in refused) for action in memory.outstanding]


def ended(rig: Rig) -> None:
    """Ends the training, delivers the rest, and holds what the hub has against what was said."""
    rig.door.tell(ev.TrainEnd)
    rig.drain()
    memory = rig.door.memory
    assert (memory.state, memory.refused, memory.not_taken) == (State.DONE, (), ())
    assert sorted(rig.hub.rows) == list(range(1, memory.rows + 1))
    assert memory.rows_delivered == memory.rows
    assert len(rig.hub.files) == memory.files_delivered
    assert rig.hub.contradictions == []
    assert (deliveries(rig), rig.outbox.count()) == ([], (0, 0))


# -- one at a time ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("lane", [WORDS, FILES])
@pytest.mark.parametrize("name", ["ingest", "claim"])
def test_what_is_said_before_the_outbox_looks_is_kept(rig, lane, name):
    """A send that is asked for while the first step is under way is newer than what that step knew, and leaves."""
    before(rig.outbox, name, lambda: due_rows(rig))
    rig.sender.step(lane)
    rig.fold()
    assert deliveries(rig) == known(rig)
    assert len(known(rig)) >= 1
    ended(rig)


def test_what_another_lane_folds_meanwhile_is_kept(rig):
    """Between the look at the memory and the outbox, the other lane may fold in what that memory does not know."""

    def meanwhile() -> None:
        due_rows(rig)
        rig.fold()

    after(rig.door, "standing", meanwhile)
    rig.sender.step(FILES)
    assert deliveries(rig) == known(rig)
    assert not rig.outbox.reconciled
    rig.sender.step(FILES)
    assert rig.outbox.reconciled
    ended(rig)


def test_a_busy_trainer_does_not_keep_the_two_from_being_compared(rig):
    """What is said after the look at the memory is left for the next fold, so that both stand at the same place."""
    after(rig.door, "standing", lambda: due_rows(rig))
    rig.sender.step(FILES)
    assert rig.outbox.reconciled
    ended(rig)


def test_a_line_that_is_not_remembered_yet_is_no_settled_one(rig):
    """A line is written before it is remembered: who reads it in between must not take its send for settled."""
    rig.sender.step(WORDS)
    rig.clock.advance(3.0)
    rig.fold()
    assert rig.door._journal is not None
    after(rig.door._journal, "append", lambda: [rig.sender.step(FILES), rig.sender.step(WORDS)])
    rig.rows(1)
    rig.fold()
    assert deliveries(rig) == known(rig)
    ended(rig)


@DAMAGED
def test_what_a_damaged_line_asked_for_leaves_without_a_restart(rig):
    """Where a line is damaged before it was folded in, the session's memory is asked, and the rest leaves."""
    rig.sender.step(WORDS)
    asked(rig)
    rig.rows(1)
    key = due_rows(rig)
    condemn(rig, 2)
    rig.sender.step(WORDS)
    assert rig.hub.requests[0].key == f"{key}#1-1"
    assert (rig.door.memory.rows_delivered, rig.door.memory.rows_not_taken) == (1, 1)


@DAMAGED
def test_a_wish_to_retry_survives_the_damage_of_its_line(rig):
    """What the session does not hold refused any more is not held refused here either."""
    rig.settle("open", ev.Refused, reason="no such project")
    rig.fold()
    rig.door.tell(ev.RetryRefused)
    [segment] = rig.folder.glob("journal-*")
    segment.write_bytes(segment.read_bytes().replace(b'"retry_refused"', b'"retry_refusal"'))
    rig.sender.step(FILES)
    assert deliveries(rig) == known(rig) == [("S/1/open", False)]
    ended(rig)


@DAMAGED
def test_rows_whose_send_was_forgotten_are_still_there_for_the_next(rig):
    """Where the line that asked is damaged after it was folded, a restarted session asks again, and has the rows."""
    rig.sender.step(WORDS)
    rig.rows(2)
    due_rows(rig)
    rig.fold()
    condemn(rig, 3)
    rig.door.close()
    rig.door = door_in(rig.folder, rig.clock)
    rig.reopen()
    rig.sender.step(FILES)
    assert deliveries(rig) == []
    ended(rig)
    assert (rig.hub.rows, rig.outbox.damage) == ([1, 2], "")


# -- all at once -----------------------------------------------------------------------------------------

_HAPPENINGS = st.sampled_from(["", "rows", "rows", "save", "fold one", "fold", "fold", "other"])
_CUTS = st.lists(_HAPPENINGS, max_size=60)
_MOVES = st.lists(
    st.sampled_from(["words", "files", "reopen", "reopen", "rows", "save", "wait"]), max_size=20
)
_SEAMS = {
    "outbox": ("ingest", "reconcile", "claim", "rows", "next_row", "held", "renew"),
    "door": ("standing", "flush", "now", "tell"),
    "hub": ("deliver",),
}


class Between:
    """Lets something happen on both sides of each call that the sender makes, as another thread might."""

    def __init__(self, rig: Rig, cuts: list[str]) -> None:
        self._rig = rig
        self._cuts: Iterator[str] = iter(cuts)
        self._busy = False
        self.lane = WORDS
        self._lay_open(rig.outbox, _SEAMS["outbox"])
        self._lay_open(rig.door, _SEAMS["door"])
        self._lay_open(rig.hub, _SEAMS["hub"])
        assert rig.door._journal is not None
        self._lay_open(rig.door._journal, ("append",))

    def _lay_open(self, thing: object, names: tuple[str, ...]) -> None:
        for name in names:
            setattr(thing, name, self._cut(getattr(thing, name)))

    def _cut(self, method: Callable[..., object]) -> Callable[..., object]:
        def called(*args, **named):
            self._happens()
            result = method(*args, **named)
            self._happens()
            return result

        return called

    def reopened(self) -> None:
        self._lay_open(self._rig.outbox, _SEAMS["outbox"])

    @contextmanager
    def in_peace(self) -> Iterator[None]:
        """Nothing happens meanwhile."""
        self._busy = True
        yield
        self._busy = False

    def _happens(self) -> None:
        if self._busy:
            return
        self._busy = True
        rig = self._rig
        match next(self._cuts, ""):
            case "rows":
                rig.clock.advance(3.0)
                rig.rows(1)
            case "save":
                rig.save(f"s{rig.door.memory.saves}", fitness=float(rig.door.memory.saves))
            case "fold one":
                rig.outbox.ingest(limit=1)
            case "fold":
                rig.fold()
            case "other":
                rig.sender.step(FILES if self.lane == WORDS else WORDS)
        self._busy = False


@given(moves=_MOVES, cuts=_CUTS)
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
def test_however_two_lanes_and_a_trainer_fall_together_the_outbox_tells_the_truth(moves, cuts):
    """At every moment it holds, folded to the end, exactly what the session knows; at the end all arrived, once."""
    with tempfile.TemporaryDirectory() as name:
        rig = Rig(Path(name) / "S")
        between = Between(rig, cuts)
        for move in moves:
            match move:
                case "words" | "files":
                    between.lane = move
                    rig.sender.step(move)
                case "rows":
                    rig.rows(2)
                case "save":
                    rig.save(f"s{rig.door.memory.saves}", fitness=float(rig.door.memory.saves))
                case "wait":
                    rig.clock.advance(450.0)
                case "reopen":
                    rig.reopen()
                    between.reopened()
                    rig.sender.step(between.lane)
            with between.in_peace():
                rig.fold()
                assert deliveries(rig) == known(rig)
        ended(rig)
        rig.sender.close()
