"""The hub killed by `kill -9` while many write to it: nothing that it acknowledged is missing afterwards.

When it is killed is drawn from a seed, as a number of acknowledged posts, so that the kill falls into the middle of the
load however quick the machine is; where in a commit it falls is chance. What was under way is repeated after the restart,
as every client does, and counts once.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import requests

KILLS_EVERYDAY, KILLS_LONG = 3, 50
WRITERS = 8
PATIENCE = 120
SERVE = """
import sys
from pathlib import Path
from hubstate.server.running import serve
serve(Path(sys.argv[1]), port=0, announce=lambda line: print(line, flush=True))
"""


class Hub:
    """A hub in a process of its own."""

    def __init__(self, data_dir: Path) -> None:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(data_dir)], stdout=subprocess.PIPE, text=True, env=environment
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().split(" answers at ")[1].split(";")[0]

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate(timeout=PATIENCE)


class Writer:
    """A client that writes rows and checkpoints, one after the other, and notes what was acknowledged."""

    def __init__(self, number: int) -> None:
        self.model = f"S{number}"
        self.next = 0
        #: Of each acknowledged row its value by epoch; of the last acknowledged checkpoint its epoch and digest.
        self.rows: dict[int, float] = {}
        self.file: tuple[int, str] | None = None
        #: What may be there without having been acknowledged: the one that was under way.
        self.pending: tuple[int, str] | None = None

    def write_until_it_dies(self, url: str, acknowledged: Acknowledged) -> None:
        """Writes, beginning with what was not acknowledged last time, until the connection breaks."""
        with requests.Session() as http:
            http.trust_env = False
            try:
                self._say(
                    http, url, "/v1/models", {"hubstate": {"id": self.model, "name": self.model}}, "open"
                )
                while True:
                    self._write(http, url)
                    acknowledged.one_more()
            except (requests.RequestException, OSError):
                return

    def _write(self, http: requests.Session, url: str) -> None:
        n = self.next
        if n % 5 == 4:
            data = f"{self.model} {n}".encode() * 2000
            digest = hashlib.sha256(data).hexdigest()
            self.pending = (n, digest)
            answer = http.post(
                f"{url}/v1/models/{self.model}/upload",
                data={"epoch": str(n), "type": "epoch", "kind": "last", "attempt": "1", "sha256": digest},
                files={"last.pt": data},
                headers={"Idempotency-Key": f"{self.model}-file-{n}"},
                timeout=PATIENCE,
            )
            assert answer.status_code == 200, answer.text
            self.file, self.pending = (n, digest), None
        else:
            row = {"epoch": n, "attempt": 1, "at": 1.0, "metrics": {"value": n / 7}}
            path = f"/v1/models/{self.model}"
            self._say(http, url, path, {"type": "metrics", "metrics": [row]}, f"row-{n}")
            self.rows[n] = n / 7
        self.next += 1

    def _say(self, http: requests.Session, url: str, path: str, body: Any, key: str) -> None:
        headers = {"Idempotency-Key": f"{self.model}-{key}"}
        answer = http.post(url + path, json=body, headers=headers, timeout=PATIENCE)
        assert answer.status_code == 200, answer.text


class Acknowledged:
    """Counts what was acknowledged, and tells when it is enough."""

    def __init__(self, enough: int) -> None:
        self._left = enough
        self._lock = threading.Lock()
        self.enough = threading.Event()

    def one_more(self) -> None:
        with self._lock:
            self._left -= 1
            if self._left <= 0:
                self.enough.set()


def written_until_killed(hub: Hub, writers: list[Writer], enough: int) -> None:
    """All write at once; when so many things were acknowledged, the hub is killed."""
    acknowledged = Acknowledged(enough)
    threads = [
        threading.Thread(target=writer.write_until_it_dies, args=(hub.url, acknowledged))
        for writer in writers
    ]
    for thread in threads:
        thread.start()
    assert acknowledged.enough.wait(PATIENCE)
    hub.kill()
    for thread in threads:
        thread.join(PATIENCE)


def judge(url: str, writer: Writer, http: requests.Session) -> None:
    """Everything that the writer was told to be there is there, once, and as it was sent."""
    answer = http.get(f"{url}/v1/models/{writer.model}/metrics?attempt=all", timeout=PATIENCE)
    held = json.loads(answer.text)["data"]
    epochs = [row["epoch"] for row in held]
    assert len(epochs) == len(set(epochs))
    values = {row["epoch"]: row["metrics"]["value"] for row in held}
    assert {epoch: values.get(epoch) for epoch in writer.rows} == writer.rows
    assert set(values) - set(writer.rows) <= {writer.next}
    model = http.get(f"{url}/v1/models/{writer.model}", timeout=PATIENCE).json()["data"]
    assert not [file for file in model["checkpoints"] if file["damage"]]
    files = [(file["epoch"], file["sha256"], file["url"]) for file in model["checkpoints"]]
    if writer.file is not None:
        ((epoch, digest, address),) = files
        assert (epoch, digest) in (writer.file, writer.pending)
        assert hashlib.sha256(http.get(address, timeout=PATIENCE).content).hexdigest() == digest


def killed_and_judged(data_dir: Path, kills: int, seed: int) -> list[Writer]:
    """Kills a hub under load so many times, over the same folder, and judges after each."""
    chance = random.Random(seed)
    writers = [Writer(number) for number in range(WRITERS)]
    for _ in range(kills):
        hub = Hub(data_dir)
        written_until_killed(hub, writers, chance.randint(1, 200))
        hub = Hub(data_dir)
        with requests.Session() as http:
            http.trust_env = False
            for writer in itertools.filterfalse(lambda one: one.next == 0, writers):
                judge(hub.url, writer, http)
        hub.kill()
    return writers


def test_nothing_acknowledged_is_missing_after_a_kill(tmp_path):
    """Killed a few times under load, the hub holds all that it acknowledged, once, and takes the repeats."""
    writers = killed_and_judged(tmp_path, KILLS_EVERYDAY, seed=1)
    assert sum(len(writer.rows) for writer in writers) > 0


@pytest.mark.long
def test_nothing_acknowledged_is_missing_after_many_kills(tmp_path):
    """Killed fifty times under load, the hub holds all that it acknowledged, once, and takes the repeats."""
    writers = killed_and_judged(tmp_path, KILLS_LONG, seed=2)
    assert all(writer.rows and writer.file for writer in writers)
