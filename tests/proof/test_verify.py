"""`verify`: what it accepts, and the first line that it names of a journal that cannot have been."""

from __future__ import annotations

import gzip
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from fakes import SAYINGS, door_in, save, say, train
from hypothesis import given, settings
from hypothesis import strategies as st
from journals import DAMAGED
from witness import Forgery, lived

from hubstate import journal, opening
from hubstate.clock import VirtualClock
from hubstate.errors import StorageError
from hubstate.events import Abort, Answered, Delivered
from hubstate.proof import verify as room
from hubstate.proof.verify import Lost, Place, verify
from hubstate.snapshots import Stat, look
from hubstate.states import Outcome

Place_ = tuple[int, int]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lived(tmp_path_factory.mktemp("sessions"))


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A copy to forge."""
    return Path(shutil.copytree(original, tmp_path / original.name))


@pytest.fixture
def forgery(folder: Path) -> Forgery:
    return Forgery(folder)


# -- what is accepted ------------------------------------------------------------------------------------


def test_a_session_that_lived_is_accepted(folder):
    """Two attempts, a refusal, an event out of turn and a delivery later on: nothing of it is wrong."""
    verdict = verify(folder)
    assert verdict.accepted, str(verdict)
    assert (verdict.session, verdict.segments, verdict.torn, verdict.undecided) == (folder.name, 3, (), {})
    assert (
        str(verdict)
        == f"accepted: {verdict.steps} steps, ends at journal-000003.jsonl line {verdict.end.line}; "
        "2 digests not checkable: the files are gone"
    )


def test_whoever_verifies_changes_nothing(folder):
    """Every byte and every time of change in the folder stays."""

    def everything() -> dict[str, tuple[int, bytes]]:
        return {str(f): (f.stat().st_mtime_ns, f.read_bytes()) for f in folder.rglob("*") if f.is_file()}

    before = everything()
    verify(folder)
    assert everything() == before


def test_checks_made_anew_over_the_same_lines_are_accepted(forgery):
    """The tools of these tests forge nothing by themselves: what they find wrong was made wrong."""
    forgery.renumber()
    forgery.write()
    assert verify(forgery.folder).accepted


@given(ways=st.lists(SAYINGS, min_size=1, max_size=3))
@settings(deadline=None)
def test_whatever_a_session_was_told_its_journal_is_accepted(ways):
    """Random ways through several attempts, out of turn and back, whoever spoke: what was really decided can have been."""
    with tempfile.TemporaryDirectory() as name:
        clock = VirtualClock()
        opened = opening.create(Path(name), opening.new_id(clock.wall(), _Chance()), clock, _deaf)
        folder = opened.folder
        opened.close()
        for way in ways:
            opened = opening.begin_attempt(folder, clock, _deaf)
            say(opened.door, clock, way)
            opened.close()
            clock.jump(-3600.0)
        verdict = verify(folder)
        assert verdict.proven, str(verdict)  # the files that it tells of never were


def _deaf(*_: object) -> None:
    """Hears nothing."""


def test_a_number_that_was_told_without_a_point_is_accepted(tmp_path):
    """A trainer may say `3` where `3.0` is meant; its line is read as what it says, and adds nothing."""
    clock = VirtualClock()
    opened = opening.create(tmp_path, opening.new_id(clock.wall(), _Chance()), clock, _deaf)
    start = {
        "session": opened.folder.name,
        "name": "x",
        "metrics_interval": 7,
        "config": {"lr": 1, "big": 2**70},
    }
    opened.door.tell(journal.events.PretrainRoutineStart, **start)
    opened.close()
    verdict = verify(opened.folder)
    assert verdict.accepted, str(verdict)


def test_a_packed_journal_is_accepted(folder):
    """Closed segments that were compressed are judged as before."""
    before = verify(folder)
    journal.compress_closed(folder, 3)
    assert verify(folder) == before
    assert len(list(folder.glob("*.gz"))) == 2


def test_a_session_that_a_process_owns_is_judged_as_far_as_it_has_come(tmp_path):
    """Nobody has to let go of a session for it; what is written meanwhile counts."""
    clock = VirtualClock()
    opened = opening.create(tmp_path, opening.new_id(clock.wall(), _Chance()), clock, lambda *_: None)
    steps = []
    for hub in ("http://a.test", None):
        opened.door.tell(Answered, hub=hub)
        steps.append(verify(opened.folder).steps)
    opened.close()
    assert steps == [1, 2]


def test_whoever_watches_hears_how_far_it_is(folder, monkeypatch):
    """A long journal takes a while, so the count of lines is told now and then."""
    monkeypatch.setattr("hubstate.proof.verify._TOLD_EVERY", 20)
    heard: list[int] = []
    verify(folder, watch=heard.append)
    assert heard == [20, 40]


def test_what_is_written_meanwhile_is_judged_as_well(folder, monkeypatch):
    """A process that opens the session while it is judged begins a segment, and that one counts."""
    monkeypatch.setattr("hubstate.proof.verify._TOLD_EVERY", verify(folder).steps)

    def go_on(_lines: int) -> None:
        opened = opening.reopen(folder, VirtualClock(), lambda *_: None)
        opened.door.tell(Answered, url="http://hub.test/meanwhile")
        opened.close()

    verdict = verify(folder, watch=go_on)
    assert verdict.accepted, str(verdict)
    assert verdict.end == Place("journal-000004.jsonl", 2)


def test_a_lost_tail_is_an_end(forgery):
    """Nobody can know of lines behind the last one: the verdict says where it ends."""
    del forgery.raw[2][-2:]
    forgery.write_raw()
    verdict = verify(forgery.folder)
    assert verdict.accepted
    assert verdict.end == Place(forgery.files[2].name, len(forgery.raw[2]))


@pytest.mark.parametrize("kept", [1, 40])
def test_half_a_last_line_is_named_and_no_mistake(forgery, kept):
    """What a power cut tore, or what is being written just now, stands behind the end."""
    forgery.raw[2][-1] = forgery.raw[2][-1][:kept]
    forgery.write_raw()
    verdict = verify(forgery.folder)
    assert verdict.accepted
    assert verdict.torn == (Place(forgery.files[2].name, len(forgery.raw[2])),)
    assert "half a line stands at journal-000003.jsonl" in str(verdict)


def test_half_a_line_that_nothing_was_built_on_is_no_mistake(folder):
    """After a power cut the next process goes on behind the last whole line, and so does the replay."""
    with (folder / "journal-000003.jsonl").open("ab") as file:
        file.write(b'{"n":99,"att')
    opened = opening.reopen(folder, VirtualClock(), lambda *_: None)
    opened.door.tell(Answered, url="http://hub.test/again")
    opened.close()
    verdict = verify(folder)
    assert verdict.accepted, str(verdict)
    assert [place.file for place in verdict.torn] == ["journal-000003.jsonl"]
    assert verdict.end == Place("journal-000004.jsonl", 2)


def test_several_half_heads_that_nothing_was_built_on_are_no_mistake(folder):
    """One power cut may tear the heads of several openings, none of which the disk kept: the next goes on before them."""
    for _ in range(2):
        opening.reopen(folder, VirtualClock(), lambda *_: None).close()
    for number in (4, 5):
        segment = folder / f"journal-{number:06d}.jsonl"
        segment.write_bytes(segment.read_bytes()[:40])
    opened = opening.reopen(folder, VirtualClock(), lambda *_: None)
    opened.door.tell(Answered, url="http://hub.test/again")
    opened.close()
    verdict = verify(folder)
    assert verdict.accepted, str(verdict)
    assert [place.file for place in verdict.torn] == ["journal-000004.jsonl", "journal-000005.jsonl"]
    assert verdict.end == Place("journal-000006.jsonl", 2)


def test_an_attempt_that_began_out_of_turn_is_accepted(folder, tmp_path):
    """An attempt whose only words were illegal leaves the session as it was, for the next one as well."""
    clock = VirtualClock()
    opened = opening.create(tmp_path, opening.new_id(clock.wall(), _Chance()), clock, lambda *_: None)
    opened.door.tell(journal.events.PretrainRoutineStart, session=opened.folder.name, name="x")
    opened.close()
    for _ in range(2):
        opened = opening.begin_attempt(opened.folder, clock, lambda *_: None)
        opened.door.tell(journal.events.RetryRefused)
        opened.close()
    opened = opening.reopen(opened.folder, clock, lambda *_: None)
    opened.door.tell(Abort, outcome=Outcome.FAILED, reason="out of memory")
    opened.close()
    verdict = verify(opened.folder)
    assert verdict.accepted, str(verdict)
    assert verdict.segments == 4


def test_without_a_journal_there_is_nothing_to_judge(tmp_path):
    """An empty folder is told apart from an empty session."""
    with pytest.raises(StorageError, match="no journal"):
        verify(tmp_path)


# -- what cannot have been -------------------------------------------------------------------------------


class Tampering(NamedTuple):
    """What is done to a journal: it returns the place that has to be named, by its file and line.

    `sealed`: the checks are made anew afterwards.
    """

    forge: Callable[[Forgery], Place_ | tuple[str, int]]
    says: str
    sealed: bool = True


def _rows(forgery: Forgery) -> Place_:
    """The first of two rows behind one another that ask for nothing."""
    return forgery.event("train_batch_end")


def _changed(place: Callable[[Forgery], Place_], change: Callable[[dict[str, Any]], object]) -> Any:
    def forge(forgery: Forgery) -> Place_:
        found = place(forgery)
        forgery.edit(found, change)
        return found

    return forge


def _raw(edit: Callable[[list[bytes], int], object], *, behind: int = 0) -> Any:
    def forge(forgery: Forgery) -> Place_:
        segment, line = _rows(forgery)
        edit(forgery.raw[segment], line)
        return segment, line + behind

    return forge


def _swap(lines: list[bytes], line: int) -> None:
    lines[line], lines[line + 1] = lines[line + 1], lines[line]


def _drop(forgery: Forgery, *, renumbered: bool) -> Place_:
    segment, line = _rows(forgery)
    del forgery.texts[segment][line]
    if renumbered:
        forgery.renumber()
    return segment, line


def _double(forgery: Forgery, *, renumbered: bool) -> Place_:
    segment, line = _rows(forgery)
    forgery.texts[segment].insert(line, forgery.texts[segment][line])
    if renumbered:
        forgery.renumber()
    return segment, line + 1


def _swapped(forgery: Forgery, *, renumbered: bool) -> Place_:
    segment, line = _rows(forgery)
    _swap(forgery.texts[segment], line)
    if renumbered:
        forgery.renumber()
    return segment, line


def _forged_receipt(forgery: Forgery) -> Place_:
    place = forgery.event("train_end")
    forgery.insert(place, forgery.event("delivered"), key=f"{forgery.folder.name}/9/rows/1-9")
    forgery.renumber()
    return place


def _receipt_too_soon(forgery: Forgery) -> Place_:
    """The receipt of the final checkpoint, told while the training goes on."""
    place = forgery.event("train_end")
    like = forgery.find(lambda line: "final" in line.get("event", {}).get("key", ""), segment=2)
    forgery.insert(place, like)
    forgery.renumber()
    return place


def _file_receipt(forgery: Forgery, kind: str = "best") -> Place_:
    """The receipt of a file that is still there."""
    return forgery.find(
        lambda line: (
            f"checkpoint/{kind}/best-3-2" in line.get("event", {}).get("key", "")
            and "sha256" in line["event"]
        )
    )


def _digest_of_a_lost_file(forgery: Forgery) -> Place_:
    """Where the file is gone, its second receipt tells that one of the two is forged."""
    shutil.rmtree(forgery.folder / "snapshots")
    forgery.edit(_file_receipt(forgery), lambda line: line["event"].update(sha256="0" * 64))
    return _file_receipt(forgery, "final")


def _receipt_told_again(forgery: Forgery, wanted: str) -> Place_:
    """A receipt is doubled in the line behind it."""
    segment, line = forgery.find(
        lambda step: (
            step.get("event", {}).get("event") == "delivered" and f"/{wanted}/" in step["event"]["key"]
        )
    )
    forgery.insert((segment, line + 1), (segment, line))
    forgery.renumber()
    return segment, line + 1


def _first_digest_removed(forgery: Forgery) -> Place_:
    """The first receipt of a file loses its digest; the next one, which has one, tells that it had one."""
    first = forgery.find(lambda line: "sha256" in line.get("event", {}))
    forgery.edit(first, lambda line: line["event"].pop("sha256"))
    return forgery.find(lambda line: "sha256" in line.get("event", {}))


def _of_ones_own_hub(forgery: Forgery) -> Place_:
    """The hub calls the session by its id, as one's own does, and no receipt has a digest any more."""
    session = forgery.folder.name.encode()
    for lines in forgery.texts:
        lines[:] = [text.replace(b'"model":"M"', b'"model":"%b"' % session) for text in lines]
    first = forgery.find(lambda line: "sha256" in line.get("event", {}))
    _no_digests(forgery)
    return first


