"""Shared work: it is told in its order, begins where it has to, and ends with the last that is wanted."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from hubstate.errors import HubstateError
from hubstate.proof.together import in_turn

pytestmark = pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="the jobs here are closures"
)


def for_ever() -> int:
    """A job that is never done."""
    threading.Event().wait()
    return -1


def begun(folder: Path, number: int, job: Callable[[], int] | None = None) -> int:
    """Notes that the job of that number began, and does it."""
    (folder / str(number)).touch()
    return number if job is None else job()


def never(_found: int) -> bool:
    return False


@pytest.mark.parametrize("processes", [1, 2, 5])
def test_what_is_found_is_told_in_the_order_of_the_jobs(processes: int) -> None:
    """However many share the work, every job is told once, and in its turn."""
    jobs = {str(number): partial(int, number) for number in range(4)}
    assert list(in_turn(jobs, processes, never)) == [0, 1, 2, 3]
    assert list(in_turn({}, processes, never)) == []
    assert multiprocessing.active_children() == []


def test_behind_the_last_nothing_is_begun_and_what_runs_is_ended(tmp_path: Path) -> None:
    """The largest begins first and the smallest beside it; with the last that is wanted the largest is ended at once."""
    jobs: dict[str, Callable[[], int]] = {str(n): partial(begun, tmp_path, n) for n in range(3)}
    jobs["largest"] = partial(begun, tmp_path, 3, for_ever)
    assert list(in_turn(jobs, 2, lambda found: found == 1)) == [0, 1]
    assert not (tmp_path / "2").exists()
    assert multiprocessing.active_children() == []


def test_what_stands_before_the_last_is_still_told(tmp_path: Path) -> None:
    """A job that is found to be the last while an earlier one runs ends what is behind it, and waits for the earlier one."""
    here, there = multiprocessing.Pipe(duplex=False)

    def waits() -> int:
        return 0 if here.poll(None) else -1

    def tells() -> int:
        there.send("go on")
        return 1

    jobs: dict[str, Callable[[], int]] = {"waits": waits, "tells": tells}
    jobs |= {"behind": partial(begun, tmp_path, 2), "largest": for_ever}
    assert list(in_turn(jobs, 3, lambda found: found == 1)) == [0, 1]
    here.close()
    there.close()
    assert multiprocessing.active_children() == []


def test_whoever_stops_listening_leaves_nobody_at_work() -> None:
    """What is not wanted any more is ended as well."""
    found = in_turn({"one": partial(int, 1), "largest": for_ever}, 2, never)
    assert next(found) == 1
    found.close()  # type: ignore[attr-defined]  # a generator is what it is
    assert multiprocessing.active_children() == []


def test_a_process_that_dies_is_named() -> None:
    """A process that ends before it told anything is an error with its name and what to do, and ends the others."""
    with pytest.raises(HubstateError, match=r"'dies' ended with 3 .* smaller bound"):
        list(in_turn({"dies": lambda: os._exit(3), "largest": for_ever}, 2, never))
    assert multiprocessing.active_children() == []
