"""Ill hubs on loopback: one that refuses, and one that accepts and never answers."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["BlackHole", "black_hole", "refused_port"]


def refused_port() -> int:
    """A port on which nobody listens just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert isinstance(port, int)
    return port


class BlackHole:
    """Takes connections and whatever is sent, and answers nothing. The kernel accepts; nobody reads."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self._taken: list[socket.socket] = []

    def connections(self) -> int:
        """How many connections have been made so far."""
        self._listener.setblocking(False)
        while True:
            try:
                self._taken.append(self._listener.accept()[0])
            except BlockingIOError:
                return len(self._taken)

    def close(self) -> None:
        for taken in self._taken:
            taken.close()


@contextmanager
def black_hole() -> Iterator[BlackHole]:
    """A hub that accepts and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        hole = BlackHole(listener)
        try:
            yield hole
        finally:
            hole.close()
