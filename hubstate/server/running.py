"""Running a hub: for good (`serve`), or in a thread beside other things (`running`).

The listening socket is made here, with TCP_NODELAY set on it: a socket that the web server makes for itself may
cost each request on a kept-alive connection 40 ms, because head and body of an answer are two writes.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import math
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import uvicorn

from hubstate.errors import UsageError
from hubstate.server import keys
from hubstate.server.admission import is_loopback
from hubstate.server.alone import alone
from hubstate.server.app import build
from hubstate.server.chores import Chore, doing
from hubstate.server.notify import Notifier, forget_webhook, target_of
from hubstate.server.retention import Retention
from hubstate.server.shells import Wiring
from hubstate.server.store import UPLOAD_LIMIT, Store, told
from hubstate.server.terms import Terms

__all__ = ["RunningHub", "running", "serve"]


@dataclass(frozen=True)
class RunningHub:
    """A hub that answers at `url`, without a slash at its end."""

    url: str
    host: str
    port: int
    data_dir: Path


def serve(
    data_dir: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8765,
    public_url: str | None = None,
    announce: Callable[[str], None],
    upload_limit: int = UPLOAD_LIMIT,
    terms: Terms | None = None,
) -> None:
    """Runs the hub in `data_dir` until Ctrl-C or SIGTERM. `announce` gets lines for people.

    Raises `UsageError` for a host or a port that cannot be listened on, and for one that others reach while no key
    exists; `StorageError` for a folder that cannot be used.
    """
    with _prepared(data_dir, host, port, public_url, time.time, upload_limit, terms) as (
        hub,
        server,
        listening,
    ):
        announce(f"the hub answers at {public_url or hub.url}; its data lie in {hub.data_dir}")
        if not keys.listed(data_dir):
            announce("no key exists yet: it answers this machine alone, until `hubstate keys create NAME`")
        # What was made until now lasts as long as the process. To look through it for garbage again and again would keep
        # all requests waiting for some 60 ms every other second under load.
        gc.collect()
        gc.freeze()
        with _stopping_by_signals(server):
            server.run(sockets=[listening])
        announce("the hub stopped")


@contextlib.contextmanager
def running(
    data_dir: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    public_url: str | None = None,
    wall: Callable[[], float] = time.time,
    upload_limit: int = UPLOAD_LIMIT,
    terms: Terms | None = None,
    make_store: Callable[..., Store] = Store,
) -> Iterator[RunningHub]:
    """Runs the hub in `data_dir` in a thread while the block lasts. `port` 0 takes a free one.

    `make_store`: for a hub over a store of another class. Raises as `serve` does.
    """
    with _prepared(data_dir, host, port, public_url, wall, upload_limit, terms, make_store) as (
        hub,
        server,
        listening,
    ):
        thread = threading.Thread(
            target=server.run, kwargs={"sockets": [listening]}, name="hubstate-hub", daemon=True
        )
        thread.start()
        try:
            yield hub
        finally:
            server.should_exit = True
            thread.join()


@contextlib.contextmanager
def _prepared(
    data_dir: Path,
    host: str,
    port: int,
    public_url: str | None,
    wall: Callable[[], float],
    upload_limit: int,
    terms: Terms | None,
    make_store: Callable[..., Store] = Store,
) -> Iterator[tuple[RunningHub, uvicorn.Server, socket.socket]]:
    with contextlib.ExitStack() as stack:
        store = make_store(data_dir, upload_limit=upload_limit, terms=terms)
        stack.callback(store.close)  # where another hub holds the lock
        stack.enter_context(alone(store.data_dir))
        stack.callback(
            store.close
        )  # else before the lock is let go: whoever takes it then has the folder for itself
        with told(store):
            store.sweep()
            store.resumables.sweep(wall())
            store.objects.sweep(wall())
            _check_open_to(host, public_url, keys_made=keys.ring(store.database).any_made)
        listening = stack.enter_context(_listening(host, port))
        taken = listening.getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        hub = RunningHub(f"http://{shown}:{taken}", host, taken, store.data_dir)
        app = build(Wiring(store, host, public_url, wall))
        stack.callback(app.state.pages.close)
        config = uvicorn.Config(
            app,
            access_log=False,  # addresses may hold what is nobody's business
            log_config=None,
            lifespan="off",
            ws="none",
            server_header=False,
            timeout_graceful_shutdown=math.ceil(store.terms.grace),
            timeout_keep_alive=75,
        )
        chores = stack.enter_context(_chores(store, public_url or hub.url))
        with doing([*chores, app.state.pages.tidy], wall):
            yield hub, _Server(config, app.state.pages.end_streams), listening


@contextlib.contextmanager
def _chores(store: Store, base: str) -> Iterator[list[Chore]]:
    """What the hub does beside answering, by its terms. `base`: the address under which others know it."""
    chores: list[Chore] = []
    if store.terms.keep_days is not None or store.terms.keep_last_days is not None:
        chores.append(Retention(store))
    if store.terms.notify is None:
        with told(store):
            forget_webhook(store.database)
        yield chores
        return
    notifier = Notifier(store.database, target_of(store.terms.notify), base.rstrip("/"))
    try:
        yield [*chores, notifier]
    finally:
        notifier.close()


class _Server(uvicorn.Server):
    """Touches no signal by itself: in a thread it could not, and `serve` sets its own.

    `ending` is called when it stops: open pages hold streams that never end by themselves, and it waits for all.
    """

    def __init__(self, config: uvicorn.Config, ending: Callable[[], None]) -> None:
        super().__init__(config)
        self._ending = ending

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._ending()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.contextmanager
def _stopping_by_signals(server: uvicorn.Server) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the hub in good order; a second Ctrl-C does not wait for what is under way."""
    before = {number: signal.signal(number, server.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _check_open_to(host: str, public_url: str | None, *, keys_made: bool) -> None:
    public = None if public_url is None else _public_host(public_url)
    if keys_made:
        return
    for name in (host, public):
        if name is not None and not is_loopback(name):
            raise UsageError(
                f"others can reach {name}, and this hub has no key yet: make one first by "
                "`hubstate keys create NAME`, or listen on 127.0.0.1"
            )


def _public_host(public_url: str) -> str:
    """The host of an address that others are given. Raises `UsageError` for what is no such address."""
    try:
        told = urlsplit(public_url)
        _ = told.port  # looked at only now, and refused if it is none
    except ValueError:
        told = urlsplit("")
    beside = told.query or told.fragment or "@" in told.netloc
    if told.scheme not in ("http", "https") or not told.hostname or beside:
        raise UsageError(
            "the public address must look like https://hub.example or https://lab.example/hub, without a user or a question"
        )
    return told.hostname


def _listening(host: str, port: int) -> socket.socket:
    if not 0 <= port <= 65535:
        raise UsageError(f"cannot listen on port {port}: a port is a number from 0 to 65535")
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise UsageError(f"cannot listen on {host!r}, port {port}: there is no such address") from error
    listening = socket.socket(family, kind, proto)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listening.bind(address)
        listening.listen(2048)
    except OSError as error:
        listening.close()
        in_use = error.errno == errno.EADDRINUSE
        reason = "it is in use: choose another by --port" if in_use else str(error)
        raise UsageError(f"cannot listen on {host}, port {port}: {reason}") from error
    return listening
