"""The monitor: each property is violated by the fact that it forbids, and by no real decision."""

from __future__ import annotations

import msgspec
import pytest

from hubstate import events as ev
from hubstate.actions import CloseSession, Heartbeat, Memory, OpenSession, SendCheckpoint, SendRows
from hubstate.controller import decide
from hubstate.proof.properties import (
    LIVENESS,
    PROPERTIES,
    SAFETY,
    Arrived,
    Began,
    Fact,
    Holding,
    Monitor,
    RowSeen,
    Told,
    Violation,
    _Out,
)
from hubstate.states import CheckpointKind, Outcome, State

RUN: tuple[ev.Event, ...] = (
    ev.PretrainRoutineStart(0.0, session="S"),
    ev.PretrainRoutineEnd(1.0),
    ev.TrainStart(2.0),
    ev.FitEpochEnd(10.0, 0, {}),
    ev.ModelSave(at=11.0, epoch=0, path="p", size=1, mtime_ns=1, fitness=1.0, snapshot="s1"),
    ev.TrainEnd(at=12.0),
)


class Seen:
    """A session whose every step is told to a monitor."""

    def __init__(self) -> None:
        self.monitor, self.memory = Monitor(), Memory(session="S")
        self.found: list[Violation] = []

    def observe(self, fact: Fact) -> list[str]:
        self.monitor, found = self.monitor.observe(fact)
        self.found += found
        return [violation.name for violation in found]

    def tell(self, *events: ev.Event) -> list[str]:
        names = []
        for event in events:
            decision = decide(self.memory, event)
            names += self.observe(Told(self.memory, decision))
            self.memory = decision.memory
        return names

    def arrive(self, kind: type) -> str:
        """The first outstanding delivery of a kind arrives; answers its key."""
        action = next(action for action in self.memory.outstanding if isinstance(action, kind))
        rows = (RowSeen(1, 1, 0),) if kind is SendRows else ()
        self.observe(Arrived(action, rows, stored=True))
        return action.key


def after(count: int) -> Seen:
    """A session behind the first events of a run."""
    seen = Seen()
    assert seen.tell(*RUN[:count]) == []
    return seen


def test_a_whole_run_violates_nothing():
    """From the opening to the last acknowledgement no property is violated."""
    seen = after(6)
    for kind in (OpenSession, SendRows, SendCheckpoint, CloseSession):
        key = seen.arrive(kind)
        assert seen.tell(ev.Delivered(at=20.0, key=key, rows=1)) == []
    assert seen.memory.state is State.DONE
    assert seen.found == []


def test_every_property_is_told_in_a_sentence():
    """The names are those of the specification, and each has its meaning."""
    assert set(SAFETY) == {f"S{n}" for n in range(1, 10)}
    assert set(LIVENESS) == {"L1", "L2", "L3"}
    assert all(text.endswith(".") for text in PROPERTIES.values())


def test_a_lost_row_is_seen():
    """S1: what is kept has to hold every row that no hub acknowledged, and every delivery."""
    seen = after(4)
    keys = frozenset(action.key for action in seen.memory.outstanding)
    assert seen.observe(Holding(seen.memory, (RowSeen(1, 1, 0),), keys)) == []
    assert seen.observe(Holding(seen.memory, (), keys)) == ["S1"]
    assert seen.observe(Holding(seen.memory, (RowSeen(1, 1, 0),), frozenset())) == ["S1"]


def test_a_lost_best_is_seen():
    """S1: the best checkpoint is kept until its delivery is asked for."""
    seen = after(5)
    keys = frozenset(action.key for action in seen.memory.outstanding)
    kept = Holding(seen.memory, (RowSeen(1, 1, 0),), keys)
    assert seen.observe(kept) == []
    assert seen.observe(kept._replace(memory=msgspec.structs.replace(seen.memory, kept_best=None))) == ["S1"]


