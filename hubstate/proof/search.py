"""The moves of the model, and the search over them: every world that can be reached, breadth first.

Everything that is compared often is a number: memories, monitors, outboxes and hubs are numbered once, and what a
decision, a fold or a monitor makes of them is asked once for each pair and remembered. So the real code runs for
every pair of a memory and an event that occurs, and the search itself runs over tuples of six numbers.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from hubstate import events as ev
from hubstate import machine
from hubstate.actions import (
    AnyAction,
    Decision,
    Heartbeat,
    KeepCheckpoint,
    Kept,
    Memory,
    OpenSession,
    SendCheckpoint,
    SendRows,
)
from hubstate.events import Event, name_of
from hubstate.journal import Step
from hubstate.outbox import FILES, WORDS
from hubstate.proof.model import (
    NOW,
    Bounds,
    Box,
    Entry,
    Rig,
    Shelf,
    aged,
    is_over,
    other_conditions,
    resettled,
    rows_of,
    set_back,
    step_of,
    tied,
    uncounted,
    waiting,
    worn,
)
from hubstate.proof.properties import (
    Arrived,
    Began,
    Fact,
    Holding,
    Monitor,
    RowSeen,
    Told,
    Violation,
    without_beat,
)
from hubstate.proof.remembered import misremembered, missaid
from hubstate.states import LIVE_STATES, TERMINAL_STATES, CheckpointKind, Outcome, State

_TICK = ev.Tick(NOW)
#: When everything is over that has an interval (s).
FAR = 10_000.0

__all__ = ["FAULT", "GOES_ON", "PASSES", "PEOPLE", "RETRY", "Edge", "Moves", "World"]

_CONFIG = {"lr": 0.5}

_COPY = Kept(CheckpointKind.LAST, 0, 1, "s0", 1, NOW)

#: What kind of a move it is: progress of a fair run; time that passes; a retry; what people choose; a fault.
GOES_ON, PASSES, RETRY, PEOPLE, FAULT = range(5)

_T = TypeVar("_T")


class World(NamedTuple):
    """One moment, in numbers: the living memory, the one that the journal tells, the outbox, the hub, the monitor.

    `trains`: the process that owns the session trains; else it delivers alone. `left`: how many refusals, lost
    acknowledgements and deaths of the process may still come.
    """

    live: int
    durable: int
    trains: bool
    box: int
    hub: int
    monitor: int
    left: tuple[int, int, int]


class Edge(NamedTuple):
    """A move out of a world: its kind, its name, where it leads, and what it violates.

    `decided`: the numbers of what was decided in it, in order.
    """

    kind: int
    name: str
    world: World
    violations: tuple[Violation, ...] = ()
    decided: tuple[int, ...] = ()


class Hub(NamedTuple):
    """What the hub holds: the keys that it would know again, and the rows that it shows."""

    keys: frozenset[str] = frozenset()
    shelf: Shelf = Shelf()


class _Numbers(Generic[_T]):
    """Numbers values by what they hold."""

    def __init__(self, token: Callable[[_T], Any]) -> None:
        self._token = token
        self._numbers: dict[Any, int] = {}
        self.values: list[_T] = []

    def of(self, value: _T) -> int:
        token = self._token(value)
        number = self._numbers.get(token)
        if number is None:
            number = self._numbers[token] = len(self.values)
            self.values.append(value)
        return number


class _Decided(NamedTuple):
    """A decision, the number of the memory after it, and its line in the journal, if it has one."""

    decision: Decision
    name: str
    after: int
    step: Step | None
    violations: tuple[Violation, ...]
    #: What is found beside the monitor: it is told behind what the monitor finds, which names the cause.
    forgotten: tuple[Violation, ...]


class Moves:
    """The moves of one rig within bounds. `rows` counts how often each row of the table was taken."""

    def __init__(self, rig: Rig, bounds: Bounds) -> None:
        self.rig, self.bounds = rig, bounds
        self.memories: _Numbers[Memory] = _Numbers(msgspec.msgpack.Encoder().encode)
        self.monitors: _Numbers[Monitor] = _Numbers(lambda monitor: monitor)
        self.boxes: _Numbers[Box] = _Numbers(lambda box: box)
        self.hubs: _Numbers[Hub] = _Numbers(lambda hub: hub)
        self.taken: set[int] = set()
        #: Moves that are taken as one, beyond the first of each.
        self.edges = 0
        self._actions: dict[bytes, AnyAction] = {}
        self._decoder: msgspec.msgpack.Decoder[AnyAction] = msgspec.msgpack.Decoder(AnyAction)
        self._events: dict[tuple[object, ...], Event] = {}
        self._decisions: list[_Decided] = []
        self._by_pair: dict[tuple[int, int], int] = {}
        self._caches: dict[str, dict[Any, Any]] = {}
        self._strayed: set[int] = set()
        self._asked: set[int] = set()
        self._still: set[tuple[int, int, int, str]] = set()
        self._rules = {id(rule): number for number, rule in enumerate(machine.TABLE)}

    def again(self, world: World) -> Iterator[tuple[Edge, tuple[Decision, ...]]]:
        """Every move out of a world with what was decided in it, also those that are known to lead nowhere."""
        self._still.clear()
        self._strayed.clear()
        for edge in self.out_of(world):
            yield edge, tuple(self._decisions[number].decision for number in edge.decided)

    def start(self) -> World:
        """A trainer begins where no session is."""
        memory = self._number(aged(Memory(session="S")))
        return World(
            memory,
            memory,
            True,
            self.boxes.of(Box()),
            self.hubs.of(Hub()),
            self.monitors.of(Monitor(sees_rows=True)),
            (self.bounds.refusals, self.bounds.lost, self.bounds.crashes),
        )

    def is_drained(self, world: World) -> bool:
        """Whether the session is over and nothing of it waits."""
        memory = self.memories.values[world.live]
        return memory.state in TERMINAL_STATES and not self.boxes.values[world.box].entries

    def is_calm(self, world: World) -> bool:
        """Whether nothing is refused."""
        return not any(entry.refused for entry in self.boxes.values[world.box].entries)

    # -- what may happen ---------------------------------------------------------------------------------

    def out_of(self, world: World) -> Iterator[Edge]:
        """Every move out of a world."""
        memory = self.memories.values[world.live]
        if not self.bounds.quick:
            yield from self._strays(world, memory)
        yield from self._clock(world)
        if world.trains:
            yield from self._training(world, memory)
        box = self.boxes.values[world.box]
        for entry in self._heads(world.box, memory, trains=world.trains):
            yield from self._try(world, box, entry)
        yield from self._people(world, memory)
        yield from self._processes(world, memory)
        if self.bounds.usage and memory.rows < self.bounds.rows:
            yield self._tell(PEOPLE, world, self._event(ev.ValStart, at=NOW))
        if self.bounds.news:
            # The hub that answers first owns the session; another one, later, changes nothing of it.
            hub = "h" if memory.hub is None else "another"
            yield self._tell(PASSES, world, self._event(ev.StopRequested, at=NOW, reason="a wish"))
            yield self._tell(
                PASSES,
                world,
                self._event(
                    ev.Answered,
                    at=NOW,
                    hub=hub,
                    model="m",
                    url="u",
                    metrics_interval=2.0,
                    heartbeat_interval=6.0,
                ),
            )

    def _strays(self, world: World, memory: Memory) -> Iterator[Edge]:
        """What has no place here, said once to each memory."""
        if world.live in self._strayed:
            return
        self._strayed.add(world.live)
        for event in self._stray_events(memory):
            edge = self._tell(PASSES, world, event)
            if edge.violations or edge.world != world:
                yield edge
        # Three events that differ by their names alone: one of them is followed, and all are judged.
        for kind in (ev.PredictStart, ev.ExportStart) if memory.usage else ():
            edge = self._tell(PASSES, world, self._event(kind, at=NOW))
            if edge.violations:
                yield edge

    def _stray_events(self, memory: Memory) -> Iterator[Event]:
        state, of = memory.state, self._event
        training, idle = state is State.TRAINING, state is State.IDLE
        if not idle:
            yield of(ev.PretrainRoutineStart, at=NOW, session="S", name="m")
        if state is not State.SESSION_CREATED:
            yield of(ev.PretrainRoutineEnd, at=NOW)
        if state is not State.TIMING:
            yield of(ev.TrainStart, at=NOW)
        if not training:
            yield of(ev.FitEpochEnd, at=NOW, epoch=9, metrics={})
            yield of(ev.TrainBatchEnd, at=NOW, epoch=9, step=9, metrics={})
            yield of(
                ev.ModelSave, at=NOW, epoch=9, path="p", size=1, mtime_ns=1, fitness=9.0, snapshot="stray"
            )
            yield of(ev.TrainEnd, at=NOW)
        if state not in (State.SESSION_CREATED, State.TIMING, State.TRAINING):
            yield of(ev.Abort, at=NOW, outcome=Outcome.FAILED, reason="stray")
        if state not in (State.FINALIZING, State.ABORTED):
            yield of(ev.GiveUp, at=NOW, reason="stray")
        if idle:
            yield of(ev.RetryRefused, at=NOW)
            for unfit in ({"main": False}, {"wanted": False}, {"already_open": True}):
                yield of(ev.PretrainRoutineStart, at=NOW, session="S", name="m", **unfit)
        # An answer to what nobody asked, or gave up meanwhile.
        yield of(ev.Delivered, at=NOW, key="S/9/rows/8-9", rows=2)
        yield of(ev.Refused, at=NOW, key="S/9/rows/8-9", reason="unknown")
        if not memory.usage:
            yield of(ev.PredictStart, at=NOW)

    def _training(self, world: World, memory: Memory) -> Iterator[Edge]:
        """What a trainer says next."""
        match memory.state:
            case State.IDLE:
                if memory.attempt < self.bounds.attempts:
                    # Whoever resumes a session that began without a hub may have one.
                    hubs = {self.bounds.hub, self.bounds.hub or memory.attempt > 0}
                    for checkpoint, hub in itertools.product(self._found(memory), sorted(hubs)):
                        yield self._tell(GOES_ON, world, self._beginning(memory, checkpoint, hub=hub))
            case State.SESSION_CREATED:
                yield self._tell(GOES_ON, world, self._event(ev.PretrainRoutineEnd, at=NOW))
            case State.TIMING:
                yield self._tell(GOES_ON, world, self._event(ev.TrainStart, at=NOW))
            case State.TRAINING:
                scripted, turn = self.bounds.scripted, memory.rows > memory.saves
                if memory.rows < self.bounds.rows and not (
                    scripted and turn and memory.saves < self.bounds.saves
                ):
                    for row in self._row(memory):
                        yield self._tell(GOES_ON, world, row)
                if memory.saves < self.bounds.saves and (turn or not scripted):
                    for save in self._saves(memory):
                        yield self._tell(GOES_ON, world, save)
                for end in self._train_ends(memory):
                    yield self._tell(GOES_ON, world, end)
            case _:
                pass

    def _found(self, memory: Memory) -> list[int]:
        """The epochs of the checkpoints that a resumed training may find: the trainer's own file, or a kept one; or -1."""
        kept = [k for k in (memory.kept_last, memory.kept_best, memory.kept_final) if k is not None]
        own = [] if memory.saved is None else [memory.saved.epoch]
        newest = [max(kept, key=lambda k: (k.attempt, k.at)).epoch] if kept else [-1]
        return sorted({*own, *newest})

    def _beginning(self, memory: Memory, checkpoint: int, *, hub: bool) -> Event:
        bounds = self.bounds
        return self._event(
            ev.PretrainRoutineStart,
            at=NOW,
            session="S",
            name="m",
            first_epoch=self.rig.first_epoch(memory, checkpoint),
            metrics_interval=bounds.metrics,
            checkpoint_interval=bounds.checkpoint,
            heartbeat_interval=bounds.heartbeat,
            checkpoints=bounds.choice,
            usage=bounds.usage,
            hub=hub,
            epochs=9,
            project="p",
            group="g",
            tags=("t",),
            config=_CONFIG,
        )

    def _row(self, memory: Memory) -> Iterator[Event]:
        number = memory.rows + 1
        epoch = 0 if memory.epoch is None else memory.epoch + 1
        if self.bounds.astray:
            # One that tells epochs, and the first one again as if it had not resumed.
            for told in sorted({0, epoch}):
                yield self._event(ev.FitEpochEnd, at=NOW, epoch=told, metrics={})
        elif number % 2 == 0:
            yield self._event(ev.TrainBatchEnd, at=NOW, epoch=epoch, step=number, metrics={})
        else:
            yield self._event(ev.FitEpochEnd, at=NOW, epoch=epoch, metrics={})

    def _saves(self, memory: Memory) -> Iterator[Event]:
        number = memory.saves + 1
        epoch = memory.epoch or 0
        best = memory.best_fitness
        # A better one, one as good, a worse one, or none is told.
        told = (1.0,) if best is None else (best + 1.0, best, best - 1.0)
        scripted = told[:1] if number % 2 else (None,)
        free = (None, *told) if self.bounds.fitness else (None, told[0]) if self.bounds.kinds else (None,)
        for fitness in scripted if self.bounds.scripted else free:
            yield self._event(
                ev.ModelSave, at=NOW, epoch=epoch, path="p", size=number, mtime_ns=number, fitness=fitness, snapshot=f"s{number}"
            )  # fmt: skip
        if self.bounds.kinds:
            fields = {"at": NOW, "epoch": epoch, "path": "p", "size": number, "mtime_ns": number}
            fitness = None if best is None else best + 1.0
            named = {"kind": CheckpointKind.FINAL, "fitness": fitness, "snapshot": f"s{number}"}
            yield self._event(ev.ModelSave, **fields, **named)
            yield self._event(ev.ModelSave, **fields, fitness=9.0, unkept="it is torn")

    def _train_ends(self, memory: Memory) -> Iterator[Event]:
        yield self._event(ev.TrainEnd, at=NOW)
        saved = memory.saved
        # The trainer's file is named where nothing better is kept (see `checkpoints.Checkpoints.name_final`).
        if (
            saved is not None
            and not saved.snapshot
            and saved.attempt == memory.attempt
            and memory.kept_best is None
        ):
            named = msgspec.structs.replace(saved, snapshot=f"f{saved.mtime_ns}")
            yield self._event(ev.TrainEnd, at=NOW, final=named)

    def _clock(self, world: World) -> Iterator[Edge]:
        if not self._is_still(world, "tick"):
            tick = self._tell(PASSES, world, _TICK)
            yield tick if tick.world == world else tick._replace(kind=GOES_ON)
            self._note_still(world, "tick", tick)
        if world.trains and self.bounds.beats and not self._is_still(world, "beat"):
            beats = list(self._beat(world))
            yield from beats
            self._note_still(world, "beat", *beats)
        elapsed = self._elapse(world)
        if elapsed != world:
            yield Edge(PASSES, "time passes", elapsed)

    def _is_still(self, world: World, what: str) -> bool:
        """Whether a move is known to lead nowhere from any world with this memory and monitor, and is no news."""
        still = (world.live, world.durable, world.monitor, what) in self._still
        self.edges += still
        return still

    def _note_still(self, world: World, what: str, *edges: Edge) -> None:
        if all(edge.world == world and not edge.violations for edge in edges):
            self._still.add((world.live, world.durable, world.monitor, what))

    def _beat(self, world: World) -> Iterator[Edge]:
        asked = self._tell(PASSES, world, self._event(ev.HeartbeatTick, at=NOW))
        actions = self._decisions[asked.decided[0]].decision.actions
        beats = [a for a in actions if isinstance(a, Heartbeat)]
        if not beats:
            yield asked
            return
        key = beats[0].key
        monitor, found = self._observed(asked.world.monitor, Arrived(beats[0], (), stored=True))
        there = asked.world._replace(monitor=monitor)
        for answer, what in (
            (self._answer(ev.HeldUp, key, condition="offline", reason=""), "is lost"),
            (self._answer(ev.Refused, key, reason="4xx", status=413), "is refused"),
            (self._answer(ev.Delivered, key), "arrives"),
        ):
            answered = self._tell(PASSES, there, answer)
            yield Edge(
                PASSES,
                f"a heartbeat {what}",
                answered.world,
                (*asked.violations, *found, *answered.violations),
                asked.decided + answered.decided,
            )

    def _elapse(self, world: World) -> World:
        cache: dict[int, int] = self._cache("elapse")
        for number in (world.live, world.durable):
            if number not in cache:
                cache[number] = self._number(aged(self.memories.values[number], 1.0))
        world = world._replace(live=cache[world.live], durable=cache[world.durable])
        monitor = self._cache("elapse monitor").get(world.monitor)
        if monitor is None:
            monitor = self.monitors.of(self._settled(self.monitors.values[world.monitor].aged(1.0, NOW)))
            self._cache("elapse monitor")[world.monitor] = monitor
        box = self.boxes.values[world.box]
        if any(entry.waits for entry in box.entries):
            box = box._replace(entries=tuple(entry._replace(waits=False) for entry in box.entries))
            world = world._replace(box=self.boxes.of(box))
        return world._replace(monitor=monitor)

    def _heads(self, box: int, memory: Memory, *, trains: bool) -> list[Entry]:
        """What may leave next."""
        quick, state = self.bounds.quick, memory.state
        # Whoever resumes says so before anything else; a session that nobody began has nothing to deliver.
        if state is State.IDLE or (quick and state in (State.SESSION_CREATED, State.TIMING)):
            return []
        # Without a hub nothing leaves, until somebody delivers what is left.
        if trains and not memory.hub_wanted:
            return []
        heads = [entry for lane in (WORDS, FILES) if (entry := self._claim(box, lane)) is not None]
        if quick and is_over(state) and len(heads) == 2 and heads[1].kind == "file" and not heads[1].waits:
            return heads[1:]
        return [entry for entry in heads if not entry.waits]

    def _claim(self, box: int, lane: str) -> Entry | None:
        cache = self._cache(lane)
        if box not in cache:
            cache[box] = self.rig.claimed(self.boxes.values[box], lane)
        entry: Entry | None = cache[box]
        return entry

    def _try(self, world: World, box: Box, entry: Entry) -> Iterator[Edge]:
        """One delivery is tried: it is acknowledged, its acknowledgement is lost, or it is tried in vain."""
        action, key = self._action(entry.text), entry.key
        hub = self.hubs.values[world.hub]
        stored = key not in hub.keys or not self.rig.repeats
        carried = rows_of(box, entry)
        shelf, shown = (
            self._shelved(world.hub, action, carried) if stored else (hub.shelf, _numbers(hub.shelf))
        )
        monitor, found = self._observed(world.monitor, Arrived(action, carried, stored, shown))
        there = world._replace(monitor=monitor, hub=self.hubs.of(Hub(hub.keys, shelf)))
        rows = action.last - action.first + 1 if isinstance(action, SendRows) else 0
        digest = "0f" if isinstance(action, SendCheckpoint) else ""
        accepted = self._tell(
            GOES_ON, there, self._event(ev.Delivered, at=NOW, key=key, rows=rows, sha256=digest)
        )
        yield Edge(
            GOES_ON,
            f"{key} is acknowledged",
            self._forgetting(accepted.world),
            (*found, *accepted.violations),
            accepted.decided,
        )
        refusals, losses, crashes = world.left
        if losses and key not in hub.keys:
            lost = self._in_vain(there, entry, waits=False)
            kept = self.hubs.of(Hub(hub.keys | {key}, shelf))
            held = lost.world._replace(hub=kept, left=(refusals, losses - 1, crashes))
            yield Edge(
                FAULT,
                f"{key} arrives, its acknowledgement is lost",
                held,
                (*found, *lost.violations),
                lost.decided,
            )
        yield from self._outages(world, entry)
        if refusals and key not in hub.keys:
            told = self._tell(
                FAULT, world, self._event(ev.Refused, at=NOW, key=key, reason="4xx", status=413)
            )
            left = (refusals - 1, losses, crashes)
            yield told._replace(name=f"{key} is refused", world=told.world._replace(left=left))
        if self.bounds.foreign and key not in hub.keys and entry.kind != "open":
            told = self._tell(
                GOES_ON, world, self._event(ev.Delivered, at=NOW, key=key, not_taken="no such thing here")
            )
            yield told._replace(name=f"{key} is not taken", world=self._forgetting(told.world))

    def _outages(self, world: World, entry: Entry) -> Iterator[Edge]:
        """The network is down, the key is rejected, or the hub asks for a pause.

        The three are one to the decisions and to the monitor, which `_decide_anew` holds them to; so they are told once.
        """
        self.edges += 1
        if not self._is_still(world, entry.key):
            tried = self._in_vain(world, entry, waits=False)
            yield tried._replace(name=f"{entry.key} is tried: the network is down, 401 or 429")
            self._note_still(world, entry.key, tried)
        # A lane that is held up for a while is one that is slow; where moves are taken as one, it is slow anyway.
        if not self.bounds.quick:
            yield self._in_vain(world, entry, waits=True)._replace(name=f"{entry.key} is tried: 429")

    def _in_vain(self, world: World, entry: Entry, *, waits: bool) -> Edge:
        event = self._answer(ev.HeldUp, entry.key, condition="offline", reason="")
        told = self._tell(FAULT, world, event)
        box = self.boxes.values[told.world.box]
        after = self.rig.in_vain(box, entry.key)
        if waits:
            after = resettled(after, entry.key, waits=True)
        return told if after is box else told._replace(world=told.world._replace(box=self.boxes.of(after)))

    def _shelved(
        self, number: int, action: AnyAction, rows: tuple[RowSeen, ...]
    ) -> tuple[Shelf, frozenset[int]]:
        """What the hub shows behind a request, and the numbers of those rows."""
        cache = self._cache("shelved")
        token = (number, id(action), rows)
        found: tuple[Shelf, frozenset[int]] | None = cache.get(token)
        if found is None:
            shelf = self.rig.shelved(self.hubs.values[number].shelf, action, rows)
            found = cache[token] = (shelf, _numbers(shelf))
        return found

    def _forgetting(self, world: World) -> World:
        """Of what a hub holds, only that counts which could come a second time, and what it shows while rows may come."""
        hub = self.hubs.values[world.hub]
        box = self.boxes.values[world.box]
        keys = hub.keys & frozenset(waiting(box)) if hub.keys else hub.keys
        shelf = hub.shelf
        memory = self.memories.values[world.live]
        if (
            is_over(memory.state)
            and not self._may_follow(memory.state, memory.attempt)
            and not any(entry.kind in ("open", "rows") for entry in box.entries)
        ):
            shelf = Shelf()
        left = Hub(keys, shelf)
        return world if left == hub else world._replace(hub=self.hubs.of(left))

    def _people(self, world: World, memory: Memory) -> Iterator[Edge]:
        if memory.state in (State.SESSION_CREATED, State.TIMING, State.TRAINING):
            yield self._tell(
                PEOPLE, world, self._event(ev.Abort, at=NOW, outcome=Outcome.FAILED, reason="broke")
            )
        if memory.state in (State.FINALIZING, State.ABORTED):
            edge = self._tell(PEOPLE, world, self._event(ev.GiveUp, at=NOW, reason="no more"))
            yield edge._replace(world=self._forgetting(edge.world))
        # Where moves are taken as one, a retry of nothing is left to the other searches.
        if memory.state is not State.IDLE and (memory.refused or not self.bounds.quick):
            retried = self._tell(RETRY, world, self._event(ev.RetryRefused, at=NOW))
            if retried.world != world or retried.violations:
                yield retried

    def _processes(self, world: World, memory: Memory) -> Iterator[Edge]:
        """A process dies or lets go; a later one resumes."""
        durable = self.memories.values[world.durable]
        if self.bounds.quick:
            yield from self._deaths_at_once(world, memory)
        elif world.trains:
            last = memory.attempt >= self.bounds.attempts
            refusals, losses, crashes = world.left
            if crashes and (is_over(memory.state) or not last):
                box = self.rig.after_crash(self.boxes.values[world.box])
                left = (refusals, losses, crashes - 1)
                died = world._replace(live=world.durable, trains=False, box=self.boxes.of(box), left=left)
                yield self._began(FAULT, "the process dies", died)
            if not memory.hub_wanted and is_over(memory.state):
                ended = world._replace(live=world.durable, trains=False)
                yield self._began(GOES_ON, "the process ends, and another one delivers what is left", ended)
        elif self._may_resume(memory):
            fresh = self._number(aged(self.rig.next_attempt(durable)))
            kind = PEOPLE if is_over(memory.state) else GOES_ON
            begun = world._replace(live=fresh, trains=True)
            yield self._began(kind, "a process resumes the session", begun)

    def _deaths_at_once(self, world: World, memory: Memory) -> Iterator[Edge]:
        """A process dies, and the session is resumed, or for good."""
        refusals, losses, crashes = world.left
        if not crashes or (memory.attempt >= self.bounds.attempts and not is_over(memory.state)):
            return
        box = self.rig.after_crash(self.boxes.values[world.box])
        died = world._replace(
            live=world.durable, trains=False, box=self.boxes.of(box), left=(refusals, losses, crashes - 1)
        )
        dead = self._began(FAULT, "the process dies", died)
        held = self.held(dead.world)
        if is_over(memory.state) or memory.attempt == 0:
            same = dead.world.box == world.box and world.live == world.durable
            yield dead._replace(world=world if same else dead.world, violations=(*dead.violations, *held))
            return
        durable = self.memories.values[world.durable]
        fresh = self._number(aged(self.rig.next_attempt(durable)))
        begun = self._began(FAULT, "resumes", dead.world._replace(live=fresh, trains=True))
        for checkpoint in self._found(durable):
            found = (*dead.violations, *held, *begun.violations)
            start, decided = begun, begun.decided
            for event in (
                self._beginning(durable, checkpoint, hub=self.bounds.hub),
                self._event(ev.PretrainRoutineEnd, at=NOW),
                self._event(ev.TrainStart, at=NOW),
            ):
                start = self._tell(FAULT, start.world, event)
                found = (*found, *start.violations, *self.held(start.world))
                decided += start.decided
            yield Edge(
                FAULT,
                f"the process dies, and a new one trains on behind epoch {checkpoint}",
                start.world,
                found,
                decided,
            )

    def _may_resume(self, memory: Memory) -> bool:
        if memory.state is State.ABORTED and not self.bounds.anew:
            return False
        return memory.attempt < self.bounds.attempts or memory.state in (State.FINALIZING, State.DONE)

    def _began(self, kind: int, name: str, world: World) -> Edge:
        memory = self.memories.values[world.live]
        monitor, found = self._observed(world.monitor, Began(memory, world.trains))
        return Edge(kind, name, world._replace(monitor=monitor), found)

    # -- telling -----------------------------------------------------------------------------------------

    def _answer(self, kind: type[ev.Delivered | ev.Refused | ev.HeldUp], key: str, **fields: Any) -> Event:
        event = self._events.get((kind, key))
        if event is None:
            event = self._events[kind, key] = kind(at=NOW, key=key, **fields)
        return event

    def _event(self, kind: type[Event], /, **fields: Any) -> Event:
        token = (kind, *(repr(value) if isinstance(value, dict) else value for value in fields.values()))
        event = self._events.get(token)
        if event is None:
            event = self._events[token] = kind(**fields)
        return event

    def _tell(self, kind: int, world: World, event: Event) -> Edge:
        """The door is told: decided, written, adopted; and the outbox folds what was written."""
        live, durable, trains, box, hub, monitor, left = world
        number = self._decide(live, event)
        decided = self._decisions[number]
        monitor, found = self._told(monitor, live, number)
        if decided.step is not None:
            durable, box = self._written(durable, box, number)
        world = World(decided.after, durable, trains, box, hub, monitor, left)
        return Edge(kind, decided.name, world, decided.violations + found + decided.forgotten, (number,))

    def _decide(self, live: int, event: Event) -> int:
        pair = (live, id(event))
        number = self._by_pair.get(pair)
        if number is None:
            number = self._by_pair[pair] = len(self._decisions)
            self._decisions.append(self._decide_anew(live, event))
        return number

    def _decided(self, memory: Memory, event: Event) -> tuple[Decision, list[Violation]]:
        """What is decided. A table that asks for what cannot be built there is one that asks outside its states."""
        try:
            return self.rig.decide(memory, event), []
        except (AssertionError, LookupError, TypeError, ValueError) as error:
            what = f"{name_of(event)} in {memory.state.value} asks for what cannot be built: {error!r}"
            return Decision(memory, (), None, event, {}, journalled=False), [Violation("S4", what)]

    def _decide_anew(self, live: int, event: Event) -> _Decided:
        memory = self.memories.values[live]
        decision, found = self._decided(memory, event)
        after = aged(decision.memory)
        wrong = [*missaid(memory, decision), *misremembered(memory, decision)]
        elsewhere = other_conditions(memory)
        for other in () if found else _variants(event):
            again = self.rig.decide(elsewhere, other)
            # A sign of life tells how many rows wait.
            same = (
                len(again.actions) == len(decision.actions)
                if again.actions and isinstance(again.actions[0], Heartbeat)
                else again.actions == decision.actions
            )
            if not same or uncounted(aged(again.memory)) != uncounted(after):
                found.append(Violation("S8", f"{name_of(event)} decided twice gives two answers"))
            # The search that is the largest by far holds no step that the others do not.
            if not self.bounds.scripted:
                wrong += (*missaid(elsewhere, again), *misremembered(elsewhere, again))
        choice = machine.choose(memory, event)
        if choice is not None and choice.rule is not None:
            self.taken.add(self._rules[id(choice.rule)])
        step = step_of(memory, decision) if decision.journalled else None
        forgotten = () if step is None else self._forgotten(memory, decision.memory, step)
        return _Decided(
            decision, name_of(event), self._number(after), step, tuple(found), (*forgotten, *wrong)
        )

    # -- what is asked aside ---------------------------------------------------------------------------------

    def aside(self) -> Iterator[tuple[int, Decision | None, Violation]]:
        """What is wrong beside the way that sessions took: the memory's number, what was decided there, what it violates.

        Each event that was met is told in other words and with the clock set back, which is judged and not followed;
        and each memory is asked when the next tick is due.
        """
        met = [(live, self._decisions[n].decision.event) for (live, _), n in self._by_pair.items()]
        for live, event in met:
            memory = self.memories.values[live]
            beside = itertools.chain(self._beside(memory, event), self._anywhere(live, memory))
            for there, other in beside:
                decision, found = self._decided(there, other)
                judged = [found, missaid(there, decision), misremembered(there, decision)]
                if there.metrics_since is not None and there.metrics_since > NOW:
                    judged.append(_hasty(there, decision))
                for violation in itertools.chain(*judged):
                    yield live, decision, violation
        for live in dict.fromkeys(live for live, _ in met):
            for violation in self._untimely(self.memories.values[live]):
                yield live, None, violation

    def _beside(self, memory: Memory, event: Event) -> Iterator[tuple[Memory, Event]]:
        """An event and a memory as they might be as well."""
        for other in _otherwise(event):
            yield memory, other
        if isinstance(event, ev.PretrainRoutineStart):
            yield worn(memory), event
        if isinstance(event, ev.Abort):
            yield tied(memory), event
        if isinstance(event, ev.RetryRefused) and memory.refused:
            # An answer to an earlier try may come behind the refusal.
            key = memory.refused[0].key
            yield memory, ev.Delivered(at=NOW, key=key, rows=1)
            yield memory, ev.Refused(at=NOW, key=key, reason="once more", status=400)
        if not self.bounds.quick:
            yield set_back(memory), event

    def _anywhere(self, live: int, memory: Memory) -> Iterator[tuple[Memory, Event]]:
        """What a hub or a person may say at any moment, whatever waits: once to each memory."""
        if self.bounds.quick or live in self._asked:
            return
        self._asked.add(live)
        noting = msgspec.structs.replace(tied(memory), heartbeat_out=True, usage=True, kept_last=_COPY)
        for event in (
            ev.StopRequested(NOW, "a wish"),
            ev.Answered(at=NOW, url="u"),
            ev.Delivered(at=NOW, key="S/9/rows/8-9", rows=2),
            ev.HeldUp(at=NOW, key="S/9/open", condition="offline", reason="no network"),
            ev.Refused(at=NOW, key="S/9/heartbeat", reason="unknown", status=404),
            ev.ValStart(NOW),
            ev.PredictStart(NOW),
            ev.ExportStart(NOW),
        ):
            yield noting, event

    def _untimely(self, memory: Memory) -> Iterator[Violation]:
        """Whoever ticks asks when: a tick then finds something due, one before it does not, and none is forgotten."""
        lives = memory.state in LIVE_STATES and memory.hub_wanted
        for beats in {lives, False}:
            rest = self.rig.next_due(memory, NOW, heartbeats=beats)
            if rest is None:
                wrong = self._asks(memory, FAR, beats=beats)
            else:
                early = rest > 0 and self._asks(memory, rest - min(rest, 0.5), beats=beats)
                wrong = early or not self._asks(memory, rest, beats=beats)
            if wrong:
                told = "no tick" if rest is None else f"a tick in {rest:g} s"
                yield Violation(
                    "L2",
                    f"{told} is awaited while {memory.state.value}, and something is due at another time",
                )

    def _asks(self, memory: Memory, after: float, *, beats: bool) -> bool:
        at = NOW + after
        ticks: tuple[Event, ...] = (ev.Tick(at), ev.HeartbeatTick(at)) if beats else (ev.Tick(at),)
        return any(self._decided(memory, tick)[0].actions for tick in ticks)

    def _forgotten(self, before: Memory, after: Memory, step: Step) -> tuple[Violation, ...]:
        """The memory that lives on must be the one that the journal's line rebuilds; heartbeats are not written."""
        told = self.rig.adopted(before, step)
        if without_beat(told) == without_beat(after):
            return ()
        names = [name for name in after.__struct_fields__ if getattr(told, name) != getattr(after, name)]
        what = f"{name_of(step.event)} leaves {', '.join(names)} otherwise than the journal tells"
        return (Violation("S1", what),)

    def _written(self, durable: int, box: int, number: int) -> tuple[int, int]:
        cache = self._cache("written")
        token = (durable, box, number)
        written: tuple[int, int] | None = cache.get(token)
        if written is None:
            step = self._decisions[number].step
            assert step is not None, "only what is journalled is written"
            adopted = self._cache("adopted")
            told = adopted.get((durable, number))
            if told is None:
                told = self._number(aged(self.rig.adopted(self.memories.values[durable], step)))
                adopted[durable, number] = told
            folded = self.rig.folded(self.boxes.values[box], step)
            written = cache[token] = (told, self.boxes.of(folded))
        return written

    def _action(self, text: bytes) -> AnyAction:
        action = self._actions.get(text)
        if action is None:
            action = self._actions[text] = self._decoder.decode(text)
        return action

    # -- judging -----------------------------------------------------------------------------------------

    def _told(self, monitor: int, live: int, number: int) -> tuple[int, tuple[Violation, ...]]:
        cache = self._cache("told")
        token = (monitor, number)
        judged: tuple[int, tuple[Violation, ...]] | None = cache.get(token)
        if judged is None:
            fact = Told(self.memories.values[live], self._decisions[number].decision)
            judged = cache[token] = self._judge(monitor, fact)
        return judged

    def _observed(self, monitor: int, fact: Arrived | Began) -> tuple[int, tuple[Violation, ...]]:
        token: tuple[object, ...]
        if isinstance(fact, Arrived):
            token = (monitor, id(fact.action), fact.rows, fact.stored, fact.shown)
        else:
            token = (monitor, id(fact.memory), fact.trains)
        cache = self._cache("observed")
        judged: tuple[int, tuple[Violation, ...]] | None = cache.get(token)
        if judged is None:
            judged = cache[token] = self._judge(monitor, fact)
        return judged

    def _judge(self, monitor: int, fact: Fact) -> tuple[int, tuple[Violation, ...]]:
        after, found = self.monitors.values[monitor].observe(fact)
        return self.monitors.of(self._settled(after.aged(0.0, NOW))), found

    def _number(self, memory: Memory) -> int:
        """Numbers a memory. The clocks of the limits play no part where no attempt can follow."""
        memory = uncounted(memory)
        if is_over(memory.state) and not self._may_follow(memory.state, memory.attempt):
            memory = msgspec.structs.replace(
                memory, metrics_since=None, checkpoint_since=None, kept_at=None, kept_last=None, saved=None,
                best_fitness=None, first_epoch=0, epoch=None, kept_best=None, kept_final=None, saves=0,
            )  # fmt: skip
        return self.memories.of(memory)

    def _may_follow(self, state: State, attempt: int) -> bool:
        return self.bounds.anew and state is State.ABORTED and attempt < self.bounds.attempts

    def _settled(self, monitor: Monitor) -> Monitor:
        if is_over(monitor.state) and not self._may_follow(monitor.state, monitor.attempt):
            monitor = msgspec.structs.replace(
                monitor,
                rows_since=None,
                files_since=None,
                best=None,
                saved_epoch=-1,
                best_waits="",
                copies=(),
                kept_since=None,
                saved_in=0,
            )
            if not any(out.kind in (OpenSession, SendRows) for out in monitor.out):
                monitor = msgspec.structs.replace(monitor, in_force=(), firsts=())
        monitor = msgspec.structs.replace(monitor, rows_delivered=0, rows_not_taken=0, files_delivered=0)
        beat = monitor.beat_since
        if beat is not None and beat <= NOW - monitor.beat_interval:
            return msgspec.structs.replace(monitor, beat_since=None)
        return monitor

    def held(self, world: World) -> tuple[Violation, ...]:
        """What is violated by what is kept here at this moment."""
        cache = self._cache("held")
        token = (world.monitor, world.durable, world.box)
        found: tuple[Violation, ...] | None = cache.get(token)
        if found is None:
            box = self.boxes.values[world.box]
            fact = Holding(self.memories.values[world.durable], box.rows, frozenset(waiting(box)))
            _, found = self.monitors.values[world.monitor].observe(fact)
            cache[token] = found
        return found

    def _cache(self, name: str) -> dict[Any, Any]:
        return self._caches.setdefault(name, {})


