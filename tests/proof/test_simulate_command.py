"""The command line of the simulation: what it prints, and how it ends."""

from __future__ import annotations

from collections import Counter

import pytest
from typer.testing import CliRunner

from hubstate.cli.app import app
from hubstate.proof import simulate as room
from hubstate.proof.simulate import Run


def call(*arguments: str):
    """Runs the command in this process."""
    return CliRunner().invoke(app, ["simulate", *arguments])


@pytest.fixture
def worlds(monkeypatch):
    """What the runs come to, without running them: by seed, the failure."""
    failures: dict[int, str] = {}

    def simulated(first, count, jobs, *, stories=False):
        assert jobs >= 1
        for seed in range(first, first + count):
            story = ("0:00:00 a session begins",) if stories or seed in failures else ()
            yield Run(seed, failures.get(seed, ""), 100, 7.5, f"d{seed}", Counter({"row 1": 2}), story)

    monkeypatch.setattr(room, "runs", simulated)
    return failures


def test_a_run_tells_what_it_covered(worlds):
    """Seeds, digest, coverage and totals are printed, and a run that holds ends with 0."""
    found = call("--seed", "7")
    assert found.exit_code == 0
    assert "seeds 7 to 7" in found.stdout
    assert "digest d7" in found.stdout
    assert "         2  row 1: idle / pretrain_routine_start" in found.stdout
    assert "1 runs, 0 failed; simulated hours: median 7.5, least 7.5" in found.stdout


def test_a_failing_seed_comes_with_the_command_that_shows_it(worlds):
    """Whoever sees a failure can see it again, and the exit code tells that there was one."""
    worlds[8] = "S1: a row is lost"
    found = call("--seed", "7", "--runs", "3")
    assert found.exit_code == 1
    assert "seed 8 failed: S1: a row is lost" in found.stderr
    assert "hubstate simulate --seed 8 --story" in found.stderr


def test_the_story_is_told_on_demand(worlds):
    """With --story every run tells what happened in it."""
    assert "a session begins" in call("--seed", "7", "--story").stdout
    assert "a session begins" not in call("--seed", "7").stdout


def test_without_a_seed_one_is_drawn(worlds):
    """Two calls without a seed look at different worlds, and say which."""
    lines = {call().stdout.splitlines()[0] for _ in range(3)}
    assert len(lines) > 1


def test_what_never_happened_in_many_runs_is_named(worlds):
    """A thousand runs that never saw a fault are no proof, and end with 1."""
    found = call("--seed", "0", "--runs", "1000")
    assert found.exit_code == 1
    assert "never happened: row 2, " in found.stderr
