"""The stateful machine: hubstate's own sessions hold, every row is taken, and a broken part is found."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import Phase, settings

from hubstate import events as ev
from hubstate.clock import Clock
from hubstate.hubs.base import Accepted, Hub, Parcel, Reply
from hubstate.machine import TABLE
from hubstate.testing import FakeClock, FakeHub, OwnSession, hold_session, open_session, session_machine
from hubstate.testing.follow import row_name
from hubstate.testing.profiles import CI, LONG

#: A failure is enough: nobody reads the smallest one.
BITES = settings(CI, max_examples=30, phases=[Phase.generate])


def test_own_sessions_hold():
    """hubstate's own sessions keep S1 to S9, end, and take every row of the table, in the profile for CI."""
    hold_session()


@pytest.mark.long
def test_own_sessions_hold_for_a_night():
    """They hold in the longer profile as well, which draws others each time."""
    hold_session(settings=LONG)


class _Hub:
    """A hub behind which something is wrong."""

    def __init__(self, hub: FakeHub) -> None:
        self._hub = hub

    def __getattr__(self, name: str) -> object:
        return getattr(self._hub, name)


class ForgetsKeys(_Hub):
    """A wire that gives each request a key of its own, so that no hub can know a repeat."""

    _count = 0

    def deliver(self, parcel: Parcel) -> Reply:
        self._count += 1
        fresh = Parcel(
            f"{parcel.key}?{self._count}", parcel.action, parcel.session, parcel.model, parcel.rows,
            parcel.file, parcel.sha256,
        )  # fmt: skip
        return self._hub.deliver(fresh)


class Lies(_Hub):
    """A wire that acknowledges rows which never left."""

    def deliver(self, parcel: Parcel) -> Reply:
        return Accepted(rows=len(parcel.rows)) if parcel.rows else self._hub.deliver(parcel)


class Mixes(_Hub):
    """A wire that sends every row as one of the first attempt's first epoch."""

    def deliver(self, parcel: Parcel) -> Reply:
        rows = tuple(type(row)(row.number, 1, 0, None, False, row.at, row.metrics) for row in parcel.rows)
        mixed = Parcel(
            parcel.key, parcel.action, parcel.session, parcel.model, rows, parcel.file, parcel.sha256
        )
        return self._hub.deliver(mixed)


class Behind(OwnSession):
    """hubstate's own way, over a wire that is broken."""

    def __init__(self, wire: type[_Hub]) -> None:
        self._wire = wire

    def begin(self, directory: Path, clock: FakeClock, hub: Hub, **named: object):
        return super().begin(directory, clock, self._wire(hub), **named)

    def deliver(self, directory: Path, session: str, clock: Clock, hub: Hub):
        return super().deliver(directory, session, clock, self._wire(hub))


class Forgets(OwnSession):
    """A way that begins anew where it should go on."""

    _count = 0

    def begin(self, directory: Path, clock: FakeClock, hub: Hub, **named: object):
        self._count += 1
        return open_session("digits", directory, clock, hub, mode=named["mode"], seed=self._count)


@pytest.mark.parametrize(
    "subject",
    [Behind(Lies), Behind(Mixes), Behind(ForgetsKeys), Forgets()],
    ids=["lies", "mixes", "forgets keys", "forgets"],
)
def test_a_broken_part_is_found(subject):
    """A wire that lies, mixes rows or gives repeats new keys, and a session that does not go on, are each found."""
    with pytest.raises(BaseException) as failed:  # noqa: PT011 - an AssertionError, or a group of several
        hold_session(subject, settings=BITES)
    errors = failed.value.exceptions if isinstance(failed.value, BaseExceptionGroup) else [failed.value]
    assert [error for error in errors if not isinstance(error, AssertionError)] == []
    assert not any("never took" in str(error) for error in errors)


def test_a_row_that_is_never_taken_is_named():
    """A run that is too short to take every row fails, and names the rows."""
    with pytest.raises(AssertionError, match=r"the run never took .*model_save"):
        hold_session(settings=settings(BITES, max_examples=2, stateful_step_count=3))


def test_every_machine_counts_for_itself():
    """Two machines share no count of rows, so that one cannot cover for the other."""
    one, other = session_machine(), session_machine()
    one.taken[0] += 1
    assert other.taken == {}


def test_every_row_has_words():
    """The rows that a failure names are told by number, states, events and guards."""
    names = [row_name(number) for number in range(len(TABLE))]
    assert len(set(names)) == len(TABLE)
    assert names[0] == "row 1: idle / pretrain_routine_start [may_open]"
    assert ev.name_of(TABLE[-1].events[-1]) in names[-1]
