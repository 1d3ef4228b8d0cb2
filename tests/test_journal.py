"""The journal: what was said is in it, checked, in order, and survives the process that said it."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from journals import INVENTED, NOTHING, damages, numbers, segment, step, written

from hubstate import journal as room
from hubstate.actions import Memory
from hubstate.errors import JournalFailing, StorageError
from hubstate.journal import (
    Head,
    Journal,
    Position,
    check_of,
    compress_closed,
    holds,
    read,
    recover,
    segments,
    text_at,
)

# -- writing ---------------------------------------------------------------------------------------------


@INVENTED
def test_append_is_one_write(tmp_path, monkeypatch):
    """A step costs one write(2), unbuffered, and no fsync: that is all that a training thread waits for."""
    journal = written(tmp_path, 0)
    calls = []
    write, fsync = os.write, os.fsync
    monkeypatch.setattr(room.os, "write", lambda fd, data: calls.append(len(data)) or write(fd, data))
    monkeypatch.setattr(room.os, "fsync", lambda fd: calls.append("fsync") or fsync(fd))
    size = segment(tmp_path).stat().st_size
    journal.append(step(1), Memory(rows=1))
    assert calls == [segment(tmp_path).stat().st_size - size]
    journal.sync()
    assert "fsync" in calls


@INVENTED
def test_the_file_is_its_owners_alone(tmp_path):
    """What was trained, and with which settings, is nobody else's business on a shared machine."""
    written(tmp_path, 2).close()
    written(tmp_path, 1).close()
    compress_closed(tmp_path, 2)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


KILLED = """
import sys
from hubstate.journal import Journal, Recovery
from journals import NOTHING, step
from hubstate.actions import Memory
from pathlib import Path
journal = Journal(Path(sys.argv[1]), NOTHING)
n = 0
while True:
    n += 1
    journal.append(step(n), Memory(rows=n))
    sys.stdout.write(f"{n}\\n")
    sys.stdout.flush()
"""


@pytest.mark.promise("D23")
@pytest.mark.parametrize("after", [1, 137, 1000])
@INVENTED
def test_what_was_acknowledged_survives_kill_9(tmp_path, after):
    """Every line whose append returned is read back after SIGKILL, in order and undamaged."""
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parent,
        text=True,
    ) as process:
        assert process.stdout is not None
        for _ in range(after):
            process.stdout.readline()
        process.kill()
        acknowledged = after + len(process.stdout.read().splitlines())
    found = numbers(tmp_path)
    assert found == list(range(1, len(found) + 1))
    assert len(found) >= acknowledged - 1  # the last printed line may be torn; its step is not
    assert len(found) >= after
    assert damages(tmp_path) == []


FULL = """
import resource, sys
from pathlib import Path
from hubstate.journal import Journal
from hubstate.errors import JournalFailing
from hubstate.actions import Memory
from journals import NOTHING, segment, step
folder = Path(sys.argv[1])
journal = Journal(folder, NOTHING)
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
room = segment(folder).stat().st_size + 1000
resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
n = 1
while True:
    try:
        journal.append(step(n), Memory(rows=n))
    except JournalFailing as failure:
        assert str(folder) in str(failure)
        break
    n += 1
assert n > 1
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
journal.append(step(n), Memory(rows=n))
journal.append(step(n + 1), Memory(rows=n + 1))
print(n + 1)
"""


@INVENTED
def test_a_short_write_is_cut_back(tmp_path):
    """When the disk takes half a line, it is removed: the step counts as unwritten, and the next joins no torn one."""
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert numbers(tmp_path) == list(range(1, int(done.stdout) + 1))
    assert damages(tmp_path) == []


