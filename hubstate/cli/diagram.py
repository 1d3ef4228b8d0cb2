"""`hubstate diagram`: the machine, drawn from its table, or the way that one session took through it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hubstate.cli.ends import NOT_DONE, end

if TYPE_CHECKING:
    from hubstate.diagram import Taken

__all__ = ["diagram"]

#: What the end of a file's name says about its format, where none is asked for.
_BY_SUFFIX = {
    ".svg": "svg",
    ".mmd": "mermaid",
    ".txt": "mermaid",
    ".dot": "dot",
    ".gv": "dot",
    ".md": "markdown",
    ".json": "json",
}


def diagram(
    *,
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="svg, mermaid, dot, markdown or json; else by the name of FILE, else mermaid",
        ),
    ] = None,
    session: Annotated[
        str | None,
        typer.Option(
            metavar="SESSION",
            help="the way that this session took: an id, the beginning of one, or a name (the newest of it)",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="write it there, and not to stdout")
    ] = None,
    directory: Annotated[
        Path | None, typer.Option(metavar="DIR", help="look for the session there alone")
    ] = None,
) -> None:
    """Draw the machine that decides what a session does, or the way of one session."""
    from hubstate.cli.screen import Screen, say
    from hubstate.diagram import render
    from hubstate.errors import StorageError

    chosen = form or _form_of(output)
    damages: list[str] = []
    if session is None:
        text = render(chosen)
    else:
        folder, title = _named(session, directory)
        text = render(chosen, _steps(folder, damages), title=title)
    if output is None:
        Screen().line(text.rstrip("\n"))
    else:
        try:
            output.write_text(text, encoding="utf-8")
        except OSError as error:
            raise StorageError(f"cannot write {output}: {error.strerror}") from error
    for damage in damages:
        say(f"left out of the picture: {damage}")
    end(NOT_DONE if damages else 0)


def _form_of(output: Path | None) -> str:
    """The format that the name of a file asks for. Raises `UsageError` for one that asks for another kind of file."""
    from hubstate.errors import UsageError

    suffix = "" if output is None else output.suffix.lower()
    if suffix and suffix not in _BY_SUFFIX:
        raise UsageError(
            f"no format is called {suffix}: name the file {', '.join(_BY_SUFFIX)}, or say --format "
            f"{', '.join(dict.fromkeys(_BY_SUFFIX.values()))}"
        )
    return _BY_SUFFIX.get(suffix, "mermaid")


def _named(session: str, directory: Path | None) -> tuple[Path, str]:
    """The folder of the session that is meant, and a title for its picture."""
    from hubstate import journal, overview, settings

    folder = overview.find(session, overview.folders(settings.resolve(), directory))
    name = journal.recover(folder).memory.name
    return folder, f"{name} · {folder.name}" if name else folder.name


def _steps(folder: Path, damages: list[str]) -> Iterator[Taken]:
    """The steps of a journal as plain values; what cannot be read is noted in `damages`."""
    from hubstate import journal
    from hubstate.diagram import Taken
    from hubstate.events import name_of

    for entry in journal.read(folder):
        match entry.line:
            case journal.Step() as step:
                yield Taken(
                    source=step.source.value,
                    event=name_of(step.event),
                    target=step.target.value,
                    guards=step.guards,
                    illegal=step.illegal,
                    held=bool(step.refusal) and not step.illegal,
                )
            case journal.Damage(file, line, what):
                damages.append(f"{file} line {line}: {what}" if line else f"{file}: {what}")
            case journal.Head():
                pass  # a memory, and no step
