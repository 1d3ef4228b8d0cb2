"""The wire: one request goes out, one answer comes back, and neither ever raises because of the other side.

This is the only place that knows `requests`, and the seam at which its errors, and those of all that lies below it,
become values: `Delayed("offline", reason)`. The reason is for people; it names the hub's host and the cause and
never holds a key, an address with a path, or what a library prints of itself.

A `Wire` has one line for words and one for files, each with a session and a connection of its own, because a sender
has a thread for each; a lock keeps a third caller from speaking between. Redirects are not followed, answers are read
whole but never beyond 4 MB, cookies are not kept, and nothing but our own header carries a key: an entry for the
host in a `.netrc` does not replace it. Proxies and certificates come from the environment, as everywhere; only what
is on this very machine is asked without a proxy.
"""

from __future__ import annotations

import http.client
import ipaddress
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http.cookiejar import DefaultCookiePolicy
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

import msgspec
import requests
import urllib3.exceptions as foreign
from requests.auth import AuthBase

from hubstate.errors import UsageError
from hubstate.hubs.base import Delayed
from hubstate.hubs.deadlines import PIECE, Overdue, Stalled, Watch, WatchedAdapter
from hubstate.hubs.multipart import Body
from hubstate.hubs.verdict import Answer

__all__ = ["LARGEST_ANSWER", "Sink", "Wire", "user_agent"]

#: What is longer is no answer (bytes).
LARGEST_ANSWER = 4_000_000
#: How much of an answer that is no JSON object is kept (bytes).
_LONGEST_TEXT = 1_000

_FAILURES = (
    requests.RequestException,
    foreign.HTTPError,
    foreign.HTTPWarning,  # where warnings are errors, and no certificate is looked at
    http.client.HTTPException,
    OSError,
    ValueError,  # what libraries raise over an odd header or host name
)


def user_agent() -> str:
    """How requests name their sender: `hubstate/VERSION`."""
    try:
        return f"hubstate/{version('hubstate')}"
    except PackageNotFoundError:  # run from a source tree that was not installed
        return "hubstate"


class _Key(AuthBase):
    """Puts the key into its header, and keeps `requests` from looking for another one elsewhere."""

    def __init__(self, header: tuple[str, str] | None) -> None:
        self._header = header

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._header is not None:
            name, value = self._header
            request.headers[name] = value
        return request

    def __repr__(self) -> str:
        return "<key>" if self._header is not None else "<no key>"


def _own_header(key: str) -> tuple[str, str]:
    """The header in which HUB v1 wants a key."""
    return "x-api-key", key


class _Session(requests.Session):
    """A session that does not even look at redirects: looking reads the whole answer, however long it is."""

    def get_redirect_target(self, resp: requests.Response) -> str | None:  # noqa: ARG002
        return None


class Sink(Protocol):
    """Where a file goes that comes in. An `OSError` that it raises ends the request."""

    def begin(self, status: int) -> None:
        """Bytes will follow: of the whole file (200), or of the part that was asked for (206)."""
        ...

    def take(self, piece: bytes) -> None:
        """The next bytes, at most 64 KiB."""
        ...


class Wire:
    """The connections to one hub. `address`: scheme, host, port and path, without credentials."""

    def __init__(
        self,
        address: str,
        key: str | None,
        *,
        connect_timeout: float,
        read_timeout: float,
        total_timeout: float,
        monotonic: Callable[[], float] = time.monotonic,
        header: Callable[[str], tuple[str, str]] = _own_header,
        trust: bool | str = True,
        certificate: str | None = None,
    ) -> None:
        """Opens no connection yet. Times in seconds; see `deadlines` for what each is about.

        `header` makes of the key the header that carries it. `trust`: a file or folder of the certificates that are
        believed over https, or False for any (True: those that the environment says); `certificate`: a file with this
        client's own. Raises `UsageError` for an address or a key that no request can carry; the key is not shown.
        """
        self.address, self.host, self.loopback = _checked(address)
        carried = None if key is None else header(key.strip())
        if key is not None and (
            not key.strip() or not key.isprintable() or carried is None or not carried[1].isascii()
        ):
            raise UsageError("the api key is empty or holds characters that no header can carry")
        #: What no reason may hold, whoever says it.
        self._secrets = () if key is None or carried is None else _parts_of(key.strip(), carried[1])
        self._connect_timeout = connect_timeout
        tls = _Tls(trust, certificate)
        self._lines = tuple(
            _Line(self, carried, connect_timeout, Watch(read_timeout, total_timeout, monotonic), tls)
            for _ in ("words", "files")
        )

    @property
    def moved(self) -> int:
        """The bytes of uploads that have left so far, plus one for each answer that came."""
        return sum(line.watch.moved for line in self._lines)

    def send(
        self,
        path: str,
        body: bytes | Body = b"",
        headers: Mapping[str, str] | None = None,
        *,
        method: str = "POST",
        files: bool = False,
        most: int = LARGEST_ANSWER,
    ) -> Answer | Delayed:
        """Sends one request, once, on the line for words or for files; returns the answer, or why there is none.

        `most`: what is longer is no answer (bytes); it is held in memory.
        """
        return self._lines[files].send(method, path, body, headers or {}, most)

    def fetch(self, path: str, sink: Sink, headers: Mapping[str, str] | None = None) -> Answer | Delayed:
        """Asks for a file, once, on the line for files: what comes with 200 or 206 goes to `sink`, piece by piece.

        An answer of another status is returned as by `send`. `Delayed` tells that the connection was cut, by whatever
        end; what came until then was handed on.
        """
        return self._lines[True].fetch(path, sink, headers or {})

    def clean(self, text: str) -> str:
        """`text` without the key, should a hub have repeated it."""
        for secret in self._secrets:
            text = text.replace(secret, "(key)")
        return text

    def close(self) -> None:
        """Lets go of the connections. A later request opens them again."""
        for line in self._lines:
            line.close()

    def __repr__(self) -> str:
        return f"<Wire to {self.address}>"


