"""`hubstate status`: the sessions of this user, newest first, or all about one of them."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hubstate.cli.ends import NOT_DONE, end

if TYPE_CHECKING:
    from hubstate.cli.screen import Cell, Screen
    from hubstate.overview import Overview, Unreadable

__all__ = ["status"]

#: How many letters of an id are shown at least where there is no room for all; ids begin with their time.
_SHORT_ID = 10
_HEAD = ("NAME", "STATE", "OUTCOME", "EPOCH", "ROWS", "WAITING", "REFUSED", "SEEN", "ID")
_RIGHT = ("EPOCH", "ROWS", "WAITING", "REFUSED")
_OUTCOMES = {
    "finished": "green",
    "running": "cyan",
    "failed": "red",
    "interrupted": "yellow",
    "unknown": "yellow",
}


def status(
    session: Annotated[
        str | None,
        typer.Argument(metavar="SESSION", help="an id, the beginning of one, or a name (the newest of it)"),
    ] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="a list of objects, for programs")] = False,
    directory: Annotated[
        Path | None, typer.Option(metavar="DIR", help="look for sessions there alone")
    ] = None,
) -> None:
    """Show the sessions: state, outcome, what was delivered and what waits."""
    from hubstate import overview, settings
    from hubstate.cli.screen import Screen, say

    found = settings.resolve()
    there = overview.folders(found, directory)
    chosen = there if session is None else [overview.find(session, there)]
    seen = list(overview.look_at_all(reversed(chosen)))
    screen = Screen()
    if as_json:
        screen.line(json.dumps([overview.as_json(one) for one in seen], indent=2))
    elif not seen:
        say(
            f"no sessions are known here yet (looked in {directory or found.directory}): "
            "`hubstate demo` trains one, hubstate.start(...) opens one"
        )
    elif session is None:
        _list(screen, seen, time.time())
    else:
        _tell(screen, seen[0], time.time())
    end(NOT_DONE if any(isinstance(one, overview.Unreadable) for one in seen) else 0)


# -- all of them -----------------------------------------------------------------------------------------


def _list(screen: Screen, seen: list[Overview | Unreadable], now: float) -> None:
    """A line for each; on a terminal its conditions follow below it, in a pipe they are its last field."""
    from hubstate.cli.screen import Cell, clean, table

    ids = _ids(screen, [one.session for one in seen])
    rows = [(*_cells(screen, one, now), Cell(name)) for one, name in zip(seen, ids, strict=True)]
    notes = [_notes(one) for one in seen]
    if screen.width is None:
        rows = [
            (*row, Cell("; ".join(clean(note) for note in told)))
            for row, told in zip(rows, notes, strict=True)
        ]
        for line in table(screen, (*_HEAD, "CONDITIONS"), rows, right=_RIGHT):
            screen.line(line)
        return
    head, *lines = table(screen, _HEAD, rows, right=_RIGHT, shrink="NAME")
    screen.line(head)
    for line, told in zip(lines, notes, strict=True):
        screen.line(line)
        for note in told:
            for part in screen.wrapped(clean(note), "    ", "  · "):
                screen.line(screen.paint(part, "yellow"))


def _cells(screen: Screen, one: Overview | Unreadable, now: float) -> tuple[Cell, ...]:
    from hubstate.cli.screen import Cell, ago, clean, local
    from hubstate.overview import Unreadable

    if isinstance(one, Unreadable):
        return (Cell("?"), Cell("unreadable", "red"), *(Cell("-", "dim") for _ in range(6)))
    receipt = one.receipt
    contact = one.last_contact
    when = "-" if contact is None else local(contact) if screen.width is None else ago(contact, now)
    return (
        Cell(clean(receipt.name) or "-", "bold"),
        Cell(receipt.state.value),
        Cell(receipt.outcome.value, _OUTCOMES.get(receipt.outcome.value, "")),
        Cell(_epoch(one)),
        Cell(f"{receipt.rows_delivered}/{receipt.rows}"),
        Cell(str(receipt.waiting), "yellow" if receipt.waiting else "dim"),
        Cell(str(receipt.refused), "red" if receipt.refused else "dim"),
        Cell(when),
    )


def _epoch(one: Overview) -> str:
    """How many epochs have ended, of how many."""
    ended = 0 if one.receipt.epoch is None else one.receipt.epoch + 1
    return str(ended) if one.epochs is None else f"{ended}/{one.epochs}"


def _notes(one: Overview | Unreadable) -> list[str]:
    from hubstate.overview import Unreadable

    if isinstance(one, Unreadable):
        return [one.reason]
    return [
        f"{condition.name}: {condition.reason}"
        for condition in one.receipt.conditions
        if condition.name != "online"  # as it should be
    ]


def _ids(screen: Screen, ids: list[str]) -> list[str]:
    """The ids; on a narrow terminal as many letters of them as tell them apart."""
    if screen.width is None or screen.width >= 120 or not ids:
        return ids
    in_order = sorted(ids)
    shared = max(map(_shared, in_order, in_order[1:]), default=0)
    return [name[: max(_SHORT_ID, shared + 1)] for name in ids]


def _shared(one: str, other: str) -> int:
    """How many letters two ids begin with in common."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), len(one))


