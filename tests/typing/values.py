"""The types of the values that users hand in and get back. mypy reads this file; nobody runs it."""

from typing import assert_type

from hubstate.actions import Condition
from hubstate.diagram import Taken, render, render_svg
from hubstate.limits import Limits
from hubstate.receipt import Receipt
from hubstate.states import Outcome, State

assert_type(Limits(metrics=3, checkpoint=900.0, heartbeat=300), Limits)
assert_type(Limits().metrics, float)
Limits(metrics="3")  # type: ignore[arg-type]
Limits().metrics = 1.0  # type: ignore[misc]

assert_type(render("mermaid"), str)
assert_type(render("svg", [Taken("idle", "tick", "idle")], title="digits"), str)
assert_type(render_svg(style=False), str)


def read(receipt: Receipt) -> None:
    """A receipt is read, not written."""
    assert_type(receipt.session, str)
    assert_type(receipt.state, State)
    assert_type(receipt.outcome, Outcome)
    assert_type(receipt.epoch, int | None)
    assert_type(receipt.rows, int)
    assert_type(receipt.waiting, int)
    assert_type(receipt.url, str | None)
    assert_type(receipt.conditions, tuple[Condition, ...])
    assert_type(receipt.conditions[0].until, float | None)
    assert_type(str(receipt), str)
    receipt.rows = 0  # type: ignore[misc]
