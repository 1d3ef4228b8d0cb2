"""What a hub does beside answering: telling who wants to be told, and letting go of what is too old.

One thread does one chore after the other and waits until the next is due. None of them is in the way of a request; one
that the disk fails is logged, and tried again.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence

import sqlalchemy

from hubstate.log import log

__all__ = ["Chore", "doing"]

#: Does what is due at a time (seconds since 1970), and tells in how many seconds to ask again.
Chore = Callable[[float], float]

#: A chore that failed is tried again after so many seconds.
_AGAIN = 60.0


@contextlib.contextmanager
def doing(chores: Sequence[Chore], wall: Callable[[], float]) -> Iterator[None]:
    """Does the chores while the block lasts, at once and then whenever they are due."""
    if not chores:
        yield
        return
    stop = threading.Event()
    thread = threading.Thread(target=_run, args=(chores, wall, stop), name="hubstate-hub-chores", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _run(chores: Sequence[Chore], wall: Callable[[], float], stop: threading.Event) -> None:
    left = [0.0] * len(
        chores
    )  # seconds until each is due; no clock that is set back makes one wait for longer
    while not stop.is_set():
        for at, chore in enumerate(chores):
            if left[at] <= 0 and not stop.is_set():
                left[at] = _done(chore, wall())
        pause = min(left)
        stop.wait(pause)
        left = [one - pause for one in left]


def _done(chore: Chore, now: float) -> float:
    try:
        return chore(now)
    except (OSError, sqlalchemy.exc.SQLAlchemyError) as error:
        log("hubstate.server").error("hubstate.hub_chore_failed", reason=str(error))
        return _AGAIN
