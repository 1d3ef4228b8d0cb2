"""Reading a journal: damage condemns no neighbour, versions are told apart, recovery gives the memory that was."""

from __future__ import annotations

import tempfile
from pathlib import Path

import msgspec
import pytest
from fakes import SAYINGS, door_in, say, train
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from journals import DAMAGED, INVENTED, damages, numbers, segment, step, written

from hubstate import events as ev
from hubstate import journal as room
from hubstate.actions import Memory
from hubstate.clock import VirtualClock
from hubstate.errors import JournalDamaged, StorageError
from hubstate.journal import Damage, Head, Journal, Position, Recovery, Step, compress_closed, read, recover

quick = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])

# -- reading what is damaged -----------------------------------------------------------------------------


@given(data=st.data())
@quick
@DAMAGED
def test_a_damaged_line_condemns_itself_alone(data):
    """Whatever is done to the bytes of one line, it is reported by its number, and every other line is read."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        written(folder, 6).close()
        lines = segment(folder).read_bytes().splitlines(keepends=True)
        victim = data.draw(st.integers(1, 6))
        line = bytearray(lines[victim])
        place = data.draw(st.integers(0, len(line) - 2))
        line[place] = data.draw(st.integers(0, 255).filter(lambda b: b not in (line[place], 10)))
        lines[victim] = bytes(line)
        segment(folder).write_bytes(b"".join(lines))
        assert numbers(folder) == [n for n in range(1, 7) if n != victim]
        assert [(found.file, found.line) for found in damages(folder)] == [
            ("journal-000001.jsonl", victim + 1)
        ]


@pytest.mark.parametrize("place", [-4, -30])
@DAMAGED
def test_a_check_that_is_no_text_is_damage_like_any_other(tmp_path, place):
    """A byte that is no letter at all, in the chain or in the check, condemns its line and stops no reader."""
    written(tmp_path, 3).close()
    lines = segment(tmp_path).read_bytes().splitlines(keepends=True)
    torn = bytearray(lines[2])
    torn[place] = 0xFF
    segment(tmp_path).write_bytes(b"".join([*lines[:2], torn, lines[3]]))
    assert numbers(tmp_path) == [1, 3]
    assert damages(tmp_path) == [Damage("journal-000001.jsonl", 3, "the line is torn or is no journal line")]


@DAMAGED
def test_a_changed_line_is_named(tmp_path):
    """A line in its proper form whose contents are others than its check says is told apart from a torn one."""
    written(tmp_path, 2).close()
    segment(tmp_path).write_bytes(segment(tmp_path).read_bytes().replace(b'"n":2', b'"n":7'))
    assert damages(tmp_path) == [Damage("journal-000001.jsonl", 3, "the line is not as it was written")]


@DAMAGED
def test_a_missing_line_is_noticed(tmp_path):
    """A line that is gone without a trace is reported where the next one begins, and once for whoever reads on."""
    written(tmp_path, 4).close()
    lines = segment(tmp_path).read_bytes().splitlines(keepends=True)
    segment(tmp_path).write_bytes(b"".join(lines[:2] + lines[3:]))
    assert damages(tmp_path) == [Damage("journal-000001.jsonl", 3, "lines are missing before this one")]
    assert numbers(tmp_path) == [1, 3, 4]
    gap = next(entry.position for entry in read(tmp_path) if isinstance(entry.line, Damage))
    assert [entry.line.n for entry in read(tmp_path, gap)] == [3, 4]


@DAMAGED
def test_a_missing_segment_is_noticed(tmp_path):
    """A segment that is gone is reported like a missing line; the later ones are read."""
    for _ in range(3):
        written(tmp_path, 2).close()
    segment(tmp_path, 2).unlink()
    assert [found.file for found in damages(tmp_path)] == ["journal-000003.jsonl"]
    assert numbers(tmp_path) == [1, 2, 5, 6]


@DAMAGED
def test_a_torn_tail_is_left_for_later_and_reported_once_it_is_certain(tmp_path):
    """Half a line at the very end may be one that is being written; behind it a new segment begins, and it is told."""
    written(tmp_path, 3).close()
    whole = segment(tmp_path).read_bytes()
    segment(tmp_path).write_bytes(whole[:-9])
    assert (numbers(tmp_path), damages(tmp_path), recover(tmp_path).n) == ([1, 2], [], 2)
    written(tmp_path, 2).close()
    assert numbers(tmp_path) == [1, 2, 3, 4]
    [found] = damages(tmp_path)
    assert (found.line, found.what) == (4, "half a line; the segment ends at the line before it")


@INVENTED
def test_a_reader_follows_a_line_that_is_being_written(tmp_path):
    """A reader takes nothing of half a line, and all of it once it is whole."""
    written(tmp_path, 2).close()
    whole = segment(tmp_path).read_bytes()
    segment(tmp_path).write_bytes(whole[:-9])
    place = list(read(tmp_path))[-1].position
    assert list(read(tmp_path, place)) == []
    segment(tmp_path).write_bytes(whole)
    assert numbers(tmp_path, place) == [2]


@DAMAGED
def test_a_line_that_changes_under_the_reader_is_read_later(tmp_path, monkeypatch):
    """A mixture of a line that was cut back and of its successor is no damage: the next look shows what is there."""
    written(tmp_path, 2).close()
    whole = segment(tmp_path).read_bytes()
    mixed = whole[:-30] + b"x" + whole[-29:]
    segment(tmp_path).write_bytes(mixed)
    again = room._line_at

    def meanwhile(folder, number, offset):
        segment(folder).write_bytes(whole)
        return again(folder, number, offset)

    monkeypatch.setattr(room, "_line_at", meanwhile)
    entries = list(read(tmp_path))
    assert [entry.line.n for entry in entries if isinstance(entry.line, Step)] == [1]
    assert numbers(tmp_path, entries[-1].position) == [2]


@DAMAGED
def test_a_packed_segment_that_is_broken_ends_where_it_breaks(tmp_path):
    """What stands before the break and in later segments is read, and no reader comes by the break twice."""
    for _ in range(2):
        written(tmp_path, 200).close()
    compress_closed(tmp_path, 2)
    packed = tmp_path / "journal-000001.jsonl.gz"
    packed.write_bytes(packed.read_bytes()[:-2000])
    entries = list(read(tmp_path))
    found = [entry.line.n for entry in entries if isinstance(entry.line, Step)]
    assert found[-200:] == list(range(201, 401))
    assert 0 < len(found) < 400
    [broken] = [entry for entry in entries if isinstance(entry.line, Damage)]
    what = "the packed segment is damaged, and nothing behind this place can be read"
    assert broken == (Position(2, 0, ""), Damage("journal-000001.jsonl.gz", 0, what))
    assert numbers(tmp_path, broken.position) == list(range(201, 401))


def test_a_folder_that_cannot_be_read_is_named(tmp_path):
    """A journal that is no folder is this machine's error; one that is not there is empty."""
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(StorageError, match="cannot read the folder"):
        list(read(file))
    assert list(read(tmp_path / "nothing")) == []
    segment(tmp_path).mkdir()
    with pytest.raises(StorageError, match=r"cannot read .*journal-000001"):
        list(read(tmp_path))


