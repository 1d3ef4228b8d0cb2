"""Ultralytics YOLO: `attach(model)`, and `with attach(model):` around `model.train(...)`.

| Ultralytics | here |
|---|---|
| `on_pretrain_routine_start` | the session opens, in the main process (Ultralytics' RANK -1 or 0); `resume` continues its session |
| `on_pretrain_routine_end`, `on_train_start` | the same |
| `on_train_batch_end`, `on_fit_epoch_end` | a wish to stop sets `trainer.stop`, between batches where one process trains |
| `on_fit_epoch_end` | a row: train losses, metrics, learning rates; that of epoch 0 also tells what is known of the model |
| the same after the final evaluation | a row of its own, `final`, with the epoch number that the trainer gives |
| `on_model_save` | `last.pt`, with the trainer's fitness: the best is what is strictly better |
| `on_train_end` | the end: `best.pt` is the final checkpoint, if this training wrote it |
| `on_val_start`, `on_predict_start`, `on_export_start` | the same, beside a training |
| `teardown` without an end before it | an exception is on its way (newer releases only) |

8.4.114 fires nothing when an exception or Ctrl-C leaves `train()`, and no release does before its first callback: only the
block sees that. The callbacks travel to the processes that Ultralytics starts for several devices; the session belongs to
the first of those, and the process that started them has none.
"""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, Unpack

from hubstate import settings
from hubstate.errors import UsageError
from hubstate.events import ExportStart, PredictStart, PretrainRoutineEnd, ValStart
from hubstate.session import Session
from hubstate.states import Outcome, State
from hubstate.trainers.link import Link, Options, fenced, supported

__all__ = ["HOOKS", "HubstateCallbacks", "attach", "checked_release"]

#: A key of Ultralytics Platform, which is no key of a hub.
_PLATFORM_KEY = re.compile("ul_[0-9a-f]{40}")
#: Finding a model's GFLOPs takes as long as a few small batches. In an epoch of this many it does not count; after a shorter
#: one it is done at the end of the training.
_MANY = 100
#: The callbacks of Ultralytics that are heard, each by the method of that name.
HOOKS = (
    "on_pretrain_routine_start",
    "on_pretrain_routine_end",
    "on_train_start",
    "on_train_epoch_start",
    "on_train_batch_end",
    "on_fit_epoch_end",
    "on_model_save",
    "on_train_end",
    "on_val_start",
    "on_predict_start",
    "on_export_start",
    "teardown",
)


def attach(model: Any, name: str | None = None, **options: Unpack[Options]) -> HubstateCallbacks:
    """Records the trainings of an Ultralytics model, such as `YOLO("yolo11n.pt")`, each as a session.

    `options`: those of `hubstate.start`. `name` None: the folder that Ultralytics saves to (`detect/train2`). `resume`
    None: as Ultralytics is told. What is attached already is replaced. Raises `UsageError` for a model, a release of
    Ultralytics or an argument that cannot be used.
    """
    checked_release()
    known = getattr(model, "callbacks", None)
    if not isinstance(known, dict) or not callable(getattr(model, "add_callback", None)):
        raise UsageError(
            f"attach takes a model of Ultralytics, such as YOLO('yolo11n.pt'), not {model!r:.80}"
        )
    link = HubstateCallbacks(model, name, **options)
    for hook in HOOKS:
        for earlier in [call for call in known.get(hook, ()) if _is_ours(call)]:
            known[hook].remove(earlier)
            earlier.__self__.left()
        model.add_callback(hook, getattr(link, hook))
    return link


def checked_release() -> None:
    """Raises `UsageError` if there is no Ultralytics, or one that is too old."""
    try:
        import ultralytics  # noqa: PLC0415 - whoever has a model has loaded it
    except ImportError as error:
        raise UsageError("there is no Ultralytics here: pip install ultralytics") from error
    supported("ultralytics", ultralytics.__version__, first=(8, 4, 114), tested="8.4.190")


def _is_ours(callback: Any) -> bool:
    return isinstance(getattr(callback, "__self__", None), HubstateCallbacks)


