"""The calls: what HUB v1 clients rely on, and what hubstate says beyond it."""

from __future__ import annotations

import re
import socket
import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from hub_client import Client, row

from hubstate.clock import VirtualClock


def test_auth_tells_that_this_hub_knows_more(client: Client) -> None:
    """`POST /v1/auth` answers JSON with `success`, and `"hubstate": 1`."""
    answer = client.http.post(f"{client.url}/v1/auth", timeout=30)
    assert answer.status_code == 200
    told = answer.json()
    assert (told["success"], told["message"], told["hubstate"]) == (True, "ok", 1)


def test_a_json_body_that_stands_still_is_given_up(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever promises a body and stops sending hears 408 after some time, and holds nothing for ever."""
    client.open()
    monkeypatch.setattr("hubstate.server.shells._PATIENCE", 0.1)
    at = urlsplit(client.url)
    with socket.create_connection((at.hostname, at.port), timeout=30) as connection:
        connection.sendall(b"POST /v1/models/S1 HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n{")
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"error":"stalled"' in answer
    monkeypatch.undo()
    assert client.model()["delivered"] == 0


def test_every_answer_is_small_json_with_a_length(client: Client) -> None:
    """Answers under /v1 are JSON objects with a Content-Length, refusals and unknown calls included."""
    client.open()
    answers = [
        client.get("/v1/models/S1"),
        client.get("/v1/models/none"),
        client.get("/v1/nothing/here"),
        client.get("/v1/auth"),
        client.post("/v1/projects", {}),
        client.http.post(f"{client.url}/v1/models/S1", data=b"{", timeout=30),
        client.http.post(f"{client.url}/v1/models/S1", data=b"[" * 200_000, timeout=30),
        client.http.post(f"{client.url}/v1/models", data=b"[]", timeout=30),
        client.http.post(f"{client.url}/v1/models/S1/upload", data=b"x", timeout=30),
    ]
    codes = [answer.status_code for answer in answers]
    assert codes == [200, 404, 404, 405, 501, 400, 400, 400, 400]
    for answer in answers:
        assert answer.headers["content-type"] == "application/json"
        assert int(answer.headers["content-length"]) == len(answer.content)
        assert isinstance(answer.json(), dict)
    for answer in answers[1:]:
        body = answer.json()
        assert body["success"] is False
        assert body["message"]
        assert body["error"].replace("_", "").isalpha()


def test_a_post_is_never_redirected(client: Client) -> None:
    """A doubled slash is understood, a slash at the end is no such call; old clients lose a redirected POST."""
    doubled = client.http.post(f"{client.url}//v1/auth", allow_redirects=False, timeout=30)
    ended = client.http.post(f"{client.url}/v1/auth/", allow_redirects=False, timeout=30)
    assert (doubled.status_code, ended.status_code) == (200, 404)


def test_a_body_that_is_too_long_is_refused_with_413(client: Client) -> None:
    """JSON of more than 8 MB is refused, the refusal can be read, and the connection serves on."""
    answer = client.http.post(f"{client.url}/v1/models", data=b" " * (9 * 1024 * 1024), timeout=30)
    assert (answer.status_code, answer.json()["error"]) == (413, "too_large")
    assert client.open().status_code == 200


@pytest.mark.parametrize("depth", [190, 250, 980, 100_000])
def test_parts_within_parts_have_an_end(client: Client, depth: int) -> None:
    """What is kept can be shown: far too deep a body is refused in words, wherever it is taken as it comes."""
    deep = "[" * depth + "]" * depth
    client.open("S1")
    bodies = {
        "/v1/models": f'{{"config": {{"x": {deep}}}, "hubstate": {{"id": "S2", "name": "d", "config": {{"x": {deep}}}}}}}',
        "/v1/models/S1/steps": f'{{"steps": [{{"n": 1, "x": {deep}}}]}}',
        "/api/webhooks/training/metrics": f'{{"event": "new", "modelId": "S1", "data": {{"x": {deep}}}}}',
    }
    for path, body in bodies.items():
        answer = client.http.post(client.url + path, data=body, timeout=30)
        assert answer.status_code in ({200} if depth < 200 else {400, 422}), (path, answer.text)
    for name in ("S1", "S2"):
        page = client.get(f"/models/{name}", headers={"Accept": "text/html"})
        assert page.status_code == (200 if depth < 200 or name == "S1" else 404)


def test_an_opening_makes_the_session_under_the_clients_id(client: Client) -> None:
    """The client's id is the model's id, and the answer names the page."""
    answer = client.open("01KABC", epochs=15, project="p", group="g", tags=["a"], config={"lr": 0.05})
    assert answer.json()["data"] == {"id": "01KABC"}
    assert answer.json()["hubstate"] == {
        "stop": None,
        "heartbeat": None,
        "metrics": None,
        "checkpoint": None,
        "url": f"{client.url}/models/01KABC",
    }
    told = client.model("01KABC")
    kept = {name: told[name] for name in ("name", "epochs", "project", "group", "tags", "config", "attempt")}
    assert kept == {
        "name": "digits",
        "epochs": 15,
        "project": "p",
        "group": "g",
        "tags": ["a"],
        "config": {"lr": 0.05},
        "attempt": 1,
    }
    assert (told["state"], told["outcome"]) == ("session_created", "running")


def test_a_repeated_opening_opens_once(client: Client) -> None:
    """The same opening again, with or without its key, changes nothing."""
    client.open(key="k")
    client.beat(state="training", outcome="running", epoch=2)
    before = client.model()
    assert client.open(key="k").headers["Idempotent-Replayed"] == "true"
    assert client.open().status_code == 200
    assert client.model() == before
    assert client.get("/v1/models").json()["data"]["total"] == 1


@pytest.mark.parametrize(
    "bad",
    [
        {"id": "a.b"},
        {"id": ""},
        {"id": "a/b"},
        {"attempt": 0},
        {"first_epoch": -1},
        {"name": 7},
        {"id": None},
    ],
    ids=str,
)
def test_an_opening_that_cannot_be_is_refused(client: Client, bad: dict[str, Any]) -> None:
    """422 says what is wrong with it, and no session is made."""
    told = {"id": "S1", "attempt": 1, "first_epoch": 0, "name": "digits", **bad}
    answer = client.post("/v1/models", {"hubstate": told})
    assert (answer.status_code, answer.json()["error"]) == (422, "invalid")
    assert client.get("/v1/models").json()["data"]["total"] == 0


def test_the_first_answer_comes_again_for_a_repeated_key(client: Client) -> None:
    """A repeated Idempotency-Key changes nothing, and gets the first answer again."""
    client.open()
    first = client.rows([row(0, a=1)], key="r1")
    again = client.rows([row(0, a=1)], key="r1")
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.json() == first.json()
    assert [r["epoch"] for r in client.metrics()] == [0]


@pytest.mark.parametrize("what", ["open", "rows", "end", "steps", "usage", "patch"])
def test_a_key_with_another_body_is_refused(client: Client, what: str) -> None:
    """409 `key_reused` says what to do, and what came first stands; the first body gets its answer again."""
    client.open()

    def say(told: int) -> Any:
        match what:
            case "open":
                return client.open(attempt=2, first_epoch=told, key="k")
            case "rows":
                return client.rows([row(told, a=told)], key="k")
            case "end":
                return client.end(rows=told, key="k")
            case "steps":
                return client.post("/v1/models/S1/steps", {"steps": [{"n": told}]}, "k")
            case "usage":
                return client.post("/v1/models/S1/usage", {"what": f"use{told}"}, "k")
            case _:
                body, headers = {"config": {"a": told}}, {"Idempotency-Key": "k"}
                return client.http.patch(f"{client.url}/v1/models/S1", json=body, headers=headers, timeout=30)

    first = say(1)
    assert first.status_code == 200, first.text
    held = client.model(), client.metrics()
    refused = say(2)
    assert (refused.status_code, refused.json()["error"]) == (409, "key_reused")
    assert "Begin a new session" in refused.json()["message"]
    assert len(refused.json()["message"]) <= 300, "a client shows no longer one"
    assert refused.json()["hubstate"]["url"].endswith("/models/S1")
    assert (client.model(), client.metrics()) == held
    assert say(1).json() == first.json()


def test_a_key_that_was_answered_before_digests_were_kept_is_repeated(client: Client, data_dir: Path) -> None:
    """An answer of a hub of version 1 says nothing of its body: it comes again, as it did there."""
    client.open()
    first = client.rows([row(0, a=1)], key="k"), client.upload(b"one", key="u")
    with sqlite3.connect(data_dir / "hub.sqlite") as database:
        database.execute("UPDATE answers SET digest = NULL")
    database.close()
    again = client.rows([row(1, a=1)], key="k"), client.upload(b"two", key="u")
    assert [answer.json() for answer in again] == [answer.json() for answer in first]


def test_a_refusal_is_not_remembered(client: Client) -> None:
    """What was refused under a key can be sent again under it once the cause is gone."""
    assert client.rows([row(0, a=1)], key="r1").status_code == 404
    client.open()
    assert client.rows([row(0, a=1)], key="r1").status_code == 200
    assert len(client.metrics()) == 1


def test_a_key_has_at_most_200_characters(client: Client) -> None:
    """A longer Idempotency-Key is refused, one of 200 is good."""
    assert client.open(key="k" * 201).status_code == 400
    assert client.open(key="k" * 200).status_code == 200


def test_an_unknown_session_is_answered_404_everywhere(client: Client) -> None:
    """Every call about a session that is not here is 404 `not_found`."""
    answers = [
        client.get("/v1/models/S1"),
        client.get("/v1/models/S1/metrics"),
        client.rows([row(0, a=1)]),
        client.beat(),
        client.beat(state="training"),
        client.end(),
        client.upload(b"x"),
        client.post("/v1/models/S1/steps", {"steps": []}),
        client.post("/v1/models/S1/usage", {"what": "val", "attempt": 1}),
        client.http.patch(f"{client.url}/v1/models/S1", json={}, timeout=30),
        client.http.delete(f"{client.url}/v1/models/S1?hard=True", timeout=30),
    ]
    assert {(answer.status_code, answer.json()["error"]) for answer in answers} == {(404, "not_found")}


def test_the_state_follows_what_the_client_says(client: Client) -> None:
    """Own clients announce state and outcome: opening, first row, heartbeat, end."""
    seen = []

    def look() -> None:
        told = client.model()
        seen.append((told["state"], told["outcome"], told["epoch"], told["waiting"]))

    client.open(epochs=3)
    look()
    client.rows([row(0, a=1)])
    look()
    client.beat(state="finalizing", outcome="finished", epoch=2, waiting=4)
    look()
    client.end(rows=3)
    look()
    assert seen == [
        ("session_created", "running", None, None),
        ("training", "running", 0, None),
        ("finalizing", "finished", 2, 4),
        ("done", "finished", 2, 0),
    ]
    assert client.model()["rows_told"] == 3


def test_an_ended_session_stays_ended(client: Client, clock: VirtualClock) -> None:
    """Heartbeats, rows, files and a second end after the end are taken and revive nothing."""
    client.open()
    client.end(state="aborted", outcome="failed", reason="RuntimeError: boom", rows=1)
    clock.advance(10)
    assert client.beat(state="training", outcome="running", epoch=3).status_code == 200
    assert client.rows([row(0, a=1)]).status_code == 200
    assert client.upload(b"late").status_code == 200
    assert client.end(state="done", outcome="finished").status_code == 200
    told = client.model()
    assert (told["state"], told["outcome"], told["reason"]) == ("aborted", "failed", "RuntimeError: boom")
    assert told["ended_at"] == clock.wall() - 10
    assert (len(client.metrics()), len(told["checkpoints"])) == (1, 1)


def test_a_heartbeat_that_comes_late_takes_no_epoch_back(client: Client, clock: VirtualClock) -> None:
    """It tells of an epoch that is over by then: the last epoch and its time stay, what waits is as it tells."""
    client.open()
    client.rows([row(5, loss=1.0)])
    at = clock.wall()
    clock.advance(10)
    client.beat(state="training", outcome="running", epoch=3, waiting=2)
    told = client.model()
    assert (told["epoch"], told["epoch_at"], told["waiting"]) == (5, at, 2)


def test_a_heartbeat_never_ends_a_session(client: Client) -> None:
    """Only `end` ends an attempt; a heartbeat that claims a terminal state is a sign of life and no more."""
    client.open()
    client.beat(state="done", outcome="finished")
    assert (client.model()["state"], client.model()["outcome"]) == ("session_created", "running")


def test_the_next_attempt_begins_anew(client: Client) -> None:
    """A higher attempt opens the session again; what the older one says late stays with the older one."""
    client.open()
    client.end(state="aborted", outcome="interrupted", reason="Ctrl-C")
    client.open(attempt=2, first_epoch=4)
    client.beat(attempt=1, state="training", outcome="failed", epoch=99)
    client.end(attempt=1, state="done", outcome="finished")
    told = client.model()
    assert (told["state"], told["outcome"], told["reason"], told["attempt"]) == (
        "session_created",
        "running",
        "",
        2,
    )
    assert (told["epoch"], told["ended_at"]) == (3, None)
    attempts = [(a["attempt"], a["state"], a["outcome"], a["first_epoch"]) for a in told["attempts"]]
    assert attempts == [(1, "aborted", "interrupted", 0), (2, "session_created", "running", 4)]


def test_the_next_attempt_is_not_measured_by_the_last_ones_rows(client: Client) -> None:
    """How many rows there are was said of the attempt that ended: nobody reads "delivered 3 of 2" while the next trains."""
    client.open()
    client.rows([row(0, a=1), row(1, a=1)])
    client.end(state="aborted", outcome="failed", reason="boom", rows=2)
    assert client.model()["summary"] == "aborted: boom, delivered 2 of 2"
    client.open(attempt=2, first_epoch=2)
    client.rows([{**row(2, a=1), "attempt": 2}])
    told = client.model()
    assert (told["summary"], told["rows_told"], told["waiting"]) == ("running, 3 rows here", None, None)
    client.end(attempt=2, rows=3)
    assert client.model()["summary"] == "finished, delivered 3 of 3"


@pytest.mark.promise("C11")
def test_an_attempt_without_a_last_word_is_unknown_once_the_next_began(client: Client) -> None:
    """What became of an attempt whose process died is told as unknown, neither as running nor as failed."""
    client.open()
    client.beat(state="training", outcome="running")
    assert [a["outcome"] for a in client.model()["attempts"]] == ["running"]
    client.open(attempt=2)
    attempts = [(a["state"], a["outcome"]) for a in client.model()["attempts"]]
    assert attempts == [("training", "unknown"), ("session_created", "running")]


def test_a_late_opening_of_an_older_attempt_changes_nothing_but_its_own_line(client: Client) -> None:
    """An opening that arrives after that of a later attempt is remembered, and the later one stays current."""
    client.open(attempt=2, first_epoch=4)
    client.open(attempt=1, name="old name")
    told = client.model()
    assert (told["attempt"], told["name"]) == (2, "digits")
    assert [a["attempt"] for a in told["attempts"]] == [1, 2]


@pytest.mark.promise("C11")
def test_silence_is_told_and_never_called_death(client: Client, clock: VirtualClock) -> None:
    """Three heartbeats without a word: the outcome is unknown, the state stays, and a word ends it."""
    client.open()
    client.beat(state="training", outcome="running")
    at = clock.wall()
    clock.advance(900)
    assert client.model()["outcome"] == "running"
    clock.advance(1)
    told = client.model()
    assert (told["state"], told["outcome"], told["last_contact"]) == ("training", "unknown", at)
    assert [(c["name"], c["since"]) for c in told["conditions"]] == [("no_contact", at)]
    client.beat(state="training", outcome="running")
    assert client.model()["outcome"] == "running"
    assert "no_contact" not in [condition["name"] for condition in client.model()["conditions"]]


@pytest.mark.promise("D19")
@pytest.mark.parametrize("by", ["rows", "heartbeats"])
def test_a_training_that_stands_still_is_told(client: Client, clock: VirtualClock, by: str) -> None:
    """One that gives signs of life and ends no epoch is alive, without an epoch since T; a further one ends that."""

    def tell(epoch: int) -> None:
        if by == "rows":
            client.rows([row(epoch, loss=1.0)])
        client.beat(state="training", outcome="running", epoch=epoch)

    client.open()
    clock.advance(10)
    tell(4)
    at = clock.wall()
    for _ in range(3):
        clock.advance(300)
        client.beat(state="training", outcome="running", epoch=4)
    assert (client.model()["epoch_at"], client.model()["conditions"]) == (at, [])
    clock.advance(1)
    told = client.model()
    assert (told["state"], told["outcome"], told["last_contact"]) == ("training", "running", at + 900)
    assert [(c["name"], c["since"]) for c in told["conditions"]] == [("no_epoch", at)]
    page = client.get("/models/S1", headers={"Accept": "text/html"}).text
    assert "no epoch" in page
    assert "15 min ago" in page
    tell(5)
    assert (client.model()["epoch_at"], client.model()["conditions"]) == (clock.wall(), [])


@pytest.mark.promise("D19")
def test_a_first_epoch_that_does_not_end_is_told(client: Client, clock: VirtualClock) -> None:
    """While an attempt has no epoch yet, it stands still since it was opened; before training and after it, never."""
    client.open()
    client.rows([row(0, loss=1.0)])
    clock.advance(5000)
    client.open(attempt=2, first_epoch=1)
    opened = clock.wall()
    clock.advance(1000)
    client.beat(attempt=2, state="timing", outcome="running", epoch=0)
    assert client.model()["conditions"] == []
    client.beat(attempt=2, state="training", outcome="running", epoch=0)
    assert [(c["name"], c["since"]) for c in client.model()["conditions"]] == [("no_epoch", opened)]
    client.beat(attempt=2, state="finalizing", outcome="finished", epoch=0)
    assert client.model()["conditions"] == []


def test_silence_after_the_end_means_nothing(client: Client, clock: VirtualClock) -> None:
    """A session that ended is not missed."""
    client.open()
    client.end()
    clock.advance(10_000)
    assert (client.model()["outcome"], client.model()["conditions"]) == ("finished", [])


def test_a_wish_to_stop_is_in_every_answer_until_the_next_attempt(client: Client) -> None:
    """Once asked for on the page, every answer about the session carries it, a refusal of its content included."""
    client.open()
    assert (
        client.http.post(f"{client.url}/models/S1/stop", allow_redirects=False, timeout=30).status_code == 303
    )
    answers = [
        client.rows([row(0, a=1)]),
        client.beat(state="training"),
        client.upload(b"x"),
        client.upload(b"x", sha256="0" * 64),
        client.post("/v1/models/S1/steps", {"steps": []}),
        client.post("/v1/models/S1/usage", {"what": "val"}),
        client.get("/v1/models/S1"),
        client.get("/v1/models/S1/metrics"),
        client.open(),
        client.end(),
    ]
    assert {answer.json()["hubstate"]["stop"] for answer in answers} == {"asked for on the hub's page"}
    assert client.open(attempt=2).json()["hubstate"]["stop"] is None


def test_steps_and_usage_are_remembered_once(client: Client) -> None:
    """Journal lines are known by their number, a repeat is none; usage is counted per key."""
    client.open()
    steps = [
        {"n": n, "event": {"event": "tick", "at": 1.0}, "from": "training", "to": "training"} for n in (1, 2)
    ]
    assert client.post("/v1/models/S1/steps", {"steps": steps}).json()["data"] == {"steps": 2}
    assert client.post("/v1/models/S1/steps", {"steps": steps[1:]}).status_code == 200
    assert client.post("/v1/models/S1/steps", {"steps": [{"event": {}}]}).status_code == 422
    page = client.get("/models/S1").text
    assert page.count("<td><bdi>tick</bdi></td>") == 2
    for _ in range(2):
        client.post("/v1/models/S1/usage", {"what": "val", "attempt": 1}, key="u1")
    assert [(use["what"], use["attempt"]) for use in client.model()["usage"]] == [("val", 1)]


# -- HUB v1 ----------------------------------------------------------------------------------------------


def test_get_model_tells_an_old_client_all_it_acts_upon(client: Client) -> None:
    """The fields of a new pretrained model, `train_args` always with `data` among them."""
    told = client.model(client.foreign())
    assert "." not in told["id"]
    acted_upon = (
        "status", "cfg", "data", "is_pretrained", "is_custom", "has_last_weights", "has_best_weights", "resume",
        "weights", "train_args", "batch_size", "epochs", "imgsz", "patience", "device", "cache",
    )  # fmt: skip
    assert {name: told[name] for name in acted_upon} == {
        "status": "new",
        "cfg": "yolo11n.yaml",
        "data": "coco8.yaml",
        "is_pretrained": True,
        "is_custom": False,
        "has_last_weights": False,
        "has_best_weights": False,
        "resume": None,
        "weights": "yolo11n.pt",
        "train_args": {
            "data": "coco8.yaml", "batch": 16, "epochs": 5, "imgsz": 640, "patience": 100, "device": "None",
        },
        "batch_size": 16,
        "epochs": 5,
        "imgsz": 640,
        "patience": 100,
        "device": "None",
        "cache": None,
    }  # fmt: skip
    bare = client.post("/v1/models", {}).json()["data"]["id"]
    assert client.model(bare)["train_args"] == {"data": ""}


@pytest.mark.parametrize(
    "body",
    [
        {"config": 7, "dataset": [], "lineage": "x", "meta": None},
        {"meta": {"name": 7}, "config": {"epochs": "x"}},
    ],
    ids=["parts", "values"],
)
def test_an_odd_create_body_makes_a_session_all_the_same(client: Client, body: dict[str, Any]) -> None:
    """A refused create aborts the user's training: what cannot be read is left out."""
    answer = client.post("/v1/models", body)
    assert answer.status_code == 200
    told = client.model(answer.json()["data"]["id"])
    assert told["name"] == told["id"]
    assert client.get(f"/models/{told['id']}").status_code == 200


def test_two_creates_are_two_models(client: Client) -> None:
    """A HUB v1 create has no key: each makes a model of its own."""
    assert client.foreign() != client.foreign()


def test_an_old_clients_heartbeat_is_always_answered_with_an_agent_id(client: Client) -> None:
    """`data.agentId` is text in every answer, and stays the same for one client, also after the end."""
    model = client.foreign()
    first = client.beat(model).json()["data"]["agentId"]
    body = {"agent": "x", "agentId": first}
    second = client.post(f"/v1/agent/heartbeat/models/{model}", body).json()["data"]["agentId"]
    client.foreign_upload(model, b"x", epoch=4, type="final", map=0.5)
    third = client.beat(model).json()["data"]["agentId"]
    assert isinstance(first, str)
    assert first == second == third


def test_an_old_client_trains_until_its_final_checkpoint_is_here(client: Client) -> None:
    """`training` from the first sign of life, `trained` and `done` only by the final upload, and no beat revives."""
    model = client.foreign()
    client.beat(model)
    assert (client.model(model)["state"], client.model(model)["status"]) == ("training", "new")
    client.post(f"/v1/models/{model}", {"metrics": {"0": '{"loss": 1}'}, "type": "metrics"})
    client.foreign_upload(model, b"last", epoch=0, type="epoch", isBest="True")
    told = client.model(model)
    assert (told["state"], told["outcome"], told["status"]) == ("training", "running", "training")
    client.foreign_upload(model, b"final", epoch=4, type="final", map=0.5)
    client.beat(model)
    told = client.model(model)
    assert (told["state"], told["outcome"], told["status"]) == ("done", "finished", "trained")


def test_patch_renames_and_merges(client: Client) -> None:
    """`PATCH` with `meta.name` renames the model; other parts are merged into what was sent before."""
    model = client.foreign()
    changes = {"meta": {"name": "better"}, "config": {"patience": 7}, "odd": 1}
    answer = client.http.patch(f"{client.url}/v1/models/{model}", json=changes, timeout=30)
    assert answer.status_code == 200
    told = client.model(model)
    assert (told["name"], told["meta"], told["patience"], told["batch_size"]) == (
        "better",
        {"name": "better"},
        7,
        16,
    )


def test_a_soft_delete_hides_and_a_new_attempt_brings_back(client: Client) -> None:
    """`hard=False` hides a session from every call; training that goes on is not thrown away."""
    client.open()
    client.rows([row(0, a=1)])
    assert client.http.delete(f"{client.url}/v1/models/S1?hard=False", timeout=30).status_code == 200
    assert client.get("/v1/models/S1").status_code == 404
    assert client.get("/v1/models").json()["data"]["total"] == 0
    client.open(attempt=2, first_epoch=1)
    assert [r["metrics"] for r in client.metrics()] == [{"a": 1}]


def test_a_hard_delete_removes_everything(client: Client, data_dir: Any) -> None:
    """`hard=True` removes rows, files and remembered answers: the same session can be sent anew."""
    client.open(key="o")
    client.rows([row(0, a=1)], key="r")
    client.upload(b"x", key="u")
    assert client.http.delete(f"{client.url}/v1/models/S1?hard=True", timeout=30).status_code == 200
    assert list((data_dir / "files").iterdir()) == []
    assert client.get("/v1/models/S1").status_code == 404
    for answer in (client.open(key="o"), client.rows([row(0, a=1)], key="r"), client.upload(b"x", key="u")):
        assert (answer.status_code, answer.headers.get("Idempotent-Replayed")) == (200, None)
    assert (len(client.metrics()), len(client.model()["checkpoints"])) == (1, 1)


def page(client: Client, **query: Any) -> dict[str, Any]:
    answer: requests.Response = client.get("/v1/models", params=query)
    assert answer.status_code == 200
    data: dict[str, Any] = answer.json()["data"]
    return data


def test_the_list_comes_in_pages_newest_first(client: Client, clock: VirtualClock) -> None:
    """Pages of `limit`; `lastRecordId` asks for the next one and is null after the last; `total` counts all."""
    for n in range(5):
        client.open(f"S{n}", name=f"run {n}")
        clock.advance(0 if n == 1 else 1)
    seen, last = [], None
    for size in (2, 2, 1):
        told = page(client, limit=2, **({"last_doc_id": last} if last else {}))
        assert (len(told["results"]), told["total"]) == (size, 5)
        seen += [model["id"] for model in told["results"]]
        last = told["lastRecordId"]
    assert (seen, last) == (["S4", "S3", "S2", "S1", "S0"], None)


def test_the_list_can_be_searched_and_survives_odd_limits(client: Client) -> None:
    """`query` looks into names, literally; an odd `limit` or `last_doc_id` is no error; nothing is public."""
    client.open("S1", name="100% of it")
    client.open("S2", name="other")
    assert [model["id"] for model in page(client, query="0%")["results"]] == ["S1"]
    assert [page(client, limit=odd)["total"] for odd in ("0", "-1", "x", "9" * 12, "")] == [2] * 5
    assert page(client, last_doc_id="gone")["results"] == []
    assert (page(client, public="True")["total"], page(client, public="False")["total"]) == (0, 2)


def test_each_short_word_of_a_refusal_is_in_the_documents() -> None:
    """Whoever meets the word in `error` finds what it means, with its status, in docs/hub.md."""
    root = Path(__file__).parents[2]
    rooms = root / "hubstate" / "server"  # a page's refusals are sentences
    code = "".join(path.read_text() for path in (*rooms.glob("*.py"), *rooms.glob("platform/*.py")))
    told = {(status, short) for status, short in re.findall(r'Problem\(\s*(\d{3}),\s*"(\w+)"', code)}
    assert len(told) > 25
    table = (root / "docs" / "hub.md").read_text().split("| status |")[1].split("\n\n")[0]
    told_there = {
        (status, short)
        for line in table.splitlines()[2:]
        for status in re.findall(r"\d{3}", line.split("|")[1])
        for short in re.findall(r"`(\w+)`", line.split("|")[2])
    }
    assert told - told_there == set()


def test_the_calls_are_described(client: Client) -> None:
    """/openapi.json names the calls, and /docs shows them; no page loads a script from elsewhere."""
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/v1/auth", "/v1/models", "/v1/models/{model}/upload", "/v1/models/{model}/end"} <= set(paths)
    assert (client.get("/docs").status_code, client.get("/redoc").status_code) == (200, 404)
    assert "://" not in client.get("/docs").headers["Content-Security-Policy"]
