"""The sender: a function of time that hands over what is due, hears what comes back, and repeats without doubling."""

from __future__ import annotations

import random

import pytest
from fakes import OFFLINE, lost
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from journals import DAMAGED
from rigs import Rig

from hubstate import events as ev
from hubstate import outbox
from hubstate import sender as room
from hubstate.hubs.base import Accepted, Declined, Delayed
from hubstate.journal import Step, read
from hubstate.outbox import FILES, LONGEST_WAIT, WORDS
from hubstate.sender import CAP, FIRST, IDLE
from hubstate.states import CheckpointKind, State

LIMITED = Delayed("rate_limited", "429", 429, retry_after=60.0)


@pytest.fixture
def rig(tmp_path):
    made = Rig(tmp_path / "S")
    yield made
    made.sender.close()


@pytest.fixture
def opened(rig):
    """A session that the hub knows."""
    rig.sender.step(WORDS)
    assert asked(rig) == ["open"]
    return rig


def asked(rig: Rig) -> list[str]:
    """What was asked of the hub, without the session's part, and cleared."""
    keys = [key.partition("/")[2] for key in rig.hub.asked]
    rig.hub.requests.clear()
    return keys


def told(rig: Rig, kind: type[ev.Event]) -> list[ev.Event]:
    """What the journal holds of one kind."""
    found = [entry.line.event for entry in read(rig.folder) if isinstance(entry.line, Step)]
    return [event for event in found if type(event) is kind]


def due_rows(rig: Rig, count: int = 1) -> str:
    """Lets rows become due, and returns the key of their send."""
    rig.clock.advance(3.0)
    rig.rows(count)
    return rig.door.memory.outstanding[-1].key


# -- the way of a run ------------------------------------------------------------------------------------


def test_a_run_reaches_the_hub_in_its_order(rig):
    """Opening, rows, checkpoint, the last rows, the final checkpoint, the closing: and the session is done."""
    rig.rows(1)
    rig.clock.advance(900.0)
    rig.rows(1)
    rig.save("last-0", fitness=0.5)
    for lane in (WORDS, WORDS, WORDS, FILES):
        rig.sender.step(lane)
    rig.rows(1)
    rig.door.tell(ev.TrainEnd)
    rig.drain()
    keys = [key for key in asked(rig) if key != "heartbeat"]
    assert keys == [
        "open",
        "rows/1-2#1-2",
        "checkpoint/best/last-0",
        "rows/3-3#3-3",
        "checkpoint/final/last-0",
        "close",
    ]
    assert rig.door.memory.state is State.DONE
    final = rig.hub.holds["S/1/checkpoint/final/last-0"]
    assert (final.action.kind, final.file.read_bytes()) == (CheckpointKind.FINAL, b"last-0" * 10)
    assert rig.door.memory.final_sha256 == final.sha256
    assert {parcel.model for parcel in rig.hub.holds.values()} == {None, "M"}


def test_one_step_hands_over_one_parcel(rig):
    """However much is due, a step returns after one delivery, so that whoever stops it waits for one at most."""
    rig.rows(1)
    due_rows(rig)
    rig.door.tell(ev.TrainEnd)
    for count in range(1, 3):
        rig.sender.step(WORDS)
        assert len([key for key in rig.hub.asked if "heartbeat" not in key]) == count


def test_a_step_says_when_it_wants_to_be_called_again(opened):
    """Until the next sign of life, until rows become due, until the next try, or a minute where nothing is known."""
    assert opened.sender.step(WORDS) == IDLE
    opened.rows(1)
    assert opened.sender.step(WORDS) == 3.0
    opened.clock.advance(2.0)
    assert opened.sender.step(WORDS) == 1.0
    opened.clock.advance(1.0)
    opened.hub.always = LIMITED
    assert opened.sender.step(WORDS) == 0.0
    assert opened.sender.step(WORDS) == 60.0
    assert opened.sender.step(FILES) == IDLE


@pytest.mark.promise("D3", "C9")
def test_rows_that_time_makes_due_leave_without_a_further_epoch(opened):
    """The last rows before a long epoch are not kept back until it is over."""
    opened.rows(2)
    opened.clock.advance(3.0)
    opened.sender.step(WORDS)
    assert asked(opened) == ["rows/1-2#1-2"]


