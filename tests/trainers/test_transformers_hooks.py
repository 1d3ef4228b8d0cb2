"""Transformers' hooks in odd situations: evaluations anywhere, folders, a wish that several processes agree on.

The ordinary ways are recordings (`test_replay.py`), and real trainings (`real/test_transformers.py`).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from made_up import load, module
from standin_transformers import TRANSFORMERS, TrainerCallback, arguments, state

from hubstate.errors import UsageError
from hubstate.events import FitEpochEnd, ModelSave, PretrainRoutineStart, TrainBatchEnd
from hubstate.hubs.base import News
from hubstate.journal import Step, read
from hubstate.states import Outcome, State


class Training:
    """A trainer's arguments, state and control, and its hooks."""

    def __init__(self, callback, place, **args):
        self.callback = callback
        self.args = arguments(place, **args)
        self.state = state()
        self.control = SimpleNamespace(should_training_stop=False)

    def __call__(self, hook, **named):
        for name in [name for name in named if hasattr(self.state, name)]:
            setattr(self.state, name, named.pop(name))
        getattr(self.callback, hook)(self.args, self.state, self.control, **named)


@pytest.fixture
def training(tmp_path):
    """A training whose callback was given a name alone."""
    return Training(TRANSFORMERS.HubstateCallback("sums"), tmp_path)


@pytest.fixture
def events(hubstate_directory):
    """What was said to a session, in order, of some kinds."""

    def said(session, *kinds):
        lines = [line for _, line in read(hubstate_directory / session.id)]
        return [line.event for line in lines if isinstance(line, Step) and isinstance(line.event, kinds)]

    return said


@pytest.fixture
def rows(events):
    """Each row's epoch, step (`final` for the final one) and metrics, as they were said."""

    def recorded(session):
        found = events(session, FitEpochEnd, TrainBatchEnd)
        return [
            (e.epoch, e.step if isinstance(e, TrainBatchEnd) else "final" if e.final else None, e.metrics)
            for e in found
        ]

    return recorded


# -- rows ------------------------------------------------------------------------------------------------


def test_each_log_belongs_to_its_epoch_or_step(training, sessions, rows):
    """Before the first epoch and within one it is a step's, after an epoch the epoch's, however far that came."""
    training("on_train_begin")
    training("on_log", logs={"eval_loss": 4.0, "epoch": 0})
    training("on_epoch_begin")
    training("on_log", logs={"loss": 3.0, "epoch": 0.5}, epoch=0.5, global_step=2)
    training("on_log", logs={"loss": 2.0, "epoch": 1.0}, epoch=1.0, global_step=4)
    training("on_epoch_end")
    training("on_log", logs={"eval_loss": 2.5, "note": "a word"})
    training("on_epoch_begin")
    training("on_epoch_end", epoch=1.5, global_step=6)
    training("on_log", logs={"train_loss": 2.75})
    training("on_log")
    training("on_train_end")
    assert rows(sessions[0]) == [
        (0, 0, {"eval_loss": 4.0}),
        (0, 2, {"loss": 3.0}),
        (0, 4, {"loss": 2.0}),
        (0, None, {"eval_loss": 2.5}),
        (1, None, {"train_loss": 2.75}),
    ]
    assert sessions[0].state is State.DONE


def test_epochs_of_unknown_length_are_counted(training, sessions, rows):
    """Where the fractions never add up to the next epoch, each beginning is one; a resumed one goes on where it was."""
    training("on_train_begin", num_train_epochs=sys.maxsize, epoch=2.25, global_step=9)
    for _ in range(2):
        training("on_epoch_begin")
        training("on_epoch_end")
        training("on_log", logs={"loss": 1.0})
    assert [epoch for epoch, _step, _metrics in rows(sessions[0])] == [2, 3]


