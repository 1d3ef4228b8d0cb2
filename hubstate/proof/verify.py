"""The journal as evidence: every line of a session is judged again, from the first to the last.

Reading proves that the lines are those that were written: each carries a check of itself and of the line before it.
But whoever edits a journal can compute the checks anew, so nothing here rests on them. The journal is replayed: each
step is decided again by `controller.decide`, with the memory that the lines before it left, and has to come out as it
was recorded; the head of each segment has to hold the memory that was replayed (the first one nothing but a name, or,
of a session that another machine began, what a hub can tell); times do not go back within a segment,
which one process wrote; a receipt has to be one for a delivery that was asked for before, told once, of all its
rows unless it says why not, with one digest for one file, the file's own where that is still here; and the properties
of `proof.properties` are watched on the way. At the end, what waits for a hub has to lie here, as long as it was kept.

The words of a refusal are not decided again, only that there is one: the next version may say the same better. The
verdict counts those that are said otherwise.

What cannot be known from a journal alone: whether lines are missing at its end, whether the digest of a file that is
gone was its own (the verdict counts them), whether a kept file has the bytes that were kept, whether what was said from
outside is what was said (`proof.holdings` compares rows, files and the end with the hub's), and whether the whole of it
was made up, decision by decision.

Steps that were decided by another table than this one's cannot be decided again, and a journal names its table itself.
So such steps are adopted as they are, whatever rests on no table is judged all the same (numbers, rows, receipts, times,
the ways that there are, and what done and aborted mean under any), and the journal is called neither wrong nor
accepted: it is not proven, and the verdict counts the steps.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from hubstate.actions import (
    Action,
    AnyAction,
    CloseSession,
    Decision,
    Heartbeat,
    Memory,
    RecordUsage,
    Refusal,
    SendCheckpoint,
    SendRows,
)
from hubstate.controller import decide
from hubstate.elsewhere import could_be_told
from hubstate.errors import CheckpointMissing, StorageError
from hubstate.events import (
    Delivered,
    ExportStart,
    FitEpochEnd,
    HeldUp,
    PredictStart,
    Refused,
    RetryRefused,
    TrainBatchEnd,
    ValStart,
    name_of,
)
from hubstate.journal import (
    BEGINNING,
    HALF_A_LINE,
    Damage,
    Head,
    Position,
    Step,
    adopt_step,
    check_of,
    is_empty,
    read,
    segments,
    text_at,
)
from hubstate.machine import DECIDE_ALIKE, TABLE_DIGEST
from hubstate.opening import for_next_attempt, is_id
from hubstate.proof.properties import PROPERTIES, Began, Copy, Fact, Monitor, Told
from hubstate.snapshots import Snapshots, digest, look
from hubstate.states import LIVE_STATES, TERMINAL_STATES, Outcome, State

__all__ = ["Lost", "Place", "Verdict", "Wrong", "verify"]


class Place(NamedTuple):
    """A line: `line` counts from 1 within its file, of a packed one within its text."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file} line {self.line}"


class Wrong(NamedTuple):
    """The first line that cannot be: where it stands, what is wrong with it, and the step that it is, or should be."""

    place: Place
    n: int
    what: str


class Lost(NamedTuple):
    """A kept file that no hub has yet, and that is not here as it was kept: its name, and what is wrong with it."""

    file: str
    what: str


