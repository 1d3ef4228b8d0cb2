"""The wire under a bad network: silence, drips, breaks, redirects, proxies; no key and no foreign error comes through."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from parcels import KEY, SESSION, checkpoint, heartbeat, opening, row, rows, usage
from scripted import Request, Says, ScriptedHub, foreign_hub, own_hub

from hubstate.errors import UsageError
from hubstate.hubs import open_hub
from hubstate.hubs.base import Accepted, Declined, Delayed
from hubstate.hubs.deadlines import Watch
from hubstate.hubs.hub_v1 import HubV1

Serve = Callable[..., ScriptedHub]
Connect = Callable[..., HubV1]

PEM = Path(__file__).with_name("loopback.pem")
#: Short patience for what never comes; and patience for single pieces, with a short time for all of them.
SHORT: dict[str, Any] = {"read_timeout": 0.2}
DEADLINE: dict[str, Any] = {"total_timeout": 0.4}


def uploads(client: HubV1) -> Watch:
    """The watch over the uploads of a client that has greeted its hub with patience."""
    assert isinstance(client.check(), Accepted)
    return client._wire._lines[1].watch


def secure() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(PEM)
    return context


def offline(reply: object, *words: str) -> None:
    assert isinstance(reply, Delayed)
    assert reply.condition == "offline"
    assert all(word in reply.reason for word in words), reply.reason
    for foreign in ("urllib3", "HTTPConnection", "object at", "Errno", KEY, "/v1/", "Error("):
        assert foreign not in reply.reason
    assert len(reply.reason) < 200


# -- no answer ---------------------------------------------------------------------------------------------


def test_a_closed_port_is_said_to_refuse(connect: Connect) -> None:
    """The reason names host and cause."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        host = f"127.0.0.1:{free.getsockname()[1]}"
    reply = connect(f"http://{host}").deliver(opening())
    assert reply == Delayed("offline", f"connection refused by {host}", news=reply.news)


