"""The sender: what is due leaves, and what comes back is told.

`Sender.step(lane)` is the whole logic, as a function of time: it folds the journal into the outbox, asks whether
time made something due, hands at most one parcel to the hub, notes what became of it, and says in how many seconds
it wants to be called again. It has no thread, never sleeps, and reads no clock but the one handed in. A try in
vain is a value: it is noted in the outbox with the time of the next try, spread at random over a growing interval
(full jitter), and what a hub asks for by `Retry-After` wins.

`SenderThreads` calls it from two thin threads: one for words (opening, rows, heartbeats, the end), one for files.
Both ask the disk to keep what was written: before each turn, and every few seconds while they rest. So a hub that
swallows the one's request delays no sync while the other is free. Only while both are in a request nobody syncs,
and a power cut then takes more than a batch: all since the request of words began, which has a total deadline.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from hubstate.actions import (
    AnyAction,
    Decision,
    Heartbeat,
    Memory,
    OpenSession,
    RecordUsage,
    Row,
    SendCheckpoint,
    SendRows,
)
from hubstate.bell import Bell
from hubstate.clock import Clock
from hubstate.errors import CheckpointMissing
from hubstate.events import (
    Answered,
    Delivered,
    Event,
    HeartbeatTick,
    HeldUp,
    Refused,
    StopRequested,
    Tick,
)
from hubstate.hubs.base import Accepted, Declined, Delayed, Hub, Parcel, Reply
from hubstate.limits import LEAST_HEARTBEAT, next_due
from hubstate.log import log
from hubstate.outbox import FILES, LONGEST_WAIT, WORDS, Delivery, Outbox
from hubstate.snapshots import digest, look

__all__ = ["Sender", "SenderThreads", "Stepper"]


#: Full jitter: a uniform draw from 0 to the smaller of CAP and FIRST * 2^tries (seconds).
FIRST, CAP = 1.0, 60.0
#: No hub is asked again sooner than this, whatever it says (seconds): `Retry-After: 0` must not become a storm.
LEAST_WAIT = 1.0
#: How long to go without a look when nothing is known to become due (seconds).
IDLE = 60.0
#: How many lines of the journal are folded in between two parcels.
BATCH = 1_000
#: How long at most what was written waits for a sync while a thread rests (seconds).
BETWEEN_SYNCS = 5.0
#: How long a thread rests after this machine failed it (seconds).
AFTER_FAILURE = 5.0
#: Beside a training a thread uses one part in so many of a processor's time: while it works, the training thread waits
#: for the interpreter again and again, up to 5 ms each time.
PARTS = 200
#: How long at most a thread rests after a turn because of that (seconds).
LONGEST_REST = 2.0


class Teller(Protocol):
    """The part of the door that the sender uses."""

    @property
    def memory(self) -> Memory: ...
    @property
    def unwritten(self) -> int: ...
    def standing(self) -> tuple[tuple[int, int], Memory] | None: ...
    def now(self) -> float: ...
    def flush(self) -> None: ...
    def tell(self, kind: type[Event], /, *fields: object, **named: object) -> Decision: ...


class Sender:
    """The sender of one session. Each lane is stepped by one thread at a time; the two lanes may overlap."""

    def __init__(
        self,
        door: Teller,
        outbox: Outbox,
        hub: Hub,
        snapshot: Callable[[str], Path],
        *,
        chance: random.Random,
        alive: bool = True,
    ) -> None:
        """`snapshot` tells where a snapshot lies; `alive` False sends no heartbeats (the training process is gone)."""
        self._door = door
        self._outbox = outbox
        self._hub = hub
        self._snapshot = snapshot
        self._chance = chance
        self._alive = alive
        self._troubles: dict[str, str] = {}
        self._settled = 0
        self._told_damage = ""
        #: The sends for whose missing rows the journal was folded anew already.
        self._searched: set[str] = set()
        #: The time before which the hub wants no sign of life (s since 1970).
        self._no_beat_before = 0.0

    @property
    def moved(self) -> int:
        """Grows while deliveries are settled or bytes of an upload leave: whoever waits looks at it."""
        return self._settled + self._hub.moved

    def close(self) -> None:
        """Lets go of the outbox and of the hub's connections."""
        self._outbox.close()
        self._hub.close()

    def step(self, lane: str) -> float:
        """Does what is due in `lane`, one parcel at most; returns the seconds until it wants to be called again.

        Never raises because of a hub. Raises `StorageError` or an SQLite error if this machine fails it.
        """
        if lane == WORDS:
            self._door.flush()
        more = self._fold()
        if not (more or self._outbox.reconciled):
            self._reconcile()
        if lane == WORDS:
            self._tick()
        rest = self._send_next(lane)
        return 0.0 if more else rest

    def _fold(self) -> bool:
        """Folds one batch of the journal in, and tells whether there may be more.

        One batch and no more: a trainer may write faster than this folds, and then nothing would ever leave. A part
        of a journal is as consistent as the whole, for the rows of a send stand before it; what the part does not
        know to be settled, the memory does (`_is_settled`).
        """
        more = self._outbox.ingest(BATCH) >= BATCH
        if self._outbox.damage != self._told_damage:
            self._told_damage = self._outbox.damage
            log("hubstate.sender").warning("hubstate.outbox_renewed", reason=self._told_damage)
        return more

    def _reconcile(self) -> bool:
        """Brings the outbox into line with the memory, if both can be had at the same place; tells whether it is."""
        standing = self._door.standing()
        if standing is not None:
            self._outbox.reconcile(*standing)
        return standing is not None and self._outbox.reconciled

    # -- what time makes due -----------------------------------------------------------------------------

    def _tick(self) -> None:
        """Asks whether time made something due; a heartbeat that is due leaves at once, and once."""
        if self._beats():
            for action in self._door.tell(HeartbeatTick).actions:
                assert isinstance(action, Heartbeat), "the table asks for nothing else"
                self._beat(action)
        if self._door.tell(Tick).actions:
            self._fold()

    def _beats(self) -> bool:
        """Whether signs of life may be asked for: somebody trains here, and the hub does not hold them off."""
        return self._alive and self._door.now() >= self._no_beat_before

    def _beat(self, action: Heartbeat) -> None:
        memory = self._door.memory
        refused = {refused.key for refused in memory.refused}
        if any(
            isinstance(a, OpenSession) and (memory.model is None or a.key in refused)
            for a in memory.outstanding
        ):
            # Nobody could know whose sign of life this is: the opening is on its way and says as much, or was refused.
            self._door.tell(
                HeldUp, key=action.key, condition="offline", reason="the session is not open there yet"
            )
            return
        reply = self._hub.deliver(Parcel(action.key, action, memory.session, memory.model))
        self._hear(reply)
        match reply:
            case Accepted():
                self._door.tell(Delivered, key=action.key)
            case Declined():
                self._door.tell(Refused, key=action.key, reason=reply.reason, status=reply.status)
            case Delayed():
                self._door.tell(HeldUp, key=action.key, condition=reply.condition, reason=reply.reason)
                if reply.retry_after is not None:
                    self._no_beat_before = self._door.now() + min(LONGEST_WAIT, reply.retry_after)

    # -- one delivery ------------------------------------------------------------------------------------

    def _send_next(self, lane: str) -> float:
        now = self._door.now()
        claim = self._outbox.claim(lane, now)
        if not isinstance(claim, Delivery):
            return self._rest(lane, None if claim is None else claim - now)
        if self._is_settled(claim):
            return self._catch_up()
        parcel = self._parcel(claim)
        if isinstance(parcel, str):
            self._door.tell(Refused, key=claim.key, reason=parcel)
            self._searched.discard(claim.key)  # who tries it again has mended something
            self._fold()
            return 0.0
        reply = self._hub.deliver(parcel)
        self._hear(reply)
        return self._settle(claim, parcel, reply)

    def _is_settled(self, delivery: Delivery) -> bool:
        """Whether the session knows already what became of a delivery.

        The outbox is behind the memory while it is being folded, and while the journal cannot be written.
        """
        memory = self._door.memory
        # Nobody remembers a usage; one that arrives twice carries the same key.
        return not isinstance(delivery.action, RecordUsage) and (
            all(action.key != delivery.key for action in memory.outstanding)
            or any(refused.key == delivery.key for refused in memory.refused)
        )

    def _catch_up(self) -> float:
        """What is settled must not leave again: the outbox catches up first. Returns when to look again (seconds)."""
        if self._outbox.ingest(BATCH):
            return 0.0
        # Either the memory has just moved on, or both know all there is and differ: then a line is damaged.
        return 0.0 if self._reconcile() else AFTER_FAILURE

    def _rest(self, lane: str, until_due: float | None) -> float:
        rests = [AFTER_FAILURE if self._door.unwritten else IDLE]
        if until_due is not None:
            rests.append(until_due)
        if lane == WORDS:
            by_time = next_due(self._door.memory, self._door.now(), heartbeats=self._beats())
            # What time made due while it could not be asked for (the state forbids it) is not asked for again at once.
            rests += [] if by_time is None else [max(by_time, 0.05)]
            if self._alive and not self._beats():
                rests.append(self._no_beat_before - self._door.now())
        return max(0.0, min(rests))

    def _parcel(self, delivery: Delivery) -> Parcel | str:
        """The next request of a delivery, or why there can be none any more."""
        memory = self._door.memory
        action = delivery.action
        match action:
            case SendRows():
                rows = self._next_rows(action, delivery)
                if not rows:
                    return "the rows cannot be read here any more: their lines in the journal are damaged"
                key = f"{action.key}#{rows[0].number}-{rows[-1].number}"
                return Parcel(key, action, memory.session, memory.model, rows=rows)
            case SendCheckpoint():
                file = self._snapshot(action.snapshot)
                try:
                    sha256 = delivery.sha256 or digest(file)
                    size = look(file).size
                except (OSError, CheckpointMissing) as error:
                    reason = error.strerror if isinstance(error, OSError) else error
                    return f"the kept file {file.name} cannot be read here any more: {reason}"
                if size != action.size:
                    return (
                        f"the kept file {file.name} has {size} bytes, and had {action.size} when it was kept"
                    )
                if not delivery.sha256:
                    self._outbox.remember_digest(delivery.key, sha256)
                return Parcel(action.key, action, memory.session, memory.model, file=file, sha256=sha256)
            case _:
                return Parcel(action.key, action, memory.session, memory.model)

    def _next_rows(self, action: SendRows, delivery: Delivery) -> tuple[Row, ...]:
        """The next rows of a send. Before any are believed to be lost the journal is asked, once for each send."""
        after = max(action.first - 1, delivery.progress)
        rows = self._outbox.rows(action, after)
        last = after + len(rows)
        whole = (not rows or rows[-1].number == last) and (
            last == action.last or self._outbox.next_row(action, last) == last + 1
        )
        if whole or action.key in self._searched:
            return rows
        self._outbox.renew(f"lacked rows of {action.key}")
        self._searched.add(action.key)
        return self._outbox.rows(action, after)

    def _settle(self, delivery: Delivery, parcel: Parcel, reply: Reply) -> float:
        action = delivery.action
        match reply:
            case Accepted():
                if isinstance(action, SendRows) and self._outbox.next_row(action, parcel.rows[-1].number):
                    self._outbox.advance(
                        delivery.key,
                        parcel.rows[-1].number,
                        delivery.taken + reply.rows,
                        reply.not_taken or delivery.not_taken,
                    )
                else:
                    self._delivered(delivery, action, reply)
            case Declined():
                self._door.tell(Refused, key=delivery.key, reason=reply.reason, status=reply.status)
                log("hubstate.sender").warning(
                    "hubstate.delivery_refused", key=delivery.key, reason=reply.reason
                )
            case Delayed():
                self._postpone(delivery, reply)
                return 0.0
        self._settled += 1
        self._troubles.pop(delivery.key, None)
        self._fold()
        return 0.0

    def _delivered(self, delivery: Delivery, action: AnyAction, reply: Accepted) -> None:
        not_taken = reply.not_taken or delivery.not_taken
        rows = 0
        if isinstance(action, SendRows):
            rows = delivery.taken + reply.rows
            missing = action.last - action.first + 1 - self._outbox.held(action)
            if missing and not not_taken:
                # What nobody sent is not to be counted as delivered.
                not_taken = f"{missing} rows, whose lines in the journal are damaged"
        self._door.tell(Delivered, key=delivery.key, not_taken=not_taken, rows=rows, sha256=reply.sha256)

    def _postpone(self, delivery: Delivery, reply: Delayed) -> None:
        """Notes when the next try is due. The door hears of a trouble once, not at every try."""
        wait = self._chance.uniform(0.0, min(CAP, FIRST * 2.0 ** min(delivery.tries, 16)))
        until = None
        if reply.retry_after is not None:
            wait = min(LONGEST_WAIT, max(LEAST_WAIT, reply.retry_after))
            until = self._door.now() + wait
        trouble = f"{reply.condition}: {reply.reason}"
        # Nobody hurries what a hub set a time for, whatever kept it: the outbox knows that by this word.
        noted = trouble if until is None else f"rate_limited: {reply.reason}"
        self._outbox.postpone(delivery.key, self._door.now() + wait, noted)
        if until is not None or self._troubles.get(delivery.key) != trouble:
            self._troubles[delivery.key] = trouble
            self._door.tell(
                HeldUp, key=delivery.key, condition=reply.condition, reason=reply.reason, until=until
            )

    # -- what answers tell beside the receipt ------------------------------------------------------------

    def _hear(self, reply: Reply) -> None:
        memory, news = self._door.memory, reply.news
        # A session belongs to the first hub that holds something of it; a page of somebody in between holds nothing.
        belongs = memory.hub is None and isinstance(reply, Accepted)
        told = {
            "hub": news.hub if belongs else None,
            "model": news.model if news.model != memory.model else None,
            "url": news.url if news.url != memory.url else None,
            "metrics_interval": _changed(news.metrics_interval, memory.metrics_interval, 0.0),
            "checkpoint_interval": _changed(news.checkpoint_interval, memory.checkpoint_interval, 0.0),
            "heartbeat_interval": _changed(
                news.heartbeat_interval, memory.heartbeat_interval, LEAST_HEARTBEAT
            ),
        }
        told = {name: value for name, value in told.items() if value is not None}
        if told:
            self._door.tell(Answered, **told)
        if news.stop is not None and memory.stop is None:
            self._door.tell(StopRequested, news.stop)


