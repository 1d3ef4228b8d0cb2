"""What must hold of every session, said once, and judged fact by fact.

A `Monitor` is a small frozen value. It is told what happened (a `Fact`), and answers with the monitor after it and
with what was violated. It knows the specification and not the table: legality, moves and places of actions stand here
a second time, by hand, because an oracle that reads the table under test agrees with every mistake in it.

Whoever has facts can use it: the search over the model, the simulator, and whoever replays a journal, where only
`Told` and `Began` can be seen. Times are those that the events carry; a monitor never reads a clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace

from hubstate.actions import (
    Action,
    AnyAction,
    CloseSession,
    Decision,
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
    Refused,
    RetryRefused,
    Tick,
    TrainBatchEnd,
    TrainEnd,
    name_of,
)
from hubstate.states import LIVE_STATES, TERMINAL_STATES, CheckpointKind, State

__all__ = [
    "LIVENESS",
    "PROPERTIES",
    "SAFETY",
    "Arrived",
    "Began",
    "Copy",
    "Fact",
    "Holding",
    "Monitor",
    "RowSeen",
    "Told",
    "Violation",
    "legal_in",
    "without_beat",
]

#: What must never happen: each property in one sentence, with its exact meaning.
SAFETY: dict[str, str] = {
    "S1": (
        "Every row that a trainer told while training, and every checkpoint that was asked for, that is due, the best so "
        "far or the final one, is in the journal's keeping or at the hub until somebody gives it up; the end of the "
        "training leaves none of them unasked; what is asked for says what was told; and a step remembers what was said, "
        "all of it and nothing else, as the journal tells it."
    ),
    "S2": (
        "Nothing leaves the outstanding deliveries, and no count of what was delivered grows, before the hub "
        "acknowledged it and held it."
    ),
    "S3": "The hub stores at most one final checkpoint of an attempt, also when an acknowledgement is lost.",
    "S4": (
        "No action is asked for outside its states, no event moves a session but along the way that the specification "
        "names, and an event that has no place in a state is called illegal, hears what has one there, and changes "
        "nothing."
    ),
    "S5": (
        "A heartbeat is asked for in a live state alone, by the process that trains, where a hub is wanted, and it says "
        "the state as it is."
    ),
    "S6": (
        "Done means that every delivery was acknowledged, the close included, and names every row and the outcome; a close, an end "
        "and a closing checkpoint reach the hub behind what was asked for before them."
    ),
    "S7": (
        "The hub never shows an older attempt's row over a newer one's: from the first epoch on that an opening names no row "
        "of an earlier attempt is shown, whenever it arrives, and of each epoch the newest attempt's. Nothing arrives before "
        "the session is open; rows arrive behind the opening of their attempt and under the attempt that recorded them; "
        "those that were never refused arrive in the order of the attempts; and an attempt begins no later than behind its "
        "checkpoint."
    ),
    "S8": (
        "Two first sends of one kind are at least its interval apart, counted from the hub's last answer to one, and "
        "none is asked for while one is out, the end of training excepted; looking consumes nothing."
    ),
    "S9": "In a terminal state every event leaves the state, the outcome and what was recorded as they are.",
}
#: What must stay possible, or happen in the end. These are judged on the whole graph, by `check`.
LIVENESS: dict[str, str] = {
    "L1": (
        "From every reachable state a drained terminal state can be reached without a fault and without giving up: "
        "by going on, resuming, retrying what was refused, and delivering."
    ),
    "L2": (
        "With the network up, the key good and nothing refused, every run ends: no progress can be repeated for ever, "
        "and until the session is drained and terminal some progress is only a matter of time."
    ),
    "L3": "There is no deadlock: whoever is not drained and terminal can do something that changes something.",
}
PROPERTIES: dict[str, str] = SAFETY | LIVENESS

# -- the specification, by hand --------------------------------------------------------------------------

_IDLE, _CREATED, _TIMING, _TRAINING, _FINALIZING, _DONE, _ABORTED = State

#: Where a trainer's or a caller's event has a place; a clock and a hub may say theirs anywhere.
_USAGE = {"val_start", "predict_start", "export_start"}
_ANYWHERE = {
    "tick",
    "heartbeat_tick",
    "delivered",
    "refused",
    "held_up",
    "answered",
    "stop_requested",
} | _USAGE
_TRAINER = {
    "pretrain_routine_start", "pretrain_routine_end", "train_start", "fit_epoch_end", "train_batch_end",
    "model_save", "train_end", "abort",
}  # fmt: skip
_LEGAL: dict[State, set[str]] = {
    _IDLE: _ANYWHERE | _TRAINER,
    _CREATED: _ANYWHERE | {"pretrain_routine_end", "abort", "retry_refused"},
    _TIMING: _ANYWHERE | {"train_start", "abort", "retry_refused"},
    _TRAINING: _ANYWHERE
    | {"fit_epoch_end", "train_batch_end", "model_save", "train_end", "abort", "retry_refused"},
    _FINALIZING: _ANYWHERE | {"give_up", "retry_refused"},
    _DONE: _ANYWHERE | {"retry_refused"},
    _ABORTED: _ANYWHERE | {"give_up", "retry_refused"},
}

#: What a trainer or a caller can say, in the order of a run: whoever says what is illegal hears which of it is legal.
_SAID = (
    "pretrain_routine_start", "pretrain_routine_end", "train_start", "fit_epoch_end", "train_batch_end",
    "model_save", "train_end", "abort", "val_start", "predict_start", "export_start", "give_up", "retry_refused",
)  # fmt: skip

#: The only moves there are.
_MOVES: dict[tuple[State, str], State] = {
    (_IDLE, "pretrain_routine_start"): _CREATED,
    (_CREATED, "pretrain_routine_end"): _TIMING,
    (_TIMING, "train_start"): _TRAINING,
    (_TRAINING, "train_end"): _FINALIZING,
    (_FINALIZING, "delivered"): _DONE,
    (_FINALIZING, "give_up"): _ABORTED,
    (_CREATED, "abort"): _ABORTED,
    (_TIMING, "abort"): _ABORTED,
    (_TRAINING, "abort"): _ABORTED,
}
#: Those that nothing holds back.
_CERTAIN = {
    pair for pair in _MOVES if pair not in ((_IDLE, "pretrain_routine_start"), (_FINALIZING, "delivered"))
}

#: Where each action may be asked for: (the state before, the event). A retry is judged apart.
_ENDS = {(_CREATED, "abort"), (_TIMING, "abort"), (_TRAINING, "abort")}
_ROW_EVENTS = {(_TRAINING, "fit_epoch_end"), (_TRAINING, "train_batch_end")}
_PLACES: dict[type[Action], set[tuple[State, str]]] = {
    OpenSession: {(_IDLE, "pretrain_routine_start")},
    SendRows: _ROW_EVENTS | {(_TRAINING, "tick"), (_TRAINING, "train_end")} | _ENDS,
    KeepCheckpoint: {(_TRAINING, "model_save")},
    SendCheckpoint: {(_TRAINING, "model_save"), (_TRAINING, "tick"), (_TRAINING, "train_end")} | _ENDS,
    CloseSession: {(_TRAINING, "train_end")},
    EndSession: _ENDS | {(_FINALIZING, "give_up")},
    RecordUsage: {(state, event) for state in State for event in _USAGE},
}
#: The order in which what is asked for at the end leaves.
_LAST_WORDS: tuple[type[Action], ...] = (SendRows, SendCheckpoint, CloseSession, EndSession)

# -- facts -----------------------------------------------------------------------------------------------


class Told(NamedTuple):
    """The door was told an event: the memory that it met, and what was decided."""

    before: Memory
    decision: Decision


class RowSeen(NamedTuple):
    """A row as a request carries it."""

    number: int
    attempt: int
    epoch: int
    step: int | None = None
    final: bool = False

    @property
    def place(self) -> tuple[int, bool, int]:
        """Where it stands: an epoch's steps, its row and its final evaluation stand beside each other."""
        return self.epoch, self.final, -1 if self.step is None else self.step


