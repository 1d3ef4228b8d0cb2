"""A hub that does as it is told: a real server on loopback that answers each request by a script, byte for byte.

It is written on bare sockets, so that it can do what no decent server does: say nothing, drip, break off, answer with
what is no HTTP. What it waits for is always an event, and closing it ends every wait.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Self

#: How much of a body is remembered; the rest is only counted and digested.
REMEMBERED = 2_000_000


@dataclass(frozen=True)
class Request:
    """A request as it arrived. `connection` counts the connections from 0."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    size: int
    sha256: str
    connection: int

    @property
    def json(self) -> Any:
        def refuse(constant: str) -> None:
            raise ValueError(f"{constant} is no JSON")

        return json.loads(self.body, parse_constant=refuse)

    @property
    def form(self) -> dict[str, bytes]:
        """The parts of a multipart body, by name."""
        boundary = self.headers["content-type"].partition("boundary=")[2].encode()
        parts = {}
        for part in self.body.split(b"--" + boundary)[1:-1]:
            head, _, content = part.partition(b"\r\n\r\n")
            name = re.search(rb'name="([^"]*)"', head)
            assert name is not None
            parts[name.group(1).decode()] = content.removesuffix(b"\r\n")
        return parts


@dataclass(frozen=True)
class Says:
    """One answer. `raw` replaces all of it; `drop`: the connection is closed instead; `mute`: nothing is ever said.

    `wait`: answers only when this is set. `drip`: seconds between single bytes. `early`: answers before the body was
    read, and reads no more. `stalls_after`: reads no more after so many bytes of the body.
    """

    status: int = 200
    body: Any = field(default_factory=dict)
    headers: tuple[tuple[str, str], ...] = ()
    raw: bytes | None = None
    drop: bool = False
    mute: bool = False
    wait: threading.Event | None = None
    drip: float = 0.0
    early: bool = False
    stalls_after: int | None = None

    def bytes(self) -> bytes:
        if self.raw is not None:
            return self.raw
        text = self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()
        lines = [f"HTTP/1.1 {self.status} Said", *(f"{name}: {value}" for name, value in self.headers)]
        if self.status >= 200 and self.status not in (204, 304):
            lines.append(f"Content-Length: {len(text)}")
        else:
            text = b""
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + text


Script = Callable[[Request], Says]


def own_hub(request: Request) -> Says:
    """Answers as one's own hub does when all is well."""
    told: dict[str, Any] = {"success": True, "message": "ok"}
    if request.path == "/v1/auth":
        return Says(body=told | {"hubstate": 1})
    told |= {"hubstate": {}, "data": {}}
    if request.path == "/v1/models":
        told["data"] = {"id": request.json.get("hubstate", {"id": "m1"})["id"]}
    elif request.path.endswith("/upload"):
        content = request.form.get("last.pt", request.form.get("best.pt", b""))
        told["data"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    elif request.path.startswith("/v1/models/") and request.path.count("/") == 3:
        told["data"] = {"rows": len(request.json["metrics"])}
    return Says(body=told)


def foreign_hub(request: Request) -> Says:
    """Answers as another hub of the old protocol does."""
    if request.path == "/v1/auth":
        return Says(body={"success": True})
    if request.path == "/v1/models":
        return Says(body={"data": {"id": "m42"}})
    if "heartbeat" in request.path:
        return Says(body={"data": {"agentId": "agent-1"}})
    return Says(body={})


class ScriptedHub:
    """The server. `script` answers; what `then` queued for a path comes first, once each."""

    def __init__(self, script: Script = own_hub, *, tls: ssl.SSLContext | None = None) -> None:
        self.script = script
        self.requests: list[Request] = []
        self.connections = 0
        self.closing = threading.Event()
        #: Set whenever a request has arrived whole.
        self.arrived = threading.Event()
        self._queued: list[tuple[str, Says]] = []
        self._tls = tls
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.host = f"127.0.0.1:{self.port}"
        self.url = f"{'http' if tls is None else 'https'}://{self.host}"
        self._begin(self._accept)

    def then(self, ending: str, *answers: Says) -> None:
        """The next requests whose path ends so get these answers, one each."""
        self._queued += [(ending, answer) for answer in answers]

    def paths(self) -> list[str]:
        return [request.path for request in self.requests]

    def of(self, ending: str) -> list[Request]:
        return [request for request in self.requests if request.path.endswith(ending)]

    def close(self) -> None:
        self.closing.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        with self._lock:
            sockets = list(self._open)
        for connection in sockets:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- the inside --------------------------------------------------------------------------------------

    def _begin(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self.closing.is_set():
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with self._lock:
                self._open.add(connection)
            number, self.connections = self.connections, self.connections + 1
            self._begin(self._serve, connection, number)

    def _serve(self, connection: socket.socket, number: int) -> None:
        plain = connection
        try:
            # Whatever the client does to its connection ends this one, and nothing else.
            with contextlib.suppress(OSError):
                if self._tls is not None:
                    connection = self._tls.wrap_socket(connection, server_side=True)
                with connection.makefile("rb") as reader:
                    while self._exchange(connection, reader, number):
                        pass
        finally:
            with contextlib.suppress(OSError):
                connection.close()
            plain.close()
            with self._lock:
                self._open.discard(plain)

    def _exchange(self, connection: socket.socket, reader: Any, number: int) -> bool:
        """One request and its answer; tells whether the connection goes on."""
        if reader.peek(1)[:1] == b"\x16":  # how TLS begins; a plain server takes it for a bad request
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
            return False
        first = reader.readline()
        if not first:
            return False
        method, path, _ = first.decode("latin-1").split(" ", 2)
        headers = dict(self._headers(reader))
        early = next((says for ending, says in self._queued if path.endswith(ending)), Says())
        if early.early:
            self._queued.remove(next(entry for entry in self._queued if entry[1] is early))
            self._say(connection, early)
            self.closing.wait()
            return False
        if early.stalls_after is not None:
            reader.read(early.stalls_after)
            self.closing.wait()
            return False
        request = self._body(reader, method, path, headers, number)
        if request is None:
            return False
        with self._lock:
            self.requests.append(request)
            queued = next((entry for entry in self._queued if path.endswith(entry[0])), None)
            if queued is not None:
                self._queued.remove(queued)
        self.arrived.set()
        return self._say(connection, self.script(request) if queued is None else queued[1])

    def _headers(self, reader: Any) -> Iterable[tuple[str, str]]:
        while (line := reader.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode("latin-1").partition(":")
            yield name.lower(), value.strip()

    def _body(
        self, reader: Any, method: str, path: str, headers: dict[str, str], number: int
    ) -> Request | None:
        left = int(headers.get("content-length", "0"))
        size, kept, digest = left, bytearray(), hashlib.sha256()
        while left:
            piece = reader.read(min(left, 1 << 20))
            if not piece:
                return None
            left -= len(piece)
            digest.update(piece)
            kept += piece[: max(0, REMEMBERED - len(kept))]
        return Request(method, path, headers, bytes(kept), size, digest.hexdigest(), number)

    def _say(self, connection: socket.socket, says: Says) -> bool:
        if says.wait is not None:
            while not says.wait.wait(0.02) and not self.closing.is_set():
                pass
        if says.mute:
            self.closing.wait()
        if says.drop or says.mute:
            return False
        data = says.bytes()
        if says.drip:
            for place in range(len(data)):
                if self.closing.wait(says.drip):
                    return False
                connection.sendall(data[place : place + 1])
        else:
            connection.sendall(data)
        return says.raw is None
