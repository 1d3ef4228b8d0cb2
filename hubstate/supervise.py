"""A training command as a child, and the truth about its end.

A process that is killed says nothing, so somebody else has to. `supervise` runs a command, waits until it is gone, by
whatever end, and says of each session that it opened and left without a last word what became of it.

**The terminal stays the command's.** It inherits standard input, output and error, and stays in this process's group,
so that Ctrl-C and Ctrl-Z reach it as they would without us. What is sent to this process alone is passed on to it.
What the terminal sends to the whole group it has already, and the kernel marks that (`SI_KERNEL`), so it is not passed
on a second time. This process waits with its signals blocked and takes one after the other: no handler, no race.

**Which sessions are meant** is told by themselves. The command finds a folder named in its environment, and `start`
notes there which attempt of which session it opened, and where: a worker that was spawned by a shell that was spawned
by a script does so too, in whatever order they die. (Descent by process ids is lost as soon as a parent dies before
its child, and ids are given out again.) An attempt that is not noted here is somebody else's, and is left alone; so is
a session that a living process owns, such as one that the command left running behind it.

**What is said of it** is no more than what is known: an exit code other than 0 is `failed`, SIGINT and SIGTERM are
`interrupted`, other signals `failed`. A process that ended with 0 and whose training never said that it was over is
`unknown`: the training may be whole or not, and nobody here can tell. A session that ended itself is untouched.
"""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from hubstate import settings
from hubstate.clock import Clock
from hubstate.errors import HubstateError, SessionBusy, StorageError, UsageError
from hubstate.hubs.base import Hub
from hubstate.index import Index
from hubstate.opening import peek
from hubstate.overview import look
from hubstate.ownership import Ownership, owner_of
from hubstate.rounds import Round, Watch
from hubstate.settings import Settings
from hubstate.states import Outcome
from hubstate.sync import OPEN_ENDED, conclude

__all__ = ["End", "Kills", "count_kills", "end_as", "supervise"]

Say = Callable[[str], None]

#: What is not passed on: what cannot be caught, what stops and goes on (the terminal tells the whole group), what a
#: process does to itself, and what would only tell of children.
_OWN = {"SIGKILL", "SIGSTOP", "SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGCONT", "SIGCHLD"} | {
    "SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGTRAP", "SIGABRT", "SIGSYS", "SIGPIPE", "SIGXFSZ", "SIGXCPU"
}  # fmt: skip
_PASSED = frozenset(
    number for number in signal.valid_signals() if getattr(number, "name", "real-time") not in _OWN
)
#: What a terminal sends to the whole group in front of it, and the mark of what the kernel itself sent.
_FROM_TERMINAL = frozenset({signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGWINCH})
_SI_KERNEL = 0x80
#: What Python ignores, and a command must not: it is handed the default.
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)


# -- how a command ended ---------------------------------------------------------------------------------


class Kills(NamedTuple):
    """How many processes the out-of-memory killer ended: in this control group, and on the whole machine.

    None where the kernel does not tell.
    """

    here: int | None
    machine: int | None


