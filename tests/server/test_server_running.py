"""Running: start, stop, ports, folders, signals, and a damaged database."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from hub_client import Client, row

from hubstate.errors import StorageError, UsageError
from hubstate.server import keys
from hubstate.server.running import running
from hubstate.server.store import Store
from hubstate.server.terms import Terms


def test_a_hub_that_stopped_is_gone_and_what_it_held_is_not(
    data_dir: Path, new_threads: Callable[[], set[threading.Thread]]
) -> None:
    """After the block nobody listens and no thread is left; the next hub over the folder holds the same."""
    with running(data_dir) as hub:
        client = Client(hub.url)
        client.open()
        client.rows([row(0, a=1)])
        client.upload(b"x")
        before = client.metrics(), [file["sha256"] for file in client.model()["checkpoints"]]
        client.http.close()
    with pytest.raises(ConnectionRefusedError), socket.create_connection((hub.host, hub.port), timeout=5):
        pass
    assert "hubstate-hub" not in [thread.name for thread in new_threads()]
    with running(data_dir) as hub:
        client = Client(hub.url)
        assert (client.metrics(), [file["sha256"] for file in client.model()["checkpoints"]]) == before
        client.http.close()


def test_the_hub_is_reachable_when_the_block_begins(data_dir: Path) -> None:
    """The first request needs no waiting, and the address names the real port."""
    with running(data_dir) as hub:
        assert hub.url == f"http://127.0.0.1:{hub.port}"
        with socket.create_connection((hub.host, hub.port), timeout=5):
            pass


def test_a_stop_leaves_the_signals_of_the_program_alone(data_dir: Path) -> None:
    """A hub in a thread touches no signal handler."""
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with running(data_dir):
        assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_an_error_in_the_block_stops_the_hub_as_well(data_dir: Path) -> None:
    """Whatever ends the block ends the hub."""
    with pytest.raises(ZeroDivisionError), running(data_dir):
        _ = 1 / 0
    with running(data_dir):
        pass


def test_a_port_in_use_is_told_by_its_number(data_dir: Path, tmp_path: Path) -> None:
    """The error names host and port, and what to do; the folder is free again."""
    with (
        running(tmp_path / "first") as hub,
        pytest.raises(UsageError, match=rf"127\.0\.0\.1, port {hub.port}.*--port"),
        running(data_dir, port=hub.port),
    ):
        pass
    with running(data_dir):
        pass


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", 70_000), ("127.0.0.1", -1), ("no such host", 0)])
def test_an_address_that_is_none_is_refused(data_dir: Path, host: str, port: int) -> None:
    """A port out of range or an unknown host is the caller's error."""
    with pytest.raises(UsageError), running(data_dir, host=host, port=port):
        pass


def test_a_public_address_must_be_one(data_dir: Path) -> None:
    """The public address is http or https with a host, and at most a port and a path."""
    for bad in (
        "hub.example",
        "ftp://hub.example",
        "https://",
        "",
        "https://[::1",
        "https://hub.example:99999",
        "https://me:secret@hub.example",
        "https://hub.example/?x=1",
    ):
        with pytest.raises(UsageError, match=r"https://hub\.example"), running(data_dir, public_url=bad):
            pass


def test_two_hubs_never_share_a_folder(data_dir: Path) -> None:
    """The second one is refused, naming the folder; the first goes on."""
    with running(data_dir) as hub:
        with pytest.raises(StorageError, match="another hub"), running(data_dir):
            pass
        client = Client(hub.url)
        assert client.open().status_code == 200
        client.http.close()


def test_a_folder_that_takes_no_lock_is_told(data_dir: Path) -> None:
    """Where the lock cannot be opened the error names it."""
    Store(data_dir).close()
    (data_dir / "hub.lock").mkdir()
    with pytest.raises(StorageError, match=r"hub\.lock"), running(data_dir):
        pass


