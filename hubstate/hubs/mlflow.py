"""An MLflow tracking server as a hub, over its REST API 2.0: one session is one run there.

MLflow knows nothing of attempts, acknowledgements or an order of words, so what it holds is made so that a repeat
changes nothing: the run is looked for before it is made (`mlflow_runs`), points carry the time at which their row was
recorded (`mlflow_bodies`), a file leaves under a name that holds its digest and counts only once a tag names it, and all
else are tags and a status, which may be said again. `docs/mlflow.md` tells what people see there.

An attempt is opened by a parameter as well, which can be written once: an opening that another process began of the same
attempt finds it taken, and is refused with all that stands behind it.

Neither the network nor an answer ever makes a method raise.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

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
from hubstate.errors import CheckpointMissing, UsageError
from hubstate.hubs import mlflow_bodies as bodies
from hubstate.hubs.base import Accepted, Capabilities, Declined, Delayed, News, Parcel, Reply
from hubstate.hubs.mlflow_calls import NO_ARTIFACTS, Calls, Denied, header
from hubstate.hubs.mlflow_files import File, is_ours, name_of, place_of, scheme_of, told_of
from hubstate.hubs.mlflow_runs import Run, Runs
from hubstate.hubs.multipart import Body
from hubstate.hubs.verdict import date_of
from hubstate.hubs.wire import Wire
from hubstate.settings import MLFLOW, MLflow

__all__ = ["MLflowHub"]

#: The file that is looked for in order to see whether artifacts are handed out at all. There is none of this name.
_PROBE = "hubstate-asks"
_NO_FILES = "this server hands out no artifacts (--no-serve-artifacts), so it gets no checkpoints"


class MLflowHub:
    """One MLflow server, for one session's sender. At most two threads at a time get on well: words, and files."""

    def __init__(
        self,
        address: str,
        api_key: str | None,
        *,
        wanted: MLflow | None = None,
        wall: Callable[[], float] = time.time,
        connect_timeout: float = 5.0,
        read_timeout: float = 30.0,
        total_timeout: float = 60.0,
    ) -> None:
        """Opens no connection yet.

        `address`: `mlflow+http://…`. `api_key`: `user:password`, or a token. `wanted`: what MLflow's own variables say.
        `wall`: the time in seconds since 1970. Times in seconds, see `deadlines`. Raises `UsageError` for an address or a
        key that no request can carry.
        """
        wanted = MLflow() if wanted is None else wanted
        server = address.removeprefix(MLFLOW)
        if server == address:
            raise UsageError(
                f"the address of an MLflow server must begin with {MLFLOW}http, such as mlflow+https://host"
            )
        self._wire = Wire(
            server,
            api_key,
            connect_timeout=connect_timeout,
            read_timeout=read_timeout,
            total_timeout=total_timeout,
            header=header,
            trust=wanted.trust,
            certificate=wanted.certificate,
        )
        self._wall = wall
        self._calls = Calls(self._wire, wall)
        self._runs = Runs(self._calls, self._wire.host, wanted)
        self._files = False
        #: The names that were told by tags already, by their run; either thread may look.
        self._named: dict[str, frozenset[str]] = {}
        self._lock = threading.Lock()

    @property
    def address(self) -> str:
        """The address without credentials, for people."""
        return f"{MLFLOW}{self._wire.address}"

    @property
    def moved(self) -> int:
        """The bytes of uploads that have left, and the answers that have come."""
        return self._wire.moved

    @property
    def capabilities(self) -> Capabilities:
        """What an MLflow server can hold and tell. Whether it holds files is known once it was asked."""
        return Capabilities(
            folders=True, stop_request=False, own_digest=False, files=self._files, rewinds=False
        )

    def check(self) -> Reply:
        """Asks whether an MLflow server is there that takes the credentials, and whether it hands out artifacts."""
        answer = self._calls.answer("experiments/search", {"max_results": 1})
        if isinstance(answer, Delayed):
            return answer
        news = News(hub=self.address, at=date_of(answer))
        told = self._calls.judged(answer)
        if isinstance(told, Denied):
            reason = f"{self._wire.host} is no MLflow server, or not at this address: {told.reason}"
            return Delayed("hub_failing", reason, told.status, news=news)
        if isinstance(told, Delayed):
            return msgspec.structs.replace(told, news=news)
        # A server without experiments answers with next to nothing; a newer one may tell more than these.
        theirs = "experiments" in told or not told.keys() - {"next_page_token"}
        if not theirs or not isinstance(told.get("experiments", []), list):
            reason = f"{self._wire.host} does not answer as MLflow does: is it an MLflow server?"
            return Delayed("hub_failing", reason, answer.status, news=news)
        self._look_for_files()
        return Accepted(news=news)

    def close(self) -> None:
        """Lets go of the connections."""
        self._wire.close()

    def __repr__(self) -> str:
        return f"<MLflowHub {self.address}>"

    def deliver(self, parcel: Parcel) -> Reply:
        """Sends one parcel, once, and tells what became of it."""
        reply = self._deliver(parcel)
        model = reply.news.model or parcel.model
        return msgspec.structs.replace(
            reply, news=msgspec.structs.replace(reply.news, hub=self.address, model=model)
        )

    def _deliver(self, parcel: Parcel) -> Reply:
        match parcel.action:
            case OpenSession() as action:
                return self._open(parcel, action)
            case KeepCheckpoint():
                return Accepted()  # a matter of this machine alone
            case RecordUsage():
                return Accepted(not_taken="MLflow keeps no usage")
        if not parcel.model:
            return Delayed("hub_failing", f"{self._wire.host} has not said yet what it calls this session")
        match parcel.action:
            case SendRows():
                return self._rows(parcel, parcel.model)
            case SendCheckpoint() as sent:
                return self._checkpoint(parcel, sent, parcel.model)
            case Heartbeat() as beat:
                return self._tell(parcel.model, tags=bodies.heartbeat_tags(beat, self._now_in_words()))
            case CloseSession() | EndSession() as end:
                return self._end(end, parcel.model)

    # -- the session -------------------------------------------------------------------------------------

    def _open(self, parcel: Parcel, action: OpenSession) -> Reply:
        run = self._runs.run(parcel.model) if parcel.model else self._runs.of(action, self._wall())
        if not isinstance(run, Run):
            return run
        news = News(
            model=run.id, url=f"{self._wire.address}/#/experiments/{run.info.experiment_id}/runs/{run.id}"
        )
        trouble = (
            self._claim(run, action)
            or self._configure(run, action)
            or self._tag(run.id, bodies.opening_tags(action))
        )
        if trouble is None and run.info.status != "RUNNING":
            trouble = self._trouble(self._calls.post("runs/update", {"run_id": run.id, "status": "RUNNING"}))
        return Accepted(news=news) if trouble is None else msgspec.structs.replace(trouble, news=news)

    def _claim(self, run: Run, action: OpenSession) -> Declined | Delayed | None:
        """Says which opening of this attempt it is; None if no other one has said so before."""
        if not action.mark:
            return None
        key = bodies.attempt_tag(action.attempt)
        told = self._calls.post("runs/log-parameter", {"run_id": run.id, "key": key, "value": action.mark})
        if not isinstance(told, Denied):
            return self._trouble(told)
        again = self._runs.run(run.id)
        if isinstance(again, Delayed):
            return again
        if isinstance(again, Run) and again.params.get(key, action.mark) != action.mark:
            reason = f"attempt {action.attempt} of this session was opened by another process before; this one is kept here"
            return Declined(reason, 409)
        return told

    def _configure(self, run: Run, action: OpenSession) -> Delayed | None:
        """Tells the configuration. What MLflow does not take of it holds up no training, and a tag names it."""
        told, names, left_out = bodies.parameters(action.config, action.attempt, run.params)
        items = [{"key": key, "value": value} for key, value in told.items()]
        for part in _parts(items, bodies.MOST_TAGS):
            reply = self._tell(run.id, params=part)
            if isinstance(reply, Delayed):
                return reply
            if isinstance(reply, Declined):
                refused = self._one_by_one(run.id, part)
                if isinstance(refused, Delayed):
                    return refused
                left_out += refused
        tags = [bodies.tag(f"{bodies.NAME_TAG}{key}", name) for key, name in names.items()]
        if left_out:
            tags.append(bodies.tag("hubstate.config.left_out", ", ".join(left_out)))
        trouble = self._tag(run.id, tags)
        return trouble if isinstance(trouble, Delayed) else None

    def _one_by_one(self, model: str, params: list[dict[str, str]]) -> list[str] | Delayed:
        """Tells parameters of which the server refused one or more; returns the names of those that it does not take."""
        refused = []
        for param in params:
            # An older server takes shorter values.
            for value in (param["value"], param["value"][:250]):
                told = self._calls.post(
                    "runs/log-parameter", {"run_id": model, "key": param["key"], "value": value}
                )
                if isinstance(told, Delayed):
                    return told
                if isinstance(told, dict):
                    break
            else:
                refused.append(param["key"])
        return refused

    def _end(self, action: CloseSession | EndSession, model: str) -> Reply:
        run = self._runs.run(model)
        if not isinstance(run, Run):
            return run
        trouble = self._trouble(self._tell(model, tags=bodies.end_tags(action)))
        if trouble is not None:
            return trouble
        body: dict[str, Any] = {"run_id": model, "status": bodies.run_status(action)}
        # The word may come days later: the training was over when its last row was recorded.
        body["end_time"] = run.last_at or int(self._wall() * 1000)
        return self._trouble(self._calls.post("runs/update", body)) or Accepted()

    # -- rows --------------------------------------------------------------------------------------------

    def _rows(self, parcel: Parcel, model: str) -> Reply:
        with self._lock:
            known = self._named.get(model, frozenset())
        for metrics, names in bodies.batches(parcel.rows, known):
            tags = [bodies.tag(f"{bodies.NAME_TAG}{key}", name) for key, name in names.items()]
            trouble = self._trouble(self._tell(model, metrics=metrics, tags=tags))
            if trouble is not None:
                return trouble
            known |= names.keys()
        with self._lock:
            self._named[model] = known
        return Accepted(rows=len(parcel.rows))

    def _tag(self, model: str, tags: list[dict[str, str]]) -> Declined | Delayed | None:
        """Adds tags to a run, in as many requests as they need; None if all of them are there."""
        declined = None
        for part in _parts(tags, bodies.MOST_TAGS):
            trouble = self._trouble(self._tell(model, tags=part))
            if isinstance(trouble, Delayed):
                return trouble
            declined = declined or trouble
        return declined

    def _tell(self, model: str, **what: list[Any]) -> Reply:
        """Adds points, parameters or tags to a run."""
        what = {name: some for name, some in what.items() if some}
        if not what:
            return Accepted()
        return self._trouble(self._calls.post("runs/log-batch", {"run_id": model, **what})) or Accepted()

    def _now_in_words(self) -> str:
        return datetime.fromtimestamp(self._wall(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    # -- files -------------------------------------------------------------------------------------------

    def _checkpoint(self, parcel: Parcel, action: SendCheckpoint, model: str) -> Reply:
        if parcel.file is None:
            return Declined("there is no file to send")
        run = self._runs.run(model, files=True)
        if not isinstance(run, Run):
            return run
        root = place_of(run.info.artifact_uri, self._wire.address)
        if root is None:
            where = scheme_of(run.info.artifact_uri)
            return Accepted(
                not_taken=f"the files of this experiment do not go through its MLflow server, but to {where}: it gets no "
                "checkpoints; an experiment with artifacts at mlflow-artifacts: does"
            )
        kind = bodies.checkpoint_tag(action.kind.value)
        before = told_of(run.tags.get(kind))
        if before is not None and before.attempt > action.attempt:
            return Accepted(not_taken="a later attempt's checkpoint of this kind is there already")
        if before is not None and before.sha256 == parcel.sha256 and before.attempt == action.attempt:
            # The same bytes, though perhaps of a later epoch: the tag alone has to tell so.
            sent: File | Reply = msgspec.structs.replace(before, epoch=action.epoch, fitness=action.fitness)
            if sent == before:
                self._remove_others(before, root)
                return Accepted()
        else:
            sent = self._sent(parcel, parcel.file, action, root)
        if not isinstance(sent, File):
            return sent
        told = [bodies.tag(kind, msgspec.json.encode(sent).decode())]
        trouble = self._trouble(
            self._calls.post("runs/log-batch", {"run_id": model, "tags": told}, files=True)
        )
        if trouble is not None:
            return trouble
        self._remove_others(sent, root)
        return Accepted()

    def _sent(self, parcel: Parcel, kept: Path, action: SendCheckpoint, root: str) -> File | Reply:
        """As `_send`; what cannot be read here is refused."""
        try:
            return self._send(parcel, kept, action, root)
        except OSError as error:
            return Declined(f"the kept file {kept.name} cannot be read here: {error.strerror or error}")
        except CheckpointMissing as error:
            return Declined(str(error))

    def _send(self, parcel: Parcel, kept: Path, action: SendCheckpoint, root: str) -> File | Reply:
        """Brings a file there; what it is called, once it lies there whole."""
        with Content(kept) as content:
            size = content.size
        ending = ".tar" if kept.is_dir() else kept.suffix
        name = name_of(action.epoch, parcel.sha256, ending)
        file = File(
            path=f"checkpoints/{action.kind.value}/{name}",
            size=size,
            sha256=parcel.sha256,
            epoch=action.epoch,
            attempt=action.attempt,
            fitness=action.fitness,
            folder=kept.is_dir(),
        )
        place = PurePosixPath(root) / file.path
        with Body(kept) as body:
            told = self._calls.put_file(str(place), body)
        if body.fault:
            return Declined(body.fault)
        if isinstance(told, Denied) and told.code == NO_ARTIFACTS:
            return Accepted(not_taken=_NO_FILES)
        if not isinstance(told, dict):
            return told
        self._files = True
        return self._confirmed(file, place) or file

    def _confirmed(self, file: File, place: PurePosixPath) -> Declined | Delayed | None:
        """None if the server says that a file of this size lies at the place: a store may have kept a part of it."""
        listed = self._sizes(place.parent)
        if not isinstance(listed, dict):
            return listed
        if listed.get(place.name) == str(file.size):
            return None
        return Delayed("hub_failing", f"{self._wire.host} does not hold the {file.size} bytes that were sent")

    def _sizes(self, folder: PurePosixPath) -> dict[str, str] | Declined | Delayed:
        """The files of a folder by their names, each with its size (bytes) as the server spells it."""
        listed = self._calls.files_in(str(folder), files=True)
        if not isinstance(listed, dict):
            return listed
        entries = listed.get("files", [])
        return {
            # What is empty may be told without a size.
            str(entry.get("path")).rpartition("/")[2]: str(entry.get("file_size", 0))
            for entry in (entries if isinstance(entries, list) else [])
            if isinstance(entry, dict)
        }

    def _remove_others(self, kept: File, root: str) -> None:
        """Removes what lies beside a checkpoint and is named by nothing: the one before, and one whose word was lost.

        A server that deletes no files keeps it.
        """
        place = PurePosixPath(root) / kept.path
        listed = self._sizes(place.parent)
        for name in listed if isinstance(listed, dict) else ():
            if is_ours(name) and name != place.name:
                self._calls.delete_file(str(place.with_name(name)))

    def _look_for_files(self) -> None:
        told = self._calls.files_in(_PROBE)
        self._files = not isinstance(told, Denied | Delayed) or (
            isinstance(told, Denied) and told.code != NO_ARTIFACTS
        )

    @staticmethod
    def _trouble(told: dict[str, Any] | Reply) -> Declined | Delayed | None:
        return told if isinstance(told, Declined | Delayed) else None


def _parts(items: list[Any], size: int) -> list[list[Any]]:
    return [items[place : place + size] for place in range(0, len(items), size)]