@INVENTED
def test_half_a_line_that_cannot_be_cut_back_is_cut_first_of_all(tmp_path, monkeypatch):
    """If even the cutting fails, nothing is written until the half line is gone."""
    journal = written(tmp_path, 1)
    write = os.write

    def half(fd, data):
        return write(fd, data[:20])

    def fails(_fd, _size):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(room.os, "write", half)
    with monkeypatch.context() as worse:
        worse.setattr(room.os, "ftruncate", fails)
        for _ in range(2):
            with pytest.raises(JournalFailing, match="back to its last whole line: Input/output error"):
                journal.append(step(2), Memory())
    monkeypatch.undo()
    journal.append(step(2), Memory())
    assert (journal.n, numbers(tmp_path), damages(tmp_path)) == (2, [1, 2], [])


@INVENTED
def test_a_short_write_is_told_and_nothing_of_it_remains(tmp_path, monkeypatch):
    """Whoever said the step hears that it is not written, and where; the file is as it was."""
    journal = written(tmp_path, 1)
    size = segment(tmp_path).stat().st_size
    write = os.write
    monkeypatch.setattr(room.os, "write", lambda fd, data: write(fd, data[:20]))
    with pytest.raises(
        JournalFailing, match=r"cannot write to the journal in .*only 20 of \d+ bytes"
    ) as told:
        journal.append(step(2), Memory())
    assert isinstance(told.value.__cause__, OSError)
    assert told.value.__cause__.errno == errno.ENOSPC
    assert segment(tmp_path).stat().st_size == size
    assert (journal.n, journal.end) == (1, (1, size))


