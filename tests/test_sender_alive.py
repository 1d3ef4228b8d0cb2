"""Signs of life, news from the hub, a journal that fails, and the two threads that step a sender."""

from __future__ import annotations

import pytest
from fakes import OFFLINE
from rigs import Rig
from test_sender import asked, due_rows, told

from hubstate import events as ev
from hubstate import journal, outbox
from hubstate.hubs.base import Accepted, Declined, Delayed, News
from hubstate.outbox import FILES, WORDS
from hubstate.sender import AFTER_FAILURE, Sender
from hubstate.states import Outcome, State


@pytest.fixture
def rig(tmp_path):
    made = Rig(tmp_path / "S")
    yield made
    made.sender.close()


@pytest.fixture
def opened(rig):
    """A session that the hub knows."""
    rig.sender.step(WORDS)
    rig.hub.requests.clear()
    return rig


def beats(rig: Rig, seconds: float, every: float = 1.0) -> int:
    """How many signs of life leave in a time, with a step every so often."""
    rig.hub.requests.clear()
    for _ in range(int(seconds / every)):
        rig.clock.advance(every)
        rig.sender.step(WORDS)
    return sum("heartbeat" in key for key in rig.hub.asked)


# -- signs of life ---------------------------------------------------------------------------------------


@pytest.mark.promise("P11")
def test_a_heartbeat_leaves_once_an_interval_while_somebody_trains(opened):
    """In the live states one per interval, however often the sender is stepped; after the end none at all."""
    assert beats(opened, 1500.0) == 5
    opened.door.tell(ev.TrainEnd)
    opened.hub.always = OFFLINE
    assert opened.door.memory.state is State.FINALIZING
    assert beats(opened, 900.0, 10.0) == 3
    opened.hub.always = None
    opened.drain()
    assert opened.door.memory.state is State.DONE
    assert beats(opened, 900.0, 10.0) == 0


@pytest.mark.promise("D2")
def test_no_heartbeat_after_an_abort(opened):
    """A session that failed is not alive, while what was recorded still leaves."""
    opened.door.tell(ev.Abort, outcome=Outcome.FAILED, reason="out of memory")
    assert beats(opened, 900.0, 10.0) == 0
    assert opened.door.memory.outstanding == ()


def test_no_heartbeat_where_nobody_trains(opened):
    """Who only delivers what a dead process left says nothing about its being alive."""
    opened.sender._alive = False
    assert beats(opened, 900.0, 10.0) == 0
    opened.rows(1)
    assert opened.sender.step(WORDS) == 0.0
    assert asked(opened)[-1] == "rows/1-1#1-1"


def test_no_heartbeat_before_the_hub_knows_the_session(rig):
    """Until the opening arrived nobody could know whose sign of life it is."""
    rig.hub.always = OFFLINE
    assert beats(rig, 30.0) == 0
    assert "open" in asked(rig)


def test_no_heartbeat_of_an_attempt_that_the_hub_refused(rig):
    """Where another process has opened the same attempt, a sign of life would be taken for that one's."""
    rig.door.tell(ev.Answered, model="S")
    rig.hub.always = Declined("another process went on with it", 409)
    rig.sender.step(WORDS)
    assert rig.door.memory.refused
    rig.hub.always = None
    assert beats(rig, 1500.0) == 0


def test_a_heartbeat_is_written_nowhere(opened):
    """It leaves once if it can and is otherwise forgotten: neither it nor its answer costs a line."""
    for reply in (None, OFFLINE, Declined("no", 400)):
        opened.hub.always = reply
        lines = opened.door.written()
        assert beats(opened, 300.0, 10.0) == 1
        assert opened.door.written() == lines
        assert not opened.door.memory.heartbeat_out


