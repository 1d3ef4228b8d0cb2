"""What this machine knows of a session, and no hub can: its conditions beside those that the hub's rules give."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from hubstate.actions import Memory
from hubstate.journal import Damage
from hubstate.overview import damages_in_words
from hubstate.plain import clean, local
from hubstate.receipt import receipt_of
from hubstate.states import TERMINAL_STATES, State

__all__ = ["conditions", "is_over"]


def is_over(memory: Memory) -> bool:
    """Whether the training is over, whatever waits."""
    return memory.state in TERMINAL_STATES or memory.state is State.FINALIZING


def conditions(
    session: str,
    memory: Memory | None,
    *,
    owned: bool,
    contact: float,
    trouble: str,
    behind: bool,
    damages: Sequence[Damage],
    unshown: Iterable[str],
) -> Iterator[dict[str, Any]]:
    """Each with `name`, `since` (seconds since 1970, or None) and `reason`.

    `owned`: a living process has the session. `contact`: the last word of whoever trained it. `trouble`: why its journal
    cannot be read, or empty; `behind`: it was not read to its end yet; `unshown`: why a checkpoint is not shown.
    """
    if trouble:
        yield _condition("journal_unreadable", trouble)
    if behind:
        yield _condition(
            "still_reading", "its journal is long: this is how it stood at the line that was read last"
        )
    if damages:
        yield _condition("journal_damaged", damages_in_words(session, damages))
    if memory is not None:
        yield from _of_deliveries(memory)
        if not owned and not is_over(memory):
            lost = f"no process owns it any more; the last word of its training came {local(contact)}"
            yield _condition("no_owner", lost, contact)
    for reason in unshown:
        yield _condition("checkpoint_unshown", reason)


def _of_deliveries(memory: Memory) -> Iterator[dict[str, Any]]:
    """What a hub has of it by now, and what is in the way of the rest."""
    receipt = receipt_of(memory)
    hub = None if memory.hub is None else clean(memory.hub)
    for known in receipt.conditions:
        # `online` is as it should be, and `no_hub` is told below, with what follows from it.
        if known.name not in ("online", "no_hub"):
            yield _condition(known.name, clean(known.reason), known.since or None)
    if hub is None and receipt.waiting:
        told = "all of it is on this machine alone; `hubstate sync --hub URL` delivers it any time"
        yield _condition("kept_here", told)
    elif receipt.waiting:
        told = (
            f"{receipt.rows_delivered} of {receipt.rows} rows are at {hub}; rows, files and words that wait: "
        )
        yield _condition("waiting", f"{told}{receipt.waiting}")
    elif hub is not None:
        yield _condition("delivered", f"{receipt.rows_delivered} of {receipt.rows} rows are at {hub}")


def _condition(name: str, reason: str, since: float | None = None) -> dict[str, Any]:
    return {"name": name, "since": since, "reason": reason}
