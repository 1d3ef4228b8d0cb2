"""What keeps a run from being sent: the settings and where they stand, the hub, the folders, the journals.

Each thing that was looked at gives a finding, in the order in which a person would look. A key is never told, only
that there is one and where it was found.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from hubstate import opening, overview, settings
from hubstate.clock import Clock
from hubstate.errors import StorageError
from hubstate.hubs.base import Capabilities, Delayed, Hub
from hubstate.journal import Damage, Step, read
from hubstate.overview import Overview, Unreadable
from hubstate.settings import Settings

__all__ = ["Finding", "Level", "examine"]

#: Clocks that differ by less are called the same (seconds); a hub tells its time in whole seconds.
_SAME_CLOCK = 5.0


class Level(Enum):
    """What a finding means."""

    FINE = "fine"
    #: Worth knowing; it keeps nothing from being sent.
    NOTE = "note"
    #: It keeps a run, or a part of one, from being sent.
    TROUBLE = "trouble"


class Finding(NamedTuple):
    """One thing that was looked at. `credentials_refused`: the hub did not take the key."""

    level: Level
    about: str
    text: str
    credentials_refused: bool = False


def examine(
    found: Settings,
    clock: Clock,
    open_hub: Callable[[str, str | None], Hub],
    *,
    directory: Path | None = None,
) -> Iterator[Finding]:
    """Looks at everything, and asks the hub once. `directory`: look for sessions there alone.

    Raises `UsageError` if that directory does not exist.
    """
    folders = overview.folders(found, directory)
    for why in found.passed_over:
        yield Finding(Level.NOTE, "settings", f"{why}; it is passed over")
    yield from _settings(found)
    yield from _login_file()
    yield from _hub(found, clock, open_hub)
    yield from _directory(found)
    yield from _sessions(folders)


def _settings(found: Settings) -> Iterator[Finding]:
    def source(name: str) -> str:
        return f"from {found.sources[name]}" if name in found.sources else "by default"

    if found.hub is None:
        what = "no hub is set: sessions are kept here until `hubstate login URL`, HUBSTATE_HUB, or hub= names one"
        yield Finding(Level.TROUBLE, "hub", what)
    else:
        yield Finding(Level.FINE, "hub", f"{found.hub}, {source('hub')}")
    if found.key_withheld:
        yield Finding(Level.NOTE, "api key", f"none; {found.key_withheld}")
    elif found.api_key is None:
        mlflow = found.hub is not None and found.hub.startswith(settings.MLFLOW)
        whom = "an MLflow server without users" if mlflow else "only a hub without keys, on this machine,"
        yield Finding(Level.NOTE, "api key", f"none; {whom} takes that")
    else:
        yield Finding(Level.FINE, "api key", f"set, {source('api_key')}")
    if found.mlflow.withheld:
        yield Finding(Level.NOTE, "certificates", found.mlflow.withheld)
    if found.mode == "on":
        yield Finding(Level.FINE, "mode", f"on, {source('mode')}")
    else:
        so = "nothing is recorded" if found.mode == "off" else "sessions are kept here, until `hubstate sync`"
        yield Finding(Level.TROUBLE, "mode", f"{found.mode}, {source('mode')}: {so}")
    if found.rank > 0:
        yield Finding(
            Level.TROUBLE, "rank", f"RANK is {found.rank}: only the process of rank 0 opens a session"
        )
    for name in ("project", "group"):
        value = getattr(found, name)
        if value is not None:
            yield Finding(Level.FINE, name, f"{value}, {source(name)}")
    limits = (f"{name} {seconds:g} s ({source(f'limits.{name}')})" for name, seconds in found.limits.items())
    yield Finding(Level.FINE, "limits", ", ".join(limits))


def _login_file() -> Iterator[Finding]:
    file = settings.user_file()
    if file.exists() and stat.S_IMODE(file.stat().st_mode) & 0o077:
        yield Finding(Level.NOTE, "login", f"{file} holds keys and others can read it: chmod 600 {file}")


def _hub(found: Settings, clock: Clock, open_hub: Callable[[str, str | None], Hub]) -> Iterator[Finding]:
    if found.hub is None:
        return
    hub = open_hub(found.hub, found.api_key)
    try:
        before = clock.wall()
        reply = hub.check()
        now = (before + clock.wall()) / 2
        cannot = _cannot(hub.capabilities)
    finally:
        hub.close()
    if isinstance(reply, Delayed):
        refused = reply.condition == "credentials_rejected"
        how = f"; give a good key by `hubstate login {found.hub}`" if refused else ""
        yield Finding(Level.TROUBLE, "connection", f"{reply.reason}{how}", credentials_refused=refused)
    else:
        what = (
            "the hub is there and accepts the key"
            if found.api_key
            else "the hub is there and asks for no key"
        )
        yield Finding(Level.FINE, "connection", what)
        if cannot:
            yield Finding(Level.NOTE, "the hub", f"it {'; it '.join(cannot)}")
    if reply.news.at is not None:
        skew = reply.news.at + 0.5 - now  # it was cut to whole seconds
        if abs(skew) < _SAME_CLOCK:
            yield Finding(Level.FINE, "clock", "as the hub's")
        else:
            which = "ahead of" if skew < 0 else "behind"
            yield Finding(Level.NOTE, "clock", f"this machine is {abs(skew):.0f} s {which} the hub")


def _cannot(can: Capabilities) -> list[str]:
    """What a hub does not do, in words: what it cannot hold is kept here, and told in the receipt as not taken."""
    words = {
        "step_rows": "cannot hold rows of single steps, nor the final evaluation's: an epoch has one row there",
        "files": "cannot hold checkpoints",
        "folders": "cannot hold checkpoints that are folders",
        "closing": "is not told that a session is over",
        "stop_request": "cannot ask a training to stop",
        "own_digest": "does not confirm the digest of a file",
        "resumable": "begins an upload that was cut anew",
        "rewinds": "goes on showing the rows that a resumed training begins again, beside the new ones",
    }
    return [told for name, told in words.items() if not getattr(can, name)]


def _directory(found: Settings) -> Iterator[Finding]:
    where = f"{found.directory}, {'from ' + found.sources['directory'] if 'directory' in found.sources else 'by default'}"
    if opening.is_usable(found.directory):
        yield Finding(Level.FINE, "directory", f"{where}; it can be written")
    else:
        yield Finding(
            Level.TROUBLE, "directory", f"{where}: it cannot be written; set HUBSTATE_DIR to one that can"
        )


def _sessions(folders: list[Path]) -> Iterator[Finding]:
    """Every line of every journal is read and judged; what sessions still hold is told."""
    steps = 0
    waiting: list[Overview] = []
    for seen in overview.look_at_all(folders):
        if isinstance(seen, Unreadable):
            yield Finding(Level.TROUBLE, "session", f"{seen.session}: {seen.reason}")
            continue
        label = f"{seen.receipt.name} ({seen.session})"
        read_steps, damages = _lines(seen.folder)
        steps += read_steps
        if damages:
            yield Finding(
                Level.TROUBLE, "journal", f"{label}: {overview.damages_in_words(seen.session, damages)}"
            )
        if seen.receipt.refused:
            yield Finding(
                Level.TROUBLE,
                "session",
                f"{label}: {seen.receipt.refused} refused by the hub; `hubstate sync {seen.session} --retry-refused`, "
                "or --give-up REASON",
            )
        if seen.receipt.waiting and seen.owner is None:
            waiting.append(seen)
    if waiting:
        some = ", ".join(f"{seen.receipt.name} ({seen.session})" for seen in waiting[:3])
        more = f" and {len(waiting) - 3} more" if len(waiting) > 3 else ""
        yield Finding(Level.NOTE, "waiting", f"`hubstate sync` delivers what is left of {some}{more}")
    yield Finding(Level.FINE, "journals", f"sessions here: {len(folders)}; steps read: {steps}")


def _lines(folder: Path) -> tuple[int, tuple[Damage, ...]]:
    """How many steps stand in a journal, and its damages; a segment that cannot be read is one."""
    steps = 0
    damages: list[Damage] = []
    try:
        for entry in read(folder):
            steps += isinstance(entry.line, Step)
            if isinstance(entry.line, Damage):
                damages.append(entry.line)
    except StorageError as failure:
        damages.append(Damage(folder.name, 0, str(failure)))
    return steps, tuple(damages)
