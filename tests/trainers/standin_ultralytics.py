"""An Ultralytics that does what was recorded: its model, trainer and validator, and as much of its package as is looked at.

The model's `train`, `val`, `predict` and `export` run through the recorded calls, each up to its end. What was recorded by
its name alone shows the trainer as it was in the call before.
"""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

if TYPE_CHECKING:
    from replay import Play, Recording

__all__ = ["Model", "package", "play", "rows"]

#: What is seen of the trainer under the name that it was recorded by. Absent: it did not exist yet.
_SEEN = ("epoch", "epochs", "start_epoch", "stop", "resume", "fitness", "best_fitness", "metrics", "lr")
#: By these calls a trainer has all of it, also where it was not recorded.
_MEASURED = ("on_train_batch_end", "on_model_save", "on_fit_epoch_end", "on_train_end")
_UNTOLD = {"tloss": {}, "lr": {}, "metrics": {}, "fitness": None, "best_fitness": None, "stop": False}
_BEGINNINGS = {
    "on_pretrain_routine_start": "train",
    "on_val_start": "val",
    "on_predict_start": "predict",
    "on_export_start": "export",
}


def play(play: Play, /) -> None:
    """A user's script: the calls that were made, in a block."""
    with patch.dict(sys.modules, package(play.recording.header["version"])):
        from hubstate.trainers.ultralytics import attach

        calls = list(_calls(play.recording))
        model = Model(play, [part for _, part in calls])
        with attach(model):
            for call, _ in calls:
                getattr(model, call)()


def _calls(recording: Recording) -> Iterator[tuple[str, list[Mapping[str, Any]]]]:
    """The calls of the user, each with the callbacks that it fired: a training goes on to its teardown or the next one."""
    part: list[Mapping[str, Any]] = []
    kind, over = "", False
    for call in recording.calls:
        begins = _BEGINNINGS.get(call["event"], "")
        if not part or over or begins == "train" or (begins and kind != "train"):
            if part:
                yield kind, part
            # In the processes beside the first one a training begins without a word of it.
            kind, over, part = begins or "train", False, []
        part.append(call)
        over = call["event"] == "teardown"
    if part:
        yield kind, part
    # What raised nothing by itself was over, or was not there: it was the next training, before its first callback.
    done = not part or (over and any(call["event"] == "on_train_end" for call in part))
    if done and recording.end["outcome"] == "raised":
        yield "train", []


def package(version: str, **told: Any) -> dict[str, ModuleType]:
    """The modules of an Ultralytics; `told`: its settings. The recordings know nothing of the model itself."""
    alone = version.startswith("8.4.190") and os.environ.get("WORLD_SIZE", "1") == "1"
    rank = -1 if alone else int(os.environ.get("RANK", "-1"))
    modules = {
        name: ModuleType(name)
        for name in ("ultralytics", "ultralytics.utils", "ultralytics.utils.torch_utils")
    }
    vars(modules["ultralytics"])["__version__"] = version
    vars(modules["ultralytics.utils"]).update(RANK=rank, SETTINGS=told)
    vars(modules["ultralytics.utils.torch_utils"])["model_info_for_loggers"] = lambda _trainer: {}
    return modules


class Model:
    """As a `YOLO`: it holds callbacks, and every call to it runs through its part of the recording."""

    model_name = "yolo11n.yaml"

    def __init__(self, play: Play, parts: list[list[Mapping[str, Any]]]) -> None:
        self.callbacks: dict[str, list[Callable[[Any], None]]] = defaultdict(list)
        self._play = play
        self._parts = parts
        self._calls = play.calls()
        self._trainings = 0

    def add_callback(self, event: str, callback: Callable[[Any], None]) -> None:
        self.callbacks[event].append(callback)

    def train(self) -> None:
        trainer = SimpleNamespace()
        self._run(self._parts.pop(0), trainer)

    def val(self) -> None:
        self._run(self._parts.pop(0), SimpleNamespace())

    predict = export = val

    def _run(self, part: list[Mapping[str, Any]], trainer: SimpleNamespace) -> None:
        """All the calls of one part; what ends the last one is raised where it was: before a teardown, if there is one."""
        ends = not self._parts
        broken = ends and all(call["event"] != "on_train_end" for call in part)
        teardown = part[-1:] if part and broken and part[-1]["event"] == "teardown" else []
        try:
            for _ in part[: len(part) - len(teardown)]:
                self._fire(trainer)
            if ends:
                self._play.end()
        finally:
            for _ in teardown:
                self._fire(trainer)

    def _fire(self, trainer: SimpleNamespace) -> None:
        call = next(self._calls)
        source: Any = trainer
        if "training" in call or call["event"].startswith(("on_val", "on_predict", "on_export")):
            source = SimpleNamespace(training=call.get("training", call.get("src") != "validator"))
        else:
            self._show(trainer, call)
        for callback in self.callbacks[call["event"]]:
            callback(source)

    def _show(self, trainer: SimpleNamespace, call: Mapping[str, Any]) -> None:
        """Makes the trainer look as it was seen in a call."""
        for name in _SEEN:
            if name in call:
                setattr(trainer, name, call[name])
        if not hasattr(trainer, "save_dir"):
            self._begin(trainer, call)
        if call["event"] in _MEASURED:
            vars(trainer).update(_UNTOLD | vars(trainer))
        if "train_loss" in call:
            trainer.tloss = call["train_loss"] or {}
        files, fresh = call.get("files"), ()
        if call["event"] == "on_model_save":
            fresh = self._written(call)
            files = {**dict.fromkeys(fresh), **(files or {})}
        if files is not None or "files" in call:
            self._play.write(files, below=str(Path("detect") / trainer.save_dir.name), fresh=fresh)

    def _begin(self, trainer: SimpleNamespace, call: Mapping[str, Any]) -> None:
        """What a trainer has from its first callback on, whether that was recorded of it or not."""
        self._trainings += 1
        also = "" if self._trainings == 1 else str(self._trainings)
        name = call.get("save_dir") or f"{self._play.recording.header['scenario']}{also}"
        trainer.save_dir = self._play.folder / "detect" / name
        weights = trainer.save_dir / "weights"
        trainer.last, trainer.best = weights / "last.pt", weights / "best.pt"
        told = {"model": call.get("model"), "epochs": call.get("epochs"), "task": "detect"}
        trainer.args = SimpleNamespace(**told)
        trainer.label_loss_items = _labelled
        vars(trainer).update({"resume": False, "start_epoch": 0, "epochs": None} | vars(trainer))

    @staticmethod
    def _written(call: Mapping[str, Any]) -> list[str]:
        return ["weights/last.pt", *(["weights/best.pt"] if call.get("best_eq_fit") else [])]


def _labelled(loss: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The losses under the names that Ultralytics gives them; recorded they are named already."""
    assert all(name.startswith(f"{prefix}/") for name in loss)
    return dict(loss)


def rows(recording: Recording) -> Iterator[dict[str, Any]]:
    """The rows that the recording tells: one for each epoch's end, final where its epoch never began."""
    begun: Any = None
    for call in recording.calls:
        if call["event"] == "on_train_epoch_start":
            begun = call["epoch"]
        if call["event"] == "on_fit_epoch_end":
            metrics = {
                n: v for of in ("train_loss", "metrics", "lr") for n, v in (call.get(of) or {}).items()
            }
            yield {"epoch": call["epoch"], "step": None, "final": call["epoch"] != begun, "metrics": metrics}
