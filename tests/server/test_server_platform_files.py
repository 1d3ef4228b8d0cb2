"""Files of the Platform callback: asked for, put, and promoted only if they are whole and of their own run."""

from __future__ import annotations

import io
import socket
import sqlite3
import zipfile
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from hub_client import Client
from platform_client import Callback, weights

from hubstate.clock import VirtualClock
from hubstate.server.incoming import LIFETIME
from hubstate.server.objects import fault_of
from hubstate.server.running import running
from hubstate.server.signing import PUT_SECONDS
from hubstate.server.terms import Terms


@pytest.fixture(name="run")
def _run(client: Client) -> Callback:
    """A run that has started and told of an epoch."""
    run = Callback(client)
    run.start()
    run.epoch(0)
    return run


def stored(run: Callback) -> dict[str, bytes]:
    """The bytes of each kind, fetched without a key."""
    with requests.Session() as http:
        http.trust_env = False
        files = run.look()["checkpoints"]
        return {file["kind"]: http.get(file["url"], timeout=30).content for file in files}


def lying(data_dir: Path) -> list[str]:
    """What lies in the folder of files that are not promoted yet."""
    folder = data_dir / "incoming" / "objects"
    return sorted(path.suffix for path in folder.iterdir()) if folder.is_dir() else []


# -- the three steps -------------------------------------------------------------------------------------


def test_a_file_counts_once_its_run_says_so(run: Callback, data_dir: Path) -> None:
    """Put and not yet saved it is not shown; saved it is the best one, and nothing of it is left lying."""
    address = run.address()
    assert set(address) == {"uploadUrl", "gcsPath", "uploadPath", "modelId"}
    answer = run.put(address, weights())
    assert (answer.status_code, answer.json()["size"]) == (200, len(weights()))
    assert stored(run) == {}
    assert run.saved(address).status_code == 200
    assert stored(run) == {"best": weights()}
    assert lying(data_dir) == []


def test_the_end_names_the_final_file(run: Callback) -> None:
    """What `training_complete` names is final, with the epoch and the fitness that it tells, and tools find it by name."""
    run.upload(weights(b"a"))
    run.epoch(1)
    address = run.upload(weights(b"b"))
    run.complete(address["gcsPath"])
    assert stored(run) == {"best": weights(b"b"), "final": weights(b"b")}
    model = run.look()
    final = next(file for file in model["checkpoints"] if file["kind"] == "final")
    assert (model["status"], final["epoch"], final["fitness"]) == ("trained", 1, 0.5)
    named = run.client.get("/api/models/u/p/train").json()
    files = run.client.get("/api/models/u/p/train/files").json()["files"]
    assert (named["slug"], named["status"]) == ("train", "completed")
    assert [file["name"] for file in files] == ["final.pt", "best.pt"]
    assert requests.get(files[0]["downloadUrl"], timeout=30).content == weights(b"b")


def test_an_end_that_overtakes_its_file_names_it_all_the_same(run: Callback) -> None:
    """The end came first, the word that its file counts after it, twice: that file is the final one."""
    run.upload(weights(b"a"))
    address = run.address()
    run.put(address, weights(b"b"))
    run.complete(address["gcsPath"])
    assert set(stored(run)) == {"best"}
    run.saved(address)
    run.saved(address)
    assert stored(run) == {"best": weights(b"b"), "final": weights(b"b")}
    assert (run.look()["status"], run.look()["state"]) == ("trained", "done")


def test_an_end_without_a_file_is_an_end_without_a_final_one(run: Callback) -> None:
    """Where the last upload failed, the client says so by naming none: what was stored before stays the best one."""
    run.upload(weights())
    run.complete()
    model = run.look()
    assert (model["state"], model["status"], set(stored(run))) == ("done", "training", {"best"})


def test_last_and_best_are_told_apart_by_their_names(run: Callback) -> None:
    """The newest of each is kept."""
    run.upload(weights(b"a"), "last.pt")
    run.upload(weights(b"b"), "best.pt")
    run.upload(weights(b"c"), "last.pt")
    assert stored(run) == {"last": weights(b"c"), "best": weights(b"b")}


