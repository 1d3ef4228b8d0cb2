"""`hubstate run`: a real command as a child, its terminal, its signals, its end, and what becomes of its sessions."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from children import HANGS, PYTHON, RUN, begun, ended, only_session, script, told
from journals import DAMAGED
from loopback import black_hole, refused_port

import hubstate
from hubstate import settings, supervise
from hubstate.clock import SystemClock
from hubstate.errors import SessionBusy
from hubstate.journal import read
from hubstate.overview import Overview, look
from hubstate.server import keys
from hubstate.server.running import RunningHub, running
from hubstate.states import Outcome, State
from hubstate.supervise import End, Kills, count_kills, end_as

#: A training that says one row, and then does as its argument says.
ENDS = """
import os, signal, sys
import hubstate
session = hubstate.start("digits", epochs=5)
session.log({"loss": 1.0})
how = sys.argv[1]
if how.isdigit():
    sys.exit(int(how))
os.kill(os.getpid(), getattr(signal, how))
"""

#: A training that waits to be told how to end, and tells which signals come.
WAITS = """
import signal, sys
import hubstate
session = hubstate.start("digits", epochs=5)
session.log({"loss": 1.0})
def came(number, frame):
    print(signal.Signals(number).name, flush=True)
    sys.exit(7)
for number in map(int, sys.argv[1:]):
    signal.signal(number, came)
print("ready", flush=True)
while True:
    signal.pause()
"""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[RunningHub]:
    with running(tmp_path / "hub") as hub:
        yield hub


def runs_folder() -> Path:
    return Path(os.environ["XDG_DATA_HOME"], "hubstate", "runs")


# -- the end of the command is the end of its session ----------------------------------------------------


@pytest.mark.promise("D28")
@pytest.mark.parametrize(
    ("how", "code", "outcome", "reason"),
    [
        ("0", 0, Outcome.UNKNOWN, "the command ended with exit code 0, and its training never said"),
        ("3", 3, Outcome.FAILED, "exit code 3"),
        ("SIGINT", -signal.SIGINT, Outcome.INTERRUPTED, "ended by SIGINT"),
        ("SIGTERM", -signal.SIGTERM, Outcome.INTERRUPTED, "ended by SIGTERM"),
        ("SIGUSR1", -signal.SIGUSR1, Outcome.FAILED, "ended by SIGUSR1"),
        ("SIGABRT", -signal.SIGABRT, Outcome.FAILED, "ended by SIGABRT"),
        ("SIGKILL", -signal.SIGKILL, Outcome.FAILED, "killed by SIGKILL"),
    ],
)
def test_however_the_command_ends_its_session_says_so(how, code, outcome, reason):
    """Whatever ended the command is written as the end of the session that it left open, and is our own end too."""
    process = ended([*RUN, "--", PYTHON, script(ENDS), how])
    assert process.returncode == code, process.stderr
    state, what, why = told()
    assert (state, what) == (State.ABORTED, outcome)
    assert why.startswith(reason)
    assert process.stdout == ""
    assert f"{outcome.value}, 0 of 1 rows delivered, 1 row kept here" in process.stderr


def test_a_session_that_ended_itself_is_untouched():
    """Who said how it ended is believed: nothing is written behind its own word, whatever the exit code."""
    path = script('import hubstate\nwith hubstate.start("digits") as s: s.log({"a": 1})\nraise SystemExit(9)')
    process = ended([*RUN, PYTHON, path])
    assert process.returncode == 9
    assert told()[:2] == (State.FINALIZING, Outcome.FINISHED)
    assert {entry.position.segment for entry in read(only_session())} == {1}


def test_a_session_of_a_descendant_is_meant_too():
    """A script that starts a shell that starts the training: the session is ended all the same."""
    path = script(ENDS)
    process = ended([*RUN, "sh", "-c", f"{PYTHON} {path} SIGKILL; exit 5"])
    assert process.returncode == 5
    assert told() == (State.ABORTED, Outcome.FAILED, "exit code 5")


def test_several_sessions_of_one_command_are_all_ended():
    """Each session that was left open gets its end."""
    ended([*RUN, PYTHON, "-c", "import hubstate\na, b = hubstate.start('a'), hubstate.start('b')\nexit(2)"])
    told_of = [look(folder).receipt.reason for folder in Path(".hubstate").iterdir() if folder.is_dir()]
    assert told_of == ["exit code 2", "exit code 2"]


def test_an_attempt_of_somebody_else_is_left_alone():
    """A session that was taken on by a process outside the command is not ended for it."""
    source = """
