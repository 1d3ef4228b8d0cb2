"""A session goes on, on another machine, from what its hub holds."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import hubstate
from hubstate import elsewhere, settings
from hubstate.actions import Memory
from hubstate.clock import SystemClock, VirtualClock
from hubstate.errors import HubRefused, HubUnreachable, SessionBusy, SessionNotFound, StorageError
from hubstate.hubs import fetch
from hubstate.hubs.fetch import Source
from hubstate.hubs.held import held
from hubstate.journal import Head, read
from hubstate.limits import Limits
from hubstate.opening import new_id, peek
from hubstate.ownership import Ownership
from hubstate.proof.holdings import compare
from hubstate.proof.verify import verify
from hubstate.server import keys
from hubstate.server.running import RunningHub, running
from hubstate.states import CheckpointKind, Outcome, State

UNKNOWN = new_id(1_800_000_000.0, random.Random(1))
ALWAYS = Limits(metrics=0.0, checkpoint=0.0)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[RunningHub]:
    with running(tmp_path / "hub") as hub:
        yield hub


def write(text: str, name: str = "last.pt") -> Path:
    path = Path(name)
    path.write_text(text, encoding="utf-8")
    return path


def interrupted(hub: RunningHub, *fitness: float | None, folder: bool = False) -> str:
    """A training that ends by an exception once all of it is at the hub; then its machine is lost. Returns its id."""
    session = hubstate.start("digits", hub=hub.url, epochs=9, limits=ALWAYS)
    for epoch, value in enumerate(fitness):
        session.log({"loss": 1.0 / (epoch + 1)}, epoch=epoch)
        path = write(f"weights {epoch}", f"save-{epoch}/model.pt" if folder else "last.pt")
        session.save(path.parent if folder else path, epoch=epoch, fitness=value)
        assert session.flush(30)
    session.abort("the power is gone", timeout=30)
    assert not session.receipt.waiting
    lose_everything()
    return session.id


def lose_everything() -> None:
    """What this machine had is gone, the index of its user included."""
    shutil.rmtree(".hubstate")
    shutil.rmtree(settings.resolve().data_folder, ignore_errors=True)
    for file in Path().glob("last*"):
        file.unlink()
    for folder in Path().glob("save-*"):
        shutil.rmtree(folder)


def left(directory: str = ".hubstate") -> list[str]:
    return sorted(path.name for path in Path(directory).glob("*")) if Path(directory).is_dir() else []


@pytest.mark.promise("P13", "C8")
def test_it_goes_on_after_the_checkpoint_that_the_hub_holds(hub: RunningHub) -> None:
    """The next attempt begins after the newest checkpoint's epoch, with its very bytes, and ends like any other."""
    session_id = interrupted(hub, 0.5, 0.6, 0.4)
    with hubstate.start("digits", hub=hub.url, resume=session_id.lower(), limits=ALWAYS) as session:
        found = session.last_checkpoint
        assert found is not None
        assert (found.epoch, found.path.read_text()) == (2, "weights 2")
        assert found.sha256 == hashlib.sha256(b"weights 2").hexdigest()
        assert (session.id, session.receipt.attempt) == (session_id, 2)
        done = list(session.epochs())
        for epoch in done[:2]:
            session.log({"loss": 0.1}, epoch=epoch)
    assert done == [3, 4, 5, 6, 7, 8]
    assert (session.state, session.receipt.rows, session.receipt.rows_delivered) == (State.DONE, 5, 5)
    told = Source(hub.url, None).session(session_id)
    assert (told.attempt, told.delivered, told.state) == (2, 5, State.DONE)
    (final,) = [file for file in told.checkpoints if file.kind is CheckpointKind.FINAL]
    assert (final.epoch, final.attempt) == (1, 2), "the best of all attempts is what the training ends with"
    assert final.sha256 == hashlib.sha256(b"weights 1").hexdigest()
    assert list(Path(".hubstate", session_id, "snapshots").iterdir()) == []


