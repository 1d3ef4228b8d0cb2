"""`hubstate diagram`: every format, and the way of a session as its journal tells it."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from command import run, silent, trained
from journals import DAMAGED, INVENTED

import hubstate
from hubstate.diagram import RENDERERS, render
from hubstate.events import Refused, TrainStart


def told(session: str, *more: str, code: int = 0) -> dict:
    """The way of a session, as JSON."""
    return json.loads(run("diagram", "--format", "json", "--session", session, *more, code=code).stdout)


def taken(way: dict, event: str) -> int:
    """How often rows of this event were taken."""
    return sum(times for row in way["rows"] if event in row["events"] for times in row["taken"].values())


@pytest.mark.parametrize("form", RENDERERS)
def test_each_format_is_printed_as_it_is_rendered(form):
    """`--format` prints what the code renders, and nothing else, for each format that there is."""
    ended = run("diagram", "--format", form)
    assert (ended.stdout, ended.stderr) == (render(form), "")
    assert form in run("diagram", "-h").stdout


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("way.svg", "svg"),
        ("way.DOT", "dot"),
        ("way.gv", "dot"),
        ("way.md", "markdown"),
        ("way.json", "json"),
        ("way.txt", "mermaid"),
    ],
)
def test_a_file_gets_the_format_of_its_name(tmp_path, name, form):
    """Without `--format` the end of the file's name decides, and Mermaid where it says nothing."""
    run("diagram", "-o", tmp_path / name)
    assert (tmp_path / name).read_text(encoding="utf-8") == render(form)


def test_a_format_that_is_asked_for_wins_over_a_name(tmp_path):
    """`--format` decides, whatever the file is called."""
    run("diagram", "--format", "dot", "-o", tmp_path / "machine.svg")
    assert (tmp_path / "machine.svg").read_text(encoding="utf-8") == render("dot")


def test_the_way_of_a_session_is_drawn_from_its_journal():
    """Where the session is, where it has been and how often each row was taken is what its journal says."""
    session = trained(epochs=3)
    way = told(session)
    assert way["session"] == {"title": f"digits · {session}", "current": "finalizing", "foreign": 0}
    assert [state["name"] for state in way["states"] if state["visited"]] == [
        "idle",
        "session_created",
        "timing",
        "training",
        "finalizing",
    ]
    assert taken(way, "fit_epoch_end") == 3
    assert taken(way, "train_end") == 1
    assert taken(way, "abort") == 0


def test_a_session_is_named_as_elsewhere():
    """An id, the beginning of one, or a name: the same session, the same picture; the newest of a name."""
    trained(epochs=1)
    newest = silent()
    assert told(newest) == told("digits")
    assert told("digits")["session"]["current"] == "training"
    assert "SESSION" in run("diagram", "-h").stdout
    assert "no session 'other'" in run("diagram", "--session", "other", code=2).stderr


def test_an_aborted_session_shows_where_it_left():
    """An error in the training is drawn as the way from training to aborted."""
    session = hubstate.start("broken", mode="offline")
    session.log({"loss": 1.0})
    session.abort("it broke")
    root = ET.fromstring(run("diagram", "--format", "svg", "--session", "broken").stdout)
    (state,) = (one for one in root.iter() if one.get("id") == "state-aborted")
    assert state.get("class") == "state aborted terminal visited current"
    assert f"broken · {session.id}" in "".join(root.itertext())


@INVENTED
def test_what_was_out_of_turn_is_counted():
    """An event that was illegal in its state is told there, and one that the hub refused too."""
    session = hubstate.start("digits", mode="offline")
    session.log({"loss": 1.0})
    for _ in range(2):
        assert session.tell(TrainStart).refusal.illegal
    session.tell(Refused, key="no/such/key", reason="it does not like it")
    session.close()
    (training,) = (state for state in told(session.id)["states"] if state["name"] == "training")
    assert (training["illegal"], training["refused"]) == ({"train_start": 2}, 1)


def test_only_the_named_directory_is_looked_at(tmp_path):
    """`--directory` finds sessions that this user's index does not know, and no others."""
    session = trained()
    here = tmp_path / "elsewhere"
    here.mkdir()
    assert "no session" in run("diagram", "--session", session, "--directory", here, code=2).stderr
    assert told(session, "--directory", ".hubstate")["session"]["current"] == "finalizing"


@DAMAGED
def test_a_damaged_journal_is_drawn_and_told():
    """What can be read is drawn; each damage is named on stderr, and the exit code is 1."""
    session = trained()
    (file,) = Path(".hubstate", session).glob("journal-*.jsonl")
    lines = file.read_bytes().splitlines(keepends=True)
    lines[3] = b"{}\n"
    file.write_bytes(b"".join(lines))
    ended = run("diagram", "--format", "json", "--session", session, code=1)
    assert json.loads(ended.stdout)["session"]["current"] == "finalizing"
    assert "left out of the picture: journal-000001.jsonl line 4" in ended.stderr


def test_a_file_of_another_kind_is_refused(tmp_path):
    """No picture is written under a name that says it is something else; the error tells what there is."""
    file = tmp_path / "machine.png"
    ended = run("diagram", "-o", str(file), code=2)
    assert "no format is called .png" in ended.stderr
    assert "--format svg, mermaid, dot" in ended.stderr
    assert not file.exists()
    run("diagram", "--format", "svg", "-o", str(file))
    assert file.read_text().startswith("<svg")
