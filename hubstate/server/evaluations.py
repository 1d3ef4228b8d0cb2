"""Which row is a final evaluation: the trainer measures its best weights once more after the last epoch.

Clients of Ultralytics send that row like any other, most of them under the number behind the last epoch. It counts as no
finished epoch. It is told by what it lacks: a training's losses are in it, as they stood, and a validation's are not.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, RowMapping, String, select, type_coerce

from hubstate.server.rows import RowIn
from hubstate.server.schema import rows

__all__ = ["in_doubt", "marked"]

_TRAINING, _VALIDATION = "train/", "val/"


def in_doubt(new: Sequence[RowIn]) -> bool:
    """Whether a row may be a final evaluation: one lacks the losses of a validation."""
    return any(_lacks(row) for row in new)


def marked(connection: Connection, session: RowMapping, new: Sequence[RowIn]) -> list[RowIn]:
    """The rows, those of a final evaluation marked `final`. One that is here already stays as it is here."""
    with_losses = {row.epoch for row in new if _has(row, _VALIDATION)}
    told = []
    for row in new:
        lacks = _lacks(row)
        behind = session["epochs"] is not None and row.epoch >= session["epochs"]
        final = lacks and (
            behind or row.epoch - 1 in with_losses or _validated(connection, session["id"], row)
        )
        told.append(
            row._replace(final=True) if final and not _is_here(connection, session["id"], row) else row
        )
    return told


def _lacks(row: RowIn) -> bool:
    return row.step is None and _has(row, _TRAINING) and not _has(row, _VALIDATION)


def _has(row: RowIn, prefix: str) -> bool:
    return any(name.startswith(prefix) for name in row.metrics)


def _validated(connection: Connection, model: str, row: RowIn) -> bool:
    """Whether the epoch before has the losses of a validation."""
    query = select(type_coerce(rows.c.metrics, String)).where(
        rows.c.session == model, rows.c.attempt == row.attempt, rows.c.epoch == row.epoch - 1
    )
    return any(f'"{_VALIDATION}' in text for text in connection.execute(query).scalars())


def _is_here(connection: Connection, model: str, row: RowIn) -> bool:
    query = select(rows.c.n).where(
        rows.c.session == model,
        rows.c.attempt == row.attempt,
        rows.c.epoch == row.epoch,
        rows.c.digest == row.digest(),
    )
    return connection.execute(query).first() is not None
