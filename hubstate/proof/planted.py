"""Broken parts, which the search has to find: each is the real thing with one mistake in it.

They are the proof's own proof: a search that finds nothing says something only if it finds these. Each names the
property that it violates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from msgspec.structs import replace

from hubstate.actions import (
    Action,
    AnyAction,
    CloseSession,
    Decision,
    EndSession,
    Heartbeat,
    KeepCheckpoint,
    Memory,
    OpenSession,
    SendCheckpoint,
    SendRows,
)
from hubstate.adopt import adopt
from hubstate.controller import decide
from hubstate.events import (
    EVENTS,
    USAGE_EVENTS,
    Abort,
    Answered,
    Delivered,
    Event,
    FitEpochEnd,
    GiveUp,
    HeartbeatTick,
    HeldUp,
    ModelSave,
    PretrainRoutineStart,
    Refused,
    RetryRefused,
    StopRequested,
    Tick,
    TrainBatchEnd,
    TrainEnd,
    TrainStart,
    name_of,
)
from hubstate.journal import Step, adopt_step
from hubstate.opening import for_next_attempt
from hubstate.outbox import FILES, WORDS
from hubstate.proof.model import Box, Entry, Rig, Shelf, claimed, folded, shelved
from hubstate.proof.properties import RowSeen
from hubstate.states import CheckpointKind, Outcome, State

__all__ = ["PLANTED", "Plant"]


class Plant(NamedTuple):
    """A broken rig, and the property that it violates."""

    rig: Rig
    violates: str


def _anew(decision: Decision, before: Memory, *actions: AnyAction, state: State | None = None) -> Decision:
    """The decision with other actions or another state, adopted as the real one is."""
    after = adopt(before, decision.event, state or decision.memory.state, actions)
    return decision._replace(memory=after, actions=actions)


def _beat(memory: Memory) -> Heartbeat:
    key = f"{memory.session}/{memory.attempt}/heartbeat"
    return Heartbeat(key, memory.attempt, state=memory.state, outcome=memory.outcome)


def _due(since: float | None, at: float, interval: float) -> bool:
    return since is None or at - since >= interval


# -- mistakes of the decisions ---------------------------------------------------------------------------


def _beats_in(wrong: State) -> Callable[[Memory, Event], Decision]:
    def broken(memory: Memory, event: Event) -> Decision:
        decision = decide(memory, event)
        due = not memory.heartbeat_out and _due(memory.heartbeat_since, event.at, memory.heartbeat_interval)
        if isinstance(event, HeartbeatTick) and memory.state is wrong and due:
            return _anew(decision._replace(refusal=None), memory, _beat(memory))
        return decision

    return broken


def _awaits_nothing(memory: Memory, at: float, *, heartbeats: bool = True) -> None:
    """Whoever ticks waits for an answer, with signs of life or without."""
    del memory, at, heartbeats


def _beats_without_hub(memory: Memory, event: Event) -> Decision:
    """Whether a hub is wanted plays no part."""
    if not isinstance(event, HeartbeatTick) or memory.hub_wanted:
        return decide(memory, event)
    decision = decide(replace(memory, hub_wanted=True), event)
    return decision._replace(memory=replace(decision.memory, hub_wanted=False))


def _looking_consumes(memory: Memory, event: Event) -> Decision:
    decision = decide(memory, event)
    due = memory.metrics_since is not None and _due(memory.metrics_since, event.at, memory.metrics_interval)
    if isinstance(event, Tick) and memory.state is State.TRAINING and due and not decision.actions:
        return decision._replace(memory=replace(memory, metrics_since=event.at), journalled=True)
    return decision


def _ignores_window(memory: Memory, event: Event) -> Decision:
    return decide_as_if(memory, event, metrics_since=event.at - memory.metrics_interval)


def decide_as_if(memory: Memory, event: Event, **fields: object) -> Decision:
    """What would be decided under other circumstances, adopted under the real ones."""
    if memory.metrics_since is None or not isinstance(event, FitEpochEnd | TrainBatchEnd | Tick):
        return decide(memory, event)
    decision = decide(replace(memory, **fields), event)
    return _anew(decision, memory, *decision.actions)


def _sends_while_out(memory: Memory, event: Event) -> Decision:
    return decide_as_if(memory, event, outstanding=())


def _beats_until_refused(memory: Memory, event: Event) -> Decision:
    """A heartbeat that is refused stays out for ever, so that it is the last one."""
    decision = decide(memory, event)
    if not isinstance(event, Refused) or not event.key.endswith("/heartbeat"):
        return decision
    return decision._replace(memory=replace(decision.memory, heartbeat_out=memory.heartbeat_out))


def _names_no_usage(memory: Memory, event: Event) -> Decision:
    """Whoever says what is illegal hears nothing of the notes of usage, which are legal everywhere."""
    decision = decide(memory, event)
    if decision.refusal is None or not decision.refusal.illegal:
        return decision
    notes = {name_of(kind) for kind in USAGE_EVENTS}
    legal = tuple(name for name in decision.refusal.legal if name not in notes)
    return decision._replace(refusal=replace(decision.refusal, legal=legal))


def _illegal_moves(memory: Memory, event: Event) -> Decision:
    decision = decide(memory, event)
    if isinstance(event, TrainStart) and memory.state is State.SESSION_CREATED:
        return decision._replace(memory=replace(memory, state=State.TRAINING))
    return decision


def _retry_relabels(memory: Memory, event: Event) -> Decision:
    """A retry asks for the refused rows anew, under the attempt that runs now."""
    decision = decide(memory, event)
    if not isinstance(event, RetryRefused) or not decision.actions:
        return decision
    actions = tuple(
        replace(a, key=f"{memory.session}/{memory.attempt}/rows/{a.first}-{a.last}", attempt=memory.attempt)
        if isinstance(a, SendRows)
        else a
        for a in decision.actions
    )
    if actions == decision.actions:
        return decision
    old = {action.key for action in decision.actions}
    after = decision.memory
    rest = tuple(a for a in after.outstanding if a.key not in old)
    return decision._replace(memory=replace(after, outstanding=(*rest, *actions)), actions=actions)


def _final_first(memory: Memory, event: Event) -> Decision:
    decision = decide(memory, event)
    if not isinstance(event, TrainEnd) or not decision.actions:
        return decision
    return _anew(decision, memory, *sorted(decision.actions, key=lambda a: isinstance(a, SendRows)))


def _without(kind: type[AnyAction], *events: type[Event]) -> Callable[[Memory, Event], Decision]:
    """Forgets to ask for one kind of action."""

    def broken(memory: Memory, event: Event) -> Decision:
        decision = decide(memory, event)
        if not isinstance(event, events) or not any(isinstance(a, kind) for a in decision.actions):
            return decision
        return _anew(decision, memory, *(a for a in decision.actions if not isinstance(a, kind)))

    return broken


def _says(
    kind: type[AnyAction], *events: type[Event], **fields: object
) -> Callable[[Memory, Event], Decision]:
    """Asks for one kind of action with other words in it."""

    def broken(memory: Memory, event: Event) -> Decision:
        decision = decide(memory, event)
        if not isinstance(event, events) or not any(isinstance(a, kind) for a in decision.actions):
            return decision
        actions = (replace(a, **fields) if isinstance(a, kind) else a for a in decision.actions)
        return _anew(decision, memory, *actions)

    return broken


def _sends_another(event_kind: type[Event], *order: str) -> Callable[[Memory, Event], Decision]:
    """The end sends another checkpoint than it has to: the first one that there is of those told."""

    def broken(memory: Memory, event: Event) -> Decision:
        decision = decide(memory, event)
        kept = next((k for name in order if (k := getattr(memory, name)) is not None), None)
        if not isinstance(event, event_kind) or kept is None:
            return decision
        actions = (
            replace(a, key=a.key.replace(a.snapshot, kept.snapshot), snapshot=kept.snapshot, epoch=kept.epoch)
            if isinstance(a, SendCheckpoint)
            else a
            for a in decision.actions
        )
        return _anew(decision, memory, *actions)

    return broken


def _any_fitness_is_best(memory: Memory, event: Event) -> Decision:
    """Whatever has a fitness takes the place of the best."""
    if not isinstance(event, ModelSave) or memory.best_fitness is None or event.fitness is None:
        return decide(memory, event)
    decision = decide(replace(memory, best_fitness=None), event)
    return _anew(decision, memory, *decision.actions)


def _chooses_all(memory: Memory, event: Event) -> Decision:
    """What was chosen of the checkpoints plays no part while they are kept."""
    if not isinstance(event, ModelSave):
        return decide(memory, event)
    decision = decide(replace(memory, checkpoints="all"), event)
    return _anew(decision, memory, *decision.actions)


def _retries_one(memory: Memory, event: Event) -> Decision:
    """Of several refusals the first alone is retried, and all are forgotten."""
    decision = decide(memory, event)
    if not isinstance(event, RetryRefused) or len(decision.actions) < 2:
        return decision
    return _anew(decision, memory, decision.actions[0])


def _forgets_best(memory: Memory) -> Memory:
    """A resumed session knows no fitness any more."""
    return replace(for_next_attempt(memory), best_fitness=None)


def _keeps_no_last(memory: Memory, event: Event) -> Decision:
    decision = decide(memory, event)
    last = any(isinstance(a, KeepCheckpoint) and a.kind is CheckpointKind.LAST for a in decision.actions)
    return _anew(decision, memory) if last else decision


def _refused_is_done(memory: Memory, event: Event) -> Decision:
    """A refusal settles a delivery."""
    decision = decide(memory, event)
    if not isinstance(event, Refused):
        return decision
    rest = tuple(action for action in decision.memory.outstanding if action.key != event.key)
    return decision._replace(memory=replace(decision.memory, outstanding=rest, refused=()))


def _terminal_reopens(memory: Memory, event: Event) -> Decision:
    decision = decide(memory, event)
    if isinstance(event, RetryRefused) and memory.state is State.ABORTED and decision.actions:
        return decision._replace(memory=replace(decision.memory, state=State.FINALIZING))
    return decision


def _refusal_opens_window(memory: Memory, event: Event) -> Decision:
    """A refusal moves no clock, so that the next send follows at once."""
    decision = decide(memory, event)
    if not isinstance(event, Refused):
        return decision
    after = replace(
        decision.memory, metrics_since=memory.metrics_since, checkpoint_since=memory.checkpoint_since
    )
    return decision._replace(memory=after)


def _worse_is_best(memory: Memory, event: Event) -> Decision:
    """Keeps no best: every kept checkpoint is just the last."""
    decision = decide(memory, event)
    if not isinstance(event, ModelSave):
        return decision
    actions = tuple(
        replace(a, kind=CheckpointKind.LAST) if isinstance(a, KeepCheckpoint | SendCheckpoint) else a
        for a in decision.actions
    )
    return decision if actions == decision.actions else _anew(decision, memory, *actions)


def _unwritten_rows(memory: Memory, event: Event) -> Decision:
    decision = decide(memory, event)
    waits = isinstance(event, FitEpochEnd) and memory.state is State.TRAINING and not decision.actions
    return decision._replace(journalled=False) if waits else decision


def _forgets_rows_asked(memory: Memory, event: Event) -> Decision:
    decision = decide(memory, event)
    if not isinstance(event, PretrainRoutineStart) or not memory.rows or not decision.actions:
        return decision
    return decision._replace(memory=replace(decision.memory, rows_asked=decision.memory.rows))


def _never_done(memory: Memory, event: Event) -> Decision:
    """The last acknowledgement changes nothing."""
    decision = decide(memory, event)
    stuck = isinstance(event, Delivered) and "/close" in event.key and decision.memory.state is State.DONE
    return decision._replace(memory=replace(decision.memory, state=State.FINALIZING)) if stuck else decision


def _gives_up_silently(memory: Memory, event: Event) -> Decision:
    """Trouble with the key throws away what waits."""
    decision = decide(memory, event)
    if not isinstance(event, HeldUp) or all(action.key != event.key for action in memory.outstanding):
        return decision
    return decision._replace(memory=replace(decision.memory, outstanding=()))


def _unwritten_change(kind: type[Event], **fields: object) -> Callable[[Memory, Event], Decision]:
    """One kind of event changes the living memory otherwise than its line in the journal tells."""

    def broken(memory: Memory, event: Event) -> Decision:
        decision = decide(memory, event)
        if not isinstance(event, kind) or not decision.journalled or decision.refusal is not None:
            return decision
        return decision._replace(memory=replace(decision.memory, **fields))

    return broken


def _later_hub_takes_over(memory: Memory, event: Event) -> Decision:
    decision = decide(memory, event)
    if not isinstance(event, Answered) or event.hub is None:
        return decision
    return decision._replace(memory=replace(decision.memory, hub=event.hub))


def _last_takes_best_away(memory: Memory, event: Event) -> Decision:
    decision = decide(memory, event)
    last = any(isinstance(a, KeepCheckpoint) and a.kind is CheckpointKind.LAST for a in decision.actions)
    return decision._replace(memory=replace(decision.memory, kept_best=None)) if last else decision


def _window_stays_open(memory: Memory, step: Step) -> Memory:
    """As `_refusal_opens_window`, told by the journal."""
    after = adopt_step(memory, step)
    if not isinstance(step.event, Refused):
        return after
    return replace(after, metrics_since=memory.metrics_since, checkpoint_since=memory.checkpoint_since)


# -- mistakes of the outbox, the hub, the process ---------------------------------------------------------


def _dropping(box: Box, key: str) -> Box:
    return box._replace(entries=tuple(entry for entry in box.entries if entry.key != key))


def _any_order(box: Box, lane: str) -> Entry | None:
    """The newest leaves first."""
    return next(
        (e for e in reversed(box.entries) if e.lane == lane and not e.refused and e.kind != "open"), None
    ) or claimed(box, lane)


def _overtakes_opening(box: Box, lane: str) -> Entry | None:
    """An opening that was refused holds nothing back."""
    left = box._replace(entries=tuple(e for e in box.entries if not (e.kind == "open" and e.refused)))
    return claimed(left, lane)


def _files_do_not_wait(box: Box, lane: str) -> Entry | None:
    """The final checkpoint leaves before the rows."""
    if lane == FILES:
        opened = all(entry.kind != "open" for entry in box.entries)
        return next((e for e in box.entries if e.lane == lane and not e.refused and opened), None)
    return claimed(box, lane)


def _close_overtakes(box: Box, lane: str) -> Entry | None:
    """The close does not wait for files."""
    found = claimed(box, lane)
    if found is None and lane == WORDS and box.entries[:1]:
        opened = all(entry.kind != "open" for entry in box.entries)
        return next((e for e in box.entries if e.kind == "close" and not e.refused and opened), None)
    return found


def _settles_all(box: Box, step: Step) -> Box:
    """An acknowledgement settles everything that waits in its lane."""
    after = folded(box, step)
    return after._replace(entries=()) if isinstance(step.event, Delivered) else after


def _relabels_in_the_outbox(box: Box, step: Step) -> Box:
    """What is retried leaves under the keys that it had, and its rows under the attempt that retries them."""
    after = folded(box, step)
    if not isinstance(step.event, RetryRefused):
        return after
    spans = [entry.rows for entry in box.entries if entry.refused]
    rows = (
        row._replace(attempt=step.attempt) if any(a <= row.number <= b for a, b in spans) else row
        for row in after.rows
    )
    return after._replace(rows=tuple(rows))


def _shows_what_no_newer_one_replaced(shelf: Shelf, action: Action, rows: tuple[RowSeen, ...]) -> Shelf:
    """A hub that looks where two attempts told the same place, and not where one begins."""
    return shelved(shelf, action, rows)._replace(firsts=()) if rows else shelf


def _shows_what_came_last(shelf: Shelf, _action: Action, rows: tuple[RowSeen, ...]) -> Shelf:
    """A hub that shows of each place what came last, whoever told it."""
    of = {row.place: row for row in (*shelf.rows, *rows)}
    return Shelf(tuple(sorted(of.values())), shelf.firsts)


def _fences_what_comes_later(shelf: Shelf, action: Action, rows: tuple[RowSeen, ...]) -> Shelf:
    """A hub that turns away late rows of an older attempt, and still shows those that it has."""
    if isinstance(action, OpenSession):
        return shelved(shelf, action, rows)._replace(rows=shelf.rows)
    counting = (row for row in rows if all(row.epoch < first for n, first in shelf.firsts if n > row.attempt))
    return Shelf(tuple(sorted({*shelf.rows, *counting})), shelf.firsts)


def _keeps_only_memory(memory: Memory, step: Step) -> Memory:
    """The journal tells the state and forgets what is out."""
    after = adopt(memory, step.event, step.target, step.actions)
    return replace(after, outstanding=()) if isinstance(step.event, Abort | GiveUp) else after


def _opens_in_place(memory: Memory) -> Memory:
    """A session whose training is over begins anew."""
    return replace(memory, state=State.IDLE)


def _forgets_attempt(memory: Memory, event: Event) -> Decision:
    """Every attempt is the first one."""
    decision = decide(memory, event)
    if not isinstance(event, PretrainRoutineStart) or memory.attempt == 0 or not decision.actions:
        return decision
    actions = tuple(replace(a, attempt=1) if isinstance(a, OpenSession) else a for a in decision.actions)
    return _anew(decision, memory, *actions)


PLANTED: Mapping[str, Plant] = {
    # the outbox
    "a memory-only outbox": Plant(Rig(after_crash=lambda _box: Box()), "S1"),
    "drop on failure": Plant(Rig(in_vain=_dropping), "S1"),
    "the newest leaves first": Plant(Rig(claimed=_any_order), "S6"),
    "a refused opening holds nothing back": Plant(Rig(claimed=_overtakes_opening), "S7"),
    "the final before the drain": Plant(Rig(claimed=_files_do_not_wait), "S6"),
    "the close before the files": Plant(Rig(claimed=_close_overtakes), "S6"),
    "one acknowledgement settles all": Plant(Rig(folded=_settles_all), "S1"),
    # the hub and the journal
    "no idempotency key": Plant(Rig(repeats=False), "S3"),
    "a journal without what is out": Plant(Rig(adopted=_keeps_only_memory), "S1"),
    "a session that is over begins anew": Plant(Rig(next_attempt=_opens_in_place), "S9"),
    "resume after the last row": Plant(
        Rig(first_epoch=lambda memory, _found: 0 if memory.epoch is None else memory.epoch + 1), "S7"
    ),
    # what is sent, and what it says
    "the newest is the final one": Plant(Rig(decide=_sends_another(TrainEnd, "kept_last")), "S1"),
    "the best is the last of an abort": Plant(Rig(decide=_sends_another(Abort, "kept_best")), "S1"),
    "a choice that plays no part": Plant(Rig(decide=_chooses_all), "S1"),
    "a retry of the first alone": Plant(Rig(decide=_retries_one), "S2"),
    "any fitness is the best": Plant(Rig(decide=_any_fitness_is_best), "S1"),
    "the best fitness is forgotten": Plant(Rig(next_attempt=_forgets_best), "S1"),
    "no last is kept": Plant(Rig(decide=_keeps_no_last), "S1"),
    "no checkpoint while training": Plant(Rig(decide=_without(SendCheckpoint, ModelSave, Tick)), "S1"),
    "a last word that does not wait": Plant(Rig(decide=_says(SendCheckpoint, Abort, closing=False)), "S1"),
    "a close that names no rows": Plant(Rig(decide=_says(CloseSession, TrainEnd, rows=0)), "S6"),
    "an end that names no rows": Plant(Rig(decide=_says(EndSession, Abort, rows=0)), "S6"),
    "a close with another outcome": Plant(
        Rig(decide=_says(CloseSession, TrainEnd, outcome=Outcome.STOPPED)), "S6"
    ),
    "an end with another outcome": Plant(
        Rig(decide=_says(EndSession, Abort, GiveUp, outcome=Outcome.UNKNOWN)), "S6"
    ),
    "rows of the first attempt for ever": Plant(Rig(decide=_says(SendRows, *EVENTS, attempt=1)), "S7"),
    "files of the first attempt for ever": Plant(Rig(decide=_says(SendCheckpoint, *EVENTS, attempt=1)), "S1"),
    # a living memory that is not the one that the journal tells
    "an end that leaves the outcome": Plant(
        Rig(decide=_unwritten_change(TrainEnd, outcome=Outcome.RUNNING)), "S6"
    ),
    "a wish to stop that is dropped": Plant(Rig(decide=_unwritten_change(StopRequested, stop=None)), "S1"),
    "a later hub takes over": Plant(Rig(decide=_later_hub_takes_over), "S1"),
    "a last takes the best away": Plant(Rig(decide=_last_takes_best_away), "S1"),
    # the decisions
    "the final asked for first": Plant(Rig(decide=_final_first), "S6"),
    "a heartbeat after done": Plant(Rig(decide=_beats_in(State.DONE)), "S5"),
    "a heartbeat after an abort": Plant(Rig(decide=_beats_in(State.ABORTED)), "S5"),
    "a refused heartbeat is the last": Plant(Rig(decide=_beats_until_refused), "S1"),
    "a token consumed by looking": Plant(Rig(decide=_looking_consumes), "S8"),
    "a limit's window ignored": Plant(Rig(decide=_ignores_window), "S8"),
    "a send while one is out": Plant(Rig(decide=_sends_while_out), "S8"),
    "a refusal opens the window": Plant(Rig(decide=_refusal_opens_window, adopted=_window_stays_open), "S1"),
    "an illegal event that moves": Plant(Rig(decide=_illegal_moves), "S4"),
    "a refusal that names no notes of usage": Plant(Rig(decide=_names_no_usage), "S4"),
    "a retry that mixes attempts": Plant(Rig(decide=_retry_relabels), "S4"),
    "no rows at the end": Plant(Rig(decide=_without(SendRows, TrainEnd)), "S1"),
    "no rows at an abort": Plant(Rig(decide=_without(SendRows, Abort)), "S1"),
    "no final checkpoint": Plant(Rig(decide=_without(SendCheckpoint, TrainEnd)), "S1"),
    "no last checkpoint at an abort": Plant(Rig(decide=_without(SendCheckpoint, Abort)), "S1"),
    "no close": Plant(Rig(decide=_without(CloseSession, TrainEnd)), "S4"),
    "no opening": Plant(Rig(decide=_without(OpenSession, PretrainRoutineStart)), "S4"),
    "no best": Plant(Rig(decide=_worse_is_best), "S1"),
    "never done": Plant(Rig(decide=_never_done), "L1"),
    "refused counts as settled": Plant(Rig(decide=_refused_is_done), "S2"),
    "trouble gives up": Plant(Rig(decide=_gives_up_silently), "S2"),
    "an aborted session goes on": Plant(Rig(decide=_terminal_reopens), "S4"),
    "rows that are not written": Plant(Rig(decide=_unwritten_rows), "S1"),
    "rows forgotten by a new attempt": Plant(Rig(decide=_forgets_rows_asked), "S1"),
    # what the hub shows
    "a retry under the new attempt": Plant(Rig(folded=_relabels_in_the_outbox), "S7"),
    "a hub that knows no first epoch": Plant(Rig(shelved=_shows_what_no_newer_one_replaced), "S7"),
    "a hub that shows what came last": Plant(Rig(shelved=_shows_what_came_last), "S7"),
    "a hub that turns away late rows alone": Plant(Rig(shelved=_fences_what_comes_later), "S7"),
    # a training without a hub
    "a heartbeat without a hub": Plant(Rig(decide=_beats_without_hub), "S5"),
    # when to look
    "a tick that nobody awaits": Plant(Rig(next_due=_awaits_nothing), "L2"),
    "every attempt is the first": Plant(Rig(decide=_forgets_attempt), "S7"),
}
