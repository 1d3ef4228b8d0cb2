"""Wrong tables: the search knows no table, so a row that leads elsewhere or asks for less is found in what follows."""

from __future__ import annotations

import pytest

from hubstate.events import USAGE_EVENTS, RetryRefused
from hubstate.proof.check import QUICK, check
from hubstate.proof.model import Rig
from hubstate.states import State
from hubstate.testing.mutants import Mutant, facts_of, table_mutants


def is_reached(mutant: Mutant) -> bool:
    """Whether a session comes to the pair with the guards true: not to notes of usage before it begins, nor to a
    refused delivery when it is done."""
    usage = issubclass(mutant.event, USAGE_EVENTS) and mutant.state is State.IDLE
    return not usage and not (mutant.event is RetryRefused and mutant.state is State.DONE)


def leads_elsewhere(mutant: Mutant) -> bool:
    """Whether a row goes to another state than the table says, in a way that can be told apart."""
    before, after = mutant.before, mutant.after
    moved = len(before) == len(after) and [row.target for row in before] != [row.target for row in after]
    return moved and facts_of(mutant) is None


#: One of sixteen: all of them take minutes.
SOME = [mutant for mutant in table_mutants() if leads_elsewhere(mutant) and is_reached(mutant)][::16]


@pytest.mark.parametrize("mutant", SOME, ids=[mutant.name for mutant in SOME])
def test_a_row_that_leads_elsewhere_is_found(mutant: Mutant) -> None:
    """The search finds a way on which a session goes where the specification does not lead."""
    failed = check(QUICK, rig=Rig(decide=mutant.decide)).failed
    assert failed is not None
    assert failed.violated is not None
    assert failed.violated.name[0] in "SL"
