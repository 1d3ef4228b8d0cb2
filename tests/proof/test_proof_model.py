"""The model of the outbox against the real one, over a real journal: the same steps, the same claims, the same rows."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubstate import events as ev
from hubstate.actions import Memory, SendRows
from hubstate.controller import decide
from hubstate.journal import Journal, Recovery, recover
from hubstate.opening import for_next_attempt
from hubstate.outbox import FILES, WORDS, Delivery, Outbox
from hubstate.proof.model import NOW, Box, aged, claimed, folded, other_conditions, rows_of, step_of
from hubstate.proof.properties import RowSeen
from hubstate.states import Outcome, State

PROFILE = settings(derandomize=True, database=None, deadline=None, max_examples=60)

SAYS = [
    "row", "row", "row", "step", "save", "better", "save", "better", "tick", "end", "end", "abort", "abort", "give up", "retry", "resume", "usage",
    "words", "words", "words", "files", "files", "refuse words", "refuse files", "held up",
]  # fmt: skip

#: How a session may have gone on before anything is drawn: what is deep is reached by chance too seldom.
DEPTHS = [
    [],
    ["row", "better", "row", "save"],
    ["words", "row", "better", "row", "end"],
    ["words", "row", "save", "row", "refuse words", "row", "abort"],
    ["words", "row", "refuse words", "better", "refuse files", "row", "end", "retry"],
    ["row", "save", "resume", "row", "better", "end"],
]


def said(what: str, memory: Memory, at: float, key: str) -> ev.Event | None:
    """The event, if there is something to say."""
    number = memory.saves + 1
    match what:
        case "row":
            return ev.FitEpochEnd(at, memory.rows, {"loss": 0.5})
        case "step":
            return ev.TrainBatchEnd(at, 0, memory.rows, {"loss": 0.5})
        case "save" | "better":
            fitness = float(number) if what == "better" else None
            return ev.ModelSave(
                at, epoch=0, path="p", size=1, mtime_ns=number, fitness=fitness, snapshot=f"s{number}"
            )
        case "tick":
            return ev.Tick(at)
        case "end":
            return ev.TrainEnd(at)
        case "abort":
            return ev.Abort(at, outcome=Outcome.FAILED, reason="broke")
        case "give up":
            return ev.GiveUp(at, "no more")
        case "retry":
            return ev.RetryRefused(at)
        case "usage":
            return ev.ValStart(at)
        case _ if not key:
            return None
        case "words" | "files":
            sent = next((action for action in memory.outstanding if action.key == key), None)
            rows = sent.last - sent.first + 1 if isinstance(sent, SendRows) else 0
            return ev.Delivered(at, key=key, rows=rows)
        case "held up":
            return ev.HeldUp(at, key=key, condition="offline", reason="no network")
        case _:
            return ev.Refused(at, key=key, reason="4xx", status=413)


class Both:
    """A real journal and outbox in a folder, and the model beside them; both are told the same."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.journal = Journal(folder, Recovery(Memory(session="S"), 0, 0, "", ()))
        self.outbox = Outbox(folder / "outbox.sqlite", folder)
        self.box, self.memory, self.at = Box(), Memory(session="S"), NOW
        self.tell(ev.PretrainRoutineStart(self.at, session="S", usage=True, checkpoint_interval=10.0))
        self.begin_training()

    def begin_training(self) -> None:
        self.tell(ev.PretrainRoutineEnd(self.at))
        self.tell(ev.TrainStart(self.at))

    def tell(self, event: ev.Event) -> None:
        decision = decide(self.memory, event)
        if decision.journalled:
            step = msgspec.structs.replace(step_of(self.memory, decision), n=self.journal.n + 1)
            self.journal.append(step, decision.memory)
            self.box = folded(self.box, step)
        self.memory = decision.memory

    def resume(self) -> None:
        """Another process goes on: it begins a segment of its own."""
        self.journal.close()
        self.journal = Journal(self.folder, recover(self.folder))
        self.memory = for_next_attempt(self.memory)
        if self.memory.state is State.IDLE:
            self.tell(ev.PretrainRoutineStart(self.at, session="S", usage=True, checkpoint_interval=10.0))
            self.begin_training()

    def say(self, what: str) -> None:
        self.at += 2.0
        if what == "resume":
            self.resume()
            return
        head = claimed(self.box, FILES if what.endswith("files") else WORDS)
        event = said(what, self.memory, self.at, "" if head is None else head.key)
        if event is not None:
            self.tell(event)

    def compare(self) -> None:
        while self.outbox.ingest():
            pass
        for lane in (WORDS, FILES):
            real, model = self.outbox.claim(lane, self.at), claimed(self.box, lane)
            if real is None:
                assert model is None
                continue
            assert isinstance(real, Delivery)
            assert model is not None
            assert (real.key, msgspec.msgpack.encode(real.action)) == (model.key, model.text)
            if isinstance(real.action, SendRows):
                rows = tuple(RowSeen(r.number, r.attempt, r.epoch) for r in self.outbox.rows(real.action, 0))
                assert rows == rows_of(self.box, model)
        everything = SendRows("", 1, first=1, last=10_000)
        held = tuple(RowSeen(r.number, r.attempt, r.epoch) for r in self.outbox.rows(everything, 0))
        assert held == self.box.rows
        refused = sum(entry.refused for entry in self.box.entries)
        assert self.outbox.count() == (len(self.box.entries) - refused, refused)

    def close(self) -> None:
        self.outbox.close()
        self.journal.close()


@PROFILE
@given(depth=st.sampled_from(DEPTHS), saying=st.lists(st.sampled_from(SAYS), max_size=30))
def test_the_model_of_the_outbox_is_the_outbox(
    tmp_path_factory: pytest.TempPathFactory, depth: list[str], saying: list[str]
) -> None:
    """Whatever is said in whichever order, the model hands out what the real outbox hands out, and keeps the same."""
    both = Both(tmp_path_factory.mktemp("both") / "session")
    try:
        for what in (*depth, *saying):
            both.say(what)
            both.compare()
    finally:
        both.close()


def test_a_time_that_passed_counts_the_same_however_long_ago() -> None:
    """Ages are clipped where an interval is over, and what was decided before stays decided."""
    memory = Memory(state=State.TRAINING, metrics_since=NOW - 1, metrics_interval=3.0, rows=1)
    once, later = aged(memory, 2.0), aged(aged(memory, 2.0), 500.0)
    assert once == later
    assert not decide(memory, ev.Tick(NOW)).actions
    assert decide(once, ev.Tick(NOW)).actions == decide(memory, ev.Tick(NOW + 2)).actions != ()


def test_other_conditions_are_other_ones() -> None:
    """The second memory that a decision is asked with differs from the first where nothing may look."""
    memory = Memory(opened_at=NOW, ended_at=NOW)
    other = other_conditions(memory)
    assert (other.conditions, other.opened_at, other.ended_at) != ((), NOW, NOW)
    assert aged(other) == aged(memory)
