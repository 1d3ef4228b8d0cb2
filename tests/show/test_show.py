"""`hubstate show`: the hub's pages over journals. They are true, they follow, and no session notices."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

import hubstate
from hubstate import events as ev
from hubstate import overview, settings
from hubstate.clock import SystemClock, VirtualClock
from hubstate.errors import StorageError
from hubstate.server import calls
from hubstate.server.answers import Problem
from hubstate.server.mirror import Mirror
from hubstate.server.running import RunningHub, running
from hubstate.session import begin
from hubstate.show import Follower, showing
from hubstate.show.copies import Copies
from hubstate.states import Outcome
from hubstate.wish import Wish


class Pages:
    """The pages of a follower that the test moves round by round."""

    def __init__(self, hub: RunningHub, follower: Follower, clock: VirtualClock) -> None:
        self.url = hub.url
        self.follower = follower
        self.clock = clock

    def look(self) -> None:
        """A whole round, the checkpoints included."""
        while self.follower.look(self.clock.wall()):
            pass
        while self.follower.show_copies(self.clock.wall()):
            pass

    def get(self, path: str, **more: Any) -> requests.Response:
        return requests.get(self.url + path, timeout=30, **more)

    def data(self, path: str) -> Any:
        answer = self.get(path)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    def model(self, session: str) -> Any:
        return self.data(f"/v1/models/{session}")

    def names(self) -> list[str]:
        return [one["name"] for one in self.data("/v1/models?limit=1000")["results"]]

    def conditions(self, session: str) -> dict[str, str]:
        return {known["name"]: known["reason"] for known in self.model(session)["conditions"]}

    def page(self, path: str) -> str:
        answer = self.get(path, headers={"Accept": "text/html"})
        assert answer.status_code == 200, answer.text
        return answer.text


@pytest.fixture
def pages(tmp_path: Path) -> Iterator[Pages]:
    """The pages over the sessions of this test's user, an hour later by their clock."""
    clock = VirtualClock(SystemClock().wall() + 3_600)
    made: list[Mirror] = []

    def make(*arguments: Any, **named: Any) -> Mirror:
        made.append(Mirror(*arguments, **named))
        return made[0]

    with running(tmp_path / "mirror", wall=clock.wall, make_store=make) as hub:
        found = settings.resolve()
        yield Pages(hub, Follower(made[0], lambda: overview.folders(found)), clock)


def eventful(name: str = "digits", **start: Any) -> hubstate.Session:
    """A training that goes on: rows of epochs and steps, odd values, a checkpoint, a later attempt."""
    weights = Path("last.pt")
    weights.write_bytes(b"weights")
    session = hubstate.start(name, epochs=6, config={"lr": 0.5}, **start)
    for epoch in range(3):
        session.log({"step/loss": epoch / 3}, epoch=epoch, step=10 * epoch)
        session.log({"loss": 1 / (epoch + 1), "odd": float("nan")}, epoch=epoch)
        if epoch == 1:
            session.save(weights, epoch=epoch, fitness=0.5)
    weights.write_bytes(b"torn since")
    session.close()
    session = hubstate.start(name, resume=True, **start)
    for epoch in session.epochs():
        session.log({"loss": 7.0}, epoch=epoch)
        if epoch == 3:
            break
    session.save(weights, epoch=3, fitness=0.25)
    return session


def folder_of(session: hubstate.Session) -> Path:
    return Path(".hubstate", session.id)


def tree(folder: Path) -> dict[str, tuple[int, int, str]]:
    """Every file below a folder: when it was changed, by contents and otherwise, and what is in it."""
    found = {}
    for path in sorted((folder, *folder.rglob("*"))):
        stat = path.lstat()
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[str(path)] = (stat.st_mtime_ns, stat.st_ctime_ns, digest)
    return found


# -- what is shown ---------------------------------------------------------------------------------------


def test_the_pages_show_what_a_hub_would(pages, tmp_path):
    """Rows in force, every row, attempts, epochs and configuration are those that a real hub tells of the same session."""
    with running(tmp_path / "hub") as hub:
        session = eventful(hub=hub.url)
        session.finish()
        pages.look()
        theirs = f"{hub.url}/v1/models/{session.id}"
        for which in ("", "?attempt=all"):
            there = requests.get(f"{theirs}/metrics{which}", timeout=30).json()["data"]
            assert len(there) > 5
            assert pages.data(f"/v1/models/{session.id}/metrics{which}") == there
        there = requests.get(theirs, timeout=30).json()["data"]
    here = pages.model(session.id)
    for name in (
        "id",
        "name",
        "state",
        "outcome",
        "attempt",
        "epoch",
        "epochs",
        "delivered",
        "config",
        "tags",
    ):
        assert here[name] == there[name], name
    assert [one["first_epoch"] for one in here["attempts"]] == [
        one["first_epoch"] for one in there["attempts"]
    ]


