"""A small training whose hub lies behind a chaos proxy: what it does, how long it ever waited, and what must be found."""

from __future__ import annotations

import hashlib
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

from proxy import ChaosProxy, Fault, Ill

from hubstate import Limits, Session, settings
from hubstate.clock import SystemClock
from hubstate.exchange import Rows
from hubstate.hubs import tus
from hubstate.hubs.base import Hub
from hubstate.hubs.held import held
from hubstate.hubs.hub_v1 import HubV1
from hubstate.opening import peek
from hubstate.proof.holdings import compare
from hubstate.session import begin
from hubstate.states import State
from hubstate.sync import Remainder, deliver
from hubstate.wish import Wish

__all__ = ["ILLS", "Told", "told_of"]

#: How many requests of a run meet an ill.
ILLS = 8

EPOCHS, STEPS = 4, 4
FITNESS = (0.3, 0.8, 0.5, 0.6)
#: Bytes of a checkpoint: small, and more than a socket takes at once.
SIZE = 200_000
#: Every moment of a pause between two tries is so many times shorter.
HASTE = 200.0
#: What a request may take (seconds): a way, a piece, and all of it.
CONNECT, READ, TOTAL = 0.3, 0.3, 0.6


class Told(NamedTuple):
    """What a run tells. `waited`: the longest wait of the training thread (s) in each kind of call.

    `left`: how many deliveries its end left to a sync; `met`: the ills, by fault.
    """

    state: State
    waited: dict[str, float]
    left: int
    met: Counter[Fault]


class _Hasty(random.Random):
    """Draws pauses that nobody has to wait for long."""

    def uniform(self, a: float, b: float) -> float:
        return super().uniform(a, b) / HASTE


def _open_hub(address: str, api_key: str | None) -> Hub:
    """The real client, with time-outs that one can wait for."""
    return HubV1(address, api_key, connect_timeout=CONNECT, read_timeout=READ, total_timeout=TOTAL)


def _metrics(epoch: int, step: int | None) -> dict[str, float]:
    place = epoch * (STEPS + 1) + (STEPS if step is None else step)
    return {"loss": 1 / (place + 1), "accuracy": place / 97}


def told_of(folder: Path, hub: str, ills: Iterable[Ill | None], seed: int) -> Told:
    """Trains in `folder`, with every request to `hub` passing a proxy, and checks what the hub holds in the end.

    Raises `AssertionError` if it does not hold every row once, as it was told, and every file as it was saved.
    """
    chance = _Hasty(seed)
    least = chance.choice((SIZE // 2, tus.LEAST))
    waited: dict[str, float] = {}

    def timed(what: str, call: Callable[[], object]) -> object:
        before = time.perf_counter()
        result = call()
        waited[what] = max(waited.get(what, 0.0), time.perf_counter() - before)
        return result

    with ChaosProxy(hub, ills) as proxy, patch.object(tus, "LEAST", least):
        found = settings.resolve(hub=proxy.url, directory=folder / "sessions")
        wish = Wish("chaos", epochs=EPOCHS, limits=Limits(metrics=0.0, checkpoint=0.0, heartbeat=5.0))
        session = timed(
            "start",
            lambda: begin(wish, found, chance=chance, open_hub=_open_hub, say=lambda _text: None),
        )
        assert isinstance(session, Session)
        saved = _train(session, folder / "last.bin", chance, proxy, timed)
        receipt = session.finish()
        here = found.directory / session.id
        state = session.state if receipt.waiting == 0 else _synced(here, proxy.url, chance)
    _check(here, hub, saved)
    return Told(state, waited, receipt.waiting, proxy.met)


def _train(
    session: Session,
    path: Path,
    chance: random.Random,
    proxy: ChaosProxy,
    timed: Callable[[str, Callable[[], object]], object],
) -> dict[str, int]:
    """Trains; returns the epoch of each file that was saved, by its SHA-256 (hex)."""
    saved: dict[str, int] = {}
    for epoch in session.epochs():
        for step in (*range(STEPS), None):
            timed("log", lambda: session.log(_metrics(epoch, step), epoch=epoch, step=step))  # noqa: B023
        content = chance.randbytes(SIZE)
        path.write_bytes(content)
        saved[hashlib.sha256(content).hexdigest()] = epoch
        timed("save", lambda: session.save(path, epoch=epoch, fitness=FITNESS[epoch]))  # noqa: B023
        proxy.wait_for(3, 0.2)
    return saved


def _synced(here: Path, hub: str, chance: random.Random) -> State:
    """What `hubstate sync` does, through the same proxy."""
    client = _open_hub(hub, None)
    remainder = Remainder(here, client, SystemClock(), chance)
    try:
        deliver(remainder, SystemClock())
        return remainder.memory.state
    finally:
        remainder.close()
        client.close()


def _check(here: Path, hub: str, saved: dict[str, int]) -> None:
    holds = held(hub, None, here.name)
    assert [(row.epoch, row.step) for row in holds.rows] == [
        (epoch, step) for epoch in range(EPOCHS) for step in (*range(STEPS), None)
    ]
    for row in holds.rows:
        assert row.metrics == _metrics(row.epoch, row.step)
    with Rows(here, every=True) as rows:
        assert sum(1 for _ in rows) == len(holds.rows)
    for file in holds.files:
        assert saved.get(file.sha256) == file.epoch, f"the {file.kind} file is none that was saved"
    best = FITNESS.index(max(FITNESS))
    assert [file.epoch for file in holds.files if file.kind == "final"] == [best]
    assert (holds.state, holds.outcome) == ("done", "finished")
    memory = peek(here).memory
    assert (memory.state, len(memory.refused)) == (State.DONE, 0)
    comparison = compare(here, holds)
    assert comparison.equal, str(comparison)