import os, hubstate
hubstate.start("digits").close()
del os.environ["HUBSTATE_RUN"]
hubstate.start("digits", resume=True).close()
exit(3)
"""
    assert ended([*RUN, PYTHON, script(source)]).returncode == 3
    assert told()[:2] == (State.SESSION_CREATED, Outcome.UNKNOWN)


def test_a_session_that_still_has_an_owner_is_left_to_it(tmp_path):
    """What the command left running behind it keeps its session, and that is said."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    behind = script(
        """
import sys, hubstate
with hubstate.start("digits") as session:
    session.log({"a": 1})
    print(session.id, flush=True)
    open(sys.argv[1]).read()
""",
        "behind.py",
    )
    front = script(
        f"""
import subprocess
child = subprocess.Popen([{PYTHON!r}, {str(behind)!r}, {str(gate)!r}], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid)
""",
        "front.py",
    )
    with (tmp_path / "err").open("w+") as err:
        process = subprocess.run(
            [*RUN, PYTHON, front], stdout=subprocess.PIPE, stderr=err, text=True, check=True, timeout=HANGS
        )
        said = Path(err.name).read_text()
    try:
        assert f"is owned by process {int(process.stdout)}, which lives; it is left to it" in said
        assert told()[:2] == (State.TRAINING, Outcome.RUNNING)
    finally:
        gate.write_text("")
    while look(only_session()).owner is not None:
        os.sched_yield()
    assert told()[:2] == (State.FINALIZING, Outcome.FINISHED)


# -- the command is run as if nobody stood between -------------------------------------------------------


def test_pipes_are_the_commands_own():
    """Standard input and output go to the command and come from it, byte by byte, and we add nothing."""
    process = ended([*RUN, "--", "cat"], input="one\ntwo")
    assert (process.stdout, process.stderr, process.returncode) == ("one\ntwo", "", 0)


def test_options_of_the_command_are_not_ours():
    """Behind the command's name everything is the command's, with or without `--` before it."""
    assert ended([*RUN, "echo", "--timeout", "5", "-h", "--"]).stdout == "--timeout 5 -h --\n"


@pytest.mark.parametrize(("command", "code"), [("no-such-command-here", 127), (os.sep, 126)])
def test_a_command_that_cannot_be_started(command, code):
    """A command that is not there ends with 127, and one that cannot be run with 126, as in a shell."""
    process = ended([*RUN, command])
    assert process.returncode == code
    assert process.stderr.startswith(f"hubstate: cannot run {command}: ")
    assert process.stderr.count("\n") == 1


def test_no_command_at_all_is_a_mistake():
    """Nothing to run ends with 2."""
    assert ended(RUN).returncode == 2


def test_the_command_finds_its_signals_as_it_would_without_us():
    """What is blocked and what is ignored, a hangup under `nohup` say, is the same with us and without us."""
    command = ["grep", "-E", "SigBlk|SigIgn", "/proc/self/status"]

    def ignoring() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGQUIT, signal.SIG_DFL)  # a shell's background job ignores it
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})

    def found(run: list[str]) -> list[int]:
        lines = ended([*run, *command], preexec_fn=ignoring).stdout.splitlines()
        # The C library keeps 32 and 33 to itself, and leaves them ignored in what it spawns.
        return [int(line.split()[1], 16) & ~(0b11 << 31) for line in lines]

    assert found(RUN) == found([]) == [1 << signal.SIGUSR2 - 1, 1 << signal.SIGHUP - 1]


