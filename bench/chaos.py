"""How long a training ever waits whose hub lies behind a chaos proxy, and whether all of it arrives.

    python bench/chaos.py [RUNS] [FIRST_SEED]

Each run trains for four epochs of five rows and a checkpoint of 200 kB, and every request of it passes a proxy that
does to eight of them what its seed says: connections that are reset, bodies and answers that are cut, acknowledgements
that get lost, requests that are swallowed or arrive when nobody waits any more, answers that drip, 429, 500, 503, and
pages of HTML. Time-outs and pauses are short (`tests/chaos/training.py`), so that a run takes two seconds. The hub is a
process of its own; the proxy's threads are in the process that trains, which makes its waits longer, not shorter.

A run counts if its session ends `done` and the hub then holds every row once, exactly as it was told, and checkpoints
that are byte for byte those that were saved; else the seed is printed, and the exit code is 1.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from pathlib import Path

from hub import serving
from measure import machine, percentile

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "chaos"))

from proxy import Fault, drawn
from training import ILLS, Told, told_of

from hubstate.states import State


def main() -> None:
    """So many runs, one after the other, as a table."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    first = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    told: list[Told] = []
    failed: dict[int, str] = {}
    with tempfile.TemporaryDirectory() as name, serving(Path(name, "hub")) as url:
        for seed in range(first, first + runs):
            folder = Path(name, str(seed))
            folder.mkdir()
            try:
                told.append(told_of(folder, url, drawn(seed, ILLS), seed))
            except AssertionError as failure:
                failed[seed] = str(failure) or "it is not as it should be"
    done = sum(run.state is State.DONE for run in told)
    met: Counter[Fault] = sum((run.met for run in told), Counter())
    print(f"{machine()}; seeds {first} to {first + runs - 1}\n")
    print("| what | |\n|---|---|")
    print(f"| runs that end `done` with exact rows and byte-identical checkpoints | {done} of {runs} |")
    print(f"| of them completed by a sync after `finish` | {sum(run.left > 0 for run in told)} |")
    print(f"| ills met | {met.total()} |")
    for what in ("start", "log", "save"):
        waits = [run.waited[what] * 1000 for run in told]
        print(
            f"| longest wait of the training thread in `{what}`, ms (median of the runs; longest of all) "
            f"| {percentile(waits, 0.5):.1f}; {max(waits):.1f} |"
        )
    print("\n" + ", ".join(f"{count} × {fault.value}" for fault, count in met.most_common()))
    for seed, why in failed.items():
        print(f"seed {seed}: {why}", file=sys.stderr)
    sys.exit(done < runs)


if __name__ == "__main__":
    main()
