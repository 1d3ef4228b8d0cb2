"""Uploads: whole or not at all, streamed, and the newest file of each kind stays."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import os
import secrets
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from hub_client import Client
from hypothesis import given, settings
from hypothesis import strategies as st

from hubstate.clock import VirtualClock
from hubstate.server.answers import Problem
from hubstate.server.downloads import Download, open_file
from hubstate.server.running import RunningHub, running
from hubstate.server.store import Store
from hubstate.server.uploads import Receiver, digest_of_header


def repr_digest(data: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(data).digest()).decode()}:"


def stored_files(data_dir: Path) -> list[Path]:
    return [path for path in (data_dir / "files").rglob("*") if path.is_file()]


def incoming(data_dir: Path) -> list[Path]:
    return list((data_dir / "incoming").iterdir())


def by_kind(client: Client, model: str = "S1") -> dict[str, tuple[int, int, str]]:
    return {
        file["kind"]: (file["attempt"], file["epoch"], file["sha256"])
        for file in client.model(model)["checkpoints"]
    }


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("size", [0, 1, 65_536, 3_000_001])
def test_bytes_come_back_as_they_were_sent(client: Client, data_dir: Path, size: int) -> None:
    """A checkpoint of any size is stored under its digest, and its address gives the bytes without any key."""
    client.open()
    data = os.urandom(size)
    answer = client.upload(data, epoch=3, digest=repr_digest(data))
    assert answer.json()["data"] == {"kind": "last", "size": size, "sha256": sha(data), "kept": True}
    (file,) = client.model()["checkpoints"]
    assert (file["kind"], file["epoch"], file["attempt"], file["size"]) == ("last", 3, 1, size)
    got = requests.get(file["url"], timeout=30)
    assert (got.status_code, got.content) == (200, data)
    assert got.headers["Repr-Digest"] == repr_digest(data)
    assert got.headers["Content-Length"] == str(size)
    assert urlsplit(file["url"]).path.endswith(".pt")
    assert incoming(data_dir) == []


def test_a_part_of_a_file_can_be_asked_for(client: Client) -> None:
    """A Range is answered 206 with those bytes, and HEAD with the length."""
    client.open()
    client.upload(b"0123456789")
    url = client.model()["checkpoints"][0]["url"]
    part = requests.get(url, headers={"Range": "bytes=3-5"}, timeout=30)
    assert (part.status_code, part.content, part.headers["Content-Range"]) == (206, b"345", "bytes 3-5/10")
    head = requests.head(url, timeout=30)
    assert (head.status_code, head.headers["Content-Length"]) == (200, "10")


def test_an_address_answers_only_as_it_was_signed(client: Client, clock: VirtualClock) -> None:
    """A changed address is refused, an old one too, and one of a file that was replaced is gone."""
    client.open()
    client.upload(b"one", epoch=1)
    url = client.model()["checkpoints"][0]["url"]
    changed = [
        url.replace("S1", "S2"),
        url.replace("/last-", "/best-"),
        url.replace("until=1", "until=2"),
        url[:-1] + ("0" if url[-1] != "0" else "1"),
        url.split("?")[0],
        url.replace("signature=", "signature=%C3%A9"),
    ]
    assert [requests.get(bad, timeout=30).status_code for bad in changed] == [403] * len(changed)
    client.upload(b"two", epoch=2)
    assert requests.get(url, timeout=30).status_code == 404
    url = client.model()["checkpoints"][0]["url"]
    clock.advance(7 * 86400 + 2)
    assert requests.get(url, timeout=30).status_code == 403


class Hasty(Store):
    """A store in which something happens between the look at the database and that at the disk."""

    def __init__(self, data_dir: Path, then: Callable[[], object]) -> None:
        super().__init__(data_dir)
        self._then = [then]

    def file_of(self, session: str, name: str) -> Path:
        while self._then:
            self._then.pop()()
        return super().file_of(session, name)


@pytest.mark.parametrize("what", ["replaced", "deleted"])
def test_a_file_that_goes_just_then_is_not_called_lost(client: Client, data_dir: Path, what: str) -> None:
    """A file that is taken away while somebody asks for it is not here any more; nothing is wrong with the hub's disk."""
    client.open()
    client.upload(b"one", epoch=1)
    goes: dict[str, Callable[[], object]] = {
        "replaced": lambda: client.upload(b"two", epoch=2),
        "deleted": lambda: client.http.delete(f"{client.url}/v1/models/S1?hard=True", timeout=30),
    }
    store = Hasty(data_dir, goes[what])
    try:
        with pytest.raises(Problem) as told:
            open_file(store, "S1", sha(b"one"), "last")
        assert (told.value.status, told.value.short) == (404, "not_found")
    finally:
        store.close()


