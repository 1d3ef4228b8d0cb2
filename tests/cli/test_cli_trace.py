"""`trace`: which steps are shown, and what each line tells."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from command import run, trained
from fakes import door_in, save, train
from journals import DAMAGED
from witness import Forgery

from hubstate import events as ev
from hubstate.clock import VirtualClock
from hubstate.opening import new_id
from hubstate.states import Outcome

#: 20 July 2026, 12:00 of this place's time.
NOON = datetime(2026, 7, 20, 12).astimezone()


class _Chance:
    def getrandbits(self, bits: int) -> int:
        return bits


@pytest.fixture
def session() -> str:
    """A session with a step at noon, one minute later, and so on; its id."""
    clock = VirtualClock(NOON.timestamp())
    folder = Path(".hubstate").resolve() / new_id(clock.wall(), _Chance())
    door = train(door_in(folder, clock))
    clock.advance(60.0)
    door.tell(ev.FitEpochEnd, 0, {"loss": 0.5})
    clock.advance(60.0)
    door.tell(ev.TrainStart)  # out of turn
    save(door, folder / "snapshots", "s0")
    clock.advance(60.0)
    door.tell(ev.Delivered, key="S/1/open")
    save(door, folder / "snapshots", "s1")
    clock.advance(60.0)
    door.tell(ev.Abort, outcome=Outcome.FAILED, reason="out of memory")
    door.close()
    return folder.name


def shown(*arguments: str) -> list[int]:
    """The numbers of the steps that are shown, to people and to programs alike."""
    people = [int(line.split()[0]) for line in run("trace", *arguments).stdout.splitlines()]
    programs = [json.loads(line)["n"] for line in run("trace", *arguments, "--json").stdout.splitlines()]
    assert people == programs
    return people


@pytest.mark.parametrize(
    ("kinds", "steps"),
    [
        ([], [1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (["fit_epoch_end"], [4]),
        (["fit_epoch_end", "model_save"], [4, 6, 8]),
        (["hub"], [7]),
        (["trainer"], [1, 2, 3, 4, 5, 6, 8, 9]),
        (["caller"], []),
        (["moves"], [1, 2, 3, 9]),
        (["refusals"], [5, 8]),
        (["refusals", "hub"], [5, 7, 8]),
    ],
)
def test_steps_are_chosen_by_kind(session, kinds, steps):
    """An event, whoever spoke, what moved, what was refused: several kinds add up."""
    assert shown(session, *(word for kind in kinds for word in ("--kind", kind))) == steps


def test_steps_are_chosen_by_time(session):
    """From a time on and up to a time, both included, with a date, with a zone, or as how long ago."""
    zone = NOON.isoformat()[19:]
    assert shown(session, "--since", "2026-07-20T12:02") == [5, 6, 7, 8, 9]
    assert shown(session, "--until", "2026-07-20 12:01") == [1, 2, 3, 4]
    assert shown(session, "--since", f"2026-07-20T12:01:00{zone}", "--until", "2026-07-20T12:02:30") == [
        4,
        5,
        6,
    ]
    assert shown(session, "--since", "2026-07-21") == []
    assert shown(session, "--since", "36500d") == list(range(1, 10))
    assert shown(session, "--until", "36500 d") == []
    assert shown(session, "--kind", "moves", "--since", "2026-07-20T12:01") == [9]


def test_a_time_of_today_and_a_while_ago_are_understood():
    """Without a date a time is one of today; a number with its unit is how long ago."""
    session = trained()
    every = list(range(1, 8))
    assert shown(session, "--since", "1h") == every
    assert shown(session, "--until", "10min") == []
    assert shown(session, "--since", "30 s", "--until", "0s") == every
    if (datetime.now().astimezone() - timedelta(minutes=5)).date() == datetime.now().astimezone().date():
        assert shown(session, "--since", "0:00") == every


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--kind", "coffee"], "known: trainer, usage, caller, clock, hub, moves, refusals"),
        (["--since", "yesterday"], "--since 'yesterday' is no time"),
        (["--until", "25:00"], "--until '25:00' is no time"),
        (["--since", "5 parsecs"], "is no time"),
        (["--until", "0001-01-01"], "--until '0001-01-01' is no time"),
    ],
)
def test_what_is_no_kind_and_no_time_is_a_mistake_of_usage(session, arguments, says):
    """It ends with 2, and says what would do."""
    ended = run("trace", session, *arguments, code=2)
    assert says in ended.stderr
    assert ended.stdout == ""


def test_each_line_tells_all_of_its_step(session):
    """Number, time, attempt, event, from, to, guards with their answers, keys of what is asked for, and the refusal."""
    lines = run("trace", session).stdout.splitlines()
    at = (NOON + timedelta(minutes=1)).isoformat(" ", "milliseconds")
    said = "training: epoch=0 loss=0.5 [metrics_due yes] ⇒ 1/rows/1-1"
    assert lines[3] == f"    4  {at}  1  {'fit_epoch_end':22}  {said}"
    assert "idle → session_created" in lines[0]
    assert "[may_open yes] ⇒ 1/open (from epoch 0)" in lines[0]
    assert "training: ✗ illegal: train_start is illegal while training" in lines[4]
    assert "[keep_due yes, checkpoint_due no] ⇒ 1/keep/1 (last, epoch 0, 20 bytes)" in lines[5]
    assert "training: 1/open" in lines[6]
    assert "[keep_due no] · held back: not strictly better, and not yet: 840 s left of 900 s" in lines[7]
    assert "training → aborted outcome=failed reason=out of memory ⇒ 1/checkpoint/last/s0" in lines[8]


@DAMAGED
def test_a_time_that_no_calendar_has_is_shown_as_its_number(session):
    """A damaged clock or a forger stops neither the trace of his session nor the list of all others."""
    forgery = Forgery(Path(".hubstate") / session)
    forgery.edit((0, 9), lambda line: line["event"].update(at=1e308))
    forgery.write()
    other = trained("letters")
    lines = run("trace", session).stdout.splitlines()
    assert lines[8].split()[:4] == ["9", "1e+308", "(no", "date)"]
    listed = run("status").stdout
    assert session in listed
    assert other in listed
    assert "1e+308 (no date)" in run("status", session).stdout
