"""What leaves for one's own hub and for another one, and what of their answers counts."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from parcels import (
    KEY,
    SESSION,
    checkpoint,
    close,
    end,
    every,
    heartbeat,
    keep,
    opening,
    row,
    rows,
    usage,
)
from scripted import Request, Says, ScriptedHub, foreign_hub, own_hub

from hubstate.hubs.base import Accepted, Declined, Delayed, Hub, News, Parcel
from hubstate.hubs.hub_v1 import HubV1
from hubstate.hubs.wire import user_agent
from hubstate.states import CheckpointKind

Serve = Callable[..., ScriptedHub]
Connect = Callable[..., HubV1]


def said(answer: Any, status: int = 200, **headers: str) -> Says:
    return Says(status, answer, tuple((name.replace("_", "-"), value) for name, value in headers.items()))


# -- who is there ------------------------------------------------------------------------------------------


def test_it_is_a_hub(connect: Connect) -> None:
    """The client keeps the seam that the sender relies on."""
    assert isinstance(connect("http://127.0.0.1:1"), Hub)


def test_auth_is_asked_once_before_anything_else(serve: Serve, connect: Connect, file: Path) -> None:
    """Whichever delivery comes first asks who is there; the answer is remembered."""
    hub = serve()
    client = connect(hub.url)
    for parcel in (checkpoint(file), heartbeat(), rows(row(1, 0, loss=1.0))):
        assert isinstance(client.deliver(parcel), Accepted)
    assert hub.paths()[0] == "/v1/auth"
    assert len(hub.of("/v1/auth")) == 1


@pytest.mark.promise("D15")
@pytest.mark.parametrize(
    "answer",
    [
        said({"success": False, "message": "unknown key"}, 401),
        said({"success": False, "message": "unknown key"}, 403),
        said({"success": False, "message": "unknown key"}),
        Says(401, b"<html>no</html>"),
    ],
)
def test_a_rejected_key_is_said_to_be_so(serve: Serve, connect: Connect, answer: Says) -> None:
    """401, 403, or a 2xx with `success: false` reject credentials; the delivery itself does not leave."""
    hub = serve()
    hub.then("/v1/auth", answer)
    reply = connect(hub.url).deliver(opening())
    assert isinstance(reply, Delayed)
    assert reply.condition == "credentials_rejected"
    assert hub.paths() == ["/v1/auth"]


@pytest.mark.promise("D15")
@pytest.mark.parametrize(
    "answer",
    [
        said({"success": False}, 503),
        said({"success": False}, 429),
        said({"success": False}, 500),
        Says(502, b"<html>bad gateway</html>"),
        Says(200, b"<html>log in</html>"),
        said({}),
        said({"success": "yes"}),
        said([]),
        said({"message": "no such page"}, 404),
    ],
)
def test_trouble_at_auth_rejects_no_key_and_lets_nothing_leave(
    serve: Serve, connect: Connect, answer: Says
) -> None:
    """A passing trouble of the hub never reads as a bad key, and is never final for the delivery."""
    hub = serve()
    hub.then("/v1/auth", answer)
    client = connect(hub.url)
    reply = client.deliver(opening())
    assert isinstance(reply, Delayed)
    assert reply.condition in ("hub_failing", "rate_limited")
    assert hub.paths() == ["/v1/auth"]
    assert isinstance(client.deliver(opening()), Accepted)


@pytest.mark.promise("D15")
def test_once_a_key_is_set_no_request_leaves_without_it(serve: Serve, connect: Connect, file: Path) -> None:
    """Every request carries the key, after failures of any kind as well."""
    hub = serve()
    hub.then("/v1/auth", Says(503, b"no"), Says(drop=True), said({"success": False}, 401))
    hub.then("/upload", said({}, 401), Says(drop=True))
    client = connect(hub.url)
    for _ in range(6):
        for parcel in every(file):
            client.deliver(parcel)
    assert len(hub.requests) > 20
    assert {request.headers.get("x-api-key") for request in hub.requests} == {KEY}


def test_without_a_key_there_is_no_header_and_ones_own_hub_works(serve: Serve, connect: Connect) -> None:
    """On loopback, while the hub has no keys, a client without one gets along."""
    hub = serve()
    client = connect(hub.url, None)
    assert isinstance(client.deliver(opening()), Accepted)
    assert not any({"x-api-key", "authorization"} & set(request.headers) for request in hub.requests)


def test_a_netrc_does_not_replace_the_key(
    serve: Serve, connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a `.netrc` holds for the host never leaves."""
    netrc = tmp_path / "netrc"
    netrc.write_text("default login somebody password something\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    hub = serve()
    for key in (KEY, None):
        connect(hub.url, key).deliver(opening())
    assert not any("authorization" in request.headers for request in hub.requests)
    assert [request.headers.get("x-api-key") for request in hub.requests] == [KEY, KEY, None, None]


def test_who_is_there_is_asked_anew_after_a_401(serve: Serve, connect: Connect) -> None:
    """A key that was revoked meanwhile pauses everything; the next try begins with auth."""
    hub = serve()
    client = connect(hub.url)
    client.deliver(opening())
    hub.then(SESSION, said({"message": "the key was revoked"}, 401))
    reply = client.deliver(rows(row(1, 0, loss=1.0)))
    assert reply == Delayed("credentials_rejected", "the key was revoked", 401, news=reply.news)
    assert isinstance(client.deliver(rows(row(1, 0, loss=1.0))), Accepted)
    assert hub.paths()[2:] == [f"/v1/models/{SESSION}", "/v1/auth", f"/v1/models/{SESSION}"]


def test_check_asks_for_nothing_but_auth(serve: Serve, connect: Connect) -> None:
    """`check` tells whether the key is good, each time anew, and changes nothing at the hub."""
    hub = serve()
    hub.then("/v1/auth", said({"success": True, "hubstate": 1}), said({"message": "revoked"}, 401))
    client = connect(hub.url)
    assert client.check() == Accepted(news=News(hub=hub.url))
    assert client.check() == Delayed("credentials_rejected", "revoked", 401, news=News(hub=hub.url))
    assert hub.paths() == ["/v1/auth", "/v1/auth"]


def test_capabilities_follow_what_the_hub_says(serve: Serve, connect: Connect) -> None:
    """A hub that was not heard yet, or says nothing of the extension, can do the least."""
    own, foreign = connect(serve().url), connect(serve(foreign_hub).url)
    assert not own.capabilities.step_rows
    own.check()
    foreign.check()
    assert own.capabilities.step_rows
    assert own.capabilities.own_digest
    assert not foreign.capabilities.step_rows
    assert not foreign.capabilities.own_digest
    assert not foreign.capabilities.closing


@pytest.mark.parametrize("told", [True, "1", 2, {}, None])
def test_only_the_number_1_names_ones_own_hub(serve: Serve, connect: Connect, told: object) -> None:
    """Anything but `"hubstate": 1` is another hub, and gets the old protocol."""
    hub = serve(foreign_hub)
    hub.then("/v1/auth", said({"success": True, "hubstate": told}))
    connect(hub.url).deliver(rows(row(1, 0, loss=1.0)))
    assert isinstance(hub.of(SESSION)[0].json["metrics"], dict)


# -- every write -------------------------------------------------------------------------------------------


@pytest.mark.promise("D24")
@pytest.mark.parametrize("script", [own_hub, foreign_hub])
def test_every_write_carries_its_idempotency_key_and_who_sends(
    serve: Serve, connect: Connect, file: Path, script: Any
) -> None:
    """A repeat can be told from a second thing, at any hub."""
    hub = serve(script)
    client = connect(hub.url)
    for parcel in every(file):
        before = len(hub.requests)
        client.deliver(parcel)
        for request in hub.requests[before:]:
            if request.path != "/v1/auth":
                assert request.headers["idempotency-key"] == parcel.key
    assert {request.headers["user-agent"] for request in hub.requests} == {user_agent()}
    assert {request.headers["accept-encoding"] for request in hub.requests} == {"identity"}
    assert user_agent().startswith("hubstate/")


def test_a_key_that_no_header_can_carry_is_digested(serve: Serve, connect: Connect) -> None:
    """The idempotency key holds for any session id, and stays the same from try to try."""
    hub = serve()
    client = connect(hub.url)
    odd = Parcel("sitzung ü\r\nX: 1/1/open", opening().action, SESSION)
    assert isinstance(client.deliver(odd), Accepted)
    assert isinstance(client.deliver(odd), Accepted)
    first, second = hub.of("/v1/models")
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]
    assert first.headers["idempotency-key"].startswith("sha256-")
    assert "x" not in first.headers


