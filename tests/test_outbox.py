"""The outbox: a projection that may be lost or damaged at any moment, and the order in which things leave."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from pathlib import Path

import pytest
from fakes import door_in
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rigs import Rig

from hubstate import events as ev
from hubstate import outbox as room
from hubstate.actions import SendRows
from hubstate.outbox import FILES, WORDS, Delivery, Outbox
from hubstate.states import State


@pytest.fixture
def rig(tmp_path):
    made = Rig(tmp_path / "S")
    yield made
    made.outbox.close()


def test_what_a_power_cut_took_from_the_journal_is_not_delivered(tmp_path):
    """An outbox that outlived the lines it was folded from gives the rows that came in their place, not the lost ones."""
    rig = Rig(tmp_path / "S")
    rig.rows(1, loss=0.5)
    rig.outbox.close()
    kept = (rig.folder / "journal-000001.jsonl").stat().st_size
    rig.open()
    rig.rows(1, loss=0.25)
    rig.fold()
    rig.outbox.close()
    rig.door.close()
    os.truncate(rig.folder / "journal-000001.jsonl", kept)
    door = door_in(rig.folder, rig.clock)
    door.tell(ev.FitEpochEnd, 7, {"loss": 0.125})
    again = Outbox(rig.file, rig.folder)
    while again.ingest():
        pass
    rows = again.rows(SendRows("k", 1, first=1, last=9), 0)
    again.close()
    door.close()
    assert [row.metrics for row in rows] == [b'{"loss":0.5}', b'{"loss":0.125}']
    assert again.damage == f"{rig.file} is ahead of its journal and is folded anew"


def test_rows_that_a_hub_acknowledged_are_let_go_of(rig):
    """What was settled is in the outbox no more: neither the delivery nor its rows, and the rows of others stay."""
    rig.clock.advance(3.0)
    rig.rows(2)
    assert [a.last for a in rig.door.memory.outstanding if isinstance(a, SendRows)] == [1]
    rig.fold()
    everything = SendRows("k", 1, first=1, last=99)
    assert [row.number for row in rig.outbox.rows(everything, 0)] == [1, 2]
    before = rig.outbox.count()
    rig.settle("rows")
    rig.fold()
    assert [row.number for row in rig.outbox.rows(everything, 0)] == [2]
    assert rig.outbox.count() == (before[0] - 1, 0)


# -- a projection ----------------------------------------------------------------------------------------

LOSSES = ["reopen", "delete closed", "delete open", "delete main", "delete wal", "garbage", "in flight"]
DOINGS = st.lists(
    st.sampled_from(["rows", "rows", "save", "words", "words", "files", "wait", *LOSSES]), max_size=25
)


def do(rig: Rig, doing: str) -> None:
    match doing:
        case "rows":
            rig.rows(2)
        case "save":
            rig.save(f"s{rig.door.memory.saves}", fitness=float(rig.door.memory.saves))
        case "words" | "files":
            rig.sender.step(doing)
        case "wait":
            rig.clock.advance(450.0)
        case "reopen":
            rig.reopen()
        case "delete closed":
            rig.outbox.close()
            rig.unlink()
            rig.open()
        case "delete open":
            rig.unlink()
        case "delete main":
            rig.unlink("")
        case "delete wal":
            rig.outbox.close()
            rig.unlink("-wal", "-shm")
            rig.open()
        case "garbage":
            rig.outbox.close()
            rig.file.write_bytes(b"no database at all" * 500)
            rig.open()
        case "in flight":
            rig.hub.meanwhile = lambda parcel: rig.unlink()
            rig.sender.step(WORDS)
            rig.sender.step(FILES)
            rig.hub.meanwhile = None


@given(doings=DOINGS)
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_losing_the_outbox_at_any_moment_loses_and_doubles_nothing(doings):
    """However often it is deleted or damaged, closed or open, each row and file reaches the hub, and only once."""
    with tempfile.TemporaryDirectory() as name:
        rig = Rig(Path(name) / "S")
        for doing in doings:
            do(rig, doing)
        rig.door.tell(ev.TrainEnd)
        rig.reopen()
        rig.drain()
        rig.outbox.close()
        memory = rig.door.memory
        assert memory.state is State.DONE
        assert sorted(rig.hub.rows) == list(range(1, memory.rows + 1))
        assert memory.rows_delivered == memory.rows
        assert len(rig.hub.files) == memory.files_delivered
        assert rig.hub.contradictions == []


def test_folding_twice_is_folding_once(rig):
    """What was settled does not come back when its lines are folded anew, and nothing is there twice."""
    rig.rows(3)
    rig.clock.advance(3.0)
    rig.rows(1)
    rig.sender.step(WORDS)
    rig.sender.step(WORDS)
    rig.fold()
    before = (rig.claim(), rig.outbox.count())
    rig.outbox.close()
    rig.unlink()
    rig.open()
    assert (rig.claim(), rig.outbox.count()) == before


def test_what_is_left_beside_a_deleted_file_belongs_to_none(rig):
    """A write-ahead log that outlives its database, as after kill -9, brings nothing old back."""
    rig.rows(2)
    rig.fold()
    left = {ending: Path(f"{rig.file}{ending}").read_bytes() for ending in ("-wal", "-shm")}
    assert left["-wal"]
    rig.settle("open")
    rig.outbox.close()
    rig.unlink()
    for ending, content in left.items():
        Path(f"{rig.file}{ending}").write_bytes(content)
    rig.open()
    rig.fold()
    assert (rig.outbox.count(), rig.outbox.damage) == ((0, 0), "")


def test_a_few_lines_at_a_time(rig):
    """Folding can be cut into steps as small as one line, each kept before the next."""
    rig.rows(2)
    counts = []
    for _ in range(4):
        counts.append(rig.outbox.ingest(limit=2))
        rig.reopen()
    assert counts == [2, 2, 2, 0]


def test_a_thousand_lines_at_a_time(rig):
    """Who names no other limit lets go of the file after a thousand lines."""
    rig.rows(1_000)
    assert [rig.outbox.ingest() for _ in range(3)] == [
        1_000,
        4,
        0,
    ]  # the rows, a head and the three steps to them


@pytest.mark.parametrize("undone", [True, False])
def test_a_line_that_cannot_be_folded_undoes_its_batch(rig, monkeypatch, undone):
    """A failure in the middle of a batch leaves the outbox as it was before it, and the next try folds all of it."""
    rig.rows(2)
    fold = Outbox._fold

    def fails(self, db, step):
        fold(self, db, step)
        if step.n == 4:
            if undone:
                db.execute("rollback")  # as SQLite does by itself where the disk is full
            raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(Outbox, "_fold", fails)
        with pytest.raises(sqlite3.OperationalError, match="full"):
            rig.outbox.ingest()
    assert rig.outbox.count() == (0, 0)
    assert rig.outbox.ingest() == 6


def test_an_older_form_of_the_file_is_folded_anew(rig):
    """Another version's tables are dropped: there is nothing in them that the journal has not."""
    rig.fold()
    rig.outbox.close()
    db = sqlite3.connect(rig.file)
    db.execute("pragma user_version = 1")
    db.execute("alter table rows rename column metrics to numbers")
    db.commit()
    db.close()
    rig.open()
    assert rig.claim() == "open"