@pytest.mark.promise("D30")
def test_retry_after_holds_for_heartbeats_too(opened):
    """No sign of life leaves before the time that the hub named, whatever the interval is."""
    opened.hub.news = News(heartbeat_interval=5.0)
    due_rows(opened)
    opened.sender.step(WORDS)
    opened.hub.always = Delayed("rate_limited", "429", 429, retry_after=60.0)
    assert beats(opened, 301.0) == 5
    opened.hub.always = None
    assert opened.sender._no_beat_before > opened.door.now()
    rest = opened.sender.step(WORDS)
    assert rest == opened.sender._no_beat_before - opened.door.now()
    opened.clock.advance(rest)
    opened.hub.requests.clear()
    opened.sender.step(WORDS)
    assert asked(opened) == ["heartbeat"]


# -- news ------------------------------------------------------------------------------------------------


def test_what_an_answer_tells_is_told_once(opened):
    """Address, model, page and intervals are remembered; an answer that says the same again costs no line."""
    opened.hub.news = News("http://hub.test", "M", "http://hub.test/M", None, 10.0, 60.0, 1.0)
    for _ in range(5):
        opened.clock.advance(20.0)
        opened.rows(1)
        opened.sender.step(WORDS)
    memory = opened.door.memory
    assert (memory.hub, memory.model, memory.url) == ("http://hub.test", "M", "http://hub.test/M")
    intervals = (memory.metrics_interval, memory.checkpoint_interval, memory.heartbeat_interval)
    assert intervals == (10.0, 60.0, 5.0)
    assert len(told(opened, ev.Answered)) == 2


def test_a_session_stays_with_its_first_hub(opened):
    """A redirect to another hub does not change to whom the session belongs."""
    opened.hub.news = News(hub="http://other.test")
    due_rows(opened)
    opened.sender.step(WORDS)
    assert opened.door.memory.hub == "http://hub.test"


@pytest.mark.parametrize("kind", [Declined, Delayed])
def test_a_session_belongs_to_nobody_who_holds_nothing_of_it(rig, kind):
    """A hub that refuses the opening, or a page of somebody in between, does not bind the session to its address."""
    news = News(hub="http://hotel.test")
    reply = {
        Declined: Declined("no", 400, news),
        Delayed: Delayed("hub_failing", "a page of HTML", 200, news=news),
    }[kind]
    rig.hub.script(f"{rig.door.memory.session}/1/open", reply)
    rig.sender.step(WORDS)
    assert len(rig.hub.requests) == 1
    assert rig.door.memory.hub is None


@pytest.mark.promise("P17")
@pytest.mark.parametrize("news_in", [Accepted, Declined, Delayed])
def test_a_wish_to_stop_is_heard_in_any_answer(opened, news_in):
    """Whatever the answer to whatever request, a wish to stop reaches the session, once."""
    wish = News(stop="pressed on the page")
    reply = {
        Accepted: Accepted(rows=1, news=wish),
        Declined: Declined("no", 400, wish),
        Delayed: Delayed("hub_failing", "503", 503, news=wish),
    }[news_in]
    opened.hub.always = reply
    for _ in range(3):
        opened.clock.advance(300.0)
        opened.rows(1)
        opened.sender.step(WORDS)
    assert opened.door.memory.stop == "pressed on the page"
    assert len(told(opened, ev.StopRequested)) == 1


# -- this machine fails ----------------------------------------------------------------------------------


def test_what_was_acknowledged_is_not_sent_again_while_the_journal_fails(opened, monkeypatch):
    """The session knows what the hub holds, even where it cannot be written down: no repeat, no hurry, and it recovers."""
    due_rows(opened)
    opened.fold()
    write, full = journal._write_whole, True

    def some(fd, line):
        if full:
            raise OSError(28, "No space left on device")
        write(fd, line)

    monkeypatch.setattr(journal, "_write_whole", some)
    opened.sender.step(WORDS)
    assert asked(opened) == ["rows/1-1#1-1"]
    for _ in range(5):
        assert opened.sender.step(WORDS) == AFTER_FAILURE
        assert opened.sender.step(FILES) <= 60.0
    assert asked(opened) == []
    assert opened.door.unwritten > 0
    full = False
    opened.sender.step(WORDS)
    assert (opened.door.unwritten, opened.outbox.count()) == (0, (0, 0))


