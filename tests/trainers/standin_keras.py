"""Keras as it was recorded: a model whose `fit` calls the hooks, by the names that Keras calls them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from made_up import load, module

if TYPE_CHECKING:
    from replay import Play, Recording

__all__ = ["KERAS", "Callback", "play", "rows"]


class Callback:
    """What Keras derives callbacks from: they know model and parameters, and every hook does nothing."""

    def __init__(self) -> None:
        self.params: dict[str, Any] | None = None
        self.model: Any = None

    def set_params(self, params: dict[str, Any]) -> None:
        self.params = params

    def set_model(self, model: Any) -> None:
        self.model = model

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("on_"):
            raise AttributeError(name)
        return lambda *_arguments, **_named: None


KERAS = load("keras", module("keras", __version__="3.15.0", callbacks=SimpleNamespace(Callback=Callback)))


def play(play: Play, /) -> None:
    """One block around all that was called."""
    model = SimpleNamespace(name="sequential", stop_training=False, optimizer=None)
    with KERAS.HubstateCallback(saves=play.folder) as callback:
        callback.set_model(model)
        for call in play.calls():
            if "files" in call:
                play.write(call["files"])
            callback.set_params(call.get("params") or {})
            model.stop_training = call.get("stop", False)
            hook = getattr(callback, call["event"])
            numbers = [
                call[name] for name in ("epoch", "batch") if name in call and "batch" not in call["event"]
            ]
            if "_batch_" in call["event"]:
                numbers = [_batch(call)]
            hook(*numbers, logs=call.get("metrics"))
        play.end()


def _batch(call: Mapping[str, Any]) -> int:
    """The number of a batch; where only names were recorded, those of its row count from 0."""
    if "batch" in call or not call.get("named_only"):
        return int(call.get("batch", 0))
    return int(call["place"]) // len(call["run"]["cycle"])


def rows(recording: Recording) -> Iterator[dict[str, Any]]:
    """The rows that the recording tells."""
    for call in recording.calls:
        if call["event"] == "on_epoch_end":
            yield {"epoch": call["epoch"], "step": None, "final": False, "metrics": call["metrics"] or {}}
