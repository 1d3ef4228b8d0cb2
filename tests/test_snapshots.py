"""Snapshots: a checkpoint stays what it was when it was saved, or it is not kept at all."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from hubstate import snapshots as room
from hubstate.errors import CheckpointMissing, StorageError
from hubstate.snapshots import Snapshots, digest, is_torn, look


@pytest.fixture
def source(tmp_path):
    """A checkpoint as `torch.save` writes it: a zip archive."""
    return archive(tmp_path / "last.pt")


@pytest.fixture
def snapshots(tmp_path):
    return Snapshots(tmp_path / "session" / "snapshots")


def archive(path: Path, content: bytes = b"weights" * 1000) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("data.pkl", content)
    return path


def left(snapshots: Snapshots) -> list[str]:
    folder = snapshots.path("x").parent
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


@pytest.fixture(params=["kernel", "by hand", "cloned"])
def way(request, monkeypatch):
    """Each way to copy: by the kernel, by hand where it cannot, and by sharing blocks where the file system can."""
    if request.param == "by hand":

        def cannot(_source, _target, _count):
            raise OSError(18, "Invalid cross-device link")

        monkeypatch.setattr(room.os, "copy_file_range", cannot)
    if request.param == "cloned":

        def clone(target, _request, source):
            os.write(target, os.pread(source, os.fstat(source).st_size, 0))

        monkeypatch.setattr(room.fcntl, "ioctl", clone)
    return request.param


# -- what may happen to the original ---------------------------------------------------------------------


@pytest.mark.promise("D11")
def test_rewriting_in_place_changes_no_snapshot(source, snapshots, way):
    """Trainers overwrite and strip their files: the copy is taken inside the callback and shares nothing with them."""
    before = source.read_bytes()
    taken = snapshots.take(source, "last-1")
    with source.open("r+b") as file:
        file.write(b"\0" * 100)
    assert taken.read_bytes() == before
    assert taken == snapshots.path("last-1")
    assert left(snapshots) == ["last-1"]


def test_renaming_over_it_changes_no_snapshot(tmp_path, source, snapshots, way):
    """Other trainers write a temporary file and rename it over the old one."""
    before = source.read_bytes()
    taken = snapshots.take(source, "last-1")
    archive(tmp_path / "new.pt", b"new").replace(source)
    assert taken.read_bytes() == before
    source.unlink()
    assert taken.read_bytes() == before


@pytest.mark.parametrize("size", [0, 1, (1 << 20) + 1, 5 << 20])
def test_any_size_is_copied_whole(tmp_path, snapshots, way, size):
    """An empty file, one of several blocks, and one that ends within a block are the same here as there."""
    source = tmp_path / "weights.bin"
    source.write_bytes(os.urandom(size))
    assert digest(snapshots.take(source, "a")) == hashlib.sha256(source.read_bytes()).hexdigest()


@pytest.mark.promise("D11")
@pytest.mark.parametrize("how", ["shrinks", "grows", "is touched", "is renamed over", "ends early"])
def test_a_file_that_changes_under_the_copy_is_not_kept(tmp_path, source, snapshots, monkeypatch, how):
    """What was copied while it changed may be half old and half new: it is no checkpoint, and nothing of it stays."""
    copy_some = room._copy_some

    def meanwhile(from_, to, count):
        if how == "ends early":
            return 0
        if how == "shrinks":
            os.truncate(source, 10)
        elif how == "grows":
            with source.open("ab") as file:
                file.write(b"more")
        elif how == "is touched":
            os.utime(source, ns=(1, 1))
        else:
            archive(tmp_path / "new.pt", b"new").replace(source)
        return copy_some(from_, to, count)

    monkeypatch.setattr(room, "_copy_some", meanwhile)
    with pytest.raises(CheckpointMissing, match="changed while it was copied; it was not kept"):
        snapshots.take(source, "last-1")
    assert left(snapshots) == []


def test_a_file_that_vanishes_under_the_copy_is_not_kept(source, snapshots, monkeypatch):
    """A checkpoint that its trainer removed meanwhile is missing, and nothing of it stays."""
    copy_some = room._copy_some

    def meanwhile(from_, to, count):
        source.unlink(missing_ok=True)
        return copy_some(from_, to, count)

    monkeypatch.setattr(room, "_copy_some", meanwhile)
    with pytest.raises(CheckpointMissing, match="cannot be read: No such file"):
        snapshots.take(source, "last-1")
    assert left(snapshots) == []


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.99])
def test_half_an_archive_is_no_checkpoint(source, snapshots, keep):
    """A `.pt` file that lacks its end is torn, wherever it was torn off."""
    os.truncate(source, int(source.stat().st_size * keep))
    assert is_torn(source)
    with pytest.raises(CheckpointMissing, match="half a zip archive; it was not kept"):
        snapshots.take(source, "last-1")
    assert left(snapshots) == []


def test_what_is_no_archive_is_never_torn(tmp_path, source):
    """Files of other kinds have no end that could be looked for."""
    other = tmp_path / "model.safetensors"
    other.write_bytes(b"anything")
    assert not is_torn(other)
    assert not is_torn(source)


# -- what cannot be copied -------------------------------------------------------------------------------


def test_what_is_no_checkpoint_is_told(tmp_path, snapshots):
    """The caller's mistake names the path: nothing there, a pipe, a folder without a file."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name, words in (
        ("gone.pt", "cannot be read: No such"),
        ("pipe", "neither"),
        ("folder", "without a file"),
    ):
        path = tmp_path / name
        with pytest.raises(CheckpointMissing, match=words):
            snapshots.take(path, "a")
        with pytest.raises(CheckpointMissing, match=words):
            look(path)
    assert left(snapshots) == []


