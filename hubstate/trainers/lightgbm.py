"""LightGBM: `HubstateCallback` among the callbacks of `train()`, `cv()` or an estimator, and a block around it.

| LightGBM | here |
|---|---|
| after the first iteration | the session opens and training begins; with `init_model=` it is a resumed one |
| after each iteration | a row: each data set's metrics, as `valid_0/auc`; files that appeared where `saves=` says; a wish to stop ends the training as early stopping does |
| after the last planned iteration, or with a wish to stop | the end, where there is no block |

LightGBM has no event for its end, and none for an exception: only the block sees an early stop, an error, Ctrl-C.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Unpack

from hubstate.trainers.link import fenced, supported
from hubstate.trainers.quiet import QuietLink, QuietOptions

try:
    import lightgbm
    from lightgbm.callback import EarlyStopException
except ImportError as error:
    raise ImportError(
        "hubstate.trainers.lightgbm needs LightGBM 4 or newer: pip install 'lightgbm>=4'"
    ) from error

__all__ = ["HubstateCallback"]


class HubstateCallback(QuietLink):
    """Records a boosting as a session. Give it to `callbacks`, and put `with` around the call.

    `saves`: where checkpoints appear, if a callback of yours writes some. `fitness`: the metric by which the best one is found,
    such as `valid_0/auc` or `-valid_0/multi_logloss`. `options`: those of `hubstate.start`. Raises `UsageError` for an
    argument or a LightGBM that cannot be used.
    """

    def __init__(
        self,
        name: str | None = None,
        **options: Unpack[QuietOptions],
    ) -> None:
        supported("lightgbm", lightgbm.__version__, first=(4,), tested="4.7")
        super().__init__(name, **options)
        #: LightGBM's own words: among the callbacks after an iteration, before the one that stops early (30).
        self.before_iteration = False
        self.order = 20

    def __call__(self, env: Any) -> None:
        if self._measured_by(env) is True:
            raise EarlyStopException(env.iteration, env.evaluation_result_list)

    @fenced
    def _measured_by(self, env: Any) -> bool:
        """Records an iteration, and tells whether the training has to stop with it."""
        if env.iteration == env.begin_iteration:
            self.started()
            self.open(
                name="lightgbm",
                epochs=env.end_iteration,
                config=env.params,
                resumed=env.begin_iteration > 0,
            )
            self.begin()
        self.found()
        self.row(env.iteration, _values(env.evaluation_result_list or ()))
        stop = env.iteration + 1 < env.end_iteration and self.wants_stop()
        if stop or env.iteration + 1 == env.end_iteration:
            self.ended()
        return stop


def _values(results: Iterable[Any]) -> dict[str, Any]:
    """What was measured: (data set, metric, value, larger is better), and from `cv()` a standard deviation."""
    values = {}
    for data, metric, value, _larger, *rest in results:
        values[f"{data}/{metric}"] = value
        if rest and rest[0] is not None:
            values[f"{data}/{metric}-std"] = rest[0]
    return values
