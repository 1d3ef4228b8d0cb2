"""A session that lived through much, and tools to forge its journal: with the checks as they were, or made anew."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fakes import FakeHub, save

from hubstate import events as ev
from hubstate import journal, opening
from hubstate.clock import VirtualClock
from hubstate.hubs.base import Declined
from hubstate.opening import Opened
from hubstate.outbox import FILES, WORDS
from hubstate.sender import Sender

__all__ = ["Forgery", "lived"]


def _deaf(*_: object) -> None:
    """Hears nothing."""


def lived(directory: Path) -> Path:
    """The folder of a session with three segments: an attempt that died, one that ended, and a delivery later on.

    It has rows that merge, what is not finite, better and worse checkpoints, a refusal and its retry, events out of
    turn, and the receipts of all of it. The files that were delivered are still there.
    """
    clock, hub = VirtualClock(), FakeHub()
    session = opening.new_id(clock.wall(), random.Random(7))
    opened = opening.create(directory, session, clock, _deaf)
    _train(opened, clock, first_epoch=0)
    for epoch in range(3):
        _epoch(opened, clock, epoch, fitness=epoch / 10)
    _send(opened, clock, hub, 12)
    opened.door.tell(ev.FitEpochEnd, 3, {"loss": 0.0, "odd": None}, {"odd": "-Infinity"})
    opened.close()
    opened = opening.begin_attempt(opened.folder, clock, _deaf)
    _train(opened, clock, first_epoch=3)
    opened.door.tell(ev.TrainStart)  # out of turn
    _epoch(opened, clock, 3, fitness=0.9)
    clock.advance(1.0)
    for step in range(4):
        opened.door.tell(ev.TrainBatchEnd, 4, step, {"loss": 0.25 * step})
    opened.door.tell(ev.FitEpochEnd, 4, {"loss": 0.125})
    save(opened.door, opened.folder / "snapshots", "worse", 4, 0.5)
    save(opened.door, opened.folder / "snapshots", "worse", 4, 0.5)
    hub.script(opened.door.memory.outstanding[0].key, Declined("too large", 413))
    _send(opened, clock, hub, 2)
    opened.door.tell(ev.TrainEnd)
    opened.close()
    opened = opening.reopen(opened.folder, clock, _deaf)
    opened.door.tell(ev.RetryRefused)
    _send(opened, clock, hub, 60)
    opened.close()
    return opened.folder


def _train(opened: Opened, clock: VirtualClock, *, first_epoch: int) -> None:
    tell = opened.door.tell
    session = opened.folder.name
    tell(
        ev.PretrainRoutineStart,
        session=session,
        name="digits",
        first_epoch=first_epoch,
        config={"lr": 0.05},
        checkpoint_interval=2.0,
    )
    clock.advance(0.5)
    tell(ev.PretrainRoutineEnd)
    tell(ev.TrainStart)


def _epoch(opened: Opened, clock: VirtualClock, epoch: int, *, fitness: float) -> None:
    clock.advance(4.0)
    opened.door.tell(ev.FitEpochEnd, epoch, {"loss": 1 / (epoch + 1)})
    opened.door.tell(ev.FitEpochEnd, epoch, {"accuracy": 0.5})  # it merges with the one before
    save(
        opened.door, opened.folder / "snapshots", f"best-{epoch}-{opened.door.memory.attempt}", epoch, fitness
    )


def _send(opened: Opened, clock: VirtualClock, hub: FakeHub, steps: int) -> None:
    outbox = opened.outbox()
    try:
        snapshots = opened.folder / "snapshots"
        sender = Sender(opened.door, outbox, hub, lambda name: snapshots / name, chance=random.Random(1))
        for _ in range(steps):
            for lane in (WORDS, FILES):
                clock.advance(min(sender.step(lane), 1.0))
    finally:
        outbox.close()


class Forgery:
    """The journal in a folder, as lines that can be changed. `texts[segment][line]` counts lines from 0: the head.

    A text is a line without its chain and check; `write` seals all of them anew, as a forger who knows how would.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for packed in folder.glob("journal-*.gz"):
            packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
            packed.unlink()
        self.files = sorted(folder.glob("journal-*"))
        self.raw = [file.read_bytes().splitlines(keepends=True) for file in self.files]
        self.texts = [[line[: -journal._TAIL - 1] + b"}" for line in lines] for lines in self.raw]

    # -- looking -----------------------------------------------------------------------------------------

    def find(
        self, wanted: Callable[[dict[str, Any]], bool], *, segment: int | None = None
    ) -> tuple[int, int]:
        """The first line that is wanted: segment and line, both counted from 0."""
        for place, lines in enumerate(self.texts):
            for number, text in enumerate(lines):
                if segment in (None, place) and wanted(json.loads(text)):
                    return place, number
        raise AssertionError("no such line")

    def event(self, name: str, *, segment: int | None = None, **fields: Any) -> tuple[int, int]:
        """The first step with this event and these fields of it."""
        return self.find(
            lambda line: (
                "event" in line and line["event"]["event"] == name and fields.items() <= line["event"].items()
            ),
            segment=segment,
        )

    def read(self, place: tuple[int, int]) -> dict[str, Any]:
        found = json.loads(self.texts[place[0]][place[1]])
        assert isinstance(found, dict)
        return found

    def name(self, place: tuple[int, int]) -> tuple[str, int]:
        """A place as a verdict names it."""
        return self.files[place[0]].name, place[1] + 1

    # -- forging -----------------------------------------------------------------------------------------

    def edit(self, place: tuple[int, int], change: Callable[[dict[str, Any]], object]) -> None:
        line = self.read(place)
        change(line)
        self.texts[place[0]][place[1]] = json.dumps(line, separators=(",", ":")).encode()

    def insert(self, place: tuple[int, int], like: tuple[int, int], **fields: Any) -> None:
        """Puts a copy of a step, with other fields of its event, behind the step before `place`, where nothing moved."""
        line, before = self.read(like), self.read((place[0], place[1] - 1))
        line |= {name: before[name] for name in ("attempt", "to")} | {"from": before["to"]}
        line["event"] |= fields | {"at": before["event"]["at"]}
        line.pop("guards", None)
        self.texts[place[0]].insert(place[1], json.dumps(line).encode())

    def renumber(self) -> None:
        """Numbers all steps anew, heads included."""
        n = 0
        for lines in self.texts:
            for number, text in enumerate(lines):
                line = json.loads(text)
                n += number > 0
                line["n"] = n + (number == 0)
                lines[number] = json.dumps(line, separators=(",", ":")).encode()

    def write(self) -> None:
        """Writes every line with a chain and a check that hold."""
        before = journal._NO_CHECK
        for file, texts in zip(self.files, self.texts, strict=True):
            sealed = []
            for text in texts:
                check = journal._check(before, text)
                sealed.append(journal._sealed(text, before, check))
                before = check
            file.write_bytes(b"".join(sealed))

    def write_raw(self) -> None:
        """Writes the lines as they were, whatever was done to them."""
        for file, lines in zip(self.files, self.raw, strict=True):
            file.write_bytes(b"".join(lines))

    def pack(self, segment: int, *, lost: int = 0) -> str:
        """Packs a segment, and loses bytes at its end; the name of the packed file."""
        file = self.files[segment]
        packed = gzip.compress(file.read_bytes())
        target = file.with_name(f"{file.name}.gz")
        target.write_bytes(packed[: len(packed) - lost])
        file.unlink()
        return target.name
