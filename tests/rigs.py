"""A session with all that keeps and sends it, in one thread and under a virtual clock."""

from __future__ import annotations

import random
from pathlib import Path

from fakes import FakeHub, door_in, save, train

from hubstate import events as ev
from hubstate.actions import SendRows
from hubstate.clock import VirtualClock
from hubstate.outbox import FILES, WORDS, Outbox
from hubstate.sender import Sender
from hubstate.states import State

__all__ = ["Rig"]


class Rig:
    """One session in a folder: its door, its outbox, and a sender to a fake hub."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = VirtualClock()
        self.hub = FakeHub()
        self.door = train(door_in(folder, self.clock))
        self.open()

    @property
    def file(self) -> Path:
        return self.folder / "outbox.sqlite"

    def open(self) -> None:
        self.outbox = Outbox(self.file, self.folder)
        snapshots = self.folder / "snapshots"
        self.sender = Sender(
            self.door, self.outbox, self.hub, lambda name: snapshots / name, chance=random.Random(1)
        )

    def reopen(self) -> None:
        self.outbox.close()
        self.open()

    def unlink(self, *endings: str) -> None:
        for ending in endings or ("", "-wal", "-shm"):
            Path(f"{self.file}{ending}").unlink(missing_ok=True)

    def fold(self) -> None:
        for _ in range(1_000):
            if not self.outbox.ingest():
                return
        raise AssertionError("the journal has no end")

    def rows(self, count: int, **metrics: float) -> None:
        for _ in range(count):
            self.door.tell(ev.FitEpochEnd, self.door.memory.rows, metrics or {"loss": 0.5})

    def save(self, name: str, fitness: float | None = None) -> None:
        save(self.door, self.folder / "snapshots", name, fitness=fitness)

    def claim(self, lane: str = WORDS) -> str | None:
        """What would leave next: its kind."""
        self.fold()
        found = self.outbox.claim(lane, self.door.now())
        return None if found is None else found if isinstance(found, float) else found.key.split("/")[2]

    def settle(self, what: str, kind: type[ev.Event] = ev.Delivered, **fields: object) -> None:
        action = next(a for a in self.door.memory.outstanding if a.key.split("/")[2] == what)
        if kind is ev.Delivered and isinstance(action, SendRows):
            fields = {"rows": action.last - action.first + 1, **fields}
        self.door.tell(kind, key=action.key, **fields)

    def drain_rows(self) -> None:
        """Steps until nothing that was asked for is out."""
        while self.door.memory.outstanding:
            self.clock.advance(self.sender.step(WORDS))

    def drain(self) -> None:
        for _ in range(200):
            rests = [self.sender.step(lane) for lane in (WORDS, FILES)]
            if self.door.memory.state in (State.DONE, State.ABORTED) and not self.door.memory.outstanding:
                return
            self.clock.advance(min(rests))
        raise AssertionError(f"not drained: {self.door.memory.outstanding}")
