"""What the real tools left, as it lies in tests/data/imports, put where a user has it; with weights of a few bytes.

`ultralytics` (8.4.190), `lightning` (2.6.6) and `transformers` (5.24.0) were trained for three epochs each; of
Transformers there is the state at its end and the one of an earlier checkpoint.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from hubstate import overview, settings
from hubstate.importing import Found, Imported, Unusable, Wanted, bring, find

__all__ = ["WRITTEN", "imported", "lightning", "only", "settled", "transformers", "ultralytics"]

DATA = Path(__file__).parent.parent / "data" / "imports"
#: When all of it was written last, as the tests have it (seconds since 1970).
WRITTEN = 1_790_000_000.0


def ultralytics(folder: Path = Path("runs/detect/train")) -> Path:
    """A run of Ultralytics that came to its end."""
    shutil.copytree(DATA / "ultralytics", folder)
    (folder / "weights").mkdir()
    (folder / "weights" / "last.pt").write_bytes(b"last")
    (folder / "weights" / "best.pt").write_bytes(b"the best")
    (folder / "results.png").write_bytes(b"drawn")
    return settled(folder)


def lightning(folder: Path = Path("lightning_logs/version_0")) -> Path:
    """A version of Lightning's CSVLogger, with two checkpoints."""
    shutil.copytree(DATA / "lightning", folder)
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "epoch=1-step=16.ckpt").write_bytes(b"older")
    (folder / "checkpoints" / "epoch=2-step=24.ckpt").write_bytes(b"newer")
    return settled(folder)


def transformers(folder: Path = Path("out/squares")) -> Path:
    """The output of a Trainer that came to its end, with two checkpoints."""
    for step in (8, 12):
        (folder / f"checkpoint-{step}").mkdir(parents=True)
        (folder / f"checkpoint-{step}" / "model.safetensors").write_bytes(f"step {step}".encode())
    shutil.copy(DATA / "transformers" / "trainer_state.json", folder / "trainer_state.json")
    shutil.copy(DATA / "transformers" / "trainer_state.json", folder / "checkpoint-12" / "trainer_state.json")
    shutil.copy(DATA / "transformers" / "checkpoint-8.json", folder / "checkpoint-8" / "trainer_state.json")
    return settled(folder)


def settled(folder: Path, at: float = WRITTEN) -> Path:
    """The folder, with everything in it written last at this time."""
    for path in folder.rglob("*"):
        os.utime(path, (at, at))
    return folder


def _found(folder: Path) -> Iterator[Found]:
    for one in find(folder):
        assert not isinstance(one, Unusable), one
        yield one


def only(folder: Path) -> Found:
    """The only training in a folder."""
    (found,) = _found(folder)
    return found


def imported(folder: Path, *, name: str | None = None, finished: bool = False) -> Imported:
    """Imports the only training in a folder, as the command does."""
    here = settings.resolve()
    return bring(only(folder), here, overview.folders(here), Wanted(name, finished))
