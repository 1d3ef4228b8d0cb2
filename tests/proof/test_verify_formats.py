"""Journals of every format that was ever written: they are read, recovered, continued and verified for ever.

`tests/data/journals/FORMAT/SESSION` holds what a hubstate of that time wrote. It is never made anew: a change of the
format brings a folder of its own, and the older ones have to go on passing.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from hubstate import journal, opening, overview
from hubstate.clock import VirtualClock
from hubstate.events import Answered
from hubstate.exchange import Rows
from hubstate.machine import DECIDE_ALIKE
from hubstate.proof.verify import verify
from hubstate.snapshots import digest
from hubstate.states import Outcome, State

KEPT = Path(__file__).parent.parent / "data" / "journals"


class Known(NamedTuple):
    """What a kept session is known to tell."""

    session: str
    steps: int
    segments: int
    rows: int
    attempt: int
    final: str


FORMATS = {
    1: Known(
        session="01MCC5RM004TFF59TDWH9EDD1R",
        steps=43,
        segments=3,
        rows=14,
        attempt=2,
        final="0d440131ebb4e2dd1bb487e5c0bd11629062af0ed0dd8b0072bf073f33d46bd3",
    ),
}


@pytest.fixture(params=FORMATS.items(), ids=lambda item: f"format {item[0]}")
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Known]:
    """A copy of a session of an older day, and what it tells."""
    number, known = request.param
    return Path(shutil.copytree(KEPT / str(number) / known.session, tmp_path / known.session)), known


def test_every_format_up_to_this_one_is_kept():
    """A new format cannot come without a journal that is written in it."""
    assert set(FORMATS) == set(range(1, journal.FORMAT + 1))
    assert {folder.name for folder in KEPT.iterdir() if folder.is_dir()} == {
        str(number) for number in FORMATS
    }
    for number, known in FORMATS.items():
        assert any((KEPT / str(number) / known.session).glob("*.jsonl.gz")), "a packed segment is among them"


def test_an_old_journal_is_read_and_recovered(kept):
    """Every line is understood, and the memory is the one that was."""
    folder, known = kept
    lines = [entry.line for entry in journal.read(folder)]
    assert not any(isinstance(line, journal.Damage) for line in lines)
    assert sum(isinstance(line, journal.Step) for line in lines) == known.steps
    recovery = journal.recover(folder)
    memory = recovery.memory
    assert (recovery.n, recovery.segment, recovery.damages) == (known.steps, known.segments, ())
    assert (memory.state, memory.outcome, memory.session) == (State.DONE, Outcome.FINISHED, known.session)
    assert (memory.rows, memory.rows_delivered, memory.attempt) == (known.rows, known.rows, known.attempt)
    assert memory.final_sha256 == known.final
    seen = overview.look(folder)
    assert (seen.receipt.rows_delivered, seen.unsettled, seen.damages) == (known.rows, 0, ())


def test_an_old_journal_is_verified(kept):
    """Its table, whatever it was called then, decides as this one does: it is accepted down to its last line."""
    folder, known = kept
    heads = [entry.line for entry in journal.read(folder) if isinstance(entry.line, journal.Head)]
    assert {head.table for head in heads} <= DECIDE_ALIKE
    verdict = verify(folder)
    assert verdict.accepted, str(verdict)
    assert (verdict.session, verdict.steps, verdict.segments) == (known.session, known.steps, known.segments)


def test_an_old_journal_is_gone_on_with(kept):
    """Its session opens, takes what is said, and holds nothing back to deliver; both parts are one journal."""
    folder, known = kept
    opened = opening.reopen(folder, VirtualClock(1_900_000_000.0), lambda *_: None)
    opened.door.tell(Answered, url="http://hub.test/later")
    outbox = opened.outbox()
    while outbox.ingest():
        pass
    assert outbox.count() == (0, 0)
    outbox.close()
    opened.close()
    verdict = verify(folder)
    assert verdict.accepted, str(verdict)
    assert (verdict.steps, verdict.segments) == (known.steps + 1, known.segments + 1)


def test_the_rows_and_files_of_an_old_journal_are_what_they_were(kept):
    """What is in force, to the last bit, and the file that was delivered last."""
    folder, known = kept
    with Rows(folder) as rows:
        found = [(row.epoch, row.step, row.attempt, row.metrics, row.nonfinite) for row in rows]
    assert found == [
        (0, None, 1, b'{"loss":1.0,"accuracy":0.5}', b"{}"),
        (1, None, 1, b'{"loss":0.5,"accuracy":0.5}', b"{}"),
        (2, None, 1, b'{"loss":0.3333333333333333,"accuracy":0.5}', b"{}"),
        (3, None, 2, b'{"loss":0.25,"accuracy":0.5}', b"{}"),
        (4, 0, 2, b'{"loss":0.0}', b"{}"),
        (4, 1, 2, b'{"loss":0.25}', b"{}"),
        (4, 2, 2, b'{"loss":0.5}', b"{}"),
        (4, 3, 2, b'{"loss":0.75}', b"{}"),
        (4, None, 2, b'{"loss":0.125}', b"{}"),
    ]
    assert digest(folder / "snapshots" / "best-3-2") == known.final