@pytest.mark.parametrize(
    "number",
    [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM],
    ids=lambda number: number.name,
)
def test_a_signal_to_us_is_passed_on(number):
    """What is sent to this process reaches the command, whose answer to it is its own: here, exit code 7."""
    with begun([*RUN, PYTHON, script(WAITS), str(int(number))]) as process:
        process.send_signal(number)
        out, _ = process.communicate(timeout=HANGS)
    assert out == f"{number.name}\n"
    assert process.returncode == 7
    assert told() == (State.ABORTED, Outcome.FAILED, "exit code 7")


def test_a_signal_by_default_ends_both_and_is_seen():
    """SIGTERM to us ends a command that does not handle it: interrupted, where alone it would be a silence."""
    with begun([*RUN, PYTHON, script(WAITS)]) as process:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=HANGS)
    assert process.returncode == -signal.SIGTERM
    assert told() == (State.ABORTED, Outcome.INTERRUPTED, "ended by SIGTERM")


def test_ctrl_c_reaches_the_command_once_and_the_terminal_is_its_own():
    """On a terminal the command stands in front, in our group, and Ctrl-C comes to it once and not once more from us."""
    path = script(
        """
import os, signal, sys
assert os.isatty(0) and os.isatty(1) and os.isatty(2)
assert os.tcgetpgrp(0) == os.getpgrp() == os.getpgid(os.getppid())
interrupts = 0
def again(number, frame):
    global interrupts
    interrupts += 1
    if interrupts == 1:
        print("first", flush=True)
def over(number, frame):
    print("interrupts:", interrupts, flush=True)
    sys.exit(4)
signal.signal(signal.SIGINT, again)
signal.signal(signal.SIGUSR1, over)
print("ready", flush=True)
while True:
    signal.pause()
"""
    )
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(PYTHON, [*RUN, PYTHON, str(path)])
    shown = b""
    while b"ready" not in shown:
        shown += os.read(terminal, 4096)
    os.write(terminal, b"\x03")
    while b"first" not in shown:
        shown += os.read(terminal, 4096)
    # It comes behind the interrupt, so an interrupt that was passed on would be counted before it.
    os.kill(pid, signal.SIGUSR1)
    while not re.search(rb"interrupts: \d", shown):
        shown += os.read(terminal, 4096)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 4
    os.close(terminal)
    assert b"interrupts: 1" in shown


def test_a_terminal_that_hangs_up_ends_no_truth():
    """A lost terminal ends the command by SIGHUP, and its session says so though nobody is there to read."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(PYTHON, [*RUN, PYTHON, str(script(WAITS))])
    shown = b""
    while b"ready" not in shown:
        shown += os.read(terminal, 4096)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGHUP
    assert told() == (State.ABORTED, Outcome.FAILED, "ended by SIGHUP")


# -- what is left is delivered ---------------------------------------------------------------------------


@pytest.mark.promise("D23")
def test_what_a_killed_command_held_is_delivered(hub, monkeypatch):
    """After `kill -9` the rows and the end arrive at the hub, and nothing waits any more."""
    monkeypatch.setenv("HUBSTATE_HUB", hub.url)
    process = ended([*RUN, PYTHON, script(ENDS), "SIGKILL"])
    assert process.returncode == -signal.SIGKILL
    receipt = look(only_session()).receipt
    assert (receipt.outcome, receipt.rows_delivered, receipt.waiting) == (Outcome.FAILED, 1, 0)
    assert "failed, 1 of 1 rows delivered" in process.stderr


NAMES_ITS_HUB = """
import os, signal, sys
import hubstate

