"""What a hub holds, held against the journal: everything that differs is seen, to the last bit."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fakes import door_in, save, train
from witness import Forgery

import hubstate
from hubstate.clock import SystemClock, VirtualClock
from hubstate.events import Abort, Delivered, TrainEnd
from hubstate.hubs.held import File, Held, InForce, held
from hubstate.journal import recover
from hubstate.proof.holdings import compare
from hubstate.proof.verify import verify
from hubstate.server.running import running
from hubstate.snapshots import digest
from hubstate.sync import give_up

LIMITS = hubstate.Limits(metrics=0.0, checkpoint=0.0)


@pytest.fixture
def delivered(tmp_path: Path) -> tuple[Path, Held]:
    """The folder of a session in two attempts, and what its hub held when all of it was delivered."""
    with running(tmp_path / "hub") as hub:
        first = hubstate.start("digits", epochs=4, hub=hub.url, limits=LIMITS)
        first.log({"loss": 0.1 + 0.2, "count": 3}, epoch=0)
        first.save(_weights("first"), epoch=0, fitness=0.5)
        first.log({"loss": 9.0}, epoch=1)
        first.abort("a cable was pulled", outcome=hubstate.Outcome.INTERRUPTED)
        with hubstate.start("digits", epochs=4, hub=hub.url, limits=LIMITS, resume=first.id) as session:
            for epoch in session.epochs():
                session.log({"loss": 1 / (epoch + 3), "odd": math.nan, "high": math.inf})
                session.log({"late": -0.0})  # it merges with the one before
                session.log({"x": 1e-300}, step=epoch)
                session.save(_weights(f"second {epoch}"), fitness=0.4 if epoch == 1 else 0.75)
        folder = Path(".hubstate").resolve() / session.id
        memory = recover(folder).memory
        assert session.receipt.waiting == 0, str(session.receipt)
        return folder, held(hub.url, None, str(memory.model))


def _weights(text: str) -> Path:
    path = Path("last.pt")
    path.write_text(text)
    return path


def _with_row(found: Held, number: int, **changes: object) -> Held:
    rows = list(found.rows)
    rows[number] = msgspec.structs.replace(rows[number], **changes)
    return msgspec.structs.replace(found, rows=tuple(rows))


def test_what_was_delivered_is_equal_and_every_difference_is_named(delivered):
    """Rows in force of two attempts and files are equal as delivered; what is changed on one side is named first."""
    folder, found = delivered
    same = compare(folder, found)
    assert same.equal, str(same)
    assert (
        str(same)
        == f"{len(found.rows)}/{len(found.rows)} rows, {len(found.files)}/{len(found.files)} files equal"
    )
    assert len(found.rows) == 7
    assert {file.kind for file in found.files} >= {"best", "final"}

    def differs(other: Held) -> str:
        compared = compare(folder, other)
        assert not compared.equal
        assert compared.rows_equal + compared.files_equal == compared.rows + compared.files - 1
        return compared.difference

    first = found.rows[0]
    assert first.metrics["loss"] == 0.1 + 0.2
    told = differs(_with_row(found, 0, metrics=first.metrics | {"loss": 0.3}))
    assert told == "the row of epoch 0: loss is 0.30000000000000004 here, 0.3 at the hub"
    assert "count is 3.0 here, missing at the hub" in differs(
        _with_row(found, 0, metrics={"loss": 0.1 + 0.2})
    )
    assert "attempt 1 here, attempt 2 at the hub" in differs(_with_row(found, 0, attempt=2))
    odd = next(n for n, row in enumerate(found.rows) if "odd" in row.metrics)
    assert found.rows[odd].nonfinite == {"odd": "NaN", "high": "Infinity"}
    assert "high is Infinity here, -Infinity at the hub" in differs(
        _with_row(found, odd, nonfinite={"odd": "NaN", "high": "-Infinity"})
    )
    assert "late is -0.0 here, 0.0 at the hub" in differs(
        _with_row(found, odd, metrics=found.rows[odd].metrics | {"late": 0.0})
    )
    assert "the hub does not have it" in differs(msgspec.structs.replace(found, rows=found.rows[1:]))
    more = msgspec.structs.replace(found, rows=(*found.rows, InForce(99, final=True)))
    assert differs(more) == "the row of epoch 99 (final): the hub has it, and the journal does not"
    for number, file in enumerate(found.files):
        files = list(found.files)
        files[number] = msgspec.structs.replace(file, sha256="0" * 64)
        told = differs(msgspec.structs.replace(found, files=tuple(files)))
        assert told.startswith(
            f"the {file.kind} checkpoint of epoch {file.epoch}: sha256 {file.sha256} here, 000"
        )
        del files[number]
        assert "the hub does not have it" in differs(msgspec.structs.replace(found, files=tuple(files)))
    foreign = msgspec.structs.replace(found.files[0], kind="sketch")
    assert "knows no such kind" in differs(msgspec.structs.replace(found, files=(*found.files, foreign)))


def test_a_number_that_was_changed_in_the_journal_is_found_by_the_hub(delivered):
    """Where the checks were made anew the journal alone is accepted; the row at the hub tells."""
    folder, found = delivered
    forgery = Forgery(folder)
    row = forgery.event("fit_epoch_end", epoch=0)
    forgery.edit(row, lambda line: line["event"]["metrics"].update(loss=0.01))
    forgery.write()
    assert verify(folder).accepted
    assert compare(folder, found).difference == (
        "the row of epoch 0: loss is 0.01 here, 0.30000000000000004 at the hub"
    )


def test_another_end_in_the_journal_is_found_by_the_hub(delivered):
    """State and outcome are the hub's to tell as well, once it acknowledged the last word: one of two ends is forged."""
    folder, found = delivered
    forgery = Forgery(folder)

    def early(line: dict[str, Any]) -> None:
        line["event"]["outcome"] = "stopped"
        [close] = [action for action in line["actions"] if action["action"] == "close"]
        close["outcome"] = "stopped"

    forgery.edit(forgery.event("train_end"), early)
    forgery.write()
    assert verify(folder).accepted
    compared = compare(folder, found)
    assert (compared.rows_equal, compared.files_equal) == (compared.rows, compared.files)
    assert compared.difference == "the end: done and stopped here, done and finished at the hub"


