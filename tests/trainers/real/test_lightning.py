"""Lightning for real: the example of its guide, to its end, broken off, stopped, resumed, and in two processes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from children import only_session, told
from guides import at_hub, broken, example, guide_hub, holds_all, holds_what_was, ran
from processes import ITSELF, TALK, TORCHRUN, in_two

from hubstate.events import PretrainRoutineStart
from hubstate.journal import Step, read, recover
from hubstate.states import Outcome, State

pytestmark = pytest.mark.trainers

NAMES = {"train_loss", "train_loss_epoch", "train_loss_step", "val_loss"}
CALLBACKS = '[HubstateCallback("sums"), keep]'
OTHER = """
class Other(L.Callback):
    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        if (trainer.current_epoch, index) == ({epoch}, 1) and trainer.is_global_zero:
            {action}
"""
PRESS = "from guides import press_stop; press_stop(trainer.callbacks[0].session)"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with guide_hub(tmp_path, monkeypatch) as url:
        yield url


def with_other(action: str, *changes: tuple[str, str], epoch: int = 1, more: str = "") -> str:
    """The example with one more callback, which does something in the second batch of an epoch."""
    other = OTHER.format(action=action, epoch=epoch)
    callbacks = (CALLBACKS, f'[HubstateCallback("sums"), keep, Other(){more}]')
    return broken(example("lightning"), callbacks, ("\ndata = ", f"{other}\ndata = "), *changes)


def with_logger(code: str, callbacks: str = "keep]", logger: str = "HubstateLogger()") -> str:
    """The example with the logger, too."""
    return broken(
        code,
        ("import HubstateCallback\n", "import HubstateCallback, HubstateLogger\n"),
        (f"{callbacks}).fit", f"{callbacks}, logger={logger}).fit"),
    )


def each_step(code: str, callbacks: str = "keep]") -> str:
    return broken(with_logger(code, callbacks), ("max_epochs=3", "max_epochs=3, log_every_n_steps=1"))


def configuration() -> dict[str, Any]:
    """What the only session was opened with."""
    opened = (line.event for _, line in read(only_session()) if isinstance(line, Step))
    return next(event.config for event in opened if isinstance(event, PretrainRoutineStart))


def newest_best() -> str:
    """The only file of the best epoch."""
    (best,) = Path("weights").glob("epoch=*.ckpt")
    return str(best)


def test_the_example_of_the_guide_arrives_whole(hub: str) -> None:
    """Every epoch's row is at the hub, the best file byte for byte, and the session is done."""
    process = ran(example("lightning"))
    assert process.returncode == 0, process.stderr
    holds_all(hub, epochs=3, names=NAMES, final=newest_best())


def test_the_other_package_of_lightning_serves_as_well(hub: str) -> None:
    """With `pytorch_lightning` in place of `lightning` the same arrives."""
    code = broken(
        example("lightning"),
        ("import lightning as L", "import pytorch_lightning as L"),
        ("L.pytorch.callbacks", "L.callbacks"),
    )
    process = ran(code)
    assert process.returncode == 0, process.stderr
    holds_all(hub, epochs=3, names=NAMES, final=newest_best())


def test_a_logger_alone_brings_its_callback(hub: str) -> None:
    """A trainer that was given the logger and no callback is recorded the same way."""
    code = broken(example("lightning"), (CALLBACKS, "[keep]"))
    code = with_logger(code, "keep]", 'HubstateLogger("sums")')
    process = ran(code)
    assert process.returncode == 0, process.stderr
    holds_all(hub, epochs=3, names=NAMES, final=newest_best())


