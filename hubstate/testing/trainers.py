"""`TrainerTests`: what hubstate and a training that uses it promise each other. Subclass it with one fixture.

    class TestMyTraining(TrainerTests):
        @pytest.fixture
        def train(self):
            return my_training         # called as my_training(epochs=3, resume=False, at_epoch=...)

The training is called with the number of epochs, with `resume`, and with `at_epoch`, which it calls with the number
of each epoch (0-based) somewhere while it trains that epoch: there the tests make it fail. It opens its session by
`hubstate.start`, or by whatever calls that. No hub is needed: what a training says is in the journal, and the journal
is what is judged; behind it the session is delivered to a fake hub, in good and in bad weather.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple, Protocol

from hubstate.testing.needs import require

require("pytest")

import pytest  # noqa: E402

from hubstate.actions import Memory, Row  # noqa: E402
from hubstate.events import (  # noqa: E402
    Abort,
    FitEpochEnd,
    ModelSave,
    PretrainRoutineEnd,
    PretrainRoutineStart,
    TrainEnd,
    TrainStart,
)
from hubstate.index import sessions_in  # noqa: E402
from hubstate.journal import Damage, Step, read, recover  # noqa: E402
from hubstate.proof.faults import FAULTS, REFUSED, Fault  # noqa: E402
from hubstate.snapshots import digest  # noqa: E402
from hubstate.states import Outcome, State  # noqa: E402
from hubstate.sync import Remainder, deliver  # noqa: E402
from hubstate.testing.clock import FakeClock  # noqa: E402
from hubstate.testing.hub import FakeHub  # noqa: E402

__all__ = ["Train", "TrainerTests"]

_FRAME = (PretrainRoutineStart, PretrainRoutineEnd, TrainStart, TrainEnd, Abort)


class AtEpoch(Protocol):
    """What a training calls with the number of an epoch, while it trains it."""

    def __call__(self, epoch: int, /) -> None: ...


class Train(Protocol):
    """A training that uses hubstate."""

    def __call__(self, *, epochs: int, resume: bool, at_epoch: AtEpoch) -> object: ...


class _Kept(NamedTuple):
    """What lies in a session's folder: its memory, and its steps in order."""

    folder: Path
    memory: Memory
    steps: tuple[Step, ...]

    def epochs(self, attempt: int) -> list[int]:
        """The epochs whose rows an attempt recorded, in order; the extra evaluation at the end is none.

        Rows of one epoch that follow one another are one: they merge. An epoch that comes back later is told again.
        """
        events = [step.event for step in self.steps if step.attempt == attempt and step.row]
        rows = [event.epoch for event in events if isinstance(event, FitEpochEnd) and not event.final]
        return [epoch for epoch, _ in groupby(rows)]

    def counted(self) -> Counter[int]:
        """How many rows of its own each epoch has."""
        events = [step.event for step in self.steps if step.row]
        return Counter(e.epoch for e in events if isinstance(e, FitEpochEnd) and not e.final)


def _kept(folder: Path) -> _Kept:
    lines = [entry.line for entry in read(folder)]
    damages = [line for line in lines if isinstance(line, Damage)]
    assert not damages, damages
    return _Kept(folder, recover(folder).memory, tuple(line for line in lines if isinstance(line, Step)))


class _BreaksError(RuntimeError):
    """What the tests make a training fail with."""


def _nothing(_epoch: int) -> None:
    """An epoch in which nothing happens."""


class _Breaks:
    """Breaks a training in one epoch."""

    def __init__(self, epoch: int, error: BaseException) -> None:
        self._epoch, self._error = epoch, error

    def __call__(self, epoch: int, /) -> None:
        if epoch == self._epoch:
            raise self._error


