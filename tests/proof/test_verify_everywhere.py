"""What judges the journals of all tests (`tests/conftest.py`) bites: these tests are run, and have to end as named."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from journals import DAMAGED

TESTS = Path(__file__).parent.parent

FILE = """
import shutil
import tempfile
from pathlib import Path

import pytest

import hubstate

damages = pytest.mark.damages_journals


def leave(directory, *, spoilt):
    with hubstate.start("digits", mode="offline", directory=directory) as session:
        session.log({"loss": 0.5})
    file = Path(directory, session.id, "journal-000001.jsonl")
    if spoilt:
        file.write_bytes(file.read_bytes().replace(b"0.5", b"0.4"))


def test_passes_good(tmp_path):
    leave(tmp_path, spoilt=False)


def test_errs_spoilt(tmp_path):
    leave(tmp_path, spoilt=True)


def test_errs_spoilt_where_it_works():
    leave("runs", spoilt=True)


def test_errs_spoilt_in_a_folder_of_the_factory(tmp_path_factory):
    leave(tmp_path_factory.mktemp("some"), spoilt=True)


@pytest.fixture(scope="module")
def of_several(tmp_path_factory):
    leave(tmp_path_factory.mktemp("several"), spoilt=True)


def test_errs_spoilt_for_several(of_several):
    pass


def test_passes_where_another_was_blamed_already(of_several):
    pass


def test_errs_spoilt_and_removed():
    with tempfile.TemporaryDirectory() as directory:
        leave(directory, spoilt=True)


@damages(reason="it wants to")
def test_passes_spoilt_with_a_reason(tmp_path):
    leave(tmp_path, spoilt=True)


@damages(reason="it wants to")
def test_errs_marked_without_need(tmp_path):
    leave(tmp_path, spoilt=False)


@damages()
def test_errs_marked_without_a_reason(tmp_path):
    leave(tmp_path, spoilt=True)


def test_fails_alone(tmp_path):
    leave(tmp_path, spoilt=True)
    assert False, "its own failure is the one that is told"
"""


@DAMAGED
def test_no_test_leaves_a_journal_that_nobody_judged(tmp_path):
    """A journal that is not accepted fails its test, wherever it lies; the marker needs a reason, and a need."""
    shutil.copy(TESTS / "conftest.py", tmp_path)
    (tmp_path / "test_some.py").write_text(FILE)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = damages_journals(reason)\n")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-rA",
        "-p",
        "no:cacheprovider",
        "--basetemp",
        str(tmp_path / "t"),
    ]
    ended = subprocess.run(
        [*command, str(tmp_path)], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    summary = ended.stdout[ended.stdout.index("short test summary") :]
    told = set(re.findall(r"^(PASSED|FAILED|ERROR) \S*::(\w+)", summary, re.MULTILINE))
    names = set(re.findall(r"^def (test_\w+)", FILE, re.MULTILINE))
    assert {name for end, name in told if end == "ERROR"} == {n for n in names if n.startswith("test_errs")}
    assert {name for end, name in told if end == "FAILED"} == {"test_fails_alone"}
    assert {name for end, name in told if end == "PASSED"} >= {
        n for n in names if n.startswith("test_passes")
    }
    assert "journal-000001.jsonl line 5 (step 4): the line is not as it was written" in ended.stdout
