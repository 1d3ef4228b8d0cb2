"""`hubstate simulate`: whole worlds from seeds, the real stack in each, and whether everything held in all of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from hubstate.cli.ends import NOT_DONE, end, extra

if TYPE_CHECKING:
    from hubstate.cli.screen import Screen
    from hubstate.proof.simulate import Report, Run

__all__ = ["simulate"]


def simulate(
    *,
    seed: Annotated[
        int | None, typer.Option("--seed", metavar="N", help="the first seed (default: one drawn now)")
    ] = None,
    runs: Annotated[
        int, typer.Option("--runs", metavar="N", min=1, help="how many seeds, one after the other")
    ] = 1,
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", metavar="N", min=1, help="in how many processes (default: one a core)"),
    ] = None,
    story: Annotated[
        bool, typer.Option("--story", help="tell what happened in each run, line by line")
    ] = False,
) -> None:
    """Run the whole stack in simulated worlds: crashes, lost answers, full disks, outages of days, in virtual time.

    The same seed gives the same run. In each, everything that a trainer recorded has to be at the hub in the end.
    """
    from hubstate.cli.screen import Screen, say
    from hubstate.proof.simulate import ENOUGH_RUNS, Report
    from hubstate.proof.simulate import runs as simulated

    with extra("server"):
        import hubstate.proof.network  # noqa: F401 - what is missing is named before anything runs

    first = int.from_bytes(os.urandom(4)) if seed is None else seed
    screen, report = Screen(), Report()
    screen.line(f"seeds {first} to {first + runs - 1}")
    for done, one in enumerate(simulated(first, runs, jobs or os.cpu_count() or 1, stories=story), 1):
        report.add(one)
        if story:
            _tell(screen, one)
        if one.failure:
            say(
                f"seed {one.seed} failed: {one.failure}; see it again: hubstate simulate --seed {one.seed} --story"
            )
        if done % 100 == 0:
            say(f"{done} of {runs} runs, {len(report.failed)} failed")
    if runs == 1:
        screen.line(f"digest {report.runs[0].digest}")
    _coverage(screen.line, report)
    screen.line(str(report))
    if report.uncovered and runs >= ENOUGH_RUNS:
        say(f"never happened: {', '.join(report.uncovered)}")
    end(0 if report.holds else NOT_DONE)


def _tell(screen: Screen, one: Run) -> None:
    screen.line(f"seed {one.seed}")
    for line in one.story:
        screen.line(line)


def _coverage(line: Callable[[str], None], report: Report) -> None:
    """Prints how often each thing happened, row by row of the table first."""
    from hubstate.proof.simulate import MUST_COVER, row_name

    rest = sorted(set(report.counts) - set(MUST_COVER))
    for name in (*MUST_COVER, *rest):
        line(f"{report.counts[name]:10,d}  {row_name(name)}")