session = hubstate.start("run", hub=sys.argv[1], limits=hubstate.Limits(metrics=3600))
session.flush(60)
assert session.url
session.log({"loss": 1.0})
session.log({"loss": 0.5})
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_key_that_the_command_had_is_for_the_hub_that_it_named(hub, monkeypatch):
    """A hub that the command's own code named gets the rest under the key in the environment that both share."""
    monkeypatch.setenv("HUBSTATE_API_KEY", keys.create(hub.data_dir, "laptop"))
    process = ended([*RUN, PYTHON, script(NAMES_ITS_HUB), hub.url])
    assert process.returncode == -signal.SIGKILL, process.stderr
    receipt = look(only_session()).receipt
    assert (receipt.outcome, receipt.rows_delivered, receipt.waiting) == (Outcome.FAILED, 2, 0)


def test_a_hub_that_never_answers_is_given_up_in_time(monkeypatch):
    """The delivery ends when its time is over; the outcome was written first, and what waits is kept."""
    with black_hole() as hole:
        monkeypatch.setenv("HUBSTATE_HUB", hole.url)
        process = ended([*RUN, "--timeout", "1", PYTHON, script(ENDS), "3"])
    assert process.returncode == 3
    assert "1 s are over; what waits is kept" in process.stderr
    assert told() == (State.ABORTED, Outcome.FAILED, "exit code 3")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda n: n.name)
def test_a_signal_ends_the_delivery_and_not_the_truth(monkeypatch, number):
    """Who wants us to end while we deliver is heard; the exit code stays the command's."""
    elsewhere = (
        f"http://127.0.0.1:{refused_port()}"  # so that whoever knocks at the hole delivers after the command
    )
    path = script(
        f"import hubstate\ns = hubstate.start('x', hub={elsewhere!r})\nprint('ready', flush=True)\nexit(3)"
    )
    with black_hole() as hole:
        monkeypatch.setenv("HUBSTATE_HUB", hole.url)
        with begun([*RUN, "--timeout", "600", PYTHON, path]) as process:
            while not hole.connections():
                assert process.poll() is None
            process.send_signal(number)
            _, err = process.communicate(timeout=HANGS)
    assert process.returncode == 3
    assert "what waits is kept" in err
    assert "Traceback" not in err
    assert told() == (State.ABORTED, Outcome.FAILED, "exit code 3")


def test_where_no_hub_is_wanted_nothing_is_delivered(hub, monkeypatch):
    """Offline means offline: the session is ended, and kept here."""
    monkeypatch.setenv("HUBSTATE_HUB", hub.url)
    monkeypatch.setenv("HUBSTATE_MODE", "offline")
    ended([*RUN, PYTHON, script(ENDS), "3"])
    receipt = look(only_session()).receipt
    assert (receipt.outcome, receipt.rows_delivered) == (Outcome.FAILED, 0)


def test_with_no_time_nothing_is_delivered(hub, monkeypatch):
    """`--timeout 0` writes the end and leaves the rest to `hubstate sync`."""
    monkeypatch.setenv("HUBSTATE_HUB", hub.url)
    monkeypatch.setenv("HUBSTATE_LIMIT_METRICS", "3600")
    ended([*RUN, "--timeout", "0", PYTHON, script(ENDS), "3"])
    assert look(only_session()).receipt.waiting
    assert told()[2] == "exit code 3"


# -- the folder in which sessions are noted --------------------------------------------------------------


def test_nothing_is_left_behind():
    """The folder of a run goes with it, and one that a killed run left goes with the next."""
    lost = runs_folder() / "lost"
    lost.mkdir(parents=True)
    assert ended([*RUN, "true"]).returncode == 0
    assert list(runs_folder().iterdir()) == []


def test_runs_beside_each_other_leave_each_other_alone():
    """A run that begins while another one lasts does not tidy that one's folder away."""
    with begun([*RUN, PYTHON, script(WAITS)]) as process:
        ended([*RUN, "true"])
        assert len(list(runs_folder().iterdir())) == 1
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=HANGS)
    assert told()[1] is Outcome.INTERRUPTED


