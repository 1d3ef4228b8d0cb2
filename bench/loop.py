"""Iterations per second of a training loop that logs 100 rows of 50 numbers a second, against the same loop without hubstate.

    python bench/loop.py [PAIRS] [SECONDS]

The loop trains a small network with NumPy on one core, at some 100 iterations a second, and logs a row each. It runs by
turns, in processes of their own: bare; bare once more (the noise); with each row written to a file as a plain JSON line
and nothing else; beside a hub that accepts and never answers; and beside one's own hub while 1,000,000 rows of an older
session leave. Every pair has its ratio; told are their median and
spread. The older session is made once, and each run finds what the one before it left.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from io import RawIOBase
from pathlib import Path

import numpy as np
from hub import serving
from measure import in_a_process, machine, run_as, spread

import hubstate
from hubstate.outbox import Outbox

#: NumPy computes on one core; the other one is for the hub. It looks when it is loaded: so in the processes' own start.
ONE_CORE = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
BACKLOG = 1_000_000
NAMES = [f"metric/{number}" for number in range(50)]
#: The sizes that make an iteration of the loop take about 10 ms on one core.
BATCH, INPUTS, HIDDEN, CLASSES = 512, 64, 640, 10


def train(seconds: float, log: Callable[[int, dict[str, float]], None]) -> dict[str, float]:
    """Trains for some seconds; tells the iterations per second, and what share of the time (%) went elsewhere.

    `logging`: the training thread was in `log`. `threads`: the processor's time that other threads of the process had.
    """
    chance = np.random.default_rng(1)
    inputs = chance.random((BATCH, INPUTS), dtype=np.float32)
    wanted = np.eye(CLASSES, dtype=np.float32)[chance.integers(0, CLASSES, BATCH)]
    first = chance.normal(0, 0.1, (INPUTS, HIDDEN)).astype(np.float32)
    second = chance.normal(0, 0.1, (HIDDEN, HIDDEN)).astype(np.float32)
    third = chance.normal(0, 0.1, (HIDDEN, CLASSES)).astype(np.float32)
    logging = 0.0
    others = time.process_time() - time.thread_time()
    begun = time.perf_counter()
    iteration = 0
    while (now := time.perf_counter()) - begun < seconds:
        one = np.maximum(inputs @ first, 0)
        two = np.maximum(one @ second, 0)
        scores = two @ third
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        error = (scores / scores.sum(axis=1, keepdims=True) - wanted) / BATCH
        back = (error @ third.T) * (two > 0)
        third -= 0.1 * two.T @ error
        first -= 0.1 * inputs.T @ ((back @ second.T) * (one > 0))
        second -= 0.1 * one.T @ back
        loss = float(np.square(error).sum())
        row = {name: loss + place for place, name in enumerate(NAMES)}
        told = time.perf_counter()
        log(iteration, row)
        logging += time.perf_counter() - told
        iteration += 1
    others = time.process_time() - time.thread_time() - others
    took = now - begun
    return {"speed": iteration / took, "logging": 100 * logging / took, "threads": 100 * others / took}


def one(situation: str, seconds: str, directory: str, address: str, database: str) -> dict[str, float]:
    """One run of the loop; beside a backlog also how many of its rows left meanwhile."""
    if situation == "bare":
        train(2.0, lambda _iteration, _row: None)
        return train(float(seconds), lambda _iteration, _row: None)
    if situation == "plain":
        with Path(directory).open("ab", buffering=0) as file:
            train(2.0, lambda _iteration, row: write_plainly(file, row))
            return train(float(seconds), lambda _iteration, row: write_plainly(file, row))
    session = hubstate.start("loop", directory=directory, hub=address)
    train(2.0, lambda iteration, row: session.log(row, epoch=0, step=iteration))
    before = _arrived(database)
    told = train(float(seconds), lambda iteration, row: session.log(row, epoch=1, step=iteration))
    arrived = _arrived(database)
    session.close()
    return {**told, "arrived": arrived - before, "all": arrived}


def write_plainly(file: RawIOBase, row: dict[str, float]) -> None:
    """The least that keeps a row when the process dies."""
    file.write(json.dumps(row).encode() + b"\n")


def _arrived(database: str) -> int:
    """How many rows of the older session the hub holds."""
    if not database:
        return 0
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as hub:
        found = hub.execute(
            "SELECT count(*) FROM rows JOIN sessions ON sessions.id = rows.session WHERE name = 'older'"
        )
        return int(found.fetchone()[0])


def make_backlog(directory: Path) -> None:
    """A session of a million rows that no hub has seen yet, and that its outbox knows, as when the hub was away."""
    session = hubstate.start("older", directory=directory, mode="offline")
    row = {f"metric/{number}": number * 0.123456789 for number in range(10)}
    for step in range(BACKLOG):
        session.log(row, epoch=0, step=step)
    session.finish()
    folder = directory / session.id
    outbox = Outbox(folder / "outbox.sqlite", folder)
    while outbox.ingest(10_000):
        pass
    outbox.close()


@contextlib.contextmanager
def silent() -> Iterator[str]:
    """A hub that accepts and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def main() -> None:
    """By turns: bare, and each situation."""
    os.environ.update(ONE_CORE)
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    seconds = sys.argv[2] if len(sys.argv) > 2 else "6"
    ratios: dict[str, list[float]] = {
        "bare once more": [],
        "a plain JSON line": [],
        "a black hole": [],
        "a backlog leaves": [],
    }
    shares: dict[str, list[tuple[float, float]]] = {what: [] for what in ratios}
    bare, gone, there = [], 0.0, 0.0
    chance = random.Random(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_backlog(folder / "older")
        with silent() as hole, serving(folder / "hub") as hub:
            arguments = {
                "bare once more": ("bare", seconds, "", "", ""),
                "a plain JSON line": ("plain", seconds, str(folder / "plain.jsonl"), "", ""),
                "a black hole": ("hole", seconds, str(folder / "new"), hole, ""),
                "a backlog leaves": (
                    "backlog",
                    seconds,
                    str(folder / "older"),
                    hub,
                    str(folder / "hub/hub.sqlite"),
                ),
            }
            for turn in range(pairs):
                for what in chance.sample(list(ratios), len(ratios)):
                    pair = [("bare", seconds, "", "", ""), arguments[what]]
                    told = [in_a_process(__file__, "--one", *words) for words in pair[:: 1 - 2 * (turn % 2)]]
                    plain, beside = told[:: 1 - 2 * (turn % 2)]
                    bare.append(plain["speed"])
                    ratios[what].append(100 * beside["speed"] / plain["speed"])
                    shares[what].append((beside["logging"], beside["threads"]))
                    if what == "a backlog leaves":
                        gone, there = gone + beside["arrived"], beside["all"]
    if not gone or there >= BACKLOG:
        sys.exit(f"{gone:g} rows left and {there:g} are there: some runs had no backlog to drain")
    print(f"{machine()}; {pairs} pairs of {seconds} s by turns; bare {spread(bare)} iterations a second\n")
    print("| beside | iterations a second against bare, % | in `log`, % of the time | other threads, % |")
    print("|---|---|---|---|")
    for what, found in ratios.items():
        logging, threads = zip(*shares[what], strict=True)
        print(f"| {what} | {spread(found)} | {spread(logging, 2)} | {spread(threads, 2)} |")
    print(f"\n{gone:,.0f} rows of the backlog left meanwhile.")


run_as(__name__, main, one)
