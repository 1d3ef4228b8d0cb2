"""A training as another tool left it: values, and the reading that all tools share.

Whoever reads a tool's files gives a `Found`: the rows in the order in which they were measured, the checkpoints, what
is known of the end, and in words whatever could not be read. Nothing is guessed: a time that no file tells is the time
when the file was written last, and a training is finished only if the files say so.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from hubstate.errors import StorageError
from hubstate.events import MOST, exact
from hubstate.trainers.link import plain

__all__ = [
    "Found",
    "Measured",
    "SavedFile",
    "Table",
    "counted",
    "name_of",
    "numbers_in",
    "settings_of",
    "table_of",
    "text_of",
    "written_at",
]


class Measured(NamedTuple):
    """A row. `at`: seconds since 1970; numbers that are none are None, and `nonfinite` tells which."""

    at: float
    epoch: int
    metrics: dict[str, float | int | None]
    nonfinite: dict[str, str]
    step: int | None = None
    final: bool = False


class SavedFile(NamedTuple):
    """A checkpoint, a file or a folder, of an epoch (from 0). `final`: the one that the training ended with."""

    path: Path
    epoch: int
    fitness: float | None = None
    final: bool = False


@dataclass(frozen=True)
class Found:
    """A training in `folder`, as `tool` left it.

    `first`: what tells it from another training that the same folder held before or will hold, the text of its first
    row. `opened_at`: when it began, as far as known (s since 1970). `unfinished`: why it cannot be taken for finished, empty
    if it can. `times`: in words, where the times of the rows come from. `notes`: in words, what was not read.
    """

    folder: Path
    tool: str
    name: str
    first: str
    opened_at: float
    rows: tuple[Measured, ...]
    files: tuple[SavedFile, ...] = ()
    epochs: int | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    unfinished: str = ""
    times: str = ""
    notes: tuple[str, ...] = ()


# -- files -----------------------------------------------------------------------------------------------


def text_of(path: Path) -> str:
    """The text of a file. Raises `StorageError` if it cannot be read, or is no text."""
    try:
        # Line ends stay as they are: a lone one inside of quotes belongs to a value.
        with path.open(encoding="utf-8-sig", newline="") as file:
            return file.read()
    except UnicodeDecodeError as error:
        raise StorageError(f"{path} is no text: {error}") from error
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error


def written_at(path: Path) -> float:
    """When a file was written last, in seconds since 1970. Raises `StorageError`."""
    try:
        return path.stat().st_mtime
    except OSError as error:
        raise StorageError(f"cannot look at {path}: {error.strerror}") from error


def name_of(folder: Path) -> str:
    """What a training is called that lies in a folder: by that one and the one around it."""
    here = folder.resolve()
    return f"{here.parent.name}/{here.name}".strip("/")


class Table(NamedTuple):
    """A CSV file: its column names, and its lines with their numbers in the file. `notes`: what was left out."""

    columns: tuple[str, ...]
    lines: tuple[tuple[int, dict[str, str]], ...]
    notes: tuple[str, ...]


def table_of(path: Path) -> Table:
    """Reads a CSV file with a head line. Raises `StorageError` if it is none.

    A last line without an end is left out: it is being written just now, or was cut. So is one with more or fewer
    fields than the head.
    """
    text = text_of(path)
    whole, _, rest = text.rpartition("\n")
    notes = [f"{path.name}: its last line has no end, and is left out"] if rest else []
    reader = csv.reader(whole.splitlines(), strict=True, skipinitialspace=True)
    try:
        columns = tuple(name.strip() for name in next(reader, ()))
        lines = []
        for fields in reader:
            if len(fields) == len(columns):
                lines.append((reader.line_num, dict(zip(columns, fields, strict=True))))
            elif fields:
                notes.append(
                    f"{path.name} line {reader.line_num}: {len(fields)} fields where the head has {len(columns)}; "
                    "it is left out"
                )
    except csv.Error as error:
        raise StorageError(f"{path} line {reader.line_num} is no line of a table: {error}") from error
    return Table(columns, tuple(lines), tuple(notes))


def numbers_in(fields: Mapping[str, str], line: str) -> tuple[dict[str, float | int], list[str]]:
    """The numbers in the fields of a line, by their columns; and in words what is none. `line`: what the line is called."""
    numbers: dict[str, float | int] = {}
    odd = []
    for name, text in fields.items():
        try:
            value = _cell(text)
        except ValueError:
            odd.append(f"{line}, {name}: {text.strip()[:40]!r} is no number")
            continue
        if value is not None and name:
            numbers[name] = value
    return numbers, odd


def _cell(text: str) -> float | int | None:
    """The number in a field; None for an empty one. Raises `ValueError` for what is no number."""
    text = text.strip()
    if not text:
        return None
    if text.lstrip("-").isdecimal() and abs(int(text)) <= MOST:
        return int(text)
    return float(text)


def counted(value: float | None) -> int | None:
    """The epoch or the step that a number stands for; None for one that stands for none."""
    return int(value) if value is not None and 0 <= value <= MOST and value == int(value) else None


def row_of(
    at: float, epoch: int, metrics: Mapping[str, float | int], *, step: int | None = None, final: bool = False
) -> Measured:
    """A row of these numbers, NaN and infinities included."""
    values, nonfinite = exact(metrics)
    return Measured(at, epoch, values, nonfinite, step, final)


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # it has no types
    """YAML without anything that could run; a tuple is a list, and another object of Python is nothing."""


def _tuple(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
    return loader.construct_sequence(node, deep=True) if isinstance(node, yaml.SequenceNode) else None


_Loader.add_constructor("tag:yaml.org,2002:python/tuple", _tuple)
_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda _loader, _suffix, _node: None)


def settings_of(path: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The settings in a YAML file, all of them, and in words why there are none; none at all where there is no file."""
    if not path.is_file():
        return {}, ()
    try:
        found = yaml.load(text_of(path), _Loader)  # noqa: S506 - it is a safe one
    except StorageError as failure:
        return {}, (str(failure),)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        return {}, (f"{path.name} cannot be read, so no setting is known: {reason}",)
    if not isinstance(found, dict):
        return {}, () if found is None else (f"{path.name} holds no settings",)
    return {str(name): value for name, value in found.items()}, ()


def told(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Of the settings what may leave this machine: as when the trainer itself is recorded."""
    return plain(settings)
