"""`hubstate check`: every world within a bound, and whether a property fails in one of them.

Breadth first, so that the first counterexample is one of the shortest. A world with fewer faults left than another
one that is equal otherwise is passed over: whatever may follow from it may follow from the other one, too, and what
follows without a fault is the same. The faults of the network have no bound at all: a try in vain changes nothing.

No one search holds everything, or it would take hours; the searches in `FULL` cover the bound together:

* `faults` holds all faults at once, over three rows, two checkpoints and two attempts. Its trainer says rows and
  saves in turn, the limits are open at once, and nothing is delivered before the training begins: the opening could
  as well leave a moment later. A process that dies is followed at once by the one that resumes: what would be
  delivered between the two could as well have left before.
* `windows` lets the limits work, over every order of a row and two saves: with a better fitness, one as good, a worse
  one, and none. `beats` adds heartbeats to one save.
* `fitness` carries the best over to the next attempt.
* `deaths` takes every step of a dying and resuming process apart, resumes aborted sessions as well, and delivers
  without a trainer.
* `refusals` lets a hub refuse, and lose acknowledgements, while the limits work and processes die.
* `two refusals` retries more than one delivery at once.
* `only best`, `only last`, `only final` and `only none` choose other checkpoints.
* `answers` adds what answers tell, what a hub cannot hold, and notes of usage.
* `offline` begins without a hub; another process delivers what is left, or the session is resumed, with a hub or not.
* `kinds` adds saves that are named the final one, and torn ones, over two attempts.
* `attempts` lets a trainer that resumes tell its rows anew, behind what the earlier attempt left and the hub refused.

Searches know nothing of each other, so several processes may share them; what is found is the same (see `together`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

from hubstate import machine
from hubstate.actions import AnyAction, Decision
from hubstate.clock import Clock, SystemClock
from hubstate.events import FitEpochEnd, ModelSave, TrainBatchEnd, name_of
from hubstate.limits import CHECKPOINT_CHOICES
from hubstate.proof.model import Bounds, Rig
from hubstate.proof.properties import PROPERTIES, Violation
from hubstate.proof.search import GOES_ON, PASSES, RETRY, Moves, World
from hubstate.proof.together import in_turn

__all__ = ["FULL", "QUICK", "Move", "Report", "Search", "check"]

#: What `checkpoints=` may be beside `all`, and two refusals that are retried at once.
_CHOICES: Mapping[str, Bounds] = {
    f"only {choice}": Bounds(
        rows=0, saves=2, attempts=1, refusals=0, lost=0, crashes=0, beats=False, quick=True, choice=choice
    )
    for choice in CHECKPOINT_CHOICES
    if choice != "all"
}
_TWICE = Bounds(
    rows=2, saves=0, attempts=1, refusals=2, lost=0, crashes=0, metrics=0.0, beats=False, quick=True
)
_ATTEMPTS = Bounds(
    rows=2,
    saves=1,
    lost=0,
    metrics=0.0,
    checkpoint=0.0,
    beats=False,
    quick=True,
    scripted=True,
    fitness=False,
    astray=True,
)
_KINDS = Bounds(
    rows=0,
    saves=2,
    refusals=0,
    lost=0,
    metrics=0.0,
    checkpoint=0.0,
    beats=False,
    quick=True,
    fitness=False,
    kinds=True,
)

#: What is the smallest comes first, so that a mistake is found early.
FULL: Mapping[str, Bounds] = {
    "refusals": Bounds(rows=2, saves=0, checkpoint=1.0, beats=False),
    "windows": Bounds(rows=1, saves=2, attempts=1, refusals=0, lost=0, crashes=0, beats=False),
    "beats": Bounds(rows=1, saves=1, attempts=1, refusals=0, lost=0, crashes=0, fitness=False),
    "answers": Bounds(
        rows=1, saves=0, attempts=1, lost=0, crashes=0, beats=False, usage=True, news=True, foreign=True
    ),
    "deaths": Bounds(
        rows=1, saves=1, refusals=0, lost=0, checkpoint=1.0, beats=False, anew=True, fitness=False
    ),
    "fitness": Bounds(
        rows=0, saves=2, refusals=0, lost=0, metrics=0.0, checkpoint=0.0, beats=False, quick=True
    ),
    "two refusals": _TWICE,
    "attempts": _ATTEMPTS,
    "kinds": replace(_KINDS, saves=3),
    **_CHOICES,
    "offline": Bounds(
        rows=1, saves=1, refusals=0, lost=0, metrics=0.0, checkpoint=0.0, fitness=False, hub=False
    ),
    "faults": Bounds(metrics=0.0, checkpoint=0.0, heartbeat=0.0, scripted=True, quick=True),
}
#: A smaller bound, for every day.
QUICK: Mapping[str, Bounds] = {
    "refusals": Bounds(rows=2, saves=0, attempts=1, checkpoint=1.0, beats=False),
    "windows": Bounds(rows=1, saves=2, attempts=1, refusals=0, lost=0, crashes=0, beats=False),
    "answers": Bounds(
        rows=1,
        saves=0,
        attempts=1,
        refusals=0,
        lost=0,
        crashes=0,
        beats=False,
        usage=True,
        news=True,
        foreign=True,
    ),
    "deaths": Bounds(rows=1, saves=1, refusals=0, lost=0, checkpoint=1.0, beats=False, fitness=False),
    "fitness": Bounds(
        rows=0, saves=2, refusals=0, lost=0, metrics=0.0, checkpoint=0.0, beats=False, quick=True
    ),
    "two refusals": _TWICE,
    "attempts": _ATTEMPTS,
    "kinds": _KINDS,
    **_CHOICES,
    "offline": Bounds(
        rows=1, saves=1, attempts=1, refusals=0, lost=0, checkpoint=1.0, fitness=False, hub=False
    ),
    "faults": Bounds(rows=2, saves=1, metrics=0.0, checkpoint=0.0, heartbeat=0.0, scripted=True, quick=True),
}


class Move(NamedTuple):
    """One move of a trace: its name, and the decisions in it, which a journal would tell as steps."""

    name: str
    decisions: tuple[Decision, ...]

    def __str__(self) -> str:
        said = "; ".join(_decided(decision) for decision in self.decisions)
        alone = len(self.decisions) == 1 and self.name == name_of(self.decisions[0].event)
        return said if alone else f"{self.name}: {said}" if said else self.name


@dataclass(frozen=True)
class Search:
    """What one search found. `violated` is None if every property holds; `trace` is the way to what does not."""

    name: str
    bounds: Bounds
    states: int
    edges: int
    seconds: float
    rows: frozenset[int]
    violated: Violation | None = None
    trace: tuple[Move, ...] = ()


@dataclass(frozen=True)
class Report:
    """What was searched, and what was found. `seconds`: how long it took, which several processes may have shared."""

    searches: tuple[Search, ...]
    seconds: float

    @property
    def states(self) -> int:
        """Worlds that were visited."""
        return sum(search.states for search in self.searches)

    @property
    def edges(self) -> int:
        """Moves that were judged."""
        return sum(search.edges for search in self.searches)

    @property
    def failed(self) -> Search | None:
        """The search that found a violation, if one did."""
        return next((search for search in self.searches if search.violated is not None), None)

    @property
    def rows(self) -> frozenset[int]:
        """The rows of the table that were taken, counted from 1."""
        return frozenset().union(*(search.rows for search in self.searches))

    def __str__(self) -> str:
        lines = [
            f"{search.name}: {search.states} states, {search.edges} edges, {search.seconds:.1f} s ({_bound(search.bounds)})"
            for search in self.searches
        ]
        lines.append(f"in all: {self.states} states, {self.edges} edges, {self.seconds:.1f} s")
        lines.append(f"rows of the table taken: {len(self.rows)} of {len(machine.TABLE)}")
        failed = self.failed
        if failed is None:
            lines.append(f"all hold: {', '.join(PROPERTIES)}")
        else:
            assert failed.violated is not None, "a search that failed violates something"
            name, what = failed.violated
            lines += [f"{name} is violated: {what}", f"  {PROPERTIES[name]}", "the shortest way there:"]
            lines += [f"{number:>4}. {move}" for number, move in enumerate(failed.trace, 1)]
        return "\n".join(lines)


def check(
    bounds: Mapping[str, Bounds] = FULL,
    *,
    rig: Rig | None = None,
    clock: Clock | None = None,
    processes: int = 1,
    show: Callable[[Search], None] | None = None,
) -> Report:
    """Searches every world within the bounds, one search after the other, until a property fails.

    `rig`: the parts to judge, the real ones without it. `processes`: how many share the searches; what is reported is the
    same. A rig of one's own is searched in this process alone, for functions cannot be handed to another. `show` hears
    of each search in its turn.
    """
    clock = clock or SystemClock()
    begun = clock.monotonic()
    searches = []
    for found in _searched(bounds, rig, clock, processes):
        searches.append(found)
        if show is not None:
            show(found)
        if found.violated is not None:
            break
    return Report(tuple(searches), clock.monotonic() - begun)


def _searched(
    bounds: Mapping[str, Bounds], rig: Rig | None, clock: Clock, processes: int
) -> Iterator[Search]:
    """The searches in their order. What follows one that is the last asked for is not begun, or let go of."""
    if rig is not None or processes <= 1 or len(bounds) <= 1:
        for name, bound in bounds.items():
            yield _search(name, bound, clock, rig=rig)
        return
    jobs = {name: partial(_search, name, bound, clock) for name, bound in bounds.items()}
    yield from in_turn(jobs, processes, lambda search: search.violated is not None)


def _search(name: str, bound: Bounds, clock: Clock, *, rig: Rig | None = None) -> Search:
    return _Searching(name, bound, rig or Rig(), clock).run()


class _Searching:
    """One search."""

    def __init__(self, name: str, bounds: Bounds, rig: Rig, clock: Clock) -> None:
        self._name, self._bounds, self._clock = name, bounds, clock
        self._moves = Moves(rig, bounds)
        self._worlds: list[World] = []
        self._parents: list[int] = []
        self._known: dict[tuple[object, ...], list[tuple[tuple[int, ...], int]]] = {}
        #: For each world, its moves as (kind, world).
        self._graph: list[list[tuple[int, int]]] = []

    def run(self) -> Search:
        begun = self._clock.monotonic()
        edges, violated, trace = self._explore()
        if violated is None:
            violated, at = self._liveness()
            trace = () if violated is None else self._way(at)
        if violated is None:
            violated, trace = self._aside()
        taken = frozenset(number + 1 for number in self._moves.taken)
        seconds = self._clock.monotonic() - begun
        return Search(self._name, self._bounds, len(self._worlds), edges, seconds, taken, violated, trace)

    # -- what must never happen --------------------------------------------------------------------------

    def _explore(self) -> tuple[int, Violation | None, tuple[Move, ...]]:
        moves, count = self._moves, 0
        self._enter(moves.start(), -1)
        for number, world in enumerate(self._worlds):  # it grows meanwhile
            out: list[tuple[int, int]] = []
            for edge in moves.out_of(world):
                count += 1
                found = edge.violations
                target = -1 if found else self._place(edge.world)
                if target < 0 and not found:
                    found = moves.held(edge.world)
                if found:
                    return (
                        count + moves.edges,
                        found[0],
                        (*self._way(number), *self._last(world, edge.world, found)),
                    )
                if target < 0:
                    target = self._enter(edge.world, number)
                if target != number or edge.kind == GOES_ON:
                    out.append((edge.kind, target))
            self._graph.append(out)
        return count + moves.edges, None, ()

    def _place(self, world: World) -> int:
        """The world that stands for this one: it is equal, and as many faults are left, or more."""
        for left, number in self._known.get(world[:-1], ()):
            if all(here >= there for here, there in zip(left, world.left, strict=True)):
                return number
        return -1

    def _enter(self, world: World, parent: int) -> int:
        number = len(self._worlds)
        self._worlds.append(world)
        self._parents.append(parent)
        self._known.setdefault(world[:-1], []).append((world.left, number))
        return number

    def _aside(self) -> tuple[Violation | None, tuple[Move, ...]]:
        """The first violation that is none of a way, and the way to where it is."""
        for live, decision, violation in self._moves.aside():
            # Between two moves that are taken as one there is no world: the way to it is left out.
            places = (n for n, world in enumerate(self._worlds) if live in (world.live, world.durable))
            number = next(places, 0)
            last = () if decision is None else (Move(name_of(decision.event), (decision,)),)
            return violation, (*self._way(number), *last)
        return None, ()

    # -- what must stay possible, or happen in the end ---------------------------------------------------

    def _liveness(self) -> tuple[Violation | None, int]:
        """The first world from which something cannot happen that must stay possible."""
        moves, graph = self._moves, self._graph
        drained = [moves.is_drained(world) for world in self._worlds]
        calm = [moves.is_calm(world) for world in self._worlds]
        every = range(len(graph))
        stuck = next((n for n in every if not drained[n] and all(t == n for _, t in graph[n])), None)
        if stuck is not None:
            return Violation("L3", "nothing can change any more, and the session is not drained"), stuck
        ends = self._reaches({n for n in every if drained[n]}, {GOES_ON, PASSES, RETRY})
        lost = next((n for n in every if n not in ends), None)
        if lost is not None:
            return Violation("L1", "no drained terminal state can be reached from here"), lost
        moving = {n for n in every if drained[n] or any(kind == GOES_ON for kind, _ in graph[n])}
        moved = self._reaches(moving, {PASSES})
        idle = next((n for n in every if calm[n] and n not in moved), None)
        if idle is not None:
            return Violation(
                "L2", "time alone makes nothing possible here, and the session is not drained"
            ), idle
        round_ = self._progress_in_a_circle(calm)
        if round_ is not None:
            return Violation("L2", "from here the same progress can be made for ever"), round_
        return None, -1

    def _reaches(self, ends: set[int], kinds: set[int]) -> set[int]:
        back: dict[int, list[int]] = {}
        for number, out in enumerate(self._graph):
            for kind, target in out:
                if kind in kinds:
                    back.setdefault(target, []).append(number)
        reached, rest = set(ends), list(ends)
        while rest:
            for number in back.get(rest.pop(), ()):
                if number not in reached:
                    reached.add(number)
                    rest.append(number)
        return reached

    def _progress_in_a_circle(self, calm: list[bool]) -> int | None:
        """A world from which a move of progress leads back to it, by progress and time alone."""
        graph = [
            [target for kind, target in out if kind in (GOES_ON, PASSES) and calm[target]] if calm[n] else []
            for n, out in enumerate(self._graph)
        ]
        part = _components(graph)
        for number, out in enumerate(self._graph):
            for kind, target in out:
                if kind == GOES_ON and calm[number] and calm[target] and part[number] == part[target]:
                    return number
        return None

    # -- the way there -----------------------------------------------------------------------------------

    def _way(self, number: int) -> tuple[Move, ...]:
        numbers = [number]
        while self._parents[numbers[-1]] >= 0:
            numbers.append(self._parents[numbers[-1]])
        worlds = [self._worlds[n] for n in reversed(numbers)]
        return tuple(
            move for here, there in itertools.pairwise(worlds) for move in self._last(here, there, ())
        )

    def _last(self, here: World, there: World, found: tuple[Violation, ...]) -> tuple[Move, ...]:
        """The move from one world to another; if it violates something itself, the one that does."""
        innocent: tuple[Move, ...] = ()
        for edge, decisions in self._moves.again(here):
            if edge.world != there:
                continue
            if edge.violations == found:
                return (Move(edge.name, decisions),)
            # What is violated by what is kept behind a move is none of the move's own.
            if not edge.violations and not innocent:
                innocent = (Move(edge.name, decisions),)
        return innocent


def _components(graph: list[list[int]]) -> list[int]:
    """The strongly connected component of each node, by Tarjan's algorithm without recursion."""
    index, low, part = [-1] * len(graph), [0] * len(graph), [-1] * len(graph)
    stack: list[int] = []
    count = parts = 0
    for root in range(len(graph)):
        if index[root] >= 0:
            continue
        work = [(root, 0)]
        while work:
            node, place = work.pop()
            if place == 0:
                index[node] = low[node] = count
                count += 1
                stack.append(node)
            for following in range(place, len(graph[node])):
                target = graph[node][following]
                if index[target] < 0:
                    work += [(node, following + 1), (target, 0)]
                    break
                if part[target] < 0:
                    low[node] = min(low[node], index[target])
            else:
                if low[node] == index[node]:
                    while part[node] < 0:
                        part[stack.pop()] = parts
                    parts += 1
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
    return part


# -- words -----------------------------------------------------------------------------------------------


def _decided(decision: Decision) -> str:
    event, refusal = decision.event, decision.refusal
    words = name_of(event)
    if isinstance(event, FitEpochEnd | TrainBatchEnd | ModelSave):
        words += f" epoch {event.epoch}"
    if refusal is not None:
        return f"{words}: {'illegal' if refusal.illegal else 'held back'}"
    words += f" -> {decision.memory.state.value}"
    asked = [_key(action) for action in decision.actions]
    return f"{words}, asks {', '.join(asked)}" if asked else words


def _key(action: AnyAction) -> str:
    return action.key.partition("/")[2]


def _bound(bounds: Bounds) -> str:
    usual = Bounds()
    told = [f"rows={bounds.rows}", f"saves={bounds.saves}", f"attempts={bounds.attempts}"]
    told += [f"refusals={bounds.refusals}", f"lost={bounds.lost}", f"crashes={bounds.crashes}"]
    told += [
        f"{name}={value}"
        for name, value in vars(bounds).items()
        if value != getattr(usual, name) and not any(word.startswith(f"{name}=") for word in told)
    ]
    return ", ".join(told)
