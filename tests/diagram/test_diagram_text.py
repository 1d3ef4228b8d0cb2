"""What is drawn as text (Markdown, Mermaid, DOT, JSON) shows the table, all of it, and nothing else."""

from __future__ import annotations

import html
import json
import re

import pytest
from walks import WALKS

from hubstate.actions import Action, OpenSession, SendRows
from hubstate.diagram import RENDERERS, render, rows
from hubstate.diagram.words import events_in_short
from hubstate.errors import UsageError
from hubstate.events import TRAINER_EVENTS, Abort, GiveUp, Tick, TrainEnd, TrainStart, name_of
from hubstate.limits import Guard
from hubstate.machine import TABLE, Rule
from hubstate.states import LIVE_STATES, TERMINAL_STATES, State

ANY_TRAINER_EVENT = tuple(name_of(event) for event in TRAINER_EVENTS)

#: The names that the pictures give to groups of states.
GROUPS = {
    "any state": set(State),
    "any state but idle": set(State) - {State.IDLE},
    "live states": set(LIVE_STATES),
    "terminal states": set(TERMINAL_STATES),
}


def states_of(text: str) -> set[State]:
    """The states that a picture means by `text`."""
    return GROUPS.get(text) or {State(name) for name in text.split(", ")}


def kinds(rule: Rule) -> tuple[str, ...]:
    """The names of a rule's actions, as pictures write them."""
    return tuple("the refused ones" if kind is Action else kind.__name__ for kind in rule.actions)


def names(text: str) -> tuple[str, ...]:
    """What stands between backticks, in order."""
    return tuple(re.findall(r"`([^`]+)`", text))


