"""hubstate beside MLflow's own client, both delivering to one MLflow server on loopback.

    .venv-mlflow/bin/python bench/against_mlflow.py [RUNS]

`scripts/setup mlflow` makes that environment. Each run is a process of its own: it logs 2,000 rows of ten numbers as fast as it can, and
ends. Then the same training is killed in the middle (`kill -9`), and what the server holds afterwards is counted; with
hubstate after `hubstate sync`, which is how it gets there. At last the server is away: a port that refuses, and one that
accepts and never answers. What blocks for longer than 300 s is cut there.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from measure import in_a_process, machine, percentile, run_as, spread
from mlflow_server import free_port, serving_mlflow

ROWS = 2_000
ROW = {f"metric/{number}": number * 0.123456789 for number in range(10)}
#: What blocks for longer is cut there (seconds).
CUT = 300
CLIENTS = {
    "hubstate": "hubstate",
    "MLflow's client, synchronous": "sync",
    "MLflow's client, asynchronous": "async",
}


@contextlib.contextmanager
def logging(client: str, address: str, directory: str) -> Iterator[tuple[Callable[[int], None], str]]:
    """A function that logs the row of a number, and how the run is called at the server."""
    if client == "hubstate":
        import hubstate

        session = hubstate.start("bench", hub=f"mlflow+{address}", directory=directory)
        yield lambda number: session.log(ROW, epoch=number), session.id
        session.finish(600)
        return
    import mlflow

    mlflow.set_tracking_uri(address)
    run = mlflow.start_run()
    synchronous = client == "sync"
    yield lambda number: mlflow.log_metrics(ROW, step=number, synchronous=synchronous), run.info.run_id
    mlflow.end_run()
    mlflow.flush_async_logging()


def one(what: str, client: str, address: str, directory: str) -> dict[str, float]:
    """One measurement: of rows (µs, and s for the end), or of a server that is away (s)."""
    if what == "away":
        return _away(client, address, directory)
    if what == "victim":
        return _victim(client, address, directory)
    calls = []
    with logging(client, address, directory) as (log, _):
        log(0)
        for number in range(1, ROWS):
            before = time.perf_counter()
            log(number)
            calls.append((time.perf_counter() - before) * 1e6)
        before = time.perf_counter()
    finish = time.perf_counter() - before
    return {
        "p50": percentile(calls, 0.5),
        "p99": percentile(calls, 0.99),
        "worst": max(calls),
        "finish": finish,
    }


def _victim(client: str, address: str, directory: str) -> dict[str, float]:
    """Logs a row each millisecond, and says so after each, until it is killed."""
    with logging(client, address, directory) as (log, name):
        log(0)
        print(name, flush=True)
        for number in range(1, 100_000):
            log(number)
            os.write(1, f"{number}\n".encode())
            time.sleep(0.001)  # the pace of the training that is killed
    return {}


def _away(client: str, address: str, directory: str) -> dict[str, float]:
    """How long the first call, and all of it, hold up a training whose server is away; importing is not part of it."""
    if client == "hubstate":
        import hubstate

        _ = hubstate.start  # the door opens by its names

        begun = time.perf_counter()
        session = hubstate.start("bench", hub=f"mlflow+{address}", directory=directory)
        session.log(ROW, epoch=0)
        first = _told(time.perf_counter() - begun)
        session.finish()
        return {"first": first, "end": time.perf_counter() - begun}
    import mlflow
    from mlflow.entities import Metric

    begun = time.perf_counter()
    metrics = [Metric(name, value, 0, 0) for name, value in ROW.items()]
    there, pending = mlflow.MlflowClient(address), None
    with contextlib.suppress(mlflow.MlflowException):
        pending = there.log_batch("0" * 32, metrics=metrics, synchronous=client == "sync")
    first = _told(time.perf_counter() - begun)
    if pending is not None:
        with contextlib.suppress(mlflow.MlflowException):
            pending.wait()
    return {"first": first, "end": time.perf_counter() - begun}


def _told(first: float) -> float:
    """Says how long the first call took (s), for the case that all of it is cut later."""
    print(json.dumps({"first": first}), flush=True)
    return first


def killed(client: str, address: str, directory: str, chance: random.Random) -> tuple[int, int]:
    """How many rows a training had logged when it was killed, and how many of them the server has not."""
    command = [sys.executable, __file__, "--one", "victim", client, address, directory]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as victim:
        assert victim.stdout is not None
        name = victim.stdout.readline().strip()
        until, logged = chance.randrange(300, 700), 0
        for line in victim.stdout:
            logged = int(line)
            if logged >= until:
                break
        victim.kill()
        logged = max([logged, *(int(line) for line in victim.stdout.read().split("\n")[:-1] if line)])
    if client == "hubstate":
        sync = [sys.executable, "-m", "hubstate", "sync", "--directory", directory]
        subprocess.run(
            sync, check=True, capture_output=True, env=os.environ | {"HUBSTATE_HUB": f"mlflow+{address}"}
        )
        (folder,) = (path for path in Path(directory).iterdir() if path.is_dir() and path.name == name)
        from hubstate.journal import recover

        name = str(recover(folder).memory.model)
    import mlflow

    there = mlflow.MlflowClient(address)
    steps = [{point.step for point in there.get_metric_history(name, key)} for key in ROW]
    return logged + 1, len(set(range(logged + 1)) - set.intersection(*steps))


def blocked(client: str, silent: bool, directory: str) -> dict[str, float]:
    """How long a server that is away holds a training up (s); what was cut is missing."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if silent:
            listener.listen(64)
        address = f"http://127.0.0.1:{listener.getsockname()[1] if silent else free_port()}"
        command = [sys.executable, __file__, "--one", "away", client, address, directory]
        try:
            said = subprocess.run(command, capture_output=True, check=True, timeout=CUT).stdout
        except subprocess.TimeoutExpired as cut:
            said = cut.stdout or b""
    told: dict[str, float] = {}
    for line in said.splitlines():
        if line.startswith(b"{"):
            told |= json.loads(line)
    return told


