"""A session, and `start`: clock, decisions, journal and sender wired together.

What a trainer says goes through the door (`door.Door`): decided, written, adopted. There the training thread's part
ends. Two threads deliver what the journal holds (`sender`), and what a hub answers comes back through the same door.
Nothing that a hub does raises here; after `start` returned, only wrong arguments and illegal events do.
"""

from __future__ import annotations

import dataclasses
import os
import random
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from hubstate import machine, settings
from hubstate.actions import Condition, Decision, Memory
from hubstate.checkpoints import Checkpoint, Checkpoints
from hubstate.clock import Clock, SystemClock
from hubstate.controller import explain
from hubstate.door import Door
from hubstate.errors import IllegalEvent, StorageError, UsageError
from hubstate.events import (
    EVENTS,
    Abort,
    Event,
    FitEpochEnd,
    ModelSave,
    PretrainRoutineEnd,
    PretrainRoutineStart,
    TrainBatchEnd,
    TrainEnd,
    TrainStart,
    exact,
    name_of,
)
from hubstate.hubs.base import Hub
from hubstate.limits import Limits
from hubstate.opening import Opened
from hubstate.outgoing import Outgoing
from hubstate.plain import say as to_person
from hubstate.receipt import Receipt, receipt_of
from hubstate.resume import open_session
from hubstate.sender import SenderThreads
from hubstate.states import TERMINAL_STATES, CheckpointKind, Outcome, State
from hubstate.wish import Wish, checked_count, checked_fitness, checked_seconds, checked_wish

__all__ = ["Session", "begin", "start"]

#: How long `finish` waits at most, and leaving by an exception (seconds).
AFTER_END, AFTER_ABORT = 30.0, 3.0

_BEFORE_TRAINING = (State.SESSION_CREATED, State.TIMING)

OpenHub = Callable[[str, "str | None"], Hub]


def start(
    name: str,
    *,
    hub: str | None = None,
    api_key: str | None = None,
    project: str | None = None,
    group: str | None = None,
    tags: Iterable[str] = (),
    epochs: int | None = None,
    config: Mapping[str, Any] | None = None,
    directory: str | os.PathLike[str] | None = None,
    mode: str | None = None,
    limits: Limits | None = None,
    checkpoints: str = "all",
    resume: bool | str = False,
) -> Session:
    """Opens a session, without waiting for any network.

    `epochs`: how many epochs are planned. `config`: whatever is worth remembering, as JSON can hold it. `directory`:
    where the session is kept (default `.hubstate/` here). `mode`: `on`, `offline` (kept here, delivered by
    `hubstate sync`) or `off`. `limits`: least seconds between sends. `checkpoints`: `all`, `best`, `last`, `final` or
    `none`. `resume`: True continues the newest session of this name that is not done, or begins one; an id continues
    that one, also where another machine began it: then the hub is asked for it, and what it holds comes along.

    Raises `UsageError` for an argument or setting that cannot be used, `StorageError` if the directory cannot be
    written, and with an id `SessionNotFound` or `SessionBusy`. Never because of a hub, with one exception: an id that is
    unknown here, whose hub gives no answer (`HubUnreachable`) or refuses (`HubRefused`).
    """
    wish = checked_wish(name, tags, epochs, config, limits, checkpoints, resume)
    found = settings.resolve(
        hub=hub,
        api_key=api_key,
        directory=directory,
        mode=mode,
        project=project,
        group=group,
        limits=None if limits is None else dataclasses.asdict(limits),
    )
    return begin(wish, found)


def begin(
    wish: Wish,
    found: settings.Settings,
    *,
    clock: Clock | None = None,
    chance: random.Random | None = None,
    open_hub: OpenHub | None = None,
    say: Callable[[str], None] | None = None,
    threads: type[SenderThreads] = SenderThreads,
) -> Session:
    """As `start`, with the settings put together; clock, randomness, hub and what sends can be handed in."""
    clock = SystemClock() if clock is None else clock
    chance = random.SystemRandom() if chance is None else chance
    if found.mode == "off" or found.rank > 0:
        opener = open_hub or partial(_open_hub, found)
        return Session(None, wish, found, clock, chance, opener, say or to_person, threads)
    listener = _Later()
    opened = open_session(wish.name, wish.resume, found, clock, chance, listener)
    say = say or to_person
    try:
        found = _with_its_own_hub(opened.door.memory, found, say)
        for withheld in (found.key_withheld, found.mlflow.withheld):
            if found.mode == "on" and withheld:
                say(withheld)
        opener = open_hub or partial(_open_hub, found)
        return Session(opened, wish, found, clock, chance, opener, say, threads, listener)
    except BaseException:
        opened.close()  # nobody would hold what could let go of it
        raise