# -- other versions --------------------------------------------------------------------------------------


def rewritten_head(folder: Path, **fields: object) -> None:
    head = next(iter(read(folder))).line
    raw = msgspec.json.decode(msgspec.json.encode(head)) | fields
    text = msgspec.json.encode(raw)
    zero = "0" * 16
    lines = segment(folder).read_bytes().splitlines(keepends=True)
    lines[0] = room._sealed(text, zero, room._check(zero, text))
    segment(folder).write_bytes(b"".join(lines))


@INVENTED
def test_another_format_is_refused_by_name(tmp_path):
    """A journal in a form that this version does not know is not guessed at: the message says what to do."""
    written(tmp_path, 1).close()
    rewritten_head(tmp_path, format=2, memory="whatever it will be")
    for use in (recover, lambda folder: list(read(folder))):
        with pytest.raises(
            StorageError,
            match=r"^journal-000001\.jsonl is written in format 2, and this hubstate reads format 1: "
            r"open the session with the hubstate that wrote it, or a newer one$",
        ):
            use(tmp_path)


@INVENTED
def test_steps_of_another_table_are_adopted_as_they_were_decided(tmp_path):
    """Recovery decides nothing, so a journal written under another table is recovered all the same."""
    written(tmp_path, 2).close()
    rewritten_head(tmp_path, table="0123456789abcdef")
    assert (recover(tmp_path).n, recover(tmp_path).memory.rows) == (2, 2)


