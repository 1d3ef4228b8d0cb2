"""An MLflow server for all tests of this folder, on SQLite and on PostgreSQL; and what a test asks of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from servers import MLflowServer, mlflow_server, postgresql


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MLflowServer]:
    """A server that is well."""
    folder = tmp_path_factory.mktemp("mlflow")
    with ExitStack() as stack:
        database = f"sqlite:///{folder}/mlflow.db"
        if request.param == "postgresql":
            database = stack.enter_context(postgresql())
        yield stack.enter_context(mlflow_server(database, folder))


@pytest.fixture
def hub(server: MLflowServer, monkeypatch: pytest.MonkeyPatch) -> MLflowServer:
    """The server, which the processes of a test find by their environment."""
    monkeypatch.setenv("HUBSTATE_HUB", server.hub)
    return server