def test_its_journal_says_how_it_began_and_is_accepted(hub: RunningHub) -> None:
    """The first head names the hub that told its memory, and the proof accepts all that follows."""
    session_id = interrupted(hub, 0.5, 0.6, 0.4)
    with hubstate.start("digits", hub=hub.url, resume=session_id, limits=ALWAYS) as session:
        session.log({"loss": 0.1})
        session.save(write("better"), fitness=0.9)
    folder = Path(".hubstate", session_id)
    heads = [entry.line for entry in read(folder) if isinstance(entry.line, Head)]
    assert [head.origin for head in heads] == [hub.url, *[""] * (len(heads) - 1)]
    verdict = verify(folder)
    assert verdict.accepted, str(verdict)
    with hubstate.start("digits", hub=hub.url, resume=session_id) as again:
        assert list(again.epochs()) == []
    assert verify(folder).accepted


def test_it_is_held_against_what_the_hub_holds_of_its_attempts(hub: RunningHub) -> None:
    """Rows and files of the attempts that another machine's journal tells of are not missed in this one."""
    session_id = interrupted(hub, 0.5, 0.6, 0.4)
    with hubstate.start("digits", hub=hub.url, resume=session_id, limits=ALWAYS) as session:
        session.log({"loss": 0.1}, epoch=3)
        session.save(write("better"), epoch=3, fitness=0.9)
    told = compare(Path(".hubstate", session_id), held(hub.url, None, session_id))
    assert (str(told), told.rows) == ("1/1 rows, 2/2 files equal", 1)


def test_a_memory_that_no_hub_tells_is_not_accepted() -> None:
    """Whoever invents what a hub told is found out where no hub could have told it."""
    told = Memory(
        state=State.ABORTED, session="S", name="n", attempt=2, hub="http://h", model="S", rows=3, rows_asked=3,
        rows_delivered=3,
    )  # fmt: skip
    assert elsewhere.could_be_told(told)
    for changes in (
        {"rows_delivered": 2},
        {"attempt": 0},
        {"given_up": "why not"},
        {"saves": 1},
        {"rows_not_taken": 1},
    ):
        assert not elsewhere.could_be_told(msgspec.structs.replace(told, **changes)), changes


def test_a_folder_comes_back_as_a_folder(hub: RunningHub) -> None:
    """What was saved as a folder is unpacked, file by file, and keeps its digest."""
    for epoch in range(2):
        Path(f"save-{epoch}").mkdir()
    session_id = interrupted(hub, None, None, folder=True)
    session = hubstate.start("digits", hub=hub.url, resume=session_id)
    found = session.last_checkpoint
    assert found is not None
    assert found.path.is_dir()
    assert [(file.name, file.read_text()) for file in found.path.iterdir()] == [("model.pt", "weights 1")]
    (stored,) = [
        file
        for file in Source(hub.url, None).session(session_id).checkpoints
        if file.kind is CheckpointKind.LAST
    ]
    assert stored.folder
    assert stored.sha256 == found.sha256
    session.close()


def test_without_a_checkpoint_it_begins_at_the_first_epoch(hub: RunningHub) -> None:
    """A session that no checkpoint of is at the hub begins its next attempt at epoch 0."""
    session = hubstate.start("digits", hub=hub.url, limits=ALWAYS)
    session.log({"loss": 1.0})
    session.abort("gone", timeout=30)
    lose_everything()
    again = hubstate.start("digits", hub=hub.url, epochs=2, resume=session.id)
    assert again.last_checkpoint is None
    assert list(again.epochs()) == [0, 1]
    again.close()


def test_a_session_that_is_done_opens_as_it_is(hub: RunningHub) -> None:
    """Its training is over: no file is fetched, no epoch follows, and its receipt tells what the hub holds."""
    with hubstate.start("digits", hub=hub.url, epochs=1, limits=ALWAYS) as session:
        session.log({"loss": 1.0}, epoch=0)
        session.save(write("weights"), epoch=0, fitness=1.0)
    lose_everything()
    again = hubstate.start("digits", hub=hub.url, resume=session.id)
    assert (again.state, again.outcome, list(again.epochs())) == (State.DONE, Outcome.FINISHED, [])
    assert (again.receipt.rows_delivered, again.receipt.final_sha256) == (1, session.receipt.final_sha256)
    assert not Path(".hubstate", session.id, "snapshots").exists()
    again.close()