def split(label: str) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Reads `event, event [guard and guard] / Action, Action` back: events, guards, actions."""
    found = re.fullmatch(r"([\w, ]+?)(?: \[([\w ]+)\])?(?: / (.+))?", label)
    assert found, label
    events, guards, actions = found.groups(default="")
    return (
        ANY_TRAINER_EVENT if events == "any trainer event" else tuple(events.split(", ")),
        tuple(guards.split(" and ")) if guards not in ("", "otherwise") else (),
        tuple(actions.split(", ")) if actions not in ("", "held back") else (),
    )


def inside(state: str, lines: list[str], notes: set[str]) -> list[tuple]:
    """Reads what stands in a state back: events on a line of their own, and below each of them its rows."""
    read = []
    events = ""
    for line in lines:
        if found := re.fullmatch(r"<i>(.+)</i>", line):
            events = found[1]
            continue
        for note in notes:
            line = line.removesuffix(f" {note}")  # noqa: PLW2901
        read.append(({State(state)}, None, *split(f"{events} {line}")))
    return read


NOTES = {rule.note.replace(";", ",") for rule in TABLE if rule.note} | {
    rule.note for rule in TABLE if rule.note
}


def one_rule(**changes: object) -> tuple[Rule, ...]:
    """A table of one rule."""
    fields = {"sources": (State.TRAINING,), "events": (Tick,), "guards": (), "target": None}
    return (Rule(**(fields | changes)),)


def draw(form: str, *rules: Rule) -> str:
    """Draws another table than the real one."""
    return RENDERERS[form](rows(rules), None)


def test_every_rule_stands_in_the_markdown_table_in_order():
    """The table in Markdown, read back, is `machine.TABLE`: states, events, guards, target, actions, journal, note."""
    head, _rule, *lines = render("markdown").splitlines()
    assert head == "| from | event | guard | to | actions | journalled | note |"
    read = []
    for line in lines:
        sources, events, guards, target, actions, written, note = (
            cell.strip() for cell in line.strip("|").split("|")
        )
        read.append(
            (
                states_of(sources),
                names(events),
                names(guards),
                None if target == "stays" else State(*names(target)),
                () if actions in ("none", "held back") else tuple(actions.split(", ")),
                actions == "held back",
                written == "yes",
                note,
            )
        )
    assert read == [
        (
            set(rule.sources),
            tuple(name_of(event) for event in rule.events),
            tuple(guard.name for guard in rule.guards),
            rule.target,
            kinds(rule),
            rule.held,
            rule.written,
            rule.note,
        )
        for rule in TABLE
    ]


EXPECTED = [
    (
        set(rule.sources),
        rule.target,
        tuple(name_of(event) for event in rule.events),
        tuple(guard.name for guard in rule.guards),
        kinds(rule),
    )
    for rule in TABLE
]


def test_every_rule_stands_in_the_mermaid_diagram_once():
    """The state diagram, read back, holds each rule exactly once: as an arrow, inside its state, or in the note."""
    text = render("mermaid")
    frames = {name: states_of(title) for title, name in re.findall(r'state "(.+)" as (\w+) \{', text)}
    read = []
    for source, target, label in re.findall(r"^ +(\w+) --> (\w+) : (.+)$", text, re.MULTILINE):
        read.append((frames.get(source) or {State(source)}, State(target), *split(label)))
    for source, name, rest in re.findall(r"^    (\w+) : <b>(\w+)</b>(.*)$", text, re.MULTILINE):
        assert source == name
        read += inside(source, rest.split("<br/>")[1:], NOTES)
    (note,) = re.findall(r"^    note right of idle\n(.+?)\n    end note$", text, re.MULTILINE | re.DOTALL)
    group = ""
    for line in map(str.strip, note.splitlines()):
        if found := re.fullmatch(r"<b>(.+)</b>", line):
            group = found[1]
        else:
            read.append((states_of(group), None, *split(line)))
    assert sorted(map(repr_of, read)) == sorted(map(repr_of, EXPECTED))


def test_every_rule_stands_in_the_dot_diagram_once():
    """The digraph, read back, holds each rule exactly once: as an arrow, inside its state, or in the note."""
    text = html.unescape(render("dot")).replace("\xa0", "")
    joined: dict[str, set[State]] = {}
    read = []
    for source, target, looks in re.findall(r"^  (\w+) -> (\w+) \[(.+)\];$", text, re.MULTILINE):
        if target.startswith("join_"):
            joined.setdefault(target, set()).add(State(source))
        elif told := re.search(r"label=<(.+?)<br align=\"left\"/>>", looks):
            label = told[1].replace('<br align="left"/>', " ")
            read.append((joined.get(source) or {State(source)}, State(target), *split(label)))
    for state, cells in re.findall(r"^  (\w+) \[.*label=<<table.*?>(.+)</table>>\];$", text, re.MULTILINE):
        lines = re.findall(r"<td align=\"left\">(.+?)</td>", cells)
        if state != "shared":
            read += inside(state, lines, NOTES)
            continue
        for line in lines:
            if found := re.fullmatch(r"<b>(.+)</b>", line):
                group = found[1]
            else:
                read.append((states_of(group), None, *split(line)))
    assert sorted(map(repr_of, read)) == sorted(map(repr_of, EXPECTED))


def test_the_json_is_the_table():
    """The JSON, read back, is `machine.TABLE` in its order, every field of it, and every state with its kind."""
    told = json.loads(render("json"))
    assert told.keys() == {"states", "rows"}
    assert told["states"] == [
        {"name": state.value, "live": state in LIVE_STATES, "terminal": state in TERMINAL_STATES}
        for state in State
    ]
    assert told["rows"] == [
        {
            "number": number,
            "from": [state.value for state in rule.sources],
            "events": [name_of(event) for event in rule.events],
            "guards": [guard.name for guard in rule.guards],
            "otherwise": row.otherwise,
            "to": rule.target.value if rule.target else None,
            "actions": list(kinds(rule)),
            "held": rule.held,
            "journalled": rule.written,
            "note": rule.note,
        }
        for number, (rule, row) in enumerate(zip(TABLE, rows(), strict=True), 1)
    ]


def repr_of(row: tuple) -> str:
    """A row as a text that does not depend on the order in a set."""
    sources, *rest = row
    return repr((sorted(state.value for state in sources), *rest))


def test_the_mermaid_diagram_begins_idle_and_ends_in_every_terminal_state():
    """The diagram shows where a session begins, and that it may end in `done` and in `aborted` only."""
    text = render("mermaid")
    assert re.findall(r"\[\*\] --> (\w+)$", text, re.MULTILINE) == ["idle"]
    assert {State(name) for name in re.findall(r"(\w+) --> \[\*\]$", text, re.MULTILINE)} == TERMINAL_STATES


def test_an_abort_is_one_arrow():
    """States that are left together are framed, so that their common way out is drawn once."""
    assert re.findall(r"(\S+) --> aborted : abort ", render("mermaid")) == [
        "from_session_created_to_training"
    ]


def test_a_state_is_framed_once_and_other_groups_get_an_arrow_from_each_state():
    """A state may be left in two groups: the first one is framed, the other keeps one arrow from each state."""
    first = one_rule(sources=(State.IDLE, State.TIMING), events=(Abort,), target=State.ABORTED)
    other = one_rule(sources=(State.TIMING, State.TRAINING), events=(TrainEnd,), target=State.DONE)
    text = draw("mermaid", *first, *other)
    assert re.findall(r"(\w+) --> aborted", text) == ["from_idle_to_timing"]
    assert re.findall(r"(\w+) --> done", text) == ["timing", "training"]


@pytest.mark.parametrize("name", GROUPS)
def test_a_group_of_states_has_one_name(name):
    """Rows of several states name the group that they mean, with its own word where it has one."""
    sources = tuple(state for state in State if state in GROUPS[name])
    assert f"| {name} | `tick` |" in draw("markdown", *one_rule(sources=sources))


def test_states_without_a_common_name_are_listed():
    """A group that has no word of its own is listed state by state, in the order of a run."""
    rule = one_rule(sources=(State.TIMING, State.TRAINING))
    assert "| timing, training | `tick` |" in draw("markdown", *rule)


def test_otherwise_marks_a_rule_that_is_asked_after_another_of_its_pair():
    """A rule without guards says "otherwise" only if an earlier rule has a state and an event in common with it."""
    guard = Guard("sunny", lambda _memory, _event: True, lambda _memory, _event: "it rains")
    guarded = one_rule(guards=(guard,), actions=(SendRows,))
    text = draw(
        "markdown",
        *guarded,
        *one_rule(),
        *one_rule(sources=(State.TIMING,)),
        *one_rule(events=(TrainStart,)),
    )
    cells = [line.split(" | ")[2] for line in text.splitlines()[2:]]
    assert cells == ["`sunny`", "otherwise", "", ""]


def test_a_move_and_a_stay_are_told_apart():
    """A rule without a target is never drawn as an arrow, and one that leads back to its own state always is."""
    stay = one_rule(events=(GiveUp,), actions=(OpenSession,))
    assert "training --> training" not in draw("mermaid", *stay)
    loop = one_rule(events=(GiveUp,), target=State.TRAINING)
    assert "training --> training : give_up" in draw("mermaid", *loop)


@pytest.mark.parametrize("form", RENDERERS)
@pytest.mark.parametrize("walk", WALKS)
def test_the_same_table_gives_the_same_text(form, walk):
    """A format is deterministic and ends its last line, so that copies of it can be compared and committed."""
    assert render(form, WALKS[walk]) == render(form, WALKS[walk])
    assert render(form, WALKS[walk]).endswith("\n")


def test_rows_keep_the_order_of_the_table():
    """The first rule whose guards hold is taken, so every format must be able to show the order."""
    assert [row.events for row in rows()] == [
        tuple(name_of(event) for event in rule.events) for rule in TABLE
    ]


def test_an_unknown_format_names_the_known_ones():
    """Whoever asks for a format that does not exist reads which ones do."""
    with pytest.raises(UsageError, match=r"'png'; known formats: svg, mermaid, dot, markdown, json"):
        render("png")


def test_all_events_of_a_trainer_have_one_name():
    """Only the whole list of a trainer's events is shortened; a part of it is told name by name."""
    assert events_in_short(ANY_TRAINER_EVENT) == "any trainer event"
    assert events_in_short(ANY_TRAINER_EVENT[:2]) == "pretrain_routine_start, pretrain_routine_end"


