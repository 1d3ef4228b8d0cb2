"""The situations of the grid: which memory and which event make a guard true or false.

`situation(state, event, case)` starts from a plausible memory of that state and changes what the case names;
nothing in a plain memory is due. Every case is an entry of `CHANGES`; `SAID` holds the events that differ from
the plain ones.
"""

from __future__ import annotations

from typing import Any

import msgspec

from hubstate import events as ev
from hubstate.actions import (
    CloseSession,
    EndSession,
    Kept,
    Memory,
    OpenSession,
    Refused,
    SendCheckpoint,
    SendRows,
)
from hubstate.states import CheckpointKind, Outcome, State

__all__ = [
    "ASKED",
    "BEST",
    "CLOSE",
    "END",
    "FILE",
    "LAST",
    "NOW",
    "OPEN",
    "PLAIN",
    "ROWS",
    "base",
    "change",
    "situation",
]

#: Seconds since 1970 at which every event of the grid is said.
NOW = 10_000.0

OPEN = OpenSession(key="S/1/open", attempt=1, session="S", name="digits")
ROWS = SendRows(key="S/1/rows/1-4", attempt=1, first=1, last=4)
FILE = SendCheckpoint(
    key="S/1/checkpoint/last/1", attempt=1, kind=CheckpointKind.LAST, epoch=1, snapshot="last-1", size=90
)
CLOSE = CloseSession(key="S/1/close", attempt=1, outcome=Outcome.FINISHED, rows=4)
END = EndSession(key="S/1/end", attempt=1, outcome=Outcome.FAILED, reason="out of memory", rows=4)

LAST = Kept(kind=CheckpointKind.LAST, epoch=3, attempt=1, snapshot="last-3", size=100, at=NOW - 60)
BEST = Kept(
    kind=CheckpointKind.BEST, epoch=2, attempt=1, snapshot="best-2", size=100, at=NOW - 120, fitness=0.8
)
ASKED = msgspec.structs.replace(LAST, asked=True)

BASES: dict[State, dict[str, Any]] = {
    State.SESSION_CREATED: {"metrics_since": None, "checkpoint_since": None},
    State.TIMING: {},
    State.TRAINING: {"epoch": 3, "rows": 4, "rows_asked": 4, "rows_delivered": 4, "kept_at": NOW - 60},
    State.FINALIZING: {
        "epoch": 3,
        "rows": 4,
        "rows_asked": 4,
        "outcome": Outcome.FINISHED,
        "ended_at": NOW - 5,
        "outstanding": (CLOSE,),
    },
    State.DONE: {
        "epoch": 3,
        "rows": 4,
        "rows_asked": 4,
        "rows_delivered": 4,
        "outcome": Outcome.FINISHED,
        "ended_at": NOW - 5,
    },
    State.ABORTED: {
        "epoch": 3,
        "rows": 4,
        "rows_asked": 4,
        "outcome": Outcome.FAILED,
        "reason": "out of memory",
        "ended_at": NOW - 5,
    },
}

SAVED = ev.Saved(path="best.pt", epoch=2, size=100, mtime_ns=5, attempt=1, snapshot="final-2")


def save(fitness: float | None = None, unkept: str = "") -> ev.ModelSave:
    return ev.ModelSave(
        at=NOW,
        epoch=3,
        path="last.pt",
        size=110,
        mtime_ns=7,
        fitness=fitness,
        snapshot="new-3",
        unkept=unkept,
    )


PLAIN: dict[str, ev.Event] = {
    "pretrain_routine_start": ev.PretrainRoutineStart(at=NOW, session="S", name="digits", epochs=20),
    "pretrain_routine_end": ev.PretrainRoutineEnd(NOW),
    "train_start": ev.TrainStart(NOW),
    "fit_epoch_end": ev.FitEpochEnd(NOW, 4, {"loss": 0.5}),
    "train_batch_end": ev.TrainBatchEnd(NOW, 4, 40, {"loss": 0.5}),
    "model_save": save(),
    "train_end": ev.TrainEnd(at=NOW),
    "abort": ev.Abort(at=NOW, outcome=Outcome.FAILED, reason="out of memory"),
    "val_start": ev.ValStart(NOW),
    "predict_start": ev.PredictStart(NOW),
    "export_start": ev.ExportStart(NOW),
    "give_up": ev.GiveUp(NOW, "the hub is gone for good"),
    "retry_refused": ev.RetryRefused(NOW),
    "tick": ev.Tick(NOW),
    "heartbeat_tick": ev.HeartbeatTick(NOW),
    "delivered": ev.Delivered(at=NOW, key=ROWS.key, rows=4),
    "refused": ev.Refused(at=NOW, key=ROWS.key, reason="too large", status=413),
    "held_up": ev.HeldUp(at=NOW, key=ROWS.key, condition="offline", reason="no route to the hub"),
    "answered": ev.Answered(at=NOW, url="https://hub.test/models/S"),
    "stop_requested": ev.StopRequested(NOW, "stop was pressed on the page"),
}

