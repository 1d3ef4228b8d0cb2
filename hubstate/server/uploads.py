"""An upload on its way in: a multipart body is taken piece by piece, hashed, and written to a file.

Nothing is held in memory but the piece at hand and the few form fields. The receiver knows neither sockets nor
the database; what becomes of the file is decided when all of it is here and its digest was checked.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path
from typing import TYPE_CHECKING, Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser

from hubstate.server.answers import Problem
from hubstate.server.incoming import new_name, write_all

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

__all__ = ["Received", "Receiver", "digest_of_header"]

_FIELD_BYTES = 64 * 1024
_FIELDS = 64


@dataclass
class Received:
    """A whole upload: the form's fields, the name of the file's field, and where its bytes lie now."""

    fields: dict[str, str]
    name: str
    part: Path
    size: int
    sha256: str


@dataclass
class _Part:
    name: str = ""
    is_file: bool = False
    header: bytearray = field(default_factory=bytearray)
    value: bytearray = field(default_factory=bytearray)
    headers: dict[str, str] = field(default_factory=dict)


class Receiver:
    """Takes the body of one upload. `content_type` is the request's; `folder` is where the file grows.

    Raises `Problem` 400 for a body that is no multipart form with one file, 413 for one that is too long.
    """

    def __init__(self, folder: Path, content_type: str, limit: int) -> None:
        kind, options = _header_value(content_type)
        boundary = options.get("boundary", "")
        if kind != "multipart/form-data" or not boundary:
            raise Problem(400, "invalid", "an upload is a multipart/form-data body with a boundary")
        self._limit = limit
        self._taken = 0
        self._whole = False
        self._part = _Part()
        self._fields: dict[str, str] = {}
        self._name = ""
        self._hash = hashlib.sha256()
        self._size = 0
        self.path = folder / f"{new_name()}.part"
        self._fd = -1
        callbacks: MultipartCallbacks = {
            "on_part_begin": self._on_part_begin,
            "on_header_field": self._on_header_field,
            "on_header_value": self._on_header_value,
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers_finished,
            "on_part_data": self._on_part_data,
            "on_part_end": self._on_part_end,
            "on_end": self._on_end,
        }
        try:
            self._parser = MultipartParser(boundary.encode("latin-1"), callbacks)
        except (FormParserError, UnicodeEncodeError) as error:
            raise Problem(400, "invalid", "the boundary of this upload cannot be read") from error

    def write(self, data: bytes) -> None:
        """Takes the next piece of the body."""
        self._taken += len(data)
        if self._taken > self._limit:
            raise Problem(413, "too_large", f"an upload may have at most {self._limit} bytes here")
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise Problem(400, "invalid", "the multipart form of this upload cannot be read") from error

    def finish(self) -> Received:
        """The upload, once all of the body was taken. The bytes are on the disk when this returns."""
        if not self._whole:
            raise Problem(400, "incomplete", "the upload ended before its last boundary: send it again")
        if self._fd < 0:
            raise Problem(400, "invalid", "the upload holds no file")
        os.fsync(self._fd)
        self._close()
        return Received(self._fields, self._name, self.path, self._size, self._hash.hexdigest())

    def abandon(self) -> None:
        """Forgets the upload, and its file unless that was promoted. May be called at any time, and again."""
        self._close()
        self.path.unlink(missing_ok=True)

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    # -- what the parser says ----------------------------------------------------------------------------

    def _on_part_begin(self) -> None:
        self._part = _Part()

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._part.header += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._part.value += data[start:end]

    def _on_header_end(self) -> None:
        part = self._part
        part.headers[part.header.decode("latin-1").lower()] = part.value.decode("utf-8", "replace")
        part.header.clear()
        part.value.clear()

    def _on_headers_finished(self) -> None:
        part = self._part
        _, options = _header_value(part.headers.get("content-disposition", ""))
        part.name = options.get("name", "")
        part.is_file = "filename" in options
        if part.is_file and self._name:
            raise Problem(400, "invalid", "an upload holds one file")
        if part.is_file:
            self._name = part.name or options["filename"] or "file"
            self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        piece = memoryview(data)[start:end]
        if self._part.is_file:
            self._hash.update(piece)
            self._size += len(piece)
            write_all(self._fd, piece)
            return
        self._part.value += piece
        if len(self._part.value) > _FIELD_BYTES:
            raise Problem(400, "invalid", f"a form field may have at most {_FIELD_BYTES} bytes")

    def _on_part_end(self) -> None:
        if not self._part.is_file and self._part.name:
            self._fields[self._part.name] = self._part.value.decode("utf-8", "replace")
            if len(self._fields) > _FIELDS:
                raise Problem(400, "invalid", f"an upload may have at most {_FIELDS} form fields")

    def _on_end(self) -> None:
        self._whole = True


def _header_value(text: str) -> tuple[str, dict[str, str]]:
    """A header such as `form-data; name="x"`: its value, and its parameters."""
    message = Message()
    message["content-type"] = text.replace("\r", " ").replace("\n", " ")
    found: Any = message.get_params(failobj=[("", "")])
    return found[0][0].strip().lower(), {name.lower(): str(value) for name, value in found[1:]}


def digest_of_header(text: str) -> str | None:
    """The SHA-256 (hex) of a `Repr-Digest` header; None if the header names no SHA-256; empty if it is garbled."""
    for member in text.split(","):
        name, _, value = member.strip().partition("=")
        if name.strip().lower() != "sha-256":
            continue
        value = value.strip()
        if len(value) < 2 or value[0] != ":" or value[-1] != ":":
            return ""
        try:
            return base64.b64decode(value[1:-1], validate=True).hex()
        except binascii.Error:
            return ""
    return None
