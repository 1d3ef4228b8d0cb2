"""Ultralytics' hooks where no recording goes: wishes to stop, files of others, copies, old settings, and what goes wrong."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
from standin_ultralytics import package

from hubstate.cli.run import _recorded
from hubstate.errors import UsageError
from hubstate.events import FitEpochEnd, ModelSave, StopRequested, TrainEnd
from hubstate.index import sessions_in
from hubstate.journal import Step, read, recover
from hubstate.states import Outcome, State
from hubstate.trainers.ultralytics import HOOKS, HubstateCallbacks, attach

BATCHES = 3


@pytest.fixture(autouse=True)
def ultralytics(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., None]]:
    """A package of Ultralytics, which can be told other settings, another rank or release; sessions are kept in a folder."""
    monkeypatch.setenv("HUBSTATE_DIR", str(tmp_path / "sessions"))

    def become(version: str = "8.4.190", rank: int = -1, **told: Any) -> None:
        modules = package(version, **told)
        vars(modules["ultralytics.utils"])["RANK"] = rank
        sys.modules.update(modules)

    with patch.dict(sys.modules):
        become()
        yield become


class Yolo:
    """A model whose `train` does what it is told to."""

    model_name = "yolo11n.yaml"

    def __init__(self, script: Callable[[Yolo], None] = lambda _model: None) -> None:
        self.callbacks: dict[str, list[Any]] = {hook: [] for hook in HOOKS}
        self.script = script

    def add_callback(self, event: str, callback: Any) -> None:
        self.callbacks[event].append(callback)

    def train(self) -> None:
        self.script(self)


class Trainer(SimpleNamespace):
    """A trainer of three epochs that writes its weights."""

    def __init__(self, model: Yolo, folder: Path, **changes: Any) -> None:
        super().__init__(
            save_dir=folder / "detect" / "train",
            epochs=3,
            start_epoch=0,
            resume=False,
            stop=False,
            args=SimpleNamespace(imgsz=64, data="/home/me/secret.yaml"),
            train_loader=range(BATCHES),
            metrics={"metrics/mAP50-95(B)": 0.25},
            lr={"lr/pg0": 0.1},
            tloss={"train/box_loss": 1.5},
            label_loss_items=lambda loss, prefix: loss,
            fitness=None,
            best_fitness=None,
        )
        vars(self).update(changes)
        weights = self.save_dir / "weights"
        self.last, self.best = weights / "last.pt", weights / "best.pt"
        weights.mkdir(parents=True, exist_ok=True)
        self._model = model

    def fire(self, *hooks: str) -> None:
        for hook in hooks:
            for callback in self._model.callbacks[hook]:
                callback(self)

    def begin(self) -> None:
        self.fire("on_pretrain_routine_start", "on_pretrain_routine_end", "on_train_start")

    def train(self, epoch: int, fitness: float | None = None, *, save: bool = True) -> None:
        """One epoch; it is left where Ultralytics looks at `stop`."""
        self.epoch = epoch
        self.fire("on_train_epoch_start")
        for _ in self.train_loader:
            self.fire("on_train_batch_end")
            if self.stop:
                break
        self.fitness = fitness
        if fitness is not None:
            self.best_fitness = max(fitness, fitness if self.best_fitness is None else self.best_fitness)
        self.stop |= epoch + 1 == self.epochs
        if save:
            self.last.write_text(f"last {epoch}")
            if self.best_fitness == self.fitness:
                self.best.write_text(f"best {epoch}")
            self.fire("on_model_save")
        self.fire("on_fit_epoch_end")

    def finish(self) -> None:
        self.fire("on_train_end", "teardown")


def steps(folder: Path) -> list[Step]:
    return [line for _, line in read(folder) if isinstance(line, Step)]


def only(tmp_path: Path) -> Path:
    (folder,) = sessions_in(tmp_path / "sessions")
    return folder


def end_of(tmp_path: Path) -> tuple[State, Outcome]:
    memory = recover(only(tmp_path)).memory
    return memory.state, memory.outcome


def wish(link: HubstateCallbacks) -> None:
    """Somebody at the hub presses stop."""
    assert link.session is not None
    link.session.tell(StopRequested, "pressed")


def started(tmp_path: Path, **changes: Any) -> tuple[HubstateCallbacks, Trainer]:
    """A training that has begun."""
    model = Yolo()
    link = attach(model)
    trainer = Trainer(model, tmp_path, **changes)
    trainer.begin()
    return link, trainer


# -- what is attached ------------------------------------------------------------------------------------------


def test_a_release_that_is_too_old_is_named_with_what_is_supported(ultralytics: Callable[..., None]) -> None:
    """The message tells the release, the oldest that works, the newest that was tried, and the way there."""
    ultralytics("8.3.250")
    with pytest.raises(
        UsageError, match=r"8\.3\.250 is too old.*8\.4\.114 and newer.*8\.4\.190.*pip install"
    ):
        attach(Yolo())


def test_what_is_no_model_is_refused() -> None:
    """Whoever attaches to something else is told what is wanted."""
    with pytest.raises(UsageError, match="YOLO"):
        attach("yolo11n.pt")


def test_attaching_again_replaces(tmp_path: Path) -> None:
    """A cell of a notebook that runs twice leaves each hook once, and one session for one training."""
    model = Yolo()
    attach(model, "first")
    link = attach(model, "second")
    assert all(calls == [getattr(link, hook)] for hook, calls in model.callbacks.items())
    trainer = Trainer(model, tmp_path)
    trainer.begin()
    trainer.train(0)
    trainer.finish()
    assert recover(only(tmp_path)).memory.name == "second"


def test_other_callbacks_stay() -> None:
    """What a user added themselves stays where it is."""
    model = Yolo()
    model.add_callback("on_train_end", print)
    attach(model)
    attach(model)
    assert model.callbacks["on_train_end"][0] is print
    assert len(model.callbacks["on_train_end"]) == 2


def test_what_is_told_of_the_arguments_is_plain(tmp_path: Path) -> None:
    """Numbers leave this machine, paths do not."""
    link, _trainer = started(tmp_path)
    config = steps(only(tmp_path))[0].event.config
    assert config == {"imgsz": 64}
    link.broken(RuntimeError("power"))


# -- the way of a training -------------------------------------------------------------------------------------
@pytest.mark.promise("P17")
def test_a_wish_to_stop_is_heeded_between_batches(tmp_path: Path) -> None:
    """The trainer is told behind the next batch, what it measured and saved is kept, and the outcome is `stopped`."""
    link, trainer = started(tmp_path)
    wish(link)
    trainer.train(0)
    assert trainer.stop
    trainer.finish()
    assert end_of(tmp_path) == (State.FINALIZING, Outcome.STOPPED)
    assert [s.event.epoch for s in steps(only(tmp_path)) if isinstance(s.event, FitEpochEnd)] == [0]


@pytest.mark.promise("P17")
def test_several_processes_stop_together(tmp_path: Path, ultralytics: Callable[..., None]) -> None:
    """With several processes the trainer is told at the end of an epoch only, where it tells the others."""
    ultralytics(rank=0)
    link, trainer = started(tmp_path)
    wish(link)
    trainer.epoch = 0
    trainer.fire("on_train_epoch_start", "on_train_batch_end")
    assert not trainer.stop
    trainer.train(0)
    assert trainer.stop
    trainer.finish()


def test_a_wish_that_cuts_nothing_stops_nothing(tmp_path: Path) -> None:
    """In the last batch of the last epoch there is nothing left to stop: the training is finished."""
    link, trainer = started(tmp_path, epochs=1)
    trainer.epoch = 0
    trainer.fire("on_train_epoch_start", *["on_train_batch_end"] * (BATCHES - 1))
    wish(link)
    trainer.fire("on_train_batch_end")
    assert not trainer.stop
    trainer.stop = True
    trainer.fire("on_fit_epoch_end", "on_train_end")
    assert end_of(tmp_path) == (State.FINALIZING, Outcome.FINISHED)


@pytest.mark.promise("D26")
def test_only_the_main_process_has_a_session(tmp_path: Path, ultralytics: Callable[..., None]) -> None:
    """In a process of another rank every hook runs, and nothing is opened."""
    ultralytics(rank=1)
    link, trainer = started(tmp_path)
    trainer.train(0)
    trainer.finish()
    assert link.session is None
    assert not (tmp_path / "sessions").exists()


def test_a_resumed_training_continues_its_session(tmp_path: Path) -> None:
    """Ultralytics resumes: the same session takes a second attempt, which goes on behind its checkpoint."""
    link, trainer = started(tmp_path)
    trainer.train(0, 0.5)
    link.broken(RuntimeError("power"))
    link, trainer = started(tmp_path, resume=True, start_epoch=1, best_fitness=0.5)
    assert link.session is not None
    trainer.train(1, 0.4)
    trainer.train(2, 0.3)
    trainer.finish()
    memory = recover(only(tmp_path)).memory
    assert (memory.attempt, memory.first_epoch, memory.outcome) == (2, 1, Outcome.FINISHED)
    final = [s.event for s in steps(only(tmp_path)) if isinstance(s.event, ModelSave)][-1]
    assert (final.kind.value, final.path, final.epoch) == ("final", str(trainer.best), 0)


def test_the_final_checkpoint_has_the_epoch_of_its_weights(tmp_path: Path) -> None:
    """The best weights were written after the second epoch of three, and are told so, with the metric they reached."""
    _, trainer = started(tmp_path)
    for epoch, fitness in enumerate((0.1, 0.3, 0.2)):
        trainer.train(epoch, fitness)
    trainer.finish()
    saves = [s.event for s in steps(only(tmp_path)) if isinstance(s.event, ModelSave)]
    assert (saves[-1].kind.value, saves[-1].epoch, saves[-1].fitness) == ("final", 1, 0.25)
    assert saves[-1].path == str(trainer.best)


def test_the_weights_of_an_earlier_training_are_not_taken_for_ours(tmp_path: Path) -> None:
    """Where this training wrote no best weights, those that lie in its folder are somebody else's."""
    _, trainer = started(tmp_path)
    trainer.best.write_text("of last week")
    trainer.train(0, 0.9, save=False)
    trainer.train(1, 0.5, save=False)
    trainer.train(2, 0.1)
    trainer.finish()
    saves = [s.event for s in steps(only(tmp_path)) if isinstance(s.event, ModelSave)]
    assert {save.path for save in saves} == {str(trainer.last)}
    assert saves[-1].kind.value == "final"


