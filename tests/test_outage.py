"""An ill hub: training goes on, little is sent, nothing is lost, and all of it arrives once the hub is well.

Real sockets: a port that refuses, and a listener that accepts and never answers. What the speed of `start` and
`log` is beside such a hub is measured in `bench/`; here it is shown that they wait for nothing.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from loopback import black_hole, refused_port

from hubstate import Outcome, Session, State, settings
from hubstate.actions import Action, SendCheckpoint, SendRows
from hubstate.clock import SystemClock
from hubstate.hubs import open_hub
from hubstate.hubs.base import Hub
from hubstate.hubs.hub_v1 import HubV1
from hubstate.limits import Limits
from hubstate.opening import peek
from hubstate.server.running import running
from hubstate.session import begin
from hubstate.sync import Remainder, deliver
from hubstate.wish import Wish

EPOCHS = 30
EAGER = Limits(metrics=0.0, checkpoint=0.0, heartbeat=5.0)


@contextmanager
def refusing(_tmp: Path) -> Iterator[str]:
    yield f"http://127.0.0.1:{refused_port()}"


@contextmanager
def silent(_tmp: Path) -> Iterator[str]:
    with black_hole() as hole:
        yield hole.url


def impatient(address: str, api_key: str | None) -> Hub:
    """The real client, with time-outs that a test can wait for."""
    return HubV1(address, api_key, connect_timeout=0.2, read_timeout=0.2, total_timeout=0.3)


def open_session(hub: str, directory: Path, **options: Any) -> Session:
    found = settings.resolve(hub=hub, directory=directory)
    return begin(Wish("digits", epochs=EPOCHS, limits=EAGER), found, open_hub=impatient, **options)


def train(session: Session, each: Callable[[int], None] = lambda _epoch: None) -> None:
    path = Path("last.npz")
    for epoch in session.epochs():
        session.log({"loss": 1.0 / (epoch + 1)})
        path.write_text(f"weights after {epoch}", encoding="utf-8")
        session.save(path, fitness=epoch)
        each(epoch)


def synced(folder: Path, hub: str) -> tuple[State, Any]:
    """What `hubstate sync` does with one session, once a hub is there."""
    client = open_hub(hub, None)
    remainder = Remainder(folder, client, SystemClock(), random.Random(1))
    try:
        receipt = deliver(remainder, SystemClock(), patience=10.0)
        return remainder.memory.state, receipt
    finally:
        remainder.close()
        client.close()


def at_the_hub(url: str, session: str) -> tuple[list[int], str, dict[str, Any]]:
    """The epochs whose rows are in force, the final file's text, and what the hub says of the session."""
    told = requests.get(f"{url}/v1/models/{session}", timeout=10).json()["data"]
    rows = requests.get(f"{url}/v1/models/{session}/metrics", timeout=10).json()["data"]
    (final,) = [file for file in told["checkpoints"] if file["kind"] == "final"]
    return [row["epoch"] for row in rows], requests.get(final["url"], timeout=10).text, told


def assert_all_arrived(url: str, session: str) -> None:
    epochs, final, told = at_the_hub(url, session)
    assert epochs == list(range(EPOCHS))
    assert final == f"weights after {EPOCHS - 1}"
    assert (told["state"], told["outcome"]) == ("done", "finished")


@pytest.mark.promise("D1", "D4")
@pytest.mark.parametrize("ill", [refusing, silent])
def test_training_goes_on_and_all_arrives_later(ill: Any, tmp_path: Path) -> None:
    """At most one send of each kind is out while training, the session stays finalizing, and a sync completes it."""
    most: Counter[type[Action]] = Counter()
    with ill(tmp_path) as hub:
        session = open_session(hub, tmp_path / "sessions")

        def count(_epoch: int) -> None:
            out = Counter(type(action) for action in session._door.memory.outstanding)
            for kind in (SendRows, SendCheckpoint):
                most[kind] = max(most[kind], out[kind])

        train(session, count)
        receipt = session.finish(timeout=0.5)
    assert most == {SendRows: 1, SendCheckpoint: 1}
    assert (session.state, session.outcome) == (State.FINALIZING, Outcome.FINISHED)
    assert (receipt.rows, receipt.rows_delivered, receipt.rows_waiting) == (EPOCHS, 0, EPOCHS)
    with running(tmp_path / "hub") as well:
        state, receipt = synced(tmp_path / "sessions" / session.id, well.url)
        assert (state, receipt.waiting, receipt.refused) == (State.DONE, 0, 0)
        assert_all_arrived(well.url, session.id)


def test_the_trouble_is_told() -> None:
    """A hub that cannot be reached is a condition with its reason, and never an error of the training."""
    session = open_session(f"http://127.0.0.1:{refused_port()}", Path("sessions"))
    train(session)
    receipt = session.finish(timeout=0.5)
    names = {condition.name: condition.reason for condition in receipt.conditions}
    assert "127.0.0.1" in names["offline"]
    assert "refused" in str(receipt)


