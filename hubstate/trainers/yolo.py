"""`yolo`, the command of Ultralytics, with every training recorded: `hubstate run -- yolo train ...` runs this in its place.

The command loads its models itself, so there is none to attach to: the callbacks are put among the defaults, which every
model of the process begins with. What is recorded and where it goes is told by the settings of hubstate alone.
"""

from __future__ import annotations

from hubstate.trainers.ultralytics import HOOKS, HubstateCallbacks, checked_release

__all__ = ["main"]


def main() -> None:
    """Runs the command with the arguments of this process."""
    checked_release()
    from ultralytics.cfg import entrypoint  # noqa: PLC0415 - it takes seconds, and may not be there
    from ultralytics.utils.callbacks import default_callbacks  # noqa: PLC0415

    link = HubstateCallbacks(None)
    for hook in HOOKS:
        default_callbacks.setdefault(hook, []).append(getattr(link, hook))
    try:
        entrypoint()
    except BaseException as error:  # it goes on as it came; Ctrl-C and sys.exit end a session too
        link.broken(error)
        raise


if __name__ == "__main__":
    main()
