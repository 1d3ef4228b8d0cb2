"""One round over many sessions: what each still holds goes to the hub that it belongs to.

A session that a living process owns is left to it. A hub is asked once whether it is there and takes the key, before
any session is opened for it: one that is away costs one question, and not one long wait for each session.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Self

from hubstate import settings
from hubstate.actions import Memory
from hubstate.clock import Clock
from hubstate.errors import HubError, HubRefused, HubstateError, SessionBusy
from hubstate.hubs.base import Hub
from hubstate.journal import wanted_hub
from hubstate.opening import leftovers, peek
from hubstate.overview import Overview, Unreadable
from hubstate.settings import Settings
from hubstate.sync import Remainder, asked, deliver, give_up, has_undelivered, hub_for, tidy, with_why

__all__ = ["Round", "Watch"]

#: Shows how a delivery goes on: entered with a name, the memory and the hub, it gives what is called after every step.
Watch = Callable[[str, Memory, Hub], AbstractContextManager[Callable[[Memory], None]]]
OpenHub = Callable[[str, "str | None"], Hub]


class Round:
    """A round; `visit` one session after the other, and read what became of it. It closes its hubs when it ends."""

    def __init__(
        self,
        found: Settings,
        *,
        hub: str | None,
        retry_refused: bool,
        reason: str | None,
        clock: Clock,
        chance: random.Random,
        open_hub: OpenHub,
        say: Callable[[str], None],
        watch: Watch,
        beside: bool = False,
    ) -> None:
        """`hub`: the address that was named for this round, None if none was; `reason`: give up, and why.

        `beside`: the sessions were opened by a command that was run with this environment (`settings.for_hub`).
        """
        self._found = found
        self._wanted = None if hub is None else found.hub
        self._retry = retry_refused
        self._reason = reason
        self._clock = clock
        self._chance = chance
        self._open_hub = open_hub
        self._say = say
        self._watch = watch
        self._beside = beside
        self._hubs: dict[str, Hub | HubError] = {}
        #: The folders that something waited in, or that were asked for by name.
        self.visited: list[Path] = []
        #: Whether a session could not be looked after: unreadable, or without a hub. One that a living process has open
        #: is left to it: whether something waits in it still, a look at what was visited tells.
        self.left_alone = False
        #: Whether a hub refused the credentials.
        self.credentials_refused = False

    def visit(self, seen: Overview | Unreadable, *, by_name: bool = False) -> None:
        """Delivers what waits in one session. What hinders it is said, and never raised.

        `by_name`: the session was asked for, so it is told of even where nothing waits.
        """
        if isinstance(seen, Unreadable):
            self._leave(seen, f"{seen.session}: {seen.reason}")
            return
        label = f"{seen.receipt.name} ({seen.session})"
        if not by_name and not seen.unsettled:
            self._tidy(seen, label)
            return
        if seen.owner is not None:
            self._leave_to_owner(seen, label)
            return
        self.visited.append(seen.folder)
        try:
            self._settle(seen)
        except SessionBusy as failure:
            # Whoever has it may be delivering it: the caller looks once more, and then nothing waits, or something does.
            self._say(f"{label}: {failure}; it is left to it")
        except HubstateError as failure:
            self.left_alone = True
            self._say(f"{label}: {failure}")

    def close(self) -> None:
        """Lets go of the hubs."""
        for hub in self._hubs.values():
            if not isinstance(hub, HubError):
                hub.close()
        self._hubs.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _leave(self, seen: Overview | Unreadable, why: str) -> None:
        self.visited.append(seen.folder)
        self.left_alone = True
        self._say(why)

    def _leave_to_owner(self, seen: Overview, label: str) -> None:
        """Leaves a session to whoever has it open: a training, or a process that delivers it just now.

        What is left of it when the caller looks once more tells whether something waits still, and is no end of this round.
        """
        who = f"process {seen.owner}" if seen.owner else "a process on another machine"
        self.visited.append(seen.folder)
        self._say(f"{label}: {who} has it open just now; it is left to it")

    def _tidy(self, seen: Overview, label: str) -> None:
        """Removes what a death left of a session of which nothing waits. That it cannot go is said, and hinders nothing."""
        try:
            # Most have no copies at all any more, and their journals need not be read once more.
            copies = seen.owner is None and leftovers(seen.folder, Memory())
            if copies and leftovers(seen.folder, peek(seen.folder).memory):
                tidy(seen.folder, self._clock)
        except HubstateError as failure:
            self._say(f"{label}: {failure}")

    def _settle(self, seen: Overview) -> None:
        waiting = seen.receipt.waiting
        if self._reason is not None and seen.unsettled:
            memory = give_up(seen.folder, self._reason, self._clock)
            waiting = int(has_undelivered(memory))
        elif seen.receipt.refused and self._retry:
            waiting += seen.receipt.refused
        elif seen.receipt.refused:
            self._say(
                f"{seen.receipt.name} ({seen.session}): {seen.receipt.refused} refused; "
                "try them again by --retry-refused, or let them go by --give-up REASON"
            )
        if not waiting:
            return
        # No hub acknowledged it yet, and none is set here: then it is for the one that its training was begun for.
        begun_for = None if seen.hub or self._wanted or self._found.hub else wanted_hub(seen.folder)
        address = hub_for(seen.hub, self._wanted, self._found.hub or begun_for)
        hub = self._hub(address)
        remainder = Remainder(seen.folder, hub, self._clock, self._chance)
        try:
            if self._retry:
                remainder.retry_refused()
            with self._watch(seen.receipt.name, remainder.memory, hub) as show:
                deliver(remainder, self._clock, show=show)
        finally:
            remainder.close()
        for condition in remainder.memory.conditions:
            self.credentials_refused |= condition.name == "credentials_rejected"

    def _hub(self, address: str) -> Hub:
        """The hub at an address, asked once. Raises what it answered, at every call the same."""
        if address not in self._hubs:
            named = address == self._wanted
            found = self._found if named else settings.for_hub(address, self._found, beside=self._beside)
            hub = self._open_hub(address, found.api_key)
            try:
                asked(hub)
            except HubError as failure:
                self._hubs[address] = with_why(failure, found)
                hub.close()
            else:
                self._hubs[address] = hub
        known = self._hubs[address]
        if isinstance(known, HubError):
            self.credentials_refused |= isinstance(known, HubRefused)
            raise known
        return known
