"""The events of Ultralytics' Platform callback: taken in any order and number, and what the hub tells and answers then."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_client import Client
from platform_client import STARTED, Callback

from hubstate.clock import VirtualClock
from hubstate.server import keys
from hubstate.server.running import running
from hubstate.server.terms import Terms


@pytest.fixture(name="run")
def _run(client: Client) -> Callback:
    """A run that has started."""
    run = Callback(client)
    run.start()
    return run


def rows(run: Callback, attempt: str = "") -> list[tuple[int, int, bool]]:
    return [(row["attempt"], row["epoch"], row["final"]) for row in run.client.metrics(run.model, attempt)]


def page(run: Callback) -> str:
    return run.client.get(f"/models/{run.model}", headers={"Accept": "text/html"}).text


def stop(run: Callback) -> None:
    run.client.http.post(f"{run.client.url}/models/{run.model}/stop", timeout=30).raise_for_status()


# -- the start -------------------------------------------------------------------------------------------


def test_a_start_is_answered_with_all_that_the_callback_needs(client: Client) -> None:
    """Model, an integer as run, slug and the address of a page that is there; the session is called as the slug."""
    run = Callback(client)
    told = run.start()
    assert told == {
        "received": True,
        "event": "training_started",
        "mode": "remote",
        "modelId": run.model,
        "runId": 1,
        "modelSlug": "train",
        "modelUrl": f"{client.url}/models/{run.model}",
        "cancelled": False,
    }
    assert client.get(f"/models/{run.model}", headers={"Accept": "text/html"}).status_code == 200
    model = run.look()
    shown = {name: model[name] for name in ("name", "project", "state", "outcome", "epochs", "client")}
    assert shown == {
        "name": "train",
        "project": "u/p",
        "state": "session_created",
        "outcome": "running",
        "epochs": 3,
        "client": "platform",
    }
    assert model["config"]["imgsz"] == "640"
    assert (model["batch_size"], model["imgsz"], model["data"], model["is_pretrained"]) == (
        16,
        640,
        "coco8.yaml",
        True,
    )


@pytest.mark.parametrize(
    ("text", "shown"),
    [("-1", -1), ("--1", "--1"), ("\u00b2", "\u00b2"), ("[640, 480]", "[640, 480]"), ("", "")],
)
def test_an_argument_that_is_no_number_stays_a_text(client: Client, text: str, shown: object) -> None:
    """Each argument is sent as a text, also where a number is usual: whatever it is, the training starts."""
    run = Callback(client)
    run.start(trainArgs={"imgsz": text})
    assert run.look()["imgsz"] == shown


def test_the_same_name_again_is_another_model_with_another_slug(client: Client) -> None:
    """Each start of the same project and name makes a model, called train, train-2, train-3; another project begins anew."""
    slugs = [Callback(client).start(device=device)["modelSlug"] for device in ("0", "1", "2")]
    assert slugs == ["train", "train-2", "train-3"]
    assert Callback(client, project="u/other").start()["modelSlug"] == "train"


def test_a_start_that_is_repeated_starts_once(client: Client, clock: VirtualClock) -> None:
    """The callback tries a start whose answer it never saw again, byte for byte: it gets the same model and run."""
    first = Callback(client).start()
    clock.advance(120)
    assert Callback(client).start() == first
    clock.advance(301)
    assert Callback(client).start()["modelId"] != first["modelId"]


def test_a_start_like_one_whose_training_is_under_way_is_another_one(run: Callback) -> None:
    """Once a run has told of an epoch, equal bytes are a second training."""
    run.epoch(0)
    assert Callback(run.client).start()["modelId"] != run.model


def test_a_known_model_gets_its_next_run(run: Callback) -> None:
    """A resumed training is the same model under a new run, and its rows take the place of the older ones from there on."""
    for epoch in range(3):
        run.epoch(epoch, m=1.0)
    again = Callback(run.client)
    told = again.start(run.model)
    assert (told["modelId"], told["runId"], told["modelSlug"]) == (run.model, 2, "train")
    again.epoch(3, m=2.0)
    again.epoch(2, m=2.0)
    assert rows(run) == [(1, 0, False), (1, 1, False), (2, 2, False), (2, 3, False)]
    model = run.look()
    assert [(a["attempt"], a["first_epoch"], a["outcome"]) for a in model["attempts"]] == [
        (1, 0, "unknown"),
        (2, 2, "running"),
    ]
    assert (model["state"], model["epoch"], model["client"]) == ("training", 3, "platform")


def test_a_resumed_start_that_is_repeated_is_one_run(run: Callback) -> None:
    """The same resume twice opens one further run."""
    again = Callback(run.client)
    assert [again.start(run.model)["runId"] for _ in range(2)] == [2, 2]
    assert len(run.look()["attempts"]) == 2


def test_a_model_that_is_not_here_is_answered_404(client: Client) -> None:
    """An unknown id is not found, so that the callback begins a new model; so is one that was deleted."""
    assert Callback(client).say("training_started", STARTED, modelId="mnone").status_code == 404
    assert Callback(client).say("epoch_end", {"epoch": 0}, modelId="mnone").status_code == 404
    run = Callback(client)
    run.start()
    client.http.delete(f"{client.url}/v1/models/{run.model}", timeout=30).raise_for_status()
    answer = run.say("training_started", STARTED, modelId=run.model)
    assert (answer.status_code, answer.json()["error"]) == (404, "not_found")


# -- rows ------------------------------------------------------------------------------------------------


def test_rows_come_in_any_order_and_twice(run: Callback) -> None:
    """Each epoch is there once and in order, with what was measured, of the machine as well; null stays null."""
    for epoch in (1, 0, 2, 1):
        assert run.epoch(epoch, nan=None).status_code == 200
    assert rows(run) == [(1, 0, False), (1, 1, False), (1, 2, False)]
    row = run.client.metrics(run.model)[0]
    assert row["metrics"] == {
        "train/box_loss": 1.5,
        "val/box_loss": 2.5,
        "nan": None,
        "fitness": 0.5,
        "best_fitness": 0.5,
    }
    model = run.look()
    assert (model["delivered"], model["epoch"], model["missing"]) == (3, 2, 0)


def test_numbers_of_model_and_machine_are_of_the_row(run: Callback) -> None:
    """What the first epoch tells of the model is named as HUB v1 names it, what it tells of the machine by its place."""
    system = {
        "cpu": 12.5,
        "disk": [{"mount": "/data", "used_gb": 2.0}, {"mount": "/", "used_gb": 1.0}],
        "gpus": {"0": {"temp": 60}},
        "cuda_version": "12",
    }
    model = {"parameters": 100, "gflops": 6.5, "speedMs": 1.0}
    run.say("epoch_end", {"epoch": 0, "metrics": {"m": 1}, "system": system, "modelInfo": model})
    (row,) = run.client.metrics(run.model)
    assert row["metrics"] == {
        "m": 1,
        "model/parameters": 100,
        "model/GFLOPs": 6.5,
        "model/speed_PyTorch(ms)": 1.0,
        "system/cpu": 12.5,
        "system/disk/data/used_gb": 2.0,
        "system/disk/root/used_gb": 1.0,
        "system/gpus/0/temp": 60,
    }
    assert run.look()["conditions"] == []


@pytest.mark.parametrize("last", [3, 2])
def test_the_final_evaluation_is_marked(run: Callback, last: int) -> None:
    """The row behind the last epoch, planned or stopped early, is `final` and no finished epoch; a repeat of it is one."""
    for epoch in range(last):
        run.epoch(epoch)
    for _ in range(2):
        run.epoch(last, final=True)
    assert rows(run)[-1] == (1, last, True)
    assert len(rows(run, "all")) == last + 1
    assert run.look()["epoch"] == last - 1


def test_rows_after_the_end_are_kept(run: Callback) -> None:
    """What the pool of the callback sends behind `training_complete` is there, and the end stays as it was."""
    run.epoch(0)
    run.epoch(1)
    run.complete()
    run.epoch(2)
    run.epoch(3, final=True)
    assert rows(run) == [(1, 0, False), (1, 1, False), (1, 2, False), (1, 3, True)]
    model = run.look()
    assert (model["state"], model["outcome"], model["epoch"]) == ("done", "finished", 2)
    assert model["summary"] == "finished, 4 rows here"


def test_a_row_that_names_its_run_belongs_to_it(run: Callback) -> None:
    """A client that tells the run of a late row is heard."""
    Callback(run.client).start(run.model)
    run.say("epoch_end", {"epoch": 0, "metrics": {"m": 1}, "runId": 1})
    assert [(row["attempt"], row["epoch"]) for row in run.client.metrics(run.model, "all")] == [(1, 0)]


def test_a_row_that_is_lost_shows_as_a_gap(run: Callback) -> None:
    """The callback announces no total: an epoch that is not here although later ones are is told as missing."""
    run.epoch(0)
    run.epoch(3)
    model = run.look()
    assert (model["missing"], model["summary"]) == (2, "running, 2 rows here, 2 epochs missing")
    assert "Missing" in page(run)
    run.epoch(1)
    run.epoch(2)
    assert (run.look()["missing"], run.look()["summary"]) == (0, "running, 4 rows here")
    assert "Missing" not in page(run)


@pytest.mark.parametrize("epoch", [None, "1", -1, 1.5, True, 2**60])
def test_a_row_of_no_epoch_is_told_and_never_refused(run: Callback, epoch: Any) -> None:
    """The callback tries a row once: what cannot be placed is kept as it came and told on the page."""
    assert run.say("epoch_end", {"epoch": epoch, "metrics": {"m": 1}}).status_code == 200
    assert run.client.metrics(run.model) == []
    assert [(condition["name"]) for condition in run.look()["conditions"]] == ["odd_request"]
    assert [entry["data"]["epoch"] for entry in run.said("epoch_end")] == [epoch]


@pytest.mark.parametrize(
    "data", [None, [], "text", 1, {"metrics": [1, {"a": {"b": [2]}}], "epoch": 0, "system": "x"}]
)
def test_odd_data_harms_nothing(run: Callback, data: Any) -> None:
    """Whatever stands where an object should, every event is answered with JSON and without a fault of the hub."""
    for event in ("epoch_end", "console_output", "training_progress", "system_metrics", "unheard_of"):
        answer = run.say(event, data)
        assert (answer.status_code, answer.json()["received"]) == (200, True)


def test_deep_data_harms_nothing(run: Callback) -> None:
    """Numbers that lie very deep are told as odd, and nothing breaks."""
    deep: Any = 1.0
    for _ in range(100):
        deep = {"a": deep}
    assert run.say("epoch_end", {"epoch": 0, "metrics": deep}).status_code == 200
    assert len(run.client.metrics(run.model)) == 1


# -- states ----------------------------------------------------------------------------------------------


def test_the_state_follows_from_what_is_said(run: Callback) -> None:
    """Opened, training with the first row, and done when its client says that all is over."""
    seen = [run.look()["state"]]
    run.epoch(0)
    seen.append(run.look()["state"])
    run.complete()
    seen.append(run.look()["state"])
    assert seen == ["session_created", "training", "done"]
    model = run.look()
    assert (model["outcome"], model["ended_at"]) == ("finished", model["last_contact"])


def test_a_failure_is_told_with_its_reason(run: Callback) -> None:
    """`training_failed` aborts with the error and its code; a late end changes nothing."""
    run.epoch(0)
    run.say("training_failed", {"error": "CUDA out of memory", "code": "OOM", "instanceId": "i"})
    run.complete()
    model = run.look()
    assert (model["state"], model["outcome"], model["reason"]) == (
        "aborted",
        "failed",
        "CUDA out of memory (OOM)",
    )
    assert model["summary"] == "aborted: CUDA out of memory (OOM), 1 row here"
    assert [entry["event"] for entry in run.said()][-2:] == ["training_failed", "training_complete"]


def test_an_end_may_tell_a_lot(run: Callback) -> None:
    """Curves of a thousand classes are longer than any other body: the end arrives all the same, for whoever may ask."""
    run.complete(validation={"rows": ["x" * 1000] * 9000})
    assert run.look()["state"] == "done"


def test_silence_is_no_end(run: Callback, clock: VirtualClock) -> None:
    """After a crash nothing comes at all: nobody invents an end, and since when nothing was heard is told."""
    run.epoch(0)
    clock.advance(901)
    model = run.look()
    assert (model["state"], model["outcome"]) == ("training", "unknown")
    assert model["summary"].startswith("running, no contact since ")
    run.say("console_output", {"chunkId": 1, "content": "x", "lineCount": 1})
    assert run.look()["outcome"] == "running"


def test_a_wish_to_stop_is_told_until_the_end(run: Callback) -> None:
    """Pressed on the page, it is in the answer to every event until the training is over, and the outcome is `stopped`."""
    assert run.epoch(0).json()["cancelled"] is False
    assert run.look()["can_stop"] is True
    assert "Stop this training" in page(run)
    stop(run)
    answers = [run.epoch(1), run.say("console_output", {"chunkId": 1}), run.say("training_progress")]
    assert [answer.json()["cancelled"] for answer in answers] == [True] * 3
    assert answers[0].json()["action"] == "training_terminated"
    assert run.complete().json()["cancelled"] is False
    assert run.epoch(2, final=True).json()["cancelled"] is False
    assert (run.look()["state"], run.look()["outcome"]) == ("done", "stopped")


def test_a_wish_that_comes_before_the_first_epoch_is_in_the_repeated_start(client: Client) -> None:
    """A start whose answer was lost is told of a wish that came in between."""
    run = Callback(client)
    run.start()
    stop(run)
    assert run.start()["cancelled"] is True


def test_a_wish_that_comes_too_late_stopped_nothing(run: Callback) -> None:
    """A training all of whose epochs are here finished, whoever wished what by then."""
    for epoch in range(3):
        run.epoch(epoch)
    stop(run)
    run.complete()
    assert run.look()["outcome"] == "finished"


def test_a_resumed_training_was_not_wished_to_stop(run: Callback) -> None:
    """The next run of a stopped model trains: the wish was for the run before."""
    stop(run)
    assert Callback(run.client).start(run.model)["cancelled"] is False


# -- what is kept ----------------------------------------------------------------------------------------

EVENTS: list[tuple[str, dict[str, Any]]] = [
    ("console_output", {"chunkId": 2, "content": "secret text", "lineCount": 5, "progress": {}}),
    ("console_output", {"chunkId": 1, "content": "before it", "lineCount": 5, "progress": {}}),
    ("training_progress", {"epoch": 1}),
    ("training_progress", {"epoch": 2}),
    ("system_metrics", {"cpu": 1.0}),
]


def test_each_event_is_kept_once_and_nothing_private(run: Callback, data_dir: Path) -> None:
    """Repeats are none; console text, host, command line, path and git remote are neither told nor in the database."""
    for event, data in EVENTS * 2:
        assert run.say(event, data).status_code == 200
    run.complete()
    assert "What it printed" not in page(run)
    assert [entry["event"] for entry in run.said()] == [
        "training_started",
        "system_metrics",
        "training_progress",
        "training_complete",
    ]
    assert run.look()["epoch"] == 2
    everything = json.dumps([run.said(), run.look()])
    with sqlite3.connect(data_dir / "hub.sqlite") as database:
        everything += "\n".join(database.iterdump())
    database.close()
    assert "secret" not in everything
    assert run.look()["config"]["environment/gitCommit"] == "0123456789ab"


def test_an_owner_may_want_the_rest(data_dir: Path) -> None:
    """Asked for, the console's pieces are kept in their order, and what runs where."""
    with running(data_dir, terms=Terms(console=True, host=True)) as hub:
        client = Client(hub.url)
        run = Callback(client)
        run.start()
        for event, data in EVENTS * 2:
            run.say(event, data)
        assert [entry["data"]["content"] for entry in run.said("console_output")] == [
            "before it",
            "secret text",
        ]
        assert run.look()["config"]["environment/hostname"] == "secret-host"
        assert "before it\nsecret text" in page(run)
        run.say("console_output", {"chunkId": 3, "content": "<script>\x1b[2J\u202e"})
        assert "&lt;script&gt;[2J</pre>" in page(run)
        client.http.close()


