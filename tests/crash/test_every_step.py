"""Killed before, or within, each of its writing system calls, a small run loses nothing, doubles nothing, mixes nothing.

Every call is met: of every thread, to the journal, the outbox, the kept copies, the index, the trainer's own file, and
the hub. The hub is another process and lives on, so that it may hold what was never acknowledged. Then one of two
things follows, by turns: `hubstate sync`, and the training again; or the training again at once, which every second
time is killed once more. At each call one of the two ways is taken; both at each, and a line for where the deaths lay:

    scripts/long tests/crash/test_every_step.py -s
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tracing
from aftermath import Aftermath
from killer import Killer, killer

from hubstate.server.running import running

#: The n-th calls are shared out among so many tests, n by n.
TURNS = 8
#: The number of calls differs a little from run to run: so many runs that came to their end tell that no more are left.
SPARED = 3

HINDERED = tracing.why_not()
pytestmark = pytest.mark.skipif(bool(HINDERED), reason=HINDERED or "can be traced")


@pytest.fixture
def deadly() -> Iterator[Killer]:
    with killer() as running_one:
        yield running_one


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[str]:
    with running(tmp_path / "hub") as lives_on:
        yield lives_on.url


def kind(call: Any) -> str:
    """What a call does to which part, without what differs from run to run."""
    name, what, _ = call
    path = Path(what)
    if what.startswith("socket:"):
        return f"{name} hub"
    for part in ("snapshots", "data", "last.bin", "outbox.sqlite-wal", "outbox.sqlite", "journal", "owner"):
        if any(piece.startswith(part) for piece in path.parts[-4:]):
            return f"{name} {part}"
    return f"{name} folder"


def killed_and_judged(deadly: Killer, folder: Path, hub: str, n: int, *, within: bool) -> Any:
    """A small run that is killed at its n-th writing call, and what came after; returns the call, or None."""
    chance = random.Random(f"{n} {within}")
    what = Aftermath(deadly, folder, hub)
    death = what.run("train", kill_at=n, part=chance.random() if within else None)
    if n % 2:
        what.check_synced()
    elif chance.random() < 0.5 and not what.over:
        what.run("train", kill_at=chance.randint(1, 250))
    what.check_finished()
    what.remove()
    return death["at"]


@pytest.mark.promise("D23")
@pytest.mark.parametrize("both", [False, pytest.param(True, marks=pytest.mark.long)])
@pytest.mark.parametrize("turn", range(TURNS))
def test_killed_at_each_writing_call(
    deadly: Killer, hub: str, tmp_path: Path, turn: int, *, both: bool
) -> None:
    """Whichever writing call it dies at, nothing acknowledged is lost, nothing counts twice, and no file is mixed."""
    met: Counter[str] = Counter()
    n, spared = turn + 1, 0
    while spared < SPARED:
        ways = (False, True) if both else ((n // TURNS + turn) % 2 == 1,)
        for within in ways:
            call = killed_and_judged(deadly, tmp_path / f"{n}-{within}", hub, n, within=within)
            spared += call is None
            if call is not None:
                met[kind(call)] += 1
        n += TURNS
    print(f"\nkilled {met.total()} times:", ", ".join(f"{count} {what}" for what, count in met.most_common()))
    assert met.total() >= 20
    assert {what.partition(" ")[2] for what in met} >= {"journal", "outbox.sqlite-wal"}


def test_every_part_that_is_written_is_met(deadly: Killer, hub: str, tmp_path: Path) -> None:
    """The calls at which it is killed are those to every part that a run writes, of the trainer and both senders."""
    listed = Aftermath(deadly, tmp_path / "run", hub).run("train", listed=True)["listed"]
    assert {kind(call) for call in listed} >= {
        "mkdir folder",
        "openat owner",
        "openat journal",
        "write journal",
        "fsync journal",
        "mkdir data",
        "rename data",
        "write last.bin",
        "openat snapshots",
        "ioctl snapshots",
        "copy_file_range snapshots",
        "rename snapshots",
        "unlink snapshots",
        "fsync snapshots",
        "pwrite64 outbox.sqlite-wal",
        "pwrite64 outbox.sqlite",
        "unlink outbox.sqlite-wal",
        "sendto hub",
    }


@pytest.mark.parametrize("part", [None, 0.5])
def test_the_call_does_not_happen_or_happens_in_part(
    deadly: Killer, hub: str, tmp_path: Path, part: float | None
) -> None:
    """Killed before the head of its journal is written, a run leaves none of it, and killed within, that share."""
    calls = Aftermath(deadly, tmp_path / "whole", hub).run("train", listed=True)["listed"]
    head = next(n for n, call in enumerate(calls, 1) if kind(call) == "write journal")
    run = Aftermath(deadly, tmp_path / "killed", hub)
    answer = run.run("train", kill_at=head, part=part)
    name, file, size = answer["at"]
    assert (name, Path(file).name, answer["killed"]) == ("write", "journal-000001.jsonl", True)
    assert Path(file).stat().st_size == (0 if part is None else size // 2)
    run.check_finished()
    run.remove()
