"""How long a hub asks to wait, whatever it writes there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubstate.hubs.base import Delayed
from hubstate.hubs.verdict import LONGEST_RETRY_AFTER, Answer, judge, retry_after

NOW = 1_800_000_000.0  # Fri, 15 Jan 2027 08:00:00 GMT


@pytest.mark.promise("D30")
@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "60"}, 60.0),
        ({"Retry-After": " 60 "}, 60.0),
        ({"Retry-After": "1.5"}, 1.5),
        ({"Retry-After": "Fri, 15 Jan 2027 08:01:00 GMT"}, 60.0),
        ({"Retry-After": "Fri, 15 Jan 2027 09:01:00 +0100"}, 60.0),
        ({"Retry-After": "Fri, 15 Jan 2027 07:00:00 GMT"}, None),
        ({"Retry-After": "0"}, None),
        ({"Retry-After": "-60"}, None),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "inf"}, LONGEST_RETRY_AFTER),
        ({"Retry-After": "-inf"}, None),
        ({"Retry-After": "9" * 400}, LONGEST_RETRY_AFTER),
        ({"Retry-After": "1e400"}, LONGEST_RETRY_AFTER),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "Fri, 99 Foo 99999 99:99:99 GMT"}, None),
        ({"X-RateLimit-Reset": str(NOW + 30)}, 30.0),
        ({"X-RateLimit-Reset": str(NOW - 30)}, None),
        ({"X-RateLimit-Reset": "1e300"}, LONGEST_RETRY_AFTER),
        ({"X-RateLimit-Reset": "never"}, None),
        ({"Retry-After": "5", "X-RateLimit-Reset": str(NOW + 30)}, 5.0),
        ({"Retry-After": "soon", "X-RateLimit-Reset": str(NOW + 30)}, 30.0),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_the_pause_that_a_hub_asks_for(status: int, headers: dict[str, str], seconds: float | None) -> None:
    """Seconds, a date or the end of a window count; what is past or odd leaves the pause to the sender."""
    reply = judge(Answer(status, headers, {}), "h", NOW)
    assert isinstance(reply, Delayed)
    assert reply.retry_after == seconds


@pytest.mark.parametrize("status", [500, 502, 504, 408, 425])
def test_other_failures_ask_for_no_pause(status: int) -> None:
    """Only 429 and 503 say how long to wait."""
    reply = judge(Answer(status, {"Retry-After": "60"}, None), "h", NOW)
    assert isinstance(reply, Delayed)
    assert reply.retry_after is None


@given(st.text(max_size=80), st.text(max_size=80), st.floats(0, 1e12))
def test_any_header_gives_a_sane_pause(first: str, second: str, now: float) -> None:
    """The pause is never negative, never endless, and reading it never fails."""
    seconds = retry_after(Answer(429, {"Retry-After": first, "X-RateLimit-Reset": second}, None), now)
    assert seconds is None or 0 < seconds <= LONGEST_RETRY_AFTER


def test_an_answer_to_half_a_request_does_not_count() -> None:
    """A success for what had not left to its end acknowledges nothing."""
    assert isinstance(judge(Answer(200, {}, {}, whole=False), "h", NOW), Delayed)
    assert judge(Answer(200, {}, {"a": 1}), "h", NOW) == {"a": 1}
