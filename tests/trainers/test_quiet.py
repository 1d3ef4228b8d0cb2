"""Trainers that tell little: the block around them, the files that they write, and each one's hooks in odd situations.

The ordinary ways are recordings (`test_replay.py`), and real trainings (`real/`).
"""

from __future__ import annotations

import copy
import os
import sys
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import pytest
from made_up import load, module
from standin_ignite import DISTRIBUTED, IGNITE, Engine, Events
from standin_keras import KERAS
from standin_lightgbm import LIGHTGBM, EarlyStopException
from standin_xgboost import COLLECTIVE, XGBOOST

from hubstate.errors import UsageError
from hubstate.events import FitEpochEnd, TrainBatchEnd
from hubstate.hubs.base import News
from hubstate.journal import Step, read
from hubstate.states import CheckpointKind, Outcome, State
from hubstate.trainers.quiet import QuietLink


@pytest.fixture
def rows(hubstate_directory):
    """What was recorded in a session: each row's epoch, step (`final` for the final one) and metrics."""

    def recorded(session):
        found = []
        for _, line in read(hubstate_directory / session.id):
            if not isinstance(line, Step) or not line.row:
                continue
            event = line.event
            assert isinstance(event, FitEpochEnd | TrainBatchEnd)
            step = event.step if isinstance(event, TrainBatchEnd) else "final" if event.final else None
            found.append((event.epoch, step, event.metrics))
        return found

    return recorded


@pytest.fixture
def saves(hubstate_directory):
    """The checkpoints that a session was told of: each with its file's name, epoch and fitness."""

    def told(session):
        events = [line.event for _, line in read(hubstate_directory / session.id) if isinstance(line, Step)]
        return [(Path(e.path).name, e.epoch, e.fitness) for e in events if type(e).__name__ == "ModelSave"]

    return told


def press_stop(session, hub):
    """Somebody wishes that the training stops, and the session has heard of it."""
    hub.say(News(stop="pressed"))
    assert session.flush()
    assert session.stop_requested


def left_by(link, error):
    """A block is left by an exception, which it lets pass."""
    assert link.__exit__(type(error), error, error.__traceback__) is None


def begun(link, **named):
    link.started()
    link.open(**named)
    link.begin()
    return link


def test_a_place_that_cannot_be_looked_at_costs_no_session(sessions, rows):
    """A pattern that is longer than a file's name may be finds nothing; the training is recorded all the same."""
    Path("kept").mkdir()
    link = begun(QuietLink(saves="kept/" + "-".join(f"{{metric_{number}:.4f}}" for number in range(30))))
    link.row(0, {"loss": 0.5})
    link.ended()
    assert rows(sessions[0]) == [(0, None, {"loss": 0.5})]


# -- files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "place", ["kept", "kept/*.pt", "kept/{epoch:02d}.pt", "kept/{epoch:02d}-{val_loss:.2f}*", "kept/0?.pt"]
)
def test_what_is_written_between_two_epochs_is_found(sessions, saves, place):
    """A folder, a pattern of the shell, and one as `ModelCheckpoint` takes it; the epoch is the one recorded last."""
    Path("kept").mkdir()
    link = begun(QuietLink(saves=place))
    for epoch in range(2):
        link.found()
        Path(f"kept/0{epoch}-0.50.pt" if "-" in place else f"kept/0{epoch}.pt").write_text(f"after {epoch}")
        link.row(epoch, {"loss": 0.5})
    link.ended()
    assert [epoch for _name, epoch, _ in saves(sessions[0])] == [0, 1]


def test_one_file_that_is_written_again_is_found_again(sessions, saves):
    """A file that is replaced each time is a checkpoint each time, and one that stays as it was is none."""
    link = begun(QuietLink(saves="last.pt"))
    for epoch, text in enumerate(("one", "two!", "two!")):
        if not Path("last.pt").exists() or Path("last.pt").read_text() != text:
            Path("last.pt").write_text(text)
        link.row(epoch, {"loss": 0.5})
        link.found()
    assert saves(sessions[0]) == [("last.pt", 0, None), ("last.pt", 1, None)]


