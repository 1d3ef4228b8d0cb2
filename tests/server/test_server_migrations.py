"""The database of an older hub is brought up to date; one of a newer hub, or of a running one, is left alone."""

from __future__ import annotations

import errno
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from alembic import op
from alembic.script import ScriptDirectory
from hub_client import Client, row

from hubstate.errors import StorageError
from hubstate.server import migrations
from hubstate.server.alone import alone
from hubstate.server.database import Database
from hubstate.server.running import running
from hubstate.server.store import Store

#: Whole databases as older versions wrote them; their one key is this one.
OLD = Path(__file__).parents[1] / "data" / "hubs"
KEY = "ul_" + "0" * 40


def old(data_dir: Path, version: int) -> Path:
    """A hub's folder as an older hubstate left it, but for its files; the path of its database."""
    data_dir.mkdir()
    path = data_dir / "hub.sqlite"
    with closing(sqlite3.connect(path)) as database:
        database.executescript((OLD / f"version-{version}.sql").read_text())
    return path


def tables(path: Path) -> dict[str, Any]:
    """What each table is made of, whatever the order of its columns: columns, and what is unique or indexed."""
    with closing(sqlite3.connect(path)) as database:
        names = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {
            name: (
                {tuple(column[1:]) for column in database.execute(f'PRAGMA table_info("{name}")')},
                {
                    (unique, tuple(c[2] for c in database.execute(f'PRAGMA index_info("{index}")')))
                    for _, index, unique, *_rest in database.execute(f'PRAGMA index_list("{name}")')
                },
            )
            for name in names
        }


def rows_of(path: Path) -> dict[str, list[Any]]:
    """Everything that a database holds."""
    with closing(sqlite3.connect(path)) as database:
        names = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: database.execute(f'SELECT * FROM "{name}"').fetchall() for name in names}


def test_the_steps_make_the_tables_that_a_new_hub_has(tmp_path: Path) -> None:
    """All steps together, from nothing, make the tables, columns and indexes that a new hub gets at once."""
    Database(tmp_path / "new.sqlite").close()
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path / 'stepped.sqlite'}")
    with engine.begin() as connection:
        migrations._run_steps(connection)
    engine.dispose()
    assert tables(tmp_path / "stepped.sqlite") == tables(tmp_path / "new.sqlite")


def test_the_last_step_is_the_head() -> None:
    """The number that a new database is marked with is that of the last step, and the steps are one line of numbers."""
    steps = ScriptDirectory(str(Path(migrations.__file__).parent))
    numbers = [step.revision for step in steps.walk_revisions()]
    assert numbers[0] == migrations.HEAD
    assert numbers == [f"{number:04}" for number in range(len(numbers), 0, -1)]


@pytest.mark.parametrize("version", [1, 2])
def test_an_older_database_is_brought_up_to_date(data_dir: Path, version: int) -> None:
    """What an older hub held is there afterwards and goes on, and the tables are those of a new hub."""
    path = old(data_dir, version)
    with running(data_dir) as hub:
        client = Client(hub.url, KEY)
        held = client.model()
        assert (held["name"], held["epoch"], held["tags"], held["config"]) == (
            "digits",
            0,
            ["a"],
            {"lr": 0.1},
        )
        assert [r["metrics"] for r in client.metrics()] == [{"loss": 1.0}]
        assert client.rows([row(0, loss=1.0)], key="r").headers["Idempotent-Replayed"] == "true"
        assert client.rows([row(1, loss=0.5)]).status_code == 200
        assert client.model()["epoch_at"] == client.model()["last_contact"]
        client.http.close()
    Database(data_dir / "new.sqlite").close()
    assert tables(path) == tables(data_dir / "new.sqlite")


