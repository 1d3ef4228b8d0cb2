"""One round over many sessions: each goes to its own hub, a living owner is left alone, nothing raises."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fakes import OFFLINE, FakeHub
from journals import DAMAGED
from loopback import refused_port

import hubstate
from hubstate import Outcome, State, overview, settings
from hubstate.actions import Memory
from hubstate.clock import VirtualClock
from hubstate.errors import HubRefused, HubUnreachable, UsageError
from hubstate.hubs.base import Accepted, Declined, Delayed, Hub, News, Reply
from hubstate.journal import wanted_hub
from hubstate.opening import needed_snapshots, peek
from hubstate.rounds import Round
from hubstate.sync import Remainder, asked, deliver, give_up, hub_for

REJECTED = Delayed("credentials_rejected", "no such key", 401)


class Asked(FakeHub):
    """A hub that answers the first question as it was told to."""

    def __init__(self, answer: Reply) -> None:
        super().__init__(news=News(hub=self.address, model="M"))
        self.answer = answer
        self.questions = 0

    def check(self) -> Reply:
        self.questions += 1
        return self.answer


class World:
    """A round with one hub for every address; what was said, which hubs were opened, and with which keys."""

    def __init__(self, answer: Reply | None = None, **options: str | bool | None) -> None:
        self.hub = Asked(Accepted() if answer is None else answer)
        self.said: list[str] = []
        self.opened: list[tuple[str, str | None]] = []
        self.shown = 0
        named = options.get("hub", "http://hub.test")
        self.round = Round(
            settings.resolve(hub=named if isinstance(named, str) else None),
            hub=named if isinstance(named, str) else None,
            retry_refused=bool(options.get("retry_refused")),
            reason=str(options["reason"]) if "reason" in options else None,
            clock=VirtualClock(1_900_000_000.0),
            chance=random.Random(1),
            open_hub=self.open,
            say=self.said.append,
            watch=self.watch,
            beside=bool(options.get("beside")),
        )

    def open(self, address: str, key: str | None) -> Hub:
        self.opened.append((address, key))
        return self.hub

    @contextmanager
    def watch(self, _name: str, _memory: Memory, _hub: Hub) -> Iterator[Callable[[Memory], None]]:
        def show(_memory: Memory) -> None:
            self.shown += 1

        yield show

    def visit(self, *folders: Path, by_name: bool = False) -> None:
        with self.round:
            for seen in overview.look_at_all(folders):
                self.round.visit(seen, by_name=by_name)


def trained(epochs: int = 3) -> Path:
    with hubstate.start("digits", epochs=epochs) as session:
        for epoch in session.epochs():
            session.log({"loss": 1 / (epoch + 1)})
    return Path(".hubstate").absolute() / session.id


def silent() -> Path:
    session = hubstate.start("digits", epochs=9)
    session.log({"loss": 1.0})
    session.close()
    return Path(".hubstate").absolute() / session.id


def test_a_key_that_is_not_shown_is_the_reason_of_a_refusal(monkeypatch):
    """A session's hub that no word of this user names is not shown the key in the environment, and that is said."""
    folder = trained()
    first = World()
    first.hub.script(f"{folder.name}/1/close", Declined("no", 404))
    first.visit(folder)
    monkeypatch.setenv("HUBSTATE_API_KEY", "ul_secret")
    second = World(REJECTED, hub=None, retry_refused=True)
    second.visit(folder)
    assert second.opened == [("http://hub.test", None)]
    assert second.round.credentials_refused
    (said,) = second.said
    assert "HUBSTATE_API_KEY" in said
    assert "ul_secret" not in said
    third = World(hub=None, retry_refused=True, beside=True)
    third.visit(folder)
    assert third.opened == [("http://hub.test", "ul_secret")]


def state(folder: Path) -> State:
    return peek(folder).memory.state


def test_every_session_is_delivered_and_the_hub_is_asked_once():
    """What waits in several sessions leaves, by one hub that was asked once, watched step by step."""
    folders = [trained(), trained()]
    world = World()
    world.visit(*folders)
    assert [state(folder) for folder in folders] == [State.DONE, State.DONE]
    assert world.round.visited == folders
    assert (world.hub.questions, world.hub.closed, world.round.left_alone, world.said) == (1, True, False, [])
    assert world.shown > 2


def test_a_session_with_nothing_to_deliver_is_passed_by_unless_it_was_named():
    """Where nothing waits there is nothing to tell, but to whoever asked for that session."""
    folder = trained()
    World().visit(folder)
    passed, named = World(), World()
    passed.visit(folder)
    named.visit(folder, by_name=True)
    assert (passed.round.visited, named.round.visited) == ([], [folder])
    assert passed.opened == named.opened == []


