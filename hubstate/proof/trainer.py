"""The people and programs of a simulated world: trainings that come and go, and who looks after what they leave.

A training does what trainings do: epochs of any length, rows of epochs and of steps, checkpoints of any size that are
overwritten and stripped afterwards, and one of many ends. Whatever it recorded stands in a ledger of its own, row by
row and file by file, which nobody but the last judgement reads.
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from hubstate import sync
from hubstate.actions import SendRows
from hubstate.errors import HubstateError, IllegalEvent, StorageError
from hubstate.events import (
    ExportStart,
    FitEpochEnd,
    ModelSave,
    PredictStart,
    Saved,
    TrainEnd,
    TrainStart,
    ValStart,
    exact,
)
from hubstate.hubs.base import Hub
from hubstate.index import sessions_in
from hubstate.journal import Entry, Step, read, recover
from hubstate.limits import Limits
from hubstate.opening import SNAPSHOTS, needed_snapshots
from hubstate.proof.disk import Killed
from hubstate.proof.network import ADDRESS, PATIENCE
from hubstate.proof.witness import Broken
from hubstate.proof.world import ROOT, Turns, World
from hubstate.server import models
from hubstate.server.answers import Caller, Problem
from hubstate.server.keys import DEFAULT_OWNER
from hubstate.session import Session, begin
from hubstate.settings import Settings
from hubstate.snapshots import look
from hubstate.states import Outcome, State
from hubstate.wish import Wish

__all__ = ["DIRECTORY", "Ledger", "People", "Row", "fingerprint"]

DIRECTORY = ROOT / "sessions"

#: How a process may end, and how likely each is.
_FATES = {
    "finish": 30,
    "kill": 14,
    "kill in a line": 14,
    "kill in a request": 14,
    "power cut": 12,
    "error": 8,
    "interrupt": 6,
    "leave": 8,
}
#: Kinds of epochs: the shortest and the longest (seconds), and how likely each is.
_PACES = ((0.01, 1.0, 42), (5.0, 120.0, 40), (60.0, 600.0, 15), (3600.0, 7200.0, 3))
#: How large a saved file is (bytes).
_SIZES = (100, 3_000, 60_000)
#: For so long the disk may not be asked to keep what was recorded, and no longer (seconds): the sender's longest sleep, and
#: all requests of an upload in parts, each as long as one may take; for here one thread does what two do in life.
_UNSYNCED = 60.0 + 5 * PATIENCE


class Row(NamedTuple):
    """A row as the trainer told it: `metrics` as they have to come out, `at` on the world's clock."""

    uid: int
    epoch: int
    step: int | None
    final: bool
    metrics: dict[str, float | int | None]
    nonfinite: dict[str, str]
    at: float


@dataclass
class Ledger:
    """What was recorded in one session, told by the trainer alone.

    `lost`: rows that died with a process that could not write them; `given_up`: rows that somebody gave up. `files`:
    the fingerprint of each checkpoint that was saved whole, by its time of change (ns).
    """

    rows: dict[int, Row] = field(default_factory=dict)
    lost: set[int] = field(default_factory=set)
    given_up: set[int] = field(default_factory=set)
    files: dict[int, str] = field(default_factory=dict)
    forgave: bool = False


