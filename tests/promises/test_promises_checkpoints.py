"""Promises about files: what is best, when one leaves, that none is waited for, and that none goes back."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from pathlib import Path

import pytest
from scene import ROWS, UPLOAD, Scene, weights
from scripted import Request, Says

from hubstate.events import HeldUp, Refused
from hubstate.journal import Step, read
from hubstate.limits import Limits
from hubstate.overview import look
from hubstate.states import Outcome, State

#: What an upload may hear, and whether that is the hub's last word about it.
ANSWERS = {
    "401": (Says(401, {"message": "who are you"}), False),
    "403": (Says(403, {"message": "not yours"}), False),
    "404": (Says(404, {"message": "no such model"}), True),
    "500": (Says(500, b"<html>"), False),
    "503": (Says(503, {}), False),
    "dropped": (Says(drop=True), False),
}


@pytest.mark.promise("D6", "C4", "C5")
@pytest.mark.parametrize(("answer", "is_final"), ANSWERS.values(), ids=ANSWERS)
def test_a_final_upload_holds_nobody_up(scene: Scene, answer: Says, is_final: bool) -> None:
    """Whatever the final upload hears: the trainer waits 30 s at most, is told the truth, and `sync` delivers it."""
    session = scene.start(epochs=2)
    scene.train(session, 2)
    scene.spend(10.0)
    with scene.until(answer, UPLOAD):
        began = scene.clock.monotonic()
        receipt = session.finish()
        assert scene.clock.monotonic() - began <= 30.0
        assert len(scene.about(UPLOAD)) < 40
    assert (receipt.state, receipt.outcome) == (State.FINALIZING, Outcome.FINISHED)
    assert receipt.rows_delivered == 2
    assert receipt.files_delivered == 0
    told_of = "the hub refused 1 delivery: " if is_final else "0 of 1 checkpoints delivered"
    assert told_of in str(receipt)
    told = look(scene.folder / session.id).receipt
    trouble = {condition.name: condition.reason for condition in told.conditions}
    assert ("refused" in trouble) == is_final
    assert all(trouble.values())
    assert scene.files(session) == {}
    receipt = scene.sync(session, retry=is_final)
    assert (receipt.state, receipt.files_delivered, receipt.waiting) == (State.DONE, 1, 0)
    assert scene.files(session) == {"final": weights(1)}


@pytest.mark.promise("D14", "P9")
@pytest.mark.parametrize("status", [403, 500, 503])
def test_a_failed_upload_is_repeated_after_its_back_off(scene: Scene, status: int) -> None:
    """One failure costs a back-off of at most a second, not an interval; the interval counts from the acknowledgement."""
    session = scene.start(limits=Limits(checkpoint=900.0))
    scene.then(UPLOAD, Says(status, {}))
    scene.train(session, 80, seconds=60.0)
    tries = [came.at for came in scene.about(UPLOAD)]
    assert tries[1] - tries[0] <= 1.0
    acknowledged = tries[1:]
    assert len(acknowledged) >= 4
    assert all(900.0 - 1e-6 <= later - earlier <= 961.0 for earlier, later in pairwise(acknowledged))


@pytest.mark.promise("D14")
def test_an_interval_counts_from_the_acknowledgement(scene: Scene) -> None:
    """A hub that takes 600 s to take a file hears of the next one 900 s after that, not 900 s after the beginning."""

    def slow(request: Request) -> Says:
        scene.clock.advance(600.0)
        return scene.reach(request)

    session = scene.start(limits=Limits(checkpoint=900.0))
    scene.then(UPLOAD, slow)
    scene.train(session, 60, seconds=60.0)
    first, second = [came.at for came in scene.about(UPLOAD)][:2]
    assert second - first >= 1500.0 - 1e-6


@pytest.mark.promise("D27")
@pytest.mark.parametrize(
    ("fitnesses", "best"),
    [
        ([None] * 6, []),
        ([0.0] * 6, [0]),
        ([0.5, 0.5, 0.7, 0.7, 0.6, 0.8], [0, 2, 5]),
        ([None, 0.2, None, 0.1, float("nan"), 0.3], [1, 5]),
    ],
)
def test_best_is_strictly_better(scene: Scene, fitnesses: list[float | None], best: list[int]) -> None:
    """Equal is not better, and what has no fitness is best of nothing."""
    session = scene.start(limits=Limits(metrics=0.0, checkpoint=0.0))
    path = Path("last.pt")
    for epoch, fitness in enumerate(fitnesses):
        path.write_bytes(weights(epoch))
        session.save(path, epoch=epoch, fitness=fitness)
        assert session.flush()
    kinds = [
        (came.request.form["kind"].decode(), int(came.request.form["epoch"])) for came in scene.about(UPLOAD)
    ]
    assert [epoch for kind, epoch in kinds if kind == "best"] == best
    session.finish()
    assert scene.files(session)["final"] == weights(best[-1] if best else len(fitnesses) - 1)


@pytest.mark.promise("C4")
def test_without_a_best_the_last_is_final(scene: Scene) -> None:
    """A run that was resumed behind its best checkpoint, or never had one, ends with a file all the same, and says which."""
    session = scene.start()
    path = Path("last.pt")
    path.write_bytes(weights(7))
    session.save(path, epoch=7)
    receipt = session.finish()
    assert receipt.state is State.DONE
    assert scene.files(session)["final"] == weights(7)
    (final,) = [file for file in scene.model(session)["checkpoints"] if file["kind"] == "final"]
    assert receipt.final_sha256 == final["sha256"]


@pytest.mark.promise("C15", "P7")
@pytest.mark.parametrize(
    "odd",
    [
        Says(200, raw=b'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"success": true, '),
        Says(200, {"success": True}),
        Says(200, {"success": True, "data": {"sha256": "0" * 64}}),
        Says(200, b"stored"),
    ],
    ids=["half an answer", "no digest", "another digest", "no JSON"],
)
def test_an_upload_counts_once_it_is_confirmed(scene: Scene, odd: Says) -> None:
    """An answer that broke off, or that confirms nothing, settles no upload: it is sent again, and then it counts."""
    session = scene.start(limits=Limits(checkpoint=0.0))
    path = Path("last.pt")
    path.write_bytes(weights(0))
    scene.then(UPLOAD, odd, odd)
    session.save(path, epoch=0)
    scene.spend(60.0)
    assert len(scene.about(UPLOAD)) == 3
    assert session.receipt.files_delivered == 1
    assert scene.files(session) == {"last": weights(0)}


@pytest.mark.promise("C13", "D24")
@pytest.mark.parametrize("key", ["the same", "another"])
def test_an_older_file_never_comes_back(scene: Scene, key: str) -> None:
    """An upload of an earlier attempt that the network kept for hours arrives at last: the later files stay."""
    path = scene.folder.parent / "last.pt"
    limits = Limits(metrics=0.0, checkpoint=0.0)
    first = scene.start(limits=limits)
    with scene.until(Says(drop=True), UPLOAD):
        path.write_bytes(weights(1))
        first.log({"loss": 1.0}, epoch=1)
        first.save(path, epoch=1)
        first.abort("the machine went down")
    stale = scene.about(UPLOAD)[0].request
    second = scene.start(resume=True, limits=limits)
    assert second.id == first.id
    for epoch in (2, 3):
        path.write_bytes(weights(epoch))
        second.log({"loss": 1.0}, epoch=epoch)
        second.save(path, epoch=epoch)
        assert second.flush(60.0)
    second.finish()
    held = {"last": weights(3), "final": weights(3)}
    assert scene.files(second) == held
    if key == "another":
        stale = dataclasses.replace(stale, headers=stale.headers | {"idempotency-key": "of-somebody"})
    assert scene.reach(stale).status == 200
    assert scene.files(second) == held


@pytest.mark.promise("C13")
def test_a_session_that_was_renamed_goes_on(scene: Scene) -> None:
    """Once it is open a session is known by its id: another name at the hub leads nothing to another session."""
    session = scene.start("digits")
    other = scene.start("renamed")
    for one in (session, other):
        one.log({"loss": 1.0}, epoch=0)
        assert one.flush()
    url = f"{scene.behind.url}/v1/models/{session.id}"
    assert scene._forward.patch(url, json={"meta": {"name": "renamed"}}, timeout=60).status_code == 200
    path = Path("last.pt")
    path.write_bytes(weights(1))
    session.log({"loss": 0.5}, epoch=1)
    session.save(path, epoch=1)
    session.finish()
    assert scene.model(session)["name"] == "renamed"
    assert (scene.epochs(session), scene.epochs(other)) == ([0, 1], [0])
    assert (list(scene.files(session)), scene.files(other)) == (["final"], {})


@pytest.mark.promise("C8", "P13")
def test_resume_offers_what_the_hub_truly_holds(scene: Scene) -> None:
    """On a fresh machine the newest checkpoint that the hub holds whole comes along; one that never arrived is not offered."""
    session = scene.start(epochs=9, limits=Limits(checkpoint=0.0))
    path = scene.folder.parent / "last.pt"
    for epoch in range(3):
        path.write_bytes(weights(epoch))
        session.log({"loss": 1.0}, epoch=epoch)
        session.save(path, epoch=epoch)
        assert session.flush()
    with scene.until(Says(drop=True)):
        path.write_bytes(weights(3))
        session.log({"loss": 1.0}, epoch=3)
        session.save(path, epoch=3)
        session.close()
    path.unlink()
    elsewhere = Scene(scene.folder.parent / "elsewhere", scene.behind)
    try:
        elsewhere.clock.advance(60.0)
        again = elsewhere.start(resume=session.id)
        assert again.id == session.id
        offered = again.last_checkpoint
        assert offered is not None
        assert (offered.epoch, offered.path.read_bytes()) == (2, weights(2))
        assert next(again.epochs()) == 3
        again.log({"loss": 0.1}, epoch=3)
        again.finish()
        rows = elsewhere.rows(again)
        assert [(row["epoch"], row["attempt"]) for row in rows] == [(0, 1), (1, 1), (2, 1), (3, 2)]
    finally:
        elsewhere.close()


@pytest.mark.promise("C5", "C11")
def test_status_tells_what_waits_and_why(scene: Scene) -> None:
    """What was not delivered, since when and for which reason can be read without the process that sent it."""
    session = scene.start(limits=Limits(checkpoint=0.0))
    scene.then(UPLOAD, Says(413, {"message": "larger than this hub takes"}))
    scene.train(session, 1)
    scene.spend(10.0)
    with scene.until(Says(503, {"message": "maintenance until noon"}), ROWS):
        session.log({"loss": 0.1}, epoch=1)
        session.finish()
    told = look(scene.folder / session.id).receipt
    assert (told.rows_waiting, told.refused) == (1, 1)
    trouble = {condition.name: condition for condition in told.conditions}
    assert "larger than this hub takes" in trouble["refused"].reason
    assert "maintenance until noon" in trouble["hub_failing"].reason
    began = scene.clock.wall() - scene.clock.monotonic()
    assert all(began <= condition.since <= scene.clock.wall() for condition in told.conditions)
    steps = [entry.line.event for entry in read(scene.folder / session.id) if isinstance(entry.line, Step)]
    for kind in (Refused, HeldUp):
        (said,) = [event for event in steps if isinstance(event, kind)]
        assert said.reason
        assert began <= said.at <= scene.clock.wall()
