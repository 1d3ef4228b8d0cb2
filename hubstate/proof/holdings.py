"""What a hub holds of a session, held against what the journal tells: row by row, file by file, and how it ended.

A journal proves that nothing in it contradicts itself; it cannot prove that a number in a row is the one that was
told. The hub has the same number from another way, so whoever changes one of the two is seen.

A session that another machine began has its first attempts in that machine's journal: what the hub holds of them is
not this journal's to tell.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from hubstate.actions import AnyAction, CloseSession, EndSession, OpenSession, SendCheckpoint
from hubstate.errors import StorageError
from hubstate.events import Delivered, GiveUp
from hubstate.exchange import Row, Rows
from hubstate.hubs.held import Held, InForce
from hubstate.journal import Head, Step, read, recover
from hubstate.snapshots import Snapshots, digest
from hubstate.states import CheckpointKind

__all__ = ["Comparison", "compare"]

_METRICS: msgspec.json.Decoder[dict[str, float | int | None]] = msgspec.json.Decoder(
    dict[str, float | int | None]
)
_WORDS: msgspec.json.Decoder[dict[str, str]] = msgspec.json.Decoder(dict[str, str])

#: An epoch's steps come first, then its row, then its final evaluation.
_Place = tuple[int, bool, bool, int]


@dataclass(frozen=True)
class Comparison:
    """How many rows in force and files are equal, of how many; a row or file that one side lacks counts among the latter.

    `difference`: the first thing that differs, in words; empty if nothing does.
    """

    rows_equal: int
    rows: int
    files_equal: int
    files: int
    difference: str = ""

    @property
    def equal(self) -> bool:
        """Whether everything is."""
        return not self.difference

    def __str__(self) -> str:
        told = f"{self.rows_equal}/{self.rows} rows, {self.files_equal}/{self.files} files equal"
        return f"{told}; {self.difference}" if self.difference else told


class _Sent(msgspec.Struct):
    """The newest checkpoint of its kind that was asked for. `sha256` is empty where nothing can tell it."""

    action: SendCheckpoint
    sha256: str = ""
    delivered: bool = False


def compare(folder: Path, held: Held) -> Comparison:
    """Holds the session in `folder` against what its hub holds.

    Raises `StorageError` if the journal or a kept file cannot be read.
    """
    elsewhere = _elsewhere(folder)
    rows_equal, rows, first_row = _rows(folder, held, elsewhere)
    files_equal, files, first_file = _files(folder, held, elsewhere)
    difference = first_row or first_file or _ends_otherwise(folder, held)
    return Comparison(rows_equal, rows, files_equal, files, difference)


def _elsewhere(folder: Path) -> int:
    """The last attempt that another machine's journal tells of; 0 if the session began here."""
    for entry in read(folder):
        return entry.line.memory.attempt if isinstance(entry.line, Head) and entry.line.origin else 0
    return 0


# -- the end ---------------------------------------------------------------------------------------------


def _ends_otherwise(folder: Path, held: Held) -> str:
    """How state and outcome differ, once the hub was told the end and acknowledged it; empty if they do not."""
    if not _end_was_told(folder):
        return ""
    memory = recover(folder).memory
    here = (memory.state.value, memory.outcome.value)
    if here == (held.state, held.outcome):
        return ""
    return f"the end: {' and '.join(here)} here, {held.state} and {held.outcome} at the hub"


def _end_was_told(folder: Path) -> bool:
    """Whether the hub acknowledged the last word of the newest attempt. Who gives up ends here alone, whatever it holds."""
    key, told = "", False
    for event, actions in _steps(folder):
        match event:
            case Delivered() if key and event.key == key:
                told = not event.not_taken
            case GiveUp():
                key, told = "", False
        for action in actions:
            match action:
                case OpenSession():
                    key, told = "", False
                case CloseSession() | EndSession() if not isinstance(event, GiveUp):
                    key, told = action.key, False
    return told


# -- rows ------------------------------------------------------------------------------------------------


def _rows(folder: Path, held: Held, elsewhere: int) -> tuple[int, int, str]:
    there = {_place(row.epoch, row.step, final=row.final): row for row in held.rows}
    equal = count = 0
    first = ""
    with Rows(folder) as rows:
        for row in rows:
            count += 1
            why = _row_differs(row, there.pop(_place(row.epoch, row.step, final=row.final), None))
            equal += not why
            first = first or why
    for extra in there.values():
        if extra.attempt <= elsewhere:
            continue
        count += 1
        first = (
            first
            or f"{_name(extra.epoch, extra.step, final=extra.final)}: the hub has it, and the journal does not"
        )
    return equal, count, first


