"""`hubstate login`: keeps a hub and its key for this user."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

__all__ = ["login"]


def login(
    hub: Annotated[
        str, typer.Argument(metavar="HUB", help="the hub's address, such as http://127.0.0.1:8765")
    ],
    *,
    no_check: Annotated[
        bool, typer.Option("--no-check", help="keep them without asking the hub, which may be away")
    ] = False,
) -> None:
    """Keep a hub and its key for this user, in a file only they can read.

    The key is asked for without an echo; from a pipe it is read as one line. It is never an argument.
    """
    from hubstate import settings
    from hubstate.cli.screen import say
    from hubstate.hubs import open_hub
    from hubstate.sync import asked

    address = settings.resolve(hub=hub, environment={}).hub
    assert address is not None
    found = settings.resolve(hub=address, api_key=_key(address), environment={})
    assert found.api_key is not None
    if not no_check:
        place = open_hub(address, found.api_key, beside=True)
        try:
            asked(place)
        finally:
            place.close()
    kept = settings.remember_login(address, found.api_key)
    say(
        f"{address} and its key are kept in {kept}"
        + (", unchecked" if no_check else "; the hub accepts the key")
    )


def _key(address: str) -> str:
    """The key, from the person at the terminal or from a pipe."""
    from getpass import getpass

    from hubstate.errors import UsageError

    if sys.stdin.isatty():
        key = getpass(f"API key for {address} (it is not shown): ", stream=sys.stderr)
    else:
        key = sys.stdin.readline()
    if not key.strip():
        raise UsageError("no key was given; nothing was kept")
    return key.strip()
