"""`verify`, from the command line: what it prints, and how it ends."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import run, trained
from journals import DAMAGED
from witness import Forgery

import hubstate
from hubstate.server import keys
from hubstate.server.running import RunningHub, running


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[RunningHub]:
    with running(tmp_path / "hub") as hub:
        yield hub


def told_to(address: str, **options: str) -> str:
    """A session that was delivered whole; its id."""
    weights = Path("last.pt")
    weights.write_bytes(b"weights")
    with hubstate.start("digits", epochs=2, hub=address, **options) as session:
        for epoch in session.epochs():
            session.log({"loss": 1 / (epoch + 1), "odd": float("nan")})
            session.save(weights, fitness=epoch)
    assert session.receipt.waiting == 0, str(session.receipt)
    return session.id


def test_an_accepted_journal_ends_with_0():
    """One line tells how many steps were judged and where the journal ends."""
    session = trained()
    ended = run("verify", session)
    assert ended.stdout == "accepted: 7 steps, ends at line 8\n"
    assert ended.stderr == ""


@DAMAGED
def test_the_first_wrong_line_is_named_and_the_end_is_1():
    """A line that was edited is named by file, line and step."""
    session = trained()
    file = Path(".hubstate") / session / "journal-000001.jsonl"
    file.write_bytes(file.read_bytes().replace(b'"loss":0.5', b'"loss":0.4'))
    said = "journal-000001.jsonl line 6 (step 5): the line is not as it was written"
    assert run("verify", session, code=1).stdout == f"not accepted: {said}\n"
    told = json.loads(run("verify", session, "--json", code=1).stdout)
    assert told["wrong"] == {
        "file": "journal-000001.jsonl",
        "line": 6,
        "n": 5,
        "what": "the line is not as it was written",
    }
    assert (told["id"], told["accepted"], told["steps"], told["hub"]) == (session, False, 4, None)
    assert run("verify", session, "--hub", code=1).stdout == f"not accepted: {said}\n"


@DAMAGED
def test_what_another_table_decided_is_not_proven_and_the_end_is_1():
    """A journal names its table itself: one that cannot be decided again is called neither wrong nor accepted."""
    session = trained()
    forgery = Forgery(Path(".hubstate") / session)
    forgery.edit((0, 0), lambda head: head.update(table="0123456789abcdef"))
    forgery.write()
    said = run("verify", session, code=1).stdout
    assert said.startswith("not proven: decided under another table: 7 steps, ends at line 8; 7 of them were")
    told = json.loads(run("verify", session, "--json", code=1).stdout)
    assert (told["accepted"], told["wrong"], told["undecided"]) == (False, None, {"0123456789abcdef": 7})


def test_the_hub_holds_what_the_journal_tells(hub):
    """`--hub` compares every row in force and every file, and says how many are equal."""
    session = told_to(hub.url)
    lines = run("verify", session, "--hub").stdout.splitlines()
    assert lines[0].startswith("accepted: ")
    assert lines[1] == f"{hub.url}: 2/2 rows, 1/1 files equal"
    told = json.loads(run("verify", session, "--hub", "--json").stdout)
    assert told["accepted"] is True
    assert told["hub"] == {
        "address": hub.url,
        "trouble": "",
        "equal": True,
        "rows": 2,
        "rows_equal": 2,
        "files": 1,
        "files_equal": 1,
        "difference": "",
    }


def test_a_hub_that_holds_something_else_is_not_equal(hub):
    """The first row that differs is named, and the end is 1: here the journal lost its last lines."""
    with hubstate.start("digits", hub=hub.url, limits=hubstate.Limits(metrics=0.0)) as session:
        session.log({"loss": 1.0})
        assert session.flush(60)
        session.log({"loss": 0.5})
    file = Path(".hubstate") / session.id / "journal-000001.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    last = max(n for n, line in enumerate(lines) if b"fit_epoch_end" in line)
    file.write_bytes(b"".join(lines[:last]))
    said = run("verify", session.id, "--hub", code=1).stdout.splitlines()
    assert said[0] == f"accepted: {last - 1} steps, ends at line {last}"
    assert said[1] == (
        f"{hub.url}: 1/2 rows, 0/0 files equal; the row of epoch 1: the hub has it, and the journal does not"
    )


def test_without_a_hub_that_has_it_there_is_nothing_to_compare_with():
    """A session that was never delivered is a mistake of usage with --hub, and the hint says how to deliver it."""
    session = trained()
    ended = run("verify", session, "--hub", code=2)
    assert "no hub has acknowledged digits yet" in ended.stderr
    assert "hubstate sync" in ended.stderr
    ended = run("verify", "nobody", code=2)
    assert "nobody" in ended.stderr


def test_a_hub_that_is_away_is_told(tmp_path):
    """Nobody can say what a hub holds that gives no answer: 1, and the reason on stderr."""
    with running(tmp_path / "hub") as hub:
        session = told_to(hub.url)
    ended = run("verify", session, "--hub", code=1)
    assert ended.stdout.startswith("accepted: ")
    assert ended.stderr.startswith("hubstate: ")
    ended = run("verify", session, "--hub", "--json", code=1)
    told = json.loads(ended.stdout)
    assert (told["accepted"], told["hub"].pop("address")) == (True, hub.url)
    assert ended.stderr == f"hubstate: {told['hub'].pop('trouble')}\n"
    assert set(told["hub"].values()) == {None}


def test_what_waits_and_is_lost_ends_with_1():
    """A kept file that no hub has, and that somebody removed, is named to people and to programs."""
    weights = Path("last.pt")
    weights.write_bytes(b"weights")
    with hubstate.start("digits", mode="offline") as session:
        session.save(weights)
    [kept] = (Path(".hubstate") / session.id / "snapshots").iterdir()
    assert run("verify", session.id).stdout.startswith("accepted: ")
    kept.write_bytes(b"")
    said = "waits for a hub and has 0 bytes, and had 7 when it was kept"
    ended = run("verify", session.id, code=1)
    assert ended.stdout.startswith("not accepted: what waits for a hub is lost: ")
    assert f"the kept file {kept.name} {said}" in ended.stdout
    told = json.loads(run("verify", session.id, "--json", code=1).stdout)
    assert (told["accepted"], told["wrong"]) == (False, None)
    assert told["lost"] == [{"file": kept.name, "what": said}]
    assert (told["empty"], told["reworded"]) == ([], 0)


def test_a_wrong_key_ends_with_3(tmp_path, monkeypatch):
    """The key is that of the hub that the session belongs to; a refused one ends with 3 and is not told."""
    key = keys.create(tmp_path / "hub", "laptop")
    with running(tmp_path / "hub") as hub:
        session = told_to(hub.url, api_key=key)
        monkeypatch.setenv("HUBSTATE_HUB", hub.url)
        monkeypatch.setenv("HUBSTATE_API_KEY", key)
        assert "2/2 rows" in run("verify", session, "--hub").stdout
        monkeypatch.setenv("HUBSTATE_API_KEY", "wrong")
        ended = run("verify", session, "--hub", code=3)
        assert "wrong" not in ended.stderr.replace("wrong key", "")


def test_a_session_is_looked_for_in_a_directory(tmp_path):
    """`--directory` looks there alone."""
    session = trained()
    shutil.copytree(Path(".hubstate") / session, tmp_path / "elsewhere" / session)
    assert run("verify", session, "--directory", tmp_path / "elsewhere").stdout.startswith("accepted: ")
    assert "no session" in run("verify", session, "--directory", tmp_path, code=2).stderr