# -- one of them -----------------------------------------------------------------------------------------


def _tell(screen: Screen, one: Overview | Unreadable, now: float) -> None:
    """Everything about one session, a line for each thing."""
    from hubstate.cli.screen import ago, clean, local
    from hubstate.overview import Unreadable

    if isinstance(one, Unreadable):
        lines = [("session", one.session), ("journal", one.reason), ("kept in", str(one.folder))]
    else:
        receipt = one.receipt
        lines = [
            ("session", f"{receipt.name}  {one.session}"),
            ("state", receipt.state.value),
            ("outcome", f"{receipt.outcome.value}{f': {receipt.reason}' if receipt.reason else ''}"),
            ("attempt", str(receipt.attempt)),
            ("epochs", _epoch(one)),
            ("rows", _rows(one)),
            ("checkpoints", f"{receipt.files_delivered} delivered, {receipt.files_waiting} waiting"),
            ("waiting", f"{receipt.waiting} (rows, files and words)"),
            ("refused", str(receipt.refused)),
            ("hub", one.hub or "none has acknowledged it yet"),
        ]
        if receipt.url:
            lines.append(("page", receipt.url))
        if receipt.final_sha256:
            lines.append(("final sha256", f"{receipt.final_sha256} (as the hub stored it)"))
        if one.opened_at is not None:
            lines.append(("opened", local(one.opened_at)))
        if one.last_contact is not None:
            lines.append(("last contact", f"{local(one.last_contact)} ({ago(one.last_contact, now)} ago)"))
        if one.owner is not None:
            lines.append(
                ("owned by", f"process {one.owner}" if one.owner else "a process on another machine")
            )
        lines.append(("kept in", str(one.folder)))
        lines += [
            (f"! {condition.name}", _with_time(condition.reason, local(condition.since)))
            for condition in receipt.conditions
        ]
    margin = max(len(name) for name, _ in lines) + 2
    for name, text in lines:
        style = "yellow" if name.startswith("!") else "dim"
        first, *more = screen.wrapped(clean(text), " " * margin, name.ljust(margin))
        screen.line(screen.paint(first[:margin], style) + first[margin:])
        for part in more:
            screen.line(part)


def _with_time(reason: str, since: str) -> str:
    return reason if since in reason else f"{reason} (since {since})"


def _rows(one: Overview) -> str:
    receipt = one.receipt
    told = [f"{receipt.rows_delivered} of {receipt.rows} delivered"]
    for count, word in (
        (receipt.rows_waiting, "waiting"),
        (receipt.rows_refused, "refused"),
        (receipt.rows_not_taken, "not taken by this hub"),
        (receipt.rows_given_up, "given up"),
    ):
        if count:
            told.append(f"{count} {word}")
    return ", ".join(told)
