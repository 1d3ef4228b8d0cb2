"""The kit's tests of hubs, on the hubs that there are: the fake one, and the client of one's own hub over HTTP."""

from __future__ import annotations

import random

import pytest

from hubstate.hubs.hub_v1 import HubV1
from hubstate.server.running import running
from hubstate.testing import FakeHub, HubTests


class TestFakeHub(HubTests):
    """The fake hub keeps what real ones promise, or tests with it would prove nothing."""

    @pytest.fixture
    def hub(self):
        return FakeHub()


class TestOwnHub(HubTests):
    """The client of HUB v1, against a hub of one's own that listens on loopback."""

    @pytest.fixture
    def hub(self, tmp_path):
        with running(tmp_path / "hub") as server:
            client = HubV1(server.url, None, chance=random.Random(1))
            yield client
            client.close()