def test_a_later_runs_file_is_not_replaced_by_an_earlier_ones(run: Callback) -> None:
    """What a run that was given up sends late is taken, and the newer run's file stays."""
    late = run.address()
    assert run.put(late, weights(b"a")).status_code == 200
    again = Callback(run.client)
    again.start(run.model)
    again.epoch(1)
    again.upload(weights(b"b"))
    assert run.saved(late).status_code == 200
    assert stored(run) == {"best": weights(b"b")}


def test_saved_twice_is_saved_once(run: Callback) -> None:
    """Where the answer was lost the event comes again, and is answered alike."""
    address = run.upload(weights())
    assert run.saved(address).status_code == 200
    assert stored(run) == {"best": weights()}


def test_a_file_that_could_not_be_written_down_still_lies_there(run: Callback, data_dir: Path) -> None:
    """The word that it counts could not be kept: nothing nameless is left, and the next word finds the bytes."""
    address = run.address()
    run.put(address, weights())
    with closing(sqlite3.connect(data_dir / "hub.sqlite", isolation_level=None)) as database:
        database.execute(
            "CREATE TRIGGER no BEFORE INSERT ON checkpoints BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
        assert run.saved(address).status_code == 500
        database.execute("DROP TRIGGER no")
    assert [path for path in (data_dir / "files").rglob("*") if path.is_file()] == []
    assert [path.name for path in (data_dir / "incoming").iterdir()] == ["objects"]
    assert run.saved(address).status_code == 200
    assert stored(run) == {"best": weights()}


def test_put_twice_the_later_bytes_count(run: Callback) -> None:
    """A client whose answer was lost reads its file anew."""
    address = run.address()
    for fill in (b"a", b"b"):
        assert run.put(address, weights(fill)).status_code == 200
    run.saved(address)
    assert stored(run) == {"best": weights(b"b")}


def test_a_hub_that_is_started_anew_in_between_loses_nothing(data_dir: Path) -> None:
    """What was put before a restart is promoted after it, and what had not come whole is gone."""
    with running(data_dir) as hub:
        client = Client(hub.url)
        run = Callback(client)
        run.start()
        address = run.address()
        run.put(address, weights())
        client.http.close()
    (data_dir / "incoming" / "objects" / "half.part").write_bytes(b"half")
    with running(data_dir) as hub:
        run.client = client = Client(hub.url)
        assert lying(data_dir) == [".note", ".object"]
        assert run.saved(address).status_code == 200
        assert stored(run) == {"best": weights()}
        client.http.close()


def test_what_nobody_promotes_is_swept_after_a_day(
    run: Callback, clock: VirtualClock, data_dir: Path
) -> None:
    """A file whose client died is forgotten, a younger one is not."""
    run.put(run.address(), weights())
    clock.advance(LIFETIME)
    run.address()
    assert lying(data_dir) == [".note", ".object"]
    clock.advance(1)
    run.address()
    assert lying(data_dir) == []


# -- what is not whole -----------------------------------------------------------------------------------


def torn(how: str) -> bytes:
    """Weights that changed while they were read: as long as before, and not whole."""
    good = weights()
    if how == "bytes of another version":
        return good[:1000] + b"x" * 1000 + good[2000:]
    if how == "no end":
        return good[:-100] + bytes(100)
    return b"no archive" * 10


@pytest.mark.parametrize("how", ["bytes of another version", "no end", "no archive"])
def test_a_torn_file_is_never_promoted(run: Callback, data_dir: Path, how: str) -> None:
    """Its bytes do not match: its client is told to send it again, the event finds nothing, and the file before stays."""
    run.upload(weights(b"good"))
    address = run.address()
    answer = run.put(address, torn(how))
    assert (answer.status_code, answer.json()["error"]) == (503, "torn")
    assert (run.saved(address).status_code, stored(run)) == (404, {"best": weights(b"good")})
    assert lying(data_dir) == []
    assert run.put(address, weights(b"again")).status_code == 200
    assert run.saved(address).status_code == 200
    assert stored(run) == {"best": weights(b"again")}


def test_a_whole_archive_has_no_fault(tmp_path: Path) -> None:
    """Stored members are read and compared; packed ones are not unpacked; members that lie about their length are a fault."""
    path = tmp_path / "x.pt"
    path.write_bytes(weights())
    assert fault_of(path) == ""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb", bytes(10_000_000))
    path.write_bytes(packed.getvalue())
    assert fault_of(path) == ""
    data = bytearray(weights())
    place = data.rindex(b"PK\x01\x02archive/version"[:4])
    data[place + 24 : place + 28] = (2**31).to_bytes(4, "little")
    path.write_bytes(data)
    assert fault_of(path) == "its members are longer than it is"
    path.write_bytes(b"")
    assert fault_of(path)


def test_an_archive_that_leads_before_its_own_beginning_is_torn(tmp_path: Path) -> None:
    """A list of members that says to be nearer than it is makes each begin before the file: no fault of the hub's disk."""
    path = tmp_path / "x.pt"
    data = bytearray(weights())
    end = data.rindex(b"PK\x05\x06")
    begin = int.from_bytes(data[end + 16 : end + 20], "little")
    data[end + 16 : end + 20] = (begin + 100).to_bytes(4, "little")
    path.write_bytes(data)
    assert fault_of(path)


def test_a_file_of_another_kind_is_taken_as_it_is(run: Callback) -> None:
    """Only a `.pt` is known to be an archive."""
    run.upload(b"anything", "model.onnx")
    assert stored(run) == {"last": b"anything"}


def begin_put(address: dict[str, Any], length: str, body: bytes) -> socket.socket:
    """A connection on which a PUT has begun and some of its body has come."""
    url = urlsplit(address["uploadUrl"])
    assert url.hostname is not None
    connection = socket.create_connection((url.hostname, url.port or 80), timeout=30)
    head = f"PUT {url.path}?{url.query} HTTP/1.1\r\nHost: {url.netloc}\r\n{length}\r\n\r\n"
    connection.sendall(head.encode() + body)
    return connection


def answer_on(connection: socket.socket) -> bytes:
    """All that is answered until the hub ends the connection."""
    with connection, connection.makefile("rb") as file:
        return file.read()


def test_a_body_that_ends_early_leaves_nothing(data_dir: Path) -> None:
    """Fewer bytes than announced are no file."""
    with running(data_dir) as hub:
        client = Client(hub.url)
        run = Callback(client)
        run.start()
        address = run.address()
        connection = begin_put(address, "Content-Length: 100000\r\nConnection: close", b"PK")
        connection.shutdown(socket.SHUT_WR)
        answer_on(connection)
        assert run.saved(address).status_code == 404
        client.http.close()
    # The connection ends before what came over it is put away: nobody waits for that but the hub itself.
    assert lying(data_dir) == []


def test_a_body_that_stands_still_is_given_up(data_dir: Path) -> None:
    """After some time without a further byte its sender hears 408, and nothing of it is kept."""
    with running(data_dir, terms=Terms(patience=0.1)) as hub:
        client = Client(hub.url)
        run = Callback(client)
        run.start()
        answer = answer_on(begin_put(run.address(), "Content-Length: 100000", b"PK"))
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b'"error":"stalled"' in answer
        assert lying(data_dir) == []
        client.http.close()


def test_a_body_without_a_length_is_refused(run: Callback) -> None:
    """Nobody could tell whether all of it came."""
    body = (piece for piece in [b"PK"])
    answer = requests.put(run.address()["uploadUrl"], data=body, timeout=30)
    assert (answer.status_code, answer.json()["error"]) == (411, "length_required")


def test_a_body_that_is_too_long_is_refused(data_dir: Path) -> None:
    """A length above the hub's limit is told before any byte is kept, at the address or when it is asked for."""
    with running(data_dir, upload_limit=1000) as hub:
        client = Client(hub.url)
        run = Callback(client)
        run.start()
        assert run.put(run.address(), bytes(1001)).status_code == 413
        asked = {"modelId": run.model, "filename": "best.pt", "size": 1001}
        assert client.post("/api/webhooks/models/upload", asked).status_code == 413
        assert lying(data_dir) == []
        client.http.close()


# -- addresses -------------------------------------------------------------------------------------------


def test_an_address_holds_for_some_hours(run: Callback, clock: VirtualClock) -> None:
    """Afterwards, or with anything in it changed, nothing can be put there."""
    address = run.address()
    url = address["uploadUrl"]
    clock.advance(PUT_SECONDS)
    assert run.put(address, weights()).status_code == 200
    for changed in (
        url.replace(f"/{run.model}/1/", f"/{run.model}/2/"),
        url.replace("best.pt", "last.pt"),
        url.replace("until=1", "until=9"),
        url[:-1] + ("0" if url[-1] != "0" else "1"),
        url.partition("?")[0],
        url.replace(f"/{run.model}/1/", f"/{run.model}/one/"),
        url.replace(f"/{run.model}/1/", f"/{run.model}/01/"),
    ):
        answer = run.put({"uploadUrl": changed}, weights())
        assert (answer.status_code, answer.json()["error"]) == (403, "bad_signature")
    clock.advance(1)
    assert run.put(address, weights()).status_code == 403


def test_each_address_is_another_one(run: Callback) -> None:
    """Nobody guesses where another file goes."""
    assert run.address()["gcsPath"] != run.address()["gcsPath"]


def test_a_file_counts_for_its_own_run_alone(run: Callback) -> None:
    """Saved by another run or another model it is refused, and promoted by neither."""
    address = run.address()
    run.put(address, weights())
    other = Callback(run.client)
    other.start()
    assert other.saved(address).status_code == 409
    again = Callback(run.client)
    again.start(run.model)
    assert again.saved(address).status_code == 409
    assert run.saved(address, runId=3).status_code == 409
    assert (stored(run), stored(other)) == ({}, {})
    assert run.saved(address).status_code == 200


@pytest.mark.parametrize(
    "path", ["", "hub://x", "hub://m/1/../best.pt", "hub://m/1/" + "0" * 32 + "/best.pt", 7]
)
def test_a_path_that_was_never_given_out_is_not_found(run: Callback, path: Any) -> None:
    """Whatever is named, nothing but what was put there can be promoted."""
    assert run.saved({"gcsPath": path, "uploadPath": ""}).status_code == 404


@pytest.mark.parametrize(
    "filename", ["../../../etc/passwd", "a/b.pt", "", ".hidden", "x" * 200, "best.pt\n", "ü.pt"]
)
def test_the_hub_chooses_the_name(run: Callback, filename: str, data_dir: Path) -> None:
    """A name that could mean a place is replaced, and what is stored lies in the session's folder."""
    run.upload(weights(), filename)
    assert stored(run) == {"last": weights()}
    assert [path.parent for path in data_dir.rglob("*.pt")] == [data_dir / "files" / run.model]


@pytest.mark.parametrize("told", [0, 2, "1", -1])
def test_a_run_that_is_not_there_gets_no_address(run: Callback, told: Any) -> None:
    """A run that the model does not have is the caller's mistake; where none is named it is the newest."""
    body = {"filename": "best.pt", "modelId": run.model, "runId": told}
    assert run.client.post("/api/webhooks/models/upload", body).status_code == 422
    by_name = {"filename": "best.pt", "project": "u/p", "name": "train"}
    assert run.client.post("/api/webhooks/models/upload", by_name).json()["modelId"] == run.model


def test_a_file_of_a_deleted_model_is_refused(run: Callback) -> None:
    """Nothing is put for a model that is gone."""
    address = run.address()
    run.client.http.delete(f"{run.client.url}/v1/models/{run.model}?hard=True", timeout=30).raise_for_status()
    assert run.put(address, weights()).status_code == 404


def test_behind_a_proxy_the_address_is_the_public_one(data_dir: Path) -> None:
    """What is given out leads to where the trainer reaches the hub."""
    with running(data_dir, public_url="http://127.0.0.1:9/hub") as hub:
        client = Client(hub.url)
        run = Callback(client)
        run.start()
        assert run.address()["uploadUrl"].startswith("http://127.0.0.1:9/hub/api/uploads/")
        client.http.close()