def test_what_lay_there_before_the_training_is_none_of_its(sessions, saves):
    """Files of an earlier run prove nothing; hidden ones and those of a writer under way are passed over."""
    Path("kept").mkdir()
    Path("kept/old.pt").write_text("old")
    link = begun(QuietLink(saves="kept"))
    Path("kept/.new.pt.part").write_text("torn")
    link.row(0, {"loss": 0.5})
    link.ended()
    assert saves(sessions[0]) == []


def test_a_folder_is_one_checkpoint(sessions, saves):
    """What is found may be a folder; it counts as changed when a file in it did."""
    link = begun(QuietLink(saves="kept/*"))
    link.row(0, {"loss": 0.5})
    for text in ("one", "two!"):
        Path("kept/model").mkdir(parents=True, exist_ok=True)
        Path("kept/model/part.bin").write_text(text)
        link.found()
    assert saves(sessions[0]) == [("model", 0, None)] * 2


def test_several_files_are_told_as_they_were_written(sessions, saves):
    """The newest comes last, whatever its name: it is the one to go on from."""
    link = begun(QuietLink(saves="kept"))
    link.row(0, {"loss": 0.5})
    Path("kept").mkdir()
    for name, time in (("b", 1), ("c", 3), ("a", 2)):
        Path("kept", name).write_text(name)
        os.utime(Path("kept", name), (time, time))
    link.found()
    assert [name for name, _, _ in saves(sessions[0])] == ["b", "a", "c"]


def test_what_cannot_be_taken_keeps_nothing_else_from_being_taken(sessions, saves, hubstate_directory):
    """A folder that holds the session itself is refused, and the file beside it is a checkpoint all the same."""
    link = begun(QuietLink(saves=hubstate_directory.parent))
    link.row(0, {"loss": 0.5})
    later = hubstate_directory.parent / "later.pt"
    later.write_text("whole")
    os.utime(later, (2**33, 2**33))  # it comes last
    link.found()
    found = [name for name, _, _ in saves(sessions[0])]
    assert (hubstate_directory.name in found, found[-1]) == (False, "later.pt")


def test_a_link_that_leads_nowhere_is_no_checkpoint(sessions, saves):
    """What cannot be looked at is passed over, and the training goes on."""
    Path("kept").mkdir()
    link = begun(QuietLink(saves="kept"))
    Path("kept/latest.pt").symlink_to("gone.pt")
    link.row(0, {"loss": 0.5})
    link.ended()
    assert saves(sessions[0]) == []
    assert sessions[0].outcome is Outcome.FINISHED


@pytest.mark.parametrize(("fitness", "best"), [("accuracy", 1), ("-loss", 2), (None, 3)])
def test_the_best_is_found_by_the_metric_that_is_named(sessions, saves, hubstate_hub, fitness, best):
    """Larger is better, with a minus in front smaller is; without a metric the newest is the final one."""
    link = begun(QuietLink(saves="last.pt", fitness=fitness))
    measured = [(0.5, 0.5), (0.9, 0.4), (0.8, 0.1), (0.7, 0.2)]
    for epoch, (accuracy, loss) in enumerate(measured):
        link.row(epoch, {"loss": loss})
        link.row(epoch, {"accuracy": accuracy})  # of the same epoch, measured elsewhere
        Path("last.pt").write_text(f"after {epoch}")
        os.utime("last.pt", (epoch, epoch))
        link.found()
    link.ended()
    assert hubstate_hub.final == sha256(f"after {best}".encode()).hexdigest()


def test_a_metric_that_was_not_measured_says_nothing(sessions, saves):
    """The file is a checkpoint all the same."""
    link = begun(QuietLink(saves="last.pt", fitness="accuracy"))
    link.row(0, {"loss": 0.5})
    Path("last.pt").write_text("one")
    link.found()
    assert saves(sessions[0]) == [("last.pt", 0, None)]


def test_before_the_first_epoch_nothing_is_a_checkpoint_of_it(sessions, saves):
    """A file that is written before anything was recorded belongs to no epoch; it is found after the first one."""
    link = begun(QuietLink(saves="last.pt"))
    Path("last.pt").write_text("initial")
    link.found()
    assert saves(sessions[0]) == []


