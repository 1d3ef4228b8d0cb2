"""What `session.log` of ten floats costs on the calling thread, with the sender idle, draining, refused and unanswered.

    python bench/log.py [RUNS]

Each row is in the journal (one `write(2)`) when the call returns, so it survives `kill -9`; `tests/crash` shows that.
Beside it, in the same process, the least that could do so: the row as one JSON line, written by one `write(2)`.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hub import serving
from measure import in_a_process, machine, percentile, run_as, spread

import hubstate

ROWS = 20_000
ROW = {f"metric/{number}": number * 0.123456789 for number in range(10)}
SITUATIONS = {
    "no hub, the sender idle": "idle",
    "a hub that takes the rows meanwhile (a send each 0.1 s)": "draining",
    "a hub that refuses the connection": "refused",
    "a hub that accepts and never answers": "silent",
}


@contextlib.contextmanager
def hub(situation: str, folder: Path) -> Iterator[str | None]:
    """The hub of a situation; a living one runs in a process of its own."""
    with contextlib.ExitStack() as stack:
        if situation == "idle":
            yield None
        elif situation == "draining":
            yield stack.enter_context(serving(folder / "hub"))
        else:
            listener = stack.enter_context(socket.socket())
            listener.bind(("127.0.0.1", 0))
            if situation == "silent":
                listener.listen(16)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def one(situation: str) -> dict[str, float]:
    """One run: p50, p99 and the longest call in µs, and the p50 of the plain write."""
    rows = ROWS * 10 if situation == "draining" else ROWS
    with tempfile.TemporaryDirectory() as name, hub(situation, Path(name)) as address:
        limits = hubstate.Limits(metrics=0.1 if situation == "draining" else 3.0)
        session = hubstate.start("bench", directory=name, hub=address, limits=limits)
        for epoch in range(2_000):
            session.log(ROW, epoch=epoch)
        taken = _time(lambda epoch: session.log(ROW, epoch=epoch), rows)
        plain = _plain(name)
        sent = session.receipt.rows_delivered
        session.close()
    if situation == "draining" and not sent:
        sys.exit("nothing was drained meanwhile: the figure would be another one")
    return {
        "p50": percentile(taken, 0.5),
        "p99": percentile(taken, 0.99),
        "max": max(taken),
        "plain": percentile(plain, 0.5),
    }


def _time(call: Any, rows: int = ROWS) -> list[float]:
    clock = time.perf_counter_ns
    taken = []
    for epoch in range(rows):
        before = clock()
        call(epoch)
        taken.append((clock() - before) / 1000)
    return taken


def _plain(folder: str) -> list[float]:
    file = os.open(Path(folder, "plain.jsonl"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    encode = json.JSONEncoder().encode
    try:
        return _time(lambda epoch: os.write(file, (encode({"epoch": epoch, "metrics": ROW}) + "\n").encode()))
    finally:
        os.close(file)


def main() -> None:
    """All situations, several runs each, as a table."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    print(
        f"{machine()}; {runs} runs of {ROWS} rows in processes of their own; µs, median (min to max) of the runs\n"
    )
    print("| situation | p50 | p99 | longest | plain JSON line, p50 |\n|---|---|---|---|---|")
    for words, situation in SITUATIONS.items():
        told = [in_a_process(__file__, "--one", situation) for _ in range(runs)]
        cells = [spread([run[name] for run in told]) for name in ("p50", "p99", "max", "plain")]
        print(f"| {words} | {' | '.join(cells)} |", flush=True)


run_as(__name__, main, one)
