"""What `/openapi.json` tells: for each call its body, its parameters and its answers, as they are.

The bodies that are checked are described by the very types that check them. What others than hubstate send is taken as far
as it can be understood, so of those bodies it is told what the hub looks at. A test sends what is described here and compares
the answers; another one holds that each call is described.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from hubstate.server.bodies import End, Life, Opening, Row, Usage
from hubstate.server.platform.lookups import STATUSES
from hubstate.server.platform.runs import EVENTS
from hubstate.server.unoffered import REFUSED, SHELVES
from hubstate.states import CheckpointKind, Outcome, State

__all__ = ["CALLS", "describe_calls"]

_Schema = dict[str, Any]
_REF = "#/components/schemas/{name}"
_TYPES = (Opening, Row, Life, End, Usage)

_STRING: _Schema = {"type": "string"}
_NUMBER: _Schema = {"type": "number"}
_COUNT: _Schema = {"type": "integer", "minimum": 0}
_FLAG: _Schema = {"type": "boolean"}
_ANYTHING: _Schema = {"type": "object"}
_DIGEST: _Schema = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_RUN: _Schema = {"type": "integer", "minimum": 1, "description": "A run is an attempt of the session."}


def _maybe(schema: _Schema) -> _Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _list(schema: _Schema) -> _Schema:
    return {"type": "array", "items": schema}


def _object(**properties: _Schema) -> _Schema:
    """An object that has all of these, and may have more."""
    return {"type": "object", "properties": properties, "required": list(properties)}


def _looked_at(description: str = "", /, **properties: _Schema) -> _Schema:
    """An object of which the hub looks at these, where they are there."""
    words = {"description": description} if description else {}
    return {"type": "object", **words, "properties": properties}


def _named(name: str) -> _Schema:
    return {"$ref": _REF.format(name=name)}


def _done(data: _Schema, *, news: bool = True) -> _Schema:
    """An answer that something was done. `news`: it is about a session."""
    more = {"hubstate": _named("News")} if news else {}
    return _object(success={"const": True}, message=_STRING, data=data, **more)


_STATE: _Schema = {"type": "string", "enum": [state.value for state in State]}
_OUTCOME: _Schema = {"type": "string", "enum": [outcome.value for outcome in Outcome]}
_KIND: _Schema = {"type": "string", "enum": [kind.value for kind in CheckpointKind]}
_SHARED = {
    "id": _STRING, "name": _STRING, "project": _maybe(_STRING), "group": _maybe(_STRING), "tags": _list(_STRING),
    "state": _STATE, "outcome": _OUTCOME, "reason": _STRING, "attempt": _COUNT, "epoch": _maybe(_COUNT),
    "epoch_at": _maybe(_NUMBER), "epochs": _maybe(_COUNT), "delivered": _COUNT, "waiting": _maybe(_COUNT),
    "created_at": _NUMBER, "last_contact": _NUMBER, "ended_at": _maybe(_NUMBER),
}  # fmt: skip
_MEASURED = {
    "epoch": _COUNT, "step": _maybe(_COUNT), "attempt": _COUNT, "final": _FLAG, "at": _NUMBER,
    "metrics": {"type": "object", "additionalProperties": _maybe(_NUMBER)},
}  # fmt: skip

_WHOLE = {
    "meta": _object(name=_STRING),
    "data": _STRING,
    "resume": _maybe(_STRING),
    "weights": _maybe(_STRING),
    "has_last_weights": _FLAG,
    "has_best_weights": _FLAG,
    "train_args": _ANYTHING,
    "client": {"enum": ["hubstate", "hub_v1", "platform"]},
    "can_stop": _FLAG,
    "missing": _COUNT,
    "summary": _STRING,
    "config": _ANYTHING,
    "rows_told": _maybe(_COUNT),
    "stop": _maybe(_STRING),
    "attempts": _list(_named("Attempt")),
    "checkpoints": _list(_named("Checkpoint")),
    "conditions": _list(_named("Condition")),
    "usage": _list(_object(what=_STRING, attempt=_COUNT, at=_NUMBER)),
    "url": _STRING,
}


def _event(name: str, description: str, **data: _Schema) -> _Schema:
    """One of the Platform callback's events. What its data holds beside is kept, or passed over, as docs/hub.md tells."""
    return {
        **_object(event={"const": name}),
        "description": description,
        "allOf": [_named("Identity"), _looked_at(data=_looked_at(runId=_RUN, **data))],
    }