def test_what_a_death_left_of_a_session_that_is_done_is_removed(monkeypatch):
    """A round takes away the copies that whoever died left behind; no hub is asked, and a disk that fails is told."""
    folder = trained()
    World().visit(folder)
    stray = folder / "snapshots" / "stray"
    stray.parent.mkdir(exist_ok=True)
    stray.touch()
    failing = World()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", fails)
        failing.visit(folder)
    assert (stray.exists(), failing.round.left_alone) == (True, False)
    assert "Input/output error" in failing.said[0]
    world = World()
    world.visit(folder)
    assert not stray.exists()
    assert (world.opened, world.said, world.round.visited) == ([], [], [])
    assert (state(folder), peek(folder).owner) == (State.DONE, None)


def fails(*_arguments, **_named):
    raise OSError(5, "Input/output error")


def test_a_living_owner_is_left_alone_and_named():
    """What a living process has open, whatever it does with it, is left to it, and the process is named."""
    session = hubstate.start("digits")
    session.log({"loss": 1.0})
    folder = Path(".hubstate") / session.id
    world = World()
    try:
        world.visit(folder)
        assert overview.look(folder).unsettled
    finally:
        session.close()
    assert "has it open just now; it is left to it" in world.said[0]
    assert (world.opened, world.round.visited) == ([], [folder])


@pytest.mark.parametrize("seen_first", [True, False])
def test_what_somebody_else_delivers_meanwhile_hinders_no_round(seen_first):
    """Two rounds at once: who finds a session open leaves it, and what was left alone is all that another look finds."""
    folder = trained()
    seen = overview.look(folder)
    other, world = World(), World()
    remainder = Remainder(folder, other.hub, VirtualClock(1_900_000_000.0), random.Random(1))
    try:
        with world.round:
            world.round.visit(overview.look(folder) if seen_first else seen)
        deliver(remainder, VirtualClock(1_900_000_000.0))
    finally:
        remainder.close()
    (said,) = world.said
    assert said.endswith("; it is left to it")
    assert (world.round.left_alone, world.round.visited) == (False, [folder])
    assert overview.look(folder).unsettled == 0


@DAMAGED
def test_a_journal_beyond_reading_hinders_no_other_session():
    """A session that cannot be read is told of, and the next one is delivered."""
    broken, whole = trained(), trained()
    (broken / "journal-000001.jsonl").write_bytes(b"no journal\n")
    world = World()
    world.visit(broken, whole)
    assert (world.round.left_alone, state(whole)) == (True, State.DONE)
    assert broken.name in world.said[0]


def test_a_hub_that_is_away_is_asked_once_and_no_session_is_touched():
    """One question tells that a hub is away; no session is opened for it, and each is told of."""
    folders = [trained(), trained()]
    before = [sorted(file.name for file in folder.iterdir()) for folder in folders]
    world = World(OFFLINE)
    world.visit(*folders)
    assert [sorted(file.name for file in folder.iterdir()) for folder in folders] == before
    assert (world.hub.questions, world.round.left_alone, world.round.credentials_refused) == (1, True, False)
    assert len(world.said) == 2
    assert "no route to the hub" in world.said[0]


def test_refused_credentials_are_told_apart():
    """A hub that does not take the key is another end than one that is away."""
    world = World(REJECTED)
    world.visit(trained())
    assert world.round.credentials_refused
    assert "hubstate login http://hub.test" in world.said[0]


def test_credentials_that_end_on_the_way_are_noticed():
    """A key that is revoked while a session is delivered counts as refused."""
    world = World()
    world.hub.always = REJECTED
    world.visit(trained())
    assert world.round.credentials_refused


def test_a_refused_delivery_is_told_and_tried_again_only_when_asked():
    """What a hub refused stays, with the way out told; with `retry_refused` it leaves."""
    folder = trained()
    first = World()
    first.hub.script(f"{folder.name}/1/rows/1-3", Declined("too large", 413))
    first.visit(folder)
    again = World()
    again.visit(folder)
    assert "1 refused; try them again by --retry-refused" in again.said[0]
    assert state(folder) is State.FINALIZING
    World(retry_refused=True).visit(folder)
    assert state(folder) is State.DONE


def test_what_is_given_up_needs_no_hub():
    """A session that no hub ever heard of is given up without one: nothing waits then."""
    folder = trained()
    world = World(hub=None, reason="not worth it")
    world.visit(folder)
    seen = overview.look(folder)
    assert (seen.receipt.state, seen.unsettled, world.opened) == (State.ABORTED, 0, [])
    assert seen.receipt.rows_given_up == 3


def test_a_hub_that_knows_a_session_hears_that_it_was_given_up():
    """The word of the end goes to the hub that holds the beginning."""
    folder = trained()
    first = World()
    first.hub.script(f"{folder.name}/1/rows/1-3", Declined("too large", 413))
    first.visit(folder)
    world = World(reason="not worth it")
    world.visit(folder)
    assert overview.look(folder).unsettled == 0
    assert [key for key in world.hub.asked if key.endswith("/end")] == ["1/end"]


