"""Streams of events: each brings what is new after a position, once, and a hundred of them cost little."""

from __future__ import annotations

import http.client
import json
import re
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
import sqlalchemy
from hub_client import Client, row

from hubstate.errors import StorageError
from hubstate.server import keys
from hubstate.server.pages import live
from hubstate.server.pages.watch import Watch
from hubstate.server.running import RunningHub, running


class Stream:
    """One stream of events, read as a browser reads it."""

    def __init__(self, address: str, **headers: str) -> None:
        told = urlsplit(address)
        self._connection = http.client.HTTPConnection(told.hostname or "", told.port, timeout=60)
        self._connection.request("GET", f"{told.path}?{told.query}", headers=headers)
        self.answer = self._connection.getresponse()

    def close(self) -> None:
        self.answer.close()
        self._connection.close()

    def block(self) -> dict[str, str]:
        """The next block of lines; a comment has the name of nothing."""
        block: dict[str, str] = {}
        while line := self.answer.readline().decode():
            if line == "\n":
                return block
            name, _, value = line.removesuffix("\n").partition(": ")
            block[name] = value
        return {"ended": ""}

    def news(self) -> tuple[str, dict[str, Any]]:
        """The next event: its position, and what it tells."""
        while "id" not in (block := self.block()):
            assert "ended" not in block
        return block["id"], json.loads(block["data"])


@contextmanager
def listening(client: Client, path: str, **headers: str) -> Iterator[Stream]:
    with closing(Stream(client.url + path, **headers)) as stream:
        assert stream.answer.status == 200
        assert stream.answer.getheader("content-type", "").startswith("text/event-stream")
        assert stream.block() == {"retry": "1000"}
        yield stream


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[RunningHub]:
    """A hub with the real clock: streams wait for real."""
    with running(tmp_path / "hub") as hub:
        yield hub


def position(client: Client, path: str) -> str:
    """The position of a page as it is loaded."""
    found = re.search(r'data-after="([^"]+)"', client.get(path, headers={"Accept": "text/html"}).text)
    assert found is not None
    return found[1]


def test_a_page_that_was_just_loaded_is_told_nothing(client: Client) -> None:
    """The page names its position; as long as nothing happens the stream only says that it is there."""
    client.open()
    client.rows([row(0, a=1)])
    for page, stream in (("/models/S1", "/models/S1/events"), ("/", "/events")):
        after = position(client, page)
        with listening(client, f"{stream}?after={after}") as open_stream:
            assert open_stream.block() == {"": "still here"}


def test_an_event_tells_only_what_is_new(client: Client) -> None:
    """New rows come as points, a new metric as a chart, a changed part as that part, and nothing else."""
    client.open(epochs=9)
    client.rows([row(0, a=1), row(1, a=2)])
    after = position(client, "/models/S1")
    client.rows([row(2, a=3, b=None)])
    with listening(client, f"/models/S1/events?after={after}") as stream:
        at, told = stream.news()
        assert told["curves"]["points"] == {
            "0": {"x": [2.0], "y": [3.0], "attempts": [1], "whole": False},
            "1": {"x": [2.0], "y": [None], "attempts": [1], "whole": True},
        }
        assert re.findall('data-curve="(.)"', told["curves"]["figures"]) == ["1"]
        assert set(told["parts"]) == {"facts", "rows"}
        client.beat(waiting=3)
        later, told = stream.news()
        assert set(told) == {"parts"}
        assert set(told["parts"]) == {"facts"}
        assert later.split(".")[:2] == at.split(".")[:2]


def test_whoever_comes_back_goes_on_where_they_were(client: Client) -> None:
    """`Last-Event-ID` wins over the address, and what it names is not told again; a position of nonsense is the beginning."""
    client.open()
    client.rows([row(0, a=0)])
    first = position(client, "/models/S1")
    seen: list[float] = [0.0]
    at = first
    for epoch in range(1, 6):
        client.rows([row(epoch, a=epoch)])
        with listening(client, f"/models/S1/events?after={first}", **{"Last-Event-ID": at}) as stream:
            at, told = stream.news()
            seen += told["curves"]["points"]["0"]["x"]
    assert seen == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    for nonsense in ("x", "..", f"0.{2**70}.", "abc.1.00", at + "0"):
        with listening(client, "/models/S1/events", **{"Last-Event-ID": nonsense}) as stream:
            _, told = stream.news()
            assert len(told["parts"]) == 11


def test_what_changed_what_was_told_is_fetched_again(client: Client) -> None:
    """When rows were taken back, or far too many came, the page is told to fetch its charts anew."""
    client.open()
    client.rows([row(epoch, a=epoch) for epoch in range(5)])
    after = position(client, "/models/S1")
    client.open(attempt=2, first_epoch=2)
    with listening(client, f"/models/S1/events?after={after}") as stream:
        _, told = stream.news()
        assert told["curves"]["again"] is True
        assert "points" not in told["curves"]
    after = position(client, "/models/S1")
    client.rows([row(epoch, attempt=2, a=epoch) for epoch in range(2, 2500)])
    with listening(client, f"/models/S1/events?after={after}") as stream:
        _, told = stream.news()
        assert told["curves"]["again"] is True


def test_the_list_tells_the_rows_that_changed(client: Client) -> None:
    """Of the sessions that a page of the list shows, those that changed come anew, and the order of all."""
    client.open("A", name="alpha")
    client.open("B", name="beta")
    after = position(client, "/?q=a")
    with listening(client, f"/events?q=a&after={after}") as stream:
        assert stream.block() == {"": "still here"}
        client.rows([row(0, a=1)], "A")
        _, told = stream.news()
        assert told["order"] == ["B", "A"]
        assert set(told["rows"]) == {"A"}
        client.open("C", name="gamma")
        _, told = stream.news()
        assert told["order"] == ["C", "B", "A"]


