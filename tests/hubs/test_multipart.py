"""The body of an upload: exact, in pieces, and never longer than it said."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hubstate.archive import Shrunk
from hubstate.hubs.multipart import STEP, Form

FIELDS = {"epoch": "3", "type": "epoch"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "snapshot-of-somebody.pt"


def pieces(form: Form, sizes: Iterator[int]) -> list[bytes]:
    """Reads to the end, each time as much as the next size says."""
    read = []
    while piece := form.read(next(sizes)):
        read.append(piece)
    return read


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(content=st.binary(max_size=5_000), seed=st.integers())
def test_the_body_is_the_same_in_pieces_of_any_size(path: Path, content: bytes, seed: int) -> None:
    """However it is read, the bytes are those of the form, and as many as it said."""
    path.write_bytes(content)
    chance = random.Random(seed)
    with Form(FIELDS, "last.pt", path, random.Random(7)) as form:
        body = b"".join(pieces(form, iter(lambda: chance.randint(1, 900), None)))
        assert len(body) == len(form)
    boundary = form.content_type.partition("boundary=")[2]
    assert (
        body
        == (
            f'--{boundary}\r\nContent-Disposition: form-data; name="epoch"\r\n\r\n3\r\n'
            f'--{boundary}\r\nContent-Disposition: form-data; name="type"\r\n\r\nepoch\r\n'
            f'--{boundary}\r\nContent-Disposition: form-data; name="last.pt"; filename="last.pt"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        ).encode()
        + content
        + f"\r\n--{boundary}--\r\n".encode()
    )


def test_boundaries_are_drawn_anew(path: Path) -> None:
    """Each body has a boundary of its own, out of the chance that it is given."""
    path.write_bytes(b"x")
    chance = random.Random(1)
    kinds = set()
    for _ in range(3):
        with Form(FIELDS, "last.pt", path, chance) as form:
            kinds.add(form.content_type)
    assert len(kinds) == 3
    with Form(FIELDS, "last.pt", path, random.Random(1)) as form:
        assert form.content_type in kinds


def test_pieces_are_bounded(path: Path) -> None:
    """No read takes more than 1 MiB into memory, however much is asked for."""
    path.write_bytes(b"x" * (3 * STEP))
    for asked in (-1, 10 * STEP):
        with Form(FIELDS, "last.pt", path, random.Random(1)) as form:
            read = [asked, *map(len, pieces(form, iter(lambda: asked, None)))][1:]  # noqa: B023
        assert max(read) == STEP
        assert sum(read) == len(form)
    with Form(FIELDS, "last.pt", path, random.Random(1)) as form:
        assert sum(map(len, form)) == len(form)


def test_what_a_file_grows_by_is_not_sent(path: Path) -> None:
    """The length is that of the moment of opening."""
    path.write_bytes(b"whole")
    with Form(FIELDS, "last.pt", path, random.Random(1)) as form:
        with path.open("ab") as more:
            more.write(b" and more")
        body = b"".join(form)
    assert len(body) == len(form)
    assert b"\r\n\r\nwhole\r\n--" in body


def test_a_file_that_shrinks_is_told(path: Path) -> None:
    """A missing rest is an error with a reason, never a short body or an endless wait."""
    path.write_bytes(b"x" * 1000)
    with Form(FIELDS, "last.pt", path, random.Random(1)) as form:
        with path.open("r+b") as opened:
            opened.truncate(10)
        with pytest.raises(Shrunk):
            list(form)
        assert "10 bytes" in form.fault
        assert path.name in form.fault
        assert str(path.parent) not in form.fault


def test_a_file_may_be_replaced_meanwhile(path: Path, tmp_path: Path) -> None:
    """What was opened is what is sent, whatever takes its name."""
    path.write_bytes(b"old")
    other = tmp_path / "other"
    other.write_bytes(b"a new one")
    with Form(FIELDS, "last.pt", path, random.Random(1)) as form:
        shutil.move(other, path)
        assert b"\r\n\r\nold\r\n--" in b"".join(form)


def test_a_missing_file_is_an_os_error(path: Path) -> None:
    """Opening tells at once that there is nothing to send."""
    with pytest.raises(FileNotFoundError):
        Form(FIELDS, "last.pt", path, random.Random(1))