def test_an_evaluation_after_the_training_is_the_final_row_of_the_block(training, sessions, rows):
    """Inside of the block the session waits for the block's end, and what is evaluated there is marked."""
    with training.callback:
        training("on_train_begin")
        training("on_epoch_begin")
        training("on_epoch_end", epoch=1.0)
        training("on_train_end")
        training("on_log", logs={"eval_loss": 1.5})
        assert sessions[0].state is State.TRAINING
    assert rows(sessions[0]) == [(0, "final", {"eval_loss": 1.5})]
    training("on_log", logs={"eval_loss": 1.5})
    assert len(sessions) == 1


# -- what a session is opened with -----------------------------------------------------------------------


class Sums:
    """A model."""


@pytest.mark.parametrize(
    ("given", "run_name", "called"),
    [("sums", "other", "sums"), (None, "other", "other"), (None, None, "Sums")],
)
def test_a_session_has_a_name_and_a_configuration(sessions, events, tmp_path, given, run_name, called):
    """The callback's name, else `run_name`, else the model's class; a trial's parameters beat the arguments."""
    optim = SimpleNamespace(value="adamw_torch")
    training = Training(TRANSFORMERS.HubstateCallback(given), tmp_path, run_name=run_name, optim=optim)
    training(
        "on_train_begin", model=Sums(), num_train_epochs=sys.maxsize, trial_params={"learning_rate": 0.5}
    )
    (opened,) = events(sessions[0], PretrainRoutineStart)
    assert (opened.name, opened.epochs) == (called, None)
    assert opened.config == {"learning_rate": 0.5, "world_size": 1, "optim": "adamw_torch"}


# -- files -----------------------------------------------------------------------------------------------


def saved(folder, step):
    """A checkpoint folder as Transformers writes it."""
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "model.safetensors").write_bytes(b"weights %d" % step)
    return path


@pytest.mark.parametrize(
    ("args", "fitness"),
    [
        ({}, -0.5),
        ({"metric_for_best_model": "loss"}, -0.5),
        ({"metric_for_best_model": "accuracy", "greater_is_better": True}, 0.75),
        ({"metric_for_best_model": "unknown"}, None),
        ({"metric_for_best_model": None}, None),
    ],
)
def test_a_folder_is_judged_by_the_metric_of_its_step(sessions, events, tmp_path, args, fitness):
    """The best is found by `metric_for_best_model`, larger or smaller as told; a step without evaluation has none."""
    training = Training(TRANSFORMERS.HubstateCallback("sums"), tmp_path, **args)
    training("on_train_begin")
    training("on_epoch_begin")
    training("on_log", logs={"loss": 3.0}, global_step=4)
    training("on_log", logs={"eval_loss": 0.5, "eval_accuracy": 0.75})
    saved(tmp_path, 4)
    training("on_save")
    saved(tmp_path, 5)
    training("on_save", global_step=5)
    found = [(Path(e.path).name, e.epoch, e.fitness) for e in events(sessions[0], ModelSave)]
    assert found == [("checkpoint-4", 0, fitness), ("checkpoint-5", 0, None)]


def test_a_search_for_hyper_parameters_has_folders_of_its_own(training, sessions, events, tmp_path):
    """Each trial's checkpoints lie in a folder of the trial: the newest of the step is meant."""
    training("on_train_begin", is_hyper_param_search=True)
    for age, trial in enumerate(["run-1", "run-0"]):
        os.utime(saved(tmp_path / trial, 4), (10 - age, 10 - age))
    training("on_save", global_step=4)
    assert [Path(e.path).parent.name for e in events(sessions[0], ModelSave)] == ["run-1"]


def test_what_other_code_writes_is_found_between_the_epochs(sessions, events, tmp_path):
    """With `saves=` a file that the trainer did not write is a checkpoint of its epoch, judged as `fitness=` says."""
    callback = TRANSFORMERS.HubstateCallback("sums", saves=tmp_path / "*.bin", fitness="-eval_loss")
    training = Training(callback, tmp_path)
    training("on_train_begin")
    for number in (0, 1):
        training("on_epoch_begin", epoch=float(number))
        training("on_epoch_end", epoch=number + 1.0)
        training("on_log", logs={"eval_loss": 1.0 - number})
        (tmp_path / f"{number}.bin").write_text("mine")
    training("on_train_end")
    saves = [(Path(save.path).name, save.epoch, save.fitness) for save in events(sessions[0], ModelSave)]
    assert saves == [("0.bin", 0, -1.0), ("1.bin", 1, 0.0)]