_rate_limited = ev.HeldUp(
    at=NOW, key=ROWS.key, condition="rate_limited", reason="429 for 60 s", until=NOW + 60
)
_credentials = ev.HeldUp(at=NOW, key=ROWS.key, condition="credentials_rejected", reason="401")
_close_delivered = ev.Delivered(at=NOW, key=CLOSE.key)

#: Events of a case that differ from the plain one.
SAID: dict[tuple[str, str], ev.Event] = {
    ("pretrain_routine_start", "not wanted"): ev.PretrainRoutineStart(at=NOW, session="S", wanted=False),
    ("pretrain_routine_start", "not the main process"): ev.PretrainRoutineStart(
        at=NOW, session="S", main=False
    ),
    ("pretrain_routine_start", "one is open"): ev.PretrainRoutineStart(
        at=NOW, session="S", already_open=True
    ),
    ("pretrain_routine_start", "journal without hub"): ev.PretrainRoutineStart(
        at=NOW, session="S", hub=False
    ),
    ("fit_epoch_end", "interval over, final"): ev.FitEpochEnd(NOW, 4, {"loss": 0.5}, final=True),
    ("model_save", "better"): save(0.9),
    ("model_save", "equal"): save(0.8),
    ("model_save", "worse"): save(0.7),
    ("model_save", "first fitness"): save(0.1),
    ("model_save", "none kept, worse"): save(0.7),
    ("model_save", "keep interval over, worse"): save(0.7),
    ("model_save", "better, file due"): save(0.9),
    ("model_save", "better, file not yet"): save(0.9),
    ("model_save", "better, file out"): save(0.9),
    ("model_save", "better, file clock ahead"): save(0.9),
    ("model_save", "better, file due, rows out"): save(0.9),
    ("model_save", "better, rows due"): save(0.9),
    ("model_save", "worse, file due and waits"): save(0.7),
    ("model_save", "plenty, better"): save(0.9),
    ("model_save", "plenty, better, file due"): save(0.9),
    ("model_save", "better, torn"): save(0.9, unkept="torn"),
    ("model_save", "better, choice none"): save(0.9),
    ("model_save", "better, choice best"): save(0.9),
    ("train_end", "final named"): ev.TrainEnd(at=NOW, final=SAVED),
    ("train_end", "final named, rows wait"): ev.TrainEnd(at=NOW, final=SAVED),
    ("train_end", "final named, choice none"): ev.TrainEnd(at=NOW, final=SAVED),
    ("train_end", "stopped"): ev.TrainEnd(at=NOW, outcome=Outcome.STOPPED),
    ("abort", "interrupted"): ev.Abort(at=NOW, outcome=Outcome.INTERRUPTED, reason="Ctrl-C"),
    ("delivered", "the close, nothing else"): _close_delivered,
    ("delivered", "the close, rows out"): _close_delivered,
    ("delivered", "the refused close, and plenty"): _close_delivered,
    ("delivered", "the close, a file out"): _close_delivered,
    ("delivered", "the close, one refused"): _close_delivered,
    ("delivered", "the close, a heartbeat out"): _close_delivered,
    ("delivered", "not taken, nothing else"): ev.Delivered(at=NOW, key=ROWS.key, not_taken="step rows"),
    ("delivered", "a file, nothing else"): ev.Delivered(at=NOW, key=FILE.key, sha256="ab" * 32),
    ("delivered", "the end, nothing else"): ev.Delivered(at=NOW, key=END.key),
    ("delivered", "a heartbeat"): ev.Delivered(at=NOW, key="S/1/heartbeat"),
    ("delivered", "nobody's key"): ev.Delivered(at=NOW, key="S/1/rows/90-99"),
    ("refused", "the close"): ev.Refused(at=NOW, key=CLOSE.key, reason="bad", status=400),
    ("refused", "nobody's key"): ev.Refused(at=NOW, key="S/1/rows/90-99", reason="bad", status=400),
    ("held_up", "429"): _rate_limited,
    ("held_up", "401"): _credentials,
}

