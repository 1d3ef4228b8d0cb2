"""The real command `hubstate`, run as a process of its own; and sessions for it to look at."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import hubstate

__all__ = ["EXECUTABLE", "run", "silent", "trained"]

#: Beside the interpreter that runs the tests: the one that was installed with them.
EXECUTABLE = str(Path(sys.executable).parent / "hubstate")


def run(*arguments: str | Path, stdin: str = "", code: int = 0) -> subprocess.CompletedProcess[str]:
    """Runs the command with pipes on all sides; it has to end with `code`, and without a traceback."""
    ended = subprocess.run(
        [EXECUTABLE, *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "Traceback" not in ended.stderr, ended.stderr
    assert ended.returncode == code, (ended.returncode, ended.stdout, ended.stderr)
    return ended


def trained(name: str = "digits", epochs: int = 3) -> str:
    """A session that came to its end without a hub; its id."""
    with hubstate.start(name, epochs=epochs, mode="offline") as session:
        for epoch in session.epochs():
            session.log({"loss": 1 / (epoch + 1), "odd": float("nan")})
    return session.id


def silent(name: str = "digits") -> str:
    """A session that its process let go of in the middle of the training; its id."""
    session = hubstate.start(name, epochs=9, mode="offline")
    session.log({"loss": 1.0})
    session.close()
    return session.id
