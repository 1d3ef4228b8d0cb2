"""Promises about the beginning: no hub, no answer and no thread keeps a training from starting, or opens it twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from children import PYTHON, ended
from scene import AUTH, KEY, OPEN, ROWS, Scene
from scripted import Request, Says

import hubstate
from hubstate.errors import HubstateError, SessionNotFound
from hubstate.opening import peek
from hubstate.overview import look
from hubstate.states import Outcome, State

HTML = b"<html><body>502 Bad Gateway</body></html>"
LIMITED = Says(429, {"message": "0/400 requests left"}, (("Retry-After", "30"),))

TROUBLES = {
    "dropped": Says(drop=True),
    "502 in HTML": Says(502, HTML),
    "503 in HTML": Says(503, HTML),
    "503 in JSON": Says(503, {"message": "maintenance"}),
    "200 in HTML": Says(200, HTML),
    "204": Says(204),
    "a list": Says(200, []),
    "429": LIMITED,
    "404": Says(404, {"message": "no such call"}),
}


@pytest.mark.promise("D1", "C2")
@pytest.mark.parametrize("trouble", TROUBLES.values(), ids=TROUBLES)
@pytest.mark.parametrize("at", [AUTH, OPEN])
def test_a_training_starts_and_runs_whatever_the_hub_answers(scene: Scene, trouble: Says, at: str) -> None:
    """Neither `start` nor a callback raises, everything is recorded, and it is delivered once the hub is well."""
    refused = at == OPEN and trouble.status == 404
    with scene.until(trouble, at):
        session = scene.start(epochs=4)
        scene.train(session, 4)
        receipt = session.finish()
        assert (session.outcome, receipt.rows, receipt.rows_delivered) == (Outcome.FINISHED, 4, 0)
        assert receipt.conditions[0].reason
    receipt = scene.sync(session, retry=refused)
    assert (receipt.state, receipt.waiting, receipt.refused) == (State.DONE, 0, 0)
    assert scene.epochs(session) == [0, 1, 2, 3]


@pytest.mark.promise("D16", "P1", "C2")
@pytest.mark.parametrize("tries", [1, 4])
@pytest.mark.parametrize("answer", ["503", "429", "the answer is lost"])
def test_an_opening_is_repeated_and_opens_once(scene: Scene, tries: int, answer: str) -> None:
    """An opening that fails, or whose answer gets lost, ends no training: one session is there, with every earlier row."""
    said: dict[str, Says | Callable[[Request], Says]] = {
        "503": Says(503, {"message": "later"}),
        "429": LIMITED,
        "the answer is lost": scene.lost,
    }
    scene.then(OPEN, *[said[answer]] * tries)
    session = scene.start(epochs=30)
    for epoch in range(30):
        scene.spend(5.0)
        session.log({"loss": 0.5}, epoch=epoch)
    assert len(scene.about(OPEN)) == tries + 1
    assert len({came.request.headers["idempotency-key"] for came in scene.about(OPEN)}) == 1
    assert scene.told("/v1/models")["total"] == 1
    assert scene.epochs(session)[:20] == list(range(20)), "while the training goes on, and not at its end"
    assert session.finish().state is State.DONE
    assert scene.epochs(session) == list(range(30))


@pytest.mark.promise("D17")
@pytest.mark.parametrize("body", [{}, {"data": {}}, {"data": {"id": None}}, {"data": None}])
def test_a_half_answer_names_nothing(scene: Scene, body: Any) -> None:
    """A hub that opens a session and does not say which is told by name; nothing is asked about a "None"."""
    foreign = Says(200, {"success": True})
    scene.then(AUTH, foreign)
    with scene.until(Says(200, body), OPEN):
        session = scene.start()
        scene.train(session, 3)
        receipt = session.finish()
    assert receipt.rows_waiting == 3
    (failing,) = [condition for condition in receipt.conditions if condition.name == "hub_failing"]
    assert "without an id of the model" in failing.reason
    assert scene.wire.host in failing.reason
    assert {came.what for came in scene.came} == {AUTH, OPEN}
    assert not any("None" in came.request.path or "null" in came.request.path for came in scene.came)


@pytest.mark.promise("D17")
def test_a_session_that_the_hub_forgot_is_reported(scene: Scene) -> None:
    """Removed at the hub in the middle of a training: it goes on, its rows are kept, and the trouble has a reason."""
    session = scene.start()
    session.log({"loss": 1.0}, epoch=0)
    assert session.flush()
    deleted = scene._forward.delete(f"{scene.behind.url}/v1/models/{session.id}?hard=True", timeout=60)
    assert deleted.status_code == 200
    for epoch in (1, 2):
        scene.spend(5.0)
        session.log({"loss": 1.0}, epoch=epoch)
    session.finish()
    receipt = look(scene.folder / session.id).receipt
    assert (receipt.state, receipt.rows, receipt.rows_delivered) == (State.FINALIZING, 3, 1)
    (refused,) = [condition for condition in receipt.conditions if condition.name == "refused"]
    assert "no session of that id" in refused.reason
    environment = os.environ | {"HUBSTATE_HUB": scene.wire.url, "HUBSTATE_API_KEY": KEY}
    for command, code in (("status", 0), ("sync", 1)):
        told = ended(
            [PYTHON, "-m", "hubstate", command, session.id, "--directory", scene.folder], env=environment
        )
        assert told.returncode == code, told.stderr
        assert session.id in told.stdout
        assert "no session of that id" in told.stdout


@pytest.mark.promise("D17")
def test_a_session_that_nobody_knows_is_named(scene: Scene) -> None:
    """To go on with an id that is neither here nor at the hub names that id, and opens nothing."""
    unknown = "01JZX0000000000000000000AB"
    with pytest.raises(SessionNotFound, match=unknown):
        scene.start(resume=unknown)
    assert scene.about(OPEN) == []


RANKS = """
import sys, hubstate
with hubstate.start("digits", epochs=3) as session:
    for epoch in session.epochs():
        session.log({"loss": 1.0})
        open("last.pt", "w").write("weights")
        session.save("last.pt", fitness=0.5)
