"""What holds for every way through the decisions, whatever is said in whichever order."""

from __future__ import annotations

from typing import NamedTuple

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judge import CELLS, Cell
from situations import CHANGES, PLAIN, base, change, situation

from hubstate import events as ev
from hubstate.actions import (
    CloseSession,
    Decision,
    EndSession,
    Heartbeat,
    Memory,
    OpenSession,
    SendCheckpoint,
    SendRows,
)
from hubstate.controller import decide
from hubstate.states import LIVE_STATES, TERMINAL_STATES, CheckpointKind, Outcome, State

settings.register_profile("grid", derandomize=True, database=None, deadline=None, max_examples=300)
GRID = settings.get_profile("grid")


class Said(NamedTuple):
    """An event still to be made: its time and its key hang on the memory that it meets."""

    event: str
    after: float
    pick: int
    fitness: float | None = None


def says(names: list[str]) -> st.SearchStrategy[list[Said]]:
    one = st.builds(
        Said,
        event=st.sampled_from(names),
        after=st.sampled_from([0.25, 1.0, 3.0, 5.0, 300.0, 900.0]),
        pick=st.integers(0, 5),
        fitness=st.sampled_from([None, 0.1, 0.5, 0.9, 1.5]),
    )
    return st.lists(one, max_size=40)


def event_of(said: Said, memory: Memory, at: float) -> ev.Event:
    """The event with its time; an answer names one of the outstanding deliveries where there is one."""
    fields: dict[str, object] = {"at": at}
    if said.event in ("delivered", "refused", "held_up"):
        keys = [action.key for action in memory.outstanding] or ["S/1/rows/90-99"]
        fields["key"] = keys[said.pick % len(keys)]
    if said.event == "model_save":
        fields |= {"fitness": said.fitness, "snapshot": f"snapshot at {at}", "epoch": said.pick}
    return msgspec.structs.replace(PLAIN[said.event], **fields)


def walk(memory: Memory, saying: list[Said]) -> list[tuple[Memory, Decision]]:
    """Each step of a way: the memory before it, and what was decided."""
    steps = []
    at = 20_000.0
    for said in saying:
        at += said.after
        decision = decide(memory, event_of(said, memory, at))
        steps.append((memory, decision))
        memory = decision.memory
    return steps


EVERY = says(sorted(PLAIN))
#: Mostly what a run says, so that ways come far.
RUN = says(
    [
        "fit_epoch_end",
        "fit_epoch_end",
        "train_batch_end",
        "model_save",
        "tick",
        "heartbeat_tick",
        "delivered",
        "delivered",
        "delivered",
        "refused",
        "retry_refused",
        "held_up",
        "train_end",
        "abort",
        "give_up",
    ]
)
BEGIN = [Said("pretrain_routine_start", 1, 0), Said("pretrain_routine_end", 1, 0), Said("train_start", 1, 0)]


@pytest.mark.parametrize("cell", CELLS, ids=[cell.name for cell in CELLS])
def test_deciding_is_pure(cell: Cell) -> None:
    """The same memory and event give the same decision, keys included, and the memory given stays as it was."""
    memory, event = situation(cell.state, cell.event, cell.case)
    before = msgspec.json.encode(memory)
    first, second = decide(memory, event), decide(memory, event)
    assert first == second
    assert msgspec.json.encode(first.memory) == msgspec.json.encode(second.memory)
    assert msgspec.json.encode(memory) == before


@pytest.mark.parametrize("cell", CELLS, ids=[cell.name for cell in CELLS])
def test_deciding_depends_on_nothing_but_its_arguments(cell: Cell) -> None:
    """A memory and an event that went through the journal's format decide alike."""
    memory, event = situation(cell.state, cell.event, cell.case)
    reread = msgspec.json.decode(msgspec.json.encode(memory), type=Memory)
    decoded = msgspec.json.decode(msgspec.json.encode(event), type=type(event))
    assert decide(reread, decoded) == decide(memory, event)


#: What a heartbeat may move in the memory without a line in the journal.
BEAT = {"heartbeat_since", "heartbeat_out"}


def moved(decision: Decision, memory: Memory) -> set[str]:
    return {
        name for name in Memory.__struct_fields__ if getattr(decision.memory, name) != getattr(memory, name)
    }


