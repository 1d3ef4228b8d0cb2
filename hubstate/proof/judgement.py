"""The last judgement over a simulated world: what the hub holds, against what the trainers recorded.

The trainer's ledger knows nothing of journals, outboxes and answers, and the hub is read from its tables and files
alone; so what is equal at both ends was carried whole by everything in between.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import select

from hubstate.actions import AnyAction, Memory, OpenSession, SendCheckpoint
from hubstate.errors import StorageError
from hubstate.events import Delivered, ModelSave, Refused, TrainEnd
from hubstate.journal import Step, read, recover
from hubstate.opening import leftovers
from hubstate.outbox import Outbox
from hubstate.proof.foreign import Foreign, Model
from hubstate.proof.network import ADDRESS, House
from hubstate.proof.trainer import Ledger, Row, fingerprint
from hubstate.proof.verify import verify
from hubstate.proof.witness import Broken
from hubstate.proof.world import World
from hubstate.server import models, schema
from hubstate.server.answers import Answer, Caller, Problem
from hubstate.server.downloads import open_file
from hubstate.server.keys import DEFAULT_OWNER
from hubstate.states import TERMINAL_STATES, CheckpointKind

__all__ = ["digest_of", "judge"]

_Place = tuple[int, int | None, bool]


class _AtHub(NamedTuple):
    """What the hub tells of one session: rows in force by place, the attempts that it knows, and its files."""

    model: Mapping[str, Any]
    rows: dict[_Place, dict[str, Any]]
    attempts: dict[int, int]
    files: dict[str, Mapping[str, Any]]


def judge(folder: Path, ledger: Ledger, world: World) -> None:
    """Judges one session at the end of its world. Raises `Broken` with what does not hold."""
    house = world.house
    memory = recover(folder).memory
    try:
        _ended(folder, memory)
        verdict = verify(folder)
    except StorageError as failure:
        raise Broken(f"the journal of {folder.name} cannot be read: {failure}") from failure
    if not verdict.accepted:
        raise Broken(f"verify: {folder.name}: {verdict}")
    if world.foreign is not None:
        late = bool(world.counts["fault: late duplicate arrives"])
        _at_foreign_hub(folder, memory, ledger, world.foreign, late=late)
        return
    there = _at_hub(house, folder.name)
    if there is None:
        kept = [uid for uid in ledger.rows if uid not in ledger.lost | ledger.given_up]
        if kept or (memory.attempt and not ledger.forgave):
            raise Broken(f"S1: the hub does not know {folder.name}, of which {len(kept)} rows were recorded")
        return
    _same_attempts(folder, ledger, there)
    _same_rows(folder, ledger, there)
    _same_files(folder, ledger, there, house)
    if not ledger.forgave and there.model["state"] != memory.state.value:
        raise Broken(f"{folder.name} is {memory.state.value}, and the hub calls it {there.model['state']}")
    if not ledger.forgave and there.model["outcome"] != memory.outcome.value:
        raise Broken(f"{folder.name} ended {memory.outcome.value}, and the hub says {there.model['outcome']}")


def _ended(folder: Path, memory: Memory) -> None:
    """Once faults end, every session comes to a drained end, with nothing left behind here."""
    if memory.attempt == 0:
        return
    if memory.state not in TERMINAL_STATES or memory.outstanding:
        rest = ", ".join(action.key for action in memory.outstanding[:5]) or "nothing"
        why = "; ".join(f"{refused.key}: {refused.reason}" for refused in memory.refused[:3])
        raise Broken(
            f"L2: {folder.name} stays {memory.state.value}, and {rest} waits ({why or 'not refused'})"
        )
    outbox = Outbox(folder / "outbox.sqlite", folder)
    try:
        while outbox.ingest():
            pass
        waiting, refused = outbox.count()
    finally:
        outbox.close()
    if waiting or refused:
        raise Broken(f"S6: {folder.name} is drained, and its outbox holds {waiting} and {refused} refused")
    left = sorted(leftovers(folder, memory))
    if left:
        raise Broken(
            f"nobody needs the snapshots {', '.join(left)} of {folder.name}, and they lie here for ever"
        )


# -- the hub ---------------------------------------------------------------------------------------------


def _at_hub(house: House, session: str) -> _AtHub | None:
    caller = Caller(DEFAULT_OWNER, ADDRESS)
    try:
        model = _data(models.get_model(house.store, caller, session, house.wall()))
        rows = _data(models.get_metrics(house.store, caller, session, "", house.wall()))
    except Problem:
        return None
    with house.store.database.reading() as connection:
        attempts = schema.attempts
        query = select(attempts.c.attempt, attempts.c.first_epoch).where(attempts.c.session == session)
        known = {int(attempt): int(first) for attempt, first in connection.execute(query)}
        stored = select(schema.checkpoints).where(schema.checkpoints.c.session == session)
        files: dict[str, Mapping[str, Any]] = {
            row["kind"]: dict(row) for row in connection.execute(stored).mappings()
        }
    places = {(row["epoch"], row["step"], row["final"]): row for row in rows}
    return _AtHub(model, places, known, files)


def _data(answer: Answer) -> Any:
    """The data of an answer, as whoever asked would read it."""
    return msgspec.json.decode(msgspec.json.encode(answer.body))["data"]


def _same_attempts(folder: Path, ledger: Ledger, there: _AtHub) -> None:
    here = {a.attempt: a.first_epoch for a in _actions(folder) if isinstance(a, OpenSession)}
    strange = {a: first for a, first in there.attempts.items() if here.get(a) != first}
    if strange:
        raise Broken(f"S7: the hub knows attempts {strange} of {folder.name}, and the journal tells {here}")
    if not ledger.forgave and here != there.attempts:
        raise Broken(f"S1: of {folder.name} the hub knows attempts {there.attempts}, of {here}")


def _same_rows(folder: Path, ledger: Ledger, there: _AtHub) -> None:
    wanted: dict[_Place, list[tuple[int, Row]]] = {}
    unsure: set[_Place] = set()
    attempts = _attempts_of_rows(folder)
    for row in ledger.rows.values():
        place = (row.epoch, row.step, row.final)
        attempt = attempts.get(row.uid)
        if attempt is None or row.uid in ledger.given_up:
            unsure.add(place)  # it may have reached the hub before it was lost or given up
            continue
        later = [first for number, first in there.attempts.items() if number > attempt]
        if row.epoch < min(later, default=2**53):
            wanted.setdefault(place, []).append((attempt, row))
    known = {row.uid: row for row in ledger.rows.values()}
    for place, found in there.rows.items():
        uid = found["metrics"].get("uid")
        recorded = known.get(uid)
        if recorded is None or (recorded.epoch, recorded.step, recorded.final) != place:
            raise Broken(f"S1: the hub shows a row at {place} of {folder.name} that nobody recorded: {found}")
        if place not in wanted and place not in unsure:
            raise Broken(f"S7: the hub shows row {uid} at {place} of {folder.name}, which is not in force")
    for place, rows in wanted.items():
        if place in unsure:
            continue
        newest = max(attempt for attempt, _ in rows)
        metrics: dict[str, Any] = {}
        nonfinite: dict[str, str] = {}
        for _, row in sorted((pair for pair in rows if pair[0] == newest), key=lambda pair: pair[1].uid):
            metrics |= row.metrics
            nonfinite = {n: w for n, w in nonfinite.items() if n not in row.metrics} | row.nonfinite
        at_hub = there.rows.get(place)
        if at_hub is None:
            raise Broken(f"S1: the row at {place} of {folder.name} is not at the hub: {metrics}")
        told = (at_hub["attempt"], at_hub["metrics"], at_hub.get("nonfinite", {}))
        if told != (newest, metrics, nonfinite):
            raise Broken(f"the row at {place} of {folder.name} is {metrics} here and {at_hub} at the hub")


def _at_foreign_hub(folder: Path, memory: Memory, ledger: Ledger, hub: Foreign, *, late: bool) -> None:
    """The same of a hub that knows HUB v1 alone: a row an epoch, two files, and whatever came last stands.

    `late`: a copy of an old request came long after it, and such a hub cannot tell. Nor can it where rows that it refused
    are tried again behind those of a newer attempt.
    """
    model = hub.models.get(memory.model or "", Model(""))
    refused = any(isinstance(step.event, Refused) and "/rows/" in step.event.key for step in _steps(folder))
    any_attempt = late or refused or ledger.forgave
    attempts = _attempts_of_rows(folder)
    opened = {a.attempt: a.first_epoch for a in _actions(folder) if isinstance(a, OpenSession)}
    wanted: dict[int, tuple[int, Row]] = {}
    recorded: dict[int, list[dict[str, Any]]] = {}
    for row in ledger.rows.values():
        if row.step is not None or row.final:
            continue  # this hub has no place for it
        recorded.setdefault(row.epoch, []).append(row.metrics)
        attempt = attempts.get(row.uid, 0)
        if attempt and row.epoch < min((f for a, f in opened.items() if a > attempt), default=2**53):
            wanted[row.epoch] = max(wanted.get(row.epoch, (0, row)), (attempt, row), key=lambda pair: pair[0])
    for epoch, metrics in model.rows.items():
        if metrics not in recorded.get(epoch, []):
            raise Broken(
                f"S1: a foreign hub shows {metrics} at epoch {epoch} of {folder.name}, which nobody recorded"
            )
    for epoch, (_attempt, row) in wanted.items():
        if row.uid in ledger.given_up:
            continue
        there = model.rows.get(epoch)
        if there is None or not (any_attempt or there == row.metrics):
            raise Broken(f"S1: epoch {epoch} of {folder.name} is {row.metrics}, and {there} at a foreign hub")
    _files_at_foreign_hub(folder, ledger, model, late=late)


def _files_at_foreign_hub(folder: Path, ledger: Ledger, model: Model, *, late: bool) -> None:
    known, saved = set(ledger.files.values()), _saved(folder, ledger)
    for name, content in model.files.items():
        if fingerprint({"": content}) not in known:
            raise Broken(f"the file {name} of {folder.name} at a foreign hub is none that a trainer saved")
    last: dict[str, SendCheckpoint] = {}
    asked = {a.key: a for a in _actions(folder) if isinstance(a, SendCheckpoint)}
    for step in _steps(folder):
        if isinstance(step.event, Delivered) and step.event.key in asked and not step.event.not_taken:
            action = asked[step.event.key]
            last["best.pt" if action.kind is CheckpointKind.FINAL else "last.pt"] = action
    for name, action in last.items():
        if name not in model.files:
            raise Broken(f"S2: {action.key} was acknowledged, and a foreign hub has no {name}")
        if fingerprint({"": model.files[name]}) != saved.get(action.snapshot) and not (
            late or ledger.forgave
        ):
            raise Broken(
                f"the file {name} of {folder.name} at a foreign hub is not {action.key}, which came last"
            )


def _attempts_of_rows(folder: Path) -> dict[int, int]:
    """The attempt of each row that is in the journal, by the trainer's own number of it."""
    return {
        int(getattr(step.event, "metrics", {})["uid"]): step.attempt for step in _steps(folder) if step.row
    }


