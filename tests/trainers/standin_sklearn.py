"""A plain loop that measures what was recorded: what scikit-learn's `partial_fit` is called in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from replay import Play, Recording

__all__ = ["play", "rows"]


def play(play: Play, /) -> None:
    """The loop of a user: a row for each epoch, in a session that the loop is in."""
    epochs = {call["epoch"] for call in play.recording.calls if "epoch" in call}
    with play.start(str(play.recording.header["scenario"]), epochs=len(epochs) or None) as session:
        for call in play.calls():
            if measured := _measured(call):
                session.log(measured, epoch=call.get("epoch"), step=call.get("step"))
        play.end()


def _measured(call: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in (call.get("metrics") or {}).items() if value is not None}


def rows(recording: Recording) -> Iterator[dict[str, Any]]:
    """The rows that the recording tells."""
    for call in recording.calls:
        if measured := _measured(call):
            yield {"epoch": call["epoch"], "step": call.get("step"), "final": False, "metrics": measured}