def test_a_hidden_sessions_files_are_not_given(client: Client) -> None:
    """An address that was given out before its session was deleted answers as one of a file that is gone."""
    client.open()
    client.upload(b"one", epoch=1)
    url = client.model()["checkpoints"][0]["url"]
    client.http.delete(f"{client.url}/v1/models/S1", timeout=30)
    assert requests.get(url, timeout=30).status_code == 404


def test_a_file_that_comes_once_more_just_then_is_given(client: Client, data_dir: Path) -> None:
    """The disk lost it and its sender sends it again at that moment: whoever asks gets the new copy."""
    client.open()
    client.upload(b"one", epoch=1)
    (lost,) = (data_dir / "files" / "S1").iterdir()
    lost.unlink()
    store = Hasty(data_dir, lambda: client.upload(b"one", epoch=1))
    try:
        opened = open_file(store, "S1", sha(b"one"), "last")
        assert os.read(opened.fd, 10) == b"one"
        os.close(opened.fd)
    finally:
        store.close()


def test_what_is_being_fetched_comes_whole(client: Client, data_dir: Path) -> None:
    """A file that is removed once its answer was decided is sent to its end all the same, and let go of then."""
    client.open()
    client.upload(b"x" * 200_000)
    store = Store(data_dir)
    try:
        opened = open_file(store, "S1", sha(b"x" * 200_000), "last")
    finally:
        store.close()
    answer = Download(opened, {}, "S1.pt")
    client.http.delete(f"{client.url}/v1/models/S1?hard=True", timeout=30)
    assert not opened.path.exists()
    sent: list[Any] = []

    async def take(message: Any) -> None:
        sent.append(message)

    async def nothing() -> Any:
        raise AssertionError("nothing more is read of the request")

    scope = {"type": "http", "asgi": {"spec_version": "2.4"}, "method": "GET", "headers": []}
    asyncio.run(answer(scope, nothing, take))
    assert b"".join(message["body"] for message in sent[1:]) == b"x" * 200_000
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(opened.fd)


@pytest.mark.promise("P7")
@pytest.mark.parametrize(
    "announced",
    [
        {"sha256": "0" * 64},
        {"digest": repr_digest(b"other")},
        {"sha256": None, "digest": repr_digest(b"other")},
        {"sha256": None, "digest": "sha-256=:???:"},
        {"sha256": None, "digest": "sha-256=garbled"},
    ],
    ids=["field", "header", "header_alone", "no_base64", "no_colons"],
)
def test_bytes_that_are_not_those_announced_are_never_promoted(
    client: Client, data_dir: Path, announced: dict[str, Any]
) -> None:
    """422 `digest_mismatch`, nothing stored, the older file untouched; the same bytes announced right are taken."""
    client.open()
    client.upload(b"before", epoch=1)
    answer = client.upload(b"bytes", epoch=2, key="u", **announced)
    assert (answer.status_code, answer.json()["error"]) == (422, "digest_mismatch")
    assert by_kind(client) == {"last": (1, 1, sha(b"before"))}
    assert len(stored_files(data_dir)) == 1
    assert incoming(data_dir) == []
    assert client.upload(b"bytes", epoch=2, key="u").status_code == 200
    assert by_kind(client) == {"last": (1, 2, sha(b"bytes"))}


def test_a_digest_of_another_kind_is_no_mismatch(client: Client) -> None:
    """Only what is named sha-256 is compared."""
    client.open()
    assert client.upload(b"x", sha256=None, digest="sha-512=:AAAA:").status_code == 200


def test_a_repeated_upload_is_stored_once(client: Client, data_dir: Path) -> None:
    """A repeated key gets the first answer again, and its body is thrown away, spoilt on its way or not."""
    client.open()
    first = client.upload(b"one", type="final", kind="final", epoch=4, key="u")
    before = stored_files(data_dir)
    for body, digest in ((b"one", None), (b"one", repr_digest(b"one")), (b"eno", repr_digest(b"one"))):
        again = client.upload(
            body, type="final", kind="final", epoch=4, key="u", sha256=sha(b"one"), digest=digest
        )
        assert again.headers["Idempotent-Replayed"] == "true"
        assert again.json() == first.json()
        assert stored_files(data_dir) == before
        assert incoming(data_dir) == []


