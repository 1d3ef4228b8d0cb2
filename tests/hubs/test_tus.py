"""Large uploads to one's own hub: what was cut goes on, whoever died, and small ones are sent in one request."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cutter import Cutter
from parcels import SESSION, checkpoint, opening
from scripted import Request, Says, ScriptedHub, foreign_hub, own_hub

from hubstate import archive
from hubstate.archive import sha256_of
from hubstate.hubs import tus
from hubstate.hubs.base import Accepted, Declined, Delayed
from hubstate.hubs.fetch import Source
from hubstate.hubs.hub_v1 import HubV1
from hubstate.server.running import RunningHub, running
from hubstate.states import CheckpointKind

Connect = Callable[..., HubV1]
Serve = Callable[..., ScriptedHub]
#: So much that what lies in buffers when a wire is cut (about 1 MB, which the hub never reads) is little of it.
SIZE = 4 * tus.LEAST + 123_457


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningHub]:
    with running(tmp_path / "hub") as hub:
        yield hub


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A snapshot that is worth going on with."""
    path = tmp_path / "last-000003-1-1.pt"
    path.write_bytes(random.Random(5).randbytes(SIZE))
    return path


def stored(server: RunningHub) -> list[tuple[CheckpointKind, int, str]]:
    source = Source(server.url, None)
    found = source.session(SESSION).checkpoints
    source.close()
    return [(file.kind, file.size, file.sha256) for file in found]


def test_a_large_file_arrives_and_is_confirmed(server: RunningHub, connect: Connect, large: Path) -> None:
    """Twice delivered it lies there once, with the digest that was sent; the bytes count as moved."""
    client = connect(server.url, None)
    client.deliver(opening())
    parcel = checkpoint(large)
    before = client.moved
    for _ in range(2):
        reply = client.deliver(parcel)
        assert isinstance(reply, Accepted)
        assert reply.sha256 == parcel.sha256
    assert SIZE < client.moved - before < SIZE + 1000
    assert stored(server) == [(CheckpointKind.LAST, SIZE, parcel.sha256)]
    assert client.capabilities.resumable


def test_a_connection_that_is_cut_costs_the_rest_and_not_the_whole(
    server: RunningHub, connect: Connect, large: Path
) -> None:
    """Cut at 90 %, an upload goes on there, though the client that began it is gone and remembers nothing."""
    parcel = checkpoint(large)
    with Cutter(server.url) as wire:
        first = connect(wire.url, None)
        first.deliver(opening())
        wire.budget, wire.passed = SIZE * 9 // 10, 0
        reply = first.deliver(parcel)
        assert isinstance(reply, Delayed)
        assert reply.condition == "offline"
        first.close()
        wire.budget, wire.passed = None, 0
        assert isinstance(connect(wire.url, None).deliver(parcel), Accepted)
        assert wire.passed < SIZE * 2 // 10
    assert stored(server) == [(CheckpointKind.LAST, SIZE, parcel.sha256)]


def test_it_goes_on_at_a_hub_that_was_started_again(connect: Connect, large: Path, tmp_path: Path) -> None:
    """The hub's restart costs as little as the client's."""
    parcel = checkpoint(large)
    with running(tmp_path / "hub") as server, Cutter(server.url) as wire:
        client = connect(wire.url, None)
        client.deliver(opening())
        wire.budget = SIZE * 9 // 10
        assert isinstance(client.deliver(parcel), Delayed)
    with running(tmp_path / "hub") as server, Cutter(server.url) as wire:
        assert isinstance(connect(wire.url, None).deliver(parcel), Accepted)
        assert wire.passed < SIZE * 2 // 10
        assert stored(server) == [(CheckpointKind.LAST, SIZE, parcel.sha256)]


def test_an_upload_that_was_swept_begins_anew(server: RunningHub, connect: Connect, large: Path) -> None:
    """What the hub threw away meanwhile is sent again."""
    parcel = checkpoint(large)
    with Cutter(server.url) as wire:
        client = connect(wire.url, None)
        client.deliver(opening())
        wire.budget = SIZE // 2
        assert isinstance(client.deliver(parcel), Delayed)
        for file in (server.data_dir / "incoming").iterdir():
            file.unlink()
        wire.budget = None
        assert isinstance(client.deliver(parcel), Accepted)
    assert stored(server) == [(CheckpointKind.LAST, SIZE, parcel.sha256)]