def test_it_is_found_here_from_then_on(hub: RunningHub) -> None:
    """Once it came, it is a session of this machine: the hub is not asked again, and its name finds it."""
    session_id = interrupted(hub, 0.5)
    hubstate.start("digits", hub=hub.url, resume=session_id).close()
    again = hubstate.start("digits", mode="offline", resume=True)
    assert again.id == session_id
    again.close()


# -- where it cannot ---------------------------------------------------------------------------------------


def test_an_id_that_no_hub_knows_is_not_found(hub: RunningHub) -> None:
    """Neither here nor there: `SessionNotFound` names both, and nothing is left behind."""
    with pytest.raises(SessionNotFound, match=hub.url):
        hubstate.start("digits", hub=hub.url, resume=UNKNOWN)
    assert left() == []


@pytest.mark.parametrize(
    ("given", "why"), [({}, "no hub is set"), ({"mode": "offline"}, "the mode is offline")]
)
def test_without_a_hub_to_ask_it_is_not_found(given: dict[str, Any], why: str, hub: RunningHub) -> None:
    """With no hub, or told to stay offline, nobody is asked."""
    named = {"hub": hub.url} if given else {}
    with pytest.raises(SessionNotFound, match=why):
        hubstate.start("digits", resume=UNKNOWN, **named, **given)
    assert left() == []


def test_a_hub_that_is_away_is_unreachable() -> None:
    """A connection that is refused is `HubUnreachable`, and nothing is left behind."""
    import loopback

    with pytest.raises(HubUnreachable, match="connection refused"):
        hubstate.start("digits", hub=f"http://127.0.0.1:{loopback.refused_port()}", resume=UNKNOWN)
    assert left() == []


def test_a_key_that_is_not_taken_is_refused(hub: RunningHub) -> None:
    """A hub that wants another key says so by `HubRefused`, and the key is not told."""
    keys.create(hub.data_dir, "laptop")
    with pytest.raises(HubRefused) as told:
        hubstate.start("digits", hub=hub.url, api_key="ul_wrong", resume=UNKNOWN)
    assert told.value.credentials
    assert "ul_wrong" not in str(told.value)
    assert left() == []


def test_another_process_that_brings_it_is_left_alone(hub: RunningHub) -> None:
    """Two that ask for one session at the same time do not mix: the second one is told who is at it."""
    session_id = interrupted(hub, 0.5)
    coming = Path(".hubstate", f".coming-{session_id}")
    coming.mkdir(parents=True)
    owner = Ownership(coming)
    with pytest.raises(SessionBusy, match="open in this process"):
        hubstate.start("digits", hub=hub.url, resume=session_id)
    owner.release()
    session = hubstate.start("digits", hub=hub.url, resume=session_id)
    assert session.last_checkpoint is not None
    session.close()


def test_what_a_killed_process_left_is_cleared(hub: RunningHub) -> None:
    """Half a session that came when its process died is never taken for one, and goes with the next that comes."""
    session_id = interrupted(hub, 0.5)
    for name in (session_id, UNKNOWN):
        half = Path(".hubstate", f".coming-{name}", "snapshots")
        half.mkdir(parents=True)
        (half / "best-000000-1-0.pt").write_bytes(b"half")
    hubstate.start("digits", hub=hub.url, resume=session_id).close()
    assert left() == [".gitignore", session_id]


