"""What is closed is compressed, what is written is kept by the disk, and a journal that somebody took away is noticed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from fakes import door_in, train
from journals import damages, numbers, segment

from hubstate import events as ev
from hubstate import journal as room
from hubstate.door import Door
from hubstate.errors import JournalFailing, StorageError
from hubstate.journal import compress_closed, read


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "S"
    made.mkdir()
    return made


def open_files() -> list[Path]:
    """What this process has open, but for what was only open to look."""
    return [file for file in Path("/proc/self/fd").iterdir() if file.is_symlink()]


def row(door: Door) -> None:
    door.tell(ev.FitEpochEnd, door.memory.rows, {"loss": 0.5})


def closed(folder: Path) -> list[object]:
    """One segment with four lines, of which nobody writes any more; returns them."""
    door = train(door_in(folder))
    row(door)
    door.close()
    return [entry.line for entry in read(folder)]


# -- compressing -----------------------------------------------------------------------------------------


def test_a_segment_that_a_living_process_compresses_is_left_to_it(folder, monkeypatch):
    """Whoever comes meanwhile removes no file that another is filling, and leaves that segment to it."""
    lines = closed(folder)
    fsync, seen = os.fsync, []

    def overtaken(fd):
        fsync(fd)
        if not seen:
            seen.append(sorted(path.name for path in folder.iterdir()))
            with monkeypatch.context() as patch:
                patch.setattr(room.os, "getpid", lambda: 1)
                compress_closed(folder, 2)
            assert sorted(path.name for path in folder.iterdir()) == seen[0]

    monkeypatch.setattr(room.os, "fsync", overtaken)
    compress_closed(folder, 2)
    assert len(seen[0]) == 2
    assert [path.name for path in folder.iterdir()] == ["journal-000001.jsonl.gz"]
    assert [entry.line for entry in read(folder)] == lines


def test_a_half_made_file_that_vanishes_meanwhile_is_no_failure(folder, monkeypatch):
    """Two processes may find the same half file of a dead one, and one of them is quicker to remove it."""
    closed(folder)
    half = folder / ".journal-000001.jsonl.77.gz"
    half.write_bytes(b"half")
    glob = Path.glob

    def seen_too_late(where, pattern):
        found = list(glob(where, pattern))
        half.unlink(missing_ok=True)
        return found

    monkeypatch.setattr(Path, "glob", seen_too_late)
    compress_closed(folder, 2)
    assert [path.name for path in folder.iterdir()] == ["journal-000001.jsonl.gz"]


def test_what_somebody_else_compressed_meanwhile_is_no_failure(folder, monkeypatch):
    """Two whole files of the same lines are as good as one: the later one stands."""
    lines = closed(folder)
    sync, others = room._sync_folder, []

    def overtaken(where):
        sync(where)
        if not others:
            others.append(where)
            compress_closed(folder, 2)

    monkeypatch.setattr(room, "_sync_folder", overtaken)
    compress_closed(folder, 2)
    assert [path.name for path in folder.iterdir()] == ["journal-000001.jsonl.gz"]
    assert [entry.line for entry in read(folder)] == lines


def test_what_a_process_left_that_died_while_compressing_is_removed(folder):
    """Half a packed file of a dead process is no segment, and goes with the next try."""
    closed(folder)
    (folder / ".journal-000001.jsonl.77.gz").write_bytes(b"half")
    assert numbers(folder) == [1, 2, 3, 4]
    compress_closed(folder, 2)
    assert [path.name for path in folder.iterdir()] == ["journal-000001.jsonl.gz"]


def test_what_is_compressed_already_is_passed_over(folder):
    """A segment that was closed since is compressed beside those that are, and the one that is written is spared."""
    for count in (1, 2, 3):
        closed(folder)
        compress_closed(folder, count)
    assert sorted(path.name for path in folder.iterdir()) == [
        "journal-000001.jsonl.gz",
        "journal-000002.jsonl.gz",
        "journal-000003.jsonl",
    ]


def test_the_old_name_goes_after_the_disk_keeps_the_new_one(folder, monkeypatch):
    """A power cut finds the plain segment or the packed one, and never neither."""
    closed(folder)
    seen = []
    sync = room._sync_folder
    monkeypatch.setattr(
        room,
        "_sync_folder",
        lambda where: sync(where) or seen.append(sorted(p.name for p in where.iterdir())),
    )
    compress_closed(folder, 2)
    assert seen == [["journal-000001.jsonl", "journal-000001.jsonl.gz"]]


# -- syncing ---------------------------------------------------------------------------------------------


@pytest.fixture
def fsyncs(monkeypatch):
    """The names of the files that the disk was asked to keep."""
    names = []
    fsync = os.fsync

    def counted(fd):
        names.append(Path(f"/proc/self/fd/{fd}").readlink().name)
        fsync(fd)

    monkeypatch.setattr(room.os, "fsync", counted)
    return names


def test_a_sync_asks_for_what_is_new_alone(folder, fsyncs):
    """The first one keeps the file and its name; where nothing was written since, the disk is left alone."""
    door = train(door_in(folder))
    file = segment(folder).name
    for _ in range(2):
        door.sync()
        assert fsyncs == [file, "S"]
    row(door)
    door.sync()
    assert fsyncs == [file, "S", file]


def test_a_sync_keeps_what_was_closed_since(folder, fsyncs, monkeypatch):
    """The last lines of a full segment are kept with the first of the next one, and its file is let go of then."""
    door = train(door_in(folder))
    door.sync()
    fsyncs.clear()
    with monkeypatch.context() as patch:
        patch.setattr(room, "SEGMENT_BYTES", 1)
        row(door)
    before = len(open_files())
    door.sync()
    assert fsyncs == [segment(folder, 1).name, segment(folder, 2).name, "S"]
    assert len(open_files()) == before - 1
    fsyncs.clear()
    door.sync()
    assert fsyncs == []


@pytest.mark.parametrize("moment", ["before", "behind"])
def test_a_segment_that_fills_up_in_the_middle_of_a_sync_is_kept(folder, fsyncs, monkeypatch, moment):
    """What is closed by the trainer while the sender syncs is kept by this sync or the next, and closed once."""
    door = train(door_in(folder))
    counted, rolled = room.os.fsync, []

    def rolls(fd):
        if not rolled and moment == "before":
            rolled.append(row(door))
        counted(fd)
        if not rolled:
            rolled.append(row(door))

    monkeypatch.setattr(room, "SEGMENT_BYTES", 1)
    monkeypatch.setattr(room.os, "fsync", rolls)
    door.sync()
    monkeypatch.setattr(room, "SEGMENT_BYTES", 1 << 20)
    fsyncs.clear()
    door.sync()
    assert fsyncs[-2:] == [segment(folder, 2).name, "S"]
    open_here = [file.readlink() for file in open_files() if file.readlink().parent == folder]
    assert open_here == [segment(folder, 2)]
    door.close()
    assert (numbers(folder), damages(folder)) == ([1, 2, 3, 4], [])


def test_a_name_that_the_disk_did_not_keep_is_asked_for_again(folder, fsyncs, monkeypatch):
    """Only what the disk confirmed counts as kept, the name of a new file included."""
    door = train(door_in(folder))

    def fails(_folder):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(room, "_sync_folder", fails)
        with pytest.raises(StorageError, match="did not keep"):
            door.sync()
    fsyncs.clear()
    door.sync()
    assert fsyncs == [segment(folder).name, "S"]


@pytest.mark.parametrize("how", ["removed", "moved", "its file removed"])
def test_a_journal_that_is_gone_is_noticed(folder, how):
    """Who removes or moves a session's folder while it trains leaves lines that nobody finds: each sync says so."""
    door = train(door_in(folder))
    door.sync()
    assert door.failure == ""
    if how == "moved":
        folder.rename(folder.with_name("T"))
    elif how == "removed":
        shutil.rmtree(folder)
    else:
        segment(folder).unlink()
    row(door)
    for _ in range(2):
        door.failure = ""
        door.sync()
        assert "is not in" in door.failure
        assert door.failure.endswith(
            f"the journal is not in {folder} any more: what this process records is kept nowhere; "
            "put the folder back if it was moved, else begin a new session"
        )
    door.failure = ""
    door.close()
    assert "is not in" in door.failure


def test_a_journal_that_is_gone_is_one_that_fails(folder):
    """The journal itself raises what its door tells, and lets go of its files even then."""
    door = train(door_in(folder))
    before = len(open_files())
    shutil.rmtree(folder)
    assert door._journal is not None
    with pytest.raises(JournalFailing, match="is not in"):
        door._journal.close()
    assert len(open_files()) == before - 1