def _with_its_own_hub(
    memory: Memory, found: settings.Settings, say: Callable[[str], None]
) -> settings.Settings:
    """A session belongs to the first hub that acknowledged it, whatever is set now; that hub gets its own key."""
    if found.mode != "on" or memory.hub in (None, found.hub):
        return found
    say(
        f"{memory.name} belongs to {memory.hub} and is delivered there, not to {found.hub or 'no hub at all'}"
    )
    return settings.for_hub(memory.hub, found)


def _open_hub(found: settings.Settings, address: str, api_key: str | None) -> Hub:
    # Loaded by the sender's thread: `requests` takes longer to import than a session takes to start.
    from hubstate.hubs import open_hub  # noqa: PLC0415

    return open_hub(address, api_key, found=found)


class _Later:
    """A listener whose hearer is known only after the door that calls it was made."""

    def __init__(self) -> None:
        self.hearer: Callable[[Memory, Decision], None] = lambda _before, _decision: None

    def __call__(self, before: Memory, decision: Decision) -> None:
        self.hearer(before, decision)


class Session:
    """One session of one training, made by `start`. `log` and `save` may be called from any thread.

    It is a context manager: leaving it normally ends the training and waits for what is left (`finish`); leaving it
    by an exception ends the session `aborted`, with the reason.
    """

    def __init__(
        self,
        opened: Opened | None,
        wish: Wish,
        found: settings.Settings,
        clock: Clock,
        chance: random.Random,
        open_hub: OpenHub,
        say: Callable[[str], None],
        threads: type[SenderThreads],
        listener: _Later | None = None,
    ) -> None:
        self._opened = opened
        self._found = found
        self._say = say
        self._door = Door(None, Memory(), clock, self._heard) if opened is None else opened.door
        self._hub_address = found.hub if found.mode == "on" else None
        self._beginning = threading.RLock()  # a signal handler may log in the middle of the first log
        self._epoch: int | None = None
        self._stopped = False
        self._closed = False
        self._unkept = ""
        self._epochs = wish.epochs
        self._first_epoch = 0
        self._checkpoints: Checkpoints | None = None
        self._outgoing: Outgoing | None = None
        if opened is not None:
            self._checkpoints = Checkpoints(opened.door, opened.snapshots)
            address, key = self._hub_address, found.api_key
            hub = None if address is None else partial(open_hub, address, key)
            self._outgoing = Outgoing(opened, hub, clock, chance, found.directory, threads)
            if listener is not None:
                listener.hearer = self._heard
        self._announce(wish)

    # -- what a caller may look at -------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """The session's id, a ULID; empty where nothing is kept (mode `off`, or not the main process)."""
        return self._door.memory.session

    @property
    def state(self) -> State:
        """The phase of the session."""
        return self._door.memory.state

    @property
    def outcome(self) -> Outcome:
        """What became of the training."""
        return self._door.memory.outcome

    @property
    def url(self) -> str | None:
        """The session's page; None until the hub answered."""
        return self._door.memory.url

    @property
    def legal(self) -> tuple[str, ...]:
        """The names of the events that are legal now; none once the session was let go of."""
        return () if self._closed else machine.legal_events(self.state)

    @property
    def stop_requested(self) -> bool:
        """Whether somebody at the hub wishes that the training stops. `epochs()` heeds it by itself."""
        return self._door.memory.stop is not None

    def heed_stop(self) -> bool:
        """For trainer modules: whether a stop is wished; whoever asks ends the training by it, with outcome `stopped`."""
        self._stopped = self._stopped or self.stop_requested
        return self.stop_requested

    @property
    def last_checkpoint(self) -> Checkpoint | None:
        """The newest whole checkpoint, of an earlier attempt or this one; None if there is none."""
        return None if self._checkpoints is None else self._checkpoints.newest

    @property
    def waiting(self) -> int:
        """How many rows, files and words a hub has still to acknowledge."""
        return self.receipt.waiting

    @property
    def receipt(self) -> Receipt:
        """What was recorded, delivered, refused, and what waits, as of now."""
        return receipt_of(self._door.memory, extra=tuple(self._local_conditions()))

    def explain(self, event: str) -> str:
        """What an event would do just now, or why it would do nothing, in words. It changes nothing.

        Raises `UsageError` if there is no event of this name.
        """
        kinds = {name_of(kind): kind for kind in EVENTS}
        if event not in kinds:
            raise UsageError(f"there is no event {event!r}; there are {', '.join(sorted(kinds))}")
        if self._closed:
            return f"the session was let go of by this process while {self.state.value}: nothing is taken any more"
        asked = _sample(kinds[event], self._door.now())
        if isinstance(asked, PretrainRoutineStart):
            wanted, main = self._found.mode != "off", self._found.rank <= 0
            asked = msgspec.structs.replace(asked, wanted=wanted, main=main)
        return explain(self._door.memory, asked)

    # -- what a trainer says -------------------------------------------------------------------------------

    def epochs(self, start: int | None = None) -> Iterator[int]:
        """The epochs to train (0-based): from after the last checkpoint, or `start`, to the planned number.

        Ends early when the hub asks for it. Without a planned number it goes on until then.
        """
        first = self._first_epoch if start is None else checked_count("the start of epochs()", start)
        if first < 0:
            raise UsageError(f"the start of epochs() must not be negative, and is {first}")
        return self._epochs_from(first)

    def _epochs_from(self, epoch: int) -> Iterator[int]:
        if self._closed or self.state is State.FINALIZING or self.state in TERMINAL_STATES:
            return
        self._begin_training()
        while self._epochs is None or epoch < self._epochs:
            if self.stop_requested:
                self._stopped = True
                return
            self._epoch = epoch
            yield epoch
            epoch += 1

    def log(self, metrics: Mapping[str, Any], *, epoch: int | None = None, step: int | None = None) -> None:
        """Records a row: what an epoch measured, or with `step` what a step did. It is on disk when this returns.

        Numbers, NumPy scalars and tensors of one element are taken; NaN and infinities are values. The epoch
        (0-based) defaults to that of `epochs()`, and without it to the next one; threads that log at the same time
        should name it.
        Raises `UsageError` for what is no number, and `IllegalEvent` after the end; nothing is recorded then.
        """
        values, nonfinite = exact(metrics)
        if self._door.memory.state in _BEFORE_TRAINING:
            self._begin_training()
        if type(epoch) is not int:
            epoch = self._next_epoch() if epoch is None else checked_count("epoch", epoch)
        try:
            if step is None:
                decision = self._door.tell(FitEpochEnd, epoch, values, nonfinite)
            elif values:  # a step without metrics is no event
                step = step if type(step) is int else checked_count("step", step)
                decision = self._door.tell(TrainBatchEnd, epoch, step, values, nonfinite)
            else:
                return
        except UnicodeEncodeError as error:
            raise UsageError(
                f"a metric's name is no text that UTF-8 can hold ({error}); nothing of this row was recorded"
            ) from error
        if decision.refusal is not None:
            self._raise_if_illegal(decision)

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        epoch: int | None = None,
        fitness: float | None = None,
        kind: str = "last",
    ) -> None:
        """Says that a checkpoint was written to `path`, a file or a folder. If it is kept, the copy is whole when this returns.

        `fitness`: larger is better; the best is found by it, and without one nothing is best. `kind`: `last`, or `final`
        for the one that the training shall end with. The epoch defaults as in `log`. Raises `CheckpointMissing` if there is no such file, `UsageError`, and `IllegalEvent` after the end.
        """
        if kind not in ("last", "final"):
            raise UsageError(
                f"kind must be last or final (the best is found by its fitness), not {kind!r:.80}"
            )
        try:
            file = Path(os.fsdecode(path))
        except TypeError as error:
            raise UsageError(f"a checkpoint needs a path, not {type(path).__name__} {path!r:.80}") from error
        if fitness is not None:
            fitness = checked_fitness(fitness)
        if self._checkpoints is None:
            return
        self._begin_training()
        if self._closed:
            raise IllegalEvent(self.state, name_of(ModelSave), (), closed=True)
        decision = self._checkpoints.save(file, self._save_epoch(epoch), fitness, CheckpointKind(kind))
        self._raise_if_illegal(decision)

    def tell(self, kind: type[Event], /, *fields: Any, **named: Any) -> Decision:
        """Says an event as it is, for trainer modules: nothing is defaulted, and an illegal one is a value."""
        return self._door.tell(kind, *fields, **named)

    # -- the ends --------------------------------------------------------------------------------------------

    def finish(self, timeout: float = AFTER_END) -> Receipt:
        """Ends the training, waits at most `timeout` seconds for what is left, and lets go of the session.

        It waits 0 s without a hub, and at most 5 s while nothing moves. What is still waiting then is kept, and
        delivered by `hubstate sync` or beside a later session. Calling it again changes nothing.
        """
        timeout = checked_seconds("timeout", timeout)
        if self._outgoing is not None and self._is_mine() and not self._closed:
            try:
                try:
                    self._end_training()
                    self._outgoing.wait(timeout)
                finally:
                    self._end_training()  # once more, if Ctrl-C broke into the word
            finally:
                self.close()  # Ctrl-C ends the waiting, and not the session
        return self.receipt

    def _end_training(self) -> None:
        self._door.flush()  # a word that Ctrl-C broke into counts if it was written
        self._begin_training()
        if self.state is not State.TRAINING:
            return
        final = None
        try:
            final = None if self._checkpoints is None else self._checkpoints.name_final()
        finally:  # Ctrl-C ends the copying of a large file, and not the word
            outcome = Outcome.STOPPED if self._stopped else Outcome.FINISHED
            self._door.tell(TrainEnd, outcome=outcome, final=final)

    def abort(
        self, reason: str, *, outcome: Outcome = Outcome.FAILED, timeout: float = AFTER_ABORT
    ) -> Receipt:
        """Ends the session `aborted`, waits at most `timeout` seconds for what was recorded, and lets go of it.

        `outcome`: `failed`, `interrupted`, `stopped` or `unknown`. After the end of the training it only lets go.
        Raises `UsageError` for another outcome, and nothing has happened then.
        """
        timeout = checked_seconds("timeout", timeout)
        Abort(self._door.now(), outcome=outcome, reason=reason)  # before anything happens: is it one?
        if self._outgoing is not None and self._is_mine() and not self._closed:
            try:
                try:
                    self._say_abort(outcome, reason)
                    self._outgoing.wait(timeout)
                finally:
                    self._say_abort(outcome, reason)  # once more, if a second Ctrl-C broke into the word
            finally:
                self.close()
        return self.receipt

    def _say_abort(self, outcome: Outcome, reason: str) -> None:
        self._door.flush()  # a word that Ctrl-C broke into counts if it was written
        if self.state in (*_BEFORE_TRAINING, State.TRAINING):
            self._door.tell(Abort, outcome=outcome, reason=reason)

    def flush(self, timeout: float = 30.0) -> bool:
        """Waits at most `timeout` seconds until the hub holds all that was recorded so far; tells whether it does."""
        timeout = checked_seconds("timeout", timeout)
        if self._outgoing is None:
            return True
        if self._is_mine() and not self._closed:
            self._outgoing.hurry()
            self._outgoing.wait(timeout, stall=timeout)
        return self._outgoing.is_drained

    def close(self) -> None:
        """Lets go of the session at once, whatever waits. What was recorded stays, and leaves with a later process."""
        if self._outgoing is None or self._closed or not self._is_mine():
            return
        self._closed = True
        try:
            self._outgoing.close()
        except StorageError as failure:
            # A training is not broken by its end: the receipt tells, and the person hears.
            self._unkept = str(failure)
        if trouble := self._trouble_here():
            self._say(f"{self._door.memory.name} may not be whole in {self._found.directory}: {trouble}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        try:
            self._leave(kind, error)
        except KeyboardInterrupt:
            self._leave(kind, error, at_once=True)  # Ctrl-C ends the waiting, and not the word
            raise
        finally:
            self.close()  # whatever broke into it, nobody is left who could let go of the session

    def _leave(
        self, kind: type[BaseException] | None, error: BaseException | None, *, at_once: bool = False
    ) -> None:
        """Ends the session as the block was left; where that was said already, nothing more."""
        if error is None or kind is None or (isinstance(error, SystemExit) and error.code in (None, 0)):
            self.finish(0.0 if at_once else AFTER_END)
            return
        outcome, reason = Outcome.FAILED, f"{kind.__name__}, which cannot tell why"
        # Its `__str__` is the caller's code and may raise anything; that must not hide what ended the training.
        with suppress(Exception):
            if isinstance(error, SystemExit):
                reason = f"the process ended by sys.exit({error.code!r})"[:2000]
            else:
                reason = f"{kind.__name__}: {error}"[:2000]
        if isinstance(error, KeyboardInterrupt):
            outcome, reason = Outcome.INTERRUPTED, "interrupted by Ctrl-C"
        self.abort(reason, outcome=outcome, timeout=0.0 if at_once else AFTER_ABORT)

    def __repr__(self) -> str:
        return f"<hubstate session {self.id or '(none)'}: {self.state.value}, {self.outcome.value}>"

    # -- inside ----------------------------------------------------------------------------------------------

    def _is_mine(self) -> bool:
        """Whether this process has the session open, and is no forked child of the one that has."""
        return self._opened is not None and os.getpid() == self._opened.ownership.pid

    def _announce(self, wish: Wish) -> None:
        """Says that training is about to be prepared, unless the session is over and opens as it is."""
        memory = self._door.memory
        if memory.state is not State.IDLE:
            self._say(
                f"{memory.name} is {memory.state.value} already: its training is over, what waits is delivered"
            )
            self._epochs = memory.epochs
            if self._outgoing is not None:
                self._outgoing.begin()
            return
        limits = wish.limits or Limits(**self._found.limits)
        checkpoint = self.last_checkpoint
        self._first_epoch = 0 if checkpoint is None else checkpoint.epoch + 1
        self._epochs = memory.epochs if wish.epochs is None else wish.epochs
        self._door.tell(
            PretrainRoutineStart,
            session=memory.session,
            name=wish.name,
            wanted=self._found.mode != "off",
            main=self._found.rank <= 0,
            first_epoch=self._first_epoch,
            epochs=self._epochs,
            project=self._found.project,
            group=self._found.group,
            tags=wish.tags,
            config=wish.config,
            hub=self._hub_address is not None,
            address=self._hub_address,
            # Nobody begins an attempt of this session elsewhere in the same microsecond.
            mark=f"{self._door.now():.6f}",
            metrics_interval=limits.metrics,
            checkpoint_interval=limits.checkpoint,
            heartbeat_interval=limits.heartbeat,
            checkpoints=wish.checkpoints,
            usage=wish.usage,
        )
        if self._opened is not None and self._hub_address is None:
            why = "the mode is offline" if self._found.mode == "offline" else "no hub is set"
            self._say(
                f"{why}: {wish.name} is kept in {self._opened.folder}; `hubstate show` shows it, `hubstate sync --hub URL` "
                "delivers it any time"
            )

    def _begin_training(self) -> None:
        """Says what is missing before the first row."""
        if self._door.memory.state not in _BEFORE_TRAINING or self._closed:
            return
        with self._beginning:
            if self.state is State.SESSION_CREATED:
                self._door.tell(PretrainRoutineEnd)
            if self.state is State.TIMING:
                self._door.tell(TrainStart)

    def _next_epoch(self) -> int:
        if self._epoch is not None:
            return self._epoch
        finished = self._door.memory.epoch
        return 0 if finished is None else finished + 1

    def _save_epoch(self, epoch: int | None) -> int:
        if epoch is not None:
            return checked_count("epoch", epoch)
        if self._epoch is not None:
            return self._epoch
        return self._door.memory.epoch or 0  # after `log`: the epoch that was just logged

    def _raise_if_illegal(self, decision: Decision) -> None:
        refusal = decision.refusal
        if self._closed:
            raise IllegalEvent(self.state, name_of(decision.event), (), closed=True)
        if refusal is not None and refusal.illegal:
            raise IllegalEvent(refusal.state, refusal.event, refusal.legal)

    def _heard(self, before: Memory, decision: Decision) -> None:
        """After each step that did more than count a row; also from the sender's threads."""
        after = decision.memory
        if self._checkpoints is not None and self._outgoing is not None:
            self._checkpoints.heard(before, after)
            self._outgoing.heard(before, decision)
        if after.url is not None and after.url != before.url:
            self._say(f"{after.name} is shown at {after.url}")

    def _trouble_here(self) -> str:
        """What this machine does not keep of the session, and why; empty while all is well."""
        unwritten, failure = self._door.unwritten, self._door.failure or self._unkept
        return f"{unwritten} steps are only in memory: {failure}" if unwritten else failure

    def _local_conditions(self) -> Iterator[Condition]:
        now = self._door.now()
        if trouble := self._trouble_here():
            yield Condition("journal_failing", now, trouble)
        if self._outgoing is not None and self._outgoing.failure:
            yield Condition("sender_failing", now, self._outgoing.failure)
        rejected = any(known.name == "credentials_rejected" for known in self._door.memory.conditions)
        if rejected and self._found.key_withheld:
            yield Condition("key_withheld", now, self._found.key_withheld)


def _sample(kind: type[Event], at: float) -> Event:
    """An event of this kind as a trainer would say it next, to ask about."""
    fields: dict[str, Any] = {"epoch": 0, "step": 0, "metrics": {}, "path": "", "size": 0, "mtime_ns": 0}
    fields |= {"outcome": Outcome.STOPPED, "reason": "", "key": "", "condition": ""}
    names = {field.name for field in msgspec.structs.fields(kind) if field.required} - {"at"}
    return kind(at, **{name: fields[name] for name in names})
