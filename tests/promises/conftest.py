"""What a promise is shown with: a real hub, and a scene before it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from scene import Scene

from hubstate.server.running import running


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """A hub of one's own on loopback, the wire to it, and a folder for sessions."""
    with running(tmp_path / "hub") as hub:
        scene = Scene(tmp_path / "sessions", hub)
        yield scene
        scene.close()
