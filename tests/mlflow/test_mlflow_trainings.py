"""Whole trainings that an MLflow server shows: each row once, each file byte for byte, and how they ended."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from children import PYTHON, ended, only_session, script
from loopback import refused_port
from servers import MLflowServer, mlflow_server

import hubstate
from hubstate.hubs.held import Held, held
from hubstate.hubs.mlflow import MLflowHub
from hubstate.journal import recover
from hubstate.overview import look
from hubstate.proof.holdings import compare
from hubstate.states import Outcome, State

pytestmark = pytest.mark.mlflow

#: A training of five epochs, which something may happen to in its epoch 3.
TRAINING = """
import os, random, signal
from pathlib import Path
import hubstate

with hubstate.start("sums", epochs=5, config={{"lr": 0.1, "net": {{"width": 3}}}}, project="tests", group="g",
                    tags=["a tag"], resume=True, limits=hubstate.Limits(0.05, 0.05, 5)) as session:
    for epoch in session.epochs():
        for step in range(3):
            session.log({{"loss": 1 / (1 + epoch * 3 + step)}}, step=epoch * 3 + step)
        if epoch == 3:
            {happens}
        session.log({{"loss": 1 / (epoch + 1), "metrics/mAP50(B)": 0.1 * epoch, "odd": float("nan")}})
        Path("last.bin").write_bytes(random.Random(epoch).randbytes(300_000))
        session.save("last.bin", fitness=epoch)
    if not session.state.value == "finalizing":
        session.log({{"metrics/mAP50(B)": 0.75}}, epoch=4, step=100)
    {end}
"""


def train(happens: str = "pass", end: str = "pass", **environment: str) -> subprocess.CompletedProcess[str]:
    code = TRAINING.format(happens=happens, end=end)
    return ended([PYTHON, script(code)], env=os.environ | environment)


def the_run(server: MLflowServer) -> dict[str, Any]:
    """The only run of the only session here."""
    (run,) = server.runs(only_session().name)
    return run


def tags(run: dict[str, Any]) -> dict[str, str]:
    return {tag["key"]: tag["value"] for tag in run["data"]["tags"]}


def params(run: dict[str, Any]) -> dict[str, str]:
    return {param["key"]: param["value"] for param in run["data"]["params"]}


def holds_all(server: MLflowServer) -> Held:
    """The server holds every row of the journal once, to the last bit, and every file byte for byte."""
    folder = only_session()
    holds = held(server.hub, None, the_run(server)["info"]["run_id"])
    comparison = compare(folder, holds)
    assert comparison.equal, comparison.difference
    assert comparison.rows > 0
    return holds


def history(server: MLflowServer, run: dict[str, Any], key: str) -> list[dict[str, Any]]:
    told = server.get("metrics/get-history", run_id=run["info"]["run_id"], metric_key=key)
    return list(told.get("metrics", []))


def test_the_demo_arrives_whole(hub: MLflowServer) -> None:
    """The demo of the README delivers to an MLflow server, and finds there what it sent."""
    process = ended([PYTHON, "-m", "hubstate", "demo", "--hub", hub.hub])
    assert process.returncode == 0, process.stdout + process.stderr
    assert "15 rows in force, each epoch once" in process.stdout
    assert "as the hub stored it, equal to the file here" in process.stdout
    folder = only_session(Path(".hubstate-demo/sessions"))
    verified = ended(
        [PYTHON, "-m", "hubstate", "verify", folder.name, "--hub", "--directory", ".hubstate-demo/sessions"]
    )
    assert verified.returncode == 0, verified.stdout + verified.stderr
    (run,) = hub.runs(folder.name)
    assert run["info"]["status"] == "FINISHED"


def test_a_training_that_comes_to_its_end(hub: MLflowServer) -> None:
    """Rows of epochs and of steps, the file, the configuration and the end are one run, in the project's experiment."""
    process = train()
    assert process.returncode == 0, process.stderr
    holds = holds_all(hub)
    assert len(holds.rows) == 21
    run = the_run(hub)
    assert run["info"]["status"] == "FINISHED"
    assert run["info"]["run_name"] == "sums"
    experiment = hub.get("experiments/get", experiment_id=run["info"]["experiment_id"])["experiment"]
    assert experiment["name"] == "tests"
    assert {name: params(run).get(name) for name in ("lr", "net.width")} == {"lr": "0.1", "net.width": "3"}
    told = tags(run)
    assert (told["hubstate.state"], told["hubstate.outcome"], told["hubstate.group"]) == (
        "done",
        "finished",
        "g",
    )
    assert told["a tag"] == "true"
    assert told["hubstate.name/metrics/mAP50--B--"] == "metrics/mAP50(B)"
    assert [point["step"] for point in history(hub, run, "loss")] == [0, 1, 2, 3, 4]
    assert [point["step"] for point in history(hub, run, "step/loss")] == list(range(15))
    stored = [
        path for path in hub.artifacts.rglob("*") if run["info"]["run_id"] in path.parts and path.is_file()
    ]
    assert {path.parent.name for path in stored} <= {"last", "best", "final"}
    final = next(path for path in stored if path.parent.name == "final")
    assert final.read_bytes() == Path("last.bin").read_bytes()
    receipt = look(only_session()).receipt
    assert (
        receipt.url == f"{hub.http}/#/experiments/{run['info']['experiment_id']}/runs/{run['info']['run_id']}"
    )


