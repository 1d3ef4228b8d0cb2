"""The machine for Graphviz: `dot -Tsvg machine.dot`. Nothing of Graphviz is needed to write it.

States are tables of lines, as in the other pictures; states that are left together join one dashed line to where
they lead; the rows of several states stand in a note.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

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

_GREY, _GREEN, _BLUE, _RED, _PALE = "#57606a", "#1a7f37", "#0969da", "#cf222e", "#b3bac2"
_FILLS = {_GREY: "#f6f8fa", _GREEN: "#eef8ee", _BLUE: "#ddf4ff", _RED: "#ffebe9", _PALE: "#ffffff"}

_HEAD = """\
digraph machine {
  graph [rankdir=TB, nodesep=0.6, ranksep=0.45, fontname="Helvetica,Arial,sans-serif", bgcolor="white"];
  node [shape=box, style="rounded,filled", margin="0.12,0.06", fontname="Helvetica,Arial,sans-serif", fontsize=12];
  edge [fontname="Helvetica,Arial,sans-serif", fontsize=11, color="#57606a"];
"""


def draw(table: Sequence[Row], way: Way | None) -> str:
    """A digraph in Graphviz' language."""
    lines = [_HEAD.rstrip("\n")]
    if way and way.title:
        lines.append(f"  graph [labelloc=t, label=<<b>{_text(way.title)}</b>>];")
    first = next(iter(State)).value
    lines.append(
        '  start [shape=circle, label="", width=0.14, style=filled, fillcolor="#57606a", color="#57606a"];'
    )
    lines += [_node(state, table, way) for state in State]
    lines.append(f"  start -> {first} [weight=9];")
    for number, row in enumerate(row for row in table if row.target):
        lines += _move(row, f"join_{number}", way)
    lines += _note(shared(table), way)
    return "\n".join([*lines, "}"]) + "\n"


def _text(text: str) -> str:
    return escape(clean(text))


def _node(state: State, table: Sequence[Row], way: Way | None) -> str:
    name = state.value
    lines = [f'<tr><td><b><font point-size="14">{name}</font></b></td></tr>']
    stays = stays_of(state, table)
    if stays:
        lines.append("<hr/>")
    for events, some in alternatives(stays):
        lines.append(_line(f"<i>{_text(events_in_short(events))}</i>"))
        lines += [_line(f"&nbsp;&nbsp;{_text(_clause(row))}{_times(row, way)}") for row in some]
    if way:
        lines += [_line(f'<font color="{_RED}">{_text(one)}</font>') for one in way.wrong_in(name)]
    colour = _colour(state, way)
    looks = [f'color="{colour}"', f'fillcolor="{_FILLS[colour]}"']
    if state in TERMINAL_STATES:
        looks.append("peripheries=2")
    if way and way.current == name:
        looks.append("penwidth=2.5")
    rows = "".join(lines)
    return f'  {name} [{", ".join(looks)}, label=<<table border="0" cellspacing="0" cellpadding="2">{rows}</table>>];'


def _colour(state: State, way: Way | None) -> str:
    ends = {State.DONE: _GREEN, State.ABORTED: _RED}
    if way is None:
        return ends.get(state, _GREY)
    if state.value not in way.visited:
        return _PALE
    return ends.get(state) or (_BLUE if state.value == way.current else _GREEN)


def _line(text: str) -> str:
    return f'<tr><td align="left">{text}</td></tr>'


def _clause(row: Row) -> str:
    return " ".join(filter(None, (condition(row), effect(row) or row.note)))


def _times(row: Row, way: Way | None) -> str:
    count = way.counted(row) if way else ""
    return f" <b>{count}</b>" if count else ""


def _move(row: Row, join: str, way: Way | None) -> Iterator[str]:
    """One arrow; from several states, lines that join before it."""
    first = " ".join(filter(None, (events_in_short(row.events), condition(row))))
    second = effect(row)
    told = f"&nbsp;&nbsp;{_text(first)}{_times(row, way)}"
    if second:
        told += f'<br align="left"/>&nbsp;&nbsp;{_text(second)}'
    looks = f'label=<{told}<br align="left"/>>'
    aborting = row.target == State.ABORTED.value

    def colour(*sources: str) -> str:
        if way and not any(way.times(row, source) for source in sources):
            return _PALE
        return _RED if aborting else _GREEN if way else _GREY

    dashed = ", style=dashed" * aborting
    if len(row.sources) == 1:
        weight = "" if aborting else ", weight=9"
        yield f'  {row.sources[0]} -> {row.target} [color="{colour(*row.sources)}"{dashed}, {looks}{weight}];'
        return
    yield f'  {join} [shape=point, width=0.04, color="{colour(*row.sources)}"];'
    for source in row.sources:
        yield f'  {source} -> {join} [color="{colour(source)}"{dashed}, dir=none];'
    yield f'  {join} -> {row.target} [color="{colour(*row.sources)}"{dashed}, {looks}];'


def _note(table: Sequence[Row], way: Way | None) -> Iterator[str]:
    """The rows of several states, in one note below all else."""
    if not table:
        return
    lines = []
    sources: tuple[str, ...] = ()
    for row in table:
        if row.sources != sources:
            sources = row.sources
            lines.append(_line(f"<b>{_text(group_name(sources))}</b>"))
        lines.append(_line(f"&nbsp;&nbsp;{_text(label(row))}{_times(row, way)}"))
    rows = "".join(lines)
    yield (
        '  shared [shape=note, style=filled, fillcolor="#ffffff", color="#b3bac2", '
        f'label=<<table border="0" cellspacing="0" cellpadding="2">{rows}</table>>];'
    )
    last = [state.value for state in State if state in TERMINAL_STATES]
    yield from (f"  {state} -> shared [style=invis];" for state in last)