@pytest.mark.parametrize("announced", ["in the header", "in a field", "nowhere"])
def test_another_file_under_the_same_key_is_refused(client: Client, data_dir: Path, announced: str) -> None:
    """409 `key_reused`, whatever of its digest was said beforehand: nothing of it is kept, the first one stands."""
    client.open()
    first = client.upload(b"one", epoch=4, key="u")
    before = stored_files(data_dir)
    more: dict[str, Any] = {} if announced == "in a field" else {"sha256": None}
    if announced == "in the header":
        more["digest"] = repr_digest(b"two")
    refused = client.upload(b"two", epoch=4, key="u", **more)
    assert (refused.status_code, refused.json()["error"]) == (409, "key_reused")
    assert stored_files(data_dir) == before
    assert by_kind(client) == {"last": (1, 4, sha(b"one"))}
    assert incoming(data_dir) == []
    assert client.upload(b"one", epoch=4, key="u").json() == first.json()


def test_eleven_times_the_same_final_is_one_file(client: Client, data_dir: Path) -> None:
    """An old client repeats its final upload without any key: one file, and the session ended once."""
    model = client.foreign()
    for _ in range(11):
        assert client.foreign_upload(model, b"final", epoch=4, type="final", map=0.5).status_code == 200
    assert by_kind(client, model) == {"final": (1, 4, sha(b"final"))}
    assert len(stored_files(data_dir)) == 1
    (file,) = client.model(model)["checkpoints"]
    assert file["fitness"] == 0.5


def test_the_final_file_of_a_session_is_one(client: Client, data_dir: Path) -> None:
    """A later attempt's final replaces the earlier one's, whose file is removed."""
    client.open()
    client.upload(b"first", type="final", kind="final", epoch=9)
    client.open(attempt=2, first_epoch=5)
    assert client.model()["status"] != "trained"
    client.upload(b"second", type="final", kind="final", epoch=7, attempt=2)
    assert by_kind(client) == {"final": (2, 7, sha(b"second"))}
    assert client.model()["status"] == "trained"
    assert [path.read_bytes() for path in stored_files(data_dir)] == [b"second"]


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Client, Path]]:
    """One hub for many examples, and its folder; each example takes a session of its own."""
    folder = tmp_path_factory.mktemp("lasting")
    with running(folder) as hub:
        client = Client(hub.url)
        yield client, folder
        client.http.close()


@pytest.mark.promise("C13")
@settings(deadline=None, max_examples=25)
@given(st.permutations([(attempt, epoch) for attempt in (1, 2) for epoch in (0, 1, 2)]))
def test_the_newest_file_stays_whatever_arrives_when(
    lasting: tuple[Client, Path], order: list[tuple[int, int]]
) -> None:
    """Of one kind, the later attempt wins, then the later epoch; what is older is acknowledged and not kept."""
    client, folder = lasting
    model = secrets.token_hex(16)
    client.open(model, attempt=2)
    best = (0, 0)
    for attempt, epoch in order:
        data = f"{attempt}/{epoch}".encode()
        answer = client.upload(data, model, attempt=attempt, epoch=epoch).json()["data"]
        assert (answer["sha256"], answer["kept"]) == (sha(data), (attempt, epoch) >= best)
        best = max(best, (attempt, epoch))
    assert by_kind(client, model) == {"last": (2, 2, sha(b"2/2"))}
    assert [path.read_bytes() for path in (folder / "files" / model).iterdir()] == [b"2/2"]


def test_an_old_clients_best_is_kept_as_last_and_best(client: Client, data_dir: Path) -> None:
    """`isBest=True` makes the file both; the next, worse one replaces `last` alone, and the best stays on disk."""
    model = client.foreign()
    client.foreign_upload(model, b"one", epoch=0, type="epoch", isBest="True")
    assert len(stored_files(data_dir)) == 1
    client.foreign_upload(model, b"two", epoch=1, type="epoch", isBest="False")
    assert by_kind(client, model) == {"last": (1, 1, sha(b"two")), "best": (1, 0, sha(b"one"))}
    told = client.model(model)
    assert (told["has_last_weights"], told["has_best_weights"]) == (True, True)
    assert requests.get(told["resume"], timeout=30).content == b"two"
    assert requests.get(told["weights"], timeout=30).content == b"one"