def test_a_training_is_followed_while_it_goes_on(pages):
    """Each round shows what was written since the last one, and the session is live while its process has it."""
    session = hubstate.start("digits", epochs=5, mode="offline")
    for epoch in range(3):
        session.log({"loss": 1.0 / (epoch + 1)}, epoch=epoch)
        pages.look()
        told = pages.model(session.id)
        assert (told["epoch"], told["delivered"], told["state"]) == (epoch, epoch + 1, "training")
    pages.clock.advance(100_000)
    pages.look()
    told = pages.model(session.id)
    assert told["outcome"] == "running"
    assert told["last_contact"] == pages.clock.wall()
    assert "no_owner" not in pages.conditions(session.id)
    session.finish()
    pages.look()
    told = pages.model(session.id)
    assert (told["state"], told["outcome"]) == ("finalizing", "finished")


def test_a_session_without_a_process_is_told_as_that(pages):
    """Nobody invents that it runs: its last word has a time, and behind it stands that no process has it."""
    session = hubstate.start("digits", epochs=5, mode="offline")
    session.log({"loss": 1.0})
    session.close()
    pages.look()
    told = pages.model(session.id)
    last = overview.look(folder_of(session)).last_contact
    assert told["last_contact"] == pytest.approx(last)
    assert told["outcome"] == "unknown"  # an hour later
    assert "no process owns it any more" in pages.conditions(session.id)["no_owner"]
    assert "no_contact" not in pages.conditions(session.id)


def test_an_end_has_its_reason(pages):
    """An aborted session is shown with what ended it."""
    session = hubstate.start("digits", mode="offline")
    session.log({"loss": 1.0})
    session.abort("no money left", outcome=Outcome.INTERRUPTED)
    pages.look()
    told = pages.model(session.id)
    assert (told["state"], told["outcome"], told["reason"]) == ("aborted", "interrupted", "no money left")
    assert "no money left" in pages.page(f"/models/{session.id}")


def test_what_waits_for_a_hub_is_a_condition(pages):
    """Rows count as recorded, never as delivered; how much waits, and why, is told."""
    session = eventful(mode="offline")
    session.finish()
    pages.look()
    assert "on this machine alone" in pages.conditions(session.id)["kept_here"]
    page = pages.page(f"/models/{session.id}")
    assert "Recorded" in page
    assert "Delivered" not in page


def test_what_waits_for_a_hub_that_is_away_is_counted(pages, tmp_path):
    """Of a session that belongs to a hub it is told how much of it is there, how much waits, and why."""
    with running(tmp_path / "hub") as hub:
        session = hubstate.start("digits", hub=hub.url)
        session.log({"loss": 1.0})
        session.flush()
    session.log({"loss": 0.5})
    session.finish(timeout=3.0)
    pages.look()
    known = pages.conditions(session.id)
    assert known["waiting"].startswith(f"1 of 2 rows are at {hub.url}; rows, files and words that wait: ")


def test_a_delivered_session_names_its_hub(pages, tmp_path):
    """Of a session that is done the hub is told, with how many rows it has."""
    with running(tmp_path / "hub") as hub:
        session = eventful(hub=hub.url)
        session.finish()
    pages.look()
    assert pages.conditions(session.id)["delivered"] == f"8 of 8 rows are at {hub.url}"


def test_a_later_attempt_replaces_what_it_replaces(pages):
    """A session that is gone on with after it was aborted is live again, with its next attempt."""
    session = hubstate.start("digits", mode="offline")
    session.log({"loss": 1.0}, epoch=0)
    session.abort("first")
    pages.look()
    again = hubstate.start("digits", resume=session.id, mode="offline")
    again.log({"loss": 0.5}, epoch=0)
    pages.look()
    told = pages.model(session.id)
    assert (told["state"], told["attempt"], told["reason"]) == ("training", 2, "")
    rows = pages.data(f"/v1/models/{session.id}/metrics")
    assert [(row["attempt"], row["metrics"]) for row in rows] == [(2, {"loss": 0.5})]
    again.close()


