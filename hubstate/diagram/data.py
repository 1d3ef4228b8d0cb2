"""The machine as JSON, for programs.

    {"states": [{"name", "live", "terminal"}, ...],
     "rows":   [{"number", "from", "events", "guards", "otherwise", "to", "actions", "held", "journalled", "note"}, ...]}

`from` lists states; `to` is null where the session stays; `guards` all have to hold, and an empty list holds always.
The rows stand in the order in which they are asked, and `number` counts them from 1. With a session there are also

    "session": {"title", "current", "foreign"}

and in each state `visited`, `current`, `illegal` (`{event: times}`), `held` (how often no row was taken) and `refused`
(how often the hub refused a delivery), and in each row `taken` (`{state: times}`, none left out but zero). Names are
only added, never taken away or given another meaning.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from hubstate.diagram.way import Way
from hubstate.diagram.words import Row, kind_of
from hubstate.states import State

__all__ = ["draw"]


def draw(table: Sequence[Row], way: Way | None) -> str:
    """One JSON object, indented."""
    told: dict[str, Any] = {
        "states": [_state(state, way) for state in State],
        "rows": [_row(row, way) for row in table],
    }
    if way is not None:
        told["session"] = {"title": way.title, "current": way.current, "foreign": way.foreign}
    return json.dumps(told, indent=2) + "\n"


def _state(state: State, way: Way | None) -> dict[str, Any]:
    kind = kind_of(state)
    told: dict[str, Any] = {"name": state.value, "live": kind == "live", "terminal": kind == "terminal"}
    if way is not None:
        told |= {
            "visited": state.value in way.visited,
            "current": state.value == way.current,
            "illegal": way.illegal_in(state.value),
            "held": way.held.get(state.value, 0),
            "refused": way.refused.get(state.value, 0),
        }
    return told


def _row(row: Row, way: Way | None) -> dict[str, Any]:
    told: dict[str, Any] = {
        "number": row.number,
        "from": row.sources,
        "events": row.events,
        "guards": row.guards,
        "otherwise": row.otherwise,
        "to": row.target,
        "actions": row.actions,
        "held": row.held,
        "journalled": row.written,
        "note": row.note,
    }
    if way is not None:
        told["taken"] = {source: times for source in row.sources if (times := way.times(row, source))}
    return told
