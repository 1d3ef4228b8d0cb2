"""`hubstate verify`: is this journal one that can have been, and does the hub hold what it tells?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hubstate.cli.ends import NOT_DONE, end

if TYPE_CHECKING:
    from hubstate.proof.holdings import Comparison
    from hubstate.proof.verify import Verdict
    from hubstate.settings import Settings

__all__ = ["verify"]


def verify(
    session: Annotated[
        str,
        typer.Argument(metavar="SESSION", help="an id, the beginning of one, or a name (the newest of it)"),
    ],
    *,
    with_hub: Annotated[
        bool, typer.Option("--hub", help="compare every row and file with what the hub holds now")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="the verdict as an object")] = False,
    directory: Annotated[
        Path | None, typer.Option(metavar="DIR", help="look for the session there alone")
    ] = None,
) -> None:
    """Replay the journal of a session, and name the first line that cannot be."""
    from hubstate import overview, settings
    from hubstate.cli.progress import counting
    from hubstate.cli.screen import Screen, clean
    from hubstate.proof import verify as room

    found = settings.resolve()
    folder = overview.find(session, overview.folders(found, directory))
    screen = Screen()
    with counting("judging the journal") as watch:
        verdict = room.verify(folder, watch=watch)
    if not as_json:
        screen.line(screen.paint(clean(verdict), "green" if verdict.accepted else "red"))
    compared: tuple[str, Comparison] | None = None
    if with_hub and verdict.wrong is None:
        compared = _compared(folder, found)
        if not as_json:
            address, comparison = compared
            style = "green" if comparison.equal else "red"
            screen.line(screen.paint(clean(f"{address}: {comparison}"), style))
    if as_json:
        screen.line(json.dumps(_as_json(verdict, compared), indent=2))
    fine = verdict.accepted and (compared is None or compared[1].equal)
    end(0 if fine else NOT_DONE)


def _compared(folder: Path, found: Settings) -> tuple[str, Comparison]:
    """The hub that holds the session, and how what it holds compares with the journal.

    Raises `UsageError` if no hub has acknowledged the session, and what `held` raises.
    """
    from hubstate import journal, settings
    from hubstate.errors import HubError, UsageError
    from hubstate.hubs.held import held
    from hubstate.proof.holdings import compare
    from hubstate.sync import hub_for, with_why

    memory = journal.recover(folder).memory
    if memory.hub is None or memory.model is None:
        raise UsageError(
            f"no hub has acknowledged {memory.name or folder.name} yet, so none can be compared with: "
            "`hubstate sync` delivers it"
        )
    address = hub_for(memory.hub, None, found.hub)
    known = settings.for_hub(address, found)
    try:
        holds = held(address, known.api_key, memory.model)
    except HubError as failure:
        raise with_why(failure, known) from failure.__cause__
    return address, compare(folder, holds)


def _as_json(verdict: Verdict, compared: tuple[str, Comparison] | None) -> dict[str, Any]:
    """The object of `--json`; its names are a promise. `hub` is null where none was asked."""
    wrong, hub = None, None
    if verdict.wrong is not None:
        place, n, what = verdict.wrong
        wrong = {"file": place.file, "line": place.line, "n": n, "what": what}
    if compared is not None:
        address, comparison = compared
        hub = {
            "address": address,
            "equal": comparison.equal,
            "rows": comparison.rows,
            "rows_equal": comparison.rows_equal,
            "files": comparison.files,
            "files_equal": comparison.files_equal,
            "difference": comparison.difference,
        }
    return {
        "id": verdict.session,
        "accepted": verdict.accepted,
        "steps": verdict.steps,
        "segments": verdict.segments,
        "ends": {"file": verdict.end.file, "line": verdict.end.line},
        "torn": [{"file": place.file, "line": place.line} for place in verdict.torn],
        "undecided": verdict.undecided,
        "digests": {"gone": verdict.gone, "untold": verdict.untold},
        "wrong": wrong,
        "hub": hub,
    }
