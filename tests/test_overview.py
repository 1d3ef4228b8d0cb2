"""What sessions tell from outside: found, told as they are, and never invented as dead."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from journals import DAMAGED, INVENTED

import hubstate
from hubstate import Outcome, State, overview, settings
from hubstate.clock import VirtualClock
from hubstate.errors import SessionNotFound, StorageError, UsageError
from hubstate.events import HeldUp
from hubstate.opening import reopen
from hubstate.overview import Overview, Unreadable


def trained(name: str, epochs: int = 3, directory: Path | None = None) -> Path:
    """A session that came to its end without a hub; its folder."""
    with hubstate.start(name, epochs=epochs, directory=directory) as session:
        for epoch in session.epochs():
            session.log({"loss": 1 / (epoch + 1)})
    return (directory or Path(".hubstate").absolute()) / session.id


def silent(name: str) -> Path:
    """A session whose process let go of it in the middle of the training, without a word."""
    session = hubstate.start(name, epochs=9)
    session.log({"loss": 1.0})
    session.close()
    return Path(".hubstate").absolute() / session.id


def spoil(folder: Path, number: int) -> None:
    """Changes one byte of a line (1-based) of a journal's first segment."""
    file = folder / "journal-000001.jsonl"
    lines = file.read_bytes().split(b"\n")
    lines[number - 1] = lines[number - 1].replace(b'"n":', b'"m":', 1)
    file.write_bytes(b"\n".join(lines))


def test_a_finished_session_tells_its_receipt():
    """What a session recorded, and what waits, is told without owning it."""
    seen = overview.look(trained("digits"))
    assert (seen.receipt.name, seen.receipt.state, seen.receipt.outcome) == (
        "digits",
        State.FINALIZING,
        Outcome.FINISHED,
    )
    assert (seen.receipt.rows, seen.receipt.rows_waiting, seen.epochs, seen.owner) == (3, 3, 3, None)
    assert seen.unsettled == seen.receipt.waiting > 3
    assert [condition.name for condition in seen.receipt.conditions] == ["no_hub"]


def test_a_session_that_nobody_ended_is_unknown_and_not_dead():
    """An attempt that is not over and that nobody owns has the outcome unknown, and no contact since a time."""
    seen = overview.look(silent("digits"))
    assert (seen.receipt.state, seen.receipt.outcome) == (State.TRAINING, Outcome.UNKNOWN)
    lost = {condition.name: condition for condition in seen.receipt.conditions}["no_contact"]
    assert lost.since == seen.last_contact
    assert lost.reason.startswith("no contact since 2")


def test_a_living_session_is_running_and_owned():
    """While its process lives a session is running, and the owner is named."""
    session = hubstate.start("digits")
    try:
        seen = overview.look(Path(".hubstate") / session.id)
    finally:
        session.close()
    assert (seen.receipt.outcome, seen.owner) == (Outcome.RUNNING, os.getpid())
    assert "no_contact" not in [condition.name for condition in seen.receipt.conditions]


