"""What hubstate costs to import, to start, and in memory.

python bench/footprint.py [RUNS]
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from measure import in_a_process, machine, run_as, spread

#: What a session needs beside hubstate itself; `requests` is loaded by the sender's thread.
DEPENDENCIES = ("msgspec", "platformdirs", "transitions", "requests", "sqlite3", "hashlib", "gzip", "tomllib")


def resident() -> float:
    """The memory that this process holds now, in MB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def one(what: str) -> float:
    """One measurement: ms for the times, MB for the memory."""
    if what == "import":
        before = time.perf_counter()
        import hubstate

        return (time.perf_counter() - before) * 1e3
    if what == "dependencies":
        before = resident()
        for name in DEPENDENCIES:
            __import__(name)
        return resident() - before
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        if what == "start, silent hub":
            listener.listen(16)
        address = None if what == "start, no hub" else f"http://127.0.0.1:{listener.getsockname()[1]}"
        if what == "a running session":
            return _session(folder)
        before = time.perf_counter()
        import hubstate

        session = hubstate.start("bench", directory=folder, hub=address)
        taken = (time.perf_counter() - before) * 1e3
        session.close()
    return taken


def _session(folder: str) -> float:
    """MB that a session adds to a process that has trained and delivered 2,000 rows, the imports included."""
    serve = (
        "import sys, threading; from pathlib import Path; from hubstate.server.running import running\n"
        "with running(Path(sys.argv[1])) as hub:\n"
        "    print(hub.url, flush=True); threading.Event().wait(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", serve, f"{folder}/hub"], stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        before = resident()
        import hubstate

        limits = hubstate.Limits(metrics=0.05)
        session = hubstate.start("bench", directory=folder, hub=address, limits=limits)
        for epoch in range(2_000):
            session.log({f"metric/{number}": float(number) for number in range(10)}, epoch=epoch)
        if not session.flush(30):
            sys.exit("the rows did not arrive: the figure would be another one")
        added = resident() - before
        threads = threading.active_count() - 1
        session.close()
        server.terminate()
    if threads > 2:
        sys.exit(f"{threads} threads beside the main one: at most two are promised")
    return added


def main() -> None:
    """All of it, several runs each, as a table."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    print(f"{machine()}; {runs} runs in processes of their own; median (min to max)\n")
    print("| what | |\n|---|---|")
    rows = {
        "`import hubstate`, ms": "import",
        "import and `start`, no hub, ms": "start, no hub",
        "import and `start`, a hub that refuses, ms": "start, refused",
        "import and `start`, a hub that never answers, ms": "start, silent hub",
        "a running session that has delivered 2,000 rows adds, MB": "a running session",
        f"of that the dependencies alone ({', '.join(DEPENDENCIES)}), MB": "dependencies",
    }
    for words, what in rows.items():
        told = [in_a_process(__file__, "--one", what) for _ in range(runs)]
        print(f"| {words} | {spread(told)} |", flush=True)


run_as(__name__, main, one)