@dataclass(frozen=True)
class Verdict:
    """What came out. `steps` were found in order; `end` is the last line that was read.

    `wrong` is None if all of it can be. `torn`: half lines, as a power cut leaves them, that nothing was built on; the
    last may be one that is being written just now. `empty`: segments in which nothing stands. `undecided`: how many steps
    were decided by which other table; the journal is not proven then, even if nothing in it is wrong. `reworded`: how
    many refusals are told in other words than this hubstate's. `gone`: how many files' digests could not be held against
    the file, which is not here any more; `untold`: of how many files the hub told none. `lost`: what waits for a hub, and
    is not here as it was kept.
    """

    session: str
    steps: int
    segments: int
    end: Place
    torn: tuple[Place, ...] = ()
    empty: tuple[str, ...] = ()
    undecided: dict[str, int] = field(default_factory=dict)
    reworded: int = 0
    gone: int = 0
    untold: int = 0
    lost: tuple[Lost, ...] = ()
    wrong: Wrong | None = None

    @property
    def proven(self) -> bool:
        """Whether no line is wrong, and every step could be decided again. It says nothing about files."""
        return self.wrong is None and not self.undecided

    @property
    def accepted(self) -> bool:
        """Whether it is proven, and what waits for a hub is still here."""
        return self.proven and not self.lost

    def __str__(self) -> str:
        if self.wrong is not None:
            place, n, what = self.wrong
            return f"not accepted: {place} (step {n}): {what}"
        end = f"line {self.end.line}" if self.segments == 1 else f"{self.end}"
        said = "accepted" if self.proven else "not proven: decided under another table"
        if self.lost:
            said = "not accepted: what waits for a hub is lost"
        words = [f"{said}: {self.steps} {'step' if self.steps == 1 else 'steps'}, ends at {end}"]
        words += [f"the kept file {name} {what}" for name, what in self.lost]
        words += [f"half a line stands at {place}, and nothing was built on it" for place in self.torn]
        words += [f"nothing stands in {name}" for name in self.empty]
        words += [
            f"{count} of them were decided by the table {table}, and cannot be decided again here"
            for table, count in self.undecided.items()
        ]
        if self.reworded:
            refusals = "1 refusal is" if self.reworded == 1 else f"{self.reworded} refusals are"
            words.append(f"{refusals} told in other words than here")
        if self.gone:
            files = (
                "1 digest not checkable: the file is"
                if self.gone == 1
                else f"{self.gone} digests not checkable: the files are"
            )
            words.append(f"{files} gone")
        if self.untold:
            words.append(f"the hub told no digest of {self.untold} {'file' if self.untold == 1 else 'files'}")
        return "; ".join(words)


class _Line(NamedTuple):
    place: Place
    segment: int
    line: Head | Step | Damage


#: The ways from one state to another that there are under any table: along the spine, and out of it to aborted.
_WAYS = frozenset(
    {
        *pairwise(state for state in State if state is not State.ABORTED),
        *((state, State.ABORTED) for state in LIVE_STATES),
    }
)
#: What asks for a note of usage.
_USAGE = ValStart | PredictStart | ExportStart

#: The times that a journal may tell (s since 1970): from then up to the year 9999. No clock tells another one.
_LAST_TIME = 253_370_764_800.0

#: After how many lines whoever watches is told.
_TOLD_EVERY = 10_000


def verify(folder: Path, *, watch: Callable[[int], None] = lambda _lines: None) -> Verdict:
    """Judges the journal in `folder`, and stops at the first line that cannot be. It changes nothing.

    A journal that is being written is judged as far as it has come. `watch` hears now and then how many lines were
    judged. Raises `StorageError` if it cannot be read, or is
    written in a format that this hubstate does not know.
    """
    return _Replay(folder).run(watch)


# -- lines -----------------------------------------------------------------------------------------------


