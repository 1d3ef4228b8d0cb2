"""What a machine may do to a session. Each test names what was kept of it.

Real file systems: a disk that is full or read-only is a small one of its own, mounted in a namespace of the child
process, and a quota is the kernel's limit on the size of a file.
"""

from __future__ import annotations

import errno
import json
import os
import random
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from children import HANGS, PYTHON, script

from hubstate.actions import OpenSession
from hubstate.journal import Damage
from hubstate.opening import peek
from hubstate.overview import look
from hubstate.proof.faults import OFFLINE
from hubstate.receipt import Receipt
from hubstate.states import State
from hubstate.sync import Remainder, deliver
from hubstate.testing import FakeClock, FakeHub
from hubstate.testing.one_thread import open_session

# -- disks -----------------------------------------------------------------------------------------------

_BEFORE = """
import json, os, sys, subprocess
from pathlib import Path
from hubstate.testing import FakeClock, FakeHub
from hubstate.testing.one_thread import open_session
import random
from hubstate.sync import Remainder, deliver

def conditions(session):
    return [condition.name for condition in session.receipt.conditions]

def delivered(directory, session):
    clock, hub = FakeClock(), FakeHub()
    remainder = Remainder(directory / session.id, hub, clock, random.Random(1))
    receipt = deliver(remainder, clock)
    remainder.close()
    return {"rows": [json.loads(row.metrics)["loss"] for row in hub.rows], "kinds": [a.kind.value for a, _ in hub.files],
            "state": receipt.state.value}

def say(**told):
    print(json.dumps(told))
"""


def on_a_small_disk(source: str, size: str = "400k") -> dict[str, Any]:
    """What a script prints at its end; its `disk` is a file system of its own, of this size."""
    disk = Path("disk").absolute()
    disk.mkdir()
    path = script(_BEFORE + f"\ndisk = Path({str(disk)!r})\n" + source)
    mounting = f"mount -t tmpfs -o size={size} none {disk} && exec {PYTHON} {path}"
    command = ["unshare", "-Urm", "sh", "-c", mounting]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=HANGS)
    if done.returncode != 0 and ("unshare" in done.stderr or "mount" in done.stderr):
        pytest.skip(f"this machine lets no test mount a disk of its own: {done.stderr.strip()[-200:]}")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert isinstance(found, dict)
    return found


def test_a_full_disk_keeps_the_rows_in_memory_until_there_is_room():
    """Training goes on, the condition says so, and all rows are on disk in order once room was made: kept is everything."""
    told = on_a_small_disk("""
clock = FakeClock()
session = open_session("digits", disk / "sessions", clock, None)
ballast = disk / "ballast"
for epoch in range(5):
    session.log({"loss": float(epoch)})
try:
    with ballast.open("wb") as file:
        while True:
            file.write(bytes(1024)); file.flush()
except OSError:
    pass
for epoch in range(5, 60):
    session.log({"loss": float(epoch)})
full = conditions(session)
ballast.unlink()
for epoch in range(60, 65):
    session.log({"loss": float(epoch)})
after = conditions(session)
session.finish()
say(full=full, after=after, **delivered(disk / "sessions", session))
""")
    assert "journal_failing" in told["full"]
    assert "journal_failing" not in told["after"]
    assert told["rows"] == [float(epoch) for epoch in range(65)]
    assert told["state"] == "done"


def test_a_full_disk_at_the_end_keeps_what_was_written():
    """A process that ends before there is room again keeps every row that was written before the disk was full."""
    told = on_a_small_disk("""
clock = FakeClock()
session = open_session("digits", disk / "sessions", clock, None)
for epoch in range(5):
    session.log({"loss": float(epoch)})
ballast = disk / "ballast"
try:
    with ballast.open("wb") as file:
        while True:
            file.write(bytes(1024)); file.flush()
except OSError:
    pass
for epoch in range(5, 60):
    session.log({"loss": float(epoch)})
receipt = session.finish()
ballast.unlink()
say(told=[(c.name, c.reason) for c in receipt.conditions], **delivered(disk / "sessions", session))
""")
    assert told["rows"][:5] == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert told["rows"] == [float(epoch) for epoch in range(len(told["rows"]))]
    assert len(told["rows"]) < 60
    reason = dict(told["told"])["journal_failing"]
    assert re.search(r"^\d+ steps are only in memory: .*the disk is full", reason)


def test_a_checkpoint_that_finds_no_room_is_told_and_the_rows_are_kept():
    """The copy is given up with its reason in the journal; every row is kept, and so is the checkpoint before it."""
    told = on_a_small_disk("""
clock = FakeClock()
session = open_session("digits", disk / "sessions", clock, None)
small, large = Path("small.pt"), Path("large.pt")
small.write_bytes(b"weights" * 100)
large.write_bytes(bytes(1_000_000))
session.log({"loss": 0.0})
session.save(small, fitness=1.0)
session.log({"loss": 1.0})
session.save(large, fitness=2.0)
session.log({"loss": 2.0})
session.finish()
steps = "".join(path.read_text() for path in (disk / "sessions" / session.id).glob("journal-*"))
say(reason="No space left" in steps, **delivered(disk / "sessions", session))
""")
    assert told["reason"]
    assert told["rows"] == [0.0, 1.0, 2.0]
    assert told["kinds"] == ["final"]
    assert told["state"] == "done"