def test_bytes_that_were_spoilt_are_sent_again(connect: Connect, large: Path, tmp_path: Path) -> None:
    """A digest that does not fit is no refusal: nothing is kept, and the next try sends all of it."""
    parcel = checkpoint(large)
    with running(tmp_path / "hub") as server, Cutter(server.url) as wire:
        client = connect(wire.url, None)
        client.deliver(opening())
        wire.budget = SIZE // 2
        assert isinstance(client.deliver(parcel), Delayed)
    (half,) = (tmp_path / "hub" / "incoming").glob("*.upload")
    with half.open("r+b") as file:
        file.write(b"spoilt")
    with running(tmp_path / "hub") as server:
        client = connect(server.url, None)
        reply = client.deliver(parcel)
        assert isinstance(reply, Delayed)
        assert (reply.condition, reply.status) == ("hub_failing", 422)
        assert isinstance(client.deliver(parcel), Accepted)
        assert stored(server) == [(CheckpointKind.LAST, SIZE, parcel.sha256)]


def test_a_folder_goes_as_one_file(server: RunningHub, connect: Connect, tmp_path: Path) -> None:
    """A folder arrives as an archive with the digest that was told, in one request or, if it is large, in parts."""
    client = connect(server.url, None)
    client.deliver(opening())
    for name, size, kind in (("small", 1000, CheckpointKind.LAST), ("large", SIZE, CheckpointKind.BEST)):
        folder = tmp_path / name
        (folder / "sub").mkdir(parents=True)
        (folder / "sub" / "model.safetensors").write_bytes(random.Random(7).randbytes(size))
        (folder / "config.json").write_text("{}")
        parcel = checkpoint(folder, kind, sha256=sha256_of(folder))
        reply = client.deliver(parcel)
        assert isinstance(reply, Accepted)
        assert (reply.sha256, reply.not_taken) == (parcel.sha256, "")
        source = Source(server.url, None)
        file = next(file for file in source.session(SESSION).checkpoints if file.kind is kind)
        source.close()
        assert (file.folder, file.sha256) == (True, parcel.sha256)
        assert ".tar?" in file.url


def test_another_hub_takes_no_folder(serve: Serve, connect: Connect, tmp_path: Path) -> None:
    """A hub that does not say that it takes folders gets none, and the receipt tells so."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").write_text("a")
    for script in (foreign_hub, own_hub):
        reply = connect(serve(script).url).deliver(checkpoint(tmp_path / "folder", sha256="0" * 64))
        assert isinstance(reply, Accepted)
        assert "no folders" in reply.not_taken


def test_a_folder_that_cannot_be_read_is_declined(
    server: RunningHub, connect: Connect, tmp_path: Path
) -> None:
    """A kept folder that somebody emptied ends its delivery with the reason."""
    client = connect(server.url, None)
    client.deliver(opening())
    (tmp_path / "folder").mkdir()
    reply = client.deliver(checkpoint(tmp_path / "folder", sha256="0" * 64))
    assert isinstance(reply, Declined)
    assert "without a file" in reply.reason


# -- hubs that answer oddly ----------------------------------------------------------------------------------


def resuming(answers: dict[str, Says]) -> Callable[[Request], Says]:
    """One's own hub that takes uploads in parts, and answers some methods by a script."""

    def script(request: Request) -> Says:
        if request.path == "/v1/auth":
            return Says(body={"success": True, "hubstate": 1, "data": {"tus": "1.0.0"}})
        name = request.method if request.method != "POST" else request.path.rpartition("/")[2]
        if name in answers:
            return answers[name]
        if name == "uploads":
            return Says(201, {"success": True}, (("Location", f"http://evil.example{request.path}/u1"),))
        if name == "HEAD":
            return Says(200, b"", (("Upload-Offset", "0"),))
        if name == "PATCH":
            return Says(204, headers=(("Upload-Offset", str(request.size)),))
        if name == "u1":
            return Says(body={"success": True, "data": {"sha256": request.json["sha256"]}, "hubstate": {}})
        return own_hub(request)

    return script


def delivered(
    serve: Serve, connect: Connect, large: Path, answers: dict[str, Says]
) -> tuple[Any, ScriptedHub]:
    hub = serve(resuming(answers))
    return connect(hub.url).deliver(checkpoint(large)), hub


def test_the_place_is_asked_at_the_hub_alone(serve: Serve, connect: Connect, large: Path) -> None:
    """Whatever host an answer names, bytes and key go to the hub that is set, under the delivery's key."""
    reply, hub = delivered(serve, connect, large, {})
    assert isinstance(reply, Accepted)
    model = f"/v1/models/{SESSION}/uploads"
    assert [(r.method, r.path) for r in hub.requests[1:]] == [
        ("POST", model),
        ("HEAD", f"{model}/u1"),
        ("PATCH", f"{model}/u1"),
        ("POST", f"{model}/u1"),
    ]
    assert hub.requests[3].sha256 == hashlib.sha256(large.read_bytes()).hexdigest()
    assert len({hub.requests[n].headers["idempotency-key"] for n in (1, 4)}) == 1
    assert all(request.headers["tus-resumable"] == "1.0.0" for request in hub.requests[1:4])


