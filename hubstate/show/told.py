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
    damages: Sequence[Damage],
    unshown: Iterable[str],
) -> Iterator[dict[str, Any]]:
    """Each with `name`, `since` (seconds since 1970, or None) and `reason`.

    `owned`: a living process has the session. `contact`: the last word of whoever trained it. `trouble`: why its journal
    cannot be read, or empty; `unshown`: why a checkpoint is not shown.
    """
    if trouble:
        yield _condition("journal_unreadable", trouble)
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
    for known in receipt.conditions:
        if known.name != "online":  # as it should be
            yield _condition(known.name, clean(known.reason), known.since or None)
    hub = "a hub" if memory.hub is None else clean(memory.hub)
    if receipt.waiting:
        rest = f"{receipt.rows_delivered} of {receipt.rows} rows are at {hub}; rows, files and words that wait: {receipt.waiting}"
        yield _condition("waiting", rest)
    elif memory.hub is not None:
        yield _condition("delivered", f"{receipt.rows_delivered} of {receipt.rows} rows are at {hub}")


def _condition(name: str, reason: str, since: float | None = None) -> dict[str, Any]:
    return {"name": name, "since": since, "reason": reason}