def test_an_abort_is_held_against_the_hub_once_that_knows(tmp_path):
    """A hub that was not told the end yet, or never will be, cannot contradict it; one that acknowledged it can."""
    training = Held("training", "running", (), ())
    door = train(door_in(tmp_path, VirtualClock()))
    assert compare(tmp_path, training).equal
    door.tell(Abort, outcome=hubstate.Outcome.FAILED, reason="out of memory")
    assert compare(tmp_path, training).equal
    door.tell(Delivered, key="S/1/open")
    door.tell(Delivered, key="S/1/end")
    assert compare(tmp_path, Held("aborted", "failed", (), ())).equal
    assert (
        compare(tmp_path, training).difference
        == "the end: aborted and failed here, training and running at the hub"
    )
    door.close()


def test_what_waits_here_is_not_at_the_hub():
    """A session that nobody delivered equals nothing: each row and each file that a hub was to get is missing there."""
    with hubstate.start("digits", epochs=1, mode="offline") as session:
        session.log({"loss": 1.0})
        session.save(_weights("only"), fitness=1.0)
    compared = compare(Path(".hubstate") / session.id, Held("", "", (), ()))
    assert (compared.rows_equal, compared.rows, compared.files_equal, compared.files) == (0, 1, 0, 1)
    assert compared.difference == "the row of epoch 0: the hub does not have it"
    row = InForce(0, metrics={"loss": 1.0})
    rest = compare(Path(".hubstate") / session.id, Held("", "", (row,), ()))
    assert rest.difference == "the final checkpoint: the hub does not have it; it waits here"


def test_what_was_given_up_is_not_looked_for():
    """A file that was given up is none that a hub should have; the rows of the journal stay what they are."""
    session = hubstate.start("digits", epochs=1, mode="offline")
    session.log({"loss": 1.0})
    session.save(_weights("only"), fitness=1.0)
    session.finish()
    folder = Path(".hubstate") / session.id
    give_up(folder, "the hub is gone", SystemClock())
    compared = compare(folder, Held("", "", (InForce(0, metrics={"loss": 1.0}),), ()))
    assert (compared.equal, compared.files) == (True, 0)


def test_what_a_hub_cannot_hold_is_not_looked_for(tmp_path):
    """A file that the hub settled as not taken is none that it should have; without a digest the kept file tells one."""
    door = train(door_in(tmp_path, VirtualClock()), checkpoint_interval=0.0)
    save(door, tmp_path / "snapshots", "first", 0, 0.5)
    first = Held("", "", (), (File("best", 0, 1, 50, digest(tmp_path / "snapshots" / "first"), ""),))
    assert compare(tmp_path, first).difference == ""
    door.tell(Delivered, key="S/1/checkpoint/best/first", not_taken="checkpoints")
    assert compare(tmp_path, Held("", "", (), ())).equal
    assert (
        compare(tmp_path, first).difference == "the best checkpoint: the hub has it, and the journal does not"
    )
    save(door, tmp_path / "snapshots", "second", 1, 0.75)
    (tmp_path / "snapshots" / "second").unlink()
    door.tell(TrainEnd)
    assert "of epoch 1: sha256 unknown here" in compare(tmp_path, first).difference
    door.close()