def test_a_disk_that_becomes_read_only_ends_no_training():
    """As an ill disk does it in the middle of a run: kept are the rows before, and those after it once it is well."""
    told = on_a_small_disk("""
clock = FakeClock()
session = open_session("digits", disk / "sessions", clock, None)
session.log({"loss": 0.0})
os.sync()
# A file that is open for writing holds a remount up: the kernel refuses it, as it would with any process at work.
for descriptor in Path("/proc/self/fd").iterdir():
    try:
        target = os.readlink(descriptor)
    except OSError:
        continue
    if target.startswith(str(disk)) and "journal-" in target:
        number = int(descriptor.name)
        os.dup2(os.open(target, os.O_RDONLY), number)
session.log({"loss": 1.0})
say(full=conditions(session), rows=session.receipt.rows)
os._exit(0)
""")
    assert "journal_failing" in told["full"]
    assert told["rows"] == 2


def test_a_quota_keeps_what_fitted():
    """The kernel's limit on the size of a file: kept is every row that fitted, and the training hears nothing."""
    path = script(
        _BEFORE
        + """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
session = open_session("digits", Path("sessions"), FakeClock(), None)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
for epoch in range(200):
    session.log({"loss": float(epoch)})
limited = conditions(session)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
session.log({"loss": 200.0})
session.finish()
say(limited=limited, **delivered(Path("sessions"), session))
"""
    )
    done = subprocess.run([PYTHON, path], capture_output=True, text=True, check=False, timeout=HANGS)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert "journal_failing" in told["limited"]
    assert told["rows"] == [float(epoch) for epoch in range(201)]


# -- damage ----------------------------------------------------------------------------------------------


class Kept:
    """A session of twenty rows in `folder` that no hub has seen, let go of by its process; and the clock of its time."""

    def __init__(self, folder: Path) -> None:
        self.clock = FakeClock()
        self.hub = FakeHub(self.clock)
        self.hub.fail(OFFLINE)
        session = open_session("digits", folder, self.clock, self.hub)
        for epoch in range(20):
            session.log({"loss": float(epoch)})
            self.clock.advance(1.0)
        session.flush(1.0)
        session.finish(0.0)
        self.hub.recover()
        self.folder = folder / session.id

    @property
    def outbox(self) -> Path:
        return self.folder / "outbox.sqlite"

    @property
    def journal(self) -> Path:
        (path,) = self.folder.glob("journal-*.jsonl")
        return path

    def deliver(self) -> tuple[Receipt, list[float]]:
        """What a later process delivers: its receipt, and the rows that the hub holds then."""
        remainder = Remainder(self.folder, self.hub, self.clock, random.Random(1))
        try:
            receipt = deliver(remainder, self.clock)
        finally:
            remainder.close()
        return receipt, [json.loads(row.metrics)["loss"] for row in self.hub.rows]


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path / "sessions")


ALL = [float(epoch) for epoch in range(20)]


