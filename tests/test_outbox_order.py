"""The order in which deliveries leave, what one request carries, and what is noted about tries in vain."""

from __future__ import annotations

import threading

import msgspec
import pytest
from journals import INVENTED
from rigs import Rig

from hubstate import events as ev
from hubstate import outbox as room
from hubstate.actions import SendRows
from hubstate.outbox import FILES, LONGEST_WAIT, WORDS, Delivery
from hubstate.states import Outcome, State


@pytest.fixture
def rig(tmp_path):
    made = Rig(tmp_path / "S")
    yield made
    made.outbox.close()


def rows_and_files(rig: Rig) -> None:
    """Asks for rows, a checkpoint and, by the end of training, for all the rest."""
    rig.rows(1)
    rig.clock.advance(900.0)
    rig.rows(1)
    rig.save("s0", fitness=1.0)
    rig.rows(1)


# -- order -----------------------------------------------------------------------------------------------


@pytest.mark.promise("D9", "P4")
def test_words_leave_one_after_the_other(rig):
    """The opening, the rows in their order and the closing: each waits for the one before it."""
    rows_and_files(rig)
    rig.door.tell(ev.TrainEnd)
    assert rig.claim() == "open"
    rig.settle("open")
    first = rig.outbox.claim(WORDS, 0.0) if rig.claim() else None
    assert isinstance(first, Delivery)
    assert (first.action.first, first.action.last) == (1, 2)
    rig.settle("rows")
    assert rig.claim() == "rows"
    rig.settle("rows")
    assert rig.claim() is None
    for _ in range(2):
        rig.settle("checkpoint")
    assert rig.claim() == "close"
    rig.settle("close")
    assert rig.claim() is None
    assert rig.outbox.count() == (0, 0)


def test_a_file_waits_for_the_opening_alone_and_the_last_one_for_all_words(rig):
    """A slow upload holds no row back, nor a row an upload; what belongs to the end leaves after the rows before it."""
    rows_and_files(rig)
    rig.door.tell(ev.TrainEnd)
    assert rig.claim(FILES) is None
    rig.settle("open")
    assert rig.claim(FILES) == "checkpoint"
    rig.settle("checkpoint")
    assert rig.claim(FILES) is None
    rig.settle("rows")
    assert rig.claim(FILES) is None
    rig.settle("rows")
    assert rig.claim(FILES) == "checkpoint"


@pytest.mark.promise("P4")
def test_the_end_of_an_aborted_session_leaves_after_all_that_waits(rig):
    """An abort is reported behind the rows and the checkpoint before it, and past what is refused."""
    rows_and_files(rig)
    rig.door.tell(ev.Abort, outcome=Outcome.FAILED, reason="out of memory")
    rig.settle("open")
    rig.settle("rows")
    rig.settle("rows", ev.Refused, reason="too large")
    assert rig.claim() is None
    for _ in range(2):
        rig.settle("checkpoint")
    assert rig.claim() == "end"


def test_what_is_refused_is_overtaken_but_never_by_the_closing(rig):
    """Later rows and files leave past a refused one; a close says that everything was delivered, so it waits."""
    rows_and_files(rig)
    rig.settle("open")
    rig.settle("rows", ev.Refused, reason="too large")
    rig.settle("checkpoint", ev.Refused, reason="too large")
    rig.door.tell(ev.TrainEnd)
    assert rig.claim() == "rows"
    action = rig.door.memory.outstanding[-3]
    assert isinstance(action, SendRows)
    rig.door.tell(ev.Delivered, key=action.key, rows=action.last - action.first + 1)
    assert rig.claim(FILES) == "checkpoint"
    final = rig.door.memory.outstanding[-2]
    rig.door.tell(ev.Delivered, key=final.key)
    assert (rig.claim(), rig.claim(FILES)) == (None, None)
    assert rig.outbox.count() == (1, 2)
    rig.door.tell(ev.RetryRefused)
    assert (rig.claim(), rig.claim(FILES)) == ("rows", "checkpoint")
    assert rig.outbox.count() == (3, 0)


def test_nothing_overtakes_an_opening(rig):
    """What a hub does not know it has no place for: while the opening is refused, rows and files wait for it."""
    rows_and_files(rig)
    rig.settle("open", ev.Refused, reason="no such project")
    assert (rig.claim(), rig.claim(FILES)) == (None, None)
    rig.door.tell(ev.RetryRefused)
    assert rig.claim() == "open"


