"""What a hub tells of a session: taken only as far as it can be true, and never more than was asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from parcels import KEY, SESSION
from scripted import Request, Says, ScriptedHub

from hubstate.clock import VirtualClock
from hubstate.errors import HubRefused, HubUnreachable, SessionNotFound
from hubstate.hubs.fetch import Known, Source, StoredFile

Serve = Callable[..., ScriptedHub]
GOOD: dict[str, Any] = {
    "id": SESSION,
    "name": "digits",
    "state": "aborted",
    "outcome": "failed",
    "attempt": 2,
    "delivered": 3,
    "attempts": [{"attempt": 2, "first_epoch": 1, "opened_at": 5.0, "ended_at": None, "state": "aborted"}],
    "checkpoints": [],
}
FILE: dict[str, Any] = {
    "kind": "last", "epoch": 1, "attempt": 1, "size": 3, "sha256": "0" * 64, "url": "http://x/v1/files/a",
}  # fmt: skip


def asked(serve: Serve, says: Says, **options: Any) -> Known:
    hub = serve(lambda _request: says)
    source = Source(hub.url, KEY, **options)
    try:
        return source.session(SESSION)
    finally:
        source.close()


def telling(**changes: Any) -> Says:
    body = {"success": True, "data": GOOD | changes, "hubstate": {"url": "https://hub.test/models/1"}}
    return Says(body=body)


def test_what_it_tells_is_taken(serve: Serve) -> None:
    """Names, numbers and files come through; what nobody asks for is passed over."""
    known = asked(serve, telling(checkpoints=[FILE], something="new"))
    assert (known.id, known.attempt, known.delivered, known.url) == (
        SESSION,
        2,
        3,
        "https://hub.test/models/1",
    )
    assert known.hub.startswith("http://127.0.0.1:")
    assert (known.checkpoints[0].size, known.checkpoints[0].folder) == (3, False)


def test_texts_are_fit_for_a_terminal(serve: Serve) -> None:
    """A name with control characters loses them, and an empty one is replaced by the id."""
    assert asked(serve, telling(name="a\x1b[2Jb\nc", reason="x\x07")).name == "a[2Jb c"
    assert asked(serve, telling(name="\x1b")).name == SESSION


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "another"},
        {"state": "asleep"},
        {"outcome": None},
        {"attempt": 0},
        {"attempt": "2"},
        {"delivered": -1},
        {"name": ""},
        {"checkpoints": None},
        {"checkpoints": [FILE | {"sha256": "../../etc/passwd"}]},
        {"checkpoints": [FILE | {"size": -1}]},
        {"checkpoints": [FILE | {"kind": "../x"}]},
        {"checkpoints": [FILE | {"epoch": -1}]},
    ],
)
def test_what_cannot_be_is_refused(serve: Serve, changes: dict[str, Any]) -> None:
    """A hub that does not answer as one's own does is refused, with the reason."""
    with pytest.raises(HubRefused, match=r"told of another|does not tell what it holds"):
        asked(serve, telling(**changes))


@pytest.mark.parametrize(
    ("says", "error"),
    [
        (Says(404, {"success": False, "message": "no such session"}), SessionNotFound),
        (Says(401, {"success": False}), HubRefused),
        (Says(403, {"success": False}), HubRefused),
        (Says(400, {"success": False}), HubRefused),
        (Says(429, {"success": False}), HubUnreachable),
        (Says(503, {"success": False}), HubUnreachable),
        (Says(200, b"<html>log in</html>"), HubUnreachable),
        (Says(302, {}, (("Location", "http://elsewhere.test"),)), HubUnreachable),
        (Says(drop=True), HubUnreachable),
    ],
)
def test_each_answer_has_its_error(serve: Serve, says: Says, error: type[Exception]) -> None:
    """No such session, no such key, not just now: each is told apart, and the key is never told."""
    with pytest.raises(error) as told:
        asked(serve, says)
    assert type(told.value) is error
    assert KEY not in str(told.value)


def test_a_hub_that_says_nothing_is_unreachable_in_time(serve: Serve) -> None:
    """Whoever accepts and never answers has its patience, and no more."""
    with pytest.raises(HubUnreachable, match=r"0\.2 s"):
        asked(serve, Says(mute=True), patience=0.2)


def test_a_drip_has_no_more_time(serve: Serve) -> None:
    """An answer that comes byte by byte is over when its time is."""
    with pytest.raises(HubUnreachable, match=r"0\.3 s"):
        asked(serve, Says(200, b"{}" * 500, drip=0.05), patience=0.3)


def test_the_key_goes_with_the_question(serve: Serve) -> None:
    """The hub that is set is asked with its key, once."""
    requests: list[Request] = []

    def script(request: Request) -> Says:
        requests.append(request)
        return telling()

    source = Source(serve(script).url, KEY)
    source.session(SESSION)
    source.close()
    assert [(r.method, r.path, r.headers["x-api-key"]) for r in requests] == [
        ("GET", f"/v1/models/{SESSION}", KEY)
    ]


def stored(size: int) -> StoredFile:
    return msgspec.convert(FILE | {"size": size}, StoredFile)


@pytest.mark.parametrize(
    "says",
    [Says(200, b"x" * 1000, drip=0.05), Says(mute=True), Says(drop=True), Says(503, {}), Says(204)],
    ids=["drip", "mute", "drop", "failing", "empty"],
)
def test_a_file_that_does_not_come_is_given_up(serve: Serve, tmp_path: Path, says: Says) -> None:
    """Less than 64 KiB within the patience is no progress, and neither is an answer without bytes."""
    source = Source(serve(lambda _request: says).url, KEY, patience=0.2)
    with pytest.raises(HubUnreachable, match="0 of 1000 bytes came"):
        source.fetch(stored(1000), tmp_path / "got", VirtualClock())
    source.close()


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_file_that_is_gone_is_told(serve: Serve, tmp_path: Path, status: int) -> None:
    """A file that was replaced, or whose address is too old, is nobody's fault: its address is asked for anew."""
    source = Source(serve(lambda _request: Says(status, {"success": False})).url, KEY)
    assert not source.fetch(stored(1000), tmp_path / "got", VirtualClock())
    source.close()


def test_a_file_that_is_refused_is_told(serve: Serve, tmp_path: Path) -> None:
    """Another refusal is the hub's last word."""
    source = Source(serve(lambda _request: Says(400, {"message": "never"})).url, KEY)
    with pytest.raises(HubRefused, match="never"):
        source.fetch(stored(1000), tmp_path / "got", VirtualClock())
    source.close()


def test_a_hub_that_knows_no_parts_sends_the_whole_again(serve: Serve, tmp_path: Path) -> None:
    """A cut download whose rest nobody sends begins again, and is whole in the end."""
    data = bytes(range(256)) * 1000
    half = Says(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 256000\r\n\r\n" + data[:150_000])
    hub = serve(lambda _request: Says(200, data))
    hub.then("a", half)
    source = Source(hub.url, KEY)
    file = msgspec.structs.replace(stored(len(data)), sha256=hashlib.sha256(data).hexdigest())
    assert source.fetch(file, tmp_path / "got", VirtualClock())
    assert (tmp_path / "got").read_bytes() == data
    assert hub.requests[1].headers["range"] == "bytes=150000-"
    source.close()
