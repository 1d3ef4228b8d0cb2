"""What a trainer, a caller, a clock or a hub can say: frozen values that refuse nonsense.

Each event carries its time `at`, in seconds since 1970 (wall time when the session started plus monotonic
time since), because decisions never read a clock. The tags are the trainer's own callback names without
`on_`; they are also the names in the journal, in the diagrams and in `Session.explain`.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite, isnan
from typing import Any

import msgspec
from msgspec.structs import force_setattr

from hubstate.errors import UsageError
from hubstate.states import CheckpointKind, Outcome

__all__ = [
    "CALLER_EVENTS",
    "CLOCK_EVENTS",
    "EVENTS",
    "HUB_EVENTS",
    "TRAINER_EVENTS",
    "USAGE_EVENTS",
    "Abort",
    "Answered",
    "Delivered",
    "Event",
    "ExportStart",
    "FitEpochEnd",
    "GiveUp",
    "HeartbeatTick",
    "HeldUp",
    "ModelSave",
    "PredictStart",
    "PretrainRoutineEnd",
    "PretrainRoutineStart",
    "Refused",
    "RetryRefused",
    "Saved",
    "StopRequested",
    "Tick",
    "TrainBatchEnd",
    "TrainEnd",
    "TrainStart",
    "ValStart",
    "exact",
    "name_of",
]


class Event(msgspec.Struct, frozen=True, tag_field="event", omit_defaults=True):
    """Something that was said to a session. `at`: seconds since 1970."""

    at: float


# -- what a trainer says ---------------------------------------------------------------------------------


class PretrainRoutineStart(Event, frozen=True, tag="pretrain_routine_start", kw_only=True):
    """Training is about to be prepared: the moment to open a session.

    `wanted`: a hub or a journal is wanted (the mode is not off). `main`: this is the main process (rank -1 or
    0). `already_open`: the caller has a session open for this trainer. `first_epoch` (0-based) is the caller's
    count, because only it can look whether a checkpoint is still whole. Intervals in seconds. `address`: the hub that
    is wanted, for whoever delivers what a dead process left before any hub acknowledged it; no decision asks for it.
    `mark` tells this opening from one that another process began of the same attempt.
    """

    session: str = ""
    name: str = ""
    wanted: bool = True
    main: bool = True
    already_open: bool = False
    first_epoch: int = 0
    epochs: int | None = None
    project: str | None = None
    group: str | None = None
    tags: tuple[str, ...] = ()
    config: dict[str, Any] = {}
    hub: bool = True
    address: str | None = None
    mark: str = ""
    metrics_interval: float = 3.0
    checkpoint_interval: float = 900.0
    heartbeat_interval: float = 300.0
    checkpoints: str = "all"
    usage: bool = False

    def __post_init__(self) -> None:
        _count("first_epoch", self.first_epoch)
        if self.epochs is not None:
            _count("epochs", self.epochs)
        given = (name for name in ("project", "group", "address") if getattr(self, name) is not None)
        _texts(self, "name", *given)


class PretrainRoutineEnd(Event, frozen=True, tag="pretrain_routine_end"):
    """The pretrain routine is over: the clocks of the rate limits start."""


class TrainStart(Event, frozen=True, tag="train_start"):
    """The first epoch begins."""


class FitEpochEnd(Event, frozen=True, tag="fit_epoch_end"):
    """A row: what one epoch measured. `final`: the extra evaluation after the last epoch."""

    epoch: int
    metrics: dict[str, float | int | None]
    nonfinite: dict[str, str] = {}
    final: bool = False

    def __post_init__(self) -> None:
        _count("epoch", self.epoch)


class TrainBatchEnd(Event, frozen=True, tag="train_batch_end"):
    """A row: what one step measured. A batch end without metrics is no event."""

    epoch: int
    step: int
    metrics: dict[str, float | int | None]
    nonfinite: dict[str, str] = {}

    def __post_init__(self) -> None:
        _count("epoch", self.epoch)
        _count("step", self.step)


class Saved(msgspec.Struct, frozen=True, omit_defaults=True):
    """A checkpoint as the trainer saved it: path, bytes, time of change in ns, and the snapshot's name here."""

    path: str
    epoch: int
    size: int
    mtime_ns: int
    attempt: int = 0
    snapshot: str = ""


