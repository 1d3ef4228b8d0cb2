"""What a caller of `start` asked for, checked before anything is opened."""

from __future__ import annotations

import json
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

import msgspec

from hubstate.errors import UsageError
from hubstate.events import MOST
from hubstate.limits import CHECKPOINT_CHOICES, Limits

__all__ = ["Wish", "checked_count", "checked_fitness", "checked_seconds", "checked_wish"]


@dataclass(frozen=True)
class Wish:
    """What was asked for. `limits` None: as the settings say. `usage`: one's own hub hears of validations and the like."""

    name: str
    tags: tuple[str, ...] = ()
    epochs: int | None = None
    config: dict[str, Any] = field(default_factory=dict)
    limits: Limits | None = None
    checkpoints: str = "all"
    resume: bool | str = False
    usage: bool = False


def checked_wish(
    name: str,
    tags: Iterable[str],
    epochs: int | None,
    config: Mapping[str, Any] | None,
    limits: Limits | None,
    checkpoints: str,
    resume: bool | str,
) -> Wish:
    """The wish, or `UsageError` naming the argument that cannot be used."""
    if not isinstance(name, str) or not name.strip():
        raise UsageError(f"a session needs a name: a text that is not empty, not {name!r}")
    labels = tuple(tags) if isinstance(tags, Iterable) and not isinstance(tags, str) else None
    if labels is None or not all(isinstance(label, str) for label in labels):
        raise UsageError(f"tags must be a list of texts, not {tags!r}")
    for text in (name, *labels):
        if not _is_writable(text):
            raise UsageError(f"{text!r} is no text that UTF-8 can hold; a session's name and tags must be")
    if epochs is not None and (type(epochs) is not int or not 1 <= epochs <= MOST):
        raise UsageError(f"epochs must be a whole number, 1 or more, or None, not {epochs!r:.80}")
    if checkpoints not in CHECKPOINT_CHOICES:
        raise UsageError(f"checkpoints must be one of {', '.join(CHECKPOINT_CHOICES)}, not {checkpoints!r}")
    if limits is not None and not isinstance(limits, Limits):
        raise UsageError(f"limits must be hubstate.Limits(...), not {type(limits).__name__}")
    if not isinstance(resume, bool | str) or resume == "":
        raise UsageError(f"resume must be True, False or a session's id, not {resume!r}")
    return Wish(name, labels, epochs, _checked_config(config), limits, checkpoints, resume)


def _checked_config(config: Mapping[str, Any] | None) -> dict[str, Any]:
    """The configuration as JSON holds it: what JSON does not know becomes a text."""
    if config is None:
        return {}
    if not isinstance(config, Mapping):
        raise UsageError(f"config must be a mapping such as {{'lr': 0.05}}, not {type(config).__name__}")
    try:
        text = msgspec.json.encode(dict(config), enc_hook=_plain)
        # Names that are numbers become texts, and may then be the same as another one: one of the two would be lost.
        plain = json.loads(text, object_pairs_hook=_without_repeats)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise UsageError(f"config cannot be kept as JSON: {error}") from error
    assert isinstance(plain, dict)
    return plain


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(name for place, (name, _) in enumerate(pairs) if name in dict(pairs[:place]))
        raise ValueError(f"two of its names are {twice!r} as JSON, where every name is a text")
    return found


def _plain(value: Any) -> Any:
    item = getattr(value, "item", None)  # NumPy scalars and tensors of one element
    if callable(item) and getattr(value, "size", None) in (1, None):
        return item()
    return str(value)


def _is_writable(text: str) -> bool:
    """Whether UTF-8 can hold it; a file's name that is no UTF-8 gives texts (with surrogates) that it cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def checked_count(name: str, value: Any) -> int:
    """An epoch or a step as an int; NumPy integers are taken. Raises `UsageError` for what is no whole number."""
    try:
        if not isinstance(value, bool):
            return operator.index(value)
        reason = None
    except TypeError as error:
        reason = error
    raise UsageError(f"{name} must be a whole number, not {type(value).__name__} {value!r:.80}") from reason


def checked_seconds(name: str, value: Any) -> float:
    """A time-out in seconds, finite and 0 or more, or `UsageError`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value) or value < 0:
        raise UsageError(f"{name} must be a number of seconds, 0 or more, not {value!r:.80}")
    return float(value)


def checked_fitness(value: Any) -> float:
    """A fitness as a float. Raises `UsageError` for what is no number."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise UsageError(
            f"fitness must be a number or None, not {type(value).__name__} {value!r:.80}"
        ) from error