def test_the_journal_is_shown(pages):
    """The steps of the journal are there in their words."""
    session = hubstate.start("digits", mode="offline")
    session.log({"loss": 1.0})
    session.close()
    pages.look()
    page = pages.page(f"/models/{session.id}")
    assert "pretrain routine start" in page
    assert "fit epoch end" in page


def test_more_lines_than_are_said_at_once_are_all_shown(pages):
    """A long journal comes in pieces, whose rows are counted whatever was looked at between them."""
    session = hubstate.start("digits", mode="offline")
    for step in range(2_500):
        session.log({"loss": 1.0}, epoch=0, step=step)
    session.close()
    pages.look()
    assert len(pages.data(f"/v1/models/{session.id}/metrics")) == 2_500
    assert "2500" in pages.page(f"/models/{session.id}").replace(",", "")


# -- checkpoints -----------------------------------------------------------------------------------------


def test_kept_checkpoints_can_be_downloaded(pages):
    """A kept copy is listed with its kind, epoch, size and digest, and its bytes come whole."""
    session = eventful(mode="offline")
    pages.look()
    files = {file["kind"]: file for file in pages.model(session.id)["checkpoints"]}
    best = files["best"]
    assert (best["epoch"], best["attempt"], best["size"]) == (1, 1, len(b"weights"))
    assert best["sha256"] == hashlib.sha256(b"weights").hexdigest()
    assert requests.get(best["url"], timeout=30).content == b"weights"
    session.close()


def test_a_kept_folder_comes_as_its_archive(pages):
    """A folder is one checkpoint: what is downloaded has the digest that a hub would tell of it."""
    Path("model").mkdir()
    Path("model", "part").write_bytes(b"weights")
    session = hubstate.start("digits", mode="offline")
    session.log({"loss": 1.0})
    session.save("model")
    pages.look()
    (file,) = pages.model(session.id)["checkpoints"]
    assert file["folder"]
    content = requests.get(file["url"], timeout=30).content
    assert hashlib.sha256(content).hexdigest() == file["sha256"]
    assert session.last_checkpoint is not None
    assert session.last_checkpoint.sha256 == file["sha256"]
    session.close()


def test_what_is_kept_no_more_is_shown_no_more(pages, tmp_path):
    """A copy that a better one replaced, and those that went once the hub had them, leave the page."""
    with running(tmp_path / "hub") as hub:
        session = hubstate.start("digits", hub=hub.url, mode="offline")
        for epoch in range(2):
            Path("w.pt").write_bytes(b"w" * (epoch + 1))
            session.log({"loss": 1.0}, epoch=epoch)
            session.save("w.pt", epoch=epoch, fitness=float(epoch))
            pages.look()
            (file,) = pages.model(session.id)["checkpoints"]
            assert (file["kind"], file["epoch"], file["size"]) == ("best", epoch, epoch + 1)
        session.close()
        done = hubstate.start("digits", resume=session.id, hub=hub.url)
        done.log({"loss": 1.0})
        done.finish()
    pages.look()
    told = pages.model(session.id)
    assert told["state"] == "done"
    assert told["checkpoints"] == []


def test_a_checkpoint_that_cannot_be_read_is_named(pages, monkeypatch):
    """A copy whose bytes cannot be had is a condition with its reason; the rest of the session is shown."""
    session = hubstate.start("digits", mode="offline")
    session.log({"loss": 1.0})
    Path("w.pt").write_bytes(b"w")
    session.save("w.pt")
    session.close()

    def broken(_path: Path) -> str:
        raise OSError(5, os.strerror(5))

    monkeypatch.setattr("hubstate.show.copies.digest", broken)
    pages.look()
    assert "Input/output error" in pages.conditions(session.id)["checkpoint_unshown"]
    assert pages.model(session.id)["delivered"] == 1


# -- nothing is changed ----------------------------------------------------------------------------------


def test_no_session_is_changed_by_being_shown(pages):
    """Not a byte, a time or a name in any session's folder is another one afterwards, downloads included."""
    for name in ("first", "second"):
        eventful(name, mode="offline").close()
    before = tree(Path(".hubstate"))
    pages.look()
    for one in pages.data("/v1/models")["results"]:
        pages.page(f"/models/{one['id']}")
        for file in pages.model(one["id"])["checkpoints"]:
            assert requests.get(file["url"], timeout=30).status_code == 200
    pages.look()
    assert tree(Path(".hubstate")) == before