def test_an_exception_is_a_failed_run(hub: MLflowServer) -> None:
    """A training that an exception ends is FAILED there, with its reason, and with all that it recorded before."""
    process = train('raise RuntimeError("boom")')
    assert "RuntimeError: boom" in process.stderr
    holds_all(hub)
    run = the_run(hub)
    assert run["info"]["status"] == "FAILED"
    assert tags(run)["hubstate.reason"] == "RuntimeError: boom"
    assert tags(run)["hubstate.outcome"] == "failed"


def test_ctrl_c_is_a_killed_run(hub: MLflowServer) -> None:
    """A training that Ctrl-C ends is KILLED there."""
    train("signal.raise_signal(signal.SIGINT)")
    holds_all(hub)
    run = the_run(hub)
    assert (run["info"]["status"], tags(run)["hubstate.outcome"]) == ("KILLED", "interrupted")


def test_a_killed_training_goes_on_in_its_run(hub: MLflowServer) -> None:
    """After kill -9 nobody claims an end; the resumed training goes on in the same run, and each row in force is there once."""
    killed = train("session.flush(60); os.kill(os.getpid(), signal.SIGKILL)")
    assert killed.returncode == -9, killed.stderr
    run = the_run(hub)
    assert run["info"]["status"] == "RUNNING"
    again = train()
    assert again.returncode == 0, again.stderr
    assert the_run(hub)["info"]["run_id"] == run["info"]["run_id"]
    run = the_run(hub)
    assert run["info"]["status"] == "FINISHED"
    assert tags(run)["hubstate.attempt"] == "2"
    holds = holds_all(hub)
    assert [(row.epoch, row.attempt) for row in holds.rows if row.step is None] == [
        (0, 1),
        (1, 1),
        (2, 1),
        (3, 2),
        (4, 2),
    ]
    # The steps of epoch 3 were recorded by both attempts: MLflow goes on showing both, and says which is whose.
    both = [
        point["value"] for point in history(hub, run, "step/hubstate/attempt") if point["step"] in (9, 10, 11)
    ]
    assert sorted(both) == [1, 1, 1, 2, 2, 2]


