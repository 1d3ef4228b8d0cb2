"""Ultralytics' own clients, unmodified, against this hub: the callbacks of the old HUB, and the Platform callback.

hubstate is in none of these trainings. What they send is their own; the hub has to take it as it comes, to hand the weights
out again, and to let a training go on where it broke off.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from children import PYTHON, script
from guides import example

from hubstate.server import keys
from hubstate.server.running import running
from hubstate.server.terms import Terms

pytestmark = pytest.mark.trainers

HERE = Path(__file__).parent
BESIDE = HERE.parents[2] / ".venv-trainers"
#: A training that has not ended by then hangs (seconds).
HANGS = 600
#: The first release of the last line with nine callbacks, and the last one with any.
HUB_RELEASES = ["8.3.250", "8.4.114"]

#: What is saved and downloaded lies below the working directory.
PLACES = {"runs_dir": "runs", "weights_dir": "weights"}
#: Pictures, and a model that can be trained in a second.
DATA = example("ultralytics").partition("model = YOLO")[0].replace(
    "from hubstate.trainers.ultralytics import attach\n", ""
)  # fmt: skip
#: The client of the old HUB sends rows at most every 3 s and files every 900 s: users may change its limits.
NO_LIMITS = """
def at_once(trainer):
    trainer.hub_session.rate_limits.update(metrics=0, ckpt=0)

model.add_callback("on_pretrain_routine_end", at_once)
"""
#: So does the Platform callback with files.
FILES_AT_ONCE = """
def at_once(trainer):
    trainer.platform["last_upload"] = 0

model.add_callback("on_train_epoch_end", at_once)
"""
#: What these clients send leaves in threads: killed before it has come there would be nothing to go on from.
KILL = """
import os, signal, threading
import requests

def here(model):
    told = requests.get("{url}/v1/models/" + model, headers={{"x-api-key": "{key}"}}, timeout=30).json()["data"]
    return told["epoch"] == 1 and (told["has_last_weights"] or told["client"] == "platform")

def kill(trainer):
    if trainer.epoch == 2:
        while not here({model}):
            threading.Event().wait(0.1)
        os.kill(os.getpid(), signal.SIGKILL)

