"""The commands and their groups. Each module imports what it needs when its command runs, so that `--help` is quick."""

from __future__ import annotations

import inspect
from typing import Annotated

import typer

from hubstate.cli import (
    bring,
    check,
    demo,
    diagram,
    doctor,
    export,
    forget,
    hub,
    keep,
    login,
    run,
    show,
    simulate,
    status,
    sync,
    trace,
    verify,
)
from hubstate.cli.ends import Commands

__all__ = ["app"]

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        typer.echo(f"hubstate {version('hubstate')}")
        raise typer.Exit


@app.callback()
def hubstate(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Sessions of training runs: kept here first, delivered to a hub you own.

    Exit codes: 0 done, 1 not all done, 2 usage, 3 the hub refused the credentials.
    """


_START, _RUNS, _HUB, _HERE = "Start here", "Training runs", "The hub", "This installation"
_PROOF = "Proof"

app.command(rich_help_panel=_START)(demo.demo)
app.command(rich_help_panel=_START)(show.show)
app.command(rich_help_panel=_RUNS, context_settings=run.SETTINGS)(run.run)
app.command(rich_help_panel=_RUNS)(status.status)
app.command(rich_help_panel=_RUNS)(sync.sync)
app.command(rich_help_panel=_RUNS)(trace.trace)
app.command(rich_help_panel=_RUNS)(export.export)
app.command("import", rich_help_panel=_RUNS)(bring.bring)
app.command(rich_help_panel=_RUNS)(forget.forget)
app.command(rich_help_panel=_HUB)(login.login)
app.command(rich_help_panel=_HUB)(hub.serve)
app.add_typer(hub.keys, name="keys", rich_help_panel=_HUB)
app.command(rich_help_panel=_HUB)(keep.backup)
app.command(rich_help_panel=_HUB)(keep.restore)
app.command(rich_help_panel=_HERE)(doctor.doctor)
app.command(rich_help_panel=_HERE)(diagram.diagram)
app.command(rich_help_panel=_PROOF)(verify.verify)
app.command(rich_help_panel=_PROOF)(check.check)
app.command(rich_help_panel=_PROOF)(simulate.simulate)

# A paragraph is as wide as the terminal, and not as the lines in which it is written here.
for one in (*app.registered_commands, *hub.keys.registered_commands):
    paragraphs = (inspect.getdoc(one.callback) or "").split("\n\n")
    one.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