@pytest.mark.parametrize("cell", CELLS, ids=[cell.name for cell in CELLS])
def test_what_is_not_written_changes_nothing_that_is_kept(cell: Cell) -> None:
    """A step outside the journal moves at most the heartbeat's clock, so a recovered memory is the one that was."""
    memory, event = situation(cell.state, cell.event, cell.case)
    decision = decide(memory, event)
    assert decision.journalled or moved(decision, memory) <= BEAT


@pytest.mark.parametrize("clock", ["metrics_since", "checkpoint_since", "kept_at"])
def test_a_heartbeat_leaves_the_other_clocks(clock: str) -> None:
    """A heartbeat, which nobody writes down, moves no other clock, not even one that is ahead of the time."""
    memory, event = situation(State.TRAINING, "heartbeat_tick", "beat due")
    ahead = change(memory, **{clock: event.at + 50})
    decision = decide(ahead, event)
    assert not decision.journalled
    assert moved(decision, ahead) <= BEAT


@GRID
@given(
    saying=EVERY,
    state=st.sampled_from(sorted(TERMINAL_STATES, key=lambda s: s.value)),
    case=st.sampled_from(["plain", "some refused", "something waits", "usage on", "both due"]),
)
def test_terminal_states_absorb(saying: list[Said], state: State, case: str) -> None:
    """Whatever is said after the end, the session stays as it ended, and no heartbeat leaves."""
    start = change(base(state), **CHANGES[case])
    for _, decision in walk(start, saying):
        assert decision.memory.state is state
        assert decision.memory.outcome is start.outcome
        assert not any(isinstance(action, Heartbeat) for action in decision.actions)


@pytest.mark.promise("D29")
@GRID
@given(saying=RUN)
def test_what_is_illegal_changes_nothing(saying: list[Said]) -> None:
    """On every way an illegal event leaves the memory as it was and asks nothing."""
    for before, decision in walk(Memory(), BEGIN + saying):
        if decision.refusal is not None and decision.refusal.illegal:
            assert decision.memory == before
            assert decision.actions == ()
            assert decision.refusal.state is before.state


@GRID
@given(saying=RUN)
def test_every_row_is_asked_once_and_in_order(saying: list[Said]) -> None:
    """The sends of a session name every row from the first on without a gap and without a repeat."""
    asked = 0
    for before, decision in walk(Memory(), BEGIN + saying):
        if isinstance(decision.event, ev.RetryRefused):
            continue
        for action in decision.actions:
            if isinstance(action, SendRows):
                assert action.first == asked + 1
                assert action.first <= action.last <= decision.memory.rows
                asked = action.last
        assert decision.memory.rows_asked == asked
        assert decision.memory.rows >= before.rows
    ends = (CloseSession, EndSession)
    for _, decision in walk(Memory(), BEGIN + saying):
        if any(isinstance(action, ends) for action in decision.actions):
            assert decision.memory.rows_asked == decision.memory.rows


@GRID
@given(saying=RUN)
def test_a_key_names_one_thing(saying: list[Said]) -> None:
    """No two things that are asked share a key; only a retry repeats one, and then the very same thing."""
    seen: dict[str, object] = {}
    for _, decision in walk(Memory(), BEGIN + saying):
        for action in decision.actions:
            if isinstance(action, Heartbeat):
                continue
            if isinstance(decision.event, ev.RetryRefused):
                assert seen[action.key] == action
            else:
                assert action.key not in seen
            seen[action.key] = action


@GRID
@given(saying=RUN)
def test_never_two_sends_inside_one_limit(saying: list[Said]) -> None:
    """While a send is out, refused ones apart, no second one of its kind is asked; the end alone is excepted."""
    for before, decision in walk(Memory(), BEGIN + saying):
        if isinstance(decision.event, ev.TrainEnd | ev.Abort | ev.RetryRefused):
            continue
        refused = {one.key for one in before.refused}
        out = {type(action) for action in before.outstanding if action.key not in refused}
        for action in decision.actions:
            assert type(action) not in out


@GRID
@given(saying=RUN)
def test_sends_of_one_kind_keep_their_distance(saying: list[Said]) -> None:
    """Two first sends of one kind are an interval apart, refused or not, the end of the training excepted."""
    last: dict[type, float] = {}
    for before, decision in walk(Memory(), BEGIN + saying):
        if isinstance(decision.event, ev.TrainEnd | ev.Abort | ev.RetryRefused):
            continue
        intervals = {SendRows: before.metrics_interval, SendCheckpoint: before.checkpoint_interval}
        for kind in {type(action) for action in decision.actions} & set(intervals):
            assert decision.event.at - last.get(kind, 0.0) >= intervals[kind]
            last[kind] = decision.event.at