def _numbers(shelf: Shelf) -> frozenset[int]:
    return frozenset(row.number for row in shelf.rows)


def _hasty(memory: Memory, decision: Decision) -> Iterator[Violation]:
    """A remembered time that lies ahead counts as now: nothing is due that has an interval."""
    if isinstance(decision.event, ev.TrainEnd | ev.Abort | ev.RetryRefused):
        return
    for action in decision.actions:
        clocks = {
            SendRows: (memory.metrics_since, memory.metrics_interval),
            SendCheckpoint: (memory.checkpoint_since, memory.checkpoint_interval),
            Heartbeat: (memory.heartbeat_since, memory.heartbeat_interval),
        }
        since, interval = clocks.get(type(action), (None, 0.0))
        if isinstance(action, KeepCheckpoint) and action.kind is CheckpointKind.LAST:
            since, interval = memory.kept_at, memory.checkpoint_interval
        if since is not None and interval > 0:
            yield Violation(
                "S8", f"{action.key} is asked for, and the clock was set back before its last one"
            )


def _otherwise(event: Event) -> tuple[Event, ...]:
    """The event in other words, which lead to the same moves: what is said and remembered of them must be theirs."""
    changed = msgspec.structs.replace
    match event:
        case ev.PretrainRoutineStart():
            return changed(event, name=""), changed(
                event, name="another", epochs=None, tags=(), first_epoch=0
            )
        case ev.TrainEnd():
            return (changed(event, outcome=Outcome.STOPPED),)
        case ev.Abort():
            return (changed(event, outcome=Outcome.INTERRUPTED, reason="another reason"),)
        case ev.GiveUp() | ev.StopRequested():
            return (changed(event, reason="another reason"),)
        case ev.FitEpochEnd():
            return (changed(event, epoch=event.epoch + 3, final=not event.final),)
        case ev.Delivered():
            return (changed(event, not_taken="another thing", rows=1),)
        case ev.Answered():
            return (
                ev.Answered(at=NOW, url="another place"),
                ev.Answered(at=NOW, metrics_interval=-1.0, checkpoint_interval=-1.0, heartbeat_interval=1.0),
                ev.Answered(at=NOW, checkpoint_interval=7.0, model="another model"),
            )
        case _:
            return ()


def _variants(event: Event) -> tuple[Event, ...]:
    """The events that must come to the same: itself, and for a try in vain the other reasons for it."""
    if not isinstance(event, ev.HeldUp):
        return (event,)
    return (
        msgspec.structs.replace(event, condition="credentials_rejected", reason="401"),
        msgspec.structs.replace(event, condition="rate_limited", reason="429", until=NOW + 1),
    )
