"""What the kit needs beside hubstate, and what is said where it is missing."""

from __future__ import annotations

from importlib.util import find_spec

__all__ = ["require"]


def require(*names: str) -> None:
    """Raises `ImportError` naming the extra that brings `names`, if one of them is not installed."""
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise ImportError(
            f"hubstate.testing needs {' and '.join(missing)}; install it with: pip install 'hubstate[testing]'",
            name=missing[0],
        )