def _no_digests(forgery: Forgery) -> None:
    for segment, lines in enumerate(forgery.texts):
        for line in range(len(lines)):
            if b'"sha256"' in lines[line]:
                forgery.edit((segment, line), lambda step: step["event"].pop("sha256"))
            if b'"final_sha256"' in lines[line]:
                forgery.edit((segment, line), lambda head: head["memory"].pop("final_sha256"))


def _without_a_segment(forgery: Forgery, segment: int) -> Place_:
    forgery.files[segment].unlink()
    del forgery.files[segment], forgery.raw[segment], forgery.texts[segment]
    return min(segment, len(forgery.files) - 1), 0


def _beginning_cut_off(forgery: Forgery) -> tuple[str, int]:
    """The first segment is taken away, and the second one given its name and number."""
    _without_a_segment(forgery, 0)
    for number, file in enumerate(forgery.files):
        forgery.files[number] = file.rename(forgery.folder / f"journal-{number + 1:06d}.jsonl")
        forgery.edit((number, 0), lambda head, number=number: head.update(segment=number + 1))
    forgery.renumber()
    return forgery.name((0, 0))


def _segment_never_was(forgery: Forgery) -> tuple[str, int]:
    """A segment is taken away, and what is behind it is numbered as if it had not been; its name tells."""
    line = forgery.read((1, 0))
    _without_a_segment(forgery, 1)
    forgery.edit((1, 0), lambda head: head.update(n=line["n"], memory=line["memory"]))
    return forgery.name((1, 0))


