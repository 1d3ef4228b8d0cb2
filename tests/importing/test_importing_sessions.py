"""Imported trainings are sessions like any other: decided, kept, delivered, shown; and an import is never made twice."""

from __future__ import annotations

import os
import random
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from leftovers import WRITTEN, imported, lightning, only, settled, transformers, ultralytics

from hubstate import overview, settings
from hubstate.clock import SystemClock
from hubstate.errors import SessionBusy, StorageError, UsageError
from hubstate.exchange import Rows
from hubstate.hubs import open_hub
from hubstate.hubs.held import held
from hubstate.importing import Wanted, bring
from hubstate.journal import recover
from hubstate.opening import time_of
from hubstate.overview import look
from hubstate.ownership import Ownership
from hubstate.proof.verify import verify
from hubstate.server.running import running
from hubstate.states import Outcome, State
from hubstate.sync import Remainder, deliver


def rows_of(folder: Path) -> list[tuple[int, int | None, int, bytes]]:
    with Rows(folder) as rows:
        return [(row.epoch, row.step, row.attempt, row.metrics) for row in rows]


def tree(folder: Path) -> dict[str, Any]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in sorted(folder.rglob("*"))
    }


@pytest.mark.parametrize("leave", [ultralytics, lightning, transformers])
def test_an_import_is_a_session_that_verify_accepts(leave):
    """Of every tool comes a journal that the table allows, in the index, with all rows; nothing of the source changes."""
    folder = leave()
    before = tree(folder)
    done = imported(folder, finished=True)
    assert tree(folder) == before
    assert verify(done.folder).accepted
    seen = look(done.folder)
    assert (seen.receipt.state, seen.receipt.outcome) == (State.FINALIZING, Outcome.FINISHED)
    assert seen.receipt.rows == done.rows == len(only(folder).rows)
    assert [folder.name for folder in overview.folders(settings.resolve())] == [done.session]
    assert done.notes == ()


@pytest.mark.parametrize("leave", [ultralytics, lightning, transformers])
def test_a_second_import_adds_nothing(leave):
    """The same folder again, by whatever path, finds the session of the first import and writes not one byte."""
    folder = leave()
    first = imported(folder)
    before = tree(first.folder)
    Path("link").symlink_to(folder)
    for again in (imported(folder), imported(folder.absolute()), imported(Path("link"))):
        assert (again.folder, again.rows, again.files) == (first.folder, 0, 0)
        assert "nothing is new" in again.how
    assert tree(first.folder) == before


def test_its_times_are_those_of_the_training():
    """The session began when the training did, by its journal and by its id, and ended when the last file was written."""
    done = imported(ultralytics())
    memory = recover(done.folder).memory
    assert memory.opened_at == pytest.approx(WRITTEN - 0.826058)
    assert memory.ended_at == WRITTEN
    assert time_of(done.session) == pytest.approx(WRITTEN - 0.826058, abs=0.002)


def test_it_is_delivered_like_any_other(tmp_path):
    """`sync` brings rows and files to a hub, which then holds what the tool left: values, kinds and bytes."""
    folder = ultralytics()
    done = imported(folder)
    with running(tmp_path / "hub") as hub:
        clock = SystemClock()
        with (
            closing(open_hub(hub.url, None)) as place,
            closing(Remainder(done.folder, place, clock, random.Random(1))) as rest,
        ):
            deliver(rest, clock)
        there = held(hub.url, None, done.session)
    assert (there.state, there.outcome) == ("done", "finished")
    assert [dict(row.metrics) for row in there.rows] == [dict(row.metrics) for row in only(folder).rows]
    assert {file.kind: file.size for file in there.files} == {"last": len(b"last"), "final": len(b"the best")}


def test_a_training_that_grew_goes_on():
    """Where the end was not known, a later import is the next attempt: it holds what is new and what changed, no more."""
    folder = lightning()
    table = (folder / "metrics.csv").read_text()
    whole, _, _ = table.partition("2,17,")
    (folder / "metrics.csv").write_text(f"{whole}2,17,,0.5,\n")
    settled(folder)
    first = imported(folder)
    assert look(first.folder).receipt.outcome is Outcome.UNKNOWN
    (folder / "metrics.csv").write_text(table)
    settled(folder, WRITTEN + 60)
    again = imported(folder)
    assert again.folder == first.folder
    assert "attempt 2 begins with epoch 2" in again.how
    assert again.rows == 5
    assert verify(again.folder).accepted
    assert [row[:3] for row in rows_of(again.folder)] == [
        (row.epoch, row.step, 1 if row.epoch < 2 else 2) for row in only(folder).rows
    ]


def test_an_end_that_is_told_later_ends_the_session():
    """`finished` behind an import with an unknown end adds the end alone, and once."""
    folder = lightning()
    first = imported(folder)
    again = imported(folder, finished=True)
    assert (again.folder, again.rows) == (first.folder, 0)
    assert look(again.folder).receipt.state is State.FINALIZING
    assert verify(again.folder).accepted
    assert len(rows_of(again.folder)) == len(only(folder).rows)
    assert "nothing is new" in imported(folder, finished=True).how


