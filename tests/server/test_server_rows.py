"""Rows: which of them are in force, whatever arrives when and however often."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hub_client import Client, row
from hypothesis import given, settings
from hypothesis import strategies as st

from hubstate.server import rows as rows_room
from hubstate.server import sessions
from hubstate.server.store import Store


def told(rows: list[dict[str, Any]], *names: str) -> list[tuple[Any, ...]]:
    return [tuple(row[name] for name in names) for row in rows]


def test_a_row_is_read_back_as_it_was_sent(client: Client) -> None:
    """A row keeps its epoch, step, attempt, time, values and the names of what was not finite."""
    client.open()
    sent = row(0, at=1_800_000_001.5, loss=0.5, x=None) | {"nonfinite": {"x": "NaN"}}
    answer = client.rows([sent])
    assert (answer.status_code, answer.json()["data"]) == (200, {"rows": 1})
    assert client.metrics() == [sent]


def test_rows_come_in_order_of_epoch_and_step(client: Client) -> None:
    """Whatever the order of arrival: an epoch's steps, then its row, then its final evaluation."""
    client.open()
    final = row(1, at=9.0, a=5) | {"final": True}
    client.rows([final, row(1, a=4), row(1, a=3) | {"step": 7}, row(0, a=1), row(1, a=2) | {"step": 2}])
    order = told(client.metrics(), "epoch", "step", "final")
    assert order == [(0, None, False), (1, 2, False), (1, 7, False), (1, None, False), (1, None, True)]


@pytest.mark.promise("D20", "C12")
def test_a_final_evaluation_never_replaces_the_row_of_its_epoch(client: Client) -> None:
    """The extra evaluation stands beside the epoch's own row, whose values stay."""
    client.open()
    client.rows([row(4, at=1.0, loss=0.5), row(4, at=2.0, loss=0.1) | {"final": True}])
    assert [r["metrics"] for r in client.metrics()] == [{"loss": 0.5}, {"loss": 0.1}]


def test_rows_of_one_epoch_merge_by_name(client: Client) -> None:
    """Two rows of one attempt and epoch become one; of a name that both have, the later value wins."""
    client.open()
    client.rows([row(0, at=2.0, loss=0.4, b=1)])
    client.rows([row(0, at=1.0, loss=0.9, a=7)])
    assert [r["metrics"] for r in client.metrics()] == [{"loss": 0.4, "a": 7, "b": 1}]
    assert len(client.metrics(attempt="all")) == 2


def test_a_finite_value_ends_the_name_among_the_nonfinite(client: Client) -> None:
    """A later finite value of a name that was NaN is told as finite."""
    client.open()
    client.rows([row(0, at=1.0, x=None, y=None) | {"nonfinite": {"x": "NaN", "y": "Infinity"}}])
    client.rows([row(0, at=2.0, x=3)])
    assert told(client.metrics(), "metrics", "nonfinite") == [({"x": 3, "y": None}, {"y": "Infinity"})]


def test_a_repeat_without_any_key_changes_nothing(client: Client) -> None:
    """The same rows again are the same rows, also where a later one came between."""
    client.open()
    first, second = [row(0, at=1.0, loss=0.9)], [row(0, at=2.0, loss=0.4), row(1, at=3.0, loss=0.3)]
    client.rows(first)
    client.rows(second)
    before = client.metrics(), client.metrics(attempt="all"), client.model()["delivered"]
    client.rows(first)
    client.rows(second)
    assert (client.metrics(), client.metrics(attempt="all"), client.model()["delivered"]) == before


@pytest.mark.promise("D24")
def test_the_next_attempt_ends_what_it_will_do_again(client: Client) -> None:
    """From a later attempt's first epoch on no row of an earlier one counts, replaced yet or not, late ones too."""
    client.open(attempt=1)
    client.rows([row(epoch, loss=1.0) for epoch in range(5)])
    client.open(attempt=2, first_epoch=3)
    assert told(client.metrics(), "epoch", "attempt") == [(0, 1), (1, 1), (2, 1)]
    client.rows([row(3, attempt=2, loss=0.5)])
    client.rows([row(5, attempt=1, loss=9.0), row(1, attempt=1, at=5.0, late=1.0)])
    assert told(client.metrics(), "epoch", "attempt") == [(0, 1), (1, 1), (2, 1), (3, 2)]
    assert client.metrics()[1]["metrics"] == {"loss": 1.0, "late": 1.0}
    every = client.metrics(attempt="all")
    assert len(every) == 8
    assert sorted(told([r for r in every if not r["in_force"]], "epoch", "attempt")) == [
        (3, 1),
        (4, 1),
        (5, 1),
    ]
    assert told(client.metrics(attempt="2"), "epoch", "attempt") == [(3, 2)]


