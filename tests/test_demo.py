"""The demo: a newcomer's first command trains, delivers, proves it, and can be gone on with from wherever it stopped."""

from __future__ import annotations

import io
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from hubstate import demo as room
from hubstate.actions import Memory
from hubstate.clock import SystemClock
from hubstate.demo import DATA_DIR, NAME, run_demo
from hubstate.digits import Digits, Network
from hubstate.errors import StorageError, UsageError
from hubstate.hubs.held import held
from hubstate.journal import Step, read
from hubstate.opening import Peek, newest_of
from hubstate.receipt import receipt_of
from hubstate.server import keys
from hubstate.server.running import running
from hubstate.session import Session
from hubstate.snapshots import digest
from hubstate.states import Outcome, State

SESSIONS = DATA_DIR / "sessions"
WHOLE_WAY = "idle → session_created → timing → training → finalizing → done"


def run(**options) -> tuple[int, str]:
    """A demo in a pipe, as quick as it can be, its hub at any free port; its exit code and what it said."""
    out = io.StringIO()
    code = run_demo(**{"pace": 0.0, "port": 0, "out": out, **options})
    return code, out.getvalue()


def sessions() -> list[Peek]:
    return list(newest_of(SESSIONS, NAME))


def fact(said: str, label: str) -> str:
    """What stands behind a label, the last time that it does."""
    (*_, found) = re.findall(rf"^{re.escape(label)} +(\S.*)$", said, re.MULTILINE)
    return found


class Pulled(Exception):
    """The plug was pulled: the process gets no further."""


def pull_the_plug(monkeypatch, epoch: int) -> None:
    """The session is let go of as it is, after the row of an epoch and before its checkpoint."""

    def pulled(self, *_words, **_named):
        if self._epoch == epoch:
            self.close()
            raise Pulled
        return save(self, *_words, **_named)

    save = Session.save
    monkeypatch.setattr(Session, "save", pulled)


def test_it_learns_delivers_and_proves_it():
    """It ends 0 with 15 epochs learned, all delivered, and the digest of the final file as the hub stored it."""
    code, said = run()
    assert code == 0
    (seen,) = sessions()
    memory = seen.memory
    assert (memory.state, memory.outcome, memory.rows, memory.rows_delivered) == (
        State.DONE,
        Outcome.FINISHED,
        15,
        15,
    )
    file = DATA_DIR / "weights" / f"{memory.session}.npz"
    assert Network.load(file).epochs == 15
    assert fact(said, "rows") == "15 of 15 delivered"
    assert fact(said, "at the hub") == "15 rows in force, each epoch once"
    assert fact(said, "sha256") == digest(file) == memory.final_sha256
    assert "as the hub stored it, equal to the file here" in said
    assert fact(said, "states") == WHOLE_WAY
    assert fact(said, "page") == memory.url
    recognised = float(re.findall(r"([\d.]+)% of the test digits", fact(said, "training"))[0])
    assert recognised >= 95
    assert said.count("\nepoch ") == 15
    assert "hubstate serve --data-dir .hubstate-demo/hub" in said.splitlines()[-1]


def test_the_hub_holds_it_afterwards_at_the_same_address():
    """Opened again as the last line says, the hub's pages show the session where they did before."""
    _, said = run(epochs=2)
    port = int(re.findall(r"--port (\d+)", said)[0])
    (seen,) = sessions()
    with running(DATA_DIR / "hub", port=port) as hub:
        holds = held(hub.url, None, seen.memory.session)
        assert seen.memory.url == f"{hub.url}/models/{seen.memory.session}"
    assert [row.epoch for row in holds.rows] == [0, 1]
    assert [file.kind for file in holds.files if file.sha256 == seen.memory.final_sha256].count("final") == 1


def test_a_second_run_begins_beside_the_first():
    """A folder used before just works: a new session, the same hub at the same address, both there."""
    _, first = run(epochs=1)
    code, second = run(epochs=2)
    assert code == 0
    assert fact(first, "page").rsplit("/", 1)[0] == fact(second, "page").rsplit("/", 1)[0]
    newest, older = sessions()
    with running(DATA_DIR / "hub") as hub:
        assert len(held(hub.url, None, newest.memory.session).rows) == 2
        assert len(held(hub.url, None, older.memory.session).rows) == 1


