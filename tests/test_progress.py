"""What a person sees of a training: only what the journal tells, on a terminal, in a pipe, and where letters are few."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from fakes import door_in, train

from hubstate import events as ev
from hubstate.progress import Show, Story
from hubstate.receipt import receipt_of
from hubstate.states import Outcome, State

FOLDER = Path("S")
TO_TRAINING = (State.IDLE, State.SESSION_CREATED, State.TIMING, State.TRAINING)


class Terminal(io.StringIO):
    """A text that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def row(door, epoch, **metrics):
    door.tell(ev.FitEpochEnd, epoch, metrics or {"train/loss": 0.5, "test/accuracy": 0.9})


def test_a_story_tells_what_was_written_and_no_more():
    """States, the configuration and the newest row appear as they are written, each time it is read on."""
    assert Story(FOLDER).read_on().states == ()
    door = door_in(FOLDER)
    story = Story(FOLDER).read_on()
    assert (story.states, story.row, dict(story.config)) == ((), None, {})
    train(door, config={"seed": 4})
    assert story.states == ()
    assert story.read_on().states == TO_TRAINING
    assert dict(story.config) == {"seed": 4}
    row(door, 0)
    row(door, 1, loss=2.0)
    door.tell(ev.TrainEnd)
    story.read_on()
    assert story.row is not None
    assert (story.row.epoch, story.row.metrics) == (1, {"loss": 2.0})
    assert story.states == (*TO_TRAINING, State.FINALIZING)


def test_a_story_of_a_new_attempt_begins_anew():
    """The states are those of the newest attempt alone; the newest row may be of an earlier one."""
    door = train(door_in(FOLDER))
    row(door, 0)
    door.tell(ev.Abort, outcome=Outcome.FAILED, reason="power")
    story = Story(FOLDER).read_on()
    assert story.states == (*TO_TRAINING, State.ABORTED)
    door.close()
    from hubstate.clock import VirtualClock
    from hubstate.opening import begin_attempt

    opened = begin_attempt(FOLDER, VirtualClock(), lambda *_: None)
    opened.door.tell(ev.PretrainRoutineStart, session="S", name="digits", config={"seed": 5})
    assert story.read_on().states == (State.IDLE, State.SESSION_CREATED)
    assert story.row is not None
    assert dict(story.config) == {"seed": 5}
    opened.close()


@pytest.mark.parametrize(("encoding", "arrow"), [("utf-8", "→"), ("ascii", "->")])
def test_in_a_pipe_each_thing_is_a_line(encoding, arrow):
    """In a pipe nothing is repainted: one line for each epoch and for each stretch of states, in the pipe's letters."""
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding=encoding)
    show = Show(out)
    door = train(door_in(FOLDER))
    story = Story(FOLDER)
    with show.live(story, 2, lambda: receipt_of(door.memory)):
        for epoch in (0, 1):
            row(door, epoch)
            show.epoch(story, 2, receipt_of(door.memory))
        door.tell(ev.TrainEnd)
    assert raw.getvalue().decode(encoding).splitlines() == [
        f"states       idle {arrow} session_created {arrow} timing {arrow} training",
        "epoch  1 of 2   loss 0.5000   test accuracy 90.0%   0 of 1 rows acknowledged",
        "epoch  2 of 2   loss 0.5000   test accuracy 90.0%   0 of 2 rows acknowledged",
        f"states       training {arrow} finalizing",
    ]


def test_states_that_did_not_change_are_not_repeated():
    """A stretch of states that was shown is not shown again, and another attempt is shown from its beginning."""
    out = io.StringIO()
    show = Show(out)
    for states in ((), TO_TRAINING, TO_TRAINING, (State.IDLE, State.SESSION_CREATED)):
        show.states(states)
    assert [line.split(maxsplit=1)[1] for line in out.getvalue().splitlines()] == [
        "idle → session_created → timing → training",
        "idle → session_created",
    ]


@pytest.mark.parametrize("columns", [80, 120])
def test_on_a_terminal_the_last_screen_stays(monkeypatch, columns):
    """On a terminal the bar, the figures, the states and what was acknowledged stand there at the end, none too wide."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", str(columns))
    out = Terminal()
    show = Show(out)
    door = train(door_in(FOLDER))
    story = Story(FOLDER)
    with show.live(story, 15, lambda: receipt_of(door.memory)):
        row(door, 6)
        show.epoch(story, 15, receipt_of(door.memory))
        door.tell(ev.TrainEnd)
    screen = plain(out.getvalue()).split("\r")[-1].splitlines()[-4:]
    assert screen[0].startswith("epoch         7 of 15  ━")
    assert screen[1].rstrip() == "measured     loss 0.5000   test accuracy 90.0%"
    assert screen[2].rstrip() == "states       idle → session_created → timing → training → finalizing"
    assert screen[3].rstrip() == "acknowledged 0 of 1 rows, 0 of 0 checkpoints"
    assert max(map(len, screen)) <= columns


def test_before_the_first_epoch_the_screen_says_so(monkeypatch):
    """Where nothing was measured yet, and nobody knows how many epochs there will be, nothing is invented."""
    monkeypatch.setenv("TERM", "xterm-256color")
    out = Terminal()
    door = train(door_in(FOLDER))
    with Show(out).live(Story(FOLDER), None, lambda: receipt_of(door.memory)):
        pass
    screen = plain(out.getvalue())
    assert "nothing yet" in screen
    assert " of " not in screen.split("measured")[0]


def test_a_terminal_that_can_do_nothing_is_treated_as_a_pipe(monkeypatch):
    """Where lines cannot be repainted they are written one after the other."""
    monkeypatch.setenv("TERM", "dumb")
    assert not Show(Terminal()).is_live
    monkeypatch.setenv("TERM", "xterm")
    assert Show(Terminal()).is_live


def test_a_long_line_is_not_broken():
    """A digest or an address can be copied whole, however narrow the screen is."""
    out = io.StringIO()
    Show(out).fact("sha256", "f" * 200)
    assert out.getvalue() == f"sha256       {'f' * 200}\n"


def plain(text: str) -> str:
    """The text without what only moves the cursor and colours it."""
    from rich.text import Text

    return Text.from_ansi(text).plain
