"""Keras for real, with the PyTorch back end: the example of its guide, to its end and broken off."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from children import told
from guides import at_hub, broken, example, guide_hub, holds_all, holds_what_was, ran

from hubstate.states import Outcome, State

pytestmark = pytest.mark.trainers

NAMES = {"accuracy", "loss", "val_accuracy", "val_loss"}
OTHER = """
class Other(keras.callbacks.Callback):
    def on_{hook}(self, {argument}, logs=None):
        if {argument} == 1 and self.model.optimizer.iterations > 6:
            {action}
"""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    with guide_hub(tmp_path, monkeypatch) as url:
        yield url


def with_other(action: str, hook: str = "train_batch_end", argument: str = "batch") -> str:
    """The example with one more callback, which does something in the second epoch."""
    other = OTHER.format(hook=hook, argument=argument, action=action)
    return broken(
        example("keras"),
        ("callbacks=[keep, hub]", "callbacks=[keep, Other(), hub]"),
        ("\nfiles =", f"{other}\nfiles ="),
    )


def test_the_example_of_the_guide_arrives_whole(hub: str) -> None:
    """Every epoch's row is at the hub, the model file byte for byte, and the session is done."""
    process = ran(example("keras"))
    assert process.returncode == 0, process.stderr
    holds_all(hub, epochs=3, names=NAMES, final="model.keras")


def test_without_a_block_a_training_that_ends_by_itself_arrives_whole(hub: str) -> None:
    """The callback alone ends the session with the training; the newest file that Keras wrote is the final one."""
    code = broken(
        example("keras"),
        (
            'with HubstateCallback("sums", saves=files, fitness="val_accuracy") as hub:',
            'hub = HubstateCallback("sums", saves=files)\nif True:',
        ),
        ('    hub.save("model.keras", kind="final")\n', ""),
    )
    process = ran(code)
    assert process.returncode == 0, process.stderr
    holds_all(hub, epochs=3, names=NAMES, final="weights/03.keras")


def test_an_exception_in_the_middle_is_told(hub: str) -> None:
    """An exception in a batch leaves the rows so far, the newest file, and the reason; the script sees it as ever."""
    process = ran(with_other('raise RuntimeError("boom")'))
    assert "RuntimeError: boom" in process.stderr
    holds_what_was(hub, epochs=1, reason="RuntimeError: boom")
    assert at_hub(hub).files["last"] == Path("weights/01.keras").read_bytes()


def test_ctrl_c_is_told(hub: str) -> None:
    """Ctrl-C in a batch ends the session interrupted."""
    ran(with_other("import signal; signal.raise_signal(signal.SIGINT)"))
    holds_what_was(hub, epochs=1, reason="interrupted by Ctrl-C", outcome=Outcome.INTERRUPTED)


def test_early_stopping_is_no_wish_of_the_hub(hub: str) -> None:
    """A training that its own criterion ends is finished."""
    process = ran(with_other("self.model.stop_training = True"))
    assert process.returncode == 0, process.stderr
    assert told() == (State.DONE, Outcome.FINISHED, "")
    assert [row["epoch"] for row in at_hub(hub).rows] == [0, 1]


def test_a_wish_at_the_hub_stops_within_the_epoch(hub: str) -> None:
    """Somebody presses stop: the rest of the epoch is not trained, its row still comes, and the outcome is `stopped`."""
    process = ran(with_other("import guides; guides.press_stop(hub.session)"))
    assert process.returncode == 0, process.stderr
    assert told() == (State.DONE, Outcome.STOPPED, "")
    rows = at_hub(hub).rows
    assert [row["epoch"] for row in rows if row["step"] is None] == [0, 1]


def test_a_later_fit_goes_on_in_the_same_session(hub: str) -> None:
    """With `initial_epoch` the session that broke off is continued, as its second attempt."""
    ran(with_other('raise RuntimeError("boom")'))
    process = ran(broken(example("keras"), ("epochs=3", "epochs=3, initial_epoch=1")))
    assert process.returncode == 0, process.stderr
    held = at_hub(hub)
    assert (held.state, [(row["epoch"], row["attempt"]) for row in held.rows]) == (
        "done",
        [(0, 1), (1, 2), (2, 2)],
    )


def test_steps_are_rows_of_their_own(hub: str) -> None:
    """With `steps=3` every third batch of six is a row, counted as the optimizer counts."""
    process = ran(broken(example("keras"), ('fitness="val_accuracy"', 'fitness="val_accuracy", steps=3')))
    assert process.returncode == 0, process.stderr
    steps = [(row["epoch"], row["step"]) for row in at_hub(hub).rows if row["step"] is not None]
    assert steps == [(0, 3), (0, 6), (1, 9), (1, 12), (2, 15), (2, 18)]


def test_evaluating_alone_opens_no_session(hub: str) -> None:
    """`evaluate()` and `predict()` with the callback train nothing, and nothing is kept of them."""
    code = broken(
        example("keras"),
        (
            "model.fit(x, y, epochs=3, validation_split=0.25, verbose=0, callbacks=[keep, hub])",
            "model.evaluate(x, y, verbose=0, callbacks=[hub]); model.predict(x, verbose=0, callbacks=[hub])",
        ),
        ('    hub.save("model.keras", kind="final")\n', ""),
    )
    process = ran(code)
    assert process.returncode == 0, process.stderr
    assert not Path(".hubstate").exists()