def test_a_process_that_forgot_is_seen():
    """S1: a process begins with every row and every delivery that was recorded."""
    assert after(4).observe(Began(after(4).memory, trains=False)) == []
    fewer = msgspec.structs.replace(after(4).memory, rows=0)
    assert after(4).observe(Began(fewer, trains=False)) == ["S1"]
    forgot = msgspec.structs.replace(after(4).memory, outstanding=())
    assert after(4).observe(Began(forgot, trains=False)) == ["S1"]


def test_an_acknowledgement_of_what_never_arrived_is_seen():
    """S2: a hub acknowledges what it holds; whoever cannot see the hub believes it."""
    key = "S/1/open"
    assert after(3).tell(ev.Delivered(at=5.0, key=key)) == ["S2"]
    seen = after(3)
    seen.monitor = msgspec.structs.replace(seen.monitor, sees_hub=False)
    assert seen.tell(ev.Delivered(at=5.0, key=key)) == []


def test_a_second_final_is_seen():
    """S3: the same final checkpoint may arrive twice, and is stored once."""
    seen = after(6)
    for kind in (OpenSession, SendRows):
        seen.arrive(kind)
    final = next(a for a in seen.memory.outstanding if isinstance(a, SendCheckpoint))
    assert final.kind is CheckpointKind.FINAL
    assert seen.observe(Arrived(final, (), stored=True)) == []
    assert seen.observe(Arrived(final, (), stored=False)) == []
    assert seen.observe(Arrived(final, (), stored=True)) == ["S3"]


def test_a_move_off_the_way_is_seen():
    """S4: a step leads where the specification says, and an illegal event nowhere."""
    seen = after(3)
    decision = decide(seen.memory, ev.Tick(5.0))
    moved = decision._replace(memory=msgspec.structs.replace(seen.memory, state=State.FINALIZING))
    assert "S4" in seen.observe(Told(seen.memory, moved))
    seen = after(3)
    illegal = decide(seen.memory, ev.GiveUp(5.0, "no"))
    assert seen.observe(Told(seen.memory, illegal)) == []
    assert "S4" in seen.observe(Told(seen.memory, illegal._replace(refusal=None)))


@pytest.mark.parametrize("trains", [True, False])
def test_a_heartbeat_of_nobody_is_seen(trains: bool):
    """S5: only the process that trains sends a sign of life."""
    seen = after(3)
    assert seen.observe(Began(seen.memory, trains)) == []
    assert seen.tell(ev.HeartbeatTick(400.0)) == ([] if trains else ["S5"])


def test_a_close_before_the_rows_is_seen():
    """S6: the close reaches the hub behind everything that was asked for before it."""
    seen = after(6)
    seen.arrive(OpenSession)
    close = next(a for a in seen.memory.outstanding if isinstance(a, CloseSession))
    assert seen.observe(Arrived(close, (), stored=True)) == ["S6"]


def test_a_file_that_comes_once_more_keeps_its_turn():
    """S6: a final checkpoint follows the rows that wait, but its repeat may come behind refused ones that are tried anew."""
    seen = after(6)
    seen.arrive(OpenSession)
    rows, final = (
        next(a for a in seen.memory.outstanding if isinstance(a, kind)) for kind in (SendRows, SendCheckpoint)
    )
    early = Seen()
    early.monitor, early.memory = seen.monitor, seen.memory
    assert early.observe(Arrived(final, (), stored=True)) == ["S6"]
    assert seen.tell(ev.Refused(at=13.0, key=rows.key, reason="too long", status=413)) == []
    assert seen.observe(Arrived(final, (), stored=True)) == []
    assert seen.tell(ev.RetryRefused(at=14.0)) == []
    assert seen.observe(Arrived(final, (), stored=False)) == []


def test_done_too_early_is_seen():
    """S6: a session that waits for anything is not done."""
    seen = after(6)
    decision = decide(seen.memory, ev.Delivered(at=20.0, key=seen.arrive(OpenSession)))
    early = decision._replace(memory=msgspec.structs.replace(decision.memory, state=State.DONE))
    assert "S6" in seen.observe(Told(seen.memory, early))


