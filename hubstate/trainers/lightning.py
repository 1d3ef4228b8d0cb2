"""Lightning: `HubstateCallback` among the callbacks of a `Trainer`; and `HubstateLogger` beside it for rows of steps.

| Lightning | here |
|---|---|
| `on_fit_start` | the session opens, in the first process of a distributed training; with `ckpt_path` it is a resumed one |
| `on_train_start` | training begins; what was measured before, to see that validation runs at all, is nobody's row |
| `on_train_epoch_end` | a row of the epoch: what was measured in it, and nothing that is left from an epoch before |
| `on_train_epoch_start`, `on_train_end` | what the model itself measured at the very end of the epoch joins its row |
| the hook after `on_save_checkpoint` | the files that were written: Lightning says so before it writes them |
| `on_train_batch_end` | a wish to stop sets `should_stop` in every process |
| `log_metrics` of the logger | a row of its step, unless it tells what the epoch's row tells |
| `teardown` | the end: `finished`, or `stopped` if the hub asked for it |
| `on_exception` | the end: `failed`, or `interrupted` by Ctrl-C or SIGTERM |

The hooks fire in every process, and to look at Lightning's metrics may need all of them: so every process looks, and
only the first one has a session to tell. Both packages that Lightning is sold under serve, `lightning` and
`pytorch_lightning`; of two that are installed the one that was imported first.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Unpack

from hubstate.errors import CheckpointMissing
from hubstate.snapshots import look
from hubstate.states import Outcome
from hubstate.trainers.link import fenced, numbers, supported
from hubstate.trainers.quiet import QuietLink, QuietOptions

__all__ = ["HubstateCallback", "HubstateLogger"]

_PACKAGES = ("lightning.pytorch", "pytorch_lightning")


def _lightning() -> Any:
    for package in sorted(_PACKAGES, key=lambda name: name not in sys.modules):
        try:
            return import_module(package)
        except ModuleNotFoundError as error:
            missing = error
    raise ImportError(
        "hubstate.trainers.lightning needs Lightning 2.2 or newer: pip install 'lightning>=2.2'"
    ) from missing


_PL = _lightning()
_LOGGER = import_module(f"{_PL.__name__}.loggers.logger").Logger


class HubstateCallback(QuietLink, _PL.Callback):  # type: ignore[misc,name-defined]
    """Records what `fit()` does as a session. Give it to the trainer's `callbacks`.

    `options`: those of `hubstate.start`; `name` None takes what the module's class is called. Where a checkpoint is saved by
    a monitored metric the best one is found by it. `saves`: where other code writes checkpoints, a file, a folder or a
    pattern; `fitness`: the metric by which the best of those is found, such as `-val_loss`. Raises `UsageError` for an
    argument or a version of Lightning that cannot be used.
    """

    def __init__(self, name: str | None = None, **options: Unpack[QuietOptions]) -> None:
        supported("lightning", _PL.__version__, first=(2, 2), tested="2.6")
        super().__init__(name, **options)
        self._bare = name is None and not options
        self._hyper_parameters: dict[str, Any] = {}
        self._now = _Now()

    def __getstate__(self) -> dict[str, Any]:
        """A copy belongs to no training."""
        return {**super().__getstate__(), "_now": _Now()}

    # -- the way of a training -----------------------------------------------------------------------------

    @fenced
    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        self._now = _Now()
        self.started()
        if trainer.fast_dev_run:  # a rehearsal: Lightning itself tells no logger of it, and saves nothing
            return
        self._now.trainer = trainer
        for logger in trainer.loggers:
            if isinstance(logger, HubstateLogger):
                logger.join(self)
        self.open(
            main=trainer.is_global_zero,
            name=type(pl_module).__name__,
            epochs=trainer.max_epochs if (trainer.max_epochs or 0) > 0 else None,
            config={**_settings(trainer), **_saved_parameters(trainer, pl_module), **self._hyper_parameters},
            resumed=trainer.ckpt_path is not None,
        )

    @fenced
    def on_train_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002 - Lightning gives both
        self.begin()  # first: a place for files that cannot be looked at costs files, and no rows
        if self.session is not None:
            self._now.files = _Files(trainer)

    @fenced
    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        self._complete(trainer)

    @fenced
    def on_train_batch_start(self, trainer: Any, pl_module: Any, *_batch: Any) -> None:  # noqa: ARG002
        self._written()
        self._now.stepping = True

    @fenced
    def on_train_batch_end(
        self,
        trainer: Any,
        pl_module: Any,  # noqa: ARG002
        outputs: Any,  # noqa: ARG002
        batch: Any,  # noqa: ARG002
        batch_idx: int,
    ) -> None:
        self._written()
        if _may_stop(trainer) and self._agreed(trainer, batch_idx):
            trainer.should_stop = True

    @fenced
    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        self._written()
        # A validation in the middle of an epoch measures a step, the one at its end the epoch.
        self._now.stepping = self._now.stepping and not trainer.is_last_batch

    @fenced
    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        self._now.epochs_own = frozenset(trainer.callback_metrics)

    @fenced
    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        self._written()
        self._now.stepping = False
        self._now.row_of, self._now.row = trainer.current_epoch, self._now.fresh.read(trainer)
        self._now.epochs_own |= self._now.row.keys()
        self.row(self._now.row_of, self._now.row)

    @fenced
    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: Any) -> None:  # noqa: ARG002
        self._written()
        self._now.files.announced(trainer.current_epoch, trainer.callback_metrics)

    @fenced
    def on_train_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        self._complete(trainer)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:  # noqa: ARG002
        if stage == "fit":
            self._came_back()

    @fenced
    def _came_back(self) -> None:
        self._written()
        self._now = _Now()
        self.ended()

    @fenced
    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:  # noqa: ARG002
        if self._now.trainer is not None:
            self._written()
            self.found()
            self._now = _Now()
            # Lightning makes an exit of SIGTERM, one without a code, as if the training had come to its end.
            if type(exception).__name__ == "SIGTERMException" and self._session is not None:
                session, self._session = self._session, None
                session.abort("ended by SIGTERM", outcome=Outcome.INTERRUPTED)
            self.abort(exception)

    # -- what is known a hook later ------------------------------------------------------------------------

    def _complete(self, trainer: Any) -> None:
        """What the module measured in its own hook of the epoch's end, after the row was told, joins that row."""
        self._written()
        if self._now.row_of is not None:
            self.row(self._now.row_of, self._now.fresh.late(trainer, self._now.row))
        self.found()

    @fenced
    def _written(self) -> None:
        """Tells of the files that the hook before announced. Only the first process has them.

        A disk that is full there must not keep it from what the hook does then, and the others do meanwhile: they wait.
        """
        if self.session is not None:
            for path, epoch, fitness in self._now.files.written():
                self.save(path, epoch, fitness=fitness)

    def _agreed(self, trainer: Any, batch: int) -> bool:
        """Whether to stop; the same answer in every process, or they would wait for each other for ever.

        In several processes that takes a message among them, so they ask as often as they log, and after the last batch.
        """
        if trainer.world_size < 2:
            return self.wants_stop()
        if (batch + 1) % max(1, trainer.log_every_n_steps) and not trainer.is_last_batch:
            return False
        return bool(trainer.strategy.reduce_boolean_decision(self.wants_stop(), all=False))

    # -- beside a logger -----------------------------------------------------------------------------------

    @property
    def name(self) -> str | None:
        """What the session is called; None where the module's class names it."""
        return self._name

    @fenced
    def step_row(self, metrics: Mapping[str, Any], step: int | None) -> None:
        """A row of a step, without what the epoch's row tells. Outside of a training it is none."""
        trainer = self._now.trainer
        if self.session is None or trainer is None:
            return
        known = {"epoch"} if self._now.stepping else {"epoch", *self._now.epochs_own}
        measured = {name: value for name, value in metrics.items() if name not in known}
        self.row(trainer.current_epoch, measured, step=trainer.global_step if step is None else int(step))

    @fenced
    def hyper_parameters(self, given: Any) -> None:
        """What is told of a training by its name, if it is told before the training begins."""
        self._hyper_parameters |= _flat(given if isinstance(given, Mapping) else vars(given))

    @fenced
    def install(self, trainer: Any, pl_module: Any) -> None:
        """Joins the trainer's callbacks when a training is about to begin, if no other one like it is among them."""
        if trainer.state.fn == "fit" and not any(isinstance(c, HubstateCallback) for c in trainer.callbacks):
            trainer.callbacks.insert(0, self)
            self.on_fit_start(trainer, pl_module)

    def take_over(self, other: HubstateCallback) -> None:
        """What another one was told before; and its arguments, if this one was given none."""
        self._hyper_parameters |= other._hyper_parameters
        if self._bare:
            self._name, self._config, self._resume = other._name, other._config, other._resume
            self._options = other._options


