"""Hypothesis strategies: what is said to a session, how a run goes, and what goes wrong meanwhile."""

from __future__ import annotations

from typing import Any

from hubstate.testing.needs import require

require("hypothesis")

from hypothesis import strategies as st  # noqa: E402

from hubstate import events as ev  # noqa: E402
from hubstate.proof.faults import FAULTS, Fault, rate_limited, slow  # noqa: E402
from hubstate.states import CheckpointKind, Outcome  # noqa: E402

__all__ = ["durations", "events", "faults", "metrics", "runs"]


def durations() -> st.SearchStrategy[float]:
    """Seconds to let pass: mostly at, just before and far behind the ends of the default limits."""
    edges = (0.0, 0.5, 2.999, 3.0, 5.0, 60.0, 299.999, 300.0, 899.999, 900.0, 86_400.0)
    return st.sampled_from(edges) | st.floats(0.0, 1_000.0)


def metrics(*, finite: bool = False) -> st.SearchStrategy[dict[str, float]]:
    """What a row measures: a few named numbers, NaN and infinities among them unless `finite`."""
    names = st.sampled_from(["train/loss", "val/loss", "accuracy", "lr", "größe"])
    number = st.floats(allow_nan=not finite, allow_infinity=not finite, width=32)
    return st.dictionaries(names, number, min_size=1, max_size=3)


def faults() -> st.SearchStrategy[Fault]:
    """What may become of a request: one of each kind, with pauses and delays of different lengths."""
    return (
        st.sampled_from(FAULTS)
        | st.builds(rate_limited, st.sampled_from((1.0, 30.0, 600.0)))
        | st.builds(slow, st.sampled_from((1.0, 10.0, 400.0)))
    )


def events(*, at: float = 1_800_000_000.0, session: str = "S") -> st.SearchStrategy[ev.Event]:
    """Any event that a session may hear, at one time (seconds since 1970): each kind as likely as every other."""
    epoch, step = st.integers(0, 20), st.integers(0, 10_000)
    keys = st.sampled_from(["open", "rows/1-2", "rows/3-3", "checkpoint/last/a", "close", "end", "heartbeat"])
    key = keys.map(lambda rest: f"{session}/1/{rest}")
    exact = metrics(finite=True)
    reason = st.sampled_from(["out of memory", "Ctrl-C", "größer"])
    interval = st.none() | st.sampled_from([0.0, 1.0, 3.0, 900.0])
    saves = {
        "epoch": epoch,
        "path": st.just("last.pt"),
        "size": st.integers(0, 1_000),
        "mtime_ns": st.integers(0, 1_000),
        "kind": st.sampled_from(CheckpointKind),
        "fitness": st.none() | st.sampled_from([0.0, 0.5, 0.9]),
        "snapshot": st.sampled_from(["a.pt", "b.pt"]),
    }
    held = st.sampled_from(["offline", "rate_limited", "credentials_rejected", "hub_failing"])
    ended = st.sampled_from([Outcome.FAILED, Outcome.INTERRUPTED, Outcome.STOPPED, Outcome.UNKNOWN])
    now = st.just(at)
    return st.one_of(
        st.builds(
            ev.PretrainRoutineStart,
            at=now,
            session=st.just(session),
            name=st.just("digits"),
            wanted=st.booleans(),
            main=st.booleans(),
            hub=st.booleans(),
            usage=st.booleans(),
            first_epoch=epoch,
        ),
        st.builds(ev.PretrainRoutineEnd, now),
        st.builds(ev.TrainStart, now),
        st.builds(ev.FitEpochEnd, now, epoch, exact, final=st.booleans()),
        st.builds(ev.TrainBatchEnd, now, epoch, step, exact),
        st.builds(ev.ModelSave, at=now, **saves),
        st.builds(ev.TrainEnd, at=now, outcome=st.sampled_from([Outcome.FINISHED, Outcome.STOPPED])),
        st.builds(ev.Abort, at=now, outcome=ended, reason=reason),
        st.builds(ev.ValStart, now),
        st.builds(ev.PredictStart, now),
        st.builds(ev.ExportStart, now),
        st.builds(ev.GiveUp, now, reason),
        st.builds(ev.RetryRefused, now),
        st.builds(ev.Tick, now),
        st.builds(ev.HeartbeatTick, now),
        st.builds(ev.Delivered, at=now, key=key, rows=st.integers(0, 5)),
        st.builds(ev.Refused, at=now, key=key, reason=reason),
        st.builds(ev.HeldUp, at=now, key=key, condition=held, reason=reason),
        st.builds(ev.Answered, at=now, metrics_interval=interval, checkpoint_interval=interval),
        st.builds(ev.StopRequested, now, reason),
    )


@st.composite
def runs(draw: st.DrawFn, *, at: float = 1_800_000_000.0, session: str = "S") -> list[ev.Event]:
    """The events of one training from its opening to its end, in an order that a trainer may say them in.

    Any number of epochs, each with steps, a row and perhaps a save; time passes between them. It may end early, by
    an error or by Ctrl-C, at any place.
    """
    now = at
    exact: st.SearchStrategy[Any] = metrics(finite=True)

    def later() -> float:
        nonlocal now
        now += draw(st.sampled_from((0.25, 3.0, 60.0, 900.0)))
        return now

    said: list[ev.Event] = [
        ev.PretrainRoutineStart(at=now, session=session, name="digits"),
        ev.PretrainRoutineEnd(later()),
        ev.TrainStart(later()),
    ]
    for epoch in range(draw(st.integers(0, 5))):
        steps = range(draw(st.integers(0, 2)))
        said.extend(ev.TrainBatchEnd(later(), epoch, step, draw(exact)) for step in steps)
        said.append(ev.FitEpochEnd(later(), epoch, draw(exact)))
        if draw(st.booleans()):
            fitness = draw(st.none() | st.sampled_from((0.1, 0.5, 0.9)))
            snapshot = f"last-{epoch}.pt"
            said.append(
                ev.ModelSave(
                    at=later(),
                    epoch=epoch,
                    path="last.pt",
                    size=10,
                    mtime_ns=epoch,
                    fitness=fitness,
                    snapshot=snapshot,
                )
            )
    if draw(st.booleans()):
        return [*said, ev.TrainEnd(at=later())]
    outcome = draw(st.sampled_from((Outcome.FAILED, Outcome.INTERRUPTED)))
    cut = draw(st.integers(1, len(said)))
    return [*said[:cut], ev.Abort(at=now, outcome=outcome, reason="somewhere on the way")]
