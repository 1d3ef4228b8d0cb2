"""Whatever a hub answers, a delivery ends as a value."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from parcels import KEY, every
from scripted import Says, ScriptedHub, foreign_hub, own_hub

from hubstate.hubs.base import Accepted, Declined, Delayed
from hubstate.hubs.hub_v1 import HubV1

NUMBERS = st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.booleans(), st.none())
JSON = st.recursive(
    st.one_of(NUMBERS, st.text(max_size=20)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(
                [
                    "success",
                    "data",
                    "id",
                    "rows",
                    "sha256",
                    "hubstate",
                    "stop",
                    "url",
                    "heartbeat",
                    "metrics",
                    "checkpoint",
                    "message",
                    "error",
                    "agentId",
                    "x",
                ]
            ),
            inner,
            max_size=5,
        ),
    ),
    max_leaves=12,
)
BODIES = st.one_of(
    st.binary(max_size=200),
    JSON.map(lambda value: json.dumps(value).encode()),
    JSON.map(lambda value: json.dumps({"success": True, "hubstate": value, "data": value}).encode()),
    st.sampled_from(
        [b"[" * 100_000, b'{"a":' * 50_000, b'{"a": NaN}', b'{"a": 1e999}', b"\xff", b'{"data": {}}']
    ),
)
LINES = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=40)
HEADERS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "Retry-After",
                "X-RateLimit-Reset",
                "Location",
                "Set-Cookie",
                "Content-Type",
                "Content-Encoding",
                "Connection",
                "Date",
                "X",
            ]
        ),
        st.one_of(
            LINES,
            st.integers().map(str),
            st.floats().map(str),
            st.sampled_from(["gzip", "close", "Wed, 21 Oct 2015 07:28:00 GMT", "a=b; Expires=Mon, 99", "-1"]),
        ),
    ),
    max_size=4,
).map(tuple)
ANSWERS = st.one_of(
    st.builds(Says, st.integers(101, 999), BODIES, HEADERS),
    st.builds(Says, st.sampled_from([200, 201, 302, 401, 422, 429, 503]), BODIES, HEADERS),
    st.binary(max_size=300).map(lambda raw: Says(raw=raw)),
    st.binary(max_size=100).map(lambda raw: Says(raw=b"HTTP/1.1 200 OK\r\n" + raw)),
    st.just(Says(drop=True)),
)


@pytest.fixture(scope="module", params=["own", "foreign"])
def hub(request: pytest.FixtureRequest) -> Iterator[ScriptedHub]:
    with ScriptedHub(own_hub if request.param == "own" else foreign_hub) as hub:
        yield hub


@pytest.mark.promise("P6")
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(answer=ANSWERS, place=st.integers(0, 6), at_auth=st.booleans())
@example(answer=Says(200, b'{"a": 1}', (("Set-Cookie", "a=b; Max-Age=x; Expires=0"),)), place=0, at_auth=True)
@example(answer=Says(200, b'{"success": true}'), place=0, at_auth=True)
@example(answer=Says(429, b"{}", (("Retry-After", "inf"),)), place=1, at_auth=False)
@example(answer=Says(429, b"{}", (("Retry-After", "9" * 400),)), place=1, at_auth=False)
def test_no_answer_raises(hub: ScriptedHub, file: Path, answer: Says, place: int, at_auth: bool) -> None:
    """Any status, headers and body, at any request: the reply is a value, bounded, and without the key."""
    file = file.with_name("small.pt")
    file.write_bytes(b"small")
    parcel = every(file)[place]
    script = hub.script
    hub.script = lambda request: answer if (request.path == "/v1/auth") is at_auth else script(request)
    client = HubV1(hub.url, KEY, chance=random.Random(1), wall=lambda: 1_800_000_000.0)
    try:
        replies = [client.check(), client.deliver(parcel), client.deliver(parcel)]
    finally:
        client.close()
        hub.script = script
    for reply in replies:
        assert isinstance(reply, Accepted | Declined | Delayed)
        assert KEY not in repr(reply)
        if isinstance(reply, Delayed):
            assert reply.condition in ("offline", "rate_limited", "credentials_rejected", "hub_failing")
            assert reply.retry_after is None or 0 < reply.retry_after <= 3600
            assert 0 < len(reply.reason) < 700
        if isinstance(reply, Declined):
            assert 0 < len(reply.reason) < 700
        for interval in (
            reply.news.heartbeat_interval,
            reply.news.metrics_interval,
            reply.news.checkpoint_interval,
        ):
            assert interval is None or 0 <= interval <= 86_400
