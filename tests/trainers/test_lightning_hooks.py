"""Lightning's hooks in odd situations: what is left of earlier epochs, files that prove nothing, processes, a logger.

The ordinary ways are recordings (`test_replay.py`), and real trainings (`real/test_lightning.py`).
"""

from __future__ import annotations

import pickle
import sys
import threading
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import pytest
from made_up import load, module
from standin_lightning import LIGHTNING, Callback, Logger, Scalar, trainer

from hubstate.errors import UsageError
from hubstate.events import FitEpochEnd, PretrainRoutineStart, TrainBatchEnd
from hubstate.hubs.base import News
from hubstate.journal import Step, read
from hubstate.states import Outcome, State


class Sums(SimpleNamespace):
    """A module."""


@pytest.fixture
def events(hubstate_directory):
    """What was said to a session, in order, of one kind or all."""

    def said(session, *kinds):
        lines = [line for _, line in read(hubstate_directory / session.id)]
        found = [line.event for line in lines if isinstance(line, Step)]
        return [event for event in found if isinstance(event, kinds or object)]

    return said


@pytest.fixture
def rows(events):
    """Each row's epoch, step and metrics, as they were said."""

    def recorded(session):
        found = events(session, FitEpochEnd, TrainBatchEnd)
        return [(e.epoch, getattr(e, "step", None), e.metrics) for e in found]

    return recorded


def begun(callback, it, pl_module=None):
    """A training that has begun."""
    pl_module = pl_module or Sums()
    it.callbacks = it.callbacks or [callback]
    callback.on_fit_start(it, pl_module)
    callback.on_train_start(it, pl_module)
    return callback


def measured(it, **metrics):
    """Metrics that are put beside those that are there, each another object than any before."""
    it.callback_metrics = {**it.callback_metrics, **{name: Scalar(value) for name, value in metrics.items()}}


def epoch(callback, it, number, **metrics):
    """An epoch in which this is measured."""
    it.current_epoch = number
    callback.on_train_epoch_start(it, None)
    callback.on_train_batch_start(it, None, None, 0)
    if metrics:
        measured(it, **metrics)
    callback.on_train_epoch_end(it, None)


def over(callback, it):
    callback.on_train_end(it, None)
    callback.teardown(it, None, "fit")


# -- rows ------------------------------------------------------------------------------------------------


def test_what_is_left_of_an_earlier_epoch_is_in_no_row(sessions, rows):
    """An epoch without validation has a row without its metrics, though Lightning still shows them."""
    it = trainer()
    callback = begun(LIGHTNING.HubstateCallback(), it)
    epoch(callback, it, 0, train_loss=3.0, val_loss=0.5)
    epoch(callback, it, 1, train_loss=2.0)
    epoch(callback, it, 2, train_loss=1.0, val_loss=0.5)
    over(callback, it)
    assert rows(sessions[0]) == [
        (0, None, {"train_loss": 3.0, "val_loss": 0.5}),
        (1, None, {"train_loss": 2.0}),
        (2, None, {"train_loss": 1.0, "val_loss": 0.5}),
    ]


class Looking(dict):
    """What the training itself measures: as in Lightning, each look puts another object there."""

    def __iter__(self):
        self.update({name: Scalar(value.value) for name, value in self.items() if name in self.own})
        return super().__iter__()

    keys = __iter__

    def __init__(self, values, own):
        self.own = own
        super().__init__({name: Scalar(value) for name, value in values.items()})


def test_what_training_measured_only_in_an_earlier_epoch_is_in_no_row(sessions, rows):
    """A training metric of an earlier epoch is known by its object, which looking does not change any more."""
    it = trainer()
    callback = begun(LIGHTNING.HubstateCallback(), it)
    it.callback_metrics = Looking({"loss": 1.0, "odd": 7.0}, {"loss", "odd"})
    epoch(callback, it, 0)
    it.callback_metrics.own = {"loss"}  # nothing measures `odd` in this epoch
    epoch(callback, it, 1)
    epoch(callback, it, 2)
    assert rows(sessions[0]) == [
        (0, None, {"loss": 1.0, "odd": 7.0}),
        (1, None, {"loss": 1.0}),
        (2, None, {"loss": 1.0}),
    ]


