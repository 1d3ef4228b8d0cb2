"""`hubstate run`: a training command, and the truth about its end."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hubstate.cli.ends import end

if TYPE_CHECKING:
    from hubstate.hubs.base import Hub
    from hubstate.settings import Settings

__all__ = ["SETTINGS", "run"]

#: What stands behind the command's name is the command's.
SETTINGS = {"ignore_unknown_options": True, "allow_interspersed_args": False}

#: What shells say of a command that is not there, or that cannot be run.
_NOT_THERE, _NOT_RUN = 127, 126


def run(
    command: Annotated[
        list[str],
        typer.Argument(metavar="COMMAND...", help="the command with its arguments, without a shell"),
    ],
    *,
    timeout: Annotated[
        float,
        typer.Option(metavar="SECONDS", help="deliver at most this long afterwards", min=0, max=86_400),
    ] = 60.0,
) -> None:
    """Run a training command; when it is gone, however it ended, write down how and deliver the rest.

    Signals pass through, the terminal stays the command's, and the exit code is the command's own. `yolo`, the command of
    Ultralytics, is recorded without a script of your own.
    """
    import random
    from functools import partial

    from hubstate import settings
    from hubstate.cli.log import configure_log
    from hubstate.cli.progress import delivering
    from hubstate.clock import SystemClock
    from hubstate.errors import UsageError
    from hubstate.supervise import end_as, supervise

    configure_log()
    found = settings.resolve()
    try:
        ended = supervise(
            _recorded(command),
            found,
            timeout=timeout,
            clock=SystemClock(),
            chance=random.SystemRandom(),
            open_hub=partial(_open_hub, found),
            say=_say,
            watch=delivering,
        )
    except UsageError as error:
        _say(str(error))
        end(_NOT_THERE if isinstance(error.__cause__, FileNotFoundError) else _NOT_RUN)
    else:
        end(end_as(ended))


def _recorded(command: list[str]) -> list[str]:
    """The command as it is, but for the `yolo` of this environment: that one loads no script that could attach hubstate."""
    found = shutil.which(command[0])
    if found is None or Path(found).name != "yolo":
        return command
    if Path(found).absolute().parent != Path(sys.executable).absolute().parent:
        _say(
            f"{found} belongs to another environment than hubstate, so it runs unrecorded: install hubstate there"
        )
        return command
    # The folder of the command is no place to import from, as it is none for the command itself.
    return [sys.executable, "-P", "-m", "hubstate.trainers.yolo", *command[1:]]


def _open_hub(found: Settings, address: str, api_key: str | None) -> Hub:
    # Loaded when the command is gone: what waits beside a training takes as little memory as it can.
    from hubstate.hubs import open_hub

    return open_hub(address, api_key, found=found, beside=True)


def _say(text: str) -> None:
    """A message, if anybody is there to read it: a terminal that hung up ends no delivery."""
    from hubstate.cli.screen import say

    say(text)
