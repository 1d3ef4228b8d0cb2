"""An upload that goes on where it was cut: the core of the tus protocol, version 1.0.0, and its creation.

Nothing about it is remembered here. One's own hub gives the same delivery of the same bytes the same place, whether
the client, the hub or the connection died in between; it is asked how much of it lies there, and the rest is sent.
What is lost at worst is a repeat.
"""

from __future__ import annotations

import base64
import time
from pathlib import Path
from urllib.parse import quote

import msgspec

from hubstate.hubs.base import Declined, Delayed
from hubstate.hubs.multipart import Rest
from hubstate.hubs.verdict import Answer, judge
from hubstate.hubs.wire import Wire

__all__ = ["LEAST", "VERSION", "transferred"]

VERSION = "1.0.0"
#: What is smaller goes in one request (bytes): to repeat it costs less than to ask where it stands.
LEAST = 8_000_000


def transferred(
    wire: Wire, model: str, file: Path, size: int, sha256: str, key: str
) -> str | Answer | Declined | Delayed:
    """Brings all bytes of `file` to the hub that `model` (a path) is at; returns the path at which they lie there.

    Or the hub's answer, if it took this delivery before or refuses it; or why it cannot be done now, or ever.
    """
    metadata = f"sha256 {base64.b64encode(sha256.encode()).decode()}"
    headers = {"Upload-Length": str(size), "Upload-Metadata": metadata, "Idempotency-Key": key}
    made = wire.send(f"{model}/uploads", b"", _HEADERS | headers, files=True)
    if isinstance(made, Delayed) or made.status != 201:
        return made
    # The place is at this hub, whatever host the answer names.
    name = made.headers.get("Location", "").rstrip("/").rpartition("/")[2]
    if not name or not made.whole or quote(name, safe="") != name:
        return Delayed("hub_failing", f"{wire.host} did not say where an upload is to go", made.status)
    path = f"{model}/uploads/{name}"
    known = wire.send(path, method="HEAD", headers=_HEADERS, files=True)
    if isinstance(known, Delayed):
        return known
    offset = _offset(known)
    if known.status != 200 or offset is None or offset > size:
        return _anew(wire, known, "did not say how much of an upload lies there")
    if offset < size:
        trouble = _send(wire, path, file, offset, size)
        if trouble is not None:
            return trouble
    return path


_HEADERS = {"Tus-Resumable": VERSION}


def _send(wire: Wire, path: str, file: Path, offset: int, size: int) -> Declined | Delayed | None:
    """Sends what is left; None if all of it lies there now."""
    headers = {"Upload-Offset": str(offset), "Content-Type": "application/offset+octet-stream"}
    with Rest(file, offset) as rest:
        sent = wire.send(path, rest, _HEADERS | headers, method="PATCH", files=True)
    if rest.fault:
        return Declined(rest.fault)
    if isinstance(sent, Delayed):
        return sent
    if sent.status == 204 and sent.whole and _offset(sent) == size:
        return None
    return _anew(wire, sent, "did not take the whole of an upload")


def _offset(answer: Answer) -> int | None:
    told = answer.headers.get("Upload-Offset", "")
    return int(told) if told.isascii() and told.isdigit() and len(told) < 17 else None


def _anew(wire: Wire, answer: Answer, what: str) -> Delayed:
    """An upload that is gone, or stands elsewhere than it was thought to, is no refusal: the next try asks anew."""
    verdict = judge(answer, wire.host, time.time())
    if isinstance(verdict, Delayed) and answer.status >= 300:
        return msgspec.structs.replace(verdict, reason=wire.clean(verdict.reason))
    return Delayed("hub_failing", f"{wire.host} {what} (status {answer.status})", answer.status)
