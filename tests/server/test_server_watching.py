"""Whether the hub is well, its numbers, and who may see those."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from hub_client import Client, row

from hubstate.clock import VirtualClock
from hubstate.server import keys
from hubstate.server.running import RunningHub, running
from hubstate.server.terms import Terms


def numbers(client: Client, **headers: str) -> dict[str, float]:
    answer = client.get("/metrics", headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    found = {}
    for line in answer.text.splitlines():
        if not line.startswith("#"):
            name, value = re.fullmatch(r"([a-z_]+(?:{[a-z_]+=\"[^\"\n]*\"})?) ([-+.e0-9]+)", line).groups()  # type: ignore[union-attr]
            assert name not in found
            found[name] = float(value)
    return found


def test_a_hub_that_is_well_says_so_to_anybody(hub: RunningHub, client: Client) -> None:
    """`/healthz` is 200 without a key, also once there are keys, and to HEAD, which many watchers send."""
    keys.create(hub.data_dir, "first")
    answer = client.get("/healthz", headers={"Host": "hub.example"})
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
    head = client.http.head(f"{client.url}/healthz", timeout=30)
    assert (head.status_code, head.content) == (200, b"")


def test_a_hub_whose_database_is_broken_is_not_well(hub: RunningHub, client: Client) -> None:
    """`/healthz` is 503 where the database does not answer."""
    with closing(sqlite3.connect(hub.data_dir / "hub.sqlite")) as database:
        database.execute("DROP TABLE sessions")
    assert client.get("/healthz").status_code == 503


def test_a_hub_whose_disk_is_full_is_not_well(data_dir: Path) -> None:
    """`/healthz` is 507 where there is no room for what comes, and looks go on."""
    with running(data_dir, terms=Terms(room=2**62)) as hub:
        client = Client(hub.url)
        answer = client.get("/healthz")
        assert (answer.status_code, answer.json()["error"]) == (507, "storage_full")
        assert 0 < numbers(client)["hubstate_disk_free_bytes"] < 2**62
        client.http.close()


def test_the_numbers_tell_what_is_here(hub: RunningHub, client: Client, clock: VirtualClock) -> None:
    """Sessions by state, the silent ones, files and their bytes, writes and commits, answers by status."""
    client.open("S1")
    client.open("S2")
    client.rows([row(0, a=1)], model="S1")
    client.upload(b"12345", model="S1")
    client.open("S3")
    client.end("S3")
    assert client.get("/v1/models/unknown").status_code == 404
    found = numbers(client)
    assert found['hubstate_sessions{state="training"}'] == 1
    assert found['hubstate_sessions{state="session_created"}'] == 1
    assert found['hubstate_sessions{state="done"}'] == 1
    assert found["hubstate_sessions_silent"] == 0
    assert (found["hubstate_checkpoint_files"], found["hubstate_checkpoint_bytes"]) == (1, 5)
    assert (found["hubstate_writes_total"], found["hubstate_commits_total"]) == (1, 1)
    assert (found['hubstate_answers_total{status="200"}'], found['hubstate_answers_total{status="404"}']) == (
        6,
        1,
    )
    assert found["hubstate_database_bytes"] > 4096
    assert found["process_resident_memory_bytes"] > 1e6
    clock.advance(901.0)
    assert numbers(client)["hubstate_sessions_silent"] == 2


def test_answers_that_no_call_gave_are_counted_too(
    data_dir: Path, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a watcher wants to know most: how often a client asked too much, and accidents. Both tell what is left."""

    def breaks(*_arguments: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("hubstate.server.models.get_model", breaks)
    with running(data_dir, wall=clock.wall, terms=Terms(rate_limit=2)) as hub:
        client = Client(hub.url)
        answers = [client.get("/v1/models/S1"), client.get("/v1/models"), client.get("/v1/models")]
        found = numbers(client)
        client.http.close()
    assert [answer.status_code for answer in answers] == [500, 200, 429]
    assert [answer.headers["x-ratelimit-remaining"] for answer in answers] == ["1", "0", "0"]
    counted = {status: found[f'hubstate_answers_total{{status="{status}"}}'] for status in (200, 429, 500)}
    assert counted == {200: 1, 429: 1, 500: 1}


def test_the_numbers_are_for_this_machine_and_for_who_has_a_key(hub: RunningHub, client: Client) -> None:
    """With keys, this machine asks without one; through whatever stands between, a key or a login is needed."""
    key = keys.create(hub.data_dir, "first")
    assert numbers(client)
    for headers in (
        {"Host": "hub.example"},
        {"X-Forwarded-For": "192.0.2.7"},
        {"Forwarded": "for=192.0.2.7"},
        {"Via": "1.1 proxy"},
    ):
        assert client.get("/metrics", headers=headers).status_code == 401
        assert numbers(client, authorization=f"Bearer {key}", **headers)
    client.http.post(f"{hub.url}/login", data={"key": key}, timeout=30)
    assert numbers(client, Via="1.1 proxy")
    assert client.get("/metrics", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403


@pytest.mark.parametrize(
    "more", [{"host": "0.0.0.0"}, {"public_url": "https://hub.example"}], ids=["all", "public"]
)
def test_a_hub_that_others_reach_wants_a_key_from_everybody(data_dir: Path, more: dict[str, str]) -> None:
    """A hub that listens on every address, or is behind a proxy, takes no request for this machine's own."""
    key = keys.create(data_dir, "first")
    with running(data_dir, **more) as hub:  # type: ignore[arg-type]
        client = Client(f"http://127.0.0.1:{hub.port}")
        assert client.get("/metrics").status_code == 401
        assert numbers(client, **{"x-api-key": key})
        client.http.close()