_rows_due = {"rows": 6, "rows_asked": 4, "metrics_since": NOW - 3}
_rows_wait = {"rows": 6, "rows_asked": 4, "metrics_since": NOW - 1}
_file_due = {"kept_last": LAST, "checkpoint_since": NOW - 900}
_file_waits = {"kept_last": LAST, "checkpoint_since": NOW - 1}
_refused_rows = {
    "outstanding": (ROWS, FILE),
    "refused": (Refused(key=ROWS.key, reason="too large", at=NOW - 9, status=413),),
}
_two_refused = {
    "outstanding": (ROWS, FILE),
    "refused": (
        Refused(key=ROWS.key, reason="too large", at=NOW - 9),
        Refused(key=FILE.key, reason="too large", at=NOW - 8),
    ),
}
_plenty = {"rows": 6, "rows_asked": 4, "kept_last": LAST, **_two_refused}
_out = {"outstanding": (ROWS, FILE)}
_better = {"best_fitness": 0.8}
_later = {
    "session": "S",
    "name": "digits",
    "attempt": 1,
    "rows": 4,
    "rows_asked": 4,
    "epoch": 3,
    "kept_last": ASKED,
    "metrics_since": NOW - 40,
    "checkpoint_since": NOW - 40,
    "outstanding": (ROWS,),
}

