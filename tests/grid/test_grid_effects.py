"""What the important rows of the grid ask and remember: the contents, where `test_grid.py` judges the shape."""

from __future__ import annotations

import math

import msgspec
import pytest
from situations import (
    BEST,
    LAST,
    NOW,
    OPEN,
    PLAIN,
    ROWS,
    SAVED,
    base,
    change,
    save,
    situation,
)

from hubstate import events as ev
from hubstate.actions import (
    CloseSession,
    Decision,
    EndSession,
    KeepCheckpoint,
    Memory,
    OpenSession,
    SendCheckpoint,
    SendRows,
)
from hubstate.controller import decide
from hubstate.errors import UsageError
from hubstate.states import CheckpointKind, Outcome, State

TRAINING = base(State.TRAINING)


def said(state: State, event: str, case: str = "plain") -> Decision:
    return decide(*situation(state, event, case))


def only(decision: Decision, kind: type) -> object:
    (found,) = [action for action in decision.actions if isinstance(action, kind)]
    return found


def sent(decision: Decision) -> SendRows:
    found = only(decision, SendRows)
    assert isinstance(found, SendRows)
    return found


def file_of(decision: Decision) -> SendCheckpoint:
    found = only(decision, SendCheckpoint)
    assert isinstance(found, SendCheckpoint)
    return found


# -- the opening ---------------------------------------------------------------------------------------------


def test_the_opening_carries_what_was_wished() -> None:
    """The first attempt is number 1, names the session, and takes over the limits that the caller set."""
    wish = ev.PretrainRoutineStart(
        at=NOW,
        session="S",
        name="digits",
        epochs=20,
        hub=False,
        metrics_interval=1.0,
        checkpoint_interval=60.0,
        heartbeat_interval=30.0,
        checkpoints="best",
        usage=True,
    )
    decision = decide(Memory(), wish)
    opening = only(decision, OpenSession)
    assert isinstance(opening, OpenSession)
    assert (opening.session, opening.name, opening.attempt, opening.first_epoch) == ("S", "digits", 1, 0)
    assert opening.epochs == 20
    after = decision.memory
    assert (after.session, after.name, after.attempt) == ("S", "digits", 1)
    assert (after.metrics_interval, after.checkpoint_interval, after.heartbeat_interval) == (1.0, 60.0, 30.0)
    assert (after.checkpoints, after.usage, after.hub_wanted) == ("best", True, False)
    assert after.outcome is Outcome.RUNNING
    assert after.outstanding == (opening,)


def test_the_next_attempt_goes_on_with_the_sessions_memory() -> None:
    """A later attempt numbers itself, tells its first epoch, and keeps counts, best fitness and what is out."""
    earlier = Memory(
        session="S",
        name="digits",
        attempt=1,
        rows=7,
        rows_asked=4,
        rows_delivered=0,
        best_fitness=0.8,
        kept_best=BEST,
        outstanding=(OPEN, ROWS),
    )
    decision = decide(earlier, ev.PretrainRoutineStart(at=NOW, session="S", name="digits", first_epoch=3))
    opening = only(decision, OpenSession)
    assert isinstance(opening, OpenSession)
    assert (opening.attempt, opening.first_epoch, opening.session) == (2, 3, "S")
    after = decision.memory
    assert (after.attempt, after.first_epoch, after.rows, after.rows_asked) == (2, 3, 7, 4)
    assert (after.best_fitness, after.kept_best) == (0.8, BEST)
    assert after.outstanding == (OPEN, ROWS, opening)
    assert opening.key != OPEN.key


def test_rows_left_by_an_earlier_attempt_leave_with_the_next_send() -> None:
    """What an earlier attempt recorded and never asked for is in the range of the next send."""
    memory = change(TRAINING, attempt=2, rows=7, rows_asked=4, metrics_since=NOW - 3)
    action = sent(decide(memory, PLAIN["fit_epoch_end"]))
    assert (action.first, action.last) == (5, 8)


def test_the_first_save_of_an_attempt_is_kept() -> None:
    """What an earlier attempt kept does not count: the first save of this attempt is kept."""
    memory = change(TRAINING, attempt=2, kept_at=None, kept_last=LAST, best_fitness=0.8)
    kept = only(decide(memory, save(0.7)), KeepCheckpoint)
    assert isinstance(kept, KeepCheckpoint)
    assert (kept.kind, kept.attempt) == (CheckpointKind.LAST, 2)


