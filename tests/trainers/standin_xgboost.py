"""XGBoost as it was recorded: a booster that grows, and the history of what was measured."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from made_up import load, module

if TYPE_CHECKING:
    from replay import Play, Recording

__all__ = ["COLLECTIVE", "XGBOOST", "TrainingCallback", "play", "rows"]


class TrainingCallback:
    """What XGBoost demands that callbacks are derived from."""


#: Which process of a distributed training this is.
COLLECTIVE = module("xgboost.collective", rank=0)
COLLECTIVE.get_rank = lambda: COLLECTIVE.rank
_CALLBACK = module("xgboost.callback", TrainingCallback=TrainingCallback)
XGBOOST = load(
    "xgboost",
    module("xgboost", __version__="3.2.0", collective=COLLECTIVE, callback=_CALLBACK),
    COLLECTIVE,
    _CALLBACK,
)


def play(play: Play, /) -> None:
    """One block around all that was called."""
    booster = SimpleNamespace(rounds=0, num_boosted_rounds=lambda: booster.rounds)
    history: dict[str, dict[str, list[Any]]] = {}
    COLLECTIVE.rank = play.recording.header.get("rank") or 0
    with XGBOOST.HubstateCallback() as callback:
        for call in play.calls():
            match call["event"]:
                case "before_training" | "after_training" as event:
                    if event == "before_training":
                        history = {}
                    assert getattr(callback, event)(model=booster) is booster
                case "before_iteration":
                    assert callback.before_iteration(booster, call["epoch"], history) is False
                case "after_iteration":
                    booster.rounds += 1
                    for name, value in (call.get("metrics") or {}).items():
                        data, _, metric = name.partition("/")
                        measured = (
                            tuple(value) if isinstance(value, list) else value
                        )  # `cv()`: with a deviation
                        history.setdefault(data, {}).setdefault(metric, []).append(measured)
                    assert callback.after_iteration(booster, call["epoch"], history) is False
        play.end()


def rows(recording: Recording) -> Iterator[dict[str, Any]]:
    """The rows that the recording tells."""
    for call in recording.calls:
        if call["event"] == "after_iteration" and call.get("metrics"):
            metrics: dict[str, Any] = {}
            for name, value in call["metrics"].items():
                pair = isinstance(value, list)
                metrics.update(zip((name, f"{name}-std"), value, strict=True) if pair else {name: value})
            yield {"epoch": call["epoch"], "step": None, "final": False, "metrics": metrics}
