"""Whatever a network does to its requests, a training ends `done`, with every row once and every file byte by byte.

What is drawn from a seed is drawn again by it, so a seed that fails says what to look for. The figures of 200 seeds,
with the longest time that the training thread ever waited, are printed by `python bench/chaos.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from proxy import ChaosProxy, Fault, Ill, drawn
from training import ILLS, told_of

from hubstate.hubs.base import Accepted, Delayed
from hubstate.hubs.hub_v1 import HubV1
from hubstate.server.running import running
from hubstate.states import State

SEEDS = 20


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running(tmp_path_factory.mktemp("hub")) as well:
        yield well.url


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_training_behind_chaos_ends_done_and_whole(hub: str, tmp_path: Path, seed: int) -> None:
    """Behind eight ills in any order it ends `done`, and the hub holds exactly what was told."""
    told = told_of(tmp_path, hub, drawn(seed, ILLS), seed)
    assert told.state is State.DONE
    assert told.met.total() > 0


@pytest.mark.parametrize("fault", Fault)
def test_a_training_ends_done_and_whole_behind_one_ill_alone(hub: str, tmp_path: Path, fault: Fault) -> None:
    """Every third request of a whole training meets the same ill, in all its ways, and nothing is lost or doubled."""
    ways = [Ill(fault, share, arrives) for share, arrives in itertools.product((0.1, 0.9), (True, False))]
    ills = [one for way in ways for one in (None, None, way)]
    told = told_of(tmp_path, hub, ills, seed=1)
    assert told.state is State.DONE
    assert told.met.keys() == {fault}


@pytest.mark.parametrize(
    ("ill", "reason"),
    [
        (Ill(Fault.RESET), "closed the connection"),
        (Ill(Fault.RESET_IN_REQUEST), "closed the connection"),
        (Ill(Fault.RESET_IN_ANSWER), "closed the connection"),
        (Ill(Fault.ACKNOWLEDGEMENT_LOST), "closed the connection"),
        (Ill(Fault.BLACK_HOLE), "no answer"),
        (Ill(Fault.LATE), "no answer"),
        (Ill(Fault.DRIP), "no whole answer"),
        (Ill(Fault.TOO_MANY), "asks for a pause"),
        (Ill(Fault.TOO_MANY, pauses=True), "asks for a pause"),
        (Ill(Fault.ERROR, arrives=True), "answered 500"),
        (Ill(Fault.UNAVAILABLE, at_once=True), "answered 503"),
        (Ill(Fault.PAGE), "without a JSON object"),
    ],
)
def test_an_ill_is_what_its_name_says(hub: str, ill: Ill, reason: str) -> None:
    """A client hears of each ill as of the real one, and the request behind it passes."""
    with ChaosProxy(hub, [ill]) as proxy:
        client = HubV1(proxy.url, None, connect_timeout=5.0, read_timeout=0.3, total_timeout=0.6)
        heard = client.check()
        assert isinstance(heard, Delayed)
        assert reason in heard.reason
        assert heard.retry_after == (1.0 if ill.pauses else None)
        assert isinstance(client.check(), Accepted)
        client.close()
    assert proxy.met == {ill.fault: 1}


def test_a_slow_answer_is_an_answer(hub: str) -> None:
    """What comes byte by byte and comes to its end within the deadline counts."""
    with ChaosProxy(hub, [Ill(Fault.SLOW)]) as proxy:
        client = HubV1(proxy.url, None)
        assert isinstance(client.check(), Accepted)
        client.close()


def test_a_seed_draws_the_same_again() -> None:
    """A seed names a whole story of ills; other seeds tell others, and together they hold every ill there is."""
    stories = [tuple(drawn(seed, ILLS)) for seed in range(SEEDS)]
    assert stories == [tuple(drawn(seed, ILLS)) for seed in range(SEEDS)]
    assert len(set(stories)) == SEEDS
    assert {ill.fault for story in stories for ill in story if ill is not None} == set(Fault)
    assert all(sum(ill is not None for ill in story) == ILLS for story in stories)
