"""A real MLflow server on loopback, on SQLite or PostgreSQL, as the benches of this folder meet it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

__all__ = ["free_port", "postgresql", "serving_mlflow"]


def free_port() -> int:
    """A port on which nobody listens just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def serving_mlflow(folder: Path, database: str = "", workers: int = 1) -> Iterator[str]:
    """Its address, as long as it is there; it keeps its artifacts, and without `database` all else too, in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    command = [Path(sys.executable).with_name("mlflow"), "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", str(workers), "--artifacts-destination", str(folder / "artifacts")]
    command += ["--backend-store-uri", database or f"sqlite:///{folder}/mlflow.db"]
    env = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            command, cwd=folder, env=env, stdout=log, stderr=log, start_new_session=True
        )
    address = f"http://127.0.0.1:{port}"
    try:
        while server.poll() is None:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/health", timeout=60):
                break
            time.sleep(0.1)  # between two looks whether it is ready
        else:
            sys.exit(f"the MLflow server did not start:\n{(folder / 'log').read_text()}")
        yield address
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


@contextlib.contextmanager
def postgresql() -> Iterator[str]:
    """The address of a database of its own, as it comes from the package, with a disk that is asked to keep things."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    programs = found[-1] if found else Path(str(shutil.which("postgres"))).parent
    folder = Path(tempfile.mkdtemp(prefix="hubstate-bench-", dir="/tmp"))
    other: list[str] = []
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres", "postgres")
        other = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    port = free_port()
    env = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
    initdb = [*other, programs / "initdb", "-D", folder / "data", "-U", "bench", "--auth=trust"]
    subprocess.run(initdb, cwd=folder, env=env, check=True, capture_output=True)
    options = [f"--port={port}", "--listen_addresses=127.0.0.1", f"--unix_socket_directories={folder}"]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [*other, programs / "postgres", "-D", folder / "data", *options],
            cwd=folder,
            env=env,
            stdout=log,
            stderr=log,
        )
    try:
        ready = [programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]
        while server.poll() is None and subprocess.run(ready, check=False).returncode != 0:
            time.sleep(0.1)  # between two looks whether it is ready
        yield f"postgresql+psycopg2://bench@127.0.0.1:{port}/postgres"
    finally:
        server.send_signal(signal.SIGQUIT)
        server.wait()
        shutil.rmtree(folder)
