"""The pages while a block lasts: a hub on loopback over a store of its own, and a thread that fills it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hubstate.errors import StorageError
from hubstate.log import log
from hubstate.server.mirror import Mirror
from hubstate.server.running import RunningHub, running
from hubstate.show.follower import Follower

__all__ = ["showing"]

#: How long the follower rests between two looks (seconds); and, before it goes through all sessions again, how many times
#: as long as that took, but so many seconds at most: the first time takes far longer than any other.
PAUSE, REST, LONGEST_REST = 0.5, 9, 30.0
#: How long the first round may take before the pages are opened all the same (seconds).
FIRST_LOOK = 3.0


@contextmanager
def showing(
    places: Callable[[], list[Path]],
    *,
    port: int = 0,
    wall: Callable[[], float] = time.time,
    pause: float = PAUSE,
) -> Iterator[RunningHub]:
    """Shows the sessions in these folders on loopback while the block lasts. `port` 0 takes a free one.

    `wall`: seconds since 1970; `pause`: least seconds between two looks. Raises `UsageError` for a port that cannot be
    listened on, `StorageError` if there is no room for temporary files.
    """
    with ExitStack() as stack:
        folder = stack.enter_context(_temporary())
        made: list[Mirror] = []

        def make(*arguments: Any, **named: Any) -> Mirror:
            made.append(Mirror(*arguments, **named))
            return made[0]

        hub = stack.enter_context(running(folder, port=port, wall=wall, make_store=make))
        follower, stop = Follower(made[0], places), threading.Event()
        thread = threading.Thread(
            target=_follow, args=(follower, stop, wall, pause), name="hubstate-follower", daemon=True
        )
        thread.start()
        stack.callback(thread.join)
        stack.callback(stop.set)
        follower.caught_up.wait(FIRST_LOOK)
        yield hub


@contextmanager
def _temporary() -> Iterator[Path]:
    try:
        folder = TemporaryDirectory(prefix="hubstate-show-", ignore_cleanup_errors=True)
    except OSError as error:
        raise StorageError(
            f"no temporary folder can be made: {error.strerror}; TMPDIR names another"
        ) from error
    with folder as name:
        yield Path(name)


def _follow(follower: Follower, stop: threading.Event, wall: Callable[[], float], pause: float) -> None:
    """Looks again and again. What keeps it from that is logged once, and once more when it is over.

    To go through all sessions takes longer the more there are, so it is done the less often; those that are trained are
    looked at all the time.
    """
    failing = False
    begun, again = None, 0.0
    while not stop.is_set():
        everything = time.monotonic() >= again
        if everything and begun is None:
            begun = time.monotonic()
        try:
            more = follower.look(wall(), stop, everything=everything)
            if begun is not None and not more:
                ended = time.monotonic()
                again, begun = ended + max(pause, min(LONGEST_REST, REST * (ended - begun))), None
            more = more or follower.show_copies(wall(), stop)
        except OSError as failure:
            if not failing:
                log("hubstate.show").warning("hubstate.sessions_unshown", reason=str(failure))
            failing = True
            stop.wait(pause)
            continue
        if failing:
            log("hubstate.show").warning("hubstate.sessions_shown_again")
            failing = False
        if not more:
            stop.wait(pause)