# -- damage ----------------------------------------------------------------------------------------------


def spoil(rig: Rig, statement: str) -> None:
    """Changes what SQLite itself cannot notice."""
    with sqlite3.connect(rig.file) as db:
        db.execute(statement)
    db.close()


@pytest.mark.parametrize(
    "statement",
    [
        "update place set byte = byte - 7",
        "update deliveries set action = replace(action, '\"last\":3', '\"last\":2') where kind = 'rows'",
        "update deliveries set key = cast(x'ff2f' as text) where kind = 'rows'",
        "update rows set metrics = x'7b7d' where number = 2",
        "update rows set epoch = 7 where number = 2",
    ],
)
def test_a_changed_byte_reaches_no_hub(rig, statement):
    """SQLite does not notice a flipped byte in a value: the sums do, and the file is put aside and folded anew."""
    rig.rows(2)
    rig.clock.advance(3.0)
    rig.rows(1)
    rig.fold()
    rig.settle("open")
    rig.fold()
    spoil(rig, statement)
    rig.fold()
    found = rig.outbox.claim(WORDS, rig.door.now())
    assert isinstance(found, Delivery)
    rows = rig.outbox.rows(found.action, 0)
    assert [(row.number, row.epoch, row.metrics) for row in rows] == [
        (n, n - 1, b'{"loss":0.5}') for n in (1, 2, 3)
    ]
    assert "was damaged" in rig.outbox.damage
    assert Path(f"{rig.file}.damaged").exists()


def test_an_action_that_nobody_can_read_is_damage(rig, monkeypatch):
    """A delivery whose text is no action is folded anew, too, instead of stopping every later step."""
    rig.fold()
    bad = b'{"action":"unknown"}'
    total = room._sum("S/1/open", WORDS, "open", bad)
    spoil(rig, f"update deliveries set action = x'{bad.hex()}', sum = {total}")
    assert rig.claim() == "open"
    assert rig.outbox.damage


@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize("how", ["head", "pages", "cut"])
def test_a_damaged_file_is_put_aside(rig, closed, how):
    """Whether it is found damaged at the opening or while it is used: nobody hears of it but the log."""
    rig.rows(300)
    rig.door.tell(ev.TrainEnd)
    rig.reopen()
    rig.fold()
    with sqlite3.connect(rig.file) as db:
        db.execute("pragma wal_checkpoint(truncate)")
    db.close()
    if closed:
        rig.outbox.close()
    with rig.file.open("r+b") as file:
        if how == "head":
            file.write(os.urandom(100))
        elif how == "pages":
            size = file.seek(0, 2)
            file.seek(4096)
            file.write(os.urandom(size - 4096))
        else:
            file.truncate(6000)
    if closed:
        rig.open()
    rig.drain()
    assert rig.door.memory.state is State.DONE
    assert rig.hub.rows == list(range(1, 301))


def test_a_full_disk_is_no_damage(rig, monkeypatch):
    """What another file would not cure is told to the caller, and the file is left where it is."""
    rig.fold()
    rig.outbox._db.execute("pragma query_only = 1")
    with pytest.raises(sqlite3.OperationalError):
        rig.outbox.postpone("S/1/open", 0.0, "offline: no route")
    assert rig.outbox.damage == ""
    rig.outbox._db.execute("pragma query_only = 0")
    assert rig.claim() == "open"


def test_a_file_that_cannot_be_opened_is_told(tmp_path):
    """An outbox in a folder that is not there is this machine's error, and no damage."""
    with pytest.raises(sqlite3.OperationalError):
        Outbox(tmp_path / "nowhere" / "outbox.sqlite", tmp_path)
    (tmp_path / "outbox.sqlite").mkdir()
    with pytest.raises(sqlite3.OperationalError):
        Outbox(tmp_path / "outbox.sqlite", tmp_path)
