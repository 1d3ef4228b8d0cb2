"""Forks small runs, and kills them as it is asked to: a program that has imported all that they need beforehand.

A line of JSON on stdin asks for one run, and a line on stdout tells what became of it. Of a run that was killed, what
it told until then stands in memory that it shared with this process: telling is no system call.
"""

from __future__ import annotations

import importlib
import json
import mmap
import os
import struct
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tracing

__all__ = ["Killer", "killer"]

_LENGTH = struct.Struct("Q")
_ROOM = 1 << 20


class Killer:
    """The program, seen from who asks."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(self, what: str, folder: Path, hub: str, **how: Any) -> dict[str, Any]:
        """Runs `train` or `sync` in `folder`; `kill_at` and `part` as in `tracing.follow`, `phase`, `nth` and
        `seconds` of an alarm as in `small_run.Phases`.

        Returns `killed`, `calls` (how many writing calls were met), `at` (where it was killed), `told` (a list of word
        and matter), and with `listed` each call that was met. Raises what hindered the run.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        asked = {"what": what, "folder": str(folder), "hub": hub, **how}
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        failures = [matter for word, matter in answer["told"] if word == "failed"]
        assert not failures, failures[0]
        return answer


@contextmanager
def killer() -> Iterator[Killer]:
    """The program, for as long as the block lasts."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    with subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        yield Killer(process)


class _Told:
    """What a run tells, in memory that outlives it."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _ROOM)

    def __call__(self, word: str, matter: object) -> None:
        line = json.dumps([word, matter]).encode() + b"\n"
        (length,) = _LENGTH.unpack_from(self._memory)
        begin = _LENGTH.size + length
        self._memory[begin : begin + len(line)] = line
        _LENGTH.pack_into(self._memory, 0, length + len(line))  # only now does the line count

    def lines(self) -> list[Any]:
        (length,) = _LENGTH.unpack_from(self._memory)
        return [json.loads(line) for line in self._memory[_LENGTH.size :][:length].splitlines()]


def _run(asked: dict[str, Any]) -> dict[str, Any]:
    told = _Told()
    begin, seized = os.pipe()
    traced = not asked.get("phase")
    child = os.fork()
    if child == 0:
        os.close(seized)
        os.read(begin, 1)
        _be(asked, told, traced=traced)
    os.close(begin)
    met: list[list[Any]] = []
    if traced:
        tracing.seize(child)
    os.close(seized)
    if traced:
        listed = (lambda call: met.append(list(call))) if asked.get("listed") else (lambda _call: None)
        found = tracing.follow(child, asked.get("kill_at"), asked.get("part"), listed)
    else:
        found = tracing.Traced(os.waitpid(child, 0)[1], 0, None)
    killed = os.WIFSIGNALED(found.status)
    return {
        "killed": killed,
        "calls": found.calls,
        "at": found.killed_at,
        "told": told.lines(),
        "listed": met,
    }


def _be(asked: dict[str, Any], told: _Told, *, traced: bool) -> None:
    """The forked child: it does what was asked for, and never returns."""
    import small_run

    code = 1
    try:
        folder = Path(asked["folder"])
        os.environ["XDG_DATA_HOME"] = str(folder / "data")
        os.chdir(folder)
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115, PTH123 - it lives as long as the process
        if traced:
            tracing.let_me_be_traced()
        alarm = (asked.get("phase", ""), asked.get("nth", 0), asked.get("seconds", 0.0))
        phases = small_run.Phases(told, *alarm)
        {"train": small_run.train, "sync": small_run.sync}[asked["what"]](folder, asked["hub"], told, phases)
        code = 0
    except BaseException:
        told("failed", traceback.format_exc())
        raise
    finally:
        os._exit(code)


def _serve() -> None:
    # What a run imports while it lasts, it would import anew each time.
    for module in ("small_run", "hubstate.cli.sync", "hubstate.hubs.hub_v1", "hubstate.rounds"):
        importlib.import_module(module)
    for line in sys.stdin:
        print(json.dumps(_run(json.loads(line))), flush=True)


if __name__ == "__main__":
    _serve()
