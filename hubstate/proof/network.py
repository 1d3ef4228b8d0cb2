"""The network and the hub of a simulated world: real requests, real answers, and no socket between them.

`SimulatedHub` is the real client (`HubV1`) whose wire is a `SimulatedWire`: what it would send is handed to `Network`,
and what comes back is judged by the real judgement. `House` is the real server without its web framework: the plain
functions of request and time behind its calls, over a real store. What lies between is the weather.
"""

from __future__ import annotations

import base64
import random
import re
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from hubstate.actions import AnyAction, Heartbeat
from hubstate.clock import Clock
from hubstate.hubs import tus
from hubstate.hubs.base import Accepted, Delayed, Parcel, Reply
from hubstate.hubs.hub_v1 import HubV1
from hubstate.hubs.multipart import Body
from hubstate.hubs.verdict import Answer
from hubstate.hubs.wire import LARGEST_ANSWER, Wire
from hubstate.proof.foreign import Foreign
from hubstate.proof.properties import RowSeen
from hubstate.server import calls, keys
from hubstate.server.admission import Visit, admit
from hubstate.server.answers import Answer as Told
from hubstate.server.answers import Caller, Problem
from hubstate.server.store import Store
from hubstate.server.uploads import Receiver, digest_of_header

__all__ = ["ADDRESS", "PATIENCE", "WEATHERS", "Arrival", "House", "Network", "Request", "SimulatedHub"]

ADDRESS = "http://127.0.0.1:8765"
#: How long a client waits for a whole answer (seconds).
PATIENCE = 60.0

#: What the weather between client and hub may be: for each, what becomes of one request, and how likely.
WEATHERS: dict[str, dict[str, float]] = {
    "clear": {},
    "lossy": {
        "request lost": 0.15,
        "acknowledgement lost": 0.2,
        "torn body": 0.1,
        "duplicate": 0.1,
        "late duplicate": 0.15,
    },
    "outage": {"request lost": 1.0},
    "captive portal": {"page of HTML": 0.8, "redirect": 0.2},
    "slow": {"slow": 0.6, "answer too late": 0.2},
    "failing": {"500": 0.4, "503 with Retry-After": 0.2, "500 after the work": 0.2, "half an answer": 0.1},
    "crowded": {"429 with Retry-After": 0.6, "429": 0.2},
    "refusing": {"413": 0.5},
    "unauthorized": {"401": 1.0},
    "restarting": {"hub restarts": 0.3, "hub restarts after the work": 0.3},
}


