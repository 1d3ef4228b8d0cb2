"""Every way a training can end by itself: what its session tells right afterwards, and what is left of the process.

Real processes, without anybody beside them; `test_supervise.py` has the same under `hubstate run`.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from children import HANGS, PYTHON, begun, ended, only_session, script, told
from fakes import OFFLINE, FakeHub
from loopback import black_hole
from rigs import Rig

import hubstate
from hubstate import events as ev
from hubstate import settings
from hubstate.actions import Heartbeat
from hubstate.clock import VirtualClock
from hubstate.journal import Step, read
from hubstate.limits import Limits
from hubstate.outbox import WORDS
from hubstate.overview import Overview, look
from hubstate.server.running import RunningHub, running
from hubstate.session import begin
from hubstate.states import Outcome, State
from hubstate.wish import Wish

UNKNOWN = (State.TRAINING, Outcome.UNKNOWN, "")


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[RunningHub]:
    with running(tmp_path / "hub") as hub:
        yield hub


def conditions() -> set[str]:
    seen: Overview = look(only_session())
    return {condition.name for condition in seen.receipt.conditions}


# -- one training, one end -------------------------------------------------------------------------------

LOOP = """
import signal, sys
import hubstate
with hubstate.start("digits", epochs=2) as session:
    for epoch in session.epochs():
        session.log({"loss": 1.0})
        %s
"""


@pytest.mark.promise("D12", "D28", "P10")
@pytest.mark.parametrize(
    ("last", "code", "end"),
    [
        ("pass", 0, (State.FINALIZING, Outcome.FINISHED, "")),
        ("sys.exit()", 0, (State.FINALIZING, Outcome.FINISHED, "")),
        ("sys.exit(0)", 0, (State.FINALIZING, Outcome.FINISHED, "")),
        ("sys.exit(3)", 3, (State.ABORTED, Outcome.FAILED, "the process ended by sys.exit(3)")),
        ("sys.exit('no')", 1, (State.ABORTED, Outcome.FAILED, "the process ended by sys.exit('no')")),
        ("raise ValueError('bad batch')", 1, (State.ABORTED, Outcome.FAILED, "ValueError: bad batch")),
        ("raise MemoryError", 1, (State.ABORTED, Outcome.FAILED, "MemoryError: ")),
        (
            "signal.raise_signal(signal.SIGINT)",
            -signal.SIGINT,
            (State.ABORTED, Outcome.INTERRUPTED, "interrupted by Ctrl-C"),
        ),
        ("signal.raise_signal(signal.SIGTERM)", -signal.SIGTERM, UNKNOWN),
        ("signal.raise_signal(signal.SIGKILL)", -signal.SIGKILL, UNKNOWN),
        ("import os; os._exit(5)", 5, UNKNOWN),
    ],
)
def test_an_end_is_told_as_it_was(last, code, end):
    """State, outcome and reason are right afterwards, and the exit code is what it is without hubstate (D12, D28, P10)."""
    process = ended([PYTHON, script(LOOP % last)])
    assert (process.returncode, told()) == (code, end), process.stderr
    assert ("no_contact" in conditions()) == (end == UNKNOWN)
    assert look(only_session()).owner is None


@pytest.mark.promise("D12")
def test_ctrl_c_reaches_the_users_own_code():
    """Ctrl-C is a KeyboardInterrupt in the loop, where the user's own `except` and `finally` see it first (D12)."""
    path = script(
        """
import signal, hubstate
try:
    with hubstate.start("digits") as session:
        session.log({"loss": 1.0})
        try:
            print("ready", flush=True)
            while True:
                signal.pause()
        except KeyboardInterrupt:
            session.log({"loss": 0.5})
            print("mine", flush=True)
            raise
except KeyboardInterrupt:
    print(session.outcome.value)
"""
    )
    with begun([PYTHON, path]) as process:
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=HANGS)
    assert (out, process.returncode) == ("mine\ninterrupted\n", 0)
    assert look(only_session()).receipt.rows == 2


def test_a_second_ctrl_c_ends_the_waiting_and_not_the_word(monkeypatch):
    """While an interrupted session waits for its hub, Ctrl-C again ends the process; the first one's word stands."""
    path = script(
        """
import signal, hubstate
with hubstate.start("digits") as session:
    session.log({"loss": 1.0})
    print("ready", flush=True)
    while True:
        signal.pause()
"""
    )
    with black_hole() as hole:
        monkeypatch.setenv("HUBSTATE_HUB", hole.url)
        with begun([PYTHON, path]) as process:
            process.send_signal(signal.SIGINT)
            while told()[0] is not State.ABORTED:
                assert process.poll() is None
            # What a thread imports just then makes CPython forget why the process ends (it resets its own flag with each
            # text that is executed), so its thread has to be at the hub by now.
            while not hole.connections():
                assert process.poll() is None
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=HANGS)
    assert process.returncode == -signal.SIGINT, err
    state, outcome, _ = told()
    assert (state, outcome) == (State.ABORTED, Outcome.INTERRUPTED)