def test_one_connection_serves_many_requests(serve: Serve, connect: Connect, file: Path) -> None:
    """Words keep one connection, files another one, answers without a body and refusals included."""
    hub = serve()
    client = connect(hub.url)
    hub.then("/usage", Says(204), said({"message": "no"}, 404), Says(500, b"x" * 70_000))
    for _ in range(3):
        client.deliver(usage())
        client.deliver(rows(row(1, 0, loss=1.0)))
        client.deliver(checkpoint(file))
    assert len(hub.requests) == 10
    assert hub.connections == 2


def test_two_threads_deliver_at_once(serve: Serve, connect: Connect, file: Path) -> None:
    """A slow upload holds up no row, and neither disturbs the other's answers."""
    hub = serve()
    client = connect(hub.url)
    client.check()
    gate = threading.Event()
    hub.then("/upload", Says(body=own_hub_upload(file), wait=gate))
    replies: list[object] = []
    thread = threading.Thread(target=lambda: replies.append(client.deliver(checkpoint(file))))
    thread.start()
    for number in range(1, 30):
        assert client.deliver(rows(row(number, number, loss=1.0))) == Accepted(
            rows=1, news=client.deliver(heartbeat()).news
        )
    gate.set()
    thread.join()
    assert isinstance(replies[0], Accepted)
    assert hub.connections == 2