@pytest.mark.promise("D26")
def test_only_the_first_process_tells_of_a_folder(training, sessions, capsys, tmp_path):
    """Every process has its hooks called, and one has a session; of the others nothing is heard."""
    training("on_train_begin", is_world_process_zero=False)
    saved(tmp_path, 4)
    training("on_save", global_step=4)
    training("on_epoch_begin")
    training("on_log", logs={"loss": 1.0})
    training("on_train_end")
    assert sessions == []
    assert capsys.readouterr().err == ""


# -- stop ------------------------------------------------------------------------------------------------


@pytest.mark.promise("P17")
@pytest.mark.parametrize("hook", ["on_step_end", "on_epoch_end"])
@pytest.mark.parametrize("over", [False, True], ids=["in the middle", "when it ends by itself"])
def test_a_wish_stops_a_training_that_it_would_cut(training, sessions, hubstate_hub, hook, over):
    """`stopped` is what the hub's wish ended earlier than it would have ended by itself."""
    training("on_train_begin")
    training("on_epoch_begin")
    hubstate_hub.say(News(stop="pressed"))
    assert sessions[0].flush()
    training.control.should_training_stop = over
    training(hook, global_step=1)
    assert training.control.should_training_stop
    training("on_train_end")
    assert sessions[0].outcome is (Outcome.FINISHED if over else Outcome.STOPPED)


class Processes:
    """PyTorch as far as processes agree by it: what the first one says is what all of them have then."""

    def __init__(self, first):
        self.first = first
        self.asked = []

    def tensor(self, value, device):
        assert device == "cpu"
        return [value]

    def broadcast(self, values, source):
        assert source == 0
        self.asked.append(values[0])
        values[0] = self.first

    def install(self, patch):
        distributed = SimpleNamespace(broadcast=self.broadcast)
        made = module(
            "torch", tensor=lambda value, device: Wish(self.tensor(value, device)), distributed=distributed
        )
        patch.setitem(sys.modules, "torch", made)


class Wish(list):
    """A tensor of one element."""

    def __bool__(self):
        return bool(self[0])


@pytest.mark.parametrize("first", [0, 1])
def test_processes_agree_on_a_wish_now_and_then(sessions, tmp_path, monkeypatch, first):
    """Each tenth step and each epoch's end the first process tells the others whether to stop; no step in between does."""
    processes = Processes(first)
    processes.install(monkeypatch)
    training = Training(TRANSFORMERS.HubstateCallback("sums"), tmp_path, world_size=2, device="cpu")
    training("on_train_begin", is_world_process_zero=False)
    for step in range(1, 10):
        training("on_step_end", global_step=step)
    assert processes.asked == []
    training("on_step_end", global_step=10)
    training("on_epoch_end", global_step=13)
    # Once all know it, nothing has to be agreed on any more.
    assert processes.asked == [0] * (2 - first)
    assert training.control.should_training_stop is bool(first)


# -- versions --------------------------------------------------------------------------------------------


def test_transformers_that_are_too_old_are_named():
    """Whoever has a version that cannot be used hears which one can, before anything is trained."""
    old = load("transformers", module("transformers", __version__="4.30.2", TrainerCallback=TrainerCallback))
    with pytest.raises(UsageError, match=r"transformers 4\.30\.2 is too old: hubstate works with 4\.56"):
        old.HubstateCallback()


def test_without_transformers_the_import_tells_what_to_install(monkeypatch):
    """Where the package is not installed, the module says how to get it."""
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"pip install 'transformers\[torch\]>=4\.56'"):
        load("transformers")
