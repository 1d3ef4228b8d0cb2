"""Another tracker's integration, judged by the kit: a good one passes, and what a bad one leaves out is found."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest

import hubstate
from hubstate.events import Abort
from hubstate.states import Outcome
from hubstate.testing import TrainerTests


class Tracker:
    """A recorder in the place of a tracker's module-level functions: what it is told, as hubstate hears it."""

    def __init__(self, epochs, resume):
        self._wish = {"epochs": epochs, "resume": resume}

    def init(self):
        self.session = hubstate.start("foreign", **self._wish)
        return self.session

    def log(self, metrics):
        self.session.log(
            {"loss": metrics["loss"]}, epoch=round(metrics["epoch"]) - 1
        )  # 1.0: one epoch is done

    def finish(self, outcome=Outcome.FINISHED, reason=""):
        if outcome is Outcome.FINISHED:
            self.session.finish(timeout=0)
        else:
            self.session.tell(Abort, outcome=outcome, reason=reason)

    def gone(self):
        """The process is gone, and whoever held the session with it."""
        self.session.close()


class Integration:
    """Somebody's callback that tells a tracker; what it leaves out is for the tests to find."""

    def __init__(self, tracker, *, tells_errors=True, finishes=True):
        self.tracker, self.tells_errors, self.finishes = tracker, tells_errors, finishes

    def on_train_begin(self):
        return self.tracker.init()

    def on_log(self, epoch, loss):
        self.tracker.log({"epoch": epoch + 1.0, "loss": loss})
        self.tracker.log({"epoch": epoch + 1.0, "loss": loss})  # the evaluation, in a row of its own

    def on_error(self, error):
        if self.tells_errors:
            outcome = Outcome.INTERRUPTED if isinstance(error, KeyboardInterrupt) else Outcome.FAILED
            self.tracker.finish(outcome, str(error) or "Ctrl-C")

    def on_train_end(self):
        if self.finishes:
            self.tracker.finish()


def training(**leaves_out):
    """A trainer as others write them: it turns Ctrl-C into SystemExit, and knows nothing of hubstate."""

    def train(*, epochs, resume, at_epoch):
        tracker = Tracker(epochs, resume)
        callback = Integration(tracker, **leaves_out)
        session = callback.on_train_begin()
        last = session.last_checkpoint
        first = json.loads(last.path.read_text()) + 1 if last else 0
        try:
            for epoch in range(first, epochs):
                at_epoch(epoch)
                callback.on_log(epoch, 1.0 / (epoch + 1))
                Path("last.json").write_text(json.dumps(epoch))
                session.save("last.json", epoch=epoch)
            callback.on_train_end()
        except KeyboardInterrupt as error:
            callback.on_error(error)
            raise SystemExit(1) from error
        except RuntimeError as error:
            callback.on_error(error)
            raise
        finally:
            tracker.gone()

    return train


class TestAGoodIntegration(TrainerTests):
    """Rows that come in two parts, and Ctrl-C as another exception, are nothing to object to."""

    @pytest.fixture
    def train(self):
        return training()


@pytest.fixture
def sessions(tmp_path, monkeypatch):
    """What `TrainerTests.sessions` sets, for a test that calls one of its tests by hand."""
    monkeypatch.setenv("HUBSTATE_DIR", str(tmp_path / "sessions"))
    monkeypatch.setenv("HUBSTATE_MODE", "offline")
    return tmp_path / "sessions"


@pytest.mark.parametrize(
    ("leaves_out", "name", "found"),
    [
        ({"finishes": False}, "test_a_training_that_ends_is_finished", "running"),
        ({"tells_errors": False}, "test_an_error_is_told_and_passed_on", "running"),
        ({"tells_errors": False}, "test_ctrl_c_is_told_and_passed_on", "running"),
    ],
)
def test_what_an_integration_leaves_out_is_found(leaves_out, name, found, sessions):
    """A run that nobody ends, by an error or at its end, fails the test that is about it."""
    with pytest.raises(AssertionError, match=found):
        getattr(TrainerTests(), name)(training(**leaves_out), sessions)


def test_an_error_that_is_swallowed_is_found(sessions):
    """A training that returns as if nothing had happened is told so, with the error and its epoch."""

    def train(*, epochs, resume, at_epoch):
        with suppress(RuntimeError):
            training()(epochs=epochs, resume=resume, at_epoch=at_epoch)

    with pytest.raises(pytest.fail.Exception, match=r"no memory left.*epoch 1.*returned"):
        TrainerTests().test_an_error_is_told_and_passed_on(train, sessions)


def test_an_epoch_that_comes_back_is_found(sessions):
    """Rows of one epoch merge where they follow one another; an epoch that is told again behind another one fails."""

    def train(*, epochs, resume, at_epoch):
        with hubstate.start("foreign", epochs=epochs, resume=resume) as session:
            for epoch in [*range(epochs), 0]:
                session.log({"loss": 0.5}, epoch=epoch)

    with pytest.raises(AssertionError, match=r"\[0, 1, 2, 0\]"):
        TrainerTests().test_every_epoch_has_its_row(train, sessions)