def interrupted_at(session: hubstate.Session, moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C comes once, in the middle of a method of the session, or of what delivers for it."""
    left = [KeyboardInterrupt]
    *parts, name = moment.split(".")
    owner = getattr(session, parts[0]) if parts else session
    inside = getattr(owner, name)

    def broken(*arguments: Any, **named: Any) -> Any:
        if left:
            raise left.pop()
        return inside(*arguments, **named)

    monkeypatch.setattr(owner, name, broken)


@pytest.mark.parametrize("moment", ["_outgoing.wait", "_say_abort"])
def test_ctrl_c_in_the_middle_of_an_abort_leaves_it_said(moment, monkeypatch):
    """Wherever a second Ctrl-C strikes in the end of a session, the end is written and the session is let go of."""
    session = hubstate.start("digits")
    session.log({"a": 1})
    interrupted_at(session, moment, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        session.abort("interrupted by Ctrl-C", outcome=Outcome.INTERRUPTED)
    assert told() == (State.ABORTED, Outcome.INTERRUPTED, "interrupted by Ctrl-C")
    assert look(only_session()).owner is None


@pytest.mark.parametrize("moment", ["abort", "_say_abort", "_outgoing.wait"])
def test_ctrl_c_while_the_block_is_left_leaves_it_said(moment, monkeypatch):
    """A second Ctrl-C on the way out of the block, before the word was said or behind it, changes nothing in it."""
    session = hubstate.start("digits")
    session.log({"a": 1})
    interrupted_at(session, moment, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        session.__exit__(ValueError, ValueError("bad batch"), None)
    assert told() == (State.ABORTED, Outcome.FAILED, "ValueError: bad batch")
    assert look(only_session()).owner is None


@pytest.mark.parametrize("moment", ["finish", "_begin_training", "_end_training", "_outgoing.wait"])
def test_ctrl_c_while_a_finished_block_is_left_leaves_it_finished(moment, monkeypatch):
    """The training was over when Ctrl-C came: it is told as finished, and nobody waits any more."""
    session = hubstate.start("digits")
    session.log({"a": 1})
    interrupted_at(session, moment, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        session.__exit__(None, None, None)
    assert told() == (State.FINALIZING, Outcome.FINISHED, "")
    assert look(only_session()).owner is None


def test_ctrl_c_while_the_final_file_is_copied_ends_the_copying(monkeypatch):
    """Training was over: the interrupt ends what was being prepared, and the session is finished all the same."""
    session = hubstate.start("digits")
    session.log({"a": 1})
    monkeypatch.setattr(session._checkpoints, "name_final", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        session.finish()
    assert told()[:2] == (State.FINALIZING, Outcome.FINISHED)


def test_ctrl_c_while_threads_are_waited_for_lets_go_all_the_same(monkeypatch):
    """A process that lives on, a notebook, does not own a session for ever because it was interrupted in `close`."""
    session = hubstate.start("digits")
    monkeypatch.setattr(
        session._outgoing._threads, "stop", lambda _timeout: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        session.close()
    assert look(only_session()).owner is None
    monkeypatch.undo()
    assert session._outgoing._threads.stop(HANGS)


@pytest.mark.promise("D12")
def test_the_users_signal_handlers_are_untouched():
    """Before, during and after a session every signal has the handler that it had (D12)."""
    path = script(
        """
import signal, hubstate
def mine(number, frame): ...
signal.signal(signal.SIGTERM, mine)
signal.signal(signal.SIGUSR1, mine)
def handlers(): return {n: signal.getsignal(n) for n in signal.valid_signals()}, signal.pthread_sigmask(0, [])
before = handlers()
with hubstate.start("digits") as session:
    session.log({"loss": 1.0})
    assert handlers() == before
    session.flush(0)
    assert handlers() == before
assert handlers() == before
"""
    )
    process = ended([PYTHON, path])
    assert process.returncode == 0, process.stderr


def test_the_users_own_way_to_end_by_sigterm_is_heard():
    """A handler of the user's that ends the process by an exception ends the session as that exception says."""
    path = script(
        """
import signal, sys, hubstate
signal.signal(signal.SIGTERM, lambda *_: sys.exit(9))
with hubstate.start("digits") as session:
    session.log({"loss": 1.0})
    print("ready", flush=True)
    while True:
        signal.pause()
"""
    )
    with begun([PYTHON, path]) as process:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=HANGS)
    assert process.returncode == 9
    assert told() == (State.ABORTED, Outcome.FAILED, "the process ended by sys.exit(9)")