class _Lines:
    """The lines of a journal with their places, in order; half lines that nothing was built on are put aside."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._position = BEGINNING
        self._line = 0
        self.torn: list[Place] = []

    def __iter__(self) -> Iterator[_Line]:
        half: Place | None = None
        going_on = True
        while going_on:
            going_on, check = False, self._position.check
            for position, line in read(self._folder, self._position):
                check = position.check or check
                found = self._placed(position, line)
                if isinstance(line, Damage) and half is not None and line.what != HALF_A_LINE:
                    yield _Line(half, position.segment, Damage(half.file, half.line, HALF_A_LINE))
                    return
                half = None
                if isinstance(line, Damage) and line.what == HALF_A_LINE:
                    # Whoever went on after a power cut built on the line before this one, and so does the replay. The
                    # same cut may have left half a head in several segments, one behind the other.
                    half, going_on = found.place, True
                    self.torn.append(half)
                    self._position = Position(position.segment + 1, 0, check)
                    break
                found = self._as_written(position, found)
                self._position = position
                yield found
            going_on = going_on or self._has_grown()

    def _as_written(self, position: Position, found: _Line) -> _Line:
        """The line, or a damage in its place if it says more than what was read of it.

        Whoever writes a line anew may add what no reader looks at, or say a thing twice. What was read, written once
        more, has the same check; only where it has not, the text itself is looked at, for a number that was told as
        `3` is read as `3.0`.
        """
        line = found.line
        if isinstance(line, Damage):
            return found
        before = self._position
        if position.segment != before.segment:
            before = Position(position.segment, 0, before.check)
        if check_of(line, before.check) == position.check:
            return found
        more = _more_than(line, text_at(self._folder, before))
        return found._replace(line=Damage(found.place.file, found.place.line, more)) if more else found

    def _placed(self, position: Position, line: Head | Step | Damage) -> _Line:
        file = f"journal-{position.segment:06d}.jsonl"
        if isinstance(line, Damage):
            # Of a packed segment that breaks off nobody can tell more than where the last whole line was.
            place = Place(line.file, line.line or self._line + 1)
            return _Line(place, position.segment, line)
        self._line = 1 if isinstance(line, Head) else self._line + 1
        return _Line(Place(file, self._line), position.segment, line)

    def _has_grown(self) -> bool:
        """Whether whole lines stand behind the last one that was read; half a one is noted."""
        newest = segments(self._folder)[-1]
        file = self._folder / f"journal-{newest:06d}.jsonl"
        offset = self._position.offset if newest == self._position.segment else 0
        try:
            with file.open("rb") as text:
                text.seek(offset)
                rest = text.read()
        except FileNotFoundError:
            return False  # it is packed, and was read to its end
        except OSError as error:
            raise StorageError(f"cannot read {file}: {error.strerror}") from error
        if b"\n" in rest:
            return True
        half = Place(file.name, self._line + 1 if offset else 1)
        if rest and half not in self.torn:
            self.torn.append(half)
        return False


def _more_than(line: Head | Step, text: bytes) -> str:
    """What the text of a line says beside what was read of it; empty if nothing."""
    twice: list[str] = []

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        twice.extend(name for name in names if names.count(name) > 1)
        return dict(pairs)

    stands = json.loads(text, object_pairs_hook=once, parse_int=float)
    if twice:
        return f"it says {twice[0]!r} twice"
    if stands != json.loads(msgspec.json.encode(line), parse_int=float):
        return "it says something that no hubstate writes, or in a way in which none writes it"
    return ""


# -- the replay ------------------------------------------------------------------------------------------


class _Impossible(Exception):
    """What is wrong with the line that is being judged."""


class _Replay:
    """One reading of a journal. `_told` is the memory that recovery would find, `_memory` the one that decides."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lines = _Lines(folder)
        self._snapshots = Snapshots(folder / "snapshots")
        self._told = Memory()
        self._memory = Memory()
        self._n = 0
        self._count = 0
        self._end = Place("", 0)
        self._segment = 0
        #: The segments that have a head.
        self._headed: set[int] = set()
        self._at = 0.0
        self._table = TABLE_DIGEST
        self._begun = False
        #: None once another table decided: what is legal, and what may be asked for where, was another matter then.
        self._monitor: Monitor | None = Monitor(sees_hub=False)
        self._before_attempt: Monitor | None = self._monitor
        self._undecided: dict[str, int] = {}
        self._asked: dict[str, AnyAction] = {}
        self._digests: dict[str, str] = {}
        #: The steps that tell of rows and files that they were delivered.
        self._receipts: dict[str, int] = {}
        #: The first receipt of a file that was taken: its step, and whether it has a digest.
        self._first_file: tuple[int, bool] | None = None
        #: Files whose digest nothing here can be held against, and files whose receipts have none.
        self._gone: set[str] = set()
        self._untold: set[str] = set()
        self._reworded = 0

    def run(self, watch: Callable[[int], None]) -> Verdict:
        numbers = segments(self._folder)
        if not numbers:
            raise StorageError(f"there is no journal in {self._folder}")
        self._end = Place(f"journal-{numbers[0]:06d}.jsonl", 0)
        lost: tuple[Lost, ...] = ()
        while True:
            wrong = self._read_on(watch)
            if wrong is not None:
                return self._verdict(wrong)
            before, lost = lost, tuple(self._lost())
            # A living process tells of the delivery before it removes the file: its line is there by now.
            if not set(lost) - set(before):
                break
        if not self._segment:
            return self._verdict(Wrong(Place(self._end.file, 1), 1, "the journal has no beginning"))
        return self._verdict(self._behind_the_end(), lost)

    def _read_on(self, watch: Callable[[int], None]) -> Wrong | None:
        """Judges the lines that there are by now, behind those that were judged."""
        for place, segment, line in self._lines:
            self._count += 1
            if self._count % _TOLD_EVERY == 0:
                watch(self._count)
            try:
                self._judge(line, segment)
            except _Impossible as wrong:
                n = line.n if isinstance(line, Step) else self._n + 1
                return Wrong(place, n, str(wrong))
            self._end = place
        return None

    def _behind_the_end(self) -> Wrong | None:
        """Segments that have no head yet follow the last one that has, without a gap."""
        behind = [number for number in segments(self._folder) if number > self._segment]
        for expected, number in enumerate(behind, self._segment + 1):
            if number != expected:
                place = Place(f"journal-{number:06d}.jsonl", 1)
                return Wrong(place, self._n + 1, f"segment {expected} is missing before this one")
        return None

    def _lost(self) -> Iterator[Lost]:
        """What only this machine has, and does not have as it was kept."""
        memory = self._memory
        waiting = {
            action.snapshot: action.size
            for action in memory.outstanding
            if isinstance(action, SendCheckpoint)
        }
        if memory.state is not State.DONE:
            kept = (memory.kept_last, memory.kept_best)
            waiting |= {copy.snapshot: copy.size for copy in kept if copy is not None and not copy.asked}
        for name, size in sorted(waiting.items()):
            if not name or Path(name).name != name:
                yield Lost(name, "has a name that no kept file has")
                continue
            try:
                found = look(self._snapshots.path(name)).size
            except CheckpointMissing as missing:
                yield Lost(name, f"waits for a hub and cannot be had: {missing}")
                continue
            if found != size:
                yield Lost(name, f"waits for a hub and has {found} bytes, and had {size} when it was kept")

    def _judge(self, line: Head | Step | Damage, segment: int) -> None:
        match line:
            case Damage():
                raise _Impossible(line.what)
            case Head():
                self._head(line, segment)
            case Step():
                self._step(line)

    def _verdict(self, wrong: Wrong | None, lost: tuple[Lost, ...] = ()) -> Verdict:
        return Verdict(
            session=self._told.session or self._folder.name,
            steps=self._n,
            segments=self._segment,
            end=self._end,
            torn=tuple(self._lines.torn),
            empty=self._empty() if wrong is None else (),
            undecided=self._undecided,
            reworded=self._reworded,
            gone=len(self._gone),
            untold=len(self._untold),
            lost=lost if wrong is None else (),
            wrong=wrong,
        )

    def _empty(self) -> tuple[str, ...]:
        """The segments whose makers died before they wrote a head."""
        headless = [number for number in segments(self._folder) if number not in self._headed]
        return tuple(f"journal-{number:06d}.jsonl" for number in headless if is_empty(self._folder, number))

    # -- heads -------------------------------------------------------------------------------------------

    def _head(self, head: Head, segment: int) -> None:
        if head.segment != segment:
            raise _Impossible(f"it is the head of segment {head.segment}, in the file of segment {segment}")
        missing = set(range(self._segment + 1, segment)) - set(segments(self._folder))
        if missing:
            raise _Impossible(f"segment {min(missing)} is missing before this one")
        if head.n != self._n + 1:
            raise _Impossible(f"the next step would be {head.n}, and step {self._n} was the last")
        self._headed.add(segment)
        if not self._segment:
            self._first_head(head)
        elif head.memory not in (_without_beat(self._told), _without_beat(self._memory)):
            raise _Impossible(
                f"the memory in it is not what the steps before it left: {_differences(head.memory, self._told)}"
            )
        if head.session != head.memory.session:
            raise _Impossible(f"it is of session {head.session!r}, and its memory of {head.memory.session!r}")
        self._segment, self._table, self._begun, self._at = segment, head.table, False, 0.0
        if head.memory.state is not self._memory.state:
            self._monitor = self._before_attempt  # nothing that counts was said in that attempt
        if head.table not in DECIDE_ALIKE:
            self._monitor = None
            self._undecided.setdefault(head.table, 0)
        # What stands in it is what was replayed, or, at the very beginning, nothing but a name.
        self._told = self._memory = head.memory

    def _first_head(self, head: Head) -> None:
        if head.origin:
            self._brought(head)
        elif head.memory != Memory(session=head.session):
            raise _Impossible(
                f"a session begins with nothing but its id: {_differences(head.memory, Memory(session=head.session))}"
            )
        if is_id(self._folder.name) and head.session and head.session != self._folder.name:
            raise _Impossible(f"it is the journal of session {head.session}, in the folder of another")

    def _brought(self, head: Head) -> None:
        """A session that another machine began continues here with what its hub told, and nothing else."""
        memory = head.memory
        if memory.hub != head.origin or not could_be_told(memory):
            raise _Impossible(f"it says that {head.origin} told its memory, and no hub tells such a one")
        kept = [copy for copy in (memory.kept_last, memory.kept_best) if copy is not None]
        self._monitor = self._before_attempt = Monitor(
            sees_hub=False,
            state=memory.state,
            written=memory.state,
            attempt=memory.attempt,
            starts=(0,) * memory.attempt,
            rows=memory.rows,
            asked=memory.rows,
            rows_delivered=memory.rows,
            files_delivered=memory.files_delivered,
            closed=memory.state is State.DONE,
            opened=tuple(range(1, memory.attempt + 1)),
            best=memory.best_fitness,
            copies=tuple(
                Copy(copy.kind, copy.attempt, copy.snapshot, copy.asked)
                for copy in sorted(kept, key=lambda copy: (copy.attempt, copy.at))
            ),
            saved_epoch=max((copy.epoch for copy in kept), default=-1),
        )

    # -- steps -------------------------------------------------------------------------------------------

    def _step(self, step: Step) -> None:
        if step.n != self._n + 1:
            raise _Impossible(f"it is numbered {step.n}, and step {self._n} was the last")
        self._begin_attempt(step)
        if not 0 <= step.event.at <= _LAST_TIME:
            raise _Impossible(f"its time is {step.event.at:g} s after 1970, which no clock tells")
        if step.event.at < self._at:
            raise _Impossible(
                f"its time is {self._at - step.event.at:.6g} s before that of the step before it, "
                "and within a segment no time goes back"
            )
        if step.source is not self._memory.state:
            raise _Impossible(
                f"it begins in {step.source.value}, and the session was {self._memory.state.value}"
            )
        self._answer(step)
        before = self._memory
        decision = self._decided_again(step) if self._table in DECIDE_ALIKE else self._taken_as_is(step)
        self._watch(Told(before, decision))
        self._receipt(step)
        for action in step.actions:
            self._asked.setdefault(action.key, action)
        self._memory = decision.memory
        self._told = adopt_step(self._told, step)
        self._n, self._at = step.n, step.event.at

    def _begin_attempt(self, step: Step) -> None:
        """A process that goes on training begins in `idle`, whatever the last one left; its first step tells so."""
        if not self._begun and step.source is State.IDLE is not self._memory.state:
            self._memory = for_next_attempt(self._memory)
            self._before_attempt = self._monitor
            if self._memory.state is State.IDLE:
                self._watch(Began(self._memory, trains=True))
        self._begun = True

    def _decided_again(self, step: Step) -> Decision:
        before = self._memory
        decision = decide(before, step.event)
        if not decision.journalled:
            raise _Impossible(f"{name_of(step.event)} is not written down here, and nothing follows from it")
        refusal, after = decision.refusal, decision.memory
        reason = refusal.reason if refusal is not None else ""
        reworded = bool(reason and step.refusal) and reason != step.refusal
        for name, decided, recorded in (
            ("leads to", after.state.value, step.target.value),
            ("is of attempt", after.attempt, step.attempt),
            ("records row", after.rows if after.rows != before.rows else 0, step.row),
            ("is illegal:", refusal is not None and refusal.illegal, step.illegal),
            ("answers of the guards:", decision.guards, step.guards),
            ("asks for", decision.actions, step.actions),
            ("is refused because:", reason, reason if reworded else step.refusal),
        ):
            if decided != recorded:
                raise _Impossible(
                    f"decided again, {name_of(step.event)} {name} {_told(decided)}; recorded is {_told(recorded)}"
                )
        self._reworded += reworded
        return decision

    def _taken_as_is(self, step: Step) -> Decision:
        """A step that another table decided: it is judged by what holds under any."""
        self._undecided[self._table] += 1
        before, after = self._memory, adopt_step(self._memory, step)
        row = after.rows if after.rows != before.rows else 0
        if row != step.row or step.row not in (0, before.rows + 1):
            raise _Impossible(f"it records row {step.row}, and row {before.rows} was the last")
        if step.attempt != after.attempt:
            raise _Impossible(f"it is of attempt {step.attempt}, and attempt {after.attempt} goes on")
        for name, what in _under_any_table(step, before, after):
            raise _Impossible(f"{name} is violated under any table: {what} ({PROPERTIES[name]})")
        for action in step.actions:
            # Two notes of one millisecond are one; whatever else is asked for again was refused before.
            if action.key in self._asked and not isinstance(step.event, RetryRefused | _USAGE):
                raise _Impossible(f"S3 is violated under any table: {action.key} is asked for a second time")
        refusal = (
            Refusal(step.source, name_of(step.event), step.refusal, step.illegal) if step.refusal else None
        )
        return Decision(after, step.actions, refusal, step.event, step.guards, journalled=True)

    def _watch(self, fact: Fact) -> None:
        if self._monitor is None:
            return
        self._monitor, violations = self._monitor.observe(fact)
        for name, what in violations:
            raise _Impossible(f"{name} is violated: {what} ({PROPERTIES[name]})")

    # -- what a hub answered -----------------------------------------------------------------------------

    def _answer(self, step: Step) -> None:
        """An answer is one to something that was asked for before."""
        event = step.event
        if not isinstance(event, Delivered | Refused | HeldUp) or event.key in self._asked:
            return
        if isinstance(event, HeldUp) and not event.key:
            return  # no hub said it: something failed here, and no delivery is held up by it
        if event.key.endswith("/heartbeat"):
            raise _Impossible("answers to heartbeats are not written down")
        what = "receipt" if isinstance(event, Delivered) else "answer"
        later = self._asked_later(event.key, step.n)
        if later:
            raise _Impossible(f"a {what} for {event.key}, which only step {later} asks for")
        raise _Impossible(f"a forged {what}: {event.key} was never asked for")

    def _asked_later(self, key: str, n: int) -> int:
        """The number of the step behind step `n` that asks for a delivery; 0 if none does."""
        for entry in read(self._folder):
            line = entry.line
            if isinstance(line, Step) and line.n >= n and any(action.key == key for action in line.actions):
                return line.n
        return 0

    def _receipt(self, step: Step) -> None:
        """A receipt is told once, of as many rows as were asked for, and of a file with its digest, always the same."""
        event = step.event
        if not isinstance(event, Delivered):
            return
        action = self._asked[event.key]
        most = action.last - action.first + 1 if isinstance(action, SendRows) else 0
        if not 0 <= event.rows <= most:
            raise _Impossible(f"a forged receipt: {event.rows} rows of {event.key}, which are {most}")
        if event.rows != most and not event.not_taken:
            raise _Impossible(
                f"a forged receipt: {event.rows} of the {most} rows of {event.key}, and not why the others were not taken"
            )
        if isinstance(action, SendRows | SendCheckpoint):
            if event.key in self._receipts:
                raise _Impossible(
                    f"a forged receipt: step {self._receipts[event.key]} tells already that {event.key} was delivered"
                )
            self._receipts[event.key] = step.n
        if isinstance(action, SendCheckpoint):
            self._file_receipt(step, event, action)
        elif event.sha256:
            raise _Impossible(f"a forged receipt: {event.key} is no file, and has a digest")

    def _file_receipt(self, step: Step, event: Delivered, action: SendCheckpoint) -> None:
        """A hub tells the digest of every file that it takes, or, as hubs of old, of none.

        One's own calls a session by its id, and tells digests. Of another one only its receipts can say which it is.
        """
        if event.not_taken and not event.sha256:
            return
        tells = bool(event.sha256)
        if not tells and self._memory.model == self._memory.session:
            raise _Impossible(
                f"a forged receipt: {event.key} has no digest, and its hub tells one of every file"
            )
        first, told = self._first_file or (step.n, tells)
        if told is not tells:
            ways = ("has a digest", "has none") if tells else ("has no digest", "has one")
            raise _Impossible(
                f"a forged receipt: {event.key} {ways[0]}, and the one in step {first} {ways[1]}"
            )
        self._first_file = (first, told)
        here = self._digest(action.snapshot)
        if not tells:
            self._untold.add(action.snapshot)
            return
        known = self._digests.get(action.snapshot) or here or event.sha256
        if event.sha256 != known:
            raise _Impossible(
                f"a forged receipt: the digest of {action.snapshot} is {known}, and not {event.sha256}"
            )
        self._digests[action.snapshot] = known
        if not here:
            self._gone.add(action.snapshot)

    def _digest(self, snapshot: str) -> str:
        """The digest of a kept file; empty if it is not here any more, as most are once a hub has them."""
        if Path(snapshot).name != snapshot:
            raise _Impossible(f"{snapshot!r} is no name of a kept file")
        try:
            return digest(self._snapshots.path(snapshot))
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise StorageError(f"cannot read the kept file {snapshot}: {error.strerror}") from error


