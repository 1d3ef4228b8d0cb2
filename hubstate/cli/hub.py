"""`hubstate serve` and `hubstate keys`: the hub one owns, and who may talk to it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hubstate.cli.ends import Commands, extra

__all__ = ["DataDir", "data_dir_of", "keys", "serve"]

DataDir = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="where the hub keeps its data", show_default="hub/ in the user's data folder"
    ),
]


def serve(
    *,
    host: Annotated[str, typer.Option(help="the address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="the port; 0 takes a free one", min=0, max=65535)] = 8765,
    data_dir: DataDir = None,
    public_url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="how others reach it, if that is not the address it listens on"),
    ] = None,
    heartbeat: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="how often a training shall give a sign of life, and so hear of a wish to stop",
            show_default="the training's own, 300",
            min=5,
            max=300,
        ),
    ] = None,
    rate_limit: Annotated[
        int | None,
        typer.Option(metavar="N", help="requests a minute of one key", show_default="1000000", min=1),
    ] = None,
    keep_console: Annotated[
        bool, typer.Option("--keep-console", help="keep what trainings print, where Ultralytics sends it")
    ] = False,
    keep_host: Annotated[
        bool,
        typer.Option(
            "--keep-host",
            help="keep command line, host name, Python's path and git remote, where Ultralytics sends them",
        ),
    ] = False,
    keep_days: Annotated[
        float | None,
        typer.Option(
            metavar="DAYS", help="remove a session so long after its end", show_default="keep it", min=0
        ),
    ] = None,
    keep_last_days: Annotated[
        float | None,
        typer.Option(
            metavar="DAYS",
            help="so long after its end, remove the checkpoint to go on from; best and final stay",
            show_default="keep it",
            min=0,
        ),
    ] = None,
    notify: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="a webhook that is told of each session that is done, aborted or silent",
            envvar="HUBSTATE_NOTIFY",
            show_envvar=True,
        ),
    ] = None,
    grace: Annotated[
        float,
        typer.Option(metavar="SECONDS", help="how long a stop waits for uploads under way", min=0),
    ] = 30,
) -> None:
    """Run the hub you own: API, web pages, files. Ctrl-C ends it."""
    from hubstate.cli.log import configure_log
    from hubstate.cli.screen import say

    configure_log()
    with extra("server"):
        from hubstate.server.running import serve as run
        from hubstate.server.terms import RATE_LIMIT, Terms
    terms = Terms(
        heartbeat,
        rate_limit or RATE_LIMIT,
        console=keep_console,
        host=keep_host,
        grace=grace,
        keep_days=keep_days,
        keep_last_days=keep_last_days,
        notify=notify,
    )
    run(data_dir_of(data_dir), host=host, port=port, public_url=public_url, announce=say, terms=terms)


keys = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    help="Make, list and revoke the API keys of the hub you own.",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@keys.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="what to call it")] = "default",
    *,
    owner: Annotated[
        str,
        typer.Option(metavar="OWNER", help="whose it is: an owner sees the sessions of their own keys alone"),
    ] = "default",
    data_dir: DataDir = None,
) -> None:
    """Make a key, and print it: once, alone on stdout."""
    from hubstate.cli.screen import Screen, say

    with extra("server"):
        from hubstate.server import keys as room
    Screen().line(room.create(data_dir_of(data_dir), name, owner=owner))
    say(
        f"this is the key {name!r}; it is kept as a hash and cannot be shown again: `hubstate login HUB` takes it"
    )


@keys.command("list")
def list_keys(*, data_dir: DataDir = None) -> None:
    """List the keys by name; never the keys themselves."""
    from hubstate.cli.screen import Cell, Screen, clean, local, say, table

    with extra("server"):
        from hubstate.server import keys as room
    known = room.listed(data_dir_of(data_dir))
    if not known:
        say("this hub has no key yet: `hubstate keys create NAME` makes one")
        return
    screen = Screen()
    rows = [
        (
            Cell(clean(key.name), "bold"),
            Cell(clean(key.owner)),
            Cell(local(key.created_at)),
            Cell("valid", "green")
            if key.revoked_at is None
            else Cell(f"revoked {local(key.revoked_at)}", "dim"),
        )
        for key in known
    ]
    for line in table(screen, ("NAME", "OWNER", "CREATED", "STATE"), rows):
        screen.line(line)


@keys.command()
def revoke(
    name: Annotated[str, typer.Argument(metavar="NAME", help="the key's name")], *, data_dir: DataDir = None
) -> None:
    """End a key at once. What it sent stays."""
    from hubstate.cli.screen import say

    with extra("server"):
        from hubstate.server import keys as room
    room.revoke(data_dir_of(data_dir), name)
    say(f"the key {name!r} is revoked")


def data_dir_of(given: Path | None) -> Path:
    """The folder of the hub: the given one, else this user's own."""
    from hubstate import settings

    return settings.data_folder() / "hub" if given is None else given
