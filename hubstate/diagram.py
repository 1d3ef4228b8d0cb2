"""The machine as a picture and as a table, drawn from `machine.TABLE` and from nothing else.

Every format is one function over the same rows, which are the rules of the table put into words: a new format is
a new function and a new line in `RENDERERS`. The order is the table's, so that the same table always gives the
same text, and the copies that are kept beside the documentation can be compared with it letter by letter.

How the words read: `event [guard and guard] / Action, Action`. Rules are asked from top to bottom, and the first
whose guards all hold is taken; "otherwise" marks a rule that is asked after others of the same state and event.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from hubstate.actions import Action
from hubstate.errors import UsageError
from hubstate.events import name_of
from hubstate.machine import TABLE, Rule
from hubstate.states import LIVE_STATES, TERMINAL_STATES, State

__all__ = ["RENDERERS", "Row", "render", "rows"]


class Row(NamedTuple):
    """One rule of the table in words.

    `sources` and `events` are names as in journals. `target` is None where the session stays. `otherwise`: the
    rule has no guard of its own and is asked after another one of the same state and event. `written`: the step
    goes into the journal. `held`: the event is held back, so nothing is done.
    """

    sources: tuple[str, ...]
    events: tuple[str, ...]
    guards: tuple[str, ...]
    otherwise: bool
    target: str | None
    actions: tuple[str, ...]
    written: bool
    held: bool
    note: str


def rows() -> tuple[Row, ...]:
    """The rules of `machine.TABLE`, in its order."""
    return tuple(_row(rule, TABLE[:number]) for number, rule in enumerate(TABLE))


def _row(rule: Rule, before: Sequence[Rule]) -> Row:
    return Row(
        sources=tuple(state.value for state in rule.sources),
        events=tuple(name_of(event) for event in rule.events),
        guards=tuple(guard.name for guard in rule.guards),
        otherwise=not rule.guards and any(_overlap(rule, other) for other in before),
        target=rule.target.value if rule.target else None,
        # The bare kind stands for the actions that were refused, as they were.
        actions=tuple("the refused ones" if kind is Action else kind.__name__ for kind in rule.actions),
        written=rule.written,
        held=rule.held,
        note=rule.note,
    )


def _overlap(rule: Rule, other: Rule) -> bool:
    return not set(rule.sources).isdisjoint(other.sources) and not set(rule.events).isdisjoint(other.events)


def _group(sources: Sequence[str]) -> str:
    """The shortest honest name for some states."""
    states = {State(source) for source in sources}
    missing = [state.value for state in State if state not in states]
    if not missing:
        return "any state"
    if len(missing) == 1:
        return f"any state but {missing[0]}"
    if states == LIVE_STATES:
        return "live states"
    if states == TERMINAL_STATES:
        return "terminal states"
    return ", ".join(sources)


def _label(row: Row) -> str:
    """What a row says, on one line and without its states."""
    words = [", ".join(row.events)]
    if row.guards:
        words.append(f"[{' and '.join(row.guards)}]")
    elif row.otherwise:
        words.append("[otherwise]")
    if row.actions:
        words.append(f"/ {', '.join(row.actions)}")
    elif row.held:
        words.append("/ held back")
    return " ".join(words)


# -- mermaid ---------------------------------------------------------------------------------------------

_INDENT = "    "
#: Rows are sentences: without it they would be broken after every third word.
_WIDTH = '%%{init: {"flowchart": {"wrappingWidth": 440}}}%%'


def _mermaid(table: Sequence[Row]) -> str:
    """A state diagram: moves are arrows; what a state does while it stays is written inside or beside it.

    A move from several states is one arrow from the frame around them. A row that stays in several states stands
    once, in the note beside the first state, because the same lines in seven states would hide the spine.
    """
    moves = [row for row in table if row.target is not None]
    frames = _frames(moves)
    lines = [_WIDTH, "stateDiagram-v2"]
    lines += [f"{_INDENT}{state.value} : {_inside(state, table)}" for state in State]
    for sources, frame in frames.items():
        lines.append(f'{_INDENT}state "{", ".join(sources)}" as {frame} {{')
        lines += [f"{_INDENT * 2}{source}" for source in sources]
        lines.append(f"{_INDENT}}}")
    lines.append(f"{_INDENT}[*] --> {State.IDLE.value}")
    for row in moves:
        starts = [frames[row.sources]] if row.sources in frames else row.sources
        lines += [f"{_INDENT}{start} --> {row.target} : {_label(row)}" for start in starts]
    lines += [f"{_INDENT}{state.value} --> [*]" for state in State if state in TERMINAL_STATES]
    lines.append(f"{_INDENT}note right of {State.IDLE.value}")
    shared = [row for row in table if row.target is None and len(row.sources) > 1]
    lines += [f"{_INDENT * 2}• {_group(row.sources)}: {_label(row)}" for row in shared]
    lines.append(f"{_INDENT}end note")
    return "\n".join(lines) + "\n"


def _frames(moves: Sequence[Row]) -> dict[tuple[str, ...], str]:
    """The groups of states that are left together, and a name for each; a state stands in one frame at most."""
    frames: dict[tuple[str, ...], str] = {}
    for row in moves:
        framed = {source for sources in frames for source in sources}
        if len(row.sources) > 1 and framed.isdisjoint(row.sources):
            frames[row.sources] = f"from_{row.sources[0]}_to_{row.sources[-1]}"
    return frames


def _inside(state: State, table: Sequence[Row]) -> str:
    """The state's name, and under it the rows of this state alone that do not leave it."""
    own = [f"• {_label(row)}" for row in table if row.target is None and row.sources == (state.value,)]
    return "<br/>".join((f"<b>{state.value}</b>", *own))


# -- markdown --------------------------------------------------------------------------------------------


def _markdown(table: Sequence[Row]) -> str:
    """The table itself, one line for each rule."""
    lines = ["| from | event | guard | to | actions | journalled | note |", "|---|---|---|---|---|---|---|"]
    lines += [f"| {' | '.join(_cells(row))} |" for row in table]
    return "\n".join(lines) + "\n"


def _cells(row: Row) -> tuple[str, ...]:
    nothing = "held back" if row.held else "none"
    return (
        _group(row.sources),
        ", ".join(f"`{event}`" for event in row.events),
        " and ".join(f"`{guard}`" for guard in row.guards) or ("otherwise" if row.otherwise else ""),
        f"`{row.target}`" if row.target else "stays",
        ", ".join(row.actions) or nothing,
        "yes" if row.written else "no",
        row.note,
    )


# -- the formats -----------------------------------------------------------------------------------------

#: Every format by its name: a text from the rows of the table.
RENDERERS: Mapping[str, Callable[[Sequence[Row]], str]] = {
    "mermaid": _mermaid,
    "markdown": _markdown,
}


def render(form: str) -> str:
    """The machine in the format of that name. Raises `UsageError` naming the known ones."""
    renderer = RENDERERS.get(form)
    if renderer is None:
        raise UsageError(f"there is no diagram in the format {form!r}; known formats: {', '.join(RENDERERS)}")
    return renderer(rows())
