"""The scene of a promise: a real hub, a wire before it that fails as it is told, and a session in one thread.

What is sent goes over real sockets, by the real client, to the real hub of one's own. Only the time is a test's own:
a wait takes none, and an hour of back-off passes at once. What a request hears is said beforehand (`then`, `until`);
every request is noted with the moment at which it came.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import requests
from scripted import Request, Says, ScriptedHub

from hubstate.hubs.hub_v1 import HubV1
from hubstate.receipt import Receipt
from hubstate.server.running import RunningHub
from hubstate.session import Session
from hubstate.sync import Remainder, deliver
from hubstate.testing.clock import FakeClock
from hubstate.testing.one_thread import open_session

__all__ = [
    "AUTH",
    "BEAT",
    "END",
    "KEY",
    "OPEN",
    "ROWS",
    "UPLOAD",
    "Came",
    "Scene",
    "about",
    "spend",
    "weights",
]

KEY = "ul_0123456789012345678901234567890123456789"
#: What requests are about, by what stands in their paths.
AUTH, OPEN, ROWS, UPLOAD, BEAT, END = "auth", "open", "rows", "upload", "heartbeat", "end"
_HOP = {"connection", "content-length", "transfer-encoding", "date", "server"}

Answers = Says | Callable[[Request], Says]


class Came(NamedTuple):
    """A request: what it was about, when it came (seconds on the session's clock), and itself."""

    what: str
    at: float
    request: Request


def about(path: str) -> str:
    """What a request is about."""
    if path == "/v1/auth":
        return AUTH
    if path == "/v1/models":
        return OPEN
    for what in (BEAT, UPLOAD, END):
        if f"/{what}" in path:
            return what
    return ROWS


class Scene:
    """Sessions of one folder, the wire that they send by, and the hub behind it."""

    def __init__(self, folder: Path, hub: RunningHub) -> None:
        self.clock = FakeClock()
        self.folder = folder
        self.behind = hub
        self.came: list[Came] = []
        #: The requests that the hub behind the wire got, in order of arrival.
        self.reached: list[Request] = []
        #: Whether the hub passes for one of the old protocol, which says nothing of more.
        self.is_old = False
        self._then: list[tuple[str, Answers]] = []
        self._always: tuple[tuple[str, ...], Answers] | None = None
        self._sessions: list[Session] = []
        self._clients: list[HubV1] = []
        self._forward = requests.Session()
        self._forward.trust_env = False
        self.wire = ScriptedHub(self._answer)

    # -- what the wire is told -------------------------------------------------------------------------------

    def then(self, what: str, *answers: Answers) -> None:
        """The next requests about `what` hear these answers, one each; nothing of them reaches the hub."""
        self._then += [(what, answer) for answer in answers]

    @contextmanager
    def until(self, answer: Answers, *what: str) -> Iterator[None]:
        """Every request about one of `what` (about anything) hears this answer meanwhile."""
        self._always = (what, answer)
        try:
            yield
        finally:
            self._always = None

    def recover(self) -> None:
        """From now on everything gets through."""
        self._then.clear()
        self._always = None

    def lost(self, request: Request) -> Says:
        """The hub gets the request whole, and its answer gets lost."""
        self.reach(request)
        return Says(drop=True)

    def reach(self, request: Request) -> Says:
        """What the hub behind the wire answers."""
        self.reached.append(request)
        headers = {name: value for name, value in request.headers.items() if name not in ("host", *_HOP)}
        with self._forward.request(
            request.method,
            self.behind.url + request.path,
            data=request.body,
            headers=headers,
            timeout=60,
            allow_redirects=False,
        ) as answer:
            told = tuple((name, value) for name, value in answer.headers.items() if name.lower() not in _HOP)
            if self.is_old and about(request.path) == AUTH:
                return Says(answer.status_code, {"success": answer.json()["success"]}, told)
            return Says(answer.status_code, answer.content, told)

    def _answer(self, request: Request) -> Says:
        what = about(request.path)
        self.came.append(Came(what, self.clock.monotonic(), request))
        answer: Answers | None = next((answer for named, answer in self._then if named == what), None)
        if answer is not None:
            self._then.remove((what, answer))
        elif self._always is not None and (not self._always[0] or what in self._always[0]):
            answer = self._always[1]
        if answer is None:
            return self.reach(request)
        return answer(request) if callable(answer) else answer

    def about(self, *what: str) -> list[Came]:
        """The requests about `what`, in order of arrival."""
        return [came for came in self.came if came.what in what]

    def epochs_sent(self) -> list[int]:
        """The epochs of all rows that left, repeats included, in order of arrival."""
        return [row["epoch"] for came in self.about(ROWS) for row in came.request.json["metrics"]]

    # -- the session -----------------------------------------------------------------------------------------

    def client(self, key: str | None = KEY) -> HubV1:
        """The real client, towards the wire."""
        chance = random.Random(len(self._clients))
        self._clients.append(HubV1(self.wire.url, key, wall=self.clock.wall, chance=chance))
        return self._clients[-1]

    def start(self, name: str = "digits", *, key: str | None = KEY, **wish: Any) -> Session:
        """Opens a session towards the wire, as `hubstate.start` does."""
        wish.setdefault("seed", len(self._sessions))
        self._sessions.append(open_session(name, self.folder, self.clock, self.client(key), **wish))
        return self._sessions[-1]

    def spend(self, seconds: float) -> None:
        """The trainer computes for so long; whoever sends may do so meanwhile."""
        spend(self.clock, seconds)

    def train(self, session: Session, epochs: int, seconds: float = 1.0) -> None:
        """So many epochs, each with a row and a checkpoint of its own bytes."""
        path = self.folder.parent / "last.pt"
        for epoch in range(epochs):
            self.spend(seconds)
            session.log({"loss": 1.0 / (epoch + 1)}, epoch=epoch)
            path.write_bytes(weights(epoch))
            session.save(path, epoch=epoch, fitness=float(epoch))

    def sync(self, session: Session, key: str | None = KEY, *, retry: bool = False) -> Receipt:
        """What `hubstate sync` does with a session that its process let go of, an hour later."""
        self.clock.advance(3600.0)
        remainder = Remainder(
            self.folder / session.id, self.client(key), self.clock, random.Random(len(self._clients))
        )
        try:
            if retry:
                remainder.retry_refused()
            return deliver(remainder, self.clock)
        finally:
            remainder.close()

    # -- what the hub holds ----------------------------------------------------------------------------------

    def told(self, path: str) -> Any:
        """The `data` of what the hub answers to a reader."""
        answer = self._forward.get(self.behind.url + path, timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    def model(self, session: Session) -> dict[str, Any]:
        """What the hub tells of a session."""
        told: dict[str, Any] = self.told(f"/v1/models/{self._known_as(session)}")
        return told

    def _known_as(self, session: Session) -> str:
        """What the hub calls a session; one of the old protocol chooses that itself."""
        return session._door.memory.model or session.id

    def rows(self, session: Session) -> list[dict[str, Any]]:
        """The rows in force at the hub."""
        rows: list[dict[str, Any]] = self.told(f"/v1/models/{self._known_as(session)}/metrics")
        return rows

    def epochs(self, session: Session) -> list[int]:
        """The epochs whose rows are in force at the hub."""
        return [row["epoch"] for row in self.rows(session)]

    def files(self, session: Session) -> dict[str, bytes]:
        """The checkpoints at the hub, by kind."""
        files = self.model(session)["checkpoints"]
        return {file["kind"]: self._forward.get(file["url"], timeout=60).content for file in files}

    def close(self) -> None:
        for session in self._sessions:
            session.close()
        for client in self._clients:
            client.close()
        self.wire.close()
        self._forward.close()


def spend(clock: FakeClock, seconds: float) -> None:
    """So much time passes, and whoever sends has a turn whenever it wants one."""
    until, never = clock.monotonic() + seconds, threading.Event()
    while (left := until - clock.monotonic()) > 1e-6:
        clock.wait(never, left)


def weights(epoch: int) -> bytes:
    """What a trainer writes after an epoch: other bytes each time."""
    return random.Random(epoch).randbytes(2000 + epoch)