def test_a_row_of_another_attempt_is_seen():
    """S7: a row arrives behind the opening, under the attempt that recorded it."""
    seen = after(4)
    rows = next(a for a in seen.memory.outstanding if isinstance(a, SendRows))
    assert "S7" in seen.observe(Arrived(rows, (RowSeen(1, 1, 0),), stored=True))
    seen = after(4)
    seen.arrive(OpenSession)
    assert "S7" in seen.observe(Arrived(rows, (RowSeen(1, 2, 0),), stored=True))


def shown(*, first: int, late: bool, shows: set[int]) -> list[str]:
    """Two rows of epoch 0 and 1 by attempt 1, one of epoch `first` by attempt 2; row 2 arrives last, or in its turn."""
    rows = (RowSeen(1, 1, 0), RowSeen(2, 1, 1), RowSeen(3, 2, first))
    seen = Seen()
    seen.monitor = Monitor(sees_rows=True, starts=(0, 2), rows=3, attempt=2)
    openings = [
        OpenSession(f"S/{n}/open", n, session="S", name="m", first_epoch=e) for n, e in ((1, 0), (2, first))
    ]
    sends = [SendRows(f"S/rows/{n}", 1, first=n, last=n) for n in (1, 2, 3)]
    seen.monitor = msgspec.structs.replace(
        seen.monitor, out=tuple(_Out(s.key, SendRows, 1, s.first, s.last, was_refused=True) for s in sends)
    )
    second = Arrived(sends[1], rows[1:2], stored=True, shown=frozenset({1, 2}))
    facts = [
        Arrived(openings[0], (), stored=True),
        Arrived(sends[0], rows[:1], stored=True, shown=frozenset({1})),
    ]
    facts += [] if late else [second]
    for fact in facts:
        assert seen.observe(fact) == []
    there = frozenset({1} if late or first <= 1 else {1, 2}) if first else frozenset()
    assert seen.observe(Arrived(openings[1], (), stored=True, shown=there)) == []
    if late:
        assert seen.observe(Arrived(sends[2], rows[2:], stored=True, shown=there | {3})) == []
        return seen.observe(second._replace(shown=frozenset(shows)))
    return seen.observe(Arrived(sends[2], rows[2:], stored=True, shown=frozenset(shows)))


@pytest.mark.parametrize(
    ("first", "late", "shows", "found"),
    [
        (1, False, {1, 3}, []),
        (1, True, {1, 3}, []),
        (0, True, {3}, []),
        (1, False, {1, 2, 3}, ["S7"]),
        (1, True, {1, 2, 3}, ["S7"]),
        (1, True, {1, 2}, ["S7", "S7"]),
        (0, True, {2}, ["S7", "S7"]),
        (1, False, {3}, ["S7"]),
        (2, False, {1, 2, 3}, []),
        (2, True, {1, 2, 3}, []),
        (2, True, {1, 3}, ["S7"]),
    ],
)
def test_an_older_row_that_is_shown_over_a_newer_one_is_seen(
    first: int, late: bool, shows: set[int], found: list[str]
):
    """S7: from the first epoch of an attempt on nothing older is shown, also where it was refused and comes late."""
    assert shown(first=first, late=late, shows=shows) == found


def test_an_older_row_of_the_same_place_is_seen():
    """S7: a newer attempt that tells an epoch before its first one replaces the older one's row of that epoch."""
    monitor = Monitor(
        sees_rows=True,
        starts=(0, 1),
        rows=2,
        attempt=2,
        opened=(1, 2),
        firsts=((1, 0), (2, 5)),
        in_force=(RowSeen(1, 1, 0),),
    )
    newer = Arrived(SendRows("S/2/rows/2-2", 2, first=2, last=2), (RowSeen(2, 2, 0),), stored=True)
    assert monitor.observe(newer._replace(shown=frozenset({2})))[1] == ()
    assert [v.name for v in monitor.observe(newer._replace(shown=frozenset({1, 2})))[1]] == ["S7"]


