"""Events: frozen values that refuse nonsense, and metrics that are exact or told apart."""

from __future__ import annotations

import json
import math
import sys

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubstate import events as ev
from hubstate.errors import UsageError
from hubstate.events import exact, name_of
from hubstate.states import Outcome


def saved(**fields: object) -> ev.ModelSave:
    return ev.ModelSave(**({"at": 0.0, "epoch": 1, "path": "p", "size": 1, "mtime_ns": 1} | fields))


def test_each_event_has_a_name_of_its_own():
    """The tags are the trainer's callback names; no two events share one, and all are listed once."""
    names = [name_of(kind) for kind in ev.EVENTS]
    assert len(set(names)) == len(names) == 20
    assert name_of(ev.FitEpochEnd(0.0, 1, {})) == name_of(ev.FitEpochEnd) == "fit_epoch_end"
    assert not any(name.startswith("on_") for name in names)


def test_an_event_cannot_be_changed():
    """What was said stays said."""
    with pytest.raises(AttributeError):
        ev.Tick(1.0).at = 2.0


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ev.FitEpochEnd(0.0, -1, {}), "epoch must not be negative, and is -1"),
        (lambda: ev.FitEpochEnd(0.0, 1.0, {}), "epoch must be a whole number, not float 1.0"),
        (lambda: ev.FitEpochEnd(0.0, True, {}), "epoch must be a whole number, not bool True"),
        (lambda: ev.TrainBatchEnd(0.0, 0, -2, {}), "step must not be negative, and is -2"),
        (lambda: ev.TrainBatchEnd(0.0, "0", 2, {}), "epoch must be a whole number, not str '0'"),
        (lambda: ev.PretrainRoutineStart(0.0, first_epoch=-1), "first_epoch must not be negative"),
        (lambda: ev.PretrainRoutineStart(0.0, epochs=-1), "epochs must not be negative"),
        (lambda: saved(epoch=-1), "epoch must not be negative"),
        (lambda: saved(fitness=math.nan), "fitness is NaN: give None where there is no fitness"),
        (lambda: ev.TrainEnd(at=0.0, outcome=Outcome.FAILED), "finished or stopped, not failed; say abort"),
        (lambda: ev.Abort(at=0.0, outcome=Outcome.FINISHED, reason=""), "cannot leave the outcome finished"),
        (lambda: ev.Abort(at=0.0, outcome=Outcome.RUNNING, reason=""), "cannot leave the outcome running"),
    ],
)
def test_nonsense_is_refused_by_name(make, words):
    """A field that cannot be true is the caller's mistake, named with its value."""
    with pytest.raises(UsageError, match=words):
        make()


def test_what_is_plausible_is_taken():
    """Zero epochs, no epochs, any fitness that is a number and every ending outcome are fine."""
    assert ev.PretrainRoutineStart(0.0, epochs=0).epochs == 0
    assert ev.PretrainRoutineStart(0.0).epochs is None
    assert saved(fitness=-math.inf).fitness == -math.inf
    assert ev.TrainEnd(at=0.0, outcome=Outcome.STOPPED).outcome is Outcome.STOPPED
    for outcome in (Outcome.FAILED, Outcome.INTERRUPTED, Outcome.STOPPED, Outcome.UNKNOWN):
        assert ev.Abort(at=0.0, outcome=outcome, reason="r").outcome is outcome


# -- metrics ---------------------------------------------------------------------------------------------


class Scalar:
    """What NumPy's scalars and one-element tensors look like."""

    def __init__(self, value: object) -> None:
        self.value = value

    def __float__(self) -> float:
        if isinstance(self.value, Exception):
            raise self.value
        return self.value


@given(
    st.dictionaries(
        st.text(min_size=1),
        st.one_of(st.floats(), st.integers(-(2**53), 2**53), st.floats(width=32).map(Scalar)),
    )
)
def test_metrics_are_exact_or_told_apart(metrics):
    """Finite numbers come through bit by bit, the others as null with their name, and all of it is strict JSON."""
    values, nonfinite = exact(metrics)
    text = json.dumps(values, allow_nan=False)
    assert json.loads(text) == values
    assert msgspec.json.decode(msgspec.json.encode(values)) == values
    assert list(values) == list(metrics)
    assert set(nonfinite) == {name for name, value in values.items() if value is None}
    for name, value in metrics.items():
        given_ = value.value if isinstance(value, Scalar) else value
        back = float(nonfinite[name]) if name in nonfinite else values[name]
        assert back == given_ or (math.isnan(back) and math.isnan(given_))
        assert name in nonfinite or type(values[name]) is (
            float if isinstance(value, Scalar) else type(value)
        )


def test_the_names_of_what_is_not_finite():
    """The three values that JSON has no number for have one spelling each."""
    values, nonfinite = exact({"a": math.nan, "b": math.inf, "c": -math.inf, "d": 1.0, "e": Scalar(math.nan)})
    assert values == {"a": None, "b": None, "c": None, "d": 1.0, "e": None}
    assert nonfinite == {"a": "NaN", "b": "Infinity", "c": "-Infinity", "e": "NaN"}


def test_whole_numbers_stay_whole_while_a_double_can_hold_them():
    """Up to 2^53 an int is sent as it is; above, readers elsewhere would disagree about it, so it becomes a float."""
    values, _ = exact({"small": 2**53, "large": 2**53 + 2, "yes": True})
    assert [type(value) for value in values.values()] == [int, float, float]
    assert values == {"small": 2**53, "large": 2.0**53 + 2, "yes": 1.0}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("0.5", "the metric 'x' is str '0.5', which is no number"),
        (b"1", "is bytes b'1', which is no number"),
        (None, "is NoneType None, which is no number"),
        ([1.0], "which is no number"),
        (10**400, "which is no single number"),
        (Scalar(ValueError("only one element tensors")), "no single number .only one element"),
        (Scalar(RuntimeError("a tensor with 2 elements")), "no single number .a tensor with 2"),
        (Scalar("no float"), "no single number"),
    ],
)
def test_what_is_no_number_is_named_and_nothing_is_recorded(value, words):
    """A text, a list or a tensor of many elements is never guessed into a number."""
    with pytest.raises(UsageError, match=words) as refused:
        exact({"fine": 1.0, "x": value})
    assert "nothing of this row was recorded" in str(refused.value)
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize("name", ["", 7, None])
def test_a_metric_needs_a_name(name):
    """A name that is no text is refused, whatever its value."""
    with pytest.raises(UsageError, match="is not a text"):
        exact({"x": 1.0, name: 0.5})


def test_the_numbers_of_numpy_are_taken():
    """NumPy's scalars and arrays of one element count as numbers; an array of two does not."""
    numpy = pytest.importorskip("numpy")
    values, nonfinite = exact(
        {"f": numpy.float64(0.1), "h": numpy.float32(0.5), "i": numpy.int64(7), "n": numpy.float32("nan")}
    )
    assert (values, nonfinite) == ({"f": 0.1, "h": 0.5, "i": 7.0, "n": None}, {"n": "NaN"})
    assert all(type(value) in (float, type(None)) for value in values.values())
    with pytest.raises(UsageError, match="no single number"):
        exact({"x": numpy.array([1.0, 2.0])})


def test_a_metric_with_an_endless_text_is_cut():
    """A message does not repeat a whole tensor."""
    with pytest.raises(UsageError) as refused:
        exact({"x": "9" * sys.getrecursionlimit() * 10})
    assert len(str(refused.value)) < 300