_SCHEMAS: dict[str, _Schema] = {
    "Refusal": {
        **_object(success={"const": False}, message=_STRING, error=_STRING),
        "description": "`error` is the word for programs, `message` is for people.",
    },
    "News": {
        **_object(
            stop=_maybe(_STRING),
            heartbeat=_maybe(_NUMBER),
            metrics=_maybe(_NUMBER),
            checkpoint=_maybe(_NUMBER),
            url=_STRING,
        ),
        "description": "What every answer about a session carries: the wish that it stops, and intervals in seconds.",
    },
    "Attempt": _object(
        attempt=_COUNT, first_epoch=_COUNT, opened_at=_NUMBER, state=_STATE, outcome=_OUTCOME, reason=_STRING,
        ended_at=_maybe(_NUMBER),
    ),
    "Checkpoint": _object(
        kind=_KIND, epoch=_COUNT, attempt=_COUNT, size=_COUNT, sha256=_DIGEST, fitness=_maybe(_NUMBER), at=_NUMBER,
        folder=_FLAG, damage=_maybe({"enum": ["missing", "damaged"]}), url=_STRING,
    ),
    "Condition": _object(name=_STRING, since=_maybe(_NUMBER), reason=_STRING),
    "Summary": _object(**_SHARED),
    "Session": _object(**_SHARED, **_WHOLE, status={"enum": ["new", "training", "trained"]}),
    "Model": {
        **_object(**_SHARED, **_WHOLE, slug=_STRING, status={"enum": list(STATUSES)}),
        "description": "A session, with the status that Ultralytics' Platform would tell.",
    },
    "Measured": _object(**_MEASURED),
    "Identity": _looked_at(
        "Which session is meant: its id, or the newest of that project and name.",
        modelId=_STRING, project=_STRING, name=_STRING,
    ),
    "Started": _event(
        "training_started",
        "Begins the next run of `modelId`, or a session of that project and name.",
        epochs={"type": "integer", "minimum": 1}, trainArgs=_ANYTHING, device=_STRING, environment=_ANYTHING,
    ),
    "EpochEnd": _event(
        "epoch_end",
        "A row. Metrics may hold objects and lists; a value that is not finite is null.",
        epoch=_COUNT, metrics=_ANYTHING, fitness=_maybe(_NUMBER), best_fitness=_maybe(_NUMBER), system=_maybe(_ANYTHING),
        modelInfo=_looked_at(parameters=_maybe(_NUMBER), gflops=_maybe(_NUMBER), speedMs=_maybe(_NUMBER)),
    ),
    "CheckpointSaved": _event(
        "checkpoint_saved", "The file that was put there counts.", modelPath=_STRING, uploadPath=_STRING
    ),
    "Progress": _event("training_progress", "A sign of life.", epoch=_COUNT),
    "Complete": _event(
        "training_complete",
        "The training is over, and `modelPath` names its final file.",
        results=_looked_at(modelPath=_STRING, bestEpoch=_COUNT, bestFitness=_maybe(_NUMBER)),
    ),
    "Failed": _event("training_failed", "The training broke off.", error=_STRING, code=_STRING),
    "Printed": _event(
        "console_output", "A piece of what the training printed.", content=_STRING, chunkId=_COUNT
    ),
    "SystemMetrics": _event("system_metrics", "Numbers of the machine, between epochs."),
    "OtherEvent": {
        **_object(event={"type": "string", "not": {"enum": ["training_started", *EVENTS]}}),
        "description": "An event that the hub does not know, and keeps.",
        "allOf": [_named("Identity"), _looked_at(data=_ANYTHING)],
    },
    "Heard": {
        **_object(
            received={"const": True}, event=_STRING, mode={"const": "remote"}, modelId=_STRING, runId=_RUN,
            cancelled=_FLAG,
        ),
        "description": "`cancelled`: somebody wishes that the training stops, for the `reason` beside it. A start is also told "
        "what the session is called, and the address of its page. `warning`: the hub does not know this event.",
    },
}  # fmt: skip


class _Call(NamedTuple):
    """A call. `body`: of JSON, unless `kind` says of what; `answer`: None for an answer without a body."""

    answer: _Schema | None
    status: int = 200
    body: _Schema | None = None
    kind: str = "application/json"
    told: str = "application/json"
    query: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()
    guarded: bool = True
    words: str = "Done"


