"""Where a run's files lie, and what the tag of a checkpoint tells of its file.

A server that is a proxy for its artifacts calls their place `mlflow-artifacts:/…`. Anything else is a place that clients
of MLflow write to by themselves, with credentials of their own: nothing of it goes through the server.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

import msgspec

__all__ = ["File", "is_ours", "name_of", "place_of", "scheme_of", "told_of"]

_NAME = re.compile(r"epoch-[0-9]+-[0-9a-f]{16}(?:\..*)?")
_API = "/api/2.0/mlflow-artifacts/artifacts/"


class File(msgspec.Struct, frozen=True):
    """A stored checkpoint: `path` within the run's files, `size` in bytes, `sha256` in hex. `folder`: a tar of one."""

    path: str
    size: int
    sha256: str
    epoch: int
    attempt: int
    fitness: float | None = None
    folder: bool = False


def name_of(epoch: int, sha256: str, ending: str) -> str:
    """How a stored checkpoint is called: another content has another name."""
    return f"epoch-{epoch}-{sha256[:16]}{ending}"


def is_ours(name: str) -> bool:
    """Whether a file is called as `name_of` would call one."""
    return _NAME.fullmatch(name) is not None


def told_of(tag: str | None) -> File | None:
    """The file that a tag tells of; None if there is none, or if somebody wrote something else into it."""
    if tag is None:
        return None
    try:
        file = msgspec.json.decode(tag, type=File)
    except (msgspec.DecodeError, RecursionError):
        return None
    return file if _is_inside(file.path) else None


def place_of(uri: str, server: str) -> str | None:
    """The place, within the server's store, of a run whose files lie at `uri`; None if they do not go through `server`."""
    try:
        parts, ours = urlsplit(uri), urlsplit(server)
        same = not parts.netloc or (parts.hostname, parts.port) == (ours.hostname, ours.port)
    except ValueError:
        return None
    path = unquote(parts.path)
    match parts.scheme:
        case "mlflow-artifacts":
            place = path.strip("/")
        case "http" | "https" if path.startswith(f"{ours.path}{_API}"):
            place = path.removeprefix(f"{ours.path}{_API}").strip("/")
        case _:
            return None
    return place if same and _is_inside(place) else None


def scheme_of(uri: str) -> str:
    """What kind of place files lie at, in a word for people."""
    try:
        return urlsplit(uri).scheme or "a folder"
    except ValueError:
        return "a place that cannot be read"


def _is_inside(path: str) -> bool:
    """Whether a path is a plain one, without a way up or a root."""
    parts = PurePosixPath(path).parts
    plain = path.isprintable() and "/".join(parts) == path
    return bool(parts) and plain and ".." not in parts and parts[0] != "/"
