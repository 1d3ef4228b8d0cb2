"""Trainings that other tools left, brought in as sessions: `find` looks for them, `bring` makes a session of one.

Each tool has a room that knows its files (`ultralytics`, `lightning`, `transformers`) and imports nothing of the tool;
`found` is what they give, `writing` is what becomes of it. `gaps` sends what a hub lacks of a session that it has.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from hubstate.errors import StorageError, UsageError
from hubstate.importing import lightning, transformers, ultralytics
from hubstate.importing.found import Found
from hubstate.importing.gaps import Filled, fill
from hubstate.importing.writing import Imported, Wanted, bring

__all__ = ["Filled", "Found", "Imported", "Unusable", "Wanted", "bring", "fill", "find", "find_all"]


class Unusable(NamedTuple):
    """A folder that looks like a training, or may hold one, and cannot be read, and why."""

    folder: Path
    reason: str


_TOOLS: tuple[tuple[Callable[[Path], bool], Callable[[Path], Found | None]], ...] = (
    (ultralytics.is_here, ultralytics.read),
    (lightning.is_here, lightning.read),
    (transformers.is_here, transformers.read),
)


def find(folder: Path) -> Iterator[Found | Unusable]:
    """The trainings in a folder and below, in order of their paths. Hidden folders are not looked into.

    Raises `UsageError` if there is no such folder.
    """
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}")
    closed: list[OSError] = []
    for place, names, _ in os.walk(folder, onerror=closed.append):
        yield from _unseen(closed)
        here = _read(Path(place))
        yield from here
        # What lies below a training belongs to it: its weights, its checkpoints.
        names[:] = [] if here else sorted(name for name in names if not name.startswith("."))
    yield from _unseen(closed)


def find_all(folders: Iterable[Path]) -> list[Found | Unusable]:
    """The trainings in several folders, each once, however often its folder is named or lies below another one.

    Raises `UsageError` for a folder that is not there.
    """
    met: dict[tuple[Path, str], Found | Unusable] = {}
    for folder in folders:
        for one in find(folder):
            what = one.reason if isinstance(one, Unusable) else one.tool
            met.setdefault((one.folder.resolve(), what), one)
    return list(met.values())


def _unseen(closed: list[OSError]) -> Iterator[Unusable]:
    """The folders that could not be looked into; then they are told."""
    for error in closed:
        yield Unusable(Path(error.filename), f"cannot look into {error.filename}: {error.strerror}")
    closed.clear()


def _read(folder: Path) -> list[Found | Unusable]:
    """The trainings that lie in this very folder: none or one, and more where several tools wrote to it."""
    here: list[Found | Unusable] = []
    for is_here, read in _TOOLS:
        try:
            found = read(folder) if is_here(folder) else None
        except StorageError as failure:
            here.append(Unusable(folder, str(failure)))
            continue
        if found is not None:
            here.append(found)
    return here
