"""What the owner of a hub decided: how often clients shall give a sign of life, how much they may ask, what is kept.

Ultralytics' Platform callback sends unasked what a training prints and where it runs. The hub keeps neither, unless its
owner wants it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from hubstate.errors import UsageError

__all__ = ["LEAST_HEARTBEAT", "MOST_DAYS", "MOST_HEARTBEAT", "RATE_LIMIT", "Terms"]

#: A client never gives a sign of life more often than this (seconds).
LEAST_HEARTBEAT = 5.0
#: Silence is told after three of these, so no hub asks for less (seconds).
MOST_HEARTBEAT = 300.0
#: Requests a minute of one key, if nothing else is said: far above what trainings need, and what one hub can answer.
RATE_LIMIT = 1_000_000
#: A century: what is kept longer is kept for ever.
MOST_DAYS = 36_525


@dataclass(frozen=True)
class Terms:
    """The decisions. Raises `UsageError` for a number that cannot be.

    `heartbeat`: the interval in seconds that hubstate's clients are told to keep, or None for their own. `rate_limit`:
    requests that one key may make in a minute. `console`: what a training prints is kept. `host`: so are its
    command line, host name, path of Python, and the address and message of its git repository. `patience`: after so many
    seconds without a further byte a body is given up. `grace`: so many seconds requests under way have when the hub stops.
    `keep_days`: a session is removed so many days after its end; `keep_last_days`: its checkpoint `last` is, if it has a
    better one; None keeps them. `notify`: the address of a webhook, which may hold a secret. `room`: with fewer bytes free
    on its disk a hub is not well.
    """

    heartbeat: float | None = None
    rate_limit: int = RATE_LIMIT
    console: bool = False
    host: bool = False
    patience: float = 60.0
    grace: float = 5.0
    keep_days: float | None = None
    keep_last_days: float | None = None
    notify: str | None = field(default=None, repr=False)
    room: int = 16 * 1024**2

    def __post_init__(self) -> None:
        if self.heartbeat is not None and not LEAST_HEARTBEAT <= self.heartbeat <= MOST_HEARTBEAT:
            raise UsageError(
                f"a heartbeat's interval is {LEAST_HEARTBEAT:g} to {MOST_HEARTBEAT:g} seconds, not {self.heartbeat:g}"
            )
        if self.rate_limit < 1:
            raise UsageError(f"a key may make at least one request a minute, not {self.rate_limit}")
        for days in (self.keep_days, self.keep_last_days):
            if days is not None and not 0 <= days <= MOST_DAYS:
                raise UsageError(
                    f"what has ended is kept for a number of days, 0 to {MOST_DAYS}, not {days:g}; for ever if none is said"
                )
        if not 0 <= self.grace < math.inf:
            raise UsageError(f"a stop waits for a number of seconds, 0 or more, not {self.grace:g}")
