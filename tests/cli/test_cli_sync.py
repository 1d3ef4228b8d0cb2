"""`sync`: what waits leaves from any later process, and the code tells whether all of it did."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import EXECUTABLE, run, silent, trained
from journals import DAMAGED
from loopback import black_hole, refused_port

import hubstate
from hubstate.server import keys
from hubstate.server.running import RunningHub, running


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[RunningHub]:
    with running(tmp_path / "hub") as hub:
        yield hub


def test_with_nothing_to_deliver_there_is_nothing_to_do():
    """Where nothing waits the command ends well and says so on stderr; programs get an empty list."""
    ended = run("sync")
    assert (ended.stdout, ended.stderr) == ("", "hubstate: nothing waits\n")
    assert json.loads(run("sync", "--json").stdout) == []


def test_everything_that_waits_is_delivered(hub):
    """Sessions that were kept without a hub go to the one that is named, a receipt of one line for each, oldest first."""
    older, newer = trained("first"), trained("second")
    ended = run("sync", "--hub", hub.url)
    assert [line.partition(":")[0] for line in ended.stdout.splitlines()] == [
        f"first ({older})",
        f"second ({newer})",
    ]
    assert "3 of 3 rows delivered" in ended.stdout
    assert ended.stderr == ""
    assert run("sync", "--hub", hub.url).stdout == ""


def test_the_result_is_there_for_programs(hub):
    """`--json` gives the objects of `status --json`, as they are afterwards."""
    session = trained()
    (told,) = json.loads(run("sync", session, "--hub", hub.url, "--json").stdout)
    assert (told["id"], told["state"], told["delivered"], told["waiting"]) == (session, "done", 3, 0)


def test_a_training_without_a_last_word_is_delivered_and_stays_unknown(hub):
    """What a lost process recorded is delivered; nobody invents its end, and nothing waits any more."""
    silent()
    ended = run("sync", "--hub", hub.url)
    assert "unknown, 1 of 1 rows delivered" in ended.stdout


def test_only_the_named_sessions_are_delivered(hub):
    """Sessions that were not named stay as they are."""
    one, other = trained("one"), trained("other")
    run("sync", "one", "--hub", hub.url)
    seen = {told["id"]: told["state"] for told in json.loads(run("status", "--json").stdout)}
    assert seen == {one: "done", other: "finalizing"}


def test_without_a_hub_the_ways_to_name_one_are_told():
    """No hub anywhere: nothing is delivered, the end is 1, and the message tells what to do."""
    trained()
    ended = run("sync", code=1)
    assert "--hub URL" in ended.stderr
    assert "3 rows kept here" in ended.stdout


def test_a_hub_that_is_away_is_told_at_once():
    """A hub that refuses the connection costs one question, however many sessions wait."""
    trained()
    trained()
    address = f"http://127.0.0.1:{refused_port()}"
    ended = run("sync", "--hub", address, code=1)
    assert ended.stderr.count("connection refused") == 2


def test_a_wrong_key_ends_with_3(hub):
    """A hub that refuses the credentials is told apart from everything else."""
    keys.create(hub.data_dir, "mine")
    trained()
    ended = run("sync", "--hub", hub.url, code=3)
    assert "hubstate login" in ended.stderr


def test_a_session_keeps_its_hub(hub):
    """Another hub than the one that holds a session's beginning is refused, with the reason."""
    silent()
    run("sync", "--hub", hub.url)
    session = hubstate.start("digits", resume=True, mode="offline")
    session.log({"loss": 0.5})
    session.close()
    other = f"http://127.0.0.1:{refused_port()}"
    assert f"it belongs to {hub.url}" in run("sync", "--hub", other, code=1).stderr
    run("sync")


def test_a_living_process_keeps_its_session(hub):
    """A session that a living process owns is left to it, by name or not, and the process is named."""
    session = hubstate.start("digits", mode="offline")
    session.log({"loss": 1.0})
    try:
        for arguments in ([], [session.id]):
            ended = run("sync", *arguments, "--hub", hub.url, code=1)
            assert f"process {os.getpid()} has it open just now; it is left to it" in ended.stderr
    finally:
        session.close()


def test_what_is_given_up_waits_no_more():
    """`--give-up` asks nothing: the reason is kept, and nothing waits any more."""
    session = trained()
    run("sync", session, "--give-up", "not worth it")
    (told,) = json.loads(run("status", session, "--json").stdout)
    assert (told["state"], told["waiting"], told["reason"]) == ("aborted", 0, "not worth it")


def test_an_unknown_session_is_a_mistake(hub):
    """A session that is not here ends with 2, and nothing else is delivered meanwhile."""
    session = trained()
    run("sync", "nobody", "--hub", hub.url, code=2)
    assert json.loads(run("status", session, "--json").stdout)[0]["state"] == "finalizing"


@DAMAGED
def test_a_journal_beyond_reading_is_not_all_done(hub):
    """A session that cannot be read is told, and the end is 1; the others are delivered."""
    broken, whole = trained(), trained()
    (Path(".hubstate") / broken / "journal-000001.jsonl").write_bytes(b"no journal\n")
    ended = run("sync", "--hub", hub.url, code=1)
    assert broken in ended.stderr
    assert json.loads(run("status", whole, "--json").stdout)[0]["state"] == "done"


def test_ctrl_c_leaves_all_that_waits():
    """Ctrl-C ends the waiting: what waits is kept and told, without a traceback, and the end is 1."""
    session = trained()
    with black_hole() as hole:
        process = subprocess.Popen(
            [EXECUTABLE, "sync", "--hub", hole.url], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        while not hole.connections():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" not in err
    assert "what waits is kept" in err
    assert json.loads(run("status", session, "--json").stdout)[0]["waiting"] > 3
    assert out == "" or session in out


def test_a_terminal_sees_progress(hub):
    """On a terminal a bar shows rows and files while they leave; the receipt is on stdout alone."""
    trained()
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [EXECUTABLE, "sync", "--hub", hub.url], stdout=subprocess.PIPE, stderr=theirs, text=True
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 65_536)
        except OSError:  # the other side is closed
            break
        shown += part
    out, _ = process.communicate(timeout=60)
    os.close(ours)
    assert process.returncode == 0
    assert b"rows 0/3, files 0/0" in shown
    assert out.startswith("digits (")