def test_the_markdown_of_a_session_counts_and_names():
    """With a session the table has a column of counts, and the states tell where it is and what went wrong."""
    text = render("markdown", WALKS["refused"], title="a_b | c")
    assert text.startswith("**a\\_b \\| c**\n\n| from |")
    assert re.search(r"^\| any state but idle \| `retry_refused` .* \| 1 \|$", text, re.MULTILINE)
    assert re.search(r"^\| any state \| `delivered`, .* \| 5 \|$", text, re.MULTILINE)
    assert "| `training` | visited | `pretrain_routine_start` ×2, `give_up` ×1 | 3 |" in text
    assert "| `finalizing` | now |  | 2 |" in text
    assert "| `done` |  |  |  |" in text
    assert "does not explain" not in text
    assert "Steps that this table does not explain: 7" in render("markdown", WALKS["crowded"])


def test_the_json_of_a_session_counts_by_state():
    """With a session each row tells how often it was taken from which state, and each state what happened there."""
    told = json.loads(render("json", WALKS["refused"], title="digits"))
    assert told["session"] == {"title": "digits", "current": "finalizing", "foreign": 0}
    states = {state["name"]: state for state in told["states"]}
    assert states["training"] | {"name": "", "live": 0, "terminal": 0} == {
        "name": "",
        "live": 0,
        "terminal": 0,
        "visited": True,
        "current": False,
        "illegal": {"pretrain_routine_start": 2, "give_up": 1},
        "held": 0,
        "refused": 3,
    }
    (remembered,) = (row for row in told["rows"] if "held_up" in row["events"])
    assert remembered["taken"] == {"training": 3, "finalizing": 2}


