"""What every trainer module leans on: a session opened, fed and ended with its training, behind one fence."""

from __future__ import annotations

import copy
import pickle
import sys
from fractions import Fraction
from hashlib import sha256
from math import inf, nan
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import hubstate.trainers.link
from hubstate.errors import UsageError
from hubstate.events import FitEpochEnd, TrainBatchEnd, TrainStart
from hubstate.hubs.base import News
from hubstate.journal import Step, read
from hubstate.limits import Limits
from hubstate.overview import look
from hubstate.states import CheckpointKind, Outcome, State
from hubstate.trainers.link import FAILING, Link, fenced, numbers, plain, supported


class Trainer(Link):
    """A module's callback with one hook, in which something may go wrong."""

    @fenced
    def hook(self, error: BaseException | None = None) -> str:
        """Raises what it is given."""
        if error is not None:
            raise error
        return "done"


@pytest.fixture
def link(sessions):
    """A link whose training goes on."""
    link = Trainer("digits")
    link.open(epochs=3)
    link.begin()
    return link


def steps(directory, session):
    """The steps of a session's journal."""
    return [line for _, line in read(directory / session.id) if isinstance(line, Step)]


def rows(directory, session):
    return [step.event for step in steps(directory, session) if step.row]


# -- the fence -------------------------------------------------------------------------------------------


def test_a_hook_that_fails_raises_nothing(link, capsys):
    """Whatever goes wrong inside of a hook, the trainer gets None and goes on; the person is told once."""
    assert link.hook() == "done"
    assert link.hook(ZeroDivisionError("by zero")) is None
    assert link.hook(ZeroDivisionError("by zero")) is None
    assert capsys.readouterr().err.count("hook: ZeroDivisionError: by zero") == 1
    link.row(0, {"loss": 0.5})
    assert link.session.receipt.rows == 1


def test_a_failure_whose_words_change_is_told_once(link, sessions, hubstate_directory, capsys):
    """A hook that fails in each batch fills neither the terminal nor the journal, though each time it names another value."""
    for number in range(50):
        link.hook(ValueError(f"no number: <Average object at {number:#x}>"))
    assert capsys.readouterr().err.count("hook: ValueError") == 1
    told = [
        step
        for step in steps(hubstate_directory, sessions[0])
        if getattr(step.event, "condition", "") == FAILING
    ]
    assert len(told) == 1
    link.hook(OSError("another kind is told"))
    assert "another kind is told" in capsys.readouterr().err
    link.finish()


def test_a_failure_is_shown_by_the_session(link, sessions, hubstate_directory):
    """`status` shows that a trainer's module failed and why, and verify accepts the journal that says so."""
    link.hook(OSError("no space left"))
    link.finish()
    shown = look(hubstate_directory / sessions[0].id).receipt.conditions
    assert [(c.name, c.reason) for c in shown if c.name == FAILING] == [
        (FAILING, "hook: OSError: no space left")
    ]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
def test_what_ends_a_process_passes_the_fence(link, error):
    """Ctrl-C and sys.exit belong to the user, also in the middle of a hook."""
    with pytest.raises(type(error)):
        link.hook(error)


def test_a_failure_that_cannot_even_be_told_raises_nothing(link, monkeypatch):
    """A session that is broken, or a stderr that is closed, breaks no training either."""
    monkeypatch.setattr(sys, "stderr", None)
    monkeypatch.setattr(link.session, "tell", lambda *_, **__: 1 / 0)
    assert link.hook(ValueError("bad")) is None


def test_a_failure_of_the_training_before_is_told_again(link, sessions, hubstate_directory):
    """Each training's session shows its own failures, also if one link serves both."""
    for _ in range(2):
        link.open()
        link.hook(ValueError("bad"))
        link.finish()
    for session in sessions:
        assert FAILING in {c.name for c in look(hubstate_directory / session.id).receipt.conditions}


def test_a_hub_that_cannot_be_meant_breaks_no_training(monkeypatch, capsys):
    """Settings that cannot be used are told by the first hook, and the training goes on without a session."""
    monkeypatch.setenv("HUBSTATE_LIMIT_METRICS", "often")
    link = Link("digits")
    opening = fenced(Link.open)
    assert opening(link) is None
    link.begin()
    link.row(0, {"loss": 0.5})
    link.finish()
    assert "HUBSTATE_LIMIT_METRICS" in capsys.readouterr().err


