"""The machine as SVG: a picture of its own, or a part of a page that colours it.

Every state is one group, `<g id="state-NAME" class="state NAME ...">`. The classes are a promise to stylesheets:

    machine                       the picture
    ground                        its background
    state                         a state; beside it its name, `live` or `terminal`, and with a session one of
                                  `current`, `visited`, `unvisited` (`current` is `visited` too)
    box, ring                     the outline of a state, and the second one of a terminal state
    move                          an arrow and its words; `bus` if it leads to where all else ends; with a session
                                  `taken` or `untaken`, and so has each of its lines
    line, head, start             the lines of arrows, their heads, the point where a session begins
    shared                        the box of the rows of several states
    rule                          a thin line between words
    name, event, guard, action,   the words
    note, count, wrong,
    caption, legend

By itself the picture brings a style for light and for dark, and its own background, so that it can be read wherever
it is put. Without a style all is drawn in the colour of the text around it, for a page that knows better.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from xml.sax.saxutils import escape, quoteattr

from hubstate.diagram.layout import RING, SIZE, Card, Edge, Line, Panel, Swatch, Words, lay_out
from hubstate.diagram.way import Way
from hubstate.diagram.words import Row, group_name, kind_of, label
from hubstate.plain import clean
from hubstate.states import TERMINAL_STATES, State

__all__ = ["draw", "draw_bare"]

_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'DejaVu Sans', Arial, sans-serif"

#: class -> (light, dark), each the value of one property. Written out, because some renderers know no variables.
_FILLS = {
    ".ground": ("#ffffff", "#0d1117"),
    "text": ("#24292f", "#e6edf3"),
    ".note, .machine .legend": ("#57606a", "#9aa4b0"),
    ".guard": ("#6639ba", "#d2a8ff"),
    ".action": ("#0550ae", "#79c0ff"),
    ".count": ("#116329", "#56d364"),
    ".wrong": ("#a40e26", "#ff9c94"),
    ".box": ("#f6f8fa", "#161b22"),
    ".shared .box": ("#ffffff", "#0d1117"),
    ".done .box": ("#dafbe1", "#0f2d1b"),
    ".aborted .box": ("#ffebe9", "#3a1517"),
    ".unvisited .box": ("#ffffff", "#0d1117"),
    ".visited .box": ("#eef8ee", "#11261a"),
    ".current .box": ("#ddf4ff", "#0c2c4d"),
    ".visited.done .box": ("#c8f5d3", "#12401f"),
    ".visited.aborted .box": ("#ffdcd8", "#56191c"),
    ".unvisited .name": ("#57606a", "#9aa4b0"),
    ".head, .machine .start": ("#57606a", "#9aa4b0"),
    ".bus .head": ("#cf222e", "#ff7b72"),
    ".head.taken": ("#1a7f37", "#3fb950"),
    ".head.untaken": ("#b3bac2", "#4a525c"),
    ".bus .head.taken": ("#cf222e", "#ff7b72"),
}
_STROKES = {
    ".box, .machine .ring": ("#57606a", "#8b949e"),
    ".shared .box": ("#d0d7de", "#3d444d"),
    ".rule": ("#d0d7de", "#3d444d"),
    ".done .box, .machine .done .ring": ("#1a7f37", "#3fb950"),
    ".aborted .box, .machine .aborted .ring": ("#cf222e", "#ff7b72"),
    ".unvisited .box, .machine .unvisited .ring": ("#b3bac2", "#4a525c"),
    ".visited .box": ("#1a7f37", "#3fb950"),
    ".visited.aborted .box": ("#cf222e", "#ff7b72"),
    ".current .box": ("#0969da", "#58a6ff"),
    ".current.done .box": ("#1a7f37", "#3fb950"),
    ".current.aborted .box": ("#cf222e", "#ff7b72"),
    ".visited .rule": ("#b4d8bc", "#2a5636"),
    ".current .rule": ("#a8d4f5", "#27527c"),
    ".visited.aborted .rule": ("#f3b3ae", "#7d3236"),
    ".line": ("#57606a", "#9aa4b0"),
    ".bus .line": ("#cf222e", "#ff7b72"),
    ".line.taken": ("#1a7f37", "#3fb950"),
    ".line.untaken": ("#b3bac2", "#4a525c"),
    ".bus .line.taken": ("#cf222e", "#ff7b72"),
}
_PLAIN = """\
.machine .bus .line { stroke-dasharray: 5 4; }
.machine .current .box { stroke-width: 2.5; }
.machine .line.taken { stroke-width: 2; }
"""


def _style() -> str:
    def rules(which: int) -> Iterator[str]:
        for name, values in (("fill", _FILLS), ("stroke", _STROKES)):
            for selector, colours in values.items():
                yield f".machine {selector} {{ {name}: {colours[which]}; }}"

    light, dark = ("\n".join(rules(which)) for which in (0, 1))
    return f"<style>\n{_PLAIN}{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}\n</style>"


def draw(table: Sequence[Row], way: Way | None) -> str:
    """The picture with a style of its own, for light and dark."""
    return _document(table, way, _style())


def draw_bare(table: Sequence[Row], way: Way | None) -> str:
    """The picture in the colour of the text around it, for a page that has a stylesheet."""
    return _document(table, way, "")


def _document(table: Sequence[Row], way: Way | None, style: str) -> str:
    picture = lay_out(table, way)
    size = f'width="{picture.width}" height="{picture.height}"'
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="machine" {size} '
        f'viewBox="0 0 {picture.width} {picture.height}" role="img" '
        f'aria-labelledby="machine-title machine-description" font-family="{_FONT}" font-size="{SIZE}" '
        'fill="currentColor" stroke-width="1.25">'
    )
    lines = [
        head,
        f'<title id="machine-title">{_title(way)}</title>',
        f'<desc id="machine-description">{escape(" ".join(_description(table, way)))}</desc>',
        style,
        f'<rect class="ground" {size} rx="8" fill="none"/>',
        *map(_words, picture.caption),
        f'<circle class="start" cx="{picture.start[0]}" cy="{picture.start[1]}" r="7"/>',
        *(_move(edge, way) for edge in picture.edges),
        *(_state(card, way) for card in picture.cards),
    ]
    if picture.panel:
        lines.append(_shared(picture.panel))
    if picture.legend:
        lines += [
            "<g>",
            *(_swatch(swatch, way) for swatch in picture.swatches),
            *map(_words, picture.legend),
            "</g>",
        ]
    return "\n".join([*filter(None, lines), "</svg>"]) + "\n"


def _title(way: Way | None) -> str:
    named = f" of {escape(clean(way.title))}" if way and way.title else ""
    return f"The way{named} through the states of a session" if way else "The states of a session"


def _description(table: Sequence[Row], way: Way | None) -> Iterator[str]:
    """The picture in words, for who cannot see it."""
    ends = " or ".join(state.value for state in State if state in TERMINAL_STATES)
    yield f"A session begins in {next(iter(State)).value} and ends in {ends}."
    for row in table:
        if row.target:
            yield f"From {group_name(row.sources)} to {row.target}: {label(row)}."
    if way:
        visited = ", ".join(state.value for state in State if state.value in way.visited)
        yield f"This session is now {way.current}; it visited {visited}."


# -- the parts -------------------------------------------------------------------------------------------


def _state(card: Card, way: Way | None) -> str:
    name = card.state.value
    classes = ["state", name, kind_of(card.state)]
    if way:
        classes.append("visited" if name in way.visited else "unvisited")
        classes.append("current" if name == way.current else "")
    parts = [f'<g id="state-{name}" class="{" ".join(filter(None, classes))}">']
    if card.state in TERMINAL_STATES:
        parts.append(
            _rect("ring", card.left, card.top, card.right - card.left, card.bottom - card.top, 9 + RING)
        )
    parts += [
        _rect("box", card.x, card.y, card.width, card.height, 9),
        *_inside(card.lines, card.words),
        "</g>",
    ]
    return "\n".join(parts)


def _shared(panel: Panel) -> str:
    box = _rect("box", panel.x, panel.y, panel.width, panel.height, 9)
    return "\n".join(['<g class="shared">', box, *_inside(panel.lines, panel.words), "</g>"])


def _inside(lines: Iterable[Line], words: Iterable[Words]) -> Iterator[str]:
    for x1, x2, y in lines:
        yield f'<path class="rule" d="M{x1} {y}H{x2}" stroke="currentColor" stroke-width="1"/>'
    yield from map(_words, words)


def _move(edge: Edge, way: Way | None) -> str:
    row = edge.row

    def progress(*, yes: bool) -> str:
        return "" if way is None else " taken" if yes else " untaken"

    def went(sources: Iterable[str]) -> bool:
        return way is None or row is None or any(way.times(row, source) for source in sources)

    taken = went(row.sources if row else ())
    parts = [f'<g class="move{" bus" * edge.bus}{progress(yes=taken)}">']
    if row and row.note:
        parts.append(f"<title>{escape(row.note)}</title>")
    drawn = []
    for points, sources in zip(edge.paths, edge.sources, strict=True):
        yes = went(sources)
        path = "L".join(f"{x} {y}" for x, y in points)
        looks = f'class="line{progress(yes=yes)}" fill="none" stroke="currentColor"'
        drawn.append((yes, f'<path {looks} d="M{path}"/>'))
    # What was taken lies above what was not.
    parts += [path for _, path in sorted(drawn, key=lambda one: one[0])]
    parts.append(_head(edge.paths[-1], progress(yes=taken)))
    parts += [_words(words) for words in edge.words]
    return "\n".join([*parts, "</g>"])


def _head(points: Sequence[tuple[int, int]], progress: str) -> str:
    (_, before), (x, y) = points[-2:]
    back = f"L{x - 9} {y - 5}V{y + 5}Z" if before == y else f"L{x - 5} {y - 9}H{x + 5}Z"
    return f'<path class="head{progress}" d="M{x} {y}{back}"/>'


def _swatch(swatch: Swatch, way: Way | None) -> str:
    """A sample. That of `current` looks like the state where the session is."""
    here = f"visited {way.current} " if way and swatch.progress == "current" else ""
    return f'<g class="state {here}{swatch.progress}">{_rect("box", swatch.x, swatch.y, 22, 13, 4)}</g>'


def _rect(role: str, x: int, y: int, width: int, height: int, radius: int) -> str:
    return (
        f'<rect class="{role}" x="{x}" y="{y}" width="{width}" height="{height}" rx="{radius}" '
        'fill="none" stroke="currentColor"/>'
    )


def _words(words: Words) -> str:
    """One line of text. Its role stands at the text itself where it has one, else at its pieces."""
    looks = f' x="{words.x}" y="{words.y}"'
    if words.size != SIZE:
        looks += f' font-size="{words.size}"'
    if words.bold:
        looks += ' font-weight="bold"'
    if words.anchor != "start":
        looks += f' text-anchor="{words.anchor}"'
    if len(words.spans) == 1:
        ((text, role),) = words.spans
        return f"<text class={quoteattr(role)}{looks}>{escape(text)}</text>"
    pieces = "".join(f"<tspan class={quoteattr(role)}>{escape(text)}</tspan>" for text, role in words.spans)
    return f"<text{looks}>{pieces}</text>"
