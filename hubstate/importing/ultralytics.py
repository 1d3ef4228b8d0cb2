"""What Ultralytics leaves: `results.csv`, `args.yaml` and `weights/`.

| there | here |
|---|---|
| a line of `results.csv` | the row of its epoch; Ultralytics counts epochs from 1 |
| its column `time`, seconds since the training began | counted back from when the file was written last: the row's time |
| `args.yaml` | the configuration, and how many epochs were planned |
| `weights/last.pt`, `weights/best.pt` | the newest checkpoint, and the final one (of a training that is not finished: the best) |

A training is finished when its planned epochs are there, or `results.png`, which Ultralytics draws at the very end (by
early stopping, too). The weights are not opened, so which epoch `best.pt` is of follows from the rows: the first one with
the highest mAP50-95 (detection and its kin), mean of both accuracies, or mIoU, which is how Ultralytics 8.4 chooses it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

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

_RESULTS, _SETTINGS, _DRAWN_LAST = "results.csv", "args.yaml", "results.png"
#: How long a training can have taken; a longer time is none (seconds, a century).
_LONGEST = 100 * 365.25 * 86400
#: What Ultralytics chooses the best weights by, by the beginning of the columns: their sum, or their mean.
_CHOSEN_BY = ("metrics/mAP50-95(", "metrics/accuracy_top", "metrics/mIoU")


def is_here(folder: Path) -> bool:
    """Whether a folder looks as Ultralytics leaves it."""
    return (folder / _RESULTS).is_file()


def read(folder: Path) -> Found | None:
    """The training in `folder`; None if its `results.csv` is another tool's. Raises `StorageError`."""
    path = folder / _RESULTS
    table = table_of(path)
    if "epoch" not in table.columns:
        return None
    settings, notes = settings_of(folder / _SETTINGS)
    notes += table.notes
    written = written_at(path)
    timed = "time" in table.columns
    lines, odd = _lines(table)
    elapsed = _elapsed([seconds for *_, seconds in lines])
    whole = elapsed[-1] if elapsed else 0.0
    # Older releases count epochs from 0.
    zero = 0 if lines and lines[0][0] == 0 else 1
    rows = tuple(
        row_of(written - whole + since, max(0, epoch - zero), metrics)
        for (epoch, metrics, _), since in zip(lines, elapsed, strict=True)
    )
    planned = settings.get("epochs")
    epochs = planned if type(planned) is int and 0 < planned < 2**31 else None
    unfinished = _unfinished(folder, rows, epochs)
    return Found(
        folder=folder,
        tool="Ultralytics",
        name=name_of(folder),
        first=repr(table.lines[0][1]) if table.lines else "",
        opened_at=max(0.0, written - whole),
        rows=rows,
        files=tuple(_files(folder / "weights", rows, finished=not unfinished)),
        epochs=epochs,
        config=told(settings),
        unfinished=unfinished,
        times=f"counted back from when {_RESULTS} was written last, by its column `time`"
        if timed
        else f"when {_RESULTS} was written last: it tells no times",
        notes=(*notes, *odd),
    )


_Line = tuple[int, dict[str, float | int], float | None]


def _lines(table: Table) -> tuple[list[_Line], list[str]]:
    """Of each line its epoch as it stands there, what was measured, and its time; and what could not be read."""
    lines: list[_Line] = []
    odd: list[str] = []
    for number, fields in table.lines:
        line = f"{_RESULTS} line {number}"
        numbers, unread = numbers_in(fields, line)
        odd += unread
        epoch, seconds = counted(numbers.pop("epoch", None)), numbers.pop("time", None)
        if epoch is None:
            odd.append(f"{line}: it names no epoch, and is left out")
            continue
        lines.append((epoch, numbers, None if seconds is None else float(seconds)))
    return lines, odd


def _elapsed(times: list[float | None]) -> list[float]:
    """Seconds since the training began; a resumed one counts from 0 again, which goes on here."""
    found: list[float] = []
    before = last = 0.0
    for seconds in times:
        if seconds is not None and 0 <= seconds <= _LONGEST:
            if seconds < last:
                before += last
            last = seconds
        found.append(before + last)
    return found


def _unfinished(folder: Path, rows: tuple[Measured, ...], epochs: int | None) -> str:
    last = max((row.epoch for row in rows), default=-1)
    if rows and ((epochs is not None and last + 1 >= epochs) or (folder / _DRAWN_LAST).is_file()):
        return ""
    planned = f"of {epochs} epochs " if epochs is not None else ""
    return f"{planned}{_RESULTS} holds {last + 1}, and nothing tells that the training came to its end"


def _files(weights: Path, rows: tuple[Measured, ...], *, finished: bool) -> Iterator[SavedFile]:
    if not rows:
        return
    newest = max(row.epoch for row in rows)
    last, best = weights / "last.pt", weights / "best.pt"
    epoch, fitness = _best(rows)
    if best.is_file() and not finished and fitness is not None:
        yield SavedFile(best, epoch, fitness)
    if last.is_file():
        yield SavedFile(last, newest)
    if best.is_file() and finished:
        yield SavedFile(best, epoch, fitness, final=True)


def _best(rows: tuple[Measured, ...]) -> tuple[int, float | None]:
    """The epoch that the best weights are of, and what it is judged by; the newest one and None if nothing tells."""
    judged = [(score, -row.epoch) for row in rows if (score := _score(row)) is not None]
    if not judged:
        return max(row.epoch for row in rows), None
    score, epoch = max(judged)
    return -epoch, score


def _score(row: Measured) -> float | None:
    for beginning in _CHOSEN_BY:
        values = [value for name, value in row.metrics.items() if name.startswith(beginning)]
        known = [value for value in values if value is not None]
        if known:
            return sum(known) / (len(known) if "accuracy" in beginning else 1)
    return None
