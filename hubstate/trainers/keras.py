"""Keras 3, on any back end: `HubstateCallback` among the callbacks of `fit()`, and a block around it.

| Keras | here |
|---|---|
| `on_epoch_begin` of the first epoch | the session opens and training begins; after `initial_epoch` it is a resumed one |
| `on_epoch_end` | a row, validation included |
| `on_train_batch_end` | with `steps=N` every N-th is a row of its step; a wish to stop sets `model.stop_training` |
| `on_epoch_begin`, `on_train_end` | files that appeared where `saves=` says |
| `on_train_end` | the end: `finished`, or `stopped` if the hub asked for it |

Keras fires nothing when an exception or Ctrl-C leaves `fit()`: only the block sees that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

from hubstate.errors import UsageError
from hubstate.trainers.link import fenced, supported
from hubstate.trainers.quiet import QuietLink, QuietOptions

try:
    import keras
except ImportError as error:
    raise ImportError("hubstate.trainers.keras needs Keras 3: pip install 'keras>=3'") from error

__all__ = ["HubstateCallback"]


class HubstateCallback(QuietLink, keras.callbacks.Callback):  # type: ignore[misc]
    """Records what `fit()` does as a session. Give it to `callbacks`, and put `with` around the call.

    `saves`: where checkpoints appear, the pattern of a `ModelCheckpoint` for example. `fitness`: the metric by which the best
    one is found, such as `val_accuracy` or `-val_loss`. `steps`: every how many batches a row of the step is recorded;
    None for none. `options`: those of `hubstate.start`. Raises `UsageError` for an argument or a Keras that cannot be used.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        steps: int | None = None,
        **options: Unpack[QuietOptions],
    ) -> None:
        supported("keras", keras.__version__, first=(3,), tested="3.15")
        if steps is not None and (type(steps) is not int or steps < 1):
            raise UsageError(f"steps must be a whole number, 1 or more, or None, not {steps!r:.80}")
        keras.callbacks.Callback.__init__(self)
        super().__init__(name, **options)
        self._steps = steps
        self._now = 0

    @fenced
    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:  # noqa: ARG002 - Keras names it
        self.started()

    @fenced
    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:  # noqa: ARG002
        self._now = epoch
        self.found()
        if self.session is None:
            self.open(
                name=self.model.name,
                epochs=self.params.get("epochs"),
                config={"batches": self.params.get("steps"), **_settings(self.model)},
                resumed=epoch > 0,
            )
            self.begin()

    @fenced
    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        if self._steps is not None and (batch + 1) % self._steps == 0:
            self.row(self._now, logs or {}, step=int(self.model.optimizer.iterations))
        if not self._is_last(batch) and self.wants_stop():
            self.model.stop_training = True

    @fenced
    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        self.row(epoch, logs or {})

    @fenced
    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:  # noqa: ARG002
        self.ended()

    def _is_last(self, batch: int) -> bool:
        """Whether nothing is left that a wish to stop could cut."""
        return (self._now + 1, batch + 1) == (self.params.get("epochs"), self.params.get("steps"))


def _settings(model: Any) -> dict[str, Any]:
    """The hyper-parameters that Keras knows itself: those of the optimizer."""
    optimizer = getattr(model, "optimizer", None)
    return {} if optimizer is None else dict(optimizer.get_config())
