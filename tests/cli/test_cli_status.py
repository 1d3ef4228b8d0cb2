"""`status` and `trace`: what people and programs read of a session."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import re
import subprocess
from pathlib import Path

import pytest
from command import EXECUTABLE, run, silent, trained
from journals import DAMAGED

import hubstate
from hubstate.cli.screen import ago, width_of
from hubstate.events import TrainStart
from hubstate.server.running import running


def on_terminal(columns: int, *arguments: str) -> str:
    """What the command shows on a terminal of so many columns."""
    ours, theirs = pty.openpty()
    try:
        env = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm"}
        process = subprocess.Popen([EXECUTABLE, *arguments], stdout=theirs, stderr=theirs, env=env)
        os.close(theirs)
        shown = b""
        while True:
            try:
                part = os.read(ours, 65_536)
            except OSError:  # the other side is closed
                break
            if not part:
                break
            shown += part
        process.wait(timeout=60)
    finally:
        os.close(ours)
    return shown.decode().replace("\r\n", "\n")


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def spoil(session: str, line: int) -> None:
    file = Path(".hubstate") / session / "journal-000001.jsonl"
    lines = file.read_bytes().split(b"\n")
    lines[line - 1] = lines[line - 1].replace(b"loss", b"lost")
    file.write_bytes(b"\n".join(lines))


def test_without_sessions_a_way_to_begin_is_told():
    """A newcomer's first `status` is no error: it tells how to get a session, on stderr, and [] to programs."""
    ended = run("status")
    assert ended.stdout == ""
    assert "hubstate demo" in ended.stderr
    assert json.loads(run("status", "--json").stdout) == []


def test_sessions_are_listed_newest_first_in_aligned_columns():
    """In a pipe each session is one line, the newest first, with its conditions as the last field; no colours."""
    older, newer = silent("first"), trained("second")
    text = run("status").stdout
    head, *lines = text.splitlines()
    assert "\x1b" not in text
    assert [line.split()[0] for line in lines] == ["second", "first"]
    place = head.index("ID")
    assert [line[place : place + 26] for line in lines] == [newer, older]
    assert "no_contact: no contact since" in lines[1]


def test_the_list_fits_a_narrow_terminal():
    """On a terminal of 80 columns nothing is wider, ids are as long as tells them apart, and conditions stand below."""
    first, second = silent("a run with a very long name, as people like to give"), trained("digits")
    text = plain(on_terminal(80, "status"))
    assert max(map(len, text.splitlines())) <= 80
    assert "…" in text
    shown = [line.split()[-1] for line in text.splitlines()[1:] if not line.startswith(" ")]
    assert second.startswith(shown[0])
    assert first.startswith(shown[1])
    assert shown[0] != shown[1]
    assert "  · no_contact: no contact since" in text


def test_a_wide_terminal_shows_whole_ids_in_colour():
    """With room there are whole ids, and colours; NO_COLOR switches them off."""
    session = trained()
    assert session in on_terminal(130, "status")
    assert "\x1b[32mfinished" in on_terminal(130, "status")


def test_colours_can_be_switched_off(monkeypatch):
    """NO_COLOR is heeded on a terminal too."""
    trained()
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in on_terminal(80, "status")


def test_the_json_is_a_list_of_objects():
    """`--json` is for programs: a list, newest first, on stdout alone."""
    older, newer = trained(), silent()
    ended = run("status", "--json")
    seen = json.loads(ended.stdout)
    assert [one["id"] for one in seen] == [newer, older]
    assert [one["outcome"] for one in seen] == ["unknown", "finished"]
    assert ended.stderr == ""


def test_one_session_is_told_whole():
    """Of one session everything is told: counts, where it lies, and each condition with its reason and time."""
    session = silent("digits")
    text = run("status", "digits").stdout
    for words in (
        session,
        "training",
        "unknown",
        "0 of 1 delivered, 1 waiting",
        "1/9",
        "! no_contact",
        "(since ",
    ):
        assert words in text
    assert json.loads(run("status", session[:12].lower(), "--json").stdout)[0]["id"] == session


def test_a_delivered_session_is_told_with_its_page_and_its_file(tmp_path):
    """What a hub holds is told: its address, the page, the digest of the final file, and what it could not take."""
    weights = tmp_path / "last.pt"
    weights.write_bytes(b"weights")
    with running(tmp_path / "hub") as hub:
        with hubstate.start("digits", epochs=1, hub=hub.url) as session:
            for _ in session.epochs():
                session.log({"loss": 1.0})
                session.save(weights)
        text = run("status", session.id).stdout
    assert f"{hub.url}/models/{session.id}" in text
    assert hashlib.sha256(b"weights").hexdigest() in text
    assert "1 delivered, 0 waiting" in text


def test_a_living_session_is_told_with_its_owner():
    """Whoever wonders which process holds a session reads its id."""
    with hubstate.start("digits", mode="offline") as session:
        session.log({"loss": 1.0})
        assert f"process {os.getpid()}" in run("status", session.id).stdout


@pytest.mark.parametrize(
    ("seconds", "words"), [(-5, "0 s"), (59, "59 s"), (60, "1 min"), (7_200, "2 h"), (200_000, "2 d")]
)
def test_how_long_ago_is_one_figure(seconds, words):
    """A time is told in the biggest unit that it fills; one that lies ahead counts as now."""
    assert ago(1_000_000.0, 1_000_000.0 + seconds) == words


