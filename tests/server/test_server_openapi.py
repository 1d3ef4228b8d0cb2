"""The description of the calls is true: whatever is sent by it, no answer is a failure, and each is as it was described."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from hub_client import Client, row
from hypothesis import HealthCheck, Phase, given, settings
from platform_client import Callback, weights
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from hubstate.server import keys
from hubstate.server.openapi import CALLS
from hubstate.server.running import running

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
schemathesis.serializer.alias("application/offset+octet-stream", "application/octet-stream")

#: What a call may need to find something: the session that is there.
THERE = {"model": "S1"}


class Described:
    """A hub with something in it, and its own description."""

    def __init__(self, url: str, key: str) -> None:
        self.url = url
        self.key = key
        self.attempt = 0
        self.http = requests.Session()
        self.http.trust_env = False
        self.told: dict[str, Any] = self.http.get(f"{url}/openapi.json", timeout=30).json()

    def fill(self) -> None:
        """Opens the session's next attempt, which is there then whatever a call did to it."""
        client = Client(self.url, self.key)
        self.attempt += 1
        assert client.open(attempt=self.attempt).status_code == 200
        client.rows([row(0, attempt=self.attempt, a=1.5), row(1, attempt=self.attempt, a=1)])
        client.upload(b"x", kind="best", fitness=1, attempt=self.attempt)
        client.http.close()


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Described]:
    data_dir = tmp_path_factory.mktemp("described")
    key = keys.create(data_dir, "mine")
    with running(data_dir) as hub:
        described = Described(hub.url, key)
        described.fill()
        yield described
        described.http.close()


@pytest.fixture(scope="module")
def api(described: Described) -> Any:
    return schemathesis.openapi.from_dict(described.told)


@pytest.mark.parametrize("call", CALLS)
def test_every_answer_is_as_it_is_described(described: Described, api: Any, call: str) -> None:
    """Of each call, whatever its description allows is answered without a failure and as the description says."""
    method, path = call.split()
    refused = CALLS[call].status == 501  # which is no failure where that is what it says
    checks = [check for check in CHECKS if not (refused and check is not_a_server_error)]

    @settings(
        max_examples=15, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )
    @given(api[path][method].as_strategy())
    def answered(case: Any) -> None:
        for there in (False, True):
            if there and "{model}" in path:
                described.fill()
                case.path_parameters = {**case.path_parameters, **THERE}
            answer = case.call(
                base_url=described.url,
                session=described.http,
                headers={"x-api-key": described.key},
                allow_redirects=False,
                timeout=30,
            )
            case.validate_response(answer, checks=checks)

    answered()


def test_each_call_is_described(described: Described) -> None:
    """Each call that is there is described, and none that is not."""
    there = {
        f"{method.upper()} {path}"
        for path, operations in described.told["paths"].items()
        for method in operations
    }
    assert there == CALLS.keys()


@pytest.mark.parametrize(
    ("path", "schema_name"),
    [
        ("/v1/models", "GET /v1/models"),
        ("/v1/models/S1", "GET /v1/models/{model}"),
        ("/v1/models/S1/metrics", "GET /v1/models/{model}/metrics"),
    ],
)
def test_a_full_answer_is_as_it_is_described(
    described: Described, api: Any, path: str, schema_name: str
) -> None:
    """What a hub tells of a session with rows, checkpoints and an end has every field that is described."""
    described.fill()
    method, template = schema_name.split()
    operation = api[template][method]
    answer = described.http.get(described.url + path, headers={"x-api-key": described.key}, timeout=30)
    assert answer.status_code == 200
    assert operation.is_valid_response(answer)
    broken = requests.Response()
    broken.status_code, broken._content = 200, answer.content.replace(b'"success":true', b'"success":false')
    broken.headers.update(answer.headers)
    broken.request = answer.request
    assert not operation.is_valid_response(broken)


def test_the_platforms_calls_are_as_they_are_described(described: Described, api: Any) -> None:
    """What a whole run of the Platform callback is answered, and what is looked up of it, is as it is described."""
    client = Client(described.url, described.key)
    callback = Callback(client)

    def hold(call: str, answer: requests.Response) -> None:
        method, template = call.split()
        assert answer.status_code == 200
        assert api[template][method].is_valid_response(answer), call

    callback.start()
    webhook = "POST /api/webhooks/training/metrics"
    hold(webhook, callback.epoch(0))
    address = callback.address()
    assert callback.put(address, weights()).status_code == 200
    hold(webhook, callback.saved(address))
    hold(webhook, callback.say("nobody_knows"))
    client.post(f"/models/{callback.model}/stop")
    hold(webhook, callback.epoch(1))
    hold(webhook, callback.complete(address["gcsPath"]))
    named = "/api/models/{owner}/{project}/{name}"
    where = f"/api/models/u/p/{callback.look()['name']}"
    for call, path in (
        (f"GET {named}", where),
        (f"GET {named}/files", f"{where}/files"),
        ("GET /v1/models/{model}/said", f"/v1/models/{callback.model}/said"),
        ("GET /v1/models/{model}", f"/v1/models/{callback.model}"),
        ("GET /api/account/summary", "/api/account/summary"),
    ):
        hold(call, client.get(path))
    client.http.close()


def test_the_calls_are_shown_to_people(described: Described) -> None:
    """`/docs` shows every call and shape of the description, and loads nothing from elsewhere."""
    answer = described.http.get(f"{described.url}/docs", timeout=30)
    assert answer.status_code == 200
    for path, operations in described.told["paths"].items():
        for method in operations:
            assert f"<code>{method.upper()} {path}</code>" in answer.text
    for name in described.told["components"]["schemas"]:
        assert f"<code>{name}</code>" in answer.text
    assert not re.search(r"(?:src|href)=.(?:https?:)?//", answer.text)
    assert "script-src 'self'" in answer.headers["Content-Security-Policy"]