def _changed(told: float | None, known: float, least: float) -> float | None:
    """An interval (s) that is news. What is remembered is never below `least`, so that is what it is compared with."""
    return None if told is None or max(least, told) == known else told


class Stepper(Protocol):
    """What the threads step: a sender, or several behind one another."""

    def step(self, lane: str) -> float:
        """Does what is due in `lane`; returns the seconds until it wants to be called again."""
        ...

    def close(self) -> None:
        """Lets go of what it opened."""
        ...


class SenderThreads:
    """Two threads at most, which step a stepper until they are told to stop. Neither keeps the process alive."""

    def __init__(self, make: Callable[[], Stepper], clock: Clock, *, sync: Callable[[], None]) -> None:
        """`make` builds the stepper, on the first thread, so that whoever starts it waits for nothing.

        `sync` asks the disk to keep what was written. Both threads call it, one at a time.
        """
        self._make = make
        self._stepper: Stepper | None = None
        self._clock = clock
        self._sync = sync
        self._stopping = False
        self._signals = {WORDS: Bell(), FILES: Bell()}
        self._threads: dict[str, threading.Thread] = {}
        self._lock = threading.RLock()  # a signal handler may say something in the middle of a poke
        self._building = threading.Lock()
        self._syncing = threading.Lock()
        self._hurry = Bell()
        self._waiting = 0
        self._running = 0
        self._failures: dict[str, str] = {}

    @property
    def failure(self) -> str:
        """Why a thread could do nothing at its last turn, for people; empty when all is well."""
        return "; ".join(dict.fromkeys(self._failures.values()))

    def poke(self, *, files: bool = False) -> None:
        """Something was written that may be due: wakes the threads (the first time: starts them), without waiting."""
        if self._stopping:
            return
        self._begin(WORDS)
        self._signals[WORDS].set()
        if files:
            self._begin(FILES)
        self._signals[FILES].set()

    @contextmanager
    def hurried(self) -> Iterator[None]:
        """Meanwhile somebody waits: the threads take all the time that they can get."""
        with self._lock:
            self._waiting += 1
            self._hurry.set()
        try:
            yield
        finally:
            with self._lock:
                self._waiting -= 1

    def stop(self, timeout: float) -> bool:
        """Asks the threads to stop after the parcel that is under way, and waits for that at most `timeout` s.

        Returns whether all have stopped. The last one to stop, now or later, closes the stepper.
        """
        self._stopping = True
        for signal in (self._hurry, *self._signals.values()):
            signal.set()
        deadline = self._clock.monotonic() + timeout
        for thread in list(self._threads.values()):
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - self._clock.monotonic()))
        return not any(thread.is_alive() for thread in self._threads.values())

    def _begin(self, lane: str) -> None:
        if lane in self._threads:
            return
        with self._lock:
            thread = threading.Thread(target=self._live, args=(lane,), name=f"hubstate-{lane}", daemon=True)
            # One step, for a handler may come to here while its thread is here already.
            if self._threads.setdefault(lane, thread) is thread:
                self._running += 1
                try:
                    thread.start()
                except RuntimeError as error:
                    # No thread can be had just now (a limit of the system, or the interpreter ends): whoever trains
                    # must not hear of it. The next poke tries again, and what is kept is delivered later.
                    del self._threads[lane]
                    self._running -= 1
                    self._failures[lane] = f"no thread can be started: {error}"

    def _built(self) -> Stepper:
        with self._building:
            if self._stepper is None:
                self._stepper = self._make()
            return self._stepper

    def _live(self, lane: str) -> None:
        try:
            self._run(lane)
        finally:
            with self._lock:
                self._running -= 1
                if self._running == 0 and self._stepper is not None:
                    self._stepper.close()

    def _run(self, lane: str) -> None:
        signal = self._signals[lane]
        while not self._is_stopping():
            signal.clear()
            try:
                self._keep()
                stepper = self._built()
                before = self._clock.worked()
                rest = stepper.step(lane)
                self._failures.pop(lane, None)
                until = self._clock.monotonic() + rest
                self._make_room(self._clock.worked() - before)
                self._rest(signal, until)
            # The outermost loop of a thread that must not die: whatever this machine does to it (a full disk, a
            # locked database), it is shown and tried again, for nothing that is kept may stay unsent.
            except Exception as error:  # noqa: BLE001
                if self._is_stopping():
                    return
                reason = self._failures[lane] = f"{type(error).__name__}: {error}"
                log("hubstate.sender").warning("hubstate.sender_failed", lane=lane, reason=reason)
                self._clock.wait(signal, AFTER_FAILURE)

    def _make_room(self, worked: float) -> None:
        """Leaves the interpreter to the training thread, in proportion to what a turn took of it (seconds)."""
        with self._lock:
            if self._waiting or self._stopping:
                return
            self._hurry.clear()
        self._clock.wait(self._hurry, min(LONGEST_REST, worked * (PARTS - 1)))

    def _keep(self) -> None:
        """Asks the disk to keep what was written; a thread that comes while the other does so waits, and looks too."""
        with self._syncing:
            self._sync()

    def _rest(self, signal: threading.Event, until: float) -> None:
        """Waits until somebody pokes or the time is there, and keeps meanwhile what is written without a poke."""
        # `stop` sets the flag first and the signal after it: a signal that was cleared before is seen by the flag.
        while not self._is_stopping() and (left := until - self._clock.monotonic()) > 0:
            if self._clock.wait(signal, min(left, BETWEEN_SYNCS)):
                return
            self._keep()

    def _is_stopping(self) -> bool:
        return self._stopping