def test_a_folder_that_cannot_be_one_is_told(tmp_path: Path) -> None:
    """A file where the folder should be is this machine's error, naming the path."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file"), running(tmp_path / "file"):
        pass


def test_a_damaged_database_is_told(data_dir: Path) -> None:
    """A database that is none is an error that names it, not an accident."""
    data_dir.mkdir()
    (data_dir / "hub.sqlite").write_bytes(b"no database at all" * 100)
    with pytest.raises(StorageError, match=r"hub\.sqlite"), running(data_dir):
        pass


@pytest.mark.parametrize("how", ["missing", "empty"])
def test_checkpoints_without_their_database_are_left_alone(data_dir: Path, how: str) -> None:
    """Where the database was lost no hub begins anew over the files, which it would sweep away: it names both."""
    with running(data_dir) as hub:
        client = Client(hub.url)
        client.open()
        client.upload(b"weeks of work")
        client.http.close()
    (data_dir / "hub.sqlite").unlink()
    if how == "empty":
        (data_dir / "hub.sqlite").touch()
    for _ in range(2):
        with pytest.raises(StorageError, match=r"files holds checkpoints, and .*hub\.sqlite .* is missing"):
            Store(data_dir)
    (kept,) = (data_dir / "files" / "S1").iterdir()
    assert kept.read_bytes() == b"weeks of work"


@pytest.mark.parametrize("table", ["keys", "checkpoints", "sqlite_autoindex_marks_1"])
def test_a_database_that_is_damaged_inside_is_told(data_dir: Path, table: str) -> None:
    """What a hub needs to begin cannot be read: an error that names the database, also for who looks after its keys."""
    keys.create(data_dir, "first")
    _spoil(data_dir / "hub.sqlite", table)
    with pytest.raises(StorageError, match=r"hub\.sqlite.*malformed"), running(data_dir):
        pass
    if table == "keys":
        with pytest.raises(StorageError, match=r"hub\.sqlite.*malformed"):
            keys.listed(data_dir)


def test_a_secret_that_finds_no_room_leaves_nothing(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new hub on a full disk is refused, and each further try leaves no file either."""

    def full(_fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("hubstate.server.store.os.fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        Store(data_dir)
    assert sorted(path.name for path in data_dir.iterdir()) == ["files", "incoming"]


def test_a_damaged_secret_is_told(data_dir: Path) -> None:
    """A secret that is too short signs nothing."""
    Store(data_dir).close()
    (data_dir / "secret").write_bytes(b"short")
    with pytest.raises(StorageError, match=r"secret is damaged: remove it, and a new one is made"):
        Store(data_dir)


def test_many_writers_lose_nothing(data_dir: Path) -> None:
    """Eight clients at once: every row is there, none twice."""
    with running(data_dir) as hub:
        first = Client(hub.url)
        first.open()
        first.http.close()
        codes: list[int] = []

        def write(number: int) -> None:
            client = Client(hub.url)
            codes.extend(
                client.rows([row(epoch, at=float(number), **{f"m{number}": epoch})]).status_code
                for epoch in range(10)
            )
            client.http.close()

        threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        client = Client(hub.url)
        assert codes == [200] * 80
        assert len(client.metrics(attempt="all")) == 80
        assert [len(r["metrics"]) for r in client.metrics()] == [8] * 10
        client.http.close()


def test_a_full_disk_is_told_in_json(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """507 `storage_full` while the disk is full, nothing left over, and the same upload is taken afterwards."""
    with running(data_dir) as hub:
        client = Client(hub.url)
        client.open()

        def full(_fd: int, _data: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr("hubstate.server.uploads.os.write", full)
            answer = client.upload(b"x" * 3_000_000, key="u")
        assert (answer.status_code, answer.json()["error"]) == (507, "storage_full")
        assert list((data_dir / "incoming").iterdir()) == []
        assert client.upload(b"x" * 3_000_000, key="u").status_code == 200
        client.http.close()


def test_a_folder_that_vanished_is_told_in_json(data_dir: Path) -> None:
    """503 `storage_failing` where the hub's folder takes no file, with the reason."""
    with running(data_dir) as hub:
        client = Client(hub.url)
        client.open()
        (data_dir / "incoming").rmdir()
        answer = client.upload(b"x")
        assert (answer.status_code, answer.json()["error"]) == (503, "storage_failing")
        assert "No such file" in answer.json()["message"]
        client.http.close()


def _spoil(database: Path, table: str) -> None:
    """Overwrites the first page of a table, as a dying disk would."""
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        ((page,),) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,))
        ((size,),) = connection.execute("PRAGMA page_size")
    with database.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)


@pytest.mark.parametrize("table", ["keys", "sessions", "rows"])
def test_a_database_that_is_damaged_meanwhile_is_told_in_json(
    data_dir: Path, table: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """503 `storage_failing` with the reason, in the log too, and never an accident; no key is called wrong for it."""
    with running(data_dir) as hub:
        client = Client(hub.url)
        client.open()
        client.rows([row(0, a=1)])
        _spoil(data_dir / "hub.sqlite", table)
        posts = client.rows([row(1, a=1)]), client.rows([row(2, a=1)])
        for answer in (*posts, client.get("/v1/models/S1/metrics")):
            assert (answer.status_code, answer.json()["error"]) == (503, "storage_failing")
            assert "malformed" in answer.json()["message"]
        assert client.post("/v1/auth").json()["success"] is True
        client.http.close()
    told = capsys.readouterr().err
    assert "database disk image is malformed" in told
    assert "Traceback" not in told


def test_an_accident_is_answered_in_json(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A defect of the hub itself is 500 in JSON without its insides, and the hub goes on."""
    with running(data_dir) as hub:
        client = Client(hub.url)

        def broken(*_arguments: object) -> None:
            raise ZeroDivisionError("insides")

        with monkeypatch.context() as patch:
            patch.setattr("hubstate.server.models.list_models", broken)
            answer = client.get("/v1/models")
        assert (answer.status_code, answer.json()["error"]) == (500, "accident")
        assert "insides" not in answer.text
        assert client.get("/v1/models").status_code == 200
        client.http.close()


def test_many_may_open_a_new_folder_at_once(data_dir: Path) -> None:
    """A hub that starts while keys are made: all find the same database and the same secret."""
    barrier = threading.Barrier(8)
    found: list[bytes | Exception] = []

    def open_it() -> None:
        barrier.wait()
        try:
            store = Store(data_dir)
        except StorageError as error:
            found.append(error)
            return
        found.append(store.secret)
        store.close()

    threads = [threading.Thread(target=open_it) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [(data_dir / "secret").read_bytes()] * 8


SERVE = """
import sys
from pathlib import Path
from hubstate.server.running import serve
serve(Path(sys.argv[1]), port=0, announce=lambda line: print(line, flush=True))
print("after", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl_c", "sigterm"])
def test_serve_ends_in_good_order(data_dir: Path, number: int) -> None:
    """Ctrl-C and SIGTERM end `serve`, which then returns; it told its address and that no key exists."""
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", SERVE, str(data_dir)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline(), process.stdout.readline()]
        url = lines[0].split(" answers at ")[1].split(";")[0]
        client = Client(url)
        assert client.open().status_code == 200
        client.http.close()
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert str(data_dir) in lines[0]
    assert "hubstate keys create" in lines[1]
    assert out.split("\n") == ["the hub stopped", "after", ""]


def test_what_was_acknowledged_survives_a_kill(data_dir: Path) -> None:
    """After SIGKILL the next hub holds every row and file that was acknowledged, and its address still works."""
    with subprocess.Popen(
        [sys.executable, "-c", SERVE, str(data_dir)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        assert process.stdout is not None
        client = Client(process.stdout.readline().split(" answers at ")[1].split(";")[0])
        client.open(key="o")
        for epoch in range(5):
            assert client.rows([row(epoch, a=epoch)], key=f"r{epoch}").status_code == 200
        assert client.upload(b"x" * 100_000, key="u").status_code == 200
        process.kill()
        client.http.close()
    with running(data_dir) as hub:
        client = Client(hub.url)
        assert [r["metrics"]["a"] for r in client.metrics()] == [0, 1, 2, 3, 4]
        (file,) = client.model()["checkpoints"]
        assert client.http.get(file["url"], timeout=30).content == b"x" * 100_000
        assert client.rows([row(0, a=0)], key="r0").headers["Idempotent-Replayed"] == "true"
        client.http.close()


def test_a_stop_finishes_an_upload_under_way(data_dir: Path) -> None:
    """A hub that is told to stop takes the rest of an upload and acknowledges it, and takes nobody new meanwhile."""
    with subprocess.Popen(
        [sys.executable, "-c", SERVE, str(data_dir)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split(" answers at ")[1].split(";")[0]
        client = Client(url)
        client.open()
        port = int(url.rpartition(":")[2])
        body = (
            b'--b\r\nContent-Disposition: form-data; name="last.pt"; filename="last.pt"\r\n\r\n'
            + b"x" * 100_000
        )
        end = b"\r\n--b--\r\n"
        head = (
            "POST /v1/models/S1/upload HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
            f"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {len(body) + len(end)}\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", port), timeout=60) as raw:
            raw.sendall(head.encode() + body)
            # Another request on another connection was answered: so this one is being taken by now.
            assert client.get("/healthz").status_code == 200
            process.send_signal(signal.SIGTERM)
            while _is_listening(port):
                pass
            raw.sendall(end)
            answer = b"".join(iter(lambda: raw.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 200")
        process.communicate(timeout=60)
        assert process.returncode == 0
        client.http.close()
    with running(data_dir) as hub:
        client = Client(hub.url)
        (file,) = client.model()["checkpoints"]
        assert client.http.get(file["url"], timeout=30).content == b"x" * 100_000
        client.http.close()


def _is_listening(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=60).close()
    except ConnectionError:
        return False
    return True


def test_a_stop_does_not_wait_for_ever(data_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An upload that goes no further is cut when the time for it is over, and told so in JSON; nothing of it is held."""
    with running(data_dir, terms=Terms(grace=0.0)) as hub:
        client = Client(hub.url)
        client.open()
        raw = socket.create_connection((hub.host, hub.port), timeout=60)
        raw.sendall(
            b"POST /v1/models/S1/upload HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            b"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 1000\r\n\r\n--b\r\n"
        )
        # Another request on another connection was answered: so this one is under way by now.
        assert client.get("/healthz").status_code == 200
        client.http.close()
    head, _, body = b"".join(iter(lambda: raw.recv(65536), b"")).partition(b"\r\n\r\n")
    raw.close()
    assert head.startswith(b"HTTP/1.1 503")
    assert (json.loads(body)["success"], json.loads(body)["error"]) == (False, "busy")
    assert "Traceback" not in caplog.text
    with running(data_dir) as hub:
        client = Client(hub.url)
        assert client.model()["checkpoints"] == []
        client.http.close()
    assert [path for path in (data_dir / "incoming").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("POST", "/v1/models", {}),
        ("POST", "/v1/models/S1", {}),
        ("PATCH", "/v1/models/S1", {}),
        ("POST", "/v1/models/S1/end", {}),
        ("POST", "/v1/models/S1/steps", {}),
        ("POST", "/v1/models/S1/usage", {}),
        ("POST", "/v1/agent/heartbeat/models/S1", {}),
        ("POST", "/v1/models/S1/upload", {"Content-Type": "multipart/form-data; boundary=b"}),
        ("POST", "/v1/models/S1/uploads", {"Tus-Resumable": "1.0.0", "Upload-Length": "20000000"}),
        ("POST", "/v1/models/S1/uploads/" + "0" * 32, {}),
        ("POST", "/login", {}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_too_long_is_413(data_dir: Path, method: str, path: str, headers: dict[str, str]) -> None:
    """Wherever a body is taken, one that is too long is 413 in words, and the hub goes on."""
    with running(data_dir, upload_limit=1000) as hub:
        client = Client(hub.url)
        client.open()
        answer = client.http.request(
            method, hub.url + path, data=b" " * (8 * 1024 * 1024 + 1), headers=headers, timeout=60
        )
        assert (answer.status_code, answer.json()["error"]) == (413, "too_large")
        assert client.get("/v1/models").status_code == 200
        client.http.close()
