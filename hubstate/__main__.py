"""`python -m hubstate`: the command line."""

from __future__ import annotations

from hubstate.cli import main

if __name__ == "__main__":
    main()
