"""`hubstate forget`: removes sessions here."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hubstate.cli.ends import NOT_DONE, end

if TYPE_CHECKING:
    from hubstate.overview import Overview, Unreadable

__all__ = ["forget"]


def forget(
    sessions: Annotated[
        list[str],
        typer.Argument(metavar="SESSION", help="ids, beginnings of ids, or names (the newest of each)"),
    ],
    *,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="also what no hub has acknowledged, or what cannot be read")
    ] = False,
    directory: Annotated[
        Path | None, typer.Option(metavar="DIR", help="look for sessions there alone")
    ] = None,
) -> None:
    """Remove a session's journal and files here. What a hub holds stays there."""
    from hubstate import exchange, overview, settings
    from hubstate.cli.screen import say
    from hubstate.errors import UsageError
    from hubstate.index import Index

    found = settings.resolve()
    there = overview.folders(found, directory)
    chosen = sorted({overview.find(session, there) for session in sessions}, key=lambda folder: folder.name)
    seen = list(overview.look_at_all(chosen))
    hindrances = [why for one in seen if (why := exchange.hindrance(one, force=force))]
    for why in hindrances:
        say(why)
    if hindrances:
        say("nothing was removed")
        end(NOT_DONE)
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError("nobody can be asked here: give --yes to remove without a question")
        for one in seen:
            say(_described(one))
        if not typer.confirm("Remove for ever what is kept of this here?", err=True):
            say("nothing was removed")
            end(NOT_DONE)
    for one in seen:
        exchange.forget(one.folder, Index(found.data_folder / "sessions"), force=force)


def _described(one: Overview | Unreadable) -> str:
    from hubstate.overview import Unreadable

    size = sum(file.stat().st_size for file in one.folder.rglob("*") if file.is_file())
    kept = f"{size / 1e6:.1f} MB in {one.folder}"
    if isinstance(one, Unreadable):
        return f"{one.session}: cannot be read, {kept}"
    receipt = one.receipt
    return f"{receipt.name} ({one.session}): {receipt.outcome.value}, rows: {receipt.rows}, {kept}"
