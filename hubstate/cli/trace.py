"""`hubstate trace`: a session's journal, step by step."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hubstate.cli.ends import NOT_DONE, end

if TYPE_CHECKING:
    from hubstate.cli.screen import Screen
    from hubstate.journal import Damage, Step

__all__ = ["trace"]

_EVENT_WIDTH = 22
#: What only programs ask for; `--json` has it.
_LEFT_OUT = ("at", "session", "mtime_ns", "snapshot")


def trace(
    session: Annotated[
        str,
        typer.Argument(metavar="SESSION", help="an id, the beginning of one, or a name (the newest of it)"),
    ],
    *,
    as_json: Annotated[
        bool, typer.Option("--json", help="each step as it stands in the journal, one a line")
    ] = False,
    directory: Annotated[
        Path | None, typer.Option(metavar="DIR", help="look for sessions there alone")
    ] = None,
) -> None:
    """Show the journal of a session: what was said, what followed, what was refused."""
    import msgspec

    from hubstate import journal, overview, settings
    from hubstate.cli.screen import Screen, say

    folder = overview.find(session, overview.folders(settings.resolve(), directory))
    screen = Screen()
    damaged = False
    day = ""
    for entry in journal.read(folder):
        match entry.line:
            case journal.Step() as step if as_json:
                screen.line(msgspec.json.encode(step).decode())
            case journal.Step() as step:
                day = _heading(screen, step, day)
                _tell(screen, step)
            case journal.Damage() as damage:
                damaged = True
                (say if as_json else screen.line)(_damage(screen, damage, plain=as_json))
            case journal.Head():
                pass  # a memory, and no step
    end(NOT_DONE if damaged else 0)


def _damage(screen: Screen, damage: Damage, *, plain: bool) -> str:
    place = f"{damage.file} line {damage.line}" if damage.line else damage.file
    text = f"damaged: {place}: {damage.what}"
    return text if plain else screen.paint(f"!! {text}", "red")


def _heading(screen: Screen, step: Step, day: str) -> str:
    """On a terminal the day stands above its steps; in a pipe each line tells it."""
    today = datetime.fromtimestamp(step.event.at).astimezone().strftime("%Y-%m-%d")
    if screen.width is not None and today != day:
        screen.line(screen.paint(f"{today}, attempt {step.attempt}", "bold"))
    return today


def _tell(screen: Screen, step: Step) -> None:
    from hubstate.cli.screen import clean
    from hubstate.events import name_of

    moment = datetime.fromtimestamp(step.event.at).astimezone()
    time = moment.isoformat(" ", "milliseconds") if screen.width is None else f"{moment:%H:%M:%S.%f}"[:-3]
    moved = step.source is not step.target
    parts = [f"{step.source.value} → {step.target.value}"] if moved else []
    parts += _fields(step.event)
    if step.actions:
        parts.append("⇒ " + ", ".join(_action(action) for action in step.actions))
    if step.refusal:
        parts.append(f"{'✗ illegal' if step.illegal else '· held back'}: {step.refusal}")
    start = f"{step.n:>5}  {time}  {step.attempt}  {name_of(step.event):{_EVENT_WIDTH}}  "
    style = "red" if step.illegal else "green" if moved else "dim" if step.refusal else ""
    first, *more = screen.wrapped(clean(" ".join(parts)), " " * 10, start)
    name = len(start) - _EVENT_WIDTH - 2
    screen.line(
        screen.paint(first[:name], "dim")
        + screen.paint(first[name : len(start)], "cyan")
        + screen.paint(first[len(start) :], style)
    )
    for line in more:
        screen.line(screen.paint(line, style))


def _fields(event: Any) -> list[str]:
    """The fields of an event that say something, metrics by their names."""
    told = []
    values = {name: getattr(event, name) for name in event.__struct_fields__ if name not in _LEFT_OUT}
    nonfinite = values.pop("nonfinite", {})
    optional = event.__struct_fields__[-len(event.__struct_defaults__) or len(event.__struct_fields__) :]
    defaults = dict(zip(optional, event.__struct_defaults__, strict=True))
    for name, value in values.items():
        if name == "key":
            told.append(value.partition("/")[2])  # behind the session's id
        elif name == "path":
            told.append(Path(value).name)
        elif name == "metrics":
            told += [f"{metric}={nonfinite.get(metric, _plain(number))}" for metric, number in value.items()]
        elif value != defaults.get(name) and value not in ("", None, {}, ()):
            told.append(f"{name}={_plain(value)}")
    return told


def _plain(value: Any) -> str:
    """A value in one word, if it has one."""
    if hasattr(value, "path"):  # a saved file
        return Path(value.path).name
    if hasattr(value, "value"):  # a state, an outcome, a kind
        return str(value.value)
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)


def _action(action: Any) -> str:
    from hubstate.actions import KeepCheckpoint, OpenSession, SendCheckpoint, SendRows

    name = type(action).__name__
    match action:
        case OpenSession():
            return f"{name}(attempt {action.attempt}, from epoch {action.first_epoch})"
        case SendRows():
            return f"{name}({action.first}-{action.last})"
        case KeepCheckpoint() | SendCheckpoint():
            return f"{name}({action.kind.value}, epoch {action.epoch}, {action.size} bytes)"
        case _:
            return name