@pytest.mark.parametrize(
    "fields",
    [
        {"epoch": "x", "type": "final"},
        {"epoch": "4", "type": "odd"},
        {"epoch": "4"},
        {"type": "final"},
        {"epoch": "-1", "type": "final", "map": "nan"},
        {"epoch": "4", "type": "final", "attempt": "x", "map": "x"},
        {"epoch": "4", "kind": "odd", "type": "final"},
        {"epoch": "9" * 40, "type": "final"},
    ],
    ids=str,
)
def test_a_final_upload_that_can_be_stored_is_never_refused(client: Client, fields: dict[str, str]) -> None:
    """An odd form is taken by the likeliest reading and shown on the page: an old client repeats for half an hour."""
    model = client.foreign()
    url = f"{client.url}/v1/models/{model}/upload"
    answer = client.http.post(url, data=fields, files={"best.pt": b"x"}, timeout=30)
    assert answer.status_code == 200
    assert by_kind(client, model)["final"][2] == sha(b"x")
    assert {condition["name"] for condition in client.model(model)["conditions"]} == {"odd_request"}


def send_raw(hub: RunningHub, head: str, body: bytes) -> bytes:
    """Sends a request byte by byte as written, closes the sending side, and reads the answer."""
    with socket.create_connection((hub.host, hub.port), timeout=30) as connection:
        connection.sendall(head.encode() + body)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    return answer


HEAD = (
    "POST /v1/models/S1/upload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    "Content-Length: {length}\r\n\r\n"
)
FILE = b'--b\r\nContent-Disposition: form-data; name="last.pt"; filename="last.pt"\r\n\r\n'


def test_a_broken_connection_leaves_nothing(data_dir: Path) -> None:
    """A body that ends before its Content-Length promotes nothing, and its piece is removed."""
    with running(data_dir) as hub:
        client = Client(hub.url)
        client.open()
        send_raw(hub, HEAD.format(length=10_000_000), FILE + b"x" * 2_000_000)
        assert client.model()["checkpoints"] == []
        client.http.close()
    # The connection ends before what came over it is put away: nobody waits for that but the hub itself.
    assert incoming(data_dir) == []


@pytest.mark.parametrize(
    "body",
    [
        FILE + b"half of it",
        b"no multipart at all",
        b'--b\r\nContent-Disposition: form-data; name="epoch"\r\n\r\n1\r\n--b--\r\n',
        b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n' + b"x" * 100_000 + b"\r\n--b--\r\n",
        FILE + b"1\r\n" + FILE + b"2\r\n--b--\r\n",
        b"".join(b'--b\r\nContent-Disposition: form-data; name="%d"\r\n\r\n1\r\n' % n for n in range(70))
        + b"--b--",
    ],
    ids=["no_end", "no_form", "no_file", "long_field", "two_files", "many_fields"],
)
def test_a_body_that_is_no_upload_is_refused(client: Client, data_dir: Path, body: bytes) -> None:
    """400 says why, nothing is promoted, nothing is left over, and the connection serves on."""
    client.open()
    answer = client.http.post(
        f"{client.url}/v1/models/S1/upload",
        data=body,
        headers={"Content-Type": "multipart/form-data; boundary=b"},
        timeout=30,
    )
    assert (answer.status_code, answer.json()["success"]) == (400, False)
    assert client.model()["checkpoints"] == []
    assert incoming(data_dir) == []


@pytest.mark.parametrize(
    "kind", ["text/plain", "multipart/form-data", "multipart/form-data; boundary=" + "x" * 500, ""]
)
def test_a_content_type_that_is_no_form_is_refused(client: Client, kind: str) -> None:
    """An upload is a multipart form with a boundary."""
    client.open()
    answer = client.http.post(
        f"{client.url}/v1/models/S1/upload", data=b"x", headers={"Content-Type": kind}, timeout=30
    )
    assert answer.status_code == 400


def test_an_upload_beyond_the_limit_is_refused(data_dir: Path) -> None:
    """413 for a body that says it is too long and for one that only turns out to be; a shorter one is taken."""
    with running(data_dir, upload_limit=100_000) as hub:
        client = Client(hub.url)
        client.open()
        said = client.upload(b"x" * 100_001)

        def pieces() -> Any:
            yield FILE
            for _ in range(200):
                yield b"x" * 1000
            yield b"\r\n--b--\r\n"

        found = client.http.post(
            f"{client.url}/v1/models/S1/upload",
            data=pieces(),
            headers={"Content-Type": "multipart/form-data; boundary=b"},
            timeout=30,
        )
        assert [(a.status_code, a.json()["error"]) for a in (said, found)] == [(413, "too_large")] * 2
        assert incoming(data_dir) == []
        assert client.upload(b"x" * 50_000).status_code == 200
        client.http.close()


