"""A hub that speaks HUB v1: one's own (`hubstate serve`), or another one that keeps to the old protocol.

Which of the two it is, the hub says itself: `POST /v1/auth` answers `"hubstate": 1` at one's own. That question is
asked once, before anything else is sent, by whichever delivery comes first. One's own hub is told everything, and
confirms it: how many rows it took, the SHA-256 of the file as it lies there. What it does not confirm does not count.
The other kind keeps one row an epoch, two files and no ending; what it cannot keep is not sent, and said to be so.

Neither the network nor an answer ever makes a method raise.
"""

from __future__ import annotations

import base64
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from hubstate.actions import (
    CloseSession,
    EndSession,
    Heartbeat,
    KeepCheckpoint,
    OpenSession,
    RecordUsage,
    SendCheckpoint,
    SendRows,
)
from hubstate.archive import Content
from hubstate.errors import CheckpointMissing
from hubstate.hubs import tus
from hubstate.hubs.base import Accepted, Capabilities, Declined, Delayed, News, Parcel, Reply
from hubstate.hubs.bodies import (
    data_of,
    end_body,
    header_text,
    is_model_id,
    merged,
    opening,
    row_body,
    upload_fields,
)
from hubstate.hubs.multipart import Form
from hubstate.hubs.news import heard, text
from hubstate.hubs.verdict import Answer, date_of, judge, message_of
from hubstate.hubs.wire import Wire, user_agent
from hubstate.states import CheckpointKind

__all__ = ["HubV1"]

_FOREIGN = Capabilities(step_rows=False, closing=False, stop_request=False, own_digest=False)

#: How it is said that a request of this kind is not made here.
_NO_SUCH_METHOD = (405, 501)
_ONE_ROW = "this hub keeps one row an epoch"
_ENCODER = msgspec.json.Encoder()

#: An answer that counts, as an object, with the news in it; or what became of the delivery.
_Told = tuple[dict[str, Any], News] | Declined | Delayed