def _same_files(folder: Path, ledger: Ledger, there: _AtHub, house: House) -> None:
    saved = _saved(folder, ledger)
    asked: dict[str, SendCheckpoint] = {}
    settled: dict[CheckpointKind, SendCheckpoint] = {}
    for step in _steps(folder):
        if isinstance(step.event, Delivered) and step.event.key in asked and not step.event.not_taken:
            action = asked[step.event.key]
            before = settled.get(action.kind)
            if before is None or (before.attempt, before.epoch) <= (action.attempt, action.epoch):
                settled[action.kind] = action
        for asks in step.actions:
            if isinstance(asks, SendCheckpoint):
                asked.setdefault(asks.key, asks)
    known = set(ledger.files.values())
    there_are: dict[str, str] = {}
    for kind, file in there.files.items():
        opened = open_file(house.store, folder.name, file["sha256"], kind)
        os.close(opened.fd)
        path = opened.path
        there_are[kind] = fingerprint(_contents(path))
        if hashlib.sha256(path.read_bytes()).hexdigest() != file["sha256"] or there_are[kind] not in known:
            raise Broken(f"the {kind} file of {folder.name} at the hub is none that a trainer saved")
    for action in settled.values():
        name = action.kind.value
        at_hub = there.files.get(name)
        if at_hub is None:
            raise Broken(f"S2: {action.key} was acknowledged, and the hub has no {name} file")
        newer = (at_hub["attempt"], at_hub["epoch"]) > (action.attempt, action.epoch)
        if there_are[name] != saved.get(action.snapshot) and not (newer and ledger.forgave):
            raise Broken(
                f"the {name} file of {folder.name} at the hub is of epoch {at_hub['epoch']}, attempt "
                f"{at_hub['attempt']}, and not {action.key} of epoch {action.epoch}, attempt {action.attempt}"
            )


