"""LightGBM for real: the example of its guide, to its end and broken off."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from children import told
from guides import at_hub, broken, example, guide_hub, holds_all, holds_what_was, ran

from hubstate.states import Outcome, State

pytestmark = pytest.mark.trainers

NAMES = {"valid_0/multi_logloss"}
OTHER = """
def other(env):
    if env.iteration == 2:
        {action}
other.order = 25  # LightGBM's own word: behind hubstate's, which is 20

with HubstateCallback("""
NO_FILE = (
    ('    model.save_model("model.txt")\n', ""),
    ('    hub.save("model.txt", kind="final")\n', ""),
)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with guide_hub(tmp_path, monkeypatch) as url:
        yield url


def with_other(action: str) -> str:
    """The example with one more callback, which does something after the third iteration."""
    return broken(
        example("lightgbm"),
        ("verbose=False), hub]", "verbose=False), hub, other]"),
        ("\nwith HubstateCallback(", OTHER.format(action=action)),
    )


def test_the_example_of_the_guide_arrives_whole(hub: str) -> None:
    """Every iteration's row is at the hub, the model file byte for byte, and the session is done."""
    process = ran(example("lightgbm"))
    assert process.returncode == 0, process.stderr
    holds_all(hub, epochs=5, names=NAMES, final="model.txt")


def test_without_a_block_a_training_of_all_its_iterations_is_done(hub: str) -> None:
    """The callback alone ends the session with the last planned iteration."""
    code = broken(
        example("lightgbm"),
        ('with HubstateCallback("digits") as hub:', 'hub = HubstateCallback("digits")\nif True:'),
        *NO_FILE,
    )
    process = ran(code)
    assert process.returncode == 0, process.stderr
    assert told() == (State.DONE, Outcome.FINISHED, "")
    assert len(at_hub(hub).rows) == 5


def test_an_exception_in_the_middle_is_told(hub: str) -> None:
    """An exception leaves the rows so far and the reason; the script sees it as ever."""
    process = ran(with_other('raise RuntimeError("boom")'))
    assert "RuntimeError: boom" in process.stderr
    holds_what_was(hub, epochs=3, reason="RuntimeError: boom")


def test_ctrl_c_is_told(hub: str) -> None:
    """Ctrl-C ends the session interrupted."""
    ran(with_other("import signal; signal.raise_signal(signal.SIGINT)"))
    holds_what_was(hub, epochs=3, reason="interrupted by Ctrl-C", outcome=Outcome.INTERRUPTED)


def test_early_stopping_is_no_wish_of_the_hub(hub: str) -> None:
    """A training that its own criterion ends is finished, and the row of its last iteration is there."""
    code = broken(example("lightgbm"), ("early_stopping(3,", "early_stopping(1, min_delta=9.0,"))
    process = ran(code)
    assert process.returncode == 0, process.stderr
    held = at_hub(hub)
    assert told() == (State.DONE, Outcome.FINISHED, "")
    assert [row["epoch"] for row in held.rows] == [0, 1]


def test_a_wish_at_the_hub_stops_after_the_iteration(hub: str) -> None:
    """Somebody presses stop behind the third iteration: the fourth of five is the last, and the outcome is `stopped`."""
    process = ran(with_other("import guides; guides.press_stop(hub.session)"))
    assert process.returncode == 0, process.stderr
    assert told() == (State.DONE, Outcome.STOPPED, "")
    assert [row["epoch"] for row in at_hub(hub).rows if row["step"] is None] == [0, 1, 2, 3]


def test_a_training_from_a_model_goes_on_in_its_session(hub: str) -> None:
    """With `init_model=` the iterations are counted on, in the session that broke off."""
    save = 'env.model.save_model("half.txt"); hub.save("half.txt"); raise RuntimeError("boom")'
    ran(with_other(save))
    code = broken(example("lightgbm"), ("train, 5,", "train, 2, init_model='half.txt',"))
    process = ran(code)
    assert process.returncode == 0, process.stderr
    held = at_hub(hub)
    epochs = [(row["epoch"], row["attempt"]) for row in held.rows]
    assert (held.state, epochs) == ("done", [(0, 1), (1, 1), (2, 1), (3, 2), (4, 2)])


def test_a_cross_validation_has_means_and_deviations(hub: str) -> None:
    """`cv()` leaves one session, each iteration's row with the mean and the standard deviation of every metric."""
    code = broken(
        example("lightgbm"),
        (
            "model = lightgbm.train(params, train, 5, valid_sets=[val], callbacks=callbacks)",
            "lightgbm.cv(params, train, 2, callbacks=callbacks)",
        ),
        *NO_FILE,
    )
    process = ran(code)
    assert process.returncode == 0, process.stderr
    assert told() == (State.DONE, Outcome.FINISHED, "")
    names = {"valid/multi_logloss", "valid/multi_logloss-std"}
    assert [set(row["metrics"]) for row in at_hub(hub).rows] == [names, names]


def test_an_estimator_takes_the_callback(hub: str) -> None:
    """The interface of scikit-learn takes it too."""
    code = broken(
        example("lightgbm"),
        (
            "model = lightgbm.train(params, train, 5, valid_sets=[val], callbacks=callbacks)",
            "model = lightgbm.LGBMClassifier(n_estimators=2, n_jobs=2).fit(x_train, y_train, eval_set=[(x_val, y_val)], callbacks=callbacks)",
        ),
        *NO_FILE,
    )
    process = ran(code)
    assert process.returncode == 0, process.stderr
    assert told() == (State.DONE, Outcome.FINISHED, "")
    assert [row["epoch"] for row in at_hub(hub).rows] == [0, 1]