def test_a_finished_training_that_went_on_is_imported_anew():
    """A session that was taken for finished takes nothing more: the longer training stands beside it, and says so."""
    folder = ultralytics()
    first = imported(folder)
    text = (folder / "results.csv").read_text()
    for count in (4, 5):
        (folder / "results.csv").write_text(text + "".join(f"{n}{',1' * 14}\n" for n in range(4, count + 1)))
        settled(folder, WRITTEN + count)
        anew = imported(folder)
        assert anew.folder.name > first.folder.name
        assert first.session in anew.how
        assert anew.rows == count
        assert "nothing is new" in imported(folder).how
        first = anew


def test_another_training_in_the_same_folder_is_another_session():
    """Where the folder was used again, the first row tells; so does the place of two trainings that begin alike."""
    folder = ultralytics()
    first = imported(folder)
    (folder / "results.csv").write_text("epoch,time,loss\n1,1,0.125\n")
    second = imported(folder, finished=True)
    third = imported(ultralytics(Path("elsewhere")))
    assert len({first.folder, second.folder, third.folder}) == 3


def test_an_import_that_was_cut_off_is_made_whole():
    """What a killed import left under its hidden name is no session, and gone after the next one."""
    folder = ultralytics()
    whole = imported(folder)
    coming = whole.folder.with_name(f".importing-{whole.session}")
    coming.mkdir()
    whole.folder.rename(coming / whole.session)
    assert list(overview.folders(settings.resolve())) == []
    again = imported(folder)
    assert again.folder == whole.folder
    assert not coming.exists()
    assert verify(again.folder).accepted


def test_an_attempt_that_was_cut_off_is_made_whole():
    """An import that died in the middle of a next attempt is gone on with by the next one."""
    folder = lightning()
    first = imported(folder)
    segment = max(first.folder.glob("journal-*"))
    lines = segment.read_bytes().splitlines(keepends=True)
    segment.write_bytes(b"".join(lines[:10]))
    again = imported(folder)
    assert "attempt 2" in again.how
    assert len(rows_of(again.folder)) == len(only(folder).rows)
    assert verify(again.folder).accepted


def test_an_import_that_goes_on_elsewhere_is_left_alone():
    """While another one holds the session, this one is told so, and nothing is written."""
    folder = ultralytics()
    done = imported(folder)
    coming = done.folder.with_name(f".importing-{done.session}")
    shutil.rmtree(done.folder)
    coming.mkdir()
    owner = Ownership(coming)
    try:
        with pytest.raises(SessionBusy):
            imported(folder)
    finally:
        owner.release()
    assert not done.folder.exists()


def test_a_training_without_a_row_is_none():
    """An empty table is told as such, and makes no session."""
    folder = ultralytics()
    (folder / "results.csv").write_text("epoch,loss\n")
    with pytest.raises(UsageError, match="holds no row"):
        imported(folder)
    assert not Path(".hubstate").exists()


def test_a_checkpoint_that_is_torn_is_told_and_costs_no_row():
    """A half-written weight is named with its reason; the rows and the other checkpoint are there."""
    folder = ultralytics()
    (folder / "weights" / "best.pt").write_bytes(b"PK\x03\x04 half")
    done = imported(folder)
    assert (done.rows, done.files) == (3, 1)
    assert "half a zip archive" in done.notes[0]


def test_a_checkpoint_that_went_meanwhile_is_told():
    """A file that vanishes between looking and copying is named."""
    folder = ultralytics()
    found = only(folder)
    (folder / "weights" / "last.pt").unlink()
    done = bring(found, settings.resolve(), [], Wanted())
    assert (done.rows, done.files) == (3, 1)
    assert "last.pt" in done.notes[0]


@pytest.mark.parametrize(("checkpoints", "kept"), [("none", 0), ("final", 1), ("all", 2)])
def test_which_checkpoints_are_copied_can_be_chosen(checkpoints, kept):
    """`none` copies none of them, `all` the newest and the final one."""
    found = only(ultralytics())
    done = bring(found, settings.resolve(), [], Wanted(checkpoints=checkpoints))
    snapshots = done.folder / "snapshots"
    assert len(list(snapshots.iterdir()) if snapshots.exists() else []) >= kept
    assert verify(done.folder).accepted


def test_a_name_can_be_given():
    """The session is called as it is asked for, else as its folder; a name that is none is refused."""
    assert look(imported(ultralytics(Path("a/b"))).folder).receipt.name == "a/b"
    assert look(imported(lightning(), name="sums").folder).receipt.name == "sums"
    with pytest.raises(UsageError, match="needs a name"):
        imported(transformers(), name=" ")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_takes_no_session_is_told():
    """Where sessions cannot be kept, the error says so, and no half session is left."""
    folder = ultralytics()
    Path(".hubstate").mkdir(mode=0o500)
    with pytest.raises(StorageError, match="cannot be kept"):
        imported(folder)
