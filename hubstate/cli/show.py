"""`hubstate show`: the pages over this machine's sessions."""

from __future__ import annotations

import signal
import threading
import time
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from hubstate.cli.ends import extra

__all__ = ["show"]


def show(
    session: Annotated[
        str | None,
        typer.Argument(metavar="SESSION", help="open its page: an id, the beginning of one, or a name"),
    ] = None,
    *,
    port: Annotated[int, typer.Option(help="the port", min=0, max=65535, show_default="a free one")] = 0,
    no_open: Annotated[bool, typer.Option("--no-open", help="open no browser")] = False,
    directory: Annotated[
        Path | None, typer.Option(metavar="DIR", help="look for sessions there alone")
    ] = None,
) -> None:
    """Show the sessions of this machine on the hub's pages, on loopback, until Ctrl-C.

    They are read from their journals, also while they are written. No key and no set-up is needed; nothing is delivered, and
    no session is changed.
    """
    from hubstate import overview, settings
    from hubstate.cli.log import configure_log
    from hubstate.cli.screen import Screen, say

    configure_log()
    with extra("server"):
        from hubstate.show import id_on_pages, showing
    found = settings.resolve()
    chosen = None if session is None else overview.find(session, overview.folders(found, directory))
    overview.folders(found, directory)  # a directory that is not there is told before anything is opened
    ended = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda _number, _frame: ended.set())
    try:
        with showing(lambda: overview.folders(found, directory), port=port, wall=time.time) as hub:
            page = hub.url if chosen is None else f"{hub.url}/models/{id_on_pages(chosen)}"
            screen = Screen()
            screen.line(page)
            screen.flush()
            say("the sessions of this machine are shown there until Ctrl-C; nothing is delivered or changed")
            if screen.terminal and not no_open:
                webbrowser.open(page)
            ended.wait()
    except KeyboardInterrupt:
        return  # as it was said
    finally:
        signal.signal(signal.SIGTERM, before)