@pytest.mark.parametrize(
    "wrong", [{"fitness": ""}, {"fitness": "-"}, {"fitness": 3}, {"saves": ""}, {"saves": 3}], ids=str
)
def test_wrong_arguments_are_refused(wrong):
    """They are named where the user wrote them."""
    with pytest.raises(UsageError, match=next(iter(wrong))):
        QuietLink(**wrong)


# -- the block -------------------------------------------------------------------------------------------


def test_what_is_saved_in_the_block_belongs_to_the_training(sessions, hubstate_hub):
    """Inside of the block the session outlives the trainer's own end, so that the file written then is its final one."""
    with QuietLink() as link:
        begun(link).row(0, {"loss": 0.5})
        link.ended()
        Path("model.bin").write_text("the model")
        link.save("model.bin", kind="final")
    assert (sessions[0].state, sessions[0].outcome) == (State.DONE, Outcome.FINISHED)
    assert hubstate_hub.final == sha256(b"the model").hexdigest()


def test_without_a_block_the_trainers_end_is_the_end(sessions):
    """The session is done when the last hook returns."""
    link = begun(QuietLink())
    link.ended()
    assert (link.session, sessions[0].state) == (None, State.DONE)


def test_what_goes_wrong_after_the_training_takes_nothing_from_it(sessions):
    """An exception in the block behind the trainer's end is raised, and the training stays finished."""
    link = QuietLink()
    begun(link.__enter__()).ended()
    left_by(link, ZeroDivisionError())
    assert (sessions[0].state, sessions[0].outcome) == (State.DONE, Outcome.FINISHED)


def test_an_end_that_fails_behind_the_training_hides_no_error(sessions, monkeypatch, capsys):
    """Where hubstate itself fails at the end of the block, the error that left it is the one that the script sees."""
    link = QuietLink()
    begun(link.__enter__()).ended()
    monkeypatch.setattr(type(sessions[0]), "finish", lambda *_more: 1 // 0)
    left_by(link, OSError())
    assert "_leave: ZeroDivisionError" in capsys.readouterr().err


def test_an_exception_finds_the_newest_file(sessions, saves):
    """What was written after the last look is there to go on from."""
    link = QuietLink(saves="last.pt")
    begun(link.__enter__()).row(0, {"loss": 0.5})
    Path("last.pt").write_text("one")
    left_by(link, ZeroDivisionError())
    assert saves(sessions[0]) == [("last.pt", 0, None)]
    assert sessions[0].state is State.ABORTED


def test_several_trainings_in_one_block_are_sessions_of_their_own(sessions, rows):
    """The next training ends the session of the one before it."""
    with QuietLink() as link:
        for loss in (0.5, 0.25):
            begun(link).row(0, {"loss": loss})
            link.ended()
    assert [rows(session) for session in sessions] == [[(0, None, {"loss": loss})] for loss in (0.5, 0.25)]
    assert [session.outcome for session in sessions] == [Outcome.FINISHED] * 2


def test_a_training_that_ended_without_a_word_is_unknown(sessions):
    """If another one begins on the same callback, nobody knows what became of the first: it is not called finished."""
    link = begun(QuietLink())
    begun(link)
    first, second = sessions
    assert (first.state, first.outcome) == (State.ABORTED, Outcome.UNKNOWN)
    assert "another training began" in first.receipt.reason
    assert second.state is State.TRAINING


def test_a_copy_belongs_to_no_block(sessions):
    """What a search over parameters copies ends each training for itself, also inside of somebody's block."""
    with QuietLink() as link:
        begun(link)
        other = begun(copy.deepcopy(link))
        other.ended()
        assert (sessions[1].state, sessions[0].state) == (State.DONE, State.TRAINING)


# -- every module ----------------------------------------------------------------------------------------

MODULES = {"keras": KERAS, "xgboost": XGBOOST, "lightgbm": LIGHTGBM, "ignite": IGNITE}


@pytest.mark.parametrize("name", MODULES)
def test_a_trainer_that_is_not_installed_is_named(name, monkeypatch):
    """Whoever imports a module without its trainer reads what to install."""
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match="pip install"):
        load(name)


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("version", ["0.4.13", "master"])
def test_a_trainer_that_is_too_old_is_named(name, version, monkeypatch):
    """An unknown or too old version is refused when the callback is made, with the range that works."""
    monkeypatch.setattr(getattr(MODULES[name], name), "__version__", version)
    with pytest.raises(UsageError, match=r"hubstate works with|was tried"):
        MODULES[name].HubstateCallback()