# -- no word at all --------------------------------------------------------------------------------------

SILENT = """
import hubstate
session = hubstate.start("digits", epochs=5)
for epoch in range(3):
    session.log({"loss": 1.0})
"""


def test_an_interpreter_that_ends_without_a_word_does_not_hang(monkeypatch):
    """A session that nobody ended keeps no process alive, though its hub never answers; it is told as no contact."""
    with black_hole() as hole:
        monkeypatch.setenv("HUBSTATE_HUB", hole.url)
        process = ended([PYTHON, script(SILENT)])
    assert (process.returncode, process.stdout) == (0, "")
    assert "Traceback" not in process.stderr
    assert told() == UNKNOWN
    assert "no_contact" in conditions()


@pytest.mark.promise("C11")
def test_what_a_silent_process_recorded_is_delivered_later(hub, monkeypatch):
    """What was logged before an end without a word arrives with a later `hubstate sync`, every row of it (C11)."""
    monkeypatch.setenv("HUBSTATE_LIMIT_METRICS", "0")
    ended([PYTHON, script(SILENT)])
    process = ended([PYTHON, "-m", "hubstate", "sync", "--hub", hub.url])
    assert process.returncode == 0, process.stderr
    receipt = look(only_session()).receipt
    assert (receipt.rows_delivered, receipt.waiting, receipt.outcome) == (3, 0, Outcome.UNKNOWN)
    (contact,) = (one for one in receipt.conditions if one.name == "no_contact")
    assert contact.reason.startswith("no contact since ")


@pytest.mark.promise("D7", "P5")
def test_finish_keeps_no_process_alive_beyond_its_time(monkeypatch):
    """With a hub that never answers, `finish` comes back and the process ends; what waits is kept."""
    path = script(
        "import hubstate\ns = hubstate.start('digits')\ns.log({'a': 1})\nprint(s.finish(timeout=0.5))"
    )
    with black_hole() as hole:
        monkeypatch.setenv("HUBSTATE_HUB", hole.url)
        process = ended([PYTHON, path])
    assert process.returncode == 0, process.stderr
    assert "1 row kept here" in process.stdout
    assert told()[:2] == (State.FINALIZING, Outcome.FINISHED)


def none_is_left(threads):
    """No thread of ours lives on."""
    for thread in threads:
        if thread.name.startswith("hubstate-"):
            thread.join(HANGS)
            assert not thread.is_alive()


@pytest.mark.promise("D2")
def test_no_thread_is_left_when_a_session_was_let_go_of(new_threads):
    """A process that lives on after `finish` has no thread of ours any more (D2)."""
    session = begin(Wish("digits"), on(), open_hub=lambda _address, _key: FakeHub())
    session.log({"a": 1})
    session.finish()
    none_is_left(new_threads())


# -- a kernel that lives on ------------------------------------------------------------------------------


class Kernel:
    """A notebook's kernel: cells in one namespace of one process; an exception ends its cell alone."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {"hubstate": hubstate}

    def cell(self, source: str) -> str:
        """Runs a cell; returns what broke it, if anything did."""
        try:
            exec(source, self.names)
        except BaseException as error:  # noqa: BLE001 - a kernel survives whatever its cells do
            sys.last_value = error  # as kernels do, so that the frames live on
            return type(error).__name__
        return ""

    def seen(self, name: str = "session") -> Overview:
        return look(Path(".hubstate", self.names[name].id))


CELL = """
with hubstate.start("digits", epochs=2) as session:
    for epoch in session.epochs():
        session.log({"loss": 1.0})
        last(epoch)
