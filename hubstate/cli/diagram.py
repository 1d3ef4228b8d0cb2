"""`hubstate diagram`: the machine, drawn from its table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["diagram"]


def diagram(
    *,
    form: Annotated[str, typer.Option("--format", metavar="FORMAT", help="mermaid or markdown")] = "mermaid",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="write it there, and not to stdout")
    ] = None,
) -> None:
    """Draw the machine that decides what a session does."""
    from hubstate.cli.screen import Screen
    from hubstate.diagram import render
    from hubstate.errors import StorageError

    text = render(form)
    if output is None:
        Screen().line(text.rstrip("\n"))
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"cannot write {output}: {error.strerror}") from error