#: What a case changes in the plain memory of a state.
CHANGES: dict[str, dict[str, Any]] = {
    "plain": {},
    # idle
    "not wanted": {},
    "not the main process": {},
    "one is open": {},
    "journal without hub": {},
    "later attempt": _later,
    # rows
    "interval over": {"metrics_since": NOW - 3},
    "interval over, rows wait": _rows_due,
    "interval over, final": {"metrics_since": NOW - 3},
    "interval over, open out": {"metrics_since": NOW - 3, "outstanding": (OPEN,)},
    "interval over, file out": {"metrics_since": NOW - 3, "outstanding": (FILE,)},
    "interval over, rows out": {"metrics_since": NOW - 3, "outstanding": (ROWS,)},
    "interval over, file due": {"metrics_since": NOW - 3, **_file_due},
    "interval not over": {"metrics_since": NOW - 2.5},
    "interval not over, file due": {"metrics_since": NOW - 2.5, **_file_due},
    "clock ahead": {"metrics_since": NOW + 50},
    # model_save
    "better": _better,
    "equal": _better,
    "worse": _better,
    "no fitness": _better,
    "first fitness": {},
    "none kept": {"kept_at": None},
    "none kept, worse": {"kept_at": None, **_better},
    "none kept, file due": {"kept_at": None, "checkpoint_since": NOW - 900},
    "none kept, file out": {"kept_at": None, "checkpoint_since": NOW - 900, "outstanding": (FILE,)},
    "none kept, choice none": {"kept_at": None, "checkpoints": "none"},
    "none kept, choice last": {"kept_at": None, "checkpoints": "last"},
    "keep interval over": {"kept_at": NOW - 900},
    "keep interval over, worse": {"kept_at": NOW - 900, **_better},
    "keep interval over, file due": {"kept_at": NOW - 900, "checkpoint_since": NOW - 900},
    "keep interval not over": {"kept_at": NOW - 899.5},
    "kept ahead of the clock": {"kept_at": NOW + 50},
    "better, file due": {"checkpoint_since": NOW - 900, **_better},
    "better, file not yet": {"checkpoint_since": NOW - 899.5, **_better},
    "better, file out": {"checkpoint_since": NOW - 900, "outstanding": (FILE,), **_better},
    "better, file clock ahead": {"checkpoint_since": NOW + 50, **_better},
    "better, file due, rows out": {"checkpoint_since": NOW - 900, "outstanding": (ROWS,), **_better},
    "better, rows due": {**_rows_due, **_better},
    "worse, file due and waits": {**_file_due, **_better},
    "better, torn": _better,
    "better, choice none": {"checkpoints": "none", **_better},
    "better, choice best": {"checkpoints": "best", **_better},
    # tick
    "nothing waits": {"metrics_since": NOW - 3, "checkpoint_since": NOW - 900, "kept_last": ASKED},
    "rows due": _rows_due,
    "rows due, none kept": {**_rows_due, "checkpoint_since": NOW - 900},
    "rows not yet": {**_rows_due, "metrics_since": NOW - 2.5},
    "rows due, rows out": {**_rows_due, "outstanding": (ROWS,)},
    "rows due, file out": {**_rows_due, "outstanding": (FILE,)},
    "rows wait, clock ahead": {**_rows_due, "metrics_since": NOW + 50},
    "file due": _file_due,
    "best due": {"kept_best": BEST, "checkpoint_since": NOW - 900},
    "file not yet": {**_file_due, "checkpoint_since": NOW - 899.5},
    "file due, file out": {**_file_due, "outstanding": (FILE,)},
    "file due, rows out": {**_file_due, "outstanding": (ROWS,)},
    "file waits, clock ahead": {**_file_due, "checkpoint_since": NOW + 50},
    "both due": {**_rows_due, **_file_due},
    "both wait": {**_rows_wait, **_file_waits},
    "both wait, rows due": {**_file_waits, **_rows_due},
    "both wait, file due": {**_rows_wait, **_file_due},
    "both due, rows out": {**_rows_due, **_file_due, "outstanding": (ROWS,)},
    "both due, file out": {**_rows_due, **_file_due, "outstanding": (FILE,)},
    "both due, both out": {**_rows_due, **_file_due, **_out},
    # heartbeat_tick
    "beat due": {"heartbeat_since": NOW - 300},
    "beat not yet": {"heartbeat_since": NOW - 299.5},
    "never beaten": {"heartbeat_since": None},
    "never beaten, no hub": {"heartbeat_since": None, "hub_wanted": False},
    "beat due, no hub": {"heartbeat_since": NOW - 300, "hub_wanted": False},
    "beat due, one out": {"heartbeat_since": NOW - 300, "heartbeat_out": True},
    "beat clock ahead": {"heartbeat_since": NOW + 50},
    # the ends
    "rows wait": _rows_wait,
    "rows wait, rows out": {**_rows_wait, "outstanding": (ROWS,)},
    "rows wait, one kept": {**_rows_wait, **_file_waits},
    "one kept": _file_waits,
    "one kept, file out": {**_file_waits, "outstanding": (FILE,)},
    "kept and asked": {"kept_last": ASKED},
    "best kept": {"kept_best": BEST},
    "final named": {},
    "final named, rows wait": _rows_wait,
    "final named, choice none": {"checkpoints": "none"},
    "stopped": {},
    "interrupted": {},
    "something waits": {"outstanding": (END,)},
    "some refused": _refused_rows,
    "two refused": _two_refused,
    "none refused": {"outstanding": (ROWS,)},
    # answers
    "its key": _out,
    "its key, later attempt": _later,
    "a heartbeat": {"heartbeat_out": True},
    "nobody's key": {},
    "the close, nothing else": {"outstanding": (CLOSE,)},
    "the close, rows out": {"outstanding": (ROWS, CLOSE)},
    "the close, a file out": {"outstanding": (FILE, CLOSE)},
    "the close, a heartbeat out": {"outstanding": (CLOSE,), "heartbeat_out": True},
    "the close, one refused": {"outstanding": (ROWS, CLOSE), "refused": _refused_rows["refused"]},
    "rows, the close out": {"outstanding": (ROWS, CLOSE)},
    "rows, nothing else": {"outstanding": (ROWS,)},
    "a file, nothing else": {"outstanding": (FILE,)},
    "not taken, nothing else": {"outstanding": (ROWS,)},
    "the end, nothing else": {"outstanding": (END,)},
    "the close": {"outstanding": (CLOSE,)},
    "429": _out,
    "401": _out,
    # all that could leave waits, and nothing is due
    "plenty": _plenty,
    "plenty, later attempt": {**_later, "hub_wanted": False, **_plenty},
    "plenty, usage on": {"usage": True, **_plenty},
    "plenty, usage, later attempt": {**_later, "hub_wanted": False, "usage": True, **_plenty},
    "plenty, beat due": {"heartbeat_since": NOW - 300, **_plenty},
    "plenty, both due": {"metrics_since": NOW - 3, "checkpoint_since": NOW - 900, **_plenty},
    "plenty, rows due": {"metrics_since": NOW - 3, **_plenty},
    "plenty, file due": {"checkpoint_since": NOW - 900, **_plenty},
    "plenty, interval over": {"metrics_since": NOW - 3, **_plenty},
    "plenty, better": {**_better, **_plenty},
    "plenty, better, file due": {"checkpoint_since": NOW - 900, **_better, **_plenty},
    "the refused close, and plenty": {
        **_plenty,
        "outstanding": (CLOSE,),
        "refused": (Refused(key=CLOSE.key, reason="bad", at=NOW - 9),),
    },
    # nothing waits, not even the close
    "nothing out": {"outstanding": ()},
    "usage on, nothing out": {"outstanding": (), "usage": True},
    "beat due, nothing out": {"outstanding": (), "heartbeat_since": NOW - 300},
    # usage
    "usage on": {"usage": True},
    "usage off": {"usage": False},
}


def change(memory: Memory, **fields: Any) -> Memory:
    return msgspec.structs.replace(memory, **fields)


def base(state: State) -> Memory:
    """A plausible memory of `state` in which nothing is due and nothing waits (but the close, if it is asked)."""
    if state is State.IDLE:
        return Memory()
    fields: dict[str, Any] = {
        "state": state,
        "session": "S",
        "name": "digits",
        "attempt": 1,
        "epochs": 20,
        "opened_at": NOW - 500,
        "metrics_since": NOW - 1,
        "checkpoint_since": NOW - 1,
        "heartbeat_since": NOW - 1,
    }
    return Memory(**(fields | BASES[state]))


def situation(state: State, event: str, case: str) -> tuple[Memory, ev.Event]:
    """The memory and the event of one cell."""
    return change(base(state), **CHANGES[case]), SAID.get((event, case), PLAIN[event])