_KEY = ("Idempotency-Key",)
_TUS = ("Tus-Resumable",)
_ID = _object(id=_STRING)
_FORM: _Schema = {
    "type": "object",
    "properties": {
        name: {"type": "string"}
        for name in ("epoch", "type", "kind", "attempt", "sha256", "fitness", "isBest", "map")
    },
    "additionalProperties": {"type": "string", "contentMediaType": "application/octet-stream"},
}
_ROWS: _Schema = {
    "type": "object",
    "properties": {
        "type": {"const": "metrics"},
        "metrics": {
            "oneOf": [
                {
                    "type": "object",
                    "additionalProperties": _STRING,
                    "description": "HUB v1: JSON text by epoch.",
                },
                _list(_named("Row")),
            ]
        },
    },
    "required": ["metrics"],
}

_META = {"name": {"type": "string", "minLength": 1, "maxLength": 500}}
_HUB_V1: _Schema = {
    "meta": _looked_at("`name` is the session's.", **_META),
    "config": _looked_at(
        "What HUB v1 shows of the trainer's arguments.",
        **{name: {} for name in ("batchSize", "epochs", "imageSize", "patience", "device", "cache")},
    ),
    "dataset": _looked_at(name=_STRING),
    "lineage": _looked_at(architecture=_looked_at(name=_STRING), parent=_looked_at(name=_STRING)),
}
_TOLD = (
    "Started", "EpochEnd", "CheckpointSaved", "Progress", "Complete", "Failed", "Printed", "SystemMetrics",
    "OtherEvent",
)  # fmt: skip

#: What each call takes and gives, by method and path.
CALLS: dict[str, _Call] = {
    "POST /v1/auth": _Call(
        _done(_ANYTHING, news=False) | {"description": "`hubstate`: 1 at a hub of one's own."}
    ),
    "POST /v1/models": _Call(
        _done(_ID), body=_looked_at(**_HUB_V1, hubstate=_named("Opening")), headers=_KEY
    ),
    "GET /v1/models": _Call(
        _done(
            _object(results=_list(_named("Summary")), total=_COUNT, lastRecordId=_maybe(_STRING)), news=False
        ),
        query=("limit", "last_doc_id", "query", "public"),
    ),
    "GET /v1/models/{model}": _Call(_done(_named("Session"))),
    "PATCH /v1/models/{model}": _Call(
        _done(_ID),
        body=_looked_at("What is sent is merged into what is there, part by part.", **_HUB_V1),
        headers=_KEY,
    ),
    "DELETE /v1/models/{model}": _Call(_done(_ID, news=False), query=("hard",)),
    "GET /v1/models/{model}/metrics": _Call(_done(_list(_named("Measured"))), query=("attempt",)),
    "POST /v1/models/{model}": _Call(_done(_object(rows=_COUNT)), body=_ROWS, headers=_KEY),
    "POST /v1/models/{model}/end": _Call(_done(_ID), body=_named("End"), headers=_KEY),
    "POST /v1/models/{model}/steps": _Call(
        _done(_object(steps=_COUNT)), body=_object(steps=_list(_object(n=_COUNT))), headers=_KEY
    ),
    "POST /v1/models/{model}/usage": _Call(_done(_ID), body=_named("Usage"), headers=_KEY),
    "POST /v1/agent/heartbeat/models/{model}": _Call(
        _done(_object(agentId=_STRING)),
        body={
            "type": "object",
            "properties": {"agent": _STRING, "agentId": _maybe(_STRING), "hubstate": _named("Life")},
        },
    ),
    "POST /v1/models/{model}/upload": _Call(
        _done(_object(kind=_STRING, size=_COUNT, sha256=_DIGEST, kept=_FLAG)),
        body=_FORM,
        kind="multipart/form-data",
        headers=(*_KEY, "Repr-Digest"),
    ),
    "OPTIONS /v1/models/{model}/uploads": _Call(None, 204, guarded=False),
    "POST /v1/models/{model}/uploads": _Call(
        _done(_ID, news=False), 201, headers=(*_KEY, *_TUS, "Upload-Length", "Upload-Metadata")
    ),
    "PATCH /v1/models/{model}/uploads/{upload}": _Call(
        None,
        204,
        body={"type": "string", "contentMediaType": "application/offset+octet-stream"},
        kind="application/offset+octet-stream",
        headers=(*_TUS, "Upload-Offset"),
    ),
    "POST /v1/models/{model}/uploads/{upload}": _Call(
        _done(_object(kind=_STRING, size=_COUNT, sha256=_DIGEST, kept=_FLAG)),
        body={"type": "object", "additionalProperties": _STRING},
        headers=_KEY,
    ),
    "GET /v1/files/{model}/{sha256}/{name}": _Call(
        {"type": "string", "contentMediaType": "application/octet-stream"},
        told="application/octet-stream",
        guarded=False,
    ),
    "PUT /api/uploads/{model}/{run}/{place}/{name}": _Call(
        _object(success={"const": True}, size=_COUNT, sha256=_DIGEST),
        body={"type": "string", "contentMediaType": "application/octet-stream"},
        kind="application/octet-stream",
        guarded=False,
    ),
    "POST /api/webhooks/training/metrics": _Call(
        _named("Heard"), body={"oneOf": [_named(name) for name in _TOLD]}
    ),
    "POST /api/webhooks/models/upload": _Call(
        _object(uploadUrl=_STRING, gcsPath=_STRING, uploadPath=_STRING, modelId=_STRING),
        body={
            "allOf": [_named("Identity")],
            **_looked_at(
                "Without `runId` the newest run is meant.", filename=_STRING, runId=_RUN, size=_COUNT
            ),
        },
    ),
    "GET /api/account/summary": _Call(
        _object(
            username=_STRING,
            name=_STRING,
            accountType={"const": "personal"},
            plan={"const": "free"},
            creditsCents={"const": 0},
            counts=_object(projects=_COUNT, datasets={"const": 0}, models=_COUNT),
            teams={"const": []},
        )
    ),
    "GET /api/models/{owner}/{project}/{name}": _Call(_named("Model")),
    "GET /api/models/{owner}/{project}/{name}/files": _Call(
        _object(files=_list(_object(name=_STRING, size=_COUNT, downloadUrl=_STRING)))
    ),
    "GET /v1/models/{model}/said": _Call(
        _done(_list(_object(attempt=_COUNT, event=_STRING, at=_NUMBER, data=_ANYTHING))), query=("event",)
    ),
    "GET /healthz": _Call(_object(status={"const": "ok"}), guarded=False),
    "GET /metrics": _Call(_STRING, told="text/plain; version=0.0.4; charset=utf-8"),
}
_NOT_OFFERED = _Call(_named("Refusal"), 501, words="Always: this hub does not do that")
_NOT_THERE = _NOT_OFFERED._replace(status=404, words="Always: this hub holds none")
CALLS |= {f"POST {path}": _NOT_OFFERED for path in REFUSED}
for _shelf in SHELVES:
    CALLS |= {
        f"GET {_shelf}": _Call(
            _done(
                _object(results={"const": []}, total={"const": 0}, lastRecordId={"type": "null"}), news=False
            )
        ),
        f"POST {_shelf}": _NOT_OFFERED,
        **{f"{method} {_shelf}/{{thing}}": _NOT_THERE for method in ("GET", "PATCH", "DELETE")},
        f"POST {_shelf}/{{thing}}/upload": _NOT_THERE,
    }


