"""Trainings as processes of their own, alone or under `hubstate run`; and what their only session tells afterwards."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hubstate.overview import Overview, look
from hubstate.states import Outcome, State

__all__ = ["HANGS", "PYTHON", "RUN", "begun", "ended", "only_session", "script", "told"]

PYTHON = sys.executable
#: `hubstate run`, by the interpreter that runs the tests.
RUN = [PYTHON, "-m", "hubstate", "run"]
#: A process that has not ended by then hangs (seconds).
HANGS = 120


def script(source: str, name: str = "train.py") -> Path:
    """A script that trains, in the working directory."""
    path = Path(name).absolute()
    path.write_text(source, encoding="utf-8")
    return path


@contextmanager
def begun(command: Sequence[str | Path], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A process with pipes on all sides, once it said `ready`; it is gone when the block is left."""
    process = subprocess.Popen(
        list(map(str, command)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )
    assert process.stdout is not None
    with process:
        try:
            said = process.stdout.readline()
            assert said == "ready\n", said + process.stderr.read()  # type: ignore[union-attr]
            yield process
        finally:
            process.kill()


def ended(
    command: Sequence[str | Path], *, hangs: float = HANGS, **options: Any
) -> subprocess.CompletedProcess[str]:
    """A process that came to its end, however it did; one that has not ended after `hangs` seconds hangs."""
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, timeout=hangs, **options
    )


def only_session(directory: Path = Path(".hubstate")) -> Path:
    """The folder of the only session here."""
    (folder,) = (path for path in directory.iterdir() if path.is_dir())
    return folder


def told(directory: Path = Path(".hubstate")) -> tuple[State, Outcome, str]:
    """What the only session here tells of its end."""
    seen: Overview = look(only_session(directory))
    return seen.receipt.state, seen.receipt.outcome, seen.receipt.reason
