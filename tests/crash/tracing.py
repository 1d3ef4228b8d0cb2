"""Stops a process before each system call by which it changes something outside itself, and kills it at a chosen one.

A filter of the kernel (seccomp), which the victim sets on itself, tells which calls are stopped at; all others run at
full speed. They are counted over all threads of the process, in the order in which the kernel meets them, so that the
n-th one is the n-th of the whole process. Whoever traces is the parent; nothing but Python and the kernel takes part.

Killed *before* a call, none of it has happened. Killed *within* a call, a part of its bytes is taken: the length is
made shorter before the call runs, and the process dies at its end, before it hears of it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

__all__ = ["Call", "Traced", "follow", "let_me_be_traced", "seize", "why_not"]

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]

_CONT, _GETREGS, _SETREGS, _SYSCALL, _SEIZE = 7, 12, 13, 24, 0x4206
_SYSGOOD, _FORK, _CLONE, _SECCOMP, _EXITKILL = 0x1, 0x2, 0x8, 0x80, 0x100000
_EVENT_SECCOMP, _EVENT_STOP = 7, 128
_WALL = 0x40000000

#: The calls that change something outside the process, by their numbers on x86-64.
_WRITING = {
    1: "write",
    18: "pwrite64",
    20: "writev",
    40: "sendfile",
    44: "sendto",
    46: "sendmsg",
    74: "fsync",
    75: "fdatasync",
    76: "truncate",
    77: "ftruncate",
    82: "rename",
    83: "mkdir",
    84: "rmdir",
    86: "link",
    87: "unlink",
    88: "symlink",
    258: "mkdirat",
    263: "unlinkat",
    264: "renameat",
    265: "linkat",
    266: "symlinkat",
    285: "fallocate",
    296: "pwritev",
    316: "renameat2",
    326: "copy_file_range",
    328: "pwritev2",
}
#: Calls that do so with one argument alone: its place, and the bits that it must have.
_O_CREAT, _FICLONE = 0o100, 0x40049409
_WRITING_IF = {2: ("open", 1, _O_CREAT), 257: ("openat", 2, _O_CREAT), 16: ("ioctl", 1, _FICLONE)}
#: Which of them name what they change by a path, and in which argument; the others by a descriptor in the first one.
_BY_PATH = {
    2: 0,
    76: 0,
    82: 0,
    83: 0,
    84: 0,
    86: 0,
    87: 0,
    88: 0,
    257: 1,
    258: 1,
    263: 1,
    264: 1,
    265: 1,
    316: 1,
}
#: The one that names what it changes in its third argument.
_COPY_FILE_RANGE = 326
#: Calls that may take a part of their bytes, and the argument that tells how many they may take.
_DIVISIBLE = {1: 2, 18: 2, 44: 2, 326: 4}
#: The places of arguments 0 to 5, and of the call's number, among the registers of x86-64.
_ARGUMENTS, _NUMBER, _REGISTERS = (14, 13, 12, 7, 9, 8), 15, struct.Struct("27Q")


class Call(NamedTuple):
    """A writing call that is about to run: its name, what it changes (a path), and how many bytes (0: no bytes)."""

    name: str
    what: str
    size: int


class Traced(NamedTuple):
    """What became of a process: its wait status, how many writing calls it was stopped at, and where it was killed."""

    status: int
    calls: int
    killed_at: Call | None


def why_not() -> str:
    """Why nothing can be traced here; empty if it can."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return f"the calls are known by their numbers on Linux and x86-64, not on {platform.machine()}"
    with subprocess.Popen(["sleep", "60"]) as child:
        try:
            seize(child.pid)
        except PermissionError as error:
            return f"no process may be traced here ({error.strerror})"
        finally:
            child.kill()
    return ""


# -- in the process that is traced -----------------------------------------------------------------------


def let_me_be_traced() -> None:
    """From now on each writing call of this process, of any of its threads, waits for whoever traces it."""
    program = _filter()
    blob = ctypes.create_string_buffer(program)
    head = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(blob))
    if _libc.prctl(38, 1, 0, 0, 0) or _libc.prctl(22, 2, head, 0, 0):  # no new privileges; set the filter
        raise OSError(ctypes.get_errno(), "the filter of calls cannot be set")


