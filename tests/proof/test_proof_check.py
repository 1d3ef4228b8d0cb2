"""The search: it holds the real decisions to every property, finds what is planted, and tells the way there."""

from __future__ import annotations

import multiprocessing
import threading

import pytest

from hubstate import machine
from hubstate.actions import Decision, Memory
from hubstate.clock import Clock, VirtualClock
from hubstate.controller import decide
from hubstate.events import Event, TrainStart, name_of
from hubstate.proof import check as proof
from hubstate.proof.check import FULL, QUICK, Move, Report, check
from hubstate.proof.model import Bounds, Rig
from hubstate.proof.planted import PLANTED
from hubstate.proof.properties import LIVENESS, PROPERTIES


def test_the_real_decisions_hold():
    """Every property holds in every world of the small bound."""
    report = check(QUICK)
    assert report.failed is None, str(report)
    assert {search.name for search in report.searches} == set(QUICK)


def test_the_real_decisions_hold_within_the_full_bound():
    """Every property holds in every world of the full bound, and every row of the table is taken in one of them."""
    report = check(FULL)
    assert report.failed is None, str(report)
    # Some 70 microseconds a move: the bound is there for whoever waits, and its measure for every machine.
    assert report.edges < 325_000
    assert report.rows == frozenset(range(1, len(machine.TABLE) + 1))


def test_the_full_bound_is_what_it_has_to_be():
    """One search holds three rows, two checkpoints, two attempts, a refusal, a lost acknowledgement and a crash at once."""
    bound = FULL["faults"]
    assert (bound.rows, bound.saves, bound.attempts) == (3, 2, 2)
    assert (bound.refusals, bound.lost, bound.crashes) == (1, 1, 1)
    assert bound.beats


def test_one_search_has_no_hub_and_one_has_odd_saves():
    """A training without a hub, saves that are named final or torn, and epochs that are told again have a search each."""
    for bounds in (FULL, QUICK):
        assert any(not bound.hub and bound.beats for bound in bounds.values())
        assert any(bound.kinds for bound in bounds.values())
        assert any(bound.astray for bound in bounds.values())


def found(plant: str) -> Report:
    return check(QUICK, rig=PLANTED[plant].rig)


#: What is decided in a move, by how its name ends; any other one is named by the one event that is told in it.
DECIDED: dict[str, list[str]] = {
    "time passes": [],
    "the process dies": [],
    "and another one delivers what is left": [],
    "a process resumes the session": [],
    "a heartbeat is lost": ["heartbeat_tick", "held_up"],
    "a heartbeat is refused": ["heartbeat_tick", "refused"],
    "a heartbeat arrives": ["heartbeat_tick", "delivered"],
    " is acknowledged": ["delivered"],
    " is not taken": ["delivered"],
    " is refused": ["refused"],
    "its acknowledgement is lost": ["held_up"],
    "429": ["held_up"],
}


def decided_in(move: Move) -> list[str]:
    if "trains on behind epoch" in move.name:
        return ["pretrain_routine_start", "pretrain_routine_end", "train_start"]
    return next((events for end, events in DECIDED.items() if move.name.endswith(end)), [move.name])


@pytest.mark.parametrize("plant", PLANTED)
def test_what_is_planted_is_found(plant: str):
    """Each broken part is found, by the property that it violates; and each move on the way tells what was decided in it,
    and nothing that was decided beside it."""
    failed = found(plant).failed
    assert failed is not None
    assert failed.violated is not None
    assert failed.violated.name == PLANTED[plant].violates
    # Where no end can be reached at all, none can from the beginning either, and no move leads there.
    assert failed.trace or failed.violated.name in LIVENESS
    for move in failed.trace:
        assert [name_of(decision.event) for decision in move.decisions] == decided_in(move)


def test_a_refused_heartbeat_is_answered():
    """Where signs of life are asked for, a hub may refuse them, and what that leaves behind is judged on the way."""
    tiny = Bounds(rows=0, saves=0, attempts=1, refusals=0, lost=0, crashes=0)
    failed = check({"tiny": tiny}, rig=PLANTED["a refused heartbeat is the last"].rig).failed
    assert failed is not None
    assert failed.violated is not None
    assert "leaves heartbeat_out True, not False" in failed.violated.what
    assert failed.trace[-1].name == "a heartbeat is refused"


def test_a_search_ends_with_the_first_violation():
    """Behind a search that found a violation no other one is begun."""
    report = check({"first": QUICK["refusals"], "second": QUICK["windows"]}, rig=PLANTED["no close"].rig)
    assert [search.name for search in report.searches] == ["first"]


