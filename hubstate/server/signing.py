"""What the hub signs with its secret: addresses that need no key, of files and for files, and the cookie of a page.

A signature covers its purpose, what it is for, and until when it holds; it is compared in constant time.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import NamedTuple
from urllib.parse import quote, urlencode

__all__ = [
    "COOKIE_SECONDS",
    "FILE_SECONDS",
    "PUT_SECONDS",
    "Put",
    "cookie",
    "cookie_key",
    "file_address",
    "file_allowed",
    "put_address",
    "put_allowed",
]

#: How long an address of a file answers, in seconds: a week.
FILE_SECONDS = 7 * 86400
#: How long a file may be put to an address that was given out for it, in seconds: six hours.
PUT_SECONDS = 6 * 3600
#: How long a login on the pages holds, in seconds: thirty days.
COOKIE_SECONDS = 30 * 86400


def _sign(secret: bytes, *parts: str) -> str:
    return hmac.new(secret, "\0".join(parts).encode(), hashlib.sha256).hexdigest()


def file_address(
    secret: bytes, base: str, model: str, kind: str, sha256: str, now: float, *, ending: str = ".pt"
) -> str:
    """The self-authenticating address of one stored file. Its path ends in `.pt`, as HUB v1 clients need it, or `.tar`.

    Such a client names the file that it downloads after the path, and takes one that is there by that name for the same:
    so no two files are called alike.
    """
    until = str(int(now) + FILE_SECONDS)
    signature = _sign(secret, "file", model, kind, sha256, until)
    query = urlencode({"until": until, "signature": signature})
    return f"{base}/v1/files/{quote(model, safe='')}/{sha256}/{kind}-{sha256[:12]}{ending}?{query}"


def file_allowed(
    secret: bytes, model: str, kind: str, sha256: str, until: str, signature: str, now: float
) -> bool:
    """Whether the address was signed by this hub for this very file, and still holds."""
    expected = _sign(secret, "file", model, kind, sha256, until)
    return _holds(expected, signature, until, now)


class Put(NamedTuple):
    """A file that may be put: for which model and run, under which name nobody can guess, and how it is called."""

    model: str
    run: int
    place: str
    name: str

    @property
    def path(self) -> str:
        """Its path at the hub."""
        return (
            f"/api/uploads/{quote(self.model, safe='')}/{self.run}/{self.place}/{quote(self.name, safe='')}"
        )


def put_address(secret: bytes, base: str, put: Put, now: float) -> str:
    """The self-authenticating address to which the file is put."""
    until = str(int(now) + PUT_SECONDS)
    signature = _sign(secret, "put", *map(str, put), until)
    return f"{base}{put.path}?{urlencode({'until': until, 'signature': signature})}"


def put_allowed(secret: bytes, put: Put, until: str, signature: str, now: float) -> bool:
    """Whether the address was signed by this hub for this very file, and still holds."""
    expected = _sign(secret, "put", *map(str, put), until)
    return _holds(expected, signature, until, now)


def _holds(expected: str, signature: str, until: str, now: float) -> bool:
    good = hmac.compare_digest(expected.encode(), signature.encode())
    return good and until.isascii() and until.isdigit() and now <= int(until[:15])


def cookie(secret: bytes, key_id: int, now: float) -> str:
    """The cookie of a page that was opened with the key of this id."""
    until = str(int(now) + COOKIE_SECONDS)
    return f"{key_id}.{until}.{_sign(secret, 'page', str(key_id), until)}"


def cookie_key(secret: bytes, text: str, now: float) -> int | None:
    """The id of the key that a cookie stands for; None for a cookie that is not ours, or is too old."""
    key_id, _, rest = text.partition(".")
    until, _, signature = rest.partition(".")
    expected = _sign(secret, "page", key_id, until)
    if not hmac.compare_digest(expected.encode(), signature.encode()):
        return None
    return int(key_id) if now <= int(until) else None
