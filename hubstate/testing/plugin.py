"""The pytest plugin: fixtures for tests of code that uses hubstate. It is loaded in every run of pytest.

So it imports nothing but pytest; hubstate is imported when a fixture is asked for. Each test has a world of its own:
`hubstate_clock` stands still until it is moved, `hubstate_hub` holds what arrives in plain sight, and a session that
`hubstate_start` opens delivers in this thread, when somebody waits for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from hubstate.session import Session
    from hubstate.testing.clock import FakeClock
    from hubstate.testing.hub import FakeHub

__all__ = ["hubstate_clock", "hubstate_directory", "hubstate_hub", "hubstate_session", "hubstate_start"]


@pytest.fixture
def hubstate_directory(tmp_path: Path) -> Path:
    """Where this test's sessions are kept."""
    return tmp_path / "hubstate"


@pytest.fixture
def hubstate_clock() -> FakeClock:
    """A clock that stands still until `advance` or `jump` moves it, or somebody waits on it."""
    from hubstate.testing.clock import FakeClock  # noqa: PLC0415 - only for who asks

    return FakeClock()


@pytest.fixture
def hubstate_hub(hubstate_clock: FakeClock) -> FakeHub:
    """A hub in memory, with faults on demand (`fault`, `outage`)."""
    from hubstate.testing.hub import FakeHub  # noqa: PLC0415 - only for who asks

    return FakeHub(hubstate_clock)


@pytest.fixture
def hubstate_start(
    hubstate_directory: Path, hubstate_clock: FakeClock, hubstate_hub: FakeHub
) -> Iterator[Callable[..., Session]]:
    """Opens sessions as `hubstate.start` does, under this test's clock and towards its hub; they are closed behind it."""
    from hubstate.testing.one_thread import open_session  # noqa: PLC0415 - only for who asks

    opened: list[Session] = []

    def start(name: str = "test", **wish: object) -> Session:
        wish.setdefault("seed", len(opened))  # the clock stands still, so chance alone tells their ids apart
        opened.append(open_session(name, hubstate_directory, hubstate_clock, hubstate_hub, **wish))  # type: ignore[arg-type]
        return opened[-1]

    yield start
    for session in opened:
        session.close()


@pytest.fixture
def hubstate_session(hubstate_start: Callable[..., Session]) -> Session:
    """An open session of this test, towards `hubstate_hub`."""
    return hubstate_start()
