"""What others wrote steers no terminal, wherever it is shown."""

from __future__ import annotations

import errno
import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

import hubstate
from hubstate.cli.log import configure_log
from hubstate.log import log
from hubstate.plain import clean, clean_lines, say
from hubstate.progress import Show

#: A name that clears the screen, colours what follows, and begins a line of its own.
NAME = "e\x1b[2J\x9b31m\r\n\u202eevil"
MARK = "\N{REPLACEMENT CHARACTER}"


def steers(text: str) -> bool:
    """Whether a text holds more than lines of letters."""
    return not all(line.isprintable() for line in text.split("\n"))


@pytest.fixture(autouse=True)
def _unconfigured() -> Iterator[None]:
    """The log is as an application finds it that configures none."""
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()


def test_letters_that_steer_are_marked() -> None:
    """What is left is one line in which a mark stands for each of them."""
    assert clean(NAME) == f"e{MARK}[2J{MARK}31m {MARK}evil"
    assert clean(" a\t b\n") == "a b"
    assert clean_lines("\n  a  b\x1b\nc\r") == f"\n  a  b{MARK}\nc{MARK}"


@given(st.text())
def test_no_text_steers(text: str) -> None:
    """Whatever the text is, nothing in it steers; a plain line is left as it is."""
    assert clean(text).isprintable()
    assert not steers(clean_lines(text))
    assert clean_lines(clean(text)) == clean(clean(text)) == clean(text)


def test_a_message_is_one_plain_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    """A message for people leaves stdout alone."""
    say(f"about {NAME}")
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"hubstate: about {clean(NAME)}\n"


class Hung(io.StringIO):
    """A stream whose reader is gone."""

    def write(self, _text: str) -> int:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


class Strict(io.StringIO):
    """A stream that is closed already."""

    def __init__(self) -> None:
        super().__init__()
        self.close()


@pytest.mark.parametrize("stderr", [None, Hung(), Strict()], ids=["none", "broken pipe", "closed"])
def test_a_stderr_that_is_dead_ends_no_training(
    stderr: io.StringIO | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Messages and the log are lost then, stdout is left alone, and the session records and ends as ever."""
    Path("torn.pt").write_bytes(b"PK\x03\x04 half an archive")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stderr)
        session = hubstate.start("digits", mode="offline")
        session.log({"a": 1})
        session.save("torn.pt")  # logged as a warning
        receipt = session.finish()
        configure_log()
        log("hubstate.sender").warning("hubstate.delivery_refused", reason="none", status=400)
    assert (receipt.rows, receipt.outcome) == (1, hubstate.Outcome.FINISHED)
    assert capsys.readouterr().out == ""


def test_a_session_prints_its_name_and_reason_plainly(capsys: pytest.CaptureFixture[str]) -> None:
    """What a session says by itself, and its receipt, can be shown whatever it was called and why it ended."""
    with pytest.raises(ValueError, match="evil"), hubstate.start(NAME) as session:
        raise ValueError(NAME)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "kept in" in said
    text = str(session.receipt)
    assert "evil" in text
    assert not steers(said + text)


def test_the_log_of_an_application_that_configured_none_is_plain(capsys: pytest.CaptureFixture[str]) -> None:
    """A reason that a hub gave comes from outside, and is logged as one plain line."""
    log("hubstate.sender").warning("hubstate.delivery_refused", reason=NAME, status=400)
    err = capsys.readouterr().err
    # Colours are the log's own, where it uses any.
    assert clean(NAME) in err
    assert "\x1b[2J" not in err
    assert err.count("\n") == 1


def test_the_log_of_the_command_line_is_plain(capsys: pytest.CaptureFixture[str]) -> None:
    """So is it there; numbers are left as they are."""
    configure_log()
    log("hubstate.sender").warning("hubstate.delivery_refused", reason=NAME, status=400)
    err = capsys.readouterr().err
    assert clean(NAME) in err
    assert "status=400" in err
    assert not steers(err)


def test_what_the_demo_shows_is_plain() -> None:
    """A reason that a hub gave is shown among the demo's own lines, whose breaks are kept."""
    out = io.StringIO()
    show = Show(out)
    show.say(f"\n{NAME}")
    show.fact("at the hub", NAME)
    assert out.getvalue().startswith("\n")
    assert not steers(out.getvalue())
    assert clean(NAME) in out.getvalue()


def test_no_command_is_steered_by_a_name() -> None:
    """A session may be called anything, and every command that tells of it stays readable."""
    session = hubstate.start(NAME)
    session.log({NAME: 1.0})
    session.abort(NAME)
    for words in (
        ("status",),
        ("status", session.id),
        ("trace", session.id),
        ("sync",),
        ("doctor",),
        ("forget", "--yes", session.id),
        ("diagram", "--session", session.id),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "hubstate", *words], capture_output=True, text=True, check=False
        )
        shown = done.stdout + done.stderr
        assert shown.strip(), words
        assert not steers(shown), words
    assert Path(".hubstate", session.id).is_dir()
