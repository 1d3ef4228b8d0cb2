"""How a command ends: 0 done, 1 not all done, 2 usage, 3 the hub refused the credentials.

An error that hubstate raises on purpose becomes one line on stderr and one of these codes. Any other is a defect,
and keeps its traceback.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperGroup

from hubstate.errors import HubRefused, HubstateError, SessionNotFound, UsageError

__all__ = ["NOT_DONE", "REFUSED_CREDENTIALS", "USAGE", "Commands", "code_of", "end", "extra"]

NOT_DONE, USAGE, REFUSED_CREDENTIALS = 1, 2, 3

_SERVER = frozenset(
    {"alembic", "fastapi", "jinja2", "multipart", "python_multipart", "sqlalchemy", "starlette", "uvicorn"}
)
#: What each extra installs, by the names that are imported.
_EXTRAS = {"server": _SERVER, "demo": _SERVER | {"numpy"}}


def code_of(error: HubstateError) -> int:
    """The exit code of an error."""
    if isinstance(error, HubRefused) and error.credentials:
        return REFUSED_CREDENTIALS
    return USAGE if isinstance(error, UsageError | SessionNotFound) else NOT_DONE


def end(code: int) -> None:
    """Ends the command; with 0 it just goes on to its end."""
    if code:
        raise typer.Exit(code)


class Commands(TyperGroup):
    """The commands, with every error of hubstate's own told in one line."""

    def invoke(self, ctx: Any) -> Any:
        """Runs a command. What is left in the buffer of stdout is written here, where a closed pipe can be told."""
        from hubstate.cli.screen import say

        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except HubstateError as error:
            say(str(error))
            raise typer.Exit(code_of(error)) from error
        return result


@contextmanager
def extra(name: str) -> Iterator[None]:
    """What the block imports needs the extra `name`. Raises `UsageError` where a part of that is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _EXTRAS[name]:
            raise
        raise UsageError(
            f"this needs {missing}, which is not installed: pip install 'hubstate[{name}]'"
        ) from error