class Arrived(NamedTuple):
    """A request reached the hub whole. `stored`: it was no repeat of what the hub holds under that key.

    `shown`: the numbers of the rows that the hub shows behind it, where the monitor `sees_rows`.
    """

    action: AnyAction
    rows: tuple[RowSeen, ...]
    stored: bool
    shown: frozenset[int] = frozenset()


class Began(NamedTuple):
    """A process opened the session with what its journal told. `trains`: to train, not to deliver alone."""

    memory: Memory
    trains: bool


class Holding(NamedTuple):
    """What is kept here at one moment: the memory that the journal tells, the rows and the keys of deliveries."""

    memory: Memory
    rows: tuple[RowSeen, ...]
    keys: frozenset[str]


Fact = Told | Arrived | Began | Holding


class Violation(NamedTuple):
    """A property that does not hold, and what shows it."""

    name: str
    what: str


class _Out(NamedTuple):
    """A delivery that was asked for, and neither acknowledged nor given up."""

    key: str
    kind: type[Action]
    attempt: int
    first: int = 0
    last: int = 0
    closing: bool = False
    refused: bool = False
    was_refused: bool = False
    arrived: bool = False


class Copy(NamedTuple):
    """A checkpoint that is kept here. `asked`: as what it is kept it was sent already."""

    kind: CheckpointKind
    attempt: int
    snapshot: str
    asked: bool = False


