"""The pictures of the machine show the table, all of it, and nothing else."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from hubstate import diagram
from hubstate.actions import Action, OpenSession, SendRows
from hubstate.diagram import RENDERERS, render, rows
from hubstate.errors import UsageError
from hubstate.events import Abort, GiveUp, Tick, TrainEnd, TrainStart, name_of
from hubstate.limits import Guard
from hubstate.machine import TABLE, Rule
from hubstate.states import LIVE_STATES, TERMINAL_STATES, State

ROOT = Path(__file__).parent.parent

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
        tuple(events.split(", ")),
        tuple(guards.split(" and ")) if guards not in ("", "otherwise") else (),
        tuple(actions.split(", ")) if actions not in ("", "held back") else (),
    )


def one_rule(**changes: object) -> tuple[Rule, ...]:
    """A table of one rule."""
    fields = {"sources": (State.TRAINING,), "events": (Tick,), "guards": (), "target": None}
    return (Rule(**(fields | changes)),)


@pytest.fixture
def draw(monkeypatch):
    """Draws another table than the real one."""

    def drawn(form: str, *rules: Rule) -> str:
        monkeypatch.setattr(diagram, "TABLE", rules)
        return render(form)

    return drawn


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


def test_every_rule_stands_in_the_mermaid_diagram_once():
    """The state diagram, read back, holds each rule exactly once: as an arrow, inside its state, or in the note."""
    text = render("mermaid")
    frames = {name: states_of(title) for title, name in re.findall(r'state "(.+)" as (\w+) \{', text)}
    read = []
    for source, target, label in re.findall(r"^ +(\w+) --> (\w+) : (.+)$", text, re.MULTILINE):
        read.append((frames.get(source) or {State(source)}, State(target), *split(label)))
    for source, _name, inside in re.findall(r"^    (\w+) : <b>(\w+)</b>(.*)$", text, re.MULTILINE):
        read += [({State(source)}, None, *split(line)) for line in inside.split("<br/>• ")[1:]]
    for group, label in re.findall(r"^        • ([\w, ]+): (.+)$", text, re.MULTILINE):
        read.append((states_of(group), None, *split(label)))
    expected = [
        (
            set(rule.sources),
            rule.target,
            tuple(name_of(event) for event in rule.events),
            tuple(guard.name for guard in rule.guards),
            kinds(rule),
        )
        for rule in TABLE
    ]
    assert sorted(map(repr_of, read)) == sorted(map(repr_of, expected))


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


def test_a_state_is_framed_once_and_other_groups_get_an_arrow_from_each_state(draw):
    """A state may be left in two groups: the first one is framed, the other keeps one arrow from each state."""
    first = one_rule(sources=(State.IDLE, State.TIMING), events=(Abort,), target=State.ABORTED)
    other = one_rule(sources=(State.TIMING, State.TRAINING), events=(TrainEnd,), target=State.DONE)
    text = draw("mermaid", *first, *other)
    assert re.findall(r"(\w+) --> aborted", text) == ["from_idle_to_timing"]
    assert re.findall(r"(\w+) --> done", text) == ["timing", "training"]


@pytest.mark.parametrize("name", GROUPS)
def test_a_group_of_states_has_one_name(draw, name):
    """Rows of several states name the group that they mean, with its own word where it has one."""
    sources = tuple(state for state in State if state in GROUPS[name])
    assert f"| {name} | `tick` |" in draw("markdown", *one_rule(sources=sources))


def test_states_without_a_common_name_are_listed(draw):
    """A group that has no word of its own is listed state by state, in the order of a run."""
    rule = one_rule(sources=(State.TIMING, State.TRAINING))
    assert "| timing, training | `tick` |" in draw("markdown", *rule)


def test_otherwise_marks_a_rule_that_is_asked_after_another_of_its_pair(draw):
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


def test_a_move_and_a_stay_are_told_apart(draw):
    """A rule without a target is never drawn as an arrow, and one that leads back to its own state always is."""
    stay = one_rule(events=(GiveUp,), actions=(OpenSession,))
    assert "training --> training" not in draw("mermaid", *stay)
    loop = one_rule(events=(GiveUp,), target=State.TRAINING)
    assert "training --> training : give_up" in draw("mermaid", *loop)


@pytest.mark.parametrize("form", RENDERERS)
def test_the_same_table_gives_the_same_text(form):
    """A format is deterministic and ends its last line, so that copies of it can be compared and committed."""
    assert render(form) == render(form)
    assert render(form).endswith("\n")


def test_rows_keep_the_order_of_the_table():
    """The first rule whose guards hold is taken, so every format must be able to show the order."""
    assert [row.events for row in rows()] == [
        tuple(name_of(event) for event in rule.events) for rule in TABLE
    ]


def test_an_unknown_format_names_the_known_ones():
    """Whoever asks for a format that does not exist reads which ones do."""
    with pytest.raises(UsageError, match=r"'png'; known formats: mermaid, markdown"):
        render("png")


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
    assert [line.split()[0] for line in checked.stdout.splitlines()] == [
        "diagrams/machine.mmd",
        "diagrams/machine.md",
        "README.md",
        "docs/machine.md",
    ]
    assert copies("--root", str(tmp_path)).returncode == 0
    assert copies("--check", "--root", str(tmp_path)).returncode == 0
    for name in ("diagrams/machine.mmd", "diagrams/machine.md"):
        assert (tmp_path / name).read_text() == (ROOT / name).read_text()


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