def own_hub_upload(file: Path) -> dict[str, Any]:
    return {"data": {"sha256": hashlib.sha256(file.read_bytes()).hexdigest()}}


# -- opening -----------------------------------------------------------------------------------------------


def test_opening_at_ones_own_hub(serve: Serve, connect: Connect) -> None:
    """The session opens under the id chosen here, with its attempt and first epoch."""
    hub = serve()
    parcel = opening(
        attempt=2, first_epoch=7, epochs=15, project="p", group="g", tags=("a",), config={"lr": 0.05}
    )
    reply = connect(hub.url).deliver(parcel)
    assert isinstance(reply, Accepted)
    assert (reply.news.model, reply.news.hub) == (SESSION, hub.url)
    body = hub.of("/v1/models")[0].json
    started = body["hubstate"].pop("started_at")
    assert body["hubstate"] == {
        "id": SESSION,
        "attempt": 2,
        "first_epoch": 7,
        "name": "digits",
        "epochs": 15,
        "project": "p",
        "group": "g",
        "tags": ["a"],
        "config": {"lr": 0.05},
    }
    assert 1_500_000_000 < started < 1_900_000_000
    assert body["config"] == {"epochs": 15}
    assert body["meta"] == {"name": "digits"}


def test_an_opening_tells_its_mark_to_ones_own_hub(serve: Serve, connect: Connect) -> None:
    """Two processes that begin the same attempt say different things: the hub refuses the later one."""
    hub = serve()
    assert isinstance(connect(hub.url).deliver(opening(mark="17")), Accepted)
    assert hub.of("/v1/models")[0].json["hubstate"]["mark"] == "17"


def test_a_session_whose_id_is_no_ulid_opens_too(serve: Serve, connect: Connect) -> None:
    """An id that tells no time leaves the time of the start open, and nothing else."""
    hub = serve()
    action = msgspec.structs.replace(opening().action, session="my-session")
    reply = connect(hub.url).deliver(Parcel("k", action, "my-session"))
    assert isinstance(reply, Accepted)
    assert reply.news.model == "my-session"
    assert hub.of("/v1/models")[0].json["hubstate"]["started_at"] is None


@pytest.mark.promise("D25")
def test_opening_at_another_hub_tells_only_what_it_needs(serve: Serve, connect: Connect) -> None:
    """Another hub gets the old body, without the user's configuration or anything of this machine."""
    hub = serve(foreign_hub)
    reply = connect(hub.url).deliver(opening(epochs=15, config={"data": str(Path.cwd()), "lr": 1}))
    assert isinstance(reply, Accepted)
    assert (reply.news.model, reply.news.url) == ("m42", None)
    sent = hub.of("/v1/models")[0]
    assert sent.json == {
        "config": {"epochs": 15},
        "dataset": {"name": ""},
        "lineage": {"architecture": {"name": ""}, "parent": {}},
        "meta": {"name": "digits"},
    }
    assert str(Path.cwd()).encode() not in sent.body
    assert socket.gethostname().encode() not in sent.body


