"""How many posts of a row one core of a hub takes, how long each waits, and what it holds through: beside MLflow.

The server runs on one core and what loads it on another; a post is one row of ten numbers as hubstate's client sends
it, under its own idempotency key, and is answered only after the commit. CPU seconds are those of the server's process
and tell more than rates where other work runs beside. `python bench/hub_load.py --help` tells how to choose.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import uvloop
from measure import machine, percentile

from hubstate.server import keys

SERVER_CORE, LOAD_CORE = 0, 1
METRICS = 10


# -- what loads ------------------------------------------------------------------------------------------


class Told(NamedTuple):
    """What became of the posts: `waits` in seconds, from when each was due; `failed` by the status of the answer."""

    waits: list[float]
    failed: dict[int, int]
    seconds: float


class Line(asyncio.Protocol):
    """One connection that is kept, with at most one request under way."""

    def __init__(self) -> None:
        self._answer = b""
        self._end = -1
        self._done: asyncio.Future[int] | None = None
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._answer = self._answer + data if self._answer else data
        if self._end < 0:
            head = self._answer.find(b"\r\n\r\n")
            if head < 0:
                return
            length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", self._answer[: head + 2])
            self._end = head + 4 + (int(length[1]) if length else 0)
        if len(self._answer) >= self._end:
            status = int(self._answer[9:12])
            self._answer, self._end = self._answer[self._end :], -1
            done, self._done = self._done, None
            if done is not None and not done.done():
                done.set_result(status)

    def connection_lost(self, _error: Exception | None) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_result(0)

    def ask(self, request: bytes) -> asyncio.Future[int]:
        """Sends a request; the status of its answer, 0 if the connection broke."""
        self._done = asyncio.get_running_loop().create_future()
        if self.transport.is_closing():
            self._done.set_result(0)
        else:
            self.transport.write(request)
        return self._done


#: Makes the n-th request of a line.
Request = Callable[[int, int], bytes]


def in_round(request: Request, number: int) -> Request:
    """The same requests with epochs that no other round has, so that none of them is a repeat."""
    return lambda line, n: request(line, number * 10_000_000 + n)


async def lines_to(address: str, count: int) -> list[Line]:
    parts = urlsplit(address)
    assert parts.hostname
    assert parts.port
    loop = asyncio.get_running_loop()
    made = []
    for _ in range(count):
        _transport, line = await loop.create_connection(Line, parts.hostname, parts.port)
        made.append(line)
    return made


async def as_fast_as_possible(address: str, request: Request, *, lines: int, seconds: float) -> Told:
    """Each line sends its next request when the one before was answered."""
    waits: list[float] = []
    failed: dict[int, int] = {}
    opened = await lines_to(address, lines)
    begun = time.perf_counter()

    async def run(number: int, line: Line) -> None:
        n = 0
        while (at := time.perf_counter()) - begun < seconds:
            status = await line.ask(request(number, n))
            waits.append(time.perf_counter() - at)
            n += 1
            if status != 200:
                failed[status] = failed.get(status, 0) + 1
                if status == 0:
                    return

    await asyncio.gather(*(run(number, line) for number, line in enumerate(opened)))
    took = time.perf_counter() - begun
    for line in opened:
        line.transport.close()
    return Told(waits, failed, took)


async def at_a_pace(
    address: str, request: Request, *, lines: int, every: float, seconds: float, watch: Callable[[], None]
) -> Told:
    """Each line has a request due each `every` seconds, and a wait counts from then on: a server that stalls for a
    second is not asked less. `watch` is called each second."""
    waits: list[float] = []
    failed: dict[int, int] = {}
    opened = await lines_to(address, lines)
    begun = time.perf_counter() + 0.5

    async def run(number: int, line: Line) -> None:
        first = begun + every * number / lines
        for n in range(int(seconds / every)):
            due = first + n * every
            pause = due - time.perf_counter()
            if pause > 0:
                await asyncio.sleep(pause)
            status = await line.ask(request(number, n))
            waits.append(time.perf_counter() - due)
            if status != 200:
                failed[status] = failed.get(status, 0) + 1
                if status == 0:
                    return

    async def look() -> None:
        while True:
            watch()
            await asyncio.sleep(1)

    looking = asyncio.create_task(look())
    await asyncio.gather(*(run(number, line) for number, line in enumerate(opened)))
    looking.cancel()
    took = time.perf_counter() - begun
    for line in opened:
        line.transport.close()
    return Told(waits, failed, took)


def loading(work: Any) -> Told:
    """Runs the load on its core."""
    os.sched_setaffinity(0, {LOAD_CORE})
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        told: Told = runner.run(work)
        return told


# -- the servers -----------------------------------------------------------------------------------------


class Served(NamedTuple):
    """A server that answers at `address`; `pids` are its processes."""

    address: str
    pid: int

    def cpu(self) -> float:
        """CPU seconds of the process and of its children that still live."""
        return sum(_cpu(pid) for pid in (self.pid, *_children(self.pid)))

    def memory(self) -> float:
        """Resident memory of the process itself, in MB."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):
            for child in (task / "children").read_text().split():
                found += [int(child), *_children(int(child))]
    return found


