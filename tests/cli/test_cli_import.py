"""`hubstate import`: what other tools left becomes sessions, in words that tell what was taken and what was not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import requests
from command import run

from hubstate.server.running import running

DATA = Path(__file__).parent.parent / "data" / "imports"


def left(tool: str, folder: str) -> Path:
    """What a tool left, in a folder here."""
    return Path(shutil.copytree(DATA / tool, folder))


def test_several_trainings_are_imported_at_once():
    """Each training below the folder is a line on stdout with its id; what is worth knowing goes to stderr."""
    left("ultralytics", "all/runs/train")
    left("lightning", "all/logs/version_0")
    ended = run("import", "all")
    lightning, ultralytics = ended.stdout.splitlines()
    assert lightning.startswith("logs/version_0 (0")
    assert ultralytics.endswith("imported, rows: 3, checkpoints: 0; Ultralytics, all/runs/train")
    assert "outcome is unknown" in ended.stderr
    assert "--finished" in ended.stderr
    assert "tells no times" in ended.stderr
    told = {one["name"]: one for one in json.loads(run("status", "--json").stdout)}
    assert told["runs/train"]["outcome"] == "finished"
    assert told["logs/version_0"]["rows"] == 15
    run("verify", "runs/train")


def test_a_second_import_says_that_nothing_is_new():
    """The same folder again is told as known, with the same id, and ends with 0."""
    left("transformers", "out")
    first, again = (run("import", "out").stdout for _ in range(2))
    assert "nothing is new" in again
    assert again.split(":")[0] == first.split(":")[0]


def test_finished_is_said_where_no_file_tells():
    """With `--finished` the training came to its end, and may be called by another name."""
    left("lightning", "version_0")
    run("import", "version_0", "--finished", "--name", "sums")
    (told,) = json.loads(run("status", "--json").stdout)
    assert (told["name"], told["outcome"]) == ("sums", "finished")


def test_sessions_are_kept_where_it_is_said():
    """`--directory` names the folder of the sessions; a second import there finds them."""
    left("ultralytics", "train")
    run("import", "train", "--directory", "kept")
    assert "nothing is new" in run("import", "train", "--directory", "kept").stdout
    assert len(list(Path("kept").glob("0*"))) == 1
    assert "imported, rows: 3" in run("import", "train", "--directory", "elsewhere").stdout


def test_a_folder_with_nothing_to_import_is_a_mistake():
    """Where no tool left anything, and where nothing is, the command ends with 2 and says what it looked for."""
    Path("empty").mkdir()
    assert "trainer_state.json" in run("import", "empty", code=2).stderr
    assert "no folder nowhere" in run("import", "nowhere", code=2).stderr


def test_a_name_is_for_one_training():
    """One name for several trainings is refused, and nothing is imported."""
    left("ultralytics", "all/a")
    left("lightning", "all/b")
    assert "--name is for one" in run("import", "all", "--name", "x", code=2).stderr
    assert json.loads(run("status", "--json").stdout) == []


def test_what_cannot_be_read_is_named_and_the_rest_imported():
    """A broken file is told with its path and the command ends with 1; the training beside it is there."""
    left("ultralytics", "all/a")
    (left("transformers", "all/b") / "trainer_state.json").write_text("{", encoding="ascii")
    (left("ultralytics", "all/c") / "results.csv").write_text("epoch,loss\n", encoding="ascii")
    ended = run("import", "all", code=1)
    assert ended.stdout.count("imported") == 1
    assert "all/b/trainer_state.json is no state" in ended.stderr
    assert "all/c holds no row" in ended.stderr


def test_a_session_at_a_hub_is_filled(tmp_path):
    """`--into` sends what the hub's session lacks and says how much; again it says that nothing is missing."""
    left("ultralytics", "train")
    with running(tmp_path / "hub") as hub:
        made = requests.post(f"{hub.url}/v1/models", json={"meta": {"name": "x"}}, timeout=30).json()
        session = made["data"]["id"]
        told = run("import", "train", "--into", session, "--hub", hub.url).stdout
        assert "filled, rows: 3 of 3, checkpoints: 0 of 0" in told
        assert "lacks nothing" in run("import", "train", "--into", session, "--hub", hub.url).stdout
        assert "no session" in run("import", "train", "--into", "nobody", "--hub", hub.url, code=2).stderr
    assert json.loads(run("status", "--json").stdout) == []


def test_into_is_for_one_training():
    """Several trainings, a broken one, and a hub without `--into` are refused in words."""
    left("ultralytics", "all/a")
    left("lightning", "all/b")
    assert "--into is for one" in run("import", "all", "--into", "x", code=2).stderr
    assert "--hub is for --into" in run("import", "all", "--hub", "http://127.0.0.1:1", code=2).stderr
    (left("transformers", "broken") / "trainer_state.json").write_text("{", encoding="ascii")
    assert "is no state" in run("import", "broken", "--into", "x", code=1).stderr