model.add_callback("on_train_epoch_start", kill)
"""
TRAIN = 'model.train(data="squares.yaml", epochs={epochs}, imgsz=64, batch=8, device="cpu", workers=0, plots=False{more})\n'


class Hub:
    """A hub with a key, and the processes that train against it."""

    def __init__(self, url: str, key: str) -> None:
        self.url = url
        self.key = key
        self.http = requests.Session()
        self.http.trust_env = False
        self.http.headers["x-api-key"] = key

    def get(self, path: str) -> Any:
        answer = self.http.get(self.url + path, timeout=30)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    def made(self, **body: Any) -> str:
        """The id of a new model that nobody trains yet."""
        answer = self.http.post(f"{self.url}/v1/models", json=body, timeout=30)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["data"]["id"])

    def only_model(self) -> dict[str, Any]:
        """The only session at the hub."""
        (found,) = self.get("/v1/models?limit=10")["results"]
        model: dict[str, Any] = self.get(f"/v1/models/{found['id']}")
        return model

    def rows(self, model: dict[str, Any]) -> list[tuple[int, int, bool]]:
        found = self.get(f"/v1/models/{model['id']}/metrics")
        return [(row["attempt"], row["epoch"], row["final"]) for row in found]

    def files(self, model: dict[str, Any]) -> dict[str, bytes]:
        """The bytes of each kind, fetched as the clients do it: without a key."""
        return {file["kind"]: requests.get(file["url"], timeout=60).content for file in model["checkpoints"]}


def ended(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """A command that came to its end, in the environment of a user: under pytest the Platform callback is off."""
    hidden = ("PYTEST_", "GITHUB_", "RUNNER_")
    world = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    return subprocess.run(
        list(map(str, command)),
        env=world,
        capture_output=True,
        text=True,
        check=False,
        timeout=HANGS,
    )


def trained(*parts: str, code: int = 0) -> str:
    """What a script of these parts said until it came to its end with that exit code."""
    process = ended(PYTHON, script("\n".join(parts)))
    said = process.stdout + process.stderr
    assert process.returncode == code, said
    return said


def loaded(address: str) -> bytes:
    """The weights that Ultralytics loads for an address."""
    code = f"from ultralytics import YOLO\nprint('LOADED', YOLO({address!r}).ckpt_path)\n"
    return Path(trained(code).split("LOADED ", 1)[1].splitlines()[0].strip()).read_bytes()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with settings of its own, where nothing but this machine is asked."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path / "settings"))
    (tmp_path / "settings").mkdir()
    monkeypatch.setenv("YOLO_OFFLINE", "true")
    monkeypatch.setenv("PYTHONPATH", str(HERE / "torchvision_stub"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


@pytest.fixture(name="hub")
def _hub(place: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Hub]:
    """A hub, and an environment in which all of these clients find it."""
    key = keys.create(place / "hub", "trainer")
    with running(place / "hub", terms=getattr(request, "param", Terms())) as server:
        for name in ("ULTRALYTICS_HUB_API", "ULTRALYTICS_HUB_WEB"):
            monkeypatch.setenv(name, server.url)
        monkeypatch.setenv("ULTRALYTICS_PLATFORM_URL", server.url)
        hub = Hub(server.url, key)
        yield hub
        hub.http.close()


# -- the callbacks of the old HUB ------------------------------------------------------------------------


@pytest.fixture(params=HUB_RELEASES)
def old(request: pytest.FixtureRequest, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> str:
    """A release with callbacks of the old HUB, logged in."""
    release = str(request.param)
    path = os.pathsep.join([str(BESIDE / f"ultralytics-{release}"), str(HERE / "torchvision_stub")])
    monkeypatch.setenv("PYTHONPATH", path)
    # 8.4.114 takes what lies below this address for a Platform's, and would not fetch weights from there.
    monkeypatch.delenv("ULTRALYTICS_PLATFORM_URL")
    login = f"from ultralytics import settings\nsettings.update({{'api_key': {hub.key!r}, 'hub': True, **{PLACES}}})\n"
    check = f"import ultralytics\nassert ultralytics.__version__ == {release!r}\n"
    trained(login, check)
    return release


def test_a_training_of_the_old_hub_arrives(hub: Hub, old: str) -> None:
    """Every epoch and the final evaluation, the best weights byte for byte, and the model is trained."""
    trained(DATA, 'model = YOLO("yolo11n.yaml")', NO_LIMITS, TRAIN.format(epochs=3, more=""))
    model = hub.only_model()
    assert (model["client"], model["state"], model["outcome"], model["status"]) == (
        "hub_v1",
        "done",
        "finished",
        "trained",
    )
    # The older one counts the final evaluation under the last epoch, the newer one behind it.
    final = 2 if old == HUB_RELEASES[0] else 3
    assert hub.rows(model) == [(1, 0, False), (1, 1, False), (1, 2, False), (1, final, True)]
    weights = Path("runs/detect/train/weights")
    assert hub.files(model)["final"] == (weights / "best.pt").read_bytes()
    assert (model["missing"], model["summary"]) == (0, "finished, 4 rows here")
    assert model["conditions"] == []


def test_a_killed_training_goes_on_from_the_address_of_its_model(hub: Hub, old: str) -> None:
    """Killed in its third epoch, it is resumed by nothing but the address, comes to its end, and its best weights load."""
    kill = KILL.format(url=hub.url, key=hub.key, model="trainer.hub_session.model.id")
    train = TRAIN.format(epochs=4, more="")
    trained(DATA, 'model = YOLO("yolo11n.yaml")', NO_LIMITS, kill, train, code=-signal.SIGKILL)
    model = hub.only_model()
    assert (model["state"], model["has_last_weights"], model["status"]) == ("training", True, "training")

    address = f"{hub.url}/models/{model['id']}"
    Path("runs").rename("runs-before")
    trained("from ultralytics import YOLO", f"model = YOLO({address!r})", NO_LIMITS, "model.train()")
    model = hub.only_model()
    assert (model["state"], model["status"]) == ("done", "trained")
    epochs = [epoch for _, epoch, final in hub.rows(model) if not final]
    assert epochs == [0, 1, 2, 3]

    assert loaded(address) == hub.files(model)["final"]


def test_a_model_that_was_made_at_the_hub_is_trained_from_its_address(hub: Hub, old: str) -> None:
    """A new model without any weights: architecture, data and arguments come from the hub alone."""
    trained(DATA)
    made = hub.made(
        config={"batchSize": 8, "epochs": 2, "imageSize": 64, "device": "cpu"},
        dataset={"name": str(Path("squares.yaml").absolute())},
        lineage={"architecture": {"name": "yolo11n"}, "parent": {}},
        meta={"name": "made here"},
    )
    code = f"from ultralytics import YOLO\nmodel = YOLO('{hub.url}/models/{made}')\n"
    trained(code, NO_LIMITS, "model.train(workers=0, plots=False)")
    model = hub.only_model()
    assert (model["id"], model["status"], model["name"]) == (made, "trained", "made here")
    assert [epoch for _, epoch, final in hub.rows(model) if not final] == [0, 1]


#: Weights that no training begins with by chance, and a look whether one does.
BEGIN = """
import torch
from ultralytics import YOLO