class _Tls(NamedTuple):
    """Whose certificates are believed, and the file with this client's own; see `Wire`."""

    trust: bool | str
    certificate: str | None


class _Line:
    """One session, with one connection that is kept from request to request."""

    def __init__(
        self, wire: Wire, key: tuple[str, str] | None, connect_timeout: float, watch: Watch, tls: _Tls
    ) -> None:
        self.watch = watch
        self._address = wire.address
        self._host = wire.host
        self._connect_timeout = connect_timeout
        self._lock = threading.Lock()
        self._session = _Session()
        self._session.auth = _Key(key)
        self._tls = tls
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        # Answers are small; one that is packed could be a thousand times what it seems.
        self._session.headers.update({"User-Agent": user_agent(), "Accept-Encoding": "identity"})
        adapter = WatchedAdapter(watch)
        self._session.mount("http://", adapter)
        self._session.mount("https://", adapter)
        self._direct = urlsplit(wire.address).hostname if wire.loopback else None

    def send(
        self, method: str, path: str, body: bytes | Body, headers: Mapping[str, str], most: int
    ) -> Answer | Delayed:
        with self._lock:
            self.watch.begin(upload=isinstance(body, Body))
            try:
                answer = self._exchange(method, path, body, headers, most)
            except _FAILURES as error:
                self._session.close()
                return Delayed("offline", self._explain(error))
            if self.watch.cut_short or isinstance(answer, Delayed):
                # What is left of this request would be taken for the beginning of the next one.
                self._session.close()
            self.watch.moved += 1
            return answer

    def fetch(self, path: str, sink: Sink, headers: Mapping[str, str]) -> Answer | Delayed:
        with self._lock:
            self.watch.begin(upload=False)
            try:
                return self._take(path, sink, headers)
            except _FAILURES as error:
                self._session.close()
                return Delayed("offline", self._explain(error))

    def _take(self, path: str, sink: Sink, headers: Mapping[str, str]) -> Answer | Delayed:
        response = self._begin("GET", path, b"", headers)
        try:
            if response.status_code not in (200, 206):
                return self._whole(response, LARGEST_ANSWER)
            sink.begin(response.status_code)
            self.watch.awaiting()
            while piece := response.raw.read(PIECE, decode_content=False):
                sink.take(piece)
                self.watch.moved += len(piece)
                self.watch.awaiting()
        finally:
            response.close()
        return Answer(response.status_code, response.headers, None)

    def _exchange(
        self, method: str, path: str, body: bytes | Body, headers: Mapping[str, str], most: int
    ) -> Answer | Delayed:
        response = self._begin(method, path, body, headers)
        try:
            return self._whole(response, most)
        finally:
            response.close()

    def _begin(
        self, method: str, path: str, body: bytes | Body, headers: Mapping[str, str]
    ) -> requests.Response:
        return self._session.request(
            method,
            f"{self._address}{path}",
            data=body,
            headers=dict(headers),
            timeout=(self._connect_timeout, self.watch.patience),
            allow_redirects=False,
            stream=True,
            verify=None if self._tls.trust is True else self._tls.trust,
            cert=self._tls.certificate,
            proxies=None if self._direct is None else {"no_proxy": self._direct},
        )

    def _whole(self, response: requests.Response, most: int) -> Answer | Delayed:
        text = response.raw.read(most + 1, decode_content=False)
        if len(text) > most:
            reason = f"the answer of {self._host} is longer than {most / 1e6:g} MB"
            return Delayed("hub_failing", reason, response.status_code)
        body = _object(text)
        said = "" if body is not None else text[:_LONGEST_TEXT].decode("utf-8", "replace")
        return Answer(response.status_code, response.headers, body, not self.watch.cut_short, said)

    def _explain(self, error: BaseException) -> str:
        return _reason(error, self._host, self._connect_timeout, self.watch)

    def close(self) -> None:
        with self._lock:
            self._session.close()


