"""A recording of a real trainer, replayed through the module that hears it: `python -m tests.trainers.replay FILE`.

A recording (`tests/data/traces/*.jsonl`) tells every call that a trainer made, and what was seen of the trainer in it.
A stand-in (`standin_<trainer>.py`, one function `play`) is a trainer that does just that: it holds what was recorded,
and calls the hooks of the real module in the recorded order. All behind the hooks is real, too: a session in one thread
with its journal on disk, under a clock that goes as the recorded one went, and a hub that answers everything.

How the call to the trainer ended is told as the caller hears it: it returns, it raises what was recorded, or the process
is killed, in a process of its own. What is told of a replay was read from the journals afterwards.

Each training of a recording is a session of its own, and a training is also a call that failed before its first hook: of
`ultralytics-8.4.114-twice` the first one is done, and the second one, which raised before it said a word, is aborted with
that error. State, outcome and reason are those of the last session, to which the recorded end belongs; rows and
checkpoints are those of all of them, in their order.
"""

from __future__ import annotations

import argparse
import builtins
import json
import os
import random
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol
from unittest.mock import patch

import hubstate.trainers.link
from hubstate.actions import KeepCheckpoint
from hubstate.events import FitEpochEnd, TrainBatchEnd, TrainEnd, name_of
from hubstate.hubs.base import Hub
from hubstate.index import sessions_in
from hubstate.journal import Step, read, recover
from hubstate.limits import Limits
from hubstate.session import Session, begin
from hubstate.settings import Settings
from hubstate.testing.clock import FakeClock
from hubstate.testing.hub import FakeHub
from hubstate.testing.one_thread import Turns
from hubstate.trainers.link import Link
from hubstate.wish import checked_wish

__all__ = ["Play", "Recording", "Replayed", "main", "recorded_error", "replay", "stand_in"]

TRACES = Path(__file__).parents[1] / "data" / "traces"
_NO_NUMBERS = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}
#: What tells a process of a distributed training which one it is.
_RANKS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
#: These trainers know nothing of ranks: their modules leave it to `hubstate.start` to see which process is the first.
_KNOW_NO_RANK = {"keras", "lightgbm", "sklearn"}
#: Loops of one's own are alike, whatever is called in them.
_LOOPS = {"pytorch", "sklearn", "torch"}


@dataclass(frozen=True)
class Recording:
    """One recorded run. `calls`: every call in its order, each with all fields that hold for it.

    A call that was recorded by its name alone (`named_only`) has `run`, the line that tells of all such calls in a row,
    and `place`, its number in it; `epoch` and `step` only if they were the same in the whole row.
    """

    header: Mapping[str, Any]
    calls: tuple[Mapping[str, Any], ...]
    end: Mapping[str, Any]

    @classmethod
    def of(cls, path: Path) -> Recording:
        lines = [
            _with_numbers(json.loads(line)) for line in path.read_text("utf-8").split("\n") if line.strip()
        ]
        header, body, end = lines[0], lines[1:-1], lines[-1]
        if header["kind"] != "header" or header["schema"] != 1 or end["kind"] != "end":
            raise ValueError(f"{path} is no recording of schema 1")
        calls = _calls(header.get("common", {}), body)
        if header["trainer"] not in _LOOPS:  # what the user's own code did is no call of the trainer
            calls = (call for call in calls if call.get("src") != "caller")
        return cls(header, tuple(calls), end)

    @property
    def trainer(self) -> str:
        return str(self.header["trainer"])

    @property
    def rank(self) -> int:
        """Which process of a distributed training was recorded; 0 for the only one, too."""
        return int(self.header.get("rank") or 0)


