"""Uploads that may be cut: the tus protocol, and the call that puts a whole one into its place."""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from hub_client import Client
from hypothesis import given, settings
from hypothesis import strategies as st

from hubstate.clock import VirtualClock
from hubstate.server.answers import Problem
from hubstate.server.incoming import LIFETIME
from hubstate.server.resumable import Resumables
from hubstate.server.running import RunningHub, running

TUS = {"Tus-Resumable": "1.0.0"}
DATA = os.urandom(300_000)
SHA256 = hashlib.sha256(DATA).hexdigest()


class Uploader:
    """Says to a hub what a tus client says."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.client.open()

    def make(self, data: bytes = DATA, key: str = "k", **headers: str) -> requests.Response:
        told = base64.b64encode(hashlib.sha256(data).hexdigest().encode()).decode()
        named = {
            "Upload-Length": str(len(data)),
            "Upload-Metadata": f"sha256 {told},x",
            "Idempotency-Key": key,
        }
        return self.client.http.post(
            f"{self.client.url}/v1/models/S1/uploads", headers=TUS | named | headers, timeout=30
        )

    def place(self, **options: Any) -> str:
        return str(self.make(**options).headers["Location"])

    def offset(self, place: str) -> int:
        answer = self.client.http.head(place, headers=TUS, timeout=30)
        assert answer.status_code == 200, answer.status_code
        return int(answer.headers["Upload-Offset"])

    def patch(self, place: str, data: bytes, offset: int, **headers: str) -> requests.Response:
        named = {"Upload-Offset": str(offset), "Content-Type": "application/offset+octet-stream"}
        return self.client.http.patch(place, data=data, headers=TUS | named | headers, timeout=30)

    def finish(self, place: str, key: str = "k", **fields: str) -> requests.Response:
        told = {"kind": "last", "type": "epoch", "epoch": "3", "attempt": "1", "sha256": SHA256} | fields
        return self.client.http.post(place, json=told, headers={"Idempotency-Key": key}, timeout=30)


@pytest.fixture
def tus(client: Client) -> Uploader:
    return Uploader(client)


def incoming(data_dir: Path) -> list[str]:
    return sorted(path.suffix for path in (data_dir / "incoming").iterdir())


@contextmanager
def unwritten(data_dir: Path) -> Iterator[None]:
    """While the block lasts the database takes no checkpoint, after its file has gone to its place."""
    with closing(sqlite3.connect(data_dir / "hub.sqlite", isolation_level=None)) as database:
        database.execute(
            "CREATE TRIGGER no BEFORE INSERT ON checkpoints BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
        yield
        database.execute("DROP TRIGGER no")


def test_an_upload_that_could_not_be_written_down_need_not_come_again(client: Client, data_dir: Path) -> None:
    """Its bytes go back to where they were: nothing nameless lies among the files, and asking once more is enough."""
    uploader = Uploader(client)
    place = uploader.place()
    assert uploader.patch(place, DATA, 0).status_code == 204
    with unwritten(data_dir):
        assert uploader.finish(place).status_code == 500
        assert [path for path in (data_dir / "files").rglob("*") if path.is_file()] == []
        answer = client.upload(b"in one request", key="other")
        assert answer.status_code == 500
    assert [path for path in (data_dir / "files").rglob("*") if path.is_file()] == []
    assert incoming(data_dir) == [".json", ".upload"]
    assert uploader.finish(place).status_code == 200
    assert client.model()["checkpoints"][0]["sha256"] == SHA256


def test_the_hub_says_what_it_can(client: Client) -> None:
    """The capability stands in the answer about the key, and `OPTIONS` tells version, extensions and the largest size."""
    assert client.post("/v1/auth").json()["data"] == {"tus": "1.0.0", "archive": "tar"}
    told = client.http.options(f"{client.url}/v1/models/S1/uploads", timeout=30)
    assert told.status_code == 204
    assert told.headers["Tus-Version"] == told.headers["Tus-Resumable"] == "1.0.0"
    assert told.headers["Tus-Extension"] == "creation,expiration"
    assert int(told.headers["Tus-Max-Size"]) == 50 * 1024**3


def test_an_upload_in_parts_is_stored_like_any_other(tus: Uploader, data_dir: Path) -> None:
    """What comes piece by piece is, once whole, a checkpoint with its digest, and leaves nothing behind."""
    place = tus.place()
    for offset in range(0, len(DATA), 70_000):
        assert tus.offset(place) == offset
        answer = tus.patch(place, DATA[offset : offset + 70_000], offset)
        assert (answer.status_code, answer.content) == (204, b"")
        assert answer.headers["Upload-Offset"] == str(min(len(DATA), offset + 70_000))
        assert "GMT" in answer.headers["Upload-Expires"]
    told = tus.finish(place).json()
    assert told["data"] == {"kind": "last", "size": len(DATA), "sha256": SHA256, "kept": True}
    (file,) = tus.client.model()["checkpoints"]
    assert requests.get(file["url"], timeout=30).content == DATA
    assert incoming(data_dir) == []


def test_a_delivery_finds_its_upload_again(tus: Uploader) -> None:
    """The same delivery of the same bytes has the same place; another key, size or digest has another one."""
    place = tus.place()
    tus.patch(place, DATA[:1000], 0)
    assert tus.place() == place
    assert tus.offset(place) == 1000
    others = {
        tus.place(key="other"),
        tus.place(data=DATA[1:]),
        tus.place(data=bytes(len(DATA))),
        tus.place(key=""),
    }
    assert len(others | {place}) == 5


def test_a_lost_acknowledgement_makes_no_second_file(tus: Uploader, data_dir: Path) -> None:
    """Who did not hear that the upload was taken hears it when it begins, or ends, the same upload again."""
    place = tus.place()
    tus.patch(place, DATA, 0)
    first = tus.finish(place)
    for again in (tus.finish(place), tus.make()):
        assert (again.status_code, again.headers["Idempotent-Replayed"]) == (200, "true")
        assert again.json()["data"] == first.json()["data"]
    assert len(list((data_dir / "files" / "S1").iterdir())) == 1
    assert incoming(data_dir) == []


def test_another_file_under_the_same_key_is_refused(tus: Uploader, data_dir: Path) -> None:
    """409 `key_reused`, when it begins, or at its end where two began at once; nothing is left of it."""
    place, other = tus.place(), tus.place(data=bytes(len(DATA)))
    for where, data in ((place, DATA), (other, bytes(len(DATA)))):
        tus.patch(where, data, 0)
    assert tus.finish(place).status_code == 200
    unlike = {"sha256": hashlib.sha256(bytes(len(DATA))).hexdigest()}
    for refused in (tus.make(data=bytes(len(DATA))), tus.finish(other, **unlike)):
        assert (refused.status_code, refused.json()["error"]) == (409, "key_reused")
    assert [file["sha256"] for file in tus.client.model()["checkpoints"]] == [SHA256]
    assert incoming(data_dir) == []


def test_it_goes_on_after_the_hub_was_started_again(data_dir: Path, clock: VirtualClock) -> None:
    """What has come survives the hub, and its digest is right in the end."""
    with running(data_dir, wall=clock.wall) as hub:
        tus = Uploader(Client(hub.url))
        place = tus.place()
        tus.patch(place, DATA[:123_457], 0)
        tus.client.http.close()
    with running(data_dir, wall=clock.wall) as hub:
        tus = Uploader(Client(hub.url))
        place = tus.place()
        assert tus.offset(place) == 123_457
        tus.patch(place, DATA[123_457:200_000], 123_457)
        tus.patch(place, DATA[200_000:], 200_000)
        assert tus.finish(place).json()["data"]["sha256"] == SHA256
        tus.client.http.close()


def test_what_came_before_a_connection_broke_stays(tus: Uploader, hub: RunningHub) -> None:
    """A request that breaks off leaves the bytes that came, and the next one brings the rest alone."""
    place = tus.place()
    head = (
        f"PATCH {place.removeprefix(hub.url)} HTTP/1.1\r\nHost: {hub.host}\r\nTus-Resumable: 1.0.0\r\n"
        "Upload-Offset: 0\r\nContent-Type: application/offset+octet-stream\r\nContent-Length: 300000\r\n\r\n"
    )
    with socket.create_connection((hub.host, hub.port)) as broken:
        broken.sendall(head.encode() + DATA[:270_000])
        broken.shutdown(socket.SHUT_WR)
        while broken.recv(65_536):
            pass
    assert tus.offset(place) == 270_000
    assert tus.patch(place, DATA[270_000:], 270_000).status_code == 204
    assert tus.finish(place).json()["data"]["sha256"] == SHA256


def test_other_bytes_than_were_promised_are_not_kept(tus: Uploader, data_dir: Path) -> None:
    """422 for a digest that does not fit, and the upload begins anew."""
    place = tus.place()
    tus.patch(place, DATA[::-1], 0)
    answer = tus.finish(place)
    assert (answer.status_code, answer.json()["error"]) == (422, "digest_mismatch")
    assert incoming(data_dir) == []
    assert tus.finish(place).status_code == 404
    assert tus.client.model()["checkpoints"] == []


def test_the_digest_that_was_announced_at_the_beginning_counts(tus: Uploader) -> None:
    """Where the last word names no digest, the first one does."""
    place = tus.place()
    tus.patch(place, DATA[::-1], 0)
    assert tus.finish(place, sha256="").json()["error"] == "digest_mismatch"


@pytest.mark.parametrize(
    ("headers", "offset", "data", "status"),
    [
        ({"Tus-Resumable": "0.2.2"}, 0, b"x", 412),
        ({"Content-Type": "application/json"}, 0, b"x", 415),
        ({"Upload-Offset": "x"}, 0, b"x", 400),
        ({}, 5, b"x", 409),
        ({}, 0, DATA + b"x", 413),
    ],
    ids=["version", "type", "offset", "elsewhere", "too_long"],
)
def test_what_does_not_fit_is_refused(
    tus: Uploader, headers: dict[str, str], offset: int, data: bytes, status: int
) -> None:
    """Each refusal has the status that the protocol names, in JSON, and the upload can go on."""
    place = tus.place()
    answer = tus.patch(place, data, offset, **headers)
    assert (answer.status_code, answer.json()["success"]) == (status, False)
    here = tus.offset(place)
    assert tus.patch(place, DATA[here:], here).status_code == 204
    assert tus.finish(place).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Upload-Length": ""}, 400),
        ({"Upload-Length": "-1"}, 400),
        ({"Upload-Length": str(51 * 1024**3)}, 413),
        ({"Upload-Metadata": "sha256 !"}, 400),
        ({"Tus-Resumable": ""}, 412),
    ],
)
def test_an_upload_that_cannot_be_is_not_begun(
    tus: Uploader, data_dir: Path, headers: dict[str, str], status: int
) -> None:
    """A length that is none or too large, garbled metadata, another version: refused before a byte is sent."""
    assert tus.make(**headers).status_code == status
    assert incoming(data_dir) == []


def test_an_upload_is_its_own_sessions_alone(tus: Uploader) -> None:
    """Under another session's path, and under a name that is none, there is no such upload."""
    place = tus.place()
    tus.client.open("S2")
    for other in (
        place.replace("S1", "S2"),
        place[:-1],
        place[:-32] + "0" * 32,
        place[:-32] + "..%2f..%2fsecret",
    ):
        assert tus.client.http.head(other, headers=TUS, timeout=30).status_code == 404
        assert tus.patch(other, b"x", 0).status_code == 404
        assert tus.finish(other).status_code == 404
    assert tus.client.http.post(place.replace("S1", "S3"), json={}, timeout=30).status_code == 404


