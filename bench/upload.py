"""How fast a large checkpoint reaches one's own hub, and what it costs in memory, beside `curl -F` to the same hub.

    python bench/upload.py [GIGABYTES] [RUNS]

One hub, in a process of its own; by turns curl sends the file as a form, and hubstate delivers it (in parts that may be
cut, as it does with all that is large). Both send the same bytes, and the hub digests and syncs both. Beside that, a
session logs rows while its checkpoint leaves: how many of them the hub acknowledged before the file. The file is in the
page cache; three times as much room is needed below TMPDIR.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hub import serving
from measure import in_a_process, machine, run_as, spread

import hubstate
from hubstate.actions import OpenSession, SendCheckpoint
from hubstate.hubs.base import Accepted, Parcel
from hubstate.hubs.hub_v1 import HubV1
from hubstate.opening import new_id
from hubstate.snapshots import digest
from hubstate.states import CheckpointKind


def one(how: str, url: str, path: str, sha256: str) -> dict[str, float]:
    """One upload: seconds, and for hubstate the memory beyond what the process held before, in MB."""
    session = new_id(time.time(), random.SystemRandom())
    client = HubV1(url, None)
    opening = OpenSession(key=f"{session}/1/open", attempt=1, session=session, name="bench")
    _accepted(client, Parcel(opening.key, opening, session))
    file = Path(path)
    if how == "curl":
        fields = {"epoch": "0", "type": "epoch", "kind": "last", "attempt": "1", "sha256": sha256}
        command = ["curl", "-sS", "-f", "-o", "answer.json", f"{url}/v1/models/{session}/upload"]
        for name, value in fields.items():
            command += ["-F", f"{name}={value}"]
        before = time.perf_counter()
        subprocess.run([*command, "-F", f"last.pt=@{path}"], check=True)
        return {"seconds": time.perf_counter() - before, "memory": 0.0}
    action = SendCheckpoint(
        key=f"{session}/1/checkpoint/last/1",
        attempt=1,
        kind=CheckpointKind.LAST,
        epoch=0,
        snapshot=file.name,
        size=file.stat().st_size,
    )
    held = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    before = time.perf_counter()
    _accepted(client, Parcel(action.key, action, session, session, file=file, sha256=sha256))
    taken = time.perf_counter() - before
    client.close()
    return {"seconds": taken, "memory": _memory("VmHWM") - held}


def _accepted(client: HubV1, parcel: Parcel) -> None:
    reply = client.deliver(parcel)
    if not isinstance(reply, Accepted):
        sys.exit(f"not delivered: {reply}")


def _memory(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1000


def rows_meanwhile(url: str, path: str) -> dict[str, float]:
    """Rows that a session logs, ten a second, while its checkpoint leaves: how many were acknowledged before that was."""
    limits = hubstate.Limits(metrics=0.2, checkpoint=0.0)
    session = hubstate.start("bench", hub=url, limits=limits)
    session.log({"loss": 0.5})
    before = time.perf_counter()
    session.save(path, epoch=0)
    saved = time.perf_counter() - before
    delivered = session.receipt.rows_delivered
    epoch = 1
    while not session.receipt.files_delivered and time.perf_counter() - before < 300:
        session.log({"loss": 0.5}, epoch=epoch)
        epoch += 1
        time.sleep(0.1)  # the pace of the training that goes on beside the upload
    rows = session.receipt.rows_delivered - delivered
    taken = time.perf_counter() - before - saved
    session.finish()
    return {"rows": rows, "logged": epoch - 1, "seconds": taken}


def main() -> None:
    """Several runs by turns, as a table."""
    gigabytes = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
    runs = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        path = Path(name, "last.pt")
        block = os.urandom(1_000_000)
        with path.open("wb") as file:
            for _ in range(int(gigabytes * 1000)):
                file.write(block)
        sha256 = digest(path)
        with serving(Path(name, "hub")) as url:
            told = {"hubstate": [], "curl": []}
            for turn in range(runs):
                for how in sorted(told, reverse=bool(turn % 2)):
                    arguments = (how, url, str(path), sha256)
                    told[how].append(in_a_process(__file__, "--one", *arguments))
            meanwhile = rows_meanwhile(url, str(path))
        os.chdir("/")
    speeds = {how: [gigabytes * 1000 / run["seconds"] for run in all_] for how, all_ in told.items()}
    ratios = [mine / theirs for mine, theirs in zip(speeds["hubstate"], speeds["curl"], strict=True)]
    memory = [run["memory"] for run in told["hubstate"]]
    print(f"{machine()}; {gigabytes:g} GB, {runs} runs by turns; median (min to max)\n")
    print("| what | |\n|---|---|")
    print(f"| hubstate, MB/s | {spread(speeds['hubstate'], 0)} |")
    print(f"| `curl -F`, MB/s | {spread(speeds['curl'], 0)} |")
    print(f"| hubstate / curl | {spread(ratios, 2)} |")
    print(f"| memory beyond what the process held before, MB | {spread(memory)} |")
    words = f"{meanwhile['rows']} of {meanwhile['logged']} in {meanwhile['seconds']:.1f} s"
    print(f"| rows acknowledged while a checkpoint left | {words} |")


run_as(__name__, main, one)
