"""Who may in: keys, the open hub on loopback, other owners, and what no web page may do to it."""

from __future__ import annotations

import ast
import hashlib
import hmac
import re
import socket
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from hub_client import Client, row

from hubstate import server
from hubstate.clock import VirtualClock
from hubstate.errors import UsageError
from hubstate.server import keys
from hubstate.server.admission import Visit, admit
from hubstate.server.answers import Problem
from hubstate.server.running import RunningHub, running
from hubstate.server.store import Store


def code(client: Client, path: str = "/v1/models", **headers: str) -> int:
    return client.get(path, headers=headers).status_code


def test_a_key_is_shown_once_and_kept_as_a_hash(data_dir: Path, clock: VirtualClock) -> None:
    """A key is `ul_` and 40 hex digits, every one another; the folder holds its SHA-256 and never itself."""
    key = keys.create(data_dir, "laptop", wall=clock.wall)
    assert re.fullmatch(r"ul_[0-9a-f]{40}", key)
    assert key != keys.create(data_dir, "other")
    held = b"".join(path.read_bytes() for path in data_dir.rglob("*") if path.is_file())
    assert key.encode() not in held
    assert key[3:].encode() not in held
    assert hashlib.sha256(key.encode()).hexdigest().encode() in held
    first = keys.listed(data_dir)[0]
    assert first == keys.Key(1, "laptop", "default", clock.wall(), None)
    assert key not in repr(first)


@pytest.mark.parametrize("name", ["", "  ", "x" * 101, "a\nb"], ids=["empty", "blank", "long", "line"])
def test_a_key_needs_a_name_that_can_be_shown(data_dir: Path, name: str) -> None:
    """A name that a list could not show is refused."""
    with pytest.raises(UsageError, match="name"):
        keys.create(data_dir, name)


def test_a_name_belongs_to_one_living_key(data_dir: Path) -> None:
    """A name is taken while its key lives, and free again once that is revoked; revoking nothing is an error."""
    keys.create(data_dir, "laptop")
    with pytest.raises(UsageError, match="exists"):
        keys.create(data_dir, "laptop")
    keys.revoke(data_dir, "laptop", wall=lambda: 5.0)
    with pytest.raises(UsageError, match="no living key"):
        keys.revoke(data_dir, "laptop")
    keys.create(data_dir, "laptop")
    assert [(key.name, key.revoked_at) for key in keys.listed(data_dir)] == [
        ("laptop", 5.0),
        ("laptop", None),
    ]


def test_without_any_key_this_machine_is_let_in(client: Client) -> None:
    """An open hub takes requests without a key and with any."""
    assert (code(client), code(client, **{"x-api-key": "whatever"})) == (200, 200)


def test_the_first_key_ends_that_at_once(hub: RunningHub, client: Client) -> None:
    """A key that is made while the hub runs closes it to everyone without one, revoked or not."""
    client.open()
    key = keys.create(hub.data_dir, "first")
    assert (code(client), client.beat().status_code) == (401, 401)
    assert code(client, **{"x-api-key": key}) == 200
    keys.revoke(hub.data_dir, "first")
    assert (code(client), code(client, **{"x-api-key": key})) == (401, 401)


