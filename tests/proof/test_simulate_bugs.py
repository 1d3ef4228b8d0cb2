"""The simulation bites: each mistake that is planted in the journal, the outbox or the sender is found by a seed."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import pytest
from broken_parts import BROKEN, RARE, planted

from hubstate.proof import simulate
from hubstate.proof.simulate import run

#: Within so many seeds each has to be found.
SEEDS = 300
_remove = shutil.rmtree


@pytest.fixture(autouse=True)
def _journals_of_broken_parts_are_no_evidence(monkeypatch):
    """What a broken part wrote goes without being judged: it may be anything."""
    monkeypatch.setattr(simulate, "shutil", SimpleNamespace(rmtree=_remove))


def found(plant) -> bool:
    """Whether a seed finds the mistake."""
    with planted(plant):
        return any(run(seed).failure for seed in range(SEEDS))


@pytest.mark.parametrize("name", BROKEN)
def test_a_planted_mistake_is_found(name):
    """A mistake in the journal, the outbox or the sender makes a world fail within 300 seeds."""
    assert found(BROKEN[name])


@pytest.mark.long
@pytest.mark.parametrize("name", RARE)
def test_a_mistake_that_needs_its_moment_is_found(name):
    """A mistake that only a fault at the right moment shows is found within 300 seeds too."""
    assert found(RARE[name])
