"""PyTorch Ignite for real: the example of its guide, to its end and broken off."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from children import told
from guides import at_hub, broken, example, guide_hub, holds_all, holds_what_was, ran

from hubstate.states import Outcome, State

pytestmark = pytest.mark.trainers

NAMES = {"accuracy", "loss"}
NO_FILE = (
    ('    torch.save(model.state_dict(), "model.pt")\n', ""),
    ('    hub.save("model.pt", kind="final")\n', ""),
)
OTHER = """
@trainer.on(Events.ITERATION_COMPLETED(once=11))
def other(engine):
    {action}

with HubstateCallback("""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with guide_hub(tmp_path, monkeypatch) as url:
        yield url


def with_other(action: str, *changes: tuple[str, str]) -> str:
    """The example with one more handler, which does something in the third of eight iterations of the second epoch."""
    return broken(example("ignite"), ("\nwith HubstateCallback(", OTHER.format(action=action)), *changes)


def test_the_example_of_the_guide_arrives_whole(hub: str) -> None:
    """Every epoch's row is at the hub, the model file byte for byte, and the session is done."""
    process = ran(example("ignite"))
    assert process.returncode == 0, process.stderr
    holds_all(hub, epochs=3, names=NAMES, final="model.pt")


def test_without_a_block_a_run_arrives_whole(hub: str) -> None:
    """The handlers alone end the session with the run; the newest file that a handler wrote is the final one."""
    code = broken(
        example("ignite"),
        ("with HubstateCallback(", "hub = HubstateCallback("),
        ("evaluator) as hub:", "evaluator)\nif True:"),
        *NO_FILE,
    )
    process = ran(code)
    assert process.returncode == 0, process.stderr
    holds_all(hub, epochs=3, names=NAMES, final="weights/model_24.pt")


@pytest.mark.parametrize("block", [True, False])
def test_an_exception_in_the_middle_is_told(hub: str, block: bool) -> None:
    """An exception leaves the rows so far, the newest file and the reason, with a block and without; it is raised as ever."""
    no_block = (
        ("with HubstateCallback(", "hub = HubstateCallback("),
        ("evaluator) as hub:", "evaluator)\nif True:"),
    )
    process = ran(broken(with_other('raise RuntimeError("boom")'), *(() if block else no_block)))
    assert "RuntimeError: boom" in process.stderr
    holds_what_was(hub, epochs=1, reason="RuntimeError: boom")
    assert at_hub(hub).files["last"] == Path("weights/model_8.pt").read_bytes()


def test_ctrl_c_is_told(hub: str) -> None:
    """Ctrl-C ends the session interrupted."""
    ran(with_other("import signal; signal.raise_signal(signal.SIGINT)"))
    holds_what_was(hub, epochs=1, reason="interrupted by Ctrl-C", outcome=Outcome.INTERRUPTED)


def test_an_exception_that_a_handler_of_the_user_swallows_stays_swallowed(hub: str) -> None:
    """Beside a handler that decides about exceptions hubstate's raises nothing: the script goes on as without it."""
    swallow = (
        "raise RuntimeError('boom')\n\ntrainer.add_event_handler(Events.EXCEPTION_RAISED, lambda error: None)"
    )
    process = ran(with_other(swallow) + 'print("went on")\n')
    assert (process.returncode, process.stdout) == (0, "went on\n"), process.stderr


def test_terminating_is_no_wish_of_the_hub(hub: str) -> None:
    """A run that its own criterion ends is finished, in the middle of an epoch too."""
    process = ran(with_other("engine.terminate()"))
    assert process.returncode == 0, process.stderr
    assert told() == (State.DONE, Outcome.FINISHED, "")
    assert [row["epoch"] for row in at_hub(hub).rows] == [0]


def test_a_wish_at_the_hub_stops_before_the_next_iteration(hub: str) -> None:
    """Somebody presses stop in the second epoch: it is not trained to its end, and the outcome is `stopped`."""
    process = ran(with_other("import guides; guides.press_stop(hub.session)"))
    assert process.returncode == 0, process.stderr
    assert told() == (State.DONE, Outcome.STOPPED, "")
    assert [row["epoch"] for row in at_hub(hub).rows if row["step"] is None] == [0]


def test_a_state_that_was_loaded_goes_on_in_its_session(hub: str) -> None:
    """With `load_state_dict` the session that broke off is continued, as its second attempt."""
    ran(with_other('raise RuntimeError("boom")'))
    loaded = (
        'trainer.load_state_dict({"epoch": 1, "max_epochs": 3, "epoch_length": 8})\n    trainer.run(data)'
    )
    process = ran(broken(example("ignite"), ("trainer.run(data, max_epochs=3)", loaded)))
    assert process.returncode == 0, process.stderr
    held = at_hub(hub)
    rows = [(row["epoch"], row["attempt"]) for row in held.rows]
    assert (held.state, rows) == ("done", [(0, 1), (1, 2), (2, 2)])


def test_named_evaluators_and_steps_are_told_apart(hub: str) -> None:
    """Metrics of several evaluators stand under their names; with `steps=4` every fourth iteration is a row."""
    code = broken(
        example("ignite"),
        ('saves="weights")', 'saves="weights", steps=4)'),
        ("(trainer, evaluator)", '(trainer, {"train": evaluator})'),
    )
    process = ran(code)
    assert process.returncode == 0, process.stderr
    rows = at_hub(hub).rows
    epochs = [set(row["metrics"]) for row in rows if row["step"] is None]
    assert epochs == [{"train/accuracy", "train/loss"}] * 3
    steps = [(row["epoch"], row["step"], set(row["metrics"])) for row in rows if row["step"] is not None]
    assert steps == [(epoch, 8 * epoch + step, {"output"}) for epoch in range(3) for step in (4, 8)]


def test_what_is_evaluated_after_the_run_is_the_final_row(hub: str) -> None:
    """Inside of the block an evaluation after the run is a row of its own, marked final, and no epoch's."""
    code = broken(example("ignite"), ("max_epochs=3)", "max_epochs=3); evaluator.run(data)"))
    process = ran(code)
    assert process.returncode == 0, process.stderr
    rows = [(row["epoch"], row["final"]) for row in at_hub(hub).rows]
    assert rows == [(0, False), (1, False), (2, False), (2, True)]
