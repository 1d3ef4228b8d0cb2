"""Names as MLflow takes them: each is taken, each can be read back, and no two become one."""

from __future__ import annotations

import posixpath
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hubstate.hubs.mlflow_names import AXES, LONGEST, readable, taken

#: What any MLflow server takes, an old one and one on Windows too.
FINE = re.compile(r"[/\w.\- ]*\Z")
NAMES = st.one_of(
    st.text(max_size=40),
    st.text("ab(B)-./ _%é:\n", max_size=14),
    st.lists(st.sampled_from(["step/", "final/", "hubstate", "--", "-", ".", "(B)", "/", "x", " "]), max_size=8).map("".join),
)  # fmt: skip


def is_taken(name: str) -> bool:
    """Whether MLflow takes a name, by its own rules."""
    norm = posixpath.normpath(name)
    return (
        FINE.match(name) is not None
        and norm == name
        and norm != "."
        and not norm.startswith(("..", "/"))
        and len(name) <= LONGEST
    )


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("train/loss", "train/loss"),
        ("metrics/mAP50(B)", "metrics/mAP50--B--"),
        ("metrics/mAP50-95(B)", "metrics/mAP50-95--B--"),
        ("mAP(50)-95", "mAP--50---95"),
        ("a-(B)", "a--.2d----B--"),
        ("50%", "50--.25--"),
        ("a--b", "a--.2d_2d--b"),
        ("a//b", "a/--.2f--b"),
        ("step/x", "--.73--tep/x"),
        ("hubstate.x", "--.68--ubstate.x"),
        ("", "--.--"),
        ("Genauigkeit größer", "Genauigkeit größer"),
    ],
)
def test_names_as_people_see_them(name: str, told: str) -> None:
    """What MLflow takes stays as it is; a word in parentheses stays readable."""
    assert taken(name) == told


@given(NAMES)
@example("x" * LONGEST)
@example("(" * 40)
def test_every_name_is_taken_and_can_be_read_back(name: str) -> None:
    """Any text has a name that MLflow takes, out of which comes the text again; so no two texts have one name."""
    told = taken(name)
    assert is_taken(told)
    assert readable(told) == name
    assert not told.startswith((*AXES, "hubstate"))


def test_a_mark_of_no_letter_stays_as_it_is() -> None:
    """Somebody else's name, which looks like one with a mark and tells of no letter, is read as it is."""
    assert readable("a--.ffffffffff--b") == "a--.ffffffffff--b"


@given(st.text("x(/.- é", min_size=LONGEST + 1, max_size=LONGEST + 80))
def test_a_name_that_is_too_long_is_cut_and_still_its_own(name: str) -> None:
    """A long name is cut to one that MLflow takes, which says that it was, and which another long name does not get."""
    told = taken(name)
    assert is_taken(told)
    assert readable(told) is None
    assert told != taken(f"{name}!")
    assert all(is_taken(axis + told[: LONGEST - len(axis)].rstrip("/. ")) for axis in AXES)
