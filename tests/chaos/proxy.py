"""A proxy that does to requests what networks, gateways and hotels do to them, one after the other.

It stands between a session and a hub that is well, and hands bytes on. What becomes of a request is drawn beforehand,
from a seed; after so many ills it lets everything pass. Which request meets which of them depends on the threads of
whoever sends, so a seed repeats the ills and their order, and not the whole story.
"""

from __future__ import annotations

import contextlib
import enum
import random
import socket
import struct
import threading
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Self
from urllib.parse import urlsplit

__all__ = ["ChaosProxy", "Fault", "Ill", "drawn"]

_PIECE = 16_384
#: How long the proxy rests between two bytes (seconds) when it drips for ever; and when it is slow and comes to an end.
_FOR_EVER, _SLOW = 0.05, 0.000_5
#: What a hub says that asks for a pause; of 429 and 503 only some do.
_PAUSE = b"Retry-After: 1\r\n"
_PAGE = b"<!doctype html><title>Welcome</title><p>Please accept our terms to use this network."


class Fault(enum.Enum):
    """What may become of a request."""

    RESET = "reset before anything is read"
    RESET_IN_REQUEST = "reset in the middle of the request"
    RESET_IN_ANSWER = "reset in the middle of the answer"
    ACKNOWLEDGEMENT_LOST = "done by the hub, and no answer"
    BLACK_HOLE = "taken, and neither handed on nor answered"
    LATE = "handed on only when nobody waits for it any more"
    DRIP = "answered byte by byte, for ever"
    SLOW = "answered byte by byte, to the end"
    TOO_MANY = "429"
    ERROR = "500"
    UNAVAILABLE = "503"
    PAGE = "a page of HTML under 200"


class Ill(NamedTuple):
    """One ill. `share` (0 to 1): how much of what is cut passes.

    Of answers that somebody else gives than the hub: `arrives`: whether the hub does what it is asked to; `at_once`:
    whether they come before the request was read to its end; `pauses`: whether they ask for a pause.
    """

    fault: Fault
    share: float = 0.5
    arrives: bool = False
    at_once: bool = False
    pauses: bool = False


#: The answers that the proxy gives in the hub's place.
_ANSWERS = {
    Fault.TOO_MANY: (b"429 Too Many Requests", b"", b""),
    Fault.ERROR: (b"500 Internal Server Error", b"", b"oops"),
    Fault.UNAVAILABLE: (b"503 Service Unavailable", b"", b""),
    Fault.PAGE: (b"200 OK", b"Content-Type: text/html\r\n", _PAGE),
}


def drawn(seed: int, count: int) -> Iterator[Ill | None]:
    """What becomes of the requests, one after the other: `count` ills in all, with whole requests (None) between them."""
    chance = random.Random(seed)
    while count > 0:
        if chance.random() < 0.4:
            yield None
            continue
        count -= 1
        fault = chance.choice(list(Fault))
        yield Ill(
            fault,
            share=chance.random(),
            arrives=chance.random() < 0.5,
            at_once=chance.random() < 0.3,
            pauses=chance.random() < 0.2 and fault in (Fault.TOO_MANY, Fault.UNAVAILABLE),
        )


class _Gone(ConnectionError):
    """The other side is not there any more."""


