"""What a step says and what it leaves in the memory, word by word and field by field, by hand.

The monitor judges when something is asked for and in which order. Here it is judged what is said then, whether the step
is written down, and what is remembered behind it. All three follow from the memory before it, the event, and what is
asked: nothing of the session's past has to be known, so a search judges each step once, whatever led to it.

It stands beside `controller` and `adopt` a second time, as the monitor stands beside the table: a field that the real
code forgets is forgotten by the journal's recovery as well, which adopts by the same function and so cannot tell.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msgspec.structs import replace

from hubstate.actions import (
    Action,
    AnyAction,
    CloseSession,
    Condition,
    Decision,
    EndSession,
    Heartbeat,
    KeepCheckpoint,
    Kept,
    Memory,
    OpenSession,
    RecordUsage,
    Refused,
    SendCheckpoint,
    SendRows,
)
from hubstate.events import (
    HUB_EVENTS,
    TRAINER_EVENTS,
    USAGE_EVENTS,
    Abort,
    Answered,
    Delivered,
    Event,
    FitEpochEnd,
    GiveUp,
    HeartbeatTick,
    HeldUp,
    ModelSave,
    PretrainRoutineEnd,
    PretrainRoutineStart,
    RetryRefused,
    Saved,
    StopRequested,
    Tick,
    TrainBatchEnd,
    TrainEnd,
    name_of,
)
from hubstate.events import Refused as RefusedEvent
from hubstate.proof.properties import Violation, legal_in
from hubstate.states import CheckpointKind, Outcome, State

__all__ = ["misremembered", "missaid"]

_ROWS = (FitEpochEnd, TrainBatchEnd)
_ANSWERS = (Delivered, RefusedEvent, HeldUp)
#: What an answer of the hub disproves.
_TROUBLES = {"offline", "hub_failing", "rate_limited_until", "credentials_rejected"}
_CLOCKS = ("metrics_since", "checkpoint_since", "heartbeat_since", "kept_at")
#: The order in which one step asks, and each at most once.
_ORDER: tuple[type[Action], ...] = (
    OpenSession,
    KeepCheckpoint,
    SendRows,
    SendCheckpoint,
    CloseSession,
    EndSession,
    Heartbeat,
    RecordUsage,
)
_COPIES = ("kept_last", "kept_best", "kept_final")


# -- what is said ----------------------------------------------------------------------------------------


def missaid(before: Memory, decision: Decision) -> Iterator[Violation]:
    """Each action that says otherwise than the memory and the event do, and a step that is wrongly written or not."""
    event = decision.event
    illegal = decision.refusal is not None and decision.refusal.illegal
    written = illegal or _is_written(before, event, decision.actions)
    if decision.journalled is not written:
        yield Violation(
            "S1", f"{name_of(event)} {'is not' if written else 'is'} written down in {before.state.value}"
        )
    yield from _refusal(before, decision)
    held = decision.refusal is not None
    if not illegal and held is not _is_held(before, event, decision.actions):
        yield Violation(
            "S4", f"{name_of(event)} in {before.state.value} {'is' if held else 'is not'} held back"
        )
    if isinstance(event, RetryRefused):
        refused = {known.key for known in before.refused}
        again = tuple(action for action in before.outstanding if action.key in refused)
        if decision.actions != again and not illegal:
            told, wanted = (", ".join(action.key for action in those) for those in (decision.actions, again))
            yield Violation("S4", f"retried are {told or 'none'}, not {wanted or 'none'} as they were")
        return
    if isinstance(event, USAGE_EVENTS):
        notes = [type(action) for action in decision.actions]
        if notes != [RecordUsage] * before.usage:
            asked = ", ".join(kind.__name__ for kind in notes) or "nothing"
            yield Violation(
                "S4", f"{name_of(event)} asks for {asked}, and usage is {'on' if before.usage else 'off'}"
            )
    if isinstance(event, HUB_EVENTS) and decision.actions:
        asked = ", ".join(action.key for action in decision.actions)
        yield Violation("S4", f"{name_of(event)} asks for {asked}")
    if isinstance(event, Abort):
        yield from _older(before, decision.actions)
    places = [_ORDER.index(type(action)) for action in decision.actions if type(action) in _ORDER]
    if places != sorted(set(places)):
        asked = ", ".join(action.key for action in decision.actions)
        yield Violation("S4", f"{name_of(event)} asks twice, or in another order: {asked}")
    for action in decision.actions:
        wrong = [
            f"{field} {getattr(action, field)!r}, not {value!r}"
            for field, value in _words(before, event, action).items()
            if getattr(action, field) != value
        ]
        if wrong:
            yield Violation(
                "S5" if isinstance(action, Heartbeat) else "S1", f"{action.key} says {', '.join(wrong)}"
            )


def _refusal(before: Memory, decision: Decision) -> Iterator[Violation]:
    """A refusal names the state and the event, and an illegal one what would be legal."""
    refusal, name, state = decision.refusal, name_of(decision.event), before.state
    if refusal is None:
        return
    if (refusal.state, refusal.event) != (state, name):
        yield Violation(
            "S4", f"{name} in {state.value} is refused as {refusal.event} in {refusal.state.value}"
        )
    legal = legal_in(state) if refusal.illegal else ()
    if refusal.legal != legal:
        told, wanted = (", ".join(names) or "nothing" for names in (refusal.legal, legal))
        yield Violation("S4", f"{name} in {state.value} hears that legal is {told}, not {wanted}")


def _is_written(before: Memory, event: Event, actions: tuple[AnyAction, ...]) -> bool:
    match event:
        case HeartbeatTick():
            return False
        case Tick():
            return bool(actions)
        case RetryRefused():
            return bool(before.refused)
        case GiveUp():
            return before.state is State.FINALIZING or bool(before.outstanding)
    if isinstance(event, USAGE_EVENTS):
        return before.usage
    if isinstance(event, TRAINER_EVENTS):
        return before.state is not State.IDLE or bool(actions)
    return not _is_beat(event)


def _is_held(before: Memory, event: Event, actions: tuple[AnyAction, ...]) -> bool:
    """Whether there is nothing to be done, and that is what is answered."""
    if isinstance(event, (Tick, HeartbeatTick, ModelSave, *USAGE_EVENTS)):
        return not actions
    if isinstance(event, TRAINER_EVENTS):
        return before.state is State.IDLE and not actions
    return isinstance(event, RetryRefused | GiveUp) and not _is_written(before, event, actions)


def _is_beat(event: Event) -> bool:
    return isinstance(event, _ANSWERS) and event.key.endswith("/heartbeat")


def _words(before: Memory, event: Event, action: Action) -> dict[str, Any]:
    """The words of an action that the monitor does not judge, and its key, which names it for ever."""
    key = f"{before.session}/{before.attempt}"
    match action:
        # Asked for by another event it is out of its place, which the monitor judges.
        case OpenSession() if isinstance(event, PretrainRoutineStart):
            session = before.session or event.session
            told = ("epochs", "project", "group", "tags", "config", "first_epoch", "mark")
            return {name: getattr(event, name) for name in told} | {
                "key": f"{session}/{before.attempt + 1}/open",
                "session": session,
                "name": event.name or before.name,
            }
        case SendRows():
            # All that wait, the one that is told just now included.
            last = before.rows + isinstance(event, _ROWS)
            first = before.rows_asked + 1
            return {"key": f"{key}/rows/{first}-{last}", "first": first, "last": last}
        case KeepCheckpoint():
            size = event.size if isinstance(event, ModelSave) else 0
            return {"key": f"{key}/keep/{before.saves + 1}", "size": size}
        case SendCheckpoint():
            return {"key": f"{key}/checkpoint/{action.kind.value}/{action.snapshot}"} | _file(
                before, event, action.snapshot
            )
        case CloseSession():
            outcome = event.outcome if isinstance(event, TrainEnd) else before.outcome
            return {"key": f"{key}/close", "outcome": outcome, "rows": before.rows}
        case EndSession():
            return {
                "key": f"{key}/end",
                "reason": event.reason if isinstance(event, Abort | GiveUp) else "",
                "outcome": event.outcome if isinstance(event, Abort) else before.outcome,
                "rows": before.rows,
            }
        case Heartbeat():
            return {
                "key": f"{key}/heartbeat",
                "attempt": before.attempt,
                "state": before.state,
                "outcome": before.outcome,
                "epoch": before.epoch,
                "waiting": before.rows - before.rows_delivered - before.rows_not_taken,
            }
        case RecordUsage():
            return {"key": f"{key}/usage/{name_of(event)}/{event.at:.3f}", "what": name_of(event)}
        case _:
            return {}


def _older(before: Memory, actions: tuple[AnyAction, ...]) -> Iterator[Violation]:
    """An abort sends the newest copy; of two that were kept at one moment it is the `last`."""
    kept = [k for name in _COPIES if (k := getattr(before, name)) is not None]
    sent = {action.snapshot for action in actions if isinstance(action, SendCheckpoint)}
    if kept and sent:
        newest = max(kept, key=lambda k: (k.attempt, k.at, k.kind is CheckpointKind.LAST))
        if sent != {newest.snapshot}:
            yield Violation(
                "S1", f"an abort sends {', '.join(sorted(sent))}, and {newest.snapshot} is the newest"
            )


def _file(before: Memory, event: Event, snapshot: str) -> dict[str, Any]:
    """What is known of the copy of that name: the one that the event tells, or one that is kept."""
    if isinstance(event, ModelSave) and event.snapshot == snapshot:
        return {"epoch": event.epoch, "size": event.size, "fitness": event.fitness}
    if isinstance(event, TrainEnd) and event.final is not None and event.final.snapshot == snapshot:
        return {"epoch": event.final.epoch, "size": event.final.size, "fitness": None}
    kept = next((k for name in _COPIES if (k := getattr(before, name)) and k.snapshot == snapshot), None)
    return {} if kept is None else {"epoch": kept.epoch, "size": kept.size, "fitness": kept.fitness}


# -- what is remembered ----------------------------------------------------------------------------------


def misremembered(before: Memory, decision: Decision) -> Iterator[Violation]:
    """The fields that a step leaves otherwise than it has to. The state is taken as decided: the monitor judges it."""
    after = decision.memory
    expected = _behind(before, decision)
    if after == expected:
        return
    for name in Memory.__struct_fields__:
        left, wanted = getattr(after, name), getattr(expected, name)
        if left != wanted:
            yield Violation(
                "S1",
                f"{name_of(decision.event)} in {before.state.value} leaves {name} {left!r:.120}, not {wanted!r:.120}",
            )


def _behind(before: Memory, decision: Decision) -> Memory:
    event, actions, refusal = decision.event, decision.actions, decision.refusal
    if refusal is not None and (refusal.illegal or not _is_written(before, event, actions)):
        return before
    changes: dict[str, Any] = {"state": decision.memory.state}
    if isinstance(event, TRAINER_EVENTS):
        changes |= _told_by_trainer(before, event, actions)
    elif isinstance(event, _ANSWERS):
        changes |= _answer(before, event)
    else:
        changes |= _told_by_others(before, event, actions)
    changes |= _asked(before, actions, changes)
    # A time that lies ahead counts as now, and stays so; a sign of life moves no clock but its own.
    beat = isinstance(event, HeartbeatTick) or _is_beat(event)
    for clock in ("heartbeat_since",) if beat else _CLOCKS:
        since = getattr(before, clock)
        if clock not in changes and since is not None and since > event.at:
            changes[clock] = event.at
    return replace(before, **changes)


def _asked(before: Memory, actions: tuple[AnyAction, ...], changes: dict[str, Any]) -> dict[str, Any]:
    """What is asked of a hub is outstanding, behind what is so already; a copy that was asked for is marked."""
    out: tuple[AnyAction, ...] = changes.get("outstanding", before.outstanding)
    asked: dict[str, Any] = {}
    for action in actions:
        if isinstance(action, Heartbeat):
            asked["heartbeat_out"] = True
        elif not isinstance(action, KeepCheckpoint | RecordUsage) and action.key not in {a.key for a in out}:
            out = (*out, action)
        if isinstance(action, SendRows):
            asked["rows_asked"] = max(before.rows_asked, action.last)
        if isinstance(action, SendCheckpoint):
            name = f"kept_{action.kind.value}"
            kept = changes.get(name, getattr(before, name))
            if kept is not None and kept.snapshot == action.snapshot:
                asked[name] = replace(kept, asked=True)
    return (
        asked if out is before.outstanding and "outstanding" not in changes else asked | {"outstanding": out}
    )


def _told_by_trainer(before: Memory, event: Event, actions: tuple[AnyAction, ...]) -> dict[str, Any]:
    at, training = event.at, before.state is State.TRAINING
    match event:
        case PretrainRoutineStart() if before.state is State.IDLE and actions:
            return _attempt(before, event)
        case PretrainRoutineEnd() if before.state is State.SESSION_CREATED:
            clocks = ("metrics_since", "checkpoint_since")
            return {clock: at for clock in clocks if getattr(before, clock) is None}
        case FitEpochEnd(final=False) if training:
            furthest = event.epoch if before.epoch is None else max(before.epoch, event.epoch)
            return {"rows": before.rows + 1, "epoch": furthest}
        case FitEpochEnd() | TrainBatchEnd() if training:
            return {"rows": before.rows + 1}
        case ModelSave() if training:
            return _save(before, event, actions)
        case TrainEnd() if training:
            ended: dict[str, Any] = {"outcome": event.outcome, "ended_at": at}
            if event.final is not None and event.final.snapshot:
                ended["kept_final"] = Kept(
                    kind=CheckpointKind.FINAL,
                    epoch=event.final.epoch,
                    attempt=before.attempt,
                    snapshot=event.final.snapshot,
                    size=event.final.size,
                    at=at,
                )
            return ended
        case Abort() if before.state is not State.IDLE:
            return {"outcome": event.outcome, "reason": event.reason, "ended_at": at}
        case _:
            return {}


def _attempt(before: Memory, event: PretrainRoutineStart) -> dict[str, Any]:
    """An attempt begins with what is told of it; what the session holds, its clocks of sends included, stays."""
    told = ("first_epoch", "epochs", "metrics_interval", "checkpoint_interval", "heartbeat_interval")
    return {name: getattr(event, name) for name in (*told, "usage", "checkpoints")} | {
        "outcome": Outcome.RUNNING,
        "reason": "",
        "session": before.session or event.session,
        "name": event.name or before.name,
        "attempt": before.attempt + 1,
        "opened_at": event.at,
        "ended_at": None,
        "hub_wanted": event.hub,
        "stop": None,
        "given_up": None,
        "heartbeat_since": None,
        "heartbeat_out": False,
        "epoch": event.first_epoch - 1 if event.first_epoch else None,
        "kept_at": None,
    }


def _save(before: Memory, event: ModelSave, actions: tuple[AnyAction, ...]) -> dict[str, Any]:
    keep = next((action for action in actions if isinstance(action, KeepCheckpoint)), None)
    snapshot = "" if keep is None else event.snapshot
    changes: dict[str, Any] = {
        "saves": before.saves + 1,
        "saved": Saved(event.path, event.epoch, event.size, event.mtime_ns, before.attempt, snapshot),
    }
    known = before.best_fitness
    if not event.unkept and event.fitness is not None and (known is None or event.fitness > known):
        changes["best_fitness"] = event.fitness
    if keep is not None:
        # What an earlier attempt named as final is what this one went on from, until it keeps one of its own.
        if before.kept_final is not None and before.kept_final.attempt < before.attempt:
            changes["kept_final"] = None
        changes["kept_at"] = event.at
        changes[f"kept_{keep.kind.value}"] = Kept(
            kind=keep.kind,
            epoch=event.epoch,
            attempt=before.attempt,
            snapshot=event.snapshot,
            size=event.size,
            at=event.at,
            fitness=event.fitness,
        )
    return changes


def _answer(before: Memory, event: Event) -> dict[str, Any]:
    assert isinstance(event, Delivered | RefusedEvent | HeldUp), "an answer"
    if _is_beat(event):
        return {"heartbeat_out": False, "heartbeat_since": event.at}
    changes: dict[str, Any] = {}
    names = {condition.name for condition in before.conditions}
    if isinstance(event, HeldUp):
        name = "rate_limited_until" if event.condition == "rate_limited" else event.condition
        one = {"offline", "hub_failing"} if name in ("offline", "hub_failing") else {name}
        since = next((c.since for c in before.conditions if c.name == name), event.at)
        rest = tuple(c for c in before.conditions if c.name not in one | {"online"})
        return {"conditions": (*rest, Condition(name, since, event.reason, event.until))}
    if isinstance(event, Delivered) and (not names or names & _TROUBLES):
        rest = tuple(c for c in before.conditions if c.name not in _TROUBLES | {"online"})
        changes["conditions"] = (*rest, Condition("online", event.at, "the hub answers"))
    action = next((action for action in before.outstanding if action.key == event.key), None)
    if action is None:
        return changes
    if isinstance(action, SendRows):
        changes["metrics_since"] = event.at
    if isinstance(action, SendCheckpoint):
        changes["checkpoint_since"] = event.at
    others = tuple(refused for refused in before.refused if refused.key != event.key)
    if isinstance(event, RefusedEvent):
        refused = Refused(event.key, event.reason, event.at, event.status)
        return changes | {"refused": (*others, refused)}
    changes["refused"] = others
    changes["outstanding"] = tuple(other for other in before.outstanding if other is not action)
    if event.not_taken:
        changes["not_taken"] = tuple(dict.fromkeys((*before.not_taken, event.not_taken)))
    if isinstance(action, SendRows):
        rows = action.last - action.first + 1
        taken = min(event.rows, rows) if event.not_taken else rows
        changes["rows_delivered"] = before.rows_delivered + taken
        changes["rows_not_taken"] = before.rows_not_taken + rows - taken
    if isinstance(action, SendCheckpoint) and not event.not_taken:
        changes["files_delivered"] = before.files_delivered + 1
        if action.kind is CheckpointKind.FINAL:
            changes["final_sha256"] = event.sha256
    return changes


def _told_by_others(before: Memory, event: Event, actions: tuple[AnyAction, ...]) -> dict[str, Any]:
    match event:
        case GiveUp():
            rows = sum(a.last - a.first + 1 for a in before.outstanding if isinstance(a, SendRows))
            ends = any(isinstance(action, EndSession) for action in actions)
            return {
                "given_up": event.reason,
                "rows_given_up": before.rows_given_up + rows,
                "outstanding": (),
                "refused": (),
                "reason": event.reason if ends else before.reason,
            }
        case RetryRefused():
            return {"refused": ()}
        case StopRequested():
            return {"stop": before.stop if before.stop is not None else event.reason}
        case Answered():
            # The session belongs to the hub that answered first; a sign of life is never wanted more often than this.
            told = {
                "hub": event.hub if before.hub is None else None,
                "model": event.model,
                "url": event.url,
                "metrics_interval": _at_least(0.0, event.metrics_interval),
                "checkpoint_interval": _at_least(0.0, event.checkpoint_interval),
                "heartbeat_interval": _at_least(5.0, event.heartbeat_interval),
            }
            return {name: value for name, value in told.items() if value is not None}
        case _:
            return {}


def _at_least(least: float, told: float | None) -> float | None:
    return None if told is None else max(least, told)
