"""Backups: made while the hub runs, brought up to date, restored whole or not at all, and nothing damaged handed on."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hub_client import Client, row

from hubstate.errors import StorageError, UsageError
from hubstate.server import backup, keys
from hubstate.server.alone import alone
from hubstate.server.backup import Copied, back_up, check, restore
from hubstate.server.migrations import HEAD
from hubstate.server.running import RunningHub, running

A, B = b"a" * 3_000_000, b"b" * 10


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def said(url: str, key: str | None = None) -> dict[str, Any]:
    """What a hub tells of its one session: rows, and each checkpoint with its bytes."""
    client = Client(url, key)
    files = {
        file["kind"]: (file["epoch"], client.http.get(file["url"], timeout=30).content)
        for file in client.model()["checkpoints"]
    }
    told = {"rows": client.metrics(), "files": files, "name": client.model()["name"]}
    client.http.close()
    return told


@pytest.fixture
def filled(hub: RunningHub, client: Client) -> RunningHub:
    """A running hub with rows and two checkpoints."""
    client.open()
    client.rows([row(0, a=1), row(1, a=0.5)], key="r")
    assert client.upload(A, epoch=1).status_code == 200
    assert client.upload(B, kind="best").status_code == 200
    return hub


def test_a_running_hub_is_copied_and_comes_back(filled: RunningHub, tmp_path: Path) -> None:
    """A backup of a running hub makes a hub that tells the same, takes repeats as such, and goes on."""
    key = keys.create(filled.data_dir, "mine")
    before = said(filled.url, key)
    assert back_up(filled.data_dir, tmp_path / "copy", now=5.0) == Copied(2, 2, len(A) + len(B), ())
    restored = restore(tmp_path / "copy", tmp_path / "again")
    assert restored == Copied(2, 2, len(A) + len(B), ())
    with running(tmp_path / "again") as hub:
        assert said(hub.url, key) == before
        client = Client(hub.url, key)
        assert client.rows([row(0, a=1), row(1, a=0.5)], key="r").headers["Idempotent-Replayed"] == "true"
        assert client.rows([row(2, a=0.1)]).status_code == 200
        client.http.close()


def test_an_address_that_was_handed_out_still_works(
    filled: RunningHub, client: Client, tmp_path: Path
) -> None:
    """The secret comes along: what the old hub signed is good at the new one."""
    (address,) = [file["url"] for file in client.model()["checkpoints"] if file["kind"] == "best"]
    back_up(filled.data_dir, tmp_path / "copy", now=5.0)
    restore(tmp_path / "copy", tmp_path / "again")
    with running(tmp_path / "again") as hub:
        assert client.http.get(address.replace(filled.url, hub.url), timeout=30).content == B


def test_nobody_else_reads_a_backup(filled: RunningHub, tmp_path: Path) -> None:
    """Every file and folder of a backup, and of a hub made of it, is its owner's alone."""
    back_up(filled.data_dir, tmp_path / "copy", now=5.0)
    restore(tmp_path / "copy", tmp_path / "again")
    for place in (tmp_path / "copy", tmp_path / "again"):
        modes = {
            path.stat().st_mode & 0o077 for path in (place, *place.rglob("*")) if path.name != "backup.json"
        }
        assert modes == {0}


def test_the_next_backup_copies_what_is_new(filled: RunningHub, client: Client, tmp_path: Path) -> None:
    """Into the same folder only new files go, what no session names any more goes, and all of it is one backup."""
    back_up(filled.data_dir, tmp_path / "copy", now=5.0)
    client.upload(b"newer", epoch=2)
    client.upload(b"newer", kind="final", type="final", epoch=2)
    assert back_up(filled.data_dir, tmp_path / "copy", now=6.0) == Copied(2, 1, len(B) + 5, ())
    assert {file.name for file in (tmp_path / "copy" / "files").iterdir()} == {sha(B), sha(b"newer")}
    assert len(list((tmp_path / "copy").glob("hub-*.sqlite"))) == 1
    restore(tmp_path / "copy", tmp_path / "again")
    with running(tmp_path / "again") as hub:
        assert said(hub.url) == said(filled.url)