class People:
    """All who use hubstate in one world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.ledgers: dict[str, Ledger] = {}
        self.epochs = 0
        self._chance = world.fork()
        self._uid = 0
        self._saves = 0
        self._known: dict[str, tuple[tuple[str, int], ...]] = {}
        self._session: Session | None = None
        self._aid: sync.Remainder | None = None
        DIRECTORY.mkdir()

    # -- a training --------------------------------------------------------------------------------------

    def train(self, name: str, *, resume: bool | str, last: bool = False) -> None:
        """One process that trains, from its start to whatever end it comes to. `last`: it ends well."""
        world, chance = self.world, self._chance
        fate = "finish" if last else chance.choices([*_FATES], [*_FATES.values()])[0]
        self._prepare(fate)
        world.witness.trained = None
        try:
            self._session = self._begun(name, resume=resume, last=last)
            if self._session is not None:
                world.witness.trained = self._session.id
                self._live(self._session, fate)
        except Killed:
            self._end_of_process(power=fate == "power cut")
        except HubstateError as failure:
            world.counts["a process that the disk failed"] += 1
            world.tell(f"the process ends: {failure}")
            self._end_of_process()
            world.passes(chance.uniform(60.0, 1200.0))
        else:
            self._end_of_process()

    def _prepare(self, fate: str) -> None:
        world, chance = self.world, self._chance
        world.counts[f"end of a process: {fate}"] += 1
        if fate == "kill in a line":
            world.disk.kill_at = (chance.randint(1, 120), chance.choice(("before", "torn", "after")))
        elif fate == "kill in a request":
            world.kill_request = (
                world.network.requests + chance.randint(1, 40),
                chance.choice(("before", "after")),
            )

    def _begun(self, name: str, *, resume: bool | str, last: bool) -> Session | None:
        world, chance = self.world, self._chance
        mode = "on" if last else chance.choices(("on", "offline", "off"), (88, 8, 4))[0]
        limits = Limits(
            metrics=chance.choice((0.0, 1.0, 3.0, 30.0)),
            checkpoint=chance.choice((0.0, 60.0, 900.0)),
            heartbeat=chance.choice((60.0, 300.0)),
        )
        choice = chance.choices(("all", "best", "last", "final", "none"), (60, 10, 10, 10, 10))[0]
        wish = Wish(
            name,
            tags=("simulated",),
            epochs=chance.randint(5, 60),
            config={"lr": 0.1},
            limits=limits,
            checkpoints=choice,
            resume=resume,
            usage=chance.random() < 0.3,
        )
        found = Settings(
            hub=ADDRESS,
            api_key="simulated",
            directory=DIRECTORY,
            mode=mode,
            data_folder=ROOT / "data",
            limits={"metrics": 3.0, "checkpoint": 900.0, "heartbeat": 300.0},
        )

        def open_hub(_address: str, _key: str | None) -> Hub:
            return world.hub()

        session = begin(
            wish, found, clock=world.clock, chance=world.fork(), open_hub=open_hub, say=_silent, threads=Turns
        )
        world.tell(
            f"{name} {'goes on' if session.last_checkpoint else 'begins'}: session {session.id or '(none)'}, "
            f"{wish.epochs} epochs, checkpoints {choice}, mode {mode}, {session.state.value}"
        )
        return session

    def _live(self, session: Session, fate: str) -> None:
        world, chance = self.world, self._chance
        low, high, _ = chance.choices(_PACES, [pace[2] for pace in _PACES])[0]
        most = chance.randint(1, 3) if low > 1000 else 10_000
        stop = chance.randint(0, 40)
        for done, epoch in enumerate(session.epochs(), 1):
            self._steps(session, epoch)
            world.passes(chance.uniform(low, high))
            self._log(session, epoch, None)
            if chance.random() < 0.6:
                self._save(session, epoch)
            self._aside(session)
            if session.id:
                self.epochs += 1
            if done > stop and self._ends_here(session, fate):
                return
            if done >= most:
                break
        if fate in ("error", "interrupt") and self._ends_here(session, fate):
            return
        self._last_words(session)

    def _ends_here(self, session: Session, fate: str) -> bool:
        world = self.world
        match fate:
            case "kill" | "power cut":
                world.tell("the power is cut" if fate == "power cut" else "kill -9")
                world.disk.die()
            case "error":
                world.tell("the training fails")
                session.abort("ValueError: the loss is no number")
            case "interrupt":
                world.tell("Ctrl-C")
                session.abort("interrupted by Ctrl-C", outcome=Outcome.INTERRUPTED)
            case "leave":
                world.tell("the process ends without a word")
                session.close()
            case _:
                return False
        return True

    def _last_words(self, session: Session) -> None:
        world, chance = self.world, self._chance
        if session.state is State.TRAINING and chance.random() < 0.3:
            epoch = max(0, (session._door.memory.epoch or 0))  # noqa: SLF001 - the epoch that was logged last
            self._log(session, epoch, None, final=True)
        if session.state is State.TRAINING and chance.random() < 0.3:
            self._save(session, 0, kind="final")
        session.finish(timeout=chance.choice((0.0, 5.0, 30.0)))
        world.tell(f"the training ends: {session.state.value}, {session.waiting} wait")
        with world.witness.deaf():  # a door that is closed decides nothing
            try:
                session.log({"late": 1.0})
            except IllegalEvent:
                world.counts["a call after the end"] += 1

    # -- what it says ------------------------------------------------------------------------------------

    def _steps(self, session: Session, epoch: int) -> None:
        chance = self._chance
        if chance.random() < 0.2:
            for step in range(chance.randint(1, 8)):
                self.world.passes(chance.uniform(0.0, 2.0))
                self._log(session, epoch, step)

    def _log(self, session: Session, epoch: int, step: int | None, *, final: bool = False) -> None:
        chance = self._chance
        self._uid += 1
        told: dict[str, float] = {"loss": chance.random(), "uid": self._uid}
        if chance.random() < 0.05:
            told["odd"] = chance.choice((math.nan, math.inf, -math.inf))
        values, nonfinite = exact(told)
        row = Row(self._uid, epoch, step, final, values, nonfinite, self.world.clock.monotonic())
        if session.id:
            # It counts from before it is said: a process may die behind the line that holds it.
            self.ledgers.setdefault(session.id, Ledger()).rows[row.uid] = row
        if final:
            session.tell(FitEpochEnd, epoch, values, nonfinite, final=True)
        else:
            session.log(told, epoch=epoch, step=step)

    def _save(self, session: Session, epoch: int, *, kind: str = "last") -> None:
        """Writes a checkpoint, a file or a folder, and says so; afterwards it may be stripped, as trainers do."""
        chance, world = self._chance, self.world
        self._saves += 1
        # Its name, whether a hub is there or not, is told by the memory alone.
        path = ROOT / f"{session._door.memory.name or 'unnamed'}-{kind}"  # noqa: SLF001
        whole = chance.random() > 0.03
        names = [""] if chance.random() < 0.85 else ["config.json", "model/a.bin", "model/b.bin"]
        contents = {name: chance.randbytes(chance.choice(_SIZES)) for name in names}
        if not whole:
            # The beginning of a zip archive that was never finished.
            contents[names[-1]] = b"PK\x03\x04" + contents[names[-1]]
        stamp = int((world.clock.monotonic() + 1_000_000) * 1e9) + self._saves
        _written(path, contents, stamp)
        if session.id and whole:
            files = self.ledgers.setdefault(session.id, Ledger()).files
            files[stamp] = fingerprint(contents)
        fitness = chance.choice((None, chance.random()))
        session.save(path, epoch=None if kind == "last" else epoch, fitness=fitness, kind=kind)
        if chance.random() < 0.4:
            stripped = {name: content[: len(content) // 2] for name, content in contents.items()}
            _written(path, stripped, stamp + 1)

    def _aside(self, session: Session) -> None:
        """What happens beside a training, now and then."""
        chance, world = self._chance, self.world
        draw = chance.random()
        if draw < 0.02:
            session.tell(chance.choice((ValStart, PredictStart, ExportStart)))
        elif draw < 0.03:
            session.tell(TrainStart)  # has no place here
        elif draw < 0.035 and session.id:
            self._wish_to_stop(session.id)
        elif draw < 0.045:
            world.clock.jump(chance.choice((-86_400.0, -60.0, 60.0, 86_400.0)))
            world.counts["fault: clock set while training"] += 1
        elif draw < 0.055:
            session.flush(timeout=chance.choice((0.0, 10.0)))

    def _wish_to_stop(self, session: str) -> None:
        world = self.world
        try:
            models.ask_to_stop(world.house.store, Caller(DEFAULT_OWNER, ADDRESS), session, "enough")
        except Problem:
            return  # the hub has not heard of it yet
        world.counts["wish to stop"] += 1
        world.tell("somebody at the hub wishes that it stops")

    # -- the end of a process ----------------------------------------------------------------------------

    def _end_of_process(self, *, power: bool = False) -> None:
        """The process is gone: its objects are dropped, its files stay, and with the power not even all of those."""
        world = self.world
        session, aid = self._session, self._aid
        self._session = self._aid = None
        unwritten = {}
        # What a process held is looked at as it dies; no trainer could, so no session shows it.
        for opened in (None if session is None else session._opened, None if aid is None else aid._opened):  # noqa: SLF001
            if opened is not None:
                unwritten[opened.folder.name] = opened.door.unwritten
        if session is not None and session._opened is not None:  # noqa: SLF001
            self._look_at_what_is_unasked(session._opened.folder)  # noqa: SLF001
        world.process_ends()
        if world.disk.disorder:
            raise Broken(f"S1: {world.disk.disorder}")
        gone = world.disk.taken.copy()
        if power:
            world.disk.cut_power(list(sessions_in(DIRECTORY)))
        world.witness.trained = ""
        for folder in sessions_in(DIRECTORY):
            known = tuple((file.name, file.stat().st_size) for file in sorted(folder.glob("journal-*")))
            if self._known.get(folder.name) == known and not power:
                continue  # nobody wrote in it
            self._known[folder.name] = known
            entries = list(read(folder))
            steps = [entry.line for entry in entries if isinstance(entry.line, Step)]
            world.witness.ended(folder, steps, judge=not power)
            self._take_stock(folder, steps, unwritten.get(folder.name, 0), power=power)
            self._look_at_copies(folder, entries, world.disk.taken - gone)

    def _look_at_what_is_unasked(self, folder: Path) -> None:
        """Whoever trains has the disk keep its journal again and again; where that failed just now it is tried once more.

        Raises `Broken` if something of it waited for longer than a power cut may reach back.
        """
        disk = self.world.disk
        waited = max((disk.unasked(path) for path in folder.glob("journal-*.jsonl")), default=0.0)
        excused = self.world.clock.monotonic() - disk.failed_sync <= _UNSYNCED
        if waited > _UNSYNCED and not excused:
            raise Broken(
                f"S1: nobody asked the disk to keep what was recorded of {folder.name} {waited:.0f} s ago"
            )

    def _take_stock(self, folder: Path, steps: list[Step], unwritten: int, *, power: bool) -> None:
        """What the trainer recorded is in the journal, but for what died with the process.

        Raises `Broken` if more is missing than may be.
        """
        ledger = self.ledgers.get(folder.name)
        if ledger is None:
            return
        there = {row_uid(step) for step in steps if step.row}
        missing = [uid for uid in ledger.rows if uid not in there and uid not in ledger.lost]
        if not missing:
            return
        # The last row may have been under way, in a call that never returned.
        if not power and len(missing) > unwritten + 1:
            raise Broken(
                f"S1: {len(missing)} rows of {folder.name} are not in its journal, and {unwritten} were unwritten"
            )
        self.world.counts["rows lost with a process"] += len(missing)
        self.world.tell(f"{len(missing)} rows of {folder.name} died with the process, unwritten")
        ledger.lost |= set(missing)

    def _look_at_copies(self, folder: Path, entries: list[Entry], lost: set[Path]) -> None:
        """Every copy that a delivery or the next attempt needs lies there whole, but for those that went with the power.

        Of those that it took just now (`lost`), nobody had asked the disk to keep the line that names them: it is there by
        luck. Raises `Broken`.
        """
        disk = self.world.disk
        needed = needed_snapshots(recover(folder).memory)
        for entry in entries:
            line = entry.line
            event = line.event if isinstance(line, Step) else None
            kept = event.final if isinstance(event, TrainEnd) else event
            if not isinstance(kept, ModelSave | Saved) or kept.snapshot not in needed:
                continue
            copy = folder / SNAPSHOTS / kept.snapshot
            if copy not in disk.taken and not (copy.exists() and look(copy).size == kept.size):
                raise Broken(f"S1: the copy {copy.name} of {folder.name} is gone, and the journal needs it")
            segment = folder / f"journal-{entry.position.segment:06d}.jsonl"
            if copy in lost and disk.asked_to_keep(segment) >= entry.position.offset:
                raise Broken(
                    f"S1: the disk was asked to keep the line of {folder.name} that names {copy.name}, "
                    "and not the copy"
                )

    # -- who looks after what is left --------------------------------------------------------------------

    def look_after(self, folder: Path, *, retry: bool = False, patience: float = sync.PATIENCE) -> None:
        """`hubstate sync`: delivers what a session holds, as far as the network lets it."""
        world = self.world
        if not recover(folder).memory.session:
            return
        world.tell(f"sync of {folder.name}")
        try:
            self._aid = sync.Remainder(folder, world.hub(), world.clock, world.fork())
            if retry:
                self._aid.retry_refused()
            sync.deliver(self._aid, world.clock, patience=patience)
            self._aid.close()
        except Killed:
            self._end_of_process(power=False)
            return
        except HubstateError as failure:
            world.tell(f"sync ends: {failure}")
        self._end_of_process()

    def conclude(self, folder: Path) -> None:
        """`hubstate run`, or whoever knows: says that a training is over that nobody ended."""
        self.world.tell(f"{folder.name} is concluded: nobody trains it any more")
        self._alone(lambda: sync.conclude(folder, Outcome.UNKNOWN, "the process is gone", self.world.clock))

    def give_up(self, folder: Path) -> None:
        """`hubstate sync --give-up`."""
        ledger = self.ledgers.setdefault(folder.name, Ledger())
        memory = recover(folder).memory
        waiting = {
            n for a in memory.outstanding if isinstance(a, SendRows) for n in range(a.first, a.last + 1)
        }
        waiting |= set(range(memory.rows_asked + 1, memory.rows + 1))
        ledger.given_up |= {row_uid(step) for step in _rows(folder) if step.row in waiting}
        ledger.forgave = True
        self.world.tell(f"{folder.name} is given up: {len(waiting)} rows wait")
        self._alone(lambda: sync.give_up(folder, "not worth it", self.world.clock))

    def tidy(self, folder: Path) -> None:
        """What `hubstate sync` does for a session of which nothing waits: it removes what a death left there."""
        self.world.tell(f"{folder.name} is tidied up")
        self._alone(lambda: sync.tidy(folder, self.world.clock))

    def _alone(self, deed: Callable[[], object]) -> None:
        try:
            deed()
        except StorageError as failure:
            self.world.tell(f"it cannot be: {failure}")
        self._end_of_process()


def _written(path: Path, contents: dict[str, bytes], stamp: int) -> None:
    """Writes a file (its name is empty) or a folder of files, in place of what was there. `stamp`: its time in ns."""
    if path.is_dir() and "" not in contents:
        pass  # in place, as trainers do
    elif path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    for name, content in contents.items():
        file = path / name if name else path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        os.utime(file, ns=(stamp, stamp))


def fingerprint(contents: Mapping[str, bytes]) -> str:
    """What tells one checkpoint from another, whatever form it travels in: a digest (hex) over names and contents."""
    sha256 = hashlib.sha256()
    for name, content in sorted(contents.items()):
        sha256.update(name.encode() + b"\0" + hashlib.sha256(content).digest())
    return sha256.hexdigest()


def row_uid(step: Step) -> int:
    """Which of the trainer's rows a step recorded."""
    metrics = getattr(step.event, "metrics", {})
    return int(metrics["uid"])


def _rows(folder: Path) -> list[Step]:
    return [entry.line for entry in read(folder) if isinstance(entry.line, Step) and entry.line.row]


def _silent(_text: str) -> None:
    """What is said to the person at the terminal is for nobody here."""