def test_a_port_that_is_taken_is_left_alone():
    """Where something else listens at the wanted port, the embedded hub takes another one."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        code, said = run(epochs=1, port=port)
    assert code == 0
    assert fact(said, "hub").split(",")[0] != f"http://127.0.0.1:{port}"


def test_a_hub_that_still_runs_over_the_folder_is_used():
    """While an earlier demo's page stays, another run delivers to that hub, and does not promise to keep it open."""
    run(epochs=1)
    (first,) = sessions()
    port = int(str(first.memory.hub).rsplit(":", 1)[1])
    with running(DATA_DIR / "hub", port=port) as hub:
        code, said = run(epochs=2, stay=True)  # it would wait for ever for a Ctrl-C
        newest = sessions()[0]
        assert len(held(hub.url, None, newest.memory.session).rows) == 2
    assert code == 0
    assert "until Ctrl-C" not in said
    assert fact(said, "hub") == hub.url


def test_a_folder_whose_hub_cannot_be_asked_is_refused():
    """Where another hub holds the folder and nobody knows its address, the error says so."""
    with running(DATA_DIR / "hub"), pytest.raises(StorageError, match="another hub runs over"):
        run(epochs=1)


def test_a_folder_whose_hub_went_to_another_address_is_refused():
    """Where another hub holds the folder and does not answer where it did before, the error says so."""
    run(epochs=1)
    (first,) = sessions()
    with socket.socket() as silent:  # has the address, and answers nobody
        silent.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        silent.bind(("127.0.0.1", int(str(first.memory.hub).rsplit(":", 1)[1])))
        with running(DATA_DIR / "hub"), pytest.raises(StorageError, match="another hub runs over"):
            run(epochs=1)


# -- going on --------------------------------------------------------------------------------------------


def test_resume_goes_on_where_the_checkpoint_is(monkeypatch):
    """After a crash between a row and its checkpoint, that epoch is trained again, and all ends as if undisturbed."""
    with monkeypatch.context() as crash:
        pull_the_plug(crash, 4)
        with pytest.raises(Pulled):
            run(seed=3)
    (seen,) = sessions()
    assert seen.memory.state is State.TRAINING
    code, said = run(resume=True)
    assert code == 0
    (seen,) = sessions()
    assert seen.memory.attempt == 2
    assert fact(said, "at the hub") == "15 rows in force, each epoch once"
    assert fact(said, "rows").endswith("16 delivered")
    assert fact(said, "states") == WHOLE_WAY
    undisturbed = Network.new(3)
    learned, _ = room.load_digits()
    for _ in range(15):
        undisturbed.learn(learned)
    final = Network.load(DATA_DIR / "weights" / f"{seen.memory.session}.npz")
    assert {n: a.tobytes() for n, a in final.arrays.items()} == {
        n: a.tobytes() for n, a in undisturbed.arrays.items()
    }


def test_resume_without_any_checkpoint_begins_at_the_beginning(monkeypatch):
    """A crash before the first checkpoint costs nothing but the time: the same session, the same seed, epoch 1."""
    with monkeypatch.context() as crash:
        pull_the_plug(crash, 0)
        with pytest.raises(Pulled):
            run(seed=3, epochs=2)
    code, said = run(resume=True)
    assert code == 0
    assert "attempt 2, from the beginning" in said
    (seen,) = sessions()
    final = Network.load(DATA_DIR / "weights" / f"{seen.memory.session}.npz")
    assert (final.seed, final.epochs) == (3, 2)  # as planned, though nobody said it again


def test_resume_of_a_checkpoint_whose_own_file_is_gone(monkeypatch):
    """Where the trainer's file was lost, the kept copy serves, and the trainer's file is there again at the end."""
    with monkeypatch.context() as crash:
        pull_the_plug(crash, 3)
        with pytest.raises(Pulled):
            run(epochs=4)
    (file,) = (DATA_DIR / "weights").glob("*.npz")
    file.unlink()
    code, said = run(resume=True)
    assert code == 0
    assert "attempt 2, from after epoch" in said
    assert "equal to the file here" in said


def test_resume_delivers_what_a_finished_training_left():
    """A session whose training is over is not trained again: what waits is delivered."""
    with socket.create_server(("127.0.0.1", 0)) as gone:
        address = f"http://127.0.0.1:{gone.getsockname()[1]}"
    code, said = run(epochs=2, hub=address, patience=0.0)
    assert code == 1
    assert "no hub has yet" in fact(said, "kept here")
    assert fact(said, "deliver by") == "hubstate demo --resume"
    with running(Path("elsewhere"), port=int(address.rsplit(":", 1)[1])) as hub:
        code, said = run(resume=True)  # it remembers which hub it was begun with
        (seen,) = sessions()
        assert len(held(hub.url, None, seen.memory.session).rows) == 2
    assert code == 0
    assert "its training is over, what waits is delivered" in said
    assert fact(said, "rows") == "2 of 2 delivered"


