"""The log of the command line: warnings, to stderr, as `key=value`."""

from __future__ import annotations

import logging

from hubstate.log import Lines
from hubstate.plain import clean_fields

__all__ = ["configure_log"]


def configure_log() -> None:
    """Sets up the log for this process. Only the command line does; a library leaves that to the application."""
    import structlog

    structlog.configure(
        processors=[
            clean_fields,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
            structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"]),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        # It asks for stderr at each line, because a progress bar puts another one in its place while it lasts.
        logger_factory=lambda *_: Lines(),
        cache_logger_on_first_use=False,
    )
