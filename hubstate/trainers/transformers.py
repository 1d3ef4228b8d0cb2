"""Hugging Face Transformers, with Accelerate below it: `HubstateCallback` among the callbacks of a `Trainer`, and a block.

| Transformers | here |
|---|---|
| `on_train_begin` | the session opens, in the first process of a distributed training, and training begins; a state with steps in it makes it a resumed one |
| `on_epoch_begin` | which epoch it is, counted from 0; Transformers itself tells how many epochs are done, with fractions |
| `on_log` after `on_epoch_end` | a row of that epoch; several of them are one row, and so is the summary of the whole training |
| `on_log` between the two | a row of its step |
| `on_log` after the end, inside of the block | the final row: what an evaluation measured afterwards |
| `on_save` | the checkpoint, a folder, with the metric that finds the best one |
| `on_step_end`, `on_epoch_end` | a wish to stop sets `should_training_stop` in every process |
| `on_train_end` | the end: `finished`, or `stopped` if the hub asked for it |

`on_evaluate` tells once more what `on_log` told. The hooks fire in every process. Transformers fires nothing when an
exception or Ctrl-C leaves `train()`: only the block sees that.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Unpack

from hubstate.trainers.link import fenced, supported
from hubstate.trainers.quiet import QuietLink, QuietOptions

try:
    import transformers
    from transformers import TrainerCallback
except ImportError as error:
    raise ImportError(
        "hubstate.trainers.transformers needs Transformers with PyTorch: pip install 'transformers[torch]>=4.56'"
    ) from error

__all__ = ["HubstateCallback"]

#: Every how many steps the processes of a distributed training agree whether to stop: it takes a message among them.
_AGREE_EVERY = 10
#: The settings that are told beside the user's own `config=`, if they are plain values.
_SETTINGS = (
    "learning_rate",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "max_steps",
    "num_train_epochs",
    "optim",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "max_grad_norm",
    "bf16",
    "fp16",
    "seed",
    "world_size",
)


class HubstateCallback(QuietLink, TrainerCallback):  # type: ignore[misc]
    """Records what `train()` does as a session. Give it to `callbacks`, and put `with` around the call.

    `options`: those of `hubstate.start`; `name` None takes the `run_name` of the arguments, else what the model's class is
    called. The best checkpoint is found by `metric_for_best_model`. `saves`: where other code writes checkpoints, a file, a
    folder or a pattern; `fitness`: the metric by which the best of those is found, such as `-eval_loss`. Raises
    `UsageError` for an argument or a version of Transformers that cannot be used.
    """

    def __init__(self, name: str | None = None, **options: Unpack[QuietOptions]) -> None:
        supported("transformers", transformers.__version__, first=(4, 56), tested="5.24")
        super().__init__(name, **options)
        self._now = -1
        self._between = False
        self._scores: tuple[int, dict[str, Any]] = (-1, {})

    @fenced
    def on_train_begin(self, /, args: Any, state: Any, control: Any, model: Any = None, **_more: Any) -> None:  # noqa: ARG002
        self.started()
        self._now, self._between, self._scores = -1, False, (-1, {})
        self.open(
            main=state.is_world_process_zero,
            name=args.run_name or type(model).__name__,
            epochs=_planned(state),
            config={**_settings(args), **(state.trial_params or {})},
            resumed=state.global_step > 0,
        )
        self.begin()

    @fenced
    def on_epoch_begin(self, /, args: Any, state: Any, control: Any, **_more: Any) -> None:  # noqa: ARG002
        self.found()
        # Where nobody knows how long an epoch is, the fractions never add up to the next one.
        self._now = max(int(state.epoch), self._now + 1)
        self._between = False

    @fenced
    def on_step_end(self, /, args: Any, state: Any, control: Any, **_more: Any) -> None:
        if not control.should_training_stop and self._agreed(args, state.global_step):
            control.should_training_stop = True

    @fenced
    def on_epoch_end(self, /, args: Any, state: Any, control: Any, **_more: Any) -> None:  # noqa: ARG002
        self._between = True
        if not control.should_training_stop and self._agreed(args, 0):
            control.should_training_stop = True

    @fenced
    def on_log(
        self,
        /,
        args: Any,  # noqa: ARG002
        state: Any,
        control: Any,  # noqa: ARG002
        logs: Mapping[str, Any] | None = None,
        **_more: Any,
    ) -> None:
        measured = {name: value for name, value in (logs or {}).items() if name != "epoch"}
        step, known = self._scores
        self._scores = (state.global_step, {**(known if step == state.global_step else {}), **measured})
        if self._between:
            self.row(self._now, measured, final=self._over)
        else:
            epoch = self._now if self._now >= 0 else int(state.epoch)  # an evaluation before the first epoch
            self.row(epoch, measured, step=state.global_step)

    @fenced
    def on_save(self, /, args: Any, state: Any, control: Any, **_more: Any) -> None:  # noqa: ARG002
        if state.is_world_process_zero:
            self.save(
                _saved(args, state), max(self._now, 0), fitness=self._fitness_of(args, state.global_step)
            )

    @fenced
    def on_train_end(self, /, args: Any, state: Any, control: Any, **_more: Any) -> None:  # noqa: ARG002
        self.ended()

    def _fitness_of(self, args: Any, at: int) -> float | None:
        """What the checkpoint after this step is judged by, larger is better; None where nothing was evaluated there."""
        step, measured = self._scores
        if args.metric_for_best_model is None or step != at:
            return None
        value = measured.get("eval_" + args.metric_for_best_model.removeprefix("eval_"))
        if value is None:
            return None
        return float(value) if args.greater_is_better else -float(value)

    def _agreed(self, args: Any, step: int) -> bool:
        """Whether the training is to stop; the same answer in every process, or they would wait for each other for ever."""
        if args.world_size < 2:
            return self.wants_stop()
        if step % _AGREE_EVERY:
            return False
        import torch  # noqa: PLC0415 - only where it trains in several processes

        wish = torch.tensor(int(self.wants_stop()), device=args.device)
        torch.distributed.broadcast(wish, 0)
        return bool(wish)


def _planned(state: Any) -> int | None:
    """How many epochs there will be; Transformers says a very large number where it does not know."""
    return state.num_train_epochs if 0 < state.num_train_epochs < 2**31 else None


def _settings(args: Any) -> dict[str, Any]:
    named = {name: getattr(args, name, None) for name in _SETTINGS}
    return {name: getattr(value, "value", value) for name, value in named.items()}


def _saved(args: Any, state: Any) -> Path:
    """The folder that was just written; a search for hyper-parameters gives each trial a folder of its own."""
    name, place = f"checkpoint-{state.global_step}", Path(args.output_dir)
    if not state.is_hyper_param_search:
        return place / name
    return max(place.glob(f"*/{name}"), key=lambda path: path.stat().st_mtime_ns, default=place / name)
