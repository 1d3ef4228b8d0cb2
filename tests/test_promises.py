"""docs/promises.md and the marks of the tests say the same: which promises there are, and which tests hold each."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "promises.md"
#: How many promises of each letter there are; an id is never given away again.
COUNTS = {"D": 31, "P": 17, "C": 16}
_ENTRY = re.compile(r"^### ([A-Z]\d+)$\n(.*?)(?=^#|\Z)", re.DOTALL | re.MULTILINE)
_TEST = re.compile(r"^- `([\w/]+\.py::\w+)`$", re.MULTILINE)


def told() -> dict[str, list[str]]:
    """The page: the tests that it names for each id."""
    entries = [(name, _TEST.findall(text)) for name, text in _ENTRY.findall(PAGE.read_text(encoding="utf-8"))]
    assert len(entries) == len(dict(entries)), "an id stands on the page twice"
    return dict(entries)


def marks(source: str, name: str) -> Iterator[tuple[str, str]]:
    """The ids that the tests of a file carry, each with its test."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            for mark in node.decorator_list:
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.promise":
                    assert mark.args, f"{name}::{node.name} is marked with no promise"
                    assert not mark.keywords
                    assert node.name.startswith("test_"), f"{name}::{node.name} is no test"
                    for given in mark.args:
                        yield ast.literal_eval(given), f"{name}::{node.name}"


def carried() -> dict[str, list[str]]:
    """The marks: the tests that carry each id."""
    found: dict[str, list[str]] = {}
    for path in sorted(TESTS.rglob("test_*.py")):
        for promise, test in marks(path.read_text(encoding="utf-8"), path.relative_to(TESTS).as_posix()):
            found.setdefault(promise, []).append(test)
    return found


def test_every_promise_is_on_the_page_in_its_order():
    """No id is left out, and none is new without a promise."""
    assert list(told()) == [f"{letter}{n}" for letter, count in COUNTS.items() for n in range(1, count + 1)]


def test_every_promise_is_held_by_the_tests_that_the_page_names():
    """Each id is carried by a test, and the page names all that carry it and no other."""
    page = told()
    assert [promise for promise, tests in page.items() if not tests] == []
    assert {promise: sorted(tests) for promise, tests in page.items()} == {
        promise: sorted(tests) for promise, tests in carried().items()
    }


def test_every_promise_says_what_goes_wrong_and_what_is_promised():
    """An entry tells both in a sentence, before the tests."""
    for promise, text in _ENTRY.findall(PAGE.read_text(encoding="utf-8")):
        assert re.match(r"Elsewhere: \S.*?\.\n\n\*\*Here:\*\* \S.*?\.\n\n- ", text, re.DOTALL), promise


@pytest.mark.parametrize(
    "source",
    [
        "@pytest.mark.promise()\ndef test_a(): pass",
        "@pytest.mark.promise('D1')\ndef helper(): pass",
        "@pytest.mark.promise(id='D1')\ndef test_a(): pass",
    ],
)
def test_a_mark_that_holds_nothing_is_found(source: str):
    """A mark without an id, on no test, or in another form is a mistake and not silence."""
    with pytest.raises(AssertionError):
        list(marks(source, "test_x.py"))
