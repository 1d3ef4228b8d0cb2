"""The machine as SVG: it says what the table says, nothing lies on anything else, and a page can colour it."""

from __future__ import annotations

import re
from itertools import pairwise
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import NAMESPACE, Box, boxes, crossing, group, groups, overlapping, segments, words_in
from walks import WALKS

from hubstate.actions import SendRows
from hubstate.diagram import render, render_svg, rows, svg, way_of
from hubstate.diagram.measure import Span, width, wrap
from hubstate.diagram.words import Row, alternatives, condition, effect, events_in_short, group_name
from hubstate.events import EVENTS
from hubstate.limits import checkpoint_due, heartbeat_due, metrics_due
from hubstate.machine import Rule
from hubstate.plain import clean
from hubstate.states import LIVE_STATES, TERMINAL_STATES, State

TITLE = "a_run_whose_name_is_as_long_as_names_get_" * 6


def picture(walk: str = "machine") -> ET.Element:
    """The picture of a walk, parsed."""
    return ET.fromstring(render("svg", WALKS[walk], title=TITLE))


def clause(row: Row) -> str:
    """A row in a card, without its event."""
    idle = not row.target and not row.actions and not row.held
    told = (condition(row), row.target and f"→ {row.target}", effect(row), row.note if idle else "")
    return " ".join(filter(None, told))


def told(some: tuple[Row, ...]) -> list[str]:
    """What a card says of some rows, in order."""
    return [
        part
        for events, same in alternatives(some)
        for part in (events_in_short(events), *(clause(row) for row in same))
    ]


# -- what it says ----------------------------------------------------------------------------------------


def test_it_is_one_picture_that_tells_what_it_is():
    """The SVG is well-formed, an image for those who cannot see it, with a title and a description of every move."""
    root = picture()
    assert root.tag == f"{NAMESPACE}svg"
    assert root.get("role") == "img"
    named = {one.get("id"): one.text or "" for one in root[:2]}
    assert list(named) == root.get("aria-labelledby", "").split()
    for row in rows():
        if row.target:
            assert f"to {row.target}: {', '.join(row.events)}" in named["machine-description"]


def test_every_state_is_one_group():
    """Each state is exactly one group with a stable id, its name, and its kind among its classes."""
    found = {one.get("id"): one.get("class", "").split() for one in groups(picture(), "state")}
    assert found == {
        f"state-{state.value}": [
            "state",
            state.value,
            *["live"] * (state in LIVE_STATES),
            *["terminal"] * (state in TERMINAL_STATES),
        ]
        for state in State
    }


def test_terminal_states_have_a_double_border():
    """`done` and `aborted` have a second outline around the first, and no other state has."""
    root = picture()
    for state in State:
        found = {box.what: box for box in boxes(group(root, state.value), "rect")}
        assert ("ring" in found) == (state in TERMINAL_STATES)
        if "ring" in found:
            assert found["ring"].holds(found["box"])
            assert not found["box"].holds(found["ring"])


def test_every_row_stands_in_the_picture_once():
    """Rows that stay are in the card of their state or in the panel, moves at their arrow; nothing else is written."""
    root = picture()
    table = rows()
    for state in State:
        own = tuple(row for row in table if row.target is None and row.sources == (state.value,))
        assert words_in(group(root, state.value)) == " ".join([state.value, *told(own)])
    moves = [words_in(one) for one in groups(root, "move")]
    expected = [f"{', '.join(row.events)} {clause(row._replace(target=None))}" for row in table if row.target]
    plain = [f"{', '.join(row.events)} {condition(row)} {effect(row)}".split() for row in table if row.target]
    assert len(expected) == len(plain)
    assert sorted(words.split() for words in moves if words) == sorted(plain)
    (panel,) = groups(root, "shared")
    stays = [row for row in table if row.target is None and len(row.sources) > 1]
    by_group = dict.fromkeys(row.sources for row in stays)
    assert words_in(panel) == " ".join(
        word
        for sources in by_group
        for word in (group_name(sources), *told(tuple(row for row in stays if row.sources == sources)))
    )


def test_the_spine_is_straight():
    """The states of a run to its end stand under each other on one axis, in the order of the run."""
    root = picture()
    spine = [boxes(group(root, state.value), "rect")[-1] for state in State if state is not State.ABORTED]
    assert len({(box.left + box.right) / 2 for box in spine}) == 1
    assert all(upper.bottom < lower.top for upper, lower in pairwise(spine))


