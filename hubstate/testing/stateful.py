"""A rule-based stateful machine for sessions: everything that may happen to one, in any order, on a real disk.

`SessionMachine` says things to a session, makes its hub fail, lets time pass, kills the process and reopens from disk
what is left; beside it stands a model in plain Python, and a monitor of the properties S1 to S9 (`proof.properties`)
that reads the journal as it is written. At the end of every example the hub recovers, and then everything has to
arrive and the session to end.

Events that are drawn with equal chances never get far: hardly any example would reach `training`. So each example
begins at a depth of its own, and the rule `advance` says what comes next. What is rarely reached is not left to luck
either: `hold_session` fails if some row of the table was never taken over a whole run.

    hold_session()                        # hubstate's own session
    hold_session(MySubject())             # another way to run sessions, see `subject`
    hold_session(settings=LONG)           # for a night
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from math import isfinite
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import msgspec

from hubstate.testing.needs import require

require("hypothesis")

from hypothesis import settings as Settings  # noqa: E402, N812 - it is a class
from hypothesis import strategies as st  # noqa: E402
from hypothesis.stateful import (  # noqa: E402
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from hubstate import events as ev  # noqa: E402
from hubstate.actions import EndSession, Memory  # noqa: E402
from hubstate.errors import IllegalEvent  # noqa: E402
from hubstate.hubs.base import News, Parcel  # noqa: E402
from hubstate.journal import recover  # noqa: E402
from hubstate.machine import TABLE  # noqa: E402
from hubstate.opening import for_next_attempt  # noqa: E402
from hubstate.proof.faults import LOST, OFFLINE, REFUSED, Fault  # noqa: E402
from hubstate.states import TERMINAL_STATES, Outcome, State  # noqa: E402
from hubstate.testing.clock import FakeClock  # noqa: E402
from hubstate.testing.follow import Follower, row_name  # noqa: E402
from hubstate.testing.hub import FakeHub  # noqa: E402
from hubstate.testing.profiles import CI  # noqa: E402
from hubstate.testing.strategies import durations, faults, metrics  # noqa: E402
from hubstate.testing.subject import Delivering, OwnSession, Subject, UnderTest  # noqa: E402

__all__ = ["SessionMachine", "hold_session", "session_machine"]

_SPINE = (State.IDLE, State.SESSION_CREATED, State.TIMING, State.TRAINING, State.FINALIZING, State.DONE)
_OPEN_ENDED = (State.SESSION_CREATED, State.TIMING, State.TRAINING)
_USAGE: tuple[type[ev.Event], ...] = (ev.ValStart, ev.PredictStart, ev.ExportStart)
#: How many turns, and how far apart (s), everything may need to arrive once the hub is well.
_TURNS, _APART = 400, 15.0


class _Row(NamedTuple):
    """A row as it was logged."""

    attempt: int
    epoch: int
    step: int | None
    metrics: dict[str, float]


class SessionMachine(RuleBasedStateMachine):
    """One session, from nothing to its end. `session_machine` makes one for a subject."""

    subject: ClassVar[Subject] = OwnSession()
    #: How often each row of the table was taken, by its number (0-based), over all examples.
    taken: ClassVar[Counter[int]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.room = Path(tempfile.mkdtemp(prefix="hubstate-"))
        self.directory = self.room / "0"
        self.clock = FakeClock()
        self.hub = FakeHub(self.clock)
        self.hub.arrived = self._arrived
        self.follower = Follower(self.taken)
        self.live: UnderTest | None = None
        self.rest: Delivering | None = None
        # the model
        self.session = ""
        self.rows: list[_Row] = []
        self.attempt = 0
        self.epoch = 0
        self.saved_epoch = -1
        self.best = 1.0
        self.torn = False
        self.given_up = False
        self.crashes = 0

    # -- a beginning ---------------------------------------------------------------------------------------

    @initialize(
        depth=st.sampled_from((0, 1, 2, 3, 3, 3, 3, 4, 5)),
        usage=st.booleans(),
        named=st.sampled_from(("", "", "", "", "", "", "goes on", "ends", "aborts")),
    )
    def begin(self, depth: int, usage: bool, named: str) -> None:
        """A session that is as far as the spine's state `depth`.

        One that trains may be the second attempt of one that named its final checkpoint and died before its end, and
        may end without a save of its own.
        """
        if depth:
            self._open(resume=False, usage=usage)
        for _ in range(depth - 1):
            self._advance()
        if named and self._state() is State.TRAINING:
            self.save(fitness=None, kind="final")
            self.crash()
            self._open(resume=self.session, usage=usage)
            for _ in range(depth - 1):
                self._advance()
            if named == "ends":
                self._advance()
            elif named == "aborts":
                self.abort(Outcome.FAILED, giving_up=False)

    # -- what moves it on ----------------------------------------------------------------------------------

    @precondition(lambda self: self._state() is not State.TRAINING)
    @rule()
    def advance(self) -> None:
        """Whatever comes next on the way to the end; how long the training takes, its own rules say."""
        self._advance()

    @precondition(lambda self: self.live is None and self.rest is None)
    @rule(usage=st.booleans())
    def resume(self, usage: bool) -> None:
        """The session goes on: its next attempt, or what is left to deliver."""
        self._open(resume=self.session or False, usage=usage)

    @precondition(lambda self: self.live is None and self.rest is None and self.session)
    @rule()
    def sync(self) -> None:
        """The session is opened without a trainer, to deliver what it holds."""
        self.follower.begin(
            self.directory / self.session, recover(self.directory / self.session).memory, trains=False
        )
        self.rest = self.subject.deliver(self.directory, self.session, self.clock, self.hub)

    # -- what a trainer says -------------------------------------------------------------------------------

    @precondition(lambda self: self.live is not None)
    @rule(values=metrics(), jump=st.integers(0, 2))
    def row(self, values: dict[str, float], jump: int) -> None:
        """An epoch's row; the epoch may be the same again."""
        self.epoch += min(jump, 1)
        self._log(values, None)

    @precondition(lambda self: self.live is not None)
    @rule(values=metrics(), count=st.integers(1, 3))
    def steps(self, values: dict[str, float], count: int) -> None:
        """Rows of a few steps."""
        for step in range(count):
            self._log(values, step)

    @precondition(lambda self: self._state() is State.TRAINING)
    @rule(then=st.sampled_from(("row", "save", "both", "both", "file")))
    def quiet(self, then: str) -> None:
        """The hub gets everything, and then for a long time nothing happens: what comes next finds itself due."""
        assert self.live is not None
        self.hub.recover()
        self.live.flush(20.0)
        self.best += 2.0
        if then in ("both", "file"):
            # The first one leaves; the second is better, and has to wait for the limit.
            self.save(fitness=self.best - 1.0, kind="last")
            self.live.flush(20.0)
            self.save(fitness=self.best, kind="last")
        if then == "both":
            self.row(values={"loss": 0.5}, jump=1)
        self.clock.advance(900.0)
        if then == "row":
            self.row(values={"loss": 0.5}, jump=1)
        elif then == "save":
            self.save(fitness=self.best, kind="last")
            self.save(fitness=0.0, kind="last")
        self._tell(ev.Tick)

    @precondition(lambda self: self._state() is State.TRAINING)
    @rule(
        seconds=st.sampled_from((0.5, 3.0, 450.0, 900.0)),
        fitness=st.none() | st.sampled_from((0.1, 0.5, 0.9)),
        well=st.booleans(),
        turns=st.integers(0, 4),
        later=st.sampled_from((0.0, 3.0, 900.0)),
    )
    def one_epoch(
        self, *, well: bool, turns: int, seconds: float, fitness: float | None, later: float
    ) -> None:
        """An epoch as trainings have them: things leave, it takes its time, and ends in a row and a save."""
        if well:
            self.hub.recover()
        for _ in range(turns):
            self._turn()
        self.clock.advance(seconds)
        self.row(values={"loss": 0.5}, jump=1)
        self.save(fitness=fitness, kind="last")
        self.clock.advance(later)
        self._tell(ev.Tick)

    @precondition(lambda self: self._state() is State.TRAINING)
    @rule(
        fitness=st.none() | st.sampled_from((0.1, 0.5, 0.5, 0.9)),
        kind=st.sampled_from(("last", "last", "last", "last", "final")),
    )
    def save(self, fitness: float | None, kind: str) -> None:
        """A checkpoint, written over the one before it; a trainer may name one as final long before it ends."""
        assert self.live is not None
        file = self.room / "last.pt"
        file.write_bytes(f"weights of epoch {self.epoch}, attempt {self.attempt}".encode())
        self.live.save(file, epoch=self.epoch, fitness=fitness, kind=kind)
        self.saved_epoch, self.torn = self.epoch, False

    @precondition(lambda self: self.saved_epoch >= 0)
    @rule()
    def overwrite(self) -> None:
        """The trainer's file is not any more what it was when it was saved."""
        (self.room / "last.pt").write_bytes(b"half of a newer one")
        self.torn = True

    @precondition(lambda self: self._state() is State.TRAINING)
    @rule(
        outcome=st.sampled_from((Outcome.FINISHED, Outcome.STOPPED)),
        named=st.booleans(),
        giving_up=st.booleans(),
    )
    def end(self, outcome: Outcome, named: bool, giving_up: bool) -> None:
        """The training is over, perhaps with a file of its own; and perhaps nobody wants to wait for what is left."""
        if named:
            self.save(fitness=None, kind="final")
        self._tell(ev.TrainEnd, outcome=outcome)
        assert self._state() is State.FINALIZING
        if giving_up:
            self.give_up()

    @precondition(lambda self: self._state() in _OPEN_ENDED)
    @rule(
        outcome=st.sampled_from((Outcome.FAILED, Outcome.INTERRUPTED)),
        giving_up=st.sampled_from((False, False, True)),
    )
    def abort(self, outcome: Outcome, giving_up: bool) -> None:
        """The training ended by an error, or by Ctrl-C; and perhaps nobody wants to wait for what is left."""
        self._tell(ev.Abort, outcome=outcome, reason="somewhere on the way")
        assert self._state() is State.ABORTED
        if giving_up:
            self.give_up()

    @precondition(lambda self: self.live is not None)
    @rule(kind=st.sampled_from(_USAGE))
    def use(self, kind: type[ev.Event]) -> None:
        """A validation, prediction or export begins."""
        self._tell(kind)

    # -- what a caller wishes ------------------------------------------------------------------------------

    @precondition(lambda self: self._state() in (State.FINALIZING, State.ABORTED))
    @rule()
    def give_up(self) -> None:
        """What waits is to wait no longer."""
        waits = bool(self.follower.memory.outstanding)
        was = self._state()
        self._tell(ev.GiveUp, "the hub is gone for good")
        self.given_up = self.given_up or waits or was is State.FINALIZING
        assert self._state() is State.ABORTED

    @precondition(lambda self: self.live is not None and self._state() is not State.IDLE)
    @rule()
    def retry_refused(self) -> None:
        """What was refused is tried once more."""
        self._tell(ev.RetryRefused)
        assert not self.follower.memory.refused

    @precondition(lambda self: self.live is not None)
    @rule()
    def illegal(self) -> None:
        """An event that has no place here changes nothing, and is called illegal."""
        state = self._state()
        kind = ev.TrainStart if state not in (State.TIMING, State.IDLE) else ev.GiveUp
        fields = {"reason": "no reason"} if kind is ev.GiveUp else {}
        before = self.follower.memory
        decision = self._tell(kind, **fields)
        assert decision.refusal is not None
        assert decision.refusal.illegal
        assert self.follower.memory == before

    @rule(kind=st.sampled_from((ev.TrainStart, ev.TrainEnd, ev.Tick)))
    def without_a_session(self, kind: type[ev.Event]) -> None:
        """A trainer may train without a session: nothing is written, and nothing raises."""
        none = self.subject.begin(
            self.room / "nowhere", self.clock, self.hub, resume=False, mode="off", usage=False
        )
        before = Memory()
        decision = none.tell(kind)
        assert (decision.memory, decision.actions, none.state) == (before, (), State.IDLE)
        self.follower.said(before, decision.event)
        none.log({"loss": 0.5})
        none.close()
        assert not (self.room / "nowhere").exists()

    # -- time ----------------------------------------------------------------------------------------------

    @rule(seconds=durations())
    def wait(self, seconds: float) -> None:
        """Time passes, and nobody looks."""
        self.clock.advance(seconds)

    @rule(seconds=st.sampled_from((-86_400.0, -60.0, -1.0, 1.0, 60.0, 86_400.0)))
    def jump(self, seconds: float) -> None:
        """The wall clock is set on or back."""
        self.clock.jump(seconds)

    @precondition(lambda self: self.live is not None)
    @rule()
    def tick(self) -> None:
        """Somebody asks whether something is due."""
        self._tell(ev.Tick)

    @precondition(lambda self: self._delivers())
    @rule(turns=st.integers(1, 4))
    def deliver(self, turns: int) -> None:
        """The sender has a few turns; time passes only as far as it wants to rest."""
        for _ in range(turns):
            self._turn()

    @precondition(lambda self: self.live is not None)
    @rule(timeout=st.sampled_from((0.0, 5.0, 20.0)))
    def flush(self, timeout: float) -> None:
        """Somebody waits until the hub holds everything."""
        assert self.live is not None
        drained = self.live.flush(timeout)
        self.follower.read()
        if drained:
            assert not self.live.receipt.waiting

    # -- the hub -------------------------------------------------------------------------------------------

    @rule(fault=faults())
    def fault(self, fault: Fault) -> None:
        """Something goes wrong with the next request."""
        self.hub.fault(fault)

    @precondition(lambda self: self._delivers())
    @rule(retry=st.booleans())
    def refuse(self, retry: bool) -> None:
        """The hub refuses whatever leaves next, and perhaps somebody has it tried again."""
        self.hub.recover()
        self.hub.fault(REFUSED)
        self._turn()
        if retry and self._state() not in (None, State.IDLE):
            self.retry_refused()

    @precondition(lambda self: self._delivers())
    @rule()
    def lose(self) -> None:
        """The acknowledgement of whatever leaves next is lost, and it leaves once more."""
        self.hub.recover()
        self.hub.fault(LOST)
        self._turn()
        self.clock.advance(60.0)
        self._turn()

    @rule(fault=st.just(OFFLINE) | faults())
    def outage(self, fault: Fault) -> None:
        """From now on it goes wrong with every request."""
        self.hub.fail(fault)

    @rule()
    def recover(self) -> None:
        """The hub is well again."""
        self.hub.recover()

    @rule(
        news=st.builds(
            News,
            stop=st.none() | st.just("stop was pressed on the page"),
            metrics_interval=st.none() | st.sampled_from((0.0, 3.0, 60.0)),
            checkpoint_interval=st.none() | st.sampled_from((0.0, 900.0)),
            heartbeat_interval=st.none() | st.sampled_from((0.0, 300.0)),
        )
    )
    def news(self, news: News) -> None:
        """The hub's answers tell something beside the receipt."""
        self.hub.say(news)

    # -- the process ---------------------------------------------------------------------------------------

    @precondition(lambda self: self._delivers())
    @rule()
    def let_go(self) -> None:
        """The process lets go of the session in good order."""
        self._close()

    @precondition(lambda self: self._delivers())
    @rule()
    def crash(self) -> None:
        """The process is killed: what is on disk just now is all that is left."""
        self.crashes += 1
        self.follower.read()
        killed = self.directory
        left = self.room / str(self.crashes)
        shutil.copytree(killed, left)
        self._close()
        shutil.rmtree(killed)
        self.directory = left
        self.follower.moved(left / self.session)
        self.follower.holds()

    # -- what holds after every step -----------------------------------------------------------------------

    @invariant()
    def the_journal_is_judged(self) -> None:
        """S1 to S9 hold of all that was written, and the session is in the state that its journal tells."""
        self.follower.read()
        if self.live is not None:
            assert self.live.state is self.follower.memory.state

    @invariant()
    def every_row_is_counted_once(self) -> None:
        """The receipt adds up, and counts as many rows as were logged."""
        if self.live is not None and self.session:
            receipt = self.live.receipt
            parts = receipt.rows_delivered + receipt.rows_waiting + receipt.rows_not_taken
            parts += receipt.rows_refused + receipt.rows_given_up
            assert receipt.rows == parts == len(self.rows)

    @invariant()
    def the_hub_holds_what_was_logged(self) -> None:
        """Every row at the hub is one that was logged, as it was, and is there once, however often it was sent."""
        assert self.hub.contradictions == []
        held = [parcel.action.key for parcel in self.hub.holds.values() if not parcel.rows]
        held += [str(row.number) for parcel in self.hub.holds.values() for row in parcel.rows]
        assert len(set(held)) == len(held), "the hub holds a repeat as something new"
        for parcel in self.hub.holds.values():
            for row in parcel.rows:
                logged = self.rows[row.number - 1]
                assert (row.attempt, row.epoch, row.step) == logged[:3]
                assert row.metrics == _as_sent(logged.metrics)

    # -- the end -------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        """Liveness: with a hub that is well, whatever was going on comes to its end, and everything arrives."""
        try:
            self._come_to_an_end()
        finally:
            self._close()
            shutil.rmtree(self.room, ignore_errors=True)

    def _come_to_an_end(self) -> None:
        self.hub.recover()
        self.hub.say(News())
        if not self.session:
            return
        if self.live is None:
            self._close()
            self._open(resume=self.session, usage=False)
        for _ in range(len(_SPINE)):
            if self._state() in (State.FINALIZING, *TERMINAL_STATES):
                break
            self._advance()
        assert self.live is not None
        self._tell(ev.RetryRefused)
        for _ in range(_TURNS):
            if self.live.flush(0.5):
                break
            self.clock.advance(_APART)
        assert not self.live.receipt.waiting, f"not everything arrived: {self.live.receipt}"
        self.follower.read()
        memory = self.follower.memory
        assert memory.state in TERMINAL_STATES, f"everything arrived, and the session is {memory.state.value}"
        assert not memory.outstanding
        if not self.given_up:
            held = {row.number for parcel in self.hub.holds.values() for row in parcel.rows}
            assert held == set(range(1, len(self.rows) + 1))
            assert (memory.state is State.DONE) is (not isinstance(self.hub.ended, EndSession))
        finals = Counter(action.attempt for action, _ in self.hub.files if action.kind.value == "final")
        assert all(count == 1 for count in finals.values())

    # -- inside --------------------------------------------------------------------------------------------

    def _state(self) -> State | None:
        return None if self.live is None else self.live.state

    def _delivers(self) -> bool:
        return (self.live is not None or self.rest is not None) and bool(self.session)

    def _open(self, *, resume: str | bool, usage: bool) -> None:
        known = isinstance(resume, str)
        before = Memory()
        if known:
            before = for_next_attempt(recover(self.directory / self.session).memory)
            self.follower.begin(self.directory / self.session, before, trains=True)
        self.live = self.subject.begin(
            self.directory, self.clock, self.hub, resume=resume, mode="on", usage=usage
        )
        assert not known or self.live.id == self.session, "another session was opened than the one asked for"
        if not known:
            self.session = self.live.id
            before = Memory(session=self.session)
            self.follower.begin(self.directory / self.session, before, trains=True)
        self.follower.read()
        if before.state is State.IDLE:
            self.attempt += 1
            first = self.follower.memory.first_epoch
            assert first == self.saved_epoch + 1 or (self.torn and first <= self.saved_epoch + 1)
            self.epoch = first
        assert self.follower.memory.attempt == self.attempt

    def _close(self) -> None:
        if self.live is not None:
            self.live.close()
        if self.rest is not None:
            self.rest.close()
        self.live = self.rest = None

    def _tell(self, kind: type[ev.Event], *fields: Any, **named: Any) -> Any:
        assert self.live is not None
        self.follower.read()
        before = self.follower.memory
        decision = self.live.tell(kind, *fields, **named)
        self.follower.said(before, decision.event)
        self.follower.read()
        return decision

    def _log(self, values: dict[str, float], step: int | None) -> None:
        assert self.live is not None
        if self.live.state in _OPEN_ENDED:
            self.live.log(values, epoch=self.epoch, step=step)
            self.rows.append(_Row(self.attempt, self.epoch, step, values))
            return
        try:
            self.live.log(values, epoch=self.epoch, step=step)
        except IllegalEvent:
            return
        raise AssertionError(f"a row is taken while the session is {self.live.state.value}")

    def _turn(self) -> None:
        """One turn of whatever delivers."""
        if self.rest is not None:
            self.clock.advance(min(self.rest.step(), 60.0))
        elif self.live is not None:
            self.live.flush(0.5)

    def _advance(self) -> None:
        """Says what comes next on the spine; where only the hub can move it on, delivers."""
        match self._state():
            case None:
                if self.rest is not None:
                    self._turn()
                else:
                    self._open(resume=self.session or False, usage=False)
            case State.SESSION_CREATED:
                self._tell(ev.PretrainRoutineEnd)
            case State.TIMING:
                self._tell(ev.TrainStart)
            case State.TRAINING:
                self._tell(ev.TrainEnd)
            case _:
                self._turn()

    def _arrived(self, parcel: Parcel, new: bool) -> None:
        if self.session:
            self.follower.arrived(parcel, new)


def session_machine(subject: Subject | None = None) -> type[SessionMachine]:
    """A machine of its own for a subject (hubstate's own without one), which counts its own rows."""
    return type(
        "SessionMachine",
        (SessionMachine,),
        {"subject": OwnSession() if subject is None else subject, "taken": Counter()},
    )


def hold_session(subject: Subject | None = None, *, settings: Settings = CI) -> None:
    """Runs the machine, and fails if the subject breaks a promise or if some row of the table was never taken."""
    machine = session_machine(subject)
    run_state_machine_as_test(machine, settings=settings)
    missing = [row_name(number) for number in range(len(TABLE)) if not machine.taken[number]]
    assert not missing, "the run never took " + "; ".join(missing)


def _as_sent(values: dict[str, float]) -> bytes:
    return msgspec.json.encode({name: value if isfinite(value) else None for name, value in values.items()})
