"""Two Hypothesis profiles: one that says the same every time, for CI, and a longer one that searches.

`hubstate-ci` draws the same examples in every run and keeps no database, so that a change breaks a test or does not,
and never sometimes. `hubstate-long` draws others each time, and more: for a night.
"""

from __future__ import annotations

from hubstate.testing.needs import require

require("hypothesis")

from hypothesis import HealthCheck, settings  # noqa: E402

__all__ = ["CI", "LONG"]

#: A whole session on disk takes its time; what is filtered away are events that have no place just now.
_ALLOWED = (HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large)

CI = settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=100,
    stateful_step_count=60,
    suppress_health_check=_ALLOWED,
    print_blob=False,
)
LONG = settings(deadline=None, max_examples=2_000, stateful_step_count=100, suppress_health_check=_ALLOWED)

settings.register_profile("hubstate-ci", CI)
settings.register_profile("hubstate-long", LONG)
