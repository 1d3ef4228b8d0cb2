"""A simulated world: one machine, one network, one hub, one clock, and chance from one seed.

Nothing here decides what hubstate does. A world gives the real code its time, its disk and its network, lets the
sender's turns happen in between, and changes the weather. What a seed draws is all that differs between two runs.
"""

from __future__ import annotations

import random
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hubstate import opening, outbox, ownership
from hubstate.clock import Clock, VirtualClock
from hubstate.errors import StorageError
from hubstate.hubs import tus
from hubstate.journal import holds
from hubstate.outbox import FILES, WORDS, Outbox
from hubstate.proof.disk import Disk, Killed, mounted
from hubstate.proof.foreign import Foreign
from hubstate.proof.network import WEATHERS, House, Network, SimulatedHub
from hubstate.proof.witness import Broken, Witness
from hubstate.sender import AFTER_FAILURE, SenderThreads, Stepper

__all__ = ["ROOT", "START", "Turns", "World"]

#: The folder of a world, by the same name wherever it lies: what is written in it must be the same every time.
ROOT = Path("/proc/self/cwd")
#: When every world begins (seconds since 1970).
START = 1_800_000_000.0
#: What is larger is uploaded so that it can be cut (bytes), and more rows go in several requests. In life it takes more.
LARGE, MANY_ROWS = 20_000, 10
#: How many of the worlds have a hub that knows HUB v1 alone.
FOREIGN = 0.15
#: So many turns in one moment are no work any more.
LIVELOCK = 1_000
_MOODS = ("full", "short", "failing", "forgetful")


class _Clock(VirtualClock):
    """The clock of the simulated machine: whoever waits lets the world go on."""

    def __init__(self, world: World) -> None:
        super().__init__(START)
        self.world = world

    def wait(self, signal: threading.Event, seconds: float) -> bool:
        """Lets at most `seconds` pass, with all that happens in them."""
        self.world.passes(max(0.0, seconds), signal)
        return signal.is_set()


class Turns(SenderThreads):
    """The sender's two threads as turns that the world gives them, each when it wants to be woken."""

    def __init__(self, make: Callable[[], Stepper], clock: Clock, *, sync: Callable[[], None]) -> None:
        super().__init__(make, clock, sync=sync)
        assert isinstance(clock, _Clock), "turns are given by a world"
        self._world = clock.world
        self._sync_now = sync
        #: When each lane wants its next turn (seconds of the monotonic clock); none before it is first poked.
        self.due: dict[str, float] = {}
        self._world.senders.append(self)

    def poke(self, *, files: bool = False) -> None:
        """Something was written that may be due."""
        now = self._clock.monotonic()
        self.due[WORDS] = now
        if files or FILES in self.due:
            self.due[FILES] = now

    def turn(self, lane: str) -> None:
        """What the thread of this lane does between two waits."""
        try:
            if lane == WORDS:
                self._sync_now()
            rest = self._built().step(lane)
            self._failures.pop(lane, None)
        except (
            OSError,
            sqlite3.OperationalError,
        ) as error:  # what a machine does; anything else is a mistake
            self._failures[lane] = f"{type(error).__name__}: {error}"
            rest = AFTER_FAILURE
        self.due[lane] = self._clock.monotonic() + rest

    def stop(self, timeout: float) -> bool:  # noqa: ARG002 - nothing is under way between two turns
        """No more turns."""
        if self in self._world.senders:
            self._world.senders.remove(self)
        if self._stepper is not None:
            try:
                self._stepper.close()
            except StorageError as error:
                # It would end the thread, and nobody else.
                self._world.tell(f"a thread ends: {error}")
            self._stepper = None
        return True