def test_a_place_that_cannot_be_written_hinders_no_training():
    """Where nothing can be noted the command runs all the same, and what will not be known is said."""
    runs_folder().parent.mkdir(parents=True)
    runs_folder().write_text("in the way")
    process = ended([*RUN, PYTHON, script(ENDS), "3"])
    assert process.returncode == 3
    assert "how its sessions end will not be known" in process.stderr
    assert told()[:2] == (State.TRAINING, Outcome.UNKNOWN)


def test_a_variable_that_leads_nowhere_is_nothing(monkeypatch, tmp_path):
    """A session that begins after its `hubstate run` is gone begins as any other."""
    monkeypatch.setenv("HUBSTATE_RUN", str(tmp_path / "gone"))
    hubstate.start("digits").close()
    assert not (tmp_path / "gone").exists()


@DAMAGED
def test_a_damaged_session_hinders_neither_end_nor_exit_code():
    """A journal that cannot be read is named; the exit code is the command's."""
    source = """
import hubstate
session = hubstate.start("digits")
session.close()
for file in session._opened.folder.glob("journal-*"):
    file.write_bytes(b"no journal")
exit(3)
"""
    process = ended([*RUN, PYTHON, script(source)])
    assert process.returncode == 3
    assert "no segment of the journal" in process.stderr
    assert "Traceback" not in process.stderr


def kept(name: str) -> Path:
    """A session that wants a hub which is not there, and that its process let go of."""
    session = hubstate.start(name, hub=f"http://127.0.0.1:{refused_port()}")
    session.log({"a": 1})
    session.close()
    return Path(".hubstate", session.id)


def test_a_session_that_somebody_took_just_then_is_left_to_it(monkeypatch):
    """Between looking and ending another process may be quicker: then it is that one's, and it is said."""
    folder, said = kept("digits"), []

    def taken(*_: object) -> None:
        raise SessionBusy("the session is owned by process 1, which lives")

    monkeypatch.setattr(supervise, "conclude", taken)
    assert not supervise._conclude(folder, 1, End(1, Kills(0, 0)), SystemClock(), said.append)
    assert said == ["the session is owned by process 1, which lives; it is left to it"]


def test_a_session_that_vanishes_meanwhile_is_named_and_hinders_no_other():
    """Somebody removed a session's journal while the rest was delivered: it is said, and the others leave."""
    gone, there = kept("gone"), kept("there")
    for file in gone.glob("journal-*"):
        file.unlink()
    said: list[str] = []
    visited: list[Path] = []

    class Work:
        """A round that notes whom it visits."""

        def visit(self, seen: Overview) -> None:
            visited.append(seen.folder)

    found = settings.resolve()  # the session itself knows which hub it was begun for
    supervise._deliver([gone, there], found, Work(), 60.0, said.append)
    assert visited == [there]
    supervise._tell(gone, End(1, Kills(0, 0)), said.append)
    assert said == [f"{gone.name}: there is no journal in {gone}"] * 2


# -- who killed it ---------------------------------------------------------------------------------------


def kernel(root: Path, files: dict[str, str]) -> Kills:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return count_kills(root / "proc", root / "cgroup")


EVENTS = "low 0\nhigh 0\nmax 4\noom 2\noom_kill 2\noom_group_kill 0\n"


