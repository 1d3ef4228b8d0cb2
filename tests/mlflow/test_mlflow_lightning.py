"""Lightning for real, delivered to a real MLflow server: the example of its guide, to its end, broken off, killed and resumed."""

from __future__ import annotations

import os
import re
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from children import ended, only_session, script
from servers import MLflowServer

from hubstate.hubs.held import Held, held
from hubstate.proof.holdings import compare

pytestmark = pytest.mark.mlflow

ROOT = Path(__file__).parents[2]
#: The interpreter for which scripts/trainers installed the trainers.
TRAINERS = ROOT / ".venv-trainers/bin/python"
#: Trainers take long to import where many other things run (seconds).
HANGS = 600
OTHER = """
class Other(L.Callback):
    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        if (trainer.current_epoch, index) == (2, 1):
            {}
"""


def ran(*changes: tuple[str, str]) -> CompletedProcess[str]:
    """The example of the guide, with its steps recorded too, and with some texts replaced."""
    page = (ROOT / "docs/trainers/lightning.md").read_text("utf-8")
    code = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)[0]
    steps = [
        ("import HubstateCallback\n", "import HubstateCallback, HubstateLogger\n"),
        ("max_epochs=3,", "max_epochs=3, log_every_n_steps=1, logger=HubstateLogger(),"),
    ]
    for text, other in (*steps, *changes):
        assert code.count(text) == 1, text
        code = code.replace(text, other)
    env = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return ended([TRAINERS, script(code)], env=env, hangs=HANGS)


def with_other(action: str) -> tuple[tuple[str, str], ...]:
    return ("keep])", "keep, Other()])"), ("\ndata = ", f"{OTHER.format(action)}\ndata = ")


def at_server(server: MLflowServer) -> tuple[Held, str]:
    """What the server holds, which is what the journal tells, and the status of the only run."""
    (run,) = server.runs(only_session().name)
    holds = held(server.hub, None, run["info"]["run_id"])
    comparison = compare(only_session(), holds)
    assert comparison.equal, comparison.difference
    return holds, run["info"]["status"]


@pytest.fixture(autouse=True)
def _lightning() -> None:
    if not TRAINERS.exists():
        pytest.skip("Lightning is not installed: scripts/trainers installs it")


def test_the_example_of_the_guide_arrives_whole(hub: MLflowServer) -> None:
    """Each epoch's and each step's row is there once, and the final file is Lightning's own, byte for byte."""
    process = ran()
    assert process.returncode == 0, process.stderr
    holds, status = at_server(hub)
    assert status == "FINISHED"
    assert [row.epoch for row in holds.rows if row.step is None] == [0, 1, 2]
    assert [row.step for row in holds.rows if row.step is not None] == list(range(12))
    (best,) = Path("weights").glob("epoch=*.ckpt")
    stored = [path for path in hub.artifacts.rglob("*") if path.parent.name == "final" and path.is_file()]
    assert best.read_bytes() in [path.read_bytes() for path in stored]


def test_an_exception_in_the_middle_is_told(hub: MLflowServer) -> None:
    """An exception in a batch is a FAILED run with the rows so far; the script sees it as ever."""
    process = ran(*with_other('raise RuntimeError("boom")'))
    assert "RuntimeError: boom" in process.stderr
    holds, status = at_server(hub)
    assert status == "FAILED"
    assert [row.epoch for row in holds.rows if row.step is None] == [0, 1]


def test_a_killed_training_goes_on_in_its_run(hub: MLflowServer) -> None:
    """After kill -9 in the third epoch, `ckpt_path="last"` goes on in the same run, and no row in force is there twice."""
    killed = ran(*with_other("import os; os.kill(os.getpid(), 9)"))
    assert killed.returncode == -9, killed.stderr
    process = ran(("data, data)", 'data, data, ckpt_path="last")'))
    assert process.returncode == 0, process.stderr
    holds, status = at_server(hub)
    assert (status, holds.state) == ("FINISHED", "done")
    assert [(row.epoch, row.attempt) for row in holds.rows if row.step is None] == [(0, 1), (1, 1), (2, 2)]
