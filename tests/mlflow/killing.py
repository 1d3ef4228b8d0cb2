"""Between a session and its MLflow server: what kills the server when so much of a request has passed, and starts it again.

The server is killed with all its processes, so whatever it did is cut where it stands; what had passed is in its
database, or is not. It comes up again at the same port, while the client tries on.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from servers import MLflowServer

__all__ = ["Killer", "Place", "killing"]


class Place(NamedTuple):
    """When the server is killed: `after` so many bytes of a request for `path` have passed."""

    path: bytes
    after: int


class Killer:
    """A proxy at `hub`. `kills`: how often the server was killed so far."""

    def __init__(self, server: MLflowServer, places: list[Place]) -> None:
        self._server = server
        self._places = list(places)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.hub = f"mlflow+http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.kills = 0
        self._lock = threading.Lock()
        #: Held by whoever forwards, and by whoever kills: nothing passes while the server is being killed and started.
        self._up = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def left(self) -> int:
        """How many kills are still to come."""
        return len(self._places)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._cut()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                with self._up:
                    there = socket.create_connection(("127.0.0.1", self._server.port))
            except OSError:
                client.close()
                continue
            with self._lock:
                self._open |= {client, there}
            for source, sink, watched in ((client, there, True), (there, client, False)):
                thread = threading.Thread(target=self._pass, args=(source, sink, watched), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _pass(self, source: socket.socket, sink: socket.socket, watched: bool) -> None:
        counting, passed = False, 0
        try:
            while data := source.recv(65_536):
                with self._lock:
                    place = self._places[0] if watched and self._places else None
                if place is None:
                    counting = False
                elif place.path in data:
                    counting, passed = True, 0
                if place is None or not counting or passed + len(data) <= place.after:
                    passed += len(data)
                    sink.sendall(data)
                    continue
                sink.sendall(data[: place.after - passed])
                self._kill(place)
                return
        except OSError:
            pass
        finally:
            for sock in (source, sink):
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
            source.close()  # the sink is the other thread's source
            with self._lock:
                self._open.discard(source)

    def _kill(self, place: Place) -> None:
        with self._up:
            with self._lock:
                if not self._places or self._places[0] != place:
                    return  # the other connection was quicker
                self._places.pop(0)
            self._server.kill()
            self.kills += 1
            self._cut()
            self._server.start()

    def _cut(self) -> None:
        with self._lock:
            sockets, self._open = self._open, set()
        for sock in sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


@contextmanager
def killing(server: MLflowServer, places: list[Place]) -> Iterator[Killer]:
    """The proxy while the block lasts."""
    killer = Killer(server, places)
    try:
        yield killer
    finally:
        killer.close()
