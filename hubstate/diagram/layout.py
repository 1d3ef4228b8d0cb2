"""Where everything stands in the picture, in px, before a line of SVG is written.

The picture reads from top to bottom, so that it fits the width of a page at its full size:

    the spine       the states of a run to its end, each a card; between two of them an arrow, its words to the right
    a card          the name, and under it what the state does while it stays: the event on the left, beside it the
                    rows that are asked for it one after the other
    the sink        the state where all else ends, to the right of the spine
    the bus         the row that leads there from several states: one line that they all join
    the panel       the rows of several states that leave none of them, below everything

A row for which a table of another shape leaves no straight line is not lost: it is written into the card of its state
(or into the panel) with `→ target`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from hubstate.diagram.measure import Span, width, wrap
from hubstate.diagram.way import Way
from hubstate.diagram.words import Row, alternatives, condition, effect, events_in_short, group_name
from hubstate.plain import clean
from hubstate.states import TERMINAL_STATES, State

__all__ = [
    "NAME_SIZE",
    "RING",
    "SIZE",
    "Card",
    "Edge",
    "Line",
    "Panel",
    "Picture",
    "Swatch",
    "Words",
    "lay_out",
]

#: Font sizes of all words, and of the names of states.
SIZE, NAME_SIZE = 13, 15
#: How far the second outline of a terminal state stands off the first.
RING = 4
_LINE = 19
_MARGIN = 24
_PAD = 14
_NAME = 40  # the height of a card's name
_GAP = 16  # between two columns of a card
_HEAD = 8  # the length of an arrowhead
_INDENT = 14  # of the second line of a row


class Words(NamedTuple):
    """One line of text: the left end (or, by `anchor`, the middle or the right end) of its baseline."""

    x: int
    y: int
    spans: tuple[Span, ...]
    size: int = SIZE
    bold: bool = False
    anchor: str = "start"

    @property
    def width(self) -> int:
        """The width that it needs at most."""
        return _wide(self.spans, self.size, bold=self.bold)

    def moved(self, x: int, y: int) -> Words:
        """The same words elsewhere."""
        return self._replace(x=self.x + x, y=self.y + y)


class Line(NamedTuple):
    """A thin horizontal line."""

    x1: int
    x2: int
    y: int


class Card(NamedTuple):
    """One state: its box, its words and the lines between them."""

    state: State
    x: int
    y: int
    width: int
    height: int
    words: tuple[Words, ...]
    lines: tuple[Line, ...]

    @property
    def ring(self) -> int:
        """How far a second outline stands off: what leads here ends at it."""
        return RING if self.state in TERMINAL_STATES else 0

    @property
    def left(self) -> int:
        """The x of the left side, a second outline included."""
        return self.x - self.ring

    @property
    def right(self) -> int:
        """The x of the right side, a second outline included."""
        return self.x + self.width + self.ring

    @property
    def top(self) -> int:
        """The y of the upper side, a second outline included."""
        return self.y - self.ring

    @property
    def bottom(self) -> int:
        """The y of the lower side, a second outline included."""
        return self.y + self.height + self.ring

    @property
    def middle(self) -> int:
        """The x of the middle."""
        return self.x + self.width // 2

    @property
    def level(self) -> int:
        """The y at which arrows leave to the side: the middle of the name."""
        return self.y + _NAME // 2

    def at(self, x: int, y: int) -> Card:
        """The same card with its upper left corner elsewhere."""
        return self._replace(
            x=x,
            y=y,
            words=tuple(words.moved(x - self.x, y - self.y) for words in self.words),
            lines=tuple(Line(a + x - self.x, b + x - self.x, c + y - self.y) for a, b, c in self.lines),
        )


class Edge(NamedTuple):
    """An arrow: `paths` as points, the last of which ends with the head. `row` None: where a session begins.

    `sources` names for each path the states whose sessions go along it.
    """

    row: Row | None
    paths: tuple[tuple[tuple[int, int], ...], ...]
    sources: tuple[tuple[str, ...], ...]
    words: tuple[Words, ...]
    bus: bool = False


class Panel(NamedTuple):
    """A box of words that is no state."""

    x: int
    y: int
    width: int
    height: int
    words: tuple[Words, ...]
    lines: tuple[Line, ...]


class Swatch(NamedTuple):
    """A sample in the legend, and the progress that it shows."""

    x: int
    y: int
    progress: str


class Picture(NamedTuple):
    """Everything, placed."""

    width: int
    height: int
    caption: tuple[Words, ...]
    start: tuple[int, int]
    cards: tuple[Card, ...]
    edges: tuple[Edge, ...]
    panel: Panel | None
    legend: tuple[Words, ...]
    swatches: tuple[Swatch, ...]


def _wide(spans: Iterable[Span], size: int = SIZE, *, bold: bool = False) -> int:
    return sum(width(span.text, size, bold=bold) for span in spans)


# -- what goes where -------------------------------------------------------------------------------------


class _Plan(NamedTuple):
    """Each row of the table in the one place where it is drawn."""

    spine: tuple[State, ...]
    sink: State | None
    others: tuple[State, ...]
    between: dict[tuple[State, State], Row]
    bus: Row | None
    side: Row | None
    inside: dict[State, tuple[Row, ...]]
    panel: tuple[Row, ...]


def _plan(table: Sequence[Row]) -> _Plan:
    spine = _spine(table)
    off = [state for state in State if state not in spine]
    sinks = [state for state in off if any(row.target == state.value for row in table)]
    sink = sinks[0] if sinks else None
    between: dict[tuple[State, State], Row] = {}
    for row in table:
        for pair in pairwise(spine):
            if row.sources == (pair[0].value,) and row.target == pair[1].value:
                between.setdefault(pair, row)
    bus = side = None
    for row in table:
        if sink is None or row.target != sink.value or any(State(one) not in spine for one in row.sources):
            continue
        if len(row.sources) > 1 and bus is None:
            bus = row
        elif len(row.sources) == 1 and side is None:
            side = row
    if bus and side and _last(spine, bus) >= _last(spine, side):
        side = None  # it would cross the bus
    drawn = {*between.values(), *(row for row in (bus, side) if row)}
    left = [row for row in table if row not in drawn]
    return _Plan(
        spine=spine,
        sink=sink,
        others=tuple(state for state in off if state is not sink),
        between=between,
        bus=bus,
        side=side,
        inside={state: tuple(row for row in left if row.sources == (state.value,)) for state in State},
        panel=tuple(row for row in left if len(row.sources) > 1),
    )


def _spine(table: Sequence[Row]) -> tuple[State, ...]:
    """The states of a run to its end: from the first one on, each time the first row of one state that leads on."""
    order = list(State)
    spine = [order[0]]
    while True:
        onwards = (
            State(row.target)
            for row in table
            if row.target and row.sources == (spine[-1].value,) and State(row.target) not in spine
        )
        target = next(onwards, None)
        if target is None:
            return tuple(spine)
        spine.append(target)


def _last(spine: Sequence[State], row: Row) -> int:
    return max(spine.index(State(source)) for source in row.sources)


# -- words in columns ------------------------------------------------------------------------------------


class _Grid(NamedTuple):
    """Rows in columns, from (0, 0): events, what follows, how often."""

    width: int
    height: int
    words: tuple[Words, ...]
    lines: tuple[int, ...]


def _clause(row: Row, most: int) -> list[Words]:
    """A row without its event, in lines: what is asked, where it leads and what is done.

    What does not fit on one line is broken before what is done, and all but the first line are set in.
    """
    asked = [Span(condition(row), "guard")]
    done = [Span(f"→ {row.target}", "event")] if row.target else []
    done.append(Span(effect(row), "action"))
    if not row.target and not row.actions and not row.held:
        done.append(Span(row.note, "note"))
    asked, done = ([span for span in some if span.text] for some in (asked, done))
    lines = wrap((*asked, *done), most, SIZE)
    if len(lines) > 1:
        lines = [*wrap(asked, most, SIZE), *wrap(done, most - _INDENT, SIZE)]
    return [
        Words(_INDENT if number else 0, _LINE * number + 14, line)
        for number, line in enumerate(lines or [()])
    ]


def _grid(
    table: Sequence[Row], way: Way | None, *, most: tuple[int, int], least: tuple[int, int, int] = (0, 0, 0)
) -> tuple[_Grid, tuple[int, int, int]]:
    """The rows in columns at most as wide as `most` and at least as `least`; also the widths that came out."""
    blocks = []
    for events, some in alternatives(table):
        names = wrap([Span(events_in_short(events), "event")], most[0], SIZE)
        clauses = [(_clause(row, most[1]), (way.counted(row) if way else "")) for row in some]
        blocks.append((names, clauses))
    widths = (
        max([least[0], *(_wide(line) for names, _ in blocks for line in names)]),
        max([least[1], *(line.x + line.width for _, some in blocks for lines, _ in some for line in lines)]),
        max([least[2], *(width(count, SIZE, bold=True) for _, some in blocks for _, count in some)]),
    )
    clause_x = widths[0] + _GAP
    right = clause_x + widths[1] + (_GAP + widths[2] if widths[2] else 0)
    words: list[Words] = []
    lines: list[int] = []
    y = 0
    for number, (names, clauses) in enumerate(blocks):
        if number:
            lines.append(y + 4)
            y += 8
        words += [Words(0, y + _LINE * n + 14, line) for n, line in enumerate(names)]
        here = y
        for told, count in clauses:
            words += [line.moved(clause_x, here) for line in told if line.spans]
            if count:
                words.append(Words(right, here + 14, (Span(count, "count"),), bold=True, anchor="end"))
            here += _LINE * len(told)
        y = max(y + _LINE * len(names), here)
    return _Grid(right, y, tuple(words), tuple(lines)), widths


# -- cards -----------------------------------------------------------------------------------------------

_EVENT_MOST, _CLAUSE_MOST, _NARROW = 170, 330, 200


def _card(state: State, inside: Sequence[Row], way: Way | None, most: int) -> Card:
    name = Words(0, 0, (Span(state.value, "name"),), size=NAME_SIZE, bold=True, anchor="middle")
    wide = max(110, name.width + 44)
    grid = _grid(inside, way, most=(_EVENT_MOST, most))[0] if inside else None
    if grid:
        wide = max(wide, grid.width + 2 * _PAD)
    marks = _marks(state, way)
    mark_lines = [line for mark in marks for line in wrap([mark], max(wide - 2 * _PAD, 190), SIZE)]
    wide = max([wide, *(_wide(line) + 2 * _PAD for line in mark_lines)])
    wide += wide % 2  # so that the middle is the axis
    words = [name._replace(x=wide // 2, y=_NAME // 2 + 5)]
    lines = []
    y = _NAME
    if grid:
        lines.append(Line(0, wide, y))
        words += [one.moved(_PAD, y + 7) for one in grid.words]
        lines += [Line(_PAD, wide - _PAD, y + 7 + at) for at in grid.lines]
        y += grid.height + 14
    if mark_lines:
        lines.append(Line(0, wide, y))
        words += [Words(_PAD, y + 7 + _LINE * n + 14, line) for n, line in enumerate(mark_lines)]
        y += _LINE * len(mark_lines) + 14
    return Card(state, 0, 0, wide, y, tuple(words), tuple(lines))


def _marks(state: State, way: Way | None) -> Iterator[Span]:
    """What went wrong in a state, and what no row was taken for."""
    if way is not None:
        yield from (Span(line, "wrong") for line in way.wrong_in(state.value))
        if times := way.held.get(state.value):
            yield Span(f"held back ×{times}", "note")


# -- the whole -------------------------------------------------------------------------------------------

_LABEL_MOST = 236


def lay_out(table: Sequence[Row], way: Way | None) -> Picture:
    """Places everything."""
    plan = _plan(table)
    cards = {
        state: _card(state, plan.inside[state], way, _CLAUSE_MOST if state in plan.spine else _NARROW)
        for state in State
    }
    widest = max(card.width for state, card in cards.items() if state is not plan.sink)
    axis = _MARGIN + max(card.width // 2 + card.ring for one, card in cards.items() if one is not plan.sink)
    caption = _caption(way, widest)
    top = _MARGIN + _LINE * len(caption) + (12 if caption else 0)

    start = (axis, top + 7)
    edges = []
    y = top + 14
    before: State | None = None
    labels: dict[State, int] = {}
    for state in plan.spine:
        row = plan.between.get((before, state)) if before else None
        words, gap = _beside(row, way, axis, y) if before else ((), 30)
        edges.append(Edge(row, (((axis, y), (axis, y + gap)),), ((before.value,) if before else (),), words))
        if before:
            labels[before] = max((one.width for one in words if one.anchor == "start"), default=0)
        card = cards[state]
        card = cards[state] = card.at(axis - card.width // 2, y + gap + card.ring)
        y = card.bottom
        before = state

    if plan.sink:
        edges += _sink(plan, cards, way, axis, labels)
        y = max(y, cards[plan.sink].bottom)
    for state in plan.others:  # nothing leads there, so they stand aside
        card = cards[state]
        cards[state] = card.at(axis - card.width // 2, y + 24 + card.ring)
        y = cards[state].bottom

    told = (*caption, *(words for edge in edges for words in edge.words))
    right = max([*(card.right for card in cards.values()), *(_right(words) for words in told)])
    panel = _panel(plan.panel, way, y + 28, right - _MARGIN)
    if panel:
        y, right = panel.y + panel.height, max(right, panel.x + panel.width)
    legend, swatches, y = _legend(way, y + 20, right) if way else ((), (), y)
    return Picture(
        width=right + _MARGIN,
        height=y + _MARGIN,
        caption=caption,
        start=start,
        cards=tuple(cards.values()),
        edges=tuple(edges),
        panel=panel,
        legend=legend,
        swatches=swatches,
    )


def _right(words: Words) -> int:
    return words.x + (words.width if words.anchor == "start" else 0)


def _caption(way: Way | None, most: int) -> tuple[Words, ...]:
    if way is None or not way.title:
        return ()
    lines = wrap([Span(clean(way.title), "caption")], max(most, 420), NAME_SIZE, bold=True)
    return tuple(
        Words(_MARGIN, _MARGIN + _LINE * n + 14, line, size=NAME_SIZE, bold=True)
        for n, line in enumerate(lines)
    )


def _beside(row: Row | None, way: Way | None, axis: int, y: int) -> tuple[tuple[Words, ...], int]:
    """The words of an arrow of the spine that begins at `y`, and how long it has to be."""
    if row is None:
        return (), 44
    lines = [
        *wrap(_question(row), _LABEL_MOST, SIZE),
        *wrap([Span(effect(row), "action")], _LABEL_MOST, SIZE),
    ]
    gap = max(44, _LINE * len(lines) + 24)
    first = y + (gap - _HEAD - _LINE * len(lines)) // 2 + 14
    words = [Words(axis + 14, first + _LINE * n, line) for n, line in enumerate(lines)]
    if count := (way.counted(row) if way else ""):
        middle = y + (gap - _HEAD) // 2 + 4
        words.append(Words(axis - 14, middle, (Span(count, "count"),), bold=True, anchor="end"))
    return tuple(words), gap


def _question(row: Row) -> tuple[Span, ...]:
    told = (Span(events_in_short(row.events), "event"), Span(condition(row), "guard"))
    return tuple(span for span in told if span.text)


def _sink(
    plan: _Plan, cards: dict[State, Card], way: Way | None, axis: int, labels: dict[State, int]
) -> Iterator[Edge]:
    """Places the sink to the right of the spine, and draws what leads there."""
    assert plan.sink
    sink = cards[plan.sink]
    bus_words = _bus_words(plan.bus, way) if plan.bus else []
    side = cards[State(plan.side.sources[0])] if plan.side else None
    joined = [cards[State(source)] for source in plan.bus.sources] if plan.bus else []
    below = max([0, *(card.level for card in joined)]) + _LINE * len(bus_words) + 40
    top = side.y if side else below
    # Beside it stand cards, and the words of the arrows that leave them downwards.
    room = max(
        [
            axis,
            *(
                max(cards[state].right + 24, axis + 14 + labels.get(state, 0) + 20)
                for state in plan.spine
                if cards[state].y < top + sink.height and cards[state].bottom + 140 > top
            ),
        ]
    )
    side_words = _side_words(plan.side, way) if plan.side else []
    if side:
        room = max([room, *(side.right + 16 + _wide(line) + 16 + _HEAD for line in side_words)])
    first = min([len(plan.spine), *(plan.spine.index(card.state) for card in joined)])
    passed = [max(cards[one].right, axis + 14 + labels.get(one, 0)) for one in plan.spine[first:]]
    x = max(room, max([0, *passed]) + 28 - sink.width // 2) + sink.ring
    sink = cards[plan.sink] = sink.at(x, top)
    if plan.bus:
        bus = sink.middle
        joined.sort(key=lambda card: card.level)
        names = [card.state.value for card in joined]
        drops = [((card.right, card.level), (bus, card.level)) for card in joined]
        levels = [*(card.level for card in joined), sink.top]
        trunk = [((bus, upper), (bus, lower)) for upper, lower in pairwise(levels)]
        along = [*((name,) for name in names), *(tuple(names[:n]) for n in range(1, len(names) + 1))]
        first = sink.top - _HEAD - 8 - _LINE * (len(bus_words) - 1)
        words = tuple(Words(bus + 14, first + _LINE * n, line) for n, line in enumerate(bus_words))
        yield Edge(plan.bus, (*drops, *trunk), tuple(along), words, bus=True)
    if plan.side and side:
        path = ((side.right, side.level), (sink.left, side.level))
        words = tuple(
            Words(side.right + 14, side.level + (-6, 16)[n], line) for n, line in enumerate(side_words)
        )
        yield Edge(plan.side, (path,), (plan.side.sources,), words, bus=True)


def _counted(row: Row, way: Way | None) -> tuple[Span, ...]:
    count = way.counted(row) if way else ""
    return (Span(f"  {count}", "count"),) if count else ()


def _bus_words(row: Row, way: Way | None) -> list[tuple[Span, ...]]:
    question = wrap((*_question(row), *_counted(row, way)), 170, SIZE)
    return [*question, *wrap([Span(effect(row), "action")], 170, SIZE)]


def _side_words(row: Row, way: Way | None) -> list[tuple[Span, ...]]:
    """One line above the arrow and one below it."""
    question = wrap((*_question(row), *_counted(row, way)), 10_000, SIZE)
    return [*question, *wrap([Span(effect(row), "action")], 10_000, SIZE)]


# -- below the spine -------------------------------------------------------------------------------------


_GROUP_MOST, _PANEL_EVENT_MOST = 140, 290


def _panel(table: Sequence[Row], way: Way | None, y: int, least: int) -> Panel | None:
    """The rows of several states, beside the name of the states that they belong to."""
    if not table:
        return None
    groups = [
        (
            wrap([Span(group_name(sources), "name")], _GROUP_MOST, SIZE, bold=True),
            tuple(row for row in table if row.sources == sources),
        )
        for sources in dict.fromkeys(row.sources for row in table)
    ]
    most = (_PANEL_EVENT_MOST, _CLAUSE_MOST)
    columns = [_grid(some, way, most=most)[1] for _, some in groups]
    widths = (max(c[0] for c in columns), max(c[1] for c in columns), max(c[2] for c in columns))
    x = _MARGIN
    inner = x + _PAD + max(_wide(line, bold=True) for names, _ in groups for line in names) + _GAP
    needed = widths[0] + _GAP + widths[1] + (_GAP + widths[2] if widths[2] else 0)
    right = max(x + least, inner + needed + _PAD)
    # What is left over goes to the middle, so that the counts stand at the right side.
    widths = (widths[0], widths[1] + right - _PAD - inner - needed, widths[2])
    grids = [_grid(some, way, most=most, least=widths)[0] for _, some in groups]
    words: list[Words] = []
    lines: list[Line] = []
    here = y
    for (names, _), grid in zip(groups, grids, strict=True):
        if here > y:
            lines.append(Line(x, right, here))
        here += 7
        words += [Words(x + _PAD, here + _LINE * n + 14, name, bold=True) for n, name in enumerate(names)]
        words += [one.moved(inner, here) for one in grid.words]
        lines += [Line(inner, right - _PAD, here + at) for at in grid.lines]
        here += max(grid.height, _LINE * len(names)) + 7
    return Panel(x, y, right - x, here - y, tuple(words), tuple(lines))


_LEGEND = (("current", "now"), ("visited", "visited"), ("unvisited", "not visited"))


def _legend(way: Way, y: int, right: int) -> tuple[tuple[Words, ...], tuple[Swatch, ...], int]:
    """What the colours and counts mean; and the y below it."""
    words: list[Words] = []
    swatches = []
    x = _MARGIN
    for progress, text in _LEGEND:
        swatches.append(Swatch(x, y + 3, progress))
        words.append(Words(x + 30, y + 14, (Span(text, "legend"),)))
        x += 30 + words[-1].width + 22
    words.append(Words(x, y + 14, (Span("×N: how often", "legend"),)))
    y += _LINE
    if way.foreign:
        text = f"Steps that this table does not explain: {way.foreign}"
        for line in wrap([Span(text, "wrong")], right - _MARGIN, SIZE):
            words.append(Words(_MARGIN, y + 8 + 14, line))
            y += _LINE + 8
    return tuple(words), tuple(swatches), y
