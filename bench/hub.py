"""One's own hub, in a process of its own, as the benches of this folder meet it."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

__all__ = ["serving"]

_SERVE = """
import sys, threading
from pathlib import Path
from hubstate.server.running import running
with running(Path(sys.argv[1])) as hub:
    print(hub.url, flush=True)
    threading.Event().wait()
"""


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Its address, as long as it is there; it keeps what it is given in `folder`."""
    command = [sys.executable, "-c", _SERVE, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            address = server.stdout.readline().strip()
            if not address:
                sys.exit("the hub did not start; what it said stands above")
            yield address
        finally:
            server.terminate()
