"""The simulation bites: each mistake that is planted in the journal, the outbox or the sender is found by a seed."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import pytest
from broken_parts import BROKEN, SEEN_BY, planted

from hubstate.proof import simulate
from hubstate.proof.simulate import run

#: Within so many seeds each has to be found.
SEEDS = 300
_remove = shutil.rmtree


@pytest.fixture(autouse=True)
def _journals_of_broken_parts_are_no_evidence(monkeypatch):
    """What a broken part wrote goes without being judged: it may be anything."""
    monkeypatch.setattr(simulate, "shutil", SimpleNamespace(rmtree=_remove))


@pytest.mark.parametrize("name", BROKEN)
def test_a_planted_mistake_is_found(name):
    """A mistake in the journal, the outbox or the sender makes a world fail within 300 seeds."""
    seeds = dict.fromkeys((SEEN_BY.get(name, 0), *range(SEEDS)))  # the one that found it last goes first
    with planted(BROKEN[name]):
        finder = next((seed for seed in seeds if run(seed).failure), None)
    print(f"{name} was found by seed {finder}")
    assert finder is not None