def test_an_event_that_nobody_knows_is_kept_and_told(run: Callback) -> None:
    """A newer callback says more: it is taken with a warning, and the page tells."""
    answer = run.say("training_paused", {"why": "lunch"})
    assert (answer.status_code, answer.json()["warning"]) == (200, "this hub does not know this event")
    assert run.said("training_paused")[0]["data"] == {"why": "lunch"}
    assert "training_paused" in run.look()["conditions"][0]["reason"]


def test_a_hard_delete_leaves_nothing_of_it(run: Callback, data_dir: Path) -> None:
    """What the callback said is removed with its model."""
    run.client.http.delete(f"{run.client.url}/v1/models/{run.model}?hard=True", timeout=30).raise_for_status()
    with sqlite3.connect(data_dir / "hub.sqlite") as database:
        left = database.execute("SELECT count(*) FROM said").fetchone()
    database.close()
    assert left == (0,)


# -- who asks, and trouble -------------------------------------------------------------------------------


@pytest.fixture(name="keyed")
def _keyed(data_dir: Path) -> Iterator[tuple[str, str, str]]:
    """A hub with a key of each of two owners: its address and the keys."""
    mine, other = keys.create(data_dir, "mine"), keys.create(data_dir, "other", owner="somebody else")
    with running(data_dir) as hub:
        yield hub.url, mine, other