def test_the_clocks_start_when_the_routine_is_over() -> None:
    """The clocks of rows and checkpoints start at the end of the pretrain routine."""
    after = said(State.SESSION_CREATED, "pretrain_routine_end").memory
    assert (after.metrics_since, after.checkpoint_since) == (NOW, NOW)


def test_a_running_clock_is_not_started_again() -> None:
    """A clock that an earlier attempt started goes on: the limits outlive a restart."""
    memory = change(base(State.SESSION_CREATED), metrics_since=NOW - 2, checkpoint_since=NOW - 500)
    after = decide(memory, PLAIN["pretrain_routine_end"]).memory
    assert (after.metrics_since, after.checkpoint_since) == (NOW - 2, NOW - 500)


# -- rows ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("event", ["fit_epoch_end", "train_batch_end"])
def test_a_due_send_names_all_that_wait(event: str) -> None:
    """A send names the rows from the first unasked one to the one just logged, and copies none."""
    decision = said(State.TRAINING, event, "interval over, rows wait")
    action = sent(decision)
    assert (action.first, action.last, action.attempt) == (5, 7, 1)
    assert (decision.memory.rows, decision.memory.rows_asked) == (7, 7)
    assert decision.memory.outstanding == (action,)


@pytest.mark.parametrize("event", ["fit_epoch_end", "train_batch_end"])
def test_a_row_that_is_not_due_waits(event: str) -> None:
    """A row inside the interval is counted and nothing is asked."""
    after = said(State.TRAINING, event, "interval not over").memory
    assert (after.rows, after.rows_asked, after.outstanding) == (5, 4, ())


def test_a_tick_sends_what_waits() -> None:
    """A tick asks for the waiting rows and records none of its own."""
    decision = said(State.TRAINING, "tick", "rows due")
    action = sent(decision)
    assert (action.first, action.last) == (5, 6)
    assert (decision.memory.rows, decision.memory.rows_asked) == (6, 6)


def test_the_extra_evaluation_is_no_finished_epoch() -> None:
    """A final row is counted as a row and never as a finished epoch; an ordinary one is both."""
    final = said(State.TRAINING, "fit_epoch_end", "interval over, final").memory
    assert (final.rows, final.epoch) == (5, 3)
    ordinary = said(State.TRAINING, "fit_epoch_end", "interval over").memory
    assert (ordinary.rows, ordinary.epoch) == (5, 4)


def test_an_epoch_told_once_more_undoes_none() -> None:
    """A row of an earlier epoch is counted as a row, and the furthest epoch stays the one that is shown."""
    ahead = said(State.TRAINING, "fit_epoch_end", "interval over").memory
    again = decide(ahead, ev.FitEpochEnd(NOW + 5, 0, {"loss": 0.4})).memory
    assert (again.rows, again.epoch) == (6, 4)


def test_the_interval_counts_from_the_acknowledgement() -> None:
    """The next send is due an interval after the acknowledgement, not after the asking; then under a new key."""
    first = said(State.TRAINING, "fit_epoch_end", "interval over")
    key = sent(first).key
    waiting = decide(first.memory, ev.FitEpochEnd(NOW + 5, 5, {"loss": 0.4}))
    assert waiting.actions == ()
    settled = decide(waiting.memory, ev.Delivered(at=NOW + 7, key=key, rows=1)).memory
    assert settled.metrics_since == NOW + 7
    assert decide(settled, ev.Tick(NOW + 9.5)).actions == ()
    action = sent(decide(settled, ev.Tick(NOW + 10)))
    assert (action.first, action.last) == (6, 6)
    assert action.key != key


def test_looking_consumes_nothing() -> None:
    """A tick that finds nothing due leaves the memory as it was."""
    memory, event = situation(State.TRAINING, "tick", "rows not yet")
    assert decide(memory, event).memory == memory


@pytest.mark.parametrize(
    ("event", "case", "guards", "written"),
    [
        ("tick", "rows not yet", {"metrics_due": False}, False),
        ("model_save", "worse", {"keep_due": False}, True),
        ("fit_epoch_end", "interval over", {"metrics_due": True}, True),
    ],
)
def test_a_decision_tells_what_was_asked_and_whether_it_is_written(
    event: str, case: str, guards: dict[str, bool], written: bool
) -> None:
    """Whatever came of it, the event, the guards with their answers and all actions stand in the decision."""
    memory, told = situation(State.TRAINING, event, case)
    decision = decide(memory, told)
    assert decision.event is told
    assert decision.journalled is written
    assert guards.items() <= decision.guards.items()
    assert isinstance(decision.actions, tuple)


