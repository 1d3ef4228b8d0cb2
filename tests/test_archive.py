"""A folder as one stream of bytes: always the same, readable from any place on, and safe to unpack."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubstate import archive as room
from hubstate.archive import Content, Shrunk, files_of, sha256_of, unpack
from hubstate.errors import CheckpointMissing, StorageError

FILES = {
    "a.bin": b"a" * 70_000,
    "empty": b"",
    "sub/deep/é.json": b"{}",
    "sub/x": b"x" * 512,
    "n" * 150: b"long",
    os.fsdecode(b"odd\xff"): b"no UTF-8",
}


def folder_of(files: dict[str, bytes], where: Path, *, backwards: bool = False) -> Path:
    for name in sorted(files, reverse=backwards):
        path = where / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(files[name])
    return where


def read(content: Content, piece: int = 1 << 20) -> bytes:
    return b"".join(iter(lambda: content.read(piece), b""))


def bytes_of(folder: Path) -> bytes:
    with Content(folder) as content:
        return read(content)


def texts(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_equal_folders_give_equal_bytes(tmp_path: Path) -> None:
    """Order of making, times and modes of the files do not matter: names and contents alone do."""
    one = folder_of(FILES, tmp_path / "one")
    other = folder_of(FILES, tmp_path / "other", backwards=True)
    os.utime(other / "a.bin", (1, 1))
    (other / "empty").chmod(0o600)
    assert bytes_of(one) == bytes_of(other)
    assert sha256_of(one) == sha256_of(other) == hashlib.sha256(bytes_of(one)).hexdigest()
    (other / "empty").write_bytes(b"!")
    assert sha256_of(one) != sha256_of(other)


def test_any_tar_program_can_read_it(tmp_path: Path) -> None:
    """The stream is a tar archive of the files under their names, as long as it said."""
    folder = folder_of(FILES, tmp_path / "one")
    data = bytes_of(folder)
    with Content(folder) as content:
        assert content.size == len(data)
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        assert {member.name for member in archive} == set(FILES)


@settings(deadline=None)
@given(st.integers(0, 120_000), st.integers(300, 80_000))
def test_it_is_read_from_any_place_on(
    tmp_path_factory: pytest.TempPathFactory, offset: int, piece: int
) -> None:
    """Whoever was cut goes on at that byte, and gets what would have followed."""
    where = tmp_path_factory.getbasetemp() / "from_any_place"
    folder = where if where.is_dir() else folder_of(FILES, where)
    whole = bytes_of(folder)
    offset = min(offset, len(whole))
    with Content(folder) as content:
        content.seek(offset)
        assert read(content, piece) == whole[offset:]


def test_a_file_is_its_own_content(tmp_path: Path) -> None:
    """A single file is read as it is; one that shrinks meanwhile ends the reading, and growth is not read."""
    path = tmp_path / "last.pt"
    path.write_bytes(b"0123456789")
    with Content(path) as content:
        content.seek(4)
        assert content.read(3) == b"456"
        path.write_bytes(b"0123456789 and more")
        assert read(content) == b"789"
    with Content(path) as content:
        path.write_bytes(b"01")
        content.read(2)
        with pytest.raises(Shrunk, match=r"last\.pt ends at 2 bytes, and had 19"):
            content.read(1)


def test_what_is_unpacked_is_what_was_packed(tmp_path: Path) -> None:
    """A folder comes out of its archive with the same files."""
    folder = folder_of(FILES, tmp_path / "one")
    packed = tmp_path / "one.tar"
    packed.write_bytes(bytes_of(folder))
    unpack(packed, tmp_path / "two", sha256_of(folder))
    assert texts(tmp_path / "two") == FILES


def member(name: str, data: bytes = b"x", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


HOSTILE = {
    "absolute": [member("/tmp/evil")],
    "up": [member("../evil")],
    "up_inside": [member("a/../../evil")],
    "dot": [member("./a")],
    "double_slash": [member("a//b")],
    "symlink": [member("link", b"", type=tarfile.SYMTYPE, linkname="/etc"), member("link/evil")],
    "hardlink": [member("link", b"", type=tarfile.LNKTYPE, linkname="/etc/passwd")],
    "device": [member("null", b"", type=tarfile.CHRTYPE)],
    "pipe": [member("pipe", b"", type=tarfile.FIFOTYPE)],
    "twice": [member("a"), member("a", b"other")],
    "file_as_folder": [member("a"), member("a/b")],
    "unsorted": [member("b"), member("a")],
    "with_a_folder": [member("a", b"", type=tarfile.DIRTYPE), member("a/b")],
    "executable": [member("a", mode=0o755)],
    "nothing": [],
}


@pytest.mark.parametrize("members", HOSTILE.values(), ids=HOSTILE)
def test_a_foreign_archive_is_refused(tmp_path: Path, members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    """Whatever a hub sends under a digest that fits: nothing is written outside, and nothing is left inside."""
    packed = tmp_path / "in" / "evil.tar"
    packed.parent.mkdir()
    with tarfile.open(packed, "w", format=tarfile.PAX_FORMAT) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    with pytest.raises(StorageError, match=r"evil\.tar|unpacked"):
        unpack(packed, tmp_path / "in" / "out", hashlib.sha256(packed.read_bytes()).hexdigest())
    assert {path.name for path in tmp_path.rglob("*")} == {"in", "evil.tar"}


@pytest.mark.parametrize(
    "data", [b"", b"no archive at all" * 100, bytes(10_240)], ids=["empty", "text", "zeros"]
)
def test_what_is_no_archive_is_refused(tmp_path: Path, data: bytes) -> None:
    """Bytes that are no archive, or one of nothing, make no folder."""
    packed = tmp_path / "x.tar"
    packed.write_bytes(data)
    with pytest.raises(StorageError, match=r"x\.tar"):
        unpack(packed, tmp_path / "out", hashlib.sha256(data).hexdigest())
    assert not (tmp_path / "out").exists()


def test_an_archive_cannot_claim_more_than_it_holds(tmp_path: Path) -> None:
    """A head that promises a terabyte is refused before a byte is written."""
    info = tarfile.TarInfo("a")
    info.size = 1 << 40
    packed = tmp_path / "x.tar"
    packed.write_bytes(info.tobuf(tarfile.PAX_FORMAT) + bytes(10_240))
    with pytest.raises(StorageError, match="more than an archive of its size"):
        unpack(packed, tmp_path / "out", "0" * 64)


def test_too_many_files_are_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with more files, or deeper ones, than any checkpoint has is refused when it is looked at."""
    monkeypatch.setattr(room, "MOST_FILES", 3)
    folder = folder_of({"a": b"", "b/c": b"", "b/d": b""}, tmp_path / "one")
    assert [name for name, _ in files_of(folder)] == ["a", "b/c", "b/d"]
    (folder / "e").write_bytes(b"")
    with pytest.raises(CheckpointMissing, match="more than 3 files"):
        files_of(folder)
    deep = folder_of({"x/" * 60 + "y": b""}, tmp_path / "deep")
    with pytest.raises(CheckpointMissing, match="deeper"):
        files_of(deep)