def in_seconds(told: dict[str, float], name: str) -> str:
    return f"{told[name]:.2f}" if name in told else f"> {CUT}"


def main() -> None:
    runs = int(sys.argv[1]) if sys.argv[1:] else 3
    chance = random.Random(1)
    with tempfile.TemporaryDirectory() as name, serving_mlflow(Path(name) / "server") as address:
        print(f"{machine()}; {runs} runs of {ROWS} rows; median (min to max)\n")
        print("| | p50, µs | p99, µs | longest, ms | the end, s | rows lost to kill -9, each of 5 |")
        print("|---|---|---|---|---|---|")
        for title, client in CLIENTS.items():
            told: list[dict[str, Any]] = [
                in_a_process(__file__, "--one", "rows", client, address, f"{name}/{client}{run}")
                for run in range(runs)
            ]
            lost = [killed(client, address, f"{name}/{client}-killed{run}", chance) for run in range(5)]
            print(
                f"| {title} | {spread([t['p50'] for t in told])} | {spread([t['p99'] for t in told])} | "
                f"{spread([t['worst'] / 1e3 for t in told])} | {spread([t['finish'] for t in told])} | "
                f"{', '.join(f'{gone} of {all_of}' for all_of, gone in lost)} |",
                flush=True,
            )
        print(
            "\n| server away: seconds until the first call comes back / until the run can end | refused | never answers |"
        )
        print("|---|---|---|")
        cases = [(client, silent) for client in CLIENTS.values() for silent in (False, True)]
        with ThreadPoolExecutor(len(cases)) as pool:  # they wait, and do nothing else
            waits = [pool.submit(blocked, *case, f"{name}/{case[0]}-{case[1]}") for case in cases]
            found = dict(zip(cases, (wait.result() for wait in waits), strict=True))
        for title, client in CLIENTS.items():
            words = [
                f"{in_seconds(found[client, silent], 'first')} / {in_seconds(found[client, silent], 'end')}"
                for silent in (False, True)
            ]
            print(f"| {title} | {' | '.join(words)} |")


run_as(__name__, main, one)
