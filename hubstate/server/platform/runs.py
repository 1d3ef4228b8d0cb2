"""What a run says, one function for each of the callback's events; each tells which files nothing names any more.

Rows come in any order, repeated, and after the end; each is kept, and which of them are in force is found when they are
read. The callback says nothing at all when a training crashes, so silence stays silence.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import delete, select

from hubstate.events import Abort
from hubstate.server import derive, sessions
from hubstate.server import rows as rows_room
from hubstate.server.checkpoints import name_final
from hubstate.server.evaluations import marked
from hubstate.server.platform import words
from hubstate.server.platform.files import checkpoint_saved, digest_of_saved
from hubstate.server.platform.heard import Heard, keep, note
from hubstate.server.schema import said
from hubstate.states import Outcome, State

__all__ = ["EVENTS"]


def _epoch_end(heard: Heard) -> list[Path]:
    """A row, in any order, repeated or late: it is kept, and counts for the run that it names, else for the newest."""
    row, odd = words.row_of(heard.data, heard.attempt)
    note(heard, *odd)
    if row is None:
        keep(heard, "epoch_end")
        return []
    connection, session = heard.connection, heard.session
    (row,) = marked(connection, session, [row])
    rows_room.keep(connection, heard.model, [row], heard.now)
    told = {}
    if not row.final:
        if heard.attempt > 1:
            sessions.begins_at(connection, heard.model, heard.attempt, row.epoch)
        told["epoch"] = max(row.epoch, -1 if session["epoch"] is None else session["epoch"])
    sessions.hear(
        connection, session, heard.attempt, (derive.row_came(heard.now, row.epoch),), heard.now, told
    )
    return []


def _console_output(heard: Heard) -> list[Path]:
    if heard.store.terms.console:
        keep(heard, "console_output")
    return []


def _training_progress(heard: Heard) -> list[Path]:
    """A sign of life of a training; the newest one is kept."""
    connection = heard.connection
    connection.execute(
        delete(said).where(
            said.c.session == heard.model,
            said.c.attempt == heard.attempt,
            said.c.event == "training_progress",
        )
    )
    keep(heard, "training_progress")
    epoch = words.whole(heard.data.get("epoch"))
    before = heard.session["epoch"]
    told = {} if epoch is None or (before is not None and before >= epoch) else {"epoch": epoch}
    events = derive.announced(heard.now, None, None)
    sessions.hear(connection, heard.session, heard.attempt, events, heard.now, told)
    return []


def _system_metrics(heard: Heard) -> list[Path]:
    keep(heard, "system_metrics")
    return []


def _training_failed(heard: Heard) -> list[Path]:
    """The training broke off, and tells why."""
    keep(heard, "training_failed")
    parts = [str(heard.data[name]) for name in ("error", "code") if heard.data.get(name) is not None]
    reason = " ".join(f"({part})" if at else part for at, part in enumerate(parts))[:2000]
    event = Abort(heard.now, outcome=Outcome.FAILED, reason=reason or "its client told no reason")
    sessions.hear(heard.connection, heard.session, heard.attempt, (event,), heard.now)
    return []


def _training_complete(heard: Heard) -> list[Path]:
    """The training is over, and the file that it names is its final one. Nothing more has to come."""
    keep(heard, "training_complete")
    gone = _named_final(heard, heard.data)
    outcome = Outcome.STOPPED if _was_stopped(heard) else Outcome.FINISHED
    events = derive.ended(heard.now, State.DONE, outcome, "")
    sessions.hear(heard.connection, heard.session, heard.attempt, events, heard.now)
    return gone


def _checkpoint_saved(heard: Heard) -> list[Path]:
    """A file counts. Where the end that names it overtook it, it is the final one as soon as it is here."""
    gone = checkpoint_saved(heard)
    query = select(said.c.data).where(
        said.c.session == heard.model,
        said.c.attempt == heard.attempt,
        said.c.event == "training_complete",
    )
    for end in heard.connection.execute(query.order_by(said.c.id)).scalars():
        if _results(end).get("modelPath") == heard.data.get("modelPath"):
            gone += _named_final(heard, end)
    return gone


def _named_final(heard: Heard, end: dict[str, Any]) -> list[Path]:
    """Makes the file that an end names the final one, if it is here; tells which files nothing names now."""
    results = _results(end)
    sha256 = digest_of_saved(heard, results.get("modelPath"))
    if sha256 is None or heard.attempt != heard.session["attempt"]:
        return []
    epoch = words.whole(results.get("bestEpoch"))
    fitness = rows_room.number(results.get("bestFitness"))[0]
    changes = {"at": heard.now, "attempt": heard.attempt, "fitness": fitness}
    named_epoch = {} if epoch is None else {"epoch": epoch}
    return name_final(heard.store, heard.connection, heard.model, sha256, {**changes, **named_epoch})


def _results(end: dict[str, Any]) -> dict[str, Any]:
    results = end.get("results")
    return results if isinstance(results, dict) else {}


def _was_stopped(heard: Heard) -> bool:
    """Whether a wish to stop ended it: one that came with the last epoch ended nothing."""
    epochs, epoch = heard.session["epochs"], heard.session["epoch"]
    all_there = epochs is not None and epoch is not None and epoch + 1 >= epochs
    return heard.session["stop"] is not None and not all_there


EVENTS: dict[str, Callable[[Heard], list[Path]]] = {
    "epoch_end": _epoch_end,
    "console_output": _console_output,
    "checkpoint_saved": _checkpoint_saved,
    "training_complete": _training_complete,
    "training_progress": _training_progress,
    "training_failed": _training_failed,
    "system_metrics": _system_metrics,
}