def _contents(path: Path) -> dict[str, bytes]:
    """What lies in a stored file, by name: a folder travels as an archive, a file is itself, under no name."""
    if not tarfile.is_tarfile(path):
        return {"": path.read_bytes()}
    with tarfile.open(path, "r:") as archive:
        members = [(member.name, archive.extractfile(member)) for member in archive]
        return {name: file.read() for name, file in members if file is not None}


def _saved(folder: Path, ledger: Ledger) -> dict[str, str]:
    """The fingerprint of what the trainer saved, by the name of the copy that was kept of it."""
    found: dict[str, str] = {}
    for step in _steps(folder):
        match step.event:
            case ModelSave() as event if event.snapshot:
                found[event.snapshot] = ledger.files.get(event.mtime_ns, "nothing that a trainer saved whole")
            case TrainEnd(final=final) if final is not None and final.snapshot:
                found[final.snapshot] = ledger.files.get(final.mtime_ns, "nothing that a trainer saved whole")
            case _:
                pass
    return found


def _steps(folder: Path) -> Iterator[Step]:
    for entry in read(folder):
        if isinstance(entry.line, Step) and not entry.line.illegal:
            yield entry.line


def _actions(folder: Path) -> Iterator[AnyAction]:
    for step in _steps(folder):
        yield from step.actions


