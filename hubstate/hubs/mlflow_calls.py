"""One call of MLflow's REST API 2.0, and what its answer means for a delivery.

The names of its errors say more than the status: `BAD_REQUEST` (400) is what a server answers whose database failed it
(no connection was free in its pool, say), so that is repeated; a 4xx that is no JSON of MLflow's comes from whoever sits
in between, or from a server that is none, and says nothing about what was sent. What was sent is judged by the other
names alone.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote, urlencode

import msgspec

from hubstate.hubs.base import Declined, Delayed
from hubstate.hubs.multipart import Body
from hubstate.hubs.news import text
from hubstate.hubs.verdict import Answer, judge
from hubstate.hubs.wire import LARGEST_ANSWER, Sink, Wire

__all__ = ["NO_ARTIFACTS", "Calls", "Denied", "header", "no_run"]

_API = "/api/2.0/mlflow"
_ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"
_JSON = {"Content-Type": "application/json"}
_ENCODER = msgspec.json.Encoder()
#: What a server says under these names is about itself, or about what another one does at the same time.
_PASSING = {
    "BAD_REQUEST",
    "ABORTED",
    "RESOURCE_CONFLICT",
    "REQUEST_LIMIT_EXCEEDED",
    "TEMPORARILY_UNAVAILABLE",
}
#: The code of a server that hands out no artifacts, which is none of MLflow's: it says so in words alone, under a status
#: that says "later" (503), and names the option that would change it.
NO_ARTIFACTS = "NO_ARTIFACTS"
_ITS_OPTION = "--serve-artifacts"
_LONGEST_MESSAGE = 300


class Denied(Declined, frozen=True):
    """What MLflow will not do. `code`: how it calls the reason; empty where it gives none."""

    code: str = ""


def no_run(denied: Declined) -> bool:
    """Whether there is no such thing there."""
    return isinstance(denied, Denied) and denied.code in ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND")


def header(key: str) -> tuple[str, str]:
    """The header that carries a key: `user:password` as basic authentication, anything else as a bearer's token."""
    if ":" in key:
        # What is no text at all is refused by its sender, as a key that is not printable.
        return "Authorization", f"Basic {base64.b64encode(key.encode('utf-8', 'replace')).decode()}"
    return "Authorization", f"Bearer {key}"


class Calls:
    """What can be asked of the MLflow server behind `wire`. `wall`: the time in seconds since 1970."""

    def __init__(self, wire: Wire, wall: Callable[[], float]) -> None:
        self._wire = wire
        self._wall = wall

    def get(
        self,
        what: str,
        asked: Mapping[str, str | int],
        *,
        files: bool = False,
        most: int = LARGEST_ANSWER,
    ) -> dict[str, Any] | Denied | Delayed:
        """Asks for something, such as `runs/get`."""
        path = f"{_API}/{what}?{urlencode(asked)}"
        return self._judged(self._wire.send(path, method="GET", files=files, most=most))

    def post(
        self, what: str, body: Mapping[str, Any], *, files: bool = False, most: int = LARGEST_ANSWER
    ) -> dict[str, Any] | Denied | Delayed:
        """Does something, such as `runs/log-batch`, or searches."""
        path = f"{_API}/{what}"
        return self._judged(self._wire.send(path, _ENCODER.encode(body), _JSON, files=files, most=most))

    def answer(self, what: str, body: Mapping[str, Any]) -> Answer | Delayed:
        """As `post`, but what came as it came."""
        return self._wire.send(f"{_API}/{what}", _ENCODER.encode(body), _JSON)

    def put_file(self, place: str, body: Body) -> dict[str, Any] | Denied | Delayed:
        """Brings a file to the server's store of artifacts."""
        headers = {"Content-Type": "application/octet-stream"}
        answer = self._wire.send(f"{_ARTIFACTS}/{quote(place)}", body, headers, method="PUT", files=True)
        if isinstance(answer, Answer) and answer.body is None and not answer.text:
            # Newer servers take a file without a word. What lies there is asked for afterwards.
            answer = answer._replace(body={})
        return self._judged(answer)

    def get_file(self, place: str, sink: Sink) -> Answer | Delayed:
        """Fetches a file from the server's store of artifacts."""
        return self._wire.fetch(f"{_ARTIFACTS}/{quote(place)}", sink)

    def delete_file(self, place: str) -> dict[str, Any] | Denied | Delayed:
        """Removes a file from the server's store of artifacts."""
        # An empty object: without a body some servers refuse to look at the request.
        return self._judged(
            self._wire.send(f"{_ARTIFACTS}/{quote(place)}", b"{}", _JSON, method="DELETE", files=True)
        )

    def files_in(self, place: str, *, files: bool = False) -> dict[str, Any] | Denied | Delayed:
        """The files at a place of the server's store of artifacts."""
        path = f"{_ARTIFACTS}?{urlencode({'path': place})}"
        return self._judged(self._wire.send(path, method="GET", files=files))

    def judged(self, answer: Answer) -> dict[str, Any] | Denied | Delayed:
        """The object of an answer that counts, else what it means for the delivery."""
        code = _code(answer)
        said = self._wire.clean(_said(answer, self._wire.clean))
        host, status = self._wire.host, answer.status
        if status == 503 and _ITS_OPTION in said:
            return Denied(f"{host} hands out no artifacts: {said}", status, code=NO_ARTIFACTS)
        if status in (401, 403) and answer.body is None and "host" in answer.text.lower():
            # Whoever is asked under a name that the server does not know as its own.
            return Delayed("hub_failing", f"{host} answered {status}: {said}", status)
        if status in (401, 403):
            reason = said or f"{host} does not accept the credentials"
            return Delayed("credentials_rejected", reason, status)
        if code in _PASSING and status != 429:
            return Delayed("hub_failing", f"{host} answered {status} {code}: {said}", status)
        if 400 <= status < 500 and status not in (408, 413, 425, 429) and not code:
            reason = (
                f"{host} answered {status} as MLflow does not: is it an MLflow server, and at this address?"
            )
            return Delayed("hub_failing", reason, status)
        verdict = judge(answer, host, self._wall())
        match verdict:
            case Declined():
                return Denied(said or self._wire.clean(verdict.reason), status, code=code)
            case Delayed():
                return msgspec.structs.replace(verdict, reason=self._wire.clean(verdict.reason))
        return verdict

    def _judged(self, answer: Answer | Delayed) -> dict[str, Any] | Denied | Delayed:
        return answer if isinstance(answer, Delayed) else self.judged(answer)


def _code(answer: Answer) -> str:
    """How MLflow calls an error; empty if this is none of its answers."""
    told = None if answer.body is None else answer.body.get("error_code")
    return told if isinstance(told, str) and len(told) <= 100 and told.isprintable() else ""


def _said(answer: Answer, clean: Callable[[str], str]) -> str:
    """What the server says to people, in one line. It is cleaned before it is cut: half a key is found by nobody."""
    told = answer.text if answer.body is None else answer.body.get("message", answer.body.get("detail"))
    line = text(clean(told) if isinstance(told, str) else None, _LONGEST_MESSAGE) or ""
    return "" if line.startswith("<") else line  # a page is no message
