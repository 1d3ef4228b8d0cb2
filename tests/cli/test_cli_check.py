"""`hubstate check`: what it prints, when it ends 0, and the picture of what fails."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest
from command import run
from typer.testing import CliRunner

from hubstate.cli.app import app
from hubstate.proof import check
from hubstate.proof.model import Rig
from hubstate.proof.planted import PLANTED


def test_it_says_what_was_searched_and_that_all_holds():
    """States, edges, time and the rows of the table that were taken stand on stdout; how far it is on stderr."""
    ended = CliRunner().invoke(app, ["check", "--quick"])
    assert ended.exit_code == 0
    assert "all hold: S1, S2, S3, S4, S5, S6, S7, S8, S9, L1, L2, L3" in ended.stdout
    for name in check.QUICK:
        assert f"{name}: " in ended.stdout
        assert f"{name}: " in ended.stderr


def test_a_counterexample_is_printed_and_drawn(monkeypatch, tmp_path):
    """What fails is named with the shortest way there, the picture shows that way, and it ends 1."""
    plant = PLANTED["a heartbeat after done"]

    def broken(bounds, **how):
        return found(bounds, rig=plant.rig, **how)

    found = check.check
    monkeypatch.setattr(check, "check", broken)
    picture = tmp_path / "way.svg"
    ended = CliRunner().invoke(app, ["check", "--quick", "-o", str(picture)])
    assert ended.exit_code == 1
    assert f"{plant.violates} is violated" in ended.stdout
    assert "the shortest way there:\n   1. pretrain_routine_start" in ended.stdout
    drawn = ET.parse(picture).getroot()
    visited = {group.get("id") for group in drawn.iter() if "visited" in (group.get("class") or "").split()}
    assert "state-training" in visited


def test_the_planted_mistakes_are_found_on_demand(monkeypatch):
    """`--planted` names each mistake with the property that finds it; one that is not found ends 1."""
    some = dict(list(PLANTED.items())[:2])
    monkeypatch.setattr("hubstate.proof.planted.PLANTED", some)
    ended = CliRunner().invoke(app, ["check", "--planted"])
    assert ended.exit_code == 0
    assert "2 of 2 planted mistakes found" in ended.stdout
    unbroken = {"nothing at all": next(iter(PLANTED.values()))._replace(rig=Rig())}
    monkeypatch.setattr("hubstate.proof.planted.PLANTED", unbroken)
    ended = CliRunner().invoke(app, ["check", "--planted"])
    assert ended.exit_code == 1
    assert "nothing at all: NOT FOUND" in ended.stdout


@pytest.mark.parametrize("more", [["--planted", "-o", "x.svg"], ["-o", "no/such/folder/x.svg", "--bad"]])
def test_what_makes_no_sense_is_refused(more):
    """Options that contradict each other end 2, with a word."""
    assert run("check", *more, code=2).stderr
