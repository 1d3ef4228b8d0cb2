"""Deterministic simulation: the whole stack in one thread, under virtual time, with every fault that a seed draws.

In the manner of FoundationDB's simulator and TigerBeetle's VOPR. What runs is real: the decisions, the journal on real
files, the outbox in SQLite, the sender, the client's requests and its judgement of answers, the server's functions over
its own SQLite file. Replaced are the clock, the threads, the sockets and the disk's obedience, each at a seam that is
there anyway. One seed draws everything else: what trainings do, what becomes of each request, when the disk is full,
where a process dies, and what the power takes with it. So a seed is a whole world, and the same one every time.

While a world runs, the properties S1 to S9 are watched; when its faults have ended, everything that was recorded has
to be at the hub, row by row and byte by byte, and every session drained, or given up by somebody.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
import signal
import statistics
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import chdir
from dataclasses import dataclass, field, replace
from pathlib import Path

import structlog

from hubstate.actions import Memory, SendCheckpoint
from hubstate.events import name_of
from hubstate.index import sessions_in
from hubstate.journal import recover
from hubstate.machine import TABLE
from hubstate.opening import SNAPSHOTS, leftovers
from hubstate.proof.judgement import digest_of, judge
from hubstate.proof.network import WEATHERS
from hubstate.proof.trainer import DIRECTORY, Ledger, People
from hubstate.proof.witness import Broken
from hubstate.proof.world import World
from hubstate.states import State
from hubstate.sync import OPEN_ENDED

__all__ = ["ENOUGH_RUNS", "MUST_COVER", "Report", "Run", "row_name", "run", "runs"]

#: What every run reaches at least.
EPOCHS, HOURS = 100, 6.0
#: From so many runs on, nothing may stay uncovered.
ENOUGH_RUNS = 1_000

_DELIVERIES = (
    "open", "rows", "last checkpoint", "best checkpoint", "final checkpoint", "close", "end", "heartbeat", "usage",
)  # fmt: skip
#: Everything that has to have happened: rows of the table, deliveries of each kind and how they went, faults, deeds.
MUST_COVER: tuple[str, ...] = (
    *(f"row {number}" for number in range(1, len(TABLE) + 1)),
    *(f"arrival: {kind}" for kind in _DELIVERIES),
    *(f"arrival: {kind}, again" for kind in _DELIVERIES if kind != "heartbeat"),
    *(f"delivered: {kind}" for kind in _DELIVERIES),
    *(f"refused: {kind}" for kind in _DELIVERIES),
    *(f"held_up: {kind}" for kind in _DELIVERIES),
    *(f"fault: {name}" for name in dict.fromkeys(name for weather in WEATHERS.values() for name in weather)),
    "fault: late duplicate arrives",
    "fault: outage for days",
    "fault: full disk",
    "fault: short write",
    "fault: failing write",
    "fault: failing fsync",
    "fault: no room for a copy",
    "fault: no file can be made",
    "fault: a line cannot be cut back",
    "fault: a file lost with the power",
    "fault: unsynced bytes lost with the power",
    "fault: killed before a line",
    "fault: killed torn a line",
    "fault: killed after a line",
    "fault: killed before a request",
    "fault: killed after a request",
    "fault: clock set while training",
    "fault: clock set between processes",
    "end of a process: finish",
    "end of a process: kill",
    "end of a process: power cut",
    "end of a process: error",
    "end of a process: interrupt",
    "end of a process: leave",
    "deed: sync",
    "deed: retry refused",
    "deed: give up",
    "deed: conclude",
    "upload in parts",
    "upload goes on where it was cut",
    "a folder arrives",
    "a part of a send arrives",
    "a world with a foreign hub",
    "wish to stop",
    "illegal event",
    "a call after the end",
    "rows lost with a process",
)


@dataclass(frozen=True)
class Run:
    """What became of one seed. `failure` is empty where everything held; times in simulated hours."""

    seed: int
    failure: str
    epochs: int
    hours: float
    digest: str
    counts: Counter[str]
    story: tuple[str, ...] = ()


def run(seed: int, folder: Path | None = None) -> Run:
    """One world, from its beginning to its judgement; the same seed gives the same run, whatever else happens.

    It lies in a new folder within `folder` (None: in memory, where this machine has a file system for that), which is
    removed afterwards. The working directory is changed meanwhile: run one at a time in a process.
    """
    memory = Path("/dev/shm")  # noqa: S108 - a folder of its own is made in it
    place = Path(tempfile.mkdtemp(prefix="hubstate-", dir=folder or (memory if memory.is_dir() else None)))
    try:
        with chdir(place):
            return _run(seed)
    finally:
        shutil.rmtree(place)


def _run(seed: int) -> Run:
    world = World(seed)
    people = People(world)
    failure = ""
    try:
        with world.running():
            _live(world, people)
            for folder in sessions_in(DIRECTORY):
                judge(folder, people.ledgers.get(folder.name, Ledger()), world)
    except Broken as broken:
        failure = str(broken)
        world.tell(f"BROKEN: {failure}")
    digest = digest_of(list(sessions_in(DIRECTORY)), world)
    world.house.close()
    hours = world.clock.monotonic() / 3600.0
    return Run(seed, failure, people.epochs, hours, digest, world.counts, tuple(world.story))


# -- the life of a world ---------------------------------------------------------------------------------


def _live(world: World, people: People) -> None:
    chance = world.fork()
    names = ("digits", "segments", "digits-2")
    while people.epochs < EPOCHS:
        resume = chance.random() < 0.7
        people.train(chance.choice(names), resume=resume)
        _between(world, people)
    rest = HOURS * 3600.0 - world.clock.monotonic()
    if rest > 0:
        world.tell(f"the machine rests for {rest / 3600:.1f} hours")
        world.clock.advance(rest + 1.0)
    _end(world, people)


def _between(world: World, people: People) -> None:
    """What happens while nobody trains."""
    chance = world.fork()
    world.clock.advance(chance.choice((0.0, 1.0, 20.0, 600.0, 40_000.0)) * chance.random())
    if chance.random() < 0.15:
        world.clock.jump(chance.choice((-400_000.0, -3600.0, -1.0, 3600.0, 400_000.0)))
        world.counts["fault: clock set between processes"] += 1
        world.tell("the machine's clock is set")
    if chance.random() < 0.06:
        world.away(chance.uniform(40_000.0, 400_000.0))
        world.clock.advance(chance.uniform(0.0, 400_000.0))
    for folder in list(sessions_in(DIRECTORY)):
        draw = chance.random()
        state = recover(folder).memory.state
        if draw < 0.1:
            world.counts["deed: sync"] += 1
            people.look_after(folder)
        elif draw < 0.15:
            world.counts["deed: retry refused"] += 1
            people.look_after(folder, retry=True)
        elif draw < 0.18 and state in OPEN_ENDED:
            world.counts["deed: conclude"] += 1
            people.conclude(folder)
        elif draw < 0.2 and state is not State.IDLE:
            world.counts["deed: give up"] += 1
            people.give_up(folder)


def _end(world: World, people: People) -> None:
    """Faults end, and then everybody who cares brings their sessions to an end."""
    chance = world.fork()
    world.heal()
    for folder in list(sessions_in(DIRECTORY)):
        memory = recover(folder).memory
        if memory.state in OPEN_ENDED and chance.random() < 0.5:
            people.train(memory.name, resume=folder.name, last=True)
        elif memory.state in OPEN_ENDED:
            people.conclude(folder)
    for _ in range(3):
        for folder in list(sessions_in(DIRECTORY)):
            if recover(folder).memory.outstanding:
                people.look_after(folder, retry=True, patience=7_200.0)
    for folder in list(sessions_in(DIRECTORY)):
        if _is_taken(folder, recover(folder).memory, world.disk.taken):
            world.counts["deed: give up what the power took"] += 1
            people.give_up(folder)
            people.look_after(folder)
        elif leftovers(folder, recover(folder).memory):
            # Whoever died between the last word and its sync left them.
            world.counts["deed: tidy up after a death"] += 1
            people.tidy(folder)
    world.network.settle()


def _is_taken(folder: Path, memory: Memory, taken: set[Path]) -> bool:
    """Whether all that is refused are copies that a power cut took before anybody had synced them.

    The lines that name them survived by luck. What nobody has can only be given up.
    """
    keys = {refused.key for refused in memory.refused}
    files = [action for action in memory.outstanding if action.key in keys]
    return bool(files) and all(
        isinstance(a, SendCheckpoint) and folder / SNAPSHOTS / a.snapshot in taken for a in files
    )


# -- many of them ----------------------------------------------------------------------------------------


@dataclass
class Report:
    """What became of many seeds."""

    runs: list[Run] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, one: Run) -> None:
        """One more run."""
        self.runs.append(one)
        self.counts.update(one.counts)

    @property
    def failed(self) -> list[Run]:
        """The runs in which something did not hold, by seed."""
        return sorted((one for one in self.runs if one.failure), key=lambda one: one.seed)

    @property
    def uncovered(self) -> list[str]:
        """What never happened, of what must."""
        return [name for name in MUST_COVER if not self.counts[name]]

    @property
    def holds(self) -> bool:
        """Whether nothing failed, every run was long enough, and, in many runs, everything was covered."""
        short = any(one.epochs < EPOCHS or one.hours < HOURS for one in self.runs)
        covered = len(self.runs) < ENOUGH_RUNS or not self.uncovered
        return not self.failed and not short and covered

    def __str__(self) -> str:
        if not self.runs:
            return "no run"
        hours = sorted(one.hours for one in self.runs)
        epochs = sorted(one.epochs for one in self.runs)
        return (
            f"{len(self.runs)} runs, {len(self.failed)} failed; simulated hours: median "
            f"{statistics.median(hours):.1f}, least {hours[0]:.1f}, {sum(hours) / 8766:.1f} years in all; "
            f"epochs: median {statistics.median(epochs):.0f}, least {epochs[0]}, {sum(epochs)} in all"
        )


def runs(first: int, count: int, jobs: int, *, stories: bool = False) -> Iterator[Run]:
    """The seeds from `first` on, in `jobs` processes, as they are done.

    The story is kept of those that failed, or of all (`stories`). A seed that breaks the simulator itself comes as a failed run as well, named by the exception.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_end_with_its_parent) as pool:
        seeds = iter(range(first, first + count))
        pending: dict[Future[Run], int] = {}
        while True:
            while len(pending) < 2 * jobs and (seed := next(seeds, None)) is not None:
                pending[pool.submit(_told, seed, stories=stories)] = seed
            if not pending:
                return
            for done in wait(pending, return_when=FIRST_COMPLETED).done:
                seed = pending.pop(done)
                error = done.exception()
                if error is None:
                    yield done.result()
                else:
                    yield Run(seed, f"{type(error).__name__}: {error}", 0, 0.0, "", Counter())


def _end_with_its_parent() -> None:
    """In a process of ours: whoever began it may be killed, and then it ends as by Ctrl-C, and its world goes with it."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "it was spawned"
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it

    def watch() -> None:
        parent.join()
        while True:  # the first one ends a world, and the pool goes on to the next
            os.kill(os.getpid(), signal.SIGINT)
            threading.Event().wait(1.0)

    threading.Thread(target=watch, daemon=True).start()


def _told(seed: int, *, stories: bool) -> Run:
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL)
    )  # a process of ours
    one = run(seed)
    return one if one.failure or stories else replace(one, story=())


def row_name(name: str) -> str:
    """A name of what was covered in words: of a row of the table, what it is about."""
    if not name.startswith("row "):
        return name
    rule = TABLE[int(name.removeprefix("row ")) - 1]
    sources = "any state" if len(rule.sources) == len(State) else ", ".join(s.value for s in rule.sources)
    events = ", ".join(name_of(event) for event in rule.events)
    guards = f" [{' and '.join(guard.name for guard in rule.guards)}]" if rule.guards else ""
    target = f" -> {rule.target.value}" if rule.target else ""
    return f"{name}: {sources} / {events}{guards}{target}"
