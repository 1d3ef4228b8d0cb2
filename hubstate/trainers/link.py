"""What ties a trainer's hooks to a session: it is opened when the training begins, fed, and ended with it.

Two things stand here because every module needs them. **The fence**: whatever goes wrong inside of hubstate, the
training goes on, so a hook catches every error, tells the person once, and says it to the session, where `hubstate
status` shows it. And **travelling**: a link holds plain values until a training begins, so that callbacks can be
pickled for the processes of a distributed training, and one link serves several trainings one after the other.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from math import isfinite
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypedDict, TypeVar

from hubstate.errors import UsageError
from hubstate.events import (
    Event,
    FitEpochEnd,
    HeldUp,
    PretrainRoutineEnd,
    TrainBatchEnd,
    TrainStart,
    exact,
    name_of,
)
from hubstate.limits import Limits
from hubstate.log import log
from hubstate.session import Session, start
from hubstate.states import State
from hubstate.wish import checked_wish

__all__ = ["Link", "Options", "fenced", "numbers", "plain", "supported"]

P = ParamSpec("P")
T = TypeVar("T")
L = TypeVar("L", bound="Link")

#: The condition that a failure inside of a trainer module leaves.
FAILING = "trainer_module_failing"
#: A session is open, and its training has not begun.
_BEFORE = (State.SESSION_CREATED, State.TIMING)
#: A setting with such a word in its name is nobody's business.
_SECRET = ("key", "token", "secret", "password", "credential", "auth")


def fenced(hook: Callable[Concatenate[L, P], T]) -> Callable[Concatenate[L, P], T | None]:
    """A hook that never raises into the trainer. What it caught is told once and shown; then it returned None."""

    @functools.wraps(hook)
    def inside(link: L, /, *arguments: P.args, **named: P.kwargs) -> T | None:
        try:
            return hook(link, *arguments, **named)
        # The one fence of the trainer modules: a hook runs in the middle of somebody's training, which no mistake of
        # ours, no odd value and no full disk may end. Ctrl-C and the like pass.
        except Exception as error:  # noqa: BLE001
            # Where even that fails (a closed stderr, a session that is broken), there is nobody left to tell.
            with suppress(Exception):
                link.failed(hook.__name__, error)
            return None

    return inside


class Options(TypedDict, total=False):
    """What each trainer module takes beside its own arguments: those of `hubstate.start`, and what `Link` makes of them."""

    hub: str | None
    api_key: str | None
    project: str | None
    group: str | None
    tags: Iterable[str]
    config: Mapping[str, Any] | None
    directory: str | Path | None
    mode: str | None
    limits: Limits | None
    checkpoints: str
    resume: bool | str | None


class Link:
    """One session at a time, for a trainer that calls hooks. A module's callback is one, or holds one.

    The arguments are those of `hubstate.start`; `name` None takes what the trainer calls the training, and `resume`
    None continues the newest session of that name where the trainer resumes. Raises `UsageError` for arguments that
    `start` would refuse.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        hub: str | None = None,
        api_key: str | None = None,
        project: str | None = None,
        group: str | None = None,
        tags: Iterable[str] = (),
        config: Mapping[str, Any] | None = None,
        directory: str | Path | None = None,
        mode: str | None = None,
        limits: Limits | None = None,
        checkpoints: str = "all",
        resume: bool | str | None = None,
    ) -> None:
        wish = checked_wish(
            "training" if name is None else name,
            tags,
            None,
            config,
            limits,
            checkpoints,
            False if resume is None else resume,
        )
        self._name = name
        self._config = dict(config or {})
        self._resume = resume
        self._options: dict[str, Any] = {
            "hub": hub,
            "api_key": api_key,
            "project": project,
            "group": group,
            "tags": wish.tags,
            "directory": directory,
            "mode": mode,
            "limits": limits,
            "checkpoints": checkpoints,
        }
        self._session: Session | None = None
        self._main = True
        self._told: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        """A link that travels leaves its session behind, which belongs to the process that opened it, and its key.

        Trainers write what travels into files. Where it arrives the key is found as anywhere, in the environment or where
        `hubstate login` kept it.
        """
        return {
            **self.__dict__,
            "_session": None,
            "_told": set(),
            "_options": {**self._options, "api_key": None},
        }

    @property
    def session(self) -> Session | None:
        """The session of the training that goes on; None before it, after it, and in any process but the main one."""
        return self._session

    # -- the way of a training -----------------------------------------------------------------------------

    def open(
        self,
        *,
        main: bool = True,
        name: str = "training",
        epochs: int | None = None,
        config: Mapping[str, Any] | None = None,
        resumed: bool = False,
    ) -> Session | None:
        """Opens the session of a training that is about to begin, unless one is open or this is not the main process."""
        self._main = main
        if self._session is None and main:
            self._session = start(
                self._name or name,
                epochs=epochs,
                config={**plain(config or {}), **self._config},
                resume=resumed if self._resume is None else self._resume,
                **self._options,
            )
            self._told.clear()  # what was told of the training before says nothing about this one
        return self._session

    def begin(self) -> None:
        """The training itself begins; said once, however often it is called."""
        if self._session is None:
            return
        if self._session.state is State.SESSION_CREATED:
            self.tell(PretrainRoutineEnd)
        if self._session.state is State.TIMING:
            self.tell(TrainStart)

    def tell(self, kind: type[Event], /, *fields: Any, **named: Any) -> None:
        """Says an event. One that is illegal changes nothing, is in the journal, and is told once; training goes on."""
        if self._session is None:
            return
        refusal = self._session.tell(kind, *fields, **named).refusal
        if refusal is not None and refusal.illegal and name_of(kind) not in self._told:
            self._told.add(name_of(kind))
            log("hubstate.trainers").warning(
                "hubstate.illegal_event",
                said=refusal.event,
                state=refusal.state.value,
                reason=refusal.reason,
            )

    def row(
        self, epoch: int, metrics: Mapping[str, Any], *, step: int | None = None, final: bool = False
    ) -> None:
        """Records what an epoch (0-based) or a step measured; what is no number is left out. Without any it is no row."""
        if self._session is None:
            return
        values, nonfinite = exact(numbers(metrics))
        if values and step is not None:
            self.tell(TrainBatchEnd, epoch, step, values, nonfinite)
        elif values:
            self.tell(FitEpochEnd, epoch, values, nonfinite, final)

    def save(
        self,
        path: str | Path,
        epoch: int | None = None,
        *,
        fitness: float | None = None,
        kind: str = "last",
    ) -> None:
        """Says that a checkpoint was written; if it is kept the copy is whole when this returns.

        `epoch` None: after the last one that was recorded. Outside of a training nothing is taken, which is told once.
        """
        if self._session is None or self._session.state in _BEFORE:
            self._not_taken(path)
        elif self._session.state is State.TRAINING:
            known = fitness if fitness is None or isfinite(fitness) else None
            self._session.save(path, epoch=epoch, fitness=known, kind=kind)

    def _not_taken(self, path: str | Path) -> None:
        if self._main and "save" not in self._told:
            self._told.add("save")
            log("hubstate.trainers").warning(
                "hubstate.checkpoint_not_taken",
                path=str(path),
                reason="no training goes on here: save inside of the `with` block around it",
            )

    def wants_stop(self) -> bool:
        """Whether somebody at the hub wishes the training to stop: then the trainer has to be told so, and it ends early.

        It raises nothing: where several processes train, the others wait for this one's answer.
        """
        return bool(self._wished())

    @fenced
    def _wished(self) -> bool:
        return self._session is not None and self._session.heed_stop()

    def finish(self) -> None:
        """The training came to its end: what is left is waited for, and the session let go of."""
        session, self._session = self._session, None
        if session is not None:
            session.finish()

    def abort(self, error: BaseException) -> None:
        """The training ended by an exception, Ctrl-C included."""
        session, self._session = self._session, None
        if session is not None:
            session.__exit__(type(error), error, error.__traceback__)

    # -- around the trainer's own call ---------------------------------------------------------------------

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Ends what the trainer did not end itself: many fire no hook when they are left by an exception."""
        self._leave(kind, error, traceback)

    @fenced
    def _leave(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """What goes wrong here hides no error of the training's own, and keeps no script from going on behind it."""
        session, self._session = self._session, None
        if session is not None:
            session.__exit__(kind, error, traceback)

    # -- the fence -----------------------------------------------------------------------------------------

    def failed(self, where: str, error: Exception) -> None:
        """Tells that something inside of hubstate failed in a hook: to the person once, and to the session."""
        kind = f"{where}: {type(error).__name__}"
        if kind in self._told:  # its words may differ each time, and a hook is called for each batch
            return
        self._told.add(kind)
        reason = f"{kind}: {error}"[:500]
        if self._session is not None:
            self._session.tell(HeldUp, key="", condition=FAILING, reason=reason)
        log("hubstate.trainers").error("hubstate.trainer_module_failed", reason=reason)


