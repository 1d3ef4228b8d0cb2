"""The kit's tests of hubs, on the client of MLflow and a real server; and what a database does that a stand-in does not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from servers import MLflowServer

from hubstate.hubs import open_hub
from hubstate.hubs.base import Accepted, Hub
from hubstate.testing import HubTests

pytestmark = pytest.mark.mlflow


class TestMLflow(HubTests):
    """A real MLflow server is a hub, on SQLite and on PostgreSQL."""

    @pytest.fixture
    def hub(self, server: MLflowServer) -> Iterator[Hub]:
        client = open_hub(server.hub, None)
        yield client
        client.close()


def test_a_repeat_is_held_once(server: MLflowServer) -> None:
    """What comes again, NaN and infinities among it, makes no second point in the database."""
    client = open_hub(server.hub, None)
    kit = HubTests()
    model = kit.opened(client)
    odd = [
        kit.row(100 + number, odd=word) for number, word in enumerate(("NaN", "Infinity", "-Infinity", ""))
    ]
    for _ in range(3):
        assert isinstance(client.deliver(kit.rows(model, *odd)), Accepted)
    client.close()
    assert model is not None
    told = server.get("metrics/get-history", run_id=model, metric_key="loss")["metrics"]
    points = [(point["step"], str(point["value"])) for point in told if point["step"] >= 99]
    assert sorted(points) == [
        (99, "NaN"),
        (100, "1.7976931348623157e+308"),
        (101, "-1.7976931348623157e+308"),
        (102, "0.009708737864077669"),
    ]