def test_at_most_one_of_each_kind_is_under_way(opened):
    """While rows and a checkpoint are out, as with a hub that is away, what comes meanwhile waits and is no flood."""
    opened.hub.always = OFFLINE
    for epoch in range(50):
        opened.rows(1)
        opened.save(f"s{epoch}", fitness=float(epoch))
        opened.clock.advance(1000.0)
        opened.sender.step(WORDS)
        opened.sender.step(FILES)
    kinds = [type(action).__name__ for action in opened.door.memory.outstanding]
    assert sorted(kinds) == ["SendCheckpoint", "SendRows"]
    opened.hub.always = None
    opened.door.tell(ev.TrainEnd)
    opened.drain()
    assert opened.hub.rows == list(range(1, 51))


def test_files_and_words_do_not_wait_for_each_other(opened):
    """A checkpoint that is held up holds no row up, and rows that are held up hold no checkpoint up."""
    for held, lane in (("rows", FILES), ("checkpoint", WORDS)):
        opened.clock.advance(1000.0)
        opened.rows(1)
        opened.save(f"{held}-out", fitness=opened.door.memory.rows * 1.0)
        for action in opened.door.memory.outstanding:
            if f"/{held}/" in action.key:
                opened.hub.script(action.key, LIMITED)
        opened.sender.step(WORDS)
        opened.sender.step(FILES)
        opened.sender.step(lane)
        left = [action.key for action in opened.door.memory.outstanding]
        assert [f"/{held}/" in key for key in left] == [True]
        opened.clock.advance(60.0)
        opened.sender.step(WORDS)
        opened.sender.step(FILES)


def test_a_batch_at_a_time(rig, monkeypatch):
    """A long journal is folded between the parcels, and nothing that it says further on to be settled leaves again."""
    monkeypatch.setattr(room, "BATCH", 3)
    for _ in range(5):
        due_rows(rig, 4)
        for _ in range(12):
            rig.sender.step(WORDS)
    before = list(rig.hub.holds)
    rig.hub.requests.clear()
    rig.outbox.close()
    rig.unlink()
    rig.open()
    while rig.sender.step(WORDS) == 0.0:
        pass
    assert asked(rig) == []
    assert list(rig.hub.holds) == before


# -- what is repeated ------------------------------------------------------------------------------------


@pytest.mark.parametrize("tries", [0, 1, 3, 6, 40])
@given(seed=st.integers(0, 2**32))
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_back_off_is_full_jitter(opened, tries, seed):
    """A next try comes after a draw between 0 and the smaller of a minute and 2^tries seconds: never later."""
    key = due_rows(opened) if not opened.door.memory.outstanding else opened.door.memory.outstanding[0].key
    opened.fold()
    opened.outbox.advance(key, 0, 0, "")
    for _ in range(tries):
        opened.outbox.postpone(key, 0.0, "offline: before")
    opened.sender._chance = random.Random(seed)
    opened.hub.always = OFFLINE
    now = opened.door.now()
    opened.sender.step(WORDS)
    due = opened.outbox.claim(WORDS, now - 1.0)
    expected = random.Random(seed).uniform(0.0, min(CAP, FIRST * 2.0**tries))
    assert due - now == pytest.approx(expected, abs=1e-5)
    assert 0.0 <= expected <= 60.0


@pytest.mark.promise("D30")
@pytest.mark.damages_journals(reason="it sets the clock back that no clock of a process goes back on")
def test_retry_after_is_obeyed_for_its_kind_and_capped(opened):
    """A hub that names a time is not asked before it, other kinds go on, and no hub can name more than an hour."""
    key = due_rows(opened)
    opened.hub.script(key, LIMITED, Delayed("rate_limited", "429", 429, retry_after=1e9))
    opened.sender.step(WORDS)
    opened.clock.advance(900.0 - 3.0)
    opened.save("s0", fitness=1.0)
    opened.clock.advance(-(900.0 - 3.0))
    asked(opened)
    opened.clock.advance(59.9)
    opened.sender.step(WORDS)
    assert asked(opened) == []
    opened.sender.step(FILES)
    assert asked(opened) == ["checkpoint/best/s0"]
    opened.clock.advance(0.1)
    opened.sender.step(WORDS)
    assert asked(opened) == ["rows/1-1#1-1"]
    assert opened.outbox.claim(WORDS, opened.door.now()) == opened.door.now() + LONGEST_WAIT
    until = [event.until for event in told(opened, ev.HeldUp)]
    assert until == [opened.door.now(), opened.door.now() + LONGEST_WAIT]


