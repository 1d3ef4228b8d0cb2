"""What Lightning's `CSVLogger` leaves: `metrics.csv`, `hparams.yaml`, and `checkpoints/` beside them.

| there | here |
|---|---|
| a column that has one value an epoch, or whose name ends in `_epoch` | part of the row of that epoch |
| any other column | part of the row of its step |
| `hparams.yaml` | the configuration |
| the newest file or folder in `checkpoints/` | the newest checkpoint |

The file tells no times, so every row has the time when it was written last. Nor does it tell whether the training came to
its end: whoever knows says so.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from hubstate.errors import StorageError
from hubstate.importing.found import (
    Found,
    Measured,
    SavedFile,
    Table,
    counted,
    name_of,
    numbers_in,
    row_of,
    settings_of,
    table_of,
    told,
    written_at,
)

__all__ = ["is_here", "read"]

_METRICS, _SETTINGS, _CHECKPOINTS = "metrics.csv", "hparams.yaml", "checkpoints"
#: How `ModelCheckpoint` names files unless it is told otherwise.
_EPOCH = re.compile(r"epoch=(\d{1,15})")

_Line = tuple[int, int, dict[str, float | int]]


def is_here(folder: Path) -> bool:
    """Whether a folder looks as `CSVLogger` leaves it."""
    return (folder / _METRICS).is_file()


def read(folder: Path) -> Found | None:
    """The training in `folder`; None if its `metrics.csv` is another tool's. Raises `StorageError`."""
    path = folder / _METRICS
    table = table_of(path)
    if "step" not in table.columns:
        return None
    settings, notes = settings_of(folder / _SETTINGS)
    written = written_at(path)
    lines, odd = _lines(table)
    rows = tuple(_rows(lines, written))
    files, left = _files(folder / _CHECKPOINTS, max((row.epoch for row in rows), default=0))
    return Found(
        folder=folder,
        tool="Lightning",
        name=name_of(folder),
        # The columns may grow: the head is written anew when another metric comes.
        first=repr(sorted((name, text) for name, text in table.lines[0][1].items() if text))
        if table.lines
        else "",
        opened_at=written,
        rows=rows,
        files=files if rows else (),
        config=told(settings),
        unfinished=f"{_METRICS} does not tell whether the training came to its end",
        times=f"when {_METRICS} was written last: it tells no times",
        notes=(*notes, *table.notes, *odd, *left),
    )


def _lines(table: Table) -> tuple[list[_Line], list[str]]:
    """Of each line its epoch, its step and what was measured; and what could not be read."""
    lines: list[_Line] = []
    odd: list[str] = []
    current = 0
    for number, fields in table.lines:
        line = f"{_METRICS} line {number}"
        numbers, unread = numbers_in(fields, line)
        odd += unread
        epoch, step = counted(numbers.pop("epoch", current)), counted(numbers.pop("step", None))
        if epoch is None or step is None:
            odd.append(f"{line}: it names no step, and is left out")
            continue
        current = epoch
        if numbers:
            lines.append((current, step, numbers))
    return lines, odd


def _rows(lines: list[_Line], at: float) -> Iterator[Measured]:
    """Rows of steps as they came, and behind the last of an epoch the row of the epoch."""
    of_epochs = _of_epochs(lines)
    measured: dict[str, float | int] = {}
    for place, (epoch, step, numbers) in enumerate(lines):
        measured |= {name: value for name, value in numbers.items() if name in of_epochs}
        rest = {name: value for name, value in numbers.items() if name not in of_epochs}
        if rest:
            yield row_of(at, epoch, rest, step=step)
        if measured and (place + 1 == len(lines) or lines[place + 1][0] != epoch):
            yield row_of(at, epoch, measured)
            measured = {}


def _of_epochs(lines: list[_Line]) -> set[str]:
    """The columns that epochs measure, and not steps."""
    seen = Counter((name, epoch) for epoch, _, numbers in lines for name in numbers)
    often = {name for (name, _), count in seen.items() if count > 1}
    return {
        name
        for name, _ in seen
        if name.endswith("_epoch") or (name not in often and not name.endswith("_step"))
    }


def _files(folder: Path, newest: int) -> tuple[tuple[SavedFile, ...], tuple[str, ...]]:
    """The newest checkpoint, and in words which others are left."""
    if not folder.is_dir():
        return (), ()
    try:
        saved = [(path.stat().st_mtime_ns, path.name, path) for path in folder.glob("*.ckpt")]
    except OSError as error:
        raise StorageError(f"cannot look into {folder}: {error.strerror}") from error
    if not saved:
        return (), ()
    path = max(saved)[2]
    named = _EPOCH.search(path.name)
    left = [name for _, name, other in sorted(saved) if other != path]
    notes = (f"older checkpoints are left where they are: {', '.join(left[:5])}",) if left else ()
    return (SavedFile(path, int(named[1]) if named else newest),), notes
