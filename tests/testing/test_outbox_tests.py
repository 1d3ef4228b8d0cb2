"""The kit's tests of outboxes, on the real one: a file of SQLite beside a real journal."""

from __future__ import annotations

import pytest

from hubstate.outbox import Outbox
from hubstate.testing import OutboxTests


class TestOutbox(OutboxTests):
    """hubstate's own outbox."""

    @pytest.fixture
    def open_outbox(self):
        return Outbox