def test_a_further_attempt_makes_no_second_model_elsewhere(serve: Serve, connect: Connect) -> None:
    """A hub without attempts is not asked to create the session again."""
    hub = serve(foreign_hub)
    reply = connect(hub.url).deliver(opening("m42", attempt=2))
    assert isinstance(reply, Accepted)
    assert reply.news.model == "m42"
    assert hub.paths() == ["/v1/auth"]


@pytest.mark.promise("D17")
@pytest.mark.parametrize(
    "data",
    [
        {},
        None,
        [],
        "m1",
        {"id": None},
        {"id": ""},
        {"id": 7},
        {"id": "a.b"},
        {"id": "a/b"},
        {"id": "a b"},
        {"id": "é"},
        {"id": "x" * 201},
    ],
)
def test_an_odd_id_is_no_session(serve: Serve, connect: Connect, data: object) -> None:
    """Without an id that can be used the opening is repeated; nothing is ever called "None"."""
    hub = serve(foreign_hub)
    hub.then("/v1/models", said({"data": data}))
    client = connect(hub.url)
    reply = client.deliver(opening())
    assert isinstance(reply, Delayed)
    assert reply.condition == "hub_failing"
    assert reply.news.model is None
    assert not any("None" in path for path in hub.paths())


def test_ones_own_hub_opens_the_session_it_was_asked_for(serve: Serve, connect: Connect) -> None:
    """An answer about another session does not count as the opening of this one."""
    hub = serve()
    hub.then("/v1/models", said({"data": {"id": "another"}}))
    assert isinstance(connect(hub.url).deliver(opening()), Delayed)


def test_nothing_leaves_for_a_session_that_has_no_name_there(serve: Serve, connect: Connect) -> None:
    """Before another hub has said what it calls the session, nothing is sent about it."""
    hub = serve(foreign_hub)
    assert isinstance(connect(hub.url).deliver(heartbeat(None)), Delayed)
    assert hub.paths() == ["/v1/auth"]
    own = serve()
    assert isinstance(connect(own.url).deliver(heartbeat(None)), Accepted)
    assert own.paths()[-1] == f"/v1/agent/heartbeat/models/{SESSION}"


# -- rows --------------------------------------------------------------------------------------------------


@pytest.mark.promise("D21")
def test_rows_go_to_ones_own_hub_as_they_are(serve: Serve, connect: Connect) -> None:
    """Steps, final rows, attempts and what was not finite arrive, in strict JSON."""
    hub = serve()
    given = (
        row(1, 0, loss=0.5, x="NaN"),
        row(2, 0, step=4, loss=0.25),
        row(3, 0, final=True, acc=1, y="-Infinity"),
        row(4, 1, attempt=2, loss=1e-9),
    )
    reply = connect(hub.url).deliver(rows(*given))
    assert reply == Accepted(rows=4, news=reply.news)
    body = hub.of(SESSION)[0].json
    assert body["type"] == "metrics"
    assert body["metrics"][0] == {
        "epoch": 0,
        "step": None,
        "attempt": 1,
        "final": False,
        "at": 1_800_000_001.0,
        "metrics": {"loss": 0.5, "x": None},
        "nonfinite": {"x": "NaN"},
    }
    assert [(r["epoch"], r["step"], r["final"], r["attempt"]) for r in body["metrics"]] == [
        (0, None, False, 1),
        (0, 4, False, 1),
        (0, None, True, 1),
        (1, None, False, 2),
    ]
    assert "nonfinite" not in body["metrics"][1]
    assert body["metrics"][2]["nonfinite"] == {"y": "-Infinity"}


@pytest.mark.parametrize("data", [{}, {"rows": 1}, {"rows": 3}, {"rows": True}, {"rows": "2"}, None, []])
def test_rows_that_are_not_confirmed_do_not_count(serve: Serve, connect: Connect, data: object) -> None:
    """One's own hub has to say that it holds as many rows as were sent."""
    hub = serve()
    hub.then(SESSION, said({"success": True, "data": data}))
    reply = connect(hub.url).deliver(rows(row(1, 0, a=1.0), row(2, 1, a=1.0)))
    assert isinstance(reply, Delayed)
    assert reply.condition == "hub_failing"


