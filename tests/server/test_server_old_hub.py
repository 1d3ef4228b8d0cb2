"""What clients of the old HUB expect beside trainings: limits in every answer, refusals that let them go on, a marked last row."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import requests
from hub_client import Client

from hubstate.clock import VirtualClock
from hubstate.errors import UsageError
from hubstate.server import keys
from hubstate.server.running import running
from hubstate.server.terms import Terms

# -- how much a key may ask ------------------------------------------------------------------------------


def limits(answer: requests.Response) -> tuple[int, int, int]:
    return tuple(int(answer.headers[f"x-ratelimit-{name}"]) for name in ("limit", "remaining", "reset"))  # type: ignore[return-value]


def test_every_answer_tells_what_is_left(data_dir: Path, clock: VirtualClock) -> None:
    """Under /v1 and /api each answer, a refusal included, has the three headers; the pages have none."""
    with running(data_dir, wall=clock.wall, terms=Terms(rate_limit=5)) as hub:
        client = Client(hub.url)
        clock.advance(60 - clock.wall() % 60)
        answers = [
            client.post("/v1/auth"),
            client.get("/v1/models/none"),
            client.get("/v1/no/such/call"),
            client.post("/api/webhooks/training/metrics", {"event": "epoch_end"}),
        ]
        reset = int(clock.wall()) + 60
        assert [limits(answer) for answer in answers] == [(5, left, reset) for left in (4, 3, 2, 1)]
        assert "x-ratelimit-limit" not in client.get("/login").headers
        client.http.close()


def test_one_too_many_waits_for_the_next_minute(data_dir: Path, clock: VirtualClock) -> None:
    """It is answered 429 with Retry-After, another key is not held up, and in the next minute all is as before."""
    with running(data_dir, wall=clock.wall, terms=Terms(rate_limit=2)) as hub:
        client, other = Client(hub.url, "one"), Client(hub.url, "other")
        clock.advance(60 - clock.wall() % 60 + 10)
        assert [client.post("/v1/auth").status_code for _ in range(3)] == [200, 200, 429]
        answer = client.open()
        assert (answer.status_code, answer.json()["error"]) == (429, "too_many")
        assert answer.headers["retry-after"] == "50"
        assert limits(answer)[:2] == (2, 0)
        assert other.post("/v1/auth").status_code == 200
        clock.advance(50)
        assert client.open().status_code == 200
        for each in (client, other):
            each.http.close()


@pytest.mark.parametrize("epoch", ["0" * 20 + "9" * 30, "9" * 30, "0" * 5000, "-1", "1.5", ""])
def test_a_row_for_no_epoch_is_told_and_the_others_are_kept(client: Client, epoch: str) -> None:
    """Whatever stands where an epoch should: the answer is a success, and the session's page tells of it."""
    model = client.foreign()
    rows = {epoch: '{"loss": 1.0}', "0": '{"loss": 2.0}'}
    answer = client.post(f"/v1/models/{model}", {"type": "metrics", "metrics": rows})
    assert (answer.status_code, answer.json()["data"]) == (200, {"rows": 1})
    assert [told["metrics"] for told in client.metrics(model)] == [{"loss": 2.0}]
    (condition,) = client.model(model)["conditions"]
    assert (condition["name"], "is no epoch" in condition["reason"]) == ("odd_request", True)


@pytest.mark.parametrize("bad", [{"rate_limit": 0}, {"heartbeat": 4.9}, {"heartbeat": 301.0}])
def test_terms_that_cannot_be_are_refused(bad: dict[str, Any]) -> None:
    """A limit of nothing, and a heartbeat that no client keeps or that tells silence too late, are mistakes."""
    with pytest.raises(UsageError):
        Terms(**bad)


def test_a_hub_tells_how_often_it_wants_a_sign_of_life(data_dir: Path) -> None:
    """Every answer about a session carries the interval that its owner chose."""
    with running(data_dir, terms=Terms(heartbeat=30.0)) as hub:
        client = Client(hub.url)
        assert client.open().json()["hubstate"]["heartbeat"] == 30.0
        assert client.beat(state="training").json()["hubstate"]["heartbeat"] == 30.0
        client.http.close()


# -- what is not offered ---------------------------------------------------------------------------------

REFUSED = [
    ("POST", "/v1/models/m/export", 501),
    ("POST", "/get-export", 501),
    ("POST", "/model-reset", 501),
    ("POST", "/v1/predict/m", 501),
    ("POST", "/v1/auth/auto", 501),
    *[("POST", f"/v1/{shelf}", 501) for shelf in ("projects", "datasets", "users")],
    *[
        (method, f"/v1/{shelf}/x", 404)
        for shelf in ("projects", "datasets", "users")
        for method in ("GET", "PATCH", "DELETE")
    ],
    ("POST", "/v1/datasets/x/upload", 404),
    ("POST", "/v1/projects/x/upload", 404),
]


@pytest.mark.parametrize(("method", "path", "status"), REFUSED)
def test_what_is_not_offered_is_refused_in_words(client: Client, method: str, path: str, status: int) -> None:
    """Always JSON with a sentence that tells why, and the connection goes on."""
    answer = client.http.request(method, f"{client.url}{path}", json={"format": "onnx"}, timeout=30)
    told = answer.json()
    assert (answer.status_code, told["success"]) == (status, False)
    assert told["message"].startswith("this hub ")


@pytest.mark.parametrize("shelf", ["projects", "datasets", "users"])
def test_lists_of_what_is_not_kept_are_empty(client: Client, shelf: str) -> None:
    """A client that walks through its lists finds that they are empty, and not that something failed."""
    told = client.get(f"/v1/{shelf}", params={"limit": 10}).json()
    assert told["data"] == {"results": [], "total": 0, "lastRecordId": None}


