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
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from threading import BrokenBarrierError
from typing import Any

import msgspec
from hub import serving
from measure import machine, percentile
from mlflow_server import postgresql, serving_mlflow

from hubstate.actions import OpenSession, Row, SendRows
from hubstate.hubs import open_hub
from hubstate.hubs.base import Accepted, Declined, Hub, Parcel

SESSIONS = 64
ROW = msgspec.json.encode({f"metric/{number}": number * 0.123456789 for number in range(10)})
#: How many requests are under way at a time, and how many rows each holds.
CASES = ((1, 1), (8, 1), (8, 10))
#: How often a session logs a row (seconds).
INTERVAL = 3.0
#: How long a server may take for the openings of a process (seconds).
OPENING = 60.0


def sessions_of(worker: int, workers: int) -> list[str]:
    return [f"01M8B{number:021d}" for number in range(worker, SESSIONS, workers)]


class NotOpenedError(Exception):
    """A server did not take the opening of a session: there is nothing to measure."""


def opened_at(hub: Hub, session: str) -> str | None:
    """What the server calls the session. Raises `NotOpenedError` if it declines it, or holds it up for too long."""
    action = OpenSession(f"{session}/open", 1, session=session, name="scale")
    until = time.monotonic() + OPENING
    while True:
        reply = hub.deliver(Parcel(action.key, action, session))
        if isinstance(reply, Accepted):
            return reply.news.model
        if isinstance(reply, Declined) or time.monotonic() > until:
            did = "declines" if isinstance(reply, Declined) else f"has not taken within {OPENING:g} s"
            raise NotOpenedError(f"{hub.address} {did} the opening of a session: {reply.reason}")
        time.sleep(0.05)  # all of them open at once, and a database may have its hands full


def load(
    address: str, worker: int, workers: int, many: int, first: int, seconds: float, opened: Any
) -> tuple[list[float], int]:
    """Opens its sessions, and delivers rows of them, one after the other, until the time is over.

    Returns how long each request took (seconds), and how many were not taken.
    """
    with contextlib.closing(open_hub(address, None)) as hub:
        with contextlib.ExitStack() as failing:
            failing.callback(opened.abort)  # the others wait for this one
            models = {session: opened_at(hub, session) for session in sessions_of(worker, workers)}
            failing.pop_all()
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
    return times, failed


def loaded(
    address: str, workers: int, many: int, first: int, seconds: float
) -> list[tuple[list[float], int]]:
    """What each of some processes of load tells. One that dies, or opens nothing, ends the bench with the reason."""
    with multiprocessing.Manager() as manager, ProcessPoolExecutor(workers) as pool:
        opened = manager.Barrier(workers)
        running = [
            pool.submit(load, address, worker, workers, many, first, seconds, opened)
            for worker in range(workers)
        ]
        failures = [failure for each in running if (failure := each.exception())]
    for failure in failures:
        if isinstance(failure, NotOpenedError):
            sys.exit(str(failure))
        if isinstance(failure, BrokenProcessPool):
            sys.exit(f"a process that loads {address} was killed: {failure}")
    if failures:  # what broke the barrier goes before that it is broken
        raise min(failures, key=lambda failure: isinstance(failure, BrokenBarrierError))
    return [each.result() for each in running]


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
                results = loaded(address, workers, many, first, seconds)
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