class Request(NamedTuple):
    """One request as the wire carries it. `parcel` is what it was made of, None for a question."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    parcel: Parcel | None


class Arrival(NamedTuple):
    """A request that the hub took. `stored`: it was no repeat of what it holds under that key; `folder`: it held one."""

    session: str
    action: AnyAction
    rows: tuple[RowSeen, ...]
    stored: bool
    folder: bool = False


class _Response(NamedTuple):
    """What the server says, in bytes."""

    status: int
    body: bytes
    headers: Mapping[str, str] = {}


#: An upload in parts is taken in pieces of so many bytes.
_PIECE = 16_384
#: What stands in the way: pages of others.
_PAGE = _Response(200, b"<html><body>Welcome to the hotel's network</body></html>")
_REDIRECT = _Response(302, b"", {"Location": "https://login.hotel.example/portal?from=hub"})


# -- the hub ---------------------------------------------------------------------------------------------


class House:
    """The hub in `folder`, as the plain functions behind its calls. `wall`: its own clock (s since 1970)."""

    _POSTS: tuple[tuple[re.Pattern[str], Callable[[Store, Caller, str, bytes, float], Told]], ...] = (
        (re.compile(r"/v1/models/([^/]+)"), calls.post_rows),
        (re.compile(r"/v1/models/([^/]+)/end"), calls.end_model),
        (re.compile(r"/v1/models/([^/]+)/usage"), calls.post_usage),
        (re.compile(r"/v1/agent/heartbeat/models/([^/]+)"), calls.heartbeat),
    )
    _UPLOAD = re.compile(r"/v1/models/([^/]+)/upload")
    _PARTS = re.compile(r"/v1/models/([^/]+)/uploads(?:/([^/]+))?")

    def __init__(self, folder: Path, wall: Callable[[], float], counts: Counter[str]) -> None:
        self.folder = folder
        self.wall = wall
        self._counts = counts
        folder.mkdir()
        (folder / "secret").write_bytes(bytes(32))  # what is signed with it is the same every time
        self.store = Store(folder)
        self.key = keys.create(folder, "trainer", wall=wall)

    def restart(self) -> None:
        """The hub's process dies and another one begins."""
        self.store.close()
        self.store = Store(self.folder)
        self.store.sweep()

    def close(self) -> None:
        """Lets go of the store."""
        self.store.close()

    def answer(self, request: Request, key: str) -> _Response:
        """Does what is asked, as the web application's shells do."""
        headers = {name.lower(): value for name, value in request.headers.items()}
        headers |= {"x-api-key": key, "host": "127.0.0.1:8765"}
        try:
            owner = admit(self.store, Visit(headers, "127.0.0.1", "127.0.0.1"))
            caller = Caller(owner, ADDRESS, headers.get("idempotency-key", ""))
            told = self._told(request, caller, headers)
        except Problem as problem:
            return _Response(problem.status, msgspec.json.encode(problem.body()))
        return _Response(told.status, msgspec.json.encode(told.body) if told.body else b"", told.headers)

    def torn(self, request: Request, part: float) -> None:
        """Half of an upload arrives, and then the connection breaks: nothing may come of it, but that it goes on there."""
        if request.method == "PATCH":
            half = request.body[: int(len(request.body) * part)]
            self.answer(request._replace(body=half), self.key)
        if not self._UPLOAD.fullmatch(request.path):
            return
        receiver = Receiver(self.store.incoming, request.headers["Content-Type"], self.store.upload_limit)
        receiver.write(request.body[: int(len(request.body) * part)])
        receiver.abandon()

    def _told(self, request: Request, caller: Caller, headers: Mapping[str, str]) -> Told:
        now = self.wall()
        if request.path == "/v1/auth":
            data = {"tus": tus.VERSION, "archive": "tar"}
            return Told({"success": True, "message": "ok", "data": data, "hubstate": 1})
        if request.path == "/v1/models":
            return calls.open_model(self.store, caller, request.body, now)
        upload = self._UPLOAD.fullmatch(request.path)
        if upload is not None:
            return self._take(request, caller, upload[1], headers, now)
        parts = self._PARTS.fullmatch(request.path)
        if parts is not None:
            return self._in_parts(request, caller, parts[1], parts[2], headers, now)
        for pattern, call in self._POSTS:
            found = pattern.fullmatch(request.path)
            if found is not None:
                return call(self.store, caller, found[1], request.body, now)
        raise Problem(404, "no_such_call", f"{request.method} {request.path}: this hub has no such call")

    def _take(
        self, request: Request, caller: Caller, model: str, headers: Mapping[str, str], now: float
    ) -> Told:
        promised = digest_of_header(headers.get("repr-digest", "")) or ""
        known = calls.upload_may_come(self.store, caller, model, len(request.body), promised, now)
        if known is not None:
            return known
        receiver = Receiver(self.store.incoming, headers["content-type"], self.store.upload_limit)
        try:
            receiver.write(request.body)
            digest = headers.get("repr-digest", "")
            return calls.take_upload(self.store, caller, model, receiver.finish(), digest, now)
        finally:
            receiver.abandon()

    def _in_parts(
        self,
        request: Request,
        caller: Caller,
        model: str,
        upload: str | None,
        headers: Mapping[str, str],
        now: float,
    ) -> Told:
        """An upload that may be cut: begun, asked about, brought on, and put into its place."""
        uploads = self.store.resumables
        if upload is None:
            length = int(headers["upload-length"])
            sha256 = base64.b64decode(headers["upload-metadata"].removeprefix("sha256 ")).decode()
            known = calls.upload_may_come(self.store, caller, model, length, sha256, now)
            if known is not None:
                return known
            name = uploads.make(caller.owner, model, key=caller.key, length=length, sha256=sha256, now=now)
            return Told({"success": True}, 201, {"Location": f"{ADDRESS}{request.path}/{name}"})
        if request.method == "HEAD":
            offset, length = uploads.offset(upload, caller.owner, model, now)
            self._counts["upload goes on where it was cut"] += 0 < offset < length
            return Told({}, 200, {"Upload-Offset": str(offset), "Upload-Length": str(length)})
        if request.method == "PATCH":
            taker = uploads.taker(upload, caller.owner, model, int(headers["upload-offset"]), now)
            try:
                for first in range(0, len(request.body), _PIECE):
                    taker.write(request.body[first : first + _PIECE])
            finally:
                size = taker.close(now)
            return Told({}, 204, {"Upload-Offset": str(size)})
        self._counts["upload in parts"] += 1
        return calls.take_resumed(self.store, caller, model, upload, request.body, now)


