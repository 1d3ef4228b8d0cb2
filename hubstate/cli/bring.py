"""`hubstate import`: trainings that other tools left, brought in as sessions."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hubstate.cli.ends import NOT_DONE, end

if TYPE_CHECKING:
    from hubstate.importing import Found, Unusable
    from hubstate.settings import Settings

__all__ = ["bring"]


class _Checkpoints(Enum):
    """Which of them are kept; as in `hubstate.start`."""

    ALL = "all"
    BEST = "best"
    LAST = "last"
    FINAL = "final"
    NONE = "none"


def bring(
    folders: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="where a training lies, or several below it")
    ],
    *,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="what to call it", show_default="as its folder")
    ] = None,
    finished: Annotated[
        bool, typer.Option("--finished", help="they came to their end, where their files do not tell")
    ] = False,
    checkpoints: Annotated[
        _Checkpoints, typer.Option(help="which checkpoints are copied")
    ] = _Checkpoints.ALL,
    into: Annotated[
        str | None,
        typer.Option(
            metavar="ID", help="fill what the hub lacks of this session of its own, and import nothing here"
        ),
    ] = None,
    hub: Annotated[
        str | None, typer.Option(metavar="URL", help="the hub of --into", show_default="as set")
    ] = None,
    directory: Annotated[
        Path | None, typer.Option(metavar="DIR", help="keep the sessions there", show_default="as set")
    ] = None,
) -> None:
    """Bring in trainings that other tools left: Ultralytics, Lightning's CSVLogger, Transformers.

    What lies in DIR stays as it is. A second import adds only what is new. `hubstate sync` delivers the sessions, and
    `hubstate show` shows them.
    """
    from hubstate import importing, overview, settings
    from hubstate.cli.progress import counting
    from hubstate.cli.screen import Screen, clean, say
    from hubstate.errors import HubstateError, UsageError

    if hub is not None and into is None:
        raise UsageError("--hub is for --into; `hubstate sync --hub URL` delivers what was imported")
    here = settings.resolve(directory=directory, hub=hub)
    # A place that is not there yet holds no session; what lies elsewhere is not looked at, as when it is there.
    known = [] if directory is not None and not directory.is_dir() else overview.folders(here, directory)
    found = importing.find_all(folders)
    if not found:
        where = ", ".join(map(str, folders))
        raise UsageError(
            f"nothing to import lies in {where}: no results.csv of Ultralytics, no metrics.csv of Lightning's CSVLogger, "
            "no trainer_state.json of Transformers"
        )
    if name is not None and len(found) > 1:
        raise UsageError(f"--name is for one training, and {len(found)} lie here: import them one by one")
    if into is not None:
        _fill(found, into, here, finished=finished)
        return
    wanted = importing.Wanted(name, finished, checkpoints.value)
    screen, failed = Screen(), False
    for one in found:
        if isinstance(one, importing.Unusable):
            say(f"not imported: {one.reason}")
            failed = True
            continue
        try:
            with counting(f"importing {one.folder}") as watch:
                done = importing.bring(one, here, known, wanted, watch=watch)
        except HubstateError as error:
            say(f"not imported: {error}")
            failed = True
            continue
        counts = f", rows: {done.rows}, checkpoints: {done.files}" if done.rows or done.files else ""
        screen.line(
            clean(f"{name or one.name} ({done.session}): {done.how}{counts}; {one.tool}, {one.folder}")
        )
        for note in (*_remarks(one, done.how, finished=finished), *done.notes):
            say(f"{one.folder}: {note}")
    end(NOT_DONE if failed else 0)


def _fill(found: list[Found | Unusable], session: str, here: Settings, *, finished: bool) -> None:
    """Fills the gaps that the hub's session has."""
    from hubstate import importing
    from hubstate.cli.screen import Screen, clean
    from hubstate.errors import StorageError, UsageError

    if len(found) > 1:
        raise UsageError(f"--into is for one training, and {len(found)} lie here: name its folder")
    (one,) = found
    if isinstance(one, importing.Unusable):
        raise StorageError(one.reason)
    filled = importing.fill(one, session, here, finished=finished)
    rows, files = (
        f"rows: {filled.rows} of {filled.found_rows}",
        f"checkpoints: {filled.files} of {filled.found_files}",
    )
    how = f"filled, {rows}, {files}" if filled.rows or filled.files else "it lacks nothing of what lies here"
    Screen().line(clean(f"{session} at {here.hub}: {how}; {one.tool}, {one.folder}"))


def _remarks(one: Found, how: str, *, finished: bool) -> list[str]:
    """What there is to know about what was imported just now."""
    if how.startswith("it is here already"):
        return list(one.notes)
    told = [
        f"the time of a row is {one.times}" if one.times.startswith("when") else f"the times are {one.times}"
    ]
    if one.unfinished and not finished:
        told.append(f"its outcome is unknown: {one.unfinished}; --finished says that it did")
    return [*told, *one.notes]
