"""The machine as a picture, as a table and as data, drawn from `machine.TABLE` and from nothing else.

Every format is one function over the same rows, which are the rules of the table put into words (`words`): a new
format is a new function and a new line in `RENDERERS`. The order is the table's, so that the same table always gives
the same text, and the copies that are kept beside the documentation can be compared with it letter by letter. No
format needs a program or a package.

With steps of a session (`way`) the same pictures show the way that it took. Where the steps come from is no matter
of this room: they are handed over as plain values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from hubstate.diagram import data, dot, markdown, mermaid, svg
from hubstate.diagram.way import Taken, Way, way_of
from hubstate.diagram.words import Row, rows
from hubstate.errors import UsageError

__all__ = ["RENDERERS", "Row", "Taken", "Way", "render", "render_svg", "rows", "way_of"]

#: Every format by its name: a text from the rows of the table, and from a session's way if one is given.
RENDERERS: Mapping[str, Callable[[Sequence[Row], Way | None], str]] = {
    "svg": svg.draw,
    "mermaid": mermaid.draw,
    "dot": dot.draw,
    "markdown": markdown.draw,
    "json": data.draw,
}


def render(form: str, steps: Iterable[Taken] | None = None, *, title: str = "") -> str:
    """The machine in the format of that name; with `steps`, the way of the session that `title` names.

    Raises `UsageError` naming the known formats.
    """
    renderer = RENDERERS.get(form)
    if renderer is None:
        raise UsageError(f"there is no diagram in the format {form!r}; known formats: {', '.join(RENDERERS)}")
    return _drawn(renderer, steps, title)


def render_svg(steps: Iterable[Taken] | None = None, *, title: str = "", style: bool = True) -> str:
    """The machine as SVG. Without `style` it brings no colours, for a page whose stylesheet has them (see `svg`)."""
    return _drawn(svg.draw if style else svg.draw_bare, steps, title)


def _drawn(
    renderer: Callable[[Sequence[Row], Way | None], str], steps: Iterable[Taken] | None, title: str
) -> str:
    table = rows()
    return renderer(table, None if steps is None else way_of(steps, table, title))
