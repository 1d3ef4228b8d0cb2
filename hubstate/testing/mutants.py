"""Wrong tables: `table_mutants(table)` changes one thing in one pair of a table, in every way there is.

Tools that mutate code change the bodies of functions, and a table is module data: they leave it alone, and a test
of the table that tests nothing goes unnoticed. So a table has a mutator of its own. It works pair by pair (a state
and an event), because a row that names three states and two events is six decisions, and a test that holds one of
them says nothing of the others. In each pair

* a row is dropped, sent elsewhere, or changed in whether it is written or held back,
* a guard is dropped, negated, swapped for another, or added,
* an action is dropped, swapped for another, added, or asked for in another order,
* two rows change places, and a row without a guard is put before them: `stays`, or a way to another state.

`Mutant.decide` decides by the wrong table, in this process, and nothing global is touched:

    survived = [mutant.name for mutant in table_mutants() if not my_test_fails(mutant.decide)]

A mutant that no test can tell from the table is *equivalent*. `facts_of` finds them: it compares the two decision
tables over all values that the guards can have together, and tells which `FACTS` about guards and actions it needed
for that. So there is no list of exceptions, which would outlive its reasons: each is computed anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

from hubstate.actions import Action, Decision, Memory, SendRows
from hubstate.controller import decide
from hubstate.events import EVENTS, Event, name_of
from hubstate.limits import Guard
from hubstate.machine import CELLS, ROWS, TABLE, Cells, Rule, compiled
from hubstate.states import State

__all__ = ["FACTS", "Fact", "Mutant", "facts_of", "table_mutants"]

Rules = tuple[Rule, ...]
#: How the name of a negated guard begins.
_NOT = "not "


@dataclass(frozen=True)
class Mutant:
    """One wrong table: what was changed, in which pair, and the rules of that pair before and after.

    No rules after it: the pair has become illegal. `cells` is the whole table, compiled, with this one change.
    """

    name: str
    state: State
    event: type[Event]
    before: Rules
    after: Rules
    cells: Cells

    def decide(self, memory: Memory, event: Event) -> Decision:
        """What `controller.decide` would decide by this table."""
        return decide(memory, event, self.cells)


def table_mutants(table: Iterable[Rule] = TABLE) -> Iterator[Mutant]:
    """Every mutant of a table, pair by pair. None of them is the table itself, and none comes twice."""
    table = tuple(table)
    cells = CELLS if table is TABLE else compiled(table)
    guards = tuple({guard.name: guard for rule in table for guard in rule.guards}.values())
    actions = tuple(dict.fromkeys(action for rule in table for action in rule.actions))
    for state in State:
        for event in EVENTS:
            rules = cells.get((state, event), ())
            seen = {_essence(rules)}
            for what, changed in _changes(state, event, rules, guards, actions):
                if _essence(changed) not in seen:
                    seen.add(_essence(changed))
                    yield _mutant(f"{state.value} / {name_of(event)}: {what}", state, event, changed, cells)


def _mutant(name: str, state: State, event: type[Event], rules: Rules, cells: Cells) -> Mutant:
    others = {pair: held for pair, held in cells.items() if pair != (state, event)}
    changed = others | {(state, event): rules} if rules else others
    return Mutant(name, state, event, cells.get((state, event), ()), rules, changed)


def _essence(rules: Rules) -> tuple[object, ...]:
    """What decides: a rule's sources and events are those of the whole row, and its note is for people."""
    return tuple(
        (tuple(guard.name for guard in rule.guards), rule.target, rule.actions, rule.written, rule.held)
        for rule in rules
    )


# -- what can be changed ---------------------------------------------------------------------------------

_Changes = Iterator[tuple[str, Rules]]


def _changes(
    state: State, event: type[Event], rules: Rules, guards: Sequence[Guard], actions: Sequence[type[Action]]
) -> _Changes:
    for number, rule in enumerate(rules):
        before, after = rules[:number], rules[number + 1 :]
        yield f"row {number + 1} dropped", before + after
        if after:
            yield f"rows {number + 1} and {number + 2} change places", (*before, after[0], rule, *after[1:])
        for what, changed in (
            *_elsewhere(state, rule),
            *_otherwise_guarded(rule, guards),
            *_otherwise_asking(rule, actions),
        ):
            yield f"row {number + 1} {what}", (*before, changed, *after)
    for target in (None, *(other for other in State if other is not state)):
        way = f"to {target.value}" if target else "that stays"
        yield f"a row {way} added", (Rule((state,), (event,), (), target), *rules)


def _elsewhere(state: State, rule: Rule) -> Iterator[tuple[str, Rule]]:
    for target in (None, *State):
        if target not in (rule.target, state):
            yield f"leads {f'to {target.value}' if target else 'nowhere'}", replace(rule, target=target)
    yield "is written or not, the other way", replace(rule, written=not rule.written)
    yield "is held back or not, the other way", replace(rule, held=not rule.held)


