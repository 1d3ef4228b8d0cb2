"""What is promised of checkpoints, from `save` to the hub: each test begins with the promise's id."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

import hubstate
from hubstate import settings
from hubstate.clock import VirtualClock
from hubstate.hubs.base import Delayed
from hubstate.hubs.fetch import Known, Source
from hubstate.hubs.hub_v1 import HubV1
from hubstate.limits import Limits
from hubstate.opening import peek
from hubstate.outbox import FILES, WORDS
from hubstate.server.running import RunningHub, running
from hubstate.session import Session, begin
from hubstate.states import CheckpointKind, State
from hubstate.wish import Wish

SIZE = 9_000_000  # large enough to go in parts


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[RunningHub]:
    with running(tmp_path / "hub") as hub:
        yield hub


def known(hub: RunningHub, session: Session) -> Known:
    source = Source(hub.url, None)
    try:
        return source.session(session.id)
    finally:
        source.close()


def digests(hub: RunningHub, session: Session) -> dict[str, str]:
    return {file.kind.value: file.sha256 for file in known(hub, session).checkpoints}


def weights(seed: int, size: int = SIZE) -> bytes:
    return random.Random(seed).randbytes(size)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Losing(HubV1):
    """The way to a hub on which the first so many uploads fail; `meanwhile` happens before each."""

    losses = 2

    def deliver(self, parcel):  # type: ignore[no-untyped-def]
        if parcel.file is not None:
            self.meanwhile()
            if self.losses:
                self.losses -= 1
                return Delayed("offline", "the connection was cut")
        return super().deliver(parcel)

    def meanwhile(self) -> None:
        """What the trainer does to its own file while an upload is on its way."""
        path = Path("last.pt")
        with path.open("r+b") as file:
            file.write(b"rewritten in place")
        path.write_bytes(path.read_bytes()[: SIZE // 2])


@pytest.mark.promise("D10", "D11", "P7")
def test_every_try_sends_the_bytes_that_were_saved(hub: RunningHub) -> None:
    """D10, D11, P7: whatever the trainer does to its file between and during tries, the hub holds what was saved."""
    saved = weights(1)
    Path("last.pt").write_bytes(saved)
    found = settings.resolve(hub=hub.url)
    session = begin(Wish("digits"), found, open_hub=Losing, clock=None, chance=Eager())
    session.save("last.pt", epoch=3, fitness=0.5)
    session.finish(30)
    assert session.state is State.DONE
    assert digests(hub, session) == {"final": sha256(saved)}


class Eager(random.Random):
    """Chance that never waits between two tries."""

    def uniform(self, _least: float, _most: float) -> float:
        return 0.0


def highest_mark() -> int:
    """The most memory that this process held, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


@pytest.mark.promise("D22")
@pytest.mark.parametrize("is_folder", [False, True], ids=["file", "folder"])
def test_an_upload_is_never_in_memory(hub: RunningHub, is_folder: bool) -> None:
    """D22: a checkpoint of 200 MB is saved, digested, sent and stored with less than 64 MiB beyond the idle level."""
    path = Path("checkpoint-1" if is_folder else ".", "model.pt")
    path.parent.mkdir(exist_ok=True)
    block = bytes(1_000_000)
    with path.open("wb") as file:
        for _ in range(200):
            file.write(block)
    session = hubstate.start("digits", hub=hub.url)
    session.log({"loss": 1.0})
    session.flush()
    Path("/proc/self/clear_refs").write_text("5")  # the highest mark is measured from here on
    before = highest_mark()
    session.save(path.parent if is_folder else path, fitness=0.5)
    session.finish(60)
    assert session.state is State.DONE
    assert highest_mark() - before < 64 * 1024


@pytest.mark.promise("P12")
def test_each_checkpoint_tells_what_it_is(hub: RunningHub) -> None:
    """P12: kind, epoch, attempt and digest come with each file, and the last and the best are both kept."""
    session = hubstate.start("digits", hub=hub.url, limits=Limits(checkpoint=0))
    for epoch, fitness in enumerate([0.5, 0.9, 0.1]):
        Path("last.pt").write_bytes(weights(epoch, 1000))
        session.save("last.pt", epoch=epoch, fitness=fitness)
        assert session.flush()
    told = {file.kind: file for file in known(hub, session).checkpoints}
    assert {kind: (file.epoch, file.attempt) for kind, file in told.items()} == {
        CheckpointKind.BEST: (1, 1),
        CheckpointKind.LAST: (2, 1),
    }
    assert told[CheckpointKind.LAST].sha256 == sha256(weights(2, 1000))
    session.close()


@pytest.mark.promise("P8")
def test_a_kept_file_that_shrank_holds_nobody_up(hub: RunningHub) -> None:
    """P8: a kept file that somebody cut is never shown, and nobody waits for it: it is refused with the reason."""
    session = hubstate.start("digits", hub=hub.url, mode="offline")
    Path("last.pt").write_bytes(weights(1))
    session.save("last.pt", epoch=0, fitness=0.5)
    session.finish()
    kept = next((Path(".hubstate") / session.id / "snapshots").iterdir())
    kept.write_bytes(kept.read_bytes()[:1000])
    again = hubstate.start("digits", hub=hub.url, resume=session.id)
    assert again.finish(30).refused == 1
    (refused,) = peek(Path(".hubstate") / session.id).memory.refused
    assert "has 1000 bytes, and had 9000000 when it was kept" in refused.reason
    assert digests(hub, again) == {}


@pytest.mark.promise("C9")
def test_the_first_checkpoint_leaves_after_one_interval(hub: RunningHub) -> None:
    """C9: without a fitness, and however long the training, the hub has a checkpoint after 900 s."""
    clock = VirtualClock()
    session = begin(Wish("digits"), settings.resolve(hub=hub.url), clock=clock, threads=_NoThreads)
    session.log({"loss": 1.0}, epoch=0)
    Path("last.pt").write_bytes(weights(7, 1000))
    session.save("last.pt", epoch=0)
    outgoing = session._outgoing
    assert outgoing is not None
    posting = outgoing._make_posting()
    for _ in range(200):
        clock.advance(5)
        for lane in (WORDS, FILES):
            posting.step(lane)
    assert peek(Path(".hubstate") / session.id).memory.files_delivered == 1
    assert digests(hub, session) == {"last": sha256(weights(7, 1000))}
    posting.close()
    session.close()


class _NoThreads:
    """Nothing is sent but what the test steps."""

    failure = ""

    def __init__(self, *_arguments: object, **_named: object) -> None:
        pass

    def poke(self, *, files: bool = False) -> None:
        pass

    def stop(self, _timeout: float) -> bool:
        return True