def test_another_session_wakes_nobody(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """What happens to one session is no event for the page of another one, which is not even looked at."""
    monkeypatch.setattr(live, "_AGAIN", 3_600.0)
    client.open("A")
    client.open("B")
    with listening(client, f"/models/A/events?after={position(client, '/models/A')}") as stream:
        assert stream.block() == {"": "still here"}
        for epoch in range(5):
            client.rows([row(epoch, a=1)], "B")
        client.open("A2")  # what was said to B has been seen when this has
        with listening(client, "/models/A2/events") as another:
            another.news()
            client.beat(model="A2", waiting=1)
            another.news()
        client.rows([row(0, mine=1)], "A")
        block = stream.block()
        assert "id" in block  # and no sign of life before it
        assert next(iter(json.loads(block["data"])["curves"]["points"].values()))["x"] == [0.0]


def test_a_look_that_fails_is_told_and_done_again(
    client: Client, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """While the database cannot be read one line says so, and what happened meanwhile comes when it can."""
    monkeypatch.setattr(live, "_AGAIN", 3_600.0)
    client.open()
    failed = threading.Event()
    look, left = Watch._changed, iter(range(2))

    def failing(watch: Watch, watched: set[str]) -> set[str] | None:
        changed = look(watch, watched)  # as far as the rows, so that these are not news any more
        if next(left, None) is None:
            failed.set()
            return changed
        raise sqlalchemy.exc.OperationalError(None, None, Exception("disk I/O error"))

    with listening(client, f"/models/S1/events?after={position(client, '/models/S1')}") as stream:
        assert stream.block() == {"": "still here"}
        monkeypatch.setattr(Watch, "_changed", failing)
        client.rows([row(0, a=1)])
        _, told = stream.news()
        assert told["curves"]["points"]["0"]["x"] == [0.0]
    assert failed.is_set()
    assert capsys.readouterr().err.count("hubstate.hub_changes_unseen") == 1


def test_a_deleted_session_ends_its_stream(client: Client) -> None:
    """Who looks at a session that is deleted is told that it is gone; a stream of an unknown one tells nothing else."""
    client.open()
    with listening(client, f"/models/S1/events?after={position(client, '/models/S1')}") as stream:
        assert stream.block() == {"": "still here"}
        client.http.delete(f"{client.url}/v1/models/S1", timeout=30)
        assert stream.block() == {"event": "gone", "data": "{}"}
        assert stream.block() == {"ended": ""}
    with listening(client, "/models/none/events") as stream:
        assert stream.block() == {"event": "gone", "data": "{}"}


def test_a_disk_that_fails_ends_the_stream_in_one_line(
    client: Client, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """What cannot be read is logged without a traceback, and the stream ends in good order: the browser comes back."""
    client.open()
    with monkeypatch.context() as patch:

        def failing(*_arguments: object) -> None:
            raise StorageError("cannot read hub.sqlite: disk I/O error")

        patch.setattr("hubstate.server.pages.live.page_view", failing)
        with listening(client, "/models/S1/events") as stream:
            assert stream.block() == {"ended": ""}
    told = capfd.readouterr().err
    assert told.count("hubstate.hub_storage_failed") == 1
    assert "Traceback" not in told
    with listening(client, "/models/S1/events") as stream:
        assert "parts" in stream.news()[1]


def test_a_revoked_key_ends_its_streams(tmp_path: Path) -> None:
    """A stream needs a login, and ends with the key that it was opened with at the next event."""
    key = keys.create(tmp_path / "hub", "good")
    other = keys.create(tmp_path / "hub", "other")
    with running(tmp_path / "hub") as hub:
        assert requests.get(f"{hub.url}/events", timeout=30).status_code == 401
        browser = requests.Session()
        browser.post(f"{hub.url}/login", data={"key": key}, timeout=30)
        cookie = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
        browser.close()
        client = Client(hub.url, other)
        client.open()
        with listening(client, "/events", Cookie=cookie) as stream:
            stream.news()
            keys.revoke(hub.data_dir, "good")
            client.beat()
            assert stream.block() == {"event": "gone", "data": "{}"}
        client.http.close()


def test_a_hub_that_stops_ends_its_streams_at_once(tmp_path: Path) -> None:
    """Open pages do not hold up the end of a hub: their streams end, and browsers come back later."""
    with running(tmp_path / "hub") as hub:
        client = Client(hub.url)
        client.open()
        stream = Stream(f"{hub.url}/models/S1/events")
        stream.block()
        stream.news()
        client.http.close()
    assert stream.block() == {"ended": ""}
    stream.close()


def test_a_hundred_open_pages_hold_no_threads(client: Client) -> None:
    """Streams wait in the event loop: a hundred of them add no more threads than requests that come one by one."""
    client.open()
    for _ in range(5):
        client.get("/", headers={"Accept": "text/html"})
    streams = [Stream(f"{client.url}/models/S1/events") for _ in range(100)]
    for stream in streams:
        stream.block()
        stream.news()
    waiting = threading.active_count()
    client.rows([row(0, a=1)])
    told = [stream.news()[1]["curves"] for stream in streams]
    assert len(told) == 100
    assert waiting < 60
    for stream in streams:
        stream.close()
