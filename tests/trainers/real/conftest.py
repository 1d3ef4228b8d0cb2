"""What every training of a real trainer needs here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(autouse=True, scope="session")
def _what_every_process_finds() -> Iterator[None]:
    """Where `press_stop` is found; and threads that sleep while they wait for each other.

    Those that spin are slow beyond measure where a machine has more to do.
    """
    here = Path(__file__).parent
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(here), str(here.parents[1])]))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("OMP_WAIT_POLICY", "passive")
        yield
