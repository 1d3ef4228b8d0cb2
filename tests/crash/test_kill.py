"""Killed by `kill -9` at any moment, nothing that was acknowledged is lost, and nothing counts twice.

The moments are drawn from a seed, and are moments of the work itself (the n-th line of the journal), so that they
lie over the whole run however quick the machine is: before the first row, between a row and its checkpoint, in the
middle of a delivery, while the end is delivered. What is killed goes on for some microseconds more, which is where
chance comes in.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from hubstate.demo import NAME
from hubstate.events import TrainBatchEnd
from hubstate.hubs.held import Held, held
from hubstate.journal import Damage, Step, read
from hubstate.opening import newest_of, peek
from hubstate.server.running import running
from hubstate.snapshots import digest
from hubstate.states import State

VICTIM = Path(__file__).with_name("victim.py")
KILLS = 20
PATIENCE = 120


@contextmanager
def victim(*words: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process that can be killed, and the end of the pipe on which it tells how far it is."""
    reading, writing = os.pipe()
    try:
        command = [sys.executable, str(VICTIM), words[0], str(writing), *words[1:]]
        process = subprocess.Popen(
            command, pass_fds=[writing], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        os.close(writing)
        try:
            yield process, reading
        finally:
            process.kill()
            process.communicate(timeout=PATIENCE)
    finally:
        os.close(reading)


class Undisturbed(NamedTuple):
    """A demo that nobody killed: its weights bit by bit, its rows, and how many lines its journal took."""

    weights: dict[str, bytes]
    rows: list[dict[str, float | int | None]]
    lines: int


def run_demo_until(moment: int | None, data_dir: Path, hub: str, *, resume: bool) -> tuple[bool, int]:
    """Runs the demo and kills it when its journal took `moment` lines; tells whether it was killed, and after how many."""
    with victim("demo", str(data_dir), hub, "yes" if resume else "") as (process, pipe):
        lines = 0
        while told := os.read(pipe, 1 if moment is not None else 4096):
            lines += len(told)
            if lines == moment:
                process.send_signal(signal.SIGKILL)
                break
        _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode in (0, -signal.SIGKILL), errors
        return process.returncode != 0, lines


def arrays(data_dir: Path) -> dict[str, bytes]:
    """The final weights of the only demo in a folder, bit by bit."""
    (file,) = (data_dir / "weights").glob("*.npz")
    with np.load(file, allow_pickle=False) as loaded:
        return {name: loaded[name].tobytes() for name in loaded.files}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """A demo that comes to its end by itself."""
    data_dir = tmp_path_factory.mktemp("undisturbed")
    killed, lines = run_demo_until(None, data_dir, "", resume=False)
    assert not killed
    with running(data_dir / "hub") as hub:
        holds = told_by(hub.url, data_dir)
    return Undisturbed(arrays(data_dir), [row.metrics for row in holds.rows], lines)


def told_by(address: str, data_dir: Path) -> Held:
    """What a hub holds of the only demo in a folder."""
    (seen,) = newest_of(data_dir / "sessions", NAME)
    assert seen.memory.state is State.DONE
    return held(address, None, seen.memory.session)


def judge(holds: Held, data_dir: Path, undisturbed: Undisturbed) -> None:
    """Nothing shows that anybody was killed."""
    assert arrays(data_dir) == undisturbed.weights
    assert [row.epoch for row in holds.rows] == list(range(len(undisturbed.rows)))
    assert [row.metrics for row in holds.rows] == undisturbed.rows
    (file,) = (data_dir / "weights").glob("*.npz")
    assert [kept.sha256 for kept in holds.files if kept.kind == "final"] == [digest(file)]
    assert (holds.state, holds.outcome) == ("done", "finished")


def killed_again_and_again(tmp_path: Path, chance: random.Random, hub: str, lines: int) -> Iterator[Path]:
    """Demos that are killed until they end, `KILLS` times in all; the folder of each that has ended.

    The first kill of each demo lies in another tenth of the run, so that all of the run is met; the others anywhere.
    """
    tenths = list(range(10))
    chance.shuffle(tenths)
    kills = 0
    for number, tenth in enumerate(itertools.cycle(tenths)):
        data_dir = tmp_path / f"demo-{number}"
        moment: int | None = max(1, chance.randint(lines * tenth // 10, lines * (tenth + 1) // 10 - 1))
        resume = False
        while run_demo_until(moment, data_dir, hub, resume=resume)[0]:
            kills += 1
            resume = True
            moment = chance.randint(1, lines) if kills < KILLS else None
        yield data_dir
        if kills >= KILLS:
            return


@pytest.mark.promise("D23")
def test_a_killed_demo_ends_as_if_nothing_had_been(tmp_path, undisturbed):
    """Killed together with its hub and gone on with, a demo ends with the same weights, each row once, one final file."""
    for data_dir in killed_again_and_again(tmp_path, random.Random(2), "", undisturbed.lines):
        with running(data_dir / "hub") as hub:
            judge(told_by(hub.url, data_dir), data_dir, undisturbed)


@pytest.mark.promise("D23")
def test_a_killed_demo_with_a_hub_that_lives_on(tmp_path, undisturbed):
    """Killed beside a hub that lives on, which may hold what was never acknowledged, a demo ends the same."""
    with running(tmp_path / "hub") as hub:
        for data_dir in killed_again_and_again(tmp_path, random.Random(11), hub.url, undisturbed.lines):
            judge(told_by(hub.url, data_dir), data_dir, undisturbed)


@pytest.mark.promise("D23")
@pytest.mark.parametrize(("threads", "acknowledged"), [(1, 1), (1, 400), (4, 3), (4, 1000)])
def test_what_log_acknowledged_is_in_the_journal(tmp_path, threads, acknowledged):
    """Killed after any call of `log` that returned, the journal holds that row, and every one before it, exactly."""
    told = b""
    with victim("log", str(tmp_path), str(threads)) as (process, pipe):
        while told.count(b"\n") < acknowledged:
            told += os.read(pipe, 4096)
        process.send_signal(signal.SIGKILL)
        process.wait(PATIENCE)
        while rest := os.read(pipe, 4096):  # what it acknowledged until it was gone
            told += rest
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    lines = [entry.line for entry in read(folder)]
    assert not [line for line in lines if isinstance(line, Damage)]
    events = [line.event for line in lines if isinstance(line, Step)]
    rows = {(e.epoch, e.step): e.metrics for e in events if isinstance(e, TrainBatchEnd)}
    for line in told.decode().splitlines():
        thread, row = map(int, line.split())
        assert rows[thread, row] == {f"value/{thread}": row / 7}
    assert len(rows) == peek(folder).memory.rows
