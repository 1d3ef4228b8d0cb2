"""The decisions: `decide(memory, event)` is pure, and so is `adopt`, which carries a decided step out on the memory.

`decide` asks the table, builds the actions that the chosen row names, and adopts. `adopt` asks nothing: it takes
the event, the next state and the actions as they are. So a journal is recovered by adopting what it recorded,
line by line, and only a proof decides again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hubstate import machine
from hubstate.actions import (
    Action,
    AnyAction,
    CloseSession,
    Decision,
    EndSession,
    Heartbeat,
    KeepCheckpoint,
    Kept,
    Memory,
    OpenSession,
    RecordUsage,
    Refusal,
    SendCheckpoint,
    SendRows,
)
from hubstate.adopt import adopt
from hubstate.errors import BrokenTable
from hubstate.events import (
    Abort,
    Event,
    GiveUp,
    ModelSave,
    PretrainRoutineStart,
    Tick,
    TrainEnd,
    name_of,
)
from hubstate.limits import final_choice, kind_to_keep
from hubstate.lint import without_builder
from hubstate.states import CheckpointKind

__all__ = ["decide", "explain"]


def decide(memory: Memory, event: Event, cells: machine.Cells = machine.CELLS) -> Decision:
    """What follows from `event`: the new memory, the actions in the order in which they leave, or a refusal.

    Pure: no I/O, no clock, no thread, no logging; deciding twice gives the same. An illegal event gives the same
    memory back and a refusal with `illegal` set; it is for the caller to raise `IllegalEvent` or to go on.
    `cells` is the compiled table to decide by; another one than the machine's own is for tests of tests.
    """
    choice = machine.choose(memory, event, cells)
    if choice is None:
        return _illegal(memory, event, cells)
    rule, guards = choice
    if rule is None or rule.held:
        refusal = Refusal(memory.state, name_of(event), _why_held(memory, event, guards, cells))
        if rule is None or not rule.written:
            return Decision(memory, (), refusal, event, guards, journalled=False)
        return Decision(adopt(memory, event, memory.state, ()), (), refusal, event, guards, journalled=True)
    actions: tuple[AnyAction, ...] = ()
    if rule.actions:
        actions = tuple(action for kind in rule.actions for action in _BUILDERS[kind](memory, event))
    state = rule.target or memory.state
    after = adopt(memory, event, state, actions)
    return Decision(after, actions, None, event, guards, journalled=rule.written and not _is_beat(event))


def explain(memory: Memory, event: Event) -> str:
    """Why the event would do something or nothing just now, in words. It consumes nothing."""
    decision = decide(memory, event)
    refusal = decision.refusal
    if refusal is not None and refusal.illegal:
        return f"illegal while {memory.state.value}; legal here: {', '.join(refusal.legal) or 'nothing'}"
    choice = machine.choose(memory, event)
    assert choice is not None, "the pair is legal"
    failed = _why_held(memory, event, choice.guards, machine.CELLS)
    if refusal is not None:
        return failed or _note(choice.rule) or f"nothing is done while {memory.state.value}"
    words = [f"-> {decision.memory.state.value}"] if decision.memory.state is not memory.state else []
    words += dict.fromkeys(type(action).__name__ for action in decision.actions)
    said = "; ".join(part for part in (", ".join(words), _note(choice.rule)) if part) or "stays"
    return said + (f" ({failed})" if failed else "")


def _note(rule: machine.Rule | None) -> str:
    return "" if rule is None else rule.note


def _illegal(memory: Memory, event: Event, cells: machine.Cells) -> Decision:
    legal = machine.legal_events(memory.state, cells)
    name = name_of(event)
    reason = f"{name} is illegal while {memory.state.value}"
    refusal = Refusal(memory.state, name, reason, illegal=True, legal=legal)
    return Decision(memory, (), refusal, event, {}, journalled=True)


def _why_held(memory: Memory, event: Event, guards: dict[str, bool], cells: machine.Cells) -> str:
    """The words of the guards that said no; each with its name where there are several, for all speak of seconds."""
    reasons: dict[str, str] = {}
    for rule in machine.rules_for(memory.state, type(event), cells):
        for guard in rule.guards:
            if guards.get(guard.name) is False and (why := guard.why_not(memory, event)) not in reasons:
                reasons[why] = guard.name
    if len(reasons) == 1:
        return next(iter(reasons))
    return "; ".join(f"{name}: {why}" for why, name in reasons.items())


def _is_beat(event: Event) -> bool:
    """An answer to a heartbeat: its clock is not kept, so it is not written."""
    return getattr(event, "key", "").endswith("/heartbeat")


# -- the actions that the rows name ----------------------------------------------------------------------


def _key(memory: Memory, what: str) -> str:
    return f"{memory.session}/{memory.attempt}/{what}"


def _open(memory: Memory, event: Event) -> tuple[AnyAction, ...]:
    assert isinstance(event, PretrainRoutineStart)
    session = memory.session or event.session
    attempt = memory.attempt + 1
    action = OpenSession(
        key=f"{session}/{attempt}/open",
        attempt=attempt,
        session=session,
        name=event.name or memory.name,
        first_epoch=event.first_epoch,
        epochs=event.epochs,
        project=event.project,
        group=event.group,
        tags=event.tags,
        config=event.config,
        mark=event.mark,
    )
    return (action,)


def _rows(memory: Memory, event: Event) -> tuple[AnyAction, ...]:
    last = memory.rows + (type(event) in machine.ROWS)
    if last == memory.rows_asked:
        return ()
    first = memory.rows_asked + 1
    return (SendRows(_key(memory, f"rows/{first}-{last}"), memory.attempt, first=first, last=last),)


def _keep(memory: Memory, event: Event) -> tuple[AnyAction, ...]:
    assert isinstance(event, ModelSave)
    kind = kind_to_keep(memory, event)
    assert kind is not None, "the guard keep_due held"
    key = _key(memory, f"keep/{memory.saves + 1}")
    return (
        KeepCheckpoint(
            key,
            memory.attempt,
            kind=kind,
            epoch=event.epoch,
            snapshot=event.snapshot,
            size=event.size,
        ),
    )


def _send(memory: Memory, kept: Kept, kind: CheckpointKind, *, closing: bool) -> SendCheckpoint:
    return SendCheckpoint(
        _key(memory, f"checkpoint/{kind.value}/{kept.snapshot}"),
        memory.attempt if kind is CheckpointKind.FINAL else kept.attempt,
        kind=kind,
        epoch=kept.epoch,
        snapshot=kept.snapshot,
        size=kept.size,
        fitness=kept.fitness,
        closing=closing,
    )


def _checkpoint(memory: Memory, event: Event) -> tuple[AnyAction, ...]:
    """The checkpoint that the event calls for: the one just saved, the one that waits longest, or the last word."""
    if isinstance(event, ModelSave):
        kind = kind_to_keep(memory, event)
        if kind is None or kind is CheckpointKind.FINAL:
            return ()  # what a trainer names as final leaves at the end
        kept = Kept(kind, event.epoch, memory.attempt, event.snapshot, event.size, event.at, event.fitness)
        return (_send(memory, kept, kind, closing=False),)
    if isinstance(event, Tick):
        waiting = [k for k in (memory.kept_last, memory.kept_best) if k is not None and not k.asked]
        oldest = min(waiting, key=lambda kept: (kept.attempt, kept.at))
        return (_send(memory, oldest, oldest.kind, closing=False),)
    if memory.checkpoints == "none":
        return ()
    if isinstance(event, TrainEnd):
        return _final(memory, event)
    return _newest_as_last(memory)


def _final(memory: Memory, event: TrainEnd) -> tuple[AnyAction, ...]:
    """What the trainer names at its end, else the best, else the newest whole last."""
    named = event.final
    if named is not None and named.snapshot:
        kept = Kept(
            CheckpointKind.FINAL, named.epoch, memory.attempt, named.snapshot, named.size, event.at, None
        )
    else:
        choice = final_choice(memory)
        if choice is None:
            return ()
        kept = choice
    return (_send(memory, kept, CheckpointKind.FINAL, closing=True),)


def _newest_as_last(memory: Memory) -> tuple[AnyAction, ...]:
    """At an abort: the newest whole checkpoint, unless it has been asked for as `last` already."""
    kept = [k for k in (memory.kept_last, memory.kept_best, memory.kept_final) if k is not None]
    if not kept:
        return ()
    # Between two attempts the clock may have been set back.
    newest = max(kept, key=lambda k: (k.attempt, k.at, k.kind is CheckpointKind.LAST))
    if newest.kind is CheckpointKind.LAST and newest.asked:
        return ()
    return (_send(memory, newest, CheckpointKind.LAST, closing=True),)


def _close(memory: Memory, event: Event) -> tuple[AnyAction, ...]:
    assert isinstance(event, TrainEnd)
    return (CloseSession(_key(memory, "close"), memory.attempt, outcome=event.outcome, rows=memory.rows),)


def _end(memory: Memory, event: Event) -> tuple[AnyAction, ...]:
    outcome = event.outcome if isinstance(event, Abort) else memory.outcome
    reason = event.reason if isinstance(event, Abort | GiveUp) else ""
    return (
        EndSession(_key(memory, "end"), memory.attempt, outcome=outcome, reason=reason, rows=memory.rows),
    )


def _heartbeat(memory: Memory, _event: Event) -> tuple[AnyAction, ...]:
    return (
        Heartbeat(
            _key(memory, "heartbeat"),
            memory.attempt,
            state=memory.state,
            outcome=memory.outcome,
            epoch=memory.epoch,
            waiting=memory.rows - memory.rows_delivered - memory.rows_not_taken,
        ),
    )


def _usage(memory: Memory, event: Event) -> tuple[AnyAction, ...]:
    what = name_of(event)
    return (RecordUsage(_key(memory, f"usage/{what}/{event.at:.3f}"), memory.attempt, what=what),)


def _again(memory: Memory, _event: Event) -> tuple[AnyAction, ...]:
    keys = {refused.key for refused in memory.refused}
    return tuple(action for action in memory.outstanding if action.key in keys)


_BUILDERS: dict[type[Action], Callable[[Memory, Any], tuple[AnyAction, ...]]] = {
    OpenSession: _open,
    SendRows: _rows,
    KeepCheckpoint: _keep,
    SendCheckpoint: _checkpoint,
    CloseSession: _close,
    EndSession: _end,
    Heartbeat: _heartbeat,
    RecordUsage: _usage,
    Action: _again,
}

if _unbuilt := without_builder(machine.TABLE, _BUILDERS):
    raise BrokenTable("the table of the machine is broken:\n" + "\n".join(_unbuilt))
