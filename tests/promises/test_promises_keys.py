"""Promises about keys and about what is nobody's business: neither a key nor this machine is told, and no key is lost."""

from __future__ import annotations

import gzip
import os
import re
import socket
import sys
from pathlib import Path

import pytest
from children import PYTHON, ended
from scene import AUTH, BEAT, END, KEY, OPEN, ROWS, UPLOAD, Scene, weights
from scripted import Says

import hubstate
from hubstate import settings
from hubstate.clock import SystemClock
from hubstate.doctor import Level, examine
from hubstate.errors import HubRefused
from hubstate.hubs import open_hub
from hubstate.limits import Limits
from hubstate.server import keys
from hubstate.states import Outcome, State


@pytest.mark.promise("P3")
def test_a_key_that_ended_loses_nothing(scene: Scene, tmp_path: Path) -> None:
    """A key that is revoked in the middle pauses what is sent and is told; a good key delivers every row and the end."""
    first = keys.create(tmp_path / "hub", "first")
    session = scene.start(key=first, epochs=6)
    for epoch in range(6):
        if epoch == 3:
            keys.revoke(tmp_path / "hub", "first")
        scene.spend(4.0)
        session.log({"loss": 0.5}, epoch=epoch)
    scene.spend(10.0)
    trouble = {condition.name: condition.reason for condition in session.receipt.conditions}
    assert "key" in trouble["credentials_rejected"]
    assert first not in str(trouble)
    receipt = session.finish()
    assert (receipt.state, receipt.rows, receipt.rows_delivered) == (State.FINALIZING, 6, 2)
    assert len(scene.about(ROWS)) < 40
    assert receipt.refused == 0
    second = keys.create(tmp_path / "hub", "second")
    receipt = scene.sync(session, key=second)
    assert (receipt.state, receipt.outcome, receipt.rows_delivered) == (State.DONE, Outcome.FINISHED, 6)
    assert not [condition for condition in receipt.conditions if condition.name == "credentials_rejected"]
    scene._forward.headers["x-api-key"] = second
    assert scene.epochs(session) == list(range(6))


@pytest.mark.promise("P3", "D15")
@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("what", [AUTH, OPEN, ROWS, UPLOAD, BEAT, END])
def test_one_refusal_forgets_no_key(scene: Scene, what: str, status: int) -> None:
    """A 401 or 403 that passes by itself is asked about again with the same key, and nothing was skipped meanwhile."""
    scene.then(what, Says(status, {"message": "just now"}))
    session = scene.start(limits=Limits(metrics=1.0, checkpoint=1.0, heartbeat=5.0))
    scene.train(session, 3, seconds=20.0)
    receipt = session.finish()
    if receipt.waiting:
        receipt = scene.sync(session)
    assert (receipt.state, receipt.rows_delivered, receipt.refused) == (State.DONE, 3, 0)
    assert scene.epochs(session) == [0, 1, 2]
    assert scene.files(session)["final"] == weights(2)
    assert {came.request.headers.get("x-api-key") for came in scene.came} == {KEY}


def _texts(folder: Path) -> str:
    """All that lies in the files of a folder, packed ones included."""
    found = []
    for path in folder.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            found.append((gzip.decompress(data) if path.suffix == ".gz" else data).decode("latin-1"))
    return "\n".join(found)


@pytest.mark.promise("D25", "P14")
def test_neither_the_key_nor_this_machine_is_told(
    scene: Scene, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key stands in one header and nowhere else; no path, name of machine or user, command or printed word leaves."""
    monkeypatch.setenv("USER", "ada-of-the-lab")
    monkeypatch.setenv("HOSTNAME", "gpu-box-17")
    monkeypatch.setattr(sys, "argv", ["/opt/secret-project/train.py", "--password=hunter2"])
    streams = (sys.stdout, sys.stderr)
    session = scene.start(
        epochs=4, config={"lr": 0.1}, limits=Limits(metrics=0.0, checkpoint=0.0, heartbeat=5.0)
    )
    print("a word for the console alone")
    with scene.until(Says(401, {"message": f"bad key {KEY}"})):
        scene.train(session, 1)
        scene.spend(20.0)
    scene.spend(60.0)
    scene.train(session, 4)
    assert (sys.stdout, sys.stderr) == streams
    path = scene.folder.parent / "last.pt"
    session.finish()
    assert session.state is State.DONE
    assert (sys.stdout, sys.stderr) == streams

    sent = []
    for came in scene.came:
        others = {name: value for name, value in came.request.headers.items() if name != "x-api-key"}
        assert came.request.headers["x-api-key"] == KEY
        sent.append(f"{came.request.path}\n{others}\n{came.request.body.decode('latin-1')}")
    leaves = "\n".join(sent)
    assert session.id in leaves
    for secret in (
        KEY,
        str(path.parent),
        str(Path.home()),
        str(Path.cwd()),
        "ada-of-the-lab",
        "gpu-box-17",
        "hunter2",
        "secret-project",
        "a word for the console alone",
    ):
        assert secret not in leaves, secret
    assert not re.search(rf"(?<![\w.-]){re.escape(socket.gethostname())}(?![\w.-])", leaves)

    assert KEY not in _texts(scene.folder)
    assert "bad key" in _texts(scene.folder), "what the hub said is kept, without the key in it"
    out, err = capfd.readouterr()
    assert KEY not in out + err
    assert KEY not in repr(session) + str(session.receipt) + repr(scene.client())
    environment = os.environ | {"HUBSTATE_API_KEY": KEY, "HUBSTATE_HUB": scene.wire.url}
    for command in (
        ["status", session.id],
        ["status", "--json"],
        ["trace", session.id, "--json"],
        ["diagram", "--session", session.id],
        ["doctor"],
    ):
        where = [] if command == ["doctor"] else ["--directory", str(scene.folder)]
        told = ended([PYTHON, "-m", "hubstate", *command, *where], env=environment)
        assert told.stdout
        assert KEY not in told.stdout + told.stderr, command
    with (
        scene.until(Says(401, {"message": f"bad key {KEY}"})),
        pytest.raises(HubRefused) as raised,
    ):
        hubstate.start("digits", hub=scene.wire.url, api_key=KEY, resume="01JZX0000000000000000000AB")
    assert KEY not in f"{raised.value!r}{raised.value.__cause__!r}{raised.value.__context__!r}"


@pytest.mark.promise("P15")
@pytest.mark.parametrize("missing", ["hub", "key"])
def test_what_keeps_a_run_from_being_sent_is_told(
    scene: Scene,
    tmp_path: Path,
    missing: str,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without a hub or without a key a run is recorded all the same; one line says why it stays here, and so does the doctor."""
    keys.create(tmp_path / "hub", "only")
    if missing == "key":
        monkeypatch.setenv("HUBSTATE_HUB", scene.behind.url)
        session = scene.start(key=None, epochs=2)
    else:
        session = hubstate.start("digits", epochs=2)
    for epoch in session.epochs():
        session.log({"loss": 0.5}, epoch=epoch)
    receipt = session.finish()
    assert (receipt.rows, receipt.rows_waiting) == (2, 2)
    conditions = {condition.name: condition.reason for condition in receipt.conditions}
    if missing == "hub":
        assert "no hub is set" in capfd.readouterr().err
        assert "no_hub" in conditions
    else:
        assert "key" in conditions["credentials_rejected"]
        assert conditions["credentials_rejected"] in str(receipt)
    findings = list(examine(settings.resolve(), SystemClock(), open_hub))
    (trouble,) = [finding for finding in findings if finding.level is Level.TROUBLE]
    assert missing in f"{trouble.about} {trouble.text}"