rows_sent = st.builds(
    rows_room.RowIn,
    attempt=st.integers(1, 3),
    epoch=st.integers(0, 4),
    step=st.none() | st.integers(0, 2),
    final=st.booleans(),
    at=st.none(),
    metrics=st.dictionaries(st.sampled_from("abc"), st.none() | st.integers(0, 9), max_size=3),
    nonfinite=st.just({}),
)
openings = st.dictionaries(st.integers(1, 3), st.integers(0, 5), max_size=3)


def expected(sent: list[rows_room.RowIn], firsts: dict[int, int]) -> list[dict[str, Any]]:
    """The rows in force, found the plain way: row by row, in the order of time."""
    by_place: dict[tuple[Any, ...], tuple[int, dict[str, Any], float]] = {}
    for one in sorted(sent, key=lambda one: one.at or 0):
        if any(attempt > one.attempt and one.epoch >= first for attempt, first in firsts.items()):
            continue
        place = (one.epoch, one.final, one.step is None, one.step or 0)
        attempt, values, _ = by_place.get(place, (0, {}, 0.0))
        if one.attempt == attempt:
            by_place[place] = (attempt, values | one.metrics, one.at or 0)
        elif one.attempt > attempt:
            by_place[place] = (one.attempt, dict(one.metrics), one.at or 0)
    return [
        {
            "epoch": epoch,
            "step": None if whole else step,
            "attempt": attempt,
            "final": final,
            "at": at,
            "metrics": values,
        }
        for (epoch, final, whole, step), (attempt, values, at) in sorted(by_place.items())
    ]


@pytest.mark.promise("D24")
@settings(deadline=None, max_examples=60)
@given(st.lists(rows_sent, max_size=12), openings, st.data())
def test_any_order_and_repetition_ends_in_the_same_rows(
    drawn: list[rows_room.RowIn], firsts: dict[int, int], data: st.DataObject
) -> None:
    """The rows in force depend on what was sent, never on its order, on repeats, or on when attempts opened."""
    sent = [one._replace(at=float(at)) for at, one in enumerate(drawn)]
    words: list[Any] = [*sent, *firsts.items()]
    order = data.draw(st.permutations(words)) + data.draw(st.lists(st.sampled_from(words or [(1, 0)])))
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        for word in order:
            with store.database.writing() as connection:
                if isinstance(word, rows_room.RowIn):
                    rows_room.keep(connection, "S", [word], now=0.0)
                else:
                    attempt, first_epoch = word
                    sessions.new_attempt(
                        connection,
                        "me",
                        "S",
                        attempt=attempt,
                        first_epoch=first_epoch,
                        body={},
                        told={"name": "S"},
                        now=0.0,
                    )
        with store.database.reading() as connection:
            found = rows_room.in_force(connection, "S")
        store.close()
    assert found == expected(sent, firsts)


# -- as HUB v1 clients send them -------------------------------------------------------------------------


def v1(client: Client, model: str, metrics: dict[str, Any]) -> int:
    return client.post(f"/v1/models/{model}", {"metrics": metrics, "type": "metrics"}).status_code


@pytest.mark.promise("D21")
def test_hub_v1_rows_are_taken_with_bare_nan_inside(client: Client) -> None:
    """The inner JSON text may hold NaN and Infinity as Python writes them; they are told as null and by name."""
    model = client.foreign()
    values = {"loss": float("nan"), "a": float("inf"), "b": -float("inf"), "map": 0.5, "n": 3}
    assert v1(client, model, {"1": json.dumps(values), "0": '{"loss": 1}', "2": '{"huge": 1e999}'}) == 200
    rows = client.metrics(model)
    assert told(rows, "epoch", "attempt", "step", "final") == [(e, 1, None, False) for e in (0, 1, 2)]
    assert rows[1]["metrics"] == {"loss": None, "a": None, "b": None, "map": 0.5, "n": 3}
    assert rows[1]["nonfinite"] == {"loss": "NaN", "a": "Infinity", "b": "-Infinity"}
    assert rows[2]["nonfinite"] == {"huge": "Infinity"}


