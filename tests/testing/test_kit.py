"""The kit's door, its strategies and its abstract classes: what they say, and that they bite."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import find, given, settings

import hubstate.testing as kit
from hubstate.actions import Memory
from hubstate.controller import decide
from hubstate.events import EVENTS, Abort, TrainEnd
from hubstate.proof.faults import LOST, SLOW_ANSWER, TORN
from hubstate.states import State
from hubstate.testing import FakeClock, FakeHub, events, faults, runs
from hubstate.testing.needs import require
from hubstate.testing.profiles import CI, LONG

GUIDE = Path(__file__).parents[2] / "docs" / "testing.md"


def test_the_guide_shows_the_file_that_runs():
    """The guide's example is test_own_training.py, letter by letter, and no longer than it promises."""
    example = Path(__file__).with_name("test_own_training.py").read_text(encoding="utf-8")
    assert example in GUIDE.read_text(encoding="utf-8")
    assert len([line for line in example.splitlines() if line.strip()]) <= 22


@pytest.mark.parametrize("name", kit.__all__)
def test_every_name_of_the_door_opens(name):
    """Each name that the kit promises can be had."""
    assert getattr(kit, name) is not None


def test_an_unknown_name_is_an_attribute_error():
    """A mistyped name is answered as Python does."""
    with pytest.raises(AttributeError, match="no attribute 'FakeHubb'"):
        _ = kit.FakeHubb


def test_the_fakes_need_no_hypothesis():
    """A fake hub and a fake clock cost neither pytest nor Hypothesis."""
    code = "import sys; from hubstate.testing import FakeClock, FakeHub; print({'pytest', 'hypothesis'} & set(sys.modules))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.strip() == "set()"


def test_what_is_missing_is_named_with_its_extra():
    """Without Hypothesis the kit says which extra brings it."""
    with pytest.raises(
        ImportError, match=r"needs not_there; install it with: pip install 'hubstate\[testing\]'"
    ):
        require("hypothesis", "not_there")
    code = (
        "import sys; sys.modules['hypothesis'] = None\n"
        "try:\n from hubstate.testing import hold_session\n"
        "except ImportError as error: print(error)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "hubstate[testing]" in told


def test_the_package_itself_never_loads_the_kit():
    """No room but the kit imports the kit."""
    package = Path(importlib.import_module("hubstate").__file__).parent
    users = [
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if "hubstate.testing" in path.read_text(encoding="utf-8") and path.parent.name != "testing"
    ]
    assert users == []


def test_the_profiles_say_what_they_are():
    """The profile for CI draws the same in every run and keeps nothing; the long one searches for longer."""
    assert (CI.derandomize, CI.database, CI.deadline) == (True, None, None)
    assert settings.get_profile("hubstate-ci") == CI
    assert settings.get_profile("hubstate-long") == LONG
    assert LONG.max_examples > 10 * CI.max_examples


@settings(CI)
@given(run=runs())
def test_a_drawn_run_is_legal(run):
    """Every event of a drawn run has its place, and the run ends."""
    memory = Memory()
    for event in run:
        decision = decide(memory, event)
        assert decision.refusal is None or not decision.refusal.illegal
        memory = decision.memory
    assert isinstance(run[-1], TrainEnd | Abort)
    assert memory.state in (State.FINALIZING, State.ABORTED)


#: `find` draws others each time, whatever it is told: enough of them, then, that none of some twenty is ever missed.
LOOKING = settings(CI, max_examples=10_000)


@pytest.mark.parametrize("kind", EVENTS, ids=lambda kind: kind.__name__)
def test_every_event_is_drawn(kind):
    """The strategy of events draws each kind that there is."""
    assert isinstance(find(events(), lambda event: type(event) is kind, settings=LOOKING), kind)


@pytest.mark.parametrize("fault", kit.FAULTS, ids=lambda fault: fault.name)
def test_every_fault_is_drawn(fault):
    """The strategy of faults draws each one that there is."""
    assert find(faults(), lambda drawn: drawn == fault, settings=LOOKING) == fault


def test_a_wait_is_a_turn_and_some_time():
    """Whoever waits on the clock lets the senders work first, and then only as much time pass as they want to rest."""
    clock = FakeClock()
    turns = Counter()

    class Sender:
        def step(self) -> float:
            turns["step"] += 1
            return 2.0

    sender = Sender()
    clock.attach(sender)
    never = __import__("threading").Event()
    assert clock.wait(never, 10.0) is False
    assert (turns["step"], clock.monotonic()) == (1, 2.0)
    clock.detach(sender)
    clock.wait(never, 10.0)
    assert (turns["step"], clock.monotonic()) == (1, 12.0)
    never.set()
    assert clock.wait(never, 10.0) is True
    assert clock.monotonic() == 12.0


def test_faults_do_what_they_are_called(hubstate_session, hubstate_hub, hubstate_clock):
    """A lost acknowledgement leaves the request at the hub, a torn body does not, and a slow answer takes its time."""
    hubstate_session.log({"loss": 0.5})
    with hubstate_hub.outage(TORN):
        hubstate_session.flush(5.0)
    assert hubstate_hub.requests
    assert hubstate_hub.holds == {}
    with hubstate_hub.outage(LOST):
        hubstate_session.flush(5.0)
    (opening,) = hubstate_hub.holds
    assert opening.endswith("/open")
    assert hubstate_session.receipt.rows_delivered == 0
    before = hubstate_clock.monotonic()
    hubstate_hub.fault(SLOW_ANSWER)
    assert hubstate_session.flush(600.0)
    assert hubstate_clock.monotonic() - before >= SLOW_ANSWER.seconds
    assert hubstate_hub.contradictions == []


def test_a_contradiction_is_seen():
    """A repeat that brings something else than the first request did is remembered as what must never be."""
    tests = kit.HubTests()
    hub = FakeHub()
    model = tests.opened(hub)
    parcel = tests.rows(model, tests.row(1))
    hub.deliver(parcel)
    other = type(parcel)(parcel.key, parcel.action, parcel.session, model, (tests.row(1, odd="NaN"),))
    hub.deliver(other)
    assert hub.contradictions == [parcel.key]


@pytest.mark.parametrize("tests", [kit.HubTests, kit.OutboxTests, kit.TrainerTests], ids=lambda c: c.__name__)
def test_a_class_of_tests_names_the_fixture_that_it_needs(tests):
    """A subclass that forgot its fixture hears its name."""
    names = {kit.HubTests: "hub", kit.OutboxTests: "open_outbox", kit.TrainerTests: "train"}
    fixture = getattr(tests, names[tests])
    with pytest.raises(NotImplementedError, match=f"a fixture named {names[tests]}"):
        fixture.__wrapped__(*[None] * (fixture.__wrapped__.__code__.co_argcount))