@INVENTED
def test_a_line_of_an_unknown_kind_is_reported_and_passed_over(tmp_path):
    """A step that this version cannot understand is told apart from a damaged one, and the next is read."""
    journal = written(tmp_path, 1)
    real = room._ENCODER
    room._ENCODER = type("_", (), {"encode": lambda _, step: real.encode(step).replace(b"fit_", b"new_")})()
    try:
        journal.append(step(2), Memory())
    finally:
        room._ENCODER = real
    journal.append(step(3), Memory())
    assert numbers(tmp_path) == [1, 3]
    [found] = damages(tmp_path)
    assert "cannot be understood" in found.what


# -- recovery --------------------------------------------------------------------------------------------


@given(sayings=SAYINGS)
@quick
def test_recovery_gives_the_memory_that_was(sayings):
    """At every prefix of any way, what is recovered is what the living session remembered, the heartbeats' clock aside."""
    with tempfile.TemporaryDirectory() as name:
        folder, clock = Path(name) / "live", VirtualClock()
        door = door_in(folder, clock)
        told = say(door, clock, sayings)
        door.close()
        lines = segment(folder).read_bytes().splitlines(keepends=True)
        memories = [Memory()] + [decision.memory for _, decision in told if decision.journalled]
        assert len(lines) == len(memories)
        prefix = Path(name) / "prefix"
        prefix.mkdir()
        for count, memory in enumerate(memories, 1):
            segment(prefix).write_bytes(b"".join(lines[:count]))
            found = recover(prefix)
            assert unbeaten(found.memory) == unbeaten(memory)
            assert (found.n, found.damages) == (count - 1, ())


def unbeaten(memory: Memory) -> Memory:
    return msgspec.structs.replace(memory, heartbeat_since=None, heartbeat_out=False)


def test_no_head_brings_a_heartbeat_along(tmp_path):
    """A sign of life that was under way when a segment began is not under way for whoever recovers it."""
    clock = VirtualClock()
    door = train(door_in(tmp_path, clock))
    door.tell(ev.HeartbeatTick)
    assert door.memory.heartbeat_out
    recovery = recover(tmp_path)
    memory = msgspec.structs.replace(door.memory, heartbeat_since=door.now())
    Journal(tmp_path, recovery._replace(memory=memory)).close()
    assert recover(tmp_path).memory == unbeaten(memory)


@INVENTED
def test_the_hub_that_told_the_memory_stands_in_the_first_head_alone(tmp_path, monkeypatch):
    """What came from a hub is told once; the segments behind that one have a journal to build on."""
    monkeypatch.setattr(room, "SEGMENT_BYTES", 800)
    written(tmp_path, 9, origin="http://hub.test").close()
    origins = [entry.line.origin for entry in read(tmp_path) if isinstance(entry.line, Head)]
    assert origins == ["http://hub.test", *[""] * (len(origins) - 1)]
    assert len(origins) > 2


@DAMAGED
def test_a_lost_row_shifts_no_number(tmp_path):
    """Rows are numbered by their own lines: a damaged one is missing, and those behind it keep their numbers."""
    door = train(door_in(tmp_path))
    for epoch in range(3):
        door.tell(ev.FitEpochEnd, epoch, {"loss": 0.5})
    door.close()
    lines = segment(tmp_path).read_bytes().splitlines(keepends=True)
    lines[5] = lines[5].replace(b"0.5", b"0.6")
    segment(tmp_path).write_bytes(b"".join(lines))
    found = recover(tmp_path)
    assert (found.memory.rows, len(found.damages)) == (3, 1)


