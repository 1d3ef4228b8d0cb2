"""The rate limits, as pure conditions of transitions.

A kind of send is *due* when the interval since the hub last acknowledged one of its kind is over (before the
first one: since its clock started), and nothing of that kind is outstanding. So a slow or absent hub gets one
send and not a flood. A guard looks and consumes nothing: what is due stays due until something leaves.

Every guard can say in words why it answers no; those words are what `Session.explain` shows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

from hubstate.actions import Action, Kept, Memory, SendCheckpoint, SendRows
from hubstate.errors import UsageError
from hubstate.events import Event, ModelSave
from hubstate.states import LIVE_STATES, CheckpointKind, State

__all__ = [
    "CHECKPOINT_CHOICES",
    "LEAST_HEARTBEAT",
    "Guard",
    "Limits",
    "checkpoint_due",
    "elapsed",
    "final_choice",
    "heartbeat_due",
    "is_better",
    "is_outstanding",
    "keep_due",
    "kind_to_keep",
    "metrics_due",
    "next_due",
    "waiting_for",
]

#: What `checkpoints=` may be. Whatever is chosen but `none`, the final checkpoint is delivered at the end.
CHECKPOINT_CHOICES = ("all", "best", "last", "final", "none")

#: A hub may not ask for a sign of life more often than this (seconds).
LEAST_HEARTBEAT = 5.0


@dataclass(frozen=True)
class Limits:
    """How often each kind of message may leave, in seconds. The hub may lengthen or shorten them."""

    metrics: float = 3.0
    checkpoint: float = 900.0
    heartbeat: float = 300.0

    def __post_init__(self) -> None:
        for name in ("metrics", "checkpoint", "heartbeat"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
                raise UsageError(f"the limit {name} must be a number of seconds, 0 or more, not {value!r}")
        if self.heartbeat == 0:
            raise UsageError("the limit heartbeat must be more than 0 seconds")


class Guard(NamedTuple):
    """A named condition of a row: it answers, and it can say why not. It changes nothing."""

    name: str
    holds: Callable[[Memory, Event], bool]
    why_not: Callable[[Memory, Event], str]


def elapsed(since: float | None, at: float) -> float | None:
    """Seconds from `since` to `at`; None while the clock does not run. A time that lies ahead counts as now."""
    if since is None:
        return None
    return at - since if at > since else 0.0


def is_outstanding(memory: Memory, kind: type[Action]) -> bool:
    """Whether a delivery of this kind is under way: asked, and neither settled nor refused."""
    # It is asked for every row on the training thread.
    for action in memory.outstanding:  # noqa: SIM110 - a generator takes twice as long
        if type(action) is kind and not _is_refused(memory, action.key):
            return True
    return False


def _is_refused(memory: Memory, key: str) -> bool:
    return bool(memory.refused) and any(refused.key == key for refused in memory.refused)


def _rest(since: float | None, at: float, interval: float) -> float | None:
    """Seconds that are left of `interval`; 0 when it is over, None while the clock does not run."""
    passed = elapsed(since, at)
    return None if passed is None else max(0.0, interval - passed)


def waiting_for(since: float | None, at: float, interval: float) -> str:
    """Why an interval is not over, in words."""
    left = _rest(since, at, interval)
    if left is None:
        return "the clocks of the limits do not run yet (they start with pretrain_routine_end)"
    # Rounded up: what is not over is never told as 0 s.
    return f"not yet: {ceil(left) if left >= 1 else ceil(left * 100) / 100:g} s left of {interval:g} s"


# -- rows ------------------------------------------------------------------------------------------------


def _metrics_due(memory: Memory, event: Event) -> bool:
    # `_rest(...) == 0`, spelt out, because it is asked for every row on the training thread.
    since = memory.metrics_since
    if since is None or max(event.at - since, 0.0) < memory.metrics_interval:
        return False
    return not is_outstanding(memory, SendRows)


def _why_metrics_wait(memory: Memory, event: Event) -> str:
    if is_outstanding(memory, SendRows):
        return "a send of rows is outstanding; these go with the next one"
    return waiting_for(memory.metrics_since, event.at, memory.metrics_interval)


metrics_due = Guard("metrics_due", _metrics_due, _why_metrics_wait)


# -- checkpoints -----------------------------------------------------------------------------------------


def _checkpoint_due(memory: Memory, event: Event) -> bool:
    rest = _rest(memory.checkpoint_since, event.at, memory.checkpoint_interval)
    return rest == 0 and memory.checkpoints != "final" and not is_outstanding(memory, SendCheckpoint)


def _why_checkpoint_waits(memory: Memory, event: Event) -> str:
    if memory.checkpoints == "final":
        return "only the final checkpoint was asked for (checkpoints='final')"
    if is_outstanding(memory, SendCheckpoint):
        return "a checkpoint is outstanding; the next one leaves after it"
    return waiting_for(memory.checkpoint_since, event.at, memory.checkpoint_interval)


checkpoint_due = Guard("checkpoint_due", _checkpoint_due, _why_checkpoint_waits)


def is_better(memory: Memory, event: ModelSave) -> bool:
    """Strictly better than all before. Without a fitness nothing is best."""
    return event.fitness is not None and (memory.best_fitness is None or event.fitness > memory.best_fitness)


def kind_to_keep(memory: Memory, event: ModelSave) -> CheckpointKind | None:
    """As what a saved checkpoint would be kept, or None if it is not kept."""
    choice = memory.checkpoints
    if event.unkept or choice == "none":
        return None
    if event.kind is CheckpointKind.FINAL:
        return CheckpointKind.FINAL
    if choice != "last" and is_better(memory, event):
        return CheckpointKind.BEST
    if choice == "best":
        return None
    rest = _rest(memory.kept_at, event.at, memory.checkpoint_interval)
    return CheckpointKind.LAST if rest is None or rest == 0 else None


def final_choice(memory: Memory) -> Kept | None:
    """What is the final checkpoint if the training ends now: the one that was named, else the best, else the newest.

    What an earlier attempt named is final still, unless this one saved something behind it.
    """
    named = memory.kept_final
    if named is not None and named.attempt != memory.attempt:
        trained_on = memory.saved is not None and memory.saved.attempt == memory.attempt
        named = None if trained_on else named
    if named is not None or memory.kept_best is not None:
        return named or memory.kept_best
    rest = [kept for kept in (memory.kept_last, memory.kept_final) if kept is not None]
    return max(rest, key=lambda kept: (kept.attempt, kept.at), default=None)


def _keep_due(memory: Memory, event: Event) -> bool:
    return isinstance(event, ModelSave) and kind_to_keep(memory, event) is not None


def _why_not_kept(memory: Memory, event: Event) -> str:
    if isinstance(event, ModelSave) and event.unkept:
        return event.unkept
    if memory.checkpoints in ("none", "best"):
        return f"checkpoints={memory.checkpoints!r} keeps no such checkpoint"
    return "not strictly better, and " + waiting_for(memory.kept_at, event.at, memory.checkpoint_interval)


keep_due = Guard("keep_due", _keep_due, _why_not_kept)


# -- signs of life ---------------------------------------------------------------------------------------


def _heartbeat_due(memory: Memory, event: Event) -> bool:
    if not memory.hub_wanted or memory.heartbeat_out:
        return False
    rest = _rest(memory.heartbeat_since, event.at, memory.heartbeat_interval)
    return rest is None or rest == 0


def _why_no_heartbeat(memory: Memory, event: Event) -> str:
    if not memory.hub_wanted:
        return "no hub is set"
    if memory.heartbeat_out:
        return "a heartbeat is outstanding"
    return waiting_for(memory.heartbeat_since, event.at, memory.heartbeat_interval)


heartbeat_due = Guard("heartbeat_due", _heartbeat_due, _why_no_heartbeat)


# -- looking ahead ---------------------------------------------------------------------------------------


def next_due(memory: Memory, at: float, *, heartbeats: bool = True) -> float | None:
    """Seconds until time alone could make something due; None if only an answer or a trainer can.

    For whoever sends ticks: it need not ask before that.
    """
    moments = []
    if memory.state is State.TRAINING:
        if memory.rows > memory.rows_asked and not is_outstanding(memory, SendRows):
            moments.append(_rest(memory.metrics_since, at, memory.metrics_interval))
        waits = any(kept is not None and not kept.asked for kept in (memory.kept_last, memory.kept_best))
        if waits and memory.checkpoints != "final" and not is_outstanding(memory, SendCheckpoint):
            moments.append(_rest(memory.checkpoint_since, at, memory.checkpoint_interval))
    if heartbeats and memory.state in LIVE_STATES and memory.hub_wanted and not memory.heartbeat_out:
        moments.append(_rest(memory.heartbeat_since, at, memory.heartbeat_interval) or 0.0)
    return min((moment for moment in moments if moment is not None), default=None)
