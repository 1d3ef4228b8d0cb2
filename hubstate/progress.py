"""A training as a person watches it: what its journal tells, on a terminal while it goes on, in a pipe line by line.

Nothing is shown that was only meant to happen. `Story` reads the session's journal on as it grows: the states that
the newest attempt went through and the newest row of an epoch are what was written there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from hubstate.events import FitEpochEnd, PretrainRoutineStart
from hubstate.journal import Position, Step, read
from hubstate.plain import clean, clean_lines
from hubstate.receipt import Receipt
from hubstate.states import TERMINAL_STATES, State

__all__ = ["Show", "Story"]

#: How wide the first column is, and at most the bar.
_LABEL, _BAR = 13, 40


class Story:
    """What the journal in a session's folder tells. Threads may share it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._position = Position()
        self._attempt = 0
        self._lock = threading.Lock()
        #: The states that the newest attempt has been in, in order.
        self.states: tuple[State, ...] = ()
        #: What the newest attempt was begun with.
        self.config: Mapping[str, Any] = {}
        #: The newest row of an epoch, of whichever attempt.
        self.row: FitEpochEnd | None = None

    def read_on(self) -> Story:
        """Reads what was written since the last time. Raises `StorageError` if the journal cannot be read."""
        with self._lock:
            for entry in read(self._folder, self._position):
                self._position = entry.position
                if isinstance(entry.line, Step):
                    self._take(entry.line)
        return self

    def _take(self, step: Step) -> None:
        if step.attempt != self._attempt or not self.states:
            self._attempt = step.attempt
            self.states = (step.source,)
        if step.target is not self.states[-1]:
            self.states += (step.target,)
        if isinstance(step.event, PretrainRoutineStart):
            self.config = step.event.config
        if isinstance(step.event, FitEpochEnd):
            self.row = step.event


class Show:
    """Where the words go. On a terminal `live` repaints a few lines; elsewhere `epoch` writes one at a time."""

    def __init__(self, out: TextIO) -> None:
        self._console = Console(file=out, highlight=False, markup=False, emoji=False)
        self.is_live = self._console.is_terminal and not self._console.is_dumb_terminal
        self._arrow = " → " if _can_say("→", out) else " -> "
        self._shown: tuple[State, ...] = ()

    def say(self, text: str = "", style: str = "") -> None:
        """A line as it is; the terminal breaks it if it is too long, so that it can be copied whole."""
        self._console.print(Text(clean_lines(text), style), soft_wrap=True)

    def fact(self, label: str, text: str, style: str = "") -> None:
        """A line with a label."""
        line = Text.assemble((f"{label:<{_LABEL}}", "dim"), (clean(text), style))
        self._console.print(line, soft_wrap=True)

    @contextmanager
    def live(self, story: Story, epochs: int | None, receipt: Callable[[], Receipt]) -> Iterator[None]:
        """Shows how far a training is while the block lasts, and leaves the last of it standing."""
        if not self.is_live:
            yield
            self.states(story.read_on().states)
            return
        screen = _Screen(self, story, epochs, receipt)
        # Whatever else writes to the terminal meanwhile is put above the live lines.
        with Live(screen, console=self._console, refresh_per_second=12):
            yield

    def epoch(self, story: Story, epochs: int | None, receipt: Receipt) -> None:
        """After an epoch: its line, where no live screen shows it."""
        row = story.read_on().row
        if self.is_live or row is None:
            return
        self.states(story.states)
        self.say(
            f"epoch {row.epoch + 1:>2}{'' if epochs is None else f' of {epochs}'}   {figures(row)}   "
            f"{receipt.rows_delivered} of {receipt.rows} rows acknowledged"
        )

    def states(self, states: tuple[State, ...]) -> None:
        """The states that came since they were shown last, from the last one that was shown."""
        if states and states != self._shown:
            # The same attempt, further on? Then its beginning is on the screen already.
            told = len(self._shown) if states[: len(self._shown)] == self._shown else 0
            self.fact("states", self.path(states[max(0, told - 1) :]))
            self._shown = states

    def path(self, states: tuple[State, ...]) -> str:
        """The states as a way from left to right."""
        return self._arrow.join(state.value for state in states)


def figures(row: FitEpochEnd) -> str:
    """What an epoch measured, for people."""
    loss, accuracy = row.metrics.get("train/loss"), row.metrics.get("test/accuracy")
    words = [] if loss is None else [f"loss {loss:.4f}"]
    words += [] if accuracy is None else [f"test accuracy {accuracy:.1%}"]
    return "   ".join(words)


class _Screen:
    """The live lines; drawn anew from the journal and the receipt at every look."""

    def __init__(self, show: Show, story: Story, epochs: int | None, receipt: Callable[[], Receipt]) -> None:
        self._show = show
        self._story = story
        self._epochs = epochs
        self._receipt = receipt

    def __rich__(self) -> RenderableType:
        story, receipt = self._story.read_on(), self._receipt()
        row = story.row
        finished = 0 if row is None else row.epoch + 1
        bar = Table.grid(padding=(0, 2))
        bar.add_row(
            f"{finished:>2}{'' if self._epochs is None else f' of {self._epochs}'}",
            ProgressBar(total=self._epochs or finished or 1, completed=finished, width=_BAR),
        )
        files = receipt.files_delivered + receipt.files_waiting
        lines = Table.grid()
        lines.add_column(style="dim", width=_LABEL)
        lines.add_column()
        lines.add_row("epoch", bar)
        lines.add_row("measured", "nothing yet" if row is None else figures(row))
        lines.add_row("states", self._way(story.states))
        lines.add_row(
            "acknowledged",
            f"{receipt.rows_delivered} of {receipt.rows} rows, {receipt.files_delivered} of {files} checkpoints",
        )
        return lines

    def _way(self, states: tuple[State, ...]) -> Text:
        way = Text(self._show.path(states))
        if states:
            style = "bold green" if states[-1] in TERMINAL_STATES else "bold cyan"
            way.stylize(style, len(way) - len(states[-1].value))
        return way


def _can_say(text: str, out: TextIO) -> bool:
    try:
        text.encode(getattr(out, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True
