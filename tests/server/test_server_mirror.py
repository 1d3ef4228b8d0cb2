"""A hub that only shows: it looks like any other, and takes nothing from anybody."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

import hubstate
from hubstate.server.mirror import Mirror
from hubstate.server.running import RunningHub, running


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[RunningHub]:
    """A running hub that only shows."""
    with running(tmp_path / "hub", make_store=Mirror) as hub:
        yield hub


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
@pytest.mark.parametrize(
    "path", ["/v1/models", "//v1/models", "/api/webhooks/training/metrics", "/login", "/nowhere"]
)
def test_every_request_that_is_no_look_is_refused(mirror: RunningHub, method: str, path: str) -> None:
    """Whatever its path, the answer is 405 in JSON, told in words, and names what is allowed."""
    answer = requests.request(method, mirror.url + path, data=b"x" * 100_000, timeout=30)
    assert answer.status_code == 405
    assert answer.headers["Allow"] == "GET, HEAD"
    assert answer.json()["error"] == "read_only"


def test_looking_is_allowed(mirror: RunningHub) -> None:
    """Pages and lists answer as those of any hub."""
    assert requests.get(mirror.url, timeout=30).status_code == 200
    assert requests.get(f"{mirror.url}/v1/models", timeout=30).json()["data"]["results"] == []


def test_a_training_keeps_everything_that_a_mirror_refuses(mirror: RunningHub) -> None:
    """A client whose hub is only a mirror is never told that something was delivered: all of it waits here."""
    session = hubstate.start("digits", hub=mirror.url)
    session.log({"loss": 1.0})
    receipt = session.finish(timeout=3.0)
    assert (receipt.rows, receipt.rows_delivered, receipt.rows_waiting) == (1, 0, 1)
    assert any(known.name in ("hub_failing", "offline") for known in receipt.conditions)