def test_an_unknown_name_is_said_to_be_unknown(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that nobody knows is told apart from a hub that does not answer."""

    def nobody(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nobody)
    offline(connect("http://hub.invalid:8765").check(), "the name of hub.invalid:8765 is not known")


@pytest.mark.promise("D7")
def test_a_silent_hub_is_given_up(serve: Serve, connect: Connect) -> None:
    """A hub that takes the request and never answers holds nobody for ever."""
    hub = serve(lambda _: Says(mute=True))
    offline(connect(hub.url, **SHORT).check(), f"no answer from {hub.host} within 0.2 s")


def test_a_full_backlog_is_given_up(connect: Connect) -> None:
    """A hub that does not even take connections is given up after the time for that."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        host, port = server.getsockname()
        fillers = [socket.socket() for _ in range(8)]
        try:
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex((host, port))
            reply = connect(f"http://{host}:{port}", **SHORT, connect_timeout=0.2).check()
        finally:
            for filler in fillers:
                filler.close()
    offline(reply, f"{host}:{port}", "within 0.")


@pytest.mark.promise("D7")
@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("part", ["headers", "body", "interim"])
def test_a_drip_does_not_pass_the_deadline(
    serve: Serve, connect: Connect, monkeypatch: pytest.MonkeyPatch, part: str, tls: bool
) -> None:
    """A byte now and then, in headers, body or interim answers, is over when the time for all of it is."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(PEM))
    if part == "headers":
        slow = Says(headers=(("X-Filler", "x" * 100_000),), drip=0.05)
    elif part == "body":
        slow = Says(raw=b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + b" " * 100_000, drip=0.01)
    else:
        slow = Says(raw=b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000, drip=0.005)
    hub = serve(lambda _: slow, tls=secure() if tls else None)
    offline(connect(hub.url, **DEADLINE).check(), f"no whole answer from {hub.host} within 0.4 s")


@pytest.mark.promise("P8")
def test_an_upload_that_does_not_move_is_given_up(serve: Serve, connect: Connect, tmp_path: Path) -> None:
    """A hub that stops reading ends the try; nothing waits for the rest of the file."""
    big = tmp_path / "big.pt"
    with big.open("wb") as made:
        made.truncate(64_000_000)
    hub = serve()
    hub.then("/upload", Says(stalls_after=1000))
    client = connect(hub.url)
    uploads(client).patience = 0.2
    reply = client.deliver(checkpoint(big, sha256="00" * 32))
    offline(reply, f"the upload to {hub.host} moved less than 64 KiB in 0.2 s")
    assert 0 < client.moved < 64_000_000
    assert isinstance(client.deliver(usage()), Accepted)


def test_the_answer_to_an_upload_has_a_deadline(serve: Serve, connect: Connect, file: Path) -> None:
    """Once the file has left, the answer may not drip for ever either."""
    hub = serve()
    hub.then("/upload", Says(headers=(("X-Filler", "x" * 100_000),), drip=0.02))
    client = connect(hub.url)
    uploads(client).total = 0.4
    offline(client.deliver(checkpoint(file)), f"no whole answer from {hub.host} within 0.4 s")


def test_a_large_upload_may_take_longer_than_the_deadline_of_words(
    serve: Serve, connect: Connect, tmp_path: Path
) -> None:
    """An upload that moves is not cut off by the time that words have."""
    moments = iter(range(0, 10_000_000, 5))
    client = connect((hub := serve()).url)
    watch = uploads(client)
    watch._monotonic = lambda: float(next(moments))  # every look at the clock is 5 s later
    watch.patience, watch.total = 30.0, 60.0
    big = tmp_path / "big.pt"
    big.write_bytes(b"x" * 1_900_000)
    assert isinstance(client.deliver(checkpoint(big)), Accepted)
    assert next(moments) > 60
    assert hub.of("/upload")[0].size > 1_900_000


@pytest.mark.promise("C15")
@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 20000 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{}",
        b"HTTP/1.1 200 OK",
    ],
)
def test_what_is_no_whole_answer_is_none(serve: Serve, connect: Connect, raw: bytes) -> None:
    """Broken or foreign answers are a try in vain, whatever they hold."""
    hub = serve()
    hub.then("/v1/auth", Says(raw=raw))
    client = connect(hub.url)
    reply = client.deliver(opening())
    assert isinstance(reply, Delayed)
    assert hub.host in reply.reason
    assert "Error" not in reply.reason
    assert isinstance(client.deliver(opening()), Accepted)


def test_a_dropped_connection_is_opened_anew(serve: Serve, connect: Connect) -> None:
    """A connection that the hub closed meanwhile costs no delivery."""
    hub = serve()
    client = connect(hub.url)
    hub.then("/v1/auth", Says(body={"success": True, "hubstate": 1}, headers=(("Connection", "close"),)))
    assert isinstance(client.deliver(opening()), Accepted)
    hub.then("/v1/models", Says(drop=True))
    offline(client.deliver(opening()), f"{hub.host} closed the connection")
    assert isinstance(client.deliver(opening()), Accepted)


def test_an_endless_answer_is_none(serve: Serve, connect: Connect) -> None:
    """More than 4 MB is no answer, and what is left of it does not become the next one."""
    hub = serve()
    hub.then("/v1/models", Says(200, b"[" * 9_000_000))
    client = connect(hub.url)
    reply = client.deliver(opening())
    assert isinstance(reply, Delayed)
    assert (reply.condition, "longer than 4 MB" in reply.reason) == ("hub_failing", True)
    assert isinstance(client.deliver(opening()), Accepted)


def test_who_expects_a_longer_answer_can_say_so(serve: Serve, connect: Connect) -> None:
    """What counts as too long is the asker's to say, to the byte."""
    hub = serve(lambda _: Says(200, b"{" + b" " * 5_000_000 + b"}"))
    wire = connect(hub.url)._wire
    assert isinstance(wire.send("/x", method="GET", most=5_000_001), Delayed)
    assert wire.send("/x", method="GET", most=5_000_002)[2] == {}
    assert hub.requests[0].method == "GET"


def test_an_early_refusal_of_an_upload_is_heard(serve: Serve, connect: Connect, tmp_path: Path) -> None:
    """A hub that answers before it has read the file is understood; the next upload gets a connection of its own."""
    big = tmp_path / "big.pt"
    with big.open("wb") as made:
        made.truncate(64_000_000)
    hub = serve()
    hub.then("/upload", Says(413, {"message": "at most 10 MB"}, early=True))
    client = connect(hub.url)
    reply = client.deliver(checkpoint(big, sha256="00" * 32))
    assert reply == Declined("at most 10 MB", 413, news=reply.news)
    small = tmp_path / "small.pt"
    small.write_bytes(b"small")
    assert isinstance(client.deliver(checkpoint(small)), Accepted)
    assert hub.connections == 2


@pytest.mark.promise("C15")
@pytest.mark.parametrize("script", [own_hub, foreign_hub])
def test_a_success_before_the_whole_file_was_sent_does_not_count(
    serve: Serve, connect: Connect, tmp_path: Path, script: Any
) -> None:
    """No answer acknowledges bytes that never left."""
    big = tmp_path / "big.pt"
    with big.open("wb") as made:
        made.truncate(64_000_000)
    hub = serve(script)
    hub.then("/upload", Says(200, {"data": {"sha256": "00" * 32}}, early=True))
    reply = connect(hub.url).deliver(checkpoint(big, sha256="00" * 32))
    assert isinstance(reply, Delayed)
    assert reply.condition == "hub_failing"


@pytest.mark.promise("P8")
def test_a_file_that_shrinks_meanwhile_ends_the_try(
    serve: Serve, connect: Connect, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is shorter than when it was opened is declined; the hub is not kept waiting for the rest."""
    hub = serve()
    client = connect(hub.url)
    client.check()
    real = client._wire.send

    def shrink(path: str, *rest: Any, **named: Any) -> Any:
        with file.open("r+b") as opened:
            opened.truncate(1000)
        return real(path, *rest, **named)

    monkeypatch.setattr(client._wire, "send", shrink)
    reply = client.deliver(checkpoint(file))
    assert isinstance(reply, Declined)
    assert "1000 bytes" in reply.reason
    assert not hub.of("/upload")
    assert isinstance(client.deliver(usage()), Accepted)


# -- redirects, pages, and what sits between ---------------------------------------------------------------


@pytest.mark.promise("D31")
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_refused(serve: Serve, connect: Connect, status: int) -> None:
    """No redirect is followed; the reason names the place to set instead, and nothing else of it."""
    target, hub = serve(), serve()
    place = f"{target.url}/secret/path?token={KEY}"
    hub.then(SESSION, Says(status, b"moved", (("Location", place),)))
    reply = connect(hub.url).deliver(rows(row(1, 0, a=1.0)))
    assert isinstance(reply, Delayed)
    assert (reply.condition, reply.status) == ("hub_failing", status)
    assert f"set {target.url} as the hub" in reply.reason
    assert "secret" not in reply.reason
    assert KEY not in reply.reason
    assert target.requests == []
    assert hub.paths() == ["/v1/auth", f"/v1/models/{SESSION}"]


@pytest.mark.parametrize("place", ["", "/elsewhere", "http://[::1", "http://h:99999/", "//\x80", "x" * 5000])
def test_a_redirect_to_nowhere_is_refused_too(serve: Serve, connect: Connect, place: str) -> None:
    """An odd place in a redirect is survived."""
    hub = serve()
    hub.then("/v1/auth", Says(302, b"", (("Location", place),)))
    reply = connect(hub.url).check()
    assert isinstance(reply, Delayed)
    assert reply.condition == "hub_failing"
    assert len(reply.reason) < 500


@pytest.mark.parametrize(
    "answer",
    [Says(200, b"<html>hotel</html>"), Says(204), Says(200, b"[]"), Says(200, b""), Says(200, b'{"a":')],
)
def test_a_page_of_someone_between_acknowledges_nothing(
    serve: Serve, connect: Connect, file: Path, answer: Says
) -> None:
    """2xx without a JSON object counts for no kind of delivery."""
    hub = serve(lambda request: own_hub(request) if request.path == "/v1/auth" else answer)
    client = connect(hub.url)
    for parcel in (opening(), rows(row(1, 0, a=1.0)), checkpoint(file), heartbeat(), usage()):
        reply = client.deliver(parcel)
        assert isinstance(reply, Delayed)
        assert reply.condition == "hub_failing"


def test_a_success_that_says_it_is_none_does_not_count(serve: Serve, connect: Connect) -> None:
    """200 with `success: false` acknowledges nothing."""
    hub = serve()
    hub.then("/usage", Says(200, {"success": False, "message": "disk full"}))
    reply = connect(hub.url).deliver(usage())
    assert isinstance(reply, Delayed)
    assert "disk full" in reply.reason


def test_cookies_are_not_kept(serve: Serve, connect: Connect) -> None:
    """Nothing that a hub leaves behind goes out again."""
    hub = serve()
    cookie = (("Set-Cookie", "track=1; Path=/"),)
    hub.then("/v1/auth", Says(200, {"success": True, "hubstate": 1}, cookie))
    connect(hub.url).deliver(opening())
    assert not any("cookie" in request.headers for request in hub.requests)


def test_a_proxy_of_the_environment_is_used(
    serve: Serve, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests for a hub elsewhere go through the proxy; a proxy that is not there is named as such."""
    proxy = serve(lambda _: Says(200, {"success": True, "hubstate": 1}))
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    assert isinstance(connect("http://hub.invalid:8765").check(), Accepted)
    assert proxy.paths() == ["http://hub.invalid:8765/v1/auth"]
    proxy.close()
    offline(connect("http://hub.invalid:8765").check(), "the proxy on the way to hub.invalid:8765")


@pytest.mark.parametrize("files", [False, True])
def test_a_proxy_that_drips_does_not_pass_the_deadline(
    serve: Serve, connect: Connect, monkeypatch: pytest.MonkeyPatch, file: Path, files: bool
) -> None:
    """The tunnel through a proxy is under the same deadline as everything else."""
    proxy = serve(lambda _: Says(raw=b"HTTP/1.1 200 OK\r\n" + b"X-Filler: x\r\n" * 10_000, drip=0.02))
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    client = connect("https://hub.invalid", **DEADLINE)
    client._greeted = files
    reply = client.deliver(checkpoint(file) if files else opening())
    offline(reply, "no whole answer from hub.invalid within 0.4 s")
    assert proxy.requests[0].method == "CONNECT"


def test_this_machine_is_asked_without_a_proxy(
    serve: Serve, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hub on loopback needs no entry in NO_PROXY, and its key meets no proxy."""
    proxy, hub = serve(), serve()
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    for address in (hub.url, f"http://localhost:{hub.port}"):
        assert isinstance(connect(address).check(), Accepted)
    assert (len(hub.requests), proxy.requests) == (2, [])


def test_certificates_are_checked(serve: Serve, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate that nobody vouches for ends the try before the key leaves; one from the environment's set is good."""
    hub = serve(tls=secure())
    offline(connect(hub.url).check(), f"the certificate of {hub.host} is not accepted", "self-signed")
    assert hub.requests == []
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(PEM))
    client = connect(hub.url)
    assert isinstance(client.deliver(opening()), Accepted)
    assert hub.connections == 2


def test_an_upload_over_tls_arrives(
    serve: Serve, connect: Connect, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Uploads move the same way over a secure connection."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(PEM))
    hub = serve(tls=secure())
    assert isinstance(connect(hub.url).deliver(checkpoint(file)), Accepted)


def test_https_to_a_plain_hub_is_said_to_be_that(serve: Serve, connect: Connect) -> None:
    """A wrong scheme is told in words that help."""
    hub = serve()
    offline(connect(f"https://{hub.host}", connect_timeout=2.0).check(), hub.host, "https")


# -- status codes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind", "condition"),
    [
        (400, Declined, ""),
        (401, Delayed, "credentials_rejected"),
        (403, Delayed, "credentials_rejected"),
        (404, Declined, ""),
        (408, Delayed, "hub_failing"),
        (409, Declined, ""),
        (413, Declined, ""),
        (418, Declined, ""),
        (422, Declined, ""),
        (425, Delayed, "hub_failing"),
        (429, Delayed, "rate_limited"),
        (499, Declined, ""),
        (500, Delayed, "hub_failing"),
        (502, Delayed, "hub_failing"),
        (503, Delayed, "hub_failing"),
        (599, Delayed, "hub_failing"),
        (600, Delayed, "hub_failing"),
        (999, Delayed, "hub_failing"),
        (101, Delayed, "hub_failing"),
    ],
)
def test_what_a_status_means(
    serve: Serve, connect: Connect, status: int, kind: type[Delayed | Declined], condition: str
) -> None:
    """Only a 4xx about the delivery itself is final; whatever may pass is tried again."""
    hub = serve()
    hub.then("/usage", Says(status, b"<html>no</html>"))
    reply = connect(hub.url).deliver(usage())
    assert type(reply) is kind
    assert getattr(reply, "condition", "") == condition
    assert reply.status == status
    assert reply.reason


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"message": "rows of a session that is over"}, "rows of a session that is over"),
        ({"message": ""}, "Not Found"),
        ({"message": "x" * 301}, "Not Found"),
        ({"message": "a\x1b[2Jb"}, "Not Found"),
        ({"message": ["x"]}, "Not Found"),
        ([], "Not Found"),
        (b"<html>nothing here</html>", "Not Found"),
    ],
)
def test_a_refusal_tells_why(serve: Serve, connect: Connect, body: Any, reason: str) -> None:
    """The hub's own words, if they are a short text; else what the status means."""
    hub = serve()
    hub.then("/usage", Says(404, body))
    reply = connect(hub.url).deliver(usage())
    assert reply == Declined(reason, 404, news=reply.news)