class HubstateLogger(_LOGGER):  # type: ignore[misc,valid-type]
    """Records the rows of steps and the hyper-parameters too. Give it to the trainer's `logger`.

    It tells the session of the `HubstateCallback` among the trainer's callbacks; where there is none, it brings one with its
    arguments, which are those of `HubstateCallback`. Checkpoints then lie in a folder of its `name`, below the trainer's own.
    """

    def __init__(self, name: str | None = None, **options: Unpack[QuietOptions]) -> None:
        super().__init__()
        self._callback = HubstateCallback(name, **options)

    @property
    def name(self) -> str:
        """What the session is called, if that was said."""
        return self._callback.name or "hubstate"

    @property
    def version(self) -> str:
        """Empty: a resumed training finds its files where they were."""
        return ""

    @property
    def experiment(self) -> Any:
        """The session; None before and after a training, and in any process but the first one."""
        return self._callback.session

    def join(self, callback: HubstateCallback) -> None:
        """From now on it tells this one."""
        if callback is not self._callback:
            callback.take_over(self._callback)
            self._callback = callback

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Lightning, or the user, has measured something."""
        self._callback.step_row(metrics, step)

    def log_hyperparams(self, params: Any, *_arguments: Any, **_named: Any) -> None:
        """What is told before the training begins goes into the session's configuration."""
        self._callback.hyper_parameters(params)

    def log_graph(self, model: Any, input_array: Any = None) -> None:  # noqa: ARG002
        """Just before a training a logger is shown its module, and by it the trainer."""
        self._callback.install(model.trainer, model)


