"""Ownership: one living process per session, however the last one ended."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hubstate import ownership as room
from hubstate.errors import SessionBusy, StorageError
from hubstate.ownership import Ownership, owner_of

OWNER = """
import sys
from pathlib import Path
from hubstate.ownership import Ownership
owned = Ownership(Path(sys.argv[1]))
print("owned", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path):
    """Another process that owns the session in `tmp_path`."""
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"owned\n"
        yield process
        process.kill()


def attempt(folder: Path) -> str:
    """What another process hears that wants to own the session."""
    code = (
        "import sys; from pathlib import Path; from hubstate.ownership import *; Ownership(Path(sys.argv[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=False
    )
    return done.stderr.strip().splitlines()[-1] if done.returncode else "owned"


def test_a_second_process_is_refused_and_told_who_owns_it(tmp_path, other):
    """Two processes never write one journal; the second hears the first one's process id."""
    with pytest.raises(SessionBusy, match=f"owned by process {other.pid}, which lives"):
        Ownership(tmp_path)
    assert owner_of(tmp_path) == other.pid


def test_the_kernel_lets_go_of_a_killed_owner(tmp_path, other):
    """After kill -9 the session is free at once: no stale lock is left to be removed by hand."""
    other.kill()
    other.wait()
    assert owner_of(tmp_path) is None
    owned = Ownership(tmp_path)
    assert owner_of(tmp_path) == os.getpid()
    owned.release()


def test_one_process_owns_it_once(tmp_path):
    """The kernel would grant a second lock to the same process; the list of what it owns does not."""
    owned = Ownership(tmp_path)
    with pytest.raises(SessionBusy, match=f"open in this process .pid {os.getpid()}"):
        Ownership(tmp_path)
    with pytest.raises(SessionBusy):
        Ownership(tmp_path / ".." / tmp_path.name)
    assert f"process {os.getpid()}" in attempt(tmp_path)
    owned.release()
    assert attempt(tmp_path) == "owned"


def test_looking_takes_no_lock_and_lets_go_of_none(tmp_path):
    """Whoever asks who owns a session keeps no owner out, and the owner who asks stays the owner."""
    owned = Ownership(tmp_path)
    assert owner_of(tmp_path) == os.getpid()
    assert "SessionBusy" in attempt(tmp_path)
    owned.release()


def test_looking_while_another_wants_to_own_it(tmp_path, monkeypatch):
    """At the very moment of a look another process may take the session: looking is no lock."""
    Ownership(tmp_path).release()
    holder, seen = room._holder, []

    def meanwhile(fd):
        seen.append(attempt(tmp_path))
        return holder(fd)

    monkeypatch.setattr(room, "_holder", meanwhile)
    assert owner_of(tmp_path) is None
    assert seen == ["owned"]


def test_releasing_twice_frees_nobody_elses(tmp_path):
    """An owner that has let go cannot free the session for a second time, under its next owner."""
    first = Ownership(tmp_path)
    first.release()
    second = Ownership(tmp_path)
    first.release()
    assert "SessionBusy" in attempt(tmp_path)
    second.release()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_neither_owns_nor_frees(tmp_path):
    """A worker that is forked from the owner is not the owner, and its end frees nothing."""
    owned = Ownership(tmp_path)
    pid = os.fork()
    if pid == 0:
        code = 3
        try:
            owned.release()
            code = 0 if owner_of(tmp_path) == os.getppid() else 1
            Ownership(tmp_path)
            code = 2
        except SessionBusy:
            pass
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert "SessionBusy" in attempt(tmp_path)
    owned.release()


def test_the_lock_does_not_stay_with_a_child(tmp_path):
    """A worker that outlives a killed owner does not keep the session: the lock is the process', not the file's."""
    code = OWNER.replace(
        'print("owned", flush=True)',
        "import os, time\npid = os.fork()\nif pid == 0:\n    sys.stdin.read(); os._exit(0)\nprint(pid, flush=True)",
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        process.kill()
        process.wait()
        assert Path(f"/proc/{child}").exists()
        assert owner_of(tmp_path) is None
        Ownership(tmp_path).release()


def test_an_owner_whom_the_kernel_cannot_name(tmp_path, other, monkeypatch):
    """An owner in another container or on another machine has no process id here: it is an owner all the same."""
    asked = fcntl.fcntl

    def nameless(fd, command, flock):
        return asked(fd, command, flock)[:-8] + b"\0" * 8

    monkeypatch.setattr(room.fcntl, "fcntl", nameless)
    assert owner_of(tmp_path) == 0
    with pytest.raises(SessionBusy, match="owned by another process"):
        Ownership(tmp_path)


def test_nobody_owns_what_was_never_owned(tmp_path):
    """A session without a lock file, or no session at all, has no owner; looking makes no file."""
    assert owner_of(tmp_path) is None
    assert owner_of(tmp_path / "nowhere") is None
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_takes_no_lock_is_named(tmp_path, monkeypatch):
    """A lock that cannot be made, taken or looked at is this machine's error, and says where."""
    with pytest.raises(StorageError, match=r"cannot lock the session in .*nowhere"):
        Ownership(tmp_path / "nowhere")

    def fails(_fd, _operation):
        raise OSError(37, "No locks available")

    with monkeypatch.context() as patch:
        patch.setattr(room.fcntl, "lockf", fails)
        with pytest.raises(StorageError, match="No locks available"):
            Ownership(tmp_path)
    (tmp_path / "owner.lock").unlink()
    (tmp_path / "owner.lock").symlink_to("owner.lock")
    with pytest.raises(StorageError, match="cannot look at the lock"):
        owner_of(tmp_path)