def numbers(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a trainer's values that are numbers: it may put names and tables beside them.

    A tensor or array of one element counts, whatever its shape.
    """
    found = {str(name): _alone(value) for name, value in metrics.items()}
    return {name: value for name, value in found.items() if name and _is_number(value)}


def _alone(value: Any) -> Any:
    """The one element of a tensor or array that has just one; anything else as it is."""
    if type(value) is float or not callable(getattr(value, "item", None)):
        return value
    count = value.numel() if callable(getattr(value, "numel", None)) else getattr(value, "size", 1)
    return value.item() if count == 1 else value


def _is_number(value: Any) -> bool:
    if isinstance(value, bool | str | bytes | bytearray):
        return False
    # An array of several elements has a float of its own, which raises.
    return isinstance(value, int | float) or (hasattr(value, "__float__") and not hasattr(value, "shape"))


def plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a trainer's own settings that may leave this machine: numbers, truth values and short words.

    No text that could be a path, an address or a key: what a user wants to be told is given as `config=`.
    """
    return {
        str(name): value
        for name, value in config.items()
        if _is_plain(value) and not any(word in str(name).lower() for word in _SECRET)
    }


def _is_plain(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= 32 and not set(value) & set("/\\:@ ")
    return isinstance(value, bool | int) or (isinstance(value, float) and isfinite(value))


def supported(package: str, version: str, *, first: tuple[int, ...], tested: str) -> None:
    """Raises `UsageError` if a trainer's version is too old, or no version; `tested` names the newest that was tried."""
    try:
        found = tuple(int(part) for part in version.split("+", 1)[0].split(".")[: len(first)])
    except ValueError as error:
        raise UsageError(f"{package} says that its version is {version!r}: {tested} was tried") from error
    if found < first:
        raise UsageError(
            f"{package} {version} is too old: hubstate works with {'.'.join(map(str, first))} and newer "
            f"(up to {tested} was tried); pip install -U {package}"
        )
