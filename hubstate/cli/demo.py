"""`hubstate demo`: a real model learns on real data, and its session goes through every state."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from hubstate.cli.ends import end, extra

__all__ = ["demo"]


def demo(
    *,
    epochs: Annotated[
        int | None,
        typer.Option(metavar="N", help="how many epochs to train", min=1, show_default="15, or as begun"),
    ] = None,
    hub: Annotated[
        str | None,
        typer.Option(metavar="URL", help="deliver to this hub", show_default="one of its own, on loopback"),
    ] = None,
    data_dir: Annotated[Path, typer.Option(metavar="DIR", help="where everything is kept")] = Path(
        ".hubstate-demo"
    ),
    resume: Annotated[
        bool, typer.Option("--resume", help="go on with the newest demo there that is not done")
    ] = False,
) -> None:
    """Train a small real classifier on real data, and watch its session."""
    from hubstate.cli.log import configure_log

    configure_log()
    with extra("demo"):
        from hubstate.demo import run_demo

        code = run_demo(
            epochs=epochs, hub=hub, data_dir=data_dir, resume=resume, stay=sys.stdout.isatty(), out=sys.stdout
        )
    end(code)