# -- the same again --------------------------------------------------------------------------------------


def digest_of(folders: list[Path], world: World) -> str:
    """The SHA-256 (hex) of a whole world: journals byte for byte, what the hub holds, and the story.

    Left out is what the hub draws at random for its own use: the names of files on its disk, and its keys.
    """
    sha256 = hashlib.sha256()
    for folder in folders:
        for file in sorted(folder.glob("journal-*")):
            text = file.read_bytes()
            text = (
                gzip.decompress(text) if file.suffix == ".gz" else text
            )  # what packs it notes the real time
            sha256.update(file.name.encode() + b"\0" + text)
    tables = (schema.sessions, schema.attempts, schema.rows, schema.answers, schema.usage, schema.problems)
    with world.house.store.database.reading() as connection:
        for table in tables:
            rows = [tuple(row) for row in connection.execute(select(table).order_by(*table.primary_key))]
            sha256.update(msgspec.json.encode(rows))
        files = schema.checkpoints
        columns = [column for column in files.c if column.name != "file"]
        rows = [tuple(r) for r in connection.execute(select(*columns).order_by(*files.primary_key))]
        sha256.update(msgspec.json.encode(rows))
    if world.foreign is not None:
        sha256.update(msgspec.json.encode(world.foreign.models))
    sha256.update("\n".join(world.story).encode())
    return sha256.hexdigest()
