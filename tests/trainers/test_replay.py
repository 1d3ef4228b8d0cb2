"""Every recording of a real trainer, replayed through the module that hears it.

What has to follow is told by the recording alone: how it ended by its last line, and its rows by the stand-in's `rows`,
which reads the recorded calls and knows no module.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from replay import TRACES, Recording, Replayed, replay, stand_in

from hubstate.index import sessions_in
from hubstate.journal import recover

RECORDINGS = sorted(TRACES.glob("*.jsonl"))
ROOT = Path(__file__).parents[2]
#: Calls to a trainer that train nothing.
NO_TRAINING = {"evaluate", "val", "predict", "export"}


def _state(recording: Recording) -> str:
    if recording.header["scenario"] in NO_TRAINING or (recording.header["rank"] or 0) > 0:
        return "idle"
    return {"returned": "done", "raised": "aborted", "killed": "training"}[recording.end["outcome"]]


def _outcome(recording: Recording) -> str | None:
    state = _state(recording)
    if state == "aborted":
        # Lightning makes a SystemExit out of Ctrl-C.
        ctrl_c = recording.end["error"]["type"] in ("KeyboardInterrupt", "SystemExit")
        return "interrupted" if ctrl_c else "failed"
    return {"idle": None, "done": "finished", "training": "running"}[state]


@pytest.fixture(params=RECORDINGS, ids=lambda path: path.stem)
def played(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Recording, Replayed]:
    return Recording.of(request.param), replay(request.param, tmp_path)


def test_a_recording_leads_where_it_has_to(played: tuple[Recording, Replayed]) -> None:
    """A replay is legal throughout and ends as the caller's call did, with its reason; its rows are the recorded ones.

    Returned: done. Raised or interrupted: aborted. Killed: training. No training, or not the main process: idle. Names,
    values and order of the rows equal the recording.
    """
    recording, found = played
    assert found.illegal == []
    assert (found.state, found.outcome) == (_state(recording), _outcome(recording))
    message = (recording.end["error"] or {}).get("message", "")
    assert found.outcome != "failed" or message in str(found.reason)
    expected = [] if found.state == "idle" else list(stand_in(recording).rows(recording))
    assert [_exact(row) for row in found.rows] == [_exact(row) for row in expected]


def _exact(row: dict[str, Any]) -> str:
    """A row as a text in which the order of its names counts, and NaN is NaN."""
    return json.dumps({name: row[name] for name in ("epoch", "step", "final", "metrics")})


def test_a_checkpoint_of_a_replay_is_kept_for_a_reason(played: tuple[Recording, Replayed]) -> None:
    """Of one training the first checkpoint is kept, nothing twice, and one that is done ends with at most one final."""
    recording, found = played
    kinds = [kept["kind"] for kept in found.checkpoints]
    assert kinds.count("final") <= found.sessions
    saved = {(kept["kind"], kept["epoch"]) for kept in found.checkpoints}
    assert len(saved) == len(found.checkpoints)
    assert recording.header["scenario"] not in NO_TRAINING or not kinds


def test_a_second_training_that_fails_takes_nothing_from_the_first(tmp_path: Path) -> None:
    """Of two trainings with one model the first is done with all its rows, and the end, an error, belongs to the second."""
    found = replay(TRACES / "ultralytics-8.4.114-twice.jsonl", tmp_path)
    memories = [recover(folder).memory for folder in sessions_in(tmp_path / "sessions")]
    assert [(memory.state.value, memory.rows) for memory in memories] == [("done", 2), ("aborted", 0)]
    assert (found.state, found.reason, found.sessions) == ("aborted", "KeyError: 'model'", 2)
    assert [row["epoch"] for row in found.rows] == [0, 1]


@pytest.mark.parametrize("path", [RECORDINGS[0], RECORDINGS[-1]], ids=lambda path: path.stem)
def test_the_command_prints_what_followed(path: Path, tmp_path: Path) -> None:
    """`python -m tests.trainers.replay FILE` prints one JSON object: state, outcome, rows, checkpoints, illegal, reason."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.trainers.replay", str(path)],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        check=True,
        text=True,
    )
    printed = json.loads(done.stdout)
    assert printed == replay(path, tmp_path / "here").as_json()
    assert list(printed) == ["state", "outcome", "rows", "checkpoints", "illegal", "reason"]
    assert list(tmp_path.iterdir()) == [tmp_path / "here"]