def highest_mark() -> int:
    """The most memory that this process held, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def test_an_upload_is_not_held_in_memory(client: Client) -> None:
    """A file of 300 MB goes through the hub while the process grows by less than 100 MB, client included."""

    class Zeros:
        """A file of zeros that is made while it is read."""

        def __init__(self, size: int) -> None:
            head, tail = FILE, b"\r\n--b--\r\n"
            self.parts = [head, *[bytes(1024 * 1024)] * size, tail]
            self.size = sum(map(len, self.parts))

        def __iter__(self) -> Any:
            return iter(self.parts)

        def __len__(self) -> int:
            return self.size

    client.open()
    Path("/proc/self/clear_refs").write_text("5")  # the highest mark is measured from here on
    before = highest_mark()
    answer = client.http.post(
        f"{client.url}/v1/models/S1/upload",
        data=Zeros(300),
        headers={"Content-Type": "multipart/form-data; boundary=b"},
        timeout=120,
    )
    assert answer.json()["data"]["size"] == 300 * 1024 * 1024
    assert highest_mark() - before < 100 * 1024


def test_what_a_hub_left_half_done_is_swept_when_it_starts(data_dir: Path) -> None:
    """Pieces of uploads and files that nothing names are removed; what counts stays."""
    with running(data_dir) as hub:
        client = Client(hub.url)
        client.open()
        client.upload(b"kept")
        client.http.close()
    (data_dir / "incoming" / "x.part").write_bytes(b"half")
    (data_dir / "files" / "S1" / "orphan.pt").write_bytes(b"orphan")
    with running(data_dir):
        assert incoming(data_dir) == []
        assert [path.read_bytes() for path in stored_files(data_dir)] == [b"kept"]


def test_what_others_put_into_the_folder_of_a_hub_is_left_alone(data_dir: Path) -> None:
    """A stray file or folder, such as file managers leave, keeps no hub from starting, and is not removed."""
    with running(data_dir) as hub:
        client = Client(hub.url)
        client.open()
        client.upload(b"kept")
        client.http.close()
    strays = [
        data_dir / "files" / ".DS_Store",
        data_dir / "files" / "S1" / ".DS_Store",
        data_dir / "files" / "S1" / "folder.pt" / "file",
        data_dir / "incoming" / ".DS_Store",
        data_dir / "incoming" / "folder.part" / "file",
    ]
    for stray in strays:
        stray.parent.mkdir(exist_ok=True)
        stray.write_bytes(b"stray")
    elsewhere = data_dir / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "other.pt").write_bytes(b"other")
    (data_dir / "files" / "link").symlink_to(elsewhere)
    with running(data_dir):
        assert [stray.read_bytes() for stray in strays] == [b"stray"] * len(strays)
        assert (elsewhere / "other.pt").read_bytes() == b"other"


@settings(deadline=None)
@given(st.binary(max_size=300), st.data())
def test_the_receiver_takes_a_body_in_any_pieces(
    tmp_path_factory: Any, content: bytes, data: st.DataObject
) -> None:
    """Wherever the body is cut, the same fields and the same bytes come out."""
    folder = tmp_path_factory.mktemp("in")
    body = (
        b'--b\r\nContent-Disposition: form-data; name="epoch"\r\n\r\n7\r\n'
        + FILE
        + content
        + b"\r\n--b--\r\n"
    )
    if b"\r\n--b" in content:
        return
    receiver = Receiver(folder, "multipart/form-data; boundary=b", 10_000)
    while body:
        cut = data.draw(st.integers(1, len(body)))
        receiver.write(body[:cut])
        body = body[cut:]
    received = receiver.finish()
    assert (received.fields, received.name, received.size) == ({"epoch": "7"}, "last.pt", len(content))
    assert received.part.read_bytes() == content
    assert received.sha256 == sha(content)
    receiver.abandon()
    assert list(folder.iterdir()) == []


@settings(deadline=None)
@given(st.binary(max_size=400), st.booleans())
def test_no_body_breaks_the_receiver(tmp_path_factory: Any, body: bytes, begun: bool) -> None:
    """Whatever the bytes are, the receiver takes them or says why not, and abandoning it leaves nothing."""
    folder = tmp_path_factory.mktemp("in")
    receiver = Receiver(folder, "multipart/form-data; boundary=b", 10_000)
    with contextlib.suppress(Problem):  # any other exception fails the test
        receiver.write((b"--b\r\n" if begun else b"") + body)
        receiver.finish()
    receiver.abandon()
    assert list(folder.iterdir()) == []


def test_the_digest_header_is_read_among_others() -> None:
    """The sha-256 member is found beside others; without it there is nothing to compare."""
    assert digest_of_header("sha-512=:AA==:, sha-256=:AAE=:") == "0001"
    assert digest_of_header("unixsum=30637") is None
    assert digest_of_header("") is None
