"""Asking a hub what it holds: real answers of one's own hub, and clear errors for everything else."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from hubstate.errors import HubRefused, HubUnreachable
from hubstate.hubs.held import InForce, held
from hubstate.hubs.wire import LARGEST_ANSWER
from hubstate.server import keys
from hubstate.server.rows import RowIn, keep
from hubstate.server.running import running
from hubstate.server.store import Store
from hubstate.session import start


@contextmanager
def answering(status: int, body: bytes) -> Iterator[str]:
    """Something that gives the same answer to whatever it is asked; its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_words):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_it_tells_rows_and_files_as_they_were_sent(tmp_path):
    """What a session sent to one's own hub is told again: its rows in order, its file by its digest, its end."""
    Path("last.bin").write_bytes(b"weights")
    with running(tmp_path) as hub:
        with start("held", hub=hub.url, epochs=2, directory=tmp_path / "sessions") as session:
            for epoch in session.epochs():
                session.log({"loss": 1.0 / (epoch + 1), "odd": float("nan")})
            session.save("last.bin", kind="final")
        holds = held(hub.url, None, session.id)
    assert [(row.epoch, row.step, row.attempt, row.final) for row in holds.rows] == [
        (0, None, 1, False),
        (1, None, 1, False),
    ]
    assert [row.metrics for row in holds.rows] == [{"loss": 1.0, "odd": None}, {"loss": 0.5, "odd": None}]
    assert (holds.state, holds.outcome) == ("done", "finished")
    assert holds.sha256("final") == hashlib.sha256(b"weights").hexdigest()
    assert holds.sha256("best") == ""


def test_it_tells_a_session_that_is_longer_than_any_other_answer(tmp_path):
    """A long training's rows are told whole, although no other answer may be that long."""
    metrics = {f"train/loss of the head number {number}": number / 3 for number in range(20)}
    new = [RowIn(1, n // 500, n % 500, False, 1.0 + n, metrics, {"x": "NaN"}) for n in range(10_000)]
    assert len(new) * len(json.dumps(metrics)) > LARGEST_ANSWER
    with running(tmp_path) as hub:
        with start("held", hub=hub.url, epochs=1, directory=tmp_path / "sessions") as session:
            session.log({"loss": 1.0}, epoch=20)
        store = Store(tmp_path)
        with store.database.writing() as connection:
            keep(connection, session.id, new, 0.0)
        store.close()
        holds = held(hub.url, None, session.id)
    assert len(holds.rows) == len(new) + 1
    assert (holds.rows[9_999].epoch, holds.rows[9_999].step) == (19, 499)
    assert holds.rows[9_999].metrics == metrics
    assert holds.rows[9_999].nonfinite == {"x": "NaN"}
    assert holds.rows[-1].metrics == {"loss": 1.0}


def test_a_list_that_no_memory_should_hold_is_refused(monkeypatch):
    """There is a longest list as well: a hub that goes on and on is told as one that cannot be had."""
    monkeypatch.setattr("hubstate.hubs.held._LONGEST_LIST", 500)
    rows = [{"epoch": epoch, "metrics": {"loss": 1.0}} for epoch in range(30)]
    told = {"data": rows}
    monkeypatch.setattr("hubstate.hubs.held._Model", tuple[InForce, ...])
    with (
        answering(200, json.dumps(told).encode()) as address,
        pytest.raises(HubUnreachable, match="longer than"),
    ):
        held(address, None, "M")


def test_a_session_that_it_does_not_know(tmp_path):
    """Asking for what a hub does not have is refused by it, in its own words."""
    with running(tmp_path) as hub, pytest.raises(HubRefused, match=r"127\.0\.0\.1") as refused:
        held(hub.url, None, "01K00000000000000000000000")
    assert not refused.value.credentials


def test_a_wrong_key_is_named_as_the_reason(tmp_path):
    """A hub that does not take the key is told apart, and the key is not in the message."""
    keys.create(tmp_path, "me")
    wrong = "ul_" + "0" * 40
    with running(tmp_path) as hub, pytest.raises(HubRefused) as refused:
        held(hub.url, wrong, "01K00000000000000000000000")
    assert refused.value.credentials
    assert wrong not in str(refused.value)


def test_no_hub_there():
    """Where nobody answers, the error names the host."""
    with answering(200, b"{}") as address:
        pass
    with pytest.raises(HubUnreachable, match=r"connection refused by 127\.0\.0\.1"):
        held(address, None, "M")


@pytest.mark.parametrize(
    "body",
    [
        {"data": {"id": "M", "meta": {"name": "x"}}},
        {"data": None},
        {},
        {"data": {"state": "done", "outcome": "finished", "checkpoints": [{"kind": 1}]}},
    ],
)
def test_a_hub_that_tells_something_else(body):
    """A hub of another kind, which does not tell what it holds, is refused with its name and the reason."""
    with (
        answering(200, json.dumps(body).encode()) as address,
        pytest.raises(HubRefused, match="does not tell"),
    ):
        held(address, None, "M")


def test_what_is_no_hub_at_all():
    """A page of HTML is no answer."""
    with answering(200, b"<html>") as address, pytest.raises(HubUnreachable, match="without a JSON object"):
        held(address, None, "M")