class _Wire:
    """One side of a connection: what came is read up to where it is wanted."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._read = b""

    def head(self) -> bytes:
        """A request's or an answer's lines, with the empty one at their end."""
        while b"\r\n\r\n" not in self._read:
            self._more()
        head, _, self._read = self._read.partition(b"\r\n\r\n")
        return head + b"\r\n\r\n"

    def pieces(self, length: int) -> Iterator[bytes]:
        """The next `length` bytes."""
        while length:
            if not self._read:
                self._more()
            piece, self._read = self._read[:length], self._read[length:]
            length -= len(piece)
            yield piece

    def until_gone(self) -> None:
        """Reads on until the other side gives up."""
        with contextlib.suppress(OSError):
            while self.sock.recv(_PIECE):
                pass

    def reset(self) -> None:
        """Breaks the connection, so that the other side sees it reset."""
        with contextlib.suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def _more(self) -> None:
        came = self.sock.recv(_PIECE)
        if not came:
            raise _Gone
        self._read += came


class _Cut(Exception):
    """So much of a message has passed that the connection breaks."""


class ChaosProxy:
    """A proxy in front of the hub at `hub`, at `url`. `met` counts what became of the requests, by fault."""

    def __init__(self, hub: str, ills: Iterable[Ill | None]) -> None:
        parts = urlsplit(hub)
        self._hub = (parts.hostname or "", parts.port or 80)
        self._ills = iter(ills)
        self.met: Counter[Fault] = Counter()
        self._requests = 0
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._open: set[socket.socket] = set()
        self._threads: deque[threading.Thread] = deque()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._begin(self._accept)

    def wait_for(self, requests: int, seconds: float) -> None:
        """Waits until so many more requests have come, at most so long: whoever trains takes time as well."""
        with self._changed:
            goal = self._requests + requests
            self._changed.wait_for(lambda: self._requests >= goal, seconds)

    def close(self) -> None:
        """Breaks whatever is under way, and waits for every thread."""
        self._closing.set()
        for sock in (self._listener, *list(self._open)):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        while self._threads:
            self._threads.popleft().join()
        self._listener.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- connections ---------------------------------------------------------------------------------------

    def _begin(self, work: object, *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self._open.add(near)
            self._begin(self._serve, near)

    def _serve(self, near: socket.socket) -> None:
        """One connection, request after request, until something breaks it."""
        wire = _Wire(near)
        near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        far: _Wire | None = None
        try:
            with contextlib.suppress(OSError, _Cut):
                while not self._closing.is_set():
                    head = wire.head()
                    if far is None:
                        far = self._to_hub()
                    self._request(wire, far, head, self._next())
        finally:
            for end in (wire, far):
                if end is not None:
                    self._open.discard(end.sock)
                    end.sock.close()

    def _to_hub(self) -> _Wire:
        sock = socket.create_connection(self._hub)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._open.add(sock)
        return _Wire(sock)

    def _next(self) -> Ill | None:
        with self._changed:
            self._requests += 1
            ill = next(self._ills, None)
            if ill is not None:
                self.met[ill.fault] += 1
            self._changed.notify_all()
            return ill

    # -- one request ---------------------------------------------------------------------------------------

    def _request(self, near: _Wire, far: _Wire, head: bytes, ill: Ill | None) -> None:
        """One request, and what becomes of it. Raises `_Cut` where the connection does not outlive it."""
        length = _length(head)
        match None if ill is None else ill.fault:
            case Fault.RESET:
                near.reset()
                raise _Cut
            case Fault.BLACK_HOLE:
                near.until_gone()
                raise _Cut
            case Fault.RESET_IN_REQUEST:
                assert ill is not None
                self._hand_on(near, far, head, length, int(ill.share * (len(head) + length)))
                near.reset()
                raise _Cut
            case Fault.LATE:
                request = head + b"".join(near.pieces(length))
                near.until_gone()
                far.sock.sendall(request)
                _answer(far, head)
                raise _Cut
        if ill is not None and ill.fault in _ANSWERS:
            self._answer_instead(near, far, head, length, ill)
            return
        self._hand_on(near, far, head, length, None)
        answer = _answer(far, head)
        match None if ill is None else ill.fault:
            case Fault.ACKNOWLEDGEMENT_LOST:
                near.reset()
                raise _Cut
            case Fault.RESET_IN_ANSWER:
                assert ill is not None
                near.sock.sendall(answer[: max(1, int(ill.share * len(answer)))])
                near.reset()
                raise _Cut
            case Fault.DRIP:
                self._drip(near, answer, _FOR_EVER)
            case Fault.SLOW:
                self._drip(near, answer, _SLOW)
            case _:
                near.sock.sendall(answer)

    def _hand_on(self, near: _Wire, far: _Wire, head: bytes, length: int, budget: int | None) -> None:
        """Hands a request on, or its first `budget` bytes."""
        far.sock.sendall(head if budget is None else head[:budget])
        left = None if budget is None else budget - len(head)
        for piece in near.pieces(length):
            if left is not None and left <= len(piece):
                far.sock.sendall(piece[: max(0, left)])
                return
            far.sock.sendall(piece)
            left = None if left is None else left - len(piece)

    def _answer_instead(self, near: _Wire, far: _Wire, head: bytes, length: int, ill: Ill) -> None:
        status, fields, body = _ANSWERS[ill.fault]
        fields += _PAUSE * ill.pauses + b"Connection: close\r\n" * ill.at_once
        asked_for = not head.startswith(b"HEAD ")
        answer = b"HTTP/1.1 %b\r\n%bContent-Length: %d\r\n\r\n" % (status, fields, len(body))
        if ill.at_once:
            near.sock.sendall(answer + body * asked_for)
            near.until_gone()  # whoever has answered reads no more, and lets the sender see why
            raise _Cut
        if ill.arrives:
            self._hand_on(near, far, head, length, None)
            _answer(far, head)
        else:
            for _piece in near.pieces(length):
                pass
        near.sock.sendall(answer + body * asked_for)

    def _drip(self, near: _Wire, answer: bytes, seconds: float) -> None:
        for place in range(len(answer)):
            near.sock.sendall(answer[place : place + 1])
            if self._closing.wait(seconds):
                raise _Cut


def _length(head: bytes) -> int:
    """How many bytes follow a head."""
    for line in head.lower().split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        assert name != b"transfer-encoding", "nobody here sends in chunks"
        if name == b"content-length":
            return int(value)
    return 0


def _answer(far: _Wire, request: bytes) -> bytes:
    """The hub's answer to a request, whole."""
    head = far.head()
    length = 0 if request.startswith(b"HEAD ") else _length(head)
    return head + b"".join(far.pieces(length))