@pytest.mark.parametrize("error", [None, RuntimeError("boom"), KeyboardInterrupt()])
def test_a_block_whose_end_fails_lets_the_script_go_on(link, sessions, monkeypatch, capsys, error):
    """Where hubstate itself fails at the end of a block the script goes on, or sees its own error and no other."""
    session, leave = sessions[0], type(sessions[0]).__exit__
    with monkeypatch.context() as patch:
        patch.setattr(type(session), "__exit__", lambda *_more: 1 // 0)
        assert link.__exit__(error and type(error), error, None) is None
    assert "_leave: ZeroDivisionError" in capsys.readouterr().err
    leave(session, None, None, None)


# -- travelling ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("travel", [copy.deepcopy, lambda link: pickle.loads(pickle.dumps(link))])
def test_a_link_travels_without_its_session(link, sessions, travel):
    """What is copied into another process, while a training goes on too, has no session and can open one of its own."""
    arrived = travel(link)
    assert (link.session, arrived.session) == (sessions[0], None)
    arrived.row(0, {"loss": 0.5})
    arrived.open()
    assert [session.id for session in sessions] == [link.session.id, arrived.session.id]
    assert look_at_names(sessions) == ["digits", "digits"]


def look_at_names(sessions):
    return [session.receipt.name for session in sessions]


def test_one_link_serves_several_trainings(link, sessions, hubstate_directory):
    """Two trainings one after the other are two sessions, each with its own rows."""
    link.row(0, {"loss": 0.5})
    link.finish()
    link.row(7, {"loss": 7.0})  # between two trainings
    link.open(epochs=1)
    link.begin()
    link.row(0, {"loss": 0.25})
    link.finish()
    measured = [[row.metrics["loss"] for row in rows(hubstate_directory, s)] for s in sessions]
    assert measured == [[0.5], [0.25]]
    assert [s.state for s in sessions] == [State.DONE, State.DONE]


def test_a_training_opens_one_session(link, sessions):
    """A hook that is called again opens nothing: the session that is open is the training's."""
    assert link.open(name="another") is sessions[0]
    assert len(sessions) == 1


# -- ranks -----------------------------------------------------------------------------------------------


def test_a_process_that_is_not_the_main_one_keeps_nothing(sessions, capsys):
    """Where the trainer says that this is not the main process nothing is opened, and nothing that follows says a word."""
    link = Link("digits")
    assert link.open(main=False) is None
    link.begin()
    link.row(0, {"loss": 0.5})
    link.save("nowhere.pt", 0)
    assert link.wants_stop() is False
    link.finish()
    assert sessions == []
    assert capsys.readouterr().err == ""


def test_a_rank_in_the_environment_is_heard(monkeypatch):
    """A trainer that guards nothing itself keeps nothing in the other processes of a torchrun."""
    monkeypatch.setenv("RANK", "1")
    with Link("digits") as link:
        link.open()
        link.begin()
        link.row(0, {"loss": 0.5})
        assert link.session.state is State.IDLE
    assert not Path(".hubstate").exists()


# -- the way of a training -------------------------------------------------------------------------------


def test_a_session_is_called_as_the_user_says_or_else_as_the_trainer_does(sessions):
    """The name of the link, else that of the training; and the planned epochs."""
    for link in (Link(), Link("mine")):
        link.open(name="theirs", epochs=7)
    assert look_at_names(sessions) == ["theirs", "mine"]


def test_settings_of_the_trainer_leave_only_where_they_are_plain(sessions, hubstate_hub):
    """What the user gives as config leaves whole and wins; of the trainer's own settings no path and no key."""
    link = Link("digits", config={"lr": 0.1, "note": "a long and free text: mine"})
    link.open(config={"lr": 0.2, "batch": 8, "data": "/home/me/data", "hub_token": "abc"})
    link.finish()
    (opened,) = [p.action for p in hubstate_hub.holds.values() if p.action.key.endswith("/open")]
    assert opened.config == {"lr": 0.1, "note": "a long and free text: mine", "batch": 8}


def test_a_resumed_training_continues_its_session(link, sessions):
    """Where the trainer resumes, the newest session of the name goes on; where it does not, a new one begins."""
    link.abort(RuntimeError("the power is gone"))
    for resumed in (True, False):
        link.open(resumed=resumed)
        link.finish()
    first, again, new = sessions
    assert again.id == first.id
    assert again.receipt.attempt == 2
    assert new.id != first.id


@pytest.mark.parametrize(("resume", "attempt"), [(False, 1), (True, 2)])
def test_the_user_decides_about_resuming(sessions, resume, attempt):
    """`resume=` beats what the trainer says."""
    link = Link("digits", resume=resume)
    link.open()
    link.abort(RuntimeError("the power is gone"))
    link.open(resumed=not resume)
    assert sessions[1].receipt.attempt == attempt


@pytest.mark.promise("D29")
def test_an_illegal_event_is_a_value(link, sessions, hubstate_directory, capsys):
    """What has no place changes nothing, is in the journal, is told once, and the training goes on."""
    link.tell(TrainStart)
    link.tell(TrainStart)
    link.row(0, {"loss": 0.5})
    assert capsys.readouterr().err.count("hubstate.illegal_event") == 1
    assert [step.illegal for step in steps(hubstate_directory, sessions[0])].count(True) == 2
    assert sessions[0].receipt.rows == 1


def test_the_training_begins_once(link, sessions, hubstate_directory):
    """However often a module says that the training begins, nothing is illegal."""
    link.begin()
    assert sessions[0].state is State.TRAINING
    assert not any(step.illegal for step in steps(hubstate_directory, sessions[0]))


def test_rows_are_epochs_steps_and_a_final_one(link, sessions, hubstate_directory):
    """What is no number is left out, and without any number there is no row; NaN is a value."""
    link.row(0, {"loss": nan, "name": "a", "table": [1]})
    link.row(0, {"name": "a"})
    link.row(0, {}, step=3)
    link.row(0, {"lr": 0.1}, step=4)
    link.row(1, {"loss": 1}, final=True)
    epoch, step, final = rows(hubstate_directory, sessions[0])
    assert epoch == FitEpochEnd(epoch.at, 0, {"loss": None}, {"loss": "NaN"})
    assert step == TrainBatchEnd(step.at, 0, 4, {"lr": 0.1})
    assert final == FitEpochEnd(final.at, 1, {"loss": 1}, {}, final=True)


# -- checkpoints -----------------------------------------------------------------------------------------


def test_a_checkpoint_is_copied_before_the_trainer_goes_on(link, hubstate_hub):
    """The copy is of the file as it was; a fitness that is no number says nothing."""
    file = Path("last.pt")
    file.write_text("one")
    link.save(file, 0, fitness=nan)
    link.save(file, 0, fitness=0.5)
    file.write_text("stripped")
    link.row(0, {"loss": 0.5})
    link.finish()
    ((final, digest),) = hubstate_hub.files
    assert (final.kind, final.fitness) == (CheckpointKind.FINAL, 0.5)
    assert digest == sha256(b"one").hexdigest()


def test_a_file_belongs_to_the_epoch_recorded_last(link, sessions):
    """A caller who names no epoch means the one that was recorded last."""
    link.row(2, {"loss": 0.5})
    Path("model.json").write_text("{}")
    link.save("model.json", kind="final")
    assert sessions[0].last_checkpoint.epoch == 2


def test_a_file_from_before_the_training_is_none_of_it(sessions):
    """What is written while the training is prepared is no checkpoint of it, and nothing is illegal."""
    link = Link("digits")
    link.open()
    Path("initial.pt").write_text("random")
    link.save("initial.pt", 0)
    link.begin()
    assert sessions[0].last_checkpoint is None


def test_a_file_that_nobody_can_take_is_told(link, capsys):
    """Saving outside of a training is no silence; it is told once."""
    link.finish()
    capsys.readouterr()
    link.save("model.json")
    link.save("model.json")
    assert capsys.readouterr().err.count("hubstate.checkpoint_not_taken") == 1


def test_a_file_that_comes_too_early_is_told(sessions, capsys):
    """What is saved while a training is still prepared is not taken, and that is no silence either; later files are."""
    link = Trainer("digits")
    link.open(epochs=3)
    Path("model.json").write_text("{}")
    link.save("model.json")
    assert capsys.readouterr().err.count("hubstate.checkpoint_not_taken") == 1
    link.begin()
    link.save("model.json", 0)
    assert sessions[0].last_checkpoint is not None
    link.finish()


# -- ends ------------------------------------------------------------------------------------------------


def test_a_wish_to_stop_is_heeded_by_whoever_asks(link, sessions, hubstate_hub):
    """The outcome is `stopped` where the wish was handed to the trainer."""
    assert link.wants_stop() is False
    hubstate_hub.say(News(stop="pressed"))
    assert sessions[0].flush()
    assert link.wants_stop() is True
    link.finish()
    assert (sessions[0].state, sessions[0].outcome) == (State.DONE, Outcome.STOPPED)


def test_a_wish_that_cannot_be_looked_at_is_none(link, sessions, monkeypatch):
    """Asking raises nothing: where several processes train, the others wait for the answer."""

    def broken():
        raise RuntimeError("broken")

    monkeypatch.setattr(sessions[0], "heed_stop", broken)
    assert link.wants_stop() is False


def test_a_wish_that_nobody_heard_of_stopped_nothing(link, sessions, hubstate_hub):
    """A training that came to its own end is `finished`, whatever was wished meanwhile."""
    hubstate_hub.say(News(stop="pressed"))
    assert sessions[0].flush()
    link.finish()
    assert (sessions[0].state, sessions[0].outcome) == (State.DONE, Outcome.FINISHED)


ENDS = [
    (RuntimeError("boom"), Outcome.FAILED, "RuntimeError: boom"),
    (KeyboardInterrupt(), Outcome.INTERRUPTED, "interrupted by Ctrl-C"),
    (SystemExit(3), Outcome.FAILED, "the process ended by sys.exit(3)"),
]


@pytest.mark.parametrize(("error", "outcome", "reason"), ENDS)
def test_an_exception_that_a_hook_tells_of_aborts(link, sessions, error, outcome, reason):
    """The session ends aborted with the reason, and nothing is open any more."""
    link.abort(error)
    receipt = sessions[0].receipt
    assert (receipt.state, receipt.outcome, receipt.reason) == (State.ABORTED, outcome, reason)
    assert link.session is None


@pytest.mark.parametrize(("error", "outcome", "reason"), ENDS)
def test_an_exception_that_leaves_the_block_aborts(link, sessions, error, outcome, reason):
    """The block around a training sees what its trainer does not tell, and lets it pass."""
    with pytest.raises(type(error)), link:
        raise error
    receipt = sessions[0].receipt
    assert (receipt.state, receipt.outcome, receipt.reason) == (State.ABORTED, outcome, reason)


def test_a_block_that_is_left_finishes_what_the_trainer_did_not(link, sessions):
    """Leaving the block normally is the end of the training; after the trainer's own end it is nothing more."""
    with link:
        link.row(0, {"loss": 0.5})
    with link:
        pass
    assert (sessions[0].state, sessions[0].outcome) == (State.DONE, Outcome.FINISHED)


def test_what_the_trainer_ended_stays_ended(link, sessions):
    """An exception after the end, told again or leaving the block, takes nothing from it."""
    link.finish()
    link.abort(RuntimeError("late"))
    with pytest.raises(RuntimeError, match="late"), link:
        raise RuntimeError("late")
    assert sessions[0].outcome is Outcome.FINISHED


# -- arguments and values --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": " "},
        {"name": 3},
        {"tags": "one"},
        {"config": [1]},
        {"limits": 3},
        {"checkpoints": "some"},
        {"resume": 1},
    ],
    ids=str,
)
def test_wrong_arguments_are_refused_before_a_training(wrong):
    """What `start` would refuse is refused where the user wrote it, and not in the middle of a training."""
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Link(**wrong)


