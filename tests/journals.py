"""Small journals for tests: made, read and looked into."""

from __future__ import annotations

from pathlib import Path

import pytest

from hubstate import events as ev
from hubstate.actions import Memory
from hubstate.journal import Damage, Journal, Position, Recovery, Step, read, recover
from hubstate.states import State

__all__ = ["DAMAGED", "INVENTED", "NOTHING", "damages", "numbers", "segment", "step", "written"]

#: Marks of tests whose journals no session can have written.
DAMAGED = pytest.mark.damages_journals(
    reason="it damages lines or takes them away, to see what becomes of the rest"
)
INVENTED = pytest.mark.damages_journals(
    reason="it is about lines, or about answers that come unasked, and invents what a session would not write"
)

NOTHING = Recovery(Memory(session="S"), 0, 0, "", ())


def step(n: int, *, metric: float = 0.5) -> Step:
    return Step(n, 1, ev.FitEpochEnd(float(n), n, {"loss": metric}), State.TRAINING, State.TRAINING, row=n)


def written(folder: Path, count: int, **options: str) -> Journal:
    """A journal with `count` steps."""
    journal = Journal(folder, recover(folder) if list(folder.iterdir()) else NOTHING, **options)
    for n in range(journal.n + 1, journal.n + count + 1):
        journal.append(step(n), Memory(session="S", rows=n))
    return journal


def numbers(folder: Path, after: Position | None = None) -> list[int]:
    return [entry.line.n for entry in read(folder, after) if isinstance(entry.line, Step)]


def damages(folder: Path) -> list[Damage]:
    return [entry.line for entry in read(folder) if isinstance(entry.line, Damage)]


def segment(folder: Path, number: int = 1) -> Path:
    return folder / f"journal-{number:06d}.jsonl"