def test_an_upload_that_is_not_whole_is_not_placed(tus: Uploader) -> None:
    """409 while bytes are missing, and they can still come."""
    place = tus.place()
    tus.patch(place, DATA[:10], 0)
    assert tus.finish(place).status_code == 409
    assert tus.offset(place) == 10


def test_after_a_day_without_a_word_it_is_swept(data_dir: Path, clock: VirtualClock) -> None:
    """An unfinished upload goes when another begins, or the hub starts; one that was heard of meanwhile stays."""
    with running(data_dir, wall=clock.wall) as hub:
        tus = Uploader(Client(hub.url))
        old, heard = tus.place(key="old"), tus.place(key="heard")
        clock.advance(LIFETIME - 10)
        tus.offset(heard)
        clock.advance(20)
        new = tus.place(key="new")
        assert tus.client.http.head(old, headers=TUS, timeout=30).status_code == 404
        assert (tus.offset(heard), tus.offset(new)) == (0, 0)
        tus.client.http.close()
    clock.advance(LIFETIME + 1)
    with running(data_dir, wall=clock.wall):
        assert incoming(data_dir) == []


@pytest.fixture
def uploads(tmp_path: Path) -> Resumables:
    return Resumables(tmp_path)


def begun(uploads: Resumables, length: int = 10) -> str:
    return uploads.make("o", "S1", key="k", length=length, sha256="", now=0.0)


