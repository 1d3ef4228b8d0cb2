"""What Hugging Face Transformers leaves: `trainer_state.json`, and the folders `checkpoint-N`, each with one of its own.

| in the newest `trainer_state.json` | here |
|---|---|
| what was logged between two ends of epochs | a row of its step |
| what an evaluation at an epoch's end measured, and the summary of the training | part of the row of that epoch |
| an evaluation behind that summary | the final row |
| `num_train_epochs`, `max_steps`, `train_batch_size` | the configuration |
| `best_model_checkpoint`, and the newest folder | the best checkpoint and the newest one, as folders |

Where everything was logged at ends of epochs, all of it is rows of epochs. The file tells no times, so every row has the
time when it was written last. A training is finished when all its steps are there, or the summary. `training_args.bin` is
never opened: whoever unpickles a file runs what is in it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec

from hubstate.errors import StorageError
from hubstate.importing.found import Found, Measured, SavedFile, row_of, text_of, told, written_at
from hubstate.trainers.link import numbers

__all__ = ["is_here", "read"]

_STATE = "trainer_state.json"
_FOLDER = re.compile(r"checkpoint-(\d{1,15})")
_SUMMARY = "train_runtime"

Count = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]


class _State(msgspec.Struct):
    """Of a state only what is asked for."""

    log_history: list[dict[str, Any]] = []
    global_step: Count = 0
    max_steps: int = 0
    num_train_epochs: int = 0
    train_batch_size: int | None = None
    best_metric: float | None = None
    best_model_checkpoint: str | None = None
    trial_params: dict[str, Any] | None = None


def is_here(folder: Path) -> bool:
    """Whether a folder looks as a `Trainer` leaves its output: with its state, or with checkpoints that have one."""
    return _FOLDER.fullmatch(folder.name) is None and any(_states(folder))


def _states(folder: Path) -> Iterator[Path]:
    if (folder / _STATE).is_file():
        yield folder / _STATE
    yield from (path / _STATE for _, path in _folders(folder) if (path / _STATE).is_file())


def _folders(folder: Path) -> list[tuple[int, Path]]:
    """The checkpoints by their steps."""
    try:
        named = [(_FOLDER.fullmatch(path.name), path) for path in folder.iterdir()]
    except OSError as error:
        raise StorageError(f"cannot look into {folder}: {error.strerror}") from error
    return sorted((int(found[1]), path) for found, path in named if found and path.is_dir())


def read(folder: Path) -> Found | None:
    """The training in `folder`. Raises `StorageError` if none of its states can be read."""
    states, notes = [], []
    for path in _states(folder):
        try:
            states.append((_state(path), path))
        except StorageError as failure:
            notes.append(str(failure))
    if not states:
        raise StorageError("; ".join(notes))
    # At the same step the one that was saved behind the end tells more than that of the last checkpoint.
    state, path = max(states, key=lambda one: (one[0].global_step, one[1].parent == folder))
    written = written_at(path)
    rows = tuple(_rows(state.log_history, written))
    return Found(
        folder=folder,
        tool="Transformers",
        name=folder.resolve().name,
        first=repr(state.log_history[0]) if state.log_history else "",
        opened_at=written,
        rows=rows,
        files=tuple(_files(folder, state)),
        epochs=state.num_train_epochs if 0 < state.num_train_epochs < 2**31 else None,
        config=_config(state),
        unfinished=_unfinished(state),
        times=f"when {path.name} was written last: it tells no times",
        notes=tuple(notes),
    )


def _state(path: Path) -> _State:
    try:
        # Python writes NaN and infinities bare, which is no JSON, and reads them.
        return msgspec.convert(json.loads(text_of(path)), _State)
    except (ValueError, RecursionError) as error:  # what msgspec says of a wrong shape is a ValueError, too
        raise StorageError(f"{path} is no state of a Trainer: {error}") from error


def _config(state: _State) -> dict[str, Any]:
    known = {name: getattr(state, name) for name in ("num_train_epochs", "max_steps", "train_batch_size")}
    return told({**known, **(state.trial_params or {})})


def _unfinished(state: _State) -> str:
    if 0 < state.max_steps <= state.global_step or any(_SUMMARY in entry for entry in state.log_history):
        return ""
    return f"it stands at step {state.global_step} of {state.max_steps}"


def _rows(history: list[dict[str, Any]], at: float) -> Iterator[Measured]:
    places = [_place(entry) for entry in history]
    only_ends = all(ended for _, _, ended in places)
    over = False
    for entry, (epoch, step, ended) in zip(history, places, strict=True):
        measured = numbers({name: value for name, value in entry.items() if name not in ("epoch", "step")})
        evaluated = any(name.startswith("eval_") for name in measured)
        if measured and ended and (only_ends or evaluated or _SUMMARY in entry):
            yield row_of(at, epoch, measured, final=over and evaluated)
        elif measured:
            yield row_of(at, epoch, measured, step=step)
        over = over or _SUMMARY in entry


def _place(entry: dict[str, Any]) -> tuple[int, int, bool]:
    """The epoch (from 0) and the step of what was logged, and whether that epoch had ended.

    Transformers tells how many epochs are done, with fractions.
    """
    done, step = entry.get("epoch"), entry.get("step")
    passed = done if isinstance(done, int | float) and 0 <= done < 2**53 else 0
    ended = passed > 0 and math.isclose(passed, round(passed), rel_tol=0, abs_tol=1e-6)
    epoch = round(passed) - 1 if ended else int(passed)
    return epoch, step if type(step) is int and 0 <= step < 2**53 else 0, ended


def _files(folder: Path, state: _State) -> Iterator[SavedFile]:
    """The best and the newest checkpoint, each once, the older one first."""
    saved = _folders(folder)
    best = Path(state.best_model_checkpoint or "").name
    for step, path in saved:
        if path.name == best or (step, path) == saved[-1]:
            yield SavedFile(path, _epoch_of(path, state), _fitness(state) if path.name == best else None)


def _epoch_of(path: Path, state: _State) -> int:
    """The epoch that a checkpoint was saved after, or in."""
    step = int(path.name.removeprefix("checkpoint-"))
    known = [place for entry in state.log_history if (place := _place(entry))[1] <= step and "epoch" in entry]
    return max((epoch for epoch, _, _ in known), default=0)


def _fitness(state: _State) -> float | None:
    """What the best checkpoint is judged by, larger is better. Which way is better follows from what else was measured."""
    best = state.best_metric
    if best is None or not math.isfinite(best):
        return None
    for name in {name for entry in state.log_history for name in entry if name.startswith("eval_")}:
        values = [value for entry in state.log_history if isinstance(value := entry.get(name), int | float)]
        if best in values and best == min(values) != max(values):
            return -best
    return best