def test_what_an_outage_kept_here_leaves_by_sync(hub: MLflowServer) -> None:
    """A training whose server is away ends as ever; `sync` delivers all of it later, with the times at which it happened."""
    away = f"mlflow+http://127.0.0.1:{refused_port()}"
    process = train(HUBSTATE_HUB=away)
    assert process.returncode == 0, process.stderr
    assert look(only_session()).receipt.rows_waiting == 21
    ended_at = recover(only_session()).memory.ended_at
    assert ended_at is not None
    synced = ended([PYTHON, "-m", "hubstate", "sync", "--hub", hub.hub])
    assert synced.returncode == 0, synced.stdout + synced.stderr
    holds_all(hub)
    run = the_run(hub)
    assert run["info"]["status"] == "FINISHED"
    assert run["info"]["end_time"] <= ended_at * 1000
    assert look(only_session()).receipt.state is State.DONE


def test_doctor_tells_what_an_mlflow_server_cannot(hub: MLflowServer) -> None:
    """`doctor` asks the server, and tells what is not to be expected of it."""
    told = ended([PYTHON, "-m", "hubstate", "doctor"])
    words = re.sub(r"\s+", " ", told.stdout)
    assert "the hub is there" in words
    assert "cannot ask a training to stop" in words
    assert "does not confirm the digest of a file" in words
    assert "goes on showing the rows that a resumed training begins again" in words
    assert "cannot hold checkpoints" not in words


def test_many_at_once_open_one_run(hub: MLflowServer) -> None:
    """Several processes that open the same new session at the same time get one run, and nobody is left with another."""
    code = (
        "import sys; from hubstate.hubs import open_hub; from hubstate.hubs.base import Parcel; "
        "from hubstate.actions import OpenSession; "
        "action = OpenSession('k', 1, session=sys.argv[2], name='many'); "
        "hub = open_hub(sys.argv[1], None); print('ready', flush=True); sys.stdin.readline(); "
        "print(hub.deliver(Parcel('k', action, sys.argv[2])).news.model)"
    )
    session = "01M8AZZZZZ000000000000000A" if "sqlite" in hub.database else "01M8AZZZZZ000000000000000B"
    processes = [
        subprocess.Popen(
            [PYTHON, "-c", code, hub.hub, session], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    models = {process.communicate()[0].strip() for process in processes}
    client = MLflowHub(hub.hub, None)
    from hubstate.actions import OpenSession
    from hubstate.hubs.base import Accepted, Parcel

    reply = client.deliver(Parcel("k", OpenSession("k", 1, session=session, name="many"), session))
    client.close()
    assert isinstance(reply, Accepted)
    # Whose request failed the database just then was told to come again, and knows no run yet.
    assert models - {"None"} <= {reply.news.model}
    assert [run["info"]["run_id"] for run in hub.runs(session)] == [reply.news.model]


def test_a_server_that_hands_out_no_artifacts_gets_the_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `--no-serve-artifacts` a checkpoint is not taken, for a reason that is told, and all else arrives."""
    database = f"sqlite:///{tmp_path}/mlflow.db"
    with mlflow_server(database, tmp_path / "server", "--no-serve-artifacts") as server:
        monkeypatch.setenv("HUBSTATE_HUB", server.hub)
        process = train()
        assert process.returncode == 0, process.stderr
        receipt = look(only_session()).receipt
        assert (receipt.state, receipt.outcome) == (State.DONE, Outcome.FINISHED)
        assert receipt.rows_delivered == 21
        assert any("gets no checkpoints" in text for text in recover(only_session()).memory.not_taken)
        assert the_run(server)["info"]["status"] == "FINISHED"
        assert "it cannot hold checkpoints" in re.sub(
            r"\s+", " ", ended([PYTHON, "-m", "hubstate", "doctor"]).stdout
        )


def test_a_session_in_this_process(hub: MLflowServer) -> None:
    """A session that is used from Python is delivered as it goes on, and `flush` waits for it."""
    with hubstate.start("here", hub=hub.hub) as session:
        session.log({"loss": float("inf"), "x": -float("inf"), "n": 2**53, "tiny": 5e-324})
        assert session.flush(60)
        assert session.url is not None
        assert session.url.startswith(hub.http)
    holds_all(hub)