def test_the_way_is_the_shortest():
    """The trace of a violation has as many moves as the least that lead there."""
    failed = found("a heartbeat after an abort").failed
    assert failed is not None
    assert [move.name for move in failed.trace][:2] == ["pretrain_routine_start", "abort"]
    assert len(failed.trace) == 3


def test_the_way_is_told_for_people():
    """A report that failed names the property, and the way in numbered lines with what was decided."""
    text = str(found("no rows at the end"))
    assert "S1 is violated: the training is over, and rows" in text
    assert PROPERTIES["S1"] in text
    assert "   1. pretrain_routine_start -> session_created, asks 1/open" in text
    assert "train_end -> finalizing, asks 1/close" in text


def test_the_way_can_be_drawn():
    """Each move of a trace carries its decisions: the states that a drawing walks through."""
    failed = found("no rows at the end").failed
    assert failed is not None
    walked = [decision.memory.state.value for move in failed.trace for decision in move.decisions]
    assert walked[0] == "session_created"
    assert walked[-1] == "finalizing"


def test_a_report_tells_what_was_searched():
    """Without a violation the report tells worlds, moves, time, rows of the table, and what holds."""
    heard = []
    bounds = {"tiny": Bounds(rows=1, saves=0, attempts=1, refusals=0, lost=0, crashes=0, beats=False)}
    report = check(bounds, clock=VirtualClock(), show=heard.append)
    assert heard == list(report.searches)
    assert report.seconds == 0
    assert report.states > 50
    assert report.edges > report.states
    text = str(report)
    assert f"in all: {report.states} states, {report.edges} edges, 0.0 s" in text
    assert "all hold: S1, S2" in text
    assert f"of {len(machine.TABLE)}" in text


def test_the_same_search_finds_the_same():
    """Nothing in a search is left to chance."""
    bounds = {"tiny": QUICK["refusals"]}
    clock = VirtualClock()
    assert check(bounds, clock=clock) == check(bounds, clock=clock)


def test_several_processes_find_the_same():
    """Searches that are shared by two processes are reported as one process reports them, in the same order."""
    bounds = {name: QUICK[name] for name in ("refusals", "two refusals", "only none")}
    heard = []
    shared = check(bounds, clock=VirtualClock(), processes=2, show=heard.append)
    assert shared == check(bounds, clock=VirtualClock())
    assert heard == list(shared.searches)


def test_several_processes_find_what_is_broken_here(monkeypatch):
    """What was replaced in this process is judged by the others as well, and behind a violation nothing is reported."""
    broken = Rig(next_due=PLANTED["a tick that nobody awaits"].rig.next_due)
    monkeypatch.setattr(proof, "Rig", lambda: broken)
    bounds = {name: QUICK[name] for name in ("only none", "refusals", "two refusals")}
    report = check(bounds, clock=VirtualClock(), processes=2)
    assert [search.name for search in report.searches] == ["only none"]
    assert report.failed is not None


def search_or_wait(name: str, bound: Bounds, clock: Clock) -> proof.Search:
    """As it is searched, but one search that never ends."""
    if name == "for ever":
        threading.Event().wait()
    return proof._Searching(name, bound, Rig(decide=PLANTED["no opening"].rig.decide), clock).run()


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="it is replaced here alone")
def test_what_is_found_early_is_told_early(monkeypatch):
    """Several processes begin with the smallest search as well, and what it finds ends the ones that run."""
    monkeypatch.setattr(proof, "_search", search_or_wait)
    bounds = dict.fromkeys(("smallest", "another", "for ever"), QUICK["only none"])
    report = check(bounds, clock=VirtualClock(), processes=2)
    assert [search.name for search in report.searches] == ["smallest"]
    assert report.failed is not None
    assert multiprocessing.active_children() == []


def test_what_cannot_be_built_is_asked_outside_its_states():
    """A table that asks for what cannot be built there violates S4, and the search ends with the way there."""

    def broken(memory: Memory, event: Event) -> Decision:
        assert not isinstance(event, TrainStart), "nobody can build it"
        return decide(memory, event)

    failed = check({"tiny": QUICK["only none"]}, rig=Rig(decide=broken)).failed
    assert failed is not None
    assert failed.violated is not None
    assert failed.violated.name == "S4"
    assert [move.name for move in failed.trace] == [
        "pretrain_routine_start",
        "pretrain_routine_end",
        "train_start",
    ]


def test_a_dead_end_is_found():
    """A hub that can be asked for nothing any more leaves the session where no end can be reached."""
    failed = check({"tiny": QUICK["windows"]}, rig=Rig(claimed=lambda _box, _lane: None)).failed
    assert failed is not None
    assert failed.violated is not None
    assert failed.violated.name in ("L1", "L3")