class _Fresh:
    """Tells what an epoch measured from what is left of an earlier one: Lightning keeps both, under their names.

    What the training measures itself is another object each time one looks, until its epoch is over. Anything else
    (validation, learning rates) is measured anew if it is another object than after the epoch before.
    """

    def __init__(self) -> None:
        self._last: dict[str, Any] = {}
        self._by_training: set[str] = set()

    def read(self, trainer: Any) -> dict[str, Any]:
        """What this epoch measured so far. Every process has to call it: looking may need them all."""
        before, now = dict(trainer.callback_metrics), dict(trainer.callback_metrics)
        by_training = {name for name, value in now.items() if before.get(name) is not value}
        found = {
            name: value
            for name, value in now.items()
            if name in by_training or (name not in self._by_training and self._last.get(name) is not value)
        }
        self._last, self._by_training = now, by_training
        return found

    def late(self, trainer: Any, told: Mapping[str, Any]) -> dict[str, Any]:
        """What came after `read`, under names that it did not tell."""
        now = dict(trainer.callback_metrics)
        found = {n: value for n, value in now.items() if n not in told and self._last.get(n) is not value}
        self._last |= found
        return found


class _Files:
    """The files of the trainer's checkpoint callbacks. Lightning announces one before it writes it.

    That a file lies there proves nothing: what was there when the training began, or has not changed, is not new.
    """

    def __init__(self, trainer: Any = None) -> None:
        self._savers = () if trainer is None else tuple(trainer.checkpoint_callbacks)
        self._announced: tuple[int, dict[str, Any]] | None = None
        places = {Path(saver.dirpath) for saver in self._savers if getattr(saver, "dirpath", None)}
        present = [path for place in places if place.is_dir() for path in place.iterdir()]
        self._known = {path: _shape(path) for path in present}

    def announced(self, epoch: int, metrics: Mapping[str, Any]) -> None:
        """A file is about to be written, after this epoch and with these metrics."""
        self._announced = epoch, dict(metrics)

    def written(self) -> Iterator[tuple[Path, int, float | None]]:
        """The files that were written since the last announcement: path, epoch and fitness."""
        if self._announced is None:
            return
        (epoch, metrics), self._announced = self._announced, None
        for saver in self._savers:
            for path in _paths(saver):
                shape = _shape(path)
                if shape is not None and self._known.get(path) != shape:
                    self._known[path] = shape
                    yield path, epoch, _fitness(saver, metrics)


