"""`hubstate check`: every world within a bound, over the decisions that run, and whether a property fails in one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hubstate.cli.ends import NOT_DONE, end

if TYPE_CHECKING:
    from hubstate.diagram import Taken
    from hubstate.proof.check import Move, Search

__all__ = ["check"]


def check(
    *,
    quick: Annotated[bool, typer.Option("--quick", help="a smaller bound, in a few seconds")] = False,
    planted: Annotated[
        bool,
        typer.Option(
            "--planted", help="show that the search bites: search each of the known mistakes instead"
        ),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="FILE", help="draw the way to what fails, as SVG, if something does"
        ),
    ] = None,
) -> None:
    """Search every session within a bound for one that breaks a promise.

    Rows, checkpoints, attempts, outages, lost acknowledgements, refusals, crashes and aborts come in every order that
    the bound allows. What is judged is the code that runs, not a copy of it.
    """
    from hubstate.cli.screen import Screen, say
    from hubstate.errors import UsageError
    from hubstate.proof.check import FULL, QUICK
    from hubstate.proof.check import check as search

    if planted:
        if output is not None:
            raise UsageError(
                "--output draws the way to what fails; with --planted every search is meant to fail"
            )
        end(0 if _bites(Screen().line) else NOT_DONE)
    report = search(
        QUICK if quick else FULL,
        processes=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        show=lambda found: say(f"{found.name}: {found.states} states searched"),
    )
    Screen().line(str(report))
    failed = report.failed
    if failed is not None and output is not None:
        _draw(failed, output)
        say(f"the way there is drawn in {output}")
    end(0 if failed is None else NOT_DONE)


def _bites(line: Callable[[str], None]) -> bool:
    """Searches each planted mistake; prints which property finds it, and tells whether all are found."""
    from hubstate.proof.check import QUICK
    from hubstate.proof.check import check as search
    from hubstate.proof.planted import PLANTED

    missed = 0
    for name, plant in PLANTED.items():
        failed = search(QUICK, rig=plant.rig).failed
        if failed is None or failed.violated is None:
            missed += 1
            line(f"{name}: NOT FOUND")
        else:
            line(f"{name}: {failed.violated.name} after {len(failed.trace)} moves")
    line(f"{len(PLANTED) - missed} of {len(PLANTED)} planted mistakes found")
    return missed == 0


def _draw(failed: Search, output: Path) -> None:
    from hubstate.diagram import render
    from hubstate.errors import StorageError

    assert failed.violated is not None
    title = f"{failed.violated.name} is violated: {failed.violated.what}"
    try:
        output.write_text(render("svg", _steps(failed.trace), title=title), encoding="utf-8")
    except OSError as error:
        raise StorageError(f"cannot write {output}: {error.strerror}") from error


def _steps(trace: Iterable[Move]) -> Iterator[Taken]:
    """The decisions of a trace as steps: each begins where the one before it ended, an attempt in `idle`."""
    from hubstate.diagram import Taken
    from hubstate.events import PretrainRoutineStart, name_of
    from hubstate.states import State

    state = State.IDLE
    for move in trace:
        for decision in move.decisions:
            refusal = decision.refusal
            begins = isinstance(decision.event, PretrainRoutineStart) and refusal is None
            source = refusal.state if refusal is not None else State.IDLE if begins else state
            state = decision.memory.state
            yield Taken(
                source=source.value,
                event=name_of(decision.event),
                target=state.value,
                guards=decision.guards,
                illegal=refusal is not None and refusal.illegal,
                held=refusal is not None and not refusal.illegal,
            )
