"""XGBoost for real (the build for CPUs): the example of its guide, to its end and broken off."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from children import told
from guides import at_hub, broken, example, guide_hub, holds_all, holds_what_was, ran

from hubstate.states import Outcome, State

pytestmark = pytest.mark.trainers

NAMES = {"train/mlogloss", "val/mlogloss"}
OTHER = """
class Other(xgboost.callback.TrainingCallback):
    def after_iteration(self, model, epoch, evals_log):
        if epoch == 2:
            {action}
        return False

with HubstateCallback("""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with guide_hub(tmp_path, monkeypatch) as url:
        yield url


def with_other(action: str) -> str:
    """The example with one more callback, which does something after the third round."""
    return broken(
        example("xgboost"),
        ("callbacks=[hub]", "callbacks=[hub, Other()]"),
        ("\nwith HubstateCallback(", OTHER.format(action=action)),
    )


def test_the_example_of_the_guide_arrives_whole(hub: str) -> None:
    """Every round's row is at the hub, the model file byte for byte, and the session is done."""
    process = ran(example("xgboost"))
    assert process.returncode == 0, process.stderr
    holds_all(hub, epochs=5, names=NAMES, final="model.ubj")


def test_without_a_block_a_training_that_ends_by_itself_is_done(hub: str) -> None:
    """The callback alone ends the session with the training."""
    code = broken(
        example("xgboost"),
        ("with HubstateCallback(", "hub = HubstateCallback("),
        ("config=params) as hub:", "config=params)\nif True:"),
        ('    hub.save("model.ubj", kind="final")\n', ""),
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


def test_an_early_stop_is_no_wish_of_the_hub(hub: str) -> None:
    """A training that its own criterion ends is finished."""
    process = ran(with_other("return True"))
    assert process.returncode == 0, process.stderr
    assert told() == (State.DONE, Outcome.FINISHED, "")
    assert [row["epoch"] for row in at_hub(hub).rows] == [0, 1, 2]


def test_a_wish_at_the_hub_stops_before_the_next_round(hub: str) -> None:
    """Somebody presses stop after the third round: there is no fourth, and the outcome is `stopped`."""
    press = "import guides; guides.press_stop(hub.session)"
    process = ran(with_other(press))
    assert process.returncode == 0, process.stderr
    assert told() == (State.DONE, Outcome.STOPPED, "")
    assert [row["epoch"] for row in at_hub(hub).rows if row["step"] is None] == [0, 1, 2]


def test_the_files_of_a_checkpoint_callback_are_found(hub: str) -> None:
    """What `TrainingCheckPoint` writes arrives; the best one is the one after the best round."""
    code = broken(
        example("xgboost"),
        ("config=params)", 'config=params, saves="kept", fitness="-val/mlogloss")'),
        ("callbacks=[hub]", 'callbacks=[hub, xgboost.callback.TrainingCheckPoint("kept", interval=1)]'),
        ('    model.save_model("model.ubj")\n', ""),
        ('    hub.save("model.ubj", kind="final")\n', ""),
    )
    Path("kept").mkdir()
    process = ran(code)
    assert process.returncode == 0, process.stderr
    newest = max(Path("kept").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    assert at_hub(hub).files["final"] == newest.read_bytes()


def test_a_session_that_is_resumed_counts_its_rounds_on(hub: str) -> None:
    """With `resume=True` and `xgb_model=` the rounds are counted on, in the session that broke off."""
    save = 'model.save_model("half.ubj"); hub.save("half.ubj"); raise RuntimeError("boom")'
    ran(with_other(save))
    code = broken(
        example("xgboost"),
        ("config=params)", "config=params, resume=True)"),
        ("train, 5,", "train, 2, xgb_model='half.ubj',"),
    )
    process = ran(code)
    assert process.returncode == 0, process.stderr
    held = at_hub(hub)
    rows = [(row["epoch"], row["attempt"]) for row in held.rows]
    assert (held.state, rows) == ("done", [(0, 1), (1, 1), (2, 1), (3, 2), (4, 2)])


def test_a_cross_validation_has_means_and_deviations(hub: str) -> None:
    """`cv()` leaves one session, each round's row with the mean and the standard deviation of every metric."""
    code = broken(
        example("xgboost"),
        (
            "model = xgboost.train(params, train, 5, evals=evals, verbose_eval=False, callbacks=[hub])",
            "xgboost.cv(params, train, 2, callbacks=[hub])",
        ),
        ('    model.save_model("model.ubj")\n', ""),
        ('    hub.save("model.ubj", kind="final")\n', ""),
    )
    process = ran(code)
    assert process.returncode == 0, process.stderr
    assert told() == (State.DONE, Outcome.FINISHED, "")
    names = {f"{data}/mlogloss{end}" for data in ("train", "test") for end in ("", "-std")}
    assert [set(row["metrics"]) for row in at_hub(hub).rows] == [names, names]


def test_an_estimator_takes_the_callback(hub: str) -> None:
    """The interface of scikit-learn takes it too, cloned and in parallel as it likes."""
    code = broken(
        example("xgboost"),
        (
            "model = xgboost.train(params, train, 5, evals=evals, verbose_eval=False, callbacks=[hub])",
            "clone(xgboost.XGBClassifier(n_estimators=2, callbacks=[hub])).fit(x_train, y_train, eval_set=[(x_val, y_val)])",
        ),
        ("import xgboost\n", "import xgboost\nfrom sklearn.base import clone\n"),
        ('    model.save_model("model.ubj")\n', ""),
        ('    hub.save("model.ubj", kind="final")\n', ""),
    )
    process = ran(code)
    assert process.returncode == 0, process.stderr
    assert told() == (State.DONE, Outcome.FINISHED, "")
    assert [row["epoch"] for row in at_hub(hub).rows] == [0, 1]