def test_a_key_that_is_revoked_during_an_upload_ends_it(hub: RunningHub, client: Client) -> None:
    """An upload takes as long as it takes; when its last byte comes, its key must be good still, and nothing is kept."""
    key, other = keys.create(hub.data_dir, "leaked"), keys.create(hub.data_dir, "other")
    client.http.headers["x-api-key"] = other
    client.open()
    begin = b'--b\r\nContent-Disposition: form-data; name="last.pt"; filename="last.pt"\r\n\r\n' + bytes(
        4 << 20
    )
    end = b"\r\n--b--\r\n"
    head = (
        f"POST /v1/models/S1/upload HTTP/1.1\r\nHost: 127.0.0.1\r\nx-api-key: {key}\r\nConnection: close\r\n"
        f"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {len(begin) + len(end)}\r\n\r\n"
    )
    with socket.create_connection((hub.host, hub.port), timeout=60) as raw:
        raw.sendall(head.encode() + begin)
        while not list((hub.data_dir / "incoming").glob("*.part")):
            assert client.beat().status_code == 200  # until the hub writes what it was sent
        keys.revoke(hub.data_dir, "leaked")
        raw.sendall(end)
        answer = b"".join(iter(lambda: raw.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 401")
    assert client.model()["checkpoints"] == []
    assert [path for path in (hub.data_dir / "incoming").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    "bad", ["", "ul_", "ul_" + "0" * 40, "Ünï", "x" * 5000], ids=["none", "short", "wrong", "odd", "long"]
)
def test_a_bad_key_is_answered_401_in_json_and_makes_nothing(data_dir: Path, bad: str) -> None:
    """401 says what to do, `success` is false on auth, and nothing is created."""
    key = keys.create(data_dir, "good")
    with running(data_dir) as hub:
        client = Client(hub.url)
        headers = {"x-api-key": bad.encode()} if bad else {}
        answers = [
            client.http.post(hub.url + path, json={}, headers=headers, timeout=30)  # type: ignore[arg-type]
            for path in ("/v1/auth", "/v1/models", "/v1/models/S1", "/v1/models/S1/upload")
        ]
        assert [answer.status_code for answer in answers] == [401] * 4
        assert all(answer.json()["success"] is False for answer in answers)
        assert all(answer.json()["error"] == "unauthorized" for answer in answers)
        assert key not in "".join(answer.text for answer in answers)
        client.http.headers["x-api-key"] = key
        assert client.get("/v1/models").json()["data"]["total"] == 0
        client.http.close()


@pytest.mark.parametrize(
    "path",
    ["/v1/models", "/v1/models/S1", "/v1/models/S1/steps", f"/v1/models/S1/uploads/{'0' * 32}"],
)
def test_nothing_of_a_strangers_body_is_held(data_dir: Path, path: str) -> None:
    """However long it is, its sender hears that the key is not known, and not that less would be taken."""
    keys.create(data_dir, "mine")
    with running(data_dir) as hub:
        stranger = Client(hub.url)
        answer = stranger.http.post(hub.url + path, data=b"x" * 9_000_000, timeout=60)
        assert (answer.status_code, answer.json()["error"]) == (401, "unauthorized")
        stranger.http.close()


def test_a_bearer_token_is_a_key(data_dir: Path) -> None:
    """`authorization: Bearer KEY` stands for `x-api-key: KEY`, and wins where both are."""
    key = keys.create(data_dir, "good")
    with running(data_dir) as hub:
        client = Client(hub.url)
        assert code(client, authorization=f"Bearer {key}") == 200
        assert code(client, authorization="Bearer wrong", **{"x-api-key": key}) == 401
        client.http.close()


def test_owners_do_not_see_each_other(data_dir: Path) -> None:
    """Another owner's session is unknown, its id cannot be opened, and its keys' answers are not shared."""
    mine, yours = keys.create(data_dir, "mine"), keys.create(data_dir, "yours", owner="you")
    with running(data_dir) as hub:
        me, you = Client(hub.url, mine), Client(hub.url, yours)
        me.open(key="k")
        assert me.rows([row(0, a=1)], key="r").status_code == 200
        answer = you.open(key="k")
        assert (answer.status_code, answer.json()["error"]) == (409, "id_taken")
        unknown = you.get("/v1/models/unknown").json()
        assert you.get("/v1/models/S1").json() == unknown
        assert you.rows([row(0, a=2)], key="r").status_code == 404
        assert you.get("/v1/models").json()["data"]["total"] == 0
        # Not even whether it is older than mine.
        assert you.open("Y1").status_code == 200
        me.open("S2")
        pages = [
            you.get("/v1/models", params={"last_doc_id": one}).json()["data"]
            for one in ("S1", "S2", "unknown")
        ]
        assert pages[0] == pages[1] == pages[2]
        assert me.metrics()[0]["metrics"] == {"a": 1}
        me.http.close()
        you.http.close()


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Host": "localhost:1"}, 200),
        ({"Host": "127.0.0.1"}, 200),
        ({"Host": "[::1]:8765"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "localhost.evil.example:80"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": "[oops"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://[oops"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
    ],
    ids=str,
)
def test_no_web_page_talks_to_an_open_hub(client: Client, headers: dict[str, str], expected: int) -> None:
    """Without a key only loopback names are answered, and nothing that another site's page sends."""
    assert code(client, **headers) == expected
    assert code(client, "/", **headers) == expected


def test_an_open_hub_answers_no_other_machine(data_dir: Path) -> None:
    """Without a key a request from another address, or at another than a loopback address, is refused."""
    store = Store(data_dir)
    host = {"host": "127.0.0.1"}
    assert admit(store, Visit(host, "127.0.0.1", "127.0.0.1")) == "default"
    for visit in (
        Visit(host, "10.0.0.7", "127.0.0.1"),
        Visit(host, "127.0.0.1", "0.0.0.0"),
        Visit(host, "", "127.0.0.1"),
    ):
        with pytest.raises(Problem) as caught:
            admit(store, visit)
        assert caught.value.status == 401
    store.close()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_others_cannot_reach_a_hub_without_keys(data_dir: Path, host: str) -> None:
    """Listening where others can reach it is refused while no key exists, with the command that makes one."""
    with pytest.raises(UsageError, match="hubstate keys create"), running(data_dir, host=host):
        pass
    with (
        pytest.raises(UsageError, match=r"hub\.example"),
        running(data_dir, public_url="https://hub.example"),
    ):
        pass


def test_with_a_key_the_hub_may_be_reached_from_everywhere(data_dir: Path) -> None:
    """With a key it listens on every address, answers under any name, and tells its public address."""
    key = keys.create(data_dir, "good")
    with running(data_dir, host="0.0.0.0", public_url="https://hub.example/") as hub:
        client = Client(f"http://127.0.0.1:{hub.port}", key)
        assert code(client, Host="hub.example") == 200
        assert client.open().json()["hubstate"]["url"] == "https://hub.example/models/S1"
        client.upload(b"x")
        assert client.model()["checkpoints"][0]["url"].startswith("https://hub.example/v1/files/S1/")
        client.http.close()


def test_no_key_is_ever_logged(data_dir: Path, capfd: Any, caplog: Any) -> None:
    """Neither a key in a header nor one in an address shows up in what the hub writes, accidents included."""
    key = keys.create(data_dir, "good")
    with running(data_dir) as hub, caplog.at_level("DEBUG"):
        client = Client(hub.url, key)
        client.get(f"/v1/models?api_key={key}")
        client.get(f"/models/x?api_key={key}")
        with socket.create_connection((hub.host, hub.port), timeout=30) as raw:
            raw.sendall(f"GARBLED {key}\r\n\r\n".encode())
            assert raw.recv(10)
        with sqlite3.connect(data_dir / "hub.sqlite") as database:
            database.execute("DROP TABLE usage")
        database.close()
        client.open()
        assert client.post(f"/v1/models/S1/usage?api_key={key}", {"what": "val"}).status_code == 503
        client.http.close()
    written = capfd.readouterr()
    hub_lines = [record.getMessage() for record in caplog.records if not record.name.startswith("urllib3")]
    assert key not in written.out + written.err + "".join(hub_lines)


def test_the_secret_can_be_read_by_its_owner_alone(hub: RunningHub) -> None:
    """The hub's secret has mode 0600, and stays the same over a restart."""
    secret = hub.data_dir / "secret"
    assert secret.stat().st_mode & 0o777 == 0o600
    assert (hub.data_dir.stat().st_mode & 0o777) == 0o700
    store = Store(hub.data_dir)
    assert store.secret == secret.read_bytes()
    store.close()


@pytest.mark.parametrize(
    "module", ["pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "torch", "numpy"]
)
def test_no_room_of_the_hub_can_unpickle(module: str) -> None:
    """What clients upload is bytes to the hub: no room of it imports anything that could run what lies in a checkpoint."""
    imported = set()
    for path in Path(server.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add((node.module or "").partition(".")[0])
    assert "hashlib" in imported
    assert module not in imported


def test_keys_are_compared_in_constant_time(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every key, revoked ones included, is compared with each request's by the one function that takes the same time."""
    made = [keys.create(data_dir, name) for name in ("a", "b", "c")]
    keys.revoke(data_dir, "b")
    store = Store(data_dir)
    compared: list[str] = []
    compare = hmac.compare_digest

    def noting(stored: str, offered: str) -> bool:
        compared.append(stored)
        return compare(stored, offered)

    monkeypatch.setattr("hubstate.server.keys.hmac.compare_digest", noting)
    ring = keys.ring(store.database)
    assert ring.recognise(made[0]) == (1, "default")
    assert ring.recognise(made[1]) is None
    assert ring.recognise("ul_" + "0" * 40) is None
    assert compared == 3 * [hashlib.sha256(key.encode()).hexdigest() for key in made]
    store.close()