def test_every_argument_reaches_start(monkeypatch):
    """A link hands on what it was given, under the same names."""
    given = {
        "hub": "http://127.0.0.1:1",
        "api_key": "k",
        "project": "p",
        "group": "g",
        "tags": ("a", "b"),
        "directory": "d",
        "mode": "offline",
        "limits": Limits(metrics=1.0),
        "checkpoints": "best",
    }
    told = {}
    monkeypatch.setattr(hubstate.trainers.link, "start", lambda name, **named: told.update(named, name=name))
    Link("digits", **{**given, "tags": iter(("a", "b"))}, config={"lr": 1}, resume="ID").open(epochs=2)
    assert told == {**given, "name": "digits", "epochs": 2, "config": {"lr": 1}, "resume": "ID"}


class _Tensor:
    """As far as it matters, a tensor of torch: `size` is a method, `numel` counts, `item` takes the one element out."""

    def __init__(self, *values):
        self.values, self.shape = values, (len(values),)

    def __repr__(self):
        return f"tensor{self.values}"

    def size(self):
        return self.shape

    def numel(self):
        return len(self.values)

    def item(self):
        (value,) = self.values
        return value

    def __float__(self):
        return float(self.item())


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (0.5, 0.5),
        (3, 3),
        (inf, inf),
        (Fraction(1, 2), 0.5),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.array(0.5), 0.5),
        (np.array([[0.5]]), 0.5),
        (_Tensor(0.5), 0.5),
    ],
    ids=repr,
)
def test_one_number_is_taken(value, number):
    """A number of Python, NumPy or torch is taken, whatever its shape."""
    assert numbers({"a": value}) == {"a": number}