def _under_any_table(step: Step, before: Memory, after: Memory) -> Iterator[tuple[str, str]]:
    """What a step violates whichever table decided it: the name of the property, and what shows it."""
    event, source, target = step.event, step.source, step.target
    name = name_of(event)
    if source is not target and (source, target) not in _WAYS:
        yield "S4", f"{name} leads from {source.value} to {target.value}"
    if step.illegal and (source is not target or step.actions):
        yield "S4", f"{name} has no place in {source.value}, and changes something"
    if isinstance(event, FitEpochEnd | TrainBatchEnd) and source is State.TRAINING and not step.row:
        yield "S1", f"{name} was told, and no row was recorded"
    yield from _asked_in_turn(step, before, after)
    if source in TERMINAL_STATES and _what_counts(before) != _what_counts(after):
        yield "S9", f"{name} changes a session that is {source.value}"
    if source is not target and target is State.DONE:
        if not isinstance(event, Delivered):
            yield "S6", f"{name} is no acknowledgement, and the session is done"
        if after.outstanding:
            yield "S6", f"the session is done, and {after.outstanding[0].key} waits"
        if not any(isinstance(action, CloseSession) for action in before.outstanding):
            yield "S6", "the session is done, and its close was not acknowledged"


def _asked_in_turn(step: Step, before: Memory, after: Memory) -> Iterator[tuple[str, str]]:
    """What is asked for where it cannot be, or out of turn, or not at all at the end of a training."""
    asked = before.rows_asked
    for action in step.actions:
        if isinstance(action, Heartbeat) and step.source not in LIVE_STATES:
            yield "S5", f"a heartbeat is asked for while {step.source.value}"
        if isinstance(step.event, RetryRefused):
            if all(refused.key != action.key for refused in before.refused):
                yield "S2", f"{action.key} is retried, and was not refused"
        elif step.source in TERMINAL_STATES and not isinstance(action, RecordUsage):
            yield "S9", f"{action.key} is asked for in a session that is {step.source.value}"
        elif isinstance(action, SendRows):
            if not asked + 1 == action.first <= action.last <= after.rows:
                rows = f"rows {action.first} to {action.last}"
                yield "S1", f"{rows} are asked for behind row {asked} of {after.rows}"
            asked = action.last
    over = step.target in TERMINAL_STATES or step.target is State.FINALIZING
    if over and step.source is not step.target and asked != after.rows:
        yield "S1", f"the training is over, and rows {asked + 1} to {after.rows} are not asked for"


def _what_counts(memory: Memory) -> tuple[State, Outcome, int, int, int]:
    return memory.state, memory.outcome, memory.rows, memory.attempt, memory.saves


def _without_beat(memory: Memory) -> Memory:
    """A sign of life is written nowhere, so nothing tells of it."""
    return msgspec.structs.replace(memory, heartbeat_since=None, heartbeat_out=False)


def _differences(found: Memory, wanted: Memory) -> str:
    wanted = _without_beat(wanted)
    names = [name for name in found.__struct_fields__ if getattr(found, name) != getattr(wanted, name)]
    return ", ".join(
        f"{name} is {_told(getattr(found, name))} and not {_told(getattr(wanted, name))}"
        for name in names[:3]
    )


def _told(value: Any) -> str:
    """A value in short: an action by its key, nothing as `nothing`."""
    if isinstance(value, tuple):
        return ", ".join(_told(part) for part in value) or "nothing"
    if isinstance(value, Action):
        return f"{value.key} ({msgspec.json.encode(value).decode():.300})"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_told(answer)}" for name, answer in value.items()) or "nothing"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value}" if value not in ("", None) else "nothing"