@pytest.mark.parametrize("asked_for", [0.0, 0.001, -5.0])
def test_a_hub_that_asks_for_no_pause_is_not_asked_in_a_loop(opened, asked_for):
    """However short a pause a hub asks for, the next request leaves a second later at the soonest."""
    key = due_rows(opened)
    opened.hub.script(key, Delayed("rate_limited", "429", 429, retry_after=asked_for))
    opened.sender.step(WORDS)
    assert opened.outbox.claim(WORDS, opened.door.now()) == opened.door.now() + 1.0


def test_a_lost_acknowledgement_is_repeated_under_the_same_key(opened):
    """The hub got it and its answer got lost: the repeat says the same under the same key, and nothing is there twice."""
    key = due_rows(opened, 3)
    opened.hub.script(key, lost, lost)
    while opened.door.memory.outstanding:
        opened.clock.advance(opened.sender.step(WORDS))
        opened.rows(1)
    keys = [key for key in asked(opened) if key != "heartbeat"]
    assert keys == ["rows/1-1#1-1"] * 3 or len(set(keys)) == 1
    assert len(keys) == 3
    assert opened.hub.contradictions == []
    assert opened.door.memory.rows_delivered == len(opened.hub.rows)


def test_a_trouble_is_told_once(opened):
    """The journal says that a hub is away, and when the trouble changes, and not at each try."""
    key = due_rows(opened)
    failing = Delayed("hub_failing", "503", 503)
    opened.hub.script(key, OFFLINE, OFFLINE, OFFLINE, failing, failing, OFFLINE)
    while opened.door.memory.outstanding:
        opened.clock.advance(opened.sender.step(WORDS))
    assert [event.condition for event in told(opened, ev.HeldUp)] == ["offline", "hub_failing", "offline"]
    assert [condition.name for condition in opened.door.memory.conditions] == ["online"]


def test_a_trouble_that_comes_back_is_told_again(opened):
    """After something of a long send got through, the same trouble is a new one."""
    opened.rows(1500)
    opened.hub.script(due_rows(opened), OFFLINE, OFFLINE, Accepted(rows=1000), OFFLINE, OFFLINE)
    opened.drain_rows()
    assert len(told(opened, ev.HeldUp)) == 2


@pytest.mark.promise("P3")
def test_a_rejected_key_pauses_and_drops_nothing(opened):
    """401 is shown as a condition with its reason; with a good key all of it arrives."""
    opened.hub.always = Delayed("credentials_rejected", "401: unknown key", 401)
    due_rows(opened)
    opened.sender.step(WORDS)
    [condition] = opened.door.memory.conditions
    assert (condition.name, condition.reason) == ("credentials_rejected", "401: unknown key")
    opened.hub.always = None
    opened.door.tell(ev.TrainEnd)
    opened.drain()
    assert (opened.door.memory.state, opened.hub.rows) == (State.DONE, [1])


def test_a_long_send_leaves_in_pieces_and_goes_on_where_it_was(opened):
    """Each request of a long send has its own key; after a failure or a restart only what is missing is sent."""
    opened.rows(2499)
    key = due_rows(opened)
    opened.hub.script(key, Accepted(rows=1000), OFFLINE, Accepted(rows=1000), Accepted(rows=500))
    while opened.door.memory.outstanding:
        opened.clock.advance(opened.sender.step(WORDS))
        opened.reopen()
    pieces = [name.partition("#")[2] for name in asked(opened) if "rows" in name]
    assert pieces == ["1-1000", "1001-2000", "1001-2000", "2001-2500"]
    assert opened.door.memory.rows_delivered == 2500


# -- what is not delivered -------------------------------------------------------------------------------


