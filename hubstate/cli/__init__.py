"""The command line: parse, call, print. What the commands do lives in the rooms below."""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """The command `hubstate`. It ends the process with one of the exit codes that `ends` names."""
    from hubstate.cli.app import app

    app(prog_name="hubstate")
