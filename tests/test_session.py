"""A session of a plain loop, kept here: the mapping to events, the ends, what may be looked at, and bad input.

No hub is set in this file; `test_session_hub.py` and `test_outage.py` have hubs.
"""

from __future__ import annotations

import json
import math
import os
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hubstate
from hubstate import CheckpointMissing, IllegalEvent, Outcome, State, StorageError, UsageError, settings
from hubstate.actions import Memory
from hubstate.controller import explain
from hubstate.events import CLOCK_EVENTS, EVENTS, HUB_EVENTS, Answered, Event, HeldUp, name_of
from hubstate.journal import Head, Journal, Step, read
from hubstate.machine import legal_events
from hubstate.opening import peek
from hubstate.sender import SenderThreads
from hubstate.session import _sample, begin
from hubstate.snapshots import Snapshots
from hubstate.wish import Wish


def steps(session: hubstate.Session) -> list[Step]:
    """What the journal of a session holds."""
    lines = [entry.line for entry in read(Path(".hubstate") / session.id)]
    assert all(isinstance(line, Head | Step) for line in lines)
    return [line for line in lines if isinstance(line, Step)]


def said(session: hubstate.Session) -> list[str]:
    return [type(step.event).__name__ for step in steps(session)]


def checkpoint(text: str = "weights", name: str = "last.pt") -> Path:
    path = Path(name)
    path.write_text(text, encoding="utf-8")
    return path


# -- the mapping -----------------------------------------------------------------------------------------------


def test_a_loop_walks_the_whole_spine() -> None:
    """`start`, `epochs`, `log`, `save` and leaving are the events of the table, in its order."""
    with hubstate.start("digits", epochs=2) as session:
        assert session.state is State.SESSION_CREATED
        for epoch in session.epochs():
            assert session.state is State.TRAINING
            session.log({"loss": 1.0 / (epoch + 1)})
            session.save(checkpoint())
    assert said(session) == [
        "PretrainRoutineStart",
        "PretrainRoutineEnd",
        "TrainStart",
        "FitEpochEnd",
        "ModelSave",
        "FitEpochEnd",
        "ModelSave",
        "TrainEnd",
    ]
    assert (session.state, session.outcome) == (State.FINALIZING, Outcome.FINISHED)


@pytest.mark.parametrize("first", ["epochs", "log", "save"])
def test_the_first_of_three_begins_the_training(first: str) -> None:
    """Whichever of `epochs()`, `log` and `save` comes first says pretrain_routine_end and train_start."""
    session = hubstate.start("digits", epochs=1)
    path = checkpoint()
    if first == "epochs":
        next(iter(session.epochs()))
    elif first == "log":
        session.log({"a": 1})
    else:
        session.save(path)
    assert session.state is State.TRAINING
    assert said(session)[1:3] == ["PretrainRoutineEnd", "TrainStart"]
    session.close()


def test_leaving_without_an_epoch_still_ends_the_training() -> None:
    """A session that logged nothing ends finished, by the events that were missing."""
    with hubstate.start("digits") as session:
        pass
    assert said(session) == ["PretrainRoutineStart", "PretrainRoutineEnd", "TrainStart", "TrainEnd"]
    assert session.outcome is Outcome.FINISHED


def test_epochs_are_counted_where_nobody_names_them() -> None:
    """Without `epochs()` each row is the next epoch; a checkpoint belongs to the epoch logged last."""
    session = hubstate.start("digits")
    session.log({"a": 1})
    session.log({"a": 2})
    session.save(checkpoint())
    session.log({"a": 3}, epoch=7)
    session.close()
    rows = [step.event.epoch for step in steps(session) if hasattr(step.event, "metrics")]
    saves = [step.event.epoch for step in steps(session) if hasattr(step.event, "mtime_ns")]
    assert (rows, saves) == ([0, 1, 7], [1])


def test_a_step_is_a_row_of_its_epoch() -> None:
    """`log(step=)` is a batch's row in the epoch of `epochs()`; without metrics it is no event."""
    session = hubstate.start("digits", epochs=1)
    for _ in session.epochs():
        session.log({"a": 1}, step=5)
        session.log({}, step=6)
    session.close()
    batches = [step.event for step in steps(session) if type(step.event).__name__ == "TrainBatchEnd"]
    assert [(event.epoch, event.step) for event in batches] == [(0, 5)]