def test_what_the_hub_refuses_is_kept_and_shown(opened):
    """A 4xx for good is not repeated by itself: it stands with its reason and status, and later rows leave past it."""
    key = due_rows(opened)
    opened.hub.script(key, Declined("a metric name is too long", 400))
    opened.sender.step(WORDS)
    due_rows(opened)
    opened.sender.step(WORDS)
    [refused] = opened.door.memory.refused
    assert (refused.key, refused.reason, refused.status) == (key, "a metric name is too long", 400)
    assert opened.hub.rows == [2]
    opened.door.tell(ev.TrainEnd)
    for _ in range(5):
        opened.clock.advance(100.0)
        opened.sender.step(WORDS)
    assert opened.door.memory.state is State.FINALIZING
    opened.door.tell(ev.RetryRefused)
    opened.drain()
    assert (opened.door.memory.state, sorted(opened.hub.rows)) == (State.DONE, [1, 2])


def test_what_a_hub_cannot_hold_is_told_apart(opened):
    """Rows that this hub has no place for are settled as not taken, counted as such, and hold up nothing."""
    opened.hub.always = lambda parcel: Accepted(not_taken="step rows", rows=max(0, len(parcel.rows) - 1))
    due_rows(opened)
    opened.sender.step(WORDS)
    opened.hub.always = None
    opened.door.tell(ev.TrainEnd)
    opened.drain()
    memory = opened.door.memory
    assert (memory.state, memory.not_taken) == (State.DONE, ("step rows",))
    assert (memory.rows_delivered, memory.rows_not_taken) == (0, 1)


def test_a_kept_file_that_is_gone_is_refused_with_its_name(opened):
    """A snapshot that somebody removed can never leave: that is shown, and the rest of the session goes on."""
    opened.clock.advance(900.0)
    opened.save("s0", fitness=1.0)
    (opened.folder / "snapshots" / "s0").unlink()
    opened.sender.step(FILES)
    [refused] = opened.door.memory.refused
    assert "the kept file s0 cannot be read here any more: No such file" in refused.reason
    assert asked(opened) == []


def test_a_file_is_read_for_its_digest_once(opened, monkeypatch):
    """A repeat of a large upload does not read the whole file once more before it."""
    counted = []
    digest = room.digest
    monkeypatch.setattr(room, "digest", lambda path: counted.append(path.name) or digest(path))
    opened.clock.advance(900.0)
    opened.save("s0", fitness=1.0)
    opened.hub.script(opened.door.memory.outstanding[0].key, OFFLINE, OFFLINE)
    while opened.door.memory.outstanding:
        opened.clock.advance(opened.sender.step(FILES))
    assert counted == ["s0"]


def spoil(rig: Rig, statement: str) -> None:
    """Changes what the outbox alone holds."""
    with rig.outbox._lock:
        rig.outbox._db.execute(statement)


def condemn(rig: Rig, *rows: int) -> None:
    """Damages the lines of some rows."""
    [segment] = rig.folder.glob("journal-*")
    lines = segment.read_bytes().splitlines(keepends=True)
    for number, line in enumerate(lines):
        if any(f'"row":{row},'.encode() in line for row in rows):
            lines[number] = line.replace(b'"loss"', b'"lost"')
    segment.write_bytes(b"".join(lines))


@pytest.mark.parametrize("lost_rows", [(2,), (1,), (5,), (1, 5), (2, 3, 4)], ids=str)
@DAMAGED
def test_rows_whose_lines_are_damaged_are_counted_as_not_delivered(opened, lost_rows):
    """What can still be read is sent, and what nobody can send is told and not called delivered."""
    opened.rows(4)
    due_rows(opened)
    opened.fold()
    opened.rows(4)
    condemn(opened, *lost_rows)
    opened.outbox.close()
    opened.unlink()
    opened.open()
    opened.door.tell(ev.TrainEnd)
    opened.drain()
    memory = opened.door.memory
    assert memory.rows_not_taken == len(lost_rows)
    assert memory.rows_delivered == memory.rows - len(lost_rows) == len(opened.hub.rows)
    assert f"{len(lost_rows)} rows, whose lines in the journal are damaged" in memory.not_taken


