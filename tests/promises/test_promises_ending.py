"""Promises about the end: it is told last and truly, keeps nobody waiting, and no answer or mistake breaks a training."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from loopback import BlackHole, black_hole
from scene import BEAT, END, OPEN, ROWS, UPLOAD, Scene, weights
from scripted import Request, Says

from hubstate import settings
from hubstate.clock import SystemClock, VirtualClock
from hubstate.errors import IllegalEvent
from hubstate.events import Event, FitEpochEnd, ModelSave, PretrainRoutineEnd, TrainEnd, TrainStart
from hubstate.hubs.base import Hub
from hubstate.hubs.hub_v1 import HubV1
from hubstate.limits import Limits
from hubstate.session import Session, begin
from hubstate.states import Outcome, State
from hubstate.wish import Wish


@pytest.mark.promise("P4")
@pytest.mark.parametrize("end", ["finish", "abort"])
def test_the_end_is_told_last(scene: Scene, end: str) -> None:
    """Rows and files that are held up hold the last word up: it leaves once all before it was acknowledged."""
    session = scene.start(epochs=3, limits=Limits(metrics=0.0, checkpoint=0.0))
    acknowledged: list[str] = []

    def noted(request: Request) -> Says:
        says = scene.reach(request)
        acknowledged.append(request.headers["idempotency-key"])
        return says

    scene.then(ROWS, Says(503, {}), Says(503, {}), scene.lost)
    scene.then(UPLOAD, Says(503, {}), Says(503, {}), scene.lost, Says(503, {}))
    with scene.until(noted, OPEN, ROWS, UPLOAD, END):
        scene.train(session, 3)
        session.finish(600) if end == "finish" else session.abort("broke", timeout=600)
    receipt = session.receipt if not session.waiting else scene.sync(session)
    assert (receipt.waiting, receipt.rows_delivered) == (0, 3)
    order = [came.what for came in scene.came if came.what != BEAT]
    assert order[-1] == END
    assert order.count(END) == 1
    told = scene.about(END)[0].request.json
    assert (told["rows"], told["state"]) == (3, "done" if end == "finish" else "aborted")


@pytest.mark.promise("D28", "P10")
def test_an_error_in_the_training_is_told_at_the_hub(scene: Scene) -> None:
    """The exception reaches the caller; the hub holds every row and file, and tells how it ended and why."""
    session = scene.start(epochs=5)

    def train() -> None:
        path = Path("last.pt")
        with session:
            for epoch in session.epochs():
                session.log({"loss": 1 / (2 - epoch)})
                path.write_bytes(weights(epoch))
                session.save(path)

    with pytest.raises(ZeroDivisionError):
        train()
    assert (session.state, session.outcome, session.waiting) == (State.ABORTED, Outcome.FAILED, 0)
    told = scene.model(session)
    assert (told["state"], told["outcome"], told["reason"]) == (
        "aborted",
        "failed",
        "ZeroDivisionError: division by zero",
    )
    assert scene.epochs(session) == [0, 1]
    assert scene.files(session) == {"last": weights(0)}


# -- a hub that swallows everything ----------------------------------------------------------------------


class Counting(VirtualClock):
    """A clock of a trainer: only its own waiting lets time pass. Whoever sends waits for signals alone."""

    def wait(self, signal: threading.Event, seconds: float) -> bool:
        if threading.current_thread() is threading.main_thread():
            return super().wait(signal, seconds)
        return signal.wait() if seconds > 0 else signal.is_set()


class Silent(NamedTuple):
    """A session with its real threads, its clock, and its hub that accepts and never answers."""

    session: Session
    clock: Counting
    hole: BlackHole
    #: Threads of hubstate that another test left in this process.
    others: frozenset[threading.Thread]

    def threads(self) -> list[threading.Thread]:
        """The threads of this session."""
        return [thread for thread in threads_here() if thread not in self.others]

    def train(self, epochs: int, each: Callable[[], None] = lambda: None) -> None:
        """So many epochs, most of them while a request hangs."""
        path = Path("last.pt")
        for epoch in range(epochs):
            self.session.log({"loss": 1.0}, epoch=epoch)
            if epoch % 20 == 0:
                path.write_bytes(weights(epoch))
                self.session.save(path, epoch=epoch, fitness=float(epoch))
            if epoch == 0:
                self._until_asked()
            each()

    def _until_asked(self) -> None:
        clock, never = SystemClock(), threading.Event()
        for _ in range(1200):
            if self.hole.connections():
                return
            clock.wait(never, 0.05)
        raise AssertionError("nobody asked the hub anything")


@pytest.fixture
def silent(tmp_path: Path) -> Iterator[Silent]:
    """A session towards a hub that accepts and never answers, and an older one that waits as well."""
    clock = Counting()
    others = frozenset(threads_here())

    def client(address: str, key: str | None) -> Hub:
        return HubV1(address, key)

    with black_hole() as hole:
        found = settings.resolve(hub=hole.url, directory=tmp_path / "sessions")
        offline = settings.resolve(hub=hole.url, directory=tmp_path / "sessions", mode="offline")
        with begin(Wish("older"), offline, clock=clock) as older:
            older.log({"loss": 1.0})
        wish = Wish("digits", limits=Limits(metrics=0.0, checkpoint=0.0))
        made = Silent(begin(wish, found, clock=clock, open_hub=client), clock, hole, others)
        yield made
    for thread in made.threads():
        thread.join(60)
        assert not thread.is_alive()


def threads_here() -> list[threading.Thread]:
    """The threads of hubstate in this process."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("hubstate-")]