@pytest.mark.parametrize("last", [False, True], ids=["before the next epoch", "at the end"])
def test_what_the_module_measures_at_the_very_end_joins_the_row(sessions, rows, last):
    """What comes after the row was told is told under its epoch, and what the row told already is not repeated."""
    it = trainer()
    callback = begun(LIGHTNING.HubstateCallback(), it)
    epoch(callback, it, 0, loss=1.0)
    measured(it, late=5.0, loss=1.0)
    if last:
        over(callback, it)
    else:
        epoch(callback, it, 1)
    assert rows(sessions[0])[:2] == [(0, None, {"loss": 1.0}), (0, None, {"late": 5.0})]


def test_what_was_measured_before_the_first_epoch_is_no_row(sessions, rows):
    """Nothing joins the row of an epoch that was not told yet."""
    it = trainer()
    callback = begun(LIGHTNING.HubstateCallback(), it)
    measured(it, lr=0.1)
    callback.on_train_epoch_start(it, None)
    over(callback, it)
    assert rows(sessions[0]) == []


def test_a_rehearsal_is_no_training(sessions):
    """`fast_dev_run` opens no session, whatever is called then."""
    it = trainer(fast_dev_run=True)
    callback = begun(LIGHTNING.HubstateCallback(), it)
    epoch(callback, it, 0)
    callback.on_exception(it, None, RuntimeError("boom"))
    over(callback, it)
    assert sessions == []


# -- what a session is opened with -----------------------------------------------------------------------


def test_a_session_is_called_as_the_module_is_and_knows_its_parameters(sessions, events):
    """Saved hyper-parameters of module and data are the configuration, nested ones by joined names; unlogged ones are not."""
    it = trainer(
        max_epochs=-1,
        precision="32-true",
        datamodule=SimpleNamespace(_log_hyperparams=True, hparams_initial={"size": 64}),
    )
    pl_module = Sums(_log_hyperparams=True, hparams_initial={"lr": 0.1, "net": {"width": 3, "path": "/data"}})
    begun(LIGHTNING.HubstateCallback(config={"size": 65}), it, pl_module)
    (opened,) = events(sessions[0], PretrainRoutineStart)
    assert (opened.name, opened.epochs) == ("Sums", None)
    assert opened.config == {
        "max_steps": -1,
        "precision": "32-true",
        "world_size": 1,
        "lr": 0.1,
        "net/width": 3,
        "size": 65,
    }
    it = trainer(max_epochs=7)
    begun(LIGHTNING.HubstateCallback("named"), it, Sums(_log_hyperparams=False, hparams_initial={"lr": 0.1}))
    (opened,) = events(sessions[1], PretrainRoutineStart)
    assert (opened.name, opened.epochs, "lr" in opened.config) == ("named", 7, False)


@pytest.mark.promise("D26")
def test_only_the_first_process_has_a_session(sessions):
    """In any other process the hooks open none, and a batch asks the others all the same."""
    asked = []
    strategy = SimpleNamespace(reduce_boolean_decision=lambda wish, **_named: asked.append(wish) or True)
    it = trainer(is_global_zero=False, world_size=2, strategy=strategy, log_every_n_steps=2)
    callback = begun(LIGHTNING.HubstateCallback(), it)
    callback.on_train_batch_end(it, None, None, None, 0)
    assert (asked, it.should_stop) == ([], False)
    callback.on_train_batch_end(it, None, None, None, 1)
    assert (asked, it.should_stop) == ([False], True)
    assert sessions == []


@pytest.mark.parametrize("broken", ["save", "row"])
def test_what_goes_wrong_in_the_first_process_leaves_no_other_waiting(
    sessions, tmp_path, monkeypatch, broken
):
    """Where nothing can be kept, the first process still looks at the metrics and asks the others, as they do."""
    asked, looks = [], []
    file = tmp_path / "last.ckpt"
    saver = SimpleNamespace(dirpath=str(tmp_path), last_model_path=str(file), monitor=None, mode="min")
    strategy = SimpleNamespace(reduce_boolean_decision=lambda wish, **_named: asked.append(wish))
    more = {"world_size": 2, "strategy": strategy, "checkpoint_callbacks": [saver], "log_every_n_steps": 1}
    it = Watched(looks, **vars(trainer(**more)))

    def full(*_arguments, **_named):
        raise OSError(28, "No space left on device")

    callback = begun(LIGHTNING.HubstateCallback(), it)
    monkeypatch.setattr(callback, broken, full)
    callback.on_train_epoch_start(it, None)
    for hook in ("on_train_epoch_end", "on_train_end"):
        file.write_text(hook)
        callback.on_save_checkpoint(it, None, {})
        looks.clear()
        getattr(callback, hook)(it, None)
        assert looks, f"{hook} looks at the metrics"
    file.write_text("once more")
    callback.on_save_checkpoint(it, None, {})
    callback.on_train_batch_end(it, None, None, None, 0)
    assert asked == [False]