@pytest.mark.parametrize(
    "value",
    [True, None, "0.5", b"5", [1.0], {"a": 1}, np.array([1.0, 2.0]), np.bool_(True), _Tensor(1.0, 2.0), 1j],
    ids=repr,
)
def test_what_is_no_number_is_left_out(value):
    """Texts, truth values, tables and arrays of several elements are none; the others of the row stay."""
    assert numbers({"a": value, "b": 1.0, "": 2.0, 3: 4.0}) == {"b": 1.0, "3": 4.0}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("data", "/home/me/data.yaml"),
        ("data", "C:\\data"),
        ("url", "http://hub.test"),
        ("who", "ada@hub.test"),
        ("note", "free text"),
        ("note", "x" * 33),
        ("api_key", 5),
        ("HF_TOKEN", "abc"),
        ("lr", nan),
        ("device", None),
        ("layers", [1, 2]),
    ],
)
def test_settings_that_could_be_anybodys_business_stay(name, value):
    """No path, no address, no key and no free text of a trainer's settings leaves this machine."""
    assert plain({name: value}) == {}


def test_plain_settings_leave():
    """Numbers, truth values and short words do."""
    settings = {"lr": 0.1, "epochs": 3, "amp": False, "optimizer": "AdamW"}
    assert plain(settings) == settings