def test_resume_of_what_is_done_says_so():
    """With everything done there is nothing to go on with: the receipt is shown again, and nothing new begins."""
    _, first = run(epochs=2)
    code, said = run(resume=True)
    assert code == 0
    assert "is done already" in said
    assert fact(said, "sha256") == fact(first, "sha256")
    assert fact(said, "rows") == "2 of 2 delivered"
    assert len(sessions()) == 1


def test_resume_with_nothing_there_begins():
    """`--resume` in a new folder is a first run."""
    code, said = run(resume=True, epochs=1)
    assert code == 0
    assert "new, in" in said


def test_resume_leaves_a_living_demo_alone(monkeypatch):
    """A session that another process trains is not gone on with."""
    run(epochs=1)
    monkeypatch.setattr(
        room.opening, "newest_of", lambda *_: [Peek(sessions()[0].folder, sessions()[0].memory, 4711, 0)]
    )
    assert room._Demo(DATA_DIR, room.Show(io.StringIO()), SystemClock()).past() is None


def test_a_session_is_not_moved_to_another_hub():
    """Going on with another hub than the one that a session belongs to is refused, and says what to do."""
    run(epochs=1)
    with pytest.raises(UsageError, match="leave --hub out"):
        run(resume=True, hub="http://127.0.0.1:9")


# -- hubs that are named ---------------------------------------------------------------------------------


def test_a_named_hub_gets_it_all():
    """With `--hub` no hub is embedded, and the receipt is that hub's."""
    with running(Path("mine")) as hub:
        code, said = run(epochs=2, hub=hub.url)
        (seen,) = sessions()
        assert len(held(hub.url, None, seen.memory.session).rows) == 2
    assert code == 0
    assert not (DATA_DIR / "hub").exists()
    assert "hubstate serve" not in said


def test_refused_credentials_have_their_own_exit_code():
    """Where the hub does not take the key it ends 3, with the reason; everything is kept."""

    class UntilRefused(SystemClock):
        def wait(self, _signal, _seconds):
            signal = threading.Event()
            while not any(c.name == "credentials_rejected" for c in sessions()[0].memory.conditions):
                signal.wait(0.02)
            return False

    keys.create(Path("mine"), "somebody")
    with running(Path("mine")) as hub:
        code, said = run(epochs=1, hub=hub.url, clock=UntilRefused(), patience=0.0)
    assert code == 3
    assert "no hub has yet" in fact(said, "kept here")


# -- what must not be called good -------------------------------------------------------------------------


def test_a_network_that_did_not_learn_is_no_success(monkeypatch):
    """Fifteen epochs that end under 90 % do not end 0, though everything was delivered."""
    monkeypatch.setattr(Network, "judge", lambda *_: (2.0, 0.2))
    code, said = run()
    assert code == 1
    assert "fewer than 90%" in fact(said, "training")
    assert fact(said, "rows") == "15 of 15 delivered"


def test_other_bytes_at_the_hub_are_no_success():
    """If the file here is not the one that the hub stored, it says so and does not end 0."""
    run(epochs=1)
    (file,) = (DATA_DIR / "weights").glob("*.npz")
    file.write_bytes(b"something else")
    code, said = run(resume=True)
    assert code == 1
    assert "NOT EQUAL to the file here" in said


def test_a_file_that_is_gone_is_compared_by_what_was_sent():
    """Without the trainer's file the digest of what was sent serves, and the receipt says that the file is gone."""
    run(epochs=1)
    (file,) = (DATA_DIR / "weights").glob("*.npz")
    file.unlink()
    code, said = run(resume=True)
    assert code == 0
    assert "which is gone" in fact(said, "final file")
    assert "equal to what was sent" in said


def test_a_hub_that_forgot_is_no_success():
    """If the hub does not hold the session any more, the receipt says so and it does not end 0."""
    run(epochs=1)
    (DATA_DIR / "hub").rename(DATA_DIR / "old")
    code, said = run(resume=True)
    assert code == 1
    assert fact(said, "at the hub").startswith("127.0.0.1")


def test_a_wish_to_stop_is_heeded(monkeypatch):
    """Stopped from the hub's page it ends after fewer epochs, delivered and well."""
    monkeypatch.setattr(Session, "stop_requested", property(lambda self: self._epoch == 2))
    code, said = run()
    assert code == 0
    assert fact(said, "training").startswith("stopped after 3 epochs")


