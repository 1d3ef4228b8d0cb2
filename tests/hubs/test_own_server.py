"""The client and the hub one owns, one against the other: both keep to the same page of protocol."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from parcels import SESSION, checkpoint, close, heartbeat, opening, row, rows, usage

from hubstate.hubs.base import Accepted, Delayed
from hubstate.hubs.hub_v1 import HubV1
from hubstate.server import keys
from hubstate.server.running import RunningHub, running
from hubstate.states import CheckpointKind

Connect = Callable[..., HubV1]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningHub]:
    with running(tmp_path / "hub") as hub:
        yield hub


def told(client: HubV1, path: str) -> Any:
    answer = client._wire.send(path, method="GET")
    assert not isinstance(answer, Delayed)
    assert answer.body is not None
    return answer.body["data"]


@pytest.mark.promise("D24")
def test_a_whole_session_arrives(server: RunningHub, connect: Connect, file: Path) -> None:
    """Everything is confirmed, each thing twice over, and lies there once."""
    client = connect(server.url, None)
    epochs = [row(number, number - 1, loss=1.0 / number, x="NaN") for number in range(1, 4)]
    parcels = [
        opening(epochs=3, config={"lr": 0.05}),
        rows(*epochs, row(4, 2, step=9, loss=0.1), row(5, 2, final=True, acc=0.9)),
        checkpoint(file),
        checkpoint(file, CheckpointKind.BEST, fitness=0.5),
        checkpoint(file, CheckpointKind.FINAL, fitness=0.5),
        heartbeat(),
        usage(),
        close(),
    ]
    for parcel in parcels:
        replies = [client.deliver(parcel), client.deliver(parcel)]
        assert all(isinstance(reply, Accepted) and not reply.not_taken for reply in replies), replies
        assert replies[0].news.url == f"{server.url}/models/{SESSION}"
    held = told(client, f"/v1/models/{SESSION}/metrics")
    assert len(held) == 5
    assert {(r["epoch"], r["step"], r["final"]) for r in held} == {
        (0, None, False),
        (1, None, False),
        (2, None, False),
        (2, None, True),
        (2, 9, False),
    }
    assert held[0]["metrics"] == {"loss": 1.0, "x": None}
    files = {entry["kind"]: entry["sha256"] for entry in told(client, f"/v1/models/{SESSION}")["checkpoints"]}
    assert files == dict.fromkeys(("last", "best", "final"), parcels[2].sha256)


def test_a_wrong_key_is_told_from_a_right_one(server: RunningHub, connect: Connect) -> None:
    """Once the hub has a key, that one opens it and no other does, nor none."""
    key = keys.create(server.data_dir, "laptop")
    assert isinstance(connect(server.url, key).check(), Accepted)
    for wrong in ("ul_" + "0" * 40, None):
        reply = connect(server.url, wrong).check()
        assert isinstance(reply, Delayed)
        assert reply.condition == "credentials_rejected"


def test_a_torn_file_is_not_kept(server: RunningHub, connect: Connect, tmp_path: Path) -> None:
    """Bytes that do not have the announced digest are refused for now, and nothing lies there of them."""
    client = connect(server.url, None)
    client.deliver(opening())
    other = tmp_path / "other.pt"
    other.write_bytes(random.Random(3).randbytes(1000))
    reply = client.deliver(checkpoint(other, sha256="00" * 32))
    assert isinstance(reply, Delayed)
    assert (reply.condition, reply.status) == ("hub_failing", 422)
    assert told(client, f"/v1/models/{SESSION}")["checkpoints"] == []
