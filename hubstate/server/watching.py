"""What a machine that watches a hub asks: whether it is well, and its numbers, in the text format of Prometheus.

`/healthz` tells nothing but that, so anybody may ask. `/metrics` is for who may see the pages, or has a key, and for this
machine itself where nothing stands between. The text is written by hand: it is a dozen numbers, most of them looked up
when somebody asks, and a library for it would keep a registry of its own beside them.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from hubstate.server.admission import admit_watcher
from hubstate.server.answers import Problem
from hubstate.server.sessions import SILENCE
from hubstate.server.shells import Wiring, as_json, visit_of
from hubstate.server.store import Store
from hubstate.states import LIVE_STATES, Outcome, State

__all__ = ["Counting", "add_watching", "numbers"]

_FORMAT = "text/plain; version=0.0.4; charset=utf-8"
_LIVE = ", ".join(f"'{state.value}'" for state in LIVE_STATES)
_STATES = "SELECT state, count(*) FROM sessions WHERE deleted_at IS NULL GROUP BY state"
_SILENT = (
    f"SELECT count(*) FROM sessions WHERE deleted_at IS NULL AND state IN ({_LIVE}) "  # noqa: S608 - our own words
    f"AND outcome = '{Outcome.RUNNING.value}' AND last_contact < ?"
)
_FILES = "SELECT count(*), coalesce(sum(size), 0) FROM checkpoints"


class Counting:
    """Middleware that counts answers by their status."""

    def __init__(self, app: Callable[..., Awaitable[None]], counts: Counter[int]) -> None:
        self._app = app
        self._counts = counts

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def counted(message: Any) -> None:
            if message["type"] == "http.response.start":
                self._counts[message["status"]] += 1
            await send(message)

        await self._app(scope, receive, counted)


def add_watching(app: FastAPI, wiring: Wiring, counts: Counter[int]) -> None:
    """Adds both addresses to the application. `counts`: of answers, by status."""

    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz", summary="Is this hub well?")
    async def healthz() -> Response:
        await run_in_threadpool(_check, wiring.store)
        return as_json({"status": "ok"}, 200)

    @app.get("/metrics", summary="The hub's numbers, as Prometheus reads them")
    async def metrics(request: Request) -> Response:
        admit_watcher(wiring.store, visit_of(request, wiring), wiring.public_url, wiring.wall())
        lines = await run_in_threadpool(lambda: list(numbers(wiring.store, counts, wiring.wall())))
        return Response("\n".join(lines) + "\n", 200, {"Cache-Control": "no-store"}, _FORMAT)


def _check(store: Store) -> None:
    """Raises what tells that the hub cannot look things up, or soon takes nothing more: `Problem` 507 for a full disk."""
    store.database.look("SELECT 1 FROM sessions LIMIT 1")
    if not store.read_only and _free(store) < store.terms.room:
        raise Problem(507, "storage_full", "the hub's disk is full, so it takes nothing: make room on it")


def _free(store: Store) -> int:
    return shutil.disk_usage(store.data_dir).free


def numbers(store: Store, counts: Counter[int], now: float) -> Iterator[str]:
    """The lines. `now`: seconds since 1970."""
    look = store.database.look
    states = {state.value: 0 for state in State} | dict(look(_STATES))
    ((silent,),) = look(_SILENT, now - SILENCE)
    ((files, size),) = look(_FILES)
    writer = store.writer
    yield from _metric("info", "gauge", "The hub's version.", {f'version="{version("hubstate")}"': 1})
    by_state = {f'state="{state}"': count for state, count in states.items()}
    yield from _metric("sessions", "gauge", "Sessions by state.", by_state)
    yield from _metric("sessions_silent", "gauge", "Live sessions that nothing is heard of.", {"": silent})
    yield from _metric("checkpoint_files", "gauge", "Stored checkpoints.", {"": files})
    yield from _metric("checkpoint_bytes", "gauge", "What they take.", {"": size})
    yield from _metric("database_bytes", "gauge", "What the database takes.", {"": _database_bytes(store)})
    yield from _metric("disk_free_bytes", "gauge", "What its disk has left.", {"": _free(store)})
    yield from _metric(
        "writes_waiting", "gauge", "Posts of rows that wait for the disk.", {"": writer.waiting}
    )
    yield from _metric("writes_total", "counter", "Posts of rows that were written.", {"": writer.works})
    yield from _metric("commits_total", "counter", "Commits that wrote them.", {"": writer.commits})
    by_status = {f'status="{status}"': count for status, count in sorted(counts.items())}
    yield from _metric("answers_total", "counter", "Answers by status.", by_status)
    yield from _metric("process_cpu_seconds_total", "counter", "CPU time.", {"": time.process_time()}, "")
    yield from _metric("process_resident_memory_bytes", "gauge", "Memory.", {"": _memory()}, "")


def _metric(
    name: str, kind: str, words: str, values: Mapping[str, float], prefix: str = "hubstate_"
) -> Iterator[str]:
    yield f"# HELP {prefix}{name} {words}"
    yield f"# TYPE {prefix}{name} {kind}"
    for labels, value in values.items():
        yield f"{prefix}{name}{{{labels}}} {value:.10g}" if labels else f"{prefix}{name} {value:.10g}"


def _database_bytes(store: Store) -> int:
    """The database, without what waits in its log."""
    ((pages,),), ((size,),) = (store.database.look(f"PRAGMA {what}") for what in ("page_count", "page_size"))
    return int(pages * size)


def _memory() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - it is no file, and of Linux alone
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