def test_a_session_that_another_process_brought_meanwhile_is_not_overwritten(
    hub: RunningHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever comes second finds the first one's session as it is, and leaves nothing of its own."""
    session_id = interrupted(hub, 0.5)
    real = Source.fetch

    def slower(self: Source, *arguments: Any, **named: Any) -> bool:
        Path(".hubstate", session_id).mkdir()
        Path(".hubstate", session_id, "theirs").touch()
        return real(self, *arguments, **named)

    monkeypatch.setattr(Source, "fetch", slower)
    with pytest.raises(SessionBusy, match="another process brought"):
        elsewhere.bring(session_id, settings.resolve(hub=hub.url), SystemClock())
    assert left() == [".gitignore", session_id]
    assert left(f".hubstate/{session_id}") == ["theirs"]


@pytest.mark.parametrize("in_the_way", [".hubstate", ".hubstate/.coming-{}"])
def test_a_directory_that_takes_no_session_is_told(hub: RunningHub, in_the_way: str) -> None:
    """Where nothing can be kept it is this machine's blame, and told as such."""
    session_id = interrupted(hub, 0.5)
    path = Path(in_the_way.format(session_id))
    path.parent.mkdir(exist_ok=True)
    path.write_text("a file")
    with pytest.raises(StorageError, match="sessions cannot be kept in"):
        hubstate.start("digits", hub=hub.url, resume=session_id)


def test_why_a_key_was_not_shown_is_told(hub: RunningHub) -> None:
    """A key that is set for another hub is not shown to this one, and the refusal says so."""
    keys.create(hub.data_dir, "laptop")
    found = dataclasses.replace(settings.resolve(hub=hub.url), key_withheld="the key is for another hub")
    with pytest.raises(HubRefused, match="the key is for another hub") as told:
        elsewhere.bring(UNKNOWN, found, SystemClock())
    assert told.value.credentials


# -- files that come in pieces -------------------------------------------------------------------------------


class Cut(Source):
    """A source whose connection is cut again and again; `then` runs after each cut."""

    def __init__(self, address: str, every: int, then: Callable[[], None] = lambda: None) -> None:
        super().__init__(address, None)
        wire, real = self._wire, self._wire.fetch
        self.tries: list[str] = []

        def fetch(path: str, sink: Any, headers: Any = None) -> Any:
            self.tries.append((headers or {}).get("Range", ""))
            return real(path, Limited(sink, every, then), headers)

        wire.fetch = fetch  # type: ignore[method-assign]


class Limited:
    """Hands on so many bytes, and then the connection breaks."""

    def __init__(self, sink: Any, left: int, then: Callable[[], None]) -> None:
        self.sink, self.left, self.then = sink, left, then

    def begin(self, status: int) -> None:
        self.sink.begin(status)

    def take(self, piece: bytes) -> None:
        if self.left < len(piece):
            self.then()
            raise ConnectionResetError("cut")
        self.left -= len(piece)
        self.sink.take(piece)


def stored(hub: RunningHub, data: bytes) -> str:
    session = hubstate.start("digits", hub=hub.url, limits=ALWAYS)
    Path("last.pt").write_bytes(data)
    session.save("last.pt", epoch=4)
    assert session.flush(30)
    session.abort("gone", timeout=30)
    lose_everything()
    return session.id


def test_a_download_that_is_cut_goes_on_where_it_stopped(hub: RunningHub, tmp_path: Path) -> None:
    """Each try asks for the rest alone, and in the end the bytes are those that were saved."""
    data = os.urandom(300_000)
    session_id = stored(hub, data)
    source = Cut(hub.url, 2 * 65_536)
    (file,) = source.session(session_id).checkpoints
    assert source.fetch(file, tmp_path / "got", VirtualClock())
    assert (tmp_path / "got").read_bytes() == data
    assert source.tries == ["", "bytes=131072-", "bytes=262144-"]
    source.close()


def test_a_download_that_does_not_move_is_given_up(hub: RunningHub, tmp_path: Path) -> None:
    """When nothing has come for the patience it is `HubUnreachable`, which tells how much did."""
    session_id = stored(hub, os.urandom(100_000))
    source = Cut(hub.url, 0)
    (file,) = source.session(session_id).checkpoints
    clock = VirtualClock()
    with pytest.raises(HubUnreachable, match="0 of 100000 bytes"):
        source.fetch(file, tmp_path / "got", clock)
    assert 30 <= clock.monotonic() <= 32
    source.close()


@pytest.mark.promise("C8")
def test_bytes_that_are_not_those_that_were_told_are_refused(hub: RunningHub, tmp_path: Path) -> None:
    """A file that was spoilt at the hub is fetched once more, and then refused by its digest."""
    session_id = stored(hub, b"weights")
    (spoilt,) = (hub.data_dir / "files" / session_id).iterdir()
    spoilt.write_bytes(b"WEIGHTS")
    source = Cut(hub.url, 1000)
    (file,) = source.session(session_id).checkpoints
    with pytest.raises(HubRefused, match="other bytes"):
        source.fetch(file, tmp_path / "got", VirtualClock())
    assert len(source.tries) == 2
    source.close()
    with pytest.raises(HubRefused, match="other bytes"):
        hubstate.start("digits", hub=hub.url, resume=session_id)
    assert left() == [".gitignore"]


def test_more_bytes_than_were_told_are_not_taken(hub: RunningHub, tmp_path: Path) -> None:
    """No hub fills this disk: what comes beyond the size that was told ends the download."""
    session_id = stored(hub, b"weights")
    source = Source(hub.url, None)
    (file,) = source.session(session_id).checkpoints
    with pytest.raises(HubRefused, match="more than the 3 bytes"):
        source.fetch(msgspec.structs.replace(file, size=3), tmp_path / "got", SystemClock())
    source.close()


def test_a_file_is_fetched_from_its_hub_alone(hub: RunningHub, tmp_path: Path) -> None:
    """Whatever host a file's address names, only the hub that was asked is; an address of another form is refused."""
    session_id = stored(hub, b"weights")
    source = Source(hub.url, None)
    (file,) = source.session(session_id).checkpoints
    elsewhere_at = file.url.replace(hub.url, "http://169.254.169.254")
    assert source.fetch(msgspec.structs.replace(file, url=elsewhere_at), tmp_path / "got", SystemClock())
    for url in ("http://169.254.169.254/latest", "file:///etc/passwd", f"{file.url} HTTP/1.1"):
        with pytest.raises(HubRefused, match="no address"):
            source.fetch(msgspec.structs.replace(file, url=url), tmp_path / "no", SystemClock())
    source.close()


def test_a_disk_that_takes_no_download_is_told(
    hub: RunningHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This machine's blame is told as such, and not as the hub's."""
    session_id = stored(hub, b"weights")
    source = Source(hub.url, None)
    (file,) = source.session(session_id).checkpoints
    with pytest.raises(StorageError, match="cannot be written"):
        source.fetch(file, tmp_path / "no such folder" / "got", SystemClock())
    monkeypatch.setattr(fetch, "_Arriving", Full)
    with pytest.raises(StorageError, match="No space left"):
        source.fetch(file, tmp_path / "full", SystemClock())
    source.close()


class Full(fetch._Arriving):
    """A file on a full disk."""

    def __init__(self, path: Path, limit: int) -> None:
        super().__init__(path, limit)
        self._file.close()
        self._file = Path("/dev/full").open("wb", buffering=0)  # noqa: SIM115 - the base closes it


def test_a_file_that_was_replaced_meanwhile_is_asked_for_anew(
    hub: RunningHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where somebody trains on, the hub is asked again, and what it holds then comes."""
    session_id = stored(hub, b"weights")
    found = settings.resolve(hub=hub.url)
    real = Source.fetch
    tries: list[bool] = []

    def gone_at_first(self: Source, *arguments: Any, **named: Any) -> bool:
        tries.append(True)
        return len(tries) > 1 and real(self, *arguments, **named)

    monkeypatch.setattr(Source, "fetch", gone_at_first)
    folder = elsewhere.bring(session_id, found, SystemClock())
    kept = peek(folder).memory.kept_last
    assert kept is not None
    assert (folder / "snapshots" / kept.snapshot).read_bytes() == b"weights"
    shutil.rmtree(folder)
    monkeypatch.setattr(Source, "fetch", lambda *_arguments, **_named: False)
    with pytest.raises(HubUnreachable, match="trained elsewhere"):
        elsewhere.bring(session_id, found, SystemClock())
    assert left() == [".gitignore"]
