"""What may be asked of a hub: frozen values with stable keys; and the memory that decisions read and write.

A key names one delivery for ever (`SESSION/ATTEMPT/rows/1-20`): a repeat carries the same key, so that a lost
acknowledgement never makes a second thing at the hub. `Memory` is all that decisions know of a session; it
stays small however long the training goes on: rows are counted and named by range, never held.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from hubstate.events import Event, Saved
from hubstate.states import CheckpointKind, Outcome, State

__all__ = [
    "Action",
    "AnyAction",
    "CloseSession",
    "Condition",
    "Decision",
    "EndSession",
    "Heartbeat",
    "KeepCheckpoint",
    "Kept",
    "Memory",
    "OpenSession",
    "RecordUsage",
    "Refusal",
    "Row",
    "SendCheckpoint",
    "SendRows",
]


class Action(msgspec.Struct, frozen=True, tag_field="action", omit_defaults=True):
    """Something to do. `key` names it for ever; `attempt` counts from 1."""

    key: str
    attempt: int


class OpenSession(Action, frozen=True, tag="open", kw_only=True):
    """Open the session, or its next attempt, at the hub.

    From `first_epoch` (0-based) on no row of an earlier attempt is in force. `mark` tells it from an opening that another
    process began of the same attempt: then the hub refuses the later one, and all of it stays here together.
    """

    session: str
    name: str
    first_epoch: int = 0
    epochs: int | None = None
    project: str | None = None
    group: str | None = None
    tags: tuple[str, ...] = ()
    config: dict[str, Any] = {}
    mark: str = ""


class SendRows(Action, frozen=True, tag="rows", kw_only=True):
    """Deliver the rows with the numbers `first` to `last` (1-based, counted over the whole session)."""

    first: int
    last: int


class KeepCheckpoint(Action, frozen=True, tag="keep", kw_only=True):
    """Keep the snapshot as the newest of its kind here. It asks nothing of a hub."""

    kind: CheckpointKind
    epoch: int
    snapshot: str
    size: int


class SendCheckpoint(Action, frozen=True, tag="checkpoint", kw_only=True):
    """Deliver a snapshot. `closing`: it belongs to the end, so it leaves after the rows before it.

    `fitness` is None where the trainer gave none.
    """

    kind: CheckpointKind
    epoch: int
    snapshot: str
    size: int
    fitness: float | None = None
    closing: bool = False


class CloseSession(Action, frozen=True, tag="close", kw_only=True):
    """Tell the hub that everything was delivered: `rows` rows over the whole session."""

    outcome: Outcome
    rows: int


class EndSession(Action, frozen=True, tag="end", kw_only=True):
    """Tell the hub that the session was aborted, and why."""

    outcome: Outcome
    reason: str
    rows: int


class Heartbeat(Action, frozen=True, tag="heartbeat", kw_only=True):
    """A sign of life. It leaves once if it can and is otherwise forgotten; nobody stores it."""

    state: State
    outcome: Outcome
    epoch: int | None = None
    waiting: int = 0


class RecordUsage(Action, frozen=True, tag="usage", kw_only=True):
    """Tell one's own hub that a validation, prediction or export began."""

    what: str


AnyAction = (
    OpenSession
    | SendRows
    | KeepCheckpoint
    | SendCheckpoint
    | CloseSession
    | EndSession
    | Heartbeat
    | RecordUsage
)


class Row(msgspec.Struct, frozen=True):
    """One row: its number in the session, and its fields. `metrics` is strict JSON text of `{name: number or null}`.

    `nonfinite` is JSON text of `{name: "NaN" | "Infinity" | "-Infinity"}`, `{}` for most rows.
    """

    number: int
    attempt: int
    epoch: int
    step: int | None
    final: bool
    at: float
    metrics: bytes
    nonfinite: bytes = b"{}"


class Kept(msgspec.Struct, frozen=True, omit_defaults=True):
    """A snapshot that is kept here. `asked`: its delivery was asked for; `at`: when it was kept."""

    kind: CheckpointKind
    epoch: int
    attempt: int
    snapshot: str
    size: int
    at: float
    fitness: float | None = None
    asked: bool = False


class Condition(msgspec.Struct, frozen=True, omit_defaults=True):
    """A circumstance with a reason and the time since which it holds."""

    name: str
    since: float
    reason: str
    until: float | None = None


class Refused(msgspec.Struct, frozen=True, omit_defaults=True):
    """A delivery that the hub will not take as it is."""

    key: str
    reason: str
    at: float
    status: int | None = None


class Memory(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """All that decisions know of a session. Times in seconds since 1970, intervals in seconds."""

    state: State = State.IDLE
    outcome: Outcome = Outcome.RUNNING
    reason: str = ""

    # who
    session: str = ""
    name: str = ""
    attempt: int = 0
    first_epoch: int = 0
    epochs: int | None = None
    opened_at: float | None = None
    ended_at: float | None = None

    # the hub
    hub: str | None = None
    hub_wanted: bool = True
    model: str | None = None
    url: str | None = None
    stop: str | None = None
    given_up: str | None = None

    # limits and their clocks
    metrics_interval: float = 3.0
    checkpoint_interval: float = 900.0
    heartbeat_interval: float = 300.0
    metrics_since: float | None = None
    checkpoint_since: float | None = None
    heartbeat_since: float | None = None
    heartbeat_out: bool = False
    usage: bool = False

    # rows, by number over the whole session
    epoch: int | None = None
    rows: int = 0
    rows_asked: int = 0
    rows_delivered: int = 0
    rows_not_taken: int = 0
    rows_given_up: int = 0

    # checkpoints
    checkpoints: str = "all"
    saves: int = 0
    saved: Saved | None = None
    best_fitness: float | None = None
    kept_at: float | None = None
    kept_last: Kept | None = None
    kept_best: Kept | None = None
    kept_final: Kept | None = None
    files_delivered: int = 0
    final_sha256: str = ""

    # deliveries
    outstanding: tuple[AnyAction, ...] = ()
    refused: tuple[Refused, ...] = ()
    not_taken: tuple[str, ...] = ()
    conditions: tuple[Condition, ...] = ()


class Refusal(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why an event did nothing: `illegal` (it has no place in this state), or held back by a guard."""

    state: State
    event: str
    reason: str
    illegal: bool = False
    legal: tuple[str, ...] = ()


class Decision(NamedTuple):
    """What follows from an event: the new memory, what to do, and why nothing is done, if so.

    `guards` are the guards that were asked, in order, and what they answered. `journalled` tells whether the
    step is written down (a tick that finds nothing due is not, nor a heartbeat).
    """

    memory: Memory
    actions: tuple[AnyAction, ...]
    refusal: Refusal | None
    event: Event
    guards: dict[str, bool]
    journalled: bool
