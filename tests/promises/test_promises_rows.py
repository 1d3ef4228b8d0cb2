"""Promises about rows: each one arrives, once, in order, in few requests, and nothing that fails takes another along."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scene import AUTH, BEAT, END, OPEN, ROWS, UPLOAD, Scene, about, spend, weights
from scripted import Request, Says

from hubstate.actions import SendCheckpoint, SendRows
from hubstate.events import FitEpochEnd
from hubstate.limits import Limits
from hubstate.overview import look
from hubstate.states import State
from hubstate.testing.clock import FakeClock
from hubstate.testing.hub import FakeHub
from hubstate.testing.one_thread import open_session

HTML = b"<html>gateway</html>"

#: How a request may fail, however whole the hub is.
FAILURES = {
    "503": Says(503, {"message": "later"}),
    "500 in HTML": Says(500, HTML),
    "429": Says(429, {}, (("Retry-After", "7"),)),
    "429 without a time": Says(429, {}),
    "408": Says(408, {}),
    "401": Says(401, {"message": "who are you"}),
    "302": Says(302, b"", (("Location", "/elsewhere"),)),
    "200 in HTML": Says(200, HTML),
    "204": Says(204),
    "no success": Says(200, {"success": False}),
    "another count": Says(200, {"success": True, "data": {"rows": 99}, "hubstate": {}}),
    "dropped": Says(drop=True),
}


@pytest.mark.promise("D3")
@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0.0, 10.0, allow_nan=False), min_size=1, max_size=40), st.integers(0, 10_000))
@example([1.3] * 6, 0)
@example([0.5] * 10, 0)
@example([0.0], 0)
@example([10.0] * 40, 0)
def test_every_row_is_at_the_hub_at_the_end(
    tmp_path_factory: pytest.TempPathFactory, periods: list[float], seed: int
) -> None:
    """However long the epochs and however many: when `finish` returns, the hub holds the rows that were logged."""
    clock = FakeClock()
    hub = FakeHub(clock)
    session = open_session("digits", tmp_path_factory.mktemp("s") / "sessions", clock, hub, seed=seed)
    spend(clock, 0.1)
    for epoch, seconds in enumerate(periods):
        spend(clock, seconds)
        session.log({"loss": float(epoch)}, epoch=epoch)
    assert session.finish().state is State.DONE
    assert [(row.epoch, row.metrics) for row in hub.rows] == [
        (epoch, json.dumps({"loss": float(epoch)}, separators=(",", ":")).encode())
        for epoch in range(len(periods))
    ]


@pytest.mark.promise("C1", "C9")
def test_short_epochs_make_few_requests(scene: Scene) -> None:
    """500 epochs of 0.1 s: at most one request of rows every 3 s, the end excepted, no row lost, none much behind."""
    session = scene.start()
    for epoch in range(500):
        scene.spend(0.1)
        session.log({"loss": 0.5}, epoch=epoch)
        assert epoch < 35 or len(scene.epochs_sent()) >= epoch - 35, (
            "rows are about one interval behind at most"
        )
    before_the_end = [came.at for came in scene.about(ROWS)]
    session.finish()
    assert all(later - earlier >= 3.0 - 1e-6 for earlier, later in pairwise(before_the_end))
    assert 10 <= len(before_the_end) <= 50 / 3 + 1
    assert len(scene.about(ROWS)) == len(before_the_end) + 1
    assert scene.epochs(session) == list(range(500))


@pytest.mark.promise("D4", "P2", "C3", "D31")
@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
def test_what_failed_is_sent_again_without_another_epoch(scene: Scene, failure: Says) -> None:
    """The last rows fail four times, in whatever way, and no epoch follows: they arrive all the same."""
    session = scene.start()
    scene.then(ROWS, *[failure] * 4)
    for epoch in range(3):
        session.log({"loss": 0.5}, epoch=epoch)
    scene.spend(600.0)
    assert scene.epochs(session) == [0, 1, 2]
    bodies = {came.request.headers["idempotency-key"]: came.request.body for came in scene.about(ROWS)}
    assert len(scene.about(ROWS)) == 5
    assert len(bodies) == 1, "the same rows under the same key"
    assert session.finish().state is State.DONE


@pytest.mark.promise("D4", "D31", "C3")
@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
def test_what_fails_at_the_end_is_delivered_by_sync(scene: Scene, failure: Says) -> None:
    """A last send that fails until the process is gone is not lost: `hubstate sync` delivers it, in its order."""
    session = scene.start()
    session.log({"loss": 0.5}, epoch=0)
    assert session.flush()
    with scene.until(failure, ROWS, UPLOAD, END, BEAT):
        for epoch in (1, 2):
            session.log({"loss": 0.5}, epoch=epoch)
        receipt = session.finish()
        assert (receipt.state, receipt.rows_delivered, receipt.rows_waiting) == (State.FINALIZING, 1, 2)
    receipt = scene.sync(session)
    assert (receipt.state, receipt.waiting) == (State.DONE, 0)
    assert scene.epochs(session) == [0, 1, 2]


@pytest.mark.promise("D3", "D4", "D16", "P1", "P2")
@pytest.mark.parametrize("failure", ["503", "429", "302", "200 in HTML"])
def test_a_hub_of_the_old_protocol_gets_the_same(scene: Scene, failure: str) -> None:
    """Opening, rows and files that fail at another HUB v1 arrive there as well: one model, each epoch, the final file."""
    scene.is_old = True
    for what in (OPEN, ROWS, UPLOAD, BEAT):
        scene.then(what, *[FAILURES[failure]] * 2)
    session = scene.start(epochs=6, limits=Limits(metrics=3.0, checkpoint=10.0, heartbeat=5.0))
    scene.train(session, 6, seconds=20.0)
    assert session.finish().state is State.DONE
    assert scene.told("/v1/models")["total"] == 1
    assert scene.epochs(session) == list(range(6))
    assert scene.files(session)["final"] == weights(5)
    assert all("hubstate" not in came.request.json for came in scene.about(OPEN, ROWS, BEAT))


@pytest.mark.promise("D5")
def test_one_delivery_settles_no_other(scene: Scene) -> None:
    """Rows 1 to 6 and 8 arrive, row 7 is refused, a checkpoint fails: each stands for itself, and is tried again for itself."""
    session = scene.start(limits=Limits(metrics=0.0, checkpoint=0.0))
    for epoch in range(6):
        session.log({"loss": 0.5}, epoch=epoch)
        assert session.flush()
    scene.then(ROWS, Says(413, {"message": "this one is too large"}))
    session.log({"loss": 0.5}, epoch=6)
    scene.spend(1.0)
    with scene.until(Says(503, {}), UPLOAD):
        path = Path("last.pt")
        path.write_bytes(b"weights")
        session.save(path, epoch=6)
        scene.spend(1.0)
        session.log({"loss": 0.5}, epoch=7)
        scene.spend(1.0)
    memory = session._door.memory
    assert scene.epochs(session) == [0, 1, 2, 3, 4, 5, 7]
    assert memory.rows_delivered == 7
    (refused,) = memory.refused
    assert refused.reason == "this one is too large"
    (key,) = [action.key for action in memory.outstanding if isinstance(action, SendRows)]
    assert refused.key == key == f"{session.id}/1/rows/7-7"
    (waits,) = [action for action in memory.outstanding if action.key != key]
    assert isinstance(waits, SendCheckpoint), "neither the rows before it nor those behind it settled it"
    session.finish()
    receipt = scene.sync(session, retry=True)
    assert (receipt.state, receipt.rows_delivered, receipt.files_delivered) == (State.DONE, 8, 2)
    assert scene.epochs(session) == list(range(8))


@pytest.mark.promise("D9")
@pytest.mark.parametrize("answer", ["lost", "503", "slow"])
def test_rows_arrive_in_the_order_of_epochs(scene: Scene, answer: str) -> None:
    """However long the first rows are held up, no later row of the attempt overtakes them."""

    def slow(request: Request) -> Says:
        scene.clock.advance(25.0)
        return scene.reach(request)

    held_up: dict[str, Says | Callable[[Request], Says]] = {
        "lost": scene.lost,
        "503": Says(503, {}),
        "slow": slow,
    }
    session = scene.start(limits=Limits(metrics=0.0))
    for epoch in range(20):
        if epoch % 6 == 0:
            # 18 fails for longer, so that the send of the end waits behind it.
            scene.then(ROWS, *[held_up[answer]] * (6 if epoch == 18 else 2))
        session.log({"loss": 0.5}, epoch=epoch)
        scene.spend(1.0)
    session.finish()
    scene.recover()
    assert session.receipt.waiting == 0 or scene.sync(session).waiting == 0
    arrived: list[int] = []
    for request in scene.reached:
        sent = [row["epoch"] for row in request.json["metrics"]] if about(request.path) == ROWS else []
        arrived += [epoch for epoch in sent if epoch not in arrived]
    assert arrived == list(range(20))
    every = scene.told(f"/v1/models/{session.id}/metrics?attempt=all")
    assert [row["epoch"] for row in every] == list(range(20))


@pytest.mark.promise("D20", "P16", "C12")
def test_the_final_evaluation_is_no_epoch(scene: Scene) -> None:
    """N epochs and the extra evaluation are N rows and one that is marked: the last epoch's row stays as it was."""
    session = scene.start(epochs=3)
    for epoch in session.epochs():
        session.log({"map": epoch / 10}, epoch=epoch)
    session.tell(FitEpochEnd, 2, {"map": 0.9}, final=True)
    session.tell(FitEpochEnd, 3, {"map": 0.9}, final=True)  # as a trainer that counts it as the next one
    receipt = session.finish()
    rows = scene.rows(session)
    assert [(row["epoch"], row["metrics"]["map"]) for row in rows if not row["final"]] == [
        (0, 0.0),
        (1, 0.1),
        (2, 0.2),
    ]
    assert [(row["epoch"], row["metrics"]["map"]) for row in rows if row["final"]] == [(2, 0.9), (3, 0.9)]
    assert (receipt.epoch, scene.model(session)["epoch"]) == (2, 2)


