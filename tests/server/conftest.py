"""A hub for each test: the real server on loopback, over a folder of its own, with a clock that the test moves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_client import Client

from hubstate.clock import VirtualClock
from hubstate.server.running import RunningHub, running


@pytest.fixture
def clock() -> VirtualClock:
    """The hub's clock."""
    return VirtualClock()


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """The hub's folder."""
    return tmp_path / "hub"


@pytest.fixture
def hub(data_dir: Path, clock: VirtualClock) -> Iterator[RunningHub]:
    """A running hub without any key."""
    with running(data_dir, wall=clock.wall) as hub:
        yield hub


@pytest.fixture
def client(hub: RunningHub) -> Iterator[Client]:
    """A client of that hub."""
    client = Client(hub.url)
    yield client
    client.http.close()