def test_giving_up_leaves_only_the_end(rig):
    """What was given up never leaves, its rows included; that the session was ended does."""
    rows_and_files(rig)
    rig.door.tell(ev.TrainEnd)
    rig.settle("open", ev.Refused, reason="no such project")
    rig.door.tell(ev.GiveUp, "the hub is gone")
    assert rig.claim() == "end"
    assert rig.outbox.count() == (1, 0)
    assert rig.outbox.held(SendRows("k", 1, first=1, last=99)) == 0
    assert rig.door.memory.state is State.ABORTED


@INVENTED
def test_a_refused_usage_is_forgotten(rig):
    """A count of validations is nothing that anybody would retry."""
    usage = ev.ValStart
    rig.door._memory = msgspec.structs.replace(rig.door.memory, usage=True)
    [action] = rig.door.tell(usage).actions
    rig.settle("open")
    assert rig.claim() == "usage"
    rig.door.tell(ev.Refused, key=action.key, reason="not wanted")
    assert (rig.claim(), rig.outbox.count()) == (None, (0, 0))


def test_an_illegal_step_asks_for_nothing(rig):
    """What was refused as illegal is in the journal and never leaves."""
    assert rig.door.tell(ev.TrainStart).refusal.illegal
    rig.settle("open")
    assert rig.claim() is None


# -- what one request carries ----------------------------------------------------------------------------


def asked(rig: Rig) -> SendRows:
    rig.settle("open")
    rig.clock.advance(3.0)
    rig.rows(1)
    rig.fold()
    return next(a for a in rig.door.memory.outstanding if isinstance(a, SendRows))


def test_a_request_carries_a_thousand_rows_at_most(rig):
    """A long send is cut by number, and each piece goes on where the last one ended."""
    rig.rows(2300)
    action = asked(rig)
    pieces, after = [], 0
    while rows := rig.outbox.rows(action, after):
        pieces.append(len(rows))
        after = rows[-1].number
    assert pieces == [1000, 1000, 301]


def test_a_request_carries_a_megabyte_at_most(rig):
    """Wide rows are cut by size; a single row that is larger than that leaves alone."""
    wide = {f"metric/{n:04d}": 1 / 3 for n in range(4000)}
    rig.rows(20, **wide)
    rig.rows(1, **{f"metric/{n:06d}": 1 / 3 for n in range(40_000)})
    action = asked(rig)
    after, sizes = 0, []
    while rows := rig.outbox.rows(action, after):
        sizes.append((len(rows), sum(len(row.metrics) for row in rows)))
        after = rows[-1].number
    assert after == 22
    assert len(sizes) > 2
    assert all(size <= room.BYTES_PER_REQUEST or count == 1 for count, size in sizes)
    assert any(size > room.BYTES_PER_REQUEST for _, size in sizes)


@pytest.mark.parametrize(("limit", "count"), [(268, 2), (267, 1), (402, 3)])
def test_a_row_counts_with_all_that_it_carries(rig, monkeypatch, limit, count):
    """A row's size is that of its metrics, of what is not finite in them, and 120 bytes for the rest of it."""
    rig.rows(5)
    action = asked(rig)
    assert len(b'{"loss":0.5}') + len(b"{}") + 120 == 134
    monkeypatch.setattr(room, "BYTES_PER_REQUEST", limit)
    assert len(rig.outbox.rows(action, 0)) == count


def test_a_row_is_as_it_was_said(rig):
    """Number, attempt, epoch, step, time and every metric, what is not finite included, come out as they went in."""
    rig.door.tell(ev.TrainBatchEnd, 1, 7, {"x": None, "y": 0.1}, {"x": "NaN"})
    rig.door.tell(ev.FitEpochEnd, 2, {"z": 3}, {}, True)
    action = asked(rig)
    step, final, _ = rig.outbox.rows(action, 0)
    assert (step.number, step.attempt, step.epoch, step.step, step.final) == (1, 1, 1, 7, False)
    assert (step.metrics, step.nonfinite) == (b'{"x":null,"y":0.1}', b'{"x":"NaN"}')
    assert (final.epoch, final.step, final.final, final.metrics) == (2, None, True, b'{"z":3}')
    assert step.at == rig.door.now() - 3.0


# -- what is noted ---------------------------------------------------------------------------------------


