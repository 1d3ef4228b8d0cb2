"""Stand-ins that several test files share: a hub that is scripted per key, a door on a real journal, random ways."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from hubstate import events as ev
from hubstate.actions import Decision, Memory, SendCheckpoint, SendRows
from hubstate.clock import VirtualClock
from hubstate.door import Door
from hubstate.hubs.base import Accepted, Capabilities, Delayed, News, Parcel, Reply
from hubstate.journal import Journal, recover
from hubstate.states import CheckpointKind, Outcome

__all__ = [
    "OFFLINE",
    "SAYINGS",
    "FakeHub",
    "door_in",
    "lost",
    "save",
    "say",
    "train",
]

OFFLINE = Delayed("offline", "no route to the hub")
Script = Reply | Callable[[Parcel], Reply]


def lost(_parcel: Parcel) -> Reply:
    """Marks an answer that gets lost on its way: the hub holds the parcel, and the sender never hears of it."""
    return OFFLINE


class FakeHub:
    """A hub in memory. It answers what `script` says for an action's key, first things first, else it takes all."""

    address = "http://hub.test"
    capabilities = Capabilities()

    def __init__(self, *, news: News | None = None) -> None:
        self.news = news or News(hub=self.address, model="M")
        self.requests: list[Parcel] = []
        #: What it holds, by the key of the request, in the order of arrival.
        self.holds: dict[str, Parcel] = {}
        #: What a repeated key brought that the first one had not: must stay empty.
        self.contradictions: list[str] = []
        self.always: Script | None = None
        #: Called with each parcel before it is answered: what happens while it is on its way.
        self.meanwhile: Callable[[Parcel], None] | None = None
        self.closed = False
        self._scripts: dict[str, deque[Script]] = defaultdict(deque)

    @property
    def moved(self) -> int:
        return 0

    def script(self, key: str, *replies: Script) -> None:
        """What is answered to the next requests for the action `key`."""
        self._scripts[key].extend(replies)

    def check(self) -> Reply:
        return Accepted()

    def deliver(self, parcel: Parcel) -> Reply:
        self.requests.append(parcel)
        if self.meanwhile is not None:
            self.meanwhile(parcel)
        scripts = self._scripts[parcel.action.key]
        script = scripts.popleft() if scripts else self.always
        if script is None or script is lost:
            self._hold(parcel)
        if script is None:
            return Accepted(rows=len(parcel.rows), sha256=parcel.sha256, news=self.news)
        return script(parcel) if callable(script) else script

    def close(self) -> None:
        self.closed = True

    @property
    def asked(self) -> list[str]:
        """The keys of all requests without the session's part: `1/rows/1-2#1-2`."""
        return [parcel.key.partition("/")[2] for parcel in self.requests]

    @property
    def rows(self) -> list[int]:
        """The numbers of the rows that it holds, in order of arrival."""
        return [row.number for parcel in self.holds.values() for row in parcel.rows]

    @property
    def files(self) -> list[str]:
        return [p.action.snapshot for p in self.holds.values() if isinstance(p.action, SendCheckpoint)]

    def _hold(self, parcel: Parcel) -> None:
        first = self.holds.setdefault(parcel.key, parcel)
        if (first.rows, first.sha256) != (parcel.rows, parcel.sha256):
            self.contradictions.append(parcel.key)


def _deaf(_before: Memory, _decision: Decision) -> None:
    """Hears nothing."""


def door_in(
    folder: Path, clock: VirtualClock | None = None, listener: Callable[[Memory, Decision], None] = _deaf
) -> Door:
    """A door on the journal in `folder`, as it is recovered."""
    folder.mkdir(parents=True, exist_ok=True)
    recovery = recover(folder)
    return Door(Journal(folder, recovery), recovery.memory, clock or VirtualClock(), listener)


def train(door: Door, **start: Any) -> Door:
    """Brings a door from idle to training."""
    door.tell(ev.PretrainRoutineStart, session="S", name="digits", **start)
    door.tell(ev.PretrainRoutineEnd)
    door.tell(ev.TrainStart)
    return door


