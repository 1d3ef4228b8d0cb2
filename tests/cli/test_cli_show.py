"""`hubstate show`: the pages over this machine's sessions, from the command line to Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
from command import EXECUTABLE, run, trained
from loopback import refused_port


@contextmanager
def shown(*arguments: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The command at work, and the address that it printed."""
    process = subprocess.Popen(
        [EXECUTABLE, "show", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    with process:
        try:
            yield process.stdout.readline().strip(), process
        finally:
            process.kill()


def temporary() -> list[Path]:
    return list(Path(os.environ["HOME"], "tmp").glob("hubstate-show-*"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_sessions_are_shown_until_it_is_ended(number, monkeypatch):
    """The address stands alone on stdout; the page is there without a key; Ctrl-C and SIGTERM leave nothing behind."""
    monkeypatch.setenv("TMPDIR", str(Path(os.environ["HOME"], "tmp")))
    session = trained()
    with shown() as (address, process):
        answer = requests.get(f"{address}/models/{session}", timeout=30)
        assert answer.status_code == 200
        assert "digits" in answer.text
        assert len(temporary()) == 1
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "")
    assert "until Ctrl-C" in err
    assert "Traceback" not in err
    assert temporary() == []


def test_one_session_can_be_named():
    """With a session its page's address is printed; one that is unknown is a mistake."""
    session = trained()
    with shown("digits") as (address, _process):
        assert address.endswith(f"/models/{session}")
        assert requests.get(address, timeout=30).status_code == 200
    assert "no session" in run("show", "nobody", code=2).stderr


def test_a_session_in_a_folder_with_a_name_of_its_own_can_be_named():
    """Where somebody renamed the folder, the address that is printed is that of its page all the same."""
    session = trained()
    Path(".hubstate", session).rename(Path(".hubstate", "my best run (old)"))
    with shown("digits") as (address, _process):
        assert "digits" in requests.get(address, timeout=30).text


def test_a_directory_is_looked_into_alone(tmp_path):
    """`--directory` shows what lies there; one that is not there is a mistake."""
    trained()
    with shown("--directory", str(tmp_path)) as (address, _process):
        assert requests.get(f"{address}/v1/models", timeout=30).json()["data"]["results"] == []
    assert "no directory" in run("show", "--directory", tmp_path / "no", code=2).stderr


def test_a_port_can_be_chosen():
    """The pages answer at the port that is named; one that is taken is told in one line."""
    port = refused_port()
    with shown("--port", str(port)) as (address, _process):
        assert address == f"http://127.0.0.1:{port}"
        assert "--port" in run("show", "--port", str(port), code=2).stderr
