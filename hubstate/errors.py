"""Every error that hubstate raises on purpose.

HubstateError
├── UsageError                  the caller's blame: a wrong argument (also a ValueError)
│   ├── SettingsError           a setting that cannot be used, and where it was found
│   └── CheckpointMissing       a checkpoint file that is not there or cannot be read
├── BrokenTable                 this package's blame: its table of transitions cannot be true
├── IllegalEvent                the caller's blame: this event has no place in this state
├── SessionNotFound             no session of that name or id
├── SessionBusy                 a living process owns the session
├── StorageError                this machine's blame: a folder or file cannot be used (also an OSError)
│   ├── JournalFailing          a line could not be written; it waits in memory
│   └── JournalDamaged          a journal holds lines that cannot be true
└── HubError                    the hub's blame
    ├── HubUnreachable          no answer within the time allowed
    └── HubRefused              the hub answered, and the answer was no

What a hub does to a *delivery* is never an error: it is a value (`hubs.base.Reply`), because a delivery is
repeated, not raised. Messages say what was wrong, where, and what to do next.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hubstate.states import State

__all__ = [
    "BrokenTable",
    "CheckpointMissing",
    "HubError",
    "HubRefused",
    "HubUnreachable",
    "HubstateError",
    "IllegalEvent",
    "JournalDamaged",
    "JournalFailing",
    "SessionBusy",
    "SessionNotFound",
    "SettingsError",
    "StorageError",
    "UsageError",
]


class HubstateError(Exception):
    """The root of every error that hubstate raises on purpose."""


class UsageError(HubstateError, ValueError):
    """An argument that cannot be used."""


class SettingsError(UsageError):
    """A setting that cannot be used, and where it was found."""


class CheckpointMissing(UsageError):
    """A checkpoint that is not there, or that cannot be read."""


class BrokenTable(HubstateError):
    """The table of the machine holds rows that cannot be true. It is refused before anything is decided by it."""


class IllegalEvent(HubstateError):
    """An event that has no place in the state of the session. Nothing was changed by it."""

    def __init__(self, state: State, event: str, legal: tuple[str, ...], *, closed: bool = False) -> None:
        self.state = state
        self.event = event
        self.legal = legal
        here = f"the session is {state.value}"
        if closed:
            here += " and was let go of by this process; continue it by hubstate.start(..., resume=True)"
        else:
            here += f"; legal here: {', '.join(legal) or 'nothing'}"
        super().__init__(f"{event} is illegal: {here}")


class SessionNotFound(HubstateError):
    """No session has this name or id."""


class SessionBusy(HubstateError):
    """A living process owns this session; it is left to it."""


class StorageError(HubstateError, OSError):
    """A folder or a file of this machine cannot be used."""


class JournalFailing(StorageError):
    """The journal took no line just now; what was to be written waits in memory."""


class JournalDamaged(StorageError):
    """A journal holds lines that cannot be true."""


class HubError(HubstateError):
    """The hub's blame."""


class HubUnreachable(HubError):
    """The hub gave no answer within the time allowed."""


class HubRefused(HubError):
    """The hub answered, and the answer was no. `credentials` tells whether the key was the reason."""

    def __init__(self, message: str, *, credentials: bool = False) -> None:
        self.credentials = credentials
        super().__init__(message)