class Watched(SimpleNamespace):
    """A trainer that knows when its metrics are looked at: in several processes all of them have to."""

    def __init__(self, looks, **given):
        vars(self)["looks"] = looks
        super().__init__(**given)

    def __getattribute__(self, name):
        if name == "callback_metrics":
            super().__getattribute__("looks").append(name)
        return super().__getattribute__(name)


# -- stop ------------------------------------------------------------------------------------------------


@pytest.mark.promise("P17")
@pytest.mark.parametrize(
    ("situation", "stops"),
    [
        ({}, True),
        ({"should_stop": True}, False),
        ({"fit_loop": SimpleNamespace(_can_stop_early=False)}, False),
        ({"is_last_batch": True, "current_epoch": 2}, False),
        ({"is_last_batch": True, "current_epoch": 1}, True),
        ({"max_steps": 4, "global_step": 4}, False),
        ({"max_steps": 4, "global_step": 3}, True),
    ],
)
def test_a_wish_stops_a_training_that_it_would_cut(sessions, hubstate_hub, situation, stops):
    """`stopped` is what the hub's wish ended earlier than it would have ended by itself; anything else is finished."""
    it = trainer(**situation)
    callback = begun(LIGHTNING.HubstateCallback(), it)
    hubstate_hub.say(News(stop="pressed"))
    assert sessions[0].flush()
    callback.on_train_batch_end(it, None, None, None, 0)
    assert it.should_stop is (stops or situation.get("should_stop", False))
    over(callback, it)
    assert sessions[0].outcome is (Outcome.STOPPED if stops else Outcome.FINISHED)


# -- the ends --------------------------------------------------------------------------------------------


def test_an_exit_that_lightning_makes_of_sigterm_is_an_interrupt(sessions):
    """SIGTERM comes as an exit without a code, which alone would be an ordinary end."""
    sigterm = type("SIGTERMException", (SystemExit,), {})
    it = trainer()
    begun(LIGHTNING.HubstateCallback(), it).on_exception(it, None, sigterm())
    assert (sessions[0].state, sessions[0].outcome) == (State.ABORTED, Outcome.INTERRUPTED)


def test_a_training_that_was_left_without_a_word_ends_with_the_next(sessions):
    """A second training opens a session of its own, and the first one's end is unknown."""
    it = trainer()
    callback = begun(LIGHTNING.HubstateCallback(), it)
    begun(callback, it)
    assert [session.outcome for session in sessions] == [Outcome.UNKNOWN, Outcome.RUNNING]


def test_a_callback_that_travels_leaves_its_training_behind(sessions):
    """What a started process gets of a callback opens a session of its own or none."""
    it = trainer(lock=threading.Lock())  # something that no other process can have
    callback = begun(LIGHTNING.HubstateCallback("sums"), it)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, LIGHTNING.__name__, LIGHTNING)
        copy = pickle.loads(pickle.dumps(callback))
    assert copy.session is None
    epoch(copy, it, 0, loss=1.0)
    over(copy, it)
    assert (len(sessions), sessions[0].state) == (1, State.TRAINING)


# -- files -----------------------------------------------------------------------------------------------


def saver(place, **more):
    """A checkpoint callback."""
    return SimpleNamespace(**{"dirpath": str(place), "best_model_path": "", "last_model_path": "", **more})


def saves(events, session):
    return [
        (Path(e.path).name, e.epoch, e.fitness) for e in events(session) if type(e).__name__ == "ModelSave"
    ]


