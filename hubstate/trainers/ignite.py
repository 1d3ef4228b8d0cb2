"""PyTorch Ignite: `HubstateCallback().attach(trainer, evaluator)`, and a block around `run()` where you like.

| Ignite | here |
|---|---|
| `STARTED` | the session opens, in the first process of a distributed training, and training begins; a state that was loaded makes it a resumed one |
| `EPOCH_COMPLETED` | a row, if the trainer has metrics of its own |
| `COMPLETED` of an evaluator | a row of the trainer's epoch; between two epochs' ends, one of its iteration; after the trainer's own end, the final one |
| `ITERATION_STARTED` | a wish to stop terminates the run before this iteration |
| `ITERATION_COMPLETED` | with `steps=N` every N-th is a row of its step, with what the iteration put out |
| `EPOCH_STARTED`, `COMPLETED` | files that appeared where `saves=` says |
| `COMPLETED` | the end: `finished`, or `stopped` if the hub asked for it |
| `EXCEPTION_RAISED` | the end: `failed`, or `interrupted` by Ctrl-C |

Ignite counts epochs from 1, hubstate from 0: the first epoch is 0 here. An engine that was interrupted by `interrupt()` can go
on; its session ends with the block.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self, Unpack

from hubstate.errors import UsageError
from hubstate.trainers.link import fenced, supported
from hubstate.trainers.quiet import QuietLink, QuietOptions

try:
    import ignite
    from ignite import distributed
    from ignite.engine import Events
except ImportError as error:
    raise ImportError(
        "hubstate.trainers.ignite needs PyTorch Ignite: pip install 'pytorch-ignite>=0.5'"
    ) from error

__all__ = ["HubstateCallback"]


class HubstateCallback(QuietLink):
    """Records the runs of a trainer as sessions, once it is attached.

    `saves`: where checkpoints appear, such as the folder of a `Checkpoint` handler. `fitness`: the metric by which the best
    one is found, such as `accuracy` or `-loss`. `steps`: every how many iterations a row of the step is recorded; None for
    none. `options`: those of `hubstate.start`. Raises `UsageError` for an argument or an Ignite that cannot be used.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        steps: int | None = None,
        **options: Unpack[QuietOptions],
    ) -> None:
        supported("pytorch-ignite", ignite.__version__, first=(0, 5), tested="0.5.5")
        if steps is not None and (type(steps) is not int or steps < 1):
            raise UsageError(f"steps must be a whole number, 1 or more, or None, not {steps!r:.80}")
        super().__init__(name, **options)
        self._steps = steps

    def attach(self, trainer: Any, evaluators: Any = None) -> Self:
        """Attaches to a trainer, and to the engine that evaluates it.

        Several are given under names, `{"train": ..., "val": ...}`; their metrics are then `train/loss` and `val/loss`.
        """
        for event, hook in (
            (Events.STARTED, self.on_started),
            (Events.EPOCH_STARTED, self.on_epoch_started),
            (Events.ITERATION_STARTED, self.on_iteration_started),
            (Events.EPOCH_COMPLETED, self.on_epoch_completed),
            (Events.TERMINATE, self.on_terminate),
            (Events.COMPLETED, self.on_completed),
            (Events.EXCEPTION_RAISED, self.on_exception_raised),
        ):
            trainer.add_event_handler(event, hook)
        if self._steps is not None:
            trainer.add_event_handler(Events.ITERATION_COMPLETED, self.on_iteration_completed)
        named = evaluators if isinstance(evaluators, Mapping) else {"": evaluators}
        for name, evaluator in named.items():
            if evaluator is not None:
                evaluator.add_event_handler(Events.COMPLETED, self.on_evaluated, trainer, name)
        return self

    @fenced
    def on_started(self, engine: Any) -> None:
        self.started()
        self.open(
            main=distributed.get_rank() == 0,
            name="ignite",
            epochs=engine.state.max_epochs,
            config={"epoch_length": engine.state.epoch_length},
            resumed=engine.state.iteration > 0,
        )
        self.begin()

    @fenced
    def on_epoch_started(self, engine: Any) -> None:  # noqa: ARG002 - Ignite gives it
        self.found()

    @fenced
    def on_iteration_started(self, engine: Any) -> None:
        if self.wants_stop():
            engine.terminate()

    @fenced
    def on_iteration_completed(self, engine: Any) -> None:
        if self._steps is not None and engine.state.iteration % self._steps == 0:
            output = engine.state.output
            measured = output if isinstance(output, Mapping) else {"output": output}
            self.row(engine.state.epoch - 1, measured, step=engine.state.iteration)

    @fenced
    def on_epoch_completed(self, engine: Any) -> None:
        self.row(engine.state.epoch - 1, engine.state.metrics)

    @fenced
    def on_evaluated(self, evaluator: Any, trainer: Any, name: str) -> None:
        measured = {f"{name}/{key}" if name else key: value for key, value in evaluator.state.metrics.items()}
        if trainer.state.epoch > 0:  # what is evaluated before the first epoch is no epoch's
            between = trainer.last_event_name in (Events.EPOCH_COMPLETED, Events.COMPLETED)
            step = None if between else trainer.state.iteration
            self.row(trainer.state.epoch - 1, measured, step=step, final=self._over)

    @fenced
    def on_terminate(self, engine: Any) -> None:
        if engine.should_terminate == "skip_completed":
            self.ended()

    @fenced
    def on_completed(self, engine: Any) -> None:  # noqa: ARG002
        self.ended()

    def on_exception_raised(self, engine: Any, error: BaseException) -> None:
        self._raised(error)
        # An exception that has a handler is not raised by Ignite. Ours changes nothing of that: alone, it raises it
        # again; beside others, which were asked to decide, it does not.
        if len(engine._event_handlers[Events.EXCEPTION_RAISED]) == 1:  # noqa: SLF001
            raise error

    @fenced
    def _raised(self, error: BaseException) -> None:
        self.abort(error)
