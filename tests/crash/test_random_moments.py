"""Killed at a random moment of each of its phases, a small run loses nothing, doubles nothing, mixes nothing.

The moments lie anywhere, in the middle of a computation or of a call, and are of the clock: an alarm ends the process
within the phase, a random while after its beginning. What such a while may be was measured in a run that nobody
killed. 50 deaths in each of the six phases, and a line for each:

    scripts/long tests/crash/test_random_moments.py -s
"""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import tracing
from aftermath import Aftermath
from killer import killer
from small_run import PHASES

from hubstate.server.running import running

#: After how many calls a run is killed whose sync is to be killed as well.
BEFORE_SYNC = range(60, 200)

HINDERED = tracing.why_not()
pytestmark = pytest.mark.skipif(bool(HINDERED), reason=HINDERED or "can be traced")


def lasting(run: Aftermath) -> dict[str, list[float]]:
    """How long each phase lasted, each time that it came, in seconds."""
    lasted: dict[str, list[float]] = {}
    for (phase, begun), (_, ended) in pairwise(run.matters("phase")):
        lasted.setdefault(phase, []).append(ended - begun)
    return lasted


@pytest.mark.promise("D23")
@pytest.mark.parametrize("deaths", [8, pytest.param(50, marks=pytest.mark.long)])
@pytest.mark.parametrize("phase", PHASES)
def test_killed_at_random_moments(tmp_path: Path, phase: str, deaths: int) -> None:
    """Whenever in this phase it dies, nothing acknowledged is lost, nothing counts twice, and no file is mixed."""
    chance = random.Random(phase)
    what = "sync" if phase == "sync" else "train"
    with running(tmp_path / "hub") as hub, killer() as deadly:

        def begun(name: str) -> Aftermath:
            run = Aftermath(deadly, tmp_path / name, hub.url)
            if phase == "sync":
                run.run("train", kill_at=chance.choice(BEFORE_SYNC))
            return run

        measured = begun("measured")
        measured.run(what)
        whiles = lasting(measured)[phase]
        measured.remove()
        died: Counter[str] = Counter()
        tries = 0
        while died.total() < deaths:
            tries += 1
            run = begun(f"{tries}")
            nth = chance.randrange(len(whiles))
            seconds = max(1e-6, chance.uniform(0.0, whiles[nth]))
            if run.run(what, phase=phase, nth=nth + 1, seconds=seconds)["killed"]:
                died[run.matters("phase")[-1][0]] += 1
            else:
                whiles[nth] *= 0.9  # it lasted less this time
            if chance.random() < 0.5:
                run.check_synced()
            run.check_finished()
            run.remove()
    print(f"\n{phase}: killed {died.total()} times in {tries} runs, in the phase", dict(died))
