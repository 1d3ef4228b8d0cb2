"""Transformers for real: the example of its guide, to its end, broken off, stopped, resumed, and in two processes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from children import only_session, told
from guides import at_hub, broken, example, guide_hub, holds_what_was, ran
from processes import ACCELERATE, TALK, TORCHRUN, in_two

from hubstate.journal import recover
from hubstate.snapshots import digest
from hubstate.states import Outcome, State

pytestmark = pytest.mark.trainers

TRAINED = {"loss", "grad_norm", "learning_rate"}
EVALUATED = {"eval_loss", "eval_runtime", "eval_samples_per_second", "eval_steps_per_second"}
SUMMARY = {
    "train_runtime",
    "train_samples_per_second",
    "train_steps_per_second",
    "total_flos",
    "train_loss",
}
END = '    trainer.save_model("model")\n    hub.save("model", kind="final")\n'
OTHER = """
from transformers import TrainerCallback
class Other(TrainerCallback):
    def on_step_end(self, args, state, control, **more):
        if state.global_step == {step} and state.is_world_process_zero:
            {action}
"""
PRESS = "from guides import press_stop; press_stop(hub.session)"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with guide_hub(tmp_path, monkeypatch) as url:
        yield url


def with_other(action: str, *changes: tuple[str, str], step: int = 6) -> str:
    """The example with one more callback, which does something after a step; an epoch has four."""
    other = OTHER.format(action=action, step=step)
    code = broken(example("transformers"), ("callbacks=[hub]", "callbacks=[hub, Other()]"), *changes)
    return broken(code, ("\ndata = ", f"{other}\ndata = "))


def holds_epochs(hub: str, epochs: int) -> None:
    """The hub holds one row for each epoch, with all that Transformers told of it, and the session is done."""
    held = at_hub(hub)
    assert (held.state, held.outcome) == ("done", "finished")
    assert [(row["epoch"], row["step"], row["final"]) for row in held.rows] == [
        (epoch, None, False) for epoch in range(epochs)
    ]
    assert all(row["metrics"].keys() >= TRAINED | EVALUATED for row in held.rows)
    assert [row["metrics"].keys() - TRAINED - EVALUATED for row in held.rows] == [set()] * (epochs - 1) + [
        SUMMARY
    ]


def holds_folder(hub: str, kind: str, folder: str) -> None:
    """The hub holds a folder byte for byte, as the archive that it travels as."""
    assert sha256(at_hub(hub).files[kind]).hexdigest() == digest(Path(folder))


def test_the_example_of_the_guide_arrives_whole(hub: str) -> None:
    """Every epoch's row is at the hub, the saved model byte for byte, and the session is done."""
    process = ran(example("transformers"))
    assert process.returncode == 0, process.stderr
    holds_epochs(hub, 3)
    holds_folder(hub, "final", "model")


def test_without_a_block_a_training_that_ends_by_itself_arrives_whole(hub: str) -> None:
    """The callback alone ends the session with the training; the best checkpoint folder is the final one."""
    code = broken(
        example("transformers"),
        ('with HubstateCallback("sums") as hub:', 'hub = HubstateCallback("sums")\nif True:'),
        (END, ""),
    )
    process = ran(code)
    assert process.returncode == 0, process.stderr
    holds_epochs(hub, 3)
    holds_folder(hub, "final", "weights/checkpoint-12")


def test_what_is_logged_in_between_are_rows_of_steps(hub: str) -> None:
    """With `logging_steps` each logged step is a row of its own, and the evaluation of an epoch is that epoch's row."""
    code = broken(
        example("transformers"),
        ('["logging_strategy", "eval_strategy"', '["eval_strategy"'),
        ("num_train_epochs=3", "num_train_epochs=3, logging_steps=2"),
    )
    process = ran(code)
    assert process.returncode == 0, process.stderr
    rows = at_hub(hub).rows
    steps = [(row["epoch"], row["step"]) for row in rows if row["step"] is not None]
    assert steps == [(0, 2), (0, 4), (1, 6), (1, 8), (2, 10), (2, 12)]
    assert [row["epoch"] for row in rows if row["step"] is None] == [0, 1, 2]


def test_an_evaluation_after_the_training_is_the_final_row(hub: str) -> None:
    """What is evaluated inside of the block when the training is over is a row marked final, and overwrites none."""
    code = broken(
        example("transformers"), ("    trainer.train()\n", "    trainer.train()\n    trainer.evaluate()\n")
    )
    process = ran(code)
    assert process.returncode == 0, process.stderr
    rows = at_hub(hub).rows
    assert [(row["epoch"], row["final"]) for row in rows] == [(0, False), (1, False), (2, False), (2, True)]
    assert rows[-1]["metrics"].keys() == EVALUATED


def test_early_stopping_is_no_wish_of_the_hub(hub: str) -> None:
    """A training that its own criterion ends is finished."""
    code = broken(
        example("transformers"),
        ("import Trainer,", "import EarlyStoppingCallback, Trainer,"),
        ("callbacks=[hub]", "callbacks=[hub, EarlyStoppingCallback(1, 1000.0)]"),
        ('"save_total_limit": 2', '"save_total_limit": 2, "load_best_model_at_end": True'),
    )
    process = ran(code)
    assert process.returncode == 0, process.stderr
    holds_epochs(hub, 2)