def test_progress_survives_a_reopening(rig):
    """What the hub acknowledged of a long send is not sent again after a restart."""
    rig.rows(4)
    action = asked(rig)
    rig.outbox.postpone(action.key, 5.0, "offline: no route")
    rig.outbox.advance(action.key, 3, 2, "step rows")
    rig.reopen()
    found = rig.outbox.claim(WORDS, 0.0)
    assert isinstance(found, Delivery)
    assert (found.progress, found.taken, found.not_taken) == (3, 2, "step rows")
    assert (found.tries, found.due, found.trouble) == (0, 0.0, "")
    assert [row.number for row in rig.outbox.rows(action, found.progress)] == [4, 5]
    assert (rig.outbox.held(action), rig.outbox.next_row(action, 3), rig.outbox.next_row(action, 5)) == (
        5,
        4,
        0,
    )


def test_the_back_off_survives_a_reopening(rig):
    """A process that begins anew does not forget that a hub was not to be asked before some time."""
    now = rig.door.now()
    rig.fold()
    for due in (now + 5.0, now + 9.0):
        rig.outbox.postpone("S/1/open", due, "offline: no route")
    rig.reopen()
    assert rig.outbox.claim(WORDS, now) == now + 9.0
    found = rig.outbox.claim(WORDS, now + 9.0)
    assert isinstance(found, Delivery)
    assert (found.tries, found.trouble) == (2, "offline: no route")


def test_a_clock_that_was_set_back_holds_nothing_up(rig):
    """A next try that lies further ahead than any back-off was noted under another clock: it is due now."""
    now = rig.door.now()
    rig.fold()
    rig.outbox.postpone("S/1/open", now + LONGEST_WAIT, "offline: no route")
    assert rig.outbox.claim(WORDS, now) == now + LONGEST_WAIT
    assert isinstance(rig.outbox.claim(WORDS, now - 1.0), Delivery)


def test_hurrying_shortens_no_wait_that_a_hub_asked_for(rig):
    """Somebody who waits gets the next try at once, but not where the hub named the time."""
    now = rig.door.now()
    rig.fold()
    rig.outbox.postpone("S/1/open", now + 60.0, "offline: no route")
    rig.outbox.hurry()
    assert isinstance(rig.outbox.claim(WORDS, now), Delivery)
    rig.outbox.postpone("S/1/open", now + 60.0, "rate_limited: 429 for 60 s")
    rig.outbox.hurry()
    assert rig.outbox.claim(WORDS, now) == now + 60.0


def test_retrying_begins_the_back_off_anew(rig):
    """What is retried by a person's wish is due at once, as if it had never been tried."""
    rig.fold()
    rig.outbox.postpone("S/1/open", rig.door.now() + 60.0, "offline: no route")
    rig.settle("open", ev.Refused, reason="no such project")
    rig.door.tell(ev.RetryRefused)
    rig.fold()
    found = rig.outbox.claim(WORDS, 0.0)
    assert isinstance(found, Delivery)
    assert (found.tries, found.due) == (0, 0.0)


def test_a_digest_is_noted_once(rig):
    """A large file is read for its digest once, and not again for each try."""
    rows_and_files(rig)
    rig.settle("open")
    assert rig.claim(FILES) == "checkpoint"
    found = rig.outbox.claim(FILES, 0.0)
    assert isinstance(found, Delivery)
    rig.outbox.remember_digest(found.key, "ab" * 32)
    rig.reopen()
    again = rig.outbox.claim(FILES, 0.0)
    assert isinstance(again, Delivery)
    assert again.sha256 == "ab" * 32


def test_what_is_settled_meanwhile_is_no_mistake(rig):
    """A note about a delivery that is gone changes nothing: the other lane may have been quicker."""
    rig.fold()
    rig.settle("open")
    rig.fold()
    rig.outbox.postpone("S/1/open", 5.0, "offline: no route")
    rig.outbox.advance("S/1/open", 1, 1, "")
    rig.door.tell(ev.Delivered, key="S/1/open")
    assert (rig.claim(), rig.outbox.count()) == (None, (0, 0))


def test_two_lanes_from_two_threads(rig):
    """The threads of words and of files share one outbox: each line is folded once, whoever comes first."""
    rig.rows(200)
    rows_and_files(rig)
    rig.settle("open")
    gate = threading.Barrier(2)
    found: dict[str, object] = {}

    def work(lane: str) -> None:
        gate.wait()
        while rig.outbox.ingest(limit=3):
            rig.outbox.claim(lane, 0.0)
        found[lane] = rig.outbox.claim(lane, 0.0)

    threads = [threading.Thread(target=work, args=(lane,)) for lane in (WORDS, FILES)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert isinstance(found[WORDS], Delivery)
    assert isinstance(found[FILES], Delivery)
    assert rig.outbox.held(found[WORDS].action) == found[WORDS].action.last
    assert rig.outbox.count() == (len(rig.door.memory.outstanding), 0)