@pytest.mark.promise("D21")
def test_what_leaves_is_strict_json(scene: Scene) -> None:
    """NaN and infinities travel as null and by name: a strict parser reads every body that leaves."""
    session = scene.start()
    values = {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 0.5}
    session.log(values, epoch=0)
    session.finish()
    for came in scene.came:
        if came.request.headers.get("content-type") == "application/json":
            came.request.json  # noqa: B018 - raises for a bare NaN
    (row,) = scene.rows(session)
    assert row["metrics"] == {"a": None, "b": None, "c": None, "d": 0.5}
    assert row["nonfinite"] == {"a": "NaN", "b": "Infinity", "c": "-Infinity"}


@pytest.mark.promise("D30", "C1")
@pytest.mark.parametrize(
    ("status", "header", "value"),
    [(429, "Retry-After", "60"), (429, "X-RateLimit-Reset", "{reset:.0f}"), (503, "Retry-After", "60")],
    ids=["429", "reset", "503"],
)
@pytest.mark.parametrize("what", [OPEN, ROWS, UPLOAD])
def test_a_pause_that_the_hub_asks_for_is_kept(
    scene: Scene, what: str, status: int, header: str, value: str
) -> None:
    """No request of a kind leaves before the hub's pause is over, whoever is in a hurry; the trainer keeps its pace."""
    session = scene.start(limits=Limits(metrics=1.0, checkpoint=1.0))
    if what != OPEN:
        session.log({"loss": 0.5}, epoch=0)
        assert session.flush()

    def limited(_request: Request) -> Says:
        return Says(status, {}, ((header, value.format(reset=scene.clock.wall() + 60)),))

    scene.then(what, limited)
    began = scene.clock.monotonic()
    so_far = len(scene.about(what))
    scene.train(session, 8, seconds=5.0)
    assert scene.clock.monotonic() - began == pytest.approx(40.0), "training takes as long as it takes"
    assert not session.flush(1.0)
    scene.spend(60.0)
    first, second = scene.about(what)[so_far : so_far + 2]
    assert second.at - first.at >= 59.0
    session.finish()
    assert session.state is State.DONE
    assert scene.epochs(session) == list(range(8))