def test_a_screen_counts_columns_and_not_letters():
    """Letters that take two columns of a terminal, and such that take none, keep the columns aligned."""
    assert (width_of("digits"), width_of("数字"), width_of("e\N{COMBINING ACUTE ACCENT}")) == (6, 4, 1)


def test_the_doctor_fits_a_terminal():
    """What the doctor tells goes on below, indented, where a line is too long for the terminal."""
    text = plain(on_terminal(60, "doctor"))
    assert "!!  hub           no hub is set" in text
    assert "\n                  " in text


def test_a_name_cannot_steer_the_terminal():
    """Control characters that came in with a name are shown as what they are: nothing."""
    trained("evil\x1b[2Jname")
    assert "\x1b[2J" not in run("status").stdout
    assert "\x1b[2J" not in on_terminal(120, "status", "evil\x1b[2Jname")


@DAMAGED
def test_a_session_beyond_reading_is_listed_and_the_list_is_not_whole():
    """A journal that cannot be read stands in the list with the reason, and the command ends with 1."""
    session = trained()
    (Path(".hubstate") / session / "journal-000001.jsonl").write_bytes(b"no journal\n")
    assert "unreadable" in run("status", code=1).stdout
    assert "no segment" in run("status", session, code=1).stdout
    assert json.loads(run("status", "--json", code=1).stdout)[0]["state"] is None


def test_a_directory_narrows_the_list(tmp_path):
    """`--directory` looks there alone, for `status` and for `trace`."""
    session = trained()
    (tmp_path / "empty").mkdir()
    assert run("status", "--directory", tmp_path / "empty").stdout == ""
    assert session in run("status", "--directory", ".hubstate").stdout
    run("trace", session, "--directory", tmp_path / "empty", code=2)
    run("status", "--directory", tmp_path / "nowhere", code=2)


def test_the_trace_tells_each_step():
    """Each step is one line: time, attempt, event with its fields, where it led, and what was asked for."""
    lines = run("trace", trained()).stdout.splitlines()
    assert [line.split()[0] for line in lines] == [str(n) for n in range(1, len(lines) + 1)]
    assert "idle → session_created" in lines[0]
    assert "⇒ 1/open (from epoch 0)" in lines[0]
    assert "epoch=0 loss=1 odd=NaN" in lines[3]
    assert "training → finalizing" in lines[-1]
    assert "⇒ 1/rows/1-3, 1/close" in lines[-1]


def test_the_trace_for_programs_is_the_journal():
    """`trace --json` prints the steps as they stand in the journal, one object a line."""
    session = trained()
    told = [json.loads(line) for line in run("trace", session, "--json").stdout.splitlines()]
    journal = (
        (Path(".hubstate") / session / "journal-000001.jsonl").read_text(encoding="utf-8").splitlines()[1:]
    )
    for step, line in zip(told, journal, strict=True):
        written = json.loads(line)
        assert {**step, "p": written["p"], "h": written["h"]} == written


@pytest.mark.promise("C11")
def test_what_was_held_back_and_why_is_in_the_trace(tmp_path):
    """A refusal is told with its reason, an illegal event as such."""
    weights = tmp_path / "last.pt"
    weights.write_bytes(b"weights")
    with hubstate.start("digits", mode="offline", epochs=1) as session:
        for _ in session.epochs():
            session.log({"loss": 1.0})
            session.save(weights)
            session.save(weights)
        session.tell(TrainStart)
    text = run("trace", session.id).stdout
    assert "held back: not strictly better" in text
    assert "illegal: " in text
    assert "⇒ 1/keep/1 (last, epoch 0, 7 bytes)" in text
    assert "[keep_due no]" in text


@pytest.mark.parametrize("options", [[], ["--json"]])
@DAMAGED
def test_a_damage_is_shown_at_its_place(options):
    """A damaged line is told where it stands; programs get whole steps only, and the end is 1."""
    session = trained()
    spoil(session, 5)
    ended = run("trace", session, *options, code=1)
    (place,) = [n for n, line in enumerate((ended.stdout + ended.stderr).splitlines()) if "damaged: " in line]
    if options:
        assert "journal-000001.jsonl line 5" in ended.stderr
        assert all(json.loads(line) for line in ended.stdout.splitlines())
    else:
        assert place == 3
        assert ended.stdout.splitlines()[place + 1].split()[0] == "5"


def test_the_trace_fits_a_terminal():
    """On a terminal the day stands above its steps, and long steps go on below, indented."""
    text = plain(on_terminal(80, "trace", trained()))
    assert max(map(len, text.splitlines())) <= 80
    assert re.match(r"\d{4}-\d\d-\d\d, attempt 1\n", text)


def test_each_attempt_of_a_day_has_its_heading():
    """Several attempts of one day stand below headings of their own."""
    session = silent()
    hubstate.start("digits", epochs=9, mode="offline", resume=session).finish()
    text = plain(on_terminal(100, "trace", session))
    days = re.findall(r"^(\d{4}-\d\d-\d\d), attempt (\d)$", text, re.MULTILINE)
    assert list(dict.fromkeys(attempt for _, attempt in days)) == ["1", "2"]