"""


@pytest.mark.promise("D19")
def test_sessions_after_each_other_in_one_kernel():
    """Each run of a cell is a session of its own, with its own end, whatever ended the one before (D19)."""
    kernel = Kernel()
    for last, broken, outcome in (
        (lambda _epoch: None, "", Outcome.FINISHED),
        (lambda epoch: 1 / epoch, "ZeroDivisionError", Outcome.FAILED),
        (lambda _epoch: signal.raise_signal(signal.SIGINT), "KeyboardInterrupt", Outcome.INTERRUPTED),
        (lambda _epoch: None, "", Outcome.FINISHED),
    ):
        kernel.names["last"] = last
        assert kernel.cell(CELL) == broken
        assert (kernel.seen().receipt.outcome, kernel.seen().owner) == (outcome, None)
    assert len([path for path in Path(".hubstate").iterdir() if path.is_dir()]) == 4


def test_a_cell_that_is_run_again_while_its_session_is_open():
    """A session that nobody closed goes on beside the new one: both are told as they are, and each can be ended."""
    kernel = Kernel()
    kernel.cell("first = session = hubstate.start('digits')\nsession.log({'a': 1})\nraise ValueError")
    assert (kernel.seen().receipt.outcome, kernel.seen().owner) == (Outcome.RUNNING, os.getpid())
    assert kernel.cell("session = hubstate.start('digits')\nsession.log({'a': 2})\nsession.finish()") == ""
    assert kernel.names["first"].id != kernel.names["session"].id
    assert kernel.seen().receipt.outcome is Outcome.FINISHED
    assert kernel.seen("first").receipt.outcome is Outcome.RUNNING
    assert kernel.cell("first.log({'a': 3})\nfirst.abort('the cell broke')") == ""
    assert (kernel.seen("first").receipt.outcome, kernel.seen("first").receipt.rows) == (Outcome.FAILED, 2)


def test_to_go_on_with_a_session_that_is_open_here_says_what_to_do(capfd):
    """`resume` by id of a session that this kernel has open is refused with the way out, which works."""
    kernel = Kernel()
    kernel.cell("session = hubstate.start('digits')")
    with pytest.raises(hubstate.SessionBusy, match=r"open in this process .* close\(\)"):
        hubstate.start("digits", resume=kernel.names["session"].id)
    kernel.cell("again = hubstate.start('digits', resume=True)")
    assert f"session={kernel.names['session'].id}" in capfd.readouterr().err
    assert kernel.names["again"].id != kernel.names["session"].id
    kernel.cell("again.close()\nsession.close()\nagain = hubstate.start('digits', resume=session.id)")
    assert kernel.names["again"].id == kernel.names["session"].id
    kernel.cell("again.close()")


# -- threads and children --------------------------------------------------------------------------------


@pytest.mark.promise("D13")
def test_a_session_of_a_thread_ends_as_its_thread_does():
    """A training in a thread that breaks ends its session, while the process goes on (D13)."""
    path = script(
        """
import threading, hubstate
def work():
    with hubstate.start("digits") as session:
        session.log({"a": 1})
        raise ValueError("in a thread")
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""
    )
    assert ended([PYTHON, path]).returncode == 0
    assert told() == (State.ABORTED, Outcome.FAILED, "ValueError: in a thread")


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize(
    "leave",
    [
        lambda session: session.__exit__(None, None, None),
        lambda session: session.__exit__(ValueError, ValueError(), None),
        lambda session: session.finish(),
        lambda session: session.abort("no"),
        lambda session: session.flush(),
        lambda session: session.close(),
    ],
    ids=["leave", "break", "finish", "abort", "flush", "close"],
)
def test_a_forked_child_ends_nothing_and_waits_for_nothing(leave: Callable[[hubstate.Session], Any]):
    """A child that leaves the loop by accident comes back at once; its parent's session and outbox are untouched."""
    clock = VirtualClock()
    offline = FakeHub()
    offline.always = OFFLINE
    session = begin(Wish("digits"), on(), clock=Still(clock), open_hub=lambda _address, _key: offline)
    session.log({"a": 1})
    child = os.fork()
    if child == 0:
        before = clock.monotonic()
        leave(session)
        os._exit(int(clock.monotonic() != before) or 7 * (threading.active_count() != 1))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    session.log({"a": 2})
    assert session.state is State.TRAINING
    session.close()
    (folder,) = (path for path in Path(".hubstate").iterdir() if path.is_dir())
    said = [type(entry.line.event) for entry in read(folder) if isinstance(entry.line, Step)]
    assert said.count(ev.FitEpochEnd) == 2
    assert not {ev.TrainEnd, ev.Abort} & set(said)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_a_data_loader_end_without_ending_the_training(method):
    """Workers that end, break, or call the session leave it as it is; the training goes on to its end."""
    path = script(
        """
import multiprocessing, sys
import hubstate
session = None
def work(number):
    if session is not None:
        session.log({"worker": number})
    if number == 1:
        sys.exit(0)
    if number == 2:
        raise ValueError
if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    with hubstate.start("digits", epochs=2) as session:
        for epoch in session.epochs():
            workers = [context.Process(target=work, args=(number,)) for number in range(3)]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
            assert [worker.exitcode for worker in workers] == [0, 0, 1]
            session.log({"loss": 1.0})
"""
    )
    process = ended([PYTHON, path, method])
    assert process.returncode == 0, process.stderr
    assert told()[:2] == (State.FINALIZING, Outcome.FINISHED)
    assert look(only_session()).receipt.rows == 2


