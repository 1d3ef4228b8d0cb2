"""What became of a session, by the machine's own decisions: `after(standing, *events)` is pure.

A hub hears of a session from outside: less than happened, late, twice, in any order. It asks the very `decide` that the
session itself asks, and carries out none of the actions that follow:

* What a client leaves unsaid is said for it. No old client tells that its pretrain routine is over; a row says so.
* An event that is illegal where the session stands moves nothing. What came with it is kept all the same, elsewhere.
* Whatever would have to be delivered counts as delivered, because the hub that asks is the one that it goes to.

So a late sign of life never takes a session back to an earlier state, and an attempt that ended stays ended.
"""

from __future__ import annotations

from typing import NamedTuple

from hubstate import machine
from hubstate.actions import CloseSession, Memory
from hubstate.controller import decide
from hubstate.events import (
    Abort,
    Delivered,
    Event,
    FitEpochEnd,
    GiveUp,
    PretrainRoutineEnd,
    PretrainRoutineStart,
    TrainEnd,
    TrainStart,
)
from hubstate.states import TERMINAL_STATES, Outcome, State

__all__ = ["Standing", "after", "announced", "ended", "in_one_line", "opened", "row_came"]


class Standing(NamedTuple):
    """Where an attempt stands. `reason`: why it was aborted, or empty."""

    state: State
    outcome: Outcome
    reason: str = ""

    @property
    def over(self) -> bool:
        """Whether nothing that is still said of the attempt moves it any more."""
        return self.state in TERMINAL_STATES


#: What a client may leave unsaid: in which state, and what it would have said.
_UNSAID: dict[State, type[PretrainRoutineEnd | TrainStart]] = {
    State.SESSION_CREATED: PretrainRoutineEnd,
    State.TIMING: TrainStart,
}
_CAME_TO_AN_END = (Outcome.FINISHED, Outcome.STOPPED)


# -- the decisions ---------------------------------------------------------------------------------------


def opened(at: float) -> Standing:
    """Where a new attempt stands. `at`: seconds since 1970."""
    return after(Standing(State.IDLE, Outcome.RUNNING), PretrainRoutineStart(at, session="heard"))


def after(standing: Standing, *events: Event) -> Standing:
    """Where an attempt stands after `events`, of which each counts if it is legal by then."""
    memory = _memory(standing)
    for event in events:
        memory = _heard(memory, event)
    return Standing(memory.state, memory.outcome, memory.reason)


def _memory(standing: Standing) -> Memory:
    """What decisions need to know. Of a session that is being closed the close itself is still to come."""
    close = CloseSession("heard/1/close", 1, outcome=standing.outcome, rows=0)
    return Memory(
        state=standing.state,
        outcome=standing.outcome,
        reason=standing.reason,
        session="heard",
        attempt=0 if standing.state is State.IDLE else 1,
        outstanding=(close,) if standing.state is State.FINALIZING else (),
    )


def _heard(memory: Memory, event: Event) -> Memory:
    """One event, behind what was left unsaid before it; what it would send leaves at once, but for the close."""
    said = memory
    while machine.choose(said, event) is None and said.state in _UNSAID:
        said = decide(said, _UNSAID[said.state](event.at)).memory
    decision = decide(said, event)
    if decision.refusal is not None and decision.refusal.illegal:
        return memory
    for action in decision.actions:
        if not isinstance(action, CloseSession):
            decision = decide(decision.memory, Delivered(event.at, key=action.key))
    return decision.memory


# -- what is said, as events -----------------------------------------------------------------------------


def row_came(at: float, epoch: int) -> Event:
    """A row, or any other word that only a training has."""
    return FitEpochEnd(at, epoch, {})


def announced(at: float, state: State | None, outcome: Outcome | None) -> tuple[Event, ...]:
    """A sign of life: the state in which its sender says to be, or, of one that says none, that it trains.

    It never ends an attempt: that is what the end is for.
    """
    match state:
        case None | State.TRAINING:
            return (TrainStart(at),)
        case State.TIMING:
            return (PretrainRoutineEnd(at),)
        case State.FINALIZING:
            told = outcome if outcome in _CAME_TO_AN_END else Outcome.FINISHED
            return (TrainEnd(at, outcome=told),)
        case _:
            return ()


def ended(at: float, state: State, outcome: Outcome, reason: str) -> tuple[Event, ...]:
    """The last word of an attempt, `done` or `aborted`. One that is `done` and failed all the same was aborted."""
    if outcome in _CAME_TO_AN_END:
        last = Delivered(at, key="heard/1/close") if state is State.DONE else GiveUp(at, reason)
        return (TrainEnd(at, outcome=outcome), last)
    why = Outcome.UNKNOWN if outcome is Outcome.RUNNING else outcome
    # A training that was over when this came cannot be aborted any more; what it still had to deliver is given up.
    return (Abort(at, outcome=why, reason=reason), GiveUp(at, reason))


# -- in words --------------------------------------------------------------------------------------------


def in_one_line(
    standing: Standing, *, delivered: int, total: int | None, waiting: int | None, gaps: int, silent: str
) -> str:
    """The session in one line: what became of it, and how much of it is here.

    `total`: how many rows its client says to have recorded; None where it says nothing, and then `gaps` is how many
    epochs are known to be missing. `silent`: since when nothing was heard, in words, or empty.
    """
    words = [_what_became(standing, silent)]
    if standing.state not in TERMINAL_STATES and waiting:
        words.append(f"{_rows(waiting)} still waiting on the trainer's side")
    if total is not None:
        words.append(f"delivered {delivered} of {total}")
    else:
        words.append(f"{_rows(delivered)} here")
        if gaps:
            words.append(f"{gaps} epoch{'s' if gaps > 1 else ''} missing")
    return ", ".join(words)


def _what_became(standing: Standing, silent: str) -> str:
    if standing.state is State.ABORTED:
        return f"aborted: {standing.reason or standing.outcome.value}"
    became = standing.outcome.value
    if standing.state is State.SESSION_CREATED:
        became = "not begun yet"
    return f"{became}, no contact since {silent}" if silent else became


def _rows(count: int) -> str:
    return f"{count} row{'' if count == 1 else 's'}"
