"""The short way of a usual post of rows, and the long way of any: they leave the same hub and say the same."""

from __future__ import annotations

import json
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubstate.server import calls, sessions, shortcut
from hubstate.server.answers import Answer, Caller, Problem
from hubstate.server.store import Store

numbers = st.one_of(st.integers(-(2**70), 2**70), st.floats(allow_nan=False, allow_infinity=False), st.none())
metrics = st.dictionaries(st.sampled_from(["loss", "metrics/mAP50(B)", "ü"]), numbers, max_size=3)
own_rows = st.lists(
    st.fixed_dictionaries(
        {"epoch": st.integers(0, 4), "metrics": metrics},
        optional={
            "step": st.none() | st.integers(0, 2),
            "attempt": st.none() | st.integers(1, 2),
            "final": st.booleans(),
            "at": st.none() | st.floats(0, 9),
            "nonfinite": st.dictionaries(
                st.sampled_from(["loss", "x"]), st.sampled_from(["NaN", "Infinity"])
            ),
        },
    ),
    max_size=3,
)
hub_v1_rows = st.dictionaries(
    st.sampled_from(["0", "1", "2", "x"]),
    st.sampled_from(['{"loss": 1}', '{"loss": NaN}', '{"loss": "no"}', "[]", '{"a": 1e400}']),
    max_size=2,
)
posts = st.tuples(
    st.just("rows"),
    st.sampled_from(["S1", "S2", "unknown"]),
    own_rows | hub_v1_rows,
    st.sampled_from(["", "k1", "k2", "k3"]),
    st.sampled_from(["default", "other"]),
)
openings = st.tuples(st.just("open"), st.sampled_from(["S1", "S2"]), st.integers(1, 2), st.integers(0, 2))
endings = st.tuples(st.just("end"), st.sampled_from(["S1", "S2"]), st.sampled_from(["done", "aborted"]))


def done(store: Store, what: tuple[Any, ...], now: float) -> Any:
    """What a call answers, a refusal included."""
    word, *rest = what
    try:
        if word == "rows":
            model, rows, key, owner = rest
            body = json.dumps({"type": "metrics", "metrics": rows}).encode()
            return _told(calls.post_rows(store, Caller(owner, "http://hub", key), model, body, now))
        caller = Caller("default", "http://hub", "")
        if word == "open":
            model, attempt, first_epoch = rest
            told = {"id": model, "name": "x", "attempt": attempt, "first_epoch": first_epoch}
            return _told(calls.open_model(store, caller, json.dumps({"hubstate": told}).encode(), now))
        model, state = rest
        outcome = "finished" if state == "done" else "crashed"
        body = json.dumps({"attempt": 1, "state": state, "outcome": outcome}).encode()
        return _told(calls.end_model(store, caller, model, body, now))
    except Problem as problem:
        return problem.status, problem.body()


def _told(answer: Answer) -> Any:
    return answer.status, answer.body, answer.headers


def held(path: Path) -> list[str]:
    """All that a hub holds, as SQL."""
    with closing(sqlite3.connect(path)) as database:
        return list(database.iterdump())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(posts, posts, posts, openings, endings), max_size=10))
def test_the_short_way_and_the_long_way_lead_to_the_same_hub(said: list[tuple[Any, ...]]) -> None:
    """Whatever is posted in whatever order, both ways give the same answers and leave the same database."""
    said = [("open", "S1", 1, 0), *said]
    with tempfile.TemporaryDirectory() as folder:
        told, left = [], []
        for name in ("short", "long"):
            with pytest.MonkeyPatch.context() as patch:
                if name == "long":
                    patch.setattr(shortcut, "take_rows", lambda *_: None)
                store = Store(Path(folder, name))
                told.append([done(store, what, 10.0 + n) for n, what in enumerate(said)])
                store.close()
                left.append(held(Path(folder, name, "hub.sqlite")))
    assert told[0] == told[1]
    assert left[0] == left[1]


@pytest.mark.parametrize(
    "rows", [[{"epoch": 1, "metrics": {"a": 1}}], {"1": '{"a": 1}'}], ids=["own", "hub_v1"]
)
def test_the_usual_post_goes_the_short_way(
    tmp_path: Path, rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A further row of a training is taken without the long way; the first one, which begins the training, is not."""
    store = Store(tmp_path)
    assert done(store, ("open", "S1", 1, 0), 1.0)[0] == 200
    long_ways: list[float] = []
    once_in: Any = sessions.once_in

    def counting(connection: Any, caller: Any, digest: Any, now: float, effect: Any) -> Answer:
        long_ways.append(now)
        answer: Answer = once_in(connection, caller, digest, now, effect)
        return answer

    monkeypatch.setattr(sessions, "once_in", counting)
    first = ("rows", "S1", [{"epoch": 0, "metrics": {}}], "k0", "default")
    assert done(store, first, 2.0)[0] == 200
    assert done(store, ("rows", "S1", rows, "k1", "default"), 3.0)[0] == 200
    assert done(store, ("rows", "S1", rows, "k1", "default"), 4.0)[2] == {"Idempotent-Replayed": "true"}
    store.close()
    assert long_ways == [2.0, 4.0]