def test_a_shown_session_can_be_gone_on_with(pages):
    """Being looked at keeps nobody from owning a session."""
    session = hubstate.start("digits", mode="offline")
    session.log({"loss": 1.0})
    session.close()
    pages.look()
    again = hubstate.start("digits", resume=session.id, mode="offline")
    assert again.id == session.id
    again.close()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/models"),
        ("POST", "/v1/auth"),
        ("DELETE", "/v1/models/{id}?hard=True"),
        ("PATCH", "/v1/models/{id}"),
        ("POST", "/models/{id}/stop"),
        ("POST", "/v1/models/{id}"),
        ("POST", "/keys"),
    ],
)
def test_nothing_can_be_delivered_to_it(pages, method, path):
    """A client is never told that these pages hold its rows: whatever would change something is refused, in words."""
    session = hubstate.start("digits", mode="offline")
    session.log({"loss": 1.0})
    session.close()
    pages.look()
    answer = requests.request(method, pages.url + path.format(id=session.id), json={}, timeout=30)
    assert answer.status_code == 405
    assert answer.json()["error"] == "read_only"
    assert "hubstate serve" in answer.json()["message"]
    assert pages.names() == ["digits"]


def test_no_page_offers_what_cannot_be_done(pages):
    """There is no button to stop a training, no page of keys, and an empty list tells how to record or import."""
    assert "hubstate import DIR" in pages.page("/")
    assert "/keys" not in pages.page("/")
    session = hubstate.start("digits", mode="offline")
    session.log({"loss": 1.0})
    pages.look()
    page = pages.page(f"/models/{session.id}")
    assert "Stop this training" not in page
    assert "/keys" not in page
    session.close()


# -- journals that are not as they should be -------------------------------------------------------------


@pytest.mark.damages_journals(reason="it damages a line in the middle, to see what is shown of the others")
def test_a_damaged_line_hides_no_other(pages):
    """Of a damaged journal everything else is shown, and the damage with its place."""
    session = eventful(mode="offline")
    session.close()
    segment = max(folder_of(session).glob("journal-*"))
    lines = segment.read_bytes().splitlines(keepends=True)
    lines[4] = lines[4].replace(b"loss", b"boss")
    segment.write_bytes(b"".join(lines))
    pages.look()
    assert pages.model(session.id)["delivered"] == 7
    assert f"{segment.name} line 5" in pages.conditions(session.id)["journal_damaged"]


@pytest.mark.damages_journals(reason="it takes the line of the opening away")
def test_a_session_without_its_opening_is_shown(pages):
    """Where the opening cannot be read, the rows are there all the same, under the session's id."""
    session = hubstate.start("digits", mode="offline")
    session.log({"loss": 1.0})
    session.close()
    (segment,) = folder_of(session).glob("journal-*")
    head, _opening, *rest = segment.read_bytes().splitlines(keepends=True)
    segment.write_bytes(b"".join([head, *rest]))
    pages.look()
    told = pages.model(session.id)
    assert (told["name"], told["delivered"]) == (session.id, 1)
    assert "journal_damaged" in pages.conditions(session.id)


@pytest.mark.damages_journals(reason="it makes a journal that no hubstate can read")
def test_a_journal_that_cannot_be_read_has_a_page(pages):
    """A session of which nothing can be read is listed with the reason, and hides no other; mended, it is shown."""
    session = hubstate.start("digits", mode="offline")
    session.log({"loss": 1.0})
    session.close()
    other = hubstate.start("letters", mode="offline")
    other.log({"loss": 1.0})
    other.close()
    (segment,) = folder_of(session).glob("journal-*")
    segment.rename("aside")
    segment.mkdir()
    pages.look()
    pages.look()
    assert sorted(pages.names()) == sorted([session.id, "letters"])
    assert "cannot" in pages.conditions(session.id)["journal_unreadable"]
    segment.rmdir()
    Path("aside").rename(segment)
    pages.look()
    assert pages.model(session.id)["delivered"] == 1
    assert "journal_unreadable" not in pages.conditions(session.id)
    segment.write_bytes(b"")