@pytest.mark.parametrize(
    ("files", "kills"),
    [
        ({}, Kills(None, None)),
        ({"proc/vmstat": "nr_free 3\noom_kill 5\n"}, Kills(None, 5)),
        ({"proc/self/cgroup": "0::/job/7\n", "cgroup/job/7/memory.events": EVENTS}, Kills(2, None)),
        ({"proc/self/cgroup": "0::/host/name\n", "cgroup/memory.events": EVENTS}, Kills(2, None)),
        (
            {
                "proc/self/cgroup": "5:cpu,memory:/job\n0::/\n",
                "cgroup/memory/job/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
                "proc/vmstat": "oom_kill 9\n",
            },
            Kills(3, 9),
        ),
        (
            {
                "proc/self/cgroup": "5:memory:/elsewhere\n",
                "cgroup/memory/memory.oom_control": "under_oom 0\noom_kill 1\n",
            },
            Kills(1, None),
        ),
        ({"proc/self/cgroup": "4:cpu:/job\n", "cgroup/memory.events": EVENTS}, Kills(None, None)),
    ],
)
def test_the_kernels_counters_are_found(tmp_path, files, kills):
    """The counter of this control group is found in either version, in a container too, and the machine's beside it."""
    assert kernel(tmp_path, files) == kills


@pytest.mark.parametrize(
    ("status", "kills", "words"),
    [
        (
            -9,
            Kills(1, 1),
            "out of memory (the kernel counted its out-of-memory killer in this control group)",
        ),
        (-9, Kills(0, 1), "probably out of memory"),
        (-9, Kills(None, 1), "probably out of memory"),
        (-9, Kills(None, None), "it may have been the kernel's out-of-memory killer"),
        (-9, Kills(0, None), "it may have been the kernel's out-of-memory killer"),
        (-9, Kills(0, 0), "killed by SIGKILL, and not by the kernel's out-of-memory killer"),
        (1, Kills(1, 1), "exit code 1; out of memory: the kernel killed a process in this control group"),
        (1, Kills(2, 2), "out of memory: the kernel killed 2 processes"),
        (1, Kills(0, 3), "exit code 1"),
        (137, Kills(0, 0), "exit code 137 (128 + SIGKILL)"),
        (255, Kills(0, 0), "exit code 255"),
        (-6, Kills(1, 1), "ended by SIGABRT; out of memory"),
        (-int(signal.SIGRTMIN) - 1, Kills(0, 0), f"ended by signal {int(signal.SIGRTMIN) + 1}"),
    ],
)
def test_who_killed_a_command_is_told_as_far_as_it_is_known(status, kills, words):
    """The out-of-memory killer is named where the kernel counted it, ruled out where it did not, else left open."""
    reason = End(status, kills).reason
    assert words in reason
    assert ("out-of-memory" in reason or "out of memory" in reason) == ("memory" in words)


def test_the_out_of_memory_killer_is_named():
    """A training that grows beyond its control group is killed by the kernel, and its session says by whom."""
    group = Path("/sys/fs/cgroup/memory", f"hubstate-test-{os.getpid()}")
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    try:
        (group / "memory.limit_in_bytes").write_text(str(150_000_000))
        path = script("import hubstate\ns = hubstate.start('big')\nx = [b'x' * 10**6 for _ in range(1000)]")
        process = ended(
            [*RUN, PYTHON, path], preexec_fn=lambda: (group / "cgroup.procs").write_text(str(os.getpid()))
        )
    finally:
        group.rmdir()
    assert process.returncode == -signal.SIGKILL
    assert told() == (
        State.ABORTED,
        Outcome.FAILED,
        "killed by SIGKILL: out of memory (the kernel counted its out-of-memory killer in this control group)",
    )


def test_who_cannot_die_by_a_signal_ends_as_shells_count(monkeypatch):
    """The first process of a container is spared by its own signals: then the code is 128 and the signal's number."""
    sent = []
    monkeypatch.setattr(supervise.os, "kill", lambda pid, number: sent.append((pid, number)))
    monkeypatch.setattr(supervise.resource, "setrlimit", lambda *_: None)
    assert end_as(End(-signal.SIGKILL, Kills(0, 0))) == 128 + signal.SIGKILL
    assert sent == [(os.getpid(), signal.SIGKILL)]
    assert end_as(End(5, Kills(0, 0))) == 5