def save(door: Door, snapshots: Path, name: str, epoch: int = 0, fitness: float | None = None) -> Decision:
    """Tells of a saved checkpoint whose snapshot lies among `snapshots`."""
    snapshots.mkdir(parents=True, exist_ok=True)
    (snapshots / name).write_bytes(name.encode() * 10)
    return door.tell(
        ev.ModelSave,
        epoch=epoch,
        path=f"/run/{name}",
        size=len(name) * 10,
        mtime_ns=1,
        snapshot=name,
        fitness=fitness,
    )


Saying = tuple[str, float, int]
_NAMES = ["row"] * 6 + ["step", "save", "tick", "beat", "delivered", "delivered", "delivered", "refused"]
_NAMES += ["held_up", "answered", "stop", "retry", "give_up", "end", "abort", "start", "prepared", "begun"]
#: Random ways through a session, mostly such as a run takes: what is said, seconds before it, and a number.
SAYINGS: st.SearchStrategy[list[Saying]] = st.lists(
    st.tuples(
        st.sampled_from(_NAMES), st.sampled_from([0.25, 1.0, 3.0, 60.0, 300.0, 900.0]), st.integers(0, 5)
    ),
    max_size=30,
)


def say(door: Door, clock: VirtualClock, sayings: Iterable[Saying]) -> list[tuple[Memory, Decision]]:
    """Says all of it, beginning with the way to training; returns the memory before each and what followed."""
    told = []
    opening: list[Saying] = [("start", 0.0, 0), ("prepared", 0.5, 0), ("begun", 0.5, 0)]
    for name, seconds, pick in (*opening, *sayings):
        clock.advance(seconds)
        before = door.memory
        kind, fields = _said(name, pick, before)
        told.append((before, door.tell(kind, **fields)))
    return told


def _said(name: str, pick: int, memory: Memory) -> tuple[type[ev.Event], dict[str, Any]]:
    keys = [action.key for action in memory.outstanding] or [
        f"{memory.session}/1/open"
    ]  # an answer that comes twice
    key = keys[pick % len(keys)]
    rows = next((a.last - a.first + 1 for a in memory.outstanding if a.key == key and type(a) is SendRows), 0)
    words: dict[str, tuple[type[ev.Event], dict[str, Any]]] = {
        "start": (ev.PretrainRoutineStart, {"session": "S", "name": "digits"}),
        "prepared": (ev.PretrainRoutineEnd, {}),
        "begun": (ev.TrainStart, {}),
        "row": (ev.FitEpochEnd, {"epoch": memory.rows, "metrics": {"loss": 1 / (memory.rows + 1)}}),
        "step": (
            ev.TrainBatchEnd,
            {"epoch": 0, "step": memory.rows, "metrics": {"x": None}, "nonfinite": {"x": "NaN"}},
        ),
        "save": (
            ev.ModelSave,
            {
                "epoch": memory.epoch or 0,
                "path": "last.pt",
                "size": 9,
                "mtime_ns": pick,
                "fitness": None if pick == 0 else pick / 5,
                "snapshot": f"snapshot-{memory.saves}",
                "kind": CheckpointKind.LAST,
            },
        ),
        "tick": (ev.Tick, {}),
        "beat": (ev.HeartbeatTick, {}),
        "delivered": (
            ev.Delivered,
            {"key": key, "rows": rows, "not_taken": "step rows" if pick == 5 else ""},
        ),
        "refused": (ev.Refused, {"key": key, "reason": "too large", "status": 413}),
        "held_up": (ev.HeldUp, {"key": key, "condition": "offline", "reason": "no route"}),
        "answered": (ev.Answered, {"url": "http://hub.test/S", "hub": "http://hub.test"}),
        "stop": (ev.StopRequested, {"reason": "pressed"}),
        "retry": (ev.RetryRefused, {}),
        "give_up": (ev.GiveUp, {"reason": "the hub is gone"}),
        "end": (ev.TrainEnd, {}),
        "abort": (ev.Abort, {"outcome": Outcome.FAILED, "reason": "out of memory"}),
    }
    return words[name]
