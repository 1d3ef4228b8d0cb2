"""Which session a caller means, and opening it: a new one, the newest of its name, or the one with an id.

An id that is unknown here is asked for at the hub: another machine may have begun that session.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

from hubstate import opening
from hubstate.clock import Clock
from hubstate.door import Listener
from hubstate.elsewhere import bring
from hubstate.errors import SessionBusy, SessionNotFound, StorageError
from hubstate.index import Index
from hubstate.log import log
from hubstate.opening import Opened
from hubstate.settings import Settings
from hubstate.states import State

__all__ = ["find_folder", "open_session"]


def open_session(
    name: str, resume: bool | str, found: Settings, clock: Clock, chance: random.Random, listener: Listener
) -> Opened:
    """The session that `resume` means (see `hubstate.start`), else a new one; owned, recovered, and in the index.

    Raises `StorageError` if the directory cannot be used, and with an id `SessionNotFound` or `SessionBusy`; with one
    that is unknown here also `HubUnreachable` or `HubRefused`.
    """
    opened = _resumed(name, resume, found, clock, listener)
    if opened is None:
        session = opening.new_id(clock.wall(), chance)
        opened = opening.create(found.directory, session, clock, listener)
    try:
        Index(found.data_folder / "sessions").enter(opened.folder.name, opened.folder)
    except StorageError as failure:
        log("hubstate.resume").warning("hubstate.session_not_indexed", reason=str(failure))
    if found.run is not None:
        _tell_run(opened, found.run)
    return opened


def _tell_run(opened: Opened, run: Path) -> None:
    """Lets `hubstate run` know which attempt of which session is its command's, so that it can end that one truly."""
    memory = opened.door.memory
    attempt = memory.attempt + (memory.state is State.IDLE)  # an idle session is about to begin its next one
    try:
        Index(run).enter(f"{opened.folder.name}-{attempt}", opened.folder)
    except StorageError as failure:
        log("hubstate.resume").warning("hubstate.run_not_told", reason=str(failure))


def _resumed(
    name: str, resume: bool | str, found: Settings, clock: Clock, listener: Listener
) -> Opened | None:
    """The session to continue, or None to begin a new one."""
    if isinstance(resume, str):
        folder = _known_folder(resume, found)
        if folder is None and opening.is_id(resume):
            folder = bring(resume.upper(), found, clock)
        return opening.begin_attempt(folder or find_folder(resume, found), clock, listener)
    if resume:
        for seen in opening.newest_of(found.directory, name):
            if seen.owner == os.getpid():
                # In a notebook the cell was run again: to go on with it, whoever has it must let go of it.
                log("hubstate.resume").warning(
                    "hubstate.session_still_open",
                    session=seen.folder.name,
                    advice="close() it to go on with it",
                )
            if seen.owner is not None or seen.memory.state is State.DONE:
                continue
            try:
                return opening.begin_attempt(seen.folder, clock, listener)
            except SessionBusy:
                continue  # another process was quicker
    return None


def find_folder(session: str, found: Settings) -> Path:
    """The folder of the session with this id, wherever it lies on this machine. Raises `SessionNotFound`."""
    folder = _known_folder(session, found)
    if folder is not None:
        return folder
    raise SessionNotFound(
        f"no session {session!r} is known here (looked in {found.directory} and in this user's index); "
        "`hubstate status` lists what there is"
    )


def _known_folder(session: str, found: Settings) -> Path | None:
    for folder in Index(found.data_folder / "sessions").folders():
        if folder.name == session.upper():
            return folder
    folder = found.directory / session.upper()
    return folder if opening.is_id(session) and folder.is_dir() else None
