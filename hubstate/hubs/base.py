"""The seam to any hub: hand over one parcel, get one reply. Both are values.

A hub never raises because of the network or of an answer, whatever that holds: `deliver` says with a value
whether the hub holds the parcel now (`Accepted`), will never take it as it is (`Declined`), or could not be
had just now (`Delayed`). Repeating is the sender's work; a hub sends once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

import msgspec

from hubstate.actions import AnyAction, Row

__all__ = ["Accepted", "Capabilities", "Declined", "Delayed", "Hub", "News", "Parcel", "Reply"]


class Parcel(msgspec.Struct, frozen=True):
    """One request's worth of an action.

    `key`: the idempotency key of this request. `model`: the hub's own id of the session, once known (None while
    it is being opened). `rows`: for `SendRows`, at most 1,000 rows or 1 MB. `file`: for `SendCheckpoint`, the
    snapshot, whose SHA-256 (hex) is `sha256`.
    """

    key: str
    action: AnyAction
    session: str
    model: str | None = None
    rows: tuple[Row, ...] = ()
    file: Path | None = None
    sha256: str = ""


class News(msgspec.Struct, frozen=True):
    """What an answer told beside the receipt; every reply may carry some.

    `stop`: the reason of a wish to stop. Intervals in seconds. `model`: the hub's id of the session. `url`: the
    page that people open. `at`: the hub's own time (whole seconds since 1970), told by `Hub.check` alone.
    """

    hub: str | None = None
    model: str | None = None
    url: str | None = None
    stop: str | None = None
    metrics_interval: float | None = None
    checkpoint_interval: float | None = None
    heartbeat_interval: float | None = None
    at: float | None = None


class Accepted(msgspec.Struct, frozen=True):
    """The hub holds it. `not_taken`: it cannot hold such a thing at all, and why (told in the receipt)."""

    not_taken: str = ""
    rows: int = 0
    sha256: str = ""
    news: News = News()


class Declined(msgspec.Struct, frozen=True):
    """The hub will never take it as it is: kept here, and shown with the reason."""

    reason: str
    status: int | None = None
    news: News = News()


class Delayed(msgspec.Struct, frozen=True):
    """Not now. `condition`: `offline`, `rate_limited`, `credentials_rejected` or `hub_failing`.

    `retry_after`: seconds until the next try, where the hub said so (it wins over the back-off).
    """

    condition: str
    reason: str
    status: int | None = None
    retry_after: float | None = None
    news: News = News()


Reply = Accepted | Declined | Delayed


class Capabilities(msgspec.Struct, frozen=True):
    """What a hub can hold, and tell.

    `step_rows`: rows of single steps, and of the final evaluation. `folders`: checkpoints that are folders.
    `closing`: the word that a session is over. `stop_request`: it may ask for a stop. `own_digest`: it tells the
    SHA-256 of the file as it holds it. `resumable`: an upload that was cut goes on where it stopped. `files`: any
    checkpoints. `rewinds`: rows that a later attempt begins again are not shown any more.
    """

    step_rows: bool = True
    folders: bool = False
    closing: bool = True
    stop_request: bool = True
    own_digest: bool = True
    resumable: bool = False
    files: bool = True
    rewinds: bool = True


@runtime_checkable
class Hub(Protocol):
    """What the sender asks of a hub."""

    @property
    def address(self) -> str:
        """The address without credentials, for people."""
        ...

    @property
    def moved(self) -> int:
        """Grows while something moves: bytes of uploads that have left, and answers that have come.

        Any thread may look; whoever waits sees by it whether waiting is worth it.
        """
        ...

    @property
    def capabilities(self) -> Capabilities:
        """What the hub can hold and tell, as far as it is known: a hub that was not heard yet can do the least."""
        ...

    def check(self) -> Reply:
        """Asks whether the hub is there and takes the key, and for nothing else; changes nothing there."""
        ...

    def deliver(self, parcel: Parcel) -> Reply:
        """Sends one parcel, once, within the hub's deadlines, and tells what became of it."""
        ...

    def close(self) -> None:
        """Lets go of the connections."""
        ...