def test_a_killed_process_is_no_owner():
    """After `kill -9` nobody owns the session, and the last contact is its last line."""
    code = (
        "import hubstate, os; s = hubstate.start('digits'); s.log({'loss': 1.0}); print(s.id, flush=True); "
        "os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    seen = overview.look(Path(".hubstate") / killed.stdout.strip())
    assert killed.returncode == -9
    assert (seen.owner, seen.receipt.outcome, seen.receipt.rows) == (None, Outcome.UNKNOWN, 1)


@INVENTED
def test_a_delivery_is_no_contact():
    """What a later process notes while it delivers says nothing about the training, and moves its last contact not."""
    folder = silent("digits")
    contact = overview.look(folder).last_contact
    assert contact is not None
    later = reopen(folder, VirtualClock(contact + 1_000), lambda *_: None)
    later.door.tell(HeldUp, key="x/1/open", condition="offline", reason="no route")
    later.close()
    assert overview.look(folder).last_contact == contact


def test_a_session_that_nothing_was_said_to_has_no_contact_yet():
    """A session whose process died before its first word is shown, without a time that nobody knows."""
    folder = silent("digits")
    file = folder / "journal-000001.jsonl"
    file.write_bytes(file.read_bytes().split(b"\n")[0] + b"\n")
    seen = overview.look(folder)
    assert (seen.receipt.outcome, seen.last_contact) == (Outcome.UNKNOWN, None)
    assert "no contact yet" in [condition.reason for condition in seen.receipt.conditions]


@DAMAGED
def test_damaged_lines_are_told_with_what_to_do():
    """A damaged line is a condition that names the place and the command that shows it; the rest counts."""
    folder = trained("digits")
    spoil(folder, 5)
    seen = overview.look(folder)
    (told,) = [c.reason for c in seen.receipt.conditions if c.name == "journal_damaged"]
    assert "journal-000001.jsonl line 5" in told
    assert f"hubstate trace {folder.name}" in told
    assert seen.receipt.rows == 3


@DAMAGED
def test_several_damaged_lines_are_counted():
    """More than one damage is told by its number and the first place."""
    folder = trained("digits")
    spoil(folder, 5)
    spoil(folder, 6)
    (told,) = [c.reason for c in overview.look(folder).receipt.conditions if c.name == "journal_damaged"]
    assert told.startswith("2 lines of the journal are damaged (journal-000001.jsonl line 5")


@DAMAGED
def test_a_journal_beyond_reading_is_shown_and_not_passed_over():
    """A session whose journal has no readable head stands in the list, with the reason and what can be done."""
    whole, broken = trained("digits"), trained("digits")
    (broken / "journal-000001.jsonl").write_bytes(b"no journal\n")
    first, second = overview.look_at_all([whole, broken])
    assert isinstance(first, Overview)
    assert isinstance(second, Unreadable)
    assert second.session == broken.name
    assert "no segment" in second.reason
    assert "snapshots/" in second.reason


def test_a_folder_that_vanished_is_left_out(tmp_path):
    """What is no session any more is not told of; asked for by itself it is an error."""
    assert list(overview.look_at_all([tmp_path / "gone"])) == []
    with pytest.raises(StorageError, match="no journal"):
        overview.look(tmp_path / "gone")


def test_sessions_are_found_wherever_they_began(tmp_path):
    """Without a directory all sessions of this user are found, oldest first and each once."""
    here = trained("here")
    there = trained("there", directory=tmp_path / "elsewhere")
    found = settings.resolve()
    assert overview.folders(found) == [here, there]
    assert overview.folders(found, tmp_path / "elsewhere") == [there]


def test_a_session_outside_the_index_is_found_in_its_directory():
    """The current directory's sessions are found even where the index knows nothing of them."""
    folder = trained("here")
    found = settings.resolve()
    (found.data_folder / "sessions" / folder.name).unlink()
    assert overview.folders(found) == [folder]


def test_a_directory_that_is_not_there_is_a_mistake(tmp_path):
    """To look into a directory that does not exist finds no sessions by mistake; it says so."""
    with pytest.raises(UsageError, match="there is no directory"):
        overview.folders(settings.resolve(), tmp_path / "nowhere")


def test_a_session_is_meant_by_id_prefix_or_name():
    """An id in any case, the beginning of one that no other has, and a name (its newest) all name a session."""
    older, newer, other = trained("digits"), trained("digits"), trained("letters")
    known = [older, newer, other]
    assert overview.find(older.name.lower(), known) == older
    assert overview.find(older.name[:25], [older, Path(f"0{'Z' * 25}")]) == older
    assert overview.find("digits", known) == newer
    assert overview.find("letters", known) == other


def test_a_prefix_of_several_is_refused_with_their_ids():
    """The beginning of several ids names none of them: the answer tells which there are."""
    known = [trained("digits"), trained("digits")]
    with pytest.raises(UsageError, match=f"the beginning of 2 ids .*{known[1].name}"):
        overview.find(known[0].name[:4], known)


@pytest.mark.parametrize(("name", "error"), [("nobody", SessionNotFound), ("", UsageError)])
@DAMAGED
def test_an_unknown_session_is_not_found(name, error):
    """Whoever names a session that is not here hears how many were looked at and where to look."""
    known = [trained("digits"), trained("digits")]
    (known[1] / "journal-000001.jsonl").write_bytes(b"no journal\n")
    with pytest.raises(error, match="looked at 2; 1 cannot be read" if name else "named by its id"):
        overview.find(name, known)


NAMES = {
    "id",
    "name",
    "state",
    "outcome",
    "attempt",
    "epoch",
    "delivered",
    "waiting",
    "refused",
    "url",
    "conditions",
}


@DAMAGED
def test_the_json_holds_what_was_promised():
    """Each object of `status --json` holds the promised names, for a session of any kind, and is JSON."""
    broken = trained("digits")
    (broken / "journal-000001.jsonl").write_bytes(b"no journal\n")
    whole, bad = (overview.as_json(seen) for seen in overview.look_at_all([trained("digits"), broken]))
    assert whole.keys() == bad.keys() >= NAMES
    assert json.loads(json.dumps([whole, bad])) == [whole, bad]
    assert (whole["state"], whole["outcome"], whole["epoch"], whole["delivered"]) == (
        "finalizing",
        "finished",
        2,
        0,
    )
    assert whole["conditions"] == [{"name": "no_hub", "since": whole["opened_at"], "reason": "no hub"}]
    assert (bad["state"], bad["outcome"], bad["waiting"]) == (None, "unknown", 0)
    assert bad["conditions"][0]["name"] == "journal_damaged"