@pytest.mark.parametrize("steps", [0, -1, True, "3", 1.0])
@pytest.mark.parametrize("found", [KERAS, IGNITE], ids=["keras", "ignite"])
def test_a_wrong_number_of_steps_is_refused(found, steps):
    """It is a whole number, 1 or more."""
    with pytest.raises(UsageError, match="steps"):
        found.HubstateCallback(steps=steps)


# -- Keras -----------------------------------------------------------------------------------------------


@pytest.fixture
def keras():
    """A callback of a fit with two epochs of two batches that is about to begin."""

    def made(**options):
        callback = KERAS.HubstateCallback(**options)
        optimizer = SimpleNamespace(iterations=0, get_config=lambda: {"name": "adam", "learning_rate": 0.1})
        callback.set_model(SimpleNamespace(name="net", stop_training=False, optimizer=optimizer))
        callback.set_params({"verbose": 0, "epochs": 2, "steps": 2})
        callback.on_train_begin()
        return callback

    return made


def fit(callback, epochs=range(2), meanwhile=lambda _epoch, _batch: None):
    """What Keras calls; it ends early where it is told to."""
    for epoch in epochs:
        callback.on_epoch_begin(epoch, logs=None)
        for batch in range(2):
            callback.on_train_batch_begin(batch, logs=None)
            callback.model.optimizer.iterations += 1
            meanwhile(epoch, batch)
            callback.on_train_batch_end(batch, logs={"loss": 0.5})
            if callback.model.stop_training:
                break
        callback.on_epoch_end(epoch, logs={"loss": 0.5})
        if callback.model.stop_training:
            break
    callback.on_train_end(logs={"loss": 0.5})


def test_keras_tells_name_epochs_and_settings(sessions, keras, hubstate_hub):
    """The session is called as the model, and knows the planned epochs and the optimizer."""
    fit(keras())
    (opened,) = [p.action for p in hubstate_hub.holds.values() if p.action.key.endswith("/open")]
    assert (opened.name, opened.epochs) == ("net", 2)
    assert opened.config == {"batches": 2, "name": "adam", "learning_rate": 0.1}


@pytest.mark.promise("P17")
def test_keras_stops_between_batches(sessions, keras, rows, hubstate_hub):
    """A wish to stop cuts the epoch; its row still comes."""
    fit(keras(), meanwhile=lambda _epoch, batch: batch or press_stop(sessions[0], hubstate_hub))
    assert [epoch for epoch, _, _ in rows(sessions[0])] == [0]
    assert sessions[0].outcome is Outcome.STOPPED


def test_keras_is_not_stopped_by_a_wish_in_its_last_batch(sessions, keras, hubstate_hub):
    """Where nothing is left to cut, the training came to its own end."""
    fit(
        keras(),
        meanwhile=lambda epoch, batch: (epoch, batch) == (1, 1) and press_stop(sessions[0], hubstate_hub),
    )
    assert sessions[0].outcome is Outcome.FINISHED


def test_keras_steps_are_counted_as_the_optimizer_counts(sessions, keras, rows):
    """With `steps` every so many batches are a row of the step."""
    fit(keras(steps=2))
    assert [(epoch, step) for epoch, step, _ in rows(sessions[0]) if step] == [(0, 2), (1, 4)]


def test_keras_with_an_initial_epoch_continues_its_session(sessions, keras, rows):
    """What broke off goes on as the next attempt of the same session."""
    callback = keras()
    callback.on_epoch_begin(0)
    callback.on_epoch_end(0, logs={"loss": 0.5})
    left_by(callback, KeyboardInterrupt())
    fit(callback, epochs=[1])
    assert sessions[1].id == sessions[0].id
    assert sessions[1].receipt.attempt == 2