def test_an_exception_in_the_middle_is_told(hub: str) -> None:
    """An exception after a step leaves the rows so far, the newest folder, and the reason; the script sees it as ever."""
    process = ran(with_other('raise RuntimeError("boom")'))
    assert "RuntimeError: boom" in process.stderr
    holds_what_was(hub, epochs=1, reason="RuntimeError: boom")
    holds_folder(hub, "last", "weights/checkpoint-4")


def test_ctrl_c_is_told(hub: str) -> None:
    """Ctrl-C in a step ends the session interrupted."""
    ran(with_other("import signal; signal.raise_signal(signal.SIGINT)"))
    holds_what_was(hub, epochs=1, reason="interrupted by Ctrl-C", outcome=Outcome.INTERRUPTED)


def test_a_killed_training_goes_on_in_its_session(hub: str) -> None:
    """After kill -9 in the third epoch `resume_from_checkpoint` goes on there: same session, second attempt, no row twice."""
    killed = ran(with_other("import os; os.kill(os.getpid(), 9)", step=10))
    assert killed.returncode == -9
    process = ran(broken(example("transformers"), (".train()", ".train(resume_from_checkpoint=True)")))
    assert process.returncode == 0, process.stderr
    held = at_hub(hub)
    assert (held.state, held.outcome) == ("done", "finished")
    assert [(row["epoch"], row["attempt"]) for row in held.rows] == [(0, 1), (1, 1), (2, 2)]
    holds_folder(hub, "final", "model")


def test_a_wish_at_the_hub_stops_within_the_epoch(hub: str) -> None:
    """Somebody presses stop: the next step is the last one, the epoch's row still comes, and the outcome is `stopped`."""
    process = ran(with_other(PRESS, step=5))
    assert process.returncode == 0, process.stderr
    assert told() == (State.DONE, Outcome.STOPPED, "")
    assert [row["epoch"] for row in at_hub(hub).rows if row["step"] is None] == [0, 1]
    assert Path("weights/checkpoint-6").is_dir()


def test_a_wish_after_the_last_step_is_no_stop(hub: str) -> None:
    """Pressed when nothing is left to cut, the training is finished."""
    process = ran(with_other(PRESS, step=12))
    assert process.returncode == 0, process.stderr
    assert told() == (State.DONE, Outcome.FINISHED, "")


def test_what_trains_nothing_opens_no_session(hub: str) -> None:
    """`evaluate()` and `predict()` leave nothing."""
    process = ran(
        broken(
            example("transformers"),
            ("trainer.train()", "trainer.evaluate(); trainer.predict(data)"),
            (END, ""),
        )
    )
    assert process.returncode == 0, process.stderr
    assert not Path(".hubstate").exists()


def test_a_training_after_one_that_broke_off_is_another_session(hub: str) -> None:
    """Without a block nobody tells the callback of an exception: its next training says that the end is unknown."""
    code = broken(
        with_other('raise RuntimeError("boom")', step=5),
        ('with HubstateCallback("sums") as hub:', 'hub = HubstateCallback("sums")\nif True:'),
        ("    trainer.train()\n", "    try: trainer.train()\n    except RuntimeError: trainer.train()\n"),
        ("state.global_step == 5", "state.global_step == 5 and not Path('once').exists()"),
        ("raise RuntimeError", "Path('once').touch(); raise RuntimeError"),
        ("import torch\n", "import torch\nfrom pathlib import Path\n"),
        (END, ""),
    )
    process = ran(code)
    assert process.returncode == 0, process.stderr
    folders = sorted(path for path in Path(".hubstate").iterdir() if path.is_dir())
    ends = [recover(folder).memory for folder in folders]
    assert [(end.state, end.outcome) for end in ends] == [
        (State.ABORTED, Outcome.UNKNOWN),
        (State.DONE, Outcome.FINISHED),
    ]


# -- in two processes ------------------------------------------------------------------------------------


def for_two(code: str) -> str:
    """The example for two processes without a GPU."""
    return broken(code, ("num_train_epochs=3", 'num_train_epochs=3, use_cpu=True, ddp_backend="gloo"'))


@pytest.mark.promise("D26")
@pytest.mark.parametrize("launcher", [TORCHRUN, ACCELERATE], ids=["torchrun", "accelerate launch"])
def test_two_processes_have_one_session(hub: str, launcher: tuple[str, ...]) -> None:
    """Of a training in two processes there is one session with each row once; they talk on loopback alone."""
    process = in_two(for_two(with_other(TALK, step=3)), launcher)
    assert process.returncode == 0, process.stderr
    holds_epochs(hub, 3)
    assert only_session().is_dir()
    where = set(json.loads(Path("talk.json").read_text()))
    assert where
    assert where <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def test_two_processes_stop_after_the_same_step(hub: str) -> None:
    """A wish at the hub, which one process hears of, stops both of them; neither waits for the other for ever."""
    process = in_two(for_two(with_other(PRESS, ('_batch_size": 16', '_batch_size": 4'), step=3)))
    assert process.returncode == 0, process.stderr
    assert told() == (State.DONE, Outcome.STOPPED, "")
    # Eight steps make an epoch here: both agree at its end.
    assert [row["epoch"] for row in at_hub(hub).rows if row["step"] is None] == [0]
    assert sorted(path.name for path in Path("weights").iterdir()) == ["checkpoint-8"]
