"""What is remembered of what comes back: acknowledgements, refusals, trouble, wishes, and giving up."""

from __future__ import annotations

import pytest
from situations import CLOSE, END, FILE, NOW, OPEN, PLAIN, ROWS, base, change, situation

from hubstate import events as ev
from hubstate.actions import AnyAction, Decision, EndSession, Memory, Refused
from hubstate.controller import decide
from hubstate.states import Outcome, State

TRAINING = base(State.TRAINING)


def said(state: State, event: str, case: str = "plain") -> Decision:
    return decide(*situation(state, event, case))


def keys(memory: Memory) -> list[str]:
    return [action.key for action in memory.outstanding]


@pytest.mark.parametrize("state", [State.SESSION_CREATED, State.TIMING, State.TRAINING, State.FINALIZING])
@pytest.mark.parametrize("settled", [OPEN, ROWS, FILE, CLOSE])
def test_an_acknowledgement_settles_its_own_key(state: State, settled: AnyAction) -> None:
    """A delivery settles exactly its own key; the others stay out, in their order."""
    out = (OPEN, ROWS, FILE, CLOSE)
    after = decide(change(base(state), outstanding=out), ev.Delivered(at=NOW, key=settled.key)).memory
    assert after.outstanding == tuple(action for action in out if action is not settled)


@pytest.mark.parametrize(
    ("action", "moved"), [(OPEN, set()), (ROWS, {"metrics_since"}), (FILE, {"checkpoint_since"})]
)
def test_an_acknowledgement_moves_the_clock_of_its_kind(action: AnyAction, moved: set[str]) -> None:
    """An acknowledgement moves the clock of its kind and no other kind's."""
    memory = change(TRAINING, outstanding=(OPEN, ROWS, FILE))
    after = decide(memory, ev.Delivered(at=NOW, key=action.key)).memory
    clocks = ("metrics_since", "checkpoint_since")
    assert {clock for clock in clocks if getattr(after, clock) != getattr(memory, clock)} == moved
    assert all(getattr(after, clock) == NOW for clock in moved)


def test_a_key_of_nobody_settles_nothing() -> None:
    """An acknowledgement that names nothing outstanding leaves everything outstanding."""
    memory = change(base(State.FINALIZING), outstanding=(ROWS, CLOSE))
    after = decide(memory, ev.Delivered(at=NOW, key="S/1/rows/90-99")).memory
    assert after.outstanding == (ROWS, CLOSE)


def test_what_the_hub_cannot_take_is_told_apart() -> None:
    """A delivery that the hub cannot take is settled, and not counted as delivered."""
    decision = said(State.FINALIZING, "delivered", "not taken, nothing else")
    after = decision.memory
    assert after.state is State.DONE
    assert after.rows_delivered == 0
    assert after.rows_not_taken == 4 or ROWS.key in after.not_taken
    assert after.outstanding == ()


def test_a_refused_delivery_keeps_the_session_open() -> None:
    """With one delivery refused for good everything else is delivered and the session stays finalizing."""
    memory = change(base(State.FINALIZING), outstanding=(ROWS, FILE, CLOSE))
    for event in (
        ev.Refused(at=NOW, key=ROWS.key, reason="too large", status=413),
        ev.Delivered(at=NOW + 1, key=FILE.key),
        ev.Delivered(at=NOW + 2, key=CLOSE.key),
    ):
        memory = decide(memory, event).memory
        assert memory.state is State.FINALIZING
    assert [(one.key, one.reason, one.status) for one in memory.refused] == [(ROWS.key, "too large", 413)]
    assert ROWS.key in keys(memory)


def test_a_retry_is_the_same_delivery() -> None:
    """A retry asks the very same actions under the same keys, once, and then the session can be done."""
    memory = change(
        base(State.FINALIZING),
        outstanding=(ROWS, CLOSE),
        refused=(Refused(key=ROWS.key, reason="too large", at=NOW - 9),),
    )
    again = decide(memory, PLAIN["retry_refused"])
    assert again.actions == (ROWS,)
    assert again.memory.refused == ()
    assert sorted(keys(again.memory)) == sorted([ROWS.key, CLOSE.key])
    closed = decide(again.memory, ev.Delivered(at=NOW + 1, key=CLOSE.key)).memory
    assert closed.state is State.FINALIZING
    assert decide(closed, ev.Delivered(at=NOW + 2, key=ROWS.key)).memory.state is State.DONE


