"""Log lines go where the application wants them, and else to stderr."""

from __future__ import annotations

import subprocess
import sys

import pytest
import structlog
from structlog.testing import capture_logs

from hubstate.log import log


@pytest.fixture(autouse=True)
def _unconfigured() -> None:
    """No test before this one has set up the log: a command that ran in this process does."""
    structlog.reset_defaults()


def test_without_configuration_lines_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    """Stdout belongs to the user; the line names its room."""
    log("hubstate.sender").warning("hubstate.delivery_refused", key="S/1/open")
    out, err = capsys.readouterr()
    assert out == ""
    assert "hubstate.delivery_refused" in err
    assert "hubstate.sender" in err


def test_an_application_that_configured_structlog_gets_the_lines() -> None:
    """What the application set up is used as it is."""
    structlog.configure()
    try:
        with capture_logs() as lines:
            log("hubstate.sender").warning("hubstate.delivery_refused", key="S/1/open")
    finally:
        structlog.reset_defaults()
    assert [(line["event"], line["key"]) for line in lines] == [("hubstate.delivery_refused", "S/1/open")]


def test_nothing_heavy_is_loaded_before_it_is_needed() -> None:
    """`import hubstate` loads no other room; a session is open before `requests` and the log are loaded."""
    code = """
import sys
import hubstate
assert not {name for name in sys.modules if name.startswith("hubstate.")}, "the door loads rooms"
session = hubstate.start("digits", mode="offline")
session.log({"a": 1})
session.close()
heavy = {"requests", "structlog", "fastapi", "sqlalchemy", "numpy", "typer", "rich"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