def _place(epoch: int, step: int | None, *, final: bool) -> _Place:
    return epoch, final, step is None, step or 0


def _name(epoch: int, step: int | None, *, final: bool) -> str:
    name = f"epoch {epoch}" if step is None else f"epoch {epoch}, step {step}"
    return f"the row of {name}{' (final)' if final else ''}"


def _row_differs(here: Row, there: InForce | None) -> str:
    """Why a row is not the same here and there; empty if it is."""
    name = _name(here.epoch, here.step, final=here.final)
    if there is None:
        return f"{name}: the hub does not have it"
    if here.attempt != there.attempt:
        return f"{name}: attempt {here.attempt} here, attempt {there.attempt} at the hub"
    ours = _exact(_METRICS.decode(here.metrics), _WORDS.decode(here.nonfinite))
    theirs = _exact(there.metrics, there.nonfinite)
    for metric in sorted(ours.keys() | theirs.keys()):
        if ours.get(metric) != theirs.get(metric):
            return f"{name}: {metric} is {ours.get(metric, 'missing')} here, {theirs.get(metric, 'missing')} at the hub"
    return ""


def _exact(metrics: dict[str, float | int | None], nonfinite: dict[str, str]) -> dict[str, str]:
    """Each value as a text that tells it from every other number: what is equal is equal to the last bit."""
    return {
        name: nonfinite.get(name, "nothing") if value is None else repr(float(value))
        for name, value in metrics.items()
    }


# -- files -----------------------------------------------------------------------------------------------


def _files(folder: Path, held: Held, elsewhere: int) -> tuple[int, int, str]:
    sent = _sent(folder)
    there = {file.kind: file for file in held.files}
    equal = count = 0
    first = ""
    for kind in CheckpointKind:
        ours, theirs = sent.get(kind), there.pop(kind.value, None)
        if ours is None and (theirs is None or (theirs.attempt or 0) <= elsewhere):
            continue
        count += 1
        name = f"the {kind.value} checkpoint"
        if theirs is None:
            waits = "" if ours is None or ours.delivered else "; it waits here"
            why = f"{name}: the hub does not have it{waits}"
        elif ours is None:
            why = f"{name}: the hub has it, and the journal does not"
        else:
            # A hub that tells no digest leaves none in the journal; some keep what the sender said of the file.
            sha256 = ours.sha256 or _digest(folder, ours.action.snapshot) or theirs.sent or "unknown"
            where = f"{name} of epoch {ours.action.epoch}"
            waits = "" if ours.delivered else "; this one waits here"
            why = (
                ""
                if sha256 == theirs.sha256
                else f"{where}: sha256 {sha256} here, {theirs.sha256} at the hub{waits}"
            )
        equal += not why
        first = first or why
    for kind_there in there:
        count += 1
        first = first or f"the {kind_there} checkpoint: the hub has it, and the journal knows no such kind"
    return equal, count, first


def _sent(folder: Path) -> dict[CheckpointKind, _Sent]:
    """Of each kind the newest that a hub was asked to hold, and did not decline for good."""
    asked: dict[str, _Sent] = {}
    for event, actions in _steps(folder):
        match event:
            case Delivered() if event.key in asked:
                if event.not_taken:
                    del asked[event.key]
                else:
                    asked[event.key].delivered = True
                    asked[event.key].sha256 = event.sha256
            case GiveUp():
                asked = {key: sent for key, sent in asked.items() if sent.delivered}
        for action in actions:
            if isinstance(action, SendCheckpoint):
                asked.setdefault(action.key, _Sent(action))
    newest: dict[CheckpointKind, _Sent] = {}
    for sent in asked.values():
        action, known = sent.action, newest.get(sent.action.kind)
        # What is as new as the one before takes its place, at the hub as well.
        if known is None or (known.action.attempt, known.action.epoch) <= (action.attempt, action.epoch):
            newest[action.kind] = sent
    return newest


def _steps(folder: Path) -> Iterator[tuple[object, tuple[AnyAction, ...]]]:
    for entry in read(folder):
        if isinstance(entry.line, Step) and not entry.line.illegal:
            yield entry.line.event, entry.line.actions


def _digest(folder: Path, snapshot: str) -> str:
    """The digest of a kept file; empty if it is not here any more."""
    try:
        return digest(Snapshots(folder / "snapshots").path(snapshot))
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise StorageError(f"cannot read the kept file {snapshot}: {error.strerror}") from error