class TrainerTests:
    """A training's session tells what became of it, whatever becomes of it, and can go on and be delivered."""

    #: How many epochs are trained: at least 3.
    epochs = 3
    #: Whether the training can go on where it stopped. It begins from scratch with `resume=False`.
    resumes = True

    @pytest.fixture
    def train(self) -> Train:
        """The training: called with `epochs`, `resume` and `at_epoch`."""
        raise NotImplementedError("a subclass of TrainerTests says what is tested: a fixture named train")

    @pytest.fixture(autouse=True)
    def sessions(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """Where the sessions of this test are kept; no setting of this user is seen, and no hub is spoken to."""
        for name in list(os.environ):
            if name.startswith("HUBSTATE_") or name in ("RANK", "LOCAL_RANK"):
                monkeypatch.delenv(name)
        for name in ("CONFIG", "DATA", "CACHE"):
            monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / "home" / name.lower()))
        monkeypatch.setenv("HUBSTATE_DIR", str(tmp_path / "sessions"))
        monkeypatch.setenv("HUBSTATE_MODE", "offline")
        work = tmp_path / "work"
        work.mkdir()
        monkeypatch.chdir(work)
        return tmp_path / "sessions"

    # -- helpers -------------------------------------------------------------------------------------------

    def only(self, sessions: Path) -> _Kept:
        """The one session that there is."""
        folders = list(sessions_in(sessions))
        assert len(folders) == 1, f"one training is one session, and there are {len(folders)}"
        return _kept(folders[0])

    def broken(self, train: Train, error: BaseException, *, epoch: int = 1) -> None:
        """Trains until `error` is raised in `epoch`; it has to come out as it is, or as what another one came of."""
        try:
            train(epochs=self.epochs, resume=False, at_epoch=_Breaks(epoch, error))
        except BaseException as raised:
            # Some trainers turn Ctrl-C into SystemExit.
            if error not in _chain(raised):
                raise
        else:
            pytest.fail(
                f"{error!r} was raised in epoch {epoch}, and the training returned as if nothing had happened"
            )

    def delivered(self, kept: _Kept, faults: Sequence[Fault] = ()) -> tuple[FakeHub, Memory]:
        """What a hub holds when the session was delivered, and what the session remembers then."""
        clock = FakeClock()
        hub = FakeHub(clock)
        hub.fault(*faults)
        rest = Remainder(kept.folder, hub, clock, random.Random(0))  # noqa: S311 - repeatable chance
        try:
            deliver(rest, clock, patience=10_000.0)
            rest.retry_refused()
            deliver(rest, clock, patience=10_000.0)
            return hub, rest.memory
        finally:
            rest.close()

    # -- a training that ends --------------------------------------------------------------------------------

    def test_a_training_that_ends_is_finished(self, train: Train, sessions: Path) -> None:
        """At its end a training says so: the session is finalizing, and its outcome is finished."""
        train(epochs=self.epochs, resume=False, at_epoch=_nothing)
        memory = self.only(sessions).memory
        assert (memory.state, memory.outcome) == (State.FINALIZING, Outcome.FINISHED)

    def test_every_epoch_has_its_row(self, train: Train, sessions: Path) -> None:
        """Each epoch is recorded, counted from 0, and in order, with at least one metric; its rows merge."""
        train(epochs=self.epochs, resume=False, at_epoch=_nothing)
        kept = self.only(sessions)
        assert kept.epochs(1) == list(range(self.epochs))
        rows = [step.event for step in kept.steps if isinstance(step.event, FitEpochEnd)]
        assert all(row.metrics for row in rows)

    def test_the_training_says_things_in_their_order(self, train: Train, sessions: Path) -> None:
        """The opening, the end of the preparations, the start and the end are said once each, and nothing out of place."""
        train(epochs=self.epochs, resume=False, at_epoch=_nothing)
        steps = self.only(sessions).steps
        assert [type(step.event) for step in steps if isinstance(step.event, _FRAME)] == [
            PretrainRoutineStart,
            PretrainRoutineEnd,
            TrainStart,
            TrainEnd,
        ]
        assert [step.refusal for step in steps if step.illegal] == []

    def test_the_epoch_is_trained_before_it_is_recorded(self, train: Train, sessions: Path) -> None:
        """While an epoch is trained, the rows of all before it are on disk already, and its own is not."""
        seen: dict[int, list[int]] = {}

        def look(epoch: int, /) -> None:
            seen[epoch] = self.only(sessions).epochs(1)

        train(epochs=self.epochs, resume=False, at_epoch=look)
        assert seen == {epoch: list(range(epoch)) for epoch in range(self.epochs)}

    def test_what_was_kept_is_whole(self, train: Train, sessions: Path) -> None:
        """Every copy of a checkpoint that the session still needs lies there, as long as it was."""
        train(epochs=self.epochs, resume=False, at_epoch=_nothing)
        kept = self.only(sessions)
        memory = kept.memory
        for copy in (memory.kept_last, memory.kept_best, memory.kept_final):
            if copy is not None:
                assert (kept.folder / "snapshots" / copy.snapshot).stat().st_size == copy.size
        torn = [s.event.unkept for s in kept.steps if isinstance(s.event, ModelSave) and s.event.unkept]
        assert torn == []

    def test_two_trainings_are_two_sessions(self, train: Train, sessions: Path) -> None:
        """A training that begins anew leaves the session of the one before it alone."""
        for _ in range(2):
            train(epochs=self.epochs, resume=False, at_epoch=_nothing)
        folders = list(sessions_in(sessions))
        assert [_kept(folder).epochs(1) for folder in folders] == [list(range(self.epochs))] * 2

    def test_it_trains_without_hubstate(
        self, train: Train, sessions: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Switched off, hubstate leaves nothing behind, and the training trains all the same."""
        monkeypatch.setenv("HUBSTATE_MODE", "off")
        trained: list[int] = []
        train(epochs=self.epochs, resume=False, at_epoch=trained.append)
        assert trained == list(range(self.epochs))
        assert not sessions.exists()

    # -- a training that does not ----------------------------------------------------------------------------

    def test_an_error_is_told_and_passed_on(self, train: Train, sessions: Path) -> None:
        """An error ends the session as failed, with its reason and all rows before it, and reaches the caller."""
        self.broken(train, _BreaksError("no memory left"))
        kept = self.only(sessions)
        assert (kept.memory.state, kept.memory.outcome) == (State.ABORTED, Outcome.FAILED)
        assert "no memory left" in kept.memory.reason
        assert kept.epochs(1) == [0]

    def test_ctrl_c_is_told_and_passed_on(self, train: Train, sessions: Path) -> None:
        """Ctrl-C ends the session as interrupted, and the program too."""
        self.broken(train, KeyboardInterrupt())
        kept = self.only(sessions)
        assert (kept.memory.state, kept.memory.outcome) == (State.ABORTED, Outcome.INTERRUPTED)
        assert kept.epochs(1) == [0]

    @pytest.mark.parametrize("epoch", [0, 1, 2])
    def test_it_goes_on_after_its_checkpoint(self, train: Train, sessions: Path, epoch: int) -> None:
        """A training that is resumed goes on in the same session, after its checkpoint, and skips no epoch."""
        if not self.resumes:
            pytest.skip("this training cannot go on where it stopped")
        self.broken(train, _BreaksError("the machine goes down"), epoch=epoch)
        saved = self.only(sessions).memory.saved
        first = 0 if saved is None else saved.epoch + 1
        trained: list[int] = []
        train(epochs=self.epochs, resume=True, at_epoch=trained.append)
        kept = self.only(sessions)
        assert kept.memory.first_epoch == first
        assert trained == kept.epochs(2) == list(range(first, self.epochs))
        assert (kept.memory.attempt, kept.memory.outcome) == (2, Outcome.FINISHED)

    # -- what a hub gets -------------------------------------------------------------------------------------

    def test_a_hub_gets_all_of_it(self, train: Train, sessions: Path) -> None:
        """Delivered, the session is done: the hub holds every row once, and the final checkpoint as it is here."""
        train(epochs=self.epochs, resume=False, at_epoch=_nothing)
        self.judged(self.only(sessions))

    @pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
    def test_no_trouble_loses_anything(self, train: Train, sessions: Path, fault: Fault) -> None:
        """Whatever happens to the first requests, the hub holds everything once in the end."""
        train(epochs=self.epochs, resume=False, at_epoch=_nothing)
        # What is refused is retried once, so it may be refused once.
        self.judged(self.only(sessions), [fault] if fault is REFUSED else [fault] * 3)

    def judged(self, kept: _Kept, faults: Sequence[Fault] = ()) -> None:
        """Delivers a finished session, and judges what the hub holds."""
        final = kept.memory.kept_final or kept.memory.kept_best or kept.memory.kept_last
        finals = [step.event.final for step in kept.steps if isinstance(step.event, TrainEnd)]
        named = next((final.snapshot for final in finals if final is not None), "")
        snapshot = named or (final.snapshot if final is not None else "")
        sha256 = digest(kept.folder / "snapshots" / snapshot) if snapshot else None
        hub, memory = self.delivered(kept, faults)
        assert (memory.state, memory.outstanding) == (State.DONE, ())
        assert hub.contradictions == []
        assert kept.epochs(1) == list(range(self.epochs))
        assert _epochs(hub.rows) == kept.counted()
        if memory.checkpoints != "none":
            assert hub.final == sha256


def _epochs(rows: Sequence[Row]) -> Counter[int]:
    """How often each epoch has a row of its own."""
    return Counter(row.epoch for row in rows if row.step is None and not row.final)


def _chain(error: BaseException) -> list[BaseException]:
    """An error, and all that it came of."""
    found: list[BaseException] = []
    rest: BaseException | None = error
    while rest is not None and rest not in found:
        found.append(rest)
        rest = rest.__cause__ or rest.__context__
    return found