@pytest.mark.promise("D7", "D6")
def test_nobody_waits_for_a_silent_hub(silent: Silent) -> None:
    """No callback waits at all, and `finish` no longer than its time-out, though requests hang meanwhile."""
    began = silent.clock.monotonic()
    silent.train(50)
    assert silent.clock.monotonic() == began
    receipt = silent.session.finish(30.0)
    assert silent.clock.monotonic() - began <= 31.0
    assert (receipt.rows, receipt.rows_waiting) == (50, 50)
    assert len(silent.threads()) > 0, "the request hangs still"


@pytest.mark.promise("D8", "P5")
def test_two_threads_however_slow_the_hub(silent: Silent) -> None:
    """1000 epochs towards a hub that takes nothing, and an older session: one thread of words and one of files, no more."""
    most = 0

    def count() -> None:
        nonlocal most
        names = [thread.name for thread in silent.threads()]
        most = max(most, len(names))
        assert len(names) == len(set(names))

    silent.train(1000, count)
    assert most == 2
    silent.session.finish(0)
    assert silent.session.receipt.rows_waiting == 1000


# -- answers and mistakes --------------------------------------------------------------------------------

_LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=10))
_NAMES = st.sampled_from(
    ["success", "data", "id", "rows", "sha256", "hubstate", "stop", "url", "heartbeat", "metrics", "message"]
)
_JSON = st.recursive(
    _LEAVES,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_NAMES, inner, max_size=5)),
    max_leaves=10,
)
_ANSWERS = st.one_of(
    st.builds(Says, st.sampled_from([200, 201, 204, 302, 400, 401, 404, 409, 422, 429, 500, 503]), _JSON),
    st.builds(
        Says, st.just(200), _JSON.map(lambda value: {"success": True, "data": value, "hubstate": value})
    ),
    st.builds(Says, st.just(200), st.binary(max_size=50)),
    st.binary(max_size=50).map(lambda raw: Says(raw=b"HTTP/1.1 200 OK\r\n" + raw)),
    st.just(Says(drop=True)),
)


@pytest.mark.promise("P6")
@examples(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(answers=st.lists(_ANSWERS, min_size=1, max_size=12), seed=st.integers(0, 10**9))
def test_no_answer_raises_into_a_training(scene: Scene, answers: list[Says], seed: int) -> None:
    """Whatever every request hears, from the first question on: a training runs to its end, and its rows are kept."""
    left = list(answers)

    def answer(request: Request) -> Says:
        return left.pop(0) if left else scene.reach(request)

    with scene.until(answer):
        session = scene.start(epochs=3, seed=seed, limits=Limits(metrics=1.0, checkpoint=1.0, heartbeat=5.0))
        scene.train(session, 3, seconds=10.0)
        receipt = session.finish()
    assert receipt.outcome in (Outcome.FINISHED, Outcome.STOPPED)
    assert receipt.rows == 3
    total = receipt.rows_delivered + receipt.rows_waiting + receipt.rows_not_taken + receipt.rows_refused
    assert total == 3
    assert json.dumps([condition.reason for condition in receipt.conditions])
    scene.clock.advance(7200.0)


@pytest.mark.promise("D29")
@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (FitEpochEnd, {"epoch": 0, "metrics": {"loss": 1.0}}),
        (ModelSave, {"epoch": 0, "path": "last.pt", "size": 1, "mtime_ns": 1}),
        (TrainStart, {}),
        (TrainEnd, {}),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_what_comes_too_early_changes_nothing(
    scene: Scene, kind: type[Event], fields: dict[str, Any]
) -> None:
    """A trainer's module that tells things in the wrong order hears why not; its training goes on as if it had not."""
    session = scene.start(epochs=1)
    before = session._door.memory
    refusal = session.tell(kind, **fields).refusal
    assert refusal is not None
    assert refusal.illegal
    assert (refusal.state, "pretrain_routine_end" in refusal.legal) == (State.SESSION_CREATED, True)
    assert session._door.memory == before
    session.tell(PretrainRoutineEnd)
    for epoch in session.epochs():
        session.log({"loss": 1.0}, epoch=epoch)
    assert session.finish().state is State.DONE
    assert scene.epochs(session) == [0]


@pytest.mark.promise("D29", "C16")
def test_what_comes_too_late_names_state_event_and_what_is_legal(scene: Scene) -> None:
    """A plain caller hears it as an exception that says what was told, where the session stands, and what would do."""
    session = scene.start()
    session.log({"loss": 1.0}, epoch=0)
    session.tell(TrainEnd)
    with pytest.raises(IllegalEvent, match="fit_epoch_end is illegal: the session is finalizing") as raised:
        session.log({"loss": 2.0}, epoch=1)
    assert raised.value.legal == session.legal
    assert all(event in str(raised.value) for event in session.legal)
    assert session.finish().rows == 1
