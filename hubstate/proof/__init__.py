"""The proof: what must hold of every session, and the search that holds the real decisions to it.

`properties` says what must hold, once, as a monitor over facts; `model` puts the real decisions together with a model
of journal, outbox, hub, network and crashes; `check` searches all of it up to a bound; `planted` holds broken parts
that the search has to find, so that it is known to bite.
"""
