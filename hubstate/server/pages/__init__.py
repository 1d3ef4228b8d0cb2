"""The pages for people: what is here, how each session fares, and the wish that one stops.

The server renders them, with every value escaped and every text from outside kept in its own direction and width. They
work without any script. The scripts that the hub brings along (nothing is loaded from elsewhere, which the
Content-Security-Policy states) make them live: each page listens to one stream of events, and an event brings only
what is new (see `live`).

    desk      what all pages share: who looks, how a template becomes an answer
    entry     logging in and out
    listing   the list of sessions
    session   one session: its parts, its charts
    compare   several sessions in the same charts
    keyring   the API keys of whoever looks
    machine   the picture of the machine with the way of a session
    reference the calls, for who writes programs
    live      the streams of events
    assets    style sheets and scripts
"""

from __future__ import annotations

from fastapi import FastAPI

from hubstate.server.pages import assets, compare, entry, keyring, listing, live, reference, session
from hubstate.server.pages.desk import Desk, page_of_problem, wants_page
from hubstate.server.shells import Wiring

__all__ = ["add_pages", "page_of_problem", "wants_page"]


def add_pages(app: FastAPI, wiring: Wiring) -> Desk:
    """Adds the pages to the application. The desk is to be closed when the application is not used any more."""
    desk = Desk(wiring)
    assets.add(app)
    for room in (entry, listing, session, compare, keyring, live, reference):
        room.add(app, desk)
    return desk
