"""What the hub tells of a session: HUB v1's fields, which old clients act upon, and the hub's own beside them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, RowMapping, func, select

from hubstate.server import derive
from hubstate.server import rows as rows_room
from hubstate.server.checkpoints import damage_of, ending_of, stored
from hubstate.server.retention import kept_until
from hubstate.server.schema import attempts, checkpoints, problems, rows, usage
from hubstate.server.sessions import in_contact, is_live, outcome_of, still_since
from hubstate.server.signing import file_address
from hubstate.server.store import Store
from hubstate.states import CheckpointKind, Outcome, State

__all__ = ["checkpoints_of", "conditions_of", "model_of", "summary_of"]

_FINAL, _BEST, _LAST = CheckpointKind.FINAL.value, CheckpointKind.BEST.value, CheckpointKind.LAST.value


def summary_of(
    connection: Connection, session: RowMapping, now: float, *, delivered: int | None = None
) -> dict[str, Any]:
    """What a list shows of a session. Times in seconds since 1970. `delivered`: its rows, if they were counted."""
    return {
        "id": session["id"],
        "name": session["name"],
        "project": session["project"],
        "group": session["group"],
        "tags": session["tags"],
        "state": session["state"],
        "outcome": outcome_of(session, now),
        "reason": session["reason"],
        "attempt": session["attempt"],
        "epoch": session["epoch"],
        "epoch_at": session["epoch_at"],
        "epochs": session["epochs"],
        "delivered": rows_room.count(connection, session["id"]) if delivered is None else delivered,
        "waiting": session["waiting"],
        "created_at": session["created_at"],
        "last_contact": session["last_contact"],
        "ended_at": session["ended_at"],
    }


def checkpoints_of(
    store: Store, connection: Connection, session: RowMapping, base: str, now: float
) -> list[dict[str, Any]]:
    """The stored checkpoints, each with an address that needs no key."""
    return [
        {
            "kind": kind,
            "epoch": row["epoch"],
            "attempt": row["attempt"],
            "size": row["size"],
            "sha256": row["sha256"],
            "fitness": row["fitness"],
            "at": row["at"],
            "folder": ending_of(row["file"]) == ".tar",
            "damage": damage_of(store.file_of(session["id"], row["file"]), row["size"]),
            "url": file_address(
                store.secret, base, session["id"], kind, row["sha256"], now, ending=ending_of(row["file"])
            ),
        }
        for kind, row in stored(connection, session["id"]).items()
    ]


def conditions_of(connection: Connection, session: RowMapping, now: float) -> list[dict[str, Any]]:
    """The circumstances that the hub knows of, each with a reason and the time since which it holds."""
    conditions: list[dict[str, Any]] = []
    if is_live(session) and not in_contact(session, now):
        since = session["last_contact"]
        conditions.append(
            {"name": "no_contact", "since": since, "reason": "nothing was heard of it since then"}
        )
    still = still_since(session, now)
    if still is not None:
        conditions.append(
            {
                "name": "no_epoch",
                "since": still,
                "reason": "it is alive, and told of no further epoch since then",
            }
        )
    if session["stop"] is not None and is_live(session):
        conditions.append({"name": "stop_wanted", "since": None, "reason": session["stop"]})
    query = select(problems.c.at, problems.c.what).where(problems.c.session == session["id"])
    conditions += [
        {"name": "odd_request", "since": at, "reason": what}
        for at, what in connection.execute(query.order_by(problems.c.at).limit(100))
    ]
    return conditions


def _damages(files: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """A file that is not as it was stored is told, and not hidden until somebody asks for it."""
    return [
        {
            "name": f"file_{file['damage']}",
            "since": None,
            "reason": f"the stored checkpoint {file['kind']} of epoch {file['epoch']} is {file['damage']} on the hub's "
            "disk: restore it from a backup, or let the training send it again",
        }
        for file in files
        if file["damage"] is not None
    ]


def model_of(
    store: Store,
    connection: Connection,
    session: RowMapping,
    base: str,
    now: float,
    *,
    delivered: int | None = None,
) -> dict[str, Any]:
    """All that `GET /v1/models/{id}` tells. `delivered`: its rows, if they were counted."""
    files = {file["kind"]: file for file in checkpoints_of(store, connection, session, base, now)}
    config = _part(session, "config")
    dataset = _part(session, "dataset").get("name")
    lineage = _part(session, "lineage")
    architecture = _name(lineage, "architecture")
    parent = _name(lineage, "parent")
    data = dataset if isinstance(dataset, str) else ""
    final = files.get(_FINAL)
    trained = final is not None and final["attempt"] >= session["attempt"]
    best = final if trained else files.get(_BEST) or final
    last = files.get(_LAST)
    query = select(attempts).where(attempts.c.session == session["id"]).order_by(attempts.c.attempt)
    names = select(usage.c.what, usage.c.attempt, usage.c.at).where(usage.c.session == session["id"])
    return {
        **summary_of(connection, session, now, delivered=delivered),
        # HUB v1
        "meta": {"name": session["name"]},
        "status": "trained" if trained else "training" if session["epoch"] is not None else "new",
        "cfg": f"{architecture}.yaml" if architecture else None,
        "data": data,
        "is_pretrained": bool(parent),
        "is_custom": False,
        "has_last_weights": last is not None,
        "has_best_weights": best is not None,
        "resume": last["url"] if last else None,
        "weights": best["url"] if best else parent,
        "train_args": _train_args(config, data, session["epochs"]),
        "batch_size": config.get("batchSize"),
        "imgsz": config.get("imageSize"),
        "patience": config.get("patience"),
        "device": config.get("device"),
        "cache": config.get("cache"),
        # the hub's own
        **_told(connection, session, now, delivered),
        "config": session["config"],
        "rows_told": session["rows_told"],
        "stop": session["stop"],
        "attempts": [_attempt(row, session, now) for row in connection.execute(query).mappings()],
        "checkpoints": list(files.values()),
        "conditions": [
            *store.conditions(session["id"], conditions_of(connection, session, now)),
            *_damages(files.values()),
            *kept_until(store.terms, session),
        ],
        "usage": [dict(row) for row in connection.execute(names.order_by(usage.c.id)).mappings()],
        "url": f"{base}/models/{session['id']}",
    }


def _told(connection: Connection, session: RowMapping, now: float, delivered: int | None) -> dict[str, Any]:
    """Who sends it, whether that client hears of a wish to stop, and the session in one line."""
    client = "hubstate" if session["own"] else session["client"] or "hub_v1"
    # A client that tells how many rows there are is believed; of another one only gaps can tell that some are missing.
    missing = 0 if session["own"] else _missing(connection, session)
    silent = is_live(session) and not in_contact(session, now)
    since = dt.datetime.fromtimestamp(session["last_contact"], dt.UTC)
    summary = derive.in_one_line(
        derive.Standing(State(session["state"]), Outcome(session["outcome"]), session["reason"]),
        delivered=rows_room.count(connection, session["id"]) if delivered is None else delivered,
        total=session["rows_told"],
        waiting=session["waiting"],
        gaps=missing,
        silent=f"{since:%Y-%m-%d %H:%M:%S} UTC" if silent else "",
    )
    return {"client": client, "can_stop": client != "hub_v1", "missing": missing, "summary": summary}


def _missing(connection: Connection, session: RowMapping) -> int:
    """How many epochs are not here, up to the last one that a row or a file names."""
    epoch = rows.c.epoch
    query = select(func.count(func.distinct(epoch)), func.min(epoch), func.max(epoch)).where(
        rows.c.session == session["id"], rows.c.step.is_(None), rows.c.final.is_(False)
    )
    here, first, last = connection.execute(query).one()
    named = select(func.max(checkpoints.c.epoch)).where(checkpoints.c.session == session["id"])
    saved = connection.execute(named).scalar_one()
    # The Platform callback counts from 0; who speaks HUB v1 may count from 1.
    begin = first if first is not None and session["client"] is None else 0
    end = max(-1 if last is None else int(last), -1 if saved is None else int(saved)) + 1
    return max(0, end - begin - int(here))


def _attempt(row: RowMapping, session: RowMapping, now: float) -> dict[str, Any]:
    """An attempt. One that said no last word before the next began has an unknown outcome."""
    told = {name: value for name, value in row.items() if name != "session"}
    if row["attempt"] == session["attempt"]:
        return {**told, "state": session["state"], "outcome": outcome_of(session, now)}
    if is_live(row):
        told["outcome"] = Outcome.UNKNOWN.value
    return told


def _train_args(config: dict[str, Any], data: str, epochs: int | None) -> dict[str, Any]:
    """The trainer's arguments. Always with `data`: without it an old client attaches nothing."""
    named = {
        "batch": config.get("batchSize"),
        "epochs": config.get("epochs", epochs),
        "imgsz": config.get("imageSize"),
        "patience": config.get("patience"),
        "device": config.get("device"),
        "cache": config.get("cache"),
    }
    return {"data": data, **{name: value for name, value in named.items() if value is not None}}


def _part(session: RowMapping, name: str) -> dict[str, Any]:
    part = session["body"].get(name)
    return part if isinstance(part, dict) else {}


def _name(lineage: dict[str, Any], which: str) -> str | None:
    part = lineage.get(which)
    name = part.get("name") if isinstance(part, dict) else None
    return name if isinstance(name, str) and name else None
