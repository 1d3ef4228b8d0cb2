"""What a caller of `start` asked for, checked before anything is opened."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from hubstate.errors import UsageError
from hubstate.limits import CHECKPOINT_CHOICES, Limits

__all__ = ["Wish", "checked_fitness", "checked_wish"]


@dataclass(frozen=True)
class Wish:
    """What was asked for. `limits` None: as the settings say."""

    name: str
    tags: tuple[str, ...] = ()
    epochs: int | None = None
    config: dict[str, Any] = field(default_factory=dict)
    limits: Limits | None = None
    checkpoints: str = "all"
    resume: bool | str = False


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
    labels = () if isinstance(tags, str) else tuple(tags)
    if isinstance(tags, str) or not all(isinstance(label, str) for label in labels):
        raise UsageError(f"tags must be a list of texts, not {tags!r}")
    if epochs is not None and (type(epochs) is not int or epochs < 1):
        raise UsageError(f"epochs must be a whole number, 1 or more, or None, not {epochs!r}")
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
        plain = msgspec.json.decode(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"config cannot be kept as JSON: {error}") from error
    assert isinstance(plain, dict)
    return plain


def _plain(value: Any) -> Any:
    item = getattr(value, "item", None)  # NumPy scalars and tensors of one element
    if callable(item) and getattr(value, "size", None) in (1, None):
        return item()
    return str(value)


def checked_fitness(value: Any) -> float:
    """A fitness as a float. Raises `UsageError` for what is no number."""
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"fitness must be a number or None, not {type(value).__name__} {value!r:.80}"
        ) from error
