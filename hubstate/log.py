"""The log: structlog's, as the application configured it; loaded when there is first something to say.

A library never configures logging. Where the application did not either, lines go to stderr, because stdout is the
user's; where nobody reads stderr they are lost, and end nothing. Event names are `hubstate.noun_verbed`; only shells log, decisions never do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hubstate.plain import clean_fields, to_stderr

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

__all__ = ["Lines", "log"]


class Lines:
    """What writes the lines of a log: structlog's `PrintLogger` for stderr, which may be none or dead."""

    def msg(self, line: str) -> None:
        """Writes one line."""
        to_stderr(line)

    log = debug = info = warn = warning = msg
    fatal = failure = err = error = critical = exception = msg


def log(room: str) -> FilteringBoundLogger:
    """The logger of a room, such as `hubstate.sender`."""
    import structlog  # noqa: PLC0415 - it takes longer to import than a session takes to start

    if structlog.is_configured():
        logger: FilteringBoundLogger = structlog.get_logger(room)
    else:
        processors = [clean_fields, *structlog.get_config()["processors"]]
        logger = structlog.wrap_logger(Lines(), processors).bind(room=room)
    return logger