def test_a_truth_value_is_no_count(serve: Serve, connect: Connect) -> None:
    """`true` does not confirm one row."""
    hub = serve()
    hub.then(SESSION, said({"success": True, "data": {"rows": True}}))
    assert isinstance(connect(hub.url).deliver(rows(row(1, 0, a=1.0))), Delayed)


def strict(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise ValueError(constant)

    return json.loads(text, parse_constant=refuse)


def test_another_hub_gets_one_row_an_epoch(serve: Serve, connect: Connect) -> None:
    """Rows of an epoch merge by name, the later value wins; steps and the final row are said to be not taken."""
    hub = serve(foreign_hub)
    given = (
        row(1, 0, loss=0.5, a=1, n="NaN"),
        row(2, 0, step=1, loss=9.0),
        row(3, 0, loss=0.4),
        row(4, 1, loss=0.3),
        row(5, 1, attempt=2, other=2),
        row(6, 1, final=True, loss=9.0),
    )
    reply = connect(hub.url).deliver(rows(*given, model="m42"))
    assert isinstance(reply, Accepted)
    assert (reply.rows, reply.not_taken) == (4, "this hub keeps one row an epoch")
    body = hub.of("m42")[0].json
    assert body["type"] == "metrics"
    assert {epoch: strict(text) for epoch, text in body["metrics"].items()} == {
        "0": {"loss": 0.4, "a": 1, "n": None},
        "1": {"other": 2},
    }


def test_rows_of_epochs_alone_are_all_taken(serve: Serve, connect: Connect) -> None:
    """Where everything could be sent, nothing is said to be not taken."""
    hub = serve(foreign_hub)
    reply = connect(hub.url).deliver(rows(row(1, 0, a=1.0), row(2, 1, a=1.0), model="m42"))
    assert reply == Accepted(rows=2, news=reply.news)


def test_no_request_leaves_for_rows_that_another_hub_cannot_keep(serve: Serve, connect: Connect) -> None:
    """A parcel of steps only is settled as not taken, without a request."""
    hub = serve(foreign_hub)
    reply = connect(hub.url).deliver(
        rows(row(1, 0, step=1, a=1.0), row(2, 0, final=True, a=1.0), model="m42")
    )
    assert isinstance(reply, Accepted)
    assert (reply.rows, bool(reply.not_taken)) == (0, True)
    assert hub.paths() == ["/v1/auth"]


# -- checkpoints -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "name", "fields"),
    [
        (CheckpointKind.LAST, "last.pt", {"type": b"epoch", "isBest": b"False", "kind": b"last"}),
        (CheckpointKind.BEST, "best.pt", {"type": b"epoch", "isBest": b"True", "kind": b"best"}),
        (CheckpointKind.FINAL, "best.pt", {"type": b"final", "kind": b"final"}),
    ],
)
def test_an_upload_to_ones_own_hub(
    serve: Serve, connect: Connect, file: Path, kind: CheckpointKind, name: str, fields: dict[str, bytes]
) -> None:
    """The file arrives whole behind its fields, with its digest, and counts once the hub tells that digest."""
    hub = serve()
    parcel = checkpoint(file, kind, fitness=0.75)
    reply = connect(hub.url).deliver(parcel)
    assert reply == Accepted(sha256=parcel.sha256, news=reply.news)
    request = hub.of("/upload")[0]
    assert request.form.pop(name) == file.read_bytes()
    expected = fields | {
        "epoch": b"3",
        "attempt": b"1",
        "sha256": parcel.sha256.encode(),
        "map": b"0.75",
    }
    form = request.form
    assert list(form)[-1] == name
    assert {key: value for key, value in form.items() if key != name} == expected
    digest = base64.b64encode(hashlib.sha256(file.read_bytes()).digest()).decode()
    assert request.headers["repr-digest"] == f"sha-256=:{digest}:"
    assert int(request.headers["content-length"]) == request.size
    assert "transfer-encoding" not in request.headers
    assert file.name.encode() not in request.body


