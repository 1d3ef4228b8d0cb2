"""`hubstate show`: the hub's own pages over the sessions of this machine, read from their journals.

    follower   which sessions there are, round by round
    followed   one session: its journal is read on, and said to the store
    copies     its kept checkpoints, as files that a hub stores
    told       what this machine knows of it, and no hub can
    showing    the pages, the store behind them, and the thread that follows

What is read is said to a store by the very functions that take what a client sends: so the pages are the hub's pages, and
state, rows in force and attempts follow from the same rules. The store lies in a temporary folder and goes with the
process. In a session's folder nothing is written, and nobody is kept out of it.
"""

from __future__ import annotations

from hubstate.show.followed import id_on_pages
from hubstate.show.follower import Follower
from hubstate.show.showing import showing

__all__ = ["Follower", "id_on_pages", "showing"]
