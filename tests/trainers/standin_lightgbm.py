"""LightGBM as it was recorded: plain functions that are called with an environment, before an iteration or after it."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from made_up import load, module

if TYPE_CHECKING:
    from replay import Play, Recording

__all__ = ["LIGHTGBM", "EarlyStopException", "play", "rows"]


class EarlyStopException(Exception):
    """What a callback raises to end the training early."""


_CALLBACK = module("lightgbm.callback", EarlyStopException=EarlyStopException)
LIGHTGBM = load("lightgbm", module("lightgbm", __version__="4.7.0", callback=_CALLBACK), _CALLBACK)


def play(play: Play, /) -> None:
    """One block around all that was called."""
    after = [call["epoch"] for call in play.recording.calls if call["event"] == "after"]
    planned = {"begin": min(after, default=0), "end": max(after, default=0) + 1}  # unless it is told
    with LIGHTGBM.HubstateCallback() as callback:
        for call in play.calls():
            if call["event"] not in ("before", "after"):
                continue  # what the caller did
            planned = planned | {name: call[name] for name in ("begin", "end") if name in call}
            if callback.before_iteration is (call["event"] == "before"):
                callback(
                    SimpleNamespace(
                        model=None,
                        params={"objective": "multiclass"},
                        iteration=call["epoch"],
                        begin_iteration=planned["begin"],
                        end_iteration=planned["end"],
                        evaluation_result_list=_results(call),
                    )
                )
        play.end()


def _results(call: Any) -> list[tuple[str, str, float, bool]] | None:
    if call.get("metrics") is None:
        return None
    better = call.get("higher_better") or {}
    return [
        (*name.split("/", 1), value, better.get(name, False))  # type: ignore[misc]
        for name, value in call["metrics"].items()
    ]


def rows(recording: Recording) -> Iterator[dict[str, Any]]:
    """The rows that the recording tells."""
    for call in recording.calls:
        if call["event"] == "after" and call.get("metrics"):
            yield {"epoch": call["epoch"], "step": None, "final": False, "metrics": call["metrics"]}
