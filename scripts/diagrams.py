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

from hubstate.diagram import Taken, render

#: The whole files, and the format of each.
FILES = {
    "diagrams/machine.svg": "svg",
    "diagrams/machine.mmd": "mermaid",
    "diagrams/machine.dot": "dot",
    "diagrams/machine.md": "markdown",
    "diagrams/machine.json": "json",
}
#: The way of a session, as an example: training goes on, twelve epochs are over, one call came out of turn.
EXAMPLE = "diagrams/session.svg"
STEPS = (
    Taken("idle", "pretrain_routine_start", "session_created", {"may_open": True}),
    Taken("session_created", "pretrain_routine_end", "timing"),
    Taken("timing", "train_start", "training"),
    Taken("training", "pretrain_routine_end", "training", illegal=True),
    *[Taken("training", "fit_epoch_end", "training", {"metrics_due": True})] * 9,
    *[Taken("training", "fit_epoch_end", "training", {"metrics_due": False})] * 3,
    Taken("training", "model_save", "training", {"keep_due": True, "checkpoint_due": True}),
    *[Taken("training", "model_save", "training", {"keep_due": True, "checkpoint_due": False})] * 4,
    *[Taken("training", "model_save", "training", {"keep_due": False}, held=True)] * 7,
    *[
        Taken(
            "training", "tick", "training", {"metrics_due": True, "rows_wait": True, "checkpoint_due": False}
        )
    ]
    * 3,
    *[Taken("training", "delivered", "training")] * 14,
)
#: The pages that hold marked blocks.
PAGES = ("README.md", "docs/machine.md")

_BLOCK = re.compile(r"(<!-- machine: (\w+) -->\n).*?(<!-- /machine -->)", re.DOTALL)


def _filled(block: re.Match[str]) -> str:
    start, form, end = block.groups()
    text = render(form)
    if form == "mermaid":
        text = f"```mermaid\n{text}```\n"
    return f"{start}{text}{end}"


def files() -> Iterator[tuple[str, str]]:
    """Each whole file, and its text."""
    yield from ((name, render(form)) for name, form in FILES.items())
    yield EXAMPLE, render("svg", STEPS, title="digits")


def stale(root: Path) -> Iterator[tuple[Path, str]]:
    """Each copy below `root` that is not what the table says, and the text that it should have."""
    for name, text in files():
        path = root / name
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
