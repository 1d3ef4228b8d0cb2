"""Which session a caller means: a new one, the newest of its name, or the one with an id."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from fakes import train

from hubstate import events as ev
from hubstate import settings
from hubstate.clock import VirtualClock
from hubstate.errors import SessionBusy, SessionNotFound
from hubstate.index import Index
from hubstate.opening import Opened
from hubstate.resume import find_folder, open_session
from hubstate.states import State

CLOCK = VirtualClock()


def opened(name: str = "digits", *, resume: bool | str = False, directory: str = "sessions") -> Opened:
    CLOCK.advance(1)
    found = settings.resolve(directory=directory)
    return open_session(name, resume, found, CLOCK, random.Random(CLOCK.wall()), lambda *_: None)


def trained(*, end: bool = False) -> str:
    """A session whose process is gone; returns its id."""
    made = opened()
    train(made.door)
    if end:
        made.door.tell(ev.TrainEnd)
    made.close()
    return made.folder.name


def test_a_new_session_has_a_folder_and_stands_in_the_index() -> None:
    """Without resume a session begins, named by a ULID, and is found from anywhere."""
    made = opened()
    assert len(made.folder.name) == 26
    assert made.door.memory.state is State.IDLE
    assert made.folder in list(Index(settings.resolve().data_folder / "sessions").folders())
    made.close()


def test_the_newest_of_the_name_is_continued() -> None:
    """Of several sessions of one name the newest is the one that is meant."""
    trained()
    newest = trained()
    again = opened(resume=True)
    assert again.folder.name == newest
    assert again.door.memory.state is State.IDLE
    again.close()


def test_one_that_is_owned_is_passed_over() -> None:
    """A session that lives in some process is never the one that is meant by its name."""
    older = trained()
    living = opened()
    train(living.door)
    again = opened(resume=True)
    assert again.folder.name == older
    again.close()
    living.close()


def test_one_whose_training_is_over_opens_as_it_is() -> None:
    """What waits of a finished training is delivered, without a new attempt."""
    over = trained(end=True)
    again = opened(resume=True)
    assert (again.folder.name, again.door.memory.state) == (over, State.FINALIZING)
    again.close()


def test_one_that_is_done_is_not_continued_by_its_name() -> None:
    """A session in which everything arrived is complete: the name begins a new one, its id opens it as it is."""
    made = opened()
    train(made.door)
    made.door.tell(ev.TrainEnd)
    while made.door.memory.outstanding:
        made.door.tell(ev.Delivered, key=made.door.memory.outstanding[0].key)
    assert made.door.memory.state is State.DONE
    made.close()
    by_name = opened(resume=True)
    assert by_name.folder != made.folder
    by_name.close()
    by_id = opened(resume=made.folder.name)
    assert (by_id.folder, by_id.door.memory.state) == (made.folder, State.DONE)
    by_id.close()


def test_an_id_is_found_wherever_the_session_lies() -> None:
    """The index knows the folder, whatever directory is set now; without an entry the directory is looked into."""
    session = trained()
    elsewhere = settings.resolve(directory="somewhere else")
    assert find_folder(session.lower(), elsewhere).name == session
    Index(elsewhere.data_folder / "sessions").remove(session)
    with pytest.raises(SessionNotFound, match="somewhere else"):
        find_folder(session, elsewhere)
    assert find_folder(session, settings.resolve(directory="sessions")).name == session


@pytest.mark.parametrize("session", ["", "../sessions", "01ABC", "digits"])
def test_what_is_no_id_is_not_found(session: str) -> None:
    """A text that is no id of a session here names what was looked for, and touches no other folder."""
    trained()
    with pytest.raises(SessionNotFound, match="hubstate status"):
        find_folder(session, settings.resolve(directory="sessions"))


def test_an_id_that_is_owned_is_refused() -> None:
    """By its id a session of a living process is refused with that process named."""
    made = opened()
    with pytest.raises(SessionBusy, match="pid"):
        opened(resume=made.folder.name)
    made.close()


def test_an_index_that_cannot_be_written_hinders_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    """The index is a convenience: without it a session begins all the same, and a line says so."""
    data = settings.resolve().data_folder
    data.parent.mkdir(parents=True, exist_ok=True)
    Path(data).write_text("in the way")
    made = opened()
    assert made.folder.is_dir()
    assert "hubstate.session_not_indexed" in capsys.readouterr().err
    made.close()
