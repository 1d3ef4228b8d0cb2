"""The index: a session is found from anywhere, and what is gone is passed by."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hubstate.clock import VirtualClock
from hubstate.errors import StorageError
from hubstate.index import Index, sessions_in
from hubstate.opening import create

#: A packed segment: that there is one says that it was whole once.
SEGMENT = "journal-000001.jsonl.gz"
TORN = pytest.mark.damages_journals(reason="a journal that ends or begins within a line")


@pytest.fixture
def index(tmp_path):
    return Index(tmp_path / "data" / "index")


def session(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / SEGMENT).touch()
    return folder


def test_a_session_is_found_from_any_working_directory(tmp_path, index, monkeypatch):
    """The index holds whole paths, so that it does not matter where one stands, then or now."""
    session(tmp_path / "run" / "01A")
    monkeypatch.chdir(tmp_path / "run")
    index.enter("01A", Path("01A"))
    monkeypatch.chdir("/")
    assert list(index.folders()) == [tmp_path / "run" / "01A"]


def test_the_oldest_comes_first(tmp_path, index):
    """Ids sort by time, and so do the folders, whatever order they were entered in."""
    folders = [session(tmp_path / name / id_) for name, id_ in (("z", "01A"), ("y", "01B"), ("x", "01C"))]
    for folder in reversed(folders):
        index.enter(folder.name, folder)
    assert list(index.folders()) == folders


def test_a_folder_that_is_gone_is_passed_by(tmp_path, index):
    """A session that was removed by hand is no mistake, nor is one that was forgotten."""
    for name in ("01A", "01B", "01C"):
        index.enter(name, session(tmp_path / name))
    (tmp_path / "01A" / SEGMENT).unlink()
    (tmp_path / "01A").rmdir()
    index.remove("01B")
    index.remove("01B")
    assert list(index.folders()) == [tmp_path / "01C"]


@pytest.mark.parametrize("name", ["with space ", "line\nbreak", "ümläut", os.fsdecode(b"no utf-8 \xff")])
def test_any_name_that_a_folder_can_have(tmp_path, index, name):
    """A path is kept byte by byte."""
    index.enter("01A", session(tmp_path / name))
    assert list(index.folders()) == [tmp_path / name]


@pytest.mark.parametrize("content", [b"", b"\n", b"relative/path\n", b"/nowhere/at/all\n"])
def test_an_entry_that_names_no_folder_is_passed_by(index, content, tmp_path):
    """An entry that a power loss left empty is not taken for the working directory."""
    index.enter("01A", session(tmp_path / "01A"))
    (tmp_path / "data" / "index" / "01B").write_bytes(content)
    (tmp_path / "data" / "index" / "01C").mkdir()
    (tmp_path / "data" / "index" / ".01D").write_text("half an entry")
    assert list(index.folders()) == [tmp_path / "01A"]


def test_an_empty_index_is_made_by_nobody(tmp_path, index):
    """Looking for sessions where none ever was finds none and makes no folder."""
    assert list(index.folders()) == []
    assert not (tmp_path / "data").exists()


def test_entering_again_replaces(tmp_path, index):
    """A session that was moved is found in its new place, once; half an entry is never seen."""
    index.enter("01A", session(tmp_path / "old"))
    index.enter("01A", session(tmp_path / "new"))
    assert list(index.folders()) == [tmp_path / "new"]
    assert [path.name for path in (tmp_path / "data" / "index").iterdir()] == ["01A"]


def test_an_index_that_cannot_be_written_is_named(tmp_path):
    """The index is a convenience, and whoever enters a session decides what its failure means."""
    (tmp_path / "file").touch()
    index = Index(tmp_path / "file" / "index")
    with pytest.raises(StorageError, match="cannot note the session"):
        index.enter("01A", tmp_path)
    with pytest.raises(StorageError, match="cannot forget the session"):
        index.remove("01A")


def test_the_sessions_of_a_directory(tmp_path):
    """A directory's sessions are its folders that hold a journal, oldest first, packed or not."""
    session(tmp_path / "01B")
    create(tmp_path, "01A", VirtualClock(), lambda *_: None).close()
    (tmp_path / "01C").mkdir()
    (tmp_path / ".gitignore").touch()
    assert list(sessions_in(tmp_path)) == [tmp_path / "01A", tmp_path / "01B"]
    assert list(sessions_in(tmp_path / "nowhere")) == []


@pytest.mark.parametrize("begun", [None, b"", pytest.param(b'{"segment":1', marks=TORN)])
def test_a_session_that_never_began_is_none(tmp_path, begun):
    """Whoever is killed before the first line of a journal stands leaves nothing that could be lost, and so no session."""
    killed = tmp_path / "01A"
    killed.mkdir()
    (killed / "owner.lock").touch()
    if begun is not None:
        (killed / "journal-000001.jsonl").write_bytes(begun)
    assert list(sessions_in(tmp_path)) == []


@pytest.mark.parametrize(
    ("left", "text"),
    [(SEGMENT, ""), ("snapshots", ""), pytest.param("journal-000002.jsonl", "{}\n", marks=TORN)],
)
def test_a_session_that_lost_its_beginning_is_one(tmp_path, left, text):
    """Where a later segment or a copy lies, there was a session, and somebody has to be told that it cannot be read."""
    damaged = tmp_path / "01A"
    damaged.mkdir()
    (damaged / "journal-000001.jsonl").touch()
    (damaged / left).write_text(text, encoding="ascii")
    assert list(sessions_in(tmp_path)) == [damaged]


def test_a_session_that_may_not_be_read_is_one(tmp_path, monkeypatch):
    """A segment that this user may not read is no reason to say that there is nothing."""
    folder = session(tmp_path / "01A")

    def refused(path, *_args, **_options):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refused)
    assert list(sessions_in(tmp_path)) == [folder]