# -- XGBoost ---------------------------------------------------------------------------------------------


def booster(rounds=0):
    return SimpleNamespace(num_boosted_rounds=lambda: rounds)


def boost(callback, rounds, had=0, meanwhile=lambda _epoch: None):
    """What XGBoost calls."""
    model, history = booster(had), {"val": {"auc": []}}
    callback.before_training(model=model)
    for epoch in range(rounds):
        if callback.before_iteration(model, epoch, history):
            break
        history["val"]["auc"].append(epoch / 10)
        meanwhile(epoch)
        assert callback.after_iteration(model, epoch, history) is False
    callback.after_training(model=model)


@pytest.mark.promise("P17")
def test_xgboost_stops_before_the_next_round(sessions, rows, hubstate_hub):
    """A wish to stop ends the training before another round begins."""
    boost(XGBOOST.HubstateCallback(), 3, meanwhile=lambda _: press_stop(sessions[0], hubstate_hub))
    assert rows(sessions[0]) == [(0, None, {"val/auc": 0.0})]
    assert sessions[0].outcome is Outcome.STOPPED


@pytest.mark.parametrize(("resume", "first"), [(None, 0), (False, 0), (True, 4)])
def test_xgboost_counts_on_only_where_it_is_told_to(sessions, rows, resume, first):
    """XGBoost counts a continued model's rounds from 0: so do new sessions, and one that is resumed counts on."""
    boost(XGBOOST.HubstateCallback(resume=resume), 2, had=4)
    assert [epoch for epoch, _, _ in rows(sessions[0])] == [first, first + 1]


def test_xgboost_tells_means_and_deviations(sessions, rows):
    """A cross-validation has pairs."""
    callback = XGBOOST.HubstateCallback()
    callback.before_training(model=booster())
    callback.after_iteration(booster(), 0, {"test": {"rmse": [(0.5, 0.1)]}})
    assert rows(sessions[0]) == [(0, None, {"test/rmse": 0.5, "test/rmse-std": 0.1})]


@pytest.mark.promise("D26")
def test_xgboost_records_in_the_first_process_alone(sessions, monkeypatch):
    """The workers of a distributed training are asked for their rank."""
    monkeypatch.setattr(COLLECTIVE, "rank", 1)
    boost(XGBOOST.HubstateCallback(), 2)
    assert sessions == []


# -- LightGBM --------------------------------------------------------------------------------------------


def environment(iteration, begin=0, end=3, results=(("valid_0", "auc", 0.5, True),)):
    return SimpleNamespace(
        params={"learning_rate": 0.1, "metric": ["auc"]},
        iteration=iteration,
        begin_iteration=begin,
        end_iteration=end,
        evaluation_result_list=results,
    )


@pytest.mark.promise("P17")
def test_lightgbm_stops_as_early_stopping_does(sessions, hubstate_hub):
    """A wish to stop is told by LightGBM's own exception, which carries the iteration and what it measured."""
    with LIGHTGBM.HubstateCallback() as callback:
        callback(environment(0))
        press_stop(sessions[0], hubstate_hub)
        with pytest.raises(EarlyStopException) as stopped:
            callback(environment(1))
    assert stopped.value.args == (1, (("valid_0", "auc", 0.5, True),))
    assert sessions[0].outcome is Outcome.STOPPED


def test_lightgbm_ends_with_a_wish_to_stop(sessions, hubstate_hub):
    """Without a block, too, a training that was stopped at the hub is over: LightGBM tells nobody afterwards."""
    callback = LIGHTGBM.HubstateCallback()
    callback(environment(0))
    press_stop(sessions[0], hubstate_hub)
    with pytest.raises(EarlyStopException):
        callback(environment(1))
    assert (sessions[0].state, sessions[0].outcome) == (State.DONE, Outcome.STOPPED)


def test_lightgbm_ends_with_its_last_iteration(sessions, hubstate_hub):
    """Without a block the last planned iteration is the end, and a wish to stop that comes then stopped nothing."""
    callback = LIGHTGBM.HubstateCallback()
    for iteration in range(3):
        if iteration == 2:
            press_stop(sessions[0], hubstate_hub)
        callback(environment(iteration))
    assert (sessions[0].state, sessions[0].outcome) == (State.DONE, Outcome.FINISHED)
    assert sessions[0].receipt.name == "lightgbm"