@pytest.mark.parametrize(
    ("state", "looks"), [("idle", "visited"), ("finalizing", "now"), ("done", "unvisited")]
)
def test_the_mermaid_of_a_session_colours_the_states(state, looks):
    """With a session each state has one class: now, visited or unvisited."""
    assert re.findall(rf"^    class {state} (\w+)$", render("mermaid", WALKS["refused"]), re.MULTILINE) == [
        looks
    ]


@pytest.mark.parametrize("form", ["mermaid", "dot"])
def test_counts_and_mistakes_stand_beside_what_they_count(form):
    """With a session each row that was taken tells how often, and each state what went wrong in it."""
    text = re.sub(r"</?(b|font)[^>]*>", "", render(form, WALKS["refused"]))
    assert re.search(r"retry_refused \[refused_exist\] / the refused ones ×1\b", text)
    assert "illegal: pretrain_routine_start ×2, give_up ×1" in text
    assert "refused by the hub ×3" in text


def test_what_a_name_holds_stays_a_name():
    """A session's name is shown as it is: no format takes a part of it for its own language."""
    name = 'a <b>&"\n}\x00--> end'
    assert "&lt;b&gt;&amp;" in render("dot", [], title=name)
    assert "&lt;b&gt;&amp;" in render("svg", [], title=name)
    assert render("mermaid", [], title=name).splitlines()[0] == '%% a <b>&" }\N{REPLACEMENT CHARACTER}--> end'
    assert json.loads(render("json", [], title=name))["session"]["title"] == name


def test_a_name_steers_neither_a_terminal_nor_a_renderer():
    """What would colour a terminal is marked, and what Mermaid would obey is broken up, whoever named the session."""
    title = '\x1b[31m%%{init: {"theme":"dark"}}%%'
    for form in RENDERERS:
        drawn = render(form, [], title=title)
        assert "\x1b" not in drawn, form
    first, second, *_ = render("mermaid", [], title=title).splitlines()
    assert first.startswith("%% ")
    assert "%%{" not in first
    assert second.startswith("%%{init")