model = YOLO("yolo11n.yaml")
torch.nn.init.constant_(model.model.model[0].conv.weight, 0.125)
model.save("begin.pt")
"""
LOOK = """
def look(trainer):
    print("BEGAN WITH", trainer.model.model[0].conv.weight.unique().tolist())

model.add_callback("on_pretrain_routine_end", look)
"""


@pytest.mark.parametrize("where", ["here", "at the hub"])
def test_a_model_that_was_made_with_a_parent_begins_with_its_weights(hub: Hub, old: str, where: str) -> None:
    """Weights that the hub names, a file of the client's own or those of another model at the hub, are what it begins with."""
    trained(DATA, BEGIN)
    parent = "begin.pt"
    if where == "at the hub":
        other = hub.made(meta={"name": "other"})
        sent = {"best.pt": Path("begin.pt").read_bytes()}
        told = {"epoch": "0", "type": "final", "map": "0.5"}
        hub.http.post(
            f"{hub.url}/v1/models/{other}/upload", files=sent, data=told, timeout=30
        ).raise_for_status()
        parent = hub.get(f"/v1/models/{other}")["weights"]
        Path("begin.pt").unlink()
    made = hub.made(
        config={"batchSize": 8, "epochs": 1, "imageSize": 64, "device": "cpu"},
        dataset={"name": str(Path("squares.yaml").absolute())},
        lineage={"architecture": {"name": "yolo11n"}, "parent": {"name": parent}},
        meta={"name": "made of another"},
    )
    assert hub.get(f"/v1/models/{made}")["is_pretrained"] is True
    code = f"from ultralytics import YOLO\nmodel = YOLO('{hub.url}/models/{made}')\n"
    printed = trained(code, NO_LIMITS, LOOK, "model.train(workers=0, plots=False)")
    assert "BEGAN WITH [0.125]" in printed
    model = hub.get(f"/v1/models/{made}")
    assert (model["status"], model["missing"]) == ("trained", 0)
    assert hub.files(model)["final"] == Path("runs/detect/train/weights/best.pt").read_bytes()


# -- the Platform callback -------------------------------------------------------------------------------