@DAMAGED
def test_what_a_damaged_line_asked_for_is_still_delivered(opened):
    """The session remembers what it asked for, so that a damaged line holds back neither the rows nor the end."""
    due_rows(opened)
    opened.hub.script(opened.door.memory.outstanding[0].key, OFFLINE)
    opened.sender.step(WORDS)
    opened.rows(1)
    opened.door.tell(ev.TrainEnd)
    [segment] = opened.folder.glob("journal-*")
    segment.write_bytes(segment.read_bytes().replace(b'"event":"train_end"', b'"event":"train_emd"'))
    opened.outbox.close()
    opened.unlink()
    opened.open()
    opened.drain()
    keys = [key for key in asked(opened) if key != "heartbeat"]
    assert keys[-2:] == ["rows/2-2#2-2", "close"]
    assert (opened.door.memory.state, opened.hub.rows) == (State.DONE, [1, 2])


@DAMAGED
def test_a_row_that_no_table_can_hold_holds_nothing_up(opened, monkeypatch):
    """A journal from before numbers were bounded may hold one that SQLite cannot: its row is told, the others leave."""
    with monkeypatch.context() as patch:
        patch.setattr(ev, "MOST", 2**80)
        for epoch in (0, 2**63, 2):
            opened.clock.advance(1.0)
            opened.door.tell(ev.FitEpochEnd, epoch, {"loss": 0.5})
        opened.door.tell(ev.TrainBatchEnd, 3, 2**64, {"loss": 0.5})
        due_rows(opened)
    opened.door.tell(ev.TrainEnd)
    opened.drain()
    memory = opened.door.memory
    assert (memory.state, opened.hub.rows) == (State.DONE, [1, 3, 5])
    assert (memory.rows_delivered, memory.rows_not_taken) == (3, 2)
    assert memory.not_taken == ("1 rows, whose lines in the journal are damaged",)


@DAMAGED
def test_a_send_of_which_no_row_can_be_read_is_refused(opened):
    """Where every line of a send is damaged there is nothing to hand over: that is shown, not skipped."""
    key = due_rows(opened)
    condemn(opened, 1)
    opened.sender.step(WORDS)
    assert [refused.key for refused in opened.door.memory.refused] == [key]
    assert "damaged" in opened.door.memory.refused[0].reason
    assert asked(opened) == []


@pytest.mark.parametrize("lost_rows", ["1", "2", "3, 4", "4", "1, 2, 3, 4"])
@pytest.mark.parametrize("piece", [1, 2, 1000])
def test_what_only_the_outbox_lacks_is_no_loss(opened, monkeypatch, lost_rows, piece):
    """The journal is the truth: before rows are refused or counted as not taken it is folded anew, and they leave."""
    monkeypatch.setattr(outbox, "ROWS_PER_REQUEST", piece)
    opened.rows(3)
    due_rows(opened)
    opened.fold()
    spoil(opened, f"delete from rows where number in ({lost_rows})")
    opened.drain_rows()
    memory = opened.door.memory
    assert (memory.rows_delivered, memory.rows_not_taken, memory.refused) == (4, 0, ())
    assert opened.hub.rows == [1, 2, 3, 4]


def test_trying_again_what_was_refused_for_lack_of_rows_asks_the_journal_again(opened):
    """A line that can be read again, as after a repair of the disk, leaves with the next try."""
    key = due_rows(opened)
    [segment] = opened.folder.glob("journal-*")
    whole = segment.read_bytes()
    condemn(opened, 1)
    opened.sender.step(WORDS)
    assert opened.door.memory.refused
    segment.write_bytes(whole + segment.read_bytes()[len(whole) :])
    opened.door.tell(ev.RetryRefused)
    opened.drain_rows()
    assert (opened.hub.rows, opened.door.memory.refused) == ([1], ())
    assert opened.hub.requests[0].key == f"{key}#1-1"


@DAMAGED
def test_damaged_lines_are_looked_for_once_for_each_send(opened, monkeypatch):
    """Folding a long journal anew takes its time: what is damaged for good costs it once, not with every piece."""
    monkeypatch.setattr(outbox, "ROWS_PER_REQUEST", 2)
    opened.rows(8)
    due_rows(opened)
    condemn(opened, 2, 5)
    renewed = []
    renew = opened.outbox.renew
    monkeypatch.setattr(opened.outbox, "renew", lambda why: renewed.append(why) or renew(why))
    opened.drain_rows()
    assert len(renewed) == 1
    assert (opened.door.memory.rows_delivered, opened.door.memory.rows_not_taken) == (7, 2)