def test_there_is_one_bus_to_aborted():
    """The ways out of the three states before the end join one line with one head."""
    (bus,) = (one for one in groups(picture(), "bus") if words_in(one).startswith("abort "))
    assert len([path for path in bus.iter() if "head" in path.get("class", "").split()]) == 1
    upright = {line.left for line in segments(bus) if line.left == line.right}
    drops = [line for line in segments(bus) if line.top == line.bottom]
    assert len(upright) == 1
    assert {line.right for line in drops} == upright
    assert len(drops) == 3


# -- where it stands -------------------------------------------------------------------------------------


def check_layout(root: ET.Element) -> None:
    """Nothing lies on anything else, and everything lies in the picture."""
    words = boxes(root, "text")
    assert overlapping(words) == []
    states = [max(boxes(one, "rect"), key=lambda box: box.bottom) for one in groups(root, "state")]
    panels = [box for one in groups(root, "shared") for box in boxes(one, "rect")]
    assert overlapping(states + panels) == []
    for one in [*groups(root, "state"), *groups(root, "shared")]:
        if one.get("id") or one.get("class") == "shared":
            box = boxes(one, "rect")[-1]
            assert [text.what for text in boxes(one, "text") if not box.holds(text)] == []
    moves = groups(root, "move")
    beside = [text for move in moves for text in boxes(move, "text")]
    assert overlapping([*states, *panels]) == []
    assert [(a.what, b.what) for a in beside for b in states + panels if a.meets(b)] == []
    lines = [line for move in moves for line in segments(move)]
    assert crossing(lines, words) == []
    assert crossing(lines, states + panels) == []
    everything = Box("picture", 0, 0, float(root.get("width", "")), float(root.get("height", "")))
    assert [box.what for box in words + states + panels + lines if not everything.holds(box)] == []


@pytest.mark.parametrize("walk", WALKS)
def test_nothing_lies_on_anything_else(walk):
    """No words overlap, none leave their box, no arrow runs through words or boxes: whatever a session brings."""
    check_layout(picture(walk))


def test_a_page_has_room_for_it():
    """The machine is not wider than a page of text, so that it is read at its full size."""
    assert float(picture().get("width", "")) <= 840


GUARDS = (metrics_due, checkpoint_due, heartbeat_due)
RULES = st.builds(
    Rule,
    sources=st.lists(st.sampled_from(State), min_size=1, max_size=4, unique=True).map(tuple),
    events=st.lists(st.sampled_from(EVENTS), min_size=1, max_size=4, unique=True).map(tuple),
    guards=st.lists(st.sampled_from(GUARDS), max_size=3, unique=True).map(tuple),
    target=st.none() | st.sampled_from(State),
    actions=st.sampled_from([(), (SendRows,), (SendRows,) * 4]),
    note=st.sampled_from(["", "a note; it goes on for a while"]),
)


@settings(deadline=None)
@given(st.lists(RULES, max_size=10))
def test_any_table_is_drawn_whole(table):
    """A table of any shape is drawn with every row in it, and still nothing lies on anything else."""
    told_rows = rows(table)
    root = ET.fromstring(svg.draw(told_rows, None))
    check_layout(root)
    words = words_in(root).replace(" ", "")
    for row in told_rows:
        assert events_in_short(row.events).replace(" ", "") in words
        assert any(
            told.replace(" ", "") in words for told in (f"{condition(row)} {effect(row)}", clause(row))
        )


# -- how a page colours it -------------------------------------------------------------------------------


@pytest.mark.parametrize("walk", [name for name, steps in WALKS.items() if steps is not None])
def test_a_session_colours_the_states(walk):
    """Visited and unvisited states are told apart by class, and exactly one state is the current one."""
    steps = WALKS[walk] or []
    way = way_of(steps, rows())
    named = [one for one in groups(picture(walk), "state") if one.get("id")]
    classes = {one.get("id", "").removeprefix("state-"): one.get("class", "").split() for one in named}
    assert {name for name, found in classes.items() if "visited" in found} == way.visited
    assert {name for name, found in classes.items() if "unvisited" in found} == set(classes) - way.visited
    assert [name for name, found in classes.items() if "current" in found] == [way.current]


def test_a_session_counts_its_rows():
    """Beside each row that was taken stands how often, and beside no other."""
    root = picture("training")
    assert re.findall(r"×\d+", words_in(group(root, "training"))) == ["×12", "×3", "×1", "×2", "×9", "×4"]
    (panel,) = groups(root, "shared")
    assert re.findall(r"×\d+", words_in(panel)) == ["×14"]
    counts = [re.findall(r"×\d+", words_in(one)) for one in groups(root, "move")]
    assert counts == [[], ["×1"], ["×1"], ["×1"], [], [], [], []]