@pytest.fixture(name="new")
def _new(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The hub, for a release with the Platform callback."""
    monkeypatch.setenv("ULTRALYTICS_API_KEY", hub.key)
    trained(f"from ultralytics import settings\nsettings.update({PLACES})\n")
    return hub


PROJECT = ', project="me/shapes"'


def folder() -> Path:
    """Where the newest training was saved."""
    return max(Path().rglob("platform_model_id.txt"), key=lambda path: path.stat().st_mtime).parent


@pytest.mark.parametrize("hub", [Terms(console=True)], indirect=True)
def test_the_platform_callback_tells_everything(new: Hub) -> None:
    """All of its events and files: rows, the final evaluation, periodic and final weights, console; and tools find them."""
    train = TRAIN.format(epochs=3, more=PROJECT)
    printed = trained(DATA, 'model = YOLO("yolo11n.yaml")', FILES_AT_ONCE, train)
    model = new.only_model()
    told = {name: model[name] for name in ("client", "project", "name", "state", "outcome", "missing")}
    assert told == {
        "client": "platform",
        "project": "me/shapes",
        "name": "train",
        "state": "done",
        "outcome": "finished",
        "missing": 0,
    }, printed
    assert model["url"] in printed
    assert new.rows(model) == [(1, 0, False), (1, 1, False), (1, 2, False), (1, 3, True)]
    assert new.files(model)["final"] == (folder() / "weights" / "best.pt").read_bytes()
    said = new.get(f"/v1/models/{model['id']}/said")
    names = [entry["event"] for entry in said]
    assert {"training_started", "console_output", "checkpoint_saved", "training_complete"} == set(names)
    assert names.count("checkpoint_saved") > 1, "a periodic one, and the last"
    assert "squares" in "".join(e["data"]["content"] for e in said if e["event"] == "console_output")
    assert "environment/hostname" not in model["config"]
    assert [condition["name"] for condition in model["conditions"]] == []

    # Its weights by name, by its id, and the key by `yolo login`.
    assert loaded("ul://me/shapes/train") == new.files(model)["final"]
    assert loaded(f"ul://models/{model['id']}/best") == new.files(model)["best"]
    login = ended(Path(PYTHON).with_name("yolo"), "login", new.key)
    assert login.returncode == 0, login.stderr
    wrong = ended(Path(PYTHON).with_name("yolo"), "login", "ul_" + "0" * 40)
    assert wrong.returncode != 0 or "nvalid" in wrong.stdout + wrong.stderr


def test_a_killed_platform_training_goes_on_in_its_model(new: Hub) -> None:
    """Killed in its third epoch and resumed by Ultralytics, it is the same model in its second run, and done."""
    kill = KILL.format(url=new.url, key=new.key, model='trainer.platform["model_id"]')
    train = TRAIN.format(epochs=4, more=PROJECT)
    trained(DATA, 'model = YOLO("yolo11n.yaml")', kill, train, code=-signal.SIGKILL)
    assert new.only_model()["state"] == "training"
    last = folder() / "weights" / "last.pt"
    trained("from ultralytics import YOLO", f"YOLO({str(last)!r}).train(resume=True)")
    model = new.only_model()
    assert (model["state"], model["outcome"], model["attempt"]) == ("done", "finished", 2)
    assert [(a["attempt"], a["outcome"]) for a in model["attempts"]] == [(1, "unknown"), (2, "finished")]
    rows = new.rows(model)
    assert [epoch for _, epoch, _ in rows] == [0, 1, 2, 3, 4]
    assert [(attempt, final) for attempt, epoch, final in rows if epoch > 1] == [
        (2, False),
        (2, False),
        (2, True),
    ]
    assert new.files(model)["final"] == (folder() / "weights" / "best.pt").read_bytes()


#: Somebody presses stop on the model's page after the first epoch.
PRESS = """
import requests

def press(trainer):
    if trainer.epoch == 0:
        with requests.Session() as page:
            page.post("{url}/login", data={{"key": "{key}"}}).raise_for_status()
            page.post("{url}/models/" + trainer.platform["model_id"] + "/stop").raise_for_status()

model.add_callback("on_fit_epoch_end", press)
"""


def test_stop_on_the_page_stops_a_platform_training(new: Hub) -> None:
    """Pressed after the first of two hundred epochs, the training ends by itself, in good order, with its weights."""
    press = PRESS.format(url=new.url, key=new.key)
    trained(DATA, 'model = YOLO("yolo11n.yaml")', press, TRAIN.format(epochs=200, more=PROJECT))
    model = new.only_model()
    assert (model["state"], model["outcome"]) == ("done", "stopped")
    assert model["epoch"] < 100
    assert new.files(model)["final"] == (folder() / "weights" / "best.pt").read_bytes()
