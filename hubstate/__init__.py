"""hubstate: one state machine, a journal that loses nothing, and a hub that you own.

This is the door: names alone, each loaded when it is first used, so that `import hubstate` costs a trainer nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hubstate.checkpoints import Checkpoint
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
    from hubstate.limits import Limits
    from hubstate.receipt import Receipt
    from hubstate.session import Session, start
    from hubstate.states import CheckpointKind, Outcome, State

__all__ = [
    "Checkpoint",
    "CheckpointKind",
    "CheckpointMissing",
    "HubError",
    "HubRefused",
    "HubUnreachable",
    "HubstateError",
    "IllegalEvent",
    "JournalDamaged",
    "JournalFailing",
    "Limits",
    "Outcome",
    "Receipt",
    "Session",
    "SessionBusy",
    "SessionNotFound",
    "SettingsError",
    "State",
    "StorageError",
    "UsageError",
    "start",
]

_ROOMS = {
    "Checkpoint": "checkpoints",
    "CheckpointKind": "states",
    "Limits": "limits",
    "Outcome": "states",
    "Receipt": "receipt",
    "Session": "session",
    "State": "states",
    "start": "session",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version  # noqa: PLC0415 - slow, and rarely asked for

        return version("hubstate")
    if name not in __all__:
        raise AttributeError(f"module 'hubstate' has no attribute {name!r}")
    value = getattr(import_module(f"hubstate.{_ROOMS.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
