"""The words: what phase a session is in, and what became of its training.

Three things are kept apart on purpose. The *state* is the phase of the session. The *outcome* is what
became of the training. *Conditions* (see `actions.Condition`) are passing circumstances, each with a
reason and a time. "Finished, 15 rows kept here, no hub" needs all three; one word could not say it.
"""

from __future__ import annotations

from enum import Enum

__all__ = ["LIVE_STATES", "TERMINAL_STATES", "CheckpointKind", "Outcome", "State"]


class State(Enum):
    """The phase of a session."""

    #: Nothing is open; the trainer may train without a hub.
    IDLE = "idle"
    #: The session exists: durably here, and (as soon as the network allows) at the hub.
    SESSION_CREATED = "session_created"
    #: The pretrain routine is over; the clocks of the rate limits run.
    TIMING = "timing"
    #: Epochs arrive.
    TRAINING = "training"
    #: Training is over; what is left is being delivered, the final checkpoint included.
    FINALIZING = "finalizing"
    #: Everything was acknowledged by the hub, the closing of the session included.
    DONE = "done"
    #: Training ended by an error, an interrupt or an explicit give-up; what was recorded still leaves.
    ABORTED = "aborted"


#: The heartbeat is derived from the state, never a flag that somebody sets.
LIVE_STATES = frozenset({State.SESSION_CREATED, State.TIMING, State.TRAINING, State.FINALIZING})
TERMINAL_STATES = frozenset({State.DONE, State.ABORTED})


class Outcome(Enum):
    """What became of the training (not of the session)."""

    #: The training goes on, or has not begun.
    RUNNING = "running"
    #: It came to its planned end.
    FINISHED = "finished"
    #: It was ended early, by the hub or by the user's wish.
    STOPPED = "stopped"
    #: An exception ended it.
    FAILED = "failed"
    #: Ctrl-C or a signal ended it.
    INTERRUPTED = "interrupted"
    #: No word and no contact: nobody invents that it is dead.
    UNKNOWN = "unknown"


class CheckpointKind(Enum):
    """Which checkpoint of a session a file is."""

    #: The newest one.
    LAST = "last"
    #: The one with a fitness strictly better than all before it.
    BEST = "best"
    #: The one that the training ended with.
    FINAL = "final"
