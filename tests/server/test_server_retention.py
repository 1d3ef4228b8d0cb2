"""What a hub lets go of: nothing unless its owner says so, never what lives, and it says so before and after."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_client import Client, row

from hubstate.clock import VirtualClock
from hubstate.errors import UsageError
from hubstate.server.app import build
from hubstate.server.retention import Retention
from hubstate.server.running import RunningHub, running
from hubstate.server.shells import Wiring
from hubstate.server.store import Store
from hubstate.server.terms import Terms

DAY = 86_400.0


@pytest.fixture
def ended(hub: RunningHub, client: Client) -> RunningHub:
    """A hub with a session that has ended, one that lives, and one that is silent."""
    for name in ("ended", "lives", "silent"):
        client.open(name)
        client.rows([row(0, a=1)], model=name)
        client.upload(b"last " + name.encode(), model=name)
        client.upload(b"best " + name.encode(), model=name, kind="best")
    client.end("ended")
    return hub


@pytest.fixture
def store(ended: RunningHub) -> Iterator[Store]:
    store = Store(ended.data_dir)
    yield store
    store.close()


def listed(client: Client) -> set[str]:
    return {session["id"] for session in client.get("/v1/models").json()["data"]["results"]}


def kinds(client: Client, model: str) -> set[str]:
    return {file["kind"] for file in client.model(model)["checkpoints"]}


def test_nothing_goes_unless_the_owner_says_so(store: Store, client: Client, clock: VirtualClock) -> None:
    """Without a term everything stays, however old, and no session says otherwise."""
    Retention(store)(clock.wall() + 10_000 * DAY)
    assert listed(client) == {"ended", "lives", "silent"}
    assert client.model("ended")["conditions"] == []


def test_the_charts_of_what_was_removed_go_too(client: Client, data_dir: Path, clock: VirtualClock) -> None:
    """What pages laid out of a session that was deleted for good is let go of, and the rest stays."""
    for name in ("gone", "stays"):
        client.open(name)
        client.rows([row(0, a=1)], model=name)
        client.get(f"/models/{name}", headers={"Accept": "text/html"})
    desk = build(Wiring(Store(data_dir), wall=clock.wall)).state.pages
    client.http.delete(f"{client.url}/v1/models/gone?hard=true", timeout=30)
    assert desk.curves.length("gone") == 1
    assert desk.tidy(clock.wall()) > 0
    assert desk.curves.length("gone") is None
    assert desk.curves.length("stays") == 1
    desk.close()
    desk.store.close()


def test_what_ended_long_ago_goes_with_its_rows_and_files(
    ended: RunningHub, store: Store, client: Client, clock: VirtualClock, capfd: pytest.CaptureFixture[str]
) -> None:
    """A session goes on the day that was said, not before, whole, and the log tells; what lives or is silent stays."""
    store.terms = Terms(keep_days=30)
    retention = Retention(store)
    clock.advance(29.9 * DAY)
    client.beat("lives", state="training", outcome="running")
    retention(clock.wall())
    assert listed(client) == {"ended", "lives", "silent"}
    clock.advance(0.2 * DAY)
    retention(clock.wall())
    assert listed(client) == {"lives", "silent"}
    assert client.get("/v1/models/ended").status_code == 404
    assert not (ended.data_dir / "files" / "ended").exists()
    assert store.database.look("SELECT count(*) FROM rows WHERE session = 'ended'") == [(0,)]
    logged = capfd.readouterr().err
    assert "hub_session_removed" in logged
    assert "session=ended" in logged


def test_a_session_that_goes_on_stays(store: Store, client: Client, clock: VirtualClock) -> None:
    """A next attempt makes an old session a living one."""
    store.terms = Terms(keep_days=30, keep_last_days=30)
    clock.advance(31 * DAY)
    client.open("ended", attempt=2)
    Retention(store)(clock.wall())
    assert "ended" in listed(client)
    assert kinds(client, "ended") == {"last", "best"}


def test_one_that_goes_on_just_now_stays(
    store: Store, client: Client, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A next attempt that begins between the look and the removal keeps its session."""
    store.terms = Terms(keep_days=30, keep_last_days=30)
    clock.advance(31 * DAY)
    retention = Retention(store)
    look = retention._ended_before

    def look_and_go_on(*asked: Any) -> list[str]:
        found = look(*asked)
        client.open("ended", attempt=2)
        return found

    monkeypatch.setattr(retention, "_ended_before", look_and_go_on)
    retention(clock.wall())
    assert kinds(client, "ended") == {"last", "best"}