def test_epochs_from_a_start_of_ones_own() -> None:
    """`epochs(start)` begins where it is told to, and without a planned number it does not end by itself."""
    session = hubstate.start("digits", epochs=5)
    assert list(session.epochs(3)) == [3, 4]
    session.close()
    session = hubstate.start("digits")
    endless = session.epochs()
    assert [next(endless) for _ in range(4)] == [0, 1, 2, 3]
    session.close()


@pytest.mark.promise("D26")
def test_nothing_is_done_where_nothing_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    """In mode off, and in a process that is not the main one, the loop runs and nothing is written."""
    for mode, rank in (("off", "0"), ("on", "1")):
        monkeypatch.setenv("RANK", rank)
        with hubstate.start("digits", epochs=2, mode=mode) as session:
            for _ in session.epochs():
                session.log({"a": 1})
                session.save("there is no such file")
        assert (session.id, session.state, session.last_checkpoint) == ("", State.IDLE, None)
    assert not Path(".hubstate").exists()


# -- the ends --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "outcome", "reason"),
    [
        (RuntimeError("out of memory"), Outcome.FAILED, "RuntimeError: out of memory"),
        (KeyboardInterrupt(), Outcome.INTERRUPTED, "interrupted by Ctrl-C"),
        (SystemExit(3), Outcome.FAILED, "the process ended by sys.exit(3)"),
        (SystemExit("bad"), Outcome.FAILED, "the process ended by sys.exit('bad')"),
    ],
)
def test_leaving_by_an_exception_aborts(error: BaseException, outcome: Outcome, reason: str) -> None:
    """The exception reaches the caller, and the session is aborted with what happened."""
    session = hubstate.start("digits")
    session.log({"a": 1})
    with pytest.raises(type(error)), session:
        raise error
    assert (session.state, session.outcome, session.receipt.reason) == (State.ABORTED, outcome, reason)
    assert session.receipt.rows == 1


class Mute(Exception):
    """An exception that breaks whoever asks what it says."""

    def __str__(self) -> str:
        raise LookupError("no text")

    __repr__ = __str__


@pytest.mark.parametrize("error", [Mute(), SystemExit(Mute())], ids=["its text", "its code"])
def test_an_exception_that_cannot_tell_of_itself_aborts_all_the_same(error: BaseException) -> None:
    """The caller gets the own exception, and the session is aborted by its name and let go of."""
    session = hubstate.start("digits")
    session.log({"a": 1})
    with pytest.raises(type(error)), session:
        raise error
    assert (session.state, session.outcome, session.legal) == (State.ABORTED, Outcome.FAILED, ())
    assert session.receipt.reason == f"{type(error).__name__}, which cannot tell why"


def test_whatever_breaks_into_leaving_the_session_is_let_go_of() -> None:
    """Even a text that ends the process leaves no session open behind it."""

    class Exiting(Exception):
        def __str__(self) -> str:
            raise SystemExit(5)

    session = hubstate.start("digits")
    with pytest.raises(SystemExit), session:
        raise Exiting
    assert session.legal == ()


@pytest.mark.parametrize("code", [0, None])
def test_sys_exit_without_an_error_is_a_normal_end(code: int | None) -> None:
    """`sys.exit(0)` inside the block ends the training as finished."""
    with pytest.raises(SystemExit), hubstate.start("digits") as session:
        sys.exit(code)
    assert session.outcome is Outcome.FINISHED


def test_after_the_end_nothing_more_is_taken() -> None:
    """After `finish`, `log` and `save` are illegal events that change nothing, and `finish` may be repeated."""
    session = hubstate.start("digits")
    session.log({"a": 1})
    receipt = session.finish()
    with pytest.raises(IllegalEvent, match="fit_epoch_end"):
        session.log({"a": 2})
    with pytest.raises(IllegalEvent, match="model_save"):
        session.save(checkpoint())
    assert list(session.epochs()) == []
    assert session.finish() == receipt
    assert session.receipt.rows == 1


def test_a_closed_session_says_how_to_go_on() -> None:
    """After `close` in the middle of a training the error names the state and how to continue."""
    session = hubstate.start("digits")
    session.log({"a": 1})
    session.close()
    session.close()
    with pytest.raises(IllegalEvent, match=r"is training and was let go of.*resume=True"):
        session.log({"a": 2})