@GRID
@given(saying=RUN)
def test_what_is_refused_is_still_out(saying: list[Said]) -> None:
    """A refused delivery stays among the outstanding ones until it is settled, retried or given up."""
    for _, decision in walk(Memory(), BEGIN + saying):
        refused = [one.key for one in decision.memory.refused]
        assert set(refused) <= {action.key for action in decision.memory.outstanding}
        assert len(set(refused)) == len(refused)


@pytest.mark.promise("P4")
@GRID
@given(saying=RUN)
def test_a_session_is_done_only_when_all_is_acknowledged(saying: list[Said]) -> None:
    """Done is reached by acknowledgements alone: every delivery that was ever asked was acknowledged by then."""
    open_keys: set[str] = set()
    for _, decision in walk(Memory(), BEGIN + saying):
        asked = [action for action in decision.actions if not isinstance(action, Heartbeat)]
        open_keys |= {action.key for action in asked if type(action).__name__ != "KeepCheckpoint"}
        if isinstance(decision.event, ev.Delivered):
            open_keys.discard(decision.event.key)
        if decision.memory.state is State.DONE:
            assert open_keys == set()
            return


@pytest.mark.promise("D2")
@GRID
@given(saying=RUN)
def test_heartbeats_live_in_live_states(saying: list[Said]) -> None:
    """A heartbeat leaves in live states alone, and is never written down."""
    for _, decision in walk(Memory(), BEGIN + saying):
        if any(isinstance(action, Heartbeat) for action in decision.actions):
            assert decision.memory.state in LIVE_STATES
            assert not decision.journalled


@pytest.mark.promise("D27")
@GRID
@given(saying=RUN)
def test_the_best_is_better_than_all_before(saying: list[Said]) -> None:
    """A checkpoint is kept as best only if its fitness is above that of every save before it."""
    best: float | None = None
    for before, decision in walk(Memory(), BEGIN + saying):
        event = decision.event
        if not isinstance(event, ev.ModelSave) or before.state is not State.TRAINING:
            continue
        kinds = {action.kind for action in decision.actions if type(action).__name__ == "KeepCheckpoint"}
        better = event.fitness is not None and (best is None or event.fitness > best)
        assert (CheckpointKind.BEST in kinds) is better
        if better:
            best = event.fitness


@GRID
@given(saying=RUN)
def test_a_way_that_is_acknowledged_ends(saying: list[Said]) -> None:
    """From wherever a way came: end the training, retry what was refused, acknowledge all, and it has ended."""
    steps = walk(Memory(), BEGIN + saying)
    memory = steps[-1][1].memory
    at = 90_000.0
    if memory.state is State.TRAINING:
        memory = decide(memory, ev.TrainEnd(at=at)).memory
    memory = decide(memory, ev.RetryRefused(at)).memory
    for action in memory.outstanding:
        memory = decide(memory, ev.Delivered(at=at, key=action.key)).memory
    assert memory.state in TERMINAL_STATES
    assert memory.outstanding == ()
    assert memory.refused == ()


@GRID
@given(saying=EVERY)
def test_without_a_session_nothing_happens(saying: list[Said]) -> None:
    """A trainer that trains without a session asks nothing and is never refused."""
    trainer = {name for name in PLAIN if type(PLAIN[name]) in ev.TRAINER_EVENTS} - {"pretrain_routine_start"}
    for _, decision in walk(Memory(), [said for said in saying if said.event in trainer]):
        assert decision.memory == Memory()
        assert decision.actions == ()
        assert not decision.journalled
        assert decision.refusal is None or not decision.refusal.illegal


def test_a_whole_run_ends_done() -> None:
    """A run whose every delivery is acknowledged goes through every state but aborted and ends finished."""
    memory, states = Memory(), [State.IDLE]
    opened = 0
    for said in [*BEGIN, Said("fit_epoch_end", 5, 0), Said("model_save", 1, 0, 0.5), Said("train_end", 1, 0)]:
        ((_, decision),) = walk(memory, [said])
        opened += sum(isinstance(action, OpenSession) for action in decision.actions)
        memory = decision.memory
        states.append(memory.state)
    for action in memory.outstanding:
        memory = decide(memory, ev.Delivered(at=20_100.0, key=action.key)).memory
    assert memory.state is State.DONE
    assert memory.outcome is Outcome.FINISHED
    assert opened == 1
    assert set(states) | {memory.state} == set(State) - {State.ABORTED}