def test_a_place_for_files_that_cannot_be_looked_at_costs_no_row(sessions):
    """Where the folder of a checkpoint callback has a name that no folder can have, the training is recorded all the same."""
    it = trainer(checkpoint_callbacks=[SimpleNamespace(dirpath="long" * 99)])
    callback = begun(LIGHTNING.HubstateCallback(), it)
    epoch(callback, it, 0, train_loss=3.0)
    over(callback, it)
    assert (sessions[0].receipt.rows, sessions[0].outcome) == (1, Outcome.FINISHED)


def test_a_file_that_was_there_before_is_not_this_training_s(sessions, events, tmp_path):
    """Of a file that lies where one was announced only the new one counts, not what an earlier training left there."""
    last = tmp_path / "last.ckpt"
    last.write_bytes(b"of an earlier training")
    its = saver(tmp_path, last_model_path=str(last))
    it = trainer(checkpoint_callbacks=[its])
    callback = begun(LIGHTNING.HubstateCallback(), it)
    callback.on_save_checkpoint(it, None, {})
    callback.on_train_batch_start(it, None, None, 0)
    assert saves(events, sessions[0]) == []
    it.current_epoch = 3
    callback.on_save_checkpoint(it, None, {})
    last.write_bytes(b"of this one")
    it.current_epoch = 4
    callback.on_train_batch_start(it, None, None, 0)
    callback.on_train_batch_start(it, None, None, 0)
    assert saves(events, sessions[0]) == [("last.ckpt", 3, None)]


@pytest.mark.parametrize(("mode", "fitness"), [("min", -0.5), ("max", 0.5)])
def test_a_checkpoint_is_judged_by_what_it_monitors(sessions, events, tmp_path, mode, fitness):
    """Each file of a callback has the metric as it was when the file was announced; links and gone files are none."""
    best, link = tmp_path / "best.ckpt", tmp_path / "last.ckpt"
    its = saver(tmp_path, monitor="val", mode=mode, best_k_models={str(best): 1, str(tmp_path / "gone"): 2})
    its.best_model_path, its.last_model_path = str(best), str(link)
    it = trainer(checkpoint_callbacks=[its, SimpleNamespace()])
    callback = begun(LIGHTNING.HubstateCallback(), it)
    measured(it, val=0.5)
    callback.on_save_checkpoint(it, None, {})
    measured(it, val=0.75)
    best.write_bytes(b"weights")
    link.symlink_to(best)
    over(callback, it)
    assert saves(events, sessions[0]) == [("best.ckpt", 0, fitness)]


def test_what_other_code_writes_is_found_between_the_epochs(sessions, events, tmp_path):
    """With `saves=` a file that no checkpoint callback wrote is a checkpoint of its epoch, judged as `fitness=` says."""
    it = trainer()
    (place := tmp_path / "mine").mkdir()
    callback = begun(LIGHTNING.HubstateCallback(saves=place, fitness="-loss"), it)
    for number in (0, 1):
        epoch(callback, it, number, loss=1.0 - number)
        (place / f"{number}.ckpt").write_text("mine")
    callback.on_train_epoch_start(it, None)
    (place / "2.ckpt").write_text("mine")
    callback.on_exception(it, None, RuntimeError("boom"))
    assert saves(events, sessions[0]) == [("0.ckpt", 0, -1.0), ("1.ckpt", 1, 0.0), ("2.ckpt", 1, 0.0)]


def test_what_was_written_before_an_exception_is_kept(sessions, events, tmp_path):
    """A file that was announced last is told of before the session ends."""
    its = saver(tmp_path, last_model_path=str(tmp_path / "last.ckpt"))
    it = trainer(checkpoint_callbacks=[its])
    callback = begun(LIGHTNING.HubstateCallback(), it)
    callback.on_save_checkpoint(it, None, {})
    (tmp_path / "last.ckpt").write_bytes(b"weights")
    callback.on_exception(it, None, RuntimeError("boom"))
    assert saves(events, sessions[0]) == [("last.ckpt", 0, None)]
    assert sessions[0].outcome is Outcome.FAILED


# -- the logger ------------------------------------------------------------------------------------------


