"""What a decided step leaves in the memory: `adopt(memory, event, state, actions)`.

Pure, and it decides nothing: the next state and the actions are given. Live sessions adopt what was just decided,
and recovery adopts what the journal recorded, by the same function; so a recovered memory is the one that was.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from hubstate.actions import (
    AnyAction,
    Condition,
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
    TrainBatchEnd,
    TrainEnd,
)
from hubstate.events import Refused as RefusedEvent
from hubstate.limits import LEAST_HEARTBEAT, is_better
from hubstate.states import CheckpointKind, Outcome, State

__all__ = ["adopt"]

#: The name under which each kind of trouble stands among the conditions.
_CONDITIONS = {"rate_limited": "rate_limited_until"}
#: What one answer from the hub disproves.
_TROUBLES = frozenset({"offline", "hub_failing", "rate_limited_until", "credentials_rejected"})


def adopt(memory: Memory, event: Event, state: State, actions: tuple[AnyAction, ...]) -> Memory:
    """The memory after a step: `event` led to `state` and asked for `actions`."""
    change = _CHANGES.get(type(event))
    changes = change(memory, event, actions) if change is not None else {}
    if actions:
        _asked(memory, actions, changes)
    if state is not memory.state:
        changes["state"] = state
    if _is_ahead(memory, event.at):
        _pull_back_clocks(memory, event, changes)
    return replace(memory, **changes) if changes else memory


def _is_ahead(memory: Memory, at: float) -> bool:
    """Whether a remembered time lies ahead. Spelt out, because it is asked for every row on the training thread."""
    return (
        (memory.metrics_since or 0.0) > at
        or (memory.checkpoint_since or 0.0) > at
        or (memory.heartbeat_since or 0.0) > at
        or (memory.kept_at or 0.0) > at
    )


def _pull_back_clocks(memory: Memory, event: Event, changes: dict[str, Any]) -> None:
    """A remembered time that lies ahead counts as now, and stays so: a clock set back delays nothing for ever.

    A heartbeat is written nowhere, so it moves no clock but its own: a recovered memory must be the one that was.
    """
    beat = isinstance(event, HeartbeatTick) or _is_heartbeat(getattr(event, "key", ""))
    clocks = (
        ("heartbeat_since",) if beat else ("metrics_since", "checkpoint_since", "heartbeat_since", "kept_at")
    )
    for name in clocks:
        since = getattr(memory, name)
        if since is not None and since > event.at and name not in changes:
            changes[name] = event.at


def _asked(memory: Memory, actions: tuple[AnyAction, ...], changes: dict[str, Any]) -> None:
    """Remembers what was asked for: it is outstanding until the hub settles it."""
    outstanding = changes.get("outstanding", memory.outstanding)
    known = {action.key for action in outstanding}
    for action in actions:
        match action:
            case Heartbeat():
                changes["heartbeat_out"] = True
                continue
            case KeepCheckpoint() | RecordUsage():
                continue
            case SendRows():
                changes["rows_asked"] = max(memory.rows_asked, action.last)
            case SendCheckpoint():
                _mark_asked(memory, action, changes)
        if action.key not in known:
            outstanding = (*outstanding, action)
    changes["outstanding"] = outstanding


def _mark_asked(memory: Memory, action: SendCheckpoint, changes: dict[str, Any]) -> None:
    for name in ("kept_last", "kept_best", "kept_final"):
        kept = changes.get(name, getattr(memory, name))
        if kept is not None and kept.snapshot == action.snapshot and kept.kind is action.kind:
            changes[name] = replace(kept, asked=True)


# -- what a trainer says ---------------------------------------------------------------------------------


def _pretrain_routine_start(
    _memory: Memory, event: PretrainRoutineStart, actions: tuple[AnyAction, ...]
) -> dict[str, Any]:
    opening = next((action for action in actions if isinstance(action, OpenSession)), None)
    if opening is None:
        return {}
    return {
        "outcome": Outcome.RUNNING,
        "reason": "",
        "session": opening.session,
        "name": opening.name,
        "attempt": opening.attempt,
        "first_epoch": opening.first_epoch,
        "epochs": opening.epochs,
        "opened_at": event.at,
        "ended_at": None,
        "hub_wanted": event.hub,
        "stop": None,
        "given_up": None,
        "metrics_interval": event.metrics_interval,
        "checkpoint_interval": event.checkpoint_interval,
        "heartbeat_interval": event.heartbeat_interval,
        "heartbeat_since": None,
        "heartbeat_out": False,
        "usage": event.usage,
        "epoch": opening.first_epoch - 1 if opening.first_epoch else None,
        "checkpoints": event.checkpoints,
        "kept_at": None,
    }


def _pretrain_routine_end(
    memory: Memory, event: PretrainRoutineEnd, _actions: tuple[AnyAction, ...]
) -> dict[str, Any]:
    since: dict[str, Any] = {}
    if memory.state is State.IDLE:
        return since
    if memory.metrics_since is None:
        since["metrics_since"] = event.at
    if memory.checkpoint_since is None:
        since["checkpoint_since"] = event.at
    return since


def _row(
    memory: Memory, event: FitEpochEnd | TrainBatchEnd, _actions: tuple[AnyAction, ...]
) -> dict[str, Any]:
    if memory.state is not State.TRAINING:
        return {}
    changes: dict[str, Any] = {"rows": memory.rows + 1}
    # The extra evaluation is a row, and never a finished epoch; and no row of an earlier epoch, told once more, undoes one.
    if (
        type(event) is FitEpochEnd
        and not event.final
        and (memory.epoch is None or event.epoch > memory.epoch)
    ):
        changes["epoch"] = event.epoch
    return changes


def _model_save(memory: Memory, event: ModelSave, actions: tuple[AnyAction, ...]) -> dict[str, Any]:
    if memory.state is not State.TRAINING:
        return {}
    kept = next((action for action in actions if isinstance(action, KeepCheckpoint)), None)
    changes: dict[str, Any] = {
        "saves": memory.saves + 1,
        "saved": Saved(
            event.path,
            event.epoch,
            event.size,
            event.mtime_ns,
            memory.attempt,
            kept.snapshot if kept is not None else "",
        ),
    }
    if is_better(memory, event) and not event.unkept:
        changes["best_fitness"] = event.fitness
    if kept is not None:
        changes["kept_at"] = event.at
        # What an earlier attempt named as final is what this one went on from; now it has a checkpoint of its own.
        if memory.kept_final is not None and memory.kept_final.attempt != memory.attempt:
            changes["kept_final"] = None
        changes[f"kept_{kept.kind.value}"] = Kept(
            kept.kind, kept.epoch, memory.attempt, kept.snapshot, kept.size, event.at, event.fitness
        )
    return changes


def _train_end(memory: Memory, event: TrainEnd, _actions: tuple[AnyAction, ...]) -> dict[str, Any]:
    if memory.state is not State.TRAINING:
        return {}
    changes: dict[str, Any] = {"outcome": event.outcome, "ended_at": event.at}
    if event.final is not None and event.final.snapshot:
        final = event.final
        changes["kept_final"] = Kept(
            CheckpointKind.FINAL, final.epoch, memory.attempt, final.snapshot, final.size, event.at
        )
    return changes


def _abort(memory: Memory, event: Abort, _actions: tuple[AnyAction, ...]) -> dict[str, Any]:
    if memory.state is State.IDLE:
        return {}
    return {"outcome": event.outcome, "reason": event.reason, "ended_at": event.at}


# -- what a caller wishes --------------------------------------------------------------------------------


def _give_up(memory: Memory, event: GiveUp, actions: tuple[AnyAction, ...]) -> dict[str, Any]:
    rows = sum(
        action.last - action.first + 1 for action in memory.outstanding if isinstance(action, SendRows)
    )
    changes: dict[str, Any] = {
        "given_up": event.reason,
        "rows_given_up": memory.rows_given_up + rows,
        "outstanding": (),
        "refused": (),
    }
    if any(isinstance(action, EndSession) for action in actions):
        changes["reason"] = event.reason
    return changes


def _retry_refused(_memory: Memory, _event: RetryRefused, actions: tuple[AnyAction, ...]) -> dict[str, Any]:
    return {"refused": ()} if actions else {}


# -- what a clock says, and what a hub answers -----------------------------------------------------------


def _delivered(memory: Memory, event: Delivered, _actions: tuple[AnyAction, ...]) -> dict[str, Any]:
    if _is_heartbeat(event.key):
        return {"heartbeat_out": False, "heartbeat_since": event.at}
    changes: dict[str, Any] = {}
    trouble = [condition for condition in memory.conditions if condition.name in _TROUBLES]
    if trouble or not memory.conditions:
        rest = tuple(c for c in memory.conditions if c.name not in _TROUBLES and c.name != "online")
        changes["conditions"] = (*rest, Condition("online", event.at, "the hub answers"))
    action = _find(memory, event.key)
    if action is None:
        return changes
    changes["outstanding"] = tuple(a for a in memory.outstanding if a.key != event.key)
    changes["refused"] = tuple(r for r in memory.refused if r.key != event.key)
    if event.not_taken and event.not_taken not in memory.not_taken:
        changes["not_taken"] = (*memory.not_taken, event.not_taken)
    match action:
        case SendRows():
            asked = action.last - action.first + 1
            taken = min(event.rows, asked) if event.not_taken else asked
            changes["rows_delivered"] = memory.rows_delivered + taken
            changes["rows_not_taken"] = memory.rows_not_taken + asked - taken
            changes["metrics_since"] = event.at
        case SendCheckpoint():
            changes["checkpoint_since"] = event.at
            if not event.not_taken:
                changes["files_delivered"] = memory.files_delivered + 1
                if action.kind is CheckpointKind.FINAL:
                    changes["final_sha256"] = event.sha256
    return changes


def _refused(memory: Memory, event: RefusedEvent, _actions: tuple[AnyAction, ...]) -> dict[str, Any]:
    if _is_heartbeat(event.key):
        return {"heartbeat_out": False, "heartbeat_since": event.at}
    action = _find(memory, event.key)
    if action is None:
        return {}
    others = tuple(refused for refused in memory.refused if refused.key != event.key)
    changes: dict[str, Any] = {"refused": (*others, Refused(event.key, event.reason, event.at, event.status))}
    # A refusal is an answer too: without this the next send would follow at once, and the next.
    if isinstance(action, SendRows):
        changes["metrics_since"] = event.at
    elif isinstance(action, SendCheckpoint):
        changes["checkpoint_since"] = event.at
    return changes


def _held_up(memory: Memory, event: HeldUp, _actions: tuple[AnyAction, ...]) -> dict[str, Any]:
    if _is_heartbeat(event.key):
        return {"heartbeat_out": False, "heartbeat_since": event.at}
    name = _CONDITIONS.get(event.condition, event.condition)
    gone = {name, "online"}
    if name in ("offline", "hub_failing"):
        gone |= {"offline", "hub_failing"}
    since = next((c.since for c in memory.conditions if c.name == name), event.at)
    rest = tuple(condition for condition in memory.conditions if condition.name not in gone)
    return {"conditions": (*rest, Condition(name, since, event.reason, event.until))}


def _answered(memory: Memory, event: Answered, _actions: tuple[AnyAction, ...]) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    # A session belongs to the first hub that acknowledged it.
    if memory.hub is None and event.hub is not None:
        changes["hub"] = event.hub
    if event.model is not None:
        changes["model"] = event.model
    if event.url is not None:
        changes["url"] = event.url
    if event.metrics_interval is not None:
        changes["metrics_interval"] = max(0.0, event.metrics_interval)
    if event.checkpoint_interval is not None:
        changes["checkpoint_interval"] = max(0.0, event.checkpoint_interval)
    if event.heartbeat_interval is not None:
        changes["heartbeat_interval"] = max(LEAST_HEARTBEAT, event.heartbeat_interval)
    return changes


def _stop_requested(memory: Memory, event: StopRequested, _actions: tuple[AnyAction, ...]) -> dict[str, Any]:
    return {} if memory.stop is not None else {"stop": event.reason}


def _is_heartbeat(key: str) -> bool:
    return key.endswith("/heartbeat")


def _find(memory: Memory, key: str) -> AnyAction | None:
    return next((action for action in memory.outstanding if action.key == key), None)


_CHANGES: dict[type[Event], Callable[[Memory, Any, tuple[AnyAction, ...]], dict[str, Any]]] = {
    PretrainRoutineStart: _pretrain_routine_start,
    PretrainRoutineEnd: _pretrain_routine_end,
    FitEpochEnd: _row,
    TrainBatchEnd: _row,
    ModelSave: _model_save,
    TrainEnd: _train_end,
    Abort: _abort,
    GiveUp: _give_up,
    RetryRefused: _retry_refused,
    Delivered: _delivered,
    RefusedEvent: _refused,
    HeldUp: _held_up,
    Answered: _answered,
    StopRequested: _stop_requested,
}