def test_who_asks_where_it_stands_ends_who_brought_it(uploads: Resumables) -> None:
    """Bytes that an older request still brings never mix with those of the one that came for the rest."""
    name = begun(uploads)
    old = uploads.taker(name, "o", "S1", 0, 0.0)
    old.write(b"01234")
    assert uploads.offset(name, "o", "S1", 0.0) == (5, 10)
    with pytest.raises(Problem, match="another request"):
        old.write(b"late")
    new = uploads.taker(name, "o", "S1", 5, 0.0)
    with pytest.raises(Problem, match="another request"):
        old.write(b"later")
    new.write(b"56789")
    assert (old.close(0.0), new.close(0.0)) == (10, 10)
    assert uploads.whole(name, "o", "S1").sha256 == hashlib.sha256(b"0123456789").hexdigest()


def test_what_is_being_brought_is_not_swept(uploads: Resumables) -> None:
    """A big file on a slow line may come for more than a day, and has a day more from its last byte on."""
    name = begun(uploads)
    taker = uploads.taker(name, "o", "S1", 0, 0.0)
    taker.write(b"01234")
    uploads.sweep(LIFETIME + 1)
    taker.write(b"56789")
    assert taker.close(LIFETIME + 2) == 10
    uploads.sweep(LIFETIME + 3)
    assert uploads.whole(name, "o", "S1").size == 10
    uploads.sweep(2 * LIFETIME + 3)
    with pytest.raises(Problem, match="not here"):
        uploads.whole(name, "o", "S1")


