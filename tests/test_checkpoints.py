"""Checkpoints: kept as they were, named at the end, found again to go on from."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import shutil
import zipfile
from pathlib import Path

import pytest
import structlog
from structlog.testing import capture_logs

import hubstate
from hubstate import CheckpointKind, Limits, Outcome
from hubstate.actions import SendCheckpoint
from hubstate.archive import sha256_of
from hubstate.checkpoints import newest_whole
from hubstate.clock import SystemClock
from hubstate.errors import CheckpointMissing
from hubstate.events import Abort, Saved
from hubstate.hubs.hub_v1 import HubV1
from hubstate.opening import leftovers, needed_snapshots, peek
from hubstate.server.running import RunningHub, running
from hubstate.snapshots import Snapshots
from hubstate.states import State
from hubstate.sync import Remainder, deliver


def write(text: str, name: str = "last.pt") -> Path:
    path = Path(name)
    path.write_text(text, encoding="utf-8")
    return path


def folder(session: hubstate.Session) -> Path:
    return Path(".hubstate") / session.id


def kept(session: hubstate.Session) -> dict[str, str]:
    """The copies that are kept: the kind that begins each name, and its text."""
    return {file.name.split("-")[0]: file.read_text() for file in (folder(session) / "snapshots").iterdir()}


def test_a_kept_copy_is_what_was_saved() -> None:
    """A trainer that rewrites its file in place afterwards changes no copy."""
    session = hubstate.start("digits")
    path = write("first")
    session.save(path, fitness=0.5)
    with path.open("r+") as file:
        file.write("FIRST")
    assert kept(session) == {"best": "first"}
    session.close()


def hurried(path: Path, interval: float, monkeypatch: pytest.MonkeyPatch) -> hubstate.Session:
    """A session with a checkpoint that the disk keeps, and a newer one saved while the disk was asked for the journal.

    Only this thread asks the disk.
    """
    session = hubstate.start("digits", mode="offline", limits=Limits(checkpoint=interval))
    assert session._outgoing is not None
    assert session._opened is not None
    session._outgoing._threads.stop(1.0)
    path.write_text("first", encoding="utf-8")
    session.log({"a": 1})
    session.save(path, fitness=0.1)
    session._opened.sync()
    sync_all = Snapshots.sync_all

    def overtaken(copies: Snapshots) -> None:
        sync_all(copies)
        monkeypatch.setattr(Snapshots, "sync_all", sync_all)
        path.write_text("second one", encoding="utf-8")
        session.log({"a": 2})
        session.save(path, fitness=0.2)

    monkeypatch.setattr(Snapshots, "sync_all", overtaken)
    return session


def test_what_is_saved_while_the_journal_is_synced_is_kept_by_the_same_sync(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A line that the disk keeps names a copy that it keeps, too, when the call returns."""
    session = hurried(Path("last.pt"), 900.0, monkeypatch)
    assert session._opened is not None
    session._opened.sync()
    texts = sorted(file.read_text() for file in (folder(session) / "snapshots").iterdir())
    assert (texts, list(session._opened.snapshots._unsynced)) == (["first", "second one"], [])
    session._opened.sync()
    assert kept(session) == {"best": "second one"}
    session.close()