def _torn_at_the_end_of_a_segment(forgery: Forgery) -> Place_:
    """Half a line at the end of a closed segment is only no mistake if the next segment goes on before it."""
    forgery.raw[0][-1] = forgery.raw[0][-1][:-9]
    return 0, len(forgery.raw[0]) - 1


def _a_heartbeat(forgery: Forgery) -> Place_:
    place = forgery.event("train_end")
    forgery.insert(place, forgery.event("delivered"), key=f"{forgery.folder.name}/2/heartbeat")
    forgery.renumber()
    return place


def _a_tick_of_nothing(forgery: Forgery) -> Place_:
    place = forgery.event("train_end")
    forgery.insert(place, forgery.event("delivered"))
    forgery.edit(place, lambda line: line.update(event={"event": "tick", "at": line["event"]["at"]}))
    forgery.renumber()
    return place


def _begins_behind_its_checkpoint(forgery: Forgery) -> Place_:
    """Event and action agree, and so does the decision; only the property knows that epochs were skipped."""
    place = forgery.event("pretrain_routine_start", segment=1)

    def skip(line: dict[str, Any]) -> None:
        line["event"]["first_epoch"] = line["actions"][0]["first_epoch"] = 7

    forgery.edit(place, skip)
    return place


def _said_twice(forgery: Forgery) -> Place_:
    """The key of a receipt stands in it twice: a reader that takes the first one sees another than one that does not."""
    segment, line = place = forgery.event("delivered")
    text = forgery.texts[segment][line]
    forgery.texts[segment][line] = text.replace(b'"key":', b'"key":"S/1/rows/1-1","key":', 1)
    return place