print(session.id)
"""


@pytest.mark.promise("D26", "C10")
def test_two_ranks_are_one_session(scene: Scene) -> None:
    """Of the processes of a distributed job the main one alone opens a session; the others train and send nothing."""
    script = Path("train.py")
    script.write_text(RANKS, encoding="utf-8")
    ranks = [
        subprocess.Popen(
            [sys.executable, str(script)],
            env=os.environ | {"RANK": str(rank), "HUBSTATE_HUB": scene.wire.url, "HUBSTATE_API_KEY": KEY},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    told = [process.communicate(timeout=120)[0] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0]
    assert len(scene.about(OPEN)) == 1
    models = scene.told("/v1/models")
    assert [model["id"] for model in models["results"]] == [told[0].splitlines()[-1]]
    assert told[1].strip() == ""
    assert [row["epoch"] for row in scene.told(f"/v1/models/{models['results'][0]['id']}/metrics")] == [
        0,
        1,
        2,
    ]
    assert len(list(Path(".hubstate").glob("*/journal-*"))) == 1


@pytest.mark.promise("D24")
def test_every_request_can_come_twice(scene: Scene) -> None:
    """Each answer gets lost once: the repeat brings the same bytes under the same key, and the hub holds all of it once."""
    session = scene.start(epochs=3)
    lost: set[str] = set()

    def once_lost(request: Request) -> Says:
        key = request.headers.get("idempotency-key", "")
        if key in lost or not key:
            return scene.reach(request)
        lost.add(key)
        return scene.lost(request)

    with scene.until(once_lost):
        scene.train(session, 3, seconds=20.0)
        session.finish(600)
    assert session.state is State.DONE
    by_key: dict[str, set[bytes]] = {}
    for came in scene.about(OPEN, ROWS, "end"):
        by_key.setdefault(came.request.headers["idempotency-key"], set()).add(came.request.body)
    assert set(by_key) <= lost
    assert all(len(bodies) == 1 for bodies in by_key.values())
    assert all(key.startswith(f"{session.id}/1/") for key in lost), "session, attempt, and what it is"
    every = scene.told(f"/v1/models/{session.id}/metrics?attempt=all")
    assert [(row["epoch"], row["attempt"]) for row in every] == [(0, 1), (1, 1), (2, 1)]
    assert scene.told("/v1/models")["total"] == 1
    assert [file["kind"] for file in scene.model(session)["checkpoints"]] == ["final"]


@pytest.mark.promise("C16")
def test_errors_name_the_hub_and_the_cause(scene: Scene) -> None:
    """What a hub makes impossible is told by one tree of errors, which name the hub and why."""
    unknown = "01JZX0000000000000000000AB"
    for answer, cause in ((Says(drop=True), "closed"), (Says(502, HTML), "502"), (Says(401, {}), "API key")):
        with scene.until(answer), pytest.raises(HubstateError) as raised:
            hubstate.start("digits", hub=scene.wire.url, api_key=KEY, resume=unknown)
        assert scene.wire.host in str(raised.value)
        assert cause in str(raised.value)
        assert KEY not in str(raised.value)


@pytest.mark.promise("D15", "P3")
def test_trouble_is_no_bad_key(scene: Scene) -> None:
    """503 and 429 at the first question reject nothing: the key stays, and each later request carries it."""
    scene.then(AUTH, Says(503, {"success": False, "message": "busy"}), LIMITED)
    session = scene.start()
    scene.spend(0.1)
    names = {condition.name for condition in session.receipt.conditions}
    assert "credentials_rejected" not in names
    scene.train(session, 3, seconds=60.0)
    assert session.finish().state is State.DONE
    assert {came.request.headers.get("x-api-key") for came in scene.came} == {KEY}
    assert "credentials_rejected" not in json.dumps(
        [condition.name for condition in peek(scene.folder / session.id).memory.conditions]
    )
