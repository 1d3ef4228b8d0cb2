"""Sessions as the pictures see them: their steps, as plain values."""

from __future__ import annotations

from hubstate.diagram import Taken

__all__ = ["WALKS"]


def said(state: str, event: str, target: str = "", times: int = 1, **more: object) -> list[Taken]:
    """The same step some times over; without a target the session stays."""
    return [Taken(state, event, target or state, **more)] * times


BEGUN = [
    *said("idle", "pretrain_routine_start", "session_created", guards={"may_open": True}),
    *said("session_created", "pretrain_routine_end", "timing"),
    *said("timing", "train_start", "training"),
]
TRAINING = [
    *BEGUN,
    *said("training", "fit_epoch_end", times=12, guards={"metrics_due": True}),
    *said("training", "fit_epoch_end", times=3, guards={"metrics_due": False}),
    *said("training", "model_save", guards={"keep_due": True, "checkpoint_due": True}),
    *said("training", "model_save", times=2, guards={"keep_due": True, "checkpoint_due": False}),
    *said("training", "model_save", times=9, guards={"keep_due": False}, held=True),
    *said(
        "training", "tick", times=4, guards={"metrics_due": True, "rows_wait": True, "checkpoint_due": False}
    ),
    *said("training", "delivered", times=14),
]
FINALIZING = [*TRAINING, *said("training", "train_end", "finalizing")]
DONE = [*FINALIZING, *said("finalizing", "delivered", "done", guards={"all_delivered": True})]
ABORTED = [*TRAINING, *said("training", "abort", "aborted")]
REFUSED = [
    *BEGUN,
    *said("training", "pretrain_routine_start", times=2, illegal=True),
    *said("training", "give_up", illegal=True),
    *said("training", "refused", times=3),
    *said("training", "train_end", "finalizing"),
    *said("finalizing", "refused", times=2),
    *said("finalizing", "retry_refused", guards={"refused_exist": True}),
]
GIVEN_UP = [
    *FINALIZING,
    *said("finalizing", "give_up", "aborted"),
    *said("aborted", "give_up", guards={"something_waits": True}),
]
#: The most that has to fit: long counts everywhere, every event out of turn, and steps of another table.
CROWDED = [
    *said("idle", "train_start", held=True, times=1_234),
    *(TRAINING * 99),
    *(said("aborted", "give_up", guards={"something_waits": True}) * 1_234),
    *(
        step
        for state in ("session_created", "training", "finalizing", "done", "aborted")
        for event in ("pretrain_routine_start", "pretrain_routine_end", "train_batch_end", "train_end")
        for step in said(state, event, illegal=True, times=1_234)
    ),
    *(said("finalizing", "refused") * 1_234),
    *said("aborted", "give_up", held=True, guards={"something_waits": False}),
    *said("done", "unheard_of", "idle", times=7),
]

#: Each with a name; None: no session, the machine alone.
WALKS: dict[str, list[Taken] | None] = {
    "machine": None,
    "begun": [],
    "training": TRAINING,
    "finalizing": FINALIZING,
    "done": DONE,
    "aborted": ABORTED,
    "two attempts": [*ABORTED, *DONE],
    "refused": REFUSED,
    "given up": GIVEN_UP,
    "crowded": CROWDED,
}
