"""What the tests of several trainer modules need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import hubstate.trainers.link
from hubstate.session import Session


@pytest.fixture
def sessions(hubstate_start: Callable[..., Session], monkeypatch: pytest.MonkeyPatch) -> list[Session]:
    """Every session that a trainer module opens, in order; each delivers in this thread, to `hubstate_hub`."""
    opened: list[Session] = []

    def start(
        name: str,
        *,
        mode: str | None = None,
        hub: str | None = None,
        api_key: str | None = None,
        project: str | None = None,
        group: str | None = None,
        directory: str | None = None,
        **wish: Any,
    ) -> Session:
        opened.append(hubstate_start(name, mode=mode or "on", **wish))
        return opened[-1]

    monkeypatch.setattr(hubstate.trainers.link, "start", start)
    return opened