def test_only_a_wrong_key_is_answered_401(keyed: tuple[str, str, str]) -> None:
    """No key and a wrong one are told so; another owner's key finds no such model, in every call."""
    url, mine, other = keyed
    owner, stranger, nobody = Client(url), Client(url), Client(url)
    owner.http.headers["Authorization"] = f"Bearer {mine}"
    stranger.http.headers["Authorization"] = f"Bearer {other}"
    run = Callback(owner)
    run.start()
    body = {"event": "epoch_end", "data": {"epoch": 0}, "modelId": run.model}
    codes = [
        [
            client.post("/api/webhooks/training/metrics", body).status_code,
            client.post("/api/webhooks/models/upload", {"modelId": run.model, "filename": "best.pt"}).status_code,
            client.get("/api/models/u/p/train").status_code,
            client.get("/api/models/u/p/train/files").status_code,
            client.get(f"/v1/models/{run.model}/said").status_code,
            client.get("/api/account/summary").status_code,
        ]
        for client in (owner, stranger, nobody)
    ]  # fmt: skip
    assert codes == [[200] * 6, [404] * 5 + [200], [401] * 6]
    for client in (owner, stranger, nobody):
        client.http.close()


def test_a_login_is_answered(keyed: tuple[str, str, str]) -> None:
    """`yolo login` asks for a summary of the account: the key is good, and it tells how many models there are."""
    url, mine, _ = keyed
    client = Client(url)
    client.http.headers["Authorization"] = f"Bearer {mine}"
    Callback(client).start()
    told = client.get("/api/account/summary").json()
    assert (told["username"], told["counts"]) == ("default", {"projects": 1, "datasets": 0, "models": 1})
    client.http.close()


def test_an_epoch_that_could_not_be_written_is_written_later(run: Callback, data_dir: Path) -> None:
    """The callback tries a row once: while the database fails it is told so with 503, and the hub tries again for it."""
    with sqlite3.connect(data_dir / "hub.sqlite") as database:
        database.execute("ALTER TABLE rows RENAME TO elsewhere")
    assert [run.epoch(epoch).status_code for epoch in (0, 1)] == [503, 503]
    with sqlite3.connect(data_dir / "hub.sqlite") as database:
        database.execute("ALTER TABLE elsewhere RENAME TO rows")
    database.close()
    assert run.epoch(2).status_code == 200
    assert rows(run) == [(1, 0, False), (1, 1, False), (1, 2, False)]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"event": 1}', b'{"event": "epoch_end", "modelId": 7}'])
def test_what_is_no_event_is_refused_in_json(client: Client, body: bytes) -> None:
    """A body of another shape is the caller's mistake, told as JSON."""
    browser = {"Accept": "text/html"}  # even to one
    url = f"{client.url}/api/webhooks/training/metrics"
    answer = client.http.post(url, data=body, headers=browser, timeout=30)
    assert answer.status_code in {400, 404}
    assert answer.json()["success"] is False
