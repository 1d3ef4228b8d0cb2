"""Hubs on loopback, and clients that speak to them with short patience."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from parcels import KEY
from scripted import Script, ScriptedHub, own_hub

from hubstate.hubs.hub_v1 import HubV1

NOW = 1_800_000_000.0


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "NO_PROXY",
        "REQUESTS_CA_BUNDLE",
        "CURL_CA_BUNDLE",
    ):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def serve() -> Iterator[Callable[..., ScriptedHub]]:
    """Starts scripted hubs, and closes them."""
    hubs: list[ScriptedHub] = []

    def start(script: Script = own_hub, **options: Any) -> ScriptedHub:
        hubs.append(ScriptedHub(script, **options))
        return hubs[-1]

    yield start
    for hub in hubs:
        hub.close()


@pytest.fixture
def connect() -> Iterator[Callable[..., HubV1]]:
    """Makes clients, and closes them."""
    clients: list[HubV1] = []

    def make(address: str, key: str | None = KEY, **options: Any) -> HubV1:
        options = {"wall": lambda: NOW, "chance": random.Random(1), "read_timeout": 10.0} | options
        clients.append(HubV1(address, key, **options))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A snapshot of a few hundred kilobytes."""
    path = tmp_path / "01-last-3-secretname.pt"
    path.write_bytes(random.Random(2).randbytes(300_000))
    return path