def test_a_worker_that_outlives_its_training_does_not_own_its_session():
    """When the training is killed, a worker that lives on keeps nobody from the session."""
    path = script(
        """
import os, signal, sys, hubstate
session = hubstate.start("digits")
session.log({"a": 1})
read, write = os.pipe()
worker = os.fork()
if worker == 0:
    os.close(write)
    sys.stdin.read()
    os._exit(0)
print("ready", flush=True)
print(worker, flush=True)
signal.pause()
"""
    )
    with begun([PYTHON, path]) as process:
        assert process.stdout is not None
        worker = int(process.stdout.readline())
        process.kill()
        process.wait(HANGS)
        os.kill(worker, 0)  # it lives
        assert look(only_session()).owner is None
        assert told() == UNKNOWN
        assert process.stdin is not None
        process.stdin.close()


# -- signs of life ---------------------------------------------------------------------------------------


class Still:
    """A clock whose waiting lets no time pass: the threads that wait by it are woken by signals alone."""

    def __init__(self, clock: VirtualClock) -> None:
        self.wall = clock.wall
        self.monotonic = clock.monotonic
        self.worked = clock.worked
        self._clock = clock

    def wait(self, signal: threading.Event, seconds: float) -> bool:
        if threading.current_thread() is threading.main_thread():
            self._clock.advance(seconds)
            return signal.is_set()
        return signal.wait() if seconds > 0 else signal.is_set()


def on() -> settings.Settings:
    found = settings.resolve(hub=FakeHub.address)
    assert found.mode == "on"
    return found


@pytest.mark.promise("D2", "D19")
@pytest.mark.parametrize("end", ["finished", "aborted"])
@pytest.mark.parametrize("interval", [5.0, 300.0])
def test_no_sign_of_life_leaves_after_the_end(tmp_path, end, interval):
    """Signs of life leave while the session lives, and from the terminal state on none: not over ten intervals (D2, D19)."""
    rig = Rig(tmp_path)
    rig.door.tell(ev.Answered, heartbeat_interval=interval)
    beats = lambda: sum(isinstance(parcel.action, Heartbeat) for parcel in rig.hub.requests)  # noqa: E731
    rig.rows(1)
    over(rig, 4 * interval)
    assert beats() >= 3
    if end == "finished":
        rig.door.tell(ev.TrainEnd)
    else:
        rig.door.tell(ev.Abort, outcome=Outcome.FAILED, reason="broke")
    rig.drain()
    assert rig.door.memory.state in (State.DONE, State.ABORTED)
    so_far = beats()
    over(rig, 10 * interval)
    assert beats() == so_far


@pytest.mark.promise("D2")
def test_an_aborted_session_beats_no_more_while_its_rest_waits(tmp_path):
    """Aborted is over, though its last rows are still on their way: not one sign of life leaves beside them (D2)."""
    rig = Rig(tmp_path)
    rig.rows(1)
    over(rig, 1.0)
    rig.door.tell(ev.Abort, outcome=Outcome.FAILED, reason="broke")
    so_far = len(rig.hub.requests)
    assert rig.door.memory.outstanding
    rig.clock.advance(10_000)
    rig.drain()
    assert not any(isinstance(parcel.action, Heartbeat) for parcel in rig.hub.requests[so_far:])


def over(rig: Rig, seconds: float) -> None:
    """Steps the sender while the time passes, at least every second."""
    until = rig.clock.monotonic() + seconds
    while rig.clock.monotonic() < until:
        rig.clock.advance(max(0.01, min(rig.sender.step(WORDS), 1.0, until - rig.clock.monotonic())))


@pytest.mark.promise("D19")
def test_a_crash_in_a_kernel_stops_the_signs_of_life(new_threads):
    """A training that raised in a kernel which lives on is not shown as alive (D19)."""
    clock = VirtualClock()
    hub = FakeHub()
    wish = Wish("digits", limits=Limits(metrics=0.0, checkpoint=900.0, heartbeat=5.0))
    session = begin(wish, on(), clock=clock, chance=random.Random(1), open_hub=lambda _address, _key: hub)
    session.log({"a": 1})
    error = ValueError("broke")
    session.__exit__(ValueError, error, None)
    none_is_left(new_threads())
    assert session.state is State.ABORTED
