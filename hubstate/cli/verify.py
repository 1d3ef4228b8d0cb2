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
    from hubstate.errors import HubError
    from hubstate.proof import verify as room

    found = settings.resolve()
    folder = overview.find(session, overview.folders(found, directory))
    screen = Screen()
    with counting("judging the journal") as watch:
        verdict = room.verify(folder, watch=watch)
    if not as_json:
        screen.line(screen.paint(clean(verdict), "green" if verdict.accepted else "red"))
    hub: dict[str, Any] | None = None
    equal = True
    if with_hub and verdict.wrong is None:
        address, model = _hub_of(folder, found)
        try:
            comparison = _compared(folder, found, address, model)
        except HubError as failure:
            if as_json:
                hub = _hub_as_json(address, None, str(failure))
                screen.line(json.dumps(_as_json(verdict, hub), indent=2))
            raise
        equal, hub = comparison.equal, _hub_as_json(address, comparison, "")
        if not as_json:
            style = "green" if comparison.equal else "red"
            screen.line(screen.paint(clean(f"{address}: {comparison}"), style))
    if as_json:
        screen.line(json.dumps(_as_json(verdict, hub), indent=2))
    end(0 if verdict.accepted and equal else NOT_DONE)


def _hub_of(folder: Path, found: Settings) -> tuple[str, str]:
    """The address of the hub that holds the session, and what that one calls it.

    Raises `UsageError` if no hub has acknowledged the session.
    """
    from hubstate import journal
    from hubstate.errors import UsageError
    from hubstate.sync import hub_for

    memory = journal.recover(folder).memory
    if memory.hub is None or memory.model is None:
        raise UsageError(
            f"no hub has acknowledged {memory.name or folder.name} yet, so none can be compared with: "
            "`hubstate sync` delivers it"
        )
    return hub_for(memory.hub, None, found.hub), memory.model


def _compared(folder: Path, found: Settings, address: str, model: str) -> Comparison:
    """How what the hub holds compares with the journal. Raises what `held` raises."""
    from hubstate import settings
    from hubstate.errors import HubError
    from hubstate.hubs.held import held
    from hubstate.proof.holdings import compare
    from hubstate.sync import with_why

    known = settings.for_hub(address, found)
    try:
        holds = held(address, known.api_key, model, known.mlflow)
    except HubError as failure:
        raise with_why(failure, known) from failure.__cause__
    return compare(folder, holds)


def _hub_as_json(address: str, comparison: Comparison | None, trouble: str) -> dict[str, Any]:
    """What `--json` tells of the hub. `trouble`: why nobody knows what it holds; all else is null then."""
    names = ("equal", "rows", "rows_equal", "files", "files_equal", "difference")
    told = {name: None if comparison is None else getattr(comparison, name) for name in names}
    return {"address": address, "trouble": trouble, **told}


def _as_json(verdict: Verdict, hub: dict[str, Any] | None) -> dict[str, Any]:
    """The object of `--json`; its names are a promise. `hub` is null where none was asked."""
    wrong = None
    if verdict.wrong is not None:
        place, n, what = verdict.wrong
        wrong = {"file": place.file, "line": place.line, "n": n, "what": what}
    return {
        "id": verdict.session,
        "accepted": verdict.accepted,
        "steps": verdict.steps,
        "segments": verdict.segments,
        "ends": {"file": verdict.end.file, "line": verdict.end.line},
        "torn": [{"file": place.file, "line": place.line} for place in verdict.torn],
        "empty": list(verdict.empty),
        "undecided": verdict.undecided,
        "reworded": verdict.reworded,
        "lost": [{"file": name, "what": what} for name, what in verdict.lost],
        "digests": {"gone": verdict.gone, "untold": verdict.untold},
        "wrong": wrong,
        "hub": hub,
    }
