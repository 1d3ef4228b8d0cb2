"""Ultralytics for real, two releases of it: the examples of its guide, to their end and broken off.

It runs with a stand-in for torchvision (see torchvision_stub): what is shown here is shown with that. No weights and no
fonts are fetched.
"""

from __future__ import annotations

import csv
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
from children import PYTHON, RUN, only_session, script
from guides import AtHub, at_hub, broken, example, guide_hub, holds_what_was
from processes import in_two

from hubstate.overview import Overview, look
from hubstate.states import Outcome, State

pytestmark = pytest.mark.trainers

HERE = Path(__file__).parent
OLD, NEW = "8.4.114", "8.4.190"
#: A training that has not ended by then hangs (seconds). Alone it takes ten, and beside other work some more.
HANGS = 600
#: Where a release lies that is not the installed one.
BESIDE = {OLD: str(HERE.parents[2] / ".venv-trainers" / f"ultralytics-{OLD}"), NEW: ""}
#: The training of the guide, as the command takes it.
SQUARES = ("model=yolo11n.yaml", "data=squares.yaml", "imgsz=64", "batch=8", "device=cpu", "plots=False")
MODEL = {"model/parameters", "model/GFLOPs", "model/speed_PyTorch(ms)"}

#: One more callback, which does something in the second epoch; and the block, with a name for what is attached.
OTHER = """
def other(trainer):
    if trainer.epoch == 1:
        {action}

model.add_callback("{hook}", other)
with attach(model) as training:"""

#: Somebody presses stop; if it is in the second epoch, these are the rows: two epochs, and the final evaluation.
PRESS = "from guides import press_stop; press_stop(training.session)"
STOPPED = [(0, False), (1, False), (2, True)]

#: What the processes of a training need on a machine without a GPU: Ultralytics knows only GPUs for them.
SEVERAL = """
from types import SimpleNamespace

import torch
import ultralytics.engine.validator as validator

torch.distributed.init_process_group("gloo")
backend = validator.AutoBackend
validator.get_torch_device_backend = lambda kind: SimpleNamespace(current_device=lambda: 0)
validator.AutoBackend = lambda **told: backend(**{**told, "device": torch.device("cpu")})
"""

#: What Ultralytics does for a process of its own on each device: it writes the callbacks down, and reads them there.
TRAVELS = """
import cloudpickle
import torch

link = attach(model, api_key="a-key-that-nobody-may-read")
torch.save(dict(model.callbacks), "callbacks.pt", pickle_module=cloudpickle)
assert b"nobody-may-read" not in Path("callbacks.pt").read_bytes()
callbacks = torch.load("callbacks.pt", weights_only=False)
told = {"data": "squares.yaml", "epochs": 3, "imgsz": 64, "batch": 8, "device": "cpu", "plots": False, "model": "yolo11n.yaml"}
model._smart_load("trainer")(overrides=told, _callbacks=callbacks).train()
assert link.session is None
"""


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """Settings of each release: what is trained lies below the working directory."""
    found = {}
    for release, place in BESIDE.items():
        found[release] = tmp_path_factory.mktemp("settings")
        code = "from ultralytics import settings; settings.update({'runs_dir': 'runs'})"
        subprocess.run(
            [PYTHON, "-c", code],
            env={**os.environ, **_world(found[release], place)},
            check=True,
            timeout=HANGS,
        )
    return found


def _world(config: Path, place: str) -> dict[str, str]:
    return {
        # Behind the release and the stand-in: where `press_stop` is found.
        "PYTHONPATH": os.pathsep.join(
            filter(None, (place, str(HERE / "torchvision_stub"), str(HERE), str(HERE.parents[1])))
        ),
        "YOLO_CONFIG_DIR": str(config),
        "YOLO_OFFLINE": "true",
    }


