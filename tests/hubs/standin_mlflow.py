"""MLflow's REST API 2.0 in memory, as far as hubstate uses it: what `ScriptedHub` answers by where there is no MLflow.

It keeps to what a server on a database does (tests/mlflow holds the same expectations against a real one): a run is made
at every call, a parameter is written once, a point that comes again is there once, names and sizes are judged.
"""

from __future__ import annotations

import json
import posixpath
import re
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from scripted import Request, Says

__all__ = ["StandinMLflow"]

_NAME = re.compile(r"[/\w.\- ]*\Z")
_TAG = re.compile(r"tags\.`([^`]+)` = '([^']*)'\Z")
_API, _ARTIFACTS = "/api/2.0/mlflow/", "/api/2.0/mlflow-artifacts/artifacts"


class _Refused(Exception):
    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.says = Says(status, {"error_code": code, "message": message})


def _invalid(message: str) -> _Refused:
    return _Refused(400, "INVALID_PARAMETER_VALUE", message)


def _gone(message: str) -> _Refused:
    return _Refused(404, "RESOURCE_DOES_NOT_EXIST", message)


class StandinMLflow:
    """The server. `serves_artifacts` False: as with `--no-serve-artifacts`."""

    def __init__(self, *, serves_artifacts: bool = True, root: str = "mlflow-artifacts:/") -> None:
        self.serves_artifacts = serves_artifacts
        self._root = root
        self.experiments: dict[str, dict[str, Any]] = {}
        self.runs: dict[str, dict[str, Any]] = {}
        self.files: dict[str, bytes] = {}
        self._make_experiment("Default")

    def __call__(self, request: Request) -> Says:
        if b"\\u0000" in request.body or "%00" in request.path:
            # PostgreSQL holds no NUL, and the server takes that for a fault of its own.
            return Says(500, {"error_code": "INTERNAL_ERROR", "message": "no NUL (0x00) characters"})
        parts = urlsplit(request.path)
        asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if parts.path.startswith(_ARTIFACTS):
            return self._artifact(request, unquote(parts.path.removeprefix(_ARTIFACTS)).lstrip("/"), asked)
        what = parts.path.removeprefix(_API)
        answer = getattr(self, "_" + re.sub(r"\W", "_", what), None)
        if answer is None or what == parts.path:
            return Says(404, b"<html>no such page</html>")
        try:
            body = answer(asked if request.method == "GET" else request.json)
        except _Refused as refused:
            return refused.says
        return Says(body=body)

    # -- what tests look at ------------------------------------------------------------------------------

    def living(self) -> list[dict[str, Any]]:
        """The runs that are not deleted."""
        return [run for run in self.runs.values() if run["info"]["lifecycle_stage"] == "active"]

    def tags(self) -> dict[str, str]:
        """The tags of the only run."""
        (run,) = self.living()
        return dict(run["tags"])

    def points(self) -> list[tuple[str, Any, int, int]]:
        """The points of the only run, each once: key, value, time and step."""
        (run,) = self.living()
        return sorted(run["metrics"], key=repr)

    # -- experiments -------------------------------------------------------------------------------------

    def _make_experiment(self, name: str) -> str:
        key = str(len(self.experiments))
        self.experiments[key] = {
            "experiment_id": key,
            "name": name,
            "lifecycle_stage": "active",
            "artifact_location": f"{self._root}{key}",
        }
        return key

    def _experiments_search(self, body: dict[str, Any]) -> dict[str, Any]:
        first = int(body.get("page_token") or 0)
        listed = list(self.experiments.values())
        last = first + min(body["max_results"], 2)  # pages of two, so that somebody has to turn them
        following = {"next_page_token": str(last)} if last < len(listed) else {}
        return {"experiments": listed[first:last], **following}

    def _experiments_get(self, asked: dict[str, str]) -> dict[str, Any]:
        if asked["experiment_id"] not in self.experiments:
            raise _gone("No Experiment with this id exists")
        return {"experiment": self.experiments[asked["experiment_id"]]}

    def _experiments_get_by_name(self, asked: dict[str, str]) -> dict[str, Any]:
        for experiment in self.experiments.values():
            if experiment["name"] == asked["experiment_name"]:
                return {"experiment": experiment}
        raise _gone("Could not find an experiment of this name")

    def _experiments_create(self, body: dict[str, Any]) -> dict[str, Any]:
        if any(experiment["name"] == body["name"] for experiment in self.experiments.values()):
            raise _Refused(400, "RESOURCE_ALREADY_EXISTS", "it exists")
        key = self._make_experiment(body["name"])
        self.experiments[key]["tags"] = body["tags"]
        return {"experiment_id": key}

    # -- runs --------------------------------------------------------------------------------------------

    def _runs_create(self, body: dict[str, Any]) -> dict[str, Any]:
        experiment = self.experiments[body["experiment_id"]]
        if experiment["lifecycle_stage"] != "active":
            raise _invalid("the experiment is deleted")
        # Ids that are not in the order in which runs were made.
        key = f"{(len(self.runs) * 58 + 50) % 101:032x}"
        self.runs[key] = {
            "info": {
                "run_id": key,
                "run_name": body["run_name"],
                "experiment_id": body["experiment_id"],
                "status": "RUNNING",
                "start_time": body["start_time"],
                "artifact_uri": f"{experiment['artifact_location']}/{key}/artifacts",
                "lifecycle_stage": "active",
            },
            "metrics": set(),
            "params": {},
            "tags": {tag["key"]: tag["value"] for tag in body["tags"]},
        }
        return {"run": self._told(self.runs[key])}

    def _told(self, run: dict[str, Any]) -> dict[str, Any]:
        latest: dict[str, tuple[Any, ...]] = {}
        for point in run["metrics"]:
            key, value, at, step = point
            latest[key] = max(latest.get(key, ()), (step, at, repr(value), value))
        pairs = {name: [{"key": k, "value": v} for k, v in run[name].items()] for name in ("params", "tags")}
        metrics = [
            {"key": key, "value": value, "timestamp": at, "step": step}
            for key, (step, at, _, value) in latest.items()
        ]
        return {"info": run["info"], "data": {"metrics": metrics, **pairs}}

    def _run(self, key: str, *, deleted: bool = False) -> dict[str, Any]:
        run = self.runs.get(key)
        if run is None:
            raise _gone(f"Run with id={key} not found")
        if run["info"]["lifecycle_stage"] == "deleted" and not deleted:
            raise _invalid(f"The run {key} must be in the 'active' state")
        return run

    def _runs_get(self, asked: dict[str, str]) -> dict[str, Any]:
        return {"run": self._told(self._run(asked["run_id"], deleted=True))}

    def _runs_search(self, body: dict[str, Any]) -> dict[str, Any]:
        wanted = _TAG.match(body["filter"])
        assert wanted is not None
        key, value = wanted.groups()
        return {
            "runs": [
                self._told(run)
                for run in self.runs.values()
                if run["info"]["experiment_id"] in body["experiment_ids"]
                and run["tags"].get(key) == value
                and (body.get("run_view_type") == "ALL" or run["info"]["lifecycle_stage"] == "active")
            ]
        }

    def _runs_update(self, body: dict[str, Any]) -> dict[str, Any]:
        info = self._run(body["run_id"])["info"]
        info |= {name: body[name] for name in ("status", "end_time") if name in body}
        return {"run_info": info}

    def _runs_delete(self, body: dict[str, Any]) -> dict[str, Any]:
        self._run(body["run_id"], deleted=True)["info"]["lifecycle_stage"] = "deleted"
        return {}

    def _runs_log_parameter(self, body: dict[str, Any]) -> dict[str, Any]:
        run = self._run(body["run_id"])
        self._check(body["key"], body["value"], 6_000)
        if run["params"].setdefault(body["key"], body["value"]) != body["value"]:
            raise _invalid(f"Changing param values is not allowed: {body['key']}")
        return {}

    def _runs_log_batch(self, body: dict[str, Any]) -> dict[str, Any]:
        run = self._run(body["run_id"])
        metrics, params, tags = (body.get(name, []) for name in ("metrics", "params", "tags"))
        if len(json.dumps(body)) > 1_000_000 or len(metrics) + len(params) + len(tags) > 1_000:
            raise _invalid("the request is too large")
        if max(len(params), len(tags)) > 100:
            raise _invalid("too many parameters or tags")
        for param in params:
            self._check(param["key"], param["value"], 6_000)
            if run["params"].get(param["key"], param["value"]) != param["value"]:
                raise _invalid(f"Changing param values is not allowed: {param['key']}")
        for tag in tags:
            self._check(tag["key"], tag["value"], 8_000)
        for metric in metrics:
            self._check(metric["key"], "", 0)
        run["params"] |= {param["key"]: param["value"] for param in params}
        run["tags"] |= {tag["key"]: tag["value"] for tag in tags}
        run["metrics"] |= {(m["key"], _kept(m["value"]), m["timestamp"], m["step"]) for m in metrics}
        return {}

    def _metrics_get_history(self, asked: dict[str, str]) -> dict[str, Any]:
        run = self._run(asked["run_id"], deleted=True)
        found = sorted((p for p in run["metrics"] if p[0] == asked["metric_key"]), key=lambda p: (p[2], p[3]))
        first = int(asked.get("page_token", 0))
        last = first + min(int(asked["max_results"]), 3)  # short pages, likewise
        following = {"next_page_token": str(last)} if last < len(found) else {}
        told = [{"key": k, "value": v, "timestamp": at, "step": step} for k, v, at, step in found[first:last]]
        return {"metrics": told, **following}

    @staticmethod
    def _check(key: str, value: str, longest: int) -> None:
        norm = posixpath.normpath(key)
        if (
            not _NAME.match(key)
            or norm != key
            or norm.startswith(("..", "/"))
            or norm == "."
            or len(key) > 250
        ):
            raise _invalid(f"Invalid name: {key!r}")
        if len(value) > longest:
            raise _invalid(f"the value of {key} is too long")

    # -- artifacts ---------------------------------------------------------------------------------------

    def _artifact(self, request: Request, place: str, asked: dict[str, str]) -> Says:
        if not self.serves_artifacts:
            return Says(503, b"Endpoint disabled: run `mlflow server` with `--serve-artifacts`")
        match request.method:
            case "PUT":
                assert request.size == len(request.body), "the stand-in remembers no more"
                self.files[place] = request.body
                return Says(200, b"")
            case "DELETE":
                self.files.pop(place, None)
                return Says()
            case "GET" if place:
                if place not in self.files:
                    return Says(404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such file"})
                return Says(200, self.files[place])
        folder = asked["path"]
        listed = [
            {"path": posixpath.basename(name), "is_dir": False, "file_size": len(content)}
            for name, content in self.files.items()
            if posixpath.dirname(name) == folder
        ]
        return Says(body={"files": listed} if listed else {})


def _kept(value: Any) -> Any:
    """A value as a database keeps it: infinities become the largest numbers that there are."""
    return {"Infinity": 1.7976931348623157e308, "-Infinity": -1.7976931348623157e308}.get(value, value)