class Monitor(msgspec.Struct, frozen=True):
    """All that has to be remembered of a session to judge what comes next. Times in seconds, as the events tell them.

    `sees_hub`: requests that arrive are told as well; without it, what the hub acknowledges is believed. `sees_rows`:
    so is what the hub shows; it is for sessions of a few rows, as those of the search are.
    """

    sees_hub: bool = True
    sees_rows: bool = False
    state: State = _IDLE
    #: The state that the journal tells: an attempt that begins is written down with its first step.
    written: State = _IDLE
    trains: bool = True
    attempt: int = 0
    #: How many rows there were when each attempt began.
    starts: tuple[int, ...] = ()
    rows: int = 0
    asked: int = 0
    rows_delivered: int = 0
    rows_not_taken: int = 0
    files_delivered: int = 0
    out: tuple[_Out, ...] = ()
    closed: bool = False
    # at the hub
    opened: tuple[int, ...] = ()
    newest_row: int = 0
    finals: tuple[int, ...] = ()
    #: Where each attempt begins that is open there, and the rows that have to be shown, under their own attempts.
    firsts: tuple[tuple[int, int], ...] = ()
    in_force: tuple[RowSeen, ...] = ()
    # checkpoints
    choice: str = "all"
    saved_epoch: int = -1
    best: float | None = None
    best_waits: str = ""
    #: At most one of each kind, in the order in which they were kept.
    copies: tuple[Copy, ...] = ()
    kept_since: float | None = None
    saved_in: int = 0
    # the limits
    rows_since: float | None = None
    files_since: float | None = None
    wants_hub: bool = True
    beat_since: float | None = None
    beat_out: bool = False
    rows_interval: float = 3.0
    files_interval: float = 900.0
    beat_interval: float = 300.0

    def observe(self, fact: Fact) -> tuple[Monitor, tuple[Violation, ...]]:
        """The monitor after a fact, and what the fact violates."""
        judge = _Judge(self)
        match fact:
            case Told():
                judge.told(fact.before, fact.decision)
            case Arrived():
                judge.arrived(fact)
            case Began():
                judge.began(fact)
            case Holding():
                judge.holding(fact)
        return judge.monitor, tuple(judge.found)

    def aged(self, seconds: float, now: float) -> Monitor:
        """The same monitor when `seconds` have passed and the clock is set back by as much, to `now`.

        A time that lies further back than an interval is over for good, however far; so ages stay finite.
        """

        def older(since: float | None, interval: float) -> float | None:
            return None if since is None else max(since - seconds, now - interval)

        return replace(
            self,
            rows_since=older(self.rows_since, self.rows_interval),
            files_since=older(self.files_since, self.files_interval),
            beat_since=older(self.beat_since, self.beat_interval),
            kept_since=older(self.kept_since, self.files_interval),
        )