def test_what_waits_in_memory_is_written_without_another_word(opened, monkeypatch):
    """At the end of training nobody speaks any more: the sender itself tries the journal again, every few seconds."""
    write, full = journal._write_whole, True

    def some(fd, line):
        if full:
            raise OSError(28, "No space left on device")
        write(fd, line)

    monkeypatch.setattr(journal, "_write_whole", some)
    opened.rows(2)
    opened.door.tell(ev.TrainEnd)
    assert opened.sender.step(WORDS) == AFTER_FAILURE
    assert asked(opened) == []
    full = False
    opened.drain()
    assert (opened.door.memory.state, opened.hub.rows) == (State.DONE, [1, 2])


def test_nothing_of_what_is_not_written_leaves(opened, monkeypatch):
    """A step that is only in memory may be gone with the process: what it asks for waits until it is written."""

    def full(_fd, _line):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(journal, "_write_whole", full)
        opened.door.tell(ev.TrainEnd)
        opened.reopen()
        opened.sender.step(WORDS)
        opened.sender.step(FILES)
        assert asked(opened) == []
    opened.drain()
    assert "close" in asked(opened)


def test_a_delivery_of_which_only_the_outbox_knows_holds_nothing_up(opened):
    """Where the line that settled something is damaged, the session's memory is right, and what is behind it leaves."""
    key = due_rows(opened)
    opened.fold()
    memory = opened.door.memory
    opened.sender.step(WORDS)
    with opened.outbox._lock:
        opened.outbox._db.execute("delete from deliveries")
    due_rows(opened)
    opened.fold()
    with opened.outbox._lock:
        action = outbox._ENCODER.encode(memory.outstanding[0])
        total = outbox._sum(key, WORDS, "rows", action)
        opened.outbox._db.execute(
            "insert into deliveries (position, key, lane, kind, action, sum) values (0, ?, 'words', 'rows', ?, ?)",
            (key, action, total),
        )
    asked(opened)
    assert opened.sender.step(WORDS) == 0.0
    assert asked(opened) == []
    opened.sender.step(WORDS)
    assert asked(opened) == ["rows/2-2#2-2"]
    assert opened.outbox.count() == (0, 0)


def test_a_refusal_of_which_the_outbox_does_not_know_stays_one(opened):
    """Where the line of a refusal is damaged, the delivery is not sent again by itself, and can be retried."""
    key = due_rows(opened)
    opened.hub.script(key, Declined("too large", 413))
    opened.sender.step(WORDS)
    with opened.outbox._lock:
        opened.outbox._db.execute("update deliveries set refused = 0")
    for _ in range(3):
        opened.sender.step(WORDS)
    assert (opened.hub.rows, opened.outbox.count()) == ([], (0, 1))
    opened.door.tell(ev.RetryRefused)
    opened.sender.step(WORDS)
    assert (opened.hub.rows, opened.door.memory.refused) == ([1], ())


def test_a_renewed_outbox_is_logged_once(opened, capsys):
    """That the outbox was damaged is for the log; what is sent and in which order does not change by it."""
    due_rows(opened)
    opened.outbox.close()
    opened.file.write_bytes(b"no database at all" * 500)
    opened.open()
    opened.sender.step(WORDS)
    opened.sender.step(WORDS)
    assert capsys.readouterr().err.count("hubstate.outbox_renewed") == 1
    assert opened.hub.rows == [1]


# -- the whole


def test_whoever_waits_sees_that_something_moves(opened):
    """Each delivery that is settled, and each byte that the hub moved, counts; a try in vain does not."""
    moved = opened.sender.moved
    opened.hub.script(due_rows(opened), OFFLINE)
    opened.sender.step(WORDS)
    assert opened.sender.moved == moved
    opened.drain_rows()
    assert opened.sender.moved == moved + 1


def test_closing_a_sender_closes_what_it_uses(tmp_path):
    """Outbox and connections are let go of together."""
    rig = Rig(tmp_path / "S")
    assert isinstance(rig.sender, Sender)
    rig.sender.close()
    assert rig.hub.closed
    with pytest.raises(Exception, match="closed database"):
        rig.outbox.count()