@pytest.fixture(params=[NEW, OLD])
def release(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def hub(
    release: str, settings: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """A hub, and an environment in which a script finds it and the release."""
    for name, value in _world(settings[release], BESIDE[release]).items():
        monkeypatch.setenv(name, value)
    with guide_hub(tmp_path, monkeypatch) as url:
        yield url


def with_other(action: str, hook: str = "on_train_batch_end") -> str:
    """The example with one more callback, which does something in the second epoch."""
    return broken(unpainted(), ("\nwith attach(model):", OTHER.format(action=action, hook=hook)))


@contextmanager
def as_a_user() -> Iterator[None]:
    """Where Ultralytics sees pytest or a CI, it saves to another place and leaves its callbacks out."""
    hidden = ("PYTEST_", "GITHUB_", "RUNNER_")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(hidden)]:
            patch.delenv(name)
        yield


def ended(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """A command that came to its end."""
    with as_a_user():
        return subprocess.run(
            list(map(str, command)), capture_output=True, text=True, check=False, timeout=HANGS
        )


def ran(code: str) -> subprocess.CompletedProcess[str]:
    """A script in the working directory that came to its end."""
    return ended(PYTHON, script(code))


def unpainted() -> str:
    """The example without the pictures that Ultralytics paints of each training: they take most of its time."""
    return broken(example("ultralytics"), ('device="cpu"', 'device="cpu", plots=False'))


def rows(held: AtHub) -> list[tuple[int, bool]]:
    return [(row["epoch"], row["final"]) for row in held.rows]


def sessions() -> list[Overview]:
    """Every session here, in their order."""
    return [look(folder) for folder in sorted(Path(".hubstate").iterdir()) if folder.is_dir()]


def is_whole(url: str, epochs: int, outcome: Outcome = Outcome.FINISHED, folder: str = "train") -> None:
    """Hub and trainer agree: each epoch's row with Ultralytics' own numbers, the final one, and the best weights."""
    held = at_hub(url)
    assert (held.state, held.outcome) == (State.DONE.value, outcome.value)
    assert rows(held) == [*((epoch, False) for epoch in range(epochs)), (epochs, True)]
    weights = Path("runs", "detect", folder)
    assert held.files["final"] == (weights / "weights" / "best.pt").read_bytes()
    with (weights / "results.csv").open(encoding="utf-8", newline="") as file:
        for row, line in zip(held.rows, csv.DictReader(file), strict=False):
            own = {name.strip(): float(value) for name, value in line.items()}
            assert own.pop("epoch") == row["epoch"] + 1
            own.pop("time")
            told = {name: value for name, value in row["metrics"].items() if name not in MODEL}
            assert told == pytest.approx(own, rel=1e-3, abs=1e-4)
    assert set(held.rows[0]["metrics"]) >= MODEL


def test_the_example_of_the_guide_arrives_whole(hub: str) -> None:
    """Every epoch's row is at the hub, the best weights byte for byte, and the session is done and called as its folder."""
    process = ran(example("ultralytics"))
    assert process.returncode == 0, process.stderr
    is_whole(hub, 3)
    assert sessions()[0].receipt.name == "detect/train"


def test_early_stopping_is_no_wish_of_the_hub(hub: str) -> None:
    """A training that its own criterion ends is finished."""
    stopper = "stopper.best_fitness, trainer.stopper.best_epoch, trainer.stopper.patience = 0.99, 1, 1"
    process = ran(with_other(f"trainer.{stopper}").replace("if trainer.epoch == 1", "if True").replace(
        '"on_train_batch_end"', '"on_train_start"'))  # fmt: skip
    assert process.returncode == 0, process.stderr
    is_whole(hub, 2)


def test_an_exception_in_the_middle_is_told(hub: str) -> None:
    """An exception in a batch leaves the rows so far, the newest file, and the reason; the script sees it as ever."""
    process = ran(with_other('raise RuntimeError("boom")'))
    assert "RuntimeError: boom" in process.stderr
    holds_what_was(hub, epochs=1, reason="RuntimeError: boom")


def test_an_exception_before_the_first_callback_is_told(hub: str) -> None:
    """A device that is not there is found before any callback, and the session says so all the same."""
    process = ran(broken(unpainted(), ('device="cpu"', 'device="cuda:7"')))
    assert process.returncode == 1
    (session,) = sessions()
    assert (session.receipt.state, session.receipt.outcome) == (State.ABORTED, Outcome.FAILED)
    assert "cuda:7" in session.receipt.reason or "CUDA" in session.receipt.reason


def test_ctrl_c_is_told(hub: str) -> None:
    """Ctrl-C in a batch ends the session interrupted."""
    ran(with_other("import signal; signal.raise_signal(signal.SIGINT)"))
    holds_what_was(hub, epochs=1, reason="interrupted by Ctrl-C", outcome=Outcome.INTERRUPTED)


def test_a_killed_training_goes_on_in_its_session(hub: str) -> None:
    """Killed after two epochs and resumed by Ultralytics, it is one session with every row once, and it is done."""
    kill = with_other("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "on_train_epoch_start")
    process = ran(kill.replace("trainer.epoch == 1", "trainer.epoch == 2"))
    assert process.returncode == -signal.SIGKILL
    (session,) = sessions()
    assert (session.receipt.state, session.receipt.outcome) == (State.TRAINING, Outcome.UNKNOWN)
    process = ran(example("ultralytics", 1))
    assert process.returncode == 0, process.stderr
    held = at_hub(hub)
    assert (held.state, held.outcome) == ("done", "finished")
    assert [(row["epoch"], row["attempt"], row["final"]) for row in held.rows] == [
        (0, 1, False),
        (1, 1, False),
        (2, 2, False),
        (3, 2, True),
    ]
    assert held.files["final"] == Path("runs/detect/train/weights/best.pt").read_bytes()


def test_a_wish_at_the_hub_stops_after_the_batch(hub: str) -> None:
    """Somebody presses stop: the rest of the epoch is not trained, its row and its weights still come: `stopped`."""
    process = ran(broken(with_other(f"open('batches', 'a').write('x'); {PRESS}"), ("batch=8", "batch=2")))
    assert process.returncode == 0, process.stderr
    assert Path("batches").read_text() == "x"
    held = at_hub(hub)
    assert (held.state, held.outcome) == ("done", "stopped")
    assert [(row["epoch"], row["final"]) for row in held.rows if row["step"] is None] == STOPPED
    assert held.files["final"] == Path("runs/detect/train/weights/best.pt").read_bytes()


def test_one_model_trains_twice(hub: str, release: str) -> None:
    """Each training is a session; the older release cannot train a model twice, and the second session tells why."""
    code = unpainted()
    train = code[code.index("    model.train(") :]
    process = ran(code + train)
    first, second = sessions()
    assert (first.receipt.state, first.receipt.outcome) == (State.DONE, Outcome.FINISHED)
    if release == NEW:
        assert process.returncode == 0, process.stderr
        assert (second.receipt.state, second.receipt.outcome) == (State.DONE, Outcome.FINISHED)
        assert (first.receipt.name, second.receipt.name) == ("detect/train", "detect/train-2")
    else:
        assert (second.receipt.state, second.receipt.reason) == (State.ABORTED, "KeyError: 'model'")


@pytest.mark.promise("D26")
def test_two_processes_are_one_session(hub: str) -> None:
    """Under torchrun with two processes the first one alone has a session, and no row is there twice."""
    with as_a_user():
        process = in_two(SEVERAL + unpainted())
    assert process.returncode == 0, process.stderr
    held = at_hub(hub)
    assert (held.state, held.outcome) == ("done", "finished")
    assert rows(held) == [(0, False), (1, False), (2, False), (3, True)]


@pytest.mark.parametrize("release", [NEW])
def test_two_processes_stop_after_the_same_epoch(hub: str, release: str) -> None:
    """A wish at the hub, which one process hears of, stops both of them; neither waits for the other for ever."""
    with as_a_user():
        process = in_two(SEVERAL + with_other(f"if training.session: {PRESS}"))
    assert process.returncode == 0, process.stderr
    held = at_hub(hub)
    assert (held.state, held.outcome) == ("done", "stopped")
    assert [(row["epoch"], row["final"]) for row in held.rows if row["step"] is None] == STOPPED


def test_yolo_on_the_command_line_is_recorded(hub: str) -> None:
    """`hubstate run -- yolo train ...` records what a script that attaches would."""
    assert ran(unpainted().split("model = YOLO")[0]).returncode == 0
    process = ended(*RUN, "--", "yolo", "train", *SQUARES, "epochs=3")
    assert process.returncode == 0, process.stderr
    is_whole(hub, 3)


def test_yolo_on_the_command_line_that_breaks_off_is_told(hub: str) -> None:
    """An exception that ends the command is the reason of the session, and the exit code is the command's."""
    told = ["model=yolo11n.yaml", "data=none.yaml", "epochs=1", "device=cpu"]
    process = ended(*RUN, "--", "yolo", "train", *told)
    assert process.returncode == 1
    receipt = look(only_session()).receipt
    assert (receipt.state, receipt.outcome) == (State.ABORTED, Outcome.FAILED)
    assert "none.yaml" in receipt.reason


def test_yolo_on_the_command_line_that_is_ended_in_the_middle_is_told(hub: str) -> None:
    """SIGTERM while it trains ends the command, and `hubstate run` tells so: the rows so far are at the hub."""
    assert ran(unpainted().split("model = YOLO")[0]).returncode == 0
    command = [*RUN, "--", "yolo", "train", *SQUARES, "epochs=1000"]
    with as_a_user():
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    with process:
        try:
            assert process.stdout is not None
            said = ""
            while " 3/1000 " not in said:
                line = process.stdout.readline()
                assert line, said
                said += line
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=HANGS)
        finally:
            process.kill()
    held = at_hub(hub)
    assert (held.state, held.outcome) == (State.ABORTED.value, Outcome.INTERRUPTED.value)
    assert rows(held)[:2] == [(0, False), (1, False)]
    assert "SIGTERM" in look(only_session()).receipt.reason


@pytest.mark.parametrize("release", [NEW])
def test_newer_releases_tell_of_an_exception_themselves(hub: str, release: str) -> None:
    """Without the block an exception still ends the session, where Ultralytics tells of it."""
    code = broken(with_other('raise RuntimeError("boom")'), ("with attach(model) as training:", "attach(model)\nif True:"))  # fmt: skip
    assert "RuntimeError: boom" in ran(code).stderr
    holds_what_was(hub, epochs=1, reason="RuntimeError: boom")


@pytest.mark.promise("D26")
@pytest.mark.parametrize("release", [NEW])
def test_the_callbacks_travel_to_a_process_of_their_own(hub: str, release: str) -> None:
    """Written down and read again as Ultralytics does it for several devices, they open the session there; no key is in it."""
    code = unpainted()
    process = ran(code[: code.index("with attach(model):")] + TRAVELS)
    assert process.returncode == 0, process.stderr
    is_whole(hub, 3)


@pytest.mark.parametrize("release", [OLD])
def test_its_own_callbacks_of_the_hub_may_stay_on(
    hub: str, release: str, settings: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old callbacks send the same training as a model of theirs, to the same hub, and neither disturbs the other."""
    monkeypatch.setenv("ULTRALYTICS_HUB_API", hub)
    monkeypatch.setenv("ULTRALYTICS_HUB_WEB", hub)
    monkeypatch.setenv("YOLO_OFFLINE", "false")  # else they would not try
    monkeypatch.setenv("ULTRALYTICS_PLATFORM_URL", hub)
    key = "from ultralytics import settings\nsettings.update({'api_key': 'k' * 40})\n"
    process = ran(key + unpainted())
    assert process.returncode == 0, process.stderr
    is_whole(hub, 3)
    with requests.Session() as http:
        http.trust_env = False
        found = http.get(f"{hub}/v1/models", params={"limit": 10}, timeout=30).json()["data"]["results"]
    assert len(found) == 2, "theirs and ours"