@pytest.mark.promise("D31")
@pytest.mark.parametrize(
    ("what", "status"),
    [
        *((ROWS, status) for status in (301, 302, 303, 307, 308)),
        *((what, 302) for what in (AUTH, OPEN, UPLOAD, END)),
    ],
)
def test_a_redirect_counts_for_nothing_and_is_told(scene: Scene, what: str, status: int) -> None:
    """A redirected request is not followed and counts for nothing; the condition names the address to set instead."""
    elsewhere = "https://new.example/v1/models?token=secret"
    with scene.until(Says(status, b"", (("Location", elsewhere),)), what):
        session = scene.start()
        scene.train(session, 1)
        receipt = session.finish()
    assert receipt.state is State.FINALIZING
    assert receipt.waiting
    assert receipt.rows_delivered == (0 if what in (AUTH, OPEN, ROWS) else 1)
    (failing,) = [condition for condition in receipt.conditions if condition.name == "hub_failing"]
    assert "redirect" in failing.reason
    assert "https://new.example" in failing.reason
    assert "secret" not in failing.reason
    assert all(came.request.method == "POST" for came in scene.came)
    assert scene.sync(session).state is State.DONE


@pytest.mark.promise("C6", "C3")
def test_both_sides_count_the_same(scene: Scene) -> None:
    """What `status` tells here is what the hub's page tells there, and after a failure `sync` makes it so again."""
    session = scene.start(epochs=8)
    for epoch in range(8):
        if epoch == 5:
            scene._always = ((), Says(503, {}))  # from here on nothing gets through
        session.log({"loss": 0.5}, epoch=epoch)
        scene.spend(4.0)
    session.finish()
    scene.recover()
    here, there = look(scene.folder / session.id).receipt, scene.model(session)
    assert here.rows_delivered == there["delivered"] < 8
    assert here.rows_delivered + here.rows_waiting == here.rows == 8
    scene.sync(session)
    here, there = look(scene.folder / session.id).receipt, scene.model(session)
    assert (here.rows, here.rows_delivered, here.waiting) == (8, 8, 0)
    assert (there["delivered"], there["rows_told"], there["waiting"]) == (8, 8, 0)
    assert (here.state.value, here.outcome.value, here.epoch) == (
        there["state"],
        there["outcome"],
        there["epoch"],
    )