def test_lightgbm_from_a_model_continues_its_session(sessions, rows):
    """Iterations are counted on by LightGBM itself."""
    callback = LIGHTGBM.HubstateCallback()
    callback(environment(0))
    left_by(callback, KeyboardInterrupt())
    callback(environment(3, begin=3, end=4))
    assert sessions[1].receipt.attempt == 2
    assert [epoch for epoch, _, _ in rows(sessions[1])] == [0, 3]


@pytest.mark.parametrize(
    ("results", "metrics"),
    [
        ((("valid", "auc", 0.5, True, 0.1),), {"valid/auc": 0.5, "valid/auc-std": 0.1}),
        ((("valid", "auc", 0.5, True, None),), {"valid/auc": 0.5}),
    ],
)
def test_lightgbm_tells_means_and_deviations(sessions, rows, results, metrics):
    """A cross-validation has a deviation beside each mean; newer releases always have the place for it."""
    LIGHTGBM.HubstateCallback()(environment(0, results=results))
    assert rows(sessions[0]) == [(0, None, metrics)]


def test_lightgbm_without_data_to_validate_has_no_rows(sessions, rows):
    """An iteration that measures nothing is none."""
    LIGHTGBM.HubstateCallback()(environment(0, results=None))
    assert rows(sessions[0]) == []
    assert sessions[0].state is State.TRAINING


# -- Ignite ----------------------------------------------------------------------------------------------


@pytest.fixture
def engines():
    """A trainer of two epochs and an evaluator."""
    return Engine(max_epochs=2), Engine()


def run_until(trainer, epoch, iteration, *events):
    """Lets a trainer come so far and fire something."""
    trainer.state.epoch, trainer.state.iteration = epoch, iteration
    for event in events:
        trainer.fire(event)


@pytest.mark.promise("P17")
def test_ignite_terminates_before_the_next_iteration(sessions, engines, hubstate_hub):
    """A wish to stop is told to the trainer between two iterations."""
    trainer, evaluator = engines
    IGNITE.HubstateCallback().attach(trainer, evaluator)
    run_until(trainer, 0, 0, Events.STARTED)
    run_until(trainer, 1, 1, Events.EPOCH_STARTED, Events.ITERATION_STARTED)
    assert trainer.should_terminate is False
    press_stop(sessions[0], hubstate_hub)
    run_until(trainer, 1, 2, Events.ITERATION_STARTED)
    assert trainer.should_terminate is True
    run_until(trainer, 1, 2, Events.TERMINATE, Events.COMPLETED)
    assert sessions[0].outcome is Outcome.STOPPED


def test_ignite_without_its_last_event_ends_all_the_same(sessions, engines):
    """A run that is terminated so that nothing is completed has ended, too."""
    trainer, _ = engines
    IGNITE.HubstateCallback().attach(trainer)
    run_until(trainer, 0, 0, Events.STARTED)
    trainer.should_terminate = "skip_completed"
    run_until(trainer, 1, 2, Events.TERMINATE)
    assert (sessions[0].state, sessions[0].outcome) == (State.DONE, Outcome.FINISHED)


def test_ignite_leaves_a_decision_about_exceptions_to_those_who_were_asked(sessions, engines):
    """Beside another handler it raises nothing; the session ends aborted all the same."""
    trainer, _ = engines
    IGNITE.HubstateCallback().attach(trainer)
    decided = []
    trainer.add_event_handler(Events.EXCEPTION_RAISED, lambda _engine, error: decided.append(error))
    run_until(trainer, 0, 0, Events.STARTED)
    error = RuntimeError("boom")
    trainer.fire(Events.EXCEPTION_RAISED, error)
    assert decided == [error]
    assert (sessions[0].state, sessions[0].receipt.reason) == (State.ABORTED, "RuntimeError: boom")


