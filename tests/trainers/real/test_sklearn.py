"""Plain loops for real, scikit-learn's `partial_fit` and PyTorch's own: the examples of the guide, whole and broken off."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from children import told
from guides import at_hub, broken, example, guide_hub, holds_all, holds_what_was, ran

from hubstate.states import Outcome, State

pytestmark = pytest.mark.trainers

#: For each loop: its place on the page, what it measures, its file, and what stands before the row is recorded.
LOOPS = {
    "sklearn": (0, {"train/loss", "val/accuracy"}, "model.joblib", "        session.log("),
    "torch": (1, {"train/loss"}, "model.pt", "        session.log("),
}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with guide_hub(tmp_path, monkeypatch) as url:
        yield url


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest) -> tuple[str, set[str], str]:
    place, names, file, before = LOOPS[request.param]
    code = broken(example("plain-loops", place), (before, f"        # here\n{before}"))
    return code, names, file


def test_the_example_of_the_guide_arrives_whole(hub: str, loop: tuple[str, set[str], str]) -> None:
    """Every epoch's row is at the hub, and the session is done. Both loops learn, so that the best file is the last."""
    code, names, file = loop
    process = ran(code)
    assert process.returncode == 0, process.stderr
    holds_all(hub, epochs=5, names=names, final=file)


def test_an_exception_in_the_middle_is_told_and_gone_on_from(
    hub: str, loop: tuple[str, set[str], str]
) -> None:
    """The rows so far and the reason are there; the same script goes on behind its last checkpoint, to its end."""
    code, names, file = loop
    process = ran(broken(code, ("# here", "if epoch == 3: raise RuntimeError('boom')")))
    assert "RuntimeError: boom" in process.stderr
    holds_what_was(hub, epochs=3, reason="RuntimeError: boom")
    process = ran(code)
    assert process.returncode == 0, process.stderr
    holds_all(hub, epochs=5, names=names, final=file)
    assert [row["attempt"] for row in at_hub(hub).rows] == [1, 1, 1, 2, 2]


def test_ctrl_c_is_told(hub: str, loop: tuple[str, set[str], str]) -> None:
    """Ctrl-C ends the session interrupted."""
    code, _names, _file = loop
    ran(broken(code, ("# here", "if epoch == 3: import signal; signal.raise_signal(signal.SIGINT)")))
    holds_what_was(hub, epochs=3, reason="interrupted by Ctrl-C", outcome=Outcome.INTERRUPTED)


def test_a_wish_at_the_hub_stops_behind_the_epoch(hub: str, loop: tuple[str, set[str], str]) -> None:
    """Somebody presses stop in the second epoch: it is recorded, no further one begins, and the outcome is `stopped`."""
    code, _names, _file = loop
    press = "if epoch == 1: import guides; guides.press_stop(session)"
    process = ran(broken(code, ("# here", press)))
    assert process.returncode == 0, process.stderr
    assert told() == (State.DONE, Outcome.STOPPED, "")
    assert [row["epoch"] for row in at_hub(hub).rows if row["step"] is None] == [0, 1]