def test_the_checkpoint_to_go_on_from_goes_where_a_better_one_is(
    ended: RunningHub, store: Store, client: Client, clock: VirtualClock
) -> None:
    """Only best and final stay of a session that ended; where `last` is all there is, or the same file, it stays."""
    store.terms = Terms(keep_last_days=7)
    client.open("only")
    client.upload(b"only", model="only")
    client.end("only")
    client.open("same")
    client.upload(b"same", model="same")
    client.foreign_upload("same", b"same", epoch="0", type="epoch", isBest="True")
    client.end("same")
    clock.advance(8 * DAY)
    Retention(store)(clock.wall())
    assert kinds(client, "ended") == {"best"}
    assert kinds(client, "lives") == {"last", "best"}
    assert kinds(client, "only") == {"last"}
    assert kinds(client, "same") == {"best"}
    (best,) = client.model("ended")["checkpoints"]
    assert client.http.get(best["url"], timeout=30).content == b"best ended"
    (same,) = client.model("same")["checkpoints"]
    assert client.http.get(same["url"], timeout=30).content == b"same"
    assert len(list((ended.data_dir / "files" / "ended").iterdir())) == 1


def test_where_nothing_is_too_old_nothing_is_written(
    store: Store, client: Client, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was let go of already, and what has nothing to let go of, keeps nobody from writing at each further look."""
    store.terms = Terms(keep_last_days=7)
    client.open("only")
    client.upload(b"last", model="only")
    client.end("only")
    clock.advance(8 * DAY)
    retention = Retention(store)
    retention(clock.wall())
    assert (kinds(client, "ended"), kinds(client, "only")) == ({"best"}, {"last"})
    monkeypatch.setattr(store.database, "writing", None)
    retention(clock.wall())


def test_many_that_are_too_old_go_by_and_by(
    store: Store, client: Client, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hub that stops waits for some of them, not for all: the rest is due at once, and after that in an hour."""
    monkeypatch.setattr("hubstate.server.retention._AT_ONCE", 2)
    store.terms = Terms(keep_days=1)
    for name in ("second", "third"):
        client.open(name)
        client.end(name)
    clock.advance(2 * DAY)
    retention = Retention(store)
    pauses = [retention(clock.wall())]
    assert len(listed(client)) == 3
    pauses.append(retention(clock.wall()))
    assert (listed(client), pauses) == ({"lives", "silent"}, [0.0, 3600.0])


def test_a_running_hub_says_until_when_and_does_it(data_dir: Path, clock: VirtualClock) -> None:
    """A session that ended tells until when it is kept; a hub that starts after that lets it go."""
    with running(data_dir, wall=clock.wall, terms=Terms(keep_days=1, keep_last_days=0.5)) as hub:
        client = Client(hub.url)
        client.open()
        assert client.model()["conditions"] == []
        client.end()
        conditions = {one["name"]: one["reason"] for one in client.model()["conditions"]}
        assert set(conditions) == {"kept_until", "last_kept_until"}
        assert "1 days after its end" in conditions["kept_until"]
        client.http.close()
    clock.advance(2 * DAY)
    with running(data_dir, wall=clock.wall, terms=Terms(keep_days=1)) as hub:
        pass
    with running(data_dir, wall=clock.wall) as hub:
        client = Client(hub.url)
        assert listed(client) == set()
        client.http.close()


@pytest.mark.parametrize(
    "terms", [{"keep_days": -1.0}, {"keep_last_days": float("nan")}, {"keep_days": 1e8}, {"grace": -1.0}]
)
def test_a_number_that_cannot_be_is_refused(terms: dict[str, float]) -> None:
    """Days and seconds are numbers from 0 on, and a day that no calendar has is none."""
    with pytest.raises(UsageError, match=r"number of (days|seconds), 0 "):
        Terms(**terms)  # type: ignore[arg-type]
