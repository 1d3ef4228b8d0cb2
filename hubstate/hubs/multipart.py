"""A form with one file, as a body that is read while it is sent: never more than a piece of it is in memory.

The length is known beforehand, so the request says it, and the receiver can tell a whole body from a torn one. A file
that is shorter than when it was opened ends the sending; what it grew by is not sent. A body is made anew for every
try: whoever sends the same object twice sends an empty one the second time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Self

__all__ = ["Form", "Shrunk"]

#: The largest piece that is read at once (bytes).
STEP = 1024 * 1024


class Shrunk(OSError):
    """The file ended before the length that it had when it was opened."""


class Form:
    """The body of one upload: the fields, then the file `path` in the field `name`.

    Opening raises `OSError` if the file cannot be read. `fault`: why reading it failed afterwards, empty if it did
    not; whoever sends the body gets that as an `OSError` too, but so many things are one.
    """

    def __init__(self, fields: Mapping[str, str], name: str, path: Path, chance: Random) -> None:
        boundary = f"hubstate-{chance.getrandbits(160):040x}"
        self.content_type = f"multipart/form-data; boundary={boundary}"
        self.fault = ""
        self._name = path.name
        self._file = path.open("rb", buffering=0)
        try:
            self._size = self._left = os.fstat(self._file.fileno()).st_size
        except OSError:
            self._file.close()
            raise
        parts = [
            f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"\r\n\r\n{text}\r\n'
            for field, text in fields.items()
        ]
        parts.append(
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{name}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        )
        self._head = memoryview("".join(parts).encode())
        self._tail = memoryview(f"\r\n--{boundary}--\r\n".encode())
        self._length = len(self._head) + self._size + len(self._tail)

    def __len__(self) -> int:
        return self._length

    def read(self, size: int = -1) -> bytes:
        """The next piece: at most `size` bytes and at most 1 MiB; empty at the end."""
        size = STEP if size < 0 else min(size, STEP)
        if self._head:
            piece, self._head = bytes(self._head[:size]), self._head[size:]
        elif self._left and size:
            piece = self._read_file(min(size, self._left))
            self._left -= len(piece)
        else:
            piece, self._tail = bytes(self._tail[:size]), self._tail[size:]
        return piece

    def _read_file(self, size: int) -> bytes:
        try:
            piece = self._file.read(size)
            if not piece:
                raise Shrunk(f"it has {self._size - self._left} bytes, and had {self._size} at first")
        except OSError as error:
            self.fault = f"the kept file {self._name} cannot be read any more: {error.strerror or error}"
            raise
        return piece

    def __iter__(self) -> Iterator[bytes]:
        while piece := self.read():
            yield piece

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