@pytest.mark.parametrize("how", [{"main": False}, {"wanted": False}, {"already_open": True}])
def test_a_session_that_nobody_may_open_is_seen(how: dict[str, bool]):
    """S4: only the main process opens a session, where one is wanted and none is open; and then it does."""
    opening, unfit = RUN[0], ev.PretrainRoutineStart(0.0, session="S", **how)
    seen = Seen()
    opened = decide(seen.memory, opening)
    assert "S4" in seen.observe(Told(seen.memory, opened._replace(event=unfit)))
    seen = Seen()
    held = decide(seen.memory, unfit)
    assert seen.observe(Told(seen.memory, held)) == []
    assert "S4" in seen.observe(Told(seen.memory, held._replace(event=opening)))


def test_a_heartbeat_without_a_hub_is_seen():
    """S5: where no hub is wanted, no sign of life is asked for."""
    seen = after(3)
    seen.monitor = msgspec.structs.replace(seen.monitor, wants_hub=False)
    assert seen.tell(ev.HeartbeatTick(400.0)) == ["S5"]


def test_a_monitor_learns_whether_a_hub_is_wanted():
    """The attempt that begins says whether there is a hub, and the real decisions ask none for a sign of life then."""
    seen = Seen()
    assert seen.tell(ev.PretrainRoutineStart(0.0, session="S", hub=False), ev.HeartbeatTick(400.0)) == []
    assert not seen.monitor.wants_hub


def test_a_send_that_leaves_a_row_behind_is_seen():
    """S1: a send of rows names all that wait."""
    seen = after(3)
    seen.tell(ev.FitEpochEnd(2.5, 0, {}))
    decision = decide(seen.memory, ev.FitEpochEnd(10.0, 1, {}))
    fewer = tuple(msgspec.structs.replace(a, last=1) for a in decision.actions if isinstance(a, SendRows))
    assert "S1" in seen.observe(Told(seen.memory, decision._replace(actions=fewer)))


@pytest.mark.parametrize(("epoch", "found"), [(0, []), (1, []), (2, ["S7"])])
def test_an_epoch_that_is_skipped_is_seen(epoch: int, found: list[str]):
    """S7: an attempt begins at the epoch after the last checkpoint or before it, and no later."""
    seen = after(5)
    seen.memory = msgspec.structs.replace(seen.memory, state=State.IDLE)
    seen.observe(Began(seen.memory, trains=True))
    assert seen.tell(ev.PretrainRoutineStart(50.0, session="S", first_epoch=epoch)) == found


def test_a_send_inside_the_window_is_seen():
    """S8: what is asked for before its interval is over is one send too many."""
    seen = after(3)
    hasty = msgspec.structs.replace(seen.memory, metrics_interval=0.0)
    decision = decide(hasty, ev.FitEpochEnd(2.5, 0, {}))
    assert any(isinstance(action, SendRows) for action in decision.actions)
    assert seen.observe(Told(seen.memory, decision)) == ["S8"]


def test_a_look_that_consumes_is_seen():
    """S8: a tick that finds nothing due leaves every clock as it is."""
    seen = after(3)
    decision = decide(seen.memory, ev.Tick(9.0))
    moved = decision._replace(memory=msgspec.structs.replace(seen.memory, metrics_since=9.0), journalled=True)
    assert seen.observe(Told(seen.memory, moved)) == ["S8"]


def test_a_change_behind_the_end_is_seen():
    """S9: an aborted session keeps its outcome, whatever is said."""
    seen = after(3)
    seen.tell(ev.Abort(at=5.0, outcome=Outcome.FAILED, reason="broke"))
    decision = decide(seen.memory, ev.StopRequested(6.0, "a wish"))
    better = decision._replace(memory=msgspec.structs.replace(decision.memory, outcome=Outcome.FINISHED))
    assert seen.observe(Told(seen.memory, better)) == ["S9"]


def test_heartbeats_that_arrive_are_nobodys_business():
    """A heartbeat that arrives is no delivery, and changes nothing that is watched."""
    seen = after(3)
    beat = Heartbeat("S/1/heartbeat", 1, state=State.TRAINING, outcome=Outcome.RUNNING)
    before = seen.monitor
    assert seen.observe(Arrived(beat, (), stored=True)) == []
    assert seen.monitor == before
