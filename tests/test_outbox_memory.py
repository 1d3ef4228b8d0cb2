"""The outbox against the memory: what a damaged line asked for, settled or refused is brought into line with it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import msgspec
import pytest
from journals import DAMAGED, INVENTED, segment
from rigs import Rig

from hubstate import events as ev
from hubstate import outbox as room
from hubstate.actions import AnyAction, Memory, Refused
from hubstate.outbox import WORDS, Delivery


@pytest.fixture
def rig(tmp_path):
    made = Rig(tmp_path / "S")
    made.rows(1)
    made.clock.advance(900.0)
    made.rows(1)
    made.save("s0", fitness=1.0)
    made.door.tell(ev.TrainEnd)
    yield made
    made.outbox.close()


def held(rig: Rig) -> list[tuple[str, str, bool, str]]:
    """Each delivery that is here, in its order: key, kind, whether it is refused, and its trouble."""
    found = rig.outbox._db.execute("select * from deliveries order by position").fetchall()
    return [(row["key"], row["kind"], bool(row["refused"]), row["trouble"]) for row in found]


def keys(rig: Rig) -> list[str]:
    return [key for key, *_ in held(rig)]


def out(rig: Rig) -> tuple[AnyAction, ...]:
    return rig.door.memory.outstanding


def remembered(rig: Rig, **fields: object) -> Memory:
    """The memory of the session, as if damaged lines had led elsewhere."""
    return msgspec.structs.replace(rig.door.memory, **fields)


def reconcile(rig: Rig, **fields: object) -> None:
    [end, _] = rig.door.standing()
    rig.outbox.reconcile(end, remembered(rig, **fields))


# -- what is dropped, put down and refused -------------------------------------------------------------------


def test_what_agrees_stays_as_it_is(rig):
    """Where both know of the same, nothing moves, and what was noted about a try in vain is kept."""
    rig.fold()
    rig.settle("rows", ev.Refused, reason="too large")
    rig.outbox.postpone("S/1/open", 7.0, "offline: no route")
    reconcile(rig)
    assert keys(rig) == [action.key for action in out(rig)]
    assert len(keys(rig)) == 5
    assert held(rig)[:2] == [
        ("S/1/open", "open", False, "offline: no route"),
        (out(rig)[1].key, "rows", True, "too large"),
    ]
    found = rig.outbox.claim(WORDS, 7.0)
    assert isinstance(found, Delivery)
    assert (found.tries, found.due) == (1, 7.0)


def test_what_the_memory_does_not_know_is_dropped_alone(rig):
    """A delivery whose settling was damaged goes, and the others keep their places and their notes."""
    rig.fold()
    rig.outbox.postpone(out(rig)[2].key, 9.0, "offline: no route")
    wanted = out(rig)[1:]
    reconcile(rig, outstanding=wanted)
    assert keys(rig) == [action.key for action in wanted]
    assert held(rig)[1][3] == "offline: no route"


def test_what_is_missing_in_the_middle_gets_its_place_in_the_middle(rig):
    """A delivery whose asking was damaged is put down where the memory has it, with its kind and its contents."""
    whole = out(rig)
    rig.fold()
    before = held(rig)
    rig.outbox._db.execute("delete from deliveries where key = ?", (whole[1].key,))
    reconcile(rig)
    assert held(rig) == before
    rig.settle("open")
    rig.fold()
    found = rig.outbox.claim(WORDS, 0.0)
    assert isinstance(found, Delivery)
    assert found.action == whole[1]


def test_what_is_refused_is_so_in_both(rig):
    """What the memory holds refused is refused here with its reason, and what it does not is free to leave at once."""
    rig.settle("rows", ev.Refused, reason="too large")
    rig.fold()
    open_, rows, *_ = out(rig)
    rig.outbox.postpone(open_.key, 9.0, "offline: no route")
    rig.outbox.postpone(rows.key, 9.0, "offline: no route")
    reconcile(rig, refused=(Refused(open_.key, "no such project", 0.0),))
    assert held(rig)[:2] == [(open_.key, "open", True, "no such project"), (rows.key, "rows", False, "")]
    assert all(not refused for _, _, refused, _ in held(rig)[1:])
    noted = rig.outbox._db.execute("select tries, due from deliveries order by position").fetchall()
    assert [tuple(row) for row in noted[:2]] == [(0, 0.0), (0, 0.0)]
    assert rig.outbox.count() == (4, 1)


@INVENTED
def test_a_count_of_validations_is_nobodys_to_drop(tmp_path):
    """No memory knows of a recorded usage, so that it does not is no sign of damage."""
    rig = Rig(tmp_path / "S")
    rig.door._memory = remembered(rig, usage=True)
    [usage] = rig.door.tell(ev.ValStart).actions
    rig.fold()
    reconcile(rig)
    assert keys(rig) == ["S/1/open", usage.key]
    rig.outbox.close()


# -- where the two stand -------------------------------------------------------------------------------------


def test_no_more_is_folded_in_than_the_memory_knows(rig):
    """Lines behind the place of the memory are left for the next fold, however many stand before it."""
    end, memory = rig.door.standing()
    rig.settle("open")
    rig.outbox.reconcile(end, memory)
    assert rig.outbox.reconciled
    assert keys(rig) == [action.key for action in memory.outstanding]
    rig.fold()
    assert keys(rig) == [action.key for action in out(rig)]


def test_a_memory_that_is_older_than_the_outbox_changes_nothing(rig):
    """Where more was folded in than the memory knows, the two cannot be compared, and nobody says that they were."""
    end, memory = rig.door.standing()
    rig.settle("open")
    rig.fold()
    rig.outbox.reconcile(end, memory)
    assert not rig.outbox.reconciled
    assert keys(rig) == [action.key for action in out(rig)]


def test_all_lines_before_the_memory_are_folded_in(rig, monkeypatch):
    """However many lines stand before it, all are there before the two are compared."""
    lines: list[int] = []
    ingest = room.Outbox._ingest

    def counted(self, db, limit, until=None):
        lines.append(ingest(self, db, min(limit, 2), until))
        return lines[-1]

    monkeypatch.setattr(room.Outbox, "_ingest", counted)
    reconcile(rig)
    assert rig.outbox.reconciled
    assert lines[-1] == 0
    assert len(lines) > 3
    assert rig.outbox.ingest() == 0


@pytest.mark.parametrize("undone", [True, False])
def test_a_comparison_that_fails_changes_nothing(rig, monkeypatch, undone):
    """A disk that fills up in the middle of it leaves the deliveries as they were, to be compared again."""
    rig.fold()
    before = held(rig)
    bring = room._bring_into_line

    def fails(db, memory):
        bring(db, memory)
        if undone:
            db.execute("rollback")  # as SQLite does by itself where the disk is full
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(room, "_bring_into_line", fails)
        with pytest.raises(sqlite3.OperationalError, match="full"):
            reconcile(rig, outstanding=())
    assert held(rig) == before
    assert not rig.outbox.reconciled
    reconcile(rig)
    assert rig.outbox.reconciled


def test_nobody_says_that_the_two_agree_before_they_were_compared(rig):
    """An outbox that was only just opened has compared nothing, whatever it holds."""
    rig.fold()
    assert rig.outbox.reconciled is False


@pytest.mark.parametrize("what", ["missing", "changed"])
@DAMAGED
def test_a_damaged_line_asks_for_another_comparison(rig, what):
    """A line behind those that were compared, gone or changed, may have asked for something: nobody knows any more."""
    reconcile(rig)
    assert rig.outbox.reconciled
    rig.settle("open")
    rig.settle("rows")
    *before, lost, last = segment(rig.folder).read_bytes().splitlines(keepends=True)
    left = [] if what == "missing" else [lost.replace(b"delivered", b"undeliver")]
    segment(rig.folder).write_bytes(b"".join([*before, *left, last]))
    rig.fold()
    assert rig.outbox.reconciled is False


# -- a file that is put aside --------------------------------------------------------------------------------


def test_a_renewed_outbox_says_why_and_is_to_be_compared_again(rig):
    """What is folded anew has the journal's word alone: it says why, and that no memory has confirmed it yet."""
    reconcile(rig)
    assert rig.outbox.reconciled
    rig.outbox.renew("lacked rows of S/1/rows/1-2")
    assert rig.outbox.damage == f"{rig.file} lacked rows of S/1/rows/1-2 and is folded anew"
    assert rig.outbox.reconciled is False
    assert rig.outbox.ingest() == 0
    assert keys(rig) == [action.key for action in out(rig)]