@pytest.mark.promise("D24", "D23")
def test_a_late_row_of_an_older_attempt_replaces_nothing(scene: Scene) -> None:
    """Two attempts, the first one's rows delivered last: where the second one went again, its rows count."""
    with scene.until(Says(drop=True)):
        first = scene.start(epochs=4)
        for epoch in range(4):
            first.log({"loss": 1.0}, epoch=epoch)
            if epoch == 1:
                path = scene.folder.parent / "last.pt"
                path.write_bytes(b"weights of 1")
                first.save(path, epoch=1)
        first.close()
    second = scene.start(epochs=4, resume=True)
    assert second.id == first.id
    for epoch in second.epochs():
        second.log({"loss": 2.0}, epoch=epoch)
    assert second.finish().state is State.DONE
    late = {"type": "metrics", "metrics": [_row(epoch, 1, 9.0) for epoch in range(4)]}
    answer = scene._forward.post(f"{scene.behind.url}/v1/models/{second.id}", json=late, timeout=60)
    assert answer.status_code == 200
    rows = scene.rows(second)
    assert [(row["epoch"], row["attempt"]) for row in rows] == [(0, 1), (1, 1), (2, 2), (3, 2)]
    assert [row["metrics"]["loss"] for row in rows][2:] == [2.0, 2.0]


def _row(epoch: int, attempt: int, loss: float) -> dict[str, Any]:
    return {"epoch": epoch, "step": None, "attempt": attempt, "final": False, "metrics": {"loss": loss}}