def _parts_of(key: str, value: str) -> tuple[str, ...]:
    """The key, and what of it a header holds, the longest first: what is short is in every text."""
    parts = {key, key.partition(":")[2], value.rpartition(" ")[2]}
    return tuple(
        sorted((part for part in parts if part == key or len(part) >= _SHORTEST_SECRET), key=len)[::-1]
    )


#: A part of a key that is shorter is not looked for in what a hub says (characters).
_SHORTEST_SECRET = 6


def _object(text: bytes) -> dict[str, Any] | None:
    try:
        body = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return None
    return body if isinstance(body, dict) else None


def _checked(address: str) -> tuple[str, str, bool]:
    """The address without a slash at its end, the host (and port) for people, and whether it is this machine."""
    try:
        parts = urlsplit(address)
        name, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise UsageError(f"the hub's address cannot be read: {error}") from error
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise UsageError(
            f"the hub's address ({name}) must hold no user, key or query: give the key by `hubstate login` "
            "or HUBSTATE_API_KEY"
        )
    if parts.scheme not in ("http", "https") or not name or not address.isprintable() or " " in address:
        raise UsageError(f"the hub's address {address!r} must look like http://host:8765 or https://host")
    shown = f"[{name}]" if ":" in name else name
    return address.rstrip("/"), shown if port is None else f"{shown}:{port}", _is_loopback(name)


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


# -- why there is no answer, in words ----------------------------------------------------------------------


def _reason(error: BaseException, host: str, connect_timeout: float, watch: Watch) -> str:
    """The first cause that says something to people, of all that lie behind `error`."""
    causes = list(_causes(error))
    reasons: list[tuple[type[BaseException] | tuple[type[BaseException], ...], str]] = [
        (Stalled, f"the upload to {host} moved less than 64 KiB in {watch.patience:g} s"),
        (Overdue, f"no whole answer from {host} within {watch.total:g} s"),
        (
            foreign.InsecureRequestWarning,
            f"warnings are errors here, and one is that nobody looks at the certificate of {host}",
        ),
        (ssl.SSLCertVerificationError, f"the certificate of {host} is not accepted"),
        ((ssl.SSLError, foreign.SSLError), f"no secure connection to {host} (does it speak https?)"),
        ((foreign.ProxyError, requests.exceptions.ProxyError), f"the proxy on the way to {host} fails"),
        (foreign.NameResolutionError, f"the name of {host} is not known (or there is no network)"),
        (ConnectionRefusedError, f"connection refused by {host}"),
        (foreign.NewConnectionError, f"no way to {host}"),
        (foreign.ConnectTimeoutError, f"no connection to {host} within {connect_timeout:g} s"),
        (TimeoutError, f"no answer from {host} within {watch.patience:g} s"),
        (foreign.ReadTimeoutError, f"no answer from {host} within {watch.patience:g} s"),
        (http.client.IncompleteRead, f"{host} broke off its answer"),
        ((ConnectionError, http.client.RemoteDisconnected), f"{host} closed the connection"),
        (http.client.HTTPException, f"what {host} answered is no HTTP"),
    ]
    for kind, reason in reasons:
        for cause in causes:
            if isinstance(cause, kind):
                return f"{reason}{_detail(cause, causes)}"
    return f"no answer from {host}{_detail(error, causes)}"


def _detail(cause: BaseException, causes: list[BaseException]) -> str:
    """What the operating system or the certificate's check says about it, in its own fixed words."""
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f": {cause.verify_message}"
    if isinstance(cause, ConnectionError | TimeoutError):
        return ""
    for behind in causes:
        # Subclasses outside the standard library carry addresses; a plain one says what the system said.
        if type(behind) is OSError and (words := behind.strerror or str(behind)):
            return f": {words[:200]}"
    return ""


def _causes(error: BaseException) -> Iterator[BaseException]:
    """`error` and all that it came from, wherever libraries put that; each once."""
    seen: set[int] = set()
    waiting: list[object] = [error]
    while waiting:
        cause = waiting.pop(0)
        if not isinstance(cause, BaseException) or id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        waiting += [cause.__cause__, cause.__context__, getattr(cause, "reason", None), *cause.args]