@pytest.mark.parametrize("how", ["gone", "cut", "in the middle", "another's", "text"])
def test_whatever_becomes_of_the_outbox_everything_is_kept(kept, tmp_path, how):
    """The outbox is made anew from the journal: kept is everything, and nothing arrives twice."""
    file = kept.outbox
    assert file.stat().st_size > 8192
    if how == "gone":
        file.unlink()
    elif how == "cut":
        os.truncate(file, file.stat().st_size // 2)
    elif how == "in the middle":
        with file.open("r+b") as damaged:
            damaged.seek(file.stat().st_size // 2)
            damaged.write(os.urandom(3000))
    elif how == "another's":
        shutil.copy(Kept(tmp_path / "others").outbox, file)
    else:
        file.write_text("no database")
    for rest in ("-wal", "-shm"):
        file.with_name(file.name + rest).unlink(missing_ok=True)
    receipt, rows = kept.deliver()
    assert (receipt.state, receipt.rows_delivered, rows) == (State.DONE, 20, ALL)
    assert not kept.hub.contradictions


@pytest.mark.damages_journals(reason="a line is changed on purpose")
@pytest.mark.parametrize("outbox", ["gone", "there"])
def test_a_damaged_line_of_the_journal_costs_its_own_row(kept, outbox):
    """A line in the middle that nobody can read: kept are all other rows, and that one too while the outbox has it."""
    lines = kept.journal.read_bytes().splitlines(keepends=True)
    place = next(place for place, line in enumerate(lines) if b'"loss":7.0' in line)
    lines[place] = lines[place].replace(b'"loss":7.0', b'"loss":8.0')
    kept.journal.write_bytes(b"".join(lines))
    if outbox == "gone":
        for rest in ("", "-wal", "-shm"):
            kept.outbox.with_name(kept.outbox.name + rest).unlink(missing_ok=True)
    receipt, rows = kept.deliver()
    assert receipt.state is State.DONE
    if outbox == "there":
        assert rows == ALL
    else:
        assert rows == [epoch for epoch in ALL if epoch != 7.0]
        assert (receipt.rows_delivered, receipt.rows_not_taken) == (19, 1)


def test_a_journal_whose_end_is_cut_off_keeps_what_is_before(kept):
    """The last lines are gone, the end of the training among them: kept is every row whose line is there."""
    lines = kept.journal.read_bytes().splitlines(keepends=True)
    place = next(place for place, line in enumerate(lines) if b'"loss":12.0' in line)
    kept.journal.write_bytes(b"".join(lines[: place + 1]) + lines[place + 1][:20])
    seen = peek(kept.folder)
    assert (seen.memory.state, seen.memory.rows) == (State.TRAINING, 13)
    receipt, rows = kept.deliver()
    assert receipt.state is State.TRAINING
    assert [row for row in rows if row <= 12.0] == [float(epoch) for epoch in range(13)]
    assert not kept.hub.contradictions


def test_a_journal_that_was_replaced_is_not_mixed_with_the_outbox_of_another(kept, tmp_path):
    """Another session's journal lies in the folder: delivered is what it tells, under its own name, and nothing else."""
    other = Kept(tmp_path / "others")
    shutil.copy(other.journal, kept.journal)
    receipt, rows = kept.deliver()
    assert receipt.state is State.DONE
    assert rows == ALL
    (opening,) = [p.action for p in kept.hub.holds.values() if isinstance(p.action, OpenSession)]
    assert opening.session == other.folder.name


@pytest.mark.damages_journals(reason="a line is changed on purpose")
def test_damage_is_told_by_status(kept):
    """Whoever looks is told at which line, and what can be done."""
    text = kept.journal.read_bytes()
    kept.journal.write_bytes(text.replace(b'"loss":7.0', b'"loss":8.0'))
    (damage,) = look(kept.folder).damages
    assert damage == Damage(kept.journal.name, 12, "the line is not as it was written")


# -- clocks ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jump", [-400 * 86400.0, -3600.0, 3600.0, 400 * 86400.0])
def test_a_clock_that_is_set_holds_nothing_up_and_loses_nothing(tmp_path, jump):
    """Set back or forth in the middle of a run: rows go on leaving within the interval, and all are kept in order."""
    clock = FakeClock()
    hub = FakeHub(clock)
    session = open_session("digits", tmp_path / "sessions", clock, hub)
    for epoch in range(5):
        session.log({"loss": float(epoch)})
        clock.advance(10.0)
    assert session.flush(60.0)
    clock.jump(jump)
    for epoch in range(5, 10):
        session.log({"loss": float(epoch)})
        clock.advance(10.0)
    assert session.flush(60.0)
    session.finish(60.0)
    assert session.state is State.DONE
    assert [json.loads(row.metrics)["loss"] for row in hub.rows] == [float(epoch) for epoch in range(10)]


@pytest.mark.parametrize("jump", [-400 * 86400.0, 400 * 86400.0])
def test_a_clock_that_was_set_between_two_processes_delays_no_delivery(kept, jump):
    """What an earlier process noted as due in a year is due now: kept and delivered is everything."""
    kept.clock.jump(jump)
    receipt, rows = kept.deliver()
    assert (receipt.state, rows) == (State.DONE, ALL)


# -- people ----------------------------------------------------------------------------------------------


def test_what_belongs_to_another_user_is_left_alone(tmp_path, monkeypatch):
    """A session in a common folder that this user may not read holds nothing of one's own up."""
    directory = tmp_path / "sessions"
    theirs = Kept(directory)
    clock = FakeClock()
    hub = FakeHub(clock)
    original = Path.open

    def forbidden(path: Path, *arguments: Any, **named: Any) -> Any:
        if theirs.folder in path.parents:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return original(path, *arguments, **named)

    monkeypatch.setattr(Path, "open", forbidden)
    monkeypatch.setattr(
        "os.open",
        lambda path, *rest, _open=os.open, **named: (
            forbidden(Path(os.fsdecode(path)))
            if isinstance(path, str | os.PathLike) and theirs.folder in Path(os.fsdecode(path)).parents
            else _open(path, *rest, **named)
        ),
    )
    session = open_session("mine", directory, clock, hub, seed=2)
    session.log({"loss": 1.0})
    session.finish(60.0)
    assert session.state is State.DONE
    assert {parcel.session for parcel in hub.requests} == {session.id}
    monkeypatch.undo()
    assert peek(theirs.folder).memory.rows == 20
