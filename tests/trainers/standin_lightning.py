"""Lightning as it was recorded: a trainer with what was seen of it, one checkpoint callback, and every hook of a callback."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from made_up import load, module
from replay import recorded_error

if TYPE_CHECKING:
    from replay import Play, Recording

__all__ = ["LIGHTNING", "Callback", "Logger", "Scalar", "play", "rows", "trainer"]

_STAGES = {"fitting": "fit", "validating": "validate", "testing": "test", "predicting": "predict"}
#: What was called, where the stage was not recorded.
_CALLED = {"val": "validate", "test": "test", "predict": "predict"}


class Callback:
    """What Lightning derives callbacks from: every hook does nothing."""

    def __getattr__(self, name: str) -> Any:
        if not (name.startswith("on_") or name in ("setup", "state_dict", "load_state_dict")):
            raise AttributeError(name)
        return lambda *_arguments, **_named: None


class Logger:
    """What Lightning derives loggers from."""


class Scalar:
    """A tensor of one element: each measured one is an object of its own, whatever its value."""

    def __init__(self, value: float) -> None:
        self.value = value

    def numel(self) -> int:
        return 1

    def item(self) -> float:
        return self.value

    def __float__(self) -> float:
        return float(self.value)


LIGHTNING = load(
    "lightning",
    module("lightning"),
    module("lightning.pytorch", __name__="lightning.pytorch", __version__="2.6.6", Callback=Callback),
    module("lightning.pytorch.loggers"),
    module("lightning.pytorch.loggers.logger", Logger=Logger),
)


def trainer(**more: Any) -> SimpleNamespace:
    """A trainer before it trains, in one process."""
    given = {
        "callback_metrics": {},
        "callbacks": [],
        "checkpoint_callbacks": [],
        "ckpt_path": None,
        "current_epoch": 0,
        "datamodule": None,
        "fast_dev_run": False,
        "fit_loop": SimpleNamespace(_can_stop_early=True),
        "global_step": 0,
        "is_global_zero": True,
        "is_last_batch": False,
        "log_every_n_steps": 50,
        "loggers": [],
        "max_epochs": 3,
        "max_steps": -1,
        "should_stop": False,
        "state": SimpleNamespace(fn="fit"),
        "strategy": SimpleNamespace(reduce_boolean_decision=lambda decision, **_named: decision),
        "world_size": 1,
    }
    return SimpleNamespace(**given | more)


def play(play: Play, /) -> None:
    """The trainer's hooks, and after them the caller's end."""
    header = play.recording.header
    # All recordings were made with this one: the best by the least val_loss, and the last.
    saver = SimpleNamespace(monitor="val_loss", mode="min", dirpath=str(play.folder), best_k_models={})
    saver.best_model_path = saver.last_model_path = ""
    it = trainer(
        checkpoint_callbacks=[saver],
        max_epochs=header.get("max_epochs"),
        world_size=header.get("world_size") or 1,
    )
    model, callback = SimpleNamespace(), LIGHTNING.HubstateCallback()
    written: list[str] = []
    for call in play.calls():
        if "files" in call:
            play.write(call["files"], fresh=written)
            written = _about_to_be_written(call)
        _see(it, saver, call, play)
        getattr(callback, call["event"])(it, model, *_more(call, play))
    play.end()


def _see(it: SimpleNamespace, saver: SimpleNamespace, call: Mapping[str, Any], play: Play) -> None:
    """What was seen of the trainer in this call."""
    it.current_epoch, it.global_step = call.get("epoch", it.current_epoch), call.get("step", it.global_step)
    it.should_stop = call.get("stop", it.should_stop)
    it.sanity_checking = call.get("sanity", False)
    it.is_global_zero = call.get("main", play.recording.rank == 0)
    it.state.fn = _stage(call, play)
    if call.get("metrics") is not None:
        it.callback_metrics = {name: Scalar(value) for name, value in call["metrics"].items()}
    for which in ("best", "last"):
        if name := call.get(which):
            setattr(saver, f"{which}_model_path", str(play.folder / name))
            saver.best_k_models = {saver.best_model_path: it.callback_metrics.get("val_loss")}


def _stage(call: Mapping[str, Any], play: Play) -> str:
    return _STAGES.get(call.get("fn") or "", _CALLED.get(play.recording.header["scenario"], "fit"))


def _about_to_be_written(call: Mapping[str, Any]) -> list[str]:
    """What lies there when the next hook is called, or is then another file than before."""
    if call["event"] != "on_save_checkpoint" or not call.get("files"):
        return []
    return [call.get("last", "") if call.get("best") in call["files"] else call.get("best", "")]


def _more(call: Mapping[str, Any], play: Play) -> list[Any]:
    """What a hook is given beside trainer and module."""
    match call["event"]:
        case "setup" | "teardown":
            return [_stage(call, play)]
        case "on_exception":
            return [recorded_error(call.get("exc") or play.recording.end.get("error"))]
        case "on_train_batch_start":
            return [None, 0]
        case "on_train_batch_end":
            return [None, None, 0]
        case "on_save_checkpoint":
            return [{}]
    return []


def rows(recording: Recording) -> Iterator[dict[str, Any]]:
    """The rows that the recording tells."""
    for call in recording.calls:
        if call["event"] == "on_train_epoch_end":
            yield {"epoch": call["epoch"], "step": None, "final": False, "metrics": call["metrics"] or {}}
