"""What a step says and remembers: the real decisions do it right, and whatever they leave otherwise is named."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from hubstate import events as ev
from hubstate.actions import Condition, Kept, Memory, Refused
from hubstate.controller import decide
from hubstate.proof.remembered import misremembered, missaid
from hubstate.states import CheckpointKind, Outcome, State

AT = 100.0
SAVE = ev.ModelSave(at=AT, epoch=1, path="p", size=7, mtime_ns=3, fitness=2.0, snapshot="s1")

RUN: tuple[ev.Event, ...] = (
    ev.PretrainRoutineStart(
        0.0, session="S", name="m", epochs=3, usage=True, config={"lr": 0.5}, checkpoint_interval=50.0
    ),
    ev.PretrainRoutineEnd(1.0),
    ev.TrainStart(2.0),
    ev.FitEpochEnd(10.0, 0, {}),
    ev.Refused(at=11.0, key="S/1/rows/1-1", reason="too large", status=413),
)


def training() -> Memory:
    """A session that trains, and whose first rows were refused."""
    memory = Memory(session="S")
    for event in RUN:
        memory = decide(memory, event).memory
    return memory


EVENTS: tuple[ev.Event, ...] = (
    ev.FitEpochEnd(AT, 1, {}),
    ev.FitEpochEnd(AT, 5, {}, final=True),
    ev.TrainBatchEnd(AT, 1, 4, {}),
    SAVE,
    msgspec.structs.replace(SAVE, unkept="it is torn"),
    msgspec.structs.replace(SAVE, kind=CheckpointKind.FINAL),
    ev.Tick(AT),
    ev.HeartbeatTick(AT),
    ev.TrainEnd(at=AT, outcome=Outcome.STOPPED, final=ev.Saved("p", 1, 7, 3, 1, "s9")),
    ev.Abort(at=AT, outcome=Outcome.INTERRUPTED, reason="ctrl-c"),
    ev.GiveUp(AT, "not now"),
    ev.RetryRefused(AT),
    ev.Delivered(at=AT, key="S/1/open"),
    ev.Delivered(at=AT, key="S/1/rows/1-1", rows=1),
    ev.Delivered(at=AT, key="S/1/rows/1-1", not_taken="step rows"),
    ev.Delivered(at=AT, key="S/1/heartbeat"),
    ev.Refused(at=AT, key="S/1/open", reason="no", status=403),
    ev.HeldUp(at=AT, key="S/1/open", condition="rate_limited", reason="429", until=AT + 9),
    ev.HeldUp(at=AT, key="S/1/open", condition="hub_failing", reason="500"),
    ev.Answered(at=AT, hub="h", model="m", url="u", metrics_interval=-1.0, heartbeat_interval=1.0),
    ev.StopRequested(AT, "a wish"),
    ev.ValStart(AT),
)


@pytest.mark.parametrize("event", EVENTS, ids=[f"{n} {ev.name_of(event)}" for n, event in enumerate(EVENTS)])
@pytest.mark.parametrize("ahead", [False, True], ids=["", "clock set back"])
def test_the_real_decisions_say_and_remember_what_they_have_to(event: ev.Event, ahead: bool) -> None:
    """Of each kind of event the real code leaves what is told by hand, also where remembered times lie ahead."""
    memory = training()
    if ahead:
        memory = msgspec.structs.replace(
            memory, metrics_since=AT + 50, checkpoint_since=AT + 50, kept_at=AT + 50
        )
    decision = decide(memory, event)
    assert list(missaid(memory, decision)) == []
    assert list(misremembered(memory, decision)) == []


#: Another value for every field of the memory than a session in the middle of its training has.
OTHERWISE: dict[str, Any] = {
    "outcome": Outcome.UNKNOWN,
    "reason": "another",
    "session": "T",
    "name": "another",
    "attempt": 9,
    "first_epoch": 9,
    "epochs": 9,
    "opened_at": 9.0,
    "ended_at": 9.0,
    "hub": "another",
    "hub_wanted": False,
    "model": "another",
    "url": "another",
    "stop": "another",
    "given_up": "another",
    "metrics_interval": 9.0,
    "checkpoint_interval": 9.0,
    "heartbeat_interval": 9.0,
    "metrics_since": 9.0,
    "checkpoint_since": 9.0,
    "heartbeat_since": 9.0,
    "heartbeat_out": True,
    "usage": False,
    "epoch": 9,
    "rows": 9,
    "rows_asked": 9,
    "rows_delivered": 9,
    "rows_not_taken": 9,
    "rows_given_up": 9,
    "checkpoints": "none",
    "saves": 9,
    "saved": ev.Saved("q", 9, 9, 9),
    "best_fitness": 9.0,
    "kept_at": 9.0,
    "kept_last": Kept(CheckpointKind.LAST, 9, 1, "s9", 9, 9.0),
    "kept_best": Kept(CheckpointKind.BEST, 9, 1, "s9", 9, 9.0),
    "kept_final": Kept(CheckpointKind.FINAL, 9, 1, "s9", 9, 9.0),
    "files_delivered": 9,
    "final_sha256": "another",
    "outstanding": (),
    "refused": (Refused("another", "no", 9.0),),
    "not_taken": ("another",),
    "conditions": (Condition("another", 9.0, "no"),),
}


def test_every_field_is_tried() -> None:
    """No field of the memory is left out, but the state, which the monitor judges."""
    assert {*OTHERWISE, "state"} == set(Memory.__struct_fields__)


@pytest.mark.parametrize("field", OTHERWISE)
def test_a_field_that_is_left_otherwise_is_named(field: str) -> None:
    """Whatever field a step leaves otherwise than it has to, it is found, and alone."""
    memory = training()
    decision = decide(memory, ev.FitEpochEnd(AT, 1, {}))
    after = msgspec.structs.replace(decision.memory, **{field: OTHERWISE[field]})
    found = list(misremembered(memory, decision._replace(memory=after)))
    assert [violation.name for violation in found] == ["S1"]
    assert f"leaves {field} " in found[0].what


@pytest.mark.parametrize(
    ("event", "place", "words"),
    [
        (ev.FitEpochEnd(AT, 1, {}), 0, {"first": 1}),
        (ev.FitEpochEnd(AT, 1, {}), 0, {"key": "S/1/rows"}),
        (SAVE, 0, {"size": 0}),
        (SAVE, 1, {"fitness": None}),
        (SAVE, 1, {"epoch": 0}),
        (ev.Abort(at=AT, outcome=Outcome.FAILED, reason="broke"), -1, {"reason": ""}),
        (ev.TrainEnd(at=AT), -1, {"outcome": Outcome.STOPPED}),
        (ev.ValStart(AT), 0, {"what": "another"}),
    ],
)
def test_a_word_that_is_said_otherwise_is_named(event: ev.Event, place: int, words: dict[str, Any]) -> None:
    """S1: an action that says otherwise than what was told is found by the word."""
    memory = training()
    actions = list(decide(memory, event).actions)
    actions[place] = msgspec.structs.replace(actions[place], **words)
    found = list(missaid(memory, decide(memory, event)._replace(actions=tuple(actions))))
    assert [violation.name for violation in found] == ["S1"]
    assert next(iter(words)) in found[0].what


def test_a_heartbeat_that_says_another_state_is_named() -> None:
    """S5: a sign of life tells the state as it is."""
    memory = training()
    decision = decide(memory, ev.HeartbeatTick(AT))
    beat = msgspec.structs.replace(decision.actions[0], state=State.TIMING)
    found = list(missaid(memory, decision._replace(actions=(beat,))))
    assert [violation.name for violation in found] == ["S5"]


def test_a_retry_of_another_delivery_is_named() -> None:
    """S4: what is retried is what was refused, all of it and as it was."""
    memory = training()
    decision = decide(memory, ev.RetryRefused(AT))
    assert len(decision.actions) == 1
    again = msgspec.structs.replace(decision.actions[0], attempt=2)
    for actions in ((), (again,), decision.actions * 2):
        found = list(missaid(memory, decision._replace(actions=actions)))
        assert [violation.name for violation in found] == ["S4"]


def test_an_answer_that_asks_for_something_is_named() -> None:
    """S4: what a hub says is remembered, and asks for nothing."""
    memory = training()
    rows = decide(memory, ev.FitEpochEnd(AT, 1, {})).actions
    decision = decide(memory, ev.StopRequested(AT, "a wish"))
    assert rows
    assert "S4" in [found.name for found in missaid(memory, decision._replace(actions=rows))]


def test_a_refusal_that_names_other_words_is_named() -> None:
    """S4: whoever says what is illegal hears the state, the event, and all that is legal there in the order of a run."""
    memory = training()
    decision = decide(memory, ev.TrainStart(AT))
    refusal = decision.refusal
    assert refusal is not None
    assert refusal.illegal
    assert list(missaid(memory, decision)) == []
    for words in (
        {"legal": refusal.legal[1:]},
        {"legal": refusal.legal[::-1]},
        {"legal": (*refusal.legal, "give_up")},
        {"state": State.TIMING},
        {"event": "train_end"},
    ):
        wrong = decision._replace(refusal=msgspec.structs.replace(refusal, **words))
        assert [violation.name for violation in missaid(memory, wrong)] == ["S4"]


@pytest.mark.parametrize("state", State)
def test_what_is_legal_is_told_in_every_state(state: State) -> None:
    """S4: in no state the real refusals leave out what is legal, or name what is not."""
    memory = msgspec.structs.replace(training(), state=state)
    events = (RUN[0], RUN[1], RUN[2], RUN[3], ev.TrainEnd(AT), ev.GiveUp(AT, "no more"), ev.RetryRefused(AT))
    decisions = [decide(memory, event) for event in events]
    illegal = [d for d in decisions if d.refusal is not None and d.refusal.illegal]
    assert illegal
    for decision in illegal:
        assert list(missaid(memory, decision)) == []


@pytest.mark.parametrize("usage", [True, False])
def test_a_note_of_usage_is_asked_for_alone(usage: bool) -> None:
    """S4: a validation asks for its note where usage is wanted, and for nothing else; without it for nothing."""
    memory = msgspec.structs.replace(training(), usage=usage)
    decision = decide(memory, ev.ValStart(AT))
    assert list(missaid(memory, decision)) == []
    wrong = () if usage else decide(msgspec.structs.replace(memory, usage=True), ev.ValStart(AT)).actions
    assert "S4" in [found.name for found in missaid(memory, decision._replace(actions=wrong))]


def test_an_action_out_of_its_place_is_left_to_the_monitor() -> None:
    """An opening that a sign of life asks for has no words that could be held against it."""
    memory = training()
    opening = decide(Memory(session="S"), RUN[0]).actions
    decision = decide(memory, ev.HeartbeatTick(AT))
    assert list(missaid(memory, decision._replace(actions=opening))) == []


def test_an_abort_that_sends_an_older_copy_is_named() -> None:
    """S1: the newest copy is the last of an abort, and of two that were kept at one moment the `last`."""
    best = Kept(CheckpointKind.BEST, 1, 1, "best", 1, 50.0)
    last = Kept(CheckpointKind.LAST, 1, 1, "last", 1, 50.0)
    memory = msgspec.structs.replace(training(), kept_best=best, kept_last=last)
    decision = decide(memory, ev.Abort(at=AT, outcome=Outcome.FAILED, reason="broke"))
    assert list(missaid(memory, decision)) == []
    later = msgspec.structs.replace(memory, kept_best=msgspec.structs.replace(best, at=60.0))
    assert "S1" in [found.name for found in missaid(later, decision)]


def test_what_is_asked_twice_or_in_another_order_is_named() -> None:
    """S4: a step asks for each thing once, and in its order."""
    memory = training()
    decision = decide(memory, SAVE)
    assert len(decision.actions) == 2
    for actions in (decision.actions[::-1], (*decision.actions, decision.actions[-1])):
        found = list(missaid(memory, decision._replace(actions=actions)))
        assert [violation.name for violation in found] == ["S4"]


@pytest.mark.parametrize("event", EVENTS, ids=[f"{n} {ev.name_of(event)}" for n, event in enumerate(EVENTS)])
def test_a_step_that_is_written_the_other_way_is_named(event: ev.Event) -> None:
    """S1: what has to be kept is written down, and what is not is not."""
    memory = training()
    decision = decide(memory, event)
    found = list(missaid(memory, decision._replace(journalled=not decision.journalled)))
    assert [violation.name for violation in found] == ["S1"]
    assert "written down" in found[0].what
