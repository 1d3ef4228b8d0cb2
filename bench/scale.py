"""How many sessions one server carries: rows of living sessions, as they come in, until it answers no faster.

    .venv-mlflow/bin/python bench/scale.py [SECONDS]

`scripts/setup mlflow` makes that environment; PostgreSQL is the system's. Each of 64 sessions is opened once; then some of
them at a time deliver rows of ten numbers, again and again, by the clients that hubstate itself sends with. A living
session that logs a row every 3 s sends it every 3 s: so one server carries three times as many sessions as it takes
requests in a second; or, with `Limits(metrics=30)`, ten rows every 30 s. The load is made on the same machine, whose cores
the server has to share with it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from hub import serving
from measure import machine, percentile
from mlflow_server import postgresql, serving_mlflow

from hubstate.actions import OpenSession, Row, SendRows
from hubstate.hubs import open_hub
from hubstate.hubs.base import Accepted, Parcel

SESSIONS = 64
ROW = msgspec.json.encode({f"metric/{number}": number * 0.123456789 for number in range(10)})
#: How many requests are under way at a time, and how many rows each holds.
CASES = ((1, 1), (8, 1), (8, 10))
#: How often a session logs a row (seconds).
INTERVAL = 3.0


def sessions_of(worker: int, workers: int) -> list[str]:
    return [f"01M8B{number:021d}" for number in range(worker, SESSIONS, workers)]


def load(
    address: str, worker: int, workers: int, many: int, first: int, seconds: float, opened: Any, told: Any
) -> None:
    """Opens its sessions, and delivers rows of them, one after the other, until the time is over."""
    hub = open_hub(address, None)
    models: dict[str, str | None] = {}
    for session in sessions_of(worker, workers):
        action = OpenSession(f"{session}/open", 1, session=session, name="scale")
        while not isinstance(reply := hub.deliver(Parcel(action.key, action, session)), Accepted):
            pass  # all of them open at once, and a database may have its hands full
        models[session] = reply.news.model
    opened.wait()  # opening is not what is measured
    until = time.monotonic() + seconds
    times: list[float] = []
    number, failed = first, 0
    while time.monotonic() < until:
        for session, model in models.items():
            numbers = range(number + 1, number + 1 + many)
            number = numbers[-1]
            rows = tuple(Row(n, 1, n, None, False, 1_800_000_000.0 + n, ROW) for n in numbers)
            send = SendRows(f"{session}/{number}", 1, first=numbers[0], last=number)
            before = time.perf_counter()
            reply = hub.deliver(Parcel(send.key, send, session, model, rows=rows))
            times.append(time.perf_counter() - before)
            failed += not isinstance(reply, Accepted)
    hub.close()
    told.put((times, failed))


@contextlib.contextmanager
def servers(folder: Path) -> Iterator[dict[str, str]]:
    """The addresses of what is compared, by what it is."""
    with contextlib.ExitStack() as stack:
        own = stack.enter_context(serving(folder / "own"))
        sqlite = stack.enter_context(serving_mlflow(folder / "sqlite"))
        database = stack.enter_context(postgresql())
        large = stack.enter_context(serving_mlflow(folder / "postgresql", database))
        yield {
            "a hub of one's own, SQLite": own,
            "MLflow, SQLite": f"mlflow+{sqlite}",
            "MLflow, PostgreSQL": f"mlflow+{large}",
        }


def main() -> None:
    seconds = float(sys.argv[1]) if sys.argv[1:] else 15.0
    with tempfile.TemporaryDirectory() as name, servers(Path(name)) as found:
        print(f"{machine()}; {seconds:g} s each; server and load on the same cores\n")
        print(
            "| server | requests at once | rows in each | requests a second | p50, ms | p99, ms | not taken | sessions |"
        )
        print("|---|---|---|---|---|---|---|---|")
        first = 0
        for title, address in found.items():
            for workers, many in CASES:
                first += 1_000_000
                told: Any = multiprocessing.Queue()
                opened = multiprocessing.Barrier(workers)
                processes = [
                    multiprocessing.Process(
                        target=load, args=(address, worker, workers, many, first, seconds, opened, told)
                    )
                    for worker in range(workers)
                ]
                for process in processes:
                    process.start()
                results = [told.get() for _ in processes]
                for process in processes:
                    process.join()
                times = [each for some, _ in results for each in some]
                rate = sum(len(some) / sum(some) for some, _ in results)
                print(
                    f"| {title} | {workers} | {many} | {rate:.0f} | {percentile(times, 0.5) * 1e3:.1f} | "
                    f"{percentile(times, 0.99) * 1e3:.1f} | {sum(failed for _, failed in results)} | "
                    f"{rate * INTERVAL * many:.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