def test_a_time_ahead_of_the_clock_counts_as_now() -> None:
    """A remembered time in the future blocks for its interval at most from then on, and is due in the end."""
    memory, event = situation(State.TRAINING, "tick", "rows wait, clock ahead")
    assert decide(memory, event).actions == ()
    assert sent(decide(memory, ev.Tick(NOW + 53))).last == 6
    at_once = change(memory, metrics_interval=0.0)
    assert sent(decide(at_once, event)).last == 6


# -- checkpoints ---------------------------------------------------------------------------------------------


def test_a_better_checkpoint_is_kept_as_best() -> None:
    """A strictly better fitness keeps the snapshot as the best one and moves the mark."""
    decision = said(State.TRAINING, "model_save", "better")
    kept = only(decision, KeepCheckpoint)
    assert isinstance(kept, KeepCheckpoint)
    assert (kept.kind, kept.epoch, kept.snapshot, kept.size) == (CheckpointKind.BEST, 3, "new-3", 110)
    after = decision.memory
    assert after.best_fitness == 0.9
    assert after.kept_at == NOW
    assert after.kept_best is not None
    assert (after.kept_best.snapshot, after.kept_best.fitness, after.kept_best.asked) == ("new-3", 0.9, False)
    assert after.outstanding == ()


@pytest.mark.parametrize(
    "case", ["none kept", "none kept, worse", "keep interval over", "keep interval over, worse"]
)
def test_what_is_kept_for_its_time_is_last(case: str) -> None:
    """A save that is due but not better is kept as the last one; best stays what it was."""
    memory, event = situation(State.TRAINING, "model_save", case)
    decision = decide(memory, event)
    kept = only(decision, KeepCheckpoint)
    assert isinstance(kept, KeepCheckpoint)
    assert kept.kind is CheckpointKind.LAST
    after = decision.memory
    assert (after.best_fitness, after.kept_best) == (memory.best_fitness, memory.kept_best)
    assert after.kept_last is not None
    assert (after.kept_last.snapshot, after.kept_last.asked, after.kept_last.at) == ("new-3", False, NOW)
    assert after.kept_at == NOW


@pytest.mark.parametrize("case", ["equal", "worse", "no fitness", "better, torn"])
def test_what_is_not_kept_is_still_written_down(case: str) -> None:
    """A save that is not kept moves no mark and keeps no file, but the file's path, size and time are told."""
    memory, event = situation(State.TRAINING, "model_save", case)
    decision = decide(memory, event)
    after = decision.memory
    assert decision.journalled
    assert (after.kept_at, after.kept_last, after.kept_best) == (memory.kept_at, None, None)
    assert after.saved is not None
    assert (after.saved.path, after.saved.epoch, after.saved.size, after.saved.mtime_ns) == (
        "last.pt",
        3,
        110,
        7,
    )


def test_not_a_number_is_no_fitness() -> None:
    """A fitness that is not a number is refused before any decision could take it for the best."""
    with pytest.raises(UsageError, match="NaN"):
        save(math.nan)


def test_a_newer_one_replaces_one_of_its_kind_that_was_not_asked() -> None:
    """A newer last takes the place of the last that waits, and leaves the best alone."""
    memory = change(TRAINING, kept_last=LAST, kept_best=BEST, best_fitness=0.8, kept_at=NOW - 900)
    after = decide(memory, save(0.7)).memory
    assert after.kept_last is not None
    assert (after.kept_last.snapshot, after.kept_last.asked) == ("new-3", False)
    assert after.kept_best == BEST
    assert after.outstanding == ()


def test_a_due_checkpoint_leaves_as_it_was_kept() -> None:
    """With the interval over the checkpoint that was just kept is sent, is asked, and is not closing."""
    decision = said(State.TRAINING, "model_save", "better, file due")
    action = file_of(decision)
    assert (action.kind, action.snapshot, action.epoch) == (CheckpointKind.BEST, "new-3", 3)
    assert (action.size, action.fitness, action.closing) == (110, 0.9, False)
    assert action.attempt == 1
    assert decision.memory.outstanding == (action,)
    assert decision.memory.kept_best is not None
    assert decision.memory.kept_best.asked


def test_a_waiting_checkpoint_leaves_once() -> None:
    """A tick sends the checkpoint that waits; the next tick finds nothing, even after the acknowledgement."""
    decision = said(State.TRAINING, "tick", "file due")
    action = file_of(decision)
    assert (action.kind, action.snapshot, action.size) == (CheckpointKind.LAST, "last-3", 100)
    assert decide(decision.memory, ev.Tick(NOW + 2000)).actions == ()
    settled = decide(decision.memory, ev.Delivered(at=NOW + 8, key=action.key)).memory
    assert (settled.checkpoint_since, settled.outstanding) == (NOW + 8, ())
    assert decide(settled, ev.Tick(NOW + 5000)).actions == ()


