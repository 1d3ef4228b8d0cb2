"""The unmodified hub-sdk as a client. It replaces signal handlers and starts threads: it runs in its own process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import requests
from hub_client import Client

from hubstate.server import keys
from hubstate.server.running import RunningHub, running

PROGRAM = """
import json, logging, math, os, sys, threading, time
from hub_sdk import HUBClient

told = {}
key = sys.argv[1]
told["bad"] = HUBClient({"api_key": "wrong"}).authenticated
client = HUBClient({"api_key": key})
told["good"] = client.authenticated

def create(name):
    model = client.model()
    model.create_model({
        "config": {"batchSize": 8, "epochs": 3, "imageSize": 64, "patience": 100, "device": "cpu", "cache": "False"},
        "dataset": {"name": "coco8.yaml"},
        "lineage": {"architecture": {"name": "yolo11n"}, "parent": {}},
        "meta": {"name": name},
    })
    return model

model = create("first")
told["id"], told["created"] = model.id, model.data
model.start_heartbeat(interval=3600)
while model.hub_client.agent_id is None:  # set by its thread when the first beat was answered
    threading.Event().wait(0.01)
told["agent"] = model.hub_client.agent_id
row = {"loss": math.nan, "map": 0.5}
told["rows"] = model.upload_metrics({"1": json.dumps({"loss": 0.5}), "0": json.dumps(row)}).status_code
told["epoch"] = model.upload_model(0, sys.argv[2], is_best=True).status_code
again = client.model(model.id)
told["resumable"], told["weights"] = again.is_resumable(), again.get_weights_url("last")
told["metrics"] = again.get_metrics()
told["final"] = model.upload_model(1, sys.argv[3], map=0.75, final=True).status_code
model.stop_heartbeat()
done = client.model(model.id)
told["trained"], told["best"] = done.is_trained(), done.get_weights_url("best")
told["renamed"] = model.update({"meta": {"name": "better"}}).status_code
others = [create(name).id for name in ("second", "third")]
pages = client.model_list(page_size=2)
told["pages"] = [[entry["id"] for entry in pages.results]]
told["total_pages"] = pages.total_pages
pages.next()
told["pages"].append([entry["id"] for entry in pages.results])
told["others"] = others
told["deleted"] = client.model(others[0]).delete(hard=True).status_code
told["gone"] = client.model(others[0]).data
print(json.dumps(told))
sys.stdout.flush()
os._exit(0)  # its heartbeat thread sleeps on for an hour
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the unmodified client saw, and the hub it talked to."""
    folder = tmp_path_factory.mktemp("sdk")
    (folder / "last.pt").write_bytes(b"last" * 1000)
    (folder / "best.pt").write_bytes(b"best" * 1000)
    key = keys.create(folder / "hub", "sdk")
    with running(folder / "hub") as hub:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, key, str(folder / "last.pt"), str(folder / "best.pt")],
            env={
                **{name: value for name, value in os.environ.items() if "proxy" not in name.lower()},
                "ULTRALYTICS_HUB_API": hub.url,
                "ULTRALYTICS_HUB_WEB": hub.url,
                "HOME": str(folder),
            },
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            cwd=folder,
        )
        assert done.returncode == 0, done.stderr
        client = Client(hub.url, key)
        yield json.loads(done.stdout.splitlines()[-1]), hub, client
        client.http.close()


Told = tuple[dict[str, Any], RunningHub, Client]


def test_it_logs_in_with_a_good_key_alone(told: Told) -> None:
    """A good key is accepted, a wrong one is not."""
    assert (told[0]["good"], told[0]["bad"]) == (True, False)


@pytest.mark.promise("C14")
def test_it_creates_and_reads_a_model(told: Told) -> None:
    """The id comes back, and the fields are those that the client rearranges."""
    seen, _, _ = told
    assert seen["id"]
    assert seen["created"]["config"] == {
        "batchSize": 8, "epochs": 3, "imageSize": 64, "patience": 100, "device": "cpu", "cache": "False",
    }  # fmt: skip
    assert seen["created"]["train_args"]["data"] == "coco8.yaml"


def test_its_heartbeat_is_answered(told: Told) -> None:
    """It adopts the agent id of the answer."""
    assert told[0]["agent"].startswith("agent-")


@pytest.mark.promise("C14")
def test_its_rows_arrive_with_nan_and_out_of_order(told: Told) -> None:
    """Rows come back in order, NaN as null and by name."""
    seen, _, client = told
    assert seen["rows"] == 200
    assert [(r["epoch"], r["metrics"]) for r in seen["metrics"]] == [
        (0, {"loss": None, "map": 0.5}),
        (1, {"loss": 0.5}),
    ]
    assert seen["metrics"][0]["nonfinite"] == {"loss": "NaN"}
    assert client.metrics(seen["id"]) == seen["metrics"]


@pytest.mark.promise("C14")
def test_its_checkpoints_arrive_and_can_be_fetched_without_a_key(told: Told) -> None:
    """After the periodic one the model is resumable, after the final one it is trained."""
    seen, _, client = told
    assert (seen["epoch"], seen["final"], seen["resumable"], seen["trained"]) == (200, 200, True, True)
    assert requests.get(seen["weights"], timeout=30).content == b"last" * 1000
    assert requests.get(seen["best"], timeout=30).content == b"best" * 1000
    model = client.model(seen["id"])
    assert (model["state"], model["outcome"], model["name"], seen["renamed"]) == (
        "done",
        "finished",
        "better",
        200,
    )


def test_it_walks_through_the_list(told: Told) -> None:
    """Two pages of two hold the three models, newest first."""
    seen, _, _ = told
    assert seen["total_pages"] == 2
    assert seen["pages"] == [list(reversed(seen["others"])), [seen["id"]]]


def test_it_deletes_a_model(told: Told, tmp_path: Path) -> None:
    """A deleted model is gone for it and for others."""
    seen, _, client = told
    assert (seen["deleted"], seen["gone"]) == (200, {})
    assert client.get(f"/v1/models/{seen['others'][0]}").status_code == 404