def _in_another_folder(forgery: Forgery) -> Place_:
    """The journal of one session in the folder of another one."""
    other = opening.new_id(1.0, _Chance())
    forgery.folder = forgery.folder.rename(forgery.folder.with_name(other))
    forgery.files = [forgery.folder / file.name for file in forgery.files]
    return 0, 0


def _head(segment: int) -> Callable[[Forgery], Place_]:
    return lambda _forgery: (segment, 0)


def _held_back(forgery: Forgery) -> Place_:
    return forgery.find(lambda line: "not strictly better" in line.get("refusal", ""))


def _illegal(forgery: Forgery) -> Place_:
    return forgery.find(lambda line: line.get("illegal", False))


def _last(forgery: Forgery) -> Place_:
    return 2, len(forgery.texts[2]) - 1


def _asking(forgery: Forgery) -> Place_:
    return forgery.event("fit_epoch_end")


def _attempt(forgery: Forgery) -> Place_:
    """Every step of the second attempt says that it is of a third."""
    for line in range(1, len(forgery.texts[1])):
        forgery.edit((1, line), lambda step: step.update(attempt=3))
    return 1, 1


TAMPERINGS = {
    # The checks are left as they were.
    "a line is dropped": Tampering(_raw(lambda lines, n: lines.pop(n)), "lines are missing", sealed=False),
    "a line is doubled": Tampering(
        _raw(lambda lines, n: lines.insert(n, lines[n]), behind=1), "lines are missing", sealed=False
    ),
    "two lines are swapped": Tampering(_raw(_swap), "lines are missing", sealed=False),
    "a line is edited": Tampering(
        _raw(lambda lines, n: lines.__setitem__(n, lines[n].replace(b"loss", b"gain"))),
        "not as it was written",
        sealed=False,
    ),
    "a foreign line": Tampering(
        _raw(lambda lines, n: lines.insert(n, b'{"level":"info"}\n')), "no journal line", sealed=False
    ),
    "the first segment is gone": Tampering(lambda f: _without_a_segment(f, 0), "missing", sealed=False),
    "a segment is gone": Tampering(lambda f: _without_a_segment(f, 1), "missing", sealed=False),
    "half a line that was built on": Tampering(_torn_at_the_end_of_a_segment, "half a line", sealed=False),
    "in the folder of another session": Tampering(
        _in_another_folder, "in the folder of another", sealed=False
    ),
    # The checks are made anew: what is found is found by the replay.
    "dropped": Tampering(lambda f: _drop(f, renumbered=False), "it is numbered"),
    "dropped, and numbered anew": Tampering(lambda f: _drop(f, renumbered=True), "records row"),
    "doubled": Tampering(lambda f: _double(f, renumbered=False), "it is numbered"),
    "doubled, and numbered anew": Tampering(lambda f: _double(f, renumbered=True), "records row"),
    "swapped": Tampering(lambda f: _swapped(f, renumbered=False), "it is numbered"),
    "swapped, and numbered anew": Tampering(lambda f: _swapped(f, renumbered=True), "records row"),
    "a receipt of what nobody asked for": Tampering(_forged_receipt, "a forged receipt"),
    "a receipt before its key": Tampering(_receipt_too_soon, "which only step"),
    "another digest in a receipt": Tampering(
        _changed(_file_receipt, lambda line: line["event"].update(sha256="0" * 64)),
        "a forged receipt: the digest",
    ),
    "another digest, the file being gone": Tampering(_digest_of_a_lost_file, "a forged receipt: the digest"),
    "a digest of what is no file": Tampering(
        _changed(lambda f: f.event("delivered"), lambda line: line["event"].update(sha256="0" * 64)),
        "is no file",
    ),
    "more rows than were asked for": Tampering(
        _changed(lambda f: f.event("delivered", rows=5), lambda line: line["event"].update(rows=6)),
        "6 rows of",
    ),
    "fewer rows than were asked for": Tampering(
        _changed(lambda f: f.event("delivered", rows=5), lambda line: line["event"].update(rows=4)),
        "4 of the 5 rows",
    ),
    "a receipt of rows, told again": Tampering(
        lambda f: _receipt_told_again(f, "rows"), "tells already that"
    ),
    "a receipt of a file, told again": Tampering(
        lambda f: _receipt_told_again(f, "checkpoint"), "tells already that"
    ),
    "a digest that is removed": Tampering(
        _changed(_file_receipt, lambda line: line["event"].pop("sha256")),
        "has no digest, and the one in step",
    ),
    "the first digest that is removed": Tampering(_first_digest_removed, "has a digest, and the one in step"),
    "all digests of one's own hub removed": Tampering(_of_ones_own_hub, "its hub tells one of every file"),
    "attempts numbered anew": Tampering(_attempt, "is of attempt 2; recorded is 3"),
    "the answer of a guard": Tampering(
        _changed(_asking, lambda line: line.update(guards={"metrics_due": False})), "metrics_due"
    ),
    "another key": Tampering(
        _changed(_asking, lambda line: line["actions"][0].update(key="S/1/rows/1-2")), "asks for"
    ),
    "an action less": Tampering(_changed(_asking, lambda line: line.pop("actions")), "asks for"),
    "another way": Tampering(
        _changed(lambda f: f.event("train_end"), lambda line: line.update(to="aborted")),
        "leads to finalizing",
    ),
    "from elsewhere": Tampering(
        _changed(lambda f: f.event("train_end"), lambda line: line.update({"from": "timing"})),
        "begins in timing",
    ),
    "a reason less": Tampering(_changed(_held_back, lambda line: line.pop("refusal")), "is refused because"),
    "out of turn, and not called so": Tampering(
        _changed(_illegal, lambda line: line.pop("illegal")), "is illegal: yes"
    ),
    "a row that was none": Tampering(_changed(_rows, lambda line: line.pop("row")), "records row"),
    "a time that goes back": Tampering(
        _changed(_rows, lambda line: line["event"].update(at=line["event"]["at"] - 60)), "goes back"
    ),
    "an earlier time, before the limit was over": Tampering(
        _changed(lambda f: f.event("tick"), lambda line: line["event"].update(at=_before(line))),
        "decided again",
    ),
    "a time that no calendar has": Tampering(
        _changed(_last, lambda line: line["event"].update(at=1e308)), "which no clock tells"
    ),
    "a time before all clocks": Tampering(
        _changed(lambda _forgery: (0, 1), lambda line: line["event"].update(at=-1.0)), "which no clock tells"
    ),
    "a heartbeat": Tampering(_a_heartbeat, "heartbeats are not written down"),
    "a tick of nothing": Tampering(_a_tick_of_nothing, "tick is not written down"),
    "epochs that are skipped": Tampering(_begins_behind_its_checkpoint, "S7 is violated"),
    "another memory in a head": Tampering(
        _changed(_head(2), lambda head: head["memory"].update(rows_delivered=99)), "rows_delivered is 99"
    ),
    "a sign of life in a head": Tampering(
        _changed(_head(1), lambda head: head["memory"].update(heartbeat_since=1.0)), "heartbeat_since is 1.0"
    ),
    "another session in a head": Tampering(
        _changed(_head(1), lambda head: head.update(session="S")), "of session 'S'"
    ),
    "another number in a head": Tampering(
        _changed(_head(1), lambda head: head.update(n=3)), "the next step would be 3"
    ),
    "the head of another segment": Tampering(
        _changed(_head(1), lambda head: head.update(segment=5)), "the head of segment 5"
    ),
    "the beginning cut off": Tampering(_beginning_cut_off, "begins with nothing but its id"),
    "a segment that never was": Tampering(_segment_never_was, "segment 2 is missing"),
    "a field that nobody reads": Tampering(
        _changed(_rows, lambda line: line.update(note="all is well")), "no hubstate writes"
    ),
    "a field that nobody reads in an event": Tampering(
        _changed(_rows, lambda line: line["event"].update(note="all is well")), "no hubstate writes"
    ),
    "a field that nobody reads in a head": Tampering(
        _changed(_head(1), lambda head: head.update(note="all is well")), "no hubstate writes"
    ),
    "a field that is said twice": Tampering(_said_twice, "it says 'key' twice"),
    "an event that does not exist": Tampering(
        _changed(_rows, lambda line: line["event"].update(event="coffee_break")), "cannot be understood"
    ),
}