@pytest.mark.parametrize(
    ("kind", "fitness", "name", "fields"),
    [
        (CheckpointKind.LAST, 0.5, "last.pt", {"type": b"epoch", "isBest": b"False"}),
        (CheckpointKind.BEST, 0.5, "last.pt", {"type": b"epoch", "isBest": b"True"}),
        (CheckpointKind.FINAL, 0.5, "best.pt", {"type": b"final", "map": b"0.5"}),
        (CheckpointKind.FINAL, None, "best.pt", {"type": b"final", "map": b"0.0"}),
        (CheckpointKind.FINAL, math.inf, "best.pt", {"type": b"final", "map": b"0.0"}),
    ],
)
def test_an_upload_to_another_hub(
    serve: Serve,
    connect: Connect,
    file: Path,
    kind: CheckpointKind,
    fitness: float | None,
    name: str,
    fields: dict[str, bytes],
) -> None:
    """Another hub gets the two file names and the fields of the old protocol, and confirms no digest."""
    hub = serve(foreign_hub)
    reply = connect(hub.url).deliver(checkpoint(file, kind, model="m42", fitness=fitness))
    assert reply == Accepted(news=reply.news)
    form = hub.of("/models/m42/upload")[0].form
    assert form == fields | {"epoch": b"3", name: file.read_bytes()}


@pytest.mark.promise("C15", "P7")
@pytest.mark.parametrize(
    "data", [{}, None, {"sha256": ""}, {"sha256": None}, {"sha256": "0" * 64}, {"sha256": 5}]
)
def test_a_file_that_is_not_confirmed_does_not_count(
    serve: Serve, connect: Connect, file: Path, data: object
) -> None:
    """Only the digest of the very bytes settles an upload."""
    hub = serve()
    hub.then("/upload", said({"success": True, "data": data}))
    reply = connect(hub.url).deliver(checkpoint(file))
    assert isinstance(reply, Delayed)
    assert reply.condition == "hub_failing"


def test_other_bytes_than_were_announced_are_sent_again(serve: Serve, connect: Connect, file: Path) -> None:
    """A digest that does not fit is the way's fault and not final; another 422 is."""
    hub = serve()
    hub.then("/upload", said({"error": "digest_mismatch", "message": "other bytes"}, 422))
    hub.then("/upload", said({"error": "invalid", "message": "no such kind"}, 422))
    client = connect(hub.url)
    first, second = client.deliver(checkpoint(file)), client.deliver(checkpoint(file))
    assert isinstance(first, Delayed)
    assert first.condition == "hub_failing"
    assert second == Declined("no such kind", 422, news=second.news)


@pytest.mark.promise("D10")
def test_each_try_sends_the_whole_file_anew(serve: Serve, connect: Connect, file: Path) -> None:
    """After failures in any phase the next try sends the same bytes again, under the same key."""
    hub = serve()
    hub.then("/upload", said({}, 503), Says(drop=True), Says(mute=False, raw=b"HTTP/1.1 garbage\r\n\r\n"))
    client = connect(hub.url)
    for _ in range(3):
        assert isinstance(client.deliver(checkpoint(file)), Delayed)
    assert isinstance(client.deliver(checkpoint(file)), Accepted)
    uploads = hub.of("/upload")
    assert len(uploads) == 4
    assert {request.form["last.pt"] for request in uploads} == {file.read_bytes()}
    assert len({request.headers["idempotency-key"] for request in uploads}) == 1


def test_an_empty_file_is_a_file(serve: Serve, connect: Connect, tmp_path: Path) -> None:
    """A checkpoint of 0 bytes arrives as that."""
    hub = serve()
    empty = tmp_path / "empty.pt"
    empty.touch()
    assert isinstance(connect(hub.url).deliver(checkpoint(empty)), Accepted)
    assert hub.of("/upload")[0].form["last.pt"] == b""


def test_a_missing_file_is_declined(serve: Serve, connect: Connect, tmp_path: Path) -> None:
    """What is not here any more cannot be sent, now or later; no request leaves for it."""
    hub = serve()
    reply = connect(hub.url).deliver(checkpoint(tmp_path / "gone.pt"))
    assert isinstance(reply, Declined)
    assert "gone.pt" in reply.reason
    assert str(tmp_path) not in reply.reason
    assert hub.paths() == ["/v1/auth"]


