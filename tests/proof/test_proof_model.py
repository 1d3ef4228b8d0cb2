"""The model of the outbox against the real one, over a real journal: the same steps, the same claims, the same rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine, insert

from hubstate import events as ev
from hubstate.actions import Memory, OpenSession, Row, SendRows
from hubstate.controller import decide
from hubstate.journal import Journal, Recovery, recover
from hubstate.opening import for_next_attempt
from hubstate.outbox import FILES, WORDS, Delivery, Outbox
from hubstate.proof.model import (
    NOW,
    Box,
    Shelf,
    aged,
    claimed,
    folded,
    other_conditions,
    rows_of,
    set_back,
    shelved,
    step_of,
    uncounted,
)
from hubstate.proof.properties import RowSeen
from hubstate.server import rows as hub_rows
from hubstate.server.schema import attempts, metadata
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
                rows = tuple(seen(row) for row in self.outbox.rows(real.action, 0))
                assert rows == rows_of(self.box, model)
        everything = SendRows("", 1, first=1, last=10_000)
        assert tuple(seen(row) for row in self.outbox.rows(everything, 0)) == self.box.rows
        refused = sum(entry.refused for entry in self.box.entries)
        assert self.outbox.count() == (len(self.box.entries) - refused, refused)

    def drain(self) -> None:
        """Everything that waits leaves, from one lane and the other in turn, and each lane ahead of the other."""
        orders = [real_order(self, lanes) for lanes in LANES]
        assert orders == [model_order(self.box, lanes) for lanes in LANES]

    def close(self) -> None:
        self.outbox.close()
        self.journal.close()


#: In which turns the two lanes may be asked; each turn goes on until neither has anything.
LANES = [(WORDS, FILES), (FILES, WORDS), (WORDS, WORDS, WORDS, FILES), (FILES, FILES, FILES, WORDS)]


def seen(row: Row) -> RowSeen:
    return RowSeen(row.number, row.attempt, row.epoch, row.step, row.final)


def real_order(both: Both, lanes: tuple[str, ...]) -> list[tuple[str, str]]:
    """What the real outbox hands out until it has nothing more, and where: in a copy of it, which is settled."""
    folder = both.folder.parent / f"copy {len(list(both.folder.parent.iterdir()))}"
    folder.mkdir()
    copy = Outbox(folder / "outbox.sqlite", both.folder)
    try:
        while copy.ingest():
            pass
        order: list[tuple[str, str]] = []
        while True:
            before = len(order)
            for lane in lanes:
                found = copy.claim(lane, both.at)
                if isinstance(found, Delivery):
                    order.append((lane, found.key))
                    copy._guarded(lambda db, key=found.key: copy._settle(db, key))
            if len(order) == before:
                return order
    finally:
        copy.close()


def model_order(box: Box, lanes: tuple[str, ...]) -> list[tuple[str, str]]:
    order: list[tuple[str, str]] = []
    while True:
        before = len(order)
        for lane in lanes:
            found = claimed(box, lane)
            if found is not None:
                order.append((lane, found.key))
                box = box._replace(entries=tuple(entry for entry in box.entries if entry.key != found.key))
        if len(order) == before:
            return order


@PROFILE
@given(depth=st.sampled_from(DEPTHS), saying=st.lists(st.sampled_from(SAYS), max_size=30))
def test_the_model_of_the_outbox_is_the_outbox(
    tmp_path_factory: pytest.TempPathFactory, depth: list[str], saying: list[str]
) -> None:
    """Whatever is said in whichever order, the model hands out what the real outbox hands out, and keeps the same;
    and what waits at the end leaves from both in the same order, down to the last."""
    both = Both(tmp_path_factory.mktemp("both") / "session")
    try:
        for what in (*depth, *saying):
            both.say(what)
            both.compare()
        both.drain()
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
    assert uncounted(other) != other
    assert uncounted(aged(other)) == aged(memory)


def test_a_clock_set_back_leaves_every_time_ahead() -> None:
    """Behind a clock that was set back each remembered time lies ahead, and one that was not running stays so."""
    ahead = set_back(Memory(metrics_since=NOW - 5, kept_at=NOW - 1))
    assert (ahead.metrics_since, ahead.kept_at) == (NOW + 50, NOW + 50)
    assert ahead.checkpoint_since is None


# -- the hub ---------------------------------------------------------------------------------------------

#: Openings and rows as they may arrive: an opening's attempt and first epoch; a row's attempt, epoch, step and final.
ATTEMPTS, EPOCHS = st.integers(1, 3), st.integers(0, 3)
OPENINGS = st.tuples(ATTEMPTS, EPOCHS)
ROWS = st.tuples(ATTEMPTS, EPOCHS, st.sampled_from([None, None, 0, 1]), st.booleans()).filter(
    lambda row: row[2] is None or not row[3]
)


@settings(derandomize=True, database=None, deadline=None, max_examples=200)
@given(arrivals=st.lists(st.one_of(OPENINGS, ROWS), max_size=14))
def test_the_model_of_the_hub_shows_what_the_hub_shows(arrivals: list[tuple[Any, ...]]) -> None:
    """Whatever openings and rows arrive in whichever order, the model shows the places and attempts that the hub shows."""
    shelf, opened = Shelf(), set()
    engine = create_engine("sqlite://")
    metadata.create_all(engine)
    with engine.begin() as db:
        for number, arrival in enumerate(arrivals, 1):
            attempt, epoch, *where = arrival
            if where:
                row = RowSeen(number, attempt, epoch, *where)
                shelf = shelved(shelf, SendRows(f"k{number}", attempt, first=number, last=number), (row,))
                sent = hub_rows.RowIn(attempt, epoch, *where, float(number), {"n": number}, {})
                hub_rows.keep(db, "S", [sent], float(number))
            elif attempt not in opened:
                opened.add(attempt)
                opening = OpenSession(f"k{number}", attempt, session="S", name="m", first_epoch=epoch)
                shelf = shelved(shelf, opening, ())
                told = {"opened_at": 0.0, "state": "training", "outcome": "running", "reason": ""}
                db.execute(insert(attempts).values(session="S", attempt=attempt, first_epoch=epoch, **told))
            shown = hub_rows.in_force(db, "S")
            real = {(row["epoch"], row["step"], row["final"], row["attempt"]) for row in shown}
            assert {(row.epoch, row.step, row.final, row.attempt) for row in shelf.rows} == real
    engine.dispose()
