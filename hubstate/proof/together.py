"""Work that several processes share: what is found is told in its order, and nobody is waited for in vain.

Each job has a process of its own. So it can be ended at any moment, which a pool does to none that runs, and what it
held is free again when it is done.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple, TypeVar

from hubstate.errors import HubstateError

__all__ = ["in_turn"]

_T = TypeVar("_T")


class _Worker(NamedTuple):
    """A process that does the job of that number, and where it tells what it found."""

    number: int
    process: BaseProcess
    found: Connection

    def end(self) -> None:
        """Ends it at once, if it did not end by itself. It has nothing but what it found, so nothing is left behind."""
        self.process.kill()
        self.process.join()
        self.process.close()
        self.found.close()


def in_turn(
    jobs: Mapping[str, Callable[[], _T]], processes: int, is_last: Callable[[_T], bool]
) -> Iterator[_T]:
    """What each job finds, in the order of the jobs, up to the first one that `is_last` holds for.

    `processes`: how many jobs run at once. The last job is meant to be the largest: it begins first, so that it is not
    left alone at the end. The others begin in their order, so that what is found in a small one is told early; what
    stands behind it is not begun, or ended at once. Where it can be, a process is a copy of this one, whatever was
    replaced in it; elsewhere a job has to be something that can be handed over. Raises `HubstateError` if a process
    ends before it told anything.
    """
    names = list(jobs)
    end = len(names)
    rest = [end - 1, *range(end - 1)] if names else []
    running: dict[int, _Worker] = {}
    found: dict[int, _T] = {}
    turn = 0
    try:
        while turn < end:
            while rest and len(running) < max(1, processes):
                number = rest.pop(0)
                running[number] = _begun(number, jobs[names[number]])
            for number in _ready(running):
                found[number] = _told(running[number], names[number])
                running.pop(number).end()
                if is_last(found[number]):
                    end = min(end, number + 1)
            rest = [number for number in rest if number < end]
            for number in [number for number in running if number >= end]:
                running.pop(number).end()
            while turn < end and turn in found:
                yield found.pop(turn)
                turn += 1
    finally:
        for worker in running.values():
            worker.end()


def _begun(number: int, job: Callable[[], Any]) -> _Worker:
    forks = "fork" in multiprocessing.get_all_start_methods()
    kind: type[BaseProcess] = (
        multiprocessing.get_context("fork").Process if forks else multiprocessing.Process
    )
    here, there = multiprocessing.Pipe(duplex=False)
    process = kind(target=_do, args=(there, job), daemon=True)
    process.start()
    there.close()  # the process alone holds this end, so that its death can be seen at the other one
    return _Worker(number, process, here)


def _ready(running: Mapping[int, _Worker]) -> list[int]:
    """The numbers of those that told something, or died; waits for one."""
    ready = wait([worker.found for worker in running.values()])
    return [number for number, worker in running.items() if worker.found in ready]


def _told(worker: _Worker, name: str) -> Any:
    try:
        return worker.found.recv()
    except EOFError:
        worker.process.join()
        code = worker.process.exitcode
        raise HubstateError(
            f"the process that works on {name!r} ended with {code} and told nothing; if it was killed (-9), there may be "
            "too little memory: let fewer processors share the work (taskset), or take a smaller bound"
        ) from None


def _do(there: Connection, job: Callable[[], Any]) -> None:
    """In a process of ours."""
    threading.Thread(target=_end_with_its_parent, daemon=True).start()
    # Whoever interrupts at the keyboard means the process that waits for this one, and that one ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # All that is made is kept until the end, so looking for what could go costs time for nothing.
    gc.disable()
    there.send(job())
    there.close()


def _end_with_its_parent() -> None:
    """Whoever waits for this process may be killed: then nobody wants to hear of it any more."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "another process began it"
    parent.join()
    os._exit(1)