def test_an_original_that_cannot_be_opened_is_the_callers(source, snapshots, monkeypatch):
    """A file that is there and may not be read is a missing checkpoint, not a full disk."""
    open_ = Path.open

    def forbidden(path, *args, **kwargs):
        if path == source:
            raise PermissionError(13, "Permission denied")
        return open_(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", forbidden)
    with pytest.raises(CheckpointMissing, match="cannot be read: Permission denied"):
        snapshots.take(source, "a")


def test_a_target_that_takes_no_file_is_this_machines(tmp_path, source):
    """A folder that cannot be made or written is told by its name."""
    (tmp_path / "file").touch()
    blocked = Snapshots(tmp_path / "file" / "snapshots")
    with pytest.raises(StorageError, match=r"could not be kept in .*: Not a directory"):
        blocked.take(source, "a")
    blocked = Snapshots(tmp_path / "file")
    with pytest.raises(StorageError, match="could not be kept"):
        blocked.take(source, "a")


FULL = """
import resource, sys
from pathlib import Path
from hubstate.errors import StorageError
from hubstate.snapshots import Snapshots
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    Snapshots(Path(sys.argv[2])).take(Path(sys.argv[1]), "a")
except StorageError as error:
    print(error)
"""


def test_a_full_disk_leaves_nothing_behind(tmp_path):
    """Where there is no room for the whole file, half a file is removed, and the room is free again."""
    source = tmp_path / "large.bin"
    source.write_bytes(b"x" * 3_000_000)
    target = tmp_path / "snapshots"
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(source), str(target)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"{source} could not be kept in {target}: File too large" in done.stdout
    assert list(target.iterdir()) == []


@pytest.mark.parametrize("failing", ["copy_file_range", "write"])
def test_a_disk_that_fails_is_not_taken_for_one_that_cannot(source, snapshots, monkeypatch, failing):
    """An error of the disk is told; only what a file system does not know is tried in another way."""

    def no_room(*_args):
        raise OSError(28, "No space left on device")

    def cannot(*_args):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(room.os, "copy_file_range", no_room if failing == "copy_file_range" else cannot)
    monkeypatch.setattr(room.os, "write", no_room)
    with pytest.raises(StorageError, match="No space left on device"):
        snapshots.take(source, "a")
    assert left(snapshots) == []


def test_what_a_failed_copy_had_instead_stays(source, snapshots, monkeypatch):
    """A snapshot of the same name is replaced only by a whole one."""
    before = snapshots.take(source, "a").read_bytes()
    archive(source, b"newer")
    os.truncate(source, 40)
    with pytest.raises(CheckpointMissing):
        snapshots.take(source, "a")
    assert snapshots.path("a").read_bytes() == before


# -- keeping house ---------------------------------------------------------------------------------------


def test_syncing_asks_the_disk_for_the_bytes_and_for_the_name(source, snapshots, monkeypatch):
    """A snapshot outlives a power loss only if its folder is synced as well."""
    taken = snapshots.take(source, "a")
    synced = []
    monkeypatch.setattr(room.os, "fsync", lambda fd: synced.append(Path(f"/proc/self/fd/{fd}").readlink()))
    snapshots.sync("a")
    assert synced == [taken, taken.parent]

    def fails(_fd):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(room.os, "fsync", fails)
    with pytest.raises(StorageError, match=r"did not keep the snapshot .*Input/output"):
        snapshots.sync("a")
    snapshots.discard("a")
    with pytest.raises(FileNotFoundError):
        snapshots.sync("a")


def test_copies_are_synced_once_and_again_after_a_failure(source, snapshots, monkeypatch):
    """The disk is asked for every copy that was taken, or left by somebody who died; one that failed is asked for again."""
    synced = []

    def keeps(fd):
        synced.append(Path(f"/proc/self/fd/{fd}").readlink().name)

    def fails(_fd):
        raise OSError(5, "Input/output error")

    for name in ("a", "b", "c"):
        snapshots.take(source, name)
    snapshots.discard("b")
    monkeypatch.setattr(room.os, "fsync", fails)
    with pytest.raises(StorageError, match="did not keep"):
        snapshots.sync_all()
    monkeypatch.setattr(room.os, "fsync", keeps)
    snapshots.sync_all()
    snapshots.sync_all()
    assert synced == ["a", "snapshots", "c", "snapshots"]
    synced.clear()
    after_a_death = Snapshots(snapshots.path("a").parent)
    after_a_death.sweep(["a"])
    after_a_death.sync_all()
    assert synced == ["a", "snapshots"]


def test_discarding_removes_once_and_takes_it_calmly_after(source, snapshots):
    """A snapshot that nobody needs goes; one that is gone already is no mistake."""
    snapshots.take(source, "a")
    snapshots.discard("a")
    snapshots.discard("a")
    assert left(snapshots) == []


def test_sweeping_spares_only_what_is_needed(source, snapshots):
    """What a killed process left goes once its session is open and synced again; half copies go at once."""
    snapshots.sweep(["a"])
    for name in ("a", "b", "c"):
        snapshots.take(source, name)
    snapshots.path(".d.part").write_bytes(b"half")
    snapshots.sweep(["a", "c", "never taken"])
    assert left(snapshots) == ["a", "b", "c"]
    snapshots.tidy(snapshots.needless)
    assert left(snapshots) == ["a", "c"]
    snapshots.path("folder").mkdir()
    snapshots.path("folder").joinpath("file").write_bytes(b"a whole folder")
    snapshots.sweep(["a"])
    snapshots.tidy(snapshots.needless)
    assert left(snapshots) == ["a"]


def test_what_becomes_needless_later_waits_for_its_own_sync(source, snapshots):
    """Whoever syncs removes what was needless before, and not what became so meanwhile."""
    for name in ("a", "b"):
        snapshots.take(source, name)
    snapshots.put_off(["a"])
    before = snapshots.needless
    snapshots.put_off(["b"])
    snapshots.tidy(before)
    assert left(snapshots) == ["b"]
    assert snapshots.needless == {"b"}


def test_what_cannot_be_swept_is_told(source, snapshots, monkeypatch):
    """A folder that takes no change is this machine's blame, and is named."""
    snapshots.take(source, "a")

    def forbidden(_path, missing_ok=False):
        raise PermissionError(13, "Permission denied")

    snapshots.sweep([])
    monkeypatch.setattr(Path, "unlink", forbidden)
    with pytest.raises(StorageError, match="cannot tidy up"):
        snapshots.tidy(snapshots.needless)
    snapshots.path(".b.part").write_bytes(b"half")
    with pytest.raises(StorageError, match="cannot tidy up"):
        snapshots.sweep([])


def test_snapshots_are_their_owners_alone(source, snapshots):
    """Weights are nobody else's business on a shared machine."""
    assert snapshots.take(source, "a").parent.stat().st_mode & 0o777 == 0o700


# -- folders ---------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """A checkpoint as Transformers writes it: a folder of files."""
    made = tmp_path / "checkpoint-500"
    (made / "tokenizer").mkdir(parents=True)
    (made / "model.safetensors").write_bytes(b"weights" * 100)
    (made / "tokenizer" / "vocab.json").write_text("{}")
    archive(made / "optimizer.pt")
    return made


def texts(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_folder_is_one_checkpoint(folder, snapshots, way):
    """All files of a folder are kept as they were, by each way to copy, and what is rewritten afterwards changes none."""
    before = texts(folder)
    kept = snapshots.take(folder, "a")
    snapshots.sync("a")
    for file in folder.rglob("*.*"):
        with file.open("r+b") as rewritten:
            rewritten.write(b"!")
    assert texts(kept) == before
    assert left(snapshots) == ["a"]


def test_the_state_of_a_folder_is_that_of_its_files(folder):
    """Its size is theirs in all, its time the newest of them; a change of any file shows."""
    seen = look(folder)
    assert seen.size == sum(file.stat().st_size for file in folder.rglob("*.*"))
    os.utime(folder / "tokenizer" / "vocab.json", ns=(1, seen.mtime_ns + 5))
    assert look(folder) == (seen.size, seen.mtime_ns + 5)


def test_a_folder_with_half_an_archive_is_torn(folder, snapshots):
    """One torn file condemns the whole folder, and nothing of it is left."""
    torn = folder / "optimizer.pt"
    torn.write_bytes(torn.read_bytes()[:100])
    assert is_torn(folder)
    with pytest.raises(CheckpointMissing, match="half a zip"):
        snapshots.take(folder, "a")
    assert left(snapshots) == []


@pytest.mark.parametrize("change", ["rewritten", "added", "removed"])
def test_a_folder_that_changes_under_the_copy_is_not_kept(folder, snapshots, monkeypatch, change):
    """A trainer that goes on writing into the folder meanwhile leaves no snapshot of it."""
    copy = room._copy

    def busy(source, target):
        copy(source, target)
        if source.name != "optimizer.pt":
            return
        if change == "rewritten":
            (folder / "model.safetensors").write_bytes(b"others." * 101)
        elif change == "added":
            (folder / "scheduler.pt").write_bytes(b"new")
        else:
            (folder / "model.safetensors").unlink()

    monkeypatch.setattr(room, "_copy", busy)
    with pytest.raises(CheckpointMissing, match="changed while it was copied"):
        snapshots.take(folder, "a")
    assert left(snapshots) == []


def test_links_inside_are_copied_as_files(folder, snapshots):
    """A link to a file of the same folder becomes a file of its own."""
    (folder / "latest.safetensors").symlink_to("model.safetensors")
    kept = snapshots.take(folder, "a")
    assert not (kept / "latest.safetensors").is_symlink()
    assert (kept / "latest.safetensors").read_bytes() == b"weights" * 100


@pytest.mark.parametrize("target", ["../secret", "/etc/hostname", "tokenizer", "..", "nowhere"])
def test_a_link_that_leads_elsewhere_is_refused(folder, snapshots, target):
    """A link out of the folder, to a folder or to nothing is never followed: the save is not kept."""
    (folder.parent / "secret").write_text("secret")
    (folder / "link").symlink_to(target)
    with pytest.raises(CheckpointMissing, match=r"link|No such"):
        snapshots.take(folder, "a")
    assert left(snapshots) == []


def test_a_kept_folder_goes_at_once(folder, snapshots):
    """A folder that nobody needs any more is removed with all that is in it."""
    snapshots.take(folder, "a")
    snapshots.discard("a")
    snapshots.discard("a")
    assert left(snapshots) == []


def test_two_threads_may_remove_one_folder(folder, snapshots, monkeypatch):
    """A thread that was let go of may still be removing what another one removes: neither fails, and all of it goes."""
    remove, replace = shutil.rmtree, Path.replace

    def quicker(path):
        monkeypatch.setattr(room.shutil, "rmtree", remove)
        next(file for file in Path(path).rglob("*") if file.is_file()).unlink()
        raise FileNotFoundError(2, "No such file or directory")

    snapshots.take(folder, "a")
    monkeypatch.setattr(room.shutil, "rmtree", quicker)
    snapshots.discard("a")
    assert left(snapshots) == []

    def even_quicker(path, target):
        monkeypatch.setattr(Path, "replace", replace)
        remove(path)
        return replace(path, target)

    snapshots.take(folder, "b")
    monkeypatch.setattr(Path, "replace", even_quicker)
    snapshots.discard("b")
    assert left(snapshots) == []
