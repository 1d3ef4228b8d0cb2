"""The log: structlog's, as the application configured it; loaded when there is first something to say.

A library never configures logging. Where the application did not either, lines go to stderr, because stdout is the
user's. Event names are `hubstate.noun_verbed`; only shells log, decisions never do.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from hubstate.plain import clean_fields

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

__all__ = ["log"]


def log(room: str) -> FilteringBoundLogger:
    """The logger of a room, such as `hubstate.sender`."""
    import structlog  # noqa: PLC0415 - it takes longer to import than a session takes to start

    if structlog.is_configured():
        logger: FilteringBoundLogger = structlog.get_logger(room)
    else:
        processors = [clean_fields, *structlog.get_config()["processors"]]
        logger = structlog.wrap_logger(structlog.PrintLogger(sys.stderr), processors).bind(room=room)
    return logger
