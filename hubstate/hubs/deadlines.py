"""Time limits that hold: no request outlasts its deadline, however slowly the other side drips.

A socket's own time-out is about the next piece of bytes, so whoever sends one byte now and then passes it for ever.
Here one `Watch` belongs to one connection's user and knows how long the request under way may still take; before
every single `send` and `recv` the socket is given the smaller of its own patience and of what is left. That needs no
thread and works for TLS as well, because it happens below `http.client`, which everything above reads through.

A request of words has a deadline for all of it. An upload has one for the way to the hub; then it may take as long as
it needs while it moves: every piece of 64 KiB has to leave within the patience for one answer; once all of it has
left, the answer has a deadline. A file that comes in may take as long as it needs likewise.

One thing is not bounded here: looking a name up is the operating system's work, and takes the time it takes there.
"""

from __future__ import annotations

import http.client
import io
import socket
import ssl
from collections.abc import Callable
from typing import Any

import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.util.wait import wait_for_read

__all__ = ["PIECE", "Overdue", "Stalled", "Watch", "WatchedAdapter"]

#: The piece of an upload that has to leave within the patience for one answer (bytes).
PIECE = 64 * 1024
#: How much of an upload is read from the disk at once (bytes).
READ = 256 * 1024


class Overdue(TimeoutError):
    """The request has used up all the time that it had."""


class Stalled(TimeoutError):
    """An upload does not move any more."""


class Watch:
    """How long the request under way may still take, and what has moved. For one thread at a time.

    `patience`: seconds for one piece of bytes, sent or received; `total`: seconds for a whole request. `moved` may be
    read by any thread: the bytes of uploads that have left, and the answers that have come.
    """

    def __init__(self, patience: float, total: float, monotonic: Callable[[], float]) -> None:
        self.patience = patience
        self.total = total
        self.moved = 0
        #: Whether the request under way could not be sent to its end (an answer may come all the same).
        self.cut_short = False
        self._monotonic = monotonic
        self._deadline: float | None = None
        self._uploading = False

    def begin(self, *, upload: bool) -> None:
        """A request begins, with the way to the hub: a proxy on it may drip as well."""
        self.cut_short = False
        self._uploading = upload
        self._deadline = self._monotonic() + self.total

    def sending(self) -> None:
        """The hub is reached: an upload has no deadline from now on."""
        if self._uploading:
            self._deadline = None

    def sent(self) -> None:
        """The request has left: from now on the answer has a deadline, if there is none yet."""
        if self._deadline is None:
            self._deadline = self._monotonic() + self.total
        self._uploading = False

    def awaiting(self) -> None:
        """The next piece of a long answer has the patience to arrive in, and the answer has no other deadline."""
        self._deadline = self._monotonic() + self.patience

    def allow(self, seconds: float) -> float:
        """The smaller of `seconds` and of what is left of the request's time. Raises `Overdue` if nothing is."""
        if self._deadline is None:
            return seconds
        left = self._deadline - self._monotonic()
        if left <= 0:
            raise Overdue
        return min(seconds, left)

    def send(self, sock: socket.socket, data: bytes) -> None:
        """Sends all of `data`, piece by piece."""
        rest = memoryview(data)
        while rest:
            # Who answers before it has read everything wants no more. (Over TLS there is always something to read.)
            if self._uploading and not isinstance(sock, ssl.SSLSocket) and wait_for_read(sock, timeout=0.0):
                raise BrokenPipeError("the hub answered before the upload was over")
            self._send_piece(sock, rest[:PIECE])
            rest = rest[PIECE:]

    def _send_piece(self, sock: socket.socket, piece: memoryview) -> None:
        until = self._monotonic() + self.patience
        while piece:
            left = until - self._monotonic()
            if left <= 0:
                raise Stalled
            sock.settimeout(self.allow(left))
            try:
                count = sock.send(piece)
            except TimeoutError:
                continue  # the next turn tells which of the two limits is over
            piece = piece[count:]
            self.moved += count if self._uploading else 0


class _Incoming(io.RawIOBase):
    """What comes in over a socket, each piece within the time that is left."""

    def __init__(self, sock: socket.socket, raw: io.RawIOBase, watch: Watch) -> None:
        self._sock = sock
        self._raw = raw
        self._watch = watch

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(self._watch.allow(self._watch.patience))
        try:
            return self._raw.readinto(buffer)
        except TimeoutError:
            self._watch.allow(self._watch.patience)  # raises the better reason, if it is that
            raise

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Answer(http.client.HTTPResponse):
    """An answer that is read under a watch, from its first byte on."""

    def __init__(
        self, sock: socket.socket, debuglevel: int, method: str | None, url: str | None, watch: Watch
    ) -> None:
        super().__init__(sock, debuglevel, method, url)
        raw = self.fp.detach()
        self.fp = io.BufferedReader(_Incoming(sock, raw, watch))


class _Watched(HTTPConnection):
    """A connection whose every wait is bounded by its watch, which a subclass names."""

    watch: Watch

    def connect(self) -> None:
        self.timeout = self.watch.allow(self.watch.patience if self.timeout is None else self.timeout)
        super().connect()

    def request(self, *arguments: Any, **named: Any) -> None:
        self.watch.sending()
        super().request(*arguments, **named)

    def send(self, data: Any) -> None:
        if self.sock is None:
            self.connect()
        try:
            self.watch.send(self.sock, data)
        except OSError:
            self.watch.cut_short = True
            raise

    def getresponse(self) -> Any:
        self.watch.sent()
        return super().getresponse()

    def response_class(  # type: ignore[override]  # http.client calls it, whatever it is
        self, sock: socket.socket, debuglevel: int = 0, method: str | None = None, url: str | None = None
    ) -> http.client.HTTPResponse:
        return _Answer(sock, debuglevel, method, url, self.watch)


def _pools(watch: Watch) -> dict[str, type[urllib3.HTTPConnectionPool]]:
    """The kinds of connection pools whose connections are under `watch`."""

    class Plain(_Watched):
        pass

    class Secure(_Watched, HTTPSConnection):
        pass

    Plain.watch = watch
    Secure.watch = watch

    class PlainPool(urllib3.HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(urllib3.HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}


class WatchedAdapter(HTTPAdapter):
    """What a `requests.Session` sends through: one connection that is kept, no retry, every wait watched."""

    def __init__(self, watch: Watch) -> None:
        self._watch_pools = _pools(watch)
        super().__init__(pool_connections=1, pool_maxsize=1, max_retries=0)

    def init_poolmanager(
        self, connections: int, maxsize: int, block: bool = False, **pool_kwargs: Any
    ) -> None:
        super().init_poolmanager(connections, maxsize, block, blocksize=READ, **pool_kwargs)
        self.poolmanager.pool_classes_by_scheme = self._watch_pools

    def proxy_manager_for(self, proxy: Any, **proxy_kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, blocksize=READ, **proxy_kwargs)
        manager.pool_classes_by_scheme = self._watch_pools
        return manager
