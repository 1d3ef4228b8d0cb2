"""Real MLflow servers on loopback, each on a database of its own; and none of them outlives its test."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from loopback import refused_port

__all__ = ["MLflowServer", "mlflow_server", "postgresql"]

#: What has not come up by then never will (looks, a tenth of a second apart).
_LOOKS = 1_800


class MLflowServer:
    """One MLflow server at one port. It may be killed and started again, as often as one likes."""

    def __init__(self, database: str, folder: Path, *options: str) -> None:
        self.port = refused_port()
        self.http = f"http://127.0.0.1:{self.port}"
        self.hub = f"mlflow+{self.http}"
        self.database = database
        self.artifacts = folder / "artifacts"
        self._folder = folder
        self._command = [
            str(Path(sys.executable).with_name("mlflow")),
            "server",
            *("--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"),
            *("--backend-store-uri", database, "--artifacts-destination", str(self.artifacts)),
            *options,
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it, and waits until it answers."""
        assert self._process is None
        # No jobs of its own: they are processes that take as long to start as all the rest.
        env = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "HOME": str(self._folder)}
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command, cwd=self._folder, env=env, stdout=log, stderr=log, start_new_session=True
            )
        never = threading.Event()
        with requests.Session() as http:
            http.trust_env = False
            for _ in range(_LOOKS):
                with contextlib.suppress(requests.ConnectionError):
                    if http.get(f"{self.http}/health", timeout=60).ok:
                        return
                assert self._process.poll() is None, (self._folder / "server.log").read_text()
                never.wait(0.1)
        raise AssertionError((self._folder / "server.log").read_text())

    def kill(self) -> None:
        """Kills it and all of its processes, in the middle of whatever they do."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def get(self, what: str, **asked: str) -> dict[str, Any]:
        """Asks the server by its own REST API."""
        with requests.Session() as http:
            http.trust_env = False
            answer = http.get(f"{self.http}/api/2.0/mlflow/{what}", params=asked, timeout=60)
        answer.raise_for_status()
        told = answer.json()
        assert isinstance(told, dict)
        return told

    def post(self, what: str, **body: Any) -> dict[str, Any]:
        """Does something by the server's own REST API."""
        with requests.Session() as http:
            http.trust_env = False
            answer = http.post(f"{self.http}/api/2.0/mlflow/{what}", json=body, timeout=60)
        answer.raise_for_status()
        told = answer.json()
        assert isinstance(told, dict)
        return told

    def runs(self, session: str) -> list[dict[str, Any]]:
        """Every run of a session that was not deleted, in whatever experiment."""
        experiments = self.post("experiments/search", max_results=1000)["experiments"]
        ids = [experiment["experiment_id"] for experiment in experiments]
        found = self.post("runs/search", experiment_ids=ids, filter=f"tags.`hubstate.session` = '{session}'")
        runs = found.get("runs", [])
        assert isinstance(runs, list)
        return runs


@contextmanager
def mlflow_server(database: str, folder: Path, *options: str) -> Iterator[MLflowServer]:
    """A server that runs while the block lasts."""
    folder.mkdir(parents=True, exist_ok=True)
    server = MLflowServer(database, folder, *options)
    try:
        server.start()
        yield server
    finally:
        server.kill()


def _program(name: str) -> str:
    """A program of PostgreSQL, where Debian or anybody else puts it."""
    found = shutil.which(name) or next(
        (str(path) for path in sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))[::-1]), None
    )
    if found is None:
        pytest.skip(f"PostgreSQL is not installed ({name}): apt-get install postgresql")
    return found


@contextmanager
def postgresql() -> Iterator[str]:
    """A PostgreSQL of its own while the block lasts, as an unprivileged user: the address of its database."""
    initdb, postgres = _program("initdb"), _program("postgres")
    as_other: list[str] = []
    folder = Path(tempfile.mkdtemp(prefix="hubstate-postgresql-", dir="/tmp"))
    if os.geteuid() == 0:  # it refuses to run as root
        shutil.chown(folder, "postgres", "postgres")
        as_other = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    port = refused_port()
    options = [f"port={port}", "listen_addresses=127.0.0.1", f"unix_socket_directories={folder}", "fsync=off"]
    server = None
    try:
        subprocess.run(
            [
                *as_other,
                initdb,
                "-D",
                folder / "data",
                "-U",
                "hubstate",
                "--auth=trust",
                "-E",
                "UTF8",
                "--no-sync",
            ],
            cwd=folder,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
            check=True,
            capture_output=True,
        )
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(
                [*as_other, postgres, "-D", folder / "data", *(f"--{option}" for option in options)],
                cwd=folder,
                env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
                stdout=log,
                stderr=log,
            )
        _wait_for(server, port, folder / "log")
        yield f"postgresql+psycopg2://hubstate@127.0.0.1:{port}/postgres"
    finally:
        if server is not None:
            server.send_signal(signal.SIGQUIT)  # at once, and its children with it
            server.wait()
        shutil.rmtree(folder)


def _wait_for(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    import psycopg2

    never = threading.Event()
    for _ in range(_LOOKS):
        try:
            psycopg2.connect(host="127.0.0.1", port=port, user="hubstate", dbname="postgres").close()
        except psycopg2.OperationalError:
            assert server.poll() is None, log.read_text()
            never.wait(0.1)
        else:
            return
    raise AssertionError(log.read_text())
