"""A progress bar on stderr while a session is delivered: on a terminal alone, in a pipe nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hubstate.actions import Memory
from hubstate.cli.screen import clean
from hubstate.hubs.base import Hub
from hubstate.receipt import receipt_of

__all__ = ["counting", "delivering"]


@contextmanager
def delivering(name: str, memory: Memory, hub: Hub) -> Iterator[Callable[[Memory], None]]:
    """Shows a bar while the block lasts; the block calls what it gets with the memory after every step."""
    if not sys.stderr.isatty():
        yield lambda _memory: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
    from rich.text import Text

    class Moved(ProgressColumn):
        """What is moving just now, asked anew at each look: a big file is one step."""

        def render(self, task: Task) -> Text:
            del task
            return Text(f"{(hub.moved - begun) / 1e6:.1f} MB")

    begun = hub.moved
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[counts]}"),
        Moved(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(clean(name)[:24], total=None, counts=_counts(memory))

        def show(memory: Memory) -> None:
            receipt = receipt_of(memory)
            settled = receipt.rows - receipt.rows_waiting + receipt.files_delivered
            total = receipt.rows + receipt.files_delivered + receipt.files_waiting
            bar.update(task, completed=settled, total=max(1, total), counts=_counts(memory))

        show(memory)
        yield show


def _counts(memory: Memory) -> str:
    receipt = receipt_of(memory)
    files = receipt.files_delivered + receipt.files_waiting
    return f"rows {receipt.rows_delivered}/{receipt.rows}, files {receipt.files_delivered}/{files}"


@contextmanager
def counting(what: str) -> Iterator[Callable[[int], None]]:
    """Shows how many lines were read while the block lasts; the block calls what it gets with the number."""
    if not sys.stderr.isatty():
        yield lambda _lines: None
        return
    from rich.console import Console

    console = Console(stderr=True)
    with console.status(what) as status:
        yield lambda lines: status.update(f"{what}: {lines:,} lines")
