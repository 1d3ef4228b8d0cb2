"""The examples of the guides, run as they stand there: as a process of their own, against a real hub on loopback."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import requests
from children import PYTHON, ended, only_session, script

from hubstate.overview import look
from hubstate.server.running import running
from hubstate.session import Session
from hubstate.states import Outcome, State

__all__ = [
    "AtHub",
    "at_hub",
    "broken",
    "example",
    "guide_hub",
    "holds_all",
    "holds_what_was",
    "press_stop",
    "ran",
]

_GUIDES = Path(__file__).parents[3] / "docs" / "trainers"
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
#: How long an example is at most, so that it can be taken in at a glance (lines).
_LONGEST = 25
#: Trainers take long to import where many other things run (seconds).
_HANGS = 600


def example(page: str, place: int = 0) -> str:
    """The example of a page, or that of its `place`."""
    code = _BLOCK.findall((_GUIDES / f"{page}.md").read_text("utf-8"))[place]
    assert len(code.splitlines()) <= _LONGEST
    assert isinstance(code, str)
    return code


def broken(code: str, *changes: tuple[str, str]) -> str:
    """The example with some texts, which it holds once each, replaced."""
    for text, other in changes:
        assert code.count(text) == 1, f"the example holds {text!r} not once"
        code = code.replace(text, other)
    return code


def ran(code: str) -> CompletedProcess[str]:
    """A script in the working directory that came to its end."""
    return ended([PYTHON, script(code)], hangs=_HANGS)


@contextmanager
def guide_hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A hub on loopback, which the processes of a test find by their environment."""
    with running(folder / "hub") as hub:
        monkeypatch.setenv("HUBSTATE_HUB", hub.url)
        yield hub.url


def press_stop(session: Session) -> None:
    """Presses stop on the session's page, from within the training, and waits until the session has heard of it."""
    with requests.Session() as http:
        http.trust_env = False
        assert session.flush(30.0)
        http.post(f"{session.url}/stop", timeout=30).raise_for_status()
    # The wish comes with an answer: something has to be sent.
    for step in range(100):
        session.log({"pressed": 1.0}, epoch=0, step=step)
        session.flush(30.0)
        if session.stop_requested:
            return
    raise AssertionError("the session never heard of the wish to stop")


@dataclass(frozen=True)
class AtHub:
    """What a hub holds of the only session that was trained here."""

    state: str
    outcome: str
    rows: list[dict[str, Any]]
    #: The newest file of each kind.
    files: dict[str, bytes]


def at_hub(url: str) -> AtHub:
    """Asks the hub for everything.

    A training that breaks off waits 3 s for the hub. Where the machine has more to do than that, `sync` delivers the rest.
    """
    session = only_session().name
    receipt = look(only_session()).receipt
    if receipt.state is State.ABORTED and receipt.waiting:
        process = ended([PYTHON, "-m", "hubstate", "sync"], hangs=_HANGS)
        assert process.returncode == 0, process.stderr
    with requests.Session() as http:
        http.trust_env = False
        told = http.get(f"{url}/v1/models/{session}", timeout=30).json()["data"]
        rows = http.get(f"{url}/v1/models/{session}/metrics", timeout=30).json()["data"]
        files = {file["kind"]: http.get(file["url"], timeout=30) for file in told["checkpoints"]}
    for file in files.values():
        assert file.status_code == 200, file.text
    return AtHub(told["state"], told["outcome"], rows, {kind: file.content for kind, file in files.items()})


def holds_all(url: str, *, epochs: int, names: set[str], final: str) -> None:
    """The hub holds a training that came to its end: each epoch's row once, and the final file byte for byte."""
    held = at_hub(url)
    assert (held.state, held.outcome) == (State.DONE.value, Outcome.FINISHED.value)
    assert [(row["epoch"], row["step"], row["final"]) for row in held.rows] == [
        (epoch, None, False) for epoch in range(epochs)
    ]
    assert all(set(row["metrics"]) == names for row in held.rows)
    assert sha256(held.files["final"]).digest() == sha256(Path(final).read_bytes()).digest()


def holds_what_was(url: str, *, epochs: int, reason: str, outcome: Outcome = Outcome.FAILED) -> None:
    """The hub and this machine tell of a training that broke off: its rows so far, and why."""
    held = at_hub(url)
    assert (held.state, held.outcome) == (State.ABORTED.value, outcome.value)
    assert [row["epoch"] for row in held.rows] == list(range(epochs))
    receipt = look(only_session()).receipt
    assert (receipt.state, receipt.outcome, receipt.reason) == (State.ABORTED, outcome, reason)