def test_a_training_that_wrote_nothing_has_no_checkpoint(tmp_path: Path) -> None:
    """With `save=False` and an early end nothing is written, and nothing is named."""
    _, trainer = started(tmp_path)
    trainer.best.write_text("of last week")
    trainer.train(0, 0.9, save=False)
    trainer.finish()
    told = steps(only(tmp_path))
    assert not [step for step in told if isinstance(step.event, ModelSave)]
    assert [step.event.final for step in told if isinstance(step.event, TrainEnd)] == [None]


def test_a_training_that_was_left_without_a_word_is_not_mixed_with_the_next(tmp_path: Path) -> None:
    """Without a block an older release tells of no exception: the next training closes the session, with `unknown`."""
    link, trainer = started(tmp_path)
    trainer.train(0)
    trainer.begin()
    first, second = sessions_in(tmp_path / "sessions")
    assert recover(first).memory.outcome is Outcome.UNKNOWN
    assert recover(second).memory.state is State.TRAINING
    assert link.session is not None
    link.finish()


def test_what_goes_wrong_inside_ends_no_training(tmp_path: Path) -> None:
    """A trainer that lacks what a hook looks at trains on; the session says which hook failed, and the next row comes."""
    link, trainer = started(tmp_path)
    del trainer.lr
    trainer.train(0)
    trainer.lr = {"lr/pg0": 0.1}
    trainer.train(1)
    assert link.session is not None
    conditions = link.session.receipt.conditions
    assert any(c.name == "trainer_module_failing" and "on_fit_epoch_end" in c.reason for c in conditions)
    trainer.finish()
    assert [s.event.epoch for s in steps(only(tmp_path)) if isinstance(s.event, FitEpochEnd)] == [1]