class HubV1:
    """One hub, for one session's sender. At most two threads at a time get on well: one for words, one for files."""

    def __init__(
        self,
        address: str,
        api_key: str | None,
        *,
        wall: Callable[[], float] = time.time,
        chance: random.Random | None = None,
        connect_timeout: float = 5.0,
        read_timeout: float = 30.0,
        total_timeout: float = 60.0,
    ) -> None:
        """Opens no connection yet.

        `wall`: the time in seconds since 1970; `chance` draws the boundaries of uploads. Times in seconds, see
        `deadlines`. Raises `UsageError` for an address or a key that no request can carry.
        """
        self._wire = Wire(
            address,
            api_key,
            connect_timeout=connect_timeout,
            read_timeout=read_timeout,
            total_timeout=total_timeout,
        )
        self._wall = wall
        self._chance = random.Random() if chance is None else chance  # noqa: S311 - no secret comes of it
        self._greeting = threading.Lock()
        self._greeted = False
        #: Whether this is one's own hub, as it said last.
        self._own = False
        #: What one's own hub said that it can do beyond the least.
        self._extras: dict[str, Any] = {}
        self._agent: str | None = None

    @property
    def address(self) -> str:
        """The address without credentials, for people."""
        return self._wire.address

    @property
    def moved(self) -> int:
        """The bytes of uploads that have left, and the answers that have come."""
        return self._wire.moved

    @property
    def capabilities(self) -> Capabilities:
        """What this hub can hold and tell; until it was heard, the least."""
        if not self._own:
            return _FOREIGN
        return Capabilities(
            folders=self._extras.get("archive") == "tar", resumable=self._extras.get("tus") == tus.VERSION
        )

    def check(self) -> Reply:
        """Asks whether the hub is there and takes the key, anew each time."""
        with self._greeting:
            trouble = self._ask(files=False)
            at = self._told_at
        reply = Accepted(news=News(hub=self.address)) if trouble is None else trouble
        return msgspec.structs.replace(reply, news=msgspec.structs.replace(reply.news, at=at))

    def close(self) -> None:
        """Lets go of the connections."""
        self._wire.close()

    def __repr__(self) -> str:
        return f"<HubV1 {self.address}>"

    def deliver(self, parcel: Parcel) -> Reply:
        """Sends one parcel, once, and tells what became of it."""
        files = isinstance(parcel.action, SendCheckpoint)
        trouble = self._greet(files=files)
        return self._deliver(parcel) if trouble is None else trouble

    def _deliver(self, parcel: Parcel) -> Reply:
        match parcel.action:
            case OpenSession() as action:
                return self._open(parcel, action)
            case SendRows():
                return self._rows(parcel) if self._own else self._epochs(parcel)
            case SendCheckpoint() as action:
                return self._checkpoint(parcel, action)
            case Heartbeat() as action:
                return self._heartbeat(parcel, action)
            case CloseSession() | EndSession() as action:
                return self._end(parcel, action)
            case RecordUsage() as action:
                return self._usage(parcel, action)
            case KeepCheckpoint():
                return Accepted(news=News(hub=self.address))  # a matter of this machine alone

    # -- who is there ------------------------------------------------------------------------------------

    def _greet(self, *, files: bool) -> Declined | Delayed | None:
        """Asks once what kind of hub this is and whether it takes the key; None if all is well."""
        with self._greeting:
            return None if self._greeted else self._ask(files=files)

    def _ask(self, *, files: bool) -> Delayed | None:
        answer = self._wire.send("/v1/auth", files=files)
        self._told_at = None if isinstance(answer, Delayed) else date_of(answer)
        if isinstance(answer, Delayed):
            return answer
        news = heard(answer.body, self.address)
        success = None if answer.body is None else answer.body.get("success")
        if 200 <= answer.status < 300 and success is False:
            reason = self._wire.clean(message_of(answer)) or f"{self._wire.host} does not accept the API key"
            return Delayed("credentials_rejected", reason, answer.status, news=news)
        verdict = judge(answer, self._wire.host, self._wall())
        if isinstance(verdict, Declined):
            # It is not the delivery that is wrong, but the place: an address can be set right.
            reason = f"{self._wire.host} is no hub, or not at this address: {verdict.reason}"
            return Delayed("hub_failing", self._wire.clean(reason), verdict.status, news=news)
        if isinstance(verdict, Delayed):
            return msgspec.structs.replace(verdict, reason=self._wire.clean(verdict.reason), news=news)
        if success is not True:
            reason = f"{self._wire.host} did not say whether it accepts the API key: is it a hub?"
            return Delayed("hub_failing", reason, answer.status, news=news)
        told = verdict.get("hubstate")
        self._own = told == 1 and not isinstance(told, bool)
        self._extras = data_of(verdict) if self._own else {}
        self._greeted = True
        return None

    # -- the deliveries ----------------------------------------------------------------------------------

    def _open(self, parcel: Parcel, action: OpenSession) -> Reply:
        if not self._own and parcel.model is not None:
            # It knows no attempts, and a second create would make a second model.
            return Accepted(news=News(hub=self.address, model=parcel.model))
        told = self._words(parcel, "/v1/models", opening(action, own=self._own))
        if not isinstance(told, tuple):
            return told
        body, news = told
        model = data_of(body).get("id")
        if not isinstance(model, str) or not is_model_id(model):
            return self._odd("answered without an id of the model", news)
        if self._own and model != action.session:
            return self._odd("opened another session than it was asked for", news)
        return Accepted(news=msgspec.structs.replace(news, model=model))

    def _rows(self, parcel: Parcel) -> Reply:
        rows = [row_body(row) for row in parcel.rows]
        path = self._path("/v1/models/{}", parcel)
        told = self._words(parcel, path, {"type": "metrics", "metrics": rows})
        if not isinstance(told, tuple):
            return told
        body, news = told
        count = data_of(body).get("rows")
        if isinstance(count, bool) or count != len(rows):
            return self._odd(f"did not confirm that it holds these {len(rows)} rows", news)
        return Accepted(rows=len(rows), news=news)

    def _epochs(self, parcel: Parcel) -> Reply:
        taken = [row for row in parcel.rows if row.step is None and not row.final]
        not_taken = "" if len(taken) == len(parcel.rows) else _ONE_ROW
        if not taken:
            return Accepted(not_taken=not_taken, news=News(hub=self.address))
        path = self._path("/v1/models/{}", parcel)
        told = self._words(parcel, path, {"metrics": merged(taken), "type": "metrics"})
        if not isinstance(told, tuple):
            return told
        return Accepted(not_taken=not_taken, rows=len(taken), news=told[1])

    def _checkpoint(self, parcel: Parcel, action: SendCheckpoint) -> Reply:
        if parcel.file is None:
            return Declined("there is no file to send")
        folder = parcel.file.is_dir()
        if folder and not self.capabilities.folders:
            return Accepted(not_taken="this hub takes single files, no folders", news=News(hub=self.address))
        fields = upload_fields(action, own=self._own)
        # One's own hub tells the kinds apart by `kind`; an old one by this name alone.
        name = "last.pt" if action.kind is CheckpointKind.LAST else "best.pt"
        if self._own:
            fields |= {"kind": action.kind.value, "attempt": str(action.attempt), "sha256": parcel.sha256}
            fields |= {"archive": "tar"} if folder else {}
        elif action.kind is CheckpointKind.BEST:
            name = "last.pt"
        try:
            told = self._upload(parcel, parcel.file, name, fields)
        except OSError as error:
            return Declined(
                f"the kept file {parcel.file.name} cannot be read here: {error.strerror or error}"
            )
        except CheckpointMissing as error:
            return Declined(str(error))
        if not isinstance(told, tuple):
            return told
        body, news = told
        if not self._own:
            return Accepted(news=news)
        held = data_of(body).get("sha256")
        if not isinstance(held, str) or held.lower() != parcel.sha256.lower():
            return self._odd("does not hold the bytes that were sent", news)
        return Accepted(sha256=parcel.sha256, news=news)

    def _upload(self, parcel: Parcel, file: Path, name: str, fields: dict[str, str]) -> _Told:
        """Brings the file there, by one form, or, where it is large and the hub can, so that it can be cut."""
        if self.capabilities.resumable:
            with Content(file) as content:
                size = content.size
            if size >= tus.LEAST:
                told = self._resumably(parcel, file, size, {"name": name, **fields})
                if told is not None:
                    return told
                # Something in between (a proxy) lets no such request pass: one form does it, as with any other hub.
                self._extras.pop("tus", None)
        headers = {}
        if self._own:
            digest = base64.b64encode(bytes.fromhex(parcel.sha256)).decode()
            headers["Repr-Digest"] = f"sha-256=:{digest}:"
        with Form(fields, name, file, self._chance) as form:
            headers["Content-Type"] = form.content_type
            told = self._told(parcel, self._path("/v1/models/{}/upload", parcel), form, headers)
        return Declined(form.fault) if form.fault else told

    def _resumably(self, parcel: Parcel, file: Path, size: int, fields: dict[str, str]) -> _Told | None:
        """Brings the file there in parts; None where requests of this kind cannot be made."""
        model = self._path("/v1/models/{}", parcel)
        assert model is not None, "one's own hub calls a session by its id"
        key = header_text(parcel.key)
        place = tus.transferred(self._wire, model, file, size, parcel.sha256, key)
        if not isinstance(place, str) and place.status in _NO_SUCH_METHOD:
            return None
        if isinstance(place, Answer):
            return self._judged(place)
        if not isinstance(place, str):
            if isinstance(place, Delayed) and place.condition == "credentials_rejected":
                self._greeted = False
            return place
        told = self._told(
            parcel, place, _ENCODER.encode(fields), {"Content-Type": "application/json"}, files=True
        )
        if isinstance(told, Declined) and told.status in (404, 409, 410):
            # The bytes were swept, or taken under another name: the next try begins anew, and hears if more is wrong.
            return Delayed("hub_failing", told.reason, told.status, news=told.news)
        return told

    def _heartbeat(self, parcel: Parcel, action: Heartbeat) -> Reply:
        body: dict[str, Any] = {"agent": user_agent(), "agentId": self._agent}
        if self._own:
            body["hubstate"] = {
                "attempt": action.attempt,
                "state": action.state.value,
                "outcome": action.outcome.value,
                "epoch": action.epoch,
                "waiting": action.waiting,
            }
        told = self._words(parcel, self._path("/v1/agent/heartbeat/models/{}", parcel), body)
        if not isinstance(told, tuple):
            return told
        answer, news = told
        if not isinstance(answer.get("data", {}), dict):
            return self._odd("answered a sign of life with something odd", news)
        self._agent = text(data_of(answer).get("agentId"), 200) or self._agent
        return Accepted(news=news)

    def _end(self, parcel: Parcel, action: CloseSession | EndSession) -> Reply:
        if not self._own:
            return Accepted(news=News(hub=self.address))  # it needs no such word
        body = end_body(action)
        told = self._words(parcel, self._path("/v1/models/{}/end", parcel), body)
        return Accepted(news=told[1]) if isinstance(told, tuple) else told

    def _usage(self, parcel: Parcel, action: RecordUsage) -> Reply:
        if not self._own:
            return Accepted(not_taken="this hub keeps no usage", news=News(hub=self.address))
        body = {"what": action.what, "attempt": action.attempt}
        told = self._words(parcel, self._path("/v1/models/{}/usage", parcel), body)
        return Accepted(news=told[1]) if isinstance(told, tuple) else told

    # -- one request -------------------------------------------------------------------------------------

    def _path(self, pattern: str, parcel: Parcel) -> str | None:
        """The path about the parcel's session; None while nobody knows what the hub calls it."""
        # The id is chosen here and is the model's id at one's own hub, so it is known before the hub has said it.
        model = parcel.model or (parcel.session if self._own else None)
        return None if not model else pattern.format(quote(model, safe=""))

    def _words(self, parcel: Parcel, path: str | None, body: dict[str, Any]) -> _Told:
        return self._told(parcel, path, _ENCODER.encode(body), {"Content-Type": "application/json"})

    def _told(
        self,
        parcel: Parcel,
        path: str | None,
        body: bytes | Form,
        headers: dict[str, str],
        *,
        files: bool = False,
    ) -> _Told:
        if path is None:
            return Delayed("hub_failing", f"{self._wire.host} has not said yet what it calls this session")
        headers = {**headers, "Idempotency-Key": header_text(parcel.key)}
        answer = self._wire.send(path, body, headers, files=files or isinstance(body, Form))
        if isinstance(answer, Delayed):
            return answer
        return self._judged(answer)

    def _judged(self, answer: Answer) -> _Told:
        news = heard(answer.body, self.address)
        verdict = judge(answer, self._wire.host, self._wall())
        if isinstance(verdict, dict):
            return verdict, news
        if isinstance(verdict, Delayed) and verdict.condition == "credentials_rejected":
            self._greeted = False  # who is there, and whether the key is good, is asked anew
        return msgspec.structs.replace(verdict, reason=self._wire.clean(verdict.reason), news=news)

    def _odd(self, what: str, news: News) -> Delayed:
        return Delayed("hub_failing", f"{self._wire.host} {what}", news=news)
