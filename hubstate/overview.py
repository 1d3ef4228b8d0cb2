"""What the sessions of this machine tell, without owning one of them.

A session is found through the user's index, or by looking into a directory that is named. What its folder tells is
the receipt, with two things added that no journal can know of itself: who owns it now, and when it was last heard
of. An attempt that is not over and that nobody owns is told as it is, outcome `unknown` and no contact since a
time; nobody invents that it is dead. A journal that cannot be read is shown with the reason, never passed over.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from hubstate.actions import Condition, Memory
from hubstate.errors import JournalDamaged, SessionNotFound, StorageError, UsageError
from hubstate.events import TRAINER_EVENTS
from hubstate.index import Index, sessions_in
from hubstate.journal import Damage, Position, Recovery, Step, read, recover
from hubstate.ownership import owner_of
from hubstate.plain import local
from hubstate.receipt import Receipt, receipt_of
from hubstate.settings import Settings
from hubstate.states import TERMINAL_STATES, Outcome, State

__all__ = ["Overview", "Unreadable", "as_json", "damages_in_words", "find", "folders", "look", "look_at_all"]


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """One session, seen from outside. Times in seconds since 1970.

    `owner`: the id of the living process that owns it (0: one that cannot be named), None if nobody does.
    `last_contact`: the last line of whoever trained it last; None if nobody ever said anything.
    """

    folder: Path
    receipt: Receipt
    epochs: int | None
    hub: str | None
    owner: int | None
    opened_at: float | None
    last_contact: float | None
    damages: tuple[Damage, ...] = ()

    @property
    def session(self) -> str:
        """The session's id, which is its folder's name."""
        return self.folder.name

    @property
    def unsettled(self) -> int:
        """How many rows, files and words wait or were refused."""
        return self.receipt.waiting + self.receipt.refused


class Unreadable(msgspec.Struct, frozen=True):
    """A session whose journal cannot be read at all, and why."""

    folder: Path
    reason: str

    @property
    def session(self) -> str:
        """The session's id, which is its folder's name."""
        return self.folder.name


# -- where sessions lie ----------------------------------------------------------------------------------


def folders(found: Settings, directory: Path | None = None) -> list[Path]:
    """The folders of the sessions in `directory`, else of all that this user has; oldest first, each once.

    Raises `UsageError` if the directory that was named does not exist.
    """
    if directory is not None:
        if not directory.is_dir():
            raise UsageError(f"there is no directory {directory}")
        return list(sessions_in(directory))
    index = Index(found.data_folder / "sessions")
    seen = {folder.resolve(): folder for folder in (*index.folders(), *sessions_in(found.directory))}
    return sorted(seen.values(), key=lambda folder: folder.name)


def find(session: str, among: Iterable[Path]) -> Path:
    """The folder of the session that is meant: by its id, a prefix that only its id has, or the newest of a name.

    Raises `SessionNotFound`, and `UsageError` for a prefix that several have.
    """
    known = list(among)
    wanted = session.upper()
    if not session:
        raise UsageError("a session is named by its id, the beginning of its id, or its name")
    begins = [folder for folder in known if folder.name.startswith(wanted)]
    for folder in begins:
        if folder.name == wanted or len(begins) == 1:
            return folder
    unreadable = 0
    for folder in reversed(known):
        try:
            if recover(folder).memory.name == session:
                return folder
        except StorageError:
            unreadable += 1
    if begins:
        some = ", ".join(folder.name for folder in begins[:5])
        raise UsageError(f"{session!r} is the beginning of {len(begins)} ids ({some}): give more of it")
    hint = f"; {unreadable} cannot be read" if unreadable else ""
    raise SessionNotFound(
        f"no session {session!r} is known here (looked at {len(known)}{hint}): "
        "`hubstate status` lists them, --directory looks elsewhere"
    )


# -- what one of them tells ------------------------------------------------------------------------------


def look_at_all(among: Iterable[Path]) -> Iterator[Overview | Unreadable]:
    """What each session tells, in order. One that vanishes meanwhile is left out."""
    for folder in among:
        try:
            yield look(folder)
        except StorageError as failure:
            if folder.is_dir():
                hint = "what can still be had of it are the copies in snapshots/; move the folder away to be rid of this"
                yield Unreadable(
                    folder, f"{failure}; {hint}" if isinstance(failure, JournalDamaged) else str(failure)
                )


def look(folder: Path) -> Overview:
    """What the session in `folder` tells. Raises `StorageError` if it cannot be read."""
    # The owner is looked for on both sides: who comes or goes between the two looks is taken for living, not for lost.
    before = owner_of(folder)
    recovery = recover(folder)
    if not recovery.segment:
        raise StorageError(f"there is no journal in {folder}")
    owner = owner_of(folder)
    memory = recovery.memory
    contact = _last_contact(folder, recovery)
    lost = before is None and owner is None and memory.state not in (*TERMINAL_STATES, State.FINALIZING)
    return Overview(
        folder=folder,
        receipt=receipt_of(
            memory,
            outcome=Outcome.UNKNOWN if lost else None,
            extra=tuple(_conditions(memory, recovery.damages, contact, lost=lost)),
        ),
        epochs=memory.epochs,
        hub=memory.hub,
        owner=owner,
        opened_at=memory.opened_at,
        last_contact=contact,
        damages=recovery.damages,
    )


def _last_contact(folder: Path, recovery: Recovery) -> float | None:
    """The time of the last line in the newest segment that a trainer spoke in.

    Every opening begins a segment of its own; the lines of one that was opened for delivery alone say nothing about
    the training.
    """
    for segment in range(recovery.segment, 0, -1):
        last, trained = 0.0, False
        for entry in read(folder, Position(segment)):
            if entry.position.segment != segment:
                break
            if isinstance(entry.line, Step):
                last = max(last, entry.line.event.at)
                trained = trained or isinstance(entry.line.event, TRAINER_EVENTS)
        if trained:
            return last
    return recovery.memory.ended_at or recovery.memory.opened_at


def _conditions(
    memory: Memory, damages: tuple[Damage, ...], contact: float | None, *, lost: bool
) -> Iterator[Condition]:
    since = contact or 0.0
    if lost:
        reason = "no contact yet" if contact is None else f"no contact since {local(contact)}"
        yield Condition("no_contact", since, reason)
    if damages:
        yield Condition("journal_damaged", since, damages_in_words(memory.session, damages))


def damages_in_words(session: str, damages: Sequence[Damage]) -> str:
    """What is damaged in a journal, and where to look."""
    first = damages[0]
    count = "1 line of the journal is" if len(damages) == 1 else f"{len(damages)} lines of the journal are"
    place = f"{first.file} line {first.line}" if first.line else first.file
    return (
        f"{count} damaged ({place}: {first.what}); what it said is lost, all others count; "
        f"`hubstate trace {session}` shows the place"
    )


# -- for programs ----------------------------------------------------------------------------------------


def as_json(seen: Overview | Unreadable) -> dict[str, Any]:
    """One object of `status --json`; the names are a promise. Times in seconds since 1970.

    `delivered` and `rows` count rows; `waiting` counts rows, files and words (the opening, the closing) that a hub has
    still to acknowledge; `refused` counts deliveries. Of a session that cannot be read, `state` is null.
    """
    if isinstance(seen, Unreadable):
        nothing = dict.fromkeys(("epoch", "epochs", "hub", "url", "owner", "opened_at", "last_contact"))
        numbers = dict.fromkeys(_NUMBERS, 0)
        return {
            "id": seen.session,
            "name": "",
            "state": None,
            "outcome": Outcome.UNKNOWN.value,
            "reason": seen.reason,
            **numbers,
            **nothing,
            "final_sha256": "",
            "directory": str(seen.folder),
            "conditions": [{"name": "journal_damaged", "since": 0.0, "reason": seen.reason}],
        }
    receipt = seen.receipt
    return {
        "id": seen.session,
        "name": receipt.name,
        "state": receipt.state.value,
        "outcome": receipt.outcome.value,
        "reason": receipt.reason,
        "attempt": receipt.attempt,
        "rows": receipt.rows,
        "delivered": receipt.rows_delivered,
        "waiting": receipt.waiting,
        "refused": receipt.refused,
        "not_taken": receipt.rows_not_taken,
        "files_delivered": receipt.files_delivered,
        "files_waiting": receipt.files_waiting,
        "epoch": receipt.epoch,
        "epochs": seen.epochs,
        "hub": seen.hub,
        "url": receipt.url,
        "owner": seen.owner,
        "opened_at": seen.opened_at,
        "last_contact": seen.last_contact,
        "final_sha256": receipt.final_sha256,
        "directory": str(seen.folder),
        "conditions": [
            {"name": condition.name, "since": condition.since, "reason": condition.reason}
            for condition in receipt.conditions
        ],
    }


_NUMBERS = (
    "attempt",
    "rows",
    "delivered",
    "waiting",
    "refused",
    "not_taken",
    "files_delivered",
    "files_waiting",
)