def describe_calls(app: FastAPI) -> Callable[[], _Schema]:
    """What the application's `openapi` is to be: made once, when somebody first asks."""
    made: list[_Schema] = []

    def openapi() -> _Schema:
        if not made:
            made.append(_described(app))
        return made[0]

    return openapi


def _described(app: FastAPI) -> _Schema:
    told = get_openapi(
        title=app.title, version="1", summary=app.summary, description=app.description, routes=app.routes
    )
    _, components = msgspec.json.schema_components(_TYPES, ref_template=_REF)
    told["components"] = {
        "schemas": {**components, **_SCHEMAS},
        "securitySchemes": {
            "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            "bearer": {"type": "http", "scheme": "bearer"},
        },
    }
    for path, operations in told["paths"].items():
        for method, operation in operations.items():
            _tell(operation, CALLS[f"{method.upper()} {path}"])
    return told


def _tell(operation: _Schema, call: _Call) -> None:
    parameters = operation.setdefault("parameters", [])
    for where, names in (("query", call.query), ("header", call.headers)):
        parameters += [{"name": name, "in": where, "required": False, "schema": _STRING} for name in names]
    if call.body is not None:
        operation["requestBody"] = {"content": {call.kind: {"schema": call.body}}, "required": True}
    answer: _Schema = {"description": call.words}
    if call.answer is not None:
        answer["content"] = {call.told: {"schema": call.answer}}
    refusal = {"application/json": {"schema": _named("Refusal")}}
    operation["responses"] = {
        str(call.status): answer,
        "4XX": {"description": "Refused; nothing was changed", "content": refusal},
        "503": {"description": "This machine's disk did not take it; try again later", "content": refusal},
        "507": {"description": "This machine's disk is full; try again later", "content": refusal},
    }
    if call.guarded:
        operation["security"] = [{"key": []}, {"bearer": []}]
