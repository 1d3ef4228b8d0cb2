"""Files of a run: an address is asked for, the bytes are put there, and an event says that they count.

Only then do they take the place of the file before them. An address names the model and the run that it was given out
for, cannot be guessed, and holds for some hours.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from hubstate.server import derive, sessions
from hubstate.server.answers import Answer, Caller, Problem
from hubstate.server.bodies import json_object
from hubstate.server.checkpoints import Placing, place
from hubstate.server.database import if_lost
from hubstate.server.incoming import new_name
from hubstate.server.objects import Lying
from hubstate.server.platform import words
from hubstate.server.platform.heard import Heard, identified, keep
from hubstate.server.schema import rows, said
from hubstate.server.schema import sessions as table
from hubstate.server.signing import Put, put_address, put_allowed
from hubstate.server.store import Store
from hubstate.server.uploads import Received
from hubstate.states import CheckpointKind

__all__ = ["address_for", "checkpoint_saved", "digest_of_saved", "place_of", "put_may_come"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_OBJECT = "hub://"


def address_for(store: Store, caller: Caller, body: bytes, now: float) -> Answer:
    """`POST /api/webhooks/models/upload`: where a file of this run may be put, for six hours.

    Raises `Problem` 404 for a model that is not here, 422 for a run that it does not have.
    """
    asked = json_object(body)
    with store.database.reading() as connection:
        session = identified(connection, caller, asked)
    told = asked.get("runId")
    run = session["attempt"] if told is None else words.whole(told, 1)
    if run is None or run > session["attempt"]:
        raise Problem(422, "invalid", f"this model has no run {told!r:.40}")
    size = words.whole(asked.get("size"))
    if size is not None and size > store.upload_limit:
        raise Problem(413, "too_large", f"an upload may have at most {store.upload_limit} bytes here")
    store.objects.sweep(now)
    filename = str(asked.get("filename", ""))
    name = filename if _NAME.fullmatch(filename) else "model.pt"
    put = Put(session["id"], run, new_name(), name)
    return Answer(
        {
            "uploadUrl": put_address(store.secret, caller.base, put, now),
            "gcsPath": f"{_OBJECT}{put.model}/{put.run}/{put.place}/{put.name}",
            "uploadPath": f"{put.model}/{put.run}/{put.place}/{put.name}",
            "modelId": session["id"],
        }
    )


def put_may_come(store: Store, put: Put, until: str, signature: str, length: int | None, now: float) -> int:
    """Asked before the bytes are read: how many are to come.

    Raises `Problem` 403 for an address that this hub did not give out, or too long ago, 404 for a model that is gone,
    411 for a body without a length, 413 for one that is too long.
    """
    if not put_allowed(store.secret, put, until, signature, now):
        raise Problem(403, "bad_signature", "this address is not signed by this hub, or it is too old")
    with store.database.reading() as connection:
        query = select(table.c.deleted_at).where(table.c.id == put.model)
        found = connection.execute(query).one_or_none()
    if found is None or found.deleted_at is not None:
        raise Problem(404, "not_found", "no session of that id is at this hub")
    if length is None:
        raise Problem(411, "length_required", "say how long the file is, by the header Content-Length")
    if length > store.upload_limit:
        raise Problem(413, "too_large", f"an upload may have at most {store.upload_limit} bytes here")
    return length


def place_of(data: dict[str, Any]) -> str:
    """Which place a `modelPath` names."""
    parts = str(data.get("modelPath", "")).removeprefix(_OBJECT).split("/")
    return parts[2] if len(parts) == 4 else ""


def checkpoint_saved(heard: Heard) -> list[Path]:
    """The bytes that were put count: they take their place, if they belong to this model and this run.

    Raises `Problem` 404 for bytes that are not here, 409 for those of another run.
    """
    query = select(said.c.id).where(
        said.c.session == heard.model,
        said.c.attempt == heard.attempt,
        said.c.event == "checkpoint_saved",
        said.c.digest == words.digest_of(heard.data),
    )
    if heard.connection.execute(query).first() is not None:
        return []
    lying = heard.store.objects.find(place_of(heard.data))
    if lying is None:
        raise Problem(404, "not_found", "no whole file was put there: put it again")
    told = words.whole(heard.data.get("runId"), 1) or heard.attempt
    if (lying.put.model, lying.put.run) != (heard.model, told):
        raise Problem(409, "wrong_run", "this file was put by another run, and does not count for this one")
    keep(heard, "checkpoint_saved", {**heard.data, "sha256": lying.sha256})
    kind = CheckpointKind.BEST if lying.put.name == "best.pt" else CheckpointKind.LAST
    where = Placing((kind.value,), heard.attempt, _last_epoch(heard), None, ())
    with _second_name(heard, lying) as received:
        _, gone = place(heard.store, heard.connection, heard.model, received, where, heard.now)
    events = derive.announced(heard.now, None, None)
    sessions.hear(heard.connection, heard.session, heard.attempt, events, heard.now)
    return gone


@contextmanager
def _second_name(heard: Heard, lying: Lying) -> Iterator[Received]:
    """The file under a name that may be moved away: should it not be written down, it still lies there."""
    part = heard.store.incoming / f"{new_name()}.part"
    os.link(lying.path, part)
    try:
        yield Received({}, lying.put.name, part, lying.size, lying.sha256)
    finally:
        part.unlink(missing_ok=True)
        if_lost(heard.connection, lambda: part.unlink(missing_ok=True))  # where it was moved back to


def _last_epoch(heard: Heard) -> int:
    """The last epoch that the run told of: the callback says of no file which epoch's it is."""
    query = select(func.max(rows.c.epoch)).where(
        rows.c.session == heard.model, rows.c.attempt == heard.attempt, rows.c.final.is_(False)
    )
    found = heard.connection.execute(query).scalar_one()
    return 0 if found is None else int(found)


def digest_of_saved(heard: Heard, path: object) -> str | None:
    """The SHA-256 of the file that a run put and saved under that path; None if it did not."""
    query = select(said.c.data).where(
        said.c.session == heard.model,
        said.c.attempt == heard.attempt,
        said.c.event == "checkpoint_saved",
    )
    for data in heard.connection.execute(query.order_by(said.c.id.desc())).scalars():
        if data.get("modelPath") == path:
            return str(data["sha256"])
    return None