def test_a_file_that_is_replaced_meanwhile(
    filled: RunningHub, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the hub replaced a file between the moment and its copy, another moment is taken: both fit together."""
    copy = backup._copy_database
    moments: list[Path] = []

    def and_then_replaced(path: Path, target: Path) -> None:
        copy(path, target)
        moments.append(path)
        if len(moments) == 1:
            assert client.upload(b"newer", epoch=2).status_code == 200

    monkeypatch.setattr(backup, "_copy_database", and_then_replaced)
    assert back_up(filled.data_dir, tmp_path / "copy", now=5.0).bad == ()
    assert len(moments) == 2
    restore(tmp_path / "copy", tmp_path / "again")
    with running(tmp_path / "again") as hub:
        assert said(hub.url)["files"]["last"] == (2, b"newer")


def test_a_file_that_is_replaced_while_it_is_copied(
    filled: RunningHub, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the hub removes while the backup copies is held until it is copied."""
    copy = backup._copy_files

    def replaced_first(*arguments: Any) -> Any:
        client.upload(b"newer", epoch=2)
        return copy(*arguments)

    monkeypatch.setattr(backup, "_copy_files", replaced_first)
    assert back_up(filled.data_dir, tmp_path / "copy", now=5.0) == Copied(2, 2, len(A) + len(B), ())
    assert list((filled.data_dir / "incoming").iterdir()) == []
    restore(tmp_path / "copy", tmp_path / "again")
    with running(tmp_path / "again") as hub:
        assert said(hub.url)["files"]["last"] == (1, A)


def test_a_disk_without_hard_links(
    filled: RunningHub, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without hard links a file that goes meanwhile leads to another moment, and none that always goes to an error."""
    copy = backup._copy_files
    replaced: list[int] = []

    def no_link(*_arguments: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    def replaced_first(*arguments: Any) -> Any:
        if len(replaced) < limit:
            replaced.append(1)
            client.upload(f"newer {len(replaced)}".encode(), epoch=1 + len(replaced))
        return copy(*arguments)

    monkeypatch.setattr("hubstate.server.backup.os.link", no_link)
    monkeypatch.setattr(backup, "_copy_files", replaced_first)
    limit = 1
    assert back_up(filled.data_dir, tmp_path / "copy", now=5.0).bad == ()
    restore(tmp_path / "copy", tmp_path / "again")
    with running(tmp_path / "again") as hub:
        assert said(hub.url)["files"]["last"] == (2, b"newer 1")
    limit = 1000
    with pytest.raises(StorageError, match="faster than they could be copied"):
        back_up(filled.data_dir, tmp_path / "other", now=5.0)


def test_a_damaged_file_is_named_and_not_copied(filled: RunningHub, tmp_path: Path) -> None:
    """A checkpoint whose bytes changed on the hub's disk, and one that is missing, are told; the rest is a backup."""
    (damaged,) = (filled.data_dir / "files" / "S1").glob("1-1-*")
    (missing,) = (filled.data_dir / "files" / "S1").glob("1-0-*")
    damaged.write_bytes(b"A" + A[1:])
    missing.unlink()
    made = back_up(filled.data_dir, tmp_path / "copy", now=5.0)
    assert made[:3] == (0, 0, 0)
    assert set(made.bad) == {f"files/S1/{damaged.name} is damaged", f"files/S1/{missing.name} is missing"}
    with pytest.raises(StorageError, match=r"1-.* is missing and 1 more.*--damaged-too"):
        restore(tmp_path / "copy", tmp_path / "again")
    assert [path.name for path in (tmp_path / "again").iterdir()] == ["hub.lock"]
    assert len(restore(tmp_path / "copy", tmp_path / "again", damaged_too=True).bad) == 2
    with running(tmp_path / "again") as hub:
        client = Client(hub.url)
        assert client.metrics()[0]["metrics"] == {"a": 1}
        client.http.close()


def test_damage_in_a_backup_is_found(filled: RunningHub, tmp_path: Path) -> None:
    """Looking at a backup, and restoring it, finds each file and database that is not what it was."""
    back_up(filled.data_dir, tmp_path / "copy", now=5.0)
    assert check(tmp_path / "copy") == Copied(2, 0, len(A) + len(B), ())
    (tmp_path / "copy" / "files" / sha(A)).write_bytes(A[:-1])
    (tmp_path / "copy" / "files" / sha(B)).unlink()
    assert set(check(tmp_path / "copy").bad) == {f"{sha(A)} is damaged", f"{sha(B)} is missing"}
    with pytest.raises(StorageError, match=r"is damaged|is missing"):
        restore(tmp_path / "copy", tmp_path / "again")
    (database,) = (tmp_path / "copy").glob("hub-*.sqlite")
    database.write_bytes(database.read_bytes() + b"x")
    assert f"{database.name} is damaged" in check(tmp_path / "copy").bad
    with pytest.raises(StorageError, match=r"database .* is damaged"):
        restore(tmp_path / "copy", tmp_path / "again", damaged_too=True)
    database.unlink()
    with pytest.raises(StorageError, match="is missing"):
        restore(tmp_path / "copy", tmp_path / "again", damaged_too=True)
    assert [path.name for path in (tmp_path / "again").iterdir()] == ["hub.lock"]


def test_a_backup_that_was_cut_short_is_the_one_before(
    filled: RunningHub, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backup that ends in the middle leaves the earlier one whole, and the next one finishes it."""
    back_up(filled.data_dir, tmp_path / "copy", now=5.0)
    before = said(filled.url)
    client.upload(b"newer", epoch=2)

    def cut(*_arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(backup, "_sync", cut)
        with pytest.raises(KeyboardInterrupt):
            back_up(filled.data_dir, tmp_path / "copy", now=6.0)
        patch.undo()
        patch.setattr(backup, "_remove_others", cut)
        patch.setattr(backup, "_MANIFEST", "not yet.json")
        with pytest.raises(KeyboardInterrupt):
            back_up(filled.data_dir, tmp_path / "copy", now=6.0)
    restore(tmp_path / "copy", tmp_path / "again")
    with running(tmp_path / "again") as hub:
        assert said(hub.url) == before
    assert back_up(filled.data_dir, tmp_path / "copy", now=7.0).bad == ()
    restore(tmp_path / "copy", tmp_path / "now")
    with running(tmp_path / "now") as hub:
        assert said(hub.url) == said(filled.url)


def test_a_folder_of_other_things_is_not_touched(filled: RunningHub, tmp_path: Path) -> None:
    """A backup goes into no folder that holds something else, and a restore into none that is not empty."""
    theirs = tmp_path / "theirs"
    (theirs / "files").mkdir(parents=True)
    (theirs / "files" / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="neither empty nor a backup"):
        back_up(filled.data_dir, theirs, now=5.0)
    with pytest.raises(UsageError, match="neither empty nor a backup"):
        back_up(filled.data_dir, theirs / "files" / "mine.txt", now=5.0)
    back_up(filled.data_dir, tmp_path / "copy", now=5.0)
    with pytest.raises(UsageError, match="not empty"):
        restore(tmp_path / "copy", theirs)
    with pytest.raises(UsageError, match="not empty"):
        restore(tmp_path / "copy", filled.data_dir.parent)
    assert (theirs / "files" / "mine.txt").read_text() == "mine"


def test_what_is_no_hub_or_no_backup_is_told(filled: RunningHub, tmp_path: Path) -> None:
    """Names that were mistyped make nothing: no hub, no backup, a folder within the other."""
    with pytest.raises(UsageError, match="no hub"):
        back_up(tmp_path / "typo", tmp_path / "copy", now=5.0)
    for inside in (filled.data_dir / "copy", filled.data_dir.parent):
        with pytest.raises(UsageError, match="lie in each other"):
            back_up(filled.data_dir, inside, now=5.0)
    for call in (check, lambda source: restore(source, tmp_path / "again")):
        with pytest.raises(UsageError, match=r"no \(whole\) backup"):
            call(tmp_path / "typo")
    assert not (tmp_path / "copy").exists()
    assert not (tmp_path / "again").exists()


def test_a_backup_of_a_newer_hubstate_is_refused(filled: RunningHub, tmp_path: Path) -> None:
    """A backup with a database that this hubstate does not know makes no hub."""
    back_up(filled.data_dir, tmp_path / "copy", now=5.0)
    manifest = tmp_path / "copy" / "backup.json"
    manifest.write_text(manifest.read_text().replace(f'"{HEAD}"', '"9999"'))
    with pytest.raises(StorageError, match=r"9999.*newer hubstate"):
        restore(tmp_path / "copy", tmp_path / "again")
    manifest.write_text("{")
    with pytest.raises(StorageError, match=r"cannot read .*backup\.json"):
        restore(tmp_path / "copy", tmp_path / "again")


def test_a_restore_that_was_killed_is_begun_anew(filled: RunningHub, tmp_path: Path) -> None:
    """What a killed restore left is no hub and in nobody's way; while a restore holds the folder, nobody else begins."""
    back_up(filled.data_dir, tmp_path / "copy", now=5.0)
    left = tmp_path / "again" / ".restoring" / "files"
    left.mkdir(parents=True)
    (left / "half").write_bytes(b"half")
    with alone(tmp_path / "again"), pytest.raises(StorageError, match="another hub"):
        restore(tmp_path / "copy", tmp_path / "again")
    restore(tmp_path / "copy", tmp_path / "again")
    assert not (tmp_path / "again" / ".restoring").exists()


def test_a_damaged_database_is_not_backed_up(filled: RunningHub, tmp_path: Path) -> None:
    """A hub whose database SQLite finds broken gives no backup that looks whole."""
    with closing(sqlite3.connect(filled.data_dir / "hub.sqlite")) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        size = database.execute("PRAGMA page_size").fetchone()[0]
        root = database.execute("SELECT rootpage FROM sqlite_master WHERE name = 'rows'").fetchone()[0]
    with (filled.data_dir / "hub.sqlite").open("r+b") as file:
        file.seek((root - 1) * size)
        file.write(os.urandom(size // 2))
    with pytest.raises(StorageError, match="database"):
        back_up(filled.data_dir, tmp_path / "copy", now=5.0)
    assert not (tmp_path / "copy" / "backup.json").exists()


def test_a_hub_that_begins_while_files_are_held(
    filled: RunningHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It sweeps the folder of the links away: no file is called missing for that, and each is in the backup."""

    def swept(_original: Path, link: Path) -> None:
        if link.parent.exists():
            link.parent.rmdir()
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr("hubstate.server.backup.os.link", swept)
    assert back_up(filled.data_dir, tmp_path / "copy", now=5.0) == Copied(2, 2, len(A) + len(B), ())
    assert check(tmp_path / "copy").bad == ()


def test_what_a_killed_backup_held_is_let_go(data_dir: Path) -> None:
    """Links that a killed backup left in the hub's folder are gone when a hub starts."""
    with running(data_dir):
        pass
    (data_dir / "incoming" / "held-0").mkdir()
    (data_dir / "incoming" / "held-0" / "0").write_bytes(b"x")
    with running(data_dir):
        assert not (data_dir / "incoming" / "held-0").exists()


def test_a_file_that_is_not_what_it_was_is_told(filled: RunningHub, client: Client) -> None:
    """A stored file that is missing, or has another size, is a condition of its session and a 410 that says so."""
    addresses = {file["kind"]: file["url"] for file in client.model()["checkpoints"]}
    (cut,) = (filled.data_dir / "files" / "S1").glob("1-1-*")
    (missing,) = (filled.data_dir / "files" / "S1").glob("1-0-*")
    cut.write_bytes(A[:-1])
    missing.unlink()
    told = client.model()
    assert {file["kind"]: file["damage"] for file in told["checkpoints"]} == {
        "last": "damaged",
        "best": "missing",
    }
    assert {condition["name"] for condition in told["conditions"]} == {"file_damaged", "file_missing"}
    page = client.get("/models/S1", headers={"Accept": "text/html"}).text
    assert "missing on the hub" in page
    for kind, short in (("last", "file_damaged"), ("best", "file_missing")):
        answer = client.http.get(addresses[kind], timeout=30)
        assert (answer.status_code, answer.json()["error"]) == (410, short)
        assert client.http.head(addresses[kind], timeout=30).status_code == 410
    client.upload(B, kind="best", epoch=2)
    assert [file["damage"] for file in client.model()["checkpoints"] if file["kind"] == "best"] == [None]
