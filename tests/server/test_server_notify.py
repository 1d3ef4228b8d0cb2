"""Webhooks: told once of each end and each silence, later where nobody answers, and without a secret."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hub_client import Client, row

from hubstate.clock import VirtualClock
from hubstate.errors import UsageError
from hubstate.server.notify import Notifier, forget_webhook, target_of
from hubstate.server.running import running
from hubstate.server.store import Store
from hubstate.server.terms import Terms


class Receiver:
    """A webhook on loopback: what it was sent, and how it answers."""

    def __init__(self) -> None:
        self.posts: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.status = 204
        self.came = threading.Condition()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                with receiver.came:
                    receiver.paths.append(self.path)
                    receiver.headers.append(dict(self.headers))
                    receiver.posts.append(msgspec.json.decode(body))
                    receiver.came.notify_all()
                self.send_response(receiver.status)
                self.send_header("Content-Length", "0")
                self.send_header("Location", "http://127.0.0.1:1/elsewhere")
                self.end_headers()

            def log_message(self, *_arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def said(self) -> list[tuple[str, str]]:
        """Which event of which session, in the order in which they came."""
        return [(post["event"], post["session"]["id"]) for post in self.posts]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    thread = threading.Thread(target=receiver.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield receiver
    receiver.server.shutdown()
    thread.join()
    receiver.server.server_close()


class Desk:
    """A hub whose webhook is told when the test says so."""

    def __init__(self, data_dir: Path, client: Client, clock: VirtualClock, url: str) -> None:
        self.store = Store(data_dir)
        self.client = client
        self.clock = clock
        self.url = url
        self.notifier = self.begun()

    def begun(self) -> Notifier:
        target = target_of(f"{self.url}/hook?token=geheim")
        return Notifier(self.store.database, target, "https://hub.example", chance=lambda: 1.0)

    def restarted(self) -> None:
        self.notifier.close()
        self.notifier = self.begun()

    def next_at(self) -> float | None:
        """When the one notice is due."""
        ((due,),) = self.store.database.look("SELECT next_at FROM notices")
        return None if due is None else float(due)

    def tell(self) -> float:
        return self.notifier(self.clock.wall())

    def passes(self, seconds: float) -> None:
        """Time goes by while the hub runs, and looks now and then."""
        while seconds > 0:
            self.clock.advance(min(300.0, seconds))
            self.tell()
            seconds -= 300.0


@pytest.fixture
def desk(data_dir: Path, client: Client, clock: VirtualClock, receiver: Receiver) -> Iterator[Desk]:
    desk = Desk(data_dir, client, clock, receiver.url)
    desk.tell()
    yield desk
    desk.notifier.close()
    desk.store.close()


def test_each_end_is_told_once(desk: Desk, receiver: Receiver) -> None:
    """A session that is done and one that was aborted are told once each, with what became of them."""
    desk.client.open("S1", project="p")
    desk.client.open("S2")
    desk.client.rows([row(3, a=1)], model="S2")
    desk.tell()
    assert receiver.posts == []
    desk.client.end("S1")
    desk.client.end("S2", state="aborted", outcome="failed", reason="ValueError: no")
    for _ in range(3):
        desk.tell()
    assert sorted(receiver.said()) == [("aborted", "S2"), ("done", "S1")]
    done, aborted = sorted(receiver.posts, key=lambda post: post["event"], reverse=True)
    assert done["id"] == "S1/1/done"
    assert done["text"] == "digits is done: finished · https://hub.example/models/S1"
    assert done["session"]["project"] == "p"
    assert aborted["session"]["reason"] == "ValueError: no"
    assert "ValueError: no" in aborted["text"]
    assert (aborted["session"]["epoch"], aborted["session"]["url"]) == (3, "https://hub.example/models/S2")
    assert aborted["at"] == desk.clock.wall()
    assert set(receiver.paths) == {"/hook?token=geheim"}
    assert receiver.headers[0]["Content-Type"] == "application/json"


def test_a_silence_is_told_once_and_the_end_after_it(desk: Desk, receiver: Receiver) -> None:
    """A session without contact for three heartbeats is told as silent, once, and as done when it comes back and ends."""
    desk.client.open()
    desk.passes(900.0)
    assert receiver.posts == []
    desk.passes(1.0)
    desk.passes(5000.0)
    desk.client.beat(state="training", outcome="running")
    desk.passes(5000.0)
    assert receiver.said() == [("silent", "S1")]
    desk.client.end()
    desk.tell()
    assert receiver.said() == [("silent", "S1"), ("done", "S1")]


def test_a_hub_that_was_down_calls_nobody_silent_for_that(desk: Desk, receiver: Receiver) -> None:
    """While a hub is down nobody can reach it: silence counts from when it was there to hear."""
    desk.client.open("S1")
    desk.client.open("S2")
    desk.clock.advance(5000.0)
    desk.restarted()
    desk.tell()
    desk.passes(600.0)
    desk.client.beat("S1", state="training", outcome="running")
    desk.passes(300.0)
    assert receiver.said() == []
    desk.passes(1.0)
    assert receiver.said() == [("silent", "S2")]


@pytest.mark.parametrize(
    "slept", [7200.0, 50 * 365 * 86_400.0, -86_400.0], ids=["night", "no_clock", "set_back"]
)
def test_a_hub_that_slept_calls_nobody_silent_for_that(desk: Desk, receiver: Receiver, slept: float) -> None:
    """A machine that slept heard nobody meanwhile, and one whose clock was set counts from then on."""
    desk.client.open("S1")
    desk.client.open("S2")
    desk.clock.jump(slept)
    desk.tell()
    assert receiver.said() == []
    desk.client.beat("S1", state="training", outcome="running")
    desk.passes(900.0)
    assert receiver.said() == []
    if slept > 0:
        desk.client.beat("S1", state="training", outcome="running")
        desk.passes(1.0)
        assert receiver.said() == [("silent", "S2")]


def test_the_next_attempt_is_told_again(desk: Desk, receiver: Receiver) -> None:
    """What becomes of a further attempt is news of its own."""
    desk.client.open()
    desk.client.end(state="aborted", outcome="failed")
    desk.tell()
    desk.client.open(attempt=2)
    desk.client.end(attempt=2)
    desk.tell()
    assert [post["id"] for post in receiver.posts] == ["S1/1/aborted", "S1/2/done"]


def test_an_end_is_told_also_where_the_next_attempt_began_before(desk: Desk, receiver: Receiver) -> None:
    """A training that is started anew at once, or while nobody hears, was aborted all the same, and for its own reason."""
    desk.client.open()
    desk.client.end(state="aborted", outcome="failed", reason="ValueError: no")
    desk.client.open(attempt=2)
    receiver.status = 503
    desk.tell()
    desk.client.rows([row(0, attempt=2, a=1)])
    receiver.status = 200
    desk.clock.advance(5.0)
    desk.tell()
    assert [post["id"] for post in receiver.posts] == ["S1/1/aborted"] * 2
    for post in receiver.posts:
        assert post["text"].startswith("digits was aborted: ValueError: no")
        told = post["session"]
        assert (told["attempt"], told["state"], told["outcome"]) == (1, "aborted", "failed")


def test_who_cannot_be_told_of_one_is_not_asked_for_the_others_at_once(
    desk: Desk, receiver: Receiver
) -> None:
    """Each that does not answer takes seconds, for which a hub that stops would wait: one a round, and none is forgotten."""
    for name in ("S1", "S2", "S3"):
        desk.client.open(name)
        desk.client.end(name)
    receiver.status = 503
    desk.tell()
    assert receiver.said() == [("done", "S1")]
    desk.tell()
    assert receiver.said() == [("done", "S1"), ("done", "S2")]
    receiver.status = 200
    desk.clock.advance(5.0)
    desk.tell()
    assert sorted(receiver.said()[2:]) == [("done", "S1"), ("done", "S2"), ("done", "S3")]


def test_a_restart_loses_nothing_and_repeats_nothing(desk: Desk, receiver: Receiver) -> None:
    """What was told stays told over a restart, and what happened in between is told after it."""
    desk.client.open("S1")
    desk.client.end("S1")
    desk.tell()
    desk.client.open("S2")
    desk.client.end("S2")
    desk.restarted()
    desk.tell()
    desk.tell()
    assert receiver.said() == [("done", "S1"), ("done", "S2")]


@pytest.mark.parametrize("status", [500, 404, 302])
def test_a_receiver_that_does_not_take_it_is_asked_again_later(
    desk: Desk, receiver: Receiver, status: int, capfd: pytest.CaptureFixture[str]
) -> None:
    """Anything but a success is tried again, after pauses that grow to an hour, for a day; a redirect is not followed."""
    desk.client.open()
    desk.client.end()
    receiver.status = status
    tries: list[float] = []
    begun = desk.clock.wall()
    while not tries or desk.next_at() is not None:
        tries.append(desk.clock.wall() - begun)
        desk.tell()
        assert len(receiver.posts) == len(tries)
        desk.clock.advance(4.9)
        desk.tell()
        assert len(receiver.posts) == len(tries)
        desk.clock.advance((desk.next_at() or desk.clock.wall()) - desk.clock.wall())
    pauses = [later - earlier for earlier, later in pairwise(tries)]
    assert pauses[:4] == pytest.approx([5.0, 10.0, 20.0, 40.0])
    assert max(pauses) == pytest.approx(3600.0)
    assert 86_400 <= tries[-1] <= 86_400 + 3_600
    logged = capfd.readouterr().err
    assert "hub_notice_given_up" in logged
    assert f"answered {status}" in logged
    assert "geheim" not in logged
    assert "/hook" not in logged


def test_it_is_told_when_the_receiver_is_back(desk: Desk, receiver: Receiver) -> None:
    """A delayed notice arrives once the receiver takes it, also after a restart of the hub, and then no more."""
    desk.client.open()
    desk.client.end()
    receiver.status = 503
    desk.tell()
    receiver.status = 200
    desk.restarted()
    desk.tell()
    assert len(receiver.posts) == 1
    desk.clock.advance(5.0)
    desk.tell()
    desk.clock.advance(86_400.0)
    desk.tell()
    assert [post["id"] for post in receiver.posts] == ["S1/1/done"] * 2


def test_a_receiver_that_is_not_there_harms_nothing(
    data_dir: Path, client: Client, clock: VirtualClock, capfd: pytest.CaptureFixture[str]
) -> None:
    """A refused connection is a delay, and the log names the host alone."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    port = server.server_port
    server.server_close()
    desk = Desk(data_dir, client, clock, f"http://127.0.0.1:{port}")
    desk.tell()
    client.open()
    client.end()
    assert desk.tell() > 0
    logged = capfd.readouterr().err
    assert f"127.0.0.1:{port}" in logged
    assert "geheim" not in logged
    desk.notifier.close()
    desk.store.close()


