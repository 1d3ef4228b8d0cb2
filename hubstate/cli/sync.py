"""`hubstate sync`: what still waits is delivered, one session after the other, the oldest first."""

from __future__ import annotations

import json
import random
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from hubstate.cli.ends import NOT_DONE, REFUSED_CREDENTIALS, end

__all__ = ["sync"]


def sync(
    sessions: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SESSION", help="ids, beginnings of ids, or names; all sessions if none is given"
        ),
    ] = None,
    *,
    hub: Annotated[
        str | None, typer.Option(metavar="URL", help="the hub, for sessions that belong to none yet")
    ] = None,
    retry_refused: Annotated[
        bool, typer.Option("--retry-refused", help="try what the hub refused once more")
    ] = False,
    give_up: Annotated[
        str | None,
        typer.Option(
            metavar="REASON", help="deliver no more of what waits or was refused; it is not asked twice"
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="a list of objects, as `status --json`")] = False,
    directory: Annotated[
        Path | None, typer.Option(metavar="DIR", help="look for sessions there alone")
    ] = None,
) -> None:
    """Deliver what still waits; exit 0 only if nothing waits any more."""
    from hubstate import overview, settings
    from hubstate.cli.log import configure_log
    from hubstate.cli.progress import delivering
    from hubstate.cli.screen import Screen, clean, say
    from hubstate.clock import SystemClock
    from hubstate.hubs import open_hub
    from hubstate.rounds import Round

    configure_log()
    found = settings.resolve(hub=hub)
    there = overview.folders(found, directory)
    named = [overview.find(session, there) for session in sessions or ()]
    chosen = sorted(set(named), key=lambda folder: folder.name) if named else there
    work = Round(
        found,
        hub=hub,
        retry_refused=retry_refused,
        reason=give_up,
        clock=SystemClock(),
        chance=random.SystemRandom(),
        open_hub=partial(open_hub, found=found),
        say=say,
        watch=delivering,
    )
    try:
        with work:
            for seen in overview.look_at_all(chosen):
                work.visit(seen, by_name=bool(named))
    except KeyboardInterrupt:
        say("stopped; what waits is kept, and leaves with the next `hubstate sync`")
        work.left_alone = True
    last = list(overview.look_at_all(work.visited))
    screen = Screen()
    if as_json:
        screen.line(json.dumps([overview.as_json(seen) for seen in last], indent=2))
    elif not last:
        say("nothing waits")
    else:
        for seen in last:
            if isinstance(seen, overview.Overview):
                screen.line(clean(str(seen.receipt).partition("\n")[0]))
    if work.credentials_refused:
        end(REFUSED_CREDENTIALS)
    undone = any(isinstance(seen, overview.Unreadable) or seen.unsettled for seen in last)
    end(NOT_DONE if undone or work.left_alone else 0)
