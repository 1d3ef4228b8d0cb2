"""Every test lives in a world of its own: its own home, its own working directory, no setting of whoever runs it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _own_world(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes what belongs to this user, and none sees another's sessions."""
    home = tmp_path_factory.mktemp("home")
    for name in list(os.environ):
        if name.startswith("HUBSTATE_") or name in ("RANK", "LOCAL_RANK", "NO_COLOR", "FORCE_COLOR"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    for name in ("CONFIG", "DATA", "CACHE", "STATE"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(home / name.lower()))
    work = Path(home, "work")
    work.mkdir()
    monkeypatch.chdir(work)