def _before(line: dict[str, Any]) -> float:
    """A time shortly before this one, within the same second as the line before it."""
    at = line["event"]["at"]
    assert isinstance(at, float)
    return at - 0.5


@DAMAGED
@pytest.mark.parametrize("tampering", TAMPERINGS.values(), ids=TAMPERINGS.keys())
def test_the_first_line_that_cannot_be_is_named(forgery, tampering):
    """Whatever is done to a journal, with the checks made anew or not: file, line and step are named, and what is wrong."""
    found = tampering.forge(forgery)
    (forgery.write if tampering.sealed else forgery.write_raw)()
    file, line = found if isinstance(found[0], str) else forgery.name(found)
    verdict = verify(forgery.folder)
    assert verdict.wrong is not None
    place, n, what = verdict.wrong
    assert place == Place(file, line), str(verdict)
    assert tampering.says in what
    assert n == verdict.steps + 1 or "it is numbered" in what
    assert str(verdict) == f"not accepted: {file} line {line} (step {n}): {what}"


def test_at_least_twenty_ways_to_tamper_are_tried():
    """The list does not shrink."""
    assert len(TAMPERINGS) >= 20


@DAMAGED
@pytest.mark.parametrize("lost", [1, 40])
def test_a_packed_segment_that_breaks_off_is_named(forgery, lost):
    """The first line that cannot be read any more is the one behind the last whole one."""
    name = forgery.pack(0, lost=lost)
    verdict = verify(forgery.folder)
    assert verdict.wrong is not None
    assert verdict.wrong.place == Place(name, verdict.end.line + 1)
    assert "packed segment is damaged" in verdict.wrong.what
    assert verdict.end.file == forgery.files[0].name


