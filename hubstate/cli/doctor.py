"""`hubstate doctor`: what keeps a run from being sent."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from hubstate.cli.ends import NOT_DONE, REFUSED_CREDENTIALS, end

__all__ = ["doctor"]

_MARKS = {"fine": ("ok", "green"), "note": ("--", "yellow"), "trouble": ("!!", "red")}


def doctor(
    *,
    directory: Annotated[
        Path | None, typer.Option(metavar="DIR", help="look for sessions there alone")
    ] = None,
) -> None:
    """Tell which hub and settings hold here, and each thing that keeps a run from being sent."""
    from hubstate import settings
    from hubstate.cli.screen import Screen, clean
    from hubstate.clock import SystemClock
    from hubstate.doctor import Level, examine
    from hubstate.hubs import open_hub

    screen = Screen()
    troubles, refused = 0, False
    found = settings.resolve()
    opener = partial(open_hub, found=found)
    for finding in examine(found, SystemClock(), opener, directory=directory):
        mark, style = _MARKS[finding.level.value]
        first, *more = screen.wrapped(clean(finding.text), " " * 18, f"{mark}  {finding.about:12}  ")
        screen.line(screen.paint(first[:2], style) + screen.paint(first[2:18], "dim") + first[18:])
        for line in more:
            screen.line(line)
        troubles += finding.level is Level.TROUBLE
        refused = refused or finding.credentials_refused
    screen.line()
    screen.line(
        screen.paint("nothing keeps a run from being sent", "green")
        if not troubles
        else screen.paint(f"{troubles} of these keep a run from being sent", "red")
    )
    end(REFUSED_CREDENTIALS if refused else NOT_DONE if troubles else 0)
