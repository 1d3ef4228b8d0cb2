"""Writes the committed copies of the machine: the files in `diagrams/` and the marked blocks in Markdown pages.

    python scripts/diagrams.py            writes what differs, and names it
    python scripts/diagrams.py --check    writes nothing; exit code 1 if a copy differs

A block stands between `<!-- machine: FORMAT -->` and `<!-- /machine -->`, FORMAT being one that
`hubstate.diagram` knows. What is between the markers belongs to this script.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from hubstate.diagram import render

#: The whole files, and the format of each.
FILES = {"diagrams/machine.mmd": "mermaid", "diagrams/machine.md": "markdown"}
#: The pages that hold marked blocks.
PAGES = ("README.md", "docs/machine.md")

_BLOCK = re.compile(r"(<!-- machine: (\w+) -->\n).*?(<!-- /machine -->)", re.DOTALL)


def _filled(block: re.Match[str]) -> str:
    start, form, end = block.groups()
    text = render(form)
    if form == "mermaid":
        text = f"```mermaid\n{text}```\n"
    return f"{start}{text}{end}"


def stale(root: Path) -> Iterator[tuple[Path, str]]:
    """Each copy below `root` that is not what the table says, and the text that it should have."""
    for name, form in FILES.items():
        path, text = root / name, render(form)
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            yield path, text
    for name in PAGES:
        path = root / name
        page = path.read_text(encoding="utf-8")
        text, blocks = _BLOCK.subn(_filled, page)
        if not blocks:
            sys.exit(f"{path} holds no block `<!-- machine: FORMAT -->` ... `<!-- /machine -->`")
        if text != page:
            yield path, text


def main() -> int:
    """Writes or checks, and tells the exit code."""
    parser = argparse.ArgumentParser(description="Writes the committed copies of the machine.")
    parser.add_argument("--check", action="store_true", help="write nothing, only tell what differs")
    parser.add_argument("--root", type=Path, default=Path(__file__).parent.parent, help="the checkout")
    given = parser.parse_args()
    differing = list(stale(given.root))
    for path, text in differing:
        name = path.relative_to(given.root)
        if given.check:
            print(f"{name} is not what the table says; run: python scripts/diagrams.py")
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(f"written: {name}")
    return 1 if given.check and differing else 0


if __name__ == "__main__":
    sys.exit(main())
