"""What is committed of the machine (`diagrams/`, blocks in pages) is what the table says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from hubstate.diagram import RENDERERS
from hubstate.machine import TABLE
from hubstate.states import State

ROOT = Path(__file__).parent.parent.parent
GENERATED = ("machine.svg", "machine.mmd", "machine.dot", "machine.md", "machine.json", "session.svg")


def copies(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the script that writes and checks the committed copies."""
    command = [sys.executable, str(ROOT / "scripts/diagrams.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_committed_copies_are_what_the_code_draws():
    """`diagrams/`, README.md and docs/machine.md show the table of this very version."""
    checked = copies("--check")
    assert (checked.stdout, checked.stderr, checked.returncode) == ("", "", 0)


def test_a_copy_that_drifted_is_found_and_mended(tmp_path):
    """The check fails for every copy that differs or is missing, and the script writes exactly those anew."""
    for name in ("README.md", "docs/machine.md", "diagrams/machine.md"):
        copy = tmp_path / name
        copy.parent.mkdir(exist_ok=True)
        copy.write_text((ROOT / name).read_text().replace("train_start", "train_began"))
    checked = copies("--check", "--root", str(tmp_path))
    assert checked.returncode == 1
    named = [line.split()[0] for line in checked.stdout.splitlines()]
    assert named == [f"diagrams/{name}" for name in GENERATED] + ["README.md", "docs/machine.md"]
    assert copies("--root", str(tmp_path)).returncode == 0
    assert copies("--check", "--root", str(tmp_path)).returncode == 0
    for name in GENERATED:
        assert (tmp_path / "diagrams" / name).read_bytes() == (ROOT / "diagrams" / name).read_bytes()


def test_the_page_about_the_diagrams_explains_each_of_them():
    """diagrams/README.md has a line for every file beside it, and there is one for every format."""
    page = (ROOT / "diagrams/README.md").read_text()
    there = {path.name for path in (ROOT / "diagrams").iterdir()} - {"README.md"}
    assert there == set(GENERATED)
    assert {name for name in there if f"| [{name}]({name}) |" not in page} == set()
    assert len([name for name in there if name.startswith("machine.")]) == len(RENDERERS)


def test_a_page_that_lost_its_markers_is_not_called_right(tmp_path):
    """A page without a marked block cannot be kept in step, so the check says so instead of passing."""
    (tmp_path / "README.md").write_text("# hubstate\n")
    checked = copies("--check", "--root", str(tmp_path))
    assert checked.returncode == 1
    assert "README.md holds no block" in checked.stderr


def test_the_page_about_the_machine_explains_every_word_of_the_table():
    """docs/machine.md has a line for each state and each guard that the table names."""
    page = (ROOT / "docs/machine.md").read_text()
    prose = re.sub(r"<!-- machine: .*?<!-- /machine -->", "", page, flags=re.DOTALL)
    words = {state.value for state in State} | {guard.name for rule in TABLE for guard in rule.guards}
    assert {word for word in words if f"| `{word}` |" not in prose} == set()