def test_last_year_is_not_told(
    data_dir: Path, client: Client, clock: VirtualClock, receiver: Receiver
) -> None:
    """What ended or fell silent before a webhook was named, or while none was, is never told."""
    for name, end in (("S1", True), ("S2", False)):
        client.open(name)
        if end:
            client.end(name)
    clock.advance(2000.0)
    desk = Desk(data_dir, client, clock, receiver.url)
    desk.tell()
    forget_webhook(desk.store.database)
    client.open("S3")
    client.end("S3")
    clock.advance(2000.0)
    desk.restarted()
    desk.tell()
    assert receiver.posts == []
    client.open("S4")
    client.end("S4")
    desk.tell()
    assert receiver.said() == [("done", "S4")]
    desk.notifier.close()
    desk.store.close()


def test_a_running_hub_tells_its_webhook(data_dir: Path, receiver: Receiver) -> None:
    """A hub that was started with a webhook tells what ended while it was down, under its own address."""
    terms = Terms(notify=f"{receiver.url}/hook")
    with running(data_dir, terms=terms) as hub:
        client = Client(hub.url)
        client.open()
        client.http.close()
    store = Store(data_dir)
    with store.database.writing() as connection:
        for table in ("sessions", "attempts"):
            connection.exec_driver_sql(
                f"UPDATE {table} SET state = 'done', outcome = 'finished', ended_at = 9e9"
            )
    store.close()
    with running(data_dir, terms=terms) as hub, receiver.came:
        assert receiver.came.wait_for(lambda: receiver.posts, timeout=60)
        assert receiver.posts[0]["session"]["url"] == f"{hub.url}/models/S1"


@pytest.mark.parametrize(
    "url",
    [
        "hooks.example/geheim",
        "ftp://h/geheim",
        "https:///geheim",
        "http://h/ge heim",
        "http://u:geheim@h/",
        "http://[x/geheim",
    ],
)
def test_an_address_that_is_none_is_refused_without_repeating_it(url: str) -> None:
    """A webhook's address is http or https with a host; the error does not show what may be a secret."""
    with pytest.raises(UsageError) as caught:
        target_of(url)
    assert "geheim" not in str(caught.value)


def test_no_word_about_a_webhook_shows_its_secret() -> None:
    """Neither the terms of a hub nor a webhook show the address when they are printed."""
    assert "geheim" not in repr(Terms(notify="https://hooks.example/geheim"))
    assert repr(target_of("https://hooks.example:8443/geheim?x=geheim")) == "<webhook at hooks.example:8443>"
