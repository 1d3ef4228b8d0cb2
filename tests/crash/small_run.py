"""A small training, as it is killed: what it does, and what must be found of it afterwards.

It logs steps and epochs, overwrites one file in place, as careless trainers do, and saves it after each epoch; run
again, it goes on from the last whole checkpoint. Rows are a function of their place, and files of their epoch and
attempt, with every block saying so: one that is put together of two of them is seen.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import hubstate
from hubstate.hubs import tus

__all__ = [
    "EPOCHS",
    "FINAL",
    "NAME",
    "PHASES",
    "STEPS",
    "Story",
    "content",
    "files",
    "places",
    "row",
    "sync",
    "train",
]

NAME = "small"
EPOCHS, STEPS = 3, 2
#: The better the larger; the epoch that the session must end with has the largest.
FITNESS = (0.5, 0.9, 0.7)
FINAL = 1
PHASES = ("start", "log", "save", "upload", "finish", "sync")
_BLOCK, _BLOCKS = 4096, (3, 12, 5)
#: From this many bytes on a file travels in parts that may be cut (the second one does).
_LEAST_IN_PARTS = 40_000

#: Told of a phase that begins, and of what came to its end: a word, and what it is about.
Story = Callable[[str, object], None]


def row(epoch: int, step: int | None) -> dict[str, float]:
    """What is logged at a place."""
    if step is None:
        return {"accuracy": (epoch + 1) / 7, "loss": 1 / (epoch + 3)}
    return {"loss": 1 / (1 + epoch * STEPS + step)}


def places() -> list[tuple[int, int | None]]:
    """Every place of a whole run, in the order in which a hub tells them."""
    return [(epoch, step) for epoch in range(EPOCHS) for step in (*range(STEPS), None)]


def content(epoch: int, attempt: int) -> bytes:
    """What the file holds after an epoch."""
    blocks = []
    for block in range(_BLOCKS[epoch]):
        stamp = f"epoch {epoch} attempt {attempt} block {block}\n".encode()
        blocks.append(stamp.ljust(_BLOCK, b"%d" % ((epoch + attempt + block) % 10)))
    return b"".join(blocks)


def files(attempts: int) -> dict[str, int]:
    """The epoch of each file that so many attempts can have saved, by its SHA-256 (hex)."""
    return {
        hashlib.sha256(content(epoch, attempt)).hexdigest(): epoch
        for epoch in range(EPOCHS)
        for attempt in range(1, attempts + 1)
    }


class Phases:
    """Tells when a phase begins; at the chosen one an alarm is set, which ends the process wherever it is then."""

    def __init__(self, told: Story, chosen: str, nth: int, seconds: float) -> None:
        """`nth`: when this phase begins the n-th time (1 is the first)."""
        self._told = told
        self._chosen = chosen
        self._before = nth
        self._seconds = seconds

    def begin(self, phase: str) -> None:
        self._told("phase", [phase, time.monotonic()])
        self._before -= phase == self._chosen
        if phase == self._chosen and self._before == 0:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the kernel ends the process, as `kill -9` does
            signal.setitimer(signal.ITIMER_REAL, self._seconds)


def train(folder: Path, hub: str, told: Story, phases: Phases) -> None:
    """The training, begun or gone on with."""
    tus.LEAST = _LEAST_IN_PARTS
    phases.begin("start")
    limits = hubstate.Limits(metrics=0.0, checkpoint=0.0)
    session = hubstate.start(
        NAME, hub=hub, directory=folder / "sessions", epochs=EPOCHS, limits=limits, resume=True
    )
    attempt = session._door.memory.attempt
    told("started", [session.id, attempt])
    last = session.last_checkpoint
    if last is not None:
        whole = [content(last.epoch, earlier) for earlier in range(1, attempt + 1)]
        assert last.path.read_bytes() in whole, f"{last} is not as it was saved"
    path = folder / "last.bin"
    for epoch in session.epochs():
        phases.begin("log")
        for step in (*range(STEPS), None):
            session.log(row(epoch, step), epoch=epoch, step=step)
            told("logged", [epoch, step, attempt])
        phases.begin("write")
        with path.open("r+b" if path.exists() else "wb", buffering=0) as file:
            file.truncate()
            blocks = content(epoch, attempt)
            for offset in range(0, len(blocks), len(blocks) // 2):
                file.write(blocks[offset : offset + len(blocks) // 2])
        phases.begin("save")
        session.save(path, epoch=epoch, fitness=FITNESS[epoch])
        told("saved", [epoch, attempt])
        if epoch == FINAL:
            phases.begin("upload")
            told("flushed", session.flush())
    phases.begin("finish")
    session.finish()
    phases.begin("over")


def sync(folder: Path, hub: str, told: Story, phases: Phases) -> None:
    """`hubstate sync`, over the sessions of this training."""
    from hubstate.cli import main

    tus.LEAST = _LEAST_IN_PARTS
    phases.begin("sync")
    os.environ["HUBSTATE_DIR"] = str(folder / "sessions")
    sys.argv = ["hubstate", "sync", "--hub", hub]
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            main()
        except SystemExit as left:
            told("synced", [left.code, said.getvalue()])
    phases.begin("over")
