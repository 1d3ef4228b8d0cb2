"""Broken parts for the simulation to find: each is the real journal, outbox or sender with one mistake in it.

A mistake is planted for the length of a block, and the real part stands again behind it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from hubstate import outbox, sync
from hubstate.door import Door
from hubstate.errors import JournalFailing
from hubstate.hubs import hub_v1
from hubstate.hubs.base import Accepted, Delayed, Parcel
from hubstate.journal import Journal
from hubstate.outbox import FILES, WORDS, Outbox
from hubstate.sender import Sender
from hubstate.snapshots import Snapshots, look

__all__ = ["BROKEN", "SEEN_BY", "planted"]

Plant = Callable[[], tuple[Any, str, Any]]


def settled_before_acknowledgement() -> tuple[Any, str, Any]:
    """The sender counts as delivered what it sent, whatever became of it."""
    real = Sender._settle

    def broken(self, delivery, parcel, reply):
        if isinstance(reply, Delayed):
            reply = Accepted(rows=len(parcel.rows), sha256=parcel.sha256)
        return real(self, delivery, parcel, reply)

    return Sender, "_settle", broken


def another_key_on_retry() -> tuple[Any, str, Any]:
    """A repeat carries another key than the first try."""
    real = Sender._parcel

    def broken(self, delivery):
        parcel = real(self, delivery)
        if isinstance(parcel, Parcel) and delivery.tries:
            return msgspec.structs.replace(parcel, key=f"{parcel.key}~{delivery.tries}")
        return parcel

    return Sender, "_parcel", broken


def snapshot_by_path() -> tuple[Any, str, Any]:
    """A kept checkpoint is another name of the trainer's own file, which changes with it."""

    def broken(self, source, name):
        look(source)
        self._folder.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, self.path(name), copy_function=os.link)
        else:
            os.link(source, self.path(name))
        return self.path(name)

    return Snapshots, "take", broken


def back_off_ignored() -> tuple[Any, str, Any]:
    """A try in vain is repeated at once, and again."""
    real = Outbox.postpone
    return Outbox, "postpone", lambda self, key, _due, trouble: real(self, key, 0.0, trouble)


def newest_first() -> tuple[Any, str, Any]:
    """The outbox hands out the newest words first, so that attempts overtake each other."""
    claim = "select * from deliveries where lane = 'words' and refused = 0 order by position desc limit 1"
    return outbox, "_CLAIM", {**outbox._CLAIM, WORDS: claim}


def end_overtakes_what_waits() -> tuple[Any, str, Any]:
    """A final checkpoint leaves as soon as it is asked for, whatever waits before it."""
    claim = "select * from deliveries where lane = 'files' and refused = 0 order by position desc limit 1"
    return outbox, "_CLAIM", {**outbox._CLAIM, FILES: claim}


def adopted_before_written() -> tuple[Any, str, Any]:
    """What could not be written is adopted all the same, and never written."""
    real = Journal.append

    def broken(self, step, memory):
        try:
            real(self, step, memory)
        except JournalFailing:
            self._unsure = None

    return Journal, "append", broken


def half_a_line_stays() -> tuple[Any, str, Any]:
    """Half a line, as a full disk leaves it, is not cut back."""

    def broken(self):
        self._unsure = None

    return Journal, "_cut_back", broken


def waiting_steps_forgotten() -> tuple[Any, str, Any]:
    """The steps that wait in memory while the disk is full are let go of."""

    def broken(self):
        self._waiting.clear()

    return Door, "_drain", broken


def rest_of_a_send_forgotten() -> tuple[Any, str, Any]:
    """A send of many rows counts as delivered when its first request was acknowledged."""
    return Outbox, "next_row", lambda _self, _action, _after: 0


def alive_without_a_trainer() -> tuple[Any, str, Any]:
    """Whoever delivers what is left sends signs of life as if somebody trained."""

    class Alive(Sender):
        def __init__(self, *arguments, alive=True, **named):
            super().__init__(*arguments, alive=True, **named)

    return sync, "Sender", Alive


def any_page_is_an_answer() -> tuple[Any, str, Any]:
    """A page of somebody in between counts as an answer of the hub."""
    real = hub_v1.judge

    def broken(answer, hub, now):
        return (
            {"data": {}, "success": True}
            if answer.status == 200 and answer.body is None
            else real(answer, hub, now)
        )

    return hub_v1, "judge", broken


def earlier_segments_unsynced() -> tuple[Any, str, Any]:
    """What a killed process left unsynced stays so, while others build on it."""
    return Journal, "_adopt_earlier", lambda _self: None


def copies_removed_at_once() -> tuple[Any, str, Any]:
    """A copy goes before the disk keeps the line that made it needless."""

    def broken(self, names):
        for name in list(names):
            self.discard(name)

    return Snapshots, "put_off", broken


def journal_never_synced() -> tuple[Any, str, Any]:
    """While a training goes on nobody asks the disk to keep its journal."""

    def broken(self):
        while self._retired:
            os.close(self._retired.pop())

    return Journal, "sync", broken


def outbox_ahead_of_its_journal() -> tuple[Any, str, Any]:
    """An outbox that outlived its journal's last lines keeps the rows that they told."""
    return Outbox, "_check_place", lambda _self: None


def lines_before_copies() -> tuple[Any, str, Any]:
    """The disk is asked to keep the lines, and never the copies that they name."""
    return Snapshots, "sync_all", lambda _self: None


BROKEN: dict[str, Plant] = {
    plant.__name__: plant
    for plant in (
        settled_before_acknowledgement,
        another_key_on_retry,
        snapshot_by_path,
        back_off_ignored,
        newest_first,
        end_overtakes_what_waits,
        adopted_before_written,
        half_a_line_stays,
        waiting_steps_forgotten,
        alive_without_a_trainer,
        rest_of_a_send_forgotten,
        earlier_segments_unsynced,
        copies_removed_at_once,
        lines_before_copies,
        any_page_is_an_answer,
        journal_never_synced,
        outbox_ahead_of_its_journal,
    )
}
#: The first seed that finds each, where it is not 0. It moves with the code; what it is for is to find them soon.
SEEN_BY = {
    "settled_before_acknowledgement": 1,
    "another_key_on_retry": 14,
    "snapshot_by_path": 2,
    "back_off_ignored": 1,
    "half_a_line_stays": 1,
    "rest_of_a_send_forgotten": 1,
    "earlier_segments_unsynced": 3,
    "copies_removed_at_once": 2,
    "lines_before_copies": 3,
    "any_page_is_an_answer": 13,
    "journal_never_synced": 2,
    "outbox_ahead_of_its_journal": 53,
}


@contextmanager
def planted(plant: Plant) -> Iterator[None]:
    """While it lasts, the part is broken."""
    where, name, broken = plant()
    real = where.__dict__[name]
    setattr(where, name, broken)
    try:
        yield
    finally:
        setattr(where, name, real)
