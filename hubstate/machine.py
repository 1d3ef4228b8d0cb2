"""The machine: one table, and nothing outside it.

Theory of operation
===================
A session walks a straight spine,

    idle -> session_created -> timing -> training -> finalizing -> done

and may leave it from the three states before `finalizing` to `aborted`. What moves it are events (`events`):
what a trainer says, what a caller wishes, what a clock says, what a hub answers. For each pair of state and
event the table holds the rules that may apply, in the order in which they are asked. The first rule whose
guards all hold is taken: it names the next state (or none: the session stays) and the kinds of actions that
follow. There are three ways for an event to do nothing, and they are told apart:

* The pair has no rule: the event is *illegal*. Nothing changes, and the caller hears what would be legal.
* The pair has rules, and no guard holds: the event is *held back*, with the reason that the guard gives.
* A rule applies that says "stays, nothing to do", such as a tick when nothing is due.

Four things follow from the state or from other facts and are stored nowhere, so that they cannot disagree:
whether heartbeats are sent (`state in LIVE_STATES`), what is legal (the rows of the state), whether something
is due (`limits`), and whether the session is drained (nothing outstanding).

House rules
===========
1. Every transition stands in `TABLE`. Code, diagrams, documentation, the checks and the test kit read it.
2. Guards are pure. They look at the memory and the event, and consume nothing.
3. Actions are named here and built in `controller`. Nothing is done here: no I/O, no clock, no thread.
4. `transitions` is the engine, and this file its only importer. Its machine is built once from the table, and
   its rows are then compiled into tuples: firing the library's trigger costs about twenty times a table walk,
   on the thread that trains. `fire` keeps the library's own way; a test holds the two equal, pair by pair.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from transitions import Machine, Transition

from hubstate.actions import (
    Action,
    CloseSession,
    EndSession,
    Heartbeat,
    KeepCheckpoint,
    Memory,
    OpenSession,
    RecordUsage,
    SendCheckpoint,
    SendRows,
)
from hubstate.events import (
    CALLER_EVENTS,
    CLOCK_EVENTS,
    EVENTS,
    HUB_EVENTS,
    TRAINER_EVENTS,
    USAGE_EVENTS,
    Abort,
    Delivered,
    Event,
    FitEpochEnd,
    GiveUp,
    HeartbeatTick,
    ModelSave,
    PretrainRoutineEnd,
    PretrainRoutineStart,
    RetryRefused,
    Tick,
    TrainBatchEnd,
    TrainEnd,
    TrainStart,
    name_of,
)
from hubstate.limits import Guard, checkpoint_due, heartbeat_due, keep_due, metrics_due
from hubstate.lint import checked
from hubstate.states import LIVE_STATES, State

__all__ = [
    "CELLS",
    "DECIDE_ALIKE",
    "DECISIONS",
    "TABLE",
    "TABLE_DIGEST",
    "Cells",
    "Choice",
    "Rule",
    "choose",
    "compiled",
    "fire",
    "legal_events",
    "rules_for",
]


# -- the guards that are no rate limits ------------------------------------------------------------------


def _may_open(_memory: Memory, event: Event) -> bool:
    return isinstance(event, PretrainRoutineStart) and event.wanted and event.main and not event.already_open


def _why_not_open(_memory: Memory, event: Event) -> str:
    if isinstance(event, PretrainRoutineStart) and not event.wanted:
        return "the mode is off: neither a hub nor a journal is wanted"
    if isinstance(event, PretrainRoutineStart) and not event.main:
        return "this is not the main process; rank 0 opens the session"
    return "a session is open already"


may_open = Guard("may_open", _may_open, _why_not_open)

rows_wait = Guard(
    "rows_wait",
    lambda memory, _event: memory.rows > memory.rows_asked,
    lambda _memory, _event: "no row waits",
)

checkpoint_waits = Guard(
    "checkpoint_waits",
    lambda memory, _event: any(
        kept is not None and not kept.asked for kept in (memory.kept_last, memory.kept_best)
    ),
    lambda _memory, _event: "no kept checkpoint waits",
)


def _all_delivered(memory: Memory, event: Event) -> bool:
    return (
        isinstance(event, Delivered)
        and bool(memory.outstanding)
        and all(action.key == event.key for action in memory.outstanding)
    )


def _why_not_all(memory: Memory, event: Event) -> str:
    key = event.key if isinstance(event, Delivered) else ""
    rest = sum(action.key != key for action in memory.outstanding)
    return f"{rest} deliveries wait, {len(memory.refused)} of them refused"


all_delivered = Guard("all_delivered", _all_delivered, _why_not_all)

something_waits = Guard(
    "something_waits",
    lambda memory, _event: bool(memory.outstanding),
    lambda _memory, _event: "nothing waits and nothing is refused",
)

refused_exist = Guard(
    "refused_exist",
    lambda memory, _event: bool(memory.refused),
    lambda _memory, _event: "nothing is refused",
)

usage_wanted = Guard(
    "usage_wanted",
    lambda memory, _event: memory.usage,
    lambda _memory, _event: "the recording of usage is off",
)


# -- the table -------------------------------------------------------------------------------------------

STAYS = None
ANY = tuple(State)
LIVE = tuple(state for state in State if state in LIVE_STATES)
BEFORE_THE_END = (State.SESSION_CREATED, State.TIMING, State.TRAINING)
ROWS = (FitEpochEnd, TrainBatchEnd)


@dataclass(frozen=True)
class Rule:
    """One row: in `sources`, each of `events`, if all `guards` hold, leads to `target` with `actions`.

    `target` None: the session stays. `Action` itself among the actions stands for the refused ones, as they
    were. `written`: the step goes into the journal. `held`: this row says "held back", not "done".
    """

    sources: tuple[State, ...]
    events: tuple[type[Event], ...]
    guards: tuple[Guard, ...]
    target: State | None
    actions: tuple[type[Action], ...] = ()
    written: bool = True
    held: bool = False
    note: str = ""


# fmt: off
TABLE: tuple[Rule, ...] = (
    Rule((State.IDLE,), (PretrainRoutineStart,), (may_open,), State.SESSION_CREATED, (OpenSession,)),
    Rule((State.IDLE,), TRAINER_EVENTS, (), STAYS, written=False, held=True,
         note="a run without a session is no mistake"),
    Rule((State.SESSION_CREATED,), (PretrainRoutineEnd,), (), State.TIMING,
         note="the clocks that do not run yet start"),
    Rule((State.TIMING,), (TrainStart,), (), State.TRAINING),

    Rule((State.TRAINING,), ROWS, (metrics_due,), STAYS, (SendRows,), note="the row, and all that wait"),
    Rule((State.TRAINING,), ROWS, (), STAYS, note="the row; it waits"),
    Rule((State.TRAINING,), (ModelSave,), (keep_due, checkpoint_due), STAYS, (KeepCheckpoint, SendCheckpoint)),
    Rule((State.TRAINING,), (ModelSave,), (keep_due,), STAYS, (KeepCheckpoint,)),
    Rule((State.TRAINING,), (ModelSave,), (), STAYS, held=True),
    Rule((State.TRAINING,), (Tick,), (metrics_due, rows_wait, checkpoint_due, checkpoint_waits), STAYS,
         (SendRows, SendCheckpoint)),
    Rule((State.TRAINING,), (Tick,), (metrics_due, rows_wait), STAYS, (SendRows,)),
    Rule((State.TRAINING,), (Tick,), (checkpoint_due, checkpoint_waits), STAYS, (SendCheckpoint,)),
    Rule((State.TRAINING,), (TrainEnd,), (), State.FINALIZING, (SendRows, SendCheckpoint, CloseSession),
         note="they leave in this order"),

    Rule(BEFORE_THE_END, (Abort,), (), State.ABORTED, (SendRows, SendCheckpoint, EndSession),
         note="they leave in this order"),
    Rule((State.FINALIZING,), (Delivered,), (all_delivered,), State.DONE),
    Rule((State.FINALIZING,), (GiveUp,), (), State.ABORTED, (EndSession,),
         note="what waits or is refused is given up"),
    Rule((State.ABORTED,), (GiveUp,), (something_waits,), STAYS, note="what waits or is refused is given up"),
    Rule(ANY[1:], (RetryRefused,), (refused_exist,), STAYS, (Action,), note="the same actions, the same keys"),

    Rule(LIVE, (HeartbeatTick,), (heartbeat_due,), STAYS, (Heartbeat,), written=False,
         note="it leaves once if it can"),
    Rule(ANY, CLOCK_EVENTS, (), STAYS, written=False, held=True),
    Rule(ANY, HUB_EVENTS, (), STAYS, note="remembered"),
    Rule(ANY, USAGE_EVENTS, (usage_wanted,), STAYS, (RecordUsage,), note="one's own hub only"),
    Rule(ANY, USAGE_EVENTS, (), STAYS, written=False, held=True),
)
# fmt: on


# -- the engine ------------------------------------------------------------------------------------------


class _Model:
    """What `transitions` moves. It has no method of its own: one with a trigger's name would silently win."""

    state: State