@pytest.mark.parametrize("interval", [0.0, 900.0])
@pytest.mark.parametrize("left", ["", "sec"])
def test_a_power_cut_before_a_copy_is_kept_leaves_the_one_that_it_replaced(
    left: str, interval: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line came onto the disk and its copy did not: the older copy is found to go on from, and stays until then."""
    session = hurried(Path("last.pt"), interval, monkeypatch)
    assert session._opened is not None
    opened, copies = session._opened, folder(session) / "snapshots"
    with monkeypatch.context() as patch:
        patch.setattr(Snapshots, "tidy", lambda *_: None)  # the power went before
        opened.sync()
        session.close()
    Path("last.pt").unlink()
    newest = peek(folder(session)).memory.kept_best
    assert newest is not None
    (copies / newest.snapshot).unlink()
    if left:
        (copies / newest.snapshot).write_text(left, encoding="utf-8")
    for _ in range(2):
        again = hubstate.start("digits", mode="offline", resume=session.id)
        assert again.last_checkpoint is not None
        assert (again.last_checkpoint.path.read_text(), again.last_checkpoint.epoch) == ("first", 0)
        again.close()
    assert leftovers(folder(session), peek(folder(session)).memory) == set()
    third = hubstate.start("digits", mode="offline", resume=session.id)
    third.log({"a": 3})
    third.save(write("third"), fitness=0.3)
    third.close()
    hubstate.start("digits", mode="offline", resume=session.id).close()
    assert {file.name for file in copies.iterdir()} <= needed_snapshots(peek(folder(session)).memory)
    assert "third" in {file.read_text() for file in copies.iterdir()}


def test_only_the_newest_of_a_kind_is_kept() -> None:
    """A better checkpoint takes the place of the best one before it, and the old copy is removed."""
    session = hubstate.start("digits")
    session.save(write("worse"), fitness=0.1)
    session.save(write("better"), fitness=0.2)
    session.save(write("worse again"), fitness=0.15)
    session.close()  # the old copy goes once the disk keeps the line that names the better one
    assert kept(session) == {"best": "better"}


def test_a_fitness_that_is_not_finite_is_none() -> None:
    """NaN and infinities make no checkpoint the best, and end no training."""
    session = hubstate.start("digits")
    session.save(write("nan"), fitness=float("nan"))
    session.save(write("inf"), fitness=float("inf"))
    assert kept(session) == {"last": "nan"}
    session.save(write("real"), fitness=-5)
    assert kept(session) == {"last": "nan", "best": "real"}
    session.close()


def test_a_torn_archive_is_journalled_and_not_kept() -> None:
    """Half a zip file ends no training: the save is remembered with its reason, and no copy is left."""
    path = Path("torn.pt")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("weights", "x" * 1000)
    path.write_bytes(path.read_bytes()[:200])
    session = hubstate.start("digits")
    session.save(path, fitness=0.9)
    session.save(write("whole"), fitness=0.1)
    assert kept(session) == {"best": "whole"}
    session.close()
    assert "half a zip archive" in (folder(session) / "journal-000001.jsonl").read_text()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("x" * 300, "File name too long"),
        ("nul\0.pt", r"no file has such a path \(embedded null byte\)"),
        ("lone\ud800.pt", "no file has such a path"),
        ("loop.pt", "symbolic links"),
        ("last.pt/file", "Not a directory"),
        ("folder", "symbolic links"),
    ],
    ids=["long", "nul", "surrogate", "loop", "below a file", "loop inside"],
)
def test_a_path_that_cannot_be_looked_at_is_a_missing_checkpoint(name: str, words: str) -> None:
    """What the system says of a path never reaches the training raw, and the session trains on."""
    write("weights")
    Path("loop.pt").symlink_to("loop.pt")
    Path("folder").mkdir()
    Path("folder/loop.pt").symlink_to("loop.pt")
    session = hubstate.start("digits")
    with pytest.raises(CheckpointMissing, match=words):
        session.save(name)
    session.save("last.pt", fitness=0.5)
    assert kept(session) == {"best": "weights"}
    session.close()


def test_a_folder_that_may_not_be_looked_into_is_a_missing_checkpoint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A path below somebody else's folder is refused as one that cannot be read."""
    stat = Path.stat

    def forbidden(path: Path, **how: bool) -> os.stat_result:
        if path.name == "theirs.pt":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return stat(path, **how)

    session = hubstate.start("digits")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", forbidden)
        with pytest.raises(CheckpointMissing, match=r"theirs\.pt cannot be read: Permission denied"):
            session.save("theirs.pt")
    session.close()


def test_a_working_directory_that_is_gone_names_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path leads nowhere then, which is told; an absolute one serves."""
    session = hubstate.start("digits")
    path = write("weights").absolute()
    (tmp_path / "gone").mkdir()
    with monkeypatch.context() as patch:
        patch.chdir(tmp_path / "gone")
        (tmp_path / "gone").rmdir()
        with pytest.raises(CheckpointMissing, match=r"working directory is gone.*absolute path"):
            session.save("last.pt")
        session.save(path, fitness=0.5)
    assert kept(session) == {"best": "weights"}
    session.close()


def test_a_copy_that_finds_no_room_ends_no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the copy cannot be written the save is remembered with its reason, and training goes on."""
    session = hubstate.start("digits")
    write("in the way", str(folder(session) / "snapshots"))
    session.save(write("weights"), fitness=0.9)
    session.log({"a": 1})
    assert session.receipt.rows == 1
    session.close()
    assert "could not be kept" in (folder(session) / "journal-000001.jsonl").read_text()


def test_a_disk_that_is_full_is_told_once_and_once_when_it_is_well(request: pytest.FixtureRequest) -> None:
    """Saves may come by the thousand: the journal tells of each that was not kept, the log of the change alone."""
    request.addfinalizer(structlog.reset_defaults)
    session = hubstate.start("digits")
    in_the_way = write("in the way", str(folder(session) / "snapshots"))
    with capture_logs() as lines:
        for epoch in range(3):
            session.save(write(f"weights {epoch}"), epoch=epoch, fitness=epoch)
        assert [line["event"] for line in lines] == ["hubstate.checkpoint_unkept"]
        in_the_way.unlink()
        for epoch in range(3, 5):
            session.save(write(f"weights {epoch}"), epoch=epoch, fitness=epoch)
        Path("torn.pt").write_bytes(b"PK\x03\x04 half an archive")
        for epoch in range(5, 7):
            session.save("torn.pt", epoch=epoch, fitness=epoch)
    assert [
        (line["event"].removeprefix("hubstate.checkpoint_"), Path(line["path"]).name) for line in lines
    ] == [
        ("unkept", "last.pt"),
        ("kept_again", "last.pt"),
        ("unkept", "torn.pt"),
    ]
    session.close()
    steps = (folder(session) / "journal-000001.jsonl").read_text().splitlines()
    assert sum("could not be kept" in step for step in steps) == 3
    assert sum("half a zip archive" in step for step in steps) == 2


def test_the_last_checkpoint_is_the_trainers_own_file_while_it_is_as_saved() -> None:
    """To go on from, the trainer's newest file serves, with its epoch and digest."""
    session = hubstate.start("digits")
    session.save(write("one"), epoch=0, fitness=0.9)
    session.save(write("two"), epoch=1, fitness=0.1)
    found = session.last_checkpoint
    assert found is not None
    assert (found.path, found.epoch) == (Path("last.pt").absolute(), 1)
    assert found.sha256 == hashlib.sha256(b"two").hexdigest()
    assert "epoch=1" in repr(found)
    session.close()


@pytest.mark.parametrize("how", ["rewritten", "removed"])
def test_a_kept_copy_serves_where_the_trainers_file_does_not(how: str) -> None:
    """A file that is newer than the save, or gone, is not gone on from; the newest kept copy is."""
    session = hubstate.start("digits")
    path = write("one")
    session.save(path, epoch=0, fitness=0.9)
    session.save(write("two"), epoch=1, fitness=0.1)
    if how == "rewritten":
        write("something newer")
    else:
        path.unlink()
    found = session.last_checkpoint
    assert found is not None
    assert (found.path.read_text(), found.epoch) == ("one", 0)
    session.close()


@pytest.mark.promise("C8")
def test_a_copy_that_is_not_whole_does_not_serve() -> None:
    """A copy that lost bytes is passed over; where none is whole there is no checkpoint."""
    session = hubstate.start("digits", limits=Limits(checkpoint=0))
    session.save(write("the best"), epoch=0, fitness=0.9)
    session.save(write("the last"), epoch=1)
    session.close()
    Path("last.pt").unlink()
    memory, snapshots = peek(folder(session)).memory, Snapshots(folder(session) / "snapshots")
    newest = newest_whole(memory, snapshots)
    assert newest is not None
    assert newest.epoch == 1
    newest.path.write_text("cut")
    older = newest_whole(memory, snapshots)
    assert older is not None
    assert older.epoch == 0
    shutil.rmtree(folder(session) / "snapshots")
    assert newest_whole(memory, snapshots) is None


def final_of(session: hubstate.Session) -> tuple[CheckpointKind, int, str]:
    """What leaves as the final checkpoint: the kind it was kept as, its epoch, and its text."""
    memory = peek(folder(session)).memory
    (action,) = [action for action in memory.outstanding if hasattr(action, "snapshot")]
    return action.kind, action.epoch, (folder(session) / "snapshots" / action.snapshot).read_text()


def test_the_final_checkpoint_is_the_best() -> None:
    """With a fitness the best checkpoint is the final one."""
    with hubstate.start("digits") as session:
        session.save(write("best"), epoch=0, fitness=0.9)
        session.save(write("later"), epoch=1, fitness=0.1)
    assert final_of(session) == (CheckpointKind.FINAL, 0, "best")


@pytest.mark.promise("C4")
def test_without_a_best_the_newest_saved_file_is_final() -> None:
    """Without a fitness the newest whole file is final, though its copy was not due when it was saved."""
    with hubstate.start("digits") as session:
        for epoch in range(5):
            session.save(write(f"epoch {epoch}"), epoch=epoch)
    assert final_of(session) == (CheckpointKind.FINAL, 4, "epoch 4")
    assert len(list((folder(session) / "snapshots").iterdir())) <= 2


def test_without_a_best_and_without_the_file_the_newest_kept_is_final() -> None:
    """If the newest file changed after it was saved, what was kept is final."""
    with hubstate.start("digits") as session:
        session.save(write("epoch 0"), epoch=0)
        session.save(write("epoch 1"), epoch=1)
        write("rewritten")
    assert final_of(session) == (CheckpointKind.FINAL, 0, "epoch 0")


def test_a_final_that_is_named_beats_the_best() -> None:
    """What is saved as final is final."""
    with hubstate.start("digits") as session:
        session.save(write("best"), epoch=0, fitness=0.9)
        session.save(write("chosen", "chosen.pt"), epoch=1, kind="final")
    assert final_of(session) == (CheckpointKind.FINAL, 1, "chosen")


@pytest.mark.parametrize("choice", ["none"])
def test_no_checkpoint_is_kept_where_none_is_wanted(choice: str) -> None:
    """With checkpoints='none' nothing is copied and nothing leaves, and the saves are remembered all the same."""
    with hubstate.start("digits", checkpoints=choice) as session:
        session.save(write("weights"), fitness=0.9)
        session.save(write("final"), kind="final")
    memory = peek(folder(session)).memory
    assert (memory.saves, memory.kept_best, memory.kept_final) == (2, None, None)
    assert isinstance(memory.saved, Saved)
    assert not any(hasattr(action, "snapshot") for action in memory.outstanding)
    assert not (folder(session) / "snapshots").exists()


def folder_of(text: str, name: str = "checkpoint-1") -> Path:
    (Path(name) / "sub").mkdir(parents=True, exist_ok=True)
    write(text, f"{name}/model.safetensors")
    write("{}", f"{name}/sub/config.json")
    return Path(name)


def test_a_folder_is_kept_and_gone_on_from() -> None:
    """A folder is one checkpoint: kept as it was saved, and its copy serves when the trainer changes its own."""
    session = hubstate.start("digits")
    session.save(folder_of("first"), epoch=0, fitness=0.5)
    found = session.last_checkpoint
    assert found is not None
    assert (found.path, found.sha256) == (Path("checkpoint-1").absolute(), sha256_of(Path("checkpoint-1")))
    write("rewritten", "checkpoint-1/model.safetensors")
    found = session.last_checkpoint
    assert found is not None
    assert (found.path / "model.safetensors").read_text() == "first"
    assert (found.path / "sub" / "config.json").read_text() == "{}"
    session.save(folder_of("better"), epoch=1, fitness=0.6)
    session.close()
    (kept_folder,) = (folder(session) / "snapshots").iterdir()
    assert (kept_folder / "model.safetensors").read_text() == "better"


def test_a_folder_with_a_link_out_of_it_is_refused() -> None:
    """What cannot be kept of a folder is the caller's mistake, told at once."""
    session = hubstate.start("digits")
    (folder_of("weights") / "link").symlink_to("/etc/hostname")
    with pytest.raises(CheckpointMissing, match="link"):
        session.save("checkpoint-1")
    session.close()


def copies(session: hubstate.Session) -> set[str]:
    """The names of the copies that lie there, but for what is being removed just now."""
    names = {file.name for file in (folder(session) / "snapshots").iterdir()}
    return {name for name in names if not name.startswith(".")}


def deliver_to(hub: RunningHub, session: hubstate.Session) -> None:
    """Delivers what a session that nobody holds open has left."""
    client = HubV1(hub.url, None)
    remainder = Remainder(folder(session), client, SystemClock(), random.Random(1))
    deliver(remainder, SystemClock())
    remainder.close()
    client.close()


@pytest.mark.parametrize("is_folder", [False, True], ids=["files", "folders"])
def test_a_long_run_keeps_what_is_needed_and_leaves_nothing(tmp_path: Path, is_folder: bool) -> None:
    """However long it goes on, what may still be needed is kept, and nothing else in the end; once delivered, nothing is."""
    with running(tmp_path / "hub") as hub:
        for attempt in range(3):
            session = hubstate.start("digits", mode="offline", resume=True, limits=Limits(checkpoint=0))
            for epoch in range(attempt * 60, attempt * 60 + 60):
                text = f"weights of epoch {epoch}"
                path = folder_of(text) if is_folder else write(text)
                session.save(path, epoch=epoch, fitness=epoch / 300 if epoch % 3 else None)
                here = copies(session)
                assert here >= needed_snapshots(peek(folder(session)).memory)
            if attempt < 2:
                session.close()
            else:
                session.finish()
            here = copies(session)
            assert here == needed_snapshots(peek(folder(session)).memory)
            assert len(here) <= 3  # the newest, the best, and one that is to leave
            deliver_to(hub, session)
    assert peek(folder(session)).memory.state is State.DONE
    assert list((folder(session) / "snapshots").iterdir()) == []


def test_what_an_attempt_goes_on_from_stays_until_it_keeps_its_own() -> None:
    """A copy that was named as final goes on serving the next attempt that begins behind it, and goes afterwards."""
    session = hubstate.start("digits")
    session.save(write("the best"), epoch=1, fitness=0.9)
    session.save(write("named"), epoch=3, kind="final")
    session.close()
    Path("last.pt").unlink()
    session = hubstate.start("digits", resume=True)
    found = session.last_checkpoint
    assert found is not None
    assert (found.epoch, found.path.read_text()) == (3, "named")
    assert next(session.epochs()) == 4
    session.save(write("not better"), epoch=4, fitness=0.5)
    again = session.last_checkpoint
    assert again is not None
    assert again.epoch == 4
    session.close()
    assert "final" not in kept(session)


def test_what_an_attempt_went_on_from_goes_with_its_end(tmp_path: Path) -> None:
    """An attempt that keeps nothing of its own leaves nothing behind of what it went on from, once that is delivered."""
    session = hubstate.start("digits")
    session.save(write("named"), epoch=3, kind="final")
    session.close()
    Path("last.pt").unlink()
    session = hubstate.start("digits", resume=True)
    assert kept(session) == {"final": "named"}
    session.finish()
    assert final_of(session) == (CheckpointKind.FINAL, 3, "named")
    with running(tmp_path / "hub") as hub:
        deliver_to(hub, session)
    assert kept(session) == {}


def named_and_gone(fitness: float | None = 0.9) -> hubstate.Session:
    """The second attempt of a training whose first named its final checkpoint, and died before it said its end."""
    session = hubstate.start("digits", epochs=4)
    session.save(write("best"), epoch=1, fitness=fitness)
    session.save(write("named", "named.pt"), epoch=3, kind="final")
    session.close()
    return hubstate.start("digits", epochs=4, resume=True)


def test_what_was_named_before_a_crash_is_final_still() -> None:
    """Whoever dies between naming the final checkpoint and the end has named it: the next attempt's end delivers it."""
    session = named_and_gone()
    assert list(session.epochs()) == []
    session.finish()
    assert final_of(session) == (CheckpointKind.FINAL, 3, "named")


def test_what_was_named_before_a_crash_is_not_final_once_it_is_trained_on() -> None:
    """What an earlier attempt named gives way to the best, as soon as the next one saved something behind it."""
    session = named_and_gone()
    session.save(write("not better"), epoch=4, fitness=0.5)
    session.finish()
    assert final_of(session) == (CheckpointKind.FINAL, 1, "best")


def test_what_was_named_before_a_crash_gives_way_to_a_newer_file() -> None:
    """Where no best is known, the newest saved file is final, and not what an earlier attempt named before it."""
    session = hubstate.start("digits", checkpoints="best")
    session.save(write("named", "named.pt"), epoch=3, kind="final")
    session.close()
    session = hubstate.start("digits", checkpoints="best", resume=True)
    session.save(write("newest"), epoch=4)
    session.finish()
    assert final_of(session) == (CheckpointKind.FINAL, 4, "newest")


@pytest.mark.parametrize("fitness", [None, 0.9], ids=["no best", "a best"])
def test_an_abort_behind_a_crash_delivers_what_was_named(fitness: float | None) -> None:
    """An attempt that ends by an error before it saved anything delivers the newest whole checkpoint: the named one."""
    session = named_and_gone(fitness)
    session.tell(Abort, outcome=Outcome.FAILED, reason="no memory left")
    session.close()
    (sent,) = [a for a in peek(folder(session)).memory.outstanding if isinstance(a, SendCheckpoint)]
    assert (sent.kind, sent.epoch) == (CheckpointKind.LAST, 3)
    assert kept(session)["final"] == "named"
