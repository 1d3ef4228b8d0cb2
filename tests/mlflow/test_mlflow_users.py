"""An MLflow server that lets in users alone: whom its own variables name is let in, and whom it refuses is told so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from children import PYTHON, ended
from servers import MLflowServer, mlflow_server

import hubstate
from hubstate.hubs import open_hub
from hubstate.hubs.base import Delayed
from hubstate.hubs.held import held
from hubstate.journal import recover
from hubstate.proof.holdings import compare
from hubstate.states import State

pytestmark = pytest.mark.mlflow

PASSWORD = "a-long-word-0123456789"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MLflowServer]:
    monkeypatch.setenv("MLFLOW_FLASK_SERVER_SECRET_KEY", "for-this-test-alone")
    monkeypatch.setenv("MLFLOW_AUTH_ADMIN_PASSWORD", PASSWORD)
    database = f"sqlite:///{tmp_path}/mlflow.db"
    with mlflow_server(database, tmp_path / "server", "--app-name", "basic-auth") as server:
        monkeypatch.delenv("MLFLOW_AUTH_ADMIN_PASSWORD")
        yield server


def test_the_user_of_mlflows_variables_is_let_in(
    server: MLflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows and files of a session arrive by the user of the variables; without one, or with a wrong one, the refusal is told."""
    for key in (None, "admin:wrong-word", "a-token"):
        client = open_hub(server.hub, key)
        reply = client.check()
        client.close()
        assert isinstance(reply, Delayed)
        assert reply.condition == "credentials_rejected"
    with hubstate.start("users", hub=server.hub) as session:
        session.log({"loss": 0.5})
        Path("last.pt").write_bytes(b"weights" * 1000)
        session.save("last.pt")
        receipt = session.finish(30)
    assert "credentials_rejected" in {condition.name for condition in receipt.conditions}
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.http)
    synced = ended([PYTHON, "-m", "hubstate", "sync", "--hub", server.hub])
    assert synced.returncode == 0, synced.stdout + synced.stderr
    folder = Path(".hubstate") / session.id
    memory = recover(folder).memory
    assert memory.state is State.DONE
    comparison = compare(folder, held(server.hub, f"admin:{PASSWORD}", str(memory.model)))
    assert comparison.equal, comparison.difference
    assert (comparison.rows, comparison.files) == (1, 1)
    for file in folder.rglob("*"):
        assert not file.is_file() or PASSWORD.encode() not in file.read_bytes()
