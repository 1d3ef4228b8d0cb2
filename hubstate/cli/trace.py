"""`hubstate trace`: a session's journal, step by step."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
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
_SECONDS = {"s": 1, "min": 60, "m": 60, "h": 3_600, "d": 86_400}
#: A kind that tells what became of a step, and not who spoke.
_REFUSALS, _MOVES = "refusals", "moves"


def trace(
    session: Annotated[
        str,
        typer.Argument(metavar="SESSION", help="an id, the beginning of one, or a name (the newest of it)"),
    ],
    *,
    kinds: Annotated[
        list[str] | None,
        typer.Option(
            "--kind",
            metavar="KIND",
            help="only steps of this kind, again for another: an event (fit_epoch_end), who spoke "
            "(trainer, usage, caller, clock, hub), or moves or refusals",
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="only from then on: 2026-11-25T21:30, 21:30, or 10min (s, min, h, d) ago"
        ),
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="only up to then, in the same words")
    ] = None,
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
    from hubstate.clock import SystemClock

    now = SystemClock().wall()
    wanted = _Wanted(kinds or (), _time("--since", since, now), _time("--until", until, now))
    folder = overview.find(session, overview.folders(settings.resolve(), directory))
    screen = Screen()
    damaged = False
    above = ("", 0)
    for entry in journal.read(folder):
        match entry.line:
            case journal.Step() as step if not wanted.takes(step):
                pass
            case journal.Step() as step if as_json:
                screen.line(msgspec.json.encode(step).decode())
            case journal.Step() as step:
                above = _heading(screen, step, above)
                _tell(screen, step)
            case journal.Damage() as damage:
                damaged = True
                (say if as_json else screen.line)(_damage(screen, damage, plain=as_json))
            case journal.Head():
                pass  # a memory, and no step
    end(NOT_DONE if damaged else 0)


# -- which steps -----------------------------------------------------------------------------------------


class _Wanted:
    """Which steps are shown. Damaged lines always are: nobody knows what they said."""

    def __init__(self, kinds: Sequence[str], since: float | None, until: float | None) -> None:
        """Raises `UsageError` for a kind that does not exist."""
        from hubstate import events
        from hubstate.errors import UsageError

        groups = {
            "trainer": events.TRAINER_EVENTS,
            "usage": events.USAGE_EVENTS,
            "caller": events.CALLER_EVENTS,
            "clock": events.CLOCK_EVENTS,
            "hub": events.HUB_EVENTS,
        }
        names = {events.name_of(event): (event,) for event in events.EVENTS}
        known: dict[str, tuple[type[events.Event], ...]] = groups | names
        for kind in kinds:
            if kind not in (*known, _MOVES, _REFUSALS):
                raise UsageError(
                    f"there is no kind {kind!r}; known: {', '.join((*groups, _MOVES, _REFUSALS))}, and the events "
                    f"{', '.join(names)}"
                )
        self._events = tuple(event for kind in kinds for event in known.get(kind, ()))
        self._moves, self._refusals = _MOVES in kinds, _REFUSALS in kinds
        self._all = not kinds
        self._since, self._until = since, until

    def takes(self, step: Step) -> bool:
        """Whether a step is wanted."""
        if self._since is not None and step.event.at < self._since:
            return False
        if self._until is not None and step.event.at > self._until:
            return False
        return (
            self._all
            or isinstance(step.event, self._events)
            or (self._moves and step.source is not step.target)
            or (self._refusals and bool(step.refusal))
        )


def _time(option: str, text: str | None, now: float) -> float | None:
    """A time (s since 1970) from what people write: a date with or without a time, a time of today, or how long ago.

    Raises `UsageError` for anything else.
    """
    from hubstate.errors import UsageError

    if text is None:
        return None
    ago = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?(s|min|m|h|d)", text)
    if ago:
        return now - float(ago[1]) * _SECONDS[ago[2]]
    today = datetime.fromtimestamp(now).astimezone().date().isoformat()
    of_today = re.fullmatch(r"([0-9]{1,2})(:[0-9]{2}.*)", text)
    try:
        moment = datetime.fromisoformat(f"{today}T{of_today[1]:0>2}{of_today[2]}" if of_today else text)
        return moment.timestamp()  # without a zone it is this place's time
    except (
        ValueError,
        OverflowError,
    ) as error:  # the first year begins before any zone can tell
        raise UsageError(
            f"{option} {text!r} is no time: write 2026-11-25T21:30, 21:30 (today), or 10min (s, min, h, d) for how long ago"
        ) from error


# -- how they look ---------------------------------------------------------------------------------------


def _damage(screen: Screen, damage: Damage, *, plain: bool) -> str:
    place = f"{damage.file} line {damage.line}" if damage.line else damage.file
    text = f"damaged: {place}: {damage.what}"
    return text if plain else screen.paint(f"!! {text}", "red")


def _heading(screen: Screen, step: Step, above: tuple[str, int]) -> tuple[str, int]:
    """On a terminal day and attempt stand above their steps; in a pipe each line tells them."""
    day, _ = _day_and_time(step)
    if screen.width is not None and (day, step.attempt) != above:
        screen.line(screen.paint(f"{day}, attempt {step.attempt}", "bold"))
    return day, step.attempt


def _day_and_time(step: Step) -> tuple[str, str]:
    from hubstate.cli.screen import local

    day, _, time = local(step.event.at, "milliseconds").partition(" ")
    return day, f"{time[:12]:12}"


def _tell(screen: Screen, step: Step) -> None:
    """One step: number, time, attempt, event, where it led, what was said, the guards, and what followed or why not."""
    from hubstate.cli.screen import clean, local
    from hubstate.events import name_of

    time = local(step.event.at, "milliseconds") if screen.width is None else _day_and_time(step)[1]
    moved = step.source is not step.target
    parts = [f"{step.source.value} → {step.target.value}" if moved else f"{step.source.value}:"]
    parts += _fields(step.event)
    if step.guards:
        parts.append(f"[{', '.join(f'{name} {_answer(held)}' for name, held in step.guards.items())}]")
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


def _answer(held: bool) -> str:
    return "yes" if held else "no"


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
    """What is asked for: its key without the session's id, and what the key does not tell."""
    from hubstate.actions import KeepCheckpoint, OpenSession, SendCheckpoint

    key = action.key.partition("/")[2]
    match action:
        case OpenSession():
            return f"{key} (from epoch {action.first_epoch})"
        case KeepCheckpoint() | SendCheckpoint():
            return f"{key} ({action.kind.value}, epoch {action.epoch}, {action.size} bytes)"
        case _:
            return str(key)