class _Judge:
    """Judges one fact: `monitor` becomes the one after it, and `found` what is violated."""

    def __init__(self, monitor: Monitor) -> None:
        self.monitor = monitor
        self.found: list[Violation] = []

    def fail(self, name: str, what: str) -> None:
        self.found.append(Violation(name, what))

    def note(self, **changes: Any) -> None:
        self.monitor = replace(self.monitor, **changes)

    # -- a step at the door ------------------------------------------------------------------------------

    def told(self, before: Memory, decision: Decision) -> None:
        event, after, actions = decision.event, decision.memory, decision.actions
        name, state = name_of(event), before.state
        if state is not self.monitor.state:
            self.fail("S4", f"a step begins in {state.value}, and {self._state()} was last")
        illegal = decision.refusal is not None and decision.refusal.illegal
        if name not in _LEGAL[state]:
            same = after == before and not actions
            if not illegal:
                self.fail("S4", f"{name} has no place in {state.value}, and is not called illegal")
            if not same:
                self.fail("S4", f"{name} has no place in {state.value}, and changes something")
            self.note(state=after.state)
            return
        if illegal:
            self.fail("S4", f"{name} has its place in {state.value}, and is called illegal")
        self._moves(before, event, after, actions)
        if state in TERMINAL_STATES:
            self._absorbs(before, after, actions, event)
        if not decision.journalled:
            kept = after is before or without_beat(after) == without_beat(before)
            if not kept:
                self.fail("S1", f"{name} is not journalled, and changes what has to be kept")
            if not all(isinstance(a, Heartbeat) for a in actions):
                self.fail("S1", f"{name} asks, and is not journalled")
        if isinstance(event, Tick | HeartbeatTick) and not actions and after != before:
            self.fail("S8", f"{name} finds nothing due, and changes something")
        self._places(state, name, actions)
        self._limits(event, actions)
        self._answer(event)
        self._files(before, event, actions)
        self._trainer(before, event, actions, after)
        if state is _TRAINING and isinstance(event, Tick | FitEpochEnd | TrainBatchEnd):
            self._rows_due(event, actions)
        self._asks(event, actions)
        self._ends(event, before, after, actions)
        self._counts(after)
        self.note(state=after.state, written=after.state if decision.journalled else self.monitor.written)
        if decision.journalled:
            self._pull_back(event.at)
        if after.state is _DONE and state is not _DONE:
            self._done()

    def _pull_back(self, at: float) -> None:
        """A time that lies ahead counts as now, and stays so: a clock may be set back between two processes."""
        m = self.monitor
        if max(m.rows_since or at, m.files_since or at, m.beat_since or at, m.kept_since or at) > at:
            ahead = ("rows_since", "files_since", "beat_since", "kept_since")
            self.note(**{n: at for n in ahead if (since := getattr(m, n)) is not None and since > at})

    def _state(self) -> str:
        return self.monitor.state.value

    def _moves(self, before: Memory, event: Event, after: Memory, actions: tuple[AnyAction, ...]) -> None:
        name = name_of(event)
        move = _MOVES.get((before.state, name))
        if after.state is not before.state:
            if after.state is not move or (isinstance(event, PretrainRoutineStart) and not _may_open(event)):
                self.fail("S4", f"{name} leads from {before.state.value} to {after.state.value}")
        elif (before.state, name) in _CERTAIN or (
            name == "pretrain_routine_start" and move and _may_open(event)
        ):
            self.fail("S4", f"{name} leads nowhere from {before.state.value}")
        elif before.state is _IDLE and name in _TRAINER and not actions and after != before:
            self.fail("S4", f"{name} changes something, and no session is open")

    def _absorbs(self, before: Memory, after: Memory, actions: tuple[AnyAction, ...], event: Event) -> None:
        name, state = name_of(event), before.state.value
        stays = (after.state, after.outcome, after.rows, after.attempt, after.saves)
        was = (before.state, before.outcome, before.rows, before.attempt, before.saves)
        if stays != was:
            self.fail("S9", f"{name} changes a session that is {state}")
        if not isinstance(event, RetryRefused):
            asks = [type(a).__name__ for a in actions if not isinstance(a, RecordUsage | Heartbeat)]
            if asks:
                self.fail("S9", f"{name} asks for {', '.join(asks)} in a session that is {state}")

    def _places(self, state: State, name: str, actions: tuple[AnyAction, ...]) -> None:
        for action in actions:
            if isinstance(action, Heartbeat):
                if state not in LIVE_STATES:
                    self.fail("S5", f"a heartbeat is asked for while {state.value}")
                if not self.monitor.trains:
                    self.fail("S5", "a heartbeat is asked for, and nobody trains here")
                if not self.monitor.wants_hub:
                    self.fail("S5", "a heartbeat is asked for, and no hub is wanted")
                if name != "heartbeat_tick":
                    self.fail("S4", f"{name} asks for a heartbeat")
            elif name == "retry_refused":
                ours = [out for out in self.monitor.out if out.key == action.key]
                if not (ours and ours[0].refused):
                    self.fail("S4", f"{action.key} is retried, and was not refused")
            else:
                places = _PLACES.get(type(action), set())
                if (state, name) not in places:
                    self.fail("S4", f"{name} asks for {type(action).__name__} while {state.value}")

    def _limits(self, event: Event, actions: tuple[AnyAction, ...]) -> None:
        m = self.monitor
        for action in actions:
            if isinstance(event, TrainEnd | Abort | RetryRefused):
                break  # the end of training is excepted, and a retry is no first send
            match action:
                case SendRows():
                    since, interval = m.rows_since, m.rows_interval
                case SendCheckpoint():
                    since, interval = m.files_since, m.files_interval
                case Heartbeat():
                    since, interval = (
                        m.beat_since if m.beat_since is not None else event.at - m.beat_interval,
                        m.beat_interval,
                    )
                    if m.beat_out:
                        self.fail("S8", "a heartbeat is asked for while one is out")
                case _:
                    continue
            kind = type(action)
            busy = [out.key for out in m.out if out.kind is kind and not out.refused]
            if busy:
                self.fail("S8", f"{action.key} is asked for while {', '.join(busy)} is out")
            if not (since is not None):
                self.fail("S8", f"{action.key} is asked for before its clock runs")
            if since is not None:
                passed = max(event.at - since, 0.0)
                over = passed >= interval
                if not over:
                    self.fail("S8", f"{action.key} is asked for after {passed:g} s of {interval:g} s")

    def _answer(self, event: Event) -> None:
        """What a hub's answer does to what is out, and to the clocks."""
        m = self.monitor
        if isinstance(event, Answered):
            self.note(
                rows_interval=m.rows_interval
                if event.metrics_interval is None
                else max(0.0, event.metrics_interval),
                files_interval=m.files_interval
                if event.checkpoint_interval is None
                else max(0.0, event.checkpoint_interval),
                beat_interval=m.beat_interval
                if event.heartbeat_interval is None
                else max(5.0, event.heartbeat_interval),
            )
        if not isinstance(event, Delivered | Refused | HeldUp):
            return
        if event.key.endswith("/heartbeat"):
            self.note(beat_since=event.at, beat_out=False)
            return
        out = next((out for out in m.out if out.key == event.key), None)
        if out is None or isinstance(event, HeldUp):
            return
        if out.kind is SendRows:
            self.note(rows_since=event.at)
        elif out.kind is SendCheckpoint:
            self.note(files_since=event.at)
        rest = tuple(other for other in m.out if other is not out)
        if isinstance(event, Refused):
            refused = out._replace(refused=True, was_refused=out.kind is SendRows)
            # Nobody waits for a note of usage: one that is refused is dropped.
            note = out.kind is RecordUsage
            self.note(out=rest if note else tuple(refused if o is out else o for o in m.out))
            return
        held = out.arrived or not m.sees_hub or bool(event.not_taken)
        if not held:
            self.fail("S2", f"{event.key} counts as delivered, and the hub does not hold it")
        rows = out.last - out.first + 1 if out.kind is SendRows else 0
        taken = min(event.rows, rows) if event.not_taken else rows
        file = out.kind is SendCheckpoint and not event.not_taken
        self.note(
            out=rest,
            rows_delivered=m.rows_delivered + taken,
            rows_not_taken=m.rows_not_taken + rows - taken,
            files_delivered=m.files_delivered + file,
            closed=m.closed or out.kind is CloseSession,
        )

    def _trainer(self, before: Memory, event: Event, actions: tuple[AnyAction, ...], after: Memory) -> None:
        """What a trainer says: rows, checkpoints, and the beginning of an attempt."""
        match event:
            case FitEpochEnd() | TrainBatchEnd() if before.state is _TRAINING:
                recorded = after.rows == self.monitor.rows + 1
                if not recorded:
                    self.fail("S1", f"{name_of(event)} was told, and no row was recorded")
                self.note(rows=self.monitor.rows + 1)
            case ModelSave() if before.state is _TRAINING:
                self._save(event)
            case PretrainRoutineStart() if before.state is _IDLE and after.state is not _IDLE:
                self._attempt(event, actions)
            case PretrainRoutineEnd() if before.state is _CREATED:
                m = self.monitor
                self.note(
                    rows_since=event.at if m.rows_since is None else m.rows_since,
                    files_since=event.at if m.files_since is None else m.files_since,
                )
            case _:
                pass
        m = self.monitor
        if after.rows != m.rows:
            self.fail("S1", f"{m.rows} rows were told, and {after.rows} are counted")

    def _attempt(self, event: PretrainRoutineStart, actions: tuple[AnyAction, ...]) -> None:
        m = self.monitor
        opening = next((action for action in actions if isinstance(action, OpenSession)), None)
        if not (opening is not None):
            self.fail("S4", "an attempt begins, and no hub is asked to open it")
        if opening is not None:
            if opening.attempt != m.attempt + 1:
                self.fail("S7", f"attempt {opening.attempt} follows attempt {m.attempt}")
            goes_on = opening.first_epoch == event.first_epoch <= m.saved_epoch + 1
            if not goes_on:
                self.fail(
                    "S7",
                    f"attempt {opening.attempt} begins at epoch {opening.first_epoch}, and the last checkpoint is of "
                    f"{f'epoch {m.saved_epoch}' if m.saved_epoch >= 0 else 'no epoch'}",
                )
        self.note(
            attempt=m.attempt + 1,
            starts=(*m.starts, m.rows),
            choice=event.checkpoints,
            wants_hub=event.hub,
            kept_since=None,
            beat_since=None,
            beat_out=False,
            rows_interval=event.metrics_interval,
            files_interval=event.checkpoint_interval,
            beat_interval=event.heartbeat_interval,
            closed=False,
        )

    # -- checkpoints -------------------------------------------------------------------------------------

    def _is_better(self, event: ModelSave) -> bool:
        best = self.monitor.best
        return event.fitness is not None and (best is None or event.fitness > best) and not event.unkept

    def _kind(self, event: ModelSave) -> CheckpointKind | None:
        """As what the specification keeps a saved checkpoint, if at all."""
        m = self.monitor
        if event.unkept or m.choice == "none":
            return None
        if event.kind is CheckpointKind.FINAL:
            return CheckpointKind.FINAL
        if m.choice != "last" and self._is_better(event):
            return CheckpointKind.BEST
        due = m.kept_since is None or max(event.at - m.kept_since, 0.0) >= m.files_interval
        return CheckpointKind.LAST if due and m.choice != "best" else None

    def _save(self, event: ModelSave) -> None:
        m = self.monitor
        # Kept or not: where no copy could be had, the trainer's own file serves to go on from.
        self.note(saved_epoch=max(m.saved_epoch, event.epoch), saved_in=m.attempt)
        kind = self._kind(event)
        if self._is_better(event):
            self.note(best=event.fitness)
        if kind is CheckpointKind.BEST:
            self.note(best_waits=event.snapshot)
        if kind is not None:
            self._note_copy(kind, event.snapshot)
            self.note(kept_since=event.at)

    def _note_copy(self, kind: CheckpointKind, snapshot: str) -> None:
        """One takes the place of another one of its kind, and of the final one that an earlier attempt named."""
        m = self.monitor
        rest = (
            copy
            for copy in m.copies
            if copy.kind is not kind and (copy.kind is not CheckpointKind.FINAL or copy.attempt == m.attempt)
        )
        self.note(copies=(*rest, Copy(kind, m.attempt, snapshot)))

    def _files(self, before: Memory, event: Event, actions: tuple[AnyAction, ...]) -> None:
        """Each checkpoint that is due is kept and sent: which one, as what, of which attempt, as the last word or not."""
        m, due, closing = self.monitor, True, False
        copy: Copy | None = None
        match event:
            case ModelSave() if before.state is _TRAINING:
                kind = self._kind(event)
                self._keeps(kind, event, actions)
                if kind not in (None, CheckpointKind.FINAL) and m.choice != "final":
                    copy = Copy(kind, m.attempt, event.snapshot)
                due = self._is_due(m.files_since, m.files_interval, event, SendCheckpoint)
            case Tick() if before.state is _TRAINING:
                waiting = [c for c in m.copies if not c.asked and c.kind is not CheckpointKind.FINAL]
                copy = None if m.choice == "final" else _first_or_last(before, waiting, 0)
                due = self._is_due(m.files_since, m.files_interval, event, SendCheckpoint)
            case TrainEnd() if before.state is _TRAINING:
                copy, closing = self._final(before, event), True
            case Abort() if (before.state, name_of(event)) in _ENDS:
                copy, closing = _first_or_last(before, m.copies, -1), True
                if copy is not None and copy.kind is CheckpointKind.LAST and copy.asked:
                    copy = None
                copy = copy and copy._replace(kind=CheckpointKind.LAST)
            case _:
                return
        if closing and m.choice == "none":
            copy = None
        wanted = [] if copy is None else [(copy.kind, copy.attempt, copy.snapshot, closing)]
        asked = [(a.kind, a.attempt, a.snapshot, a.closing) for a in actions if isinstance(a, SendCheckpoint)]
        if asked != wanted and (asked or due):
            self.fail("S1", f"{name_of(event)} asks for {_files_told(asked)}, not for {_files_told(wanted)}")

    def _keeps(self, kind: CheckpointKind | None, event: ModelSave, actions: tuple[AnyAction, ...]) -> None:
        kept = [(a.kind, a.attempt, a.snapshot, a.epoch) for a in actions if isinstance(a, KeepCheckpoint)]
        if kept != ([] if kind is None else [(kind, self.monitor.attempt, event.snapshot, event.epoch)]):
            told = ", ".join(f"{what.value} {snapshot}" for what, _, snapshot, _ in kept) or "nothing"
            wanted = "nothing" if kind is None else f"{kind.value} {event.snapshot}"
            self.fail("S1", f"{wanted} has to be kept, and {told} is")

    def _final(self, before: Memory, event: TrainEnd) -> Copy | None:
        """What the trainer names at its end, else the best, else the newest whole one."""
        m = self.monitor
        if event.final is not None and event.final.snapshot:
            return Copy(CheckpointKind.FINAL, m.attempt, event.final.snapshot)
        of = {copy.kind: copy for copy in m.copies}
        copy = of.get(CheckpointKind.FINAL)
        # What an earlier attempt named is what this one went on from, until it saves one of its own.
        if copy is None or (copy.attempt != m.attempt and m.saved_in == m.attempt):
            copy = of.get(CheckpointKind.BEST) or _first_or_last(before, m.copies, -1)
        return copy and Copy(CheckpointKind.FINAL, m.attempt, copy.snapshot)

    def _is_due(self, since: float | None, interval: float, event: Event, kind: type[Action]) -> bool:
        if since is None or max(event.at - since, 0.0) < interval:
            return False
        return not any(out.kind is kind and not out.refused for out in self.monitor.out)

    def _rows_due(self, event: Event, actions: tuple[AnyAction, ...]) -> None:
        m = self.monitor
        asked = any(isinstance(action, SendRows) for action in actions)
        if m.rows > m.asked and not asked and self._is_due(m.rows_since, m.rows_interval, event, SendRows):
            self.fail(
                "S1", f"rows {m.asked + 1} to {m.rows} are due, and {name_of(event)} does not ask for them"
            )

    # -- what is out, and the end ------------------------------------------------------------------------

    def _asks(self, event: Event, actions: tuple[AnyAction, ...]) -> None:
        """What is out now."""
        for action in actions:
            m = self.monitor
            match action:
                case Heartbeat():
                    self.note(beat_out=True)
                    continue
                case KeepCheckpoint():
                    continue
                case _ if isinstance(event, RetryRefused):
                    self.note(
                        out=tuple(o._replace(refused=False) if o.key == action.key else o for o in m.out)
                    )
                    continue
                case SendRows():
                    in_turn = m.asked + 1 == action.first <= action.last == m.rows
                    if not in_turn:
                        self.fail(
                            "S1",
                            f"rows {action.first} to {action.last} are asked for behind row {m.asked} of {m.rows}",
                        )
                    out = _Out(action.key, SendRows, action.attempt, action.first, action.last)
                    self.note(asked=action.last)
                case SendCheckpoint():
                    out = _Out(action.key, SendCheckpoint, action.attempt, closing=action.closing)
                    if action.snapshot == m.best_waits:
                        self.note(best_waits="")
                    this = (action.kind, action.snapshot)
                    self.note(
                        copies=tuple(
                            c._replace(asked=True) if (c.kind, c.snapshot) == this else c for c in m.copies
                        )
                    )
                case _:
                    out = _Out(action.key, type(action), action.attempt)
            # A checkpoint is one of the attempt that kept it, which `_files` judges.
            if not isinstance(action, SendCheckpoint) and action.attempt != m.attempt:
                self.fail(
                    "S7", f"{action.key} is asked for as one of attempt {action.attempt}, not {m.attempt}"
                )
            known = any(other.key == out.key for other in m.out)
            usage = out.kind is RecordUsage  # two notes of one millisecond are one
            if not (usage or not known):
                self.fail("S3", f"{out.key} is asked for a second time")
            if not known:
                self.note(out=(*m.out, out))

    def _ends(self, event: Event, before: Memory, after: Memory, actions: tuple[AnyAction, ...]) -> None:
        """What the end of a training, and giving up, leave behind."""
        m, state = self.monitor, before.state
        outcome = event.outcome if isinstance(event, TrainEnd | Abort) else before.outcome
        for action in actions:
            if isinstance(event, RetryRefused) or not isinstance(action, CloseSession | EndSession):
                continue
            if (action.rows, action.outcome) != (m.rows, outcome):
                self.fail(
                    "S6",
                    f"{action.key} names {action.rows} rows, {action.outcome.value}, not {m.rows}, {outcome.value}",
                )
        if isinstance(event, TrainEnd | Abort) and after.state is not state:
            if after.outcome is not outcome:
                self.fail("S6", f"the training is {outcome.value}, and {after.outcome.value} is remembered")
            if m.asked != m.rows:
                self.fail("S1", f"the training is over, and rows {m.asked + 1} to {m.rows} are not asked for")
            order = [_LAST_WORDS.index(type(action)) for action in actions if type(action) in _LAST_WORDS]
            if order != sorted(order):
                self.fail("S6", "the last words are asked for in another order")
            if isinstance(event, TrainEnd) and event.final is not None and event.final.snapshot:
                self._note_copy(CheckpointKind.FINAL, event.final.snapshot)
            last: type[Action] = CloseSession if isinstance(event, TrainEnd) else EndSession
            told = any(isinstance(action, last) for action in actions)
            if not told:
                self.fail("S4", f"the training is over, and no {last.__name__} is asked for")
        if isinstance(event, GiveUp) and after.state is not state:
            told = any(isinstance(action, EndSession) for action in actions)
            if not told:
                self.fail("S4", "the session is given up, and no EndSession is asked for")
        if isinstance(event, GiveUp) and (state is not after.state or after.given_up is not None):
            asked = {action.key for action in actions}
            self.note(out=tuple(out for out in m.out if out.key in asked), best_waits="")

    def _counts(self, after: Memory) -> None:
        """The memory counts nothing as settled that is not."""
        m = self.monitor
        counted = (after.rows_delivered, after.rows_not_taken, after.files_delivered)
        settled = (m.rows_delivered, m.rows_not_taken, m.files_delivered)
        if counted != settled:
            self.fail("S2", f"settled are {settled} (rows, not taken, files), counted {counted}")
        outstanding = {action.key for action in after.outstanding}
        out = {o.key for o in m.out if o.kind is not RecordUsage}
        if not (out <= outstanding):
            self.fail("S2", f"{_some(out - outstanding)} is forgotten, and nobody acknowledged it")
        if not (outstanding <= out):
            self.fail("S4", f"{_some(outstanding - out)} is remembered as out, and is not")
        refused = {o.key for o in m.out if o.refused}
        remembered = {r.key for r in after.refused}
        if refused != remembered:
            self.fail("S2", f"refused are {_some(refused)}, remembered {_some(remembered)}")

    def _done(self) -> None:
        m = self.monitor
        waiting = {out.key for out in m.out if out.kind is not RecordUsage}
        if waiting:
            self.fail("S6", f"the session is done, and {_some(waiting)} waits")
        if not m.closed:
            self.fail("S6", "the session is done, and its close was not acknowledged")
        if m.asked != m.rows:
            self.fail("S6", f"the session is done, and row {m.asked + 1} was never asked for")

    # -- at the hub --------------------------------------------------------------------------------------

    def arrived(self, fact: Arrived) -> None:
        m, action = self.monitor, fact.action
        if isinstance(action, Heartbeat):
            return
        out = next((out for out in m.out if out.key == action.key), None)
        if isinstance(action, SendRows):
            self._rows_arrived(fact, was_refused=out is not None and out.was_refused)
        if isinstance(action, OpenSession):
            self.note(opened=tuple(sorted({*m.opened, action.attempt})))
            if m.sees_rows:
                self.note(firsts=tuple(sorted({*m.firsts, (action.attempt, action.first_epoch)})))
        # An end may find nobody: giving up gives up an opening that waits, too. And a file of an attempt that was
        # given up before it was open may follow with the next one.
        elif not isinstance(action, RecordUsage | EndSession) and not m.opened:
            self.fail("S7", f"{action.key} arrives, and the session is not open there")
        if isinstance(action, SendCheckpoint) and action.kind is CheckpointKind.FINAL and fact.stored:
            once = action.attempt not in m.finals
            if not once:
                self.fail("S3", f"a second final checkpoint of attempt {action.attempt} is stored")
            self.note(finals=(*m.finals, action.attempt) if once else m.finals)
        if out is not None:
            # What arrived before came in its turn; the network may bring it once more behind rows that are tried anew.
            if not out.arrived:
                self._in_turn(action, m.out[: m.out.index(out)])
            self.note(out=tuple(o._replace(arrived=True) if o is out else o for o in self.monitor.out))
        if m.sees_rows and isinstance(action, OpenSession | SendRows):
            self._shown(fact)

    def _rows_arrived(self, fact: Arrived, *, was_refused: bool) -> None:
        m = self.monitor
        for row in fact.rows:
            recorded = sum(start < row.number for start in m.starts)
            if row.attempt != recorded:
                self.fail("S7", f"row {row.number} of attempt {recorded} arrives as one of {row.attempt}")
            if row.attempt not in m.opened:
                self.fail("S7", f"row {row.number} arrives, and attempt {row.attempt} is not open there")
            if fact.stored and not was_refused:
                newer = row.attempt < m.newest_row
                if newer:
                    self.fail(
                        "S7",
                        f"row {row.number} of attempt {row.attempt} arrives behind one of {m.newest_row}",
                    )
        newest = max((row.attempt for row in fact.rows), default=0)
        self.note(newest_row=max(m.newest_row, newest))

    def _shown(self, fact: Arrived) -> None:
        """What the hub has to show is what it shows. The attempt of a row is the one that recorded it, whatever is said."""
        m = self.monitor
        arrived = (row._replace(attempt=sum(start < row.number for start in m.starts)) for row in fact.rows)
        rows = sorted({*m.in_force, *arrived})
        ends = {
            attempt: min((first for later, first in m.firsts if later > attempt), default=None)
            for attempt in {row.attempt for row in rows}
        }
        newest: dict[tuple[int, bool, int], int] = {}
        counting = [row for row in rows if (end := ends[row.attempt]) is None or row.epoch < end]
        for row in counting:
            newest[row.place] = max(newest.get(row.place, 0), row.attempt)
        in_force = tuple(row for row in counting if row.attempt == newest[row.place])
        self.note(in_force=in_force)
        wanted = {row.number for row in in_force}
        for number in sorted(fact.shown - wanted):
            attempt = sum(start < number for start in m.starts)
            self.fail("S7", f"the hub shows row {number} of attempt {attempt}, where a newer one counts")
        if wanted - fact.shown:
            self.fail("S7", f"the hub does not show rows {sorted(wanted - fact.shown)}, which are in force")

    def _in_turn(self, action: AnyAction, before: tuple[_Out, ...]) -> None:
        """The last words reach the hub behind what was asked for before them."""
        waits = {o.key for o in before if not o.arrived and not o.refused}
        if isinstance(action, CloseSession):
            waits = {o.key for o in before if not o.arrived or o.refused}
        elif isinstance(action, SendCheckpoint) and action.closing:
            waits &= {o.key for o in before if o.kind is not SendCheckpoint}
        elif not isinstance(action, EndSession):
            return
        if waits:
            self.fail("S6", f"{action.key} arrives before {_some(waits)}")

    # -- what is kept here -------------------------------------------------------------------------------

    def began(self, fact: Began) -> None:
        m, memory = self.monitor, fact.memory
        if memory.rows != m.rows:
            self.fail("S1", f"{m.rows} rows were recorded, and the journal tells {memory.rows}")
        if memory.attempt != m.attempt:
            self.fail("S1", f"the journal tells attempt {memory.attempt}, not {m.attempt}")
        out = {o.key for o in m.out if o.kind is not RecordUsage}
        told = {action.key for action in memory.outstanding}
        if out != told:
            self.fail("S1", f"out are {_some(out)}, and the journal tells {_some(told)}")
        anew = fact.trains and m.written not in (_FINALIZING, _DONE) and memory.state is _IDLE
        if not anew and memory.state is not m.written:
            self.fail("S9", f"the session was {m.written.value}, and opens as {memory.state.value}")
        self.note(trains=fact.trains, state=memory.state, beat_since=None, beat_out=False)

    def holding(self, fact: Holding) -> None:
        m = self.monitor
        out = {o.key for o in m.out}
        if not (out <= fact.keys):
            self.fail("S1", f"{_some(out - fact.keys)} is neither here nor acknowledged")
        held = {row.number for row in fact.rows}
        wanted = {n for o in m.out if o.kind is SendRows for n in range(o.first, o.last + 1)}
        wanted |= set(range(m.asked + 1, m.rows + 1))
        if not (wanted <= held):
            self.fail("S1", f"rows {sorted(wanted - held)} are neither here nor acknowledged")
        best = fact.memory.kept_best
        there = not m.best_waits or (best is not None and best.snapshot == m.best_waits)
        if not there:
            self.fail("S1", f"the best checkpoint ({m.best_waits}) is not kept")


