"""Every address of the hub, asked by everybody: without a key, with a bad one, with another owner's, and with one's own.

The addresses are those of the application itself, so that none can be forgotten: a new one has to refuse strangers, or to
be named here with the reason why it need not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import requests
from fastapi.routing import APIRoute
from hub_client import Client, row
from starlette.routing import Mount, Route

from hubstate.server import keys
from hubstate.server.app import build
from hubstate.server.running import running
from hubstate.server.shells import Wiring
from hubstate.server.store import Store

#: What answers without a key, and why it may.
PUBLIC = {
    "GET /openapi.json": "it describes the calls, which everybody can read in the documents",
    "GET /docs": "the same, for people",
    "GET /healthz": "it tells only that the hub is well",
    "GET /login": "where a key is asked for",
    "POST /login": "where a key is given",
    "POST /logout": "it forgets a login",
    "GET /static": "style and scripts",
    "OPTIONS /v1/models/{model}/uploads": "it tells what the hub speaks, the same for every session",
}
#: What is refused in another way, without a key that is good: by a signature in the address.
SIGNED = {"GET /v1/files/{model}/{sha256}/{name}", "PUT /api/uploads/{model}/{run}/{place}/{name}"}

MINE, UNKNOWN = "S1", "S9"
#: What stands in the places of an address. The first is mine, the second is nobody's.
PLACES = {
    "model": (MINE, UNKNOWN),
    "number": ("1", "999"),
    "upload": ("0" * 32, "1" * 32),
}
ANYTHING = {
    "sha256": "0" * 64, "name": "best.pt", "run": "1", "place": "0", "owner": "default", "project": "p",
    "thing": "x", "curve": "1",
}  # fmt: skip


class Address(NamedTuple):
    method: str
    path: str

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    def of(self, which: int) -> str:
        """The path to something of mine (0), or of nobody's (1)."""
        places = {name: both[which] for name, both in PLACES.items()} | ANYTHING
        return re.sub(r"{(\w+)}", lambda place: places[place[1]], self.path)

    @property
    def is_page(self) -> bool:
        return (
            not self.path.startswith(("/v1", "/api")) and str(self) not in PUBLIC and self.path != "/metrics"
        )


def addresses() -> list[Address]:
    """All that the application answers."""
    store = Store(Path("matrix"))
    app = build(Wiring(store))
    store.close()
    found = []
    for route in app.routes:
        if isinstance(route, Mount):
            found.append(Address("GET", re.sub(r"/[0-9a-f]{12}$", "", route.path)))
        else:
            assert isinstance(route, APIRoute | Route), route
            found += [Address(method, route.path) for method in sorted(route.methods or ())]
    return [one for one in dict.fromkeys(found) if one.method != "HEAD"]


class Somebody:
    """Who asks: a key or none, for the calls as a header, and for the pages as a login."""

    def __init__(self, url: str, key: str | None) -> None:
        self.url = url
        self.http = requests.Session()
        self.http.trust_env = False
        self.http.headers["Via"] = "1.1 proxy"  # from elsewhere: this machine itself may see more
        if key is not None:
            self.http.headers["x-api-key"] = key
            self.http.post(f"{url}/login", data={"key": key}, allow_redirects=False, timeout=30)

    def ask(self, method: str, path: str) -> tuple[int, str]:
        """The status, and what is said; of a stream only that it begins."""
        with self.http.request(
            method, self.url + path, json={}, allow_redirects=False, stream=True, timeout=30
        ) as answer:
            streams = "event-stream" in answer.headers.get("content-type", "")
            return answer.status_code, "a stream" if streams else answer.text


class Everybody(NamedTuple):
    nobody: Somebody
    bad: Somebody
    other: Somebody
    own: Somebody


@pytest.fixture(scope="module")
def everybody(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Everybody]:
    """A hub with a session of one owner, and all who ask it."""
    data_dir = tmp_path_factory.mktemp("matrix")
    mine, yours = keys.create(data_dir, "mine", owner="me"), keys.create(data_dir, "yours", owner="you")
    with running(data_dir) as hub:
        client = Client(hub.url, mine)
        client.open(MINE)
        client.rows([row(0, a=1)])
        client.upload(b"x", kind="best")
        people = Everybody(*(Somebody(hub.url, key) for key in (None, "ul_" + "0" * 40, yours, mine)))
        yield people
        client.http.close()
        for one in people:
            one.http.close()


@pytest.fixture(scope="module")
def all_addresses(tmp_path_factory: pytest.TempPathFactory) -> list[Address]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("addresses"))
        return addresses()


def test_every_address_refuses_who_has_no_good_key(
    everybody: Everybody, all_addresses: list[Address]
) -> None:
    """Without a key, and with one that nobody made, each call is 401 and each page leads to the login."""
    let_in = []
    for address in all_addresses:
        if str(address) in PUBLIC:
            continue
        for who in (everybody.nobody, everybody.bad):
            status, said = who.ask(address.method, address.of(0))
            expected = (303, 401) if address.is_page else (403,) if str(address) in SIGNED else (401,)
            if status not in expected or MINE in said.replace(address.of(0), ""):
                let_in.append(f"{address}: {status} {said[:100]}")
    assert let_in == []


def test_what_is_public_is_there(everybody: Everybody, all_addresses: list[Address]) -> None:
    """What is named as public exists, and says nothing of anybody's sessions."""
    assert set(PUBLIC) | SIGNED <= set(map(str, all_addresses))
    for address in all_addresses:
        if str(address) in PUBLIC:
            status, said = everybody.nobody.ask(address.method, address.of(0))
            assert status < 500, address
            assert "digits" not in said, address


def test_what_is_anothers_answers_as_what_is_not_there(
    everybody: Everybody, all_addresses: list[Address]
) -> None:
    """With another owner's key, my session, my key and my upload answer exactly as ones that never were."""
    told = []
    for address in all_addresses:
        if str(address) in PUBLIC or address.of(0) == address.of(1):
            continue
        mine, nobodys = (everybody.other.ask(address.method, address.of(which)) for which in (0, 1))
        told += [f"{address}: {mine} {nobodys}"] if mine != (nobodys[0], _named(nobodys[1], address)) else []
    assert told == []


def _named(said: str, address: Address) -> str:
    """What was said of nobody's, as it would be said of mine: a refusal may repeat the address."""
    return said.replace(address.of(1), address.of(0)).replace(UNKNOWN, MINE)


def test_ones_own_key_lets_in(everybody: Everybody, all_addresses: list[Address]) -> None:
    """With my own key no call and no page says that I may not, and no answer is the hub's own failure."""
    refused = []
    for address in sorted(all_addresses, key=lambda one: one.method == "DELETE" or "revoke" in one.path):
        if str(address) in PUBLIC or str(address) in SIGNED:
            continue
        status, said = everybody.own.ask(address.method, address.of(0))
        if (
            status in (401, 403)
            or (status >= 500 and "not_offered" not in said)
            or (status == 303 and "login" in said)
        ):
            refused.append(f"{address}: {status} {said[:200]}")
    assert refused == []
