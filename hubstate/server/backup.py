"""A copy of a hub elsewhere, made while the hub runs; and a hub made of such a copy.

A backup is a folder: the database as it was at one moment, the hub's secret, and the checkpoints that this database
names, each once, in a file named by its SHA-256. `backup.json` names them all and is replaced last, so that a backup
that was cut short is the one before it. The next backup into the same folder copies only what is new.

A running hub removes a file when a newer one replaces it. So the files of the moment are held by hard links first, which
takes no time and no space; where the disk has no such links, and a file goes meanwhile, another moment is chosen.
Every file is digested on its way, in both directions: one that is not what it was is named, and never handed on.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import msgspec

from hubstate.errors import StorageError, UsageError
from hubstate.server.alone import alone
from hubstate.server.migrations import HEAD

__all__ = ["Copied", "back_up", "check", "restore"]

_MANIFEST = "backup.json"
#: Where things lie in a backup until they are whole.
_MAKING = ".making"
_BLOCK = 1 << 20
_IS_A_DIGEST = re.compile("[0-9a-f]{64}")
#: So many moments are tried at most, where files cannot be held.
_MOMENTS = 10
#: What may lie in a folder that a hub is restored into.
_NOTHING = frozenset({"hub.lock", "lost+found", ".restoring"})


class _Named(NamedTuple):
    """A checkpoint as the database names it: `file` in the folder of `session`."""

    session: str
    file: str
    size: int
    sha256: str

    def __str__(self) -> str:
        return f"files/{self.session}/{self.file}"


class _Manifest(msgspec.Struct, frozen=True):
    """What a backup holds. `at`: when the database was like that, in seconds since 1970; `files`: SHA-256 and size."""

    version: str
    at: float
    database: str
    files: dict[str, int]


class Copied(NamedTuple):
    """What was done. `bad`: each file that is missing or damaged, in words."""

    files: int
    new: int
    size: int
    bad: tuple[str, ...]


# -- making one ------------------------------------------------------------------------------------------


def back_up(data_dir: Path, target: Path, *, now: float) -> Copied:
    """Copies the hub in `data_dir` into the folder `target`, which is new, empty, or holds an earlier backup.

    Raises `UsageError` for no hub and for another folder, `StorageError` for a disk that does not take it.
    """
    data_dir, target = data_dir.absolute(), target.absolute()
    if not (data_dir / "hub.sqlite").is_file():
        raise UsageError(f"there is no hub in {data_dir}: name its folder by --data-dir")
    if target.is_relative_to(data_dir) or data_dir.is_relative_to(target):
        raise UsageError(f"{target} and the hub's folder lie in each other: choose another folder")
    begun = (target / _MANIFEST).is_file() or (target / _MAKING).is_dir()
    if target.exists() and not begun and not (target.is_dir() and not any(target.iterdir())):
        raise UsageError(f"{target} is neither empty nor a backup: choose another folder")
    try:
        return _made(data_dir, target, now)
    except sqlite3.Error as error:
        raise StorageError(f"cannot copy the hub's database {data_dir / 'hub.sqlite'}: {error}") from error
    except StorageError:
        raise  # it says already what is wrong, and it is an OSError too
    except OSError as error:
        raise StorageError(f"cannot back up into {target}: {error}") from error


def _made(data_dir: Path, target: Path, now: float) -> Copied:
    files, making = target / "files", target / _MAKING
    for folder in (target, making, files):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for left in making.iterdir():
        left.unlink()
    before = {file.name for file in files.iterdir()}
    database = making / "hub.sqlite"
    for _ in range(_MOMENTS):
        _copy_database(data_dir / "hub.sqlite", database)
        named = _named_by(database)
        with _held(data_dir, [one for one in named if not _is_there(files, one)]) as (held, gone):
            still = set(_named_by(data_dir / "hub.sqlite"))
            if not set(gone) <= still:
                continue  # it was replaced since that moment
            bad = [f"{one} is missing" for one in gone]
            vanished, damaged = _copy_files(held, files, making)
        if not vanished:
            break
    else:
        raise StorageError("the hub replaced files faster than they could be copied: try again later")
    digest = _digest(database)
    final = target / f"hub-{digest[:16]}.sqlite"
    database.replace(final)
    _copy(data_dir / "secret", making / "secret")
    (making / "secret").replace(target / "secret")
    whole = {one.sha256: one.size for one in named if _is_there(files, one)}
    manifest = _Manifest(_version_of(final), now, digest, whole)
    (making / _MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest)))
    for folder in (files, making):
        _sync(folder)
    _sync(making / _MANIFEST)
    (making / _MANIFEST).replace(target / _MANIFEST)
    _sync(target)
    _remove_others(target, final, whole)
    making.rmdir()
    bad += [f"{one} is damaged" for one in damaged]
    return Copied(len(whole), len(whole.keys() - before), sum(whole.values()), tuple(bad))


def _copy_database(path: Path, target: Path) -> None:
    """One moment of the database. Whoever writes to it goes on meanwhile."""
    target.unlink(missing_ok=True)
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(target)) as copy:
        source.backup(copy)
        # A file of its own: no journal beside it that could be left behind.
        copy.execute("PRAGMA journal_mode = DELETE")
        (verdict,) = copy.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise StorageError(f"the hub's database {path} is damaged: {verdict}")
    _sync(target)


def _named_by(database: Path) -> list[_Named]:
    with closing(sqlite3.connect(database)) as connection:
        return [
            _Named(*row) for row in connection.execute("SELECT session, file, size, sha256 FROM checkpoints")
        ]


def _version_of(database: Path) -> str:
    with closing(sqlite3.connect(database)) as connection:
        try:
            return str(connection.execute("SELECT version_num FROM alembic_version").fetchone()[0])
        except sqlite3.OperationalError:  # of a hub that did not have such a table yet
            return "0001"


@contextlib.contextmanager
def _held(data_dir: Path, named: list[_Named]) -> Iterator[tuple[list[tuple[_Named, Path]], list[_Named]]]:
    """While the block lasts, files that stay there whatever the hub removes; and the ones that are gone already."""
    folder = data_dir / "incoming" / f"held-{secrets.token_hex(8)}"
    folder.mkdir(mode=0o700)
    try:
        held, gone = [], []
        for number, one in enumerate(named):
            original, link = data_dir / "files" / one.session / one.file, folder / str(number)
            try:
                os.link(original, link)
            except FileNotFoundError:
                if original.exists():  # a hub that began meanwhile swept the folder of the links
                    held.append((one, original))
                else:
                    gone.append(one)
            except OSError:  # a disk without hard links
                held.append((one, original))
            else:
                held.append((one, link))
        yield held, gone
    finally:
        with contextlib.suppress(FileNotFoundError):  # a hub that began meanwhile swept it
            shutil.rmtree(folder)


def _copy_files(
    held: list[tuple[_Named, Path]], files: Path, making: Path
) -> tuple[list[_Named], list[_Named]]:
    """Copies each; tells which vanished meanwhile, and which are not what they were."""
    vanished, damaged = [], []
    for one, path in held:
        if _is_there(files, one):  # another kind of checkpoint has the same bytes
            continue
        part = making / one.sha256
        try:
            sha256 = _copy(path, part)
        except FileNotFoundError:
            vanished.append(one)
            continue
        if sha256 == one.sha256:
            part.replace(files / sha256)
        else:
            part.unlink()
            damaged.append(one)
    return vanished, damaged


def _is_there(files: Path, one: _Named) -> bool:
    try:
        return (files / one.sha256).stat().st_size == one.size
    except FileNotFoundError:
        return False


def _remove_others(target: Path, database: Path, whole: dict[str, int]) -> None:
    for old in target.glob("hub-*.sqlite"):
        if old != database:
            old.unlink()
    for file in (target / "files").iterdir():
        if file.name not in whole and _IS_A_DIGEST.fullmatch(file.name):
            file.unlink()


# -- and back --------------------------------------------------------------------------------------------


def check(source: Path) -> Copied:
    """Looks whether each file of the backup is what it was. Raises as `restore` does."""
    source = source.absolute()
    manifest = _manifest_of(source)
    bad = [
        f"{sha256} is {'damaged' if path.is_file() else 'missing'}"
        for sha256 in manifest.files
        if not (path := source / "files" / sha256).is_file() or _digest(path) != sha256
    ]
    database = _database_of(source, manifest)
    if _digest(database) != manifest.database:
        bad.append(f"{database.name} is damaged")
    return Copied(len(manifest.files), 0, sum(manifest.files.values()), tuple(bad))


def restore(source: Path, data_dir: Path, *, damaged_too: bool = False) -> Copied:
    """Makes a hub in `data_dir`, which is new or empty, of the backup in `source`; all or nothing.

    `damaged_too`: without the files that are missing or damaged; the hub tells which those are. Raises `UsageError` for
    a folder that is not empty, or is no backup; `StorageError` for a damaged one, and for one of a newer hubstate.
    """
    source, data_dir = source.absolute(), data_dir.absolute()
    manifest = _manifest_of(source)
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        with alone(data_dir):
            kept = sorted(path.name for path in data_dir.iterdir() if path.name not in _NOTHING)
            if kept:
                raise UsageError(
                    f"{data_dir} is not empty (it holds {kept[0]!r}): name a new folder by --data-dir"
                )
            return _restored(source, manifest, data_dir, damaged_too=damaged_too)
    except StorageError:
        raise  # it says already what is wrong, and it is an OSError too
    except OSError as error:
        raise StorageError(f"cannot restore into {data_dir}: {error}") from error


def _restored(source: Path, manifest: _Manifest, data_dir: Path, *, damaged_too: bool) -> Copied:
    # In the folder itself, which may be all of a disk. There is no hub in it until the database stands in its place.
    making = data_dir / ".restoring"
    if making.exists():
        shutil.rmtree(making)
    making.mkdir(mode=0o700)
    (making / "files").mkdir(mode=0o700)
    try:
        if _copy(_database_of(source, manifest), making / "hub.sqlite") != manifest.database:
            raise StorageError(f"the database in {source} is damaged: take another backup")
        _copy(source / "secret", making / "secret")
        bad, size, count = [], 0, 0
        for one in _named_by(making / "hub.sqlite"):
            kept, target = source / "files" / one.sha256, making / "files" / one.session / one.file
            target.parent.mkdir(exist_ok=True, mode=0o700)
            if target.exists():
                continue  # two kinds of checkpoint share it
            if not kept.is_file():
                bad.append(f"{one} is missing")
            elif _copy(kept, target) != one.sha256:
                target.unlink()
                bad.append(f"{one} is damaged")
            else:
                size, count = size + one.size, count + 1
        if bad and not damaged_too:
            more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
            raise StorageError(
                f"of the backup in {source}, {bad[0]}{more}: take another backup into a new folder, or restore the rest by --damaged-too"
            )
        for folder in (*making.rglob("*/"), making):
            _sync(folder)
        for name in ("secret", "files", "hub.sqlite"):
            (making / name).rename(data_dir / name)
        _sync(data_dir)
    finally:
        shutil.rmtree(making)
    return Copied(count, count, size, tuple(bad))


def _manifest_of(source: Path) -> _Manifest:
    try:
        manifest = msgspec.json.decode((source / _MANIFEST).read_bytes(), type=_Manifest)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(f"there is no (whole) backup in {source}: it has no {_MANIFEST}") from error
    except (OSError, msgspec.MsgspecError) as error:
        raise StorageError(f"cannot read {source / _MANIFEST}: {error}") from error
    if not manifest.version.isdigit() or manifest.version > HEAD:
        raise StorageError(
            f"the backup in {source} has version {manifest.version}, this hubstate knows up to {HEAD}: "
            "use the newer hubstate that made it"
        )
    return manifest


def _database_of(source: Path, manifest: _Manifest) -> Path:
    database = source / f"hub-{manifest.database[:16]}.sqlite"
    if not database.is_file():
        raise StorageError(f"{database} is missing: take another backup")
    return database


# -- files -----------------------------------------------------------------------------------------------


def _copy(path: Path, target: Path) -> str:
    """Copies a file so that a power cut finds it; returns the SHA-256 (hex) of what was copied."""
    sha256 = hashlib.sha256()
    with path.open("rb") as source:
        fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb", buffering=0) as copy:
            while block := source.read(_BLOCK):
                sha256.update(block)
                rest = memoryview(block)
                while rest:
                    rest = rest[copy.write(rest) :]
            os.fsync(fd)
    return sha256.hexdigest()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
