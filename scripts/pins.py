"""Prints the lines of constraints.txt that one extra needs, digests included: python scripts/pins.py EXTRA

constraints.txt holds the whole closure of all extras, and under each pin which packages asked for it ("via"). The
closure of one extra is found by walking those notes. It needs nothing but Python, because it runs before anything
is installed. `scripts/pin` writes constraints.txt.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parent.parent
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def _name(requirement: str) -> str:
    """The normalised name in `Name[extra]>=1 ; marker`."""
    found = _NAME.match(requirement)
    if found is None:
        sys.exit(f"no package name in {requirement!r}")
    return re.sub(r"[-_.]+", "-", found.group()).lower()


def wanted(project: dict[str, Any], extra: str) -> Iterator[str]:
    """The names that the project itself asks for, with `extra`: to run, and to be installed from its sources."""
    extras = project["project"]["optional-dependencies"]
    if extra not in extras:
        sys.exit(f"there is no extra {extra!r}; known: {', '.join(extras)}")
    # The build back end asks for editables when it installs the checkout itself.
    yield from map(
        _name, (*project["project"]["dependencies"], *project["build-system"]["requires"], "editables")
    )
    waiting = [extra]
    while waiting:
        for requirement in extras[waiting.pop()]:
            inner = re.match(r"hubstate\[([\w,]+)\]", requirement)
            if inner:
                waiting += inner.group(1).split(",")
            else:
                yield _name(requirement)


def pins(text: str) -> Iterator[tuple[str, list[str], set[str]]]:
    """Each pin in `text`: its name, its lines with the digests, and the names of the packages that asked for it."""
    for block in re.split(r"\n(?=[A-Za-z0-9])", text.strip()):
        lines = block.splitlines()
        notes = [line.strip(" #") for line in lines if line.lstrip().startswith("#")]
        asked = {_name(note.removeprefix("via").strip()) for note in notes if note != "via"}
        yield _name(block), [line for line in lines if not line.lstrip().startswith("#")], asked


def closure(text: str, names: Iterable[str]) -> Iterator[str]:
    """The lines of `text` that the packages `names` and all that they ask for need."""
    known = list(pins(text))
    needed = set(names)
    missing = needed - {name for name, _lines, _asked in known}
    if missing:
        sys.exit(f"constraints.txt pins no {', '.join(sorted(missing))}; run scripts/pin")
    while more := {name for name, _lines, asked in known if asked & needed} - needed:
        needed |= more
    for name, lines, _asked in known:
        if name in needed:
            yield from lines


def main(extra: str) -> None:
    """Prints the pins of `extra`."""
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    text = (_ROOT / "constraints.txt").read_text(encoding="utf-8")
    print("\n".join(closure(text, wanted(project, extra))))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