def test_without_a_key_nothing_of_it_is_told(data_dir: Path) -> None:
    """Where there are keys, these calls want one like any other."""
    keys.create(data_dir, "mine")
    with running(data_dir) as hub:
        client = Client(hub.url)
        answers = {client.http.request(m, hub.url + path, timeout=30).status_code for m, path, _ in REFUSED}
        assert answers == {401}
        assert client.get("/v1/projects").status_code == 401
        client.http.close()


def test_a_passing_trouble_is_no_wrong_key(data_dir: Path) -> None:
    """While the database fails `/v1/auth` never says false: an old client would forget its key, and a new one reads 503."""
    key = keys.create(data_dir, "mine")
    with running(data_dir) as hub:
        client = Client(hub.url, key)
        with sqlite3.connect(data_dir / "hub.sqlite") as database:
            database.execute("ALTER TABLE keys RENAME TO elsewhere")
        keys_unread = client.post("/v1/auth")
        with sqlite3.connect(data_dir / "hub.sqlite") as database:
            database.execute("ALTER TABLE elsewhere RENAME TO keys")
        database.close()
        assert (keys_unread.status_code, keys_unread.json()["success"]) == (503, True)
        assert client.post("/v1/auth").json()["success"] is True
        client.http.close()


# -- the last row ----------------------------------------------------------------------------------------


def upload(client: Client, model: str, *epochs: int, validated: bool = True) -> None:
    row = {"train/box_loss": 1.0, "metrics/mAP50": 0.5, **({"val/box_loss": 2.0} if validated else {})}
    metrics = {str(epoch): json.dumps(row) for epoch in epochs}
    answer = client.post(f"/v1/models/{model}", {"metrics": metrics, "type": "metrics"})
    assert answer.json()["data"] == {"rows": len(epochs)}


def told(client: Client, model: str) -> list[tuple[int, bool]]:
    return [(row["epoch"], row["final"]) for row in client.metrics(model)]


@pytest.mark.parametrize("last", [5, 3])
def test_the_row_behind_the_last_epoch_is_a_final_evaluation(client: Client, last: int) -> None:
    """An old client sends it like an epoch, after the planned ones (5) or an early stop: it is told, and is no epoch."""
    model = client.foreign()
    upload(client, model, *range(last))
    for _ in range(2):
        upload(client, model, last, validated=False)
    assert told(client, model) == [*((epoch, False) for epoch in range(last)), (last, True)]
    model_told = client.model(model)
    assert (model_told["epoch"], model_told["delivered"], model_told["missing"]) == (last - 1, last + 1, 0)


def test_all_in_one_upload_is_alike(client: Client) -> None:
    """A run that was shorter than the client's interval sends everything at once."""
    model = client.foreign()
    metrics = {str(n): json.dumps({"train/l": 1.0, "val/l": 1.0}) for n in range(3)}
    metrics["3"] = json.dumps({"train/l": 1.0})
    client.post(f"/v1/models/{model}", {"metrics": metrics, "type": "metrics"})
    assert told(client, model) == [(0, False), (1, False), (2, False), (3, True)]


def test_before_its_epoch_it_stays_as_it_came(client: Client) -> None:
    """Nobody could tell by then: it is there once, however often it comes."""
    model = client.foreign()
    upload(client, model, 3, validated=False)
    upload(client, model, 2)
    upload(client, model, 3, validated=False)
    assert told(client, model) == [(2, False), (3, False)]


def test_a_training_without_validation_has_epochs(client: Client) -> None:
    """Rows none of which has the losses of a validation are epochs, up to the planned end."""
    model = client.foreign()
    upload(client, model, *range(6), validated=False)
    assert told(client, model) == [*((epoch, False) for epoch in range(5)), (5, True)]


def test_other_clients_name_their_epochs_as_they_like(client: Client) -> None:
    """Without the names of a training's losses nothing is guessed."""
    model = client.foreign()
    metrics = {str(n): json.dumps({"loss": 1.0}) for n in (1, 5, 6)}
    client.post(f"/v1/models/{model}", {"metrics": metrics, "type": "metrics"})
    assert told(client, model) == [(1, False), (5, False), (6, False)]
    assert client.model(model)["missing"] == 3, "whoever begins with 1 misses no 0"


def test_the_tail_that_an_old_client_forgets_is_missing(client: Client) -> None:
    """Its final file names the last epoch: rows that waited when the client ended, and never came, are known to be missing."""
    model = client.foreign()
    upload(client, model, 0, 1, 2)
    client.foreign_upload(model, b"final", epoch=4, type="final", map=0.5)
    told = client.model(model)
    assert (told["state"], told["missing"], told["summary"]) == (
        "done",
        2,
        "finished, 3 rows here, 2 epochs missing",
    )
    upload(client, model, 3, 4)
    assert client.model(model)["summary"] == "finished, 5 rows here"


def test_one_line_tells_of_each_client(client: Client) -> None:
    """An own client's total is believed, a foreign one's gaps are counted; who sends it is told as well."""
    client.open()
    client.rows([{"epoch": 0, "attempt": 1, "metrics": {"a": 1}}])
    client.beat(state="finalizing", outcome="finished", epoch=2, waiting=3)
    assert client.model()["summary"] == "finished, 3 rows still waiting on the trainer's side, 1 row here"
    client.end(rows=4)
    mine = client.model()
    assert (mine["client"], mine["can_stop"], mine["summary"]) == (
        "hubstate",
        True,
        "finished, delivered 1 of 4",
    )
    model = client.foreign()
    theirs = client.model(model)
    assert (theirs["client"], theirs["can_stop"], theirs["summary"]) == (
        "hub_v1",
        False,
        "not begun yet, 0 rows here",
    )
