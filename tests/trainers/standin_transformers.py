"""Transformers as it was recorded: arguments, state and control, and a handler that calls the hooks with all three."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from made_up import load, module

if TYPE_CHECKING:
    from replay import Play, Recording

__all__ = ["TRANSFORMERS", "TrainerCallback", "arguments", "play", "rows", "state"]


class TrainerCallback:
    """What Transformers derives callbacks from: every hook does nothing."""

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("on_"):
            raise AttributeError(name)
        return lambda *_arguments, **_named: None


TRANSFORMERS = load(
    "transformers", module("transformers", __version__="5.23.0", TrainerCallback=TrainerCallback)
)


def arguments(output_dir: Any, **more: Any) -> SimpleNamespace:
    """What all recordings were made with: one process, and the best checkpoint by the least `eval_loss`."""
    given = {
        "output_dir": str(output_dir),
        "run_name": None,
        "metric_for_best_model": "eval_loss",
        "greater_is_better": False,
        "world_size": 1,
        "learning_rate": 0.1,
    }
    return SimpleNamespace(**given | more)


def state(**more: Any) -> SimpleNamespace:
    """A trainer's state before it trains."""
    given = {
        "epoch": 0,
        "global_step": 0,
        "num_train_epochs": 3,
        "is_world_process_zero": True,
        "is_hyper_param_search": False,
        "trial_params": None,
        "best_metric": None,
    }
    return SimpleNamespace(**given | more)


def play(play: Play, /) -> None:
    """One block around all that was called."""
    args, control = arguments(play.folder), SimpleNamespace(should_training_stop=False)
    now = state(num_train_epochs=play.recording.header.get("num_train_epochs", 0))
    named = dict.fromkeys(play.recording.header.get("kwargs", ()))
    with TRANSFORMERS.HubstateCallback() as callback:
        for call in play.calls():
            if "files" in call:
                play.write(call["files"])
            now.epoch, now.global_step = call.get("epoch", now.epoch), call.get("step", now.global_step)
            now.is_world_process_zero = call.get("main", play.recording.rank == 0)
            now.best_metric = call.get("best_metric")
            control.should_training_stop = call.get("stop", control.should_training_stop)
            told = _told(call) if call.get("metrics") is not None else {}
            getattr(callback, call["event"])(args, now, control, **named, **told)
        play.end()


def _told(call: Mapping[str, Any]) -> dict[str, Any]:
    usual = {"on_log": ["logs"], "on_evaluate": ["metrics"]}.get(call["event"], [])
    return {name: dict(call["metrics"]) for name in call.get("kwargs_extra") or usual}


def rows(recording: Recording) -> Iterator[dict[str, Any]]:
    """The rows that the recording tells: of one epoch all that was logged after it, of a step what was logged there."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    epoch, between = -1, False
    for call in recording.calls:
        match call["event"]:
            case "on_epoch_begin":
                epoch, between = int(call["epoch"]), False
            case "on_epoch_end":
                between = True
            case "on_log" if call.get("metrics"):
                place = epoch if epoch >= 0 else int(call["epoch"])
                key = (place, None if between else call["step"])
                row = found.setdefault(key, {"epoch": key[0], "step": key[1], "final": False, "metrics": {}})
                row["metrics"].update({n: v for n, v in call["metrics"].items() if n != "epoch"})
    yield from found.values()