@pytest.mark.parametrize("batches", [3, 100])
def test_what_is_known_of_the_model_is_in_the_first_row(tmp_path: Path, batches: int) -> None:
    """Parameters and the like belong to epoch 0 alone: with it where it is long, else added to it at the end, row and all."""
    torch_utils = sys.modules["ultralytics.utils.torch_utils"]
    vars(torch_utils)["model_info_for_loggers"] = lambda _trainer: {"model/parameters": 7}
    _, trainer = started(tmp_path, train_loader=range(batches))
    trainer.train(0)
    trainer.train(1)
    trainer.finish()
    rows = [s.event for s in steps(only(tmp_path)) if isinstance(s.event, FitEpochEnd)]
    assert [row.epoch for row in rows] == ([0, 1, 0] if batches == 3 else [0, 1])
    told = [row.epoch for row in rows if "model/parameters" in row.metrics]
    assert told == [0]
    whole = rows[0].metrics | {"model/parameters": 7}
    assert [row.metrics for row in rows if row.epoch == 0][-1] == whole


def test_a_model_of_which_nothing_can_be_found_trains_all_the_same(tmp_path: Path) -> None:
    """Where Ultralytics cannot tell, the rows come without it, and the session ends as ever."""
    del vars(sys.modules["ultralytics.utils.torch_utils"])["model_info_for_loggers"]
    _, trainer = started(tmp_path)
    trainer.train(0)
    trainer.finish()
    assert recover(only(tmp_path)).memory.rows == 1
    assert end_of(tmp_path) == (State.FINALIZING, Outcome.FINISHED)