class HubstateCallbacks(Link):
    """What `attach` attached: the callbacks, and the block around `train()`.

    `model` None: they are for every model of a process, and there is no block.
    """

    def __init__(self, model: Any, name: str | None = None, **options: Unpack[Options]) -> None:
        super().__init__(name, **options)
        self._model = model
        self._forget()

    def _forget(self) -> None:
        """Before a training: nothing is known of it."""
        self._opened = False
        #: The epoch and the batches in it that began; what was saved, and when `best.pt` was written.
        self._epoch: int | None = None
        self._batches = 0
        self._saved: int | None = None
        self._best: int | None = None
        #: The first row, while it is not told yet what is known of the model.
        self._first: dict[str, Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """The model stays behind: where this arrives there is another one."""
        return {**super().__getstate__(), "_model": None}

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A copy of the model has callbacks of its own; without a model this serves all that are loaded in the process."""
        if self._model is None:
            return self
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        twin.__dict__.update(copy.deepcopy(self.__getstate__(), memo))
        twin.__dict__["_model"] = copy.deepcopy(self._model, memo)
        return twin

    # -- the way of a training -----------------------------------------------------------------------------

    @fenced
    def on_pretrain_routine_start(self, trainer: Any) -> None:
        self.left()
        self._forget()
        self._open(trainer)

    @fenced
    def on_pretrain_routine_end(self, trainer: Any) -> None:
        self._open(trainer)  # one that was attached to a trainer is told only now
        if self._session is not None and self._session.state is State.SESSION_CREATED:
            self.tell(PretrainRoutineEnd)

    def _open(self, trainer: Any) -> None:
        if self._session is not None:
            return
        self._opened = True
        folder = Path(trainer.save_dir)
        self.open(
            main=self._is_main(),
            name=f"{folder.parent.name}/{folder.name}".strip("/"),
            epochs=trainer.epochs,
            config=vars(trainer.args),
            resumed=bool(trainer.resume),
        )

    @fenced
    def on_train_start(self, _trainer: Any) -> None:
        self.begin()

    @fenced
    def on_train_epoch_start(self, trainer: Any) -> None:
        self._epoch, self._batches = trainer.epoch, 0

    @fenced
    def on_train_batch_end(self, trainer: Any) -> None:
        self._batches += 1
        # Where several processes train, one that leaves between batches would leave the others waiting for it.
        if self._session is not None and self._session.stop_requested and _rank() == -1:
            rest = len(trainer.train_loader) - self._batches
            if rest > 0 or trainer.epoch + 1 < trainer.epochs:
                self._heed(trainer)

    @fenced
    def on_fit_epoch_end(self, trainer: Any) -> None:
        if self._session is None:
            return
        losses = trainer.label_loss_items(trainer.tloss, prefix="train")
        row = {**losses, **(trainer.metrics or {}), **trainer.lr}  # None: no validation measured anything
        if trainer.epoch == 0 and self._batches < _MANY:
            self._first = row
        elif trainer.epoch == 0:
            row.update(self._about(trainer) or {})
        # The final evaluation comes under the number of an epoch that never began.
        self.row(trainer.epoch, row, final=trainer.epoch != self._epoch)
        self._heed(trainer)

    @fenced
    def _about(self, trainer: Any) -> dict[str, Any]:
        """Parameters, GFLOPs and speed of the model, as Ultralytics itself finds them."""
        from ultralytics.utils.torch_utils import model_info_for_loggers  # noqa: PLC0415

        return dict(model_info_for_loggers(trainer))

    def _heed(self, trainer: Any) -> None:
        if not trainer.stop and self.wants_stop():
            trainer.stop = True

    @fenced
    def on_model_save(self, trainer: Any) -> None:
        self._saved = trainer.epoch
        if trainer.best_fitness == trainer.fitness:  # so Ultralytics decides whether to write best.pt
            self._best = trainer.epoch
        if self._session is not None:
            self.save(trainer.last, trainer.epoch, fitness=trainer.fitness)

    @fenced
    def on_train_end(self, trainer: Any) -> None:
        if self._session is not None:
            about = None if self._first is None else self._about(trainer)
            if self._first is not None and about:
                self.row(0, {**self._first, **about})  # whole, for hubs that take the last word for all of it
            self._name_final(trainer)
            self.finish()

    @fenced
    def _name_final(self, trainer: Any) -> None:
        """Names the best checkpoint. A file that lies there proves nothing: an earlier training may have left it."""
        best = self._best
        if best is None and trainer.resume and trainer.start_epoch > 0:
            best = trainer.start_epoch - 1  # written before it was resumed: then or earlier
        if best is not None and trainer.best.exists():
            fitness = (trainer.metrics or {}).get("metrics/mAP50-95(B)")
            self.save(trainer.best, best, fitness=fitness, kind="final")
        elif self._saved is not None:
            self.save(trainer.last, self._saved, kind="final")

    @fenced
    def teardown(self, _trainer: Any) -> None:
        error = sys.exc_info()[1]
        if error is not None:
            self.broken(error)

    @fenced
    def broken(self, error: BaseException) -> None:
        """An exception, Ctrl-C included, leaves the trainer's call: a training that goes on ends by it."""
        self.abort(error)

    @fenced
    def left(self) -> None:
        """Another training begins: one that is open still was left without a word."""
        session, self._session = self._session, None
        if session is not None:
            session.abort(
                "another training began, and of this one's end nobody told", outcome=Outcome.UNKNOWN
            )

    # -- beside a training -----------------------------------------------------------------------------------

    @fenced
    def on_val_start(self, validator: Any) -> None:
        if not validator.training:
            self.tell(ValStart)

    @fenced
    def on_predict_start(self, _predictor: Any) -> None:
        self.tell(PredictStart)

    @fenced
    def on_export_start(self, _exporter: Any) -> None:
        self.tell(ExportStart)

    # -- the block around it ---------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._model.train = self._train
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if vars(self._model).get("train") == self._train:
            del self._model.train
        super().__exit__(kind, error, traceback)

    def _train(self, *arguments: Any, **named: Any) -> Any:
        """The model's own `train`, in a block: what it raises is told, also before its first callback."""
        if self._model is None:
            raise UsageError("this model was copied inside of a block of hubstate: attach to the copy, too")
        self._opened = False
        try:
            return type(self._model).train(self._model, *arguments, **named)
        except BaseException as error:  # it goes on as it came; Ctrl-C and sys.exit end a session too
            # What processes of its own did, they told themselves.
            if not self._opened and not isinstance(error, subprocess.CalledProcessError):
                self._open_failed()
            self.broken(error)
            raise

    @fenced
    def _open_failed(self) -> None:
        """Opens a session for a training that failed before Ultralytics said a word."""
        self.left()
        self.open(main=self._is_main(), name=Path(str(self._model.model_name or "training")).stem)

    # -- what it is told ---------------------------------------------------------------------------------------

    def open(self, **told: Any) -> Session | None:
        """As in `Link`, with what the old settings of Ultralytics say where nothing else does."""
        given = self._options
        self._options = {**given, **_old_settings(given)}
        try:
            return super().open(**told)
        finally:
            self._options = given

    def _is_main(self) -> bool:
        return _rank() in (-1, 0)


def _rank() -> int:
    """The number of this process, as Ultralytics sees it: -1 where it trains alone."""
    from ultralytics.utils import RANK  # noqa: PLC0415

    return int(RANK)


def _old_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """What `yolo settings` tells of a hub: `hub=False` keeps a session here, `api_key` is shown to the hub that this user set.

    Only where nothing else says so, and never a key of Ultralytics Platform: that one belongs to another service.
    """
    from ultralytics.utils import SETTINGS  # noqa: PLC0415

    told: dict[str, Any] = {}
    if SETTINGS.get("hub") is False and given["hub"] is None and given["mode"] is None:
        told["mode"] = "offline"
    key = SETTINGS.get("api_key")
    if isinstance(key, str) and key and given["api_key"] is None and not _PLATFORM_KEY.fullmatch(key):
        found = settings.resolve(hub=given["hub"], directory=given["directory"], mode=given["mode"])
        theirs = found.sources.get("hub") in (
            "argument",
            "environment HUBSTATE_HUB",
            str(settings.user_file()),
        )
        if found.api_key is None and theirs:
            told["api_key"] = key
    return told
