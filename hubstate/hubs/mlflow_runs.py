"""The one run of a session: found by its tag, made where there is none, and the same one for everybody who looks.

MLflow makes a new run at every call, so a call whose answer was lost, or two processes at once, would make two. All of
them carry the session's tag, and one of them is elected by the only thing that MLflow decides once: a parameter, which
is written once and never changed. Whoever finds several runs writes `superseded` into all but the first (by id), and
then `kept` into that one; a run that was superseded meanwhile is not kept, nor the other way round. Two runs cannot both
be kept: of any two who wrote `kept`, one looked after the other one's run was made, and superseded it or saw that it was
kept. What is superseded is deleted there, as MLflow deletes: it can be restored.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from hubstate.actions import OpenSession
from hubstate.hubs.base import Declined, Delayed
from hubstate.hubs.bodies import is_model_id, started_at
from hubstate.hubs.mlflow_bodies import RUN, SESSION, opening_tags, storable
from hubstate.hubs.mlflow_calls import Calls, Denied, no_run
from hubstate.settings import MLflow

__all__ = ["Run", "Runs"]

KEPT, SUPERSEDED = "kept", "superseded"
#: How often an election begins anew: each time another process has made a run meanwhile.
_ROUNDS = 10
#: How many experiments are asked for at once, and of how many pages at most.
_PAGE, _PAGES = 1_000, 100
#: How long a page of experiments or runs may be (bytes): their tags come along, and the newest point of each metric.
_LONGEST_PAGE = 64_000_000
#: The experiment of whoever names none, as MLflow has it.
_DEFAULT = "Default"
#: By which MLflow's pages show the runs of an experiment as trainings, and not as something that a language model said.
_KIND = {"key": "mlflow.experimentKind", "value": "custom_model_development"}


class _Pair(msgspec.Struct, frozen=True):
    key: str = ""
    value: str = ""


class _Point(msgspec.Struct, frozen=True):
    key: str = ""
    timestamp: int = 0


class _Info(msgspec.Struct, frozen=True):
    run_id: str
    experiment_id: str = ""
    status: str = ""
    artifact_uri: str = ""
    lifecycle_stage: str = "active"


class _Data(msgspec.Struct, frozen=True):
    metrics: tuple[_Point, ...] = ()
    params: tuple[_Pair, ...] = ()
    tags: tuple[_Pair, ...] = ()


class Run(msgspec.Struct, frozen=True):
    """A run as MLflow tells of it."""

    info: _Info
    data: _Data = _Data()

    @property
    def id(self) -> str:
        """The run's id."""
        return self.info.run_id

    @property
    def deleted(self) -> bool:
        """Whether somebody deleted it; it can be restored."""
        return self.info.lifecycle_stage == "deleted"

    @property
    def params(self) -> dict[str, str]:
        """Its parameters."""
        return {pair.key: pair.value for pair in self.data.params}

    @property
    def tags(self) -> dict[str, str]:
        """Its tags."""
        return {pair.key: pair.value for pair in self.data.tags}

    @property
    def last_at(self) -> int | None:
        """The time of its newest point (milliseconds since 1970)."""
        return max((point.timestamp for point in self.data.metrics), default=None)


