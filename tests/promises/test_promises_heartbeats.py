"""Promises about signs of life: they follow from the state, no answer ends them, and a wish to stop is heard in any."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from scene import AUTH, BEAT, END, OPEN, ROWS, UPLOAD, Scene, weights
from scripted import Request, Says

from hubstate.events import PretrainRoutineEnd, TrainEnd, TrainStart
from hubstate.limits import Limits
from hubstate.states import Outcome, State

INTERVAL = 300.0

ODD = {
    "200 in HTML": Says(200, b"<html>"),
    "200 without a body": Says(200, b""),
    "204": Says(204),
    "a list": Says(200, []),
    "a number": Says(200, 7),
    "null": Says(200, None),
    "data: null": Says(200, {"data": None}),
    "data: a list": Says(200, {"data": []}),
    "an odd agent": Says(200, {"data": {"agentId": 7}}),
    "500": Says(500, b"oops"),
    "401": Says(401, {}),
    "404": Says(404, {}),
    "429": Says(429, {}),
    "302": Says(302, b"", (("Location", "/"),)),
    "dropped": Says(drop=True),
    "half an answer": Says(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"),
    "no HTTP": Says(raw=b"hello\r\n\r\n"),
}


@pytest.mark.promise("D18", "C7")
@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_no_answer_ends_the_signs_of_life(scene: Scene, odd: Says) -> None:
    """Whatever a heartbeat hears, the next one comes one interval later."""
    session = scene.start()
    session.log({"loss": 0.5}, epoch=0)
    scene.spend(INTERVAL + 10.0)
    scene.then(BEAT, odd)
    scene.spend(4 * INTERVAL)
    beats = [came.at for came in scene.about(BEAT)]
    assert len(beats) == 5
    assert all(later - earlier == pytest.approx(INTERVAL, abs=1.0) for earlier, later in pairwise(beats))
    assert scene.model(session)["outcome"] == "running"


@pytest.mark.promise("P11", "D19")
def test_one_long_epoch_is_alive(scene: Scene) -> None:
    """An epoch of three hours says nothing, and a heartbeat each interval all the same, with the last epoch in it."""
    session = scene.start(epochs=2)
    session.log({"loss": 0.5}, epoch=0)
    scene.spend(10_800.0)
    beats = scene.about(BEAT)
    assert 35 <= len(beats) <= 36
    told = [came.request.json["hubstate"] for came in beats]
    assert {(beat["state"], beat["outcome"], beat["epoch"]) for beat in told} == {("training", "running", 0)}
    assert scene.model(session)["last_contact"] > scene.model(session)["epoch_at"]


@pytest.mark.promise("P11")
@pytest.mark.parametrize("state", [State.SESSION_CREATED, State.TIMING, State.TRAINING, State.FINALIZING])
def test_every_live_state_gives_signs_of_life(scene: Scene, state: State) -> None:
    """Before the first epoch, while it trains, and while a large file still leaves: one each interval."""
    session = scene.start()
    scene.spend(1.0)
    steps: list[Callable[[], Any]] = [
        lambda: None,
        lambda: session.tell(PretrainRoutineEnd),
        lambda: session.tell(TrainStart),
        lambda: session.tell(TrainEnd),
    ]
    states = [State.SESSION_CREATED, State.TIMING, State.TRAINING, State.FINALIZING]
    with scene.until(Says(503, {}, (("Retry-After", "3600"),)), END):
        for step in steps[: states.index(state) + 1]:
            step()
        assert session.state is state
        scene.spend(3 * INTERVAL + 10.0)
        beats = [came.request.json["hubstate"]["state"] for came in scene.about(BEAT)]
    assert beats == [state.value] * 3


@pytest.mark.promise("D2", "D28")
@pytest.mark.parametrize("end", ["finish", "abort"])
def test_no_sign_of_life_leaves_after_the_end(scene: Scene, end: str) -> None:
    """From `done` or `aborted` on none leaves, whoever still delivers, for as long as one cares to look."""
    session = scene.start()
    session.log({"loss": 0.5}, epoch=0)
    scene.spend(3 * INTERVAL + 10.0)
    assert len(scene.about(BEAT)) == 3
    with scene.until(Says(503, {}), *(() if end == "abort" else (OPEN,))):
        session.finish() if end == "finish" else session.abort("broke")
    so_far = len(scene.about(BEAT))
    for _ in range(10):
        scene.spend(INTERVAL)
        scene.sync(session)
    assert len(scene.about(BEAT)) == so_far
    assert session.state is (State.DONE if end == "finish" else State.ABORTED)


def _stopping(request: Request, reach: Callable[[Request], Says]) -> Says:
    """The hub's own answer, with a wish to stop in it."""
    answer = reach(request)
    body = json.loads(answer.body)
    news = body.get("hubstate")
    body["hubstate"] = {**(news if isinstance(news, dict) else {}), "stop": "the budget is used up"}
    return Says(answer.status, body, answer.headers)


@pytest.mark.promise("P17")
@pytest.mark.parametrize("what", [OPEN, ROWS, UPLOAD, BEAT])
@pytest.mark.parametrize("is_refusal", [False, True])
def test_a_wish_to_stop_is_heard_in_any_answer(scene: Scene, what: str, is_refusal: bool) -> None:
    """Whichever answer carries it, a refusal as well, the loop of the trainer ends by itself, in its own thread."""

    def answer(request: Request) -> Says:
        if is_refusal:
            return Says(503, {"message": "later", "hubstate": {"stop": "the budget is used up"}})
        return _stopping(request, scene.reach)

    session = scene.start(epochs=1000, limits=Limits(metrics=1.0, checkpoint=5.0, heartbeat=10.0))
    scene.then(what, answer)
    path = Path("last.pt")
    trained = 0
    for epoch in session.epochs():
        scene.spend(1.0)
        session.log({"loss": 0.5}, epoch=epoch)
        path.write_bytes(weights(epoch))
        session.save(path, epoch=epoch)
        trained += 1
    assert trained < 30
    assert session.stop_requested
    session.finish()
    assert session.outcome is Outcome.STOPPED
    assert scene.model(session)["outcome"] == "stopped"
    assert len(scene.about(AUTH)) == 1
