"""What those trainers share that tell little: nothing when an exception ends them, nothing of the files they write.

**The end.** Where a trainer fires no hook on an exception, its callback is also a context manager. Inside of such a block
the block's end is the end of the session: what is written after the trainer came back, the model file above all, still
belongs to the training. Without a block the trainer's own last hook ends the session.

**Files.** Nobody says that a checkpoint was written, so its place is told (`saves=`), and looked at between the epochs:
what has changed there since the last look was saved after the epoch that was recorded last.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, Unpack

from hubstate.errors import CheckpointMissing, UsageError
from hubstate.snapshots import look
from hubstate.states import Outcome
from hubstate.trainers.link import Link, Options, fenced

__all__ = ["QuietLink", "QuietOptions"]

#: How long a block waits for what is left when it is left by an exception after the training had ended (seconds).
_AFTER_ERROR = 3.0


class QuietOptions(Options, total=False):
    """What such a module takes beside its own arguments."""

    saves: str | Path | None
    fitness: str | None


class QuietLink(Link):
    """A link for a trainer that tells little.

    `saves`: where checkpoints appear: a file, a folder of them, or a pattern such as `weights/{epoch:02d}.keras`, in which
    braces and `*` stand for anything. `fitness`: the metric by which the best one is found, with a `-` in front where
    smaller is better. `options`: those of `Link`. Raises `UsageError` for what cannot be used.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        saves: str | Path | None = None,
        fitness: str | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(name, **options)
        if fitness is not None and not (isinstance(fitness, str) and fitness.lstrip("-")):
            raise UsageError(
                f"fitness names a metric, such as 'val/accuracy' or '-val/loss', and is {fitness!r:.80}"
            )
        if not isinstance(saves, str | Path | None) or saves == "":
            raise UsageError(f"saves must be a path or a pattern of paths, not {saves!r:.80}")
        self._saves = None if saves is None else str(saves)
        self._fitness = fitness
        self._inside = False
        self._over = False
        self._epoch: int | None = None
        self._metrics: dict[str, Any] = {}
        self._seen: dict[str, tuple[int, int]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """A copy belongs to no block and to no training."""
        fresh: dict[str, Any] = {
            "_inside": False,
            "_over": False,
            "_epoch": None,
            "_metrics": {},
            "_seen": {},
        }
        return {**super().__getstate__(), **fresh}

    # -- the way of a training -----------------------------------------------------------------------------

    def started(self) -> None:
        """The trainer begins a training: one that is still open was left without a word, or waits for the block's end."""
        if self._over:
            self.finish()
        elif self._session is not None:
            session, self._session = self._session, None
            session.abort(
                "another training began, and of this one's end nobody told", outcome=Outcome.UNKNOWN
            )
        self._over, self._epoch, self._metrics = False, None, {}
        self._seen = dict(self._present())

    def row(
        self, epoch: int, metrics: Mapping[str, Any], *, step: int | None = None, final: bool = False
    ) -> None:
        """As in `Link`; what an epoch measured is remembered for the file that is written after it."""
        if step is None and not final:
            self._metrics = {**self._metrics, **metrics} if epoch == self._epoch else dict(metrics)
            self._epoch = epoch
        super().row(epoch, metrics, step=step, final=final)

    @fenced
    def found(self) -> None:
        """Looks for what the trainer wrote since the last look."""
        if self._session is None or self._epoch is None:
            return
        changed = {path: shape for path, shape in self._present() if self._seen.get(path) != shape}
        self._seen.update(changed)
        for path in sorted(changed, key=lambda path: (changed[path][1], path)):
            self._take(path)

    @fenced
    def _take(self, path: str) -> None:
        """What cannot be taken is told, and keeps nothing else from being taken."""
        self.save(path, self._epoch, fitness=self._measured())

    def ended(self) -> None:
        """The trainer came to its end. The session does so now, or with the block around the training."""
        self.found()
        self._over = True
        if not self._inside:
            self.finish()

    def finish(self) -> None:
        """As in `Link`."""
        self._over = False
        super().finish()

    # -- the block around it -------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._inside = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._inside = False
        self.found()
        super().__exit__(kind, error, traceback)

    @fenced
    def _leave(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        over, self._over = self._over, False
        if not over or error is None:
            super()._leave(kind, error, traceback)
            return
        # What went wrong after the training takes nothing from it.
        session, self._session = self._session, None
        if session is not None:
            session.finish(_AFTER_ERROR)

    # -- files ---------------------------------------------------------------------------------------------

    def _present(self) -> list[tuple[str, tuple[int, int]]]:
        """What lies where checkpoints appear: each path with its size in bytes and time of change in ns."""
        if self._saves is None:
            return []
        place = Path(self._saves)
        # `Path.is_dir` raises where a pattern is longer than a name may be, or a folder above may not be entered.
        is_folder = os.path.isdir(place)  # noqa: PTH112
        pattern = str(place / "*") if is_folder else re.sub(r"\{[^{}]*\}", "*", self._saves)
        there = []
        for path in glob.glob(pattern):  # noqa: PTH207 - unlike Path.glob it passes over hidden files, which are not whole
            try:
                seen = look(Path(path))
            except CheckpointMissing:
                continue  # gone between the two looks
            there.append((path, (seen.size, seen.mtime_ns)))
        return there

    def _measured(self) -> float | None:
        """The fitness after the last epoch: larger is better."""
        if self._fitness is None:
            return None
        value = self._metrics.get(self._fitness.removeprefix("-"))
        if value is None:
            return None
        return -float(value) if self._fitness.startswith("-") else float(value)