def legal_in(state: State) -> tuple[str, ...]:
    """What a trainer or a caller may say in a state, in the order of a run."""
    return tuple(name for name in _SAID if name in _LEGAL[state])


def _may_open(event: Event) -> bool:
    """Whether a start opens a session: one is wanted, this is the main process, and none is open."""
    return isinstance(event, PretrainRoutineStart) and event.wanted and event.main and not event.already_open


def _first_or_last(memory: Memory, copies: Sequence[Copy], place: int) -> Copy | None:
    """The oldest (`place` 0) or the newest (-1); of two that were kept at one moment the `last`."""
    if not copies:
        return None
    kept = [k for k in (memory.kept_last, memory.kept_best, memory.kept_final) if k is not None]
    moments = {k.snapshot: (k.attempt, k.at) for k in kept}
    chosen = copies[place]
    at = moments.get(chosen.snapshot)
    tied = [copy for copy in copies if at is not None and moments.get(copy.snapshot) == at]
    return next((copy for copy in tied if copy.kind is CheckpointKind.LAST), chosen)


def _files_told(files: list[tuple[CheckpointKind, int, str, bool]]) -> str:
    return (
        ", ".join(
            f"{kind.value} {snapshot} of attempt {attempt}{' as the last word' if closing else ''}"
            for kind, attempt, snapshot, closing in files
        )
        or "no checkpoint"
    )


def without_beat(memory: Memory) -> Memory:
    """The memory without the clock of the heartbeats, which is written nowhere."""
    return replace(memory, heartbeat_since=None, heartbeat_out=False)


def _some(keys: set[str]) -> str:
    return ", ".join(sorted(keys)) or "nothing"
