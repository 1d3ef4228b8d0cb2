"""The receipt: what became of a session, in numbers that add up and in words that promise nothing.

Everything here is derived from the memory; `status`, `sync` and the demo show the same figures.
"""

from __future__ import annotations

import msgspec

from hubstate.actions import Condition, Memory, SendCheckpoint, SendRows
from hubstate.plain import clean
from hubstate.states import LIVE_STATES, Outcome, State

__all__ = ["Receipt", "conditions_of", "receipt_of"]


class Receipt(msgspec.Struct, frozen=True):
    """What was recorded, what a hub holds, what waits here, and what it refused.

    Every row is counted once: `rows` is the sum of those delivered, waiting, not taken, refused and given up.
    `waiting` counts rows, files and words (opening, closing) that still have to be acknowledged; `refused` counts
    deliveries; `not_taken` are rows that this hub cannot hold. `final_sha256` is the digest (hex) of the final
    checkpoint as the hub stored it, or empty.
    """

    session: str
    name: str
    state: State
    outcome: Outcome
    reason: str
    attempt: int
    epoch: int | None
    rows: int
    rows_delivered: int
    rows_waiting: int
    rows_not_taken: int
    rows_refused: int
    rows_given_up: int
    files_delivered: int
    files_waiting: int
    waiting: int
    refused: int
    final_sha256: str
    url: str | None
    conditions: tuple[Condition, ...]

    def __str__(self) -> str:
        words = [f"{clean(self.name)} ({self.session}): {self.outcome.value}"]
        words.append(f"{self.rows_delivered} of {self.rows} rows delivered")
        if self.rows_waiting:
            words.append(f"{_number_of(self.rows_waiting, 'row', 'rows')} kept here")
        if self.rows_not_taken:
            words.append(f"{_number_of(self.rows_not_taken, 'row', 'rows')} not taken by this hub")
        if self.rows_refused:
            words.append(f"{_number_of(self.rows_refused, 'row', 'rows')} refused")
        if self.rows_given_up:
            words.append(f"{_number_of(self.rows_given_up, 'row', 'rows')} given up")
        files = self.files_delivered + self.files_waiting
        if files:
            words.append(f"{self.files_delivered} of {files} checkpoints delivered")
        words += [clean(condition.reason) for condition in self.conditions if condition.name != "online"]
        text = ", ".join(words) + f"; the session is {self.state.value}"
        if self.reason:
            text += f" ({clean(self.reason)})"
        if self.final_sha256:
            text += f"\nfinal checkpoint, as the hub stored it: sha256 {self.final_sha256}"
        if self.url:
            text += f"\n{clean(self.url)}"
        return text


def receipt_of(
    memory: Memory, *, outcome: Outcome | None = None, extra: tuple[Condition, ...] = ()
) -> Receipt:
    """The receipt of a session. `outcome` replaces the remembered one where nobody lives who could know it."""
    refused = {refused.key for refused in memory.refused}
    waiting = [action for action in memory.outstanding if action.key not in refused]
    rows_refused = sum(
        action.last - action.first + 1
        for action in memory.outstanding
        if isinstance(action, SendRows) and action.key in refused
    )
    rows_settled = memory.rows_delivered + memory.rows_not_taken + memory.rows_given_up
    rows_waiting = memory.rows - rows_settled - rows_refused
    words = sum(not isinstance(action, SendRows | SendCheckpoint) for action in waiting)
    files = sum(isinstance(action, SendCheckpoint) for action in waiting)
    return Receipt(
        session=memory.session,
        name=memory.name,
        state=memory.state,
        outcome=memory.outcome if outcome is None else outcome,
        reason=memory.reason,
        attempt=memory.attempt,
        epoch=memory.epoch,
        rows=memory.rows,
        rows_delivered=memory.rows_delivered,
        rows_waiting=rows_waiting,
        rows_not_taken=memory.rows_not_taken,
        rows_refused=rows_refused,
        rows_given_up=memory.rows_given_up,
        files_delivered=memory.files_delivered,
        files_waiting=files,
        waiting=rows_waiting + files + words,
        refused=len(memory.refused),
        final_sha256=memory.final_sha256,
        url=memory.url,
        conditions=(*conditions_of(memory), *extra),
    )


def conditions_of(memory: Memory) -> tuple[Condition, ...]:
    """The circumstances that the memory tells: those remembered, and those that follow from it."""
    conditions = list(memory.conditions)
    since = memory.opened_at or 0.0
    if not memory.hub_wanted and memory.hub is None:
        conditions.append(Condition("no_hub", since, "no hub"))
    if memory.refused:
        first = memory.refused[0]
        count = _number_of(len(memory.refused), "delivery", "deliveries")
        told = f"{count} refused here" if first.status is None else f"the hub refused {count}"
        conditions.append(Condition("refused", first.at, f"{told}: {first.reason}"))
    refused = {refused.key for refused in memory.refused}
    uploads = sum(
        isinstance(action, SendCheckpoint) and action.key not in refused for action in memory.outstanding
    )
    if uploads and memory.state in LIVE_STATES and memory.hub_wanted:
        on_their_way = f"{_number_of(uploads, 'checkpoint', 'checkpoints')} on the way"
        conditions.append(Condition("uploading", memory.ended_at or since, on_their_way))
    if memory.given_up is not None:
        conditions.append(Condition("given_up", memory.ended_at or since, f"given up: {memory.given_up}"))
    return tuple(conditions)


def _number_of(count: int, one: str, more: str) -> str:
    return f"{count} {one if count == 1 else more}"