@pytest.mark.promise("D29")
def test_an_illegal_event_of_a_trainer_module_is_a_value() -> None:
    """`tell` answers an illegal event with a refusal that names what is legal, and journals it."""
    from hubstate.events import TrainEnd

    session = hubstate.start("digits")
    refusal = session.tell(TrainEnd).refusal
    assert refusal is not None
    assert refusal.illegal
    assert refusal.legal == session.legal
    assert session.state is State.SESSION_CREATED
    session.close()
    assert [step.illegal for step in steps(session)] == [False, True]


def test_without_a_hub_finish_does_not_wait() -> None:
    """Nothing can arrive without a hub: the receipt says what is kept here, and why."""
    with hubstate.start("digits", epochs=1) as session:
        session.log({"a": 1})
    receipt = session.receipt
    assert (receipt.rows_waiting, receipt.rows_delivered) == (1, 0)
    assert [condition.name for condition in receipt.conditions] == ["no_hub"]
    assert "1 row kept here, no hub" in str(receipt)


def test_flush_without_a_hub_says_no() -> None:
    """`flush` tells truly that the hub does not hold what was recorded."""
    session = hubstate.start("digits")
    session.log({"a": 1})
    assert session.flush(timeout=30) is False
    session.close()


# -- what may be looked at -------------------------------------------------------------------------------------


def test_explain_says_when() -> None:
    """`explain` tells what an event would do, or how long it still has to wait, and consumes nothing."""
    session = hubstate.start("digits", limits=hubstate.Limits(checkpoint=900))
    assert "illegal while session_created" in session.explain("model_save")
    session.log({"a": 1})
    session.save(checkpoint())
    before = len(steps(session))
    assert "900 s left of 900 s" in session.explain("model_save")
    assert "-> finalizing" in session.explain("train_end")
    assert session.explain("tick") == (
        "metrics_due: not yet: 3 s left of 3 s; checkpoint_due: not yet: 900 s left of 900 s"
    )
    for event in [name for state in State for name in legal_events(state)]:
        assert session.explain(event)
    with pytest.raises(UsageError, match="there is no event 'lunch'"):
        session.explain("lunch")
    assert len(steps(session)) == before
    session.close()


def test_what_a_session_tells_of_itself() -> None:
    """Id, state, outcome, legal events, what waits and the page are there to be read."""
    session = hubstate.start("digits")
    assert len(session.id) == 26
    assert "train_end" not in session.legal
    session.log({"a": 1})
    assert "train_end" in session.legal
    assert session.waiting == 2  # the opening and the row
    assert session.url is None
    assert session.stop_requested is False
    assert repr(session) == f"<hubstate session {session.id}: training, running>"
    session.close()