@pytest.mark.promise("D7")
def test_nobody_who_trains_waits_for_a_connection(tmp_path: Path) -> None:
    """The hub's client is made and used on the sender's threads alone, never on the caller's."""
    seen: set[str] = set()

    class Watched(HubV1):
        def deliver(self, parcel: Any) -> Any:
            seen.add(threading.current_thread().name)
            return super().deliver(parcel)

    def make(address: str, api_key: str | None) -> Hub:
        seen.add(threading.current_thread().name)
        return Watched(address, api_key, connect_timeout=0.2, read_timeout=0.2, total_timeout=0.3)

    found = settings.resolve(hub=f"http://127.0.0.1:{refused_port()}", directory=tmp_path)
    session = begin(Wish("digits", epochs=EPOCHS, limits=EAGER), found, open_hub=make)
    train(session)
    session.finish(timeout=0.5)
    assert seen
    assert seen <= {"hubstate-words", "hubstate-files"}


@pytest.mark.promise("D23")
@pytest.mark.parametrize("when", ["at every epoch", "after the end", "both"])
def test_the_outbox_may_be_deleted_at_any_moment(when: str, tmp_path: Path) -> None:
    """Deleting `outbox.sqlite` while training or afterwards loses nothing and doubles nothing."""

    def delete(folder: Path) -> None:
        for file in folder.glob("outbox.sqlite*"):
            file.unlink(missing_ok=True)

    session = open_session(f"http://127.0.0.1:{refused_port()}", tmp_path / "sessions")
    folder = tmp_path / "sessions" / session.id
    train(session, lambda _epoch: delete(folder) if when != "after the end" else None)
    session.finish(timeout=0.2)
    if when != "at every epoch":
        delete(folder)
    with running(tmp_path / "hub") as well:
        state, _ = synced(folder, well.url)
        assert state is State.DONE
        assert_all_arrived(well.url, session.id)
        delete(folder)
        assert synced(folder, well.url)[0] is State.DONE
        assert_all_arrived(well.url, session.id)


@pytest.mark.promise("P1")
def test_a_hub_that_comes_back_while_training_gets_everything(tmp_path: Path) -> None:
    """The live session delivers by itself once its hub answers; nobody needs to sync."""
    port = refused_port()
    session = open_session(f"http://127.0.0.1:{port}", tmp_path / "sessions")
    train(session)
    with running(tmp_path / "hub", port=port) as well:
        session.flush(timeout=0.0)  # the next try is due now, and not after its back-off
        session.finish(timeout=30)
        assert session.state is State.DONE
        assert_all_arrived(well.url, session.id)


def test_a_session_goes_on_to_the_hub_that_it_belongs_to(tmp_path: Path) -> None:
    """Another hub that is set when it is resumed gets nothing of it, and no key that is meant for another one."""
    with running(tmp_path / "first") as first, running(tmp_path / "other") as other:
        found = settings.resolve(hub=first.url, directory=tmp_path / "sessions")
        begun = begin(Wish("digits", epochs=EPOCHS, limits=EAGER), found)
        begun.log({"loss": 1.0}, epoch=0)
        assert begun.flush(10)
        begun.close()
        keys: list[str | None] = []

        def watched(address: str, api_key: str | None) -> Hub:
            keys.append(api_key)
            return open_hub(address, None)

        said: list[str] = []
        moved = settings.resolve(
            hub=other.url, api_key="a key for the other", directory=tmp_path / "sessions"
        )
        wish = Wish("digits", epochs=EPOCHS, limits=EAGER, resume=True)
        again = begin(wish, moved, open_hub=watched, say=said.append)
        train(again)
        again.finish()
        assert_all_arrived(first.url, again.id)
        assert requests.get(f"{other.url}/v1/models/{again.id}", timeout=10).status_code == 404
        assert keys == [None]
        assert first.url in said[0]
        assert other.url in said[0]


def test_what_older_sessions_hold_leaves_beside_a_later_one(tmp_path: Path) -> None:
    """A later session delivers its own first, and then what older ones of its directory still hold."""
    older = open_session(f"http://127.0.0.1:{refused_port()}", tmp_path / "sessions")
    train(older)
    older.finish(timeout=0.2)
    folder = tmp_path / "sessions" / older.id
    with running(tmp_path / "hub") as well:
        found = settings.resolve(hub=well.url, directory=tmp_path / "sessions")
        later = begin(Wish("later", epochs=EPOCHS, limits=EAGER), found)
        train(later)
        arrived = threading.Event()
        clock = SystemClock()
        for _ in range(600):
            if peek(folder).memory.state is State.DONE:
                break
            clock.wait(arrived, 0.05)
        assert_all_arrived(well.url, older.id)
        later.finish()
        assert_all_arrived(well.url, later.id)