def test_what_an_older_hub_did_not_note_stays_unknown(data_dir: Path) -> None:
    """When an epoch was heard of before that was noted, nobody knows, and the page does not make it up."""
    old(data_dir, 1)
    with running(data_dir) as hub:
        client = Client(hub.url, KEY)
        assert (client.model()["epoch"], client.model()["epoch_at"]) == (0, None)
        assert "no_epoch" not in [condition["name"] for condition in client.model()["conditions"]]
        client.http.close()


def test_the_older_database_stays_beside_the_new_one(data_dir: Path) -> None:
    """A copy of what was there before is left under the number that it had, readable by its owner alone."""
    path = old(data_dir, 1)
    before = rows_of(path)
    Store(data_dir).close()
    copy = data_dir / "hub-0001.sqlite"
    assert rows_of(copy) == before
    assert copy.stat().st_mode & 0o777 == 0o600
    assert rows_of(path)["alembic_version"] == [(migrations.HEAD,)]


def test_an_up_to_date_database_is_not_copied(data_dir: Path) -> None:
    """A start that changes nothing leaves no copy."""
    Store(data_dir).close()
    Store(data_dir).close()
    assert list(data_dir.glob("hub-*")) == []


def test_without_room_for_the_copy_nothing_is_changed(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the disk does not take the database as it was, it stays so, the error says which file, and none is left over."""
    before = rows_of(old(data_dir, 1))

    def full(_fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("hubstate.server.migrations.os.fsync", full)
        with pytest.raises(StorageError, match=r"hub-0001\.sqlite, so it stays as it is: .*No space left"):
            Database(data_dir / "hub.sqlite")
    assert {path.name for path in data_dir.iterdir()} <= {"hub.sqlite", "hub.lock"}
    assert rows_of(data_dir / "hub.sqlite") == before
    Database(data_dir / "hub.sqlite").close()


def test_a_step_that_fails_changes_nothing(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that breaks in the middle leaves the older database as it was, and the next start brings it up."""
    path = old(data_dir, 1)
    before = rows_of(path)
    add_column = op.add_column
    broken: list[Any] = []

    def break_at_the_second(*arguments: Any, **options: Any) -> None:
        broken.append(arguments)
        if len(broken) == 2:
            raise sqlalchemy.exc.OperationalError("", {}, sqlite3.OperationalError("disk is full"))
        add_column(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr("alembic.op.add_column", break_at_the_second)
        with pytest.raises(StorageError, match="disk is full"):
            Store(data_dir)
    assert len(broken) == 2
    assert rows_of(path) == before
    Store(data_dir).close()
    assert rows_of(path)["alembic_version"] == [(migrations.HEAD,)]


@pytest.mark.parametrize("mark", ["9999", "af32bd"])
def test_a_newer_database_is_left_alone(data_dir: Path, mark: str) -> None:
    """A folder that a newer hubstate wrote is refused, saying which version it has, and not changed."""
    Store(data_dir).close()
    path = data_dir / "hub.sqlite"
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE alembic_version SET version_num = ?", [mark])
    before = rows_of(path)
    with pytest.raises(StorageError, match=f"{mark}.*newer hubstate"), running(data_dir):
        pass
    assert rows_of(path) == before


def test_a_database_of_another_program_is_left_alone(data_dir: Path) -> None:
    """A file with tables of which nobody here knows is refused and not changed."""
    data_dir.mkdir()
    path = data_dir / "hub.sqlite"
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE theirs (a)")
    with pytest.raises(StorageError, match="user_version 0"):
        Store(data_dir)
    assert set(tables(path)) == {"theirs"}


def test_nothing_is_changed_under_a_running_hub(data_dir: Path) -> None:
    """While a hub holds the folder, another hubstate does not bring its database up; it says that a hub runs."""
    path = old(data_dir, 1)
    before = rows_of(path)
    with alone(data_dir), pytest.raises(StorageError, match="another hub runs"):
        Store(data_dir)
    assert rows_of(path) == before
    Store(data_dir).close()
    assert rows_of(path) != before
