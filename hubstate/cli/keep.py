"""`hubstate backup` and `hubstate restore`: a copy of the hub one owns, and a hub made of it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hubstate.cli.ends import NOT_DONE, end, extra
from hubstate.cli.hub import DataDir, data_dir_of

if TYPE_CHECKING:
    from hubstate.server.backup import Copied

__all__ = ["backup", "restore"]


def backup(
    target: Annotated[
        Path, typer.Argument(metavar="DIR", help="a new folder, or an earlier backup to bring up to date")
    ],
    *,
    data_dir: DataDir = None,
) -> None:
    """Copy the hub you own, while it runs: its database, and every file by its digest."""
    from hubstate.cli.screen import say

    with extra("server"):
        from hubstate.server.backup import back_up
    made = back_up(data_dir_of(data_dir), target, now=time.time())
    say(f"{target} holds the hub: {made.files} files ({made.size / 1e6:.1f} MB), {made.new} of them new")
    _end(made)


def restore(
    source: Annotated[Path, typer.Argument(metavar="DIR", help="a backup")],
    *,
    data_dir: DataDir = None,
    check: Annotated[
        bool, typer.Option("--check", help="only look whether all of the backup is what it was")
    ] = False,
    damaged_too: Annotated[
        bool, typer.Option("--damaged-too", help="restore the rest where files are missing or damaged")
    ] = False,
) -> None:
    """Make a hub of a backup, in a new or empty folder; each file is checked by its digest."""
    from hubstate.cli.screen import say

    with extra("server"):
        from hubstate.server import backup as room
    if check:
        found = room.check(source)
        say(f"{source} holds {found.files} files ({found.size / 1e6:.1f} MB)")
    else:
        place = data_dir_of(data_dir)
        found = room.restore(source, place, damaged_too=damaged_too)
        say(f"{place} holds the hub again: {found.files} files ({found.size / 1e6:.1f} MB)")
    _end(found)


def _end(done: Copied) -> None:
    """Tells what is not as it was; then the command is not all done."""
    from hubstate.cli.screen import say

    for what in done.bad:
        say(what)
    end(NOT_DONE if done.bad else 0)
