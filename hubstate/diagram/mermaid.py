"""The machine for Mermaid, which GitHub draws: moves are arrows, the rest is written inside or beside the states.

A move from several states is one arrow from the frame around them. What a state does while it stays stands in it: the
event, and under it the rows that are asked one after the other. A row of several states stands once, in the note
beside the first state, because the same lines in seven states would hide the spine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hubstate.diagram.way import Way
from hubstate.diagram.words import (
    Row,
    alternatives,
    condition,
    effect,
    events_in_short,
    group_name,
    label,
    shared,
    stays_of,
)
from hubstate.plain import clean
from hubstate.states import TERMINAL_STATES, State

__all__ = ["draw"]

_INDENT = "    "
#: Rows are sentences: without it they would be broken after every third word.
_WIDTH = '%%{init: {"flowchart": {"wrappingWidth": 440}}}%%'
_CLASSES = {
    "visited": "fill:#eef8ee,stroke:#1a7f37,color:#24292f",
    "unvisited": "fill:#ffffff,stroke:#b3bac2,color:#57606a",
    "now": "fill:#ddf4ff,stroke:#0969da,stroke-width:3px,color:#24292f",
}


def draw(table: Sequence[Row], way: Way | None) -> str:
    """A state diagram in Mermaid's language, `stateDiagram-v2`."""
    moves = [row for row in table if row.target is not None]
    frames = _frames(moves)
    # A comment that held a directive would be obeyed.
    lines = [f"%% {clean(way.title).replace('%{', '% {')}"] if way and way.title else []
    lines += [_WIDTH, "stateDiagram-v2"]
    lines += [f"{_INDENT}{state.value} : {_inside(state, table, way)}" for state in State]
    for sources, frame in frames.items():
        lines.append(f'{_INDENT}state "{", ".join(sources)}" as {frame} {{')
        lines += [f"{_INDENT * 2}{source}" for source in sources]
        lines.append(f"{_INDENT}}}")
    lines.append(f"{_INDENT}[*] --> {next(iter(State)).value}")
    for row in moves:
        starts = [frames[row.sources]] if row.sources in frames else row.sources
        lines += [f"{_INDENT}{start} --> {row.target} : {label(row)}{_times(row, way)}" for start in starts]
    lines += [f"{_INDENT}{state.value} --> [*]" for state in State if state in TERMINAL_STATES]
    lines += _note(shared(table), way)
    if way:
        lines += [f"{_INDENT}classDef {name} {looks}" for name, looks in _CLASSES.items()]
        lines += [f"{_INDENT}class {state.value} {_progress(state, way)}" for state in State]
    return "\n".join(lines) + "\n"


def _frames(moves: Sequence[Row]) -> dict[tuple[str, ...], str]:
    """The groups of states that are left together, and a name for each; a state stands in one frame at most."""
    frames: dict[tuple[str, ...], str] = {}
    for row in moves:
        framed = {source for sources in frames for source in sources}
        if len(row.sources) > 1 and framed.isdisjoint(row.sources):
            frames[row.sources] = f"from_{row.sources[0]}_to_{row.sources[-1]}"
    return frames


def _inside(state: State, table: Sequence[Row], way: Way | None) -> str:
    """The state's name, and under it the rows of this state alone that do not leave it."""
    parts = [f"<b>{state.value}</b>"]
    for events, some in alternatives(stays_of(state, table)):
        parts.append(f"<i>{events_in_short(events)}</i>")
        parts += [f"{_clause(row)}{_times(row, way)}" for row in some]
    if way:
        parts += way.wrong_in(state.value)
    return "<br/>".join(parts)


def _clause(row: Row) -> str:
    """A row without its event; one that does nothing says what it means. A semicolon would end the line."""
    return " ".join(filter(None, (condition(row), effect(row) or row.note.replace(";", ","))))


def _times(row: Row, way: Way | None) -> str:
    count = way.counted(row) if way else ""
    return f" {count}" if count else ""


def _note(table: Sequence[Row], way: Way | None) -> Iterator[str]:
    if not table:
        return
    yield f"{_INDENT}note right of {next(iter(State)).value}"
    sources: tuple[str, ...] = ()
    for row in table:
        if row.sources != sources:
            sources = row.sources
            yield f"{_INDENT * 2}<b>{group_name(sources)}</b>"
        yield f"{_INDENT * 2}{label(row)}{_times(row, way)}"
    yield f"{_INDENT}end note"


def _progress(state: State, way: Way) -> str:
    if state.value == way.current:
        return "now"
    return "visited" if state.value in way.visited else "unvisited"