class Runs:
    """The runs of one MLflow server. `wanted`: the experiment of sessions that name no project."""

    def __init__(self, calls: Calls, host: str, wanted: MLflow) -> None:
        self._calls = calls
        self._host = host
        self._wanted = wanted

    def run(self, model: str, *, files: bool = False) -> Run | Declined | Delayed:
        """The run with this id. Declined if there is none, or if somebody deleted it."""
        told = self._calls.get("runs/get", {"run_id": model}, files=files, most=_LONGEST_PAGE)
        if not isinstance(told, dict):
            return told
        run = _run(told.get("run"))
        if run is None or run.id != model:
            return self._odd("told of another run than it was asked for")
        return _gone(run) if run.deleted else run

    def of(self, action: OpenSession, now: float) -> Run | Declined | Delayed:
        """The run of a session, which is made if there is none. `now`: seconds since 1970."""
        for _ in range(_ROUNDS):
            found = self._find(action.session)
            if not isinstance(found, list):
                return found
            kept = next((run for run in found if run.params.get(RUN) == KEPT), None)
            if kept is not None:
                self._tidy(found, kept)
                return _gone(kept) if kept.deleted else kept
            standing = [run for run in found if not run.deleted and run.params.get(RUN) != SUPERSEDED]
            if not standing:
                made = self._make(action, now)
                if made is not None:
                    return made
            elif (trouble := self._elect(standing)) is not None:
                return trouble
        return self._odd("finds another run of this session at every look")

    def experiment(self, project: str | None) -> dict[str, Any] | Declined | Delayed:
        """The experiment that runs go to; Declined if there is none (yet)."""
        if project is None and self._wanted.experiment_id is not None:
            asked = {"experiment_id": self._wanted.experiment_id}
            told = self._calls.get("experiments/get", asked)
        else:
            told = self._calls.get("experiments/get-by-name", {"experiment_name": self._name(project)})
        if not isinstance(told, dict):
            return told
        experiment = told.get("experiment")
        if not isinstance(experiment, dict) or not isinstance(experiment.get("experiment_id"), str):
            return self._odd("told of no experiment when it was asked for one")
        return experiment

    def _name(self, project: str | None) -> str:
        return storable(project or self._wanted.experiment or _DEFAULT)

    # -- looking -----------------------------------------------------------------------------------------

    def _find(self, session: str) -> list[Run] | Declined | Delayed:
        """Every run of the session, deleted ones too, in order of their ids; in whatever experiment, for whoever made it may
        have had other settings.
        """
        found: dict[str, Run] = {}
        for page in self._experiments():
            if not isinstance(page, list):
                return page
            body = {
                "experiment_ids": page,
                "filter": f"tags.`{SESSION}` = '{session}'",
                "run_view_type": "ALL",
                "max_results": 100,
            }
            told = self._calls.post("runs/search", body, most=_LONGEST_PAGE)
            if not isinstance(told, dict):
                return told
            listed = told.get("runs", [])
            runs = [_run(entry) for entry in listed] if isinstance(listed, list) else [None]
            for run in runs:
                if run is None:
                    return self._odd("told of its runs as MLflow does not")
                # Whatever it searched for: what has another tag is another session's.
                if run.tags.get(SESSION) == session:
                    found[run.id] = run
        return [found[key] for key in sorted(found)]

    def _experiments(self) -> Iterator[list[str] | Declined | Delayed]:
        """The ids of all experiments, page by page."""
        token = ""
        for _ in range(_PAGES):
            body: dict[str, Any] = {"max_results": _PAGE, "view_type": "ALL"}
            if token:
                body["page_token"] = token
            told = self._calls.post("experiments/search", body, most=_LONGEST_PAGE)
            if not isinstance(told, dict):
                yield told
                return
            listed = told.get("experiments", [])
            ids = (
                [e.get("experiment_id") for e in listed if isinstance(e, dict)]
                if isinstance(listed, list)
                else []
            )
            if page := [each for each in ids if isinstance(each, str)]:
                yield page
            following = told.get("next_page_token")
            if not isinstance(following, str) or not following:
                return
            token = following

    # -- making and electing -----------------------------------------------------------------------------

    def _make(self, action: OpenSession, now: float) -> Declined | Delayed | None:
        """Makes a run; None if it was made. Which one counts is found out by looking again."""
        experiment = self._experiment_for(action.project)
        if not isinstance(experiment, str):
            return experiment
        started = started_at(action.session)
        body = {
            "experiment_id": experiment,
            "run_name": storable(action.name)[:250],
            "start_time": int((now if started is None else started) * 1000),
            "tags": opening_tags(action)[:MOST_FIRST],
        }
        told = self._calls.post("runs/create", body)
        return None if isinstance(told, dict) else told

    def _experiment_for(self, project: str | None) -> str | Declined | Delayed:
        """The id of the experiment that a new run goes to, which is made if there is none of its name."""
        found = self.experiment(project)
        if isinstance(found, Declined) and no_run(found):
            if project is None and self._wanted.experiment_id is not None:
                return Declined(
                    f"{self._host} has no experiment {self._wanted.experiment_id} (MLFLOW_EXPERIMENT_ID)", 404
                )
            name = self._name(project)
            made = self._calls.post("experiments/create", {"name": name, "tags": [_KIND]})
            if isinstance(made, Denied) and made.code != "RESOURCE_ALREADY_EXISTS":
                return made
            if isinstance(made, Delayed):
                return made
            found = self.experiment(project)
        if isinstance(found, Declined | Delayed):
            return found
        if found.get("lifecycle_stage") == "deleted":
            reason = f"the experiment {found.get('name')!r:.200} was deleted at {self._host}: restore it there, and `hubstate sync --retry-refused`"
            return Declined(reason)
        return str(found["experiment_id"])

    def _elect(self, standing: list[Run]) -> Declined | Delayed | None:
        """Makes the first of some runs the one that counts; None if it may be so now, and a look tells."""
        first, *others = standing
        for run, word in [*((other, SUPERSEDED) for other in others), (first, KEPT)]:
            told = self._calls.post("runs/log-parameter", {"run_id": run.id, "key": RUN, "value": word})
            if isinstance(told, Delayed):
                return told
            if isinstance(told, Denied):
                # Another process was quicker, or the run is gone: a look tells.
                return None
        return None

    def _tidy(self, found: list[Run], kept: Run) -> None:
        """Deletes what does not count. Where that fails it stays, and says itself that it does not count."""
        for run in found:
            if run is not kept and not run.deleted:
                body = {"run_id": run.id, "key": RUN, "value": SUPERSEDED}
                if isinstance(self._calls.post("runs/log-parameter", body), dict):
                    self._calls.post("runs/delete", {"run_id": run.id})

    def _odd(self, what: str) -> Delayed:
        return Delayed("hub_failing", f"{self._host} {what}")


#: How many tags a run is made with; all of them are told again when it is opened.
MOST_FIRST = 50


def _gone(run: Run) -> Declined:
    return Declined(
        f"the run {run.id} was deleted there: restore it, and `hubstate sync --retry-refused`, or give it up",
        404,
    )


def _run(told: object) -> Run | None:
    try:
        run = msgspec.convert(told, Run, strict=False)
    except msgspec.ValidationError:
        return None
    # Both become a part of addresses that people open.
    plain = all(is_model_id(each) for each in (run.id, run.info.experiment_id or run.id))
    return run if plain else None