def test_a_parcel_without_a_file_is_declined(serve: Serve, connect: Connect, file: Path) -> None:
    """A checkpoint without a file is no delivery that could ever be made."""
    hub = serve()
    parcel = msgspec.structs.replace(checkpoint(file), file=None)
    assert isinstance(connect(hub.url).deliver(parcel), Declined)


def test_a_folder_is_not_taken(serve: Serve, connect: Connect, tmp_path: Path) -> None:
    """A hub of single files says so of a folder, and nothing is sent."""
    hub = serve()
    parcel = checkpoint(tmp_path, sha256="00" * 32)
    reply = connect(hub.url).deliver(parcel)
    assert isinstance(reply, Accepted)
    assert "folder" in reply.not_taken


# -- signs of life, ends, usage ----------------------------------------------------------------------------


def test_a_sign_of_life_adopts_the_agent_id(serve: Serve, connect: Connect) -> None:
    """The id that the hub gives to this client comes back with the next beat."""
    hub = serve(foreign_hub)
    client = connect(hub.url)
    assert isinstance(client.deliver(heartbeat("m42")), Accepted)
    assert isinstance(client.deliver(heartbeat("m42")), Accepted)
    first, second = (request.json for request in hub.of("/v1/agent/heartbeat/models/m42"))
    assert first == {"agent": user_agent(), "agentId": None}
    assert second == {"agent": user_agent(), "agentId": "agent-1"}


def test_a_sign_of_life_tells_ones_own_hub_how_it_stands(serve: Serve, connect: Connect) -> None:
    """State, outcome, epoch and what waits are told along."""
    hub = serve()
    connect(hub.url).deliver(heartbeat())
    assert hub.requests[-1].json["hubstate"] == {
        "attempt": 1,
        "state": "training",
        "outcome": "running",
        "epoch": 3,
        "waiting": 2,
    }


@pytest.mark.promise("D18")
@pytest.mark.parametrize(
    "answer",
    [Says(200, b""), Says(204), said([]), said({"data": None}), Says(200, b"<html>"), said({"data": []})],
)
def test_an_odd_answer_to_a_sign_of_life_is_a_failed_one(
    serve: Serve, connect: Connect, answer: Says
) -> None:
    """No answer ends the signs of life: the next one leaves as if nothing had been."""
    hub = serve(foreign_hub)
    hub.then("m42", answer)
    client = connect(hub.url)
    reply = client.deliver(heartbeat("m42"))
    assert isinstance(reply, Delayed)
    assert reply.condition == "hub_failing"
    assert isinstance(client.deliver(heartbeat("m42")), Accepted)


def test_the_end_is_told_to_ones_own_hub_only(serve: Serve, connect: Connect) -> None:
    """One's own hub hears how it ended; another one has no such word, and gets none."""
    own, foreign = serve(), serve(foreign_hub)
    client = connect(own.url)
    assert isinstance(client.deliver(close()), Accepted)
    assert isinstance(client.deliver(end()), Accepted)
    assert [request.json for request in own.of("/end")] == [
        {"attempt": 1, "state": "done", "outcome": "finished", "reason": "", "rows": 15},
        {"attempt": 1, "state": "aborted", "outcome": "failed", "reason": "out of memory", "rows": 7},
    ]
    reply = connect(foreign.url).deliver(close("m42"))
    assert reply == Accepted(news=reply.news)
    assert foreign.paths() == ["/v1/auth"]


def test_usage_is_told_to_ones_own_hub_only(serve: Serve, connect: Connect) -> None:
    """One's own hub may hear of a validation; another one cannot take it."""
    own, foreign = serve(), serve(foreign_hub)
    assert isinstance(connect(own.url).deliver(usage()), Accepted)
    assert own.of(f"/v1/models/{SESSION}/usage")[0].json == {"what": "val_start", "attempt": 1}
    reply = connect(foreign.url).deliver(usage("m42"))
    assert isinstance(reply, Accepted)
    assert reply.not_taken
    assert foreign.paths() == ["/v1/auth"]


def test_keeping_a_checkpoint_asks_nothing_of_a_hub(serve: Serve, connect: Connect, file: Path) -> None:
    """What is a matter of this machine is settled without a request about it."""
    hub = serve()
    assert isinstance(connect(hub.url).deliver(keep(file)), Accepted)
    assert hub.paths() == ["/v1/auth"]


