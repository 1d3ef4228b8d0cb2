"""What `explain` and the refusals say: why, why not, and when, in words that a person can use."""

from __future__ import annotations

import pytest
from situations import NOW, change, situation

from hubstate import events as ev
from hubstate.controller import decide, explain
from hubstate.states import State

WORDS = {
    ("idle", "pretrain_routine_start", "plain"): "-> session_created, OpenSession",
    (
        "idle",
        "pretrain_routine_start",
        "not wanted",
    ): "the mode is off: neither a hub nor a journal is wanted",
    ("idle", "pretrain_routine_start", "not the main process"): (
        "this is not the main process; rank 0 opens the session"
    ),
    ("idle", "pretrain_routine_start", "one is open"): "a session is open already",
    ("idle", "train_start", "plain"): "a run without a session is no mistake",
    ("idle", "give_up", "plain"): (
        "illegal while idle; legal here: pretrain_routine_start, pretrain_routine_end, train_start, fit_epoch_end, "
        "train_batch_end, model_save, train_end, abort, val_start, predict_start, export_start"
    ),
    ("session_created", "pretrain_routine_end", "plain"): "-> timing; the clocks that do not run yet start",
    ("timing", "train_start", "plain"): "-> training",
    ("training", "fit_epoch_end", "interval over"): "SendRows; the row, and all that wait",
    ("training", "fit_epoch_end", "interval over, rows out"): (
        "the row; it waits (a send of rows is outstanding; these go with the next one)"
    ),
    ("training", "fit_epoch_end", "interval not over"): "the row; it waits (not yet: 0.5 s left of 3 s)",
    ("training", "model_save", "better, file due"): "KeepCheckpoint, SendCheckpoint",
    ("training", "model_save", "better, file out"): (
        "KeepCheckpoint (a checkpoint is outstanding; the next one leaves after it)"
    ),
    ("training", "model_save", "worse"): "not strictly better, and not yet: 840 s left of 900 s",
    ("training", "model_save", "better, torn"): "torn",
    (
        "training",
        "tick",
        "plain",
    ): "metrics_due: not yet: 2 s left of 3 s; checkpoint_due: not yet: 899 s left of 900 s",
    ("training", "train_start", "plain"): (
        "illegal while training; legal here: fit_epoch_end, train_batch_end, model_save, train_end, abort, val_start, "
        "predict_start, export_start, retry_refused"
    ),
    ("training", "heartbeat_tick", "beat due, no hub"): "no hub is set",
    ("training", "heartbeat_tick", "beat due, one out"): "a heartbeat is outstanding",
    ("training", "retry_refused", "none refused"): "nothing is refused",
    ("training", "retry_refused", "some refused"): "SendRows; the same actions, the same keys",
    ("training", "val_start", "usage off"): "the recording of usage is off",
    ("training", "stop_requested", "plain"): "remembered",
    ("finalizing", "delivered", "the close, nothing else"): "-> done",
    ("finalizing", "delivered", "the close, rows out"): "remembered (1 deliveries wait, 0 of them refused)",
    (
        "finalizing",
        "delivered",
        "the close, one refused",
    ): "remembered (1 deliveries wait, 1 of them refused)",
    ("finalizing", "give_up", "plain"): "-> aborted, EndSession; what waits or is refused is given up",
    ("aborted", "give_up", "plain"): "nothing waits and nothing is refused",
}


@pytest.mark.parametrize("place", WORDS, ids=": ".join)
def test_the_words_of_a_cell(place):
    """Each kind of answer is put into words: where it leads, what it does, or why not and for how long."""
    state, event, case = place
    assert explain(*situation(State(state), event, case)) == WORDS[place]


@pytest.mark.parametrize("place", [p for p in WORDS if "illegal" not in WORDS[p]], ids=": ".join)
def test_a_refusal_says_what_explain_says(place):
    """Whoever is held back by a guard hears the same words as whoever asks beforehand."""
    state, event, case = place
    refusal = decide(*situation(State(state), event, case)).refusal
    if refusal is not None and refusal.reason:
        assert refusal.reason == WORDS[place]


# -- a clock that is set back --------------------------------------------------------------------------------

CLOCKS = ("metrics_since", "checkpoint_since", "heartbeat_since", "kept_at")


@pytest.mark.parametrize("clock", CLOCKS)
def test_each_clock_that_is_ahead_is_pulled_back(clock):
    """A remembered time that lies ahead becomes now, and those beside it stay as they are."""
    memory, _ = situation(State.TRAINING, "fit_epoch_end", "interval not over")
    memory = change(memory, **{clock: NOW + 50})
    after = decide(memory, ev.StopRequested(NOW, "pressed")).memory
    assert getattr(after, clock) == NOW
    assert [getattr(after, c) for c in CLOCKS if c != clock] == [
        getattr(memory, c) for c in CLOCKS if c != clock
    ]


def test_a_clock_that_does_not_run_is_not_started_by_that():
    """Pulling clocks back starts none: one that does not run stays so."""
    memory, _ = situation(State.TRAINING, "fit_epoch_end", "interval not over")
    memory = change(memory, metrics_since=NOW + 50, kept_at=None, heartbeat_since=None)
    after = decide(memory, ev.StopRequested(NOW, "pressed")).memory
    assert (after.metrics_since, after.kept_at, after.heartbeat_since) == (NOW, None, None)


def test_what_a_step_sets_itself_is_not_pulled_back_to():
    """A step that sets a clock has the last word about it; the others that are ahead are pulled back."""
    memory, event = situation(State.TRAINING, "delivered", "its key")
    memory = change(memory, metrics_since=NOW + 50, checkpoint_since=NOW + 60)
    after = decide(memory, event).memory
    assert (after.metrics_since, after.checkpoint_since) == (NOW, NOW)


def test_an_answer_to_a_heartbeat_moves_its_own_clock_alone():
    """A heartbeat is written nowhere, so it pulls back no clock that a recovered memory would not know of."""
    memory, _ = situation(State.TRAINING, "heartbeat_tick", "beat due")
    memory = change(memory, metrics_since=NOW + 50, heartbeat_since=NOW + 50)
    for event in (
        ev.HeartbeatTick(NOW),
        ev.HeldUp(at=NOW, key="S/1/heartbeat", condition="offline", reason="no"),
    ):
        after = decide(memory, event).memory
        assert (after.metrics_since, after.kept_at) == (memory.metrics_since, memory.kept_at)