def test_a_session_that_was_begun_elsewhere_is_shown_as_far_as_it_is_here(pages, tmp_path, monkeypatch):
    """What another machine recorded is at the hub: here it has its name, its attempt, and where the rest is."""
    with running(tmp_path / "hub") as hub:
        session = hubstate.start("digits", hub=hub.url, epochs=9)
        session.log({"loss": 1.0}, epoch=0)
        session.flush()
        session.close()
        shutil.rmtree(folder_of(session))
        again = hubstate.start("digits", resume=session.id, hub=hub.url)
        again.log({"loss": 0.5}, epoch=0)
        again.flush()
        again.close()
    pages.look()
    told = pages.model(session.id)
    assert (told["name"], told["attempt"], told["delivered"]) == ("digits", 2, 1)
    assert "2 of 2 rows are at" in "".join(pages.conditions(session.id).values())


def test_a_journal_that_was_put_back_is_read_anew(pages):
    """Where what had been read is not there any more, the session is shown as it is now."""
    session = hubstate.start("digits", mode="offline")
    session.log({"loss": 1.0}, epoch=0)
    session.close()
    shutil.copytree(folder_of(session), "backup")
    again = hubstate.start("digits", resume=session.id, mode="offline")
    again.log({"loss": 0.5}, epoch=0)
    again.log({"loss": 0.25}, epoch=1)
    again.close()
    pages.look()
    assert pages.model(session.id)["delivered"] == 3
    shutil.rmtree(folder_of(session))
    Path("backup").rename(folder_of(session))
    pages.look()
    told = pages.model(session.id)
    assert (told["delivered"], told["attempt"]) == (1, 1)


def test_a_forgotten_session_leaves_the_list(pages):
    """A session whose folder is gone is gone from the pages, with its rows."""
    session = hubstate.start("digits", mode="offline")
    session.log({"loss": 1.0})
    session.close()
    pages.look()
    shutil.rmtree(folder_of(session))
    pages.look()
    assert pages.names() == []


def test_a_folder_with_a_name_of_its_own_is_shown(pages):
    """A session's folder that somebody renamed has a page under an address that a hub can have."""
    session = hubstate.start("digits", mode="offline")
    session.log({"loss": 1.0})
    session.close()
    folder_of(session).rename(Path(".hubstate", "my best run (old)"))
    pages.look()
    (told,) = pages.data("/v1/models")["results"]
    assert (told["name"], told["delivered"]) == ("digits", 1)
    assert "digits" in pages.page(f"/models/{told['id']}")


def test_texts_that_are_longer_than_a_hub_takes_are_cut(pages):
    """A session with a very long name is shown, with the beginning of it."""
    session = hubstate.start("d" * 3_000, mode="offline", tags=["t" * 3_000], project="p" * 3_000)
    session.log({"loss": 1.0})
    session.close()
    pages.look()
    assert pages.names() == ["d" * 500]


def test_a_full_disk_is_told_and_forgets_nothing(pages, monkeypatch):
    """Where the store takes nothing, the round fails in words, and a later one shows everything."""
    session = hubstate.start("digits", mode="offline")
    session.log({"loss": 1.0})
    session.close()
    store = pages.follower._store
    with monkeypatch.context() as patch:
        import sqlalchemy

        def full(*_arguments: Any) -> None:
            raise sqlalchemy.exc.OperationalError(None, None, Exception("database or disk is full"))

        patch.setattr("hubstate.show.followed.calls.post_steps", full)
        with pytest.raises(StorageError, match="takes nothing"):
            pages.look()
    pages.look()
    assert pages.model(session.id)["delivered"] == 1
    assert store.read_only


def test_a_session_that_the_store_does_not_take_hides_no_other(pages, monkeypatch, capsys):
    """It is logged once with its folder and the reason; the others are shown, their checkpoints too, and it when it can be."""
    odd, fine = (hubstate.start(name, mode="offline") for name in ("odd", "fine"))
    Path("last.pt").write_bytes(b"weights")
    for session in (odd, fine):
        session.log({"loss": 1.0})
        session.save("last.pt")
        session.close()
    with monkeypatch.context() as patch:
        take = calls.post_steps

        def choosy(store: Mirror, caller: Any, model: str, *more: Any) -> Any:
            if model == odd.id:
                raise Problem(422, "invalid", "every step has a number n")
            return take(store, caller, model, *more)

        patch.setattr("hubstate.show.followed.calls.post_steps", choosy)
        pages.look()
        pages.look()
        assert pages.follower.caught_up.is_set()
        assert [file["kind"] for file in pages.model(fine.id)["checkpoints"]] == ["last"]
    told = capsys.readouterr().err
    assert told.count("hubstate.session_unshown") == 1
    assert f"{odd.id}" in told
    assert "every step has a number n" in told
    pages.look()
    assert [file["kind"] for file in pages.model(odd.id)["checkpoints"]] == ["last"]


