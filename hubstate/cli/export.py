"""`hubstate export`: a session taken out, as rows or whole."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from hubstate.cli.ends import NOT_DONE, end

__all__ = ["export"]


class _Form(Enum):
    """What it can be written as."""

    CSV = "csv"
    JSONL = "jsonl"
    ZIP = "zip"


def export(
    session: Annotated[
        str,
        typer.Argument(metavar="SESSION", help="an id, the beginning of one, or a name (the newest of it)"),
    ],
    *,
    form: Annotated[
        _Form, typer.Option("--format", help="rows as csv or jsonl; zip: rows, files and journal")
    ] = _Form.CSV,
    every: Annotated[
        bool, typer.Option("--all", help="every row of every attempt, not only those in force")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="write it there, and not to stdout")
    ] = None,
    directory: Annotated[
        Path | None, typer.Option(metavar="DIR", help="look for sessions there alone")
    ] = None,
) -> None:
    """Take a session out: its rows, or all of it."""
    import time

    from hubstate import exchange, overview, settings
    from hubstate.cli.progress import counting
    from hubstate.cli.screen import say
    from hubstate.errors import UsageError

    if form is _Form.ZIP and output is None and sys.stdout.isatty():
        raise UsageError("an archive is nothing for a terminal: give -o FILE, or a pipe")
    folder = overview.find(session, overview.folders(settings.resolve(), directory))
    with counting("reading the journal") as watch:
        rows = exchange.Rows(folder, every=every, watch=watch)
    with rows:
        with _out(output) as out:
            if form is _Form.ZIP:
                exchange.write_archive(folder, rows, out, time.time())
            else:
                for block in (exchange.as_csv if form is _Form.CSV else exchange.as_jsonl)(rows):
                    out.write(block)
        if rows.damages:
            say(
                f"{overview.damages_in_words(folder.name, rows.damages)}; the rows of these lines are missing"
            )
    end(NOT_DONE if rows.damages else 0)


@contextmanager
def _out(output: Path | None) -> Iterator[BinaryIO]:
    from hubstate.exchange import destination

    if output is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
    else:
        with destination(output) as out:
            yield out