@pytest.mark.parametrize("version", ["8.4.114", "8.4.190", "8.10", "9.0.0rc1", "8.4.2+cpu"])
def test_a_supported_version_is_taken(version):
    """From the first one on every version is taken, newer ones than were tried too."""
    supported("ultralytics", version, first=(8, 4), tested="8.4.190")


def test_a_version_that_is_too_old_is_told_with_the_range():
    """The message names the package, its version, what works, and what to do."""
    with pytest.raises(
        UsageError, match=r"lightning 1\.9\.5 is too old.* 2\.0 and newer.*2\.6.*pip install -U"
    ):
        supported("lightning", "1.9.5", first=(2, 0), tested="2.6")


def test_a_version_that_is_none_is_told():
    """A version that cannot be read is refused in words, too."""
    with pytest.raises(UsageError, match="'unknown'"):
        supported("keras", "unknown", first=(3,), tested="3.15")


def test_a_link_without_a_training_says_nothing(sessions):
    """Hooks before a training, and after it, do nothing."""
    link = Link()
    link.begin()
    link.tell(TrainStart)
    link.row(0, {"loss": 1.0})
    link.finish()
    link.abort(RuntimeError())
    link.failed("hook", ValueError("bad"))
    assert (link.session, sessions, link.wants_stop()) == (None, [], False)


def test_a_trainer_without_a_size_is_no_array():
    """A metric that has a float of its own, and neither shape nor item, is a number."""
    value = type("Average", (SimpleNamespace,), {"__float__": lambda self: self.value})(value=0.5)
    assert numbers({"a": value}) == {"a": value}