@DAMAGED
def test_a_journal_without_its_first_line_has_no_beginning(folder):
    """A head that was torn before anything followed is no session."""
    for file in sorted(folder.glob("journal-*"))[1:]:
        file.unlink()
    os.truncate(folder / "journal-000001.jsonl", 30)
    verdict = verify(folder)
    assert verdict.wrong is not None
    assert verdict.wrong.what == "the journal has no beginning"


@DAMAGED
def test_no_file_outside_is_looked_at(forgery):
    """A journal that names a file elsewhere is wrong, in the line of its receipt, whatever that file holds."""
    for lines in forgery.texts:
        lines[:] = [text.replace(b"best-3-2", b"../best-3") for text in lines]
    forgery.write()
    verdict = verify(forgery.folder)
    assert verdict.wrong is not None
    assert verdict.wrong.what == "'../best-3' is no name of a kept file"
    receipt = forgery.find(lambda line: "../best-3" in line.get("event", {}).get("key", ""))
    assert verdict.wrong.place == Place(*forgery.name(receipt))


@DAMAGED
def test_a_segment_behind_a_gap_is_named_even_if_nothing_stands_in_it(folder):
    """Nobody begins the ninth segment behind the third: others were taken away."""
    (folder / "journal-000009.jsonl").write_bytes(b"")
    verdict = verify(folder)
    assert verdict.wrong is not None, str(verdict)
    assert verdict.wrong.place == Place("journal-000009.jsonl", 1)
    assert verdict.wrong.what == "segment 4 is missing before this one"


@pytest.mark.parametrize(
    ("name", "text"), [("journal-000004.jsonl", b""), ("journal-000004.jsonl.gz", gzip.compress(b""))]
)
def test_a_segment_in_which_nothing_stands_is_named_and_no_mistake(folder, name, text):
    """Whoever began it died before its head was written; whoever goes on does so behind it."""
    (folder / name).write_bytes(text)
    verdict = verify(folder)
    assert verdict.accepted, str(verdict)
    assert verdict.empty == ("journal-000004.jsonl",)
    assert "; nothing stands in journal-000004.jsonl" in str(verdict)
    opened = opening.reopen(folder, VirtualClock(), _deaf)
    opened.door.tell(Answered, url="http://hub.test/again")
    opened.close()
    verdict = verify(folder)
    assert verdict.accepted, str(verdict)
    assert (verdict.empty, verdict.end) == (("journal-000004.jsonl",), Place("journal-000005.jsonl", 2))


@pytest.mark.parametrize("place", [_held_back, _illegal], ids=["held back", "illegal"])
def test_other_words_for_a_refusal_are_counted_and_no_mistake(forgery, place):
    """The next version may say the same better: that it was refused is decided again, and how it is told is not."""
    forgery.edit(place(forgery), lambda line: line.update(refusal="not just now"))
    forgery.write()
    verdict = verify(forgery.folder)
    assert verdict.accepted, str(verdict)
    assert verdict.reworded == 1
    assert "; 1 refusal is told in other words than here" in str(verdict)


# -- what waits ------------------------------------------------------------------------------------------


@pytest.fixture
def waiting(tmp_path: Path) -> Path:
    """A session that trains: the first checkpoint was asked for, the second, a better one, is only kept."""
    door = train(door_in(tmp_path / "waiting", VirtualClock()), checkpoint_interval=0.0)
    for number, name in enumerate(("first", "second")):
        save(door, tmp_path / "waiting" / "snapshots", name, number, number / 2)
    door.close()
    return tmp_path / "waiting"


