"""`HubTests`: what whoever sends expects of any hub. Subclass it with one fixture.

class TestMyHub(HubTests):
    @pytest.fixture
    def hub(self):
        return MyHub(...)      # connected to a hub that is there, empty, and takes the key
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec

from hubstate.testing.needs import require

require("pytest")

import pytest  # noqa: E402

from hubstate.actions import (  # noqa: E402
    AnyAction,
    CloseSession,
    EndSession,
    Heartbeat,
    OpenSession,
    Row,
    SendCheckpoint,
    SendRows,
)
from hubstate.archive import sha256_of  # noqa: E402
from hubstate.hubs.base import Accepted, Capabilities, Hub, Parcel  # noqa: E402
from hubstate.states import CheckpointKind, Outcome, State  # noqa: E402

__all__ = ["HubTests"]

_SESSION = "01JZX0000000000000000000AB"
_NOW = 1_800_000_000.0


def _parcel(action: AnyAction, model: str | None, **fields: Any) -> Parcel:
    return Parcel(action.key, action, _SESSION, model, **fields)


def _key(what: str, attempt: int = 1) -> str:
    return f"{_SESSION}/{attempt}/{what}"


class HubTests:
    """Requests of every kind are taken, a repeat is taken again, and nothing makes a method raise."""

    @pytest.fixture
    def hub(self) -> Hub:
        """A hub that is there, empty, and takes the key."""
        raise NotImplementedError("a subclass of HubTests says which hub is tested: a fixture named hub")

    @pytest.fixture
    def model(self, hub: Hub) -> str | None:
        """The hub's id of a session that is open there."""
        return self.opened(hub)

    def opened(
        self, hub: Hub, attempt: int = 1, first_epoch: int = 0, model: str | None = None
    ) -> str | None:
        """Opens an attempt; the hub's id of the session."""
        action = OpenSession(
            _key("open", attempt), attempt, session=_SESSION, name="digits", epochs=3, first_epoch=first_epoch
        )
        reply = hub.deliver(_parcel(action, model))
        assert isinstance(reply, Accepted), reply
        return reply.news.model or model

    def rows(self, model: str | None, *rows: Row, attempt: int = 1) -> Parcel:
        """A request of rows."""
        first, last = rows[0].number, rows[-1].number
        action = SendRows(_key(f"rows/{first}-{last}", attempt), attempt, first=first, last=last)
        return _parcel(action, model, rows=rows)

    def row(
        self, number: int, *, attempt: int = 1, step: int | None = None, final: bool = False, odd: str = ""
    ) -> Row:
        """The row of one epoch, or of a step in it; `odd`: a value that is not finite."""
        metrics = {"loss": None if odd else 1.0 / number}
        nonfinite = {"loss": odd} if odd else {}
        encode = msgspec.json.encode
        return Row(number, attempt, number - 1, step, final, _NOW, encode(metrics), encode(nonfinite))

    def checkpoint(self, model: str | None, file: Path, kind: CheckpointKind) -> Parcel:
        """A request with a file."""
        data = file.read_bytes()
        key = _key(f"checkpoint/{kind.value}/{file.name}")
        action = SendCheckpoint(key, 1, kind=kind, epoch=1, snapshot=file.name, size=len(data), fitness=0.5)
        return _parcel(action, model, file=file, sha256=hashlib.sha256(data).hexdigest())

    def test_is_a_hub(self, hub: Hub) -> None:
        """It has all that a sender asks for."""
        assert isinstance(hub, Hub)
        assert isinstance(hub.capabilities, Capabilities)
        assert isinstance(hub.moved, int)

    def test_the_address_is_for_people(self, hub: Hub) -> None:
        """The address is told without credentials."""
        assert "://" in hub.address
        assert "@" not in hub.address

    def test_a_good_key_is_taken(self, hub: Hub) -> None:
        """A check of the hub that is there says so."""
        assert isinstance(hub.check(), Accepted)

    def test_opening_twice_is_opening_once(self, hub: Hub) -> None:
        """A repeated opening is taken again, and names the same session."""
        assert self.opened(hub) == self.opened(hub) is not None

    def test_rows_are_counted(self, hub: Hub, model: str | None) -> None:
        """Rows of epochs are acknowledged, each of them."""
        reply = hub.deliver(self.rows(model, self.row(1), self.row(2)))
        assert isinstance(reply, Accepted), reply
        assert (reply.rows, reply.not_taken) == (2, "")

    def test_a_repeat_is_acknowledged_again(self, hub: Hub, model: str | None) -> None:
        """The same request under the same key gets the same acknowledgement: the first one may have been lost."""
        parcel = self.rows(model, self.row(1), self.row(2))
        first, second = hub.deliver(parcel), hub.deliver(parcel)
        assert isinstance(first, Accepted)
        assert isinstance(second, Accepted)
        assert (second.rows, second.not_taken) == (first.rows, first.not_taken)

    @pytest.mark.parametrize("odd", ["NaN", "Infinity", "-Infinity"])
    def test_what_is_not_finite_is_taken(self, hub: Hub, model: str | None, odd: str) -> None:
        """NaN and infinities are values, and hold up nothing."""
        assert isinstance(hub.deliver(self.rows(model, self.row(1, odd=odd))), Accepted)

    def test_what_cannot_be_taken_is_said(self, hub: Hub, model: str | None) -> None:
        """A row of a step is acknowledged and counted, or settled as not taken, with the reason."""
        reply = hub.deliver(self.rows(model, self.row(1, step=7)))
        assert isinstance(reply, Accepted), reply
        assert bool(reply.not_taken) is not hub.capabilities.step_rows
        assert reply.rows == (0 if reply.not_taken else 1)

    @pytest.mark.parametrize("kind", list(CheckpointKind), ids=lambda kind: kind.value)
    def test_a_file_arrives_as_it_is(
        self, hub: Hub, model: str | None, tmp_path: Path, kind: CheckpointKind
    ) -> None:
        """A checkpoint is acknowledged with the digest of what was sent, where the hub can tell; a repeat too."""
        file = tmp_path / "last-1.pt"
        file.write_bytes(bytes(range(256)) * 300)
        parcel = self.checkpoint(model, file, kind)
        for _ in range(2):
            reply = hub.deliver(parcel)
            assert isinstance(reply, Accepted), reply
            if hub.capabilities.own_digest and not reply.not_taken:
                assert reply.sha256 == parcel.sha256

    def test_a_folder_arrives_or_is_said_not_to(self, hub: Hub, model: str | None, tmp_path: Path) -> None:
        """A checkpoint that is a folder is acknowledged, or settled as not taken where the hub declares that it cannot."""
        folder = tmp_path / "weights"
        folder.mkdir()
        (folder / "a.bin").write_bytes(b"a" * 1000)
        size = sum(file.stat().st_size for file in folder.iterdir())
        action = SendCheckpoint(
            _key("checkpoint/last/folder"),
            1,
            kind=CheckpointKind.LAST,
            epoch=1,
            snapshot=folder.name,
            size=size,
        )
        reply = hub.deliver(_parcel(action, model, file=folder, sha256=sha256_of(folder)))
        assert isinstance(reply, Accepted), reply
        can = hub.capabilities
        assert bool(reply.not_taken) is not (can.files and can.folders)

    def test_a_sign_of_life_is_taken(self, hub: Hub, model: str | None) -> None:
        """A heartbeat is acknowledged, as often as it comes."""
        action = Heartbeat(
            _key("heartbeat"), 1, state=State.TRAINING, outcome=Outcome.RUNNING, epoch=1, waiting=0
        )
        assert all(isinstance(hub.deliver(_parcel(action, model)), Accepted) for _ in range(2))

    def test_the_end_is_heard(self, hub: Hub, model: str | None) -> None:
        """A close is acknowledged, and again when it is repeated."""
        hub.deliver(self.rows(model, self.row(1)))
        action = CloseSession(_key("close"), 1, outcome=Outcome.FINISHED, rows=1)
        assert all(isinstance(hub.deliver(_parcel(action, model)), Accepted) for _ in range(2))

    def test_an_abort_is_heard(self, hub: Hub, model: str | None) -> None:
        """An end with its reason is acknowledged, and again when it is repeated."""
        action = EndSession(_key("end"), 1, outcome=Outcome.FAILED, reason="größer als der Speicher", rows=0)
        assert all(isinstance(hub.deliver(_parcel(action, model)), Accepted) for _ in range(2))

    def test_a_later_attempt_goes_on(self, hub: Hub, model: str | None) -> None:
        """The next attempt opens the same session, and its rows are taken."""
        hub.deliver(self.rows(model, self.row(1), self.row(2)))
        assert self.opened(hub, 2, first_epoch=1, model=model) == model
        reply = hub.deliver(self.rows(model, self.row(3, attempt=2), attempt=2))
        assert isinstance(reply, Accepted), reply
        assert reply.rows == 1

    def test_a_session_that_is_not_open_is_a_value(self, hub: Hub) -> None:
        """Rows of a session that the hub never heard of raise nothing, and count as delivered nowhere."""
        reply = hub.deliver(self.rows("01JZX0000000000000000000ZZ", self.row(1)))
        assert not isinstance(reply, Accepted) or reply.not_taken

    def test_it_moves(self, hub: Hub, model: str | None) -> None:
        """An answer that came is movement: whoever waits sees that waiting is worth it."""
        before = hub.moved
        hub.deliver(self.rows(model, self.row(1)))
        assert hub.moved > before

    def test_letting_go_twice(self, hub: Hub) -> None:
        """A hub may be let go of as often as one likes."""
        hub.close()
        hub.close()
