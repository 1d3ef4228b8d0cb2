"""The fault model: what may become of one request on its way to a hub and back.

A fault is a value, so that it can be drawn, counted, shrunk and printed. It says what the sender hears, whether the
hub holds the request all the same, and how much time passes meanwhile. Faults are set at the seam `Hub.deliver`,
where every hub speaks the same words; what goes wrong below it (sockets, bytes, headers) is the hubs' own to translate.
"""

from __future__ import annotations

import msgspec

from hubstate.hubs.base import Declined, Delayed

__all__ = [
    "FAILING",
    "FAULTS",
    "LOST",
    "OFFLINE",
    "REFUSED",
    "SLOW_ANSWER",
    "TOO_LATE",
    "TORN",
    "UNAUTHORIZED",
    "Fault",
    "rate_limited",
    "slow",
]


class Fault(msgspec.Struct, frozen=True):
    """What becomes of one request.

    `heard`: what the sender hears; None: the hub's own answer. `arrives`: whether the hub got the request whole, and
    so holds it unless it declines it. `seconds`: how long the answer takes.
    """

    name: str
    heard: Delayed | Declined | None = None
    arrives: bool = False
    seconds: float = 0.0


#: Nothing leaves this machine.
OFFLINE = Fault("offline", Delayed("offline", "no route to the hub"))
#: The hub holds it, and the acknowledgement is lost.
LOST = Fault(
    "acknowledgement lost", Delayed("offline", "the connection broke before the answer"), arrives=True
)
#: The body is torn on its way: the hub got half of it, and holds nothing.
TORN = Fault("torn body", Delayed("offline", "the connection broke while the body was sent"))
#: The answer comes after its deadline: held, and nobody hears of it.
TOO_LATE = Fault("too late", Delayed("offline", "no answer within 60 s"), arrives=True, seconds=60.0)
UNAUTHORIZED = Fault("401", Delayed("credentials_rejected", "the hub refused the API key", 401))
FAILING = Fault("500", Delayed("hub_failing", "the hub failed", 500))
REFUSED = Fault("413", Declined("too large", 413))


#: The hub takes it, and takes its time.
SLOW_ANSWER = Fault("slow", arrives=True, seconds=10.0)


def rate_limited(seconds: float) -> Fault:
    """429 with `Retry-After`: the hub wants no request for so many seconds."""
    return Fault("429", Delayed("rate_limited", f"429 for {seconds:g} s", 429, seconds))


def slow(seconds: float) -> Fault:
    """The hub takes it, and its answer takes so many seconds."""
    return Fault("slow", arrives=True, seconds=seconds)


#: One of each kind.
FAULTS: tuple[Fault, ...] = (
    OFFLINE,
    LOST,
    TORN,
    TOO_LATE,
    UNAUTHORIZED,
    FAILING,
    REFUSED,
    rate_limited(30.0),
    SLOW_ANSWER,
)