# -- the block -------------------------------------------------------------------------------------------------


def test_a_training_that_fails_before_its_first_callback_is_told(tmp_path: Path) -> None:
    """The block sees that `train` was called and what came of it; the error passes on."""

    def fails(_model: Yolo) -> None:
        raise ValueError("no such device")

    model = Yolo(fails)
    with pytest.raises(ValueError, match="no such device"), attach(model):
        model.train()
    memory = recover(only(tmp_path)).memory
    assert (memory.name, memory.state, memory.reason) == (
        "yolo11n",
        State.ABORTED,
        "ValueError: no such device",
    )


def test_what_other_processes_did_is_theirs_to_tell(tmp_path: Path) -> None:
    """The process that starts others for several devices has no session of its own, also where they fail."""

    def starts_others(_model: Yolo) -> None:
        raise subprocess.CalledProcessError(1, ["python"])

    model = Yolo(starts_others)
    with pytest.raises(subprocess.CalledProcessError), attach(model):
        model.train()
    assert not (tmp_path / "sessions").exists()


def test_an_error_behind_the_end_takes_nothing_from_it(tmp_path: Path) -> None:
    """What breaks in the same call after the training had ended changes no outcome, and opens nothing."""

    def ends_and_breaks(model: Yolo) -> None:
        trainer = Trainer(model, tmp_path)
        trainer.begin()
        trainer.train(0)
        trainer.finish()
        raise FileNotFoundError("best.pt")

    model = Yolo(ends_and_breaks)
    with pytest.raises(FileNotFoundError), attach(model):
        model.train()
    assert end_of(tmp_path) == (State.FINALIZING, Outcome.FINISHED)


def test_predicting_in_a_block_may_fail(tmp_path: Path) -> None:
    """An error that has nothing to do with a training opens no session."""
    with pytest.raises(RuntimeError), attach(Yolo()):
        raise RuntimeError("no such picture")
    assert not (tmp_path / "sessions").exists()


def test_behind_the_block_the_model_is_as_it_was() -> None:
    """The block takes its own `train` away again."""
    model = Yolo()
    with attach(model):
        assert "train" in vars(model)
    assert "train" not in vars(model)


def _tears_down(trainer: Trainer) -> None:
    try:
        raise MemoryError("no memory left")
    finally:
        trainer.fire("teardown")


def test_the_teardown_of_newer_releases_tells_of_an_error(tmp_path: Path) -> None:
    """Without a block: a teardown that happens while an exception is on its way ends the session with it."""
    _, trainer = started(tmp_path)
    with pytest.raises(MemoryError):
        _tears_down(trainer)
    memory = recover(only(tmp_path)).memory
    assert (memory.state, memory.reason) == (State.ABORTED, "MemoryError: no memory left")


# -- copies ----------------------------------------------------------------------------------------------------


