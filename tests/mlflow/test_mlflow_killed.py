"""The server is killed in the middle of rows and of a file, again and again: nothing is lost, and nothing is there twice."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
from killing import Place, killing
from servers import MLflowServer

import hubstate
from hubstate.hubs.held import held
from hubstate.proof.holdings import compare
from hubstate.states import State

pytestmark = pytest.mark.mlflow

ROWS, FILE = b"POST /api/2.0/mlflow/runs/log-batch", b"PUT /api/2.0/mlflow-artifacts/artifacts/"
#: Rows of an epoch, and the bytes of its file.
STEPS, SIZE = 200, 3_000_000
#: How long a killed server may take to come up, with all that other things take of the machine (seconds).
PATIENCE = 600.0


def drawn(seed: int, kills: int) -> list[Place]:
    """Where the server is killed: by turns in a request with rows, which has some 50,000 bytes, and in a file."""
    chance = random.Random(seed)
    return [
        Place(ROWS, chance.randrange(100, 60_000)) if number % 2 else Place(FILE, chance.randrange(100, SIZE))
        for number in range(kills)
    ]


@pytest.mark.parametrize("kills", [4, pytest.param(50, marks=pytest.mark.long)])
def test_a_server_that_is_killed_in_the_middle_loses_and_doubles_nothing(
    server: MLflowServer, kills: int
) -> None:
    """However often the server dies in the middle of rows or of a file, each point and file is there once, and whole."""
    chance = random.Random(1)
    with killing(server, drawn(kills, kills)) as killer:
        limits = hubstate.Limits(metrics=0.01, checkpoint=0.01)
        with hubstate.start("killed", hub=killer.hub, limits=limits, config={"lr": 1}) as session:
            epoch = 0
            while killer.left:
                for step in range(STEPS):
                    session.log(
                        {"loss": chance.random(), "metrics/mAP50(B)": chance.random()},
                        step=epoch * STEPS + step,
                    )
                Path("last.bin").write_bytes(chance.randbytes(SIZE))
                session.log({"loss": chance.random()}, epoch=epoch)
                session.save("last.bin", epoch=epoch)
                before = killer.left
                while killer.left == before and not session.flush(PATIENCE):
                    pass
                assert session.flush(PATIENCE)
                epoch += 1
            receipt = session.finish(PATIENCE)
        assert killer.kills == kills
    assert receipt.state is State.DONE, str(receipt)
    (run,) = server.runs(session.id)
    holds = held(server.hub, None, run["info"]["run_id"])
    comparison = compare(Path(".hubstate") / session.id, holds)
    assert comparison.equal, comparison.difference
    assert comparison.rows == epoch * (STEPS + 1)
    points: Counter[tuple[str, int]] = Counter()
    for key in ("step/loss", "step/metrics/mAP50--B--", "loss", "hubstate/attempt", "step/hubstate/epoch"):
        token: dict[str, str] = {}
        while True:
            told = server.get(
                "metrics/get-history",
                run_id=run["info"]["run_id"],
                metric_key=key,
                max_results="20000",
                **token,
            )
            points.update((key, point["step"]) for point in told["metrics"])
            if not told.get("next_page_token"):
                break
            token = {"page_token": told["next_page_token"]}
    assert set(points.values()) == {1}
    stored = [path for path in server.artifacts.rglob("*.bin") if run["info"]["run_id"] in path.parts]
    assert stored
    assert {path.stat().st_size for path in stored} == {SIZE}
