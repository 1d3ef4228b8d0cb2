"""Where a session stands, by the machine's own decisions, from what a hub hears of it: little, late, twice, in disorder."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubstate import machine
from hubstate.events import Abort, Event, GiveUp, PretrainRoutineEnd, TrainEnd, TrainStart
from hubstate.server.derive import Standing, after, announced, ended, in_one_line, opened, row_came
from hubstate.states import TERMINAL_STATES, Outcome, State

AT = 1_800_000_000.0
OPENED = opened(AT)
TRAINING = Standing(State.TRAINING, Outcome.RUNNING)
FINALIZING = Standing(State.FINALIZING, Outcome.FINISHED)
DONE = Standing(State.DONE, Outcome.FINISHED)
FAILED = Standing(State.ABORTED, Outcome.FAILED, "RuntimeError: boom")


def test_an_opening_is_the_beginning() -> None:
    """A session that was opened and told nothing more is `session_created`, and its outcome is running."""
    assert Standing(State.SESSION_CREATED, Outcome.RUNNING) == OPENED


@pytest.mark.parametrize(
    ("before", "events", "expected"),
    [
        (OPENED, (row_came(AT, 0),), TRAINING),
        (OPENED, announced(AT, None, None), TRAINING),
        (OPENED, announced(AT, State.TIMING, Outcome.RUNNING), Standing(State.TIMING, Outcome.RUNNING)),
        (OPENED, announced(AT, State.FINALIZING, Outcome.FINISHED), FINALIZING),
        (OPENED, ended(AT, State.DONE, Outcome.FINISHED, ""), DONE),
        (OPENED, ended(AT, State.ABORTED, Outcome.FAILED, "RuntimeError: boom"), FAILED),
    ],
)
def test_what_a_client_leaves_unsaid_is_said_for_it(
    before: Standing, events: tuple[Event, ...], expected: Standing
) -> None:
    """A first word that belongs further on leads there, over all that lies between."""
    assert after(before, *events) == expected


@pytest.mark.parametrize(
    ("before", "events"),
    [
        (TRAINING, announced(AT, State.SESSION_CREATED, Outcome.RUNNING)),
        (TRAINING, announced(AT, State.TIMING, Outcome.RUNNING)),
        (FINALIZING, announced(AT, State.TRAINING, Outcome.RUNNING)),
        (FINALIZING, (row_came(AT, 3),)),
        (DONE, announced(AT, State.FINALIZING, Outcome.STOPPED)),
        (DONE, ended(AT, State.ABORTED, Outcome.FAILED, "late")),
        (FAILED, ended(AT, State.DONE, Outcome.FINISHED, "")),
        (FAILED, (row_came(AT, 3),)),
    ],
)
def test_a_late_word_takes_nothing_back(before: Standing, events: tuple[Event, ...]) -> None:
    """What is illegal where the session stands changes neither its state nor its outcome nor its reason."""
    assert after(before, *events) == before


@pytest.mark.parametrize("state", [State.IDLE, State.DONE, State.ABORTED])
def test_a_sign_of_life_never_ends_an_attempt(state: State) -> None:
    """One that claims a state in which nobody lives says nothing."""
    assert announced(AT, state, Outcome.FINISHED) == ()


@pytest.mark.parametrize(
    ("state", "outcome", "reason", "expected"),
    [
        (State.DONE, Outcome.STOPPED, "", Standing(State.DONE, Outcome.STOPPED)),
        (State.ABORTED, Outcome.FINISHED, "no hub", Standing(State.ABORTED, Outcome.FINISHED, "no hub")),
        (
            State.ABORTED,
            Outcome.INTERRUPTED,
            "Ctrl-C",
            Standing(State.ABORTED, Outcome.INTERRUPTED, "Ctrl-C"),
        ),
        (State.ABORTED, Outcome.RUNNING, "?", Standing(State.ABORTED, Outcome.UNKNOWN, "?")),
        (State.DONE, Outcome.FAILED, "boom", Standing(State.ABORTED, Outcome.FAILED, "boom")),
    ],
)
def test_the_last_word_is_taken_as_it_was_meant(
    state: State, outcome: Outcome, reason: str, expected: Standing
) -> None:
    """Every pair of state and outcome that an end may tell leads to an end that the machine knows."""
    assert after(TRAINING, *ended(AT, state, outcome, reason)) == expected


def test_what_is_given_up_after_the_training_keeps_its_outcome() -> None:
    """A training that finished and gave up its deliveries is aborted, and finished all the same."""
    given_up = after(FINALIZING, *ended(AT, State.ABORTED, Outcome.FAILED, "given up"))
    assert given_up == Standing(State.ABORTED, Outcome.FINISHED, "given up")


words = st.one_of(
    st.builds(lambda epoch: (row_came(AT, epoch),), st.integers(0, 9)),
    st.builds(
        lambda state, outcome: announced(AT, state, outcome),
        st.none() | st.sampled_from(State),
        st.none() | st.sampled_from(Outcome),
    ),
    st.builds(
        lambda state, outcome: ended(AT, state, outcome, "why"),
        st.sampled_from([State.DONE, State.ABORTED]),
        st.sampled_from(Outcome),
    ),
)


@given(st.lists(words, max_size=8))
def test_whatever_is_heard_the_machine_knows_the_way(heard: list[tuple[Event, ...]]) -> None:
    """In any order and number of words no state is left against the table, an end stays an end, and only an abort has a reason."""
    order = list(State)
    seen = [OPENED]
    for events in heard:
        seen.append(after(seen[-1], *events))
    for one, next_one in itertools.pairwise(seen):
        assert next_one == one or not one.over
        assert order.index(next_one.state) >= order.index(one.state)
    assert all((not standing.reason) or standing.state is State.ABORTED for standing in seen)


def test_what_is_said_for_a_client_stands_in_the_table() -> None:
    """The events that are said for a client, and those that its words become, have rules in the states on the way."""
    for state, event in [
        (State.SESSION_CREATED, PretrainRoutineEnd),
        (State.TIMING, TrainStart),
        (State.TRAINING, TrainEnd),
        (State.TRAINING, Abort),
        (State.FINALIZING, GiveUp),
    ]:
        assert machine.rules_for(state, event)


@pytest.mark.parametrize(
    ("standing", "numbers", "silent", "line"),
    [
        (OPENED, (0, None, None, 0), "", "not begun yet, 0 rows here"),
        (TRAINING, (1, None, None, 0), "", "running, 1 row here"),
        (TRAINING, (9, None, 0, 0), "12:00", "running, no contact since 12:00, 9 rows here"),
        (TRAINING, (7, None, None, 2), "", "running, 7 rows here, 2 epochs missing"),
        (FINALIZING, (12, None, 3, 0), "", "finished, 3 rows still waiting on the trainer's side, 12 rows here"),
        (DONE, (15, 15, 0, 0), "", "finished, delivered 15 of 15"),
        (FAILED, (12, 15, 3, 0), "", "aborted: RuntimeError: boom, delivered 12 of 15"),
        (Standing(State.ABORTED, Outcome.INTERRUPTED), (2, 2, 0, 0), "", "aborted: interrupted, delivered 2 of 2"),
    ],
)  # fmt: skip
def test_one_line_tells_what_became_of_it(
    standing: Standing, numbers: tuple[int, int | None, int | None, int], silent: str, line: str
) -> None:
    """The line tells the end with its reason, what is here of what there is, what still waits, gaps, and silence."""
    delivered, total, waiting, gaps = numbers
    assert (
        in_one_line(standing, delivered=delivered, total=total, waiting=waiting, gaps=gaps, silent=silent)
        == line
    )
    assert (standing.state in TERMINAL_STATES) is standing.over