def test_a_checkpoint_that_the_store_does_not_take_is_named(pages, monkeypatch):
    """The page tells why, and what is written later is followed all the same."""
    session = hubstate.start("digits", mode="offline")
    Path("last.pt").write_bytes(b"weights")
    session.log({"loss": 1.0})
    session.save("last.pt")

    def refusing(*_arguments: Any) -> None:
        raise Problem(404, "not_found", "no session of that id is at this hub")

    monkeypatch.setattr("hubstate.show.copies.calls.take_upload", refusing)
    pages.look()
    session.log({"loss": 0.5})
    session.close()
    pages.look()
    assert "no session of that id" in pages.conditions(session.id)["checkpoint_unshown"]
    assert pages.model(session.id)["delivered"] == 2


# -- by itself -------------------------------------------------------------------------------------------


def test_it_follows_by_itself(tmp_path):
    """`showing` opens pages that show everything at once, and what is written later without being asked."""
    first = hubstate.start("first", mode="offline")
    first.log({"loss": 1.0})
    seen = threading.Event()
    found = settings.resolve()

    def places() -> list[Path]:
        folders = overview.folders(found)
        if len(folders) == 2 and shown.is_set():
            seen.set()
        return folders

    shown = threading.Event()
    with showing(places, pause=0.01) as hub:
        assert "first" in requests.get(hub.url, timeout=30).text
        with hubstate.start("second", mode="offline") as second:
            second.log({"loss": 1.0})
        shown.set()
        assert seen.wait(60)  # a round began after it was written
        seen.clear()
        assert seen.wait(60)  # and the one after that
        assert requests.get(f"{hub.url}/v1/models/{second.id}", timeout=30).json()["data"]["delivered"] == 1
    first.close()
    assert list(Path(os.environ["HOME"], "tmp").glob("hubstate-show-*")) == []


def test_a_long_journal_keeps_no_other_from_being_shown(pages):
    """A journal that is read for several turns stands still in the list as far as it was read; all others come before its end."""
    short = hubstate.start("short", mode="offline")
    short.log({"loss": 1.0})
    short.close()
    long = hubstate.start("long", mode="offline")
    for step in range(6_000):
        long.log({"loss": 1.0}, epoch=0, step=step)
    long.close()
    assert pages.follower.look(pages.clock.wall())
    assert 0 < pages.model(long.id)["delivered"] < 6_000
    assert "still_reading" in pages.conditions(long.id)
    pages.look()
    assert pages.names() == ["long", "short"]
    assert pages.model(long.id)["delivered"] == 6_000
    assert "still_reading" not in pages.conditions(long.id)


def test_what_is_trained_is_looked_at_in_every_turn(pages):
    """A session that a process has is followed also while nobody looks for others."""
    live = hubstate.start("live", mode="offline")
    live.log({"loss": 1.0}, epoch=0)
    pages.look()
    live.log({"loss": 0.5}, epoch=1)
    late = hubstate.start("late", mode="offline")
    late.log({"loss": 1.0})
    late.close()
    pages.follower.look(pages.clock.wall(), everything=False)
    assert pages.model(live.id)["delivered"] == 2
    assert pages.names() == ["live"]
    pages.look()
    assert sorted(pages.names()) == ["late", "live"]
    live.close()


def test_checkpoints_that_nothing_was_said_of_are_not_looked_at(pages, monkeypatch):
    """Between two rounds only the checkpoints of a session whose journal grew are looked at; in a round, those of all."""
    Path("last.pt").write_bytes(b"weights")
    for name in ("one", "two"):
        with hubstate.start(name, mode="offline") as session:
            session.log({"loss": 1.0})
            session.save("last.pt")
    live = hubstate.start("live", mode="offline")
    live.log({"loss": 1.0}, epoch=0)
    pages.look()
    looks: list[str] = []
    show_next = Copies.show_next

    def counted(self: Copies, store: Mirror, caller: Any, memory: Any, at: float) -> bool:
        looks.append(memory.name)
        return show_next(self, store, caller, memory, at)

    def turn() -> list[str]:
        looks.clear()
        pages.follower.look(pages.clock.wall(), everything=False)
        while pages.follower.show_copies(pages.clock.wall()):
            pass
        return sorted(set(looks))

    monkeypatch.setattr(Copies, "show_next", counted)
    assert turn() == []
    live.save("last.pt", epoch=0)
    assert turn() == ["live"]
    assert [file["kind"] for file in pages.model(live.id)["checkpoints"]] == ["last"]
    assert turn() == []
    live.close()
    assert turn() == []
    pages.look()
    assert sorted(looks) == ["live", "one", "two"]


