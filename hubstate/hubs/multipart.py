"""Bodies that are read while they are sent: never more than a piece of one is in memory.

The length is known beforehand, so the request says it, and the receiver can tell a whole body from a torn one. A file
that is shorter than when it was opened ends the sending; what it grew by is not sent. A body is made anew for every
try: whoever sends the same object twice sends an empty one the second time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Self

from hubstate.archive import Content

__all__ = ["Body", "Form", "Rest"]

#: The largest piece that is read at once (bytes).
STEP = 1024 * 1024


class Body:
    """The bytes `head`, then the file `path` (or the folder, as an archive) from `offset` on, then the bytes `tail`.

    Opening raises `OSError` if the file cannot be read, and `CheckpointMissing` for a folder that cannot be sent.
    `fault`: why reading it failed afterwards, empty if it did not; whoever sends the body gets that as an `OSError`
    too, but so many things are one.
    """

    def __init__(self, path: Path, *, head: bytes = b"", offset: int = 0, tail: bytes = b"") -> None:
        self.fault = ""
        self._name = path.name
        self._content = Content(path)
        self._left = self._content.size - offset
        self._content.seek(offset)
        self._head, self._tail = memoryview(head), memoryview(tail)
        self._length = len(head) + self._left + len(tail)

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
            return self._content.read(size)
        except OSError as error:
            self.fault = f"the kept file {self._name} cannot be read any more: {error.strerror or error}"
            raise

    def __iter__(self) -> Iterator[bytes]:
        while piece := self.read():
            yield piece

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._content.close()


class Form(Body):
    """The body of one upload as a form: the fields, then the file in the field `name`. Opening raises as `Body` does."""

    def __init__(self, fields: Mapping[str, str], name: str, path: Path, chance: Random) -> None:
        boundary = f"hubstate-{chance.getrandbits(160):040x}"
        self.content_type = f"multipart/form-data; boundary={boundary}"
        parts = [
            f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"\r\n\r\n{text}\r\n'
            for field, text in fields.items()
        ]
        parts.append(
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{name}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        )
        super().__init__(path, head="".join(parts).encode(), tail=f"\r\n--{boundary}--\r\n".encode())


class Rest(Body):
    """What is left of a file from `offset` on."""

    def __init__(self, path: Path, offset: int) -> None:
        super().__init__(path, offset=offset)
