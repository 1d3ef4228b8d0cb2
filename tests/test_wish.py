"""What a caller may ask for is checked before anything is opened."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hubstate.errors import UsageError
from hubstate.limits import Limits
from hubstate.wish import Wish, checked_fitness, checked_wish

PLAIN: dict[str, Any] = {
    "name": "digits",
    "tags": (),
    "epochs": 3,
    "config": None,
    "limits": None,
    "checkpoints": "all",
    "resume": False,
}


def wish(**changed: Any) -> Wish:
    return checked_wish(**(PLAIN | changed))


def test_a_plain_wish_is_taken_as_it_is() -> None:
    """What can be used is taken as it was given, tags as a tuple."""
    made = wish(tags=["a", "b"], limits=Limits(metrics=1), resume="01ABC", config={"lr": 0.5})
    assert made == Wish("digits", ("a", "b"), 3, {"lr": 0.5}, Limits(metrics=1), "all", "01ABC")


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("name", "", "name"),
        ("name", "  ", "name"),
        ("name", 5, "name"),
        ("tags", "abc", "tags"),
        ("tags", [1], "tags"),
        ("tags", 5, "tags"),
        ("tags", None, "tags"),
        ("epochs", 0, "epochs"),
        ("epochs", -1, "epochs"),
        ("epochs", 1.5, "epochs"),
        ("epochs", True, "epochs"),
        ("config", [1], "config"),
        ("config", Namespace(lr=1), "config"),
        ("limits", 3, "Limits"),
        ("checkpoints", "some", "checkpoints"),
        ("resume", "", "resume"),
        ("resume", 1, "resume"),
        ("resume", None, "resume"),
    ],
)
def test_what_cannot_be_used_is_named(field: str, value: object, words: str) -> None:
    """An argument that cannot be used is named, with what it may be."""
    with pytest.raises(UsageError, match=words):
        wish(**{field: value})


def test_a_configuration_becomes_what_json_holds() -> None:
    """NumPy values become numbers, tuples lists, and what JSON does not know becomes a text."""
    made = wish(
        config={"lr": np.float32(0.5), "n": np.int64(3), "shape": (2, 3), "out": Path("a/b"), "a": np.ones(2)}
    )
    assert made.config == {"lr": 0.5, "n": 3, "shape": [2, 3], "out": "a/b", "a": "[1. 1.]"}


def test_names_that_json_cannot_tell_apart_are_refused() -> None:
    """Where a number and a text would become one name nothing is dropped without a word, however deep it lies."""
    with pytest.raises(UsageError, match="config cannot be kept as JSON: two of its names are '1'"):
        wish(config={"layers": {1: "conv", "1": "pool"}})
    assert wish(config={1: "conv", "2": "pool"}).config == {"1": "conv", "2": "pool"}


def test_a_configuration_without_end_is_refused() -> None:
    """A configuration that holds itself is refused with a clear word, and not by a crash."""
    loop: dict[str, Any] = {}
    loop["self"] = loop
    with pytest.raises(UsageError, match="config cannot be kept"):
        wish(config=loop)


def test_a_fitness_is_a_number() -> None:
    """A NumPy scalar is a fitness, a text is none."""
    assert checked_fitness(np.float32(0.5)) == 0.5
    with pytest.raises(UsageError, match="fitness must be a number or None, not str 'good'"):
        checked_fitness("good")