def test_a_session_shows_what_went_wrong_where():
    """Illegal events and refused deliveries stand in the state in which they came."""
    root = picture("refused")
    training = words_in(group(root, "training"))
    assert "illegal: pretrain_routine_start ×2, give_up ×1" in training
    assert "refused by the hub ×3" in training
    assert words_in(group(root, "finalizing")) == "finalizing refused by the hub ×2"
    assert "Steps that this table does not explain: 7" in words_in(picture("crowded"))


def test_the_bus_shows_which_way_was_taken():
    """Of the ways to `aborted` the one that was taken is marked, from where the session left the spine."""
    (bus,) = (one for one in groups(picture("aborted"), "bus") if words_in(one).startswith("abort "))
    marked = {path.get("d"): path.get("class", "").split()[1] for path in bus.iter(f"{NAMESPACE}path")}
    taken = [line for line, progress in marked.items() if progress == "taken"]
    assert len(taken) == 3  # from training to the bus, down the bus, and its head
    assert len(marked) == 7


def test_without_a_style_it_brings_no_colour():
    """For pages that forbid inline styles: no style element, no style attribute, no colour but that of the text."""
    bare = render_svg(WALKS["refused"], style=False)
    assert "<style" not in bare
    assert "style=" not in bare
    assert "#" not in bare
    paints = {one.get(name) for one in ET.fromstring(bare).iter() for name in ("fill", "stroke")}
    assert paints == {None, "none", "currentColor"}


def test_with_and_without_a_style_it_is_the_same_picture():
    """The style is all that the two forms differ in."""
    whole = render_svg(WALKS["done"], title="digits")
    assert whole == render("svg", WALKS["done"], title="digits")
    assert re.sub(r"<style>.+</style>\n", "", whole, flags=re.DOTALL) == render_svg(
        WALKS["done"], title="digits", style=False
    )


def test_every_class_is_explained():
    """diagrams/README.md and the room itself name every class that a picture uses."""
    used = {
        name
        for walk in WALKS
        for one in picture(walk).iter()
        for name in one.get("class", "").split()
        if name not in {state.value for state in State}
    }
    assert {name for name in used if not re.search(rf"\b{name}\b", svg.__doc__ or "")} == set()


def test_the_style_speaks_of_classes_that_exist():
    """No rule of the style is left over: each class in it is used by some picture."""
    used = {name for walk in WALKS for one in picture(walk).iter() for name in one.get("class", "").split()}
    (style,) = re.findall(r"<style>(.+)</style>", render("svg"), re.DOTALL)
    named = set(re.findall(r"\.([a-z]+)(?=[ .,{])", style))
    assert named - used == set()


# -- words and their widths ------------------------------------------------------------------------------


def test_every_letter_has_a_width():
    """Each letter of plain text is as wide as it is, letters of other scripts and pictures are taken for wide ones."""
    for number in range(32, 127):
        assert 2 <= width(chr(number), 10) <= 10
        assert width(chr(number), 100) <= width(chr(number), 100, bold=True) + 1
    assert width("語", 10) >= 10
    assert width("😀", 10) >= 13
    assert width("e\N{COMBINING ACUTE ACCENT}", 10) == width("e", 10)
    assert width("ab", 13) == width("ba", 13)


@settings(deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=60), st.integers(40, 200))
def test_wrapping_keeps_every_letter_and_every_limit(text, most):
    """Wrapped lines hold the same letters in the same order, and none is wider than allowed."""
    lines = wrap([Span(clean(text), "name")], most, 13)
    assert "".join(span.text for line in lines for span in line).replace(" ", "") == clean(text).replace(
        " ", ""
    )
    for line in lines:
        assert sum(width(span.text, 13) for span in line) <= most + len(line)


def test_a_slash_never_ends_a_line():
    """`/` stays with the action that it begins, wherever a line is broken."""
    spans = [Span("[metrics_due]", "guard"), Span("/ SendRows, SendCheckpoint", "action")]
    for most in range(60, 300, 5):
        lines = wrap(spans, most, 13)
        assert not [line for line in lines if line[-1].text.rstrip().endswith("/")]


def test_what_xml_forbids_is_replaced():
    """Control characters and halves of letters in a name do not break the picture."""
    assert clean("a\x00\ud800b \n\t c") == "a\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}b c"
    ET.fromstring(render("svg", [], title="\x00\x1b[31m\ud800 & <b>"))
