"""A run of 1,000,000 logged rows: what a call costs at its begin and at its end, memory, and what is left once delivered.

    python bench/million.py [RUNS]

Ten numbers a row, as fast as they can be logged, beside one's own hub in a process of its own; a checkpoint every 100,000
rows. Cost: the median of 50,000 calls at each end, in µs. Memory: what the process holds (RSS) after 100,000 rows, when
all were logged, and at its highest, in MB. Left: what the outbox holds and how many snapshots there are once the session
is done, and how large its compressed journal is.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import sys
import tempfile
import time
from array import array
from pathlib import Path

from hub import serving
from measure import in_a_process, machine, percentile, run_as, spread

import hubstate
from hubstate.journal import compress_closed, segments
from hubstate.states import State

ROWS = 1_000_000
MEASURED = 50_000
SAVE_EACH = 100_000
LINES = [
    ("a call among the first 50,000, µs", "first", 1),
    ("a call among the last 50,000, µs", "last", 1),
    ("the one against the other", "ratio", 2),
    ("memory after 100,000 rows, MB", "early", 1),
    ("memory when all were logged, MB", "late", 1),
    ("memory at its highest, all delivered, MB", "highest", 1),
    ("from the last row until all was at the hub, s", "delivered", 0),
    ("rows and deliveries in the outbox then", "left", 0),
    ("copies of checkpoints then", "copies", 0),
    ("the compressed journal, MB", "journal", 1),
]
ROW = {f"metric/{number}": number * 0.123456789 for number in range(10)}


def one() -> dict[str, float]:
    """One run, from the first row until all is at the hub."""
    with tempfile.TemporaryDirectory() as name, serving(Path(name, "hub")) as url:
        os.chdir(name)
        session = hubstate.start("million", directory=Path(name, "kept"), hub=url)
        folder = Path(name, "kept", session.id)
        checkpoint = Path(name, "last.pt")
        taken, early = array("d", bytes(8 * ROWS)), 0.0  # made before, so that it is no memory that grows
        for step in range(ROWS):
            before = time.perf_counter_ns()
            session.log(ROW, epoch=0, step=step)
            taken[step] = (time.perf_counter_ns() - before) / 1000
            if step % SAVE_EACH == SAVE_EACH - 1:
                checkpoint.write_bytes(os.urandom(100_000))
                session.save(checkpoint, epoch=0, fitness=float(step))
            if step == SAVE_EACH:
                early = _memory("VmRSS")
        late = _memory("VmRSS")
        logged = time.perf_counter()
        receipt = session.finish(timeout=3600.0)
        if session.state is not State.DONE or receipt.rows_delivered != ROWS:
            sys.exit(f"not delivered: {session!r}, {receipt}")
        delivered = time.perf_counter() - logged
        highest = _memory("VmHWM")
        compress_closed(folder, max(segments(folder)) + 1)  # all of them, for nobody writes any more
        with contextlib.closing(sqlite3.connect(folder / "outbox.sqlite")) as outbox:
            left = sum(
                outbox.execute(f"select count(*) from {table}").fetchone()[0]
                for table in ("rows", "deliveries")
            )
        copies = len(list((folder / "snapshots").glob("*")))
        journal = sum(file.stat().st_size for file in folder.glob("journal-*")) / 1e6
        os.chdir("/")
    first, last = percentile(taken[:MEASURED], 0.5), percentile(taken[-MEASURED:], 0.5)
    return {
        "first": first,
        "last": last,
        "ratio": last / first,
        "early": early,
        "late": late,
        "highest": highest,
        "delivered": delivered,
        "left": left,
        "copies": copies,
        "journal": journal,
    }


def _memory(name: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1000


def main() -> None:
    """Several runs, each in a process of its own, as a table."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    told = [in_a_process(__file__, "--one") for _ in range(runs)]
    print(f"{machine()}; {runs} runs in processes of their own; median (min to max)\n\n| what | |\n|---|---|")
    for what, name, digits in LINES:
        print(f"| {what} | {spread([run[name] for run in told], digits)} |")


run_as(__name__, main, one)