@pytest.mark.parametrize(
    "answers",
    [
        {"uploads": Says(201, {})},
        {"uploads": Says(201, {}, (("Location", "/x/a b"),))},
        {"uploads": Says(503, {})},
        {"uploads": Says(drop=True)},
        {"HEAD": Says(404, b"")},
        {"HEAD": Says(200, b"")},
        {"HEAD": Says(200, b"", (("Upload-Offset", "99999999999"),))},
        {"HEAD": Says(drop=True)},
        {"PATCH": Says(404, {"success": False})},
        {"PATCH": Says(409, {"success": False})},
        {"PATCH": Says(204)},
        {"PATCH": Says(204, headers=(("Upload-Offset", "5"),))},
        {"PATCH": Says(200, {"success": True})},
        {"PATCH": Says(507, {"success": False, "message": "full"})},
        {"PATCH": Says(drop=True)},
        {"u1": Says(404, {"success": False})},
        {"u1": Says(409, {"success": False})},
        {"u1": Says(422, {"success": False, "error": "digest_mismatch"})},
        {"u1": Says(200, b"<html>")},
        {"u1": Says(200, {"success": True, "data": {"sha256": "0" * 64}})},
    ],
)
def test_what_is_no_receipt_is_repeated(
    serve: Serve, connect: Connect, large: Path, answers: dict[str, Says]
) -> None:
    """Whatever is odd on the way of an upload, it counts for nothing, and is tried again from where it stands."""
    reply, _ = delivered(serve, connect, large, answers)
    assert isinstance(reply, Delayed), reply


@pytest.mark.parametrize(
    "answers",
    [{"uploads": Says(405, {})}, {"HEAD": Says(501, b"")}, {"PATCH": Says(405, b"<html>not here")}],
    ids=["POST", "HEAD", "PATCH"],
)
def test_where_such_requests_do_not_pass_one_form_does(
    serve: Serve, connect: Connect, large: Path, answers: dict[str, Says]
) -> None:
    """A proxy that knows fewer methods than the hub costs the parts, and not the file; it is not tried again."""
    forms: list[str] = []

    def script(request: Request) -> Says:
        if request.path.endswith("/upload"):
            forms.append(request.sha256)
            return Says(body={"success": True, "data": {"sha256": checkpoint(large).sha256}, "hubstate": {}})
        return resuming(answers)(request)

    hub = serve(script)
    client = connect(hub.url)
    assert isinstance(client.deliver(checkpoint(large)), Accepted)
    asked = len(hub.requests)
    assert isinstance(client.deliver(checkpoint(large)), Accepted)
    assert (len(forms), len(hub.requests)) == (2, asked + 1)


@pytest.mark.parametrize("name", ["uploads", "u1"])
def test_a_refusal_is_final(serve: Serve, connect: Connect, large: Path, name: str) -> None:
    """A hub that says that it will never take this file is believed, before a byte was sent or after."""
    refused = Says(413, {"success": False, "message": "too large"})
    reply, hub = delivered(serve, connect, large, {name: refused})
    assert isinstance(reply, Declined)
    assert (reply.reason, reply.status) == ("too large", 413)
    assert len(hub.of("uploads")) == 1


def test_a_key_that_is_refused_is_told(serve: Serve, connect: Connect, large: Path) -> None:
    """401 at any of the requests is a matter of the key, and not of the file."""
    for name in ("uploads", "HEAD", "PATCH", "u1"):
        body = b"" if name == "HEAD" else {"success": False, "message": "revoked"}
        reply, _ = delivered(serve, connect, large, {name: Says(401, body)})
        assert isinstance(reply, Delayed)
        assert reply.condition == "credentials_rejected", name


def test_a_receipt_from_before_is_believed(serve: Serve, connect: Connect, large: Path) -> None:
    """A hub that took this delivery before says so at once, and nothing is sent."""
    sha256 = hashlib.sha256(large.read_bytes()).hexdigest()
    before = Says(200, {"success": True, "data": {"sha256": sha256}}, (("Idempotent-Replayed", "true"),))
    reply, hub = delivered(serve, connect, large, {"uploads": before})
    assert isinstance(reply, Accepted)
    assert [request.method for request in hub.requests] == ["POST", "POST"]


def test_a_file_that_cannot_be_read_is_declined(
    serve: Serve, connect: Connect, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fails while a kept file is sent ends its delivery with the reason."""
    parcel = checkpoint(large)

    def failing(_fd: int, _size: int, offset: int) -> bytes:
        if offset > 1_000_000:
            raise OSError(5, "Input/output error")
        return bytes(100_000)

    monkeypatch.setattr(archive.os, "pread", failing)
    reply = connect(serve(resuming({})).url).deliver(parcel)
    assert isinstance(reply, Declined)
    assert "cannot be read any more: Input/output error" in reply.reason