def _filter() -> bytes:
    """The filter: for each writing call `trace`, else `allow`, in the kernel's small language (classic BPF)."""
    load, equal, any_of, answer = 0x20, 0x15, 0x45, 0x06
    allow, trace, machine = 0x7FFF0000, 0x7FF00000, 0xC000003E
    lines = [(load, 0, 0, 4), (equal, 1, 0, machine), (answer, 0, 0, allow), (load, 0, 0, 0)]
    for number in _WRITING:
        lines += [(equal, 0, 1, number), (answer, 0, 0, trace)]
    for number, (_, argument, bits) in _WRITING_IF.items():
        has = equal if bits == _FICLONE else any_of
        lines += [
            (equal, 0, 4, number),
            (load, 0, 0, 16 + 8 * argument),  # its lower half; the machine puts that first
            (has, 0, 1, bits),
            (answer, 0, 0, trace),
            (answer, 0, 0, allow),
        ]
    return b"".join(struct.pack("HBBI", *line) for line in [*lines, (answer, 0, 0, allow)])


# -- in the process that traces --------------------------------------------------------------------------


def seize(child: int) -> None:
    """Begins to trace a child, which waits for that before it does anything."""
    _ptrace(_SEIZE, child, 0, _SYSGOOD | _FORK | _CLONE | _SECCOMP | _EXITKILL)


def follow(child: int, kill_at: int | None, part: float | None, told: Callable[[Call], None]) -> Traced:
    """Lets a seized child run to its end, or kills it at its `kill_at`-th writing call (1 is the first).

    `part`: None kills it before the call; else, where the call has bytes, within it, when that share of them (0 to 1)
    is taken. `told` hears of each call that is met.
    """
    count = 0
    killed_at: Call | None = None
    dying = 0
    while True:
        thread, status = os.waitpid(-1, _WALL)
        if os.WIFEXITED(status) or os.WIFSIGNALED(status):
            if thread == child:
                return Traced(status, count, killed_at)
            continue
        event, number = status >> 16, os.WSTOPSIG(status)
        if event == _EVENT_SECCOMP and killed_at is None:
            count += 1
            call = _call(thread)
            told(call)
            if count == kill_at:
                killed_at = call
                if part is not None and call.size > 1:
                    _shorten(thread, max(1, min(call.size - 1, int(call.size * part))))
                    dying = thread
                    _go_on(thread, how=_SYSCALL)
                    continue
                os.kill(child, signal.SIGKILL)
        elif number == signal.SIGTRAP | 0x80 and thread == dying:
            os.kill(child, signal.SIGKILL)
        _go_on(thread, how=_SYSCALL if thread == dying else _CONT, number=0 if event else number & 0x7F)


def _go_on(thread: int, *, how: int, number: int = 0) -> None:
    passed_on = 0 if number == signal.SIGTRAP else number
    with contextlib.suppress(ProcessLookupError):  # it was killed meanwhile
        _ptrace(how, thread, 0, passed_on)


def _call(thread: int) -> Call:
    registers = _registers(thread)
    number = registers[_NUMBER]
    name = _WRITING.get(number) or _WRITING_IF[number][0]
    arguments = [registers[place] for place in _ARGUMENTS]
    size = arguments[_DIVISIBLE[number]] if number in _DIVISIBLE else 0
    return Call(name, _changed(thread, number, arguments), size)


def _changed(thread: int, number: int, arguments: list[int]) -> str:
    if number not in _BY_PATH:
        descriptor = arguments[2] if number == _COPY_FILE_RANGE else arguments[0]
        return str(Path(f"/proc/{thread}/fd/{descriptor & 0xFFFFFFFF}").readlink())
    with open(f"/proc/{thread}/mem", "rb", buffering=0) as memory:  # noqa: PTH123 - it is no file
        memory.seek(arguments[_BY_PATH[number]])
        text = b""
        while b"\0" not in text:
            # Page by page, for what lies behind may not be there.
            text += memory.read(min(256, 4096 - memory.tell() % 4096))
    return os.fsdecode(text.partition(b"\0")[0])


def _shorten(thread: int, size: int) -> None:
    registers = list(_registers(thread))
    registers[_ARGUMENTS[_DIVISIBLE[registers[_NUMBER]]]] = size
    _ptrace(_SETREGS, thread, 0, ctypes.create_string_buffer(_REGISTERS.pack(*registers)))


def _registers(thread: int) -> tuple[int, ...]:
    room = ctypes.create_string_buffer(_REGISTERS.size)
    _ptrace(_GETREGS, thread, 0, room)
    return _REGISTERS.unpack(room.raw)


def _ptrace(request: int, thread: int, address: int, data: object) -> None:
    pointer = ctypes.cast(data, ctypes.c_void_p) if isinstance(data, ctypes.Array) else ctypes.c_void_p(data)
    if _libc.ptrace(request, thread, ctypes.c_void_p(address), pointer) == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