# -- the whole, measured -----------------------------------------------------------------------------------

_UPLOAD = """
import hashlib, pathlib, resource, sys
sys.path.insert(0, sys.argv[3])
from parcels import checkpoint, usage
from hubstate.hubs import open_hub
from hubstate.hubs.base import Accepted

hub = open_hub(sys.argv[1], None)
assert isinstance(hub.deliver(usage("m42")), Accepted)
file = pathlib.Path(sys.argv[2])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
reply = hub.deliver(checkpoint(file, model="m42", sha256="00" * 32))
assert isinstance(reply, Accepted), reply
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.promise("D22")
def test_an_upload_of_any_size_needs_little_memory(serve: Serve, tmp_path: Path) -> None:
    """1 GB leaves through a few pieces: the peak grows by less than 20 MB."""
    big = tmp_path / "big.pt"
    with big.open("wb") as made:
        made.truncate(1_000_000_000)
    hub = serve(foreign_hub)
    done = subprocess.run(
        [sys.executable, "-c", _UPLOAD, hub.url, str(big), str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) * 1024 < 20_000_000
    assert hub.of("/upload")[0].size > 1_000_000_000


def test_a_closed_client_opens_again(serve: Serve, connect: Connect) -> None:
    """Closing lets go of connections; it is no end."""
    hub = serve()
    client = connect(hub.url)
    client.check()
    client.close()
    assert isinstance(client.deliver(opening()), Accepted)
    assert hub.connections == 2


def test_a_third_thread_waits_its_turn(serve: Serve, connect: Connect) -> None:
    """Callers of one line never mix their answers, however many there are."""

    def echo(request: Request) -> Says:
        if request.path == "/v1/auth":
            return own_hub(request)
        return Says(404, {"message": request.json["what"]})

    hub = serve(echo)
    client = connect(hub.url)
    heard: list[tuple[str, str]] = []

    def ask(name: str) -> None:
        import msgspec

        for _ in range(20):
            parcel = usage()
            parcel = msgspec.structs.replace(parcel, action=msgspec.structs.replace(parcel.action, what=name))
            reply = client.deliver(parcel)
            assert isinstance(reply, Declined)
            heard.append((name, reply.reason))

    threads = [threading.Thread(target=ask, args=(f"caller {n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(heard) == 80
    assert hub.connections == 1
    assert all(name == reason for name, reason in heard)


# -- addresses and keys ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "ftp://h",
        "h:8765",
        "",
        "http://",
        "http:///x",
        "http://h:99999",
        "http://[::1",
        "http://user:word@h",
        "http://word@h",
        "http://h/?api_key=1",
        "http://h/#x",
        "http://h h",
        "http://h\n",
        "mlflowx+http://h",
    ],
)
def test_an_address_that_is_none_is_refused(address: str) -> None:
    """A wrong address is the caller's blame and told at once, without the credentials in it."""
    with pytest.raises(UsageError) as caught:
        open_hub(address, KEY)
    assert "word" not in str(caught.value)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("key", ["", "  ", "ü", "a\nb", "a\r\nX-Evil: 1"])
def test_a_key_that_no_header_can_carry_is_refused(key: str) -> None:
    """Such a key is refused at once, and not shown."""
    with pytest.raises(UsageError) as caught:
        open_hub("http://127.0.0.1:1", key)
    assert not key.strip() or key not in str(caught.value)


def test_slashes_at_the_end_of_an_address_do_not_matter(serve: Serve) -> None:
    """The address may end in slashes, and may have a path."""
    hub = serve()
    for address in (f"{hub.url}/", f"{hub.url}//", f"{hub.url}/hubs/a/"):
        client = open_hub(address, None)
        client.check()
        client.close()
    assert hub.paths() == ["/v1/auth", "/v1/auth", "/hubs/a/v1/auth"]


def test_what_a_hub_needs_is_loaded_when_one_is_opened() -> None:
    """Importing the hubs loads no `requests`; opening one does."""
    code = (
        "import sys, hubstate.hubs as h; assert 'requests' not in sys.modules; "
        "h.open_hub('http://127.0.0.1:1', None); assert 'requests' in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