# -- the way between -------------------------------------------------------------------------------------


class Network:
    """The way from the clients to the house, or to a foreign hub in its place, and its weather.

    `struck` is called with the name of each fault, `arrived` with each request that the hub took, `said` with lines
    for the story. `dies`: called before and after a request reaches the hub; it may raise.
    """

    def __init__(
        self,
        house: House,
        foreign: Foreign | None,
        clock: Clock,
        chance: random.Random,
        *,
        passes: Callable[[float], None],
        struck: Callable[[str], None],
        arrived: Callable[[Arrival], None],
        dies: Callable[[str], None],
    ) -> None:
        self.house = house
        self.foreign = foreign
        self.clock = clock
        self.weather = "clear"
        self.requests = 0
        self._chance = chance
        self._passes = passes
        self._struck = struck
        self._arrived = arrived
        self._dies = dies
        self._late: list[Request] = []
        #: What a foreign hub took already: it does not know itself.
        self._taken: set[str] = set()

    def carry(self, request: Request) -> Answer | Delayed:
        """One request, and what its sender hears."""
        self.requests += 1
        if self._late and self._chance.random() < 0.3:
            self._struck("late duplicate arrives")
            self._reach(self._late.pop(0))
        fault = self._drawn()
        self._dies("before")
        if fault:
            self._struck(fault)
        heard = self._carried(request, fault)
        self._dies("after")
        return heard

    def granted(self, parcel: Parcel) -> None:
        """The client counts a parcel as delivered without a request, as it may where a foreign hub needs none."""
        if self.foreign is not None:
            again = parcel.key in self._taken
            self._taken.add(parcel.key)
            self._arrives(parcel, stored=not again)

    def settle(self) -> None:
        """Every copy that is still under way arrives."""
        while self._late:
            self._reach(self._late.pop(0))

    def _drawn(self) -> str:
        draw = self._chance.random()
        for fault, likely in WEATHERS[self.weather].items():
            draw -= likely
            if draw < 0:
                return fault
        return ""

    def _carried(self, request: Request, fault: str) -> Answer | Delayed:
        lost = Delayed("offline", "127.0.0.1:8765 closed the connection")
        match fault:
            case "request lost":
                self._passes(self._chance.choice((0.0, 5.0)))
                return lost
            case "torn body":
                part = self._chance.random()
                if self.foreign is None:
                    self.house.torn(request, part)
                return lost
            case "acknowledgement lost":
                self._reach(request)
                return lost
            case "answer too late":
                self._reach(request)
                self._passes(PATIENCE)
                return Delayed("offline", "no whole answer from 127.0.0.1:8765 within 60 s")
            case "hub restarts":
                self.house.restart()
                return Delayed("offline", "connection refused by 127.0.0.1:8765")
            case "hub restarts after the work":
                self._reach(request)
                self.house.restart()
                return lost
            case "page of HTML":
                return _read(_PAGE)
            case "redirect":
                return _read(_REDIRECT)
            case "500":
                return _read(
                    _Response(500, b'{"success": false, "message": "an accident", "error": "accident"}')
                )
            case "500 after the work":
                self._reach(request)
                return _read(_Response(500, b""))
            case "half an answer":
                response = self._reach(request)
                return _read(response._replace(body=response.body[: len(response.body) // 2]))
            case "503 with Retry-After":
                return _read(_Response(503, b"{}", {"Retry-After": str(self._chance.randint(1, 120))}))
            case "429 with Retry-After":
                return _read(_Response(429, b"{}", {"Retry-After": str(self._chance.randint(1, 600))}))
            case "429":
                return _read(_Response(429, b""))
            case "413" if request.parcel is not None:
                return _read(_Response(413, b'{"success": false, "message": "too large"}'))
            case "401":
                return _read(self._asked(request, "ul_" + "0" * 40))
            case "slow":
                self._passes(self._chance.uniform(0.5, 20.0))
            case "duplicate":
                self._reach(request)
            case "late duplicate":
                self._late.append(request)
            case _:
                self._passes(0.02)
        return _read(self._reach(request))

    def _asked(self, request: Request, key: str = "") -> _Response:
        """What the hub answers to a request with this key, or with a good one."""
        if self.foreign is None:
            return self.house.answer(request, key or self.house.key)
        told = self.foreign.answer(request.path, request.headers, request.body, key or self.foreign.key)
        return _Response(told.status, msgspec.json.encode(told.body))

    def _reach(self, request: Request) -> _Response:
        response = self._asked(request)
        if (
            request.parcel is not None and response.status == 200
        ):  # 201: an upload begins, nothing of it is there
            key = request.headers["Idempotency-Key"]
            again = "Idempotent-Replayed" in response.headers
            if self.foreign is not None and not isinstance(request.parcel.action, Heartbeat):
                again = key in self._taken
                self._taken.add(key)
            self._arrives(request.parcel, stored=not again)
        return response

    def _arrives(self, parcel: Parcel, *, stored: bool) -> None:
        rows = tuple(RowSeen(row.number, row.attempt, row.epoch) for row in parcel.rows)
        folder = parcel.file is not None and parcel.file.is_dir()
        self._arrived(Arrival(parcel.session, parcel.action, rows, stored, folder))


def _read(response: _Response) -> Answer:
    """An answer as the client's wire reads it."""
    try:
        body = msgspec.json.decode(response.body)
    except (msgspec.DecodeError, RecursionError):
        body = None
    return Answer(response.status, response.headers, body if isinstance(body, dict) else None)


# -- the client ------------------------------------------------------------------------------------------


class SimulatedHub(HubV1):
    """The real client over a simulated wire."""

    def __init__(self, network: Network, chance: random.Random) -> None:
        super().__init__(ADDRESS, "simulated", wall=network.clock.wall, chance=chance)
        self._wire.close()
        self._wire = self._line = _Line(network)

    def deliver(self, parcel: Parcel) -> Reply:
        """Sends one parcel, once, and tells what became of it."""
        self._line.parcel = parcel
        before = self._line.sent
        try:
            reply = super().deliver(parcel)
        finally:
            self._line.parcel = None
        if isinstance(reply, Accepted) and self._line.sent == before:
            self._line.network.granted(parcel)
        return reply


class _Line(Wire):
    """A wire that ends in a simulated network."""

    def __init__(self, network: Network) -> None:
        super().__init__(ADDRESS, None, connect_timeout=5.0, read_timeout=30.0, total_timeout=PATIENCE)
        self.parcel: Parcel | None = None
        #: How many requests of deliveries it carried.
        self.sent = 0
        self.network = network
        self._moved = 0

    @property
    def moved(self) -> int:
        """How many answers came."""
        return self._moved

    def send(
        self,
        path: str,
        body: bytes | Body = b"",
        headers: Mapping[str, str] | None = None,
        *,
        method: str = "POST",
        files: bool = False,  # noqa: ARG002 - one line serves, for nothing happens at the same time
        most: int = LARGEST_ANSWER,  # noqa: ARG002 - no answer here is as long
    ) -> Answer | Delayed:
        """Hands one request to the network."""
        try:
            text = body if isinstance(body, bytes) else b"".join(iter(body))
        except OSError as error:
            return Delayed("offline", f"the body could not be read: {error.strerror}")
        # The question who is there is no delivery, whatever it was asked for, nor are the parts of an upload.
        parcel = None if path == "/v1/auth" or method != "POST" else self.parcel
        self.sent += parcel is not None
        answer = self.network.carry(Request(method, path, headers or {}, text, parcel))
        if isinstance(answer, Answer):
            self._moved += 1
        return answer