class ModelSave(Event, frozen=True, tag="model_save", kw_only=True):
    """The trainer wrote a checkpoint.

    `snapshot` names the copy that is taken inside the callback if the checkpoint is kept. `unkept` tells why no
    copy could be had (a torn file, a full disk): such a save is journalled and never kept.
    """

    epoch: int
    path: str
    size: int
    mtime_ns: int
    kind: CheckpointKind = CheckpointKind.LAST
    fitness: float | None = None
    snapshot: str = ""
    unkept: str = ""

    def __post_init__(self) -> None:
        _count("epoch", self.epoch)
        _texts(self, "path", "unkept")
        if self.fitness is not None and isnan(self.fitness):
            raise UsageError("fitness is NaN: give None where there is no fitness")


class TrainEnd(Event, frozen=True, tag="train_end", kw_only=True):
    """Training came to its end, planned (`finished`) or early (`stopped`). `final`: the file it names, if any."""

    outcome: Outcome = Outcome.FINISHED
    final: Saved | None = None

    def __post_init__(self) -> None:
        if self.outcome not in (Outcome.FINISHED, Outcome.STOPPED):
            raise UsageError(
                f"train_end takes finished or stopped, not {self.outcome.value}; say abort instead"
            )


class Abort(Event, frozen=True, tag="abort", kw_only=True):
    """Training ended by an error, an interrupt or the caller's wish."""

    outcome: Outcome
    reason: str

    def __post_init__(self) -> None:
        _texts(self, "reason")
        if not isinstance(self.outcome, Outcome):
            raise UsageError(f"outcome must be an Outcome, not {self.outcome!r:.80}")
        if self.outcome in (Outcome.RUNNING, Outcome.FINISHED):
            raise UsageError(f"an abort cannot leave the outcome {self.outcome.value}")


class ValStart(Event, frozen=True, tag="val_start"):
    """A validation outside training begins."""


class PredictStart(Event, frozen=True, tag="predict_start"):
    """A prediction begins."""


class ExportStart(Event, frozen=True, tag="export_start"):
    """An export begins."""


# -- what a caller wishes --------------------------------------------------------------------------------


class GiveUp(Event, frozen=True, tag="give_up"):
    """Deliver no more of what waits or was refused; `reason` is remembered."""

    reason: str

    def __post_init__(self) -> None:
        _texts(self, "reason")


class RetryRefused(Event, frozen=True, tag="retry_refused"):
    """Try refused deliveries once more, under the same keys."""


# -- what a clock says -----------------------------------------------------------------------------------


class Tick(Event, frozen=True, tag="tick"):
    """Time has passed: is anything due?"""


class HeartbeatTick(Event, frozen=True, tag="heartbeat_tick"):
    """Time has passed: is a sign of life due?"""


# -- what a hub answers ----------------------------------------------------------------------------------


class Delivered(Event, frozen=True, tag="delivered", kw_only=True):
    """The hub holds the delivery `key`. `not_taken`: why it cannot hold this kind of thing, if it cannot.

    `rows`: how many rows it acknowledged; `sha256`: the digest (hex) of the file as the hub stored it.
    """

    key: str
    not_taken: str = ""
    rows: int = 0
    sha256: str = ""

    def __post_init__(self) -> None:
        _texts(self, "not_taken")


class Refused(Event, frozen=True, tag="refused", kw_only=True):
    """The hub will never take the delivery `key` as it is. `status`: the HTTP status, where there was one."""

    key: str
    reason: str
    status: int | None = None

    def __post_init__(self) -> None:
        _texts(self, "reason")


class HeldUp(Event, frozen=True, tag="held_up", kw_only=True):
    """The delivery `key` could not be made just now and is repeated; the condition tells the kind of trouble.

    `condition` is one of `offline`, `rate_limited`, `credentials_rejected`, `hub_failing`; `until`: seconds since
    1970 at which the next try is due, where the hub said so. Without a `key` no delivery is held up: something failed on
    this machine, such as a trainer's module (`trainer_module_failing`), and the session shall show it.
    """

    key: str
    condition: str
    reason: str
    until: float | None = None

    def __post_init__(self) -> None:
        _texts(self, "reason")


class Answered(Event, frozen=True, tag="answered", kw_only=True):
    """What an answer told beside the receipt: the page's address, the hub's id of the model, intervals (s)."""

    url: str | None = None
    hub: str | None = None
    model: str | None = None
    metrics_interval: float | None = None
    checkpoint_interval: float | None = None
    heartbeat_interval: float | None = None


class StopRequested(Event, frozen=True, tag="stop_requested"):
    """Somebody at the hub wishes that the training stops."""

    reason: str

    def __post_init__(self) -> None:
        _texts(self, "reason")


