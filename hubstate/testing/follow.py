"""Follows the journal of a session while it is written, and tells the monitor of the properties what it sees.

The journal is the truth, so it is what is judged: nothing is asked of the thing under test but that it writes one.
What is in no journal (a tick that found nothing due, a heartbeat) is told by whoever said or received it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from hubstate.actions import Decision, Heartbeat, Memory, RecordUsage, Refusal
from hubstate.events import Event, HeartbeatTick, name_of
from hubstate.hubs.base import Parcel
from hubstate.journal import Damage, Position, Step, adopt_step, read, recover
from hubstate.machine import TABLE, Rule, choose, rules_for
from hubstate.proof.properties import Arrived, Began, Fact, Holding, Monitor, RowSeen, Told
from hubstate.states import LIVE_STATES

__all__ = ["Follower", "row_name"]


class Follower:
    """One session's journal, as far as it was read, and what the properties say of it.

    `taken` counts how often each row of the table was taken, by its number (0-based). A violation of S1 to S9 raises
    `AssertionError` with the property and what shows it, at the first fact that violates it.
    """

    def __init__(self, taken: Counter[int]) -> None:
        self.taken = taken
        self.memory = Memory()
        self._folder = Path()
        self._position = Position()
        self._monitor = Monitor()

    def begin(self, folder: Path, memory: Memory, *, trains: bool) -> None:
        """A process opened the session in `folder`; `memory` is what it began with."""
        self._folder = folder
        self.memory = memory
        self.observe(Began(memory, trains))

    def moved(self, folder: Path) -> None:
        """The session's folder lies elsewhere now."""
        self._folder = folder

    def read(self) -> None:
        """Reads what was written since the last time. Raises `AssertionError` for what no session may do."""
        for entry in read(self._folder, self._position):
            assert not isinstance(entry.line, Damage), f"the journal is damaged: {entry.line}"
            if isinstance(entry.line, Step):
                self._step(entry.line)
            self._position = entry.position

    def arrived(self, parcel: Parcel, new: bool) -> None:
        """A request reached the hub whole."""
        self.read()
        if isinstance(parcel.action, Heartbeat):
            state = self.memory.state
            assert state in LIVE_STATES, f"S5: a heartbeat arrives while the session is {state.value}"
            rules = rules_for(state, HeartbeatTick)
            self._count(next(rule for rule in rules if Heartbeat in rule.actions))
        rows = tuple(RowSeen(row.number, row.attempt, row.epoch) for row in parcel.rows)
        self.observe(Arrived(parcel.action, rows, new))

    def said(self, before: Memory, event: Event) -> None:
        """An event was said that may be in no journal: counts the row that it takes."""
        choice = choose(before, event)
        if choice is not None and choice.rule is not None and not choice.rule.written:
            self._count(choice.rule)

    def holds(self) -> None:
        """Judges what is kept on disk just now: the memory, the rows and the deliveries that a new process would find."""
        found = recover(self._folder).memory
        steps = [entry.line for entry in read(self._folder) if isinstance(entry.line, Step)]
        rows = tuple(RowSeen(s.row, s.attempt, getattr(s.event, "epoch", 0)) for s in steps if s.row)
        # No memory holds a note of usage; the line that asked for it does.
        notes = {a.key for step in steps for a in step.actions if isinstance(a, RecordUsage)}
        self.observe(Holding(found, rows, frozenset(notes | {action.key for action in found.outstanding})))

    def observe(self, fact: Fact) -> None:
        """Tells the monitor a fact. Raises `AssertionError` if it violates a property."""
        self._monitor, violations = self._monitor.observe(fact)
        assert not violations, "; ".join(f"{found.name}: {found.what}" for found in violations)

    def _step(self, step: Step) -> None:
        before = self.memory
        after = adopt_step(before, step)
        refusal = None
        if step.refusal or step.illegal:
            refusal = Refusal(before.state, name_of(step.event), step.refusal, step.illegal)
        self.observe(
            Told(before, Decision(after, step.actions, refusal, step.event, step.guards, journalled=True))
        )
        choice = choose(before, step.event)
        if choice is not None and choice.rule is not None:
            self._count(choice.rule)
        self.memory = after

    def _count(self, rule: Rule) -> None:
        self.taken[TABLE.index(rule)] += 1


def row_name(number: int) -> str:
    """A row of the table in words, such as `training / tick [metrics_due, rows_wait]`."""
    rule = TABLE[number]

    def listed(names: Iterable[str]) -> str:
        return ", ".join(names)

    sources = listed(state.value for state in rule.sources)
    text = f"row {number + 1}: {sources} / {listed(name_of(event) for event in rule.events)}"
    return f"{text} [{listed(guard.name for guard in rule.guards)}]" if rule.guards else text
