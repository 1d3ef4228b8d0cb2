"""The kit for tests of what is built on hubstate, and of hubstate itself. `docs/testing.md` is its guide.

Names alone, each loaded when it is first used: a fake hub costs no Hypothesis. What needs pytest or Hypothesis says
so where they are missing; both come with `pip install 'hubstate[testing]'`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hubstate.proof.faults import FAULTS, Fault, rate_limited, slow
    from hubstate.testing.clock import FakeClock
    from hubstate.testing.hub import FakeHub
    from hubstate.testing.hubs import HubTests
    from hubstate.testing.mutants import Mutant, table_mutants
    from hubstate.testing.one_thread import open_session
    from hubstate.testing.outboxes import OutboxTests
    from hubstate.testing.stateful import SessionMachine, hold_session, session_machine
    from hubstate.testing.strategies import durations, events, faults, metrics, runs
    from hubstate.testing.subject import OwnSession, Subject
    from hubstate.testing.trainers import TrainerTests

__all__ = [
    "FAULTS",
    "FakeClock",
    "FakeHub",
    "Fault",
    "HubTests",
    "Mutant",
    "OutboxTests",
    "OwnSession",
    "SessionMachine",
    "Subject",
    "TrainerTests",
    "durations",
    "events",
    "faults",
    "hold_session",
    "metrics",
    "open_session",
    "rate_limited",
    "runs",
    "session_machine",
    "slow",
    "table_mutants",
]

_ROOMS = {
    "hubstate.proof.faults": ("FAULTS", "Fault", "rate_limited", "slow"),
    "hubstate.testing.clock": ("FakeClock",),
    "hubstate.testing.hub": ("FakeHub",),
    "hubstate.testing.hubs": ("HubTests",),
    "hubstate.testing.mutants": ("Mutant", "table_mutants"),
    "hubstate.testing.one_thread": ("open_session",),
    "hubstate.testing.outboxes": ("OutboxTests",),
    "hubstate.testing.stateful": ("SessionMachine", "hold_session", "session_machine"),
    "hubstate.testing.strategies": ("durations", "events", "faults", "metrics", "runs"),
    "hubstate.testing.subject": ("OwnSession", "Subject"),
    "hubstate.testing.trainers": ("TrainerTests",),
}
_PLACES = {name: room for room, names in _ROOMS.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'hubstate.testing' has no attribute {name!r}")
    value = getattr(import_module(_PLACES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
