"""The types of the words: states, outcomes, errors. mypy reads this file; nobody runs it."""

from typing import assert_type

from hubstate.errors import (
    CheckpointMissing,
    HubError,
    HubRefused,
    HubstateError,
    HubUnreachable,
    IllegalEvent,
    JournalDamaged,
    JournalFailing,
    SessionBusy,
    SessionNotFound,
    SettingsError,
    StorageError,
    UsageError,
)
from hubstate.states import LIVE_STATES, TERMINAL_STATES, CheckpointKind, Outcome, State

assert_type(State("training"), State)
assert_type(Outcome("finished"), Outcome)
assert_type(CheckpointKind("best"), CheckpointKind)
assert_type(LIVE_STATES, frozenset[State])
assert_type(TERMINAL_STATES, frozenset[State])


def exhaustive(outcome: Outcome) -> str:
    """A `match` over all outcomes needs no last resort."""
    match outcome:
        case Outcome.RUNNING | Outcome.UNKNOWN:
            return "open"
        case Outcome.FINISHED | Outcome.STOPPED:
            return "well"
        case Outcome.FAILED | Outcome.INTERRUPTED:
            return "ill"


# Each error can be caught as what it is to blame for, and as the built-in kind that callers know.
root: type[HubstateError] = HubError
wrong_argument: tuple[type[ValueError], ...] = (UsageError, SettingsError, CheckpointMissing)
this_machine: tuple[type[OSError], ...] = (StorageError, JournalFailing, JournalDamaged)
the_hub: tuple[type[HubError], ...] = (HubUnreachable, HubRefused)
the_session: tuple[type[HubstateError], ...] = (SessionNotFound, SessionBusy, IllegalEvent)


def caught(error: IllegalEvent, refusal: HubRefused) -> None:
    """What an error tells beside its message."""
    assert_type(error.state, State)
    assert_type(error.event, str)
    assert_type(error.legal, tuple[str, ...])
    assert_type(refusal.credentials, bool)