def test_giving_up_ends_a_training_that_nobody_ended():
    """Who gives up a session whose process is gone says so once: it is aborted, its outcome unknown."""
    folder = silent()
    memory = give_up(folder, "the machine is gone", VirtualClock(1_900_000_000.0))
    assert (memory.state, memory.outcome, memory.outstanding) == (State.ABORTED, Outcome.UNKNOWN, ())
    assert overview.look(folder).receipt.outcome is Outcome.UNKNOWN


def test_giving_up_removes_copies_that_nobody_needs_any_more(tmp_path):
    """A copy that was kept only to be sent goes with the wish to send it; those to go on from stay."""
    weights = tmp_path / "last.pt"
    session = hubstate.start("digits", epochs=3, limits=hubstate.Limits(checkpoint=0.0))
    for epoch in session.epochs():
        weights.write_bytes(b"weights of %d" % epoch)
        session.log({"loss": 1.0})
        session.save(weights, fitness=float(epoch))
    session.close()
    copies = Path(".hubstate") / session.id / "snapshots"
    before = {file.name for file in copies.iterdir()}
    memory = give_up(copies.parent, "not worth it", VirtualClock(1_900_000_000.0))
    after = {file.name for file in copies.iterdir()}
    assert after < before
    assert after == needed_snapshots(memory) != set()


def test_a_session_without_a_hub_says_how_to_name_one():
    """Without any hub nothing is sent, and the ways to name one are told."""
    world = World(hub=None)
    world.visit(trained())
    assert world.round.left_alone
    assert "--hub URL" in world.said[0]


def begun_for(address: str) -> Path:
    """A session that named its hub itself, and of which no hub acknowledged anything yet."""
    session = hubstate.start("digits", hub=address)
    session.log({"loss": 1.0})
    session.close()
    return Path(".hubstate").absolute() / session.id


@pytest.mark.parametrize(("named", "chosen"), [(None, 0), ("http://hub.test", 1)])
def test_a_hub_that_only_the_training_named_is_not_forgotten(named, chosen):
    """Killed before the first acknowledgement, a session goes to the hub it was begun for, unless one is named now."""
    address = f"http://127.0.0.1:{refused_port()}"
    folder = begun_for(address)
    world = World(hub=named)
    world.visit(folder)
    assert world.opened == [((address, "http://hub.test")[chosen], None)]
    assert overview.look(folder).receipt.rows_delivered == 1


def test_the_newest_attempt_tells_the_hub():
    """Who goes on without a hub wants none any more: what the attempt before was begun for does not count."""
    address = f"http://127.0.0.1:{refused_port()}"
    folder = begun_for(address)
    assert wanted_hub(folder) == address
    hubstate.start("digits", resume=folder.name, mode="offline").close()
    assert wanted_hub(folder) is None
    world = World(hub=None)
    world.visit(folder)
    assert (world.opened, world.round.left_alone) == ([], True)


@pytest.mark.parametrize(
    ("own", "wanted", "configured", "chosen"),
    [
        ("http://a", None, "http://b", "http://a"),
        ("http://a", "http://a", None, "http://a"),
        (None, "http://a", "http://b", "http://a"),
        (None, None, "http://b", "http://b"),
    ],
)
def test_a_session_goes_to_the_hub_that_it_belongs_to(own, wanted, configured, chosen):
    """Its own hub first, then the one that was named, then the one that is set."""
    assert hub_for(own, wanted, configured) == chosen


def test_a_session_does_not_change_its_hub():
    """Another hub than a session's own is refused, with the reason."""
    with pytest.raises(UsageError, match=r"belongs to http://a, .* cannot go to http://b"):
        hub_for("http://a", "http://b", None)


def test_a_key_is_not_shown_to_another_hub(monkeypatch):
    """The key that stands beside one hub in the environment does not go to another that a session belongs to."""
    folder = trained()
    first = World()
    first.hub.script(f"{folder.name}/1/rows/1-3", Declined("too large", 413))
    first.visit(folder)
    monkeypatch.setenv("HUBSTATE_HUB", "http://other.test")
    monkeypatch.setenv("HUBSTATE_API_KEY", "of-the-other")
    world = World(hub=None, retry_refused=True)
    world.visit(folder)
    assert world.opened == [("http://hub.test", None)]


def test_a_named_hub_gets_the_key_of_the_environment(monkeypatch):
    """Who names a hub and sets a key beside it means that hub."""
    monkeypatch.setenv("HUBSTATE_API_KEY", "the-key")
    world = World()
    world.visit(trained())
    assert world.opened == [("http://hub.test", "the-key")]


@pytest.mark.parametrize(("answer", "error"), [(REJECTED, HubRefused), (OFFLINE, HubUnreachable)])
def test_asking_raises_what_the_answer_means(answer, error):
    """No key and no hub are two errors, so that a command can end by two codes."""
    with pytest.raises(error, match=r"http://hub\.test"):
        asked(Asked(answer))


def test_a_hub_that_asks_for_a_pause_is_there():
    """A full hub is no lost hub."""
    asked(Asked(Delayed("rate_limited", "a pause", 429, 5.0)))
