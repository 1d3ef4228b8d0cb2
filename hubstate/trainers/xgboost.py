"""XGBoost: `HubstateCallback` among the callbacks of `train()`, `cv()` or an estimator, and a block around it.

| XGBoost | here |
|---|---|
| `before_training` | the session opens, in the first process of a distributed training, and training begins |
| `after_iteration` | a row: the newest value of each data set's metrics, as `val/mlogloss` |
| `before_iteration` | files that appeared where `saves=` says; a wish to stop ends the training before this round |
| `after_training` | the end: `finished`, or `stopped` if the hub asked for it |

XGBoost fires nothing when an exception or Ctrl-C leaves `train()`: only the block sees that. How many rounds are planned
it tells nobody. With `xgb_model=` it counts its rounds from 0 again; a session that is resumed counts on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

from hubstate.trainers.link import fenced, supported
from hubstate.trainers.quiet import QuietLink, QuietOptions

try:
    import xgboost
    from xgboost import collective
    from xgboost.callback import TrainingCallback
except ImportError as error:
    raise ImportError(
        "hubstate.trainers.xgboost needs XGBoost 2 or newer: pip install 'xgboost>=2'"
    ) from error

__all__ = ["HubstateCallback"]


class HubstateCallback(QuietLink, TrainingCallback):  # type: ignore[misc]
    """Records a boosting as a session. Give it to `callbacks`, and put `with` around the call.

    `saves`: where checkpoints appear, such as the folder of a `TrainingCheckPoint`. `fitness`: the metric by which the best
    one is found, such as `val/auc` or `-val/mlogloss`. `options`: those of `hubstate.start`. Raises `UsageError` for an
    argument or an XGBoost that cannot be used.
    """

    def __init__(
        self,
        name: str | None = None,
        **options: Unpack[QuietOptions],
    ) -> None:
        supported("xgboost", xgboost.__version__, first=(2,), tested="3.2")
        TrainingCallback.__init__(self)
        super().__init__(name, **options)
        self._first = 0

    def before_training(self, model: Any) -> Any:
        self._began(model)
        return model

    def before_iteration(self, model: Any, epoch: int, evals_log: Mapping[str, Any]) -> bool:  # noqa: ARG002
        return self._asked() is True

    def after_iteration(self, model: Any, epoch: int, evals_log: Mapping[str, Any]) -> bool:  # noqa: ARG002
        self._measured_by(epoch, evals_log)
        return False

    def after_training(self, model: Any) -> Any:
        self._came_back()
        return model

    @fenced
    def _began(self, model: Any) -> None:
        self.started()
        self._first = model.num_boosted_rounds() if self._resume else 0
        self.open(main=collective.get_rank() == 0, name="xgboost")
        self.begin()

    @fenced
    def _asked(self) -> bool:
        self.found()
        return self.wants_stop()

    @fenced
    def _measured_by(self, epoch: int, evals_log: Mapping[str, Any]) -> None:
        self.row(self._first + epoch, _newest(evals_log))

    @fenced
    def _came_back(self) -> None:
        self.ended()


def _newest(evals_log: Mapping[str, Any]) -> dict[str, Any]:
    """The last value of each history; `cv()` has pairs of a mean and a standard deviation."""
    values = {}
    for data, metrics in evals_log.items():
        for metric, history in metrics.items():
            if isinstance(history[-1], tuple):
                values[f"{data}/{metric}"], values[f"{data}/{metric}-std"] = history[-1]
            else:
                values[f"{data}/{metric}"] = history[-1]
    return values