@pytest.mark.parametrize("before_the_write", [True, False])
@INVENTED
def test_an_exception_in_the_middle_of_an_append_is_settled(tmp_path, monkeypatch, before_the_write):
    """Ctrl-C may break in before or behind the write: the step then counts if, and only if, its line is there."""
    journal = written(tmp_path, 1)
    write = os.write

    def interrupted(fd, data):
        if not before_the_write:
            write(fd, data)
        raise KeyboardInterrupt

    monkeypatch.setattr(room.os, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        journal.append(step(2), Memory(rows=2))
    monkeypatch.undo()
    journal.settle()
    assert journal.n == (1 if before_the_write else 2)
    journal.append(step(journal.n + 1), Memory())
    assert numbers(tmp_path) == list(range(1, journal.n + 1))
    assert damages(tmp_path) == []


# -- segments --------------------------------------------------------------------------------------------


@INVENTED
def test_a_full_segment_is_closed_and_a_new_one_begun(tmp_path, monkeypatch):
    """Segments roll at their size, each begins with the memory at that point, and readers follow across them."""
    monkeypatch.setattr(room, "SEGMENT_BYTES", 800)
    journal = written(tmp_path, 12, software="hubstate 0")
    journal.sync()
    assert journal.segment >= 3
    assert numbers(tmp_path) == list(range(1, 13))
    heads = [entry.line for entry in read(tmp_path) if isinstance(entry.line, Head)]
    assert [head.segment for head in heads] == list(range(1, journal.segment + 1))
    assert all(head.memory.rows == head.n - 1 and head.software == "hubstate 0" for head in heads)
    assert recover(tmp_path).n == 12
    journal.close()
    journal.close()
    journal.sync()


@INVENTED
def test_a_segment_is_full_when_it_is_longer_than_its_size(tmp_path, monkeypatch):
    """A line that fits exactly is the last but one: the segment is closed behind the first that goes beyond."""
    journal = written(tmp_path, 1)
    [_, before] = journal.end
    journal.append(step(2), Memory(rows=2))
    [_, end] = journal.end
    monkeypatch.setattr(room, "SEGMENT_BYTES", end + (end - before))
    journal.append(step(3), Memory(rows=3))
    assert journal.segment == 1
    journal.append(step(4), Memory(rows=4))
    assert journal.segment == 2


def test_who_wrote_a_segment_is_told_only_if_somebody_said_so(tmp_path):
    """A head without a word about the software holds none."""
    written(tmp_path, 0).close()
    [entry] = read(tmp_path)
    assert isinstance(entry.line, Head)
    assert (entry.line.software, entry.line.origin) == ("", "")


@INVENTED
def test_a_process_without_standard_input_keeps_its_journal(tmp_path, monkeypatch):
    """The first file that such a process opens has the number 0: it is synced, retired and closed like any other."""
    synced, fsync = [], os.fsync
    monkeypatch.setattr(
        room.os, "fsync", lambda fd: synced.append(Path(f"/proc/self/fd/{fd}").readlink().name) or fsync(fd)
    )
    spare = os.dup(0)
    os.close(0)
    try:
        journal = written(tmp_path, 1)
        assert Path("/proc/self/fd/0").readlink() == segment(tmp_path)
        journal.sync()
        assert synced == [segment(tmp_path).name, tmp_path.name]
        monkeypatch.setattr(room, "SEGMENT_BYTES", 1)
        journal.append(step(2), Memory(rows=2))
        journal.sync()
        assert synced[2:] == [segment(tmp_path, 1).name, segment(tmp_path, 2).name, tmp_path.name]
        assert not Path("/proc/self/fd/0").is_symlink()
        journal.close()
        again = written(tmp_path, 0)
        assert Path("/proc/self/fd/0").readlink() == segment(tmp_path, 3)
        again.close()
        assert not Path("/proc/self/fd/0").is_symlink()
    finally:
        os.dup2(spare, 0)
        os.close(spare)


@pytest.mark.parametrize("how", ["open", "write"])
@INVENTED
def test_a_segment_that_cannot_be_begun_is_tried_again(tmp_path, monkeypatch, how):
    """While no new segment can be begun, steps go on in the old one and no half segment is left behind."""
    journal = written(tmp_path, 1)
    monkeypatch.setattr(room, "SEGMENT_BYTES", 100)
    real = getattr(os, how)

    def full(target, *args):
        beginning = how == "open" or b'"segment":2' in args[0]
        if beginning:
            raise OSError(28, "No space left on device")
        return real(target, *args)

    monkeypatch.setattr(room.os, how, full)
    journal.append(step(2), Memory(rows=2))
    assert (journal.segment, sorted(p.name for p in tmp_path.iterdir())) == (1, ["journal-000001.jsonl"])
    monkeypatch.setattr(room.os, how, real)
    journal.append(step(3), Memory(rows=3))
    assert journal.segment == 2
    assert numbers(tmp_path) == [1, 2, 3]


@INVENTED
def test_an_unfinished_segment_is_removed_before_the_next_line(tmp_path, monkeypatch):
    """A segment without a whole head would hide the steps behind it; while it cannot be removed, nothing is written."""
    journal = written(tmp_path, 1)
    monkeypatch.setattr(room, "SEGMENT_BYTES", 100)
    write, unlink = os.write, Path.unlink

    def interrupted(fd, data):
        if b'"segment":2' in data:
            write(fd, data[:30])
            raise KeyboardInterrupt
        return write(fd, data)

    def fails(_path, **_options):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(room.os, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        journal.append(step(2), Memory(rows=2))
    monkeypatch.undo()
    monkeypatch.setattr(Path, "unlink", fails)
    with pytest.raises(JournalFailing, match="unfinished segment"):
        journal.append(step(3), Memory(rows=3))
    monkeypatch.setattr(Path, "unlink", unlink)
    journal.append(step(3), Memory(rows=3))
    assert (journal.segment, numbers(tmp_path), damages(tmp_path)) == (1, [1, 2, 3], [])


@INVENTED
def test_an_unfinished_segment_that_somebody_else_removed_is_no_hindrance(tmp_path, monkeypatch):
    """What had to go is gone: the next line is written as if nothing had happened."""
    journal = written(tmp_path, 1)
    write = os.write

    def interrupted(fd, data):
        if b'"segment":2' in data:
            raise KeyboardInterrupt
        return write(fd, data)

    with monkeypatch.context() as patch:
        patch.setattr(room, "SEGMENT_BYTES", 100)
        patch.setattr(room.os, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            journal.append(step(2), Memory(rows=2))
    segment(tmp_path, 2).unlink()
    journal.append(step(3), Memory(rows=3))
    assert (journal.segment, numbers(tmp_path), damages(tmp_path)) == (1, [1, 2, 3], [])


@INVENTED
def test_no_segment_is_written_over(tmp_path):
    """A segment that is there already was written by somebody: whoever would write over it is refused."""
    written(tmp_path, 2).close()
    before = segment(tmp_path).read_bytes()
    with pytest.raises(StorageError, match=r"cannot begin the journal .*File exists"):
        Journal(tmp_path, NOTHING)
    assert segment(tmp_path).read_bytes() == before


def test_a_folder_that_takes_no_file_is_named(tmp_path):
    """A journal that cannot be begun says where."""
    with pytest.raises(StorageError, match="nowhere"):
        Journal(tmp_path / "nowhere", NOTHING)


@INVENTED
def test_a_disk_that_does_not_keep_what_it_took_is_told(tmp_path, monkeypatch):
    """A failing fsync is this machine's error, and the files are let go of all the same."""
    journal = written(tmp_path, 1)
    fds = len(list(Path("/proc/self/fd").iterdir()))

    def fails(_fd):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(room.os, "fsync", fails)
    with pytest.raises(StorageError, match="did not keep the journal"):
        journal.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == fds - 1


def syncs(monkeypatch, *, fail=False) -> list[str]:
    """The names of what the disk is asked to keep from now on."""
    synced, fsync = [], os.fsync

    def noted(fd):
        synced.append(Path(f"/proc/self/fd/{fd}").readlink().name)
        if fail:
            raise OSError(5, "Input/output error")
        fsync(fd)

    monkeypatch.setattr(room.os, "fsync", noted)
    return synced


@INVENTED
def test_what_a_killed_process_left_unsynced_is_kept_before_anything_is_built_on_it(tmp_path, monkeypatch):
    """A power cut must not take the end of a segment and leave the next: its end is kept before that one begins."""
    killed = written(tmp_path, 3)
    begun = []
    real = Journal._begin

    def begin(journal, memory):
        begun.append(list(synced))
        return real(journal, memory)

    with monkeypatch.context() as patch:
        synced = syncs(patch)
        patch.setattr(Journal, "_begin", begin)
        journal = written(tmp_path, 1)
        assert begun == [[segment(tmp_path, 1).name, tmp_path.name]]
        synced.clear()
        journal.sync()
        assert synced == [segment(tmp_path, 2).name, tmp_path.name]
    journal.close()
    killed.close()


@INVENTED
def test_earlier_segments_that_the_disk_did_not_keep_are_kept_by_the_next_sync(tmp_path, monkeypatch):
    """Where the disk fails at the opening the session goes on; the next sync asks again, and tells of it."""
    killed = written(tmp_path, 3)
    with monkeypatch.context() as patch:
        syncs(patch, fail=True)
        journal = written(tmp_path, 1)
        with pytest.raises(StorageError, match="did not keep the journal"):
            journal.sync()
    with monkeypatch.context() as patch:
        synced = syncs(patch)
        journal.sync()
        assert synced == [segment(tmp_path, 1).name, segment(tmp_path, 2).name, tmp_path.name]
    journal.close()
    killed.close()


@INVENTED
def test_an_earlier_segment_that_cannot_be_opened_is_told(tmp_path, monkeypatch):
    """Who cannot see to it that the disk keeps the earlier lines does not go on with them, and leaves no file open."""
    written(tmp_path, 1).close()
    fds = len(list(Path("/proc/self/fd").iterdir()))
    opened = os.open

    def fails(path, flags, *mode):
        if path == segment(tmp_path):
            raise PermissionError(13, "Permission denied")
        return opened(path, flags, *mode)

    monkeypatch.setattr(room.os, "open", fails)
    with pytest.raises(StorageError) as told:
        written(tmp_path, 1)
    assert str(told.value) == f"cannot open the journal {segment(tmp_path)}: Permission denied"
    assert len(list(Path("/proc/self/fd").iterdir())) == fds


@INVENTED
def test_an_earlier_segment_that_is_packed_meanwhile_is_passed_over(tmp_path, monkeypatch):
    """What was packed between the look and the opening was kept by then; those behind it are kept now."""
    for _ in range(2):
        written(tmp_path, 1).close()
    opened = os.open

    def packed(path, flags, *mode):
        if path == segment(tmp_path):
            raise FileNotFoundError(2, "No such file or directory")
        return opened(path, flags, *mode)

    monkeypatch.setattr(room.os, "open", packed)
    synced = syncs(monkeypatch)
    written(tmp_path, 1).close()
    assert synced == [segment(tmp_path, 2).name, tmp_path.name, segment(tmp_path, 3).name, tmp_path.name]


@INVENTED
def test_the_plain_segments_behind_packed_ones_are_kept(tmp_path, monkeypatch):
    """A packed segment was kept when it was packed; one behind it that is plain still is kept at the next opening."""
    written(tmp_path, 1).close()
    compress_closed(tmp_path, 2)
    written(tmp_path, 1).close()
    synced = syncs(monkeypatch)
    written(tmp_path, 1).close()
    assert synced == [segment(tmp_path, 2).name, tmp_path.name, segment(tmp_path, 3).name, tmp_path.name]


@INVENTED
def test_a_segment_that_cannot_begin_leaves_no_file_open(tmp_path, monkeypatch):
    """Whoever cannot go on with a session lets go of its earlier segments, also of those that the disk did not keep."""
    written(tmp_path, 1).close()
    fds = len(list(Path("/proc/self/fd").iterdir()))
    syncs(monkeypatch, fail=True)
    write = os.write
    monkeypatch.setattr(room.os, "write", lambda fd, data: write(fd, data[:20]))
    with pytest.raises(JournalFailing):
        written(tmp_path, 0)
    assert len(list(Path("/proc/self/fd").iterdir())) == fds


def test_a_segment_whose_head_cannot_be_written_is_named(tmp_path, monkeypatch):
    """Whoever begins a session hears which file failed and why, and no file is left behind."""
    write = os.write
    monkeypatch.setattr(room.os, "write", lambda fd, data: write(fd, data[:20]))
    with pytest.raises(JournalFailing) as told:
        written(tmp_path, 0)
    assert str(told.value).startswith(f"cannot begin the journal {segment(tmp_path)}: only 20 of ")
    assert list(tmp_path.iterdir()) == []


@INVENTED
def test_what_is_named_otherwise_is_no_segment(tmp_path):
    """Other files may lie in the folder, and a segment's number may have all its six digits."""
    written(tmp_path, 1).close()
    for name in ("journal-notes.txt", "journal-x23456.jsonl", "my copy-000007.jsonl", "notes of 000008"):
        (tmp_path / name).touch()
    assert segments(tmp_path) == [1]
    segment(tmp_path).rename(segment(tmp_path, 123_456))
    assert segments(tmp_path) == [123_456]


# -- where a reader stood --------------------------------------------------------------------------------


@INVENTED
def test_a_line_can_be_looked_up_and_checked_by_its_place(tmp_path):
    """At each place stands the text that was encoded there, and its check follows from the one before."""
    for _ in range(2):
        written(tmp_path, 2).close()
    before = Position(1, 0, room._NO_CHECK)
    for entry in read(tmp_path):
        if entry.position.segment != before.segment:
            before = Position(entry.position.segment, 0, before.check)
        assert not isinstance(entry.line, room.Damage)
        assert text_at(tmp_path, before) == room._ENCODER.encode(entry.line)
        assert check_of(entry.line, before.check) == entry.position.check
        before = entry.position
    assert before.segment == 2


@pytest.mark.parametrize("packed", [False, True])
@INVENTED
def test_a_journal_holds_what_was_read_of_it(tmp_path, packed):
    """Behind each line that was read, and at the beginning, a reader finds the journal as it was."""
    written(tmp_path, 3).close()
    places = [entry.position for entry in read(tmp_path)]
    if packed:
        compress_closed(tmp_path, 2)
    assert [holds(tmp_path, place) for place in [Position(), *places]] == [True] * 5
    assert holds(tmp_path, places[2]._replace(check=""))


@INVENTED
def test_a_journal_does_not_hold_what_came_in_place_of_what_was_read(tmp_path):
    """Another line of the same length, a shorter journal, no segment at all: what was read is not there any more."""
    for name, metric in (("was", 0.5), ("came", 0.7)):
        (tmp_path / name).mkdir()
        with_other = Journal(tmp_path / name, NOTHING)
        with_other.append(step(1, metric=metric), Memory(rows=1))
        with_other.close()
    *_, last = read(tmp_path / "was")
    assert last.position.offset == segment(tmp_path / "came").stat().st_size
    assert not holds(tmp_path / "came", last.position)
    assert holds(tmp_path / "came", last.position._replace(check=""))
    assert not holds(tmp_path / "came", last.position._replace(check="", offset=last.position.offset - 1))
    assert not holds(tmp_path / "was", last.position._replace(segment=2))
    os.truncate(segment(tmp_path / "was"), last.position.offset - 1)
    assert not holds(tmp_path / "was", last.position)


@INVENTED
def test_a_place_behind_a_damaged_line_is_held_by_its_end_alone(tmp_path):
    """Nobody knows the check of a damaged line: that a line ends there is all that can be asked."""
    written(tmp_path, 2).close()
    with segment(tmp_path).open("ab") as file:
        file.write(b"no journal\n")
    written(tmp_path, 0).close()
    [place] = [entry.position for entry in read(tmp_path) if isinstance(entry.line, room.Damage)]
    assert place.check == ""
    assert holds(tmp_path, place)
    assert not holds(tmp_path, place._replace(offset=place.offset - 1))


@INVENTED
def test_a_packed_segment_that_is_broken_holds_nothing_behind_the_break(tmp_path):
    """What cannot be unpacked any more is not what was read."""
    written(tmp_path, 200).close()
    *_, last = read(tmp_path)
    compress_closed(tmp_path, 2)
    packed = tmp_path / "journal-000001.jsonl.gz"
    packed.write_bytes(packed.read_bytes()[:-2000])
    assert not holds(tmp_path, last.position)


def test_a_segment_that_cannot_be_looked_into_is_named(tmp_path):
    """Nothing is said of what cannot be read but where it is and why."""
    segment(tmp_path).mkdir()
    with pytest.raises(StorageError) as told:
        holds(tmp_path, Position(1, 7, ""))
    assert str(told.value) == f"cannot read {segment(tmp_path)}: Is a directory"


@INVENTED
def test_closed_segments_are_compressed_and_read_as_before(tmp_path):
    """Compressing changes no line, spares the segment that is written, and can be repeated."""
    for _ in range(3):
        written(tmp_path, 4).close()
    before = [entry.line for entry in read(tmp_path)]
    middle = list(read(tmp_path))[2].position
    for _ in range(2):
        compress_closed(tmp_path, 3)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".gz", ".gz", ".jsonl"]
    assert [entry.line for entry in read(tmp_path)] == before
    assert numbers(tmp_path, middle) == list(range(3, 13))
    assert recover(tmp_path).n == 12


@INVENTED
def test_compressing_on_a_full_disk_loses_nothing(tmp_path, monkeypatch):
    """If the packed file cannot be written, the plain one stays and no half one is left."""
    written(tmp_path, 4).close()
    monkeypatch.setattr(room.os, "fsync", lambda fd: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(StorageError, match="cannot compress"):
        compress_closed(tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["journal-000001.jsonl"]
    assert numbers(tmp_path) == [1, 2, 3, 4]