@contextlib.contextmanager
def a_hub(folder: Path) -> Iterator[Served]:
    """`hubstate serve` on its core."""
    command = [sys.executable, "-m", "hubstate", "serve", "--port", "0", "--data-dir", str(folder)]
    with subprocess.Popen(
        ["taskset", "-c", str(SERVER_CORE), *command], stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stderr is not None
            told = process.stderr.readline()
            found = re.search(r"answers at (\S+);", told)
            if found is None:
                sys.exit(f"the hub did not start: {told}")
            yield Served(found[1], process.pid)
        finally:
            process.terminate()
            process.communicate()


@contextlib.contextmanager
def an_mlflow(environment: Path, folder: Path) -> Iterator[Served]:
    """`mlflow server --workers 1` over SQLite on the same core."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    command = [str(environment / "bin" / "mlflow"), "server", "--workers", "1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    command += ["--default-artifact-root", str(folder / "artifacts")]
    told = (folder / "mlflow.log").open("w")
    with subprocess.Popen(
        ["taskset", "-c", str(SERVER_CORE), *command], stdout=told, stderr=told, start_new_session=True
    ) as process:
        try:
            address = f"http://127.0.0.1:{port}"
            until = time.monotonic() + 180
            while True:
                try:
                    urllib.request.urlopen(f"{address}/health", timeout=5).close()
                    break
                except OSError:
                    if process.poll() is not None or time.monotonic() > until:
                        sys.exit((folder / "mlflow.log").read_text())
                    time.sleep(0.5)  # between two looks whether it is ready
            yield Served(address, process.pid)
        finally:
            os.killpg(process.pid, 15)
            process.wait()
            told.close()


def say(address: str, path: str, body: Any, **headers: str) -> Any:
    request = urllib.request.Request(
        address + path, json.dumps(body).encode(), {"Content-Type": "application/json", **headers}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


# -- what is measured ------------------------------------------------------------------------------------


def hub_rows(key: str) -> Request:
    """Rows as hubstate's client sends them."""
    metrics = {f"metric/{number}": number / 7 for number in range(METRICS)}
    tail = json.dumps(metrics).encode()[1:]

    def request(line: int, n: int) -> bytes:
        body = (
            b'{"type":"metrics","metrics":[{"epoch":%d,"step":null,"attempt":1,"final":false,"at":%d.5,"metrics":{"n":%d,%b}]}'
            % (n, n, n, tail)
        )
        return (
            b"POST /v1/models/S%d HTTP/1.1\r\nHost: hub\r\nUser-Agent: bench\r\nAccept: */*\r\nConnection: keep-alive\r\n"
            b"x-api-key: %b\r\nContent-Type: application/json\r\nIdempotency-Key: rows-%d-%d\r\nContent-Length: %d\r\n\r\n"
            % (line, key.encode(), line, n, len(body))
        ) + body

    return request


def mlflow_rows(runs: list[str]) -> Request:
    """The same numbers by `log-batch`."""

    def request(line: int, n: int) -> bytes:
        metrics = [
            {"key": f"metric/{number}", "value": number / 7, "timestamp": 1_800_000_000_000 + n, "step": n}
            for number in range(METRICS)
        ]
        body = json.dumps({"run_id": runs[line], "metrics": metrics}).encode()
        return (
            b"POST /api/2.0/mlflow/runs/log-batch HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n" % len(body)
        ) + body

    return request


def opened(served: Served, key: str, count: int) -> None:
    for line in range(count):
        told = {"id": f"S{line}", "name": f"bench {line}", "attempt": 1, "first_epoch": 0}
        say(served.address, "/v1/models", {"hubstate": told}, **{"x-api-key": key})
        # It trains already: its first word is more work than all that come after it.
        life = {"agent": "bench", "hubstate": {"attempt": 1, "state": "training"}}
        say(served.address, f"/v1/agent/heartbeat/models/S{line}", life, **{"x-api-key": key})


def line_of(name: str, served: Served, before: float, told: Told) -> str:
    good = len(told.waits) - sum(told.failed.values())
    cpu = (served.cpu() - before) / max(good, 1) * 1000
    p50, p99 = percentile(told.waits, 0.5) * 1000, percentile(told.waits, 0.99) * 1000
    failed = ", ".join(f"{count} × {status}" for status, count in sorted(told.failed.items())) or "none"
    return (
        f"| {name} | {good / told.seconds:.0f} | {p50:.1f} | {p99:.1f} | {max(told.waits) * 1000:.0f} | "
        f"{cpu:.2f} | {failed} |"
    )


def missing_rows(served: Served, key: str, sessions: int, each: int) -> int:
    """How many of the acknowledged rows the hub does not hold."""
    lost = 0
    for line in range(sessions):
        request = urllib.request.Request(
            f"{served.address}/v1/models/S{line}/metrics", headers={"x-api-key": key}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            held = {row["epoch"] for row in json.load(answer)["data"]}
        lost += len(set(range(each)) - held)
    return lost


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--burst", type=float, default=20, metavar="S", help="seconds of as fast as possible")
    parser.add_argument(
        "--steady", type=float, default=300, metavar="S", help="seconds at a steady pace; 0: none"
    )
    parser.add_argument(
        "--pace", type=float, default=2000, metavar="N", help="posts a second of the steady pace"
    )
    parser.add_argument(
        "--fleet", type=float, default=60, metavar="S", help="seconds of 2,000 sessions; 0: none"
    )
    parser.add_argument("--mlflow", type=Path, metavar="VENV", help="an environment that has mlflow")
    chosen = parser.parse_args()
    print(f"{machine()}; the server on core {SERVER_CORE}, the load on core {LOAD_CORE}\n")
    print("| what | posts/s | p50, ms | p99, ms | longest, ms | CPU s per 1,000 posts | refused |")
    print("|---|---|---|---|---|---|---|")
    notes: list[str] = []
    folder = Path(tempfile.mkdtemp(prefix="hub-load-"))
    try:
        key = keys.create(folder / "hub", "bench")
        with a_hub(folder / "hub") as served:
            opened(served, key, 2000 if chosen.fleet else 64)
            burst(served, key, chosen)
            if chosen.steady:
                notes.append(steady(served, key, chosen))
            if chosen.fleet:
                notes.append(fleet(served, key, chosen))
        if chosen.mlflow:
            mlflow(chosen, folder)
    finally:
        shutil.rmtree(folder)
    print("\n" + "\n".join(notes))


def burst(served: Served, key: str, chosen: argparse.Namespace) -> None:
    request = hub_rows(key)
    for lines in (1, 8, 64):
        before = served.cpu()
        own = in_round(request, lines)
        told = loading(as_fast_as_possible(served.address, own, lines=lines, seconds=chosen.burst))
        print(line_of(f"hubstate, {lines} at once", served, before, told), flush=True)


def steady(served: Served, key: str, chosen: argparse.Namespace) -> str:
    request, lines = hub_rows(key), 64
    memory: list[float] = []
    before = served.cpu()
    told = loading(
        at_a_pace(
            served.address,
            lambda line, n: request(line, 1_000_000_000 + n),
            lines=lines,
            every=lines / chosen.pace,
            seconds=chosen.steady,
            watch=lambda: memory.append(served.memory()),
        )
    )
    print(
        line_of(f"hubstate, {chosen.pace:g} a second for {chosen.steady:g} s", served, before, told),
        flush=True,
    )
    tenth = max(1, len(memory) // 10)
    return (
        f"Memory of the hub at the steady pace: {memory[tenth]:.1f} MB after {tenth} s, "
        f"{memory[-1]:.1f} MB at its end, {max(memory):.1f} MB at its highest."
    )


def fleet(served: Served, key: str, chosen: argparse.Namespace) -> str:
    request, sessions, every = hub_rows(key), 2000, 3.0
    before = served.cpu()
    told = loading(
        at_a_pace(
            served.address, request, lines=sessions, every=every, seconds=chosen.fleet, watch=lambda: None
        )
    )
    name = f"hubstate, {sessions:,} sessions, a post each {every:g} s, for {chosen.fleet:g} s"
    print(line_of(name, served, before, told), flush=True)
    lost = missing_rows(served, key, sessions, int(chosen.fleet / every))
    return f"Rows of the {sessions:,} sessions that were acknowledged and are not there: {lost}."


def mlflow(chosen: argparse.Namespace, folder: Path) -> None:
    with an_mlflow(chosen.mlflow, folder) as served:
        made = [
            say(served.address, "/api/2.0/mlflow/runs/create", {"experiment_id": "0", "start_time": 1})
            for _ in range(64)
        ]
        request = mlflow_rows([run["run"]["info"]["run_id"] for run in made])
        for lines in (1, 8, 64):
            before = served.cpu()
            own = in_round(request, lines)
            told = loading(as_fast_as_possible(served.address, own, lines=lines, seconds=chosen.burst))
            print(line_of(f"mlflow server --workers 1, {lines} at once", served, before, told), flush=True)


if __name__ == "__main__":
    main()