@pytest.mark.parametrize("name", ["first", "second"])
def test_what_waits_for_a_hub_has_to_be_here(waiting, name):
    """A kept file that no hub has yet, and that is gone or of another length, is lost: such a session is not accepted."""
    assert verify(waiting).accepted
    file = waiting / "snapshots" / name
    file.write_bytes(b"short")
    verdict = verify(waiting)
    assert (verdict.accepted, verdict.wrong) == (False, None)
    size = len(name) * 10
    assert verdict.lost == (Lost(name, f"waits for a hub and has 5 bytes, and had {size} when it was kept"),)
    file.unlink()
    verdict = verify(waiting)
    assert not verdict.accepted
    assert str(verdict).startswith("not accepted: what waits for a hub is lost: 5 steps, ends at line 6; ")
    assert f"the kept file {name} waits for a hub and cannot be had: " in str(verdict)


def test_no_file_outside_is_looked_at_for_what_waits(waiting):
    """A journal that names a file elsewhere as one that waits is not accepted, whatever that file holds."""
    forgery = Forgery(waiting)
    for lines in forgery.texts:
        lines[:] = [text.replace(b'"snapshot":"first"', b'"snapshot":"../first"') for text in lines]
        lines[:] = [text.replace(b"/best/first", b"/best/../first") for text in lines]
    forgery.write()
    (waiting / "snapshots" / "first").rename(waiting / "first")
    assert verify(waiting).lost == (Lost("../first", "has a name that no kept file has"),)


def test_a_copy_that_goes_while_it_is_looked_for_was_delivered(waiting, monkeypatch):
    """A living process writes the receipt before it removes the copy, so whoever misses one reads on first."""
    door = door_in(waiting, VirtualClock())

    def deliver_first(path: Path) -> Stat:
        if path.name == "first" and path.exists():
            door.tell(Delivered, key="S/1/checkpoint/best/first", sha256="0" * 64)
            path.unlink()
        return look(path)

    monkeypatch.setattr(room, "look", deliver_first)
    verdict = verify(waiting)
    door.close()
    assert verdict.accepted, str(verdict)
    assert verdict.steps == 6


def test_bytes_that_were_swapped_for_as_many_others_are_not_seen(waiting):
    """A journal holds the length of what was kept, and no digest before a hub tells one."""
    file = waiting / "snapshots" / "first"
    file.write_bytes(bytes(len(file.read_bytes())))
    assert verify(waiting).accepted


# -- what a journal alone cannot tell --------------------------------------------------------------------


def test_a_number_in_a_row_that_was_changed_with_all_checks_is_not_seen(forgery):
    """No decision rests on it, so nothing in the journal contradicts it: only who holds the same row can tell."""
    forgery.edit(_rows(forgery), lambda line: line["event"]["metrics"].update(loss=0.0001))
    forgery.write()
    assert verify(forgery.folder).accepted


def test_what_no_digest_could_be_held_against_is_counted(forgery):
    """Files that are gone prove nothing, and the verdict says of how many; so it does where a hub tells no digest."""
    shutil.rmtree(forgery.folder / "snapshots")
    told = {
        forgery.read((s, n)).get("event", {}).get("sha256")
        for s, t in enumerate(forgery.texts)
        for n in range(len(t))
    }
    verdict = verify(forgery.folder)
    assert verdict.accepted, str(verdict)
    assert (verdict.gone, verdict.untold) == (len(told - {None}), 0)
    assert str(verdict).endswith(f"; {verdict.gone} digests not checkable: the files are gone")
    _no_digests(forgery)
    forgery.write()
    foreign = verify(forgery.folder)
    assert foreign.accepted, str(foreign)
    assert (foreign.gone, foreign.untold) == (0, verdict.gone)
    assert str(foreign).endswith(f"; the hub told no digest of {verdict.gone} files")


# -- another table ---------------------------------------------------------------------------------------


def _under_another_table(forgery: Forgery, *segments: int) -> None:
    for segment in segments:
        forgery.edit((segment, 0), lambda head: head.update(table="0123456789abcdef"))


@DAMAGED
def test_steps_of_another_table_are_counted_and_not_proven(forgery):
    """What cannot be decided again is said to be so: nothing is called wrong, and nothing is accepted."""
    _under_another_table(forgery, 0, 1)
    forgery.edit(_asking(forgery), lambda line: line.update(guards={"other": True}))
    forgery.write()
    verdict = verify(forgery.folder)
    assert (verdict.wrong, verdict.accepted) == (None, False), str(verdict)
    steps = len(forgery.texts[0]) + len(forgery.texts[1]) - 2
    assert verdict.undecided == {"0123456789abcdef": steps}
    assert str(verdict).startswith(f"not proven: decided under another table: {verdict.steps} steps")
    assert f"{steps} of them were decided by the table 0123456789abcdef, and cannot be" in str(verdict)


@DAMAGED
def test_a_segment_of_another_table_is_enough_to_be_not_proven(folder):
    """Even where no step stands in it: what was watched before is not watched behind it."""
    opening.reopen(folder, VirtualClock(), _deaf).close()
    forgery = Forgery(folder)
    _under_another_table(forgery, 3)
    forgery.write()
    verdict = verify(folder)
    assert (verdict.wrong, verdict.accepted, verdict.undecided) == (None, False, {"0123456789abcdef": 0})