# -- what answers tell beside the receipt --------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 404, 503, 429, 401])
def test_news_come_with_every_answer(serve: Serve, connect: Connect, status: int) -> None:
    """A wish to stop, intervals and the page's address are heard from refusals too."""
    hub = serve()
    told = {
        "stop": "enough",
        "heartbeat": 60,
        "metrics": 1.5,
        "checkpoint": 0,
        "url": "https://h.example/m/1",
    }
    hub.then(SESSION, said({"data": {"rows": 1}, "hubstate": told}, status))
    news = connect(hub.url).deliver(rows(row(1, 0, a=1.0))).news
    assert (news.stop, news.url) == ("enough", "https://h.example/m/1")
    assert (news.heartbeat_interval, news.metrics_interval, news.checkpoint_interval) == (60.0, 1.5, 0.0)
    assert news.hub == hub.url


ODD: list[dict[str, Any]] = [
    {"stop": ""},
    {"stop": 5},
    {"stop": ["x"]},
    {"heartbeat": 0},
    {"heartbeat": -5},
    {"heartbeat": "60"},
    {"heartbeat": True},
    {"metrics": -0.5},
    {"metrics": 10**300},
    {"checkpoint": []},
    {"checkpoint": 1e12},
    {"url": "javascript:alert(1)"},
    {"url": "ftp://h/x"},
    {"url": "https://"},
    {"url": "http://[::1"},
    {"url": "http://user:word@h/"},
    {"url": "http://h/" + "x" * 3000},
    {"url": "http://h/\x1b[2J"},
    {"url": 5},
]


@pytest.mark.parametrize("told", ODD)
def test_odd_news_are_not_heard(serve: Serve, connect: Connect, told: dict[str, Any]) -> None:
    """A field of the wrong type or beyond reason is ignored, and the delivery counts all the same."""
    hub = serve()
    hub.then(SESSION, said({"data": {"rows": 1}, "hubstate": told}))
    reply = connect(hub.url).deliver(rows(row(1, 0, a=1.0)))
    assert isinstance(reply, Accepted)
    assert reply.news == News(hub=hub.url)


def test_a_long_wish_to_stop_is_cut(serve: Serve, connect: Connect) -> None:
    """The reason is one line of bounded length, whatever the hub sends."""
    hub = serve()
    hub.then(SESSION, said({"data": {"rows": 1}, "hubstate": {"stop": "now\n\x1b[31m" + "y" * 100_000}}))
    stop = connect(hub.url).deliver(rows(row(1, 0, a=1.0))).news.stop
    assert stop is not None
    assert stop.startswith("now [31myyy")
    assert len(stop) == 500


# -- secrets -----------------------------------------------------------------------------------------------


@pytest.mark.promise("D25")
def test_a_hub_that_repeats_the_key_does_not_make_us_tell_it(serve: Serve, connect: Connect) -> None:
    """The key stands in no reason and in no repr."""

    def parrot(request: Request) -> Says:
        status = 200 if request.path == "/v1/auth" and len(hub.requests) > 2 else 403
        told = {"success": status == 200, "message": f"bad key {request.headers['x-api-key']}!"}
        return said(told, status)

    hub = serve(parrot)
    client = connect(hub.url)
    replies = [client.check(), client.check(), client.check(), client.deliver(usage())]
    assert all(KEY not in repr(reply) for reply in replies)
    assert "bad key (key)!" in repr(replies)
    assert KEY not in f"{client!r} {client._wire!r} {client._wire._lines[0]._session.auth!r}"


@pytest.mark.promise("D25")
def test_no_key_stands_in_an_address(serve: Serve, connect: Connect, file: Path) -> None:
    """No request line ever holds the key."""
    hub = serve()
    client = connect(hub.url)
    for parcel in every(file):
        client.deliver(parcel)
    assert len(hub.requests) == 8
    assert not any(KEY in path for path in hub.paths())


def test_moved_grows_with_answers_and_uploads(serve: Serve, connect: Connect, file: Path) -> None:
    """Whoever waits sees answers come and uploads go."""
    hub = serve()
    client = connect(hub.url)
    assert client.moved == 0
    client.check()
    assert client.moved == 1
    client.deliver(checkpoint(file))
    assert client.moved >= file.stat().st_size + 2