def test_an_illegal_step_changes_no_memory(tmp_path):
    """Illegal events are in the journal for people to see, and recovery passes them by."""
    door = train(door_in(tmp_path))
    before = door.memory
    assert door.tell(ev.TrainStart).refusal.illegal
    door.close()
    assert recover(tmp_path).memory == before


def test_only_rows_number_the_rows(tmp_path):
    """A step that is no row leaves the number of rows as it is."""
    door = train(door_in(tmp_path))
    for epoch in range(2):
        door.tell(ev.FitEpochEnd, epoch, {"loss": 0.5})
    door.tell(ev.StopRequested, "enough")
    door.close()
    assert recover(tmp_path).memory == unbeaten(door.memory)
    assert door.memory.rows == 2


@DAMAGED
def test_a_damaged_head_is_no_end(tmp_path):
    """Where the newest head cannot be read, recovery begins at the one before it and loses no step."""
    for _ in range(2):
        written(tmp_path, 3).close()
    lines = segment(tmp_path, 2).read_bytes().splitlines(keepends=True)
    segment(tmp_path, 2).write_bytes(b"#" + b"".join(lines))
    found = recover(tmp_path)
    assert (found.n, found.segment, found.memory.rows) == (6, 2, 6)
    assert len(found.damages) == 1
    written(tmp_path, 1).close()
    assert numbers(tmp_path) == list(range(1, 8))


@pytest.mark.parametrize(
    "name",
    [
        "journal-00000\N{SUPERSCRIPT TWO}.jsonl",
        "journal-000007.jsonl.bak",
        "journal-000007.jsonl.gz.part",
        "journal-000007",
        "journal-0000007.jsonl",
        "my-journal-000007.jsonl",
    ],
)
@INVENTED
def test_what_lies_beside_the_segments_is_none(tmp_path, name):
    """A copy or a note beside the journal is not read as a part of it, whatever its name begins with."""
    written(tmp_path, 2).close()
    (tmp_path / name).write_text("a note\n")
    assert room.segments(tmp_path) == [1]
    assert recover(tmp_path).n == 2
    assert damages(tmp_path) == []


@DAMAGED
def test_recovery_reads_the_newest_segment_alone(tmp_path):
    """What the newest head tells need not be read again: damage in older segments is none of recovery's business."""
    for _ in range(2):
        written(tmp_path, 3).close()
    segment(tmp_path).write_bytes(b"no journal\n")
    found = recover(tmp_path)
    assert (found.n, found.segment, found.memory.rows, found.damages) == (6, 2, 6, ())
    assert found.check == list(read(tmp_path))[-1].position.check


def test_a_journal_without_a_step_is_recovered(tmp_path):
    """Where nothing was said yet the next step is number 1, and where there is no journal the first head begins one."""
    assert recover(tmp_path) == Recovery(Memory(), 0, 0, "", ())
    written(tmp_path, 0).close()
    assert recover(tmp_path)[:3] == (Memory(session="S"), 0, 1)


@pytest.mark.parametrize(
    ("content", "first"),
    [
        (b"", "empty files"),
        (b"no journal\n", "the line is torn or is no journal line"),
        (b'{"half', "empty files"),
    ],
)
@DAMAGED
def test_a_journal_without_any_head_is_damaged(tmp_path, content, first):
    """Nothing is invented for a session of which nothing can be read; the message says what was found first."""
    segment(tmp_path).write_bytes(content)
    with pytest.raises(JournalDamaged) as told:
        recover(tmp_path)
    assert str(told.value) == (
        f"no segment of the journal in {tmp_path} has a readable head; first damage: {first}"
    )
    assert recover(tmp_path / "elsewhere").n == 0
