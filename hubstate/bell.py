"""A bell: one thread waits until another rings it, and whoever rings may be broken into by a signal handler that rings too.

`threading.Event` takes a lock in `set`, and a handler that comes in the middle of it and sets it as well waits for ever.
A training's thread rings at every step that asks for something, and handlers save checkpoints (a cluster's SIGUSR1, a
timer). `queue.SimpleQueue.put` is made for that: it may be called again while it is under way in the same thread
(https://docs.python.org/3/library/queue.html#queue.SimpleQueue.put).
"""

from __future__ import annotations

from queue import Empty, SimpleQueue
from threading import Event

__all__ = ["Bell"]


class Bell(Event):
    """An event that rings. It may be waited for by several threads, and set, cleared and looked at by any."""

    def __init__(self) -> None:
        super().__init__()
        self._rung: SimpleQueue[None] = SimpleQueue()

    def set(self) -> None:
        """Rings, also in the middle of itself."""
        if self._rung.empty():
            self._rung.put(None)

    def clear(self) -> None:
        """From now on it has to be rung again."""
        while True:
            try:
                self._rung.get_nowait()
            except Empty:
                return

    def is_set(self) -> bool:
        """Whether it was rung and not cleared since."""
        return not self._rung.empty()

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until it is rung, at most `timeout` seconds; tells whether it was."""
        try:
            self._rung.get(timeout=timeout)
        except Empty:
            return False
        self._rung.put(None)  # it stays rung, for whoever else waits
        return True
