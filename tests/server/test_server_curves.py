"""Curves: whatever arrives in whatever order, a layout holds what is in force, and only grows within a generation."""

from __future__ import annotations

import contextlib
import itertools
import math
import random
import sqlite3
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import insert, update

from hubstate.errors import StorageError
from hubstate.server import columns, curves, sessions
from hubstate.server import rows as rows_room
from hubstate.server.curves import Curves, Layout
from hubstate.server.pages.counts import Counts
from hubstate.server.rows import RowIn
from hubstate.server.schema import attempts, rows
from hubstate.server.store import Store


class Bench:
    """A store with one session, and its curves."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(folder / "hub")
        self.path = folder / "curves.sqlite"
        self.curves = Curves(self.path, self.store.database)
        self.attempt(1)

    def close(self) -> None:
        self.curves.close()
        self.store.close()

    def attempt(self, number: int, first_epoch: int = 0, session: str = "S") -> None:
        told = {"opened_at": 0.0, "state": "training", "outcome": "running", "reason": ""}
        with self.store.database.writing() as connection:
            connection.execute(
                insert(attempts).values(session=session, attempt=number, first_epoch=first_epoch, **told)
            )

    def keep(self, *new: RowIn, session: str = "S") -> None:
        with self.store.database.writing() as connection:
            rows_room.keep(connection, session, new, 0.0)

    def lay_out(self, session: str = "S") -> Layout:
        return self.curves.lay_out(session)

    def drawn(self, session: str = "S") -> dict[str, list[tuple[float, float | None]]]:
        """All points of all curves, by name."""
        told = {}
        for curve in self.lay_out(session).curves:
            points = self.curves.points(session, curve.id, -math.inf, math.inf, 10**6)
            assert points is not None
            assert len(points.x) == points.of == curve.length
            told[curve.name] = list(zip(points.x, points.y, strict=True))
        return told

    def expected(self, session: str = "S") -> dict[str, list[tuple[float, float | None]]]:
        """The same from the rows in force themselves."""
        with self.store.database.reading() as connection:
            in_force = rows_room.in_force(connection, session)
        by_epoch: dict[str, list[tuple[float, float | None]]] = {}
        by_step: dict[str, list[tuple[float, float | None, int]]] = {}
        for position, row in enumerate(in_force):
            for name, value in row["metrics"].items():
                if row["final"]:
                    continue
                if row["step"] is None:
                    by_epoch.setdefault(name, []).append((row["epoch"], value))
                else:
                    by_step.setdefault(name, []).append((row["step"], value, position))
        for name, told in by_step.items():
            steps = [step for step, _, _ in told]
            rising = all(a < b for a, b in pairwise(steps))
            by_epoch.setdefault(name, [(step if rising else position, y) for step, y, position in told])
        return by_epoch


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.close()


def row(
    epoch: int, step: int | None = None, attempt: int = 1, *, final: bool = False, **metrics: Any
) -> RowIn:
    return RowIn(attempt, epoch, step, final, 1.0, metrics, {})


told_rows = st.lists(
    st.builds(
        row,
        st.integers(0, 4),
        st.none() | st.integers(0, 6),
        st.integers(1, 3),
        final=st.booleans(),
        a=st.none() | st.integers(-9, 9),
    )
    | st.builds(row, st.integers(0, 4), st.none() | st.integers(0, 6), st.integers(1, 3), b=st.floats(-1, 1)),
    max_size=12,
)


@settings(deadline=None, max_examples=40)
@given(
    parts=st.lists(st.tuples(told_rows, st.none() | st.integers(0, 5)), min_size=1, max_size=4),
    ordered=st.booleans(),
)
def test_a_layout_holds_what_is_in_force(
    parts: list[tuple[list[RowIn], int | None]], ordered: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever rows and attempts come in whatever order, with looks in between, the curves are those of the rows in force."""
    bench = Bench(tmp_path_factory.mktemp("bench"))
    seen: list[tuple[Layout, dict[str, list[tuple[float, float | None]]]]] = []
    number = 1
    for told, first_epoch in parts:
        if first_epoch is not None and number < 3:
            number += 1
            bench.attempt(number, first_epoch)
        bench.keep(
            *(sorted(told, key=lambda one: (one.epoch, one.step is None, one.step or 0)) if ordered else told)
        )
        drawn = bench.drawn()
        assert drawn == bench.expected()
        layout = bench.lay_out()
        for before, had in seen:
            if before.generation == layout.generation:  # a page that saw it only needs what is beyond
                assert all(drawn[name][: len(points)] == points for name, points in had.items())
                tails = bench.curves.tail("S", layout.generation, before.length, layout.length, 10**6)
                assert tails is not None
                for curve in layout.curves:
                    new = drawn[curve.name][len(had.get(curve.name, [])) :]
                    tail = tails.get(curve.id)
                    assert (list(zip(tail.x, tail.y, strict=True)) if tail else []) == new
                    assert tail is None or tail.whole == (curve.name not in had)
        seen.append((layout, drawn))
    bench.close()