def test_the_copies_of_an_ended_training_come_in_the_turn_that_sees_its_end(pages):
    """A training that ends between two rounds shows its final checkpoint without another one."""
    Path("last.pt").write_bytes(b"weights")
    with hubstate.start("live", mode="offline") as session:
        session.log({"loss": 1.0})
        pages.look()
        session.save("last.pt", kind="final")
    pages.follower.look(pages.clock.wall(), everything=False)
    while pages.follower.show_copies(pages.clock.wall()):
        pass
    assert "final" in [file["kind"] for file in pages.model(session.id)["checkpoints"]]


def test_checkpoints_are_shown_without_looking_for_sessions_anew(monkeypatch):
    """However many checkpoints there are to be shown at first, the sessions are looked for once meanwhile."""
    Path("last.pt").write_bytes(b"weights")
    for name in ("one", "two", "three"):
        with hubstate.start(name, mode="offline") as session:
            session.log({"loss": 1.0})
            session.save("last.pt")
    found = settings.resolve()
    rounds, shown = [], []
    all_shown = threading.Event()
    take = calls.take_upload

    def counted(*arguments: Any) -> Any:
        shown.append(take(*arguments))
        if len(shown) == 3:
            all_shown.set()
        return shown[-1]

    def places() -> list[Path]:
        rounds.append(1)
        return overview.folders(found)

    monkeypatch.setattr("hubstate.show.copies.calls.take_upload", counted)
    with showing(places, pause=3_600):
        assert all_shown.wait(60)
    assert len(rounds) == 1


def test_a_finished_training_that_waits_is_found_as_done(pages):
    """The list's filter takes a training that came to its end for done, as its row does; it is neither live nor silent."""
    with hubstate.start("digits", mode="offline") as session:
        session.log({"loss": 1.0})
    pages.look()
    found = {
        state: session.id in pages.page(f"/?state={state}") for state in ("live", "silent", "done", "aborted")
    }
    assert found == {"live": False, "silent": False, "done": True, "aborted": False}


def test_a_finished_training_that_waits_is_no_silent_one(pages):
    """In the list a training that came to its end is finished, however long ago, and whatever waits for a hub."""
    session = hubstate.start("digits", mode="offline")
    session.log({"loss": 1.0})
    session.finish()
    pages.clock.advance(100_000_000)
    pages.look()
    page = pages.page("/")
    assert 'class="mark finished"' in page
    assert 'class="mark unknown"' not in page


def test_what_was_done_beside_the_training_is_shown(pages):
    """A validation of its own that a session recorded stands on its page."""
    wish = Wish("digits", usage=True)
    session = begin(wish, settings.resolve(hub="http://127.0.0.1:9"), say=lambda _text: None)
    session.log({"loss": 1.0})
    session.tell(ev.ValStart)
    session.close()
    pages.look()
    (used,) = pages.model(session.id)["usage"]
    assert (used["what"], used["attempt"]) == ("val_start", 1)


def test_what_keeps_it_from_following_is_told_once(capsys):
    """While sessions cannot be looked for, one line says so, and another one that it is over; then they are shown."""
    with hubstate.start("digits", mode="offline") as session:
        session.log({"loss": 1.0})
    found = settings.resolve()
    tries = iter(range(1_000_000))
    seen = threading.Event()

    def places() -> list[Path]:
        number = next(tries)
        if number < 3:
            raise StorageError("the disk is away")
        if number > 4:
            seen.set()
        return overview.folders(found)

    with showing(places, pause=0.01) as hub:
        assert seen.wait(60)
        assert requests.get(f"{hub.url}/v1/models/{session.id}", timeout=30).status_code == 200
    told = capsys.readouterr().err
    assert told.count("hubstate.sessions_unshown") == 1
    assert "the disk is away" in told
    assert told.count("hubstate.sessions_shown_again") == 1