TRAINER_EVENTS: tuple[type[Event], ...] = (
    PretrainRoutineStart,
    PretrainRoutineEnd,
    TrainStart,
    FitEpochEnd,
    TrainBatchEnd,
    ModelSave,
    TrainEnd,
    Abort,
)
USAGE_EVENTS: tuple[type[Event], ...] = (ValStart, PredictStart, ExportStart)
CALLER_EVENTS: tuple[type[Event], ...] = (GiveUp, RetryRefused)
CLOCK_EVENTS: tuple[type[Event], ...] = (Tick, HeartbeatTick)
HUB_EVENTS: tuple[type[Event], ...] = (Delivered, Refused, HeldUp, Answered, StopRequested)
EVENTS: tuple[type[Event], ...] = TRAINER_EVENTS + USAGE_EVENTS + CALLER_EVENTS + CLOCK_EVENTS + HUB_EVENTS


def name_of(event: Event | type[Event]) -> str:
    """The event's tag, such as `fit_epoch_end`."""
    kind = event if isinstance(event, type) else type(event)
    return str(kind.__struct_config__.tag)


def exact(metrics: Mapping[str, Any]) -> tuple[dict[str, float | int | None], dict[str, str]]:
    """Splits `metrics` into strict JSON numbers and the names that were not finite.

    Returns `(values, nonfinite)`: values are finite floats or ints, or None where `nonfinite` tells `"NaN"`,
    `"Infinity"` or `"-Infinity"`. Anything with `__float__` counts as a number (NumPy scalars, tensors of one
    element). Raises `UsageError` naming the metric that is no number.
    """
    if type(metrics) is not dict and not isinstance(metrics, Mapping):
        raise UsageError(
            f"metrics must be a mapping such as {{'loss': 0.5}}, not {type(metrics).__name__} {metrics!r:.80}"
        )
    # The common row, finite floats under names, is copied whole: this runs on the thread that trains.
    for name, value in metrics.items():
        if type(value) is not float or value - value != 0 or type(name) is not str or not name:
            return _exact_slowly(metrics)
    return dict(metrics), {}


def _exact_slowly(metrics: Mapping[str, Any]) -> tuple[dict[str, float | int | None], dict[str, str]]:
    values: dict[str, float | int | None] = {}
    nonfinite: dict[str, str] = {}
    for name, value in metrics.items():
        if type(name) is not str or not name:
            raise UsageError(f"the metric name {name!r} is not a text; nothing of this row was recorded")
        number = _number(name, value)
        if isfinite(number):
            values[name] = number
        else:
            values[name] = None
            nonfinite[name] = "NaN" if isnan(number) else "Infinity" if number > 0 else "-Infinity"
    return values, nonfinite


def _number(name: object, value: object) -> float | int:
    if type(value) is int and -MOST <= value <= MOST:
        return value
    # A text has a float of its own ("1.5"), and so has bytes; guessing a number out of them hides mistakes.
    if not isinstance(value, str | bytes | bytearray) and hasattr(value, "__float__"):
        try:
            return float(value)
        except (TypeError, ValueError, OverflowError, RuntimeError) as error:
            raise UsageError(
                f"the metric {name!r} is {type(value).__name__} {value!r:.80}, which is no single number ({error}); "
                "nothing of this row was recorded"
            ) from error
    raise UsageError(
        f"the metric {name!r} is {type(value).__name__} {value!r:.80}, which is no number; "
        "nothing of this row was recorded"
    )


#: Above it a double cannot tell neighbouring whole numbers apart, and JSON readers elsewhere use doubles.
MOST = 2**53


def _count(name: str, value: object) -> None:
    if type(value) is not int:
        raise UsageError(f"{name} must be a whole number, not {type(value).__name__} {value!r:.80}")
    if value < 0:
        raise UsageError(f"{name} must not be negative, and is {value}")
    if value > MOST:
        raise UsageError(f"{name} must be at most {MOST}, and is {value!r:.80}")


def _texts(event: Event, *names: str) -> None:
    """Checks that free texts are texts, and writes what UTF-8 cannot hold as escapes: a journal line must take them."""
    for name in names:
        text = getattr(event, name)
        if not isinstance(text, str):
            raise UsageError(f"{name} must be a text, not {type(text).__name__} {text!r:.80}")
        try:
            text.encode()
        except UnicodeEncodeError:
            force_setattr(event, name, text.encode("utf-8", "backslashreplace").decode())