def test_a_logger_records_steps_and_not_what_the_epoch_s_row_tells(sessions, rows):
    """What Lightning logs between batches is a step's; at an epoch's end, only what the epoch does not tell itself."""
    logger = LIGHTNING.HubstateLogger()
    it = trainer(loggers=[logger])
    callback = begun(LIGHTNING.HubstateCallback(), it)
    callback.on_train_batch_start(it, None, None, 0)
    logger.log_metrics({"loss": 3.0, "epoch": 0}, 7)
    it.global_step = 9
    callback.on_validation_start(it, None)  # in the middle of the epoch
    measured(it, val=0.5)
    callback.on_validation_end(it, None)
    logger.log_metrics({"val": 0.5})
    it.is_last_batch = True
    callback.on_validation_start(it, None)
    callback.on_validation_end(it, None)
    logger.log_metrics({"val": 0.5, "own": 1.0}, 10)
    over(callback, it)
    logger.log_metrics({"loss": 1.0}, 11)
    assert rows(sessions[0]) == [(0, 7, {"loss": 3.0}), (0, 9, {"val": 0.5}), (0, 10, {"own": 1.0})]


def test_a_logger_beside_a_bare_callback_gives_it_its_arguments(sessions, events):
    """Where the callback was given nothing, what the logger was given counts, hyper-parameters included."""
    logger = LIGHTNING.HubstateLogger("sums", config={"seed": 1})
    logger.log_hyperparams(Namespace(lr=0.1))
    logger.log_hyperparams({"net": {"width": 3}})
    assert (logger.name, logger.version, logger.experiment) == ("sums", "", None)
    callback = begun(LIGHTNING.HubstateCallback(), trainer(loggers=[logger]))
    (opened,) = events(sessions[0], PretrainRoutineStart)
    assert opened.name == "sums"
    assert opened.config.items() >= {"seed": 1, "lr": 0.1, "net/width": 3}.items()
    assert logger.experiment is callback.session is sessions[0]


def test_a_callback_with_arguments_keeps_them(sessions):
    """Where both were given some, those of the callback count, and there is one session."""
    logger = LIGHTNING.HubstateLogger("other")
    begun(LIGHTNING.HubstateCallback("sums"), trainer(loggers=[logger]))
    assert [session.receipt.name for session in sessions] == ["sums"]
    assert LIGHTNING.HubstateLogger().name == "hubstate"


def test_a_logger_alone_brings_its_callback(sessions):
    """Shown a module that is about to be trained, the logger puts its callback among the trainer's, once."""
    logger, other = LIGHTNING.HubstateLogger("sums"), Callback()
    it = trainer(loggers=[logger], callbacks=[other], state=SimpleNamespace(fn="validate"))
    logger.log_graph(Sums(trainer=it))
    assert it.callbacks == [other]
    it.state.fn = "fit"
    logger.log_graph(Sums(trainer=it))
    logger.log_graph(Sums(trainer=it))
    assert it.callbacks[1:] == [other]
    assert [session.state for session in sessions] == [State.SESSION_CREATED]


# -- versions --------------------------------------------------------------------------------------------


def lightning(package, version):
    """`hubstate.trainers.lightning` where this package is installed."""
    parts = [
        module(package, __version__=version, Callback=Callback),
        module(f"{package}.loggers"),
        module(f"{package}.loggers.logger", Logger=Logger),
    ]
    above = [module("lightning")] if package.startswith("lightning") else []
    return load("lightning", *above, *parts)


def test_a_lightning_that_is_too_old_is_named():
    """Whoever has a Lightning that cannot be used hears which one can, before anything is trained."""
    with pytest.raises(UsageError, match=r"lightning 1\.9\.5 is too old: hubstate works with 2\.2 and newer"):
        lightning("lightning.pytorch", "1.9.5").HubstateCallback()


def test_the_package_that_was_imported_first_serves(monkeypatch):
    """Of Lightning's two packages the one that the user's program imported is taken."""
    used = lightning("pytorch_lightning", "2.6.6")
    assert isinstance(used.HubstateCallback(), Callback)
    assert used._PL.__name__ == "pytorch_lightning"


def test_without_lightning_the_import_tells_what_to_install(monkeypatch):
    """Where neither package is installed, the module says how to get it."""
    for name in ("lightning", "lightning.pytorch", "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"pip install 'lightning>=2\.2'"):
        load("lightning")