def _otherwise_guarded(rule: Rule, guards: Sequence[Guard]) -> Iterator[tuple[str, Rule]]:
    others = [guard for guard in guards if guard not in rule.guards]
    for number, guard in enumerate(rule.guards):
        before, after = rule.guards[:number], rule.guards[number + 1 :]
        yield f"without {guard.name}", replace(rule, guards=before + after)
        yield f"with {guard.name} negated", replace(rule, guards=(*before, _negated(guard), *after))
        for other in others:
            yield (
                f"with {other.name} for {guard.name}",
                replace(rule, guards=(*before, other, *after)),
            )
    for other in others:
        yield f"with {other.name} added", replace(rule, guards=(*rule.guards, other))


def _negated(guard: Guard) -> Guard:
    return Guard(
        _NOT + guard.name,
        lambda memory, event: not guard.holds(memory, event),
        lambda _memory, _event: f"{guard.name} holds",
    )


def _otherwise_asking(rule: Rule, actions: Sequence[type[Action]]) -> Iterator[tuple[str, Rule]]:
    others = [action for action in actions if action not in rule.actions]
    for number, action in enumerate(rule.actions):
        before, after = rule.actions[:number], rule.actions[number + 1 :]
        yield f"without {_said(action)}", replace(rule, actions=before + after)
        for other in others:
            yield f"with {_said(other)} for {_said(action)}", replace(rule, actions=(*before, other, *after))
        if after:
            swapped = (*before, after[0], action, *after[1:])
            yield f"with {_said(action)} behind {_said(after[0])}", replace(rule, actions=swapped)
    for other in others:
        yield f"with {_said(other)} added", replace(rule, actions=(*rule.actions, other))


def _said(action: type[Action]) -> str:
    return "the refused ones" if action is Action else action.__name__


# -- which mutants nobody can tell from the table --------------------------------------------------------

Values = dict[str, bool]


@dataclass(frozen=True)
class Fact:
    """What is true of guards and actions, whatever the table says, and why.

    `possible`: whether guards can have these values together. `asks`: whether the action asks for anything then.
    """

    name: str
    reason: str
    possible: Callable[[Values], bool] = lambda _values: True
    asks: Callable[[type[Action], type[Event], Values], bool] = lambda _action, _event, _values: True


FACTS: tuple[Fact, ...] = (
    Fact(
        "what is refused waits",
        "A delivery is refused only while it is outstanding, and is settled and given up in both lists at once "
        "(`adopt`). So `something_waits` holds wherever `refused_exist` does.",
        possible=lambda values: values["something_waits"] or not values["refused_exist"],
    ),
    Fact(
        "what is delivered waited",
        "`all_delivered` holds only where the one delivery that is outstanding is the one that was acknowledged. So "
        "`something_waits` holds wherever it does.",
        possible=lambda values: values["something_waits"] or not values["all_delivered"],
    ),
    Fact(
        "without a row that waits no rows are asked for",
        "`SendRows` names the rows behind the last one that was asked for. Where none waits, and the event is no row "
        "itself, that is nothing, and nothing is asked.",
        asks=lambda action, event, values: action is not SendRows or event in ROWS or values["rows_wait"],
    ),
)


def facts_of(mutant: Mutant) -> tuple[Fact, ...] | None:
    """Why a mutant decides as the table does: the facts that are needed for it. None: a test has to tell it apart.

    It is equivalent if for all values that the guards of the pair can have together, the rules before and after do
    the same: a row that is held back leads nowhere and asks for nothing, whatever stands in it; where no row's guards
    hold, the event is held back and not written; and a row is never reached behind one that needs no more.
    """
    for facts in ((), *((fact,) for fact in FACTS)):
        if _is_same(mutant, facts):
            return facts
    return None


def _is_same(mutant: Mutant, facts: tuple[Fact, ...]) -> bool:
    if not mutant.before or not mutant.after:
        return False  # one of the two is illegal
    asked = {_plain(guard) for rule in (*mutant.before, *mutant.after) for guard in rule.guards}
    names = sorted(asked | {"all_delivered", "refused_exist", "rows_wait", "something_waits"})
    for answers in product((True, False), repeat=len(names)):
        values = dict(zip(names, answers, strict=True))
        if all(fact.possible(values) for fact in facts):
            before, after = (
                _outcome(rules, mutant.event, values, facts) for rules in (mutant.before, mutant.after)
            )
            if before != after:
                return False
    return True


def _outcome(rules: Rules, event: type[Event], values: Values, facts: tuple[Fact, ...]) -> tuple[object, ...]:
    """What the rules do where the guards have these values."""
    for rule in rules:
        if all(values[_plain(guard)] is not _is_negated(guard) for guard in rule.guards):
            if rule.held:
                return ("held back", rule.written)
            asks = tuple(
                action for action in rule.actions if all(fact.asks(action, event, values) for fact in facts)
            )
            return ("done", rule.target, asks, rule.written)
    return ("held back", False)


def _plain(guard: Guard) -> str:
    return guard.name.removeprefix(_NOT)


def _is_negated(guard: Guard) -> bool:
    return guard.name.startswith(_NOT)
