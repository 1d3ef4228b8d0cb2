"""One session that two machines went on with: the hub keeps what came first, and nobody counts the other as delivered."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import requests
from children import PYTHON, ended, script

from hubstate.exchange import Rows
from hubstate.overview import look
from hubstate.server.running import running
from hubstate.states import State

TRAIN = """
import os, signal, sys
import hubstate
who, resume, killed, every = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
session = hubstate.start(
    "digits", epochs=6, resume=resume or False, config={"who": "all the same"}, limits=hubstate.Limits(every, every, 300.0)
)
for epoch in session.epochs():
    session.log({"who": int(who), "epoch": epoch})
    with open("last.pt", "wb") as file:
        file.write(f"{who}, {epoch}".encode() * 100)
    session.save("last.pt", epoch=epoch, fitness=epoch)
    if not every:
        session.flush(60 if who != "3" else 0)
    if epoch == killed:
        os.kill(os.getpid(), signal.SIGKILL)
session.finish(60 if who != "3" else 2)
"""


@pytest.mark.parametrize("every", [0.0, 300.0], ids=["under the same keys", "under other keys"])
def test_what_a_second_machine_did_meanwhile_is_never_taken_for_ones_own(
    tmp_path: Path, every: float
) -> None:
    """A is killed, B goes on and ends, A goes on: the hub holds B's, A's is refused, kept, told, and never sent again."""
    train = script(TRAIN)
    homes = {name: tmp_path / name for name in "ab"}
    with running(tmp_path / "hub") as hub:

        def trained(home: str, who: int, resume: str = "", *, killed: int = -1, every: float = 0.0) -> int:
            homes[home].mkdir(exist_ok=True)
            command = [PYTHON, str(train), str(who), resume, str(killed), str(every)]
            return ended(command, cwd=homes[home], env=environment(home)).returncode

        def environment(home: str) -> dict[str, str]:
            rest = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")}
            return rest | {"HOME": str(homes[home]), "HUBSTATE_HUB": hub.url}

        assert trained("a", 1, killed=2) == -signal.SIGKILL
        (folder,) = (path.parent for path in homes["a"].rglob("journal-*1.jsonl"))
        assert trained("b", 2, folder.name) == 0
        before = look_at(hub.url, folder.name)
        assert [row["metrics"]["who"] for row in before[0]] == [1, 1, 1, 2, 2, 2]
        assert trained("a", 3, folder.name, every=every) == 0
        assert look_at(hub.url, folder.name) == before, "nothing of the other one's mixes with it"

        seen = look(folder)
        assert (seen.receipt.state, seen.receipt.rows, seen.receipt.rows_delivered) == (
            State.FINALIZING,
            6,
            3,
        )
        assert seen.receipt.refused
        conditions = {condition.name: condition.reason for condition in seen.receipt.conditions}
        assert "another process went on with this session" in conditions["refused"]
        assert "Begin a new session" in conditions["refused"]
        assert "hub_failing" not in conditions
        with Rows(folder) as rows:
            assert [b'"who":3' in row.metrics for row in rows] == [False] * 3 + [True] * 3, "it is kept here"

        told = ended([PYTHON, "-m", "hubstate", "sync", folder.name], env=environment("a"))
        assert told.returncode == 1, told.stdout + told.stderr
        assert "another process went on with this session" in told.stdout + told.stderr
        assert look_at(hub.url, folder.name) == before


def look_at(url: str, session: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """What the hub holds of a session: its rows, its files and how it ended."""
    with requests.Session() as http:
        http.trust_env = False
        rows = http.get(f"{url}/v1/models/{session}/metrics", timeout=60).json()["data"]
        told = http.get(f"{url}/v1/models/{session}", timeout=60).json()["data"]
    files = {file["kind"]: (file["attempt"], file["sha256"]) for file in told["checkpoints"]}
    return rows, {"files": files} | {name: told[name] for name in ("state", "outcome", "attempt", "epoch")}
