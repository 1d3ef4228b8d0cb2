"""What hubstate takes of a tiny training with Ultralytics, on the thread that trains.

    .venv-trainers/bin/python bench/yolo.py [PAIRS] [EPOCHS]

The example of the guide (8 pictures of 64x64 pixels, on the CPU, without the pictures that Ultralytics paints of a training),
by turns without hubstate and with it, each in a process of its own; the hub is one, too. Every hook is timed. What copies
checkpoints (`on_model_save`, and `best.pt` at the end) is told apart: it depends on the file and the disk. So is the wait
at the end, when the training is over. It needs what `scripts/trainers` installs.
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
#: What copies files; what waits for the hub, after the training; and the hooks of each epoch, one call of each.
FILES, WAITS = ("on_model_save", "_name_final"), ("finish",)
EACH_EPOCH = ("on_train_epoch_start", "on_train_batch_end", "on_fit_epoch_end")


TABLE = (
    ("`train()` without hubstate, s", "bare", 2),
    ("`train()` with hubstate, s", "with", 2),
    ("hubstate for each epoch, files aside, ms", "epoch", 2),
    ("hubstate in all, files aside, % of `train()`", "share", 2),
    ("of that opening the session, once, ms", "open", 1),
    ("of that parameters and GFLOPs by Ultralytics' own function, once, ms", "about", 1),
    ("a call that a checkpoint was saved, most often without a copy, ms", "save", 2),
    ("all copies of checkpoints, ms", "files", 1),
    ("the wait for the hub when the training is over, ms", "waits", 1),
)


def example(epochs: str, *, bare: bool) -> str:
    """The example of the guide, of so many epochs; `bare`: without hubstate."""
    page = (ROOT / "docs" / "trainers" / "ultralytics.md").read_text(encoding="utf-8")
    code = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)[0]
    code = code.replace('device="cpu"', 'device="cpu", plots=False').replace("epochs=3", f"epochs={epochs}")
    return code.replace("with attach(model):", "if True:") if bare else code


def one(how: str, epochs: str) -> dict[str, list[float]]:
    """One run in this process: ms in each hook by call, and in `train` as the user calls it."""
    from ultralytics import YOLO

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

    for name in {*HOOKS, *FILES, *WAITS, "_about", "_train"}:
        setattr(HubstateCallbacks, name, timed(name, getattr(HubstateCallbacks, name)))
    YOLO.train = timed("train", YOLO.train)
    exec(compile(example(epochs, bare=how == "bare"), "example", "exec"), {"__name__": "__main__"})
    return dict(spent)


def main() -> None:
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    epochs = sys.argv[2] if len(sys.argv) > 2 else "10"
    found: dict[str, list[float]] = defaultdict(list)
    for pair in range(pairs):
        # By turns, so that whatever else the machine does meets both alike; and which one is first changes, too.
        runs = {how: _run(how, epochs) for how in (("bare", "with") if pair % 2 else ("with", "bare"))}
        spent = runs["with"]
        bare, train = sum(runs["bare"]["train"]), sum(spent["_train"])
        hooks = sum(sum(times) for name, times in spent.items() if name.startswith(("on_", "teardown")))
        files, waits = (sum(sum(spent[name]) for name in names) for names in (FILES, WAITS))
        hooks -= waits
        per_epoch = [sum(epoch) for epoch in zip(*(spent[name] for name in EACH_EPOCH), strict=False)]
        found["bare"].append(bare / 1e3)
        found["with"].append((train - waits) / 1e3)
        found["epoch"].append(statistics.median(per_epoch))
        found["share"].append(100 * (hooks - files) / (train - waits))
        found["open"].append(sum(spent["on_pretrain_routine_start"]))
        found["about"].append(sum(spent["_about"]))
        found["save"].append(statistics.median(spent["on_model_save"]))
        found["files"].append(files)
        found["waits"].append(waits)
    print(
        f"{machine()}; {pairs} pairs of runs of {epochs} epochs in processes of their own; median (min to max)\n"
    )
    print("| what | |\n|---|---|")
    for what, name, digits in TABLE:
        print(f"| {what} | {spread(found[name], digits)} |")


def _run(how: str, epochs: str) -> dict[str, list[float]]:
    with tempfile.TemporaryDirectory() as name, serving(Path(name) / "hub") as address:
        environment = {
            **os.environ,
            "PYTHONPATH": str(STUB),
            "YOLO_CONFIG_DIR": name,
            "YOLO_OFFLINE": "true",
            "HUBSTATE_HUB": address,
            # Threads that wait for each other by spinning measure what else the machine has to do.
            "OMP_WAIT_POLICY": "passive",
        }
        setting = "from ultralytics import settings; settings.update({'runs_dir': 'runs'})"
        for command in ([sys.executable, "-c", setting], [sys.executable, __file__, "--one", how, epochs]):
            done = subprocess.run(
                command, cwd=name, env=environment, capture_output=True, text=True, check=False
            )
            if done.returncode != 0:
                sys.exit(f"{command} failed:\n{done.stderr}")
        found: dict[str, list[float]] = json.loads(done.stdout.strip().splitlines()[-1])
        return found


run_as(__name__, main, one)