def test_a_wish_to_stop_before_the_first_epoch(monkeypatch):
    """Where nothing at all was learned it does not end 0, and names no checkpoint."""
    monkeypatch.setattr(Session, "stop_requested", property(lambda self: True))
    code, said = run()
    assert code == 1
    assert "no epoch was trained" in fact(said, "training")


def test_epochs_that_cannot_be():
    """A number of epochs that cannot be is refused, and no session is left behind."""
    with pytest.raises(UsageError, match="epochs"):
        run(epochs=0)
    assert sessions() == []


def test_the_states_are_those_of_the_journal():
    """The way that is shown is the way that was written, step by step."""
    _, said = run(epochs=1)
    (seen,) = sessions()
    steps = [entry.line for entry in read(seen.folder) if isinstance(entry.line, Step)]
    way = [steps[0].source] + [step.target for step in steps if step.source is not step.target]
    assert fact(said, "states") == " → ".join(state.value for state in way)


# -- people ----------------------------------------------------------------------------------------------


@pytest.fixture
def person():
    """Somebody at a terminal of 80 columns, running a demo whose page stays; what they see, and its process."""
    ends = []

    def at(code: str) -> tuple[subprocess.Popen[bytes], int]:
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=os.environ | {"TERM": "xterm-256color", "COLUMNS": "80"},
            start_new_session=True,
        )
        os.close(theirs)
        ends.append((process, ours))
        return process, ours

    yield at
    for process, ours in ends:
        process.kill()
        process.wait()
        os.close(ours)


def seen_until(words: bytes, screen: int) -> str:
    """What was written to a terminal until these words came, or until its end."""
    text = b""
    while words not in text:
        try:
            text += os.read(screen, 4096)
        except OSError:  # the other end is closed
            break
    return text.decode()


DEMO = "from hubstate.demo import run_demo; raise SystemExit(run_demo(stay=True, port=0, pace=0, epochs=3))"


def test_on_a_terminal_the_page_stays_until_ctrl_c(person):
    """The hub answers while a person looks, and Ctrl-C ends it with the exit code of the training."""
    process, screen = person(DEMO)
    said = seen_until(b"until Ctrl-C.", screen)
    address = re.findall(r"page stays at (\S+) until", said)[0]
    (seen,) = sessions()
    assert len(held(address, None, seen.memory.session).rows) == 3
    process.send_signal(signal.SIGINT)
    assert "Open the hub's pages again" in seen_until(b"\0", screen)
    assert process.wait(30) == 0


def test_ctrl_c_in_a_training_says_how_to_go_on(monkeypatch):
    """Interrupted, it keeps what was recorded, says how to go on, and goes on when told to."""

    def interrupted(_self, _digits: Digits):
        raise KeyboardInterrupt

    with monkeypatch.context() as person_presses:
        person_presses.setattr(Network, "judge", interrupted)
        code, said = run(stay=True)  # who wants out is not asked to press Ctrl-C once more
    assert code == 1
    assert "until Ctrl-C" not in said
    assert "go on with it: hubstate demo --resume" in said
    (seen,) = sessions()
    assert (seen.memory.state, seen.memory.outcome) == (State.ABORTED, Outcome.INTERRUPTED)
    code, said = run(resume=True)
    assert code == 0
    assert fact(said, "training").startswith("finished after 15 epochs")


def test_another_folder_is_named_in_what_to_type_next(monkeypatch):
    """The commands that it proposes are for the folder that it used, quoted where that is needed."""

    def interrupted(_self, _digits: Digits):
        raise KeyboardInterrupt

    monkeypatch.setattr(Network, "judge", interrupted)
    _, said = run(data_dir=Path("my demo"))
    assert "hubstate demo --resume --data-dir 'my demo'" in said
    assert "hubstate serve --data-dir 'my demo/hub'" in said


def test_the_pace_is_kept():
    """An epoch takes at least as long as the pace says, by the clock that it is given."""
    waited = []

    class Watch(SystemClock):
        def monotonic(self):
            return 0.0

        def wait(self, _signal, seconds):
            waited.append(seconds)
            return False

    run(epochs=3, pace=0.25, clock=Watch())
    assert waited == [0.25] * 3


def test_the_receipt_adds_up_with_rows_that_a_hub_does_not_take():
    """Rows that a hub of another kind cannot hold are not counted as missing."""
    out = io.StringIO()
    memory = Memory(session="S", state=State.DONE, rows=3, rows_delivered=2, rows_not_taken=1)
    assert room._Demo(DATA_DIR, room.Show(out), SystemClock())._tell_deliveries(receipt_of(memory))
    assert fact(out.getvalue(), "rows") == "2 of 2 delivered"