def _with_numbers(value: Any) -> Any:
    """What JSON cannot hold was recorded as a text."""
    if isinstance(value, dict):
        return {name: _with_numbers(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_with_numbers(inner) for inner in value]
    return _NO_NUMBERS.get(value, value) if isinstance(value, str) else value


def _calls(common: Mapping[str, Any], body: list[dict[str, Any]]) -> Iterator[Mapping[str, Any]]:
    for line, following in pairwise([*body, {}]):
        if line["kind"] == "event":
            same = {name: following[name] for name in line.get("same_as_next", ()) if name in following}
            yield {**common, **line, **same}
            continue
        shared = {
            name: line[name]
            for name in ("src", "epoch", "step", "stop", "sanity")
            if name in line and line.get(f"{name}_end", line[name]) == line[name]
        }
        for place, event in enumerate(line["cycle"] * line["repeat"]):
            time = {"t": line["t"]} if "t" in line else {}
            known = {"i": line["i"] + place, "event": event, "named_only": True, "run": line, "place": place}
            yield {**common, **shared, **time, **known}


@dataclass(frozen=True)
class Replayed:
    """What a replay left: of the last training its state, outcome and reason, of all of them everything else."""

    state: str
    outcome: str | None
    reason: str | None
    #: Each `epoch`, `step`, `final` and `metrics`: as the hub would show them, later values of one row in place.
    rows: list[dict[str, Any]] = field(default_factory=list)
    checkpoints: list[dict[str, Any]] = field(default_factory=list)
    illegal: list[dict[str, Any]] = field(default_factory=list)
    sessions: int = 0

    def as_json(self) -> dict[str, Any]:
        rows = [
            {"epoch": r["epoch"], "step": r["step"], "final": r["final"], "names": list(r["metrics"])}
            for r in self.rows
        ]
        return {
            "state": self.state,
            "outcome": self.outcome,
            "rows": rows,
            "checkpoints": self.checkpoints,
            "illegal": self.illegal,
            "reason": self.reason,
        }


class _StandIn(Protocol):
    def play(self, play: Play, /) -> None: ...


class Play:
    """What a stand-in has at hand: the recording, time, a folder for the trainer's files, and the caller's end."""

    def __init__(self, recording: Recording, folder: Path) -> None:
        self.recording = recording
        self.clock = FakeClock()
        self.hub = FakeHub(self.clock)
        #: Where the trainer writes.
        self.folder = folder / "trainer"
        self.folder.mkdir(parents=True)
        #: Where the sessions are kept.
        self.sessions = folder / "sessions"
        #: What went wrong inside of hubstate and was caught by the fence: a replay with any has failed.
        self.caught: list[Exception] = []
        #: What the caller heard at the end: the one error that a replay does not pass on.
        self.raised: BaseException | None = None
        self._written: dict[Path, int | None] = {}
        self._writes = 0
        self._chance = random.Random(0)
        self._began = self.clock.monotonic()

    def calls(self) -> Iterator[Mapping[str, Any]]:
        """The calls in their order, each at its time: the sender has had its turns meanwhile."""
        for call in self.recording.calls:
            self._wait_until(call.get("t"))
            yield call

    def _wait_until(self, at: float | None) -> None:
        never = threading.Event()
        until = self._began + at if at is not None else self.clock.monotonic()
        self.clock.wait(never, 0.0)
        while self.clock.monotonic() < until:
            self.clock.wait(never, max(0.001, until - self.clock.monotonic()))

    def write(
        self, files: Mapping[str, int | None] | None, *, below: str = "", fresh: Iterable[str] = ()
    ) -> None:
        """Makes the trainer's folder hold these files, as a recorded `files` tells them; None: it was not there.

        A file is written anew if its recorded size changed or it is named in `fresh`; one that is not named any more is
        removed. A name without an ending is a folder with a file in it. They are small, whatever their recorded size.
        """
        place, fresh = self.folder / below, set(fresh)
        wanted = {place / name: size for name, size in (files or {}).items()}
        for gone in [path for path in self._written if path not in wanted and path.is_relative_to(place)]:
            del self._written[gone]
            file = gone if gone.is_file() else gone / "model.bin"
            file.unlink()
            if gone.is_dir():
                gone.rmdir()
        for name, size in (files or {}).items():
            path = place / name
            if name in fresh or path not in self._written or self._written[path] != size:
                self._written[path] = size
                self._writes += 1
                file = path if path.suffix else path / "model.bin"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(f"{name}, as written in write {self._writes}\n".encode())

    def end(self) -> None:
        """The end of the call to the trainer as the caller hears it: returns, raises what was recorded, or dies."""
        end = self.recording.end
        if end["outcome"] == "killed":
            if self.caught:
                raise AssertionError("the fence caught something before the process was killed")
            os.kill(os.getpid(), signal.SIGKILL)
        if end["outcome"] != "returned":
            self.raised = recorded_error(end.get("error"))
            raise self.raised

    # -- in place of hubstate.start and of the fence -------------------------------------------------------

    def start(
        self,
        name: str,
        *,
        hub: str | None = None,
        api_key: str | None = None,
        project: str | None = None,
        group: str | None = None,
        tags: Iterable[str] = (),
        epochs: int | None = None,
        config: Mapping[str, Any] | None = None,
        directory: str | Path | None = None,
        mode: str | None = None,
        limits: Limits | None = None,
        checkpoints: str = "all",
        resume: bool | str = False,
    ) -> Session:
        """As `hubstate.start`, with the hub, the clock and the folder of the replay, in this thread."""
        # Later than the one before by more than a millisecond: a session's id tells no less, and puts them in order.
        self.clock.wait(threading.Event(), 0.002)
        # The rank is not told to the session of a module that can see it: that it guards itself is what a replay shows.
        rank = self.recording.rank if self.recording.trainer in _KNOW_NO_RANK | _LOOPS else 0
        found = Settings(
            hub=self.hub.address,
            directory=self.sessions,
            mode=mode or "on",
            project=project,
            group=group,
            rank=rank,
            data_folder=self.sessions.parent / "data",
        )
        return begin(
            checked_wish(name, tags, epochs, config, limits, checkpoints, resume),
            found,
            clock=self.clock,
            chance=self._chance,
            open_hub=self._open_hub,
            say=_silent,
            threads=Turns,
        )

    def _open_hub(self, _address: str, _api_key: str | None) -> Hub:
        return self.hub

    def failed(self, _where: str, error: Exception) -> None:
        """In place of the fence's word: the training goes on as behind the fence, and the replay fails."""
        self.caught.append(error)


def _silent(_text: str) -> None:
    """What is said to the person at the terminal is for nobody in a replay."""


def recorded_error(told: Mapping[str, Any] | None) -> BaseException:
    """The recorded exception: the built-in one of that name, else one of that name made here.

    Where nothing was recorded of it but that it was raised it is a RuntimeError.
    """
    name, message = str((told or {}).get("type") or "RuntimeError"), str((told or {}).get("message") or "")
    kind = getattr(builtins, name, None)
    if not (isinstance(kind, type) and issubclass(kind, BaseException)):
        kind = type(name, (Exception,), {})
    if kind is SystemExit:
        return SystemExit(int(message) if message.lstrip("-").isdecimal() else message or None)
    if kind is KeyError:
        return KeyError(message.strip("'\""))
    try:
        return kind(message) if message else kind()
    except TypeError:  # it demands more than a message, as UnicodeDecodeError does
        made: BaseException = type(name, (Exception,), {})(message)
        return made


def stand_in(recording: Recording) -> Any:
    """The module that plays a recording's trainer. Raises `ValueError` if there is none."""
    name = f"standin_{'sklearn' if recording.trainer in _LOOPS else recording.trainer}"
    if not (Path(__file__).parent / f"{name}.py").is_file():
        raise ValueError(f"there is no stand-in for the trainer {recording.trainer!r}")
    return import_module(name)


def replay(path: Path, folder: Path) -> Replayed:
    """Replays one recording; `folder` (empty) takes the trainer's files and the sessions.

    Raises whatever a stand-in raises beside the recorded end, and the first error that the fence had to catch.
    """
    recording = Recording.of(path)
    module = stand_in(recording)
    play = Play(recording, folder)
    if recording.end["outcome"] == "killed":
        _in_a_process_of_its_own(module, play)
    else:
        _perform(module, play)
    return _what_is_left(play.sessions)


def _perform(stand_in: _StandIn, play: Play) -> None:
    """Plays a recording to its end, and hears what the caller would hear."""
    with ExitStack() as stack:
        stack.enter_context(patch.object(hubstate.trainers.link, "start", play.start))
        stack.enter_context(patch.object(Link, "failed", play.failed))
        stack.enter_context(patch.dict(os.environ, _ranks(play.recording.header)))
        for name in set(_RANKS) - set(_ranks(play.recording.header)):
            os.environ.pop(name, None)
        try:
            stand_in.play(play)
        except BaseException as error:
            if error is not play.raised:
                raise
    if play.caught:
        raise play.caught[0]


def _ranks(header: Mapping[str, Any]) -> dict[str, str]:
    number = header.get("rank") or 0
    processes = max(header.get("world_size") or 1, number + 1)
    if header.get("rank") is None or processes < 2:
        return {}
    rank, size = str(number), str(processes)
    return dict(zip(_RANKS, (rank, rank, size, size), strict=True))


def _in_a_process_of_its_own(stand_in: _StandIn, play: Play) -> None:
    """A killed process runs nothing more, so it has to be a real one."""
    child = os.fork()
    if child == 0:
        try:
            _perform(stand_in, play)
        except BaseException:  # noqa: BLE001 - the other process has to hear of all that went wrong in this one
            traceback.print_exc()
        os._exit(1)
    _, status = os.waitpid(child, 0)
    if not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
        raise AssertionError(
            "the replay went wrong before its process was killed; what was printed above tells why"
        )


def _what_is_left(sessions: Path) -> Replayed:
    """What the journals tell."""
    folders = list(sessions_in(sessions)) if sessions.exists() else []
    if not folders:
        return Replayed("idle", None, None)
    steps = [line for folder in folders for _, line in read(folder) if isinstance(line, Step)]
    memory = recover(folders[-1]).memory
    return Replayed(
        memory.state.value,
        memory.outcome.value,
        memory.reason or None,
        list(_rows(folders)),
        list(_checkpoints(steps)),
        [
            {"event": name_of(step.event), "state": step.source.value, "reason": step.refusal}
            for step in steps
            if step.illegal
        ],
        len(folders),
    )


def _rows(folders: list[Path]) -> Iterator[dict[str, Any]]:
    for folder in folders:
        found: dict[tuple[Any, ...], dict[str, Any]] = {}
        for _, line in read(folder):
            if not isinstance(line, Step) or not line.row:
                continue
            event = line.event
            assert isinstance(event, FitEpochEnd | TrainBatchEnd), "only these two are rows"
            step = event.step if isinstance(event, TrainBatchEnd) else None
            final = isinstance(event, FitEpochEnd) and event.final
            values = {n: _NO_NUMBERS.get(event.nonfinite.get(n, ""), v) for n, v in event.metrics.items()}
            key = (line.attempt, event.epoch, step, final)
            row = found.setdefault(key, {"epoch": event.epoch, "step": step, "final": final, "metrics": {}})
            row["metrics"].update(values)
        yield from found.values()


def _checkpoints(steps: Iterable[Step]) -> Iterator[dict[str, Any]]:
    """Those that were kept, in their order."""
    for step in steps:
        for action in step.actions:
            if isinstance(action, KeepCheckpoint):
                yield {"kind": action.kind.value, "epoch": action.epoch}
        if isinstance(step.event, TrainEnd) and step.event.final is not None and step.event.final.snapshot:
            yield {"kind": "final", "epoch": step.event.final.epoch}


def main(arguments: list[str] | None = None) -> int:
    """Replays the recording that is named, and prints what followed as JSON."""
    parser = argparse.ArgumentParser(prog="python -m tests.trainers.replay", description=__doc__)
    parser.add_argument("file", type=Path, help="a recording, such as those in tests/data/traces")
    file = parser.parse_args(arguments).file
    sys.path.insert(0, str(Path(__file__).parent))
    with tempfile.TemporaryDirectory(prefix="hubstate-replay-") as folder:
        found = replay(file, Path(folder))
    print(json.dumps(found.as_json(), indent=2, allow_nan=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