def test_the_logger_records_steps_and_what_the_model_was_made_with(hub: str) -> None:
    """Each step's row is at the hub once beside the epochs' rows, which it does not repeat; so are the hyper-parameters."""
    saved = (
        "def __init__(self):\n        super().__init__()\n",
        "def __init__(self, lr=0.25):\n        super().__init__(); self.save_hyperparameters()\n",
    )
    process = ran(broken(each_step(example("lightning")), saved))
    assert process.returncode == 0, process.stderr
    rows = at_hub(hub).rows
    steps = [row for row in rows if row["step"] is not None]
    assert [(row["epoch"], row["step"]) for row in steps] == [(step // 4, step) for step in range(12)]
    assert all(set(row["metrics"]) == {"train_loss_step"} for row in steps)
    assert [row["epoch"] for row in rows if row["step"] is None] == [0, 1, 2]
    assert (configuration()["lr"], configuration()["world_size"]) == (0.25, 1)


def test_early_stopping_is_no_wish_of_the_hub(hub: str) -> None:
    """A training that its own criterion ends is finished, and its last epoch's row and file are there."""
    stopper = ', L.pytorch.callbacks.EarlyStopping("val_loss", min_delta=1000, patience=1)'
    process = ran(with_other("pass", more=stopper))
    assert process.returncode == 0, process.stderr
    holds_all(hub, epochs=2, names=NAMES, final=newest_best())


def test_an_exception_in_the_middle_is_told(hub: str) -> None:
    """An exception in a batch leaves the rows so far, the newest file, and the reason; the script sees it as ever."""
    process = ran(with_other('raise RuntimeError("boom")'))
    assert "RuntimeError: boom" in process.stderr
    holds_what_was(hub, epochs=1, reason="RuntimeError: boom")
    assert at_hub(hub).files["last"] == Path(newest_best()).read_bytes()


def test_ctrl_c_is_told(hub: str) -> None:
    """Ctrl-C in a batch ends the session interrupted, though Lightning makes an exit of it."""
    process = ran(with_other("import signal; signal.raise_signal(signal.SIGINT)"))
    assert process.returncode == 1
    holds_what_was(hub, epochs=1, reason="interrupted by Ctrl-C", outcome=Outcome.INTERRUPTED)


def test_sigterm_is_told(hub: str) -> None:
    """SIGTERM, of which Lightning makes an exit without a code, ends the session interrupted all the same."""
    ran(with_other("import signal; signal.raise_signal(signal.SIGTERM)"))
    holds_what_was(hub, epochs=1, reason="ended by SIGTERM", outcome=Outcome.INTERRUPTED)


def test_a_killed_training_goes_on_in_its_session(hub: str) -> None:
    """After kill -9 in the third epoch, `ckpt_path="last"` goes on there: same session, second attempt, no row twice."""
    killed = ran(with_other("import os; os.kill(os.getpid(), 9)", epoch=2))
    assert killed.returncode == -9
    process = ran(broken(example("lightning"), ("data, data)", 'data, data, ckpt_path="last")')))
    assert process.returncode == 0, process.stderr
    held = at_hub(hub)
    assert (held.state, held.outcome) == ("done", "finished")
    assert [(row["epoch"], row["attempt"]) for row in held.rows] == [(0, 1), (1, 1), (2, 2)]
    assert held.files["final"] == Path(newest_best()).read_bytes()


def test_a_wish_at_the_hub_stops_within_the_epoch(hub: str) -> None:
    """Somebody presses stop: the next batch is the last one, the epoch's row still comes, and the outcome is `stopped`."""
    process = ran(each_step(with_other(PRESS), "Other()]"))
    assert process.returncode == 0, process.stderr
    assert told() == (State.DONE, Outcome.STOPPED, "")
    rows = at_hub(hub).rows
    assert [row["epoch"] for row in rows if row["step"] is None] == [0, 1]
    assert max(row["step"] for row in rows if row["epoch"] == 1 and row["step"] is not None) == 6


def test_a_wish_that_ends_nothing_earlier_is_no_stop(hub: str) -> None:
    """Pressed where Lightning does not go below `min_epochs`, nothing is cut, and the training is finished."""
    code = with_other(PRESS, ("max_epochs=3", "max_epochs=3, min_epochs=3"))
    process = ran(code)
    assert process.returncode == 0, process.stderr
    assert told() == (State.DONE, Outcome.FINISHED, "")


def test_a_row_holds_what_its_epoch_measured(hub: str) -> None:
    """No row shows a metric of an earlier epoch; what the module logs at the very end, and learning rates, are in."""
    before = "    def configure_optimizers"
    late = f"""    def on_train_epoch_end(self):
        self.log("late", float(self.current_epoch))
    def on_train_batch_start(self, batch, index):
        if self.current_epoch % 2:
            self.log("odd", float(self.current_epoch), on_step=False, on_epoch=True)
{before}"""
    rate = ', L.pytorch.callbacks.LearningRateMonitor("epoch")'
    code = with_other(
        "pass",
        (before, late),
        ('monitor="val_loss", ', ""),
        ("max_epochs=3", "max_epochs=4, check_val_every_n_epoch=2"),
        more=rate,
    )
    process = ran(code)
    assert process.returncode == 0, process.stderr
    rows = [row for row in at_hub(hub).rows if row["step"] is None]
    training = {"train_loss", "train_loss_epoch", "train_loss_step", "late", "lr-SGD"}
    assert [set(row["metrics"]) - training for row in rows] == [
        set(),
        {"val_loss", "odd"},
        set(),
        {"val_loss", "odd"},
    ]
    assert all(set(row["metrics"]) >= training for row in rows)
    assert [row["metrics"]["late"] for row in rows] == [0.0, 1.0, 2.0, 3.0]
    assert [row["metrics"]["odd"] for row in rows[1::2]] == [1.0, 3.0]


def test_what_trains_nothing_opens_no_session(hub: str) -> None:
    """`validate()` and `predict()`, and a rehearsal by `fast_dev_run`, leave nothing, with callback and logger there."""
    code = broken(
        with_logger(example("lightning")),
        (".fit(Sums(), data, data)", ".validate(Sums(), data, verbose=False)"),
    )
    process = ran(code)
    assert process.returncode == 0, process.stderr
    process = ran(broken(example("lightning"), ("max_epochs=3", "max_epochs=3, fast_dev_run=True")))
    assert process.returncode == 0, process.stderr
    assert not Path(".hubstate").exists()


def test_two_trainings_of_one_trainer_are_two_sessions(hub: str) -> None:
    """One callback serves a second `fit()`, which has a session of its own."""
    code = broken(example("lightning"), ("L.Trainer(", "trainer = L.Trainer("), (").fit(", ")\ntrainer.fit("))
    code += "trainer.fit_loop.max_epochs = 5\ntrainer.fit(Sums(), data, data)\n"
    process = ran(code)
    assert process.returncode == 0, process.stderr
    folders = [path for path in Path(".hubstate").iterdir() if path.is_dir()]
    assert sorted(recover(folder).memory.rows for folder in folders) == [2, 3]
    assert {recover(folder).memory.state for folder in folders} == {State.DONE}


# -- in two processes ------------------------------------------------------------------------------------


def for_two(code: str) -> str:
    """The example for two processes."""
    return broken(code, ("max_epochs=3", 'max_epochs=3, accelerator="cpu", devices=2, strategy="ddp"'))


@pytest.mark.promise("D26")
@pytest.mark.parametrize("launcher", [TORCHRUN, ITSELF], ids=["torchrun", "Lightning itself"])
def test_two_processes_have_one_session(hub: str, launcher: tuple[str, ...]) -> None:
    """Of a training in two processes there is one session with each row once; they talk on loopback alone."""
    process = in_two(for_two(with_other(TALK)), launcher)
    assert process.returncode == 0, process.stderr
    holds_all(hub, epochs=3, names=NAMES, final=newest_best())
    assert configuration()["world_size"] == 2
    where = set(json.loads(Path("talk.json").read_text()))
    assert where <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    assert where


def test_two_processes_stop_after_the_same_batch(hub: str) -> None:
    """A wish at the hub, which one process hears of, stops both of them; neither waits for the other for ever."""
    process = in_two(for_two(each_step(with_other(PRESS, epoch=0), "Other()]")))
    assert process.returncode == 0, process.stderr
    assert told() == (State.DONE, Outcome.STOPPED, "")
    steps = [(row["epoch"], row["step"]) for row in at_hub(hub).rows if row["metrics"].keys() - {"pressed"}]
    # Each of them has two batches in an epoch: pressed after the second one, the third is the last.
    assert steps == [(0, 0), (0, 1), (0, None), (1, 2), (1, None)]


def test_a_disk_that_is_full_leaves_no_process_waiting(hub: str) -> None:
    """Where the first of two processes can keep no file, both look at the metrics as ever: all rows are there."""
    full = "import hubstate.trainers.link as link\ndef full(*_, **__): raise OSError(28, 'full')\nlink.Link.save = full\n"
    code = broken(
        each_step(example("lightning")),
        ("on_epoch=True", "on_epoch=True, sync_dist=True"),  # to look needs both of them
        (
            "save_last=True",
            "save_last=True, save_on_train_epoch_end=False",
        ),  # it is saved before the row is told
    )
    process = in_two(full + for_two(code))
    assert process.returncode == 0, process.stderr
    assert told() == (State.DONE, Outcome.FINISHED, "")
    assert [row["epoch"] for row in at_hub(hub).rows if row["step"] is None] == [0, 1, 2]
    assert "_written: OSError: [Errno 28] full" in process.stderr
