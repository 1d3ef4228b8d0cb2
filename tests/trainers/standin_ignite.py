"""Ignite as it was recorded: two engines with handlers, of which one evaluates what the other trains."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from made_up import load, module
from replay import recorded_error

if TYPE_CHECKING:
    from replay import Play, Recording

__all__ = ["DISTRIBUTED", "IGNITE", "Engine", "Events", "play", "rows"]


class _Names(type):
    """Every event has its name for a value."""

    def __getattr__(cls, name: str) -> str:
        if not name.isupper():
            raise AttributeError(name)
        return name


class Events(metaclass=_Names):
    """What an engine fires."""


class Engine:
    """What handlers are added to; what is fired reaches them in their order."""

    def __init__(self, max_epochs: int | None = None) -> None:
        self.state = SimpleNamespace(
            epoch=0, iteration=0, metrics={}, output=None, max_epochs=max_epochs, epoch_length=None
        )
        self.last_event_name: str | None = None
        self.should_terminate: bool | str = False
        self._event_handlers: dict[str, list[tuple[Callable[..., None], tuple[Any, ...]]]] = defaultdict(list)

    def add_event_handler(self, event: str, handler: Callable[..., None], *arguments: Any) -> None:
        self._event_handlers[event].append((handler, arguments))

    def fire(self, event: str, *told: Any) -> None:
        self.last_event_name = event
        for handler, arguments in self._event_handlers[event]:
            handler(self, *told, *arguments)

    def terminate(self) -> None:
        self.should_terminate = True


#: Which process of a distributed training this is.
DISTRIBUTED = module("ignite.distributed", rank=0)
DISTRIBUTED.get_rank = lambda: DISTRIBUTED.rank
_ENGINE = module("ignite.engine", Events=Events)
IGNITE = load(
    "ignite",
    module("ignite", __version__="0.5.5", distributed=DISTRIBUTED, engine=_ENGINE),
    DISTRIBUTED,
    _ENGINE,
)


def play(play: Play, /) -> None:
    """One block around all that was fired."""
    recording = play.recording
    DISTRIBUTED.rank = recording.header.get("rank") or 0
    engines = {"trainer": Engine(recording.header.get("max_epochs")), "evaluator": Engine()}
    with IGNITE.HubstateCallback(saves=play.folder) as callback:
        callback.attach(engines["trainer"], engines["evaluator"])
        for call in play.calls():
            engine = engines[call["src"]]
            engine.state.epoch = call.get("epoch", engine.state.epoch)
            engine.state.iteration = _iteration(call, engine)
            engine.state.metrics = call.get("metrics", engine.state.metrics) or {}
            engine.state.output = call.get("output")
            if call["event"] != "EXCEPTION_RAISED":
                engine.fire(call["event"])
                continue
            error = recorded_error(call.get("exc") or recording.end.get("error"))
            with pytest.raises(type(error)) as raised:  # it has one handler, which has to raise it again
                engine.fire(call["event"], error)
            assert raised.value is error
        play.end()


def _iteration(call: Mapping[str, Any], engine: Engine) -> int:
    """The number of an iteration; where only names were recorded, those of a row follow each other."""
    if not call.get("named_only"):
        return int(call.get("step", engine.state.iteration))
    return int(call["run"].get("step", 0)) + int(call["place"]) // len(call["run"]["cycle"])


def rows(recording: Recording) -> Iterator[dict[str, Any]]:
    """The rows that the recording tells: what an engine has measured at its end belongs to the trainer's epoch."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    trainer: Mapping[str, Any] = {}
    for call in recording.calls:
        if call["src"] == "trainer":
            trainer = call
        own = call["src"] == "trainer" and call["event"] == "EPOCH_COMPLETED"
        evaluated = call["src"] == "evaluator" and call["event"] == "COMPLETED" and trainer.get("epoch")
        if not (own or evaluated) or not call.get("metrics"):
            continue
        epoch = trainer["epoch"] - recording.header["first_epoch"]
        step = None if trainer["event"] in ("EPOCH_COMPLETED", "COMPLETED") else trainer.get("step")
        final = trainer["event"] == "COMPLETED"
        row = {"epoch": epoch, "step": step, "final": final, "metrics": {}}
        found.setdefault((epoch, step, final), row)["metrics"].update(call["metrics"])
    yield from found.values()
