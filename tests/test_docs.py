"""The pages hold: every Python block of the documents runs, each in a directory of its own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)

#: Pages (or folders of them) whose Python blocks cannot run here and alone, and what holds them instead.
NOT_ALONE = {
    "README.md": "tests/typing checks its example",
    "docs/trainers/": "they train with trainers that are not installed here: tests/trainers/real runs them",
}


def blocks() -> list[tuple[str, str]]:
    """Every block with the page and line where it stands."""
    found = []
    for page in sorted([ROOT / "README.md", *(ROOT / "docs").glob("**/*.md")]):
        name = page.relative_to(ROOT).as_posix()
        if name.startswith(tuple(NOT_ALONE)):
            continue
        text = page.read_text(encoding="utf-8")
        for match in _BLOCK.finditer(text):
            line = text.count("\n", 0, match.start(1)) + 1
            found.append((f"{name}:{line}", "\n" * (line - 1) + match.group(1)))
    return found


@pytest.mark.parametrize(("place", "code"), blocks(), ids=[place for place, _ in blocks()])
def test_a_block_of_a_page_runs(place: str, code: str) -> None:
    """What a page shows works as it stands there."""
    exec(compile(code, place, "exec"), {"__name__": "__main__"})


def test_the_pages_that_are_left_out_exist() -> None:
    """A page that is left out still holds a block; else it has no place in the list."""
    for name in NOT_ALONE:
        pages = (ROOT / name).glob("*.md") if name.endswith("/") else [ROOT / name]
        assert [page for page in pages if _BLOCK.search(page.read_text(encoding="utf-8"))]
