"""Where a session's outbox lies."""

from __future__ import annotations

from pathlib import Path

import pytest

from hubstate import projection, settings
from hubstate.errors import StorageError
from hubstate.exchange import forget
from hubstate.index import Index
from hubstate.projection import discard, is_on_a_share, place_of
from hubstate.states import State
from hubstate.testing import FakeClock, FakeHub
from hubstate.testing.one_thread import open_session


@pytest.fixture
def mounted(tmp_path, monkeypatch):
    """Tells the system's mounts as a test wants them: the folder `kept` is one of them, of some kind."""
    kept = tmp_path / "kept"
    kept.mkdir()

    def of_kind(kind: str, where: Path = kept) -> Path:
        told = tmp_path / "mountinfo"
        place = str(where).replace("\\", "\\134").replace(" ", "\\040")
        told.write_text(
            "22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw\n"
            f"40 22 0:50 / {place} rw,relatime shared:7 master:2 - {kind} host:/export rw,vers=4.2\n"
        )
        monkeypatch.setattr(projection, "MOUNTS", told)
        return kept

    return of_kind


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "9p", "lustre", "fuse.sshfs", "fuse", "beegfs"])
def test_on_a_share_the_outbox_lies_on_this_machine(mounted, kind):
    """What SQLite cannot do on a share it does in this user's cache folder."""
    folder = mounted(kind) / "S1"
    assert is_on_a_share(folder)
    place = place_of(folder)
    assert place.parent == settings.cache_folder() / "outboxes"
    assert place.parent.is_dir()
    assert place.name.startswith("S1-")


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "tmpfs", "overlay", "zfs", "fuseblk"])
def test_on_a_disk_it_lies_beside_the_journal(mounted, kind):
    """Where SQLite can work it works where a person looks."""
    folder = mounted(kind) / "S1"
    assert place_of(folder) == folder / "outbox.sqlite"


def test_the_innermost_mount_counts(mounted, tmp_path):
    """A share that is mounted elsewhere, or around a disk, is not where a session lies."""
    mounted("nfs4", tmp_path / "other")
    assert not is_on_a_share(tmp_path / "kept" / "S1")
    mounted("nfs4", Path("/"))
    assert is_on_a_share(tmp_path / "kept" / "S1")


def test_names_with_spaces_are_understood(mounted, tmp_path):
    """A mount is told with its spaces as octal digits."""
    mounted("nfs4", tmp_path / "my runs\\1")
    assert is_on_a_share(tmp_path / "my runs\\1" / "S1")
    assert not is_on_a_share(tmp_path / "my" / "S1")


def test_a_link_leads_to_where_it_leads(mounted, tmp_path):
    """A session behind a symbolic link lies where the link points."""
    (tmp_path / "runs").symlink_to(mounted("nfs4"))
    assert is_on_a_share(tmp_path / "runs" / "S1")


def test_a_system_that_tells_no_mounts_has_no_shares(tmp_path, monkeypatch):
    """Where nothing can be known the outbox lies beside the journal."""
    monkeypatch.setattr(projection, "MOUNTS", tmp_path / "nowhere")
    assert place_of(tmp_path / "S1") == tmp_path / "S1" / "outbox.sqlite"


def test_two_sessions_never_share_an_outbox(mounted, tmp_path):
    """Copies of one session in two places have two outboxes, and one place has the same one every time."""
    kept = mounted("nfs4")
    (kept / "a").mkdir()
    (kept / "b").mkdir()
    assert place_of(kept / "a" / "S1") != place_of(kept / "b" / "S1")
    assert place_of(kept / "a" / "S1") == place_of(kept / "a" / "S1")


def test_a_cache_folder_that_cannot_be_made_is_named(mounted):
    """The error says which session, where its outbox cannot lie, and why."""
    settings.cache_folder().parent.mkdir(parents=True, exist_ok=True)
    settings.cache_folder().write_text("a file")
    with pytest.raises(StorageError, match=r"S1 cannot lie in .*outboxes: "):
        place_of(mounted("nfs4") / "S1")


def test_a_session_on_a_share_is_delivered_and_leaves_nothing_on_this_machine(mounted):
    """All arrives as from a disk; the journal stays on the share, and the outbox goes once the hub holds everything."""
    directory = mounted("nfs4") / "sessions"
    clock = FakeClock()
    hub = FakeHub(clock)
    session = open_session("digits", directory, clock, hub)
    for _ in range(5):
        session.log({"loss": 0.5})
        clock.advance(10)
    assert session.flush(60.0)
    place = place_of(directory / session.id)
    assert place.is_file()
    session.finish(60.0)
    assert session.state is State.DONE
    assert len(hub.rows) == 5
    assert not list(place.parent.iterdir())
    assert not list((directory / session.id).glob("outbox*"))
    assert list((directory / session.id).glob("journal-*"))


def test_a_forgotten_session_leaves_no_outbox_behind(mounted, tmp_path):
    """Whoever forgets a session on a share forgets what lies on this machine as well."""
    directory = mounted("nfs4") / "sessions"
    clock = FakeClock()
    session = open_session("digits", directory, clock, FakeHub(clock))
    session.log({"loss": 0.5})
    session.flush(60.0)
    session.close()
    place = place_of(directory / session.id)
    assert place.is_file()
    forget(directory / session.id, Index(tmp_path / "index"), force=True)
    assert not list(place.parent.iterdir())


def test_what_cannot_be_removed_is_named(mounted):
    """The error names the file and the reason."""
    folder = mounted("nfs4") / "S1"
    place_of(folder).mkdir()
    with pytest.raises(StorageError, match=r"cannot remove .*S1-.*\.sqlite: "):
        discard(folder)
