"""The model: the real decisions, put together with a model of journal, outbox, hub, network and crashes.

A `World` is one moment of it. The memory in it is the real one, what moves it is the real `decide`, and what a crash
leaves of it is what the real recovery adopts. The rest is modelled as little as will do:

* The journal is the memory that adopting its lines gives. The outbox is folded at once: the sender folds before each
  claim, so that one which lags behind differs only by doing later what it may do later anyway.
* A delivery happens in one move: it leaves, arrives, and is answered. An answer that comes late, while a trainer goes
  on, is the move in which it is lost followed by the one in which the repeat is answered.
* The network has no state. A network that is down for long differs from a slow sender by one word told to the door,
  so an outage is a try that fails, as often as it likes; so are 401 and 429, and the latter holds its lane up until
  time passes.
* Time is one instant, `NOW`; when time passes, all that is remembered grows older instead (`aged`), and ages are
  clipped where an interval is over. What nobody decides by (the conditions, and when they began) is left out, and
  the search asks each decision a second time with other conditions, to hold it to that.
* A crash may come at any moment. Behind the last attempt that the bound allows there is none before the training's
  end, or the search would call the bound a deadlock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import msgspec
from msgspec.structs import replace

from hubstate import controller
from hubstate.actions import (
    Action,
    CloseSession,
    Condition,
    Decision,
    EndSession,
    Memory,
    OpenSession,
    RecordUsage,
    SendCheckpoint,
    SendRows,
)
from hubstate.events import (
    Delivered,
    Event,
    FitEpochEnd,
    GiveUp,
    Refused,
    RetryRefused,
    TrainBatchEnd,
)
from hubstate.journal import Step, adopt_step
from hubstate.limits import next_due
from hubstate.opening import for_next_attempt
from hubstate.outbox import FILES, WORDS
from hubstate.proof.properties import RowSeen
from hubstate.states import Outcome, State

__all__ = [
    "NOW",
    "Bounds",
    "Box",
    "Entry",
    "Rig",
    "Shelf",
    "aged",
    "claimed",
    "folded",
    "other_conditions",
    "resettled",
    "set_back",
    "shelved",
    "step_of",
    "tied",
    "uncounted",
    "worn",
]

#: The one instant at which everything happens (s since 1970).
NOW = 1_000.0


@dataclass(frozen=True)
class Bounds:
    """How far the search goes. Intervals are in the model's seconds, which pass one by one.

    `rows`, `saves`: over the whole session. `refusals`, `lost`, `crashes`: how often a hub may refuse, an
    acknowledgement may be lost, and a process may die. Outages, 401 and 429 have no bound: they leave nothing behind.
    `fitness`: a save may be the best. `anew`: an aborted session may be resumed, not only one whose process died.
    `kinds`: a save may be named the final one, or be torn. `astray`: a trainer that resumes may tell epochs once more
    that lie before its first one. `hub`: there is one from the beginning; without it whoever delivers later brings it.
    `usage`, `news`, `foreign`: whether validations begin, answers tell intervals and wishes, and a hub may be unable
    to hold what it is given.
    """

    rows: int = 3
    saves: int = 2
    attempts: int = 2
    refusals: int = 1
    metrics: float = 1.0
    checkpoint: float = 2.0
    heartbeat: float = 1.0
    choice: str = "all"
    beats: bool = True
    fitness: bool = True
    scripted: bool = False
    quick: bool = False
    lost: int = 1
    crashes: int = 1
    anew: bool = False
    kinds: bool = False
    astray: bool = False
    hub: bool = True
    usage: bool = False
    news: bool = False
    foreign: bool = False


# -- the outbox ------------------------------------------------------------------------------------------


class Entry(NamedTuple):
    """A delivery in the outbox: its key, its lane, what it is, and the action itself as it is kept.

    `rows`: the first and the last row that it names. `waits`: the hub asked for a pause, and it is not over.
    """

    key: str
    lane: str
    kind: str
    text: bytes
    rows: tuple[int, int] = (0, -1)
    refused: bool = False
    waits: bool = False


class Box(NamedTuple):
    """The outbox: deliveries in the order in which they leave, and the rows that are kept for them."""

    entries: tuple[Entry, ...] = ()
    rows: tuple[RowSeen, ...] = ()


class Shelf(NamedTuple):
    """The rows that the hub shows, and where each attempt begins that was opened there: (attempt, first epoch).

    What it does not show any more is not here: attempts come, and none goes, so that no row comes in force again.
    """

    rows: tuple[RowSeen, ...] = ()
    firsts: tuple[tuple[int, int], ...] = ()


_ENCODER = msgspec.msgpack.Encoder()
_KINDS: dict[type[Action], tuple[str, str]] = {
    OpenSession: (WORDS, "open"),
    SendRows: (WORDS, "rows"),
    CloseSession: (WORDS, "close"),
    EndSession: (WORDS, "end"),
    RecordUsage: (WORDS, "usage"),
    SendCheckpoint: (FILES, "file"),
}


def folded(box: Box, step: Step) -> Box:
    """The outbox behind one more line of the journal."""
    if step.illegal:
        return box
    entries, rows = box
    event = step.event
    match event:
        case FitEpochEnd() | TrainBatchEnd() if step.row:
            number = event.step if isinstance(event, TrainBatchEnd) else None
            final = isinstance(event, FitEpochEnd) and event.final
            rows = (*rows, RowSeen(step.row, step.attempt, event.epoch, number, final))
        case Delivered():
            for first, last in [entry.rows for entry in entries if entry.key == event.key]:
                rows = tuple(row for row in rows if not first <= row.number <= last)
            entries = tuple(entry for entry in entries if entry.key != event.key)
        case Refused():
            entries = tuple(
                entry._replace(refused=True) if entry.key == event.key else entry
                for entry in entries
                if entry.key != event.key or entry.kind != "usage"
            )
        case RetryRefused():
            entries = tuple(e._replace(refused=False, waits=False) if e.refused else e for e in entries)
        case GiveUp():
            entries, rows = (), ()
        case _:
            pass
    known = {entry.key for entry in entries}
    for action in step.actions:
        lane, kind = _KINDS.get(type(action), ("", ""))
        if not lane or action.key in known:
            continue
        if isinstance(action, SendCheckpoint) and action.closing:
            kind = "last_file"
        span = (action.first, action.last) if isinstance(action, SendRows) else (0, -1)
        entries = (*entries, Entry(action.key, lane, kind, _ENCODER.encode(action), span))
    return Box(entries, rows)


def claimed(box: Box, lane: str) -> Entry | None:
    """What leaves next in a lane; it may still have to wait for its time."""
    for place, entry in enumerate(box.entries):
        if (
            entry.lane == lane
            and not entry.refused
            and not any(_blocks(e, entry) for e in box.entries[:place])
        ):
            return entry
    return None


def _blocks(earlier: Entry, entry: Entry) -> bool:
    if earlier.kind == "open" or entry.kind == "close":
        return True
    if earlier.refused:
        return False
    behind_all = "end" if entry.lane == WORDS else "last_file"
    return earlier.lane == entry.lane or entry.kind == behind_all


def shelved(shelf: Shelf, action: Action, rows: tuple[RowSeen, ...]) -> Shelf:
    """What the hub shows behind one more request (see `server.rows`).

    A row of an attempt counts below the first epoch of every later one; of those with one place the newest attempt's.
    """
    firsts = shelf.firsts
    if isinstance(action, OpenSession):
        firsts = tuple(sorted({*firsts, (action.attempt, action.first_epoch)}))
    elif not rows:
        return shelf
    counting = [
        row
        for row in sorted({*shelf.rows, *rows})
        if all(row.epoch < first for attempt, first in firsts if attempt > row.attempt)
    ]
    newest = {row.place: row.attempt for row in sorted(counting, key=lambda row: row.attempt)}
    return Shelf(tuple(row for row in counting if newest[row.place] == row.attempt), firsts)


def resettled(box: Box, key: str, *, waits: bool) -> Box:
    """The outbox after a try in vain: the hub may have asked for a pause."""
    return box._replace(entries=tuple(e._replace(waits=waits) if e.key == key else e for e in box.entries))


# -- the parts -------------------------------------------------------------------------------------------


class NextDue(Protocol):
    """In how many seconds a tick is due (see `limits.next_due`)."""

    def __call__(self, memory: Memory, at: float, *, heartbeats: bool = True) -> float | None: ...


@dataclass(frozen=True)
class Rig:
    """The parts that the search puts together: the real ones, or broken ones that it has to find.

    `after_crash`: what a crash leaves of the outbox. `in_vain`: what a try in vain leaves of it. `repeats`: whether
    the hub knows a repeat by its key. `shelved`: which rows the hub shows behind a request. `first_epoch`: where a resumed training goes on, by the epoch of the checkpoint
    that it found (-1 without one). `next_due`: in how many seconds whoever ticks has to tick next.
    """

    decide: Callable[[Memory, Event], Decision] = controller.decide
    folded: Callable[[Box, Step], Box] = folded
    claimed: Callable[[Box, str], Entry | None] = claimed
    in_vain: Callable[[Box, str], Box] = field(default=lambda box, _key: box)
    after_crash: Callable[[Box], Box] = field(default=lambda box: box)
    adopted: Callable[[Memory, Step], Memory] = adopt_step
    next_attempt: Callable[[Memory], Memory] = for_next_attempt
    first_epoch: Callable[[Memory, int], int] = field(default=lambda _memory, checkpoint: checkpoint + 1)
    repeats: bool = True
    shelved: Callable[[Shelf, Action, tuple[RowSeen, ...]], Shelf] = shelved
    next_due: NextDue = next_due


# -- the memory, made finite -----------------------------------------------------------------------------


def aged(memory: Memory, seconds: float = 0.0) -> Memory:
    """The memory when `seconds` have passed and the clock is set back by as much: the same to every decision.

    What is over is over, however long ago; of kept checkpoints only the order counts, and the next one is newer.
    """

    def older(since: float | None, interval: float) -> float | None:
        return None if since is None else max(since - seconds, NOW - interval)

    beat = older(memory.heartbeat_since, memory.heartbeat_interval)
    kept = [k for k in (memory.kept_last, memory.kept_best, memory.kept_final) if k is not None]
    moments = sorted({k.at for k in kept}, reverse=True)
    ranks = {at: NOW - 1 - rank for rank, at in enumerate(moments)}
    named = {f"kept_{k.kind.value}": k if k.at == ranks[k.at] else replace(k, at=ranks[k.at]) for k in kept}
    return replace(
        memory,
        metrics_since=older(memory.metrics_since, memory.metrics_interval),
        checkpoint_since=older(memory.checkpoint_since, memory.checkpoint_interval),
        kept_at=older(memory.kept_at, memory.checkpoint_interval),
        # One that is over and one that does not run are the same to the guard: it is due.
        heartbeat_since=None if beat is not None and beat <= NOW - memory.heartbeat_interval else beat,
        opened_at=None if memory.opened_at is None else NOW,
        ended_at=None if memory.ended_at is None else NOW,
        refused=tuple(replace(refused, at=NOW) for refused in memory.refused),
        conditions=(),
        **named,
    )


def other_conditions(memory: Memory) -> Memory:
    """The same memory under other circumstances and with other counts, by which nothing may be decided."""
    troubles = ("offline", "rate_limited_until", "credentials_rejected")
    conditions = tuple(Condition(name, NOW - 5, "for a reason", NOW + 7) for name in troubles)
    return replace(
        memory,
        conditions=conditions,
        opened_at=None if memory.opened_at is None else NOW - 77,
        ended_at=None if memory.ended_at is None else NOW - 7,
        rows_delivered=20,
        rows_not_taken=30,
        rows_given_up=40,
        files_delivered=50,
        final_sha256="of an earlier one",
        not_taken=("an earlier thing",),
    )


def uncounted(memory: Memory) -> Memory:
    """The memory without its counts of what is settled, which grow and are for people."""
    return replace(
        memory,
        rows_delivered=0,
        rows_not_taken=0,
        files_delivered=0,
        rows_given_up=0,
        final_sha256="",
        not_taken=(),
    )


def set_back(memory: Memory) -> Memory:
    """The same memory where the clock was set back since: every remembered time lies ahead."""
    clocks = ("metrics_since", "checkpoint_since", "heartbeat_since", "kept_at")
    return replace(memory, **{name: NOW + 50 for name in clocks if getattr(memory, name) is not None})


def tied(memory: Memory) -> Memory:
    """The same memory where all copies were kept at one moment."""
    copies = {name: getattr(memory, name) for name in ("kept_last", "kept_best", "kept_final")}
    return replace(memory, **{name: replace(k, at=NOW) for name, k in copies.items() if k is not None})


def worn(memory: Memory) -> Memory:
    """The same memory with what an earlier attempt may have left, and none may take over."""
    return replace(
        memory,
        outcome=Outcome.FAILED,
        reason="it broke",
        stop="a wish",
        given_up="no more",
        epoch=7,
        ended_at=NOW - 7,
        kept_at=NOW,
        heartbeat_since=NOW,
        heartbeat_out=True,
        hub_wanted=not memory.hub_wanted,
        usage=not memory.usage,
        name="of an earlier one",
    )


def step_of(before: Memory, decision: Decision) -> Step:
    """The journal's line for a decision, as the door writes it."""
    after, refusal = decision.memory, decision.refusal
    return Step(
        1,
        after.attempt,
        decision.event,  # type: ignore[arg-type]  # as in the door: every event but the base is one of the journal's
        before.state,
        after.state,
        decision.guards,
        decision.actions,
        refusal.reason if refusal is not None else "",
        refusal is not None and refusal.illegal,
        after.rows if after.rows != before.rows else 0,
    )


def rows_of(box: Box, entry: Entry) -> tuple[RowSeen, ...]:
    """The rows that a request carries."""
    first, last = entry.rows
    return tuple(row for row in box.rows if first <= row.number <= last)


def waiting(box: Box) -> Iterator[str]:
    """The keys of what is in the outbox."""
    return (entry.key for entry in box.entries)


def is_over(state: State) -> bool:
    """Whether what is left needs no trainer any more."""
    return state in (State.FINALIZING, State.DONE, State.ABORTED)