@DAMAGED
@pytest.mark.parametrize(
    "name",
    [
        "dropped, and numbered anew",
        "a receipt of what nobody asked for",
        "another digest in a receipt",
        "attempts numbered anew",
        "from elsewhere",
        "a time that goes back",
        "another memory in a head",
    ],
)
def test_what_rests_on_no_table_is_judged_under_any(forgery, name):
    """Numbers, states, rows, receipts, times and heads have to be right whoever decided."""
    _under_another_table(forgery, 0, 1, 2)
    tampering = TAMPERINGS[name]
    place = tampering.forge(forgery)
    assert isinstance(place[0], int)
    forgery.write()
    verdict = verify(forgery.folder)
    assert verdict.wrong is not None
    assert verdict.wrong.place == Place(*forgery.name(place)), str(verdict)


def _moved(source: str, target: str, **event: Any) -> Callable[[Forgery], Place_]:
    """A step at the end of everything, from where the session is to somewhere else."""

    def forge(forgery: Forgery) -> Place_:
        place = 2, len(forgery.texts[2])
        forgery.insert(place, forgery.event("delivered"))
        forgery.edit(place, lambda line: line["event"].clear() or line["event"].update(at=2e9, **event))
        forgery.edit(place, lambda line: line.update({"from": source, "to": target}))
        forgery.renumber()
        return place

    return forge


_STOP = {"event": "stop_requested", "reason": "pressed"}


def _done_too_soon(forgery: Forgery) -> Place_:
    """Somebody's wish ends the session while deliveries wait, and what followed is cut off."""
    place = forgery.event("delivered", segment=2)
    del forgery.texts[2][place[1] :]
    return _moved("finalizing", "done", **_STOP)(forgery)


def _not_all_acknowledged(forgery: Forgery) -> Place_:
    """The first acknowledgement after the end of the training is said to be the last."""
    place = forgery.event("delivered", segment=2)
    del forgery.texts[2][place[1] + 1 :]
    forgery.edit(place, lambda line: line.update(to="done"))
    return place


def _asked_again(forgery: Forgery) -> Place_:
    """What was asked for once is asked for again, by the next row that asks for nothing."""
    place = _rows(forgery)
    asked = forgery.read(forgery.event("model_save", segment=1))["actions"]
    forgery.edit(place, lambda line: line.update(actions=asked))
    return place


def _heartbeat_at_the_end(forgery: Forgery) -> Place_:
    """Somebody who is done says that he lives."""
    place = _moved("done", "done", **_STOP)(forgery)
    beat = {"action": "heartbeat", "key": f"{forgery.folder.name}/2/heartbeat", "attempt": 2}
    forgery.edit(
        place,
        lambda line: line.update(
            actions=[beat | {"state": "done", "outcome": "finished", "epoch": 1, "waiting": 1}]
        ),
    )
    return place


UNDER_ANY_TABLE = {
    "done by a wish": Tampering(_done_too_soon, "S6 is violated"),
    "done before everything is acknowledged": Tampering(_not_all_acknowledged, "S6 is violated"),
    "done, and training again": Tampering(_moved("done", "training", **_STOP), "S4 is violated"),
    "done, and then aborted": Tampering(_moved("done", "aborted", **_STOP), "S4 is violated"),
    "a heartbeat of who is done": Tampering(_heartbeat_at_the_end, "S5 is violated"),
    "a state that is left out": Tampering(
        _changed(lambda f: f.event("pretrain_routine_end"), lambda line: line.update(to="training")),
        "S4 is violated",
    ),
    "a row that is called illegal": Tampering(
        _changed(_rows, lambda line: line.pop("row") and line.update(illegal=True, refusal="no")),
        "S1 is violated",
    ),
    "illegal, and it leads elsewhere": Tampering(
        _changed(_illegal, lambda line: line.update(to="finalizing")), "S4 is violated"
    ),
    "rows that are left out": Tampering(
        _changed(lambda f: f.event("train_end"), lambda line: line["actions"].pop(0)), "S1 is violated"
    ),
    "rows that are skipped": Tampering(
        _changed(_asking, lambda line: line["actions"][0].update(first=2, last=2)), "S1 is violated"
    ),
    "asked for a second time": Tampering(_asked_again, "S3 is violated"),
}


@DAMAGED
@pytest.mark.parametrize("tampering", UNDER_ANY_TABLE.values(), ids=UNDER_ANY_TABLE.keys())
def test_whoever_names_another_table_may_not_do_as_he_likes(forgery, tampering):
    """A journal names its table itself, so what no table allows is found whatever it names."""
    place = tampering.forge(forgery)
    _under_another_table(forgery, 0, 1, 2)
    forgery.write()
    verdict = verify(forgery.folder)
    assert verdict.wrong is not None, str(verdict)
    assert verdict.wrong.place == Place(*forgery.name(place)), str(verdict)
    assert tampering.says in verdict.wrong.what


class _Chance:
    """Chance that is none."""

    def getrandbits(self, bits: int) -> int:
        return bits