@dataclass
class _Now:
    """The training that goes on. When it is over, or in another process, nothing of it is left."""

    trainer: Any = None
    fresh: _Fresh = field(default_factory=_Fresh)
    files: _Files = field(default_factory=_Files)
    #: The epoch whose row was told, and the row; None before the first one.
    row_of: int | None = None
    row: dict[str, Any] = field(default_factory=dict)
    #: The metrics of epochs, as far as they are known by now.
    epochs_own: frozenset[str] = frozenset()
    #: Whether what is measured just now belongs to a step.
    stepping: bool = False


def _paths(saver: Any) -> Iterator[Path]:
    """Where a checkpoint callback says that its files are, each once, links left out."""
    named = [*getattr(saver, "best_k_models", ())]
    named += [getattr(saver, f"{which}_model_path", "") for which in ("best", "last")]
    for name in dict.fromkeys(named):
        path = Path(name)
        if name and not path.is_symlink():
            yield path


def _shape(path: Path) -> tuple[int, int] | None:
    """Size in bytes and time of change in ns; None where nothing is."""
    try:
        seen = look(path)
    except CheckpointMissing:
        return None
    return seen.size, seen.mtime_ns


def _fitness(saver: Any, metrics: Mapping[str, Any]) -> float | None:
    """What a checkpoint is judged by, larger is better; None where it is saved by no metric."""
    monitored = numbers({"it": metrics.get(getattr(saver, "monitor", None) or "")})
    if not monitored:
        return None
    return -float(monitored["it"]) if saver.mode == "min" else float(monitored["it"])


def _may_stop(trainer: Any) -> bool:
    """Whether a wish to stop would end the training earlier than it ends by itself."""
    if trainer.should_stop or not getattr(trainer.fit_loop, "_can_stop_early", True):
        return False
    over = trainer.is_last_batch and trainer.current_epoch + 1 == trainer.max_epochs
    return not over and not 0 < trainer.max_steps <= trainer.global_step


def _settings(trainer: Any) -> dict[str, Any]:
    """What of the trainer's settings changes what is learnt."""
    names = ("accumulate_grad_batches", "gradient_clip_val", "max_steps", "precision", "world_size")
    return {name: getattr(trainer, name, None) for name in names}


def _saved_parameters(trainer: Any, pl_module: Any) -> dict[str, Any]:
    """What `save_hyperparameters` kept, of module and data, unless it was told to log nothing."""
    found: dict[str, Any] = {}
    for owner in (pl_module, trainer.datamodule):
        if getattr(owner, "_log_hyperparams", False):
            found |= _flat(owner.hparams_initial)
    return found


def _flat(config: Mapping[Any, Any], above: str = "") -> dict[str, Any]:
    """Nested settings under joined names."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{above}{name}/")
        else:
            found[f"{above}{name}"] = value
    return found