def test_bytes_without_what_they_are_of_are_swept(uploads: Resumables, tmp_path: Path) -> None:
    """What a hub left that died in the middle of a beginning goes after a day, too."""
    orphan = tmp_path / f"{'0' * 32}.upload"
    orphan.write_bytes(b"x")
    os.utime(orphan, (0, 0))
    uploads.sweep(LIFETIME)
    assert orphan.exists()
    uploads.sweep(LIFETIME + 1)
    assert not orphan.exists()


def test_an_upload_that_is_finished_during_a_sweep_harms_nobody(
    uploads: Resumables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its bytes went to their place after the sweep had seen them: the upload that began the sweep begins all the same."""
    seen = Path.glob

    def finished_meanwhile(folder: Path, names: str) -> list[Path]:
        there = list(seen(folder, names))
        return [*there, tmp_path / f"{'0' * 32}.upload"] if names == "*.upload" else there

    monkeypatch.setattr(Path, "glob", finished_meanwhile)
    assert uploads.offset(begun(uploads), "o", "S1", 0.0) == (0, 10)


def test_what_is_known_of_an_upload_may_be_damaged(uploads: Resumables, tmp_path: Path) -> None:
    """A file that cannot be read is an upload that is not here: it begins anew."""
    name = begun(uploads)
    (tmp_path / f"{name}.json").write_bytes(b"{")
    with pytest.raises(Problem, match="begin it anew"):
        uploads.offset(name, "o", "S1", 0.0)
    assert begun(uploads) == name
    assert uploads.offset(name, "o", "S1", 0.0) == (0, 10)


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=500), st.data())
def test_however_it_is_cut_the_digest_is_right(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, data: st.DataObject
) -> None:
    """Pieces of any size, cuts and restarts of the hub anywhere: the bytes and their digest are those of the whole."""
    folder = tmp_path_factory.mktemp("in")
    uploads = Resumables(folder)
    name = begun(uploads, len(content))
    here = 0
    while here < len(content):
        if data.draw(st.booleans()):
            uploads = Resumables(folder)
        taker = uploads.taker(name, "o", "S1", here, 0.0)
        for _ in range(data.draw(st.integers(1, 3))):
            piece = content[here : here + data.draw(st.integers(1, len(content)))]
            taker.write(piece)
            here += len(piece)
        assert taker.close(0.0) == here
    whole = uploads.whole(name, "o", "S1")
    assert (whole.path.read_bytes(), whole.sha256) == (content, hashlib.sha256(content).hexdigest())
    uploads.forget(name)
    assert list(folder.iterdir()) == []
