"""The pytest plugin: it is found, it costs nothing until it is asked, and its fixtures fit together."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata

import pytest

from hubstate.actions import OpenSession
from hubstate.events import RetryRefused
from hubstate.proof.faults import FAULTS, REFUSED
from hubstate.states import State


def test_the_plugin_is_registered():
    """pytest finds the plugin by its entry point."""
    (entry,) = [e for e in metadata.entry_points(group="pytest11") if e.name == "hubstate"]
    assert entry.value == "hubstate.testing.plugin"


def test_loading_the_plugin_loads_no_room():
    """The plugin imports none of hubstate's rooms, nor Hypothesis: whoever asks for no fixture pays for none."""
    code = (
        "import sys, pytest; before = set(sys.modules); import hubstate.testing.plugin; "
        "print(*sorted(set(sys.modules) - before))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    names = [name for name in loaded.split() if name.partition(".")[0] in ("hubstate", "hypothesis")]
    assert names == ["hubstate", "hubstate.testing", "hubstate.testing.plugin"]


def test_a_session_arrives_whole(hubstate_session, hubstate_hub):
    """What a session recorded is at the hub when it is finished, without a thread and without a wait."""
    for epoch in range(3):
        hubstate_session.log({"loss": 1.0 / (epoch + 1)}, epoch=epoch)
    receipt = hubstate_session.finish()
    assert (receipt.state, receipt.rows_delivered) == (State.DONE, 3)
    assert [row.epoch for row in hubstate_hub.rows] == [0, 1, 2]


@pytest.mark.parametrize("fault", [f for f in FAULTS if f is not REFUSED], ids=lambda fault: fault.name)
def test_an_outage_is_waited_out(hubstate_session, hubstate_hub, fault):
    """Under any trouble that passes a session waits, and delivers when it is over."""
    hubstate_session.log({"loss": 0.5})
    with hubstate_hub.outage(fault):
        hubstate_session.flush(10.0)
    assert hubstate_session.flush(120.0)
    assert [row.epoch for row in hubstate_hub.rows] == [0]


def test_each_test_has_a_place_of_its_own(hubstate_directory, hubstate_session, tmp_path):
    """Sessions are kept below the test's own folder."""
    assert hubstate_directory.is_relative_to(tmp_path)
    assert (hubstate_directory / hubstate_session.id).is_dir()


def test_sessions_of_one_moment_are_told_apart(hubstate_start, hubstate_hub, hubstate_clock):
    """A test may open several sessions while the clock stands still; each arrives whole, also after a refusal."""
    began = hubstate_clock.wall()
    sessions = [hubstate_start(name) for name in ("one", "two", "three")]
    assert hubstate_clock.wall() == began
    for session in sessions:
        session.log({"loss": 0.5})
        with hubstate_hub.outage(REFUSED):
            session.flush(5.0)
        assert session.id not in {parcel.session for parcel in hubstate_hub.holds.values()}
        session.tell(RetryRefused)
        assert session.finish().state is State.DONE
    assert len({session.id for session in sessions}) == len(sessions)
    opened = [p.session for p in hubstate_hub.holds.values() if isinstance(p.action, OpenSession)]
    assert opened == [session.id for session in sessions]