def test_rows_that_come_in_order_stay_one_generation(bench: Bench) -> None:
    """What is told in order is appended; a resumed attempt that takes nothing back, too."""
    generations = set()
    for epoch in range(5):
        bench.keep(row(epoch, 2 * epoch, a=epoch), row(epoch, 2 * epoch + 1, a=epoch), row(epoch, b=epoch))
        bench.keep(row(epoch, a=1), session="other")
        generations.add(bench.lay_out().generation)
    bench.attempt(2, first_epoch=5)
    bench.keep(row(5, 10, attempt=2, a=7))
    layout = bench.lay_out()
    assert generations == {layout.generation}
    points = bench.curves.points("S", 0, -math.inf, math.inf, 100)
    assert points is not None
    assert points.attempts == [(0.0, 1), (10.0, 2)]


def test_a_curve_that_grows_while_it_is_told_begins_all_the_same(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is added between two looks at the file hides from nobody that a curve is a new one."""
    bench.keep(row(0, a=1))
    before = bench.lay_out()
    bench.keep(row(1, a=1, b=1))
    after = bench.lay_out()
    drafts = list(bench.curves._drafts("S"))
    bench.keep(row(2, a=1, b=2))
    bench.lay_out()
    monkeypatch.setattr(bench.curves, "_drafts", lambda _session: iter(drafts))
    tails = bench.curves.tail("S", after.generation, before.length, after.length, 100)
    assert tails is not None
    assert {curve.name: tails[curve.id].whole for curve in after.curves} == {"a": False, "b": True}
    assert all(tail.x == [1.0] for tail in tails.values())


def test_curves_of_a_session_that_was_removed_go_too(bench: Bench) -> None:
    """What is laid out of a session that the database holds no more is removed from the file; the rest stays."""
    told = {"name": "S", "epochs": 9, "project": None, "group": None, "tags": [], "config": {}}
    with bench.store.database.writing() as connection:
        rows_told = {"attempt": 1, "first_epoch": 0, "body": {}, "told": told, "now": 2.0}
        sessions.new_attempt(connection, "default", "kept", **rows_told)
    assert bench.curves.sweep() == 0
    assert not bench.path.exists()  # nothing was laid out, and nothing is made to look
    bench.keep(row(0, a=1))
    bench.keep(row(0, a=1), session="kept")
    bench.lay_out()
    bench.lay_out("kept")
    assert bench.curves.sweep() == 1
    with sqlite3.connect(bench.path) as file:
        for table in ("layouts", "curves", "blocks"):
            assert file.execute(f"SELECT DISTINCT session FROM {table}").fetchall() == [("kept",)]
    file.close()
    assert bench.curves.sweep() == 0


@pytest.mark.parametrize(
    "change",
    [
        lambda bench: bench.keep(row(1, a=5)),
        lambda bench: bench.keep(row(4, a=5, c=1)),
        lambda bench: bench.attempt(2, first_epoch=2),
    ],
    ids=["late", "merged", "taken-back"],
)
def test_what_changes_what_was_in_force_begins_a_generation(bench: Bench, change: Any) -> None:
    """A late row, one that merges, and an attempt that takes epochs back make what was laid out anew."""
    bench.keep(*(row(epoch, a=epoch) for epoch in (0, 2, 3, 4)))
    before = bench.lay_out()
    change(bench)
    assert bench.lay_out().generation != before.generation
    assert bench.drawn() == bench.expected()
    assert bench.curves.tail("S", before.generation, before.length, before.length, 9) is None


@pytest.mark.parametrize("late", [False, True], ids=["appended", "made anew"])
def test_a_full_disk_takes_nothing_away(bench: Bench, monkeypatch: pytest.MonkeyPatch, late: bool) -> None:
    """Where the file cannot grow, what was laid out stays and is still told, and the rest follows once there is room."""
    bench.keep(*(row(epoch, a=epoch) for epoch in range(5)))
    before = bench.lay_out()
    bench.curves.close()
    opened = curves._open

    def small(path: Path) -> sqlite3.Connection:
        file = opened(path)
        (pages,) = file.execute("PRAGMA page_count").fetchone()
        file.execute(f"PRAGMA max_page_count = {pages}")
        return file

    bench.keep(*(row(epoch, **{f"m{name}": 1.0 for name in range(400)}) for epoch in range(5, 25)))
    if late:
        bench.keep(row(0, b=1.0))
    with monkeypatch.context() as patch:
        patch.setattr(curves, "_open", small)
        with pytest.raises(StorageError, match="full"):
            bench.lay_out()
        assert bench.curves.layout("S") == before
        bench.curves.close()
    assert bench.drawn() == bench.expected()


def test_many_rows_are_laid_out_in_blocks_and_found_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Far more rows than a block or a batch holds come back whole, in one go or piece by piece; memory stays bounded."""
    monkeypatch.setattr("hubstate.server.curves._HELD", 1000)
    chance = random.Random(0)
    told = [row(n // 100, n, **{f"m{n % 3}": chance.random(), "all": chance.random()}) for n in range(9000)]
    bench.keep(*told[:5000])
    assert bench.drawn() == bench.expected()
    for begin in range(5000, 9000, 700):
        bench.keep(*told[begin : begin + 700])
        bench.lay_out()
    assert bench.drawn() == bench.expected()
    bench.keep(row(0, all=1.0))  # from now on epochs tell this metric
    assert bench.drawn() == bench.expected()


def test_of_many_points_the_extremes_and_the_gaps_are_kept(bench: Bench) -> None:
    """Thinned out, a line keeps its highest and lowest values and shows where there was none."""
    values = [math.sin(n / 50) for n in range(20_000)]
    values[777], values[778] = 9.0, -9.0
    bench.keep(*(row(n, a=None if n == 5000 else value) for n, value in enumerate(values)))
    (curve,) = bench.lay_out().curves
    points = bench.curves.points("S", curve.id, -math.inf, math.inf, 200)
    assert points is not None
    finite = [y for y in points.y if y is not None]
    assert (min(finite), max(finite)) == (-9.0, 9.0)
    assert points.y[list(points.x).index(5000.0)] is None
    assert list(points.x) == sorted(points.x)
    assert len(points.x) <= 600
    assert max(abs(y or 0) for y in points.middle_y) < 9


class Told(NamedTuple):
    """A line of many points, and a stretch of it that somebody looks at."""

    count: int
    chance: int
    #: How far each step lies from the one before; 0: steps begin anew, so they are drawn over their own number.
    apart: int
    #: How many in a hundred rows tell no value, or nothing of this line.
    gaps: int
    others: int
    resumed: set[int]
    low: float
    high: float
    parts: int


lines = st.builds(
    Told,
    st.integers(1, 250),
    st.integers(0, 2**32),
    st.integers(0, 3),
    st.sampled_from([0, 2, 30]),
    st.sampled_from([0, 30, 80]),
    st.sets(st.integers(1, 249), max_size=4),
    st.just(-math.inf) | st.integers(-5, 300).map(float),
    st.just(math.inf) | st.integers(-5, 300).map(float),
    st.integers(1, 9) | st.integers(10, 60),
)


@given(told=lines)
@settings(deadline=None, max_examples=200)
def test_a_stretch_of_any_line_is_told_truly(told: Told, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Thinned out or not, from groups or from points: only points that are there, the highest and the lowest of what is
    looked at among them, gaps where there were any, one point beyond either end, and where each attempt began.
    """
    chance = random.Random(told.chance)
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.closing(Bench(tmp_path_factory.mktemp("bench"))) as bench,
    ):
        for room in (curves, columns):
            patch.setattr(room, "GROUP", 4)
            patch.setattr(room, "BLOCK", 8)
        attempt, new, tellers = 1, [], []
        for n in range(told.count):
            if n in told.resumed:
                attempt += 1
                bench.attempt(attempt, first_epoch=n)
            step = n * told.apart if told.apart else n % 7
            if n and chance.random() * 100 < told.others:
                new.append(row(n, step, attempt=attempt, b=1.0))
                continue
            value = None if chance.random() * 100 < told.gaps else chance.uniform(-9, 9)
            new.append(row(n, step, attempt=attempt, a=value))
            tellers.append(attempt)
        bench.keep(*new)
        (curve,) = (one for one in bench.lay_out().curves if one.name == "a")
        points = bench.curves.points("S", curve.id, told.low, told.high, told.parts)
        assert points is not None
        line = bench.expected()["a"]
    inside = [n for n, (x, _) in enumerate(line) if told.low <= x <= told.high]
    shown = dict(zip(points.x, points.y, strict=True))
    assert len(inside) <= points.of <= len(inside) + 2 * 4
    assert list(points.x) == sorted(shown)
    assert shown.items() <= dict(line).items()
    finite = [y for n in inside if (y := line[n][1]) is not None]
    told_values = [y for y in shown.values() if y is not None]
    if finite:
        assert min(told_values) <= min(finite)
        assert max(told_values) >= max(finite)
    if points.middle_x:
        assert len(points.middle_x) == len(points.middle_y) <= told.parts
        assert len(points.x) <= 3 * told.parts
        assert None in shown.values() or all(line[n][1] is not None for n in inside)
    elif inside:
        wanted = line[max(0, inside[0] - 1) : inside[-1] + 2]
        assert {x for x, _ in wanted} <= shown.keys()
    begins = [n for n, teller in enumerate(tellers) if n == 0 or tellers[n - 1] != teller]
    assert points.attempts == [(line[n][0], tellers[n]) for n in begins]


def test_big_numbers_have_a_mean(bench: Bench) -> None:
    """Values whose sum no number can hold still have their mean."""
    bench.keep(*(row(n, a=1.5e308) for n in range(100)))
    points = bench.curves.points("S", bench.lay_out().curves[0].id, -math.inf, math.inf, 10)
    assert points is not None
    assert all(y is not None and math.isclose(y, 1.5e308) for y in points.middle_y)


@pytest.mark.parametrize("damage", [b"", b"no database at all" * 500], ids=["gone", "garbage"])
def test_a_file_that_is_lost_or_damaged_is_made_anew(bench: Bench, damage: bytes) -> None:
    """The columns are a copy: without them, or with garbage in their place, the next look makes them again."""
    bench.keep(*(row(n, a=n) for n in range(10)))
    bench.lay_out()
    bench.curves.close()
    for path in bench.path.parent.glob("curves.sqlite*"):
        path.unlink()
    if damage:
        bench.path.write_bytes(damage)
    assert bench.drawn() == bench.expected()


def test_a_file_that_breaks_while_it_is_open_is_made_anew(bench: Bench) -> None:
    """What was written by nobody is found out when it is met, and replaced."""
    bench.keep(*(row(n, a=n) for n in range(10)))
    bench.lay_out()
    with sqlite3.connect(bench.path) as other:
        other.execute("DROP TABLE blocks")
    other.close()
    assert bench.curves.points("S", 0, -math.inf, math.inf, 10) is None or bench.drawn() == bench.expected()
    bench.keep(row(10, a=10))
    assert bench.drawn() == bench.expected()


def test_a_session_of_the_same_id_that_is_another_one_is_laid_out_anew(bench: Bench) -> None:
    """Deleted for good and begun again under its id, or a database put back to an earlier state: nothing old is shown."""
    bench.keep(row(0, a=1), row(1, a=2))
    bench.lay_out()
    with bench.store.database.writing() as connection:
        connection.execute(rows.delete())
    bench.keep(row(0, a=5), row(1, a=6), row(2, a=7))
    assert bench.drawn() == {"a": [(0.0, 5.0), (1.0, 6.0), (2.0, 7.0)]}
    with bench.store.database.writing() as connection:
        connection.execute(update(rows).where(rows.c.epoch == 0).values(metrics={"a": 8}))
    with bench.store.database.writing() as connection:
        told = {"name": "S", "epochs": 9, "project": None, "group": None, "tags": [], "config": {}}
        rows_told = {"attempt": 1, "first_epoch": 0, "body": {}, "told": told, "now": 2.0}
        sessions.new_attempt(connection, "default", "S", **rows_told)
    assert bench.drawn()["a"][0] == (0.0, 8.0)


def test_numbers_that_are_given_again_hide_no_row(bench: Bench) -> None:
    """Rows that take the numbers of removed ones are laid out and counted like all others."""
    counts = Counts()

    def counted() -> int:
        with bench.store.database.reading() as connection:
            told: Any = {"id": "S", "created_at": 0.0, "last_contact": float(next(heard))}
            return counts.of(connection, told, rows_room.newest_of_all(connection))

    heard = itertools.count()
    bench.keep(row(0, a=0))
    for number in range(3):
        bench.keep(*(row(epoch, a=1) for epoch in range(50)), session=f"other{number}")
        assert bench.drawn() == bench.expected()
        assert counted() == 1 + 40 * number
        with bench.store.database.writing() as connection:
            connection.execute(rows.delete().where(rows.c.session != "S"))
        bench.keep(*(row(1 + 40 * number + more, a=2) for more in range(40)))
        assert counted() == len(bench.drawn()["a"]) == 1 + 40 * (number + 1)
        assert bench.drawn() == bench.expected()


def test_the_newest_rows_are_those_of_all_rows(bench: Bench) -> None:
    """The last rows in force, found without the others, are the end of all rows in force."""
    chance = random.Random(1)
    for attempt, first in ((2, 3), (3, 5)):
        bench.attempt(attempt, first)
    told = [
        row(
            chance.randrange(8),
            chance.choice([None, 0, 1, 2]),
            chance.randrange(1, 4),
            final=chance.random() < 0.1,
            a=n,
        )
        for n in range(200)
    ]
    bench.keep(*told)
    with bench.store.database.reading() as connection:
        every = rows_room.in_force(connection, "S")
        for most in (1, 5, 20, 1000):
            assert rows_room.newest_in_force(connection, "S", most) == every[-most:]