class World:
    """One world. `counts`: what happened in it, by name; `story`: the same in lines for people."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(f"hubstate {seed}")  # noqa: S311 - chance that can be repeated
        self.counts: Counter[str] = Counter()
        self.story: list[str] = []
        self.clock = _Clock(self)
        self.witness = Witness(self.counts)
        self.senders: list[Turns] = []
        self._outboxes: list[tuple[Path, Outbox]] = []
        self.disk = Disk(self.fork(), self.clock.monotonic, self._struck)
        self.house = House(ROOT / "hub", lambda: START + self.clock.monotonic(), self.counts)
        # Drawn apart, so that it shifts nothing: a foreign hub in the place of one's own.
        apart = random.Random(f"foreign {seed}")  # noqa: S311 - chance that can be repeated
        self.foreign = Foreign(ROOT / "foreign") if apart.random() < FOREIGN else None
        self.counts["a world with a foreign hub"] = self.foreign is not None
        self.network = Network(
            self.house,
            self.foreign,
            self.clock,
            self.fork(),
            passes=self.clock.advance,
            struck=self._struck,
            arrived=self.witness.arrived,
            dies=self._dies_here,
        )
        #: At the how manieth request the process dies, and whether `before` or `after` the hub has it.
        self.kill_request: tuple[int, str] | None = None
        #: No trouble any more: the weather is clear and stays so.
        self.healed = False
        self._weather_until = self.chance.uniform(60.0, 3600.0)
        self._mood_until = self.chance.uniform(600.0, 7200.0)
        self._last_struck = ""

    # -- what a process holds ----------------------------------------------------------------------------

    @contextmanager
    def running(self) -> Iterator[None]:
        """While it lasts, the real code runs in this world: on its disk, watched, its outboxes known."""
        world = self

        class Known(Outbox):
            """An outbox that can be closed when its process dies."""

            def __init__(self, path: Path, journal: Path) -> None:
                super().__init__(path, journal)
                world._outboxes.append((path, self))
                if not holds(journal, outbox._place(self._db)):  # noqa: SLF001 - nobody else asks
                    raise Broken(
                        f"S1: the outbox of {journal.name} is ahead of its journal, and was not folded anew"
                    )

        opening.__dict__["Outbox"] = Known
        large, rows = tus.LEAST, outbox.ROWS_PER_REQUEST
        tus.__dict__["LEAST"] = LARGE
        outbox.__dict__["ROWS_PER_REQUEST"] = MANY_ROWS
        try:
            with mounted(self.disk), self.witness.watching():
                yield
        finally:
            opening.__dict__["Outbox"] = Outbox
            tus.__dict__["LEAST"] = large
            outbox.__dict__["ROWS_PER_REQUEST"] = rows

    def process_ends(self) -> None:
        """The process is gone, and what it held with it. Its files are as it left them."""
        self.senders.clear()
        self.kill_request = None
        for path, held in self._outboxes:
            # Closing tidies up, which a process that is killed does not.
            before = {file: file.read_bytes() for file in (path, Path(f"{path}-wal")) if file.exists()}
            held.close()
            for file, content in before.items():
                file.write_bytes(content)
        self._outboxes.clear()
        for owned in list(ownership._owned.values()):  # noqa: SLF001 - the kernel lets go of it
            owned.release()
        self.disk.reborn()

    # -- what a story is made of -------------------------------------------------------------------------

    def tell(self, text: str) -> None:
        """A line for the story, with the time."""
        now = self.clock.monotonic()
        hours, rest = divmod(now, 3600.0)
        self.story.append(f"{int(hours):5d}:{int(rest // 60):02d}:{rest % 60:06.3f}  {text}")

    def fork(self) -> random.Random:
        """Chance for one part of the world, so that what it draws shifts nothing elsewhere."""
        return random.Random(self.chance.getrandbits(64))  # noqa: S311 - chance that can be repeated

    def hub(self) -> SimulatedHub:
        """A client of the hub, as a process opens it."""
        return SimulatedHub(self.network, self.fork())

    def _struck(self, fault: str) -> None:
        self.counts[f"fault: {fault}"] += 1
        if fault != self._last_struck:
            self._last_struck = fault
            self.tell(f"! {fault}")

    def _dies_here(self, when: str) -> None:
        if self.disk.dead:
            raise Killed
        if self.kill_request is not None and self.network.requests >= self.kill_request[0]:
            if when != self.kill_request[1]:
                return
            self._struck(f"killed {when} a request")
            self.disk.die()

    # -- time --------------------------------------------------------------------------------------------

    def passes(self, seconds: float, signal: threading.Event | None = None) -> None:
        """Lets `seconds` pass, with the turns and the weather in them; less if `signal` is set before.

        Raises `Broken` if the sender works for ever without a moment passing.
        """
        end = self.clock.monotonic() + seconds
        turns, since = 0, self.clock.monotonic()
        while not (signal is not None and signal.is_set()):
            now = self.clock.monotonic()
            self._change(now)
            due, sender, lane = self._next(end)
            if due > now:
                self.clock.advance(min(due, end) - now)
            if sender is None or self.clock.monotonic() > end:
                return
            sender.turn(lane)
            turns = turns + 1 if self.clock.monotonic() == since else 0
            since = self.clock.monotonic()
            if turns > LIVELOCK:
                raise Broken(f"L3: {LIVELOCK} turns of the sender, and not a moment has passed")

    def _next(self, end: float) -> tuple[float, Turns | None, str]:
        """The next turn that is due before `end`, or `end` and nobody."""
        first: tuple[float, Turns | None, str] = (end, None, "")
        for sender in self.senders:
            for lane, due in sender.due.items():
                if due < first[0]:
                    first = (due, sender, lane)
        return first

    # -- trouble -----------------------------------------------------------------------------------------

    def _change(self, now: float) -> None:
        if self.healed:
            return
        if now >= self._weather_until:
            clear = self.network.weather != "clear" and self.chance.random() < 0.7
            kinds = ["clear"] if clear else list(WEATHERS)
            self.network.weather = self.chance.choice(kinds)
            self._weather_until = now + min(self.chance.expovariate(1 / 1500.0), 7200.0)
            self.tell(f"the network is {self.network.weather}")
        if now >= self._mood_until:
            well = self.disk.mood != "well"
            self.disk.mood = "well" if well else self.chance.choice(_MOODS)
            self._mood_until = now + self.chance.expovariate(1 / (10800.0 if well else 300.0))
            self.tell(f"the disk is {self.disk.mood}")

    def away(self, seconds: float) -> None:
        """A long outage, while nobody trains."""
        self.network.weather = "outage"
        self.counts["fault: outage for days"] += seconds >= 86_400.0
        self.tell(f"the network is away for {seconds / 86_400:.1f} days")
        self._weather_until = self.clock.monotonic() + seconds

    def heal(self) -> None:
        """Every fault ends: the network is up, the key is good, the disk takes everything."""
        self.healed = True
        self.network.weather = "clear"
        self.disk.mood = "well"
        self.kill_request = None
        self.disk.kill_at = None
        self.tell("every fault ends")