@pytest.mark.promise("P15")
def test_one_line_says_that_no_hub_is_set(capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever sets no hub is told once, on stderr, where the session is kept and how to deliver it."""
    hubstate.start("digits").close()
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "no hub is set" in err
    assert "hubstate sync --hub URL" in err


def test_explain_speaks_of_this_session_and_not_of_the_table() -> None:
    """It names what would be asked now: nothing that is not there, and nothing that this process may not do."""
    session = hubstate.start("digits", checkpoints="none", limits=hubstate.Limits(metrics=0.4))
    assert session.explain("abort") == "-> aborted, EndSession; they leave in this order"
    session.log({"a": 1})
    assert "0 s left" not in session.explain("fit_epoch_end")
    assert session.explain("train_end") == "-> finalizing, SendRows, CloseSession; they leave in this order"
    session.close()
    assert session.legal == ()
    assert "was let go of" in session.explain("fit_epoch_end")


def test_explain_knows_what_is_not_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    """In mode off, and in a process that is not the main one, it says that this is why nothing opens."""
    assert "the mode is off" in hubstate.start("digits", mode="off").explain("pretrain_routine_start")
    monkeypatch.setenv("RANK", "1")
    assert "rank 0 opens" in hubstate.start("digits").explain("pretrain_routine_start")


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("kind", EVENTS, ids=name_of)
def test_every_event_is_explained_in_every_state(state: State, kind: type[Event]) -> None:
    """Why, why not, or what is legal instead: there is a word for every pair, and looking changes nothing."""
    memory = Memory(
        state=state, session="S", name="digits", attempt=1, metrics_since=0.0, checkpoint_since=0.0
    )
    said = explain(memory, _sample(kind, 1.0))
    assert said
    legal = name_of(kind) in legal_events(state) or kind in (*CLOCK_EVENTS, *HUB_EVENTS)
    assert ("illegal" in said) is not legal


# -- resume ----------------------------------------------------------------------------------------------------


def test_resume_goes_on_after_the_checkpoint() -> None:
    """The next attempt begins at the epoch after its checkpoint, not after the last row."""
    first = hubstate.start("digits", epochs=5)
    first.log({"a": 1}, epoch=0)
    first.save(checkpoint("after 0"), epoch=0, fitness=0.5)
    first.log({"a": 2}, epoch=1)
    first.close()
    second = hubstate.start("digits", resume=True)
    found = second.last_checkpoint
    assert found is not None
    assert (second.id, found.epoch, found.path.read_text()) == (first.id, 0, "after 0")
    assert list(second.epochs()) == [1, 2, 3, 4]
    assert second.receipt.attempt == 2
    second.close()


def test_resume_without_a_checkpoint_begins_at_the_first_epoch() -> None:
    """No checkpoint, no learning: the next attempt trains every epoch again."""
    first = hubstate.start("digits", epochs=2)
    first.log({"a": 1}, epoch=0)
    first.close()
    second = hubstate.start("digits", resume=True)
    assert (second.id, list(second.epochs()), second.last_checkpoint) == (first.id, [0, 1], None)
    second.close()


def test_resume_takes_the_newest_that_is_not_done_and_not_owned() -> None:
    """A session that is open in a living process is left to it; of the others the newest is continued."""
    oldest = hubstate.start("digits")
    oldest.close()
    other = hubstate.start("another name")
    other.close()
    owned = hubstate.start("digits")
    second = hubstate.start("digits", resume=True)
    assert second.id == oldest.id
    second.close()
    owned.close()


def test_resume_begins_a_session_where_there_is_none() -> None:
    """`resume=True` in an empty directory begins a session."""
    session = hubstate.start("digits", resume=True)
    assert session.receipt.attempt == 1
    session.close()


def test_a_session_whose_training_is_over_opens_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """One line says so, `epochs()` yields nothing, and `log` is illegal."""
    with hubstate.start("digits", epochs=1) as first:
        first.log({"a": 1})
    capsys.readouterr()
    with hubstate.start("digits", resume=True) as second:
        assert second.id == first.id
        assert list(second.epochs()) == []
        with pytest.raises(IllegalEvent):
            second.log({"a": 2})
        assert second.receipt.attempt == 1
    assert "is finalizing already" in capsys.readouterr().err
    assert second.outcome is Outcome.FINISHED


def test_resume_by_id_finds_a_session_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The id is enough, whatever the working directory; the case of its letters does not matter."""
    first = hubstate.start("digits")
    first.close()
    monkeypatch.chdir(tmp_path)
    second = hubstate.start("digits", resume=first.id.lower())
    assert (second.id, second.receipt.attempt) == (first.id, 2)
    second.close()


@pytest.mark.promise("D24")
def test_a_session_of_a_living_process_is_refused_by_id() -> None:
    """Two processes never write one session: the one that owns it is named."""
    first = hubstate.start("digits")
    with pytest.raises(hubstate.SessionBusy, match=str(os.getpid())):
        hubstate.start("digits", resume=first.id)
    first.close()


def test_an_aborted_session_is_continued() -> None:
    """After Ctrl-C a session is aborted; resuming it is a new attempt that runs."""
    with pytest.raises(KeyboardInterrupt), hubstate.start("digits", epochs=3) as first:
        raise KeyboardInterrupt
    second = hubstate.start("digits", resume=True)
    assert (second.id, second.state, second.outcome) == (first.id, State.SESSION_CREATED, Outcome.RUNNING)
    second.close()


# -- whose key -------------------------------------------------------------------------------------------------


class _Still(SenderThreads):
    """Threads that never begin: nothing is sent."""

    def poke(self, *, files: bool = False) -> None:
        pass


def began(session: str | bool, **given: Any) -> tuple[hubstate.Session, list[str]]:
    """A session that sends nothing, resumed or begun, and what it said."""
    said: list[str] = []
    wish = Wish("digits", resume=session)
    return begin(wish, settings.resolve(**given), say=said.append, threads=_Still), said


def acknowledged() -> str:
    """A session that a hub has acknowledged."""
    session, _ = began(False, hub="http://hub.test")
    session.tell(Answered, hub="http://hub.test", model="M")
    session.close()
    return session.id


def test_a_key_that_is_given_alone_is_for_the_sessions_own_hub() -> None:
    """Who resumes a session with a key, and names no hub, means the hub that the session belongs to."""
    session, _ = began(acknowledged(), api_key="ul_mine")
    assert (session._found.hub, session._found.api_key) == ("http://hub.test", "ul_mine")
    session.close()


def test_a_key_that_is_held_back_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub that only a file of the project names is not shown the key in the environment: one line says so at the
    start, and the receipt does once the hub asks for a key."""
    monkeypatch.setenv("HUBSTATE_API_KEY", "ul_secret")
    Path("hubstate.toml").write_text('hub = "http://hub.test"\n', encoding="utf-8")
    session, said = began(False)
    (line,) = said
    assert "HUBSTATE_API_KEY" in line
    assert "hubstate login http://hub.test" in line
    assert session._found.api_key is None
    assert [condition.name for condition in session.receipt.conditions] == []
    session.tell(HeldUp, key=f"{session.id}/1/open", condition="credentials_rejected", reason="401")
    told = {condition.name: condition.reason for condition in session.receipt.conditions}
    assert told == {"credentials_rejected": "401", "key_withheld": line}
    assert "ul_secret" not in str(session.receipt) + line
    session.close()


# -- bad input -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["0.5", None, [1.0], {"a": 1}, np.ones(3), b"1", object(), 1j])
def test_what_is_no_number_is_refused_and_nothing_is_lost(value: Any) -> None:
    """The metric is named, the row is not recorded, and the rows before and after it are."""
    session = hubstate.start("digits")
    session.log({"a": 1.0})
    with pytest.raises(UsageError, match="'bad'"):
        session.log({"good": 1.0, "bad": value})
    session.log({"a": 2.0})
    session.close()
    assert [step.event.metrics for step in steps(session) if hasattr(step.event, "metrics")] == [
        {"a": 1.0},
        {"a": 2.0},
    ]


def test_nan_and_infinities_are_values() -> None:
    """They are recorded exactly, beside strict JSON."""
    session = hubstate.start("digits")
    session.log({"a": math.nan, "b": math.inf, "c": np.float32("-inf"), "d": np.float64(0.5), "e": True})
    session.close()
    event = steps(session)[-1].event
    assert event.metrics == {"a": None, "b": None, "c": None, "d": 0.5, "e": 1.0}
    assert event.nonfinite == {"a": "NaN", "b": "Infinity", "c": "-Infinity"}
    for line in (Path(".hubstate") / session.id / "journal-000001.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not strict JSON"))


@pytest.mark.parametrize(("epoch", "step"), [(-1, None), (0, -1), (1.5, None), ("1", None), (True, None)])
def test_an_epoch_or_step_that_is_none_is_refused(epoch: Any, step: Any) -> None:
    """Negative and broken counts are refused by name, and nothing is recorded."""
    session = hubstate.start("digits")
    with pytest.raises(UsageError, match=r"epoch|step"):
        session.log({"a": 1}, epoch=epoch, step=step)
    assert session.receipt.rows == 0
    session.close()


def test_a_checkpoint_that_does_not_exist_is_refused() -> None:
    """The path is named, and nothing is recorded."""
    session = hubstate.start("digits")
    with pytest.raises(CheckpointMissing, match=r"nowhere\.pt"):
        session.save("nowhere.pt")
    with pytest.raises(CheckpointMissing, match="holds what this session keeps itself"):
        session.save(".")
    with pytest.raises(UsageError, match="kind must be"):
        session.save(checkpoint(), kind="newest")
    with pytest.raises(UsageError, match="fitness"):
        session.save(checkpoint(), fitness="good")
    with pytest.raises(UsageError, match="epoch"):
        session.save(checkpoint(), epoch=-1)
    session.close()
    assert said(session) == ["PretrainRoutineStart", "PretrainRoutineEnd", "TrainStart"]
    assert list((Path(".hubstate") / session.id).glob("snapshots/*")) == []


def test_a_directory_that_cannot_be_written_is_refused() -> None:
    """The directory is named, and how to give another one."""
    Path("taken").write_text("a file", encoding="utf-8")
    with pytest.raises(StorageError, match=r"taken.*HUBSTATE_DIR"):
        hubstate.start("digits", directory="taken")


def test_an_unknown_session_is_refused() -> None:
    """An id that nobody knows names where was looked and what lists the sessions."""
    with pytest.raises(hubstate.SessionNotFound, match=r"01ABC.*hubstate status"):
        hubstate.start("digits", resume="01ABC")


@pytest.mark.parametrize("start", [-1, 1.5, "0"])
def test_epochs_refuses_a_start_that_is_none(start: Any) -> None:
    """A start that is no epoch is refused at once, and not at the first turn of the loop."""
    session = hubstate.start("digits")
    with pytest.raises(UsageError, match="epochs"):
        session.epochs(start)
    session.close()


@pytest.mark.parametrize("timeout", [-1, math.nan, math.inf, "5"])
def test_finish_refuses_a_timeout_that_is_none(timeout: Any) -> None:
    """A time-out that is no number of seconds is refused, and the session goes on."""
    session = hubstate.start("digits")
    with pytest.raises(UsageError, match="timeout"):
        session.finish(timeout)
    session.log({"a": 1})
    session.close()


@pytest.mark.parametrize("metrics", [None, [1.0], "loss", 5])
def test_metrics_that_are_no_mapping_are_refused(metrics: Any) -> None:
    """What is no mapping is refused by what it is, and nothing is recorded."""
    session = hubstate.start("digits")
    with pytest.raises(UsageError, match="metrics must be a mapping"):
        session.log(metrics)
    assert session.receipt.rows == 0
    session.close()


def test_numpy_integers_are_epochs_and_steps() -> None:
    """Whole numbers of NumPy count as epoch and step, for rows and checkpoints."""
    session = hubstate.start("digits", epochs=5)
    session.log({"a": 1}, epoch=np.int64(2))
    session.log({"a": 1}, epoch=np.int32(2), step=np.int64(3))
    session.save(checkpoint(), epoch=np.int64(2))
    assert list(session.epochs(np.int64(4))) == [4]
    session.close()
    assert [step.event.epoch for step in steps(session)[3:]] == [2, 2, 2]


@pytest.mark.parametrize("value", [2**53 + 1, 2**63, 10**30])
def test_a_count_that_no_hub_can_hold_is_refused(value: int) -> None:
    """What a double or a database cannot hold is refused when it is said, so that it never blocks what follows."""
    with pytest.raises(UsageError, match="epochs"):
        hubstate.start("digits", epochs=value)
    session = hubstate.start("digits")
    for wrong in ({"epoch": value}, {"epoch": 0, "step": value}):
        with pytest.raises(UsageError, match="at most"):
            session.log({"a": 1}, **wrong)
    with pytest.raises(UsageError, match="at most"):
        session.save(checkpoint(), epoch=value)
    session.log({"a": 1}, epoch=2**53)
    assert session.receipt.rows == 1
    session.close()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda session: session.save(None), "needs a path"),
        (lambda session: session.save("last.pt", fitness=10**400), "fitness"),
        (lambda session: session.save("last.pt", kind="best"), "best is found by its fitness"),
        (lambda session: session.flush("x"), "timeout"),
        (lambda session: session.finish(math.nan), "timeout"),
        (lambda session: session.abort("r", timeout=-1), "timeout"),
        (lambda session: session.abort(5), "reason must be a text"),
        (lambda session: session.abort("r", outcome="failed"), "outcome must be an Outcome"),
        (lambda session: session.abort("r", outcome=Outcome.FINISHED), "finished"),
    ],
    ids=["path", "fitness", "kind", "flush", "finish", "abort", "reason", "outcome", "finished"],
)
def test_a_wrong_argument_changes_nothing(call: Any, words: str) -> None:
    """Each is refused by name before anything has happened: the session trains on."""
    checkpoint()
    session = hubstate.start("digits")
    session.log({"a": 1})
    with pytest.raises(UsageError, match=words):
        call(session)
    session.log({"a": 2})
    assert (session.state, session.receipt.rows) == (State.TRAINING, 2)
    session.close()


SURROGATE = os.fsdecode(b"caf\xe9")


def test_texts_that_utf8_cannot_hold_lose_nothing() -> None:
    """File names that are no UTF-8 occur: the error that names one still ends the session, and such a file is kept."""
    path = checkpoint("weights", SURROGATE + ".pt")
    session = hubstate.start("digits")
    session.save(path, epoch=0, fitness=0.5)
    with pytest.raises(UsageError, match="UTF-8"):
        session.log({SURROGATE: 1.0})
    session.log({"a": 1.0})
    with pytest.raises(ValueError, match="cannot load"), session:
        raise ValueError(f"cannot load {SURROGATE}")
    assert (session.state, session.receipt.reason) == (State.ABORTED, r"ValueError: cannot load caf\udce9")
    again = hubstate.start("digits", resume=True)
    assert again.last_checkpoint is not None
    assert again.last_checkpoint.path.read_text() == "weights"
    again.close()


@pytest.mark.parametrize("wrong", [{"name": SURROGATE}, {"tags": [SURROGATE]}, {"config": {"a": SURROGATE}}])
def test_a_wish_that_utf8_cannot_hold_opens_nothing(wrong: dict[str, Any]) -> None:
    """It is refused before a folder is made."""
    with pytest.raises(UsageError):
        hubstate.start(**({"name": "digits"} | wrong))
    assert not Path(".hubstate").exists()


def test_a_session_that_cannot_begin_is_let_go_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the start fails half-way, nobody is left owning what nobody holds."""

    def fails(*_: object) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(hubstate.Session, "_announce", fails)
    with pytest.raises(RuntimeError):
        hubstate.start("digits")
    (folder,) = [folder for folder in Path(".hubstate").iterdir() if folder.is_dir()]
    assert peek(folder).owner is None


def test_copies_are_synced_before_the_session_is_let_go_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy that the journal names is on the disk before the last lines are, also without a hub."""
    order: list[str] = []
    sync, close = Snapshots.sync, Journal.close

    def synced(self: Snapshots, name: str) -> None:
        order.append(name.partition("-")[0])
        sync(self, name)

    def closed(self: Journal) -> None:
        order.append("journal")
        close(self)

    monkeypatch.setattr(Snapshots, "sync", synced)
    monkeypatch.setattr(Journal, "close", closed)
    with hubstate.start("digits") as session:
        session.save(checkpoint("one"), epoch=0)
        session.save(checkpoint("two"), epoch=1)
    assert order == ["last", "final", "journal"]


def test_flush_after_the_end_does_not_wait() -> None:
    """Nobody sends any more: the answer is there at once."""
    session = hubstate.start("digits", hub="http://127.0.0.1:9")
    session.log({"a": 1})
    session.close()
    assert session.flush(timeout=600) is False


# -- threads and children --------------------------------------------------------------------------------------


def test_threads_may_log_and_save() -> None:
    """Rows of several threads are all recorded, numbered without a gap, and the training begins once."""
    session = hubstate.start("digits")
    path = checkpoint()
    together = threading.Barrier(4)

    def work(number: int) -> None:
        together.wait()
        for count in range(50):
            session.log({f"thread {number}": count}, epoch=count)
            session.save(path, epoch=count, fitness=count)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    session.close()
    rows = [step.row for step in steps(session) if step.row]
    assert rows == list(range(1, 201))
    assert said(session).count("TrainStart") == 1
    assert not any(step.illegal for step in steps(session))
    assert peek(Path(".hubstate") / session.id).memory.saves == 200


@pytest.mark.promise("D13")
def test_a_session_may_start_outside_the_main_thread() -> None:
    """No signal handler is needed, so any thread may start a session."""
    made: list[hubstate.Session] = []

    def work() -> None:
        with hubstate.start("digits") as session:
            session.log({"a": 1})
        made.append(session)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert made[0].outcome is Outcome.FINISHED


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_changes_nothing() -> None:
    """What a DataLoader worker calls by accident is neither written nor ends the parent's session."""
    session = hubstate.start("digits")
    session.log({"a": 1})
    child = os.fork()
    if child == 0:
        session.log({"a": 2})
        session.finish()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    session.log({"a": 3})
    session.close()
    assert [step.event.metrics for step in steps(session) if step.row] == [{"a": 1}, {"a": 3}]
