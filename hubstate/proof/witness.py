"""Who watches a simulated world: every step at the door and every arrival at the hub, judged as it happens.

For each session a `Monitor` of the properties is told what happened. A process that dies takes with it what it had
not written; then the monitor goes back to the last step that the journal still tells, and judges on from there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hubstate.actions import Action, Decision, Heartbeat, Memory, Refusal, SendCheckpoint, SendRows
from hubstate.door import Door
from hubstate.events import Delivered, Event, HeldUp, Refused, name_of
from hubstate.journal import Step, adopt_step, recover
from hubstate.machine import TABLE, choose
from hubstate.opening import for_next_attempt
from hubstate.proof.network import Arrival
from hubstate.proof.properties import Arrived, Began, Fact, Holding, Monitor, RowSeen, Told
from hubstate.states import LIVE_STATES, State

__all__ = ["Broken", "Witness", "kind_of"]


class Broken(Exception):
    """Something that must hold does not: a property, or what was promised of rows, files and ends."""


class _Seen:
    """What was seen of one session: its monitor, the last step's number, and every fact with the step it belongs to."""

    def __init__(self) -> None:
        self.monitor = Monitor()
        self.n = 0
        self.facts: list[tuple[int, Fact]] = []

    def observe(self, fact: Fact) -> None:
        """One more fact. Raises `Broken` if it violates a property."""
        self.facts.append((self.n, fact))
        self.monitor, violations = self.monitor.observe(fact)
        if violations:
            raise Broken("; ".join(f"{found.name}: {found.what}" for found in violations))

    def back_to(self, n: int) -> None:
        """Only the steps up to number `n` happened; what arrived at the hub arrived."""
        if n == self.n:
            return
        self.facts = [(at, fact) for at, fact in self.facts if at <= n or isinstance(fact, Arrived)]
        self.n = n
        self.monitor = Monitor()
        for _at, fact in self.facts:
            self.monitor, _known = self.monitor.observe(fact)


class Witness:
    """Watches all sessions of a world. `counts` counts what was covered, by name."""

    def __init__(self, counts: Counter[str]) -> None:
        self.counts = counts
        #: The session that somebody trains in just now; empty while nobody does. None: one is about to be opened.
        self.trained: str | None = ""
        self._deaf = False
        self._seen: dict[str, _Seen] = {}
        self._doors: dict[str, Door] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """While it lasts, every door tells what it was told."""
        real = Door.tell

        def tell(door: Door, kind: type[Event], /, *fields: Any, **named: Any) -> Decision:
            before = door.memory
            decision = real(door, kind, *fields, **named)
            if not self._deaf:
                self._told(door, before, decision)
            return decision

        _put(Door, "tell", tell)
        try:
            yield
        finally:
            _put(Door, "tell", real)

    @contextmanager
    def deaf(self) -> Iterator[None]:
        """While it lasts, nothing that is told is judged: there is nobody behind the door any more."""
        self._deaf = True
        try:
            yield
        finally:
            self._deaf = False

    def arrived(self, arrival: Arrival) -> None:
        """The hub took a request. Raises `Broken` if it must not have come."""
        if isinstance(arrival.action, Heartbeat) and arrival.action.state not in LIVE_STATES:
            raise Broken(f"S5: a heartbeat arrives while the session is {arrival.action.state.value}")
        kind = kind_of(arrival.action)
        self.counts[f"arrival: {kind}{'' if arrival.stored else ', again'}"] += 1
        self.counts["a folder arrives"] += arrival.folder
        if isinstance(arrival.action, SendRows) and arrival.rows[-1].number < arrival.action.last:
            self.counts["a part of a send arrives"] += 1
        seen = self._seen.get(arrival.session)
        if seen is not None and (
            arrival.stored or any(o.key == arrival.action.key for o in seen.monitor.out)
        ):
            # (A copy of what was acknowledged long ago finds itself there, whenever it arrives.)
            seen.observe(Arrived(arrival.action, arrival.rows, arrival.stored))

    def ended(self, folder: Path, steps: list[Step], *, judge: bool) -> None:
        """The process that had the session is gone: what counts is what the journal tells now, the `steps` in it.

        `judge`: nothing written may be missing, so rows and deliveries are looked for on the disk.
        """
        self._doors.pop(folder.name, None)
        seen = self._seen.setdefault(folder.name, _Seen())
        found = recover(folder)
        self._catch_up(seen, folder.name, steps)
        seen.back_to(found.n)
        if judge:
            rows = tuple(
                RowSeen(step.row, step.attempt, getattr(step.event, "epoch", 0)) for step in steps if step.row
            )
            keys = frozenset(action.key for action in found.memory.outstanding)
            usage = {out.key for out in seen.monitor.out if "/usage/" in out.key}
            seen.observe(Holding(found.memory, rows, keys | usage))

    def _catch_up(self, seen: _Seen, session: str, steps: list[Step]) -> None:
        """A process that died behind its last line had no time to tell of it; whoever reads the journal finds it."""
        if not steps or steps[-1].n <= seen.n:
            return
        memory = Memory(session=session)
        for step in steps:
            before = for_next_attempt(memory) if step.source is State.IDLE else memory
            memory = adopt_step(before, step)
            if step.n <= seen.n:
                continue
            if step.source is State.IDLE:
                seen.observe(Began(before, trains=True))
            refusal = None
            if step.refusal or step.illegal:
                refusal = Refusal(before.state, name_of(step.event), step.refusal, step.illegal)
            seen.n = step.n
            told = Decision(memory, step.actions, refusal, step.event, step.guards, journalled=True)
            seen.observe(Told(before, told))

    def _told(self, door: Door, before: Memory, decision: Decision) -> None:
        choice = choose(before, decision.event)
        if choice is None:
            self.counts["illegal event"] += 1
        elif choice.rule is not None:
            self.counts[f"row {TABLE.index(choice.rule) + 1}"] += 1
        self._note_answer(before, decision.event)
        session = before.session
        if not session or (before.state is State.IDLE and decision.memory.state is State.IDLE):
            return
        seen = self._seen.setdefault(session, _Seen())
        if self._doors.get(session) is not door:
            self._doors[session] = door
            # What the last door of this process could not write is forgotten, though nobody died.
            seen.back_to(door._n - decision.journalled)  # noqa: SLF001 - before this step
            trains = self.trained is None or self.trained == session
            seen.observe(Began(before, trains))
        seen.n += decision.journalled
        seen.observe(Told(before, decision))

    def _note_answer(self, memory: Memory, event: Event) -> None:
        if not isinstance(event, Delivered | Refused | HeldUp):
            return
        action: Action | None = next((a for a in memory.outstanding if a.key == event.key), None)
        if action is None:
            kind = "heartbeat" if event.key.endswith("/heartbeat") else "usage"
        else:
            kind = kind_of(action)
        self.counts[f"{name_of(event)}: {kind}"] += 1


def kind_of(action: Action) -> str:
    """What a delivery is, in a word or two."""
    if isinstance(action, SendCheckpoint):
        return f"{action.kind.value} checkpoint"
    return str(type(action).__struct_config__.tag)


def _put(where: type[Door], name: str, what: object) -> None:
    setattr(where, name, what)
