"""The types of a session, through the door. mypy reads this file; nobody runs it."""

from collections.abc import Iterator
from pathlib import Path
from typing import assert_type

import hubstate


def train() -> None:
    """The loop of the README, and all that a session tells."""
    with hubstate.start("digits", epochs=15, config={"lr": 0.05}, resume=True) as session:
        assert_type(session, hubstate.Session)
        assert_type(session.epochs(), Iterator[int])
        session.log({"train/loss": 0.5, "val/accuracy": 1}, epoch=0, step=3)
        session.save("last.pt", fitness=0.5)
        session.save(Path("best.pt"), epoch=1, kind="best")
        assert_type(session.id, str)
        assert_type(session.state, hubstate.State)
        assert_type(session.outcome, hubstate.Outcome)
        assert_type(session.url, str | None)
        assert_type(session.legal, tuple[str, ...])
        assert_type(session.explain("model_save"), str)
        assert_type(session.waiting, int)
        assert_type(session.stop_requested, bool)
        assert_type(session.receipt, hubstate.Receipt)
        assert_type(session.finish(timeout=30), hubstate.Receipt)
        checkpoint = session.last_checkpoint
        assert_type(checkpoint, hubstate.Checkpoint | None)
        if checkpoint:
            assert_type(checkpoint.path, Path)
            assert_type(checkpoint.epoch, int)
            assert_type(checkpoint.sha256, str)


def started() -> None:
    """What `start` takes, and what it does not."""
    hubstate.start(
        "a", hub="http://127.0.0.1:8765", api_key="k", project="p", group="g", tags=["t"], directory=Path()
    )
    hubstate.start("a", mode="offline", limits=hubstate.Limits(metrics=1), checkpoints="best", resume="01K")
    hubstate.start("a", 15)  # type: ignore[call-arg, arg-type]
    hubstate.start("a", limits=3.0)  # type: ignore[arg-type]
    hubstate.start("a", epoch=15)  # type: ignore[call-arg]
