"""What an unmodified client could not send is filled from what its trainer left: what is missing, once, and nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from leftovers import lightning, only, ultralytics

from hubstate import settings
from hubstate.errors import HubRefused, HubUnreachable, SessionNotFound, UsageError
from hubstate.hubs.base import Accepted, Declined, Delayed
from hubstate.hubs.held import held
from hubstate.importing import fill
from hubstate.server import keys
from hubstate.server.running import RunningHub, running


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[RunningHub]:
    """A hub of one's own."""
    with running(tmp_path / "hub") as hub:
        yield hub


def post(hub: RunningHub, path: str, body: Any) -> Any:
    answer = requests.post(hub.url + path, json=body, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


def old_client(hub: RunningHub, epochs: list[int]) -> str:
    """A session as a client of the old HUB opens it, of which it could send these epochs alone."""
    made = post(
        hub,
        "/v1/models",
        {
            "meta": {"name": "train"},
            "config": {"epochs": 3},
            "dataset": {"name": "squares.yaml"},
            "lineage": {"architecture": {"name": "yolo11n"}, "parent": {}},
        },
    )
    metrics = {str(epoch): json.dumps({"train/box_loss": 0.5}) for epoch in epochs}
    post(hub, f"/v1/models/{made['id']}", {"type": "metrics", "metrics": metrics})
    return str(made["id"])


def test_what_is_missing_is_filled_and_what_is_there_stays(hub):
    """Rows of missing epochs come with their values and times, rows that are there are not touched, files come by kind."""
    session = old_client(hub, [0, 2])
    found = only(ultralytics())
    filled = fill(found, session, settings.resolve(hub=hub.url))
    assert filled == (1, 2, 3, 2)
    there = held(hub.url, None, session)
    assert [row.epoch for row in there.rows] == [0, 1, 2]
    assert there.rows[0].metrics == {"train/box_loss": 0.5}
    assert there.rows[1].metrics == found.rows[1].metrics
    assert there.sha256("final") == hashlib.sha256(b"the best").hexdigest()
    assert there.sha256("last") == hashlib.sha256(b"last").hexdigest()
    assert (there.state, there.outcome) == ("done", "finished")


def test_a_second_time_nothing_is_sent(hub):
    """What was filled is not missing any more: no row and no file comes twice."""
    session = old_client(hub, [1])
    found, here = only(ultralytics()), settings.resolve(hub=hub.url)
    fill(found, session, here)
    before = held(hub.url, None, session)
    assert fill(found, session, here)[:2] == (0, 0)
    after = held(hub.url, None, session)
    assert after.rows == before.rows
    assert [(file.kind, file.sha256) for file in after.files] == [
        (file.kind, file.sha256) for file in before.files
    ]
    every = requests.get(f"{hub.url}/v1/models/{session}/metrics?attempt=all", timeout=30).json()["data"]
    assert len(every) == 3


def test_a_training_that_is_not_finished_gets_no_final_file(hub):
    """Without a word of the end the newest file is the last one, and the session goes on; with it, too, if none is named."""
    session = old_client(hub, [])
    found = only(lightning())
    assert fill(found, session, settings.resolve(hub=hub.url)) == (15, 1, 15, 1)
    there = held(hub.url, None, session)
    assert {file.kind for file in there.files} == {"last"}
    assert there.state == "training"


def test_a_long_training_is_sent_in_pieces(hub):
    """More rows than one request takes all arrive."""
    session = old_client(hub, [])
    folder = ultralytics()
    lines = "".join(f"{number},{number},{1 / number}\n" for number in range(1, 2_502))
    (folder / "results.csv").write_text(f"epoch,time,loss\n{lines}")
    assert fill(only(folder), session, settings.resolve(hub=hub.url)).rows == 2_501
    assert len(held(hub.url, None, session).rows) == 2_501


def test_a_session_that_is_not_there_is_told(hub):
    """An unknown id is named, and so is that no hub is set."""
    found = only(ultralytics())
    with pytest.raises(SessionNotFound, match="nor at"):
        fill(found, "nobody", settings.resolve(hub=hub.url))
    with pytest.raises(UsageError, match="no hub is set"):
        fill(found, "nobody", settings.resolve())


def test_a_wrong_key_is_told_as_that(hub):
    """A hub that refuses the key says so, with the code for credentials."""
    session = old_client(hub, [0])
    keys.create(hub.data_dir, "mine")
    with pytest.raises(HubRefused) as told:
        fill(only(ultralytics()), session, settings.resolve(hub=hub.url, api_key="wrong"))
    assert told.value.credentials


@pytest.mark.parametrize(
    ("reply", "error", "words"),
    [
        (Declined("no such row", 422), HubRefused, "refused rows"),
        (Delayed("offline", "the line is cut"), HubUnreachable, "what arrived counts"),
        (Delayed("credentials_rejected", "revoked"), HubRefused, "revoked"),
        (Accepted(not_taken="one row an epoch"), HubRefused, "does not take rows"),
    ],
)
def test_nothing_counts_that_the_hub_does_not_confirm(hub, monkeypatch, reply, error, words):
    """Whatever keeps the hub from taking rows ends the filling with the reason."""
    session = old_client(hub, [0])

    class Refusing:
        address = hub.url

        def deliver(self, _parcel: object) -> object:
            return reply

        def close(self) -> None:
            pass

    monkeypatch.setattr("hubstate.hubs.open_hub", lambda _address, _key: Refusing())
    with pytest.raises(error, match=words):
        fill(only(ultralytics()), session, settings.resolve(hub=hub.url))