checked(TABLE, _Model)


class _RuleTransition(Transition):
    """A transition that knows the rule it was made from."""

    def __init__(self, *args: Any, rule: Rule, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.rule = rule


class _RuleMachine(Machine):
    transition_cls = _RuleTransition


def _engine(model: _Model, initial: State, table: Iterable[Rule]) -> Machine:
    """A machine of `transitions`, built from a table: enum members and function objects, no strings."""
    machine = _RuleMachine(model=model, states=State, initial=initial, auto_transitions=False)
    for rule in table:
        for source in rule.sources:
            for event in rule.events:
                machine.add_transition(
                    name_of(event),
                    source,
                    rule.target,
                    conditions=[guard.holds for guard in rule.guards],
                    rule=rule,
                )
    return machine


def fire(state: State, memory: Memory, event: Event) -> tuple[bool, State]:
    """Fires the event on a fresh machine of `transitions`: whether a row was taken, and the state after it.

    Raises `transitions.MachineError` for an illegal pair. This is the slow, literal way, for comparison.
    """
    model = _Model()
    _engine(model, state, TABLE)
    taken = bool(getattr(model, name_of(event))(memory, event))
    return taken, model.state


class Choice(NamedTuple):
    """What the table says to one event: the rule taken (None: held back), and each guard's answer, in order."""

    rule: Rule | None
    guards: dict[str, bool]


#: A table, compiled: the rules of each pair, in the order in which they are asked. A pair that is absent is illegal.
Cells = Mapping[tuple[State, type[Event]], tuple[Rule, ...]]


def compiled(table: Iterable[Rule]) -> Cells:
    """The rows of a table, read back from the data of the machine that `transitions` builds of them.

    It is done once for `TABLE`; whoever wants to know what another table would decide compiles that one.
    """
    kinds = {name_of(event): event for event in EVENTS}
    machine = _engine(_Model(), State.IDLE, table)
    return {
        (State[source], kinds[trigger]): tuple(
            row.rule for row in transitions if isinstance(row, _RuleTransition)
        )
        for trigger, event in machine.events.items()
        for source, transitions in event.transitions.items()
    }


#: What is asked for every event of every session.
CELLS = compiled(TABLE)


def rules_for(state: State, event: type[Event], cells: Cells = CELLS) -> tuple[Rule, ...]:
    """The rules of one pair, in the order in which they are asked; empty if the pair is illegal."""
    return cells.get((state, event), ())


def legal_events(state: State, cells: Cells = CELLS) -> tuple[str, ...]:
    """The names of the trainer's and the caller's events that have a rule in `state`, in the order of a run."""
    asked: tuple[type[Event], ...] = (*TRAINER_EVENTS, *USAGE_EVENTS, *CALLER_EVENTS)
    return tuple(name_of(event) for event in asked if (state, event) in cells)


def choose(memory: Memory, event: Event, cells: Cells = CELLS) -> Choice | None:
    """Asks the table. None: the pair is illegal. A choice without a rule: held back by the guards told."""
    rules = cells.get((memory.state, type(event)))
    if rules is None:
        return None
    answers: dict[str, bool] = {}
    for rule in rules:
        for guard in rule.guards:
            answer = answers.get(guard.name)
            if answer is None:
                answer = answers[guard.name] = guard.holds(memory, event)
            if not answer:
                break
        else:
            return Choice(rule, answers)
    return Choice(None, answers)


def _row_text(rule: Rule) -> str:
    return "|".join(
        (
            ",".join(state.value for state in rule.sources),
            ",".join(name_of(event) for event in rule.events),
            "&".join(guard.name for guard in rule.guards),
            rule.target.value if rule.target else "",
            ",".join(action.__name__ for action in rule.actions),
            str(rule.written),
            str(rule.held),
        )
    )


def _digest(table: Iterable[Rule], decisions: int) -> str:
    texts = (f"decisions {decisions}", *(_row_text(rule) for rule in table))
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]


#: From the first release on raised by one whenever a guard, a builder or `adopt` decides otherwise under the same rows.
#: Words do not count: what a refusal says may be said better.
DECISIONS = 1
#: Names the table in journals, so that a reader knows under which one a step was decided.
TABLE_DIGEST = _digest(TABLE, DECISIONS)
#: The names under which every step is decided as under `TABLE_DIGEST`. Whatever changes a decision empties it but for
#: that one; 037853ccc77d852b named these rows and decisions when neither `held` nor the number was counted.
DECIDE_ALIKE = frozenset({TABLE_DIGEST, "037853ccc77d852b"})