def test_the_callbacks_travel_without_session_model_and_key(tmp_path: Path) -> None:
    """Pickled for another process they are small and hold no secret; there they open a session of their own."""
    model = Yolo()
    link = attach(model, "away", api_key="k" * 40)
    trainer = Trainer(model, tmp_path)
    trainer.begin()
    written = pickle.dumps(model.callbacks)
    assert b"k" * 40 not in written
    link.finish()
    arrived = pickle.loads(written)
    there = arrived["on_train_end"][0].__self__
    assert there.session is None
    assert all(calls[0].__self__ is there for calls in arrived.values())
    model.callbacks = arrived
    trainer.begin()
    assert there.session is not None
    there.finish()


def test_a_copy_of_a_model_trains_itself(tmp_path: Path) -> None:
    """A model that is copied inside of a block has callbacks, and a `train`, of its own."""
    trained: list[Yolo] = []
    model = Yolo(trained.append)
    with attach(model):
        twin = copy.deepcopy(model)
        twin.train()
    assert trained == [twin]
    assert twin is not model


# -- settings of before ----------------------------------------------------------------------------------------


def test_hub_off_in_the_old_settings_keeps_a_session_here(
    tmp_path: Path, ultralytics: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`yolo settings hub=False`: nothing is sent, whatever hub the environment names; a hub that is named here is meant."""
    monkeypatch.setenv("HUBSTATE_HUB", "http://127.0.0.1:9")
    ultralytics("8.4.114", hub=False)
    link, _ = started(tmp_path)
    assert link.session is not None
    link.session.close()
    assert recover(only(tmp_path)).memory.hub_wanted is False
    assert _options(Yolo(), hub="http://127.0.0.1:9").get("mode") is None


def _options(model: Yolo, **given: Any) -> dict[str, Any]:
    """What `start` would be given."""
    link = attach(model, **given)
    with patch("hubstate.trainers.link.start", side_effect=lambda _name, **told: told) as start:
        link.open(name="n")
    return dict(start.call_args.kwargs)


def test_a_key_in_the_old_settings_is_shown_to_the_hub_that_this_user_set(
    ultralytics: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the last one that is looked for, and no cloned project gets it, nor any hub a key of Ultralytics Platform."""
    ultralytics("8.4.114", hub=True, api_key="0123456789")
    assert _options(Yolo())["api_key"] is None, "no hub is set"
    assert _options(Yolo(), hub="http://127.0.0.1:9")["api_key"] == "0123456789"
    assert _options(Yolo(), hub="http://127.0.0.1:9", api_key="mine")["api_key"] == "mine"
    Path("hubstate.toml").write_text('hub = "http://elsewhere.test"\n')
    assert _options(Yolo())["api_key"] is None, "a project's file named the hub"
    monkeypatch.setenv("HUBSTATE_HUB", "http://127.0.0.1:9")
    assert _options(Yolo())["api_key"] == "0123456789"
    monkeypatch.setenv("HUBSTATE_API_KEY", "of the environment")
    assert _options(Yolo())["api_key"] is None, "`start` finds that one itself"
    monkeypatch.delenv("HUBSTATE_API_KEY")
    ultralytics(api_key="ul_" + "0a" * 20)
    assert _options(Yolo())["api_key"] is None, "a key of another service"


def test_nothing_of_the_old_settings_is_remembered(ultralytics: Callable[..., None]) -> None:
    """The key is looked up for each training, and never becomes part of what travels."""
    ultralytics("8.4.114", hub=True, api_key="0123456789")
    link = attach(Yolo(), hub="http://127.0.0.1:9")
    with patch("hubstate.trainers.link.start"):
        link.open(name="n")
    assert "0123456789" not in repr(vars(link))


# -- the command -----------------------------------------------------------------------------------------------


def test_yolo_of_this_environment_is_run_with_hubstate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`hubstate run -- yolo ...` runs the command with the callbacks; one of another environment, or another name, as it is."""
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
        (folder / "yolo").write_text("#!/bin/sh\n")
        (folder / "yolo").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(here / "python"))
    monkeypatch.setenv("PATH", str(here))
    python = str(here / "python")
    assert _recorded(["yolo", "train", "-m"]) == [python, "-P", "-m", "hubstate.trainers.yolo", "train", "-m"]
    assert _recorded([str(there / "yolo"), "train"]) == [str(there / "yolo"), "train"]
    assert _recorded(["missing"]) == ["missing"]
    assert _recorded(["sh", "yolo"]) == ["sh", "yolo"]