def test_a_file_that_is_damaged_at_the_opening_is_named(rig):
    """Where it lies, what was found, and what became of it."""
    rig.outbox.close()
    rig.file.write_bytes(b"no database at all" * 500)
    rig.open()
    assert rig.outbox.damage == f"{rig.file} was damaged (file is not a database) and is folded anew"
    assert Path(f"{rig.file}.damaged").read_bytes() == b"no database at all" * 500


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("place", "the place in the journal is not as it was noted"),
        ("deliveries", "a delivery is not as it was noted"),
        ("rows", "a row is not as it was noted"),
    ],
)
def test_what_was_changed_is_named(rig, table, words):
    """What is read is held against its sum, and the words say what was not as it was noted."""
    rig.fold()
    rig.outbox._db.execute(f"update {table} set sum = sum + 1")
    rig.fold()
    assert isinstance(rig.outbox.claim(WORDS, 0.0), Delivery)
    assert len(rig.outbox.rows(out(rig)[1], 0)) == 2
    assert rig.outbox.damage == f"{rig.file} was damaged ({words}) and is folded anew"


def test_what_belongs_to_a_file_goes_aside_with_it(rig):
    """A write-ahead log that stays, as where somebody else looks into the file, never joins the new one."""
    rig.fold()
    other = sqlite3.connect(rig.file)
    assert other.execute("select count(*) from deliveries").fetchone() == (5,)
    rig.outbox.renew("lacked rows")
    aside = {file.name for file in rig.folder.glob("outbox.sqlite.damaged*")}
    assert aside == {f"outbox.sqlite.damaged{ending}" for ending in ("", "-wal", "-shm")}
    other.close()
    assert keys(rig) == [action.key for action in out(rig)]
