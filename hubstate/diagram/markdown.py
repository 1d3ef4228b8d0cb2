"""The table as a table in Markdown, one line for each rule."""

from __future__ import annotations

from collections.abc import Sequence

from hubstate.diagram.way import Way
from hubstate.diagram.words import Row, group_name
from hubstate.plain import clean
from hubstate.states import State

__all__ = ["draw"]

_HEAD = ("from", "event", "guard", "to", "actions", "journalled", "note")


def draw(table: Sequence[Row], way: Way | None) -> str:
    """The rules in order; with a way also how often each was taken, and a second table of the states."""
    if way is None:
        return _lines(_HEAD, [_cells(row) for row in table])
    taken = [(*_cells(row), str(way.times(row) or "")) for row in table]
    title = f"**{_plain(way.title)}**\n\n" if way.title else ""
    parts = [
        title + _lines((*_HEAD, "taken"), taken),
        _lines(_STATES, [_state(state, way) for state in State]),
    ]
    if way.foreign:
        parts.append(f"Steps that this table does not explain: {way.foreign}\n")
    return "\n".join(parts)


def _lines(head: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines += [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join(lines) + "\n"


def _cells(row: Row) -> tuple[str, ...]:
    nothing = "held back" if row.held else "none"
    return (
        group_name(row.sources),
        ", ".join(f"`{event}`" for event in row.events),
        " and ".join(f"`{guard}`" for guard in row.guards) or ("otherwise" if row.otherwise else ""),
        f"`{row.target}`" if row.target else "stays",
        ", ".join(row.actions) or nothing,
        "yes" if row.written else "no",
        row.note,
    )


_STATES = ("state", "way", "illegal", "refused by the hub")


def _state(state: State, way: Way) -> tuple[str, ...]:
    name = state.value
    place = "now" if name == way.current else "visited" if name in way.visited else ""
    illegal = ", ".join(f"`{event}` ×{count}" for event, count in way.illegal_in(name).items())
    return (f"`{name}`", place, illegal, str(way.refused.get(name, "")))


def _plain(text: str) -> str:
    """A text from somebody else, on one line and without a meaning in Markdown."""
    return "".join(f"\\{letter}" if letter in r"\`*_{}[]<>()#+-.!|~&" else letter for letter in clean(text))