def count_kills(proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> Kills:
    """The counters as they are now; no privilege is needed."""
    here = None
    for line in _lines(proc / "self" / "cgroup"):
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            files = [groups / path.lstrip("/") / "memory.events", groups / "memory.events"]
        elif "memory" in controllers.split(","):
            files = [groups / "memory" / path.lstrip("/") / "memory.oom_control"]
            files.append(groups / "memory" / "memory.oom_control")
        else:
            continue
        # In a container the path may be the host's, and what is mounted is the group itself.
        found = next((count for file in files if (count := _counter(file)) is not None), None)
        here = found if here is None else here
    return Kills(here, _counter(proc / "vmstat"))


def _counter(file: Path) -> int | None:
    for line in _lines(file):
        name, _, value = line.partition(" ")
        if name == "oom_kill" and value.isdigit():
            return int(value)
    return None


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return []  # another kind of kernel, or another place: then there is no such counter


@dataclass(frozen=True)
class End:
    """How a command ended. `status`: its exit code, or the signal's number, negative. `killed`: as counted meanwhile."""

    status: int
    killed: Kills

    @property
    def outcome(self) -> Outcome:
        """What that says of a training which did not say it itself."""
        if self.status == 0:
            return Outcome.UNKNOWN
        interrupted = self.status in (-signal.SIGINT, -signal.SIGTERM)
        return Outcome.INTERRUPTED if interrupted else Outcome.FAILED

    @property
    def reason(self) -> str:
        """The same in words."""
        if self.status == 0:
            return "the command ended with exit code 0, and its training never said that it was over"
        if self.status > 0:
            return f"exit code {self.status}{_as_shells_count(self.status)}{self._beside()}"
        name = _name(-self.status)
        if -self.status != signal.SIGKILL:
            return f"ended by {name}{self._beside()}"
        return f"killed by {name}{self._whose_kill()}"

    def _whose_kill(self) -> str:
        if self.killed.here:
            return ": out of memory (the kernel counted its out-of-memory killer in this control group)"
        if self.killed.machine:
            return (
                "; probably out of memory: the kernel's out-of-memory killer struck on this machine meanwhile"
            )
        if self.killed.machine is None:
            return "; it may have been the kernel's out-of-memory killer"
        return ", and not by the kernel's out-of-memory killer"

    def _beside(self) -> str:
        """A worker may have been killed, and the command ended because of that."""
        if not self.killed.here:
            return ""
        count = "a process" if self.killed.here == 1 else f"{self.killed.here} processes"
        return f"; out of memory: the kernel killed {count} in this control group meanwhile"


def _as_shells_count(code: int) -> str:
    """The signal that an exit code stands for, where the command is a shell or does as shells do."""
    return f" (128 + {_name(code - 128)})" if code - 128 in signal.valid_signals() else ""


def _name(number: int) -> str:
    known = next((one for one in signal.Signals if one == number), None)
    return f"signal {number}" if known is None else known.name


def end_as(end: End) -> int:
    """Ends this process as the command ended, so that whoever called sees the same: by the same signal, if by one.

    Returns the exit code, for a command that ended with one, and where the signal does not end this process (the
    first process of a container is spared): then 128 + its number, as shells count.
    """
    if end.status >= 0:
        return end.status
    number = -end.status
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # whoever read it is gone
            stream.flush()
    # The command's own memory dump is the one that tells something.
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    os.kill(os.getpid(), number)
    return 128 + number


# -- running it ------------------------------------------------------------------------------------------


def supervise(
    command: Sequence[str],
    found: Settings,
    *,
    timeout: float,
    clock: Clock,
    chance: random.Random,
    open_hub: Callable[[str, str | None], Hub],
    say: Say,
    watch: Watch,
) -> End:
    """Runs the command to its end, ends its sessions, and delivers at most `timeout` seconds long what they hold.

    Call it from the main thread of a process that has no other. Raises `UsageError`, caused by the system's
    error, if the command cannot be started; what hinders the rest is said, for it must not hinder a training.
    """
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(_listening(found.data_folder / "runs"))
        except StorageError as failure:
            folder = None
            say(f"{failure}; the command runs all the same, but how its sessions end will not be known")
        with _signals_held() as mask:
            before = count_kills()
            child = _spawn(command, settings.for_command(folder), mask)
            status = _until_gone(child)
            after = count_kills()
            end = End(status, Kills(*(_grown(*pair) for pair in zip(before, after, strict=True))))
            sessions = {} if folder is None else _noted(folder)
            left = [path for path, attempt in sessions.items() if _conclude(path, attempt, end, clock, say)]
        if left and timeout > 0:
            with Round(
                found,
                hub=None,
                retry_refused=False,
                reason=None,
                clock=clock,
                chance=chance,
                open_hub=open_hub,
                say=say,
                watch=watch,
                beside=True,
            ) as work:
                _deliver(left, found, work, timeout, say)
        for path in left:
            _tell(path, end, say)
    return end


def _grown(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else max(0, after - before)


@contextmanager
def _signals_held() -> Iterator[set[int]]:
    """No signal is acted on while the block lasts; those that nobody took are dropped at its end. Gives the old mask."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored by a careless parent, it would cost the exit code
    held = {*_PASSED, signal.SIGCHLD}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, held)
    try:
        yield mask
    finally:
        while signal.sigtimedwait(held, 0) is not None:
            pass  # it was for the command, which is gone
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _spawn(command: Sequence[str], environment: Mapping[str, str], mask: set[int]) -> int:
    try:
        return os.posix_spawnp(
            command[0], list(command), environment, setsigmask=mask, setsigdef=_IGNORED_BY_PYTHON
        )
    except OSError as error:
        raise UsageError(f"cannot run {command[0]}: {error.strerror}") from error


def _until_gone(child: int) -> int:
    """Passes on what is sent to this process until the command is gone; returns its status."""
    held = {*_PASSED, signal.SIGCHLD}
    while True:
        came = signal.sigwaitinfo(held)
        if came.si_signo == signal.SIGCHLD:
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid == child:
                return os.waitstatus_to_exitcode(status)
        elif not _has_it_already(came):
            os.kill(child, came.si_signo)  # it is ours until `waitpid` gave it up, so nobody else has its id


def _has_it_already(came: signal.struct_siginfo) -> bool:
    """Whether the terminal sent a signal to the whole group. A hangup it tells to the leader of the session alone."""
    told_to_leader = came.si_signo == signal.SIGHUP and os.getsid(0) == os.getpid()
    return came.si_code == _SI_KERNEL and came.si_signo in _FROM_TERMINAL and not told_to_leader


# -- which sessions it had -------------------------------------------------------------------------------


@contextmanager
def _listening(runs: Path) -> Iterator[Path]:
    """A folder in `runs` for as long as the block lasts, in which sessions are noted. Raises `StorageError`."""
    try:
        runs.mkdir(parents=True, exist_ok=True, mode=0o700)
        for leftover in runs.iterdir():
            # Hidden ones are just being made. Who made one of the others holds its lock as long as it lives.
            if not leftover.name.startswith(".") and owner_of(leftover) is None:
                shutil.rmtree(leftover, ignore_errors=True)  # another one may be at it too
        making = Path(tempfile.mkdtemp(prefix=".", dir=runs))
        ownership = Ownership(making)
        folder = making.rename(runs / making.name.removeprefix("."))
    except OSError as error:
        raise StorageError(f"nothing can be noted in {runs}: {error.strerror or error}") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # what is left of it goes with the next run
        ownership.release()


def _noted(run: Path) -> dict[Path, int]:
    """The folders of the sessions that were opened, each with the newest attempt that was opened of it."""
    sessions: dict[Path, int] = {}
    for name, folder in Index(run).entries():
        attempt = int(name.rpartition("-")[2])
        sessions[folder] = max(attempt, sessions.get(folder, 0))
    return sessions


def _conclude(folder: Path, attempt: int, end: End, clock: Clock, say: Say) -> bool:
    """Ends a session if nobody did; tells whether it is now for us to deliver what it holds."""
    try:
        seen = peek(folder)
        label = f"{seen.memory.name} ({folder.name})"
        if seen.owner is not None:
            who = f"process {seen.owner}" if seen.owner else "a process on another machine"
            say(f"{label} is owned by {who}, which lives; it is left to it")
            return False
        if seen.memory.attempt > attempt:
            return False  # somebody else went on with it
        if seen.memory.state in OPEN_ENDED:
            conclude(folder, end.outcome, end.reason, clock)
    except SessionBusy as failure:
        say(f"{failure}; it is left to it")
        return False
    except HubstateError as failure:
        say(f"{folder.name}: {failure}")
        return False
    return True


# -- what they still hold --------------------------------------------------------------------------------


class _Enough(KeyboardInterrupt):
    """The time is over, or somebody wants this process to end: as Ctrl-C does, it stops the delivery where it is."""


def _deliver(folders: Sequence[Path], found: Settings, work: Round, timeout: float, say: Say) -> None:
    """Delivers what the sessions hold to their hubs, those that have one."""
    try:
        with _at_most(timeout):
            for folder in folders:
                _deliver_one(folder, found, work, say)
    except KeyboardInterrupt as stop:
        why = str(stop) or "stopped"
        say(f"{why}; what waits is kept, and leaves with `hubstate sync`")


def _deliver_one(folder: Path, found: Settings, work: Round, say: Say) -> None:
    try:
        memory = peek(folder).memory
        if memory.hub or (memory.hub_wanted and found.mode == "on"):
            work.visit(look(folder))  # where there is no hub to be found, it says how to name one
    except StorageError as failure:
        say(f"{folder.name}: {failure}")


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Ends the block by an exception when the time is over, or when this process is asked to end."""

    def enough(number: int, _frame: object) -> None:
        raise _Enough(
            f"{seconds:g} s are over" if number == signal.SIGALRM else f"stopped by {_name(number)}"
        )

    numbers = [signal.SIGALRM, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # `nohup` wants it ignored
        numbers.append(signal.SIGHUP)
    before = [(number, signal.signal(number, enough)) for number in numbers]
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before:
            signal.signal(number, handler)


def _tell(folder: Path, end: End, say: Say) -> None:
    """A line about a session that did not end itself, or that still holds something."""
    try:
        seen = look(folder)
    except StorageError as failure:
        say(f"{folder.name}: {failure}")
        return
    if seen.unsettled or seen.receipt.reason == end.reason:
        say(str(seen.receipt).partition("\n")[0])
