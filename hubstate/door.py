"""The one way into a session: whatever is said goes through `Door.tell`, which decides, writes and adopts.

Whoever says it, a trainer, a caller, a clock or a hub's answer, it happens in this order, under one lock: the time
is read, the event is decided, the step is written as one line, and only then is the new memory adopted. The lock is
held for that one write and for nothing else: no file is copied, synced or sent under it.

While the journal cannot be written, steps wait in bounded memory, in order; each later call tries again first. What
waits there is adopted, so that the session goes on, but nothing of it leaves: the outbox reads the journal alone.

A signal handler runs between two instructions of the main thread, so it may speak in the middle of a `tell` of the
same thread, which holds the lock. What it says follows that step; waiting for the lock would never end.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from hubstate.actions import Decision, Memory, Refusal
from hubstate.clock import Clock
from hubstate.controller import decide
from hubstate.errors import JournalFailing
from hubstate.events import Event, FitEpochEnd, TrainBatchEnd, name_of
from hubstate.journal import Journal, Step

__all__ = ["Door", "Listener"]

#: How many steps may wait in memory while the journal cannot be written. A row of ten numbers is about 1 kB.
MOST_WAITING = 50_000
_ROW_EVENTS = (FitEpochEnd, TrainBatchEnd)


class Listener(Protocol):
    """Hears of each step that asked for something or changed more than the count of rows, after it was adopted."""

    def __call__(self, before: Memory, decision: Decision) -> None: ...


class Door:
    """The door of one session. Every thread of the owning process may use it."""

    def __init__(self, journal: Journal | None, memory: Memory, clock: Clock, listener: Listener) -> None:
        """`journal` None: nothing is wanted, the memory stays idle, and nothing is ever written."""
        self._journal = journal
        self._memory = memory
        self._clock = clock
        self._wall = clock.wall()
        self._monotonic = clock.monotonic()
        self._listener = listener
        #: A signal handler may come between taking the lock and saying by whom it is held: then it may take it too.
        self._lock = threading.RLock()
        #: The thread that is inside, what a signal handler said meanwhile, and whether it closed.
        self._teller: int | None = None
        self._meanwhile: deque[tuple[type[Event], tuple[Any, ...], dict[str, Any]]] = deque()
        self._close_afterwards = False
        self._pid = os.getpid()
        self._waiting: deque[tuple[Step, Memory]] = deque()
        #: The step that is being written, and the memory after it. Not None outside `tell`: an exception broke in.
        self._begun: tuple[int, Memory] | None = None
        self._n = 0 if journal is None else journal.n
        self._closed = False
        self.failure: str = ""
        self.lost = 0

    @property
    def memory(self) -> Memory:
        """The memory as it is now. It is a frozen value: reading needs no lock."""
        return self._memory

    @property
    def unwritten(self) -> int:
        """How many steps wait in memory because the journal cannot be written."""
        return len(self._waiting)

    def standing(self) -> tuple[tuple[int, int], Memory] | None:
        """The end of the journal (as `written` tells it) and the memory that exactly the lines before it lead to.

        None while there are no such two: steps wait in memory, or one is being taken just now (a signal handler).
        """
        if self._journal is None or os.getpid() != self._pid or self._broke_in():
            return None
        with self._inside():
            self._take_up()
            return None if self._waiting else (self._journal.end, self._memory)

    def now(self) -> float:
        """Wall time at the opening plus monotonic time since (s): it never goes back while the session lives."""
        return self._wall + (self._clock.monotonic() - self._monotonic)

    def tell(self, kind: type[Event], /, *fields: Any, **named: Any) -> Decision:
        """Says an event, made of `kind` and its fields behind `at`; returns what followed.

        In a forked child, and after `close`, nothing happens and the refusal says so. From a signal handler that broke
        into a `tell`, it happens after that one, and the refusal says so. Raises what the event's own checks raise for a
        wrong field.
        """
        if os.getpid() != self._pid:
            return self._not_mine(
                kind(self.now(), *fields, **named), "this process is a child of the one that owns it"
            )
        if self._broke_in():
            event = kind(self.now(), *fields, **named)
            self._meanwhile.append((kind, fields, named))
            return self._not_mine(event, "said in the middle of another step; it follows that one")
        with self._lock:  # as `_inside`, spelt out, because it is asked for every row on the training thread
            try:
                self._teller = threading.get_ident()
                before, decision = self._step(kind, fields, named)
            finally:
                self._teller = None
        if self._meanwhile or self._close_afterwards:
            self._catch_up()
        if decision.actions or (decision.memory is not before and kind not in _ROW_EVENTS):
            self._listener(before, decision)
        return decision

    def _step(
        self, kind: type[Event], fields: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[Memory, Decision]:
        """Under the lock: decides, writes and adopts; returns the memory before it as well."""
        self._take_up()
        event = kind(self.now(), *fields, **named)
        before = self._memory
        if self._closed:
            return before, self._not_mine(event, "the session is closed here")
        decision = decide(before, event)
        if decision.journalled and not self._write(before, decision):
            return before, self._not_mine(
                event, "the journal cannot be written, and no memory is left to hold the row"
            )
        self._memory = decision.memory
        self._begun = None
        return before, decision

    def _broke_in(self) -> bool:
        """Whether this is a signal handler that broke into a step, or a writing, of the same thread."""
        return self._teller == threading.get_ident()

    @contextmanager
    def _inside(self) -> Iterator[None]:
        """Alone with memory and journal; what a signal handler said meanwhile follows."""
        with self._lock:
            try:
                self._teller = threading.get_ident()
                yield
            finally:
                self._teller = None
        if self._meanwhile or self._close_afterwards:
            self._catch_up()

    def _catch_up(self) -> None:
        """Says what a signal handler said meanwhile, and closes if it closed."""
        while self._meanwhile:
            kind, fields, named = self._meanwhile.popleft()
            self.tell(kind, *fields, **named)
        if self._close_afterwards:
            self._close_afterwards = False
            self.close()

    def look(self, kind: type[Event], /, *fields: Any, **named: Any) -> Decision:
        """What would follow from an event just now. It changes nothing and consumes nothing."""
        return decide(self._memory, kind(self.now(), *fields, **named))

    def flush(self) -> None:
        """Tries to write what waits in memory, if anything does."""
        if os.getpid() != self._pid or self._broke_in():
            return
        with self._inside():
            self._take_up()
            if self._waiting:
                self._drain()

    def sync(self) -> None:
        """Asks the disk to keep what was written; never under the lock. Raises `StorageError` if it could not.

        A journal that is not in its place any more is told by `failure` alone: the session goes on without it.
        """
        if self._journal is not None and os.getpid() == self._pid:
            try:
                self._journal.sync()
            except JournalFailing as failure:
                self.failure = str(failure)

    def written(self) -> tuple[int, int]:
        """Changes whenever a line was written."""
        return (0, 0) if self._journal is None else self._journal.end

    def close(self) -> None:
        """Nothing is taken any more; the journal is synced and let go. What could not be written stays counted.

        Raises `StorageError` if the disk did not keep the last lines; the journal is let go of even then.
        """
        if os.getpid() != self._pid:
            return  # what a forked child would write, its parent knows nothing of
        if self._broke_in():
            self._close_afterwards = True
            return
        with self._inside():
            if self._closed:
                return
            self._take_up()
            if self._waiting:
                self._drain()
            self._closed = True
        if self._journal is not None:
            try:
                self._journal.close()
            except JournalFailing as failure:
                self.failure = str(failure)

    def _take_up(self) -> None:
        """After an exception that broke into a `tell` (Ctrl-C): its step counts if it is written or waits, else not.

        Its caller never heard of it, but a reader of the journal may have: what is in there must be remembered.
        """
        if self._begun is None:
            return
        assert self._journal is not None, "only what is written begins"
        n, memory = self._begun
        try:
            self._journal.settle()
        except JournalFailing as failure:
            self.failure = str(failure)
        while self._waiting and self._waiting[0][0].n <= self._journal.n:
            self._waiting.popleft()
        if n <= (self._waiting[-1][0].n if self._waiting else self._journal.n):
            self._n, self._memory = n, memory
        self._begun = None

    def _write(self, before: Memory, decision: Decision) -> bool:
        """Writes the step, or holds it in memory in its turn; False if a row found no room there either."""
        if self._journal is None:
            return True
        after, event = decision.memory, decision.event
        refusal = decision.refusal
        step = Step(
            self._n + 1,
            after.attempt,
            event,  # type: ignore[arg-type]  # every event class but the base is in the journal's union
            before.state,
            after.state,
            decision.guards,
            decision.actions,
            refusal.reason if refusal is not None else "",
            refusal is not None and refusal.illegal,
            after.rows if after.rows != before.rows else 0,
        )
        self._begun = (step.n, after)
        if not self._waiting:
            try:
                self._journal.append(step, after)
            except JournalFailing as failure:
                self.failure = str(failure)
            else:
                self._n += 1
                return True
        elif len(self._waiting) >= MOST_WAITING and isinstance(event, _ROW_EVENTS):
            self._drain()
            if self._waiting:
                self.lost += 1
                self._begun = None
                return False
        self._n += 1
        self._waiting.append((step, after))
        self._drain()
        return True

    def _drain(self) -> None:
        """Writes what waits, in order, until the journal fails again."""
        while self._waiting and self._journal is not None:
            step, memory = self._waiting[0]
            try:
                self._journal.append(step, memory)
            except JournalFailing as failure:
                self.failure = str(failure)
                return
            self._waiting.popleft()
        self.failure = ""

    def _not_mine(self, event: Event, reason: str) -> Decision:
        refusal = Refusal(self._memory.state, name_of(event), reason)
        return Decision(self._memory, (), refusal, event, {}, journalled=False)