def test_ignite_tells_whose_metrics_they_are_and_of_when(sessions, engines, rows):
    """Before the first epoch nothing, in its middle the iteration's, at its end the epoch's, after the run the final ones."""
    trainer, evaluator = engines
    evaluator.state.metrics = {"loss": 0.5}
    with IGNITE.HubstateCallback().attach(trainer, {"val": evaluator}):
        run_until(trainer, 0, 0, Events.STARTED)
        evaluator.fire(Events.COMPLETED)
        run_until(trainer, 1, 3, Events.ITERATION_COMPLETED)
        evaluator.fire(Events.COMPLETED)
        trainer.state.metrics = {"running": 0.75}
        run_until(trainer, 1, 4, Events.EPOCH_COMPLETED)
        evaluator.fire(Events.COMPLETED)
        run_until(trainer, 1, 4, Events.COMPLETED)
        evaluator.fire(Events.COMPLETED)
    assert rows(sessions[0]) == [
        (0, 3, {"val/loss": 0.5}),
        (0, None, {"running": 0.75}),
        (0, None, {"val/loss": 0.5}),
        (0, "final", {"val/loss": 0.5}),
    ]


@pytest.mark.parametrize(
    ("output", "metrics"), [(0.5, {"output": 0.5}), ({"loss": 0.5, "y": []}, {"loss": 0.5})]
)
def test_ignite_steps_are_what_an_iteration_put_out(sessions, engines, rows, output, metrics):
    """With `steps` every so many iterations are a row: the one number, or those of a mapping."""
    trainer, _ = engines
    IGNITE.HubstateCallback(steps=2).attach(trainer)
    run_until(trainer, 0, 0, Events.STARTED)
    trainer.state.output = output
    for iteration in (1, 2, 3):
        run_until(trainer, 1, iteration, Events.ITERATION_COMPLETED)
    assert rows(sessions[0]) == [(0, 2, metrics)]


def test_ignite_with_a_loaded_state_continues_its_session(sessions, engines):
    """A state that has iterations behind it was loaded, or goes on."""
    trainer, _ = engines
    callback = IGNITE.HubstateCallback().attach(trainer)
    run_until(trainer, 0, 0, Events.STARTED)
    with pytest.raises(RuntimeError):
        trainer.fire(Events.EXCEPTION_RAISED, RuntimeError("boom"))
    run_until(trainer, 1, 4, Events.STARTED, Events.COMPLETED)
    assert callback.session is None
    assert sessions[1].receipt.attempt == 2


@pytest.mark.promise("D26")
def test_ignite_records_in_the_first_process_alone(sessions, engines, monkeypatch):
    """The processes of a distributed training are asked for their rank."""
    trainer, _ = engines
    monkeypatch.setattr(DISTRIBUTED, "rank", 1)
    IGNITE.HubstateCallback().attach(trainer)
    run_until(trainer, 0, 0, Events.STARTED, Events.EPOCH_COMPLETED, Events.COMPLETED)
    assert sessions == []


def test_what_is_kept_of_a_training_is_what_was_written(sessions, hubstate_hub):
    """A checkpoint that is found is kept by the rules of every checkpoint: the first one, and the newest as the final."""
    with QuietLink(saves="last.pt") as link:
        begun(link)
        for epoch in range(3):
            link.row(epoch, {"loss": 0.5})
            Path("last.pt").write_text(f"after {epoch}")
            os.utime("last.pt", (epoch, epoch))
            link.found()
    final = [action.epoch for action, _ in hubstate_hub.files if action.kind is CheckpointKind.FINAL]
    assert final == [2]


def test_a_made_up_trainer_leaves_nothing_behind():
    """The stand-ins hide no real trainer from other tests: nothing of them is among the loaded modules."""
    assert module("keras").__name__ not in sys.modules or sys.modules["keras"] is not KERAS.keras
    assert "hubstate.trainers.keras" not in sys.modules


def test_an_exception_in_another_process_is_nobodys_here(sessions, monkeypatch):
    """Where nothing was opened, nothing is ended, whatever leaves the block."""
    monkeypatch.setattr(COLLECTIVE, "rank", 1)
    callback = XGBOOST.HubstateCallback().__enter__()
    boost(callback, 1)
    left_by(callback, RuntimeError("boom"))
    assert sessions == []