# -- the ends ------------------------------------------------------------------------------------------------


def test_training_ends_in_order() -> None:
    """At the end leave the rows that wait, then the final checkpoint, then the closing with all counts."""
    decision = said(State.TRAINING, "train_end", "rows wait, one kept")
    rows, final, close = decision.actions
    assert isinstance(rows, SendRows)
    assert (rows.first, rows.last) == (5, 6)
    assert isinstance(final, SendCheckpoint)
    assert (final.kind, final.closing, final.snapshot) == (CheckpointKind.FINAL, True, "last-3")
    assert isinstance(close, CloseSession)
    assert (close.rows, close.outcome) == (6, Outcome.FINISHED)
    after = decision.memory
    assert after.outstanding == decision.actions
    assert (after.rows_asked, after.outcome, after.ended_at) == (6, Outcome.FINISHED, NOW)


def test_a_stopped_training_says_so() -> None:
    """A training that was stopped early is closed as stopped."""
    decision = said(State.TRAINING, "train_end", "stopped")
    close = only(decision, CloseSession)
    assert isinstance(close, CloseSession)
    assert close.outcome is Outcome.STOPPED
    assert decision.memory.outcome is Outcome.STOPPED


@pytest.mark.parametrize(
    ("named", "best", "last", "snapshot", "epoch"),
    [
        (True, True, True, "final-2", 2),
        (True, False, True, "final-2", 2),
        (True, True, False, "final-2", 2),
        (False, True, True, "best-2", 2),
        (False, True, False, "best-2", 2),
        (False, False, True, "last-3", 3),
    ],
)
def test_the_final_checkpoint_is_chosen(
    named: bool, best: bool, last: bool, snapshot: str, epoch: int
) -> None:
    """The final checkpoint is what the trainer names; else the best; else the newest last."""
    memory = change(TRAINING, kept_best=BEST if best else None, kept_last=LAST if last else None)
    final = file_of(decide(memory, ev.TrainEnd(at=NOW, final=SAVED if named else None)))
    assert (final.kind, final.snapshot, final.epoch) == (CheckpointKind.FINAL, snapshot, epoch)
    assert final.closing


@pytest.mark.parametrize("state", [State.SESSION_CREATED, State.TIMING, State.TRAINING])
def test_an_abort_leaves_in_order(state: State) -> None:
    """At an abort leave the rows that wait, then the newest checkpoint as `last`, then the end with its reason."""
    decision = said(state, "abort", "rows wait, one kept")
    rows, newest, end = decision.actions
    assert isinstance(rows, SendRows)
    assert (rows.first, rows.last) == (5, 6)
    assert isinstance(newest, SendCheckpoint)
    assert (newest.kind, newest.snapshot) == (CheckpointKind.LAST, "last-3")
    assert isinstance(end, EndSession)
    assert (end.outcome, end.reason, end.rows) == (Outcome.FAILED, "out of memory", 6)
    after = decision.memory
    assert after.outstanding == decision.actions
    assert (after.outcome, after.reason, after.ended_at) == (Outcome.FAILED, "out of memory", NOW)


@pytest.mark.parametrize(("best_at", "snapshot"), [(NOW - 10, "best-2"), (NOW - 120, "last-3")])
def test_an_abort_takes_the_newest_of_any_kind(best_at: float, snapshot: str) -> None:
    """The newest checkpoint of any kind is what an abort sends, under the kind `last`."""
    best = msgspec.structs.replace(BEST, at=best_at)
    memory = change(TRAINING, kept_last=LAST, kept_best=best)
    newest = file_of(decide(memory, PLAIN["abort"]))
    assert (newest.kind, newest.snapshot) == (CheckpointKind.LAST, snapshot)


def test_an_abort_takes_the_newest_attempts_checkpoint_though_the_clock_was_set_back() -> None:
    """Between two attempts the clock may be set back: what the later one kept is newer, whatever its time says."""
    earlier = msgspec.structs.replace(BEST, at=NOW + 5_000.0, attempt=1)
    later = msgspec.structs.replace(LAST, attempt=2)
    memory = change(TRAINING, attempt=2, kept_last=later, kept_best=earlier)
    newest = file_of(decide(memory, PLAIN["abort"]))
    assert (newest.kind, newest.snapshot) == (CheckpointKind.LAST, "last-3")
