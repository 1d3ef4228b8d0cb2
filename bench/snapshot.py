"""What `session.save` of a large checkpoint costs on the calling thread, beside a plain copy of the same file.

    python bench/snapshot.py [GIGABYTES] [RUNS]

When the call returns, the copy is whole. Where the file system shares blocks (btrfs, xfs), it costs next to nothing.
The plain copy (`shutil.copyfile`) is measured in the same process, by turns. The file is in the page cache, as it is
just after a trainer wrote it. It needs three times as much room as the file, below TMPDIR.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from measure import in_a_process, machine, run_as, spread

import hubstate

BLOCK = os.urandom(1 << 20)


def one(gigabytes: str) -> dict[str, float]:
    """One run: seconds for a file, for a folder of eight files, for the plain copy, and for a save that is not kept."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        os.chdir(name)
        size = int(float(gigabytes) * 1000)
        _write(Path("last.pt"), size)
        told = {"plain": _time(lambda: shutil.copyfile("last.pt", "copy.pt"))}
        Path("copy.pt").unlink()
        session = hubstate.start("bench", mode="offline")
        session.log({"loss": 0.5})
        told["file"] = _time(lambda: session.save("last.pt", epoch=0, fitness=1.0))
        told["not kept"] = _time(lambda: session.save("last.pt", epoch=0, fitness=0.5))
        told["not kept"] = _time(lambda: session.save("last.pt", epoch=0, fitness=0.5))
        session.close()
        shutil.rmtree(Path(".hubstate", session.id, "snapshots"))  # the disk may not have room for both
        Path("folder").mkdir()
        Path("last.pt").unlink()
        for number in range(8):
            _write(Path(f"folder/model-{number}.safetensors"), size // 8)
        session = hubstate.start("bench", mode="offline")
        session.log({"loss": 0.5})
        told["folder"] = _time(lambda: session.save("folder", epoch=0, fitness=1.0))
        session.close()
        os.chdir("/")
    return told


def _write(path: Path, megabytes: int) -> None:
    with path.open("wb", buffering=0) as file:
        for _ in range(megabytes):
            file.write(BLOCK[:1_000_000])


def _time(call: Callable[[], object]) -> float:
    before = time.perf_counter()
    call()
    return time.perf_counter() - before


def main() -> None:
    """Several runs, as a table."""
    gigabytes = sys.argv[1] if len(sys.argv) > 1 else "1"
    runs = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    print(f"{machine()}; {gigabytes} GB, {runs} runs; seconds, median (min to max)\n")
    told = [in_a_process(__file__, "--one", gigabytes) for _ in range(runs)]
    print("| what | seconds |\n|---|---|")
    for words, name in {
        "`session.save` of a file": "file",
        "`session.save` of a folder of eight files": "folder",
        "a save that is not kept": "not kept",
        "`shutil.copyfile`": "plain",
    }.items():
        print(f"| {words} | {spread([run[name] for run in told], 4 if name == 'not kept' else 2)} |")


run_as(__name__, main, one)
