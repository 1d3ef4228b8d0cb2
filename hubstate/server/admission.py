"""Who may in. With keys: whoever has one. Without any key ever made: this machine alone.

The second way is for the first minutes of a hub, and for the demo. It is safe only as long as no web page can talk
to the hub through the user's browser. So the hub must have been reached under a loopback name (a foreign name that
resolves to 127.0.0.1 is DNS rebinding), from a loopback address, and not from another site's page.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from hubstate.server import keys, signing
from hubstate.server.answers import Problem
from hubstate.server.store import Store

__all__ = ["COOKIE", "Visit", "admit", "admit_page", "admit_watcher", "check_same_site", "is_loopback"]

COOKIE = "hubstate_page"
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True)
class Visit:
    """What admission looks at: header names in lower case, and the address that the request came from."""

    headers: Mapping[str, str]
    peer: str
    bound: str
    cookie: str = ""


def is_loopback(host: str) -> bool:
    """Whether a name or an address is this machine's own."""
    if host in _LOOPBACK_NAMES:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def admit(store: Store, visit: Visit) -> str:
    """The owner that the request's key stands for. Raises `Problem` 401 or 403."""
    known = keys.ring(store.database)
    if not known.any_made:
        _check_open(visit)
        return keys.DEFAULT_OWNER
    found = known.recognise(_key_of(visit.headers))
    if found is None:
        raise Problem(
            401,
            "unauthorized",
            "this hub does not know that API key: make one by `hubstate keys create NAME`",
        )
    return found[1]


def admit_page(store: Store, visit: Visit, now: float) -> str | None:
    """The owner for whom a page is shown; None where somebody has to log in first. Raises `Problem` 403."""
    known = keys.ring(store.database)
    if not known.any_made:
        _check_open(visit)
        return keys.DEFAULT_OWNER
    key_id = signing.cookie_key(store.secret, visit.cookie, now)
    return None if key_id is None else known.owner_of(key_id)


def admit_watcher(store: Store, visit: Visit, public_url: str | None, now: float) -> None:
    """Lets in who asks for the hub's numbers: with a key, or a login, or from this machine with nothing between.

    A proxy on this machine comes from a loopback address as well. It is known by the public address, the name that was
    asked for, or the headers that it adds. Raises `Problem` 401 or 403.
    """
    between = public_url is not None or any(
        name in visit.headers
        for name in ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")
    )
    name = _host_name(visit.headers.get("host", ""))
    if not between and all(map(is_loopback, (visit.peer, visit.bound, name))):
        check_same_site(visit, None)
        return
    if admit_page(store, visit, now) is None:
        admit(store, visit)


def check_same_site(visit: Visit, public_url: str | None) -> None:
    """Refuses what another site's page sends through a browser. Raises `Problem` 403."""
    origin = visit.headers.get("origin")
    host = visit.headers.get("host", "")
    if visit.headers.get("sec-fetch-site") == "cross-site":
        raise Problem(403, "cross_site", "this hub takes nothing from another site's page")
    if origin is None:
        return
    good = {host, urlsplit(public_url).netloc} if public_url else {host}
    try:
        site = urlsplit(origin).netloc
    except ValueError:
        site = ""  # no browser sends that, and it is nobody's site
    if site not in good or not site:
        raise Problem(403, "cross_site", "this hub takes nothing from another site's page")


def _check_open(visit: Visit) -> None:
    name = _host_name(visit.headers.get("host", ""))
    if not (is_loopback(visit.peer) and is_loopback(visit.bound)):
        raise Problem(401, "unauthorized", "this hub has no key yet: make one by `hubstate keys create NAME`")
    if name != visit.bound and not is_loopback(name):
        raise Problem(
            403, "host_not_allowed", "without a key this hub answers only under 127.0.0.1, ::1 and localhost"
        )
    check_same_site(visit, None)


def _host_name(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _key_of(headers: Mapping[str, str]) -> str:
    bearer = headers.get("authorization", "")
    if bearer[:7].lower() == "bearer ":
        return bearer[7:].strip()
    return headers.get("x-api-key", "").strip()
