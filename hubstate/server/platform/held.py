"""Events that could not be written down just now: held in memory, and written before the next one that can be.

The callback tries an `epoch_end` once. While the hub's disk is full or its database is locked it is told so, with a 5xx,
because nothing is kept for sure; and the hub tries again for it, because it will not.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import NamedTuple

import sqlalchemy

from hubstate.log import log
from hubstate.server.answers import Answer, Caller, Problem
from hubstate.server.platform import events
from hubstate.server.store import Store

__all__ = ["Held"]

#: How many events are held, and how long one may be (bytes).
_MOST, _LONGEST = 1000, 64 * 1024


class _Event(NamedTuple):
    caller: Caller
    body: bytes
    at: float


class Held:
    """Takes events, and holds those that cannot be written down. Any thread may use it."""

    def __init__(self) -> None:
        self._events: deque[_Event] = deque(maxlen=_MOST)
        self._lock = threading.Lock()

    def take(self, store: Store, caller: Caller, body: bytes, now: float) -> Answer:
        """Answers an event as `events.metrics` does, behind those that are held. Raises as that does."""
        try:
            self._write(store)
            return events.metrics(store, caller, body, now)
        except (sqlalchemy.exc.OperationalError, OSError):
            # A start is tried again by its client, and one that were written later would begin a second model.
            if len(body) <= _LONGEST and b"training_started" not in body[:_LONGEST]:
                with self._lock:
                    self._events.append(_Event(caller, body, now))
            raise

    def _write(self, store: Store) -> None:
        while self._events:
            with self._lock:
                if not self._events:
                    return
                event = self._events.popleft()
            try:
                events.metrics(store, event.caller, event.body, event.at)
            except Problem as problem:
                log("hubstate.server").warning("hubstate.hub_event_refused_late", reason=problem.message)
            except (sqlalchemy.exc.OperationalError, OSError):
                with self._lock:
                    self._events.appendleft(event)
                raise