def test_hub_v1_rows_merge_by_epoch(client: Client) -> None:
    """A second row of an epoch merges by name, and a repeat of the first does not bring its values back."""
    model = client.foreign()
    v1(client, model, {"0": '{"loss": 0.9, "a": 1}'})
    v1(client, model, {"0": '{"loss": 0.4}'})
    v1(client, model, {"0": '{"loss": 0.9, "a": 1}'})
    assert [r["metrics"] for r in client.metrics(model)] == [{"loss": 0.4, "a": 1}]


@pytest.mark.parametrize(
    "bad",
    [
        {"x": '{"loss": 1}'},
        {"-1": '{"loss": 1}'},
        {"9" * 30: '{"loss": 1}'},
        {"0": "no json"},
        {"0": "[1]"},
        {"0": 7},
        {"0": "[" * 100_000},
        {"0": '{"name": "text"}'},
        {"0": '{"name": 1' + "0" * 5000 + "}"},
    ],
    ids=["name", "negative", "too_big", "no_json", "list", "number", "deep", "text_value", "huge_number"],
)
def test_what_an_old_client_garbles_is_shown_and_not_refused(client: Client, bad: dict[str, Any]) -> None:
    """The readable rows of such a request are kept, and the page tells of the rest: the client cannot."""
    model = client.foreign()
    assert v1(client, model, {"5": '{"loss": 1}', **bad}) == 200
    assert {"loss": 1} in [r["metrics"] for r in client.metrics(model)]
    conditions = [condition["name"] for condition in client.model(model)["conditions"]]
    assert conditions == ["odd_request"]


def test_a_lone_surrogate_in_a_name_does_no_harm(client: Client) -> None:
    """A name that is no valid text is kept as readable text, and can be read back."""
    model = client.foreign()
    assert v1(client, model, {"0": '{"a\\ud800b": 1}'}) == 200
    assert client.metrics(model)[0]["metrics"] == {"a?b": 1}
    assert client.get(f"/models/{model}").status_code == 200


@pytest.mark.parametrize(
    "bad",
    [
        {"epoch": -1},
        {"epoch": "0"},
        {"epoch": 2**60},
        {"attempt": 0},
        {"metrics": {"a": "text"}},
        {"metrics": [1]},
        {"step": 1.5},
        {"nonfinite": {"a": "odd"}},
    ],
    ids=str,
)
def test_a_row_that_hubstate_would_not_send_is_refused_whole(client: Client, bad: dict[str, Any]) -> None:
    """Its own client's rows are checked strictly: 422 names what is wrong, and nothing of the request is kept."""
    client.open()
    answer = client.rows([row(0, a=1), row(1, a=1) | bad])
    assert (answer.status_code, answer.json()["error"]) == (422, "invalid")
    assert client.metrics() == []


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, (None, "")),
        (True, (1, "")),
        (1.5, (1.5, "")),
        (10**30, (10**30, "")),
        (10**400, (None, "Infinity")),
        (-(10**400), (None, "-Infinity")),
        (float("nan"), (None, "NaN")),
        ("1", (None, "not a number")),
        ([], (None, "not a number")),
    ],
    ids=str,
)
def test_a_value_is_a_finite_number_or_named(value: object, expected: tuple[object, str]) -> None:
    """Finite numbers stay as they are, what no float can hold is named, what is no number is told."""
    assert rows_room.number(value) == expected


def test_a_number_that_no_float_can_hold_is_told_as_infinite(client: Client) -> None:
    """A whole number of 400 digits is null and named, as every infinity is."""
    client.open()
    assert client.rows([row(0, a=10**400)]).status_code == 200
    (kept,) = client.metrics()
    assert (kept["metrics"], kept["nonfinite"]) == ({"a": None}, {"a": "Infinity"})


def test_step_rows_do_not_move_the_epoch(client: Client) -> None:
    """The session's epoch is that of the last whole one; steps and final evaluations tell of life alone."""
    client.open()
    client.rows([row(3, a=1) | {"step": 7}, row(4, a=1) | {"final": True}])
    assert (client.model()["state"], client.model()["epoch"]) == ("training", None)
    client.rows([row(2, a=1), row(1, a=1)])
    assert client.model()["epoch"] == 2


def test_only_metrics_are_posted_to_a_session(client: Client) -> None:
    """A post of another type is refused and keeps nothing."""
    client.open()
    answer = client.post("/v1/models/S1", {"type": "odd", "metrics": [row(0, a=1)]})
    assert (answer.status_code, client.metrics()) == (422, [])


def test_an_unknown_attempt_filter_is_refused(client: Client) -> None:
    """`attempt` is a number or `all`."""
    client.open()
    assert client.get("/v1/models/S1/metrics?attempt=x").status_code == 422
