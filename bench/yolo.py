"""What hubstate takes of a tiny training with Ultralytics, on the thread that trains.

    .venv-trainers/bin/python bench/yolo.py [RUNS]

The example of the guide (3 epochs, 8 pictures of 64x64 pixels, on the CPU) against a hub in a process of its own. Every hook is
timed. What copies checkpoints (`on_model_save`, and `best.pt` at the end) is told apart: it depends on the file and the disk.
It needs what `scripts/trainers` installs.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hub import serving
from measure import machine, run_as, spread

ROOT = Path(__file__).parents[1]
STUB = ROOT / "tests" / "trainers" / "real" / "torchvision_stub"
#: Hooks that copy files, or wait for the hub after the training.
FILES = ("on_model_save", "_name_final", "finish")


def example() -> str:
    page = (ROOT / "docs" / "trainers" / "ultralytics.md").read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)[0]


def one() -> dict[str, Any]:
    """One run in this process: ms in each hook by call, and of `train` as a whole."""
    from hubstate.trainers.ultralytics import HOOKS, HubstateCallbacks

    spent: dict[str, list[float]] = defaultdict(list)

    def timed(name: str, hook: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **named: Any) -> Any:
            began = time.perf_counter()
            try:
                return hook(*arguments, **named)
            finally:
                spent[name].append((time.perf_counter() - began) * 1e3)

        run.__name__ = name
        return run

    for name in (*HOOKS, *FILES[1:], "_about", "_train"):
        setattr(HubstateCallbacks, name, timed(name, getattr(HubstateCallbacks, name)))
    exec(compile(example(), "example", "exec"), {"__name__": "__main__"})
    return dict(spent)


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    shares, with_files, epochs, about, whole = [], [], [], [], []
    for _ in range(runs):
        spent = _run()
        train = sum(spent["_train"])
        hooks = sum(sum(times) for name, times in spent.items() if name.startswith(("on_", "teardown")))
        files = sum(sum(spent.get(name, [])) for name in FILES)
        whole.append(train / 1e3)
        shares.append(100 * (hooks - files) / train)
        with_files.append(100 * (hooks - sum(spent["finish"])) / train)
        about += spent["_about"]
        batches, rows = spent["on_train_batch_end"], spent["on_fit_epoch_end"]
        begun = spent["on_train_epoch_start"]
        epochs.append(statistics.median(map(sum, zip(batches, rows, begun, strict=False))))
    print(f"{machine()}; {runs} runs in processes of their own; median (min to max)\n")
    print("| what | |\n|---|---|")
    print(f"| `train()` as a whole, s | {spread(whole)} |")
    print(f"| hubstate for each epoch, ms | {spread(epochs, 2)} |")
    print(f"| hubstate in all, % of `train()` | {spread(shares, 2)} |")
    print(f"| of that once, parameters and GFLOPs by Ultralytics' own function, ms | {spread(about)} |")
    print(f"| with the copies of checkpoints, % of `train()` | {spread(with_files, 2)} |")


def _run() -> dict[str, list[float]]:
    with tempfile.TemporaryDirectory() as name, serving(Path(name) / "hub") as address:
        environment = {
            **os.environ,
            "PYTHONPATH": str(STUB),
            "YOLO_CONFIG_DIR": name,
            "YOLO_OFFLINE": "true",
            "HUBSTATE_HUB": address,
        }
        setting = "from ultralytics import settings; settings.update({'runs_dir': 'runs'})"
        for command in ([sys.executable, "-c", setting], [sys.executable, __file__, "--one"]):
            done = subprocess.run(
                command, cwd=name, env=environment, capture_output=True, text=True, check=False
            )
            if done.returncode != 0:
                sys.exit(f"{command} failed:\n{done.stderr}")
        found: dict[str, list[float]] = json.loads(done.stdout.strip().splitlines()[-1])
        return found


run_as(__name__, main, one)