@pytest.mark.parametrize("case", ["plain", "some refused"])
def test_giving_up_ends_a_session_that_waits(case: str) -> None:
    """Giving up asks for the end alone, with its reason; what waited or was refused is no longer out."""
    decision = said(State.FINALIZING, "give_up", case)
    (end,) = decision.actions
    assert isinstance(end, EndSession)
    assert end.reason == "the hub is gone for good"
    assert decision.memory.outstanding == (end,)
    assert decision.memory.refused == ()
    assert decision.memory.given_up == "the hub is gone for good"


@pytest.mark.parametrize("case", ["something waits", "some refused"])
def test_giving_up_what_an_abort_left_is_remembered(case: str) -> None:
    """Giving up in a session that was aborted is remembered with its reason and asks nothing."""
    after = said(State.ABORTED, "give_up", case).memory
    assert after.given_up == "the hub is gone for good"


@pytest.mark.parametrize("state", list(State))
def test_a_wish_to_stop_is_remembered_in_every_state(state: State) -> None:
    """A wish to stop is remembered, whatever the state, and ends nothing by itself."""
    after = decide(base(state), PLAIN["stop_requested"]).memory
    assert after.stop == "stop was pressed on the page"
    assert after.state is state


@pytest.mark.parametrize("state", list(State))
def test_an_answer_is_remembered_in_every_state(state: State) -> None:
    """The page's address and the hub's intervals are remembered; a heartbeat is never faster than 5 s."""
    answer = ev.Answered(
        at=NOW, url="https://hub.test/m", model="17", metrics_interval=9.0, heartbeat_interval=1.0
    )
    after = decide(base(state), answer).memory
    assert (after.url, after.model, after.metrics_interval) == ("https://hub.test/m", "17", 9.0)
    assert after.heartbeat_interval >= 5.0
    assert after.checkpoint_interval == 900.0


@pytest.mark.parametrize("case", ["its key", "429", "401"])
def test_trouble_is_a_condition_and_settles_nothing(case: str) -> None:
    """A delivery that is held up stays out; the trouble is a condition with its reason and the time."""
    memory, event = situation(State.TRAINING, "held_up", case)
    assert isinstance(event, ev.HeldUp)
    after = decide(memory, event).memory
    assert after.outstanding == memory.outstanding
    (condition,) = after.conditions
    assert (condition.since, condition.reason, condition.until) == (NOW, event.reason, event.until)


def test_a_heartbeat_tells_state_and_outcome() -> None:
    """A heartbeat names the state and the outcome, and does not join what is outstanding."""
    memory, event = situation(State.FINALIZING, "heartbeat_tick", "beat due")
    decision = decide(memory, event)
    (beat,) = decision.actions
    assert (beat.state, beat.outcome) == (State.FINALIZING, Outcome.FINISHED)
    assert beat.key.endswith("/heartbeat")
    assert decision.memory.outstanding == memory.outstanding


def test_heartbeats_count_from_their_acknowledgement() -> None:
    """The next sign of life is due an interval after the last one was acknowledged."""
    first = said(State.TRAINING, "heartbeat_tick", "beat due")
    (beat,) = first.actions
    settled = decide(first.memory, ev.Delivered(at=NOW + 2, key=beat.key)).memory
    assert decide(settled, ev.HeartbeatTick(NOW + 301)).actions == ()
    assert len(decide(settled, ev.HeartbeatTick(NOW + 302)).actions) == 1


def test_a_late_acknowledgement_of_the_end_settles_it() -> None:
    """An aborted session still learns that its end was delivered."""
    after = said(State.ABORTED, "delivered", "the end, nothing else").memory
    assert (after.state, after.outstanding) == (State.ABORTED, ())
    assert END.key not in keys(after)
