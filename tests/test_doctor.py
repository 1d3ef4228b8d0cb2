"""What keeps a run from being sent is found, each thing once, and no key is ever told."""

from __future__ import annotations

import random
from contextlib import nullcontext
from pathlib import Path

import msgspec
import pytest
from fakes import OFFLINE, FakeHub
from journals import DAMAGED

import hubstate
from hubstate import overview, settings
from hubstate.clock import VirtualClock
from hubstate.doctor import Finding, Level, examine
from hubstate.hubs.base import Accepted, Capabilities, Declined, Delayed, News, Reply
from hubstate.rounds import Round

NOW = 1_900_000_000.0


class Answering(FakeHub):
    """A hub with one answer to whoever asks, and its own time."""

    capabilities = Capabilities(folders=True, resumable=True)

    def __init__(self, answer: Reply, at: float | None = None) -> None:
        super().__init__()
        self.answer = msgspec.structs.replace(answer, news=News(at=at))

    def check(self) -> Reply:
        return self.answer


def found(answer: Reply | None = None, at: float | None = None, **options: object) -> list[Finding]:
    hub = Answering(Accepted() if answer is None else answer, at)
    directory = options.pop("look_into", None)
    chosen = settings.resolve(**{"hub": "http://hub.test", **options})  # type: ignore[arg-type]
    findings = examine(
        chosen,
        VirtualClock(NOW),
        lambda *_: hub,
        directory=directory if isinstance(directory, Path) else None,
    )
    return list(findings)


def about(findings: list[Finding], name: str) -> list[tuple[Level, str]]:
    return [(finding.level, finding.text) for finding in findings if finding.about == name]


def trained() -> hubstate.Session:
    with hubstate.start("digits", epochs=1) as session:
        for _ in session.epochs():
            session.log({"loss": 1.0})
    return session


def test_where_all_is_well_nothing_is_in_the_way():
    """A hub that answers, a good key, a directory that can be written: no trouble, and the journals are counted."""
    findings = found(api_key="ul_secret")
    assert {finding.level for finding in findings} == {Level.FINE}
    assert about(findings, "journals") == [(Level.FINE, "sessions here: 0; steps read: 0")]
    assert about(findings, "connection") == [(Level.FINE, "the hub is there and accepts the key")]


def test_every_setting_is_told_with_its_source(monkeypatch):
    """Who wonders why a setting holds reads where it was found."""
    monkeypatch.setenv("HUBSTATE_LIMIT_METRICS", "7")
    Path("hubstate.toml").write_text('project = "birds"\n', encoding="utf-8")
    findings = found()
    assert about(findings, "hub") == [(Level.FINE, "http://hub.test, from argument")]
    assert (
        "metrics 7 s (from environment HUBSTATE_LIMIT_METRICS), checkpoint 900 s (by default)"
        in (about(findings, "limits")[0][1])
    )
    assert about(findings, "project")[0][1].startswith("birds, from ")


def test_a_key_is_never_told():
    """Of a key is told that it is set, and where; never its text."""
    findings = found(Delayed("credentials_rejected", "no such key", 401), api_key="ul_secret")
    assert (Level.FINE, "set, from argument") in about(findings, "api key")
    assert "ul_secret" not in repr(findings)


def test_a_key_that_is_held_back_is_told_with_the_reason(monkeypatch):
    """A key in the environment is not for a hub that only a project's file names: that is said, and what to do."""
    monkeypatch.setenv("HUBSTATE_API_KEY", "ul_secret")
    Path("hubstate.toml").write_text('hub = "http://hub.test"\n', encoding="utf-8")
    findings = found(hub=None)
    ((level, text),) = about(findings, "api key")
    assert level is Level.NOTE
    assert "HUBSTATE_API_KEY" in text
    assert "hubstate login http://hub.test" in text
    assert "ul_secret" not in repr(findings)


def test_a_file_that_was_passed_over_is_named():
    """A broken pyproject.toml hinders nothing, and whoever expected a setting from it learns why it does not hold."""
    Path("pyproject.toml").write_text("[tool.hubstate\n", encoding="utf-8")
    ((level, text),) = about(found(), "settings")
    assert level is Level.NOTE
    assert "pyproject.toml" in text
    assert "passed over" in text


def test_what_a_hub_cannot_hold_is_told(monkeypatch):
    """Whoever wonders where the rows of steps went reads that this hub cannot hold them; what it can is not told."""
    assert about(found(), "the hub") == []
    monkeypatch.setattr(
        Answering,
        "capabilities",
        Capabilities(step_rows=False, own_digest=False, folders=True, resumable=True),
    )
    ((level, text),) = about(found(), "the hub")
    assert level is Level.NOTE
    assert text.startswith("it cannot hold rows of single steps")
    assert text.endswith("; it does not confirm the digest of a file")
    assert about(found(OFFLINE), "the hub") == []


@pytest.mark.promise("P15")
def test_no_hub_is_in_the_way():
    """Without a hub nothing is sent: that is said, and how to name one."""
    findings = found(hub=None)
    (told,) = about(findings, "hub")
    assert told[0] is Level.TROUBLE
    assert "hubstate login" in told[1]
    assert about(findings, "connection") == []


@pytest.mark.promise("P15")
@pytest.mark.parametrize(("mode", "words"), [("offline", "kept here"), ("off", "nothing is recorded")])
def test_a_mode_that_keeps_things_here_is_in_the_way(mode, words):
    """A mode that sends nothing is trouble to whoever wonders why nothing arrives."""
    ((level, text),) = about(found(mode=mode), "mode")
    assert level is Level.TROUBLE
    assert words in text


def test_a_process_that_is_not_the_first_opens_no_session(monkeypatch):
    """In a distributed job only rank 0 opens a session; a RANK left in a shell is found."""
    monkeypatch.setenv("RANK", "2")
    assert about(found(), "rank")[0][0] is Level.TROUBLE


@pytest.mark.promise("P15")
def test_a_hub_that_is_away_and_one_that_refuses_are_two_things():
    """Only a refused key is told as one: a command ends by another code then."""
    away = found(OFFLINE)
    refused = found(Delayed("credentials_rejected", "no such key", 401))
    assert about(away, "connection") == [(Level.TROUBLE, "no route to the hub")]
    assert [f.credentials_refused for f in away if f.about == "connection"] == [False]
    assert [f.credentials_refused for f in refused if f.about == "connection"] == [True]
    assert "hubstate login http://hub.test" in about(refused, "connection")[0][1]


@pytest.mark.parametrize(
    ("at", "level", "words"),
    [
        (NOW, Level.FINE, "as the hub's"),
        (NOW + 100, Level.NOTE, "100 s behind the hub"),
        (NOW - 100, Level.NOTE, "100 s ahead of the hub"),
    ],
)
def test_the_clocks_are_compared(at, level, words):
    """A clock that differs from the hub's is told, and which way."""
    ((seen, text),) = about(found(at=at), "clock")
    assert seen is level
    assert words in text


def test_a_directory_that_cannot_be_used_is_in_the_way(monkeypatch):
    """Where sessions cannot be kept, the setting that moves them is named."""
    monkeypatch.setattr("hubstate.opening.os.access", lambda *_: False)
    ((level, text),) = about(found(), "directory")
    assert level is Level.TROUBLE
    assert "HUBSTATE_DIR" in text


def test_a_login_file_that_others_can_read_is_told():
    """Keys belong to one user: a file that others can read is named with the cure."""
    settings.remember_login("http://hub.test", "ul_secret").chmod(0o644)
    ((level, text),) = about(found(), "login")
    assert level is Level.NOTE
    assert "chmod 600" in text


def test_what_waits_is_a_note_and_not_a_fault():
    """Sessions that still hold something are named, with the command that delivers them; from four on in short."""
    for _ in range(4):
        trained()
    ((level, text),) = about(found(), "waiting")
    assert level is Level.NOTE
    assert text.startswith("`hubstate sync` delivers what is left of digits (")
    assert text.endswith(" and 1 more")


def test_a_refused_delivery_is_in_the_way():
    """What a hub refused does not leave by itself: the two ways out are told."""
    session = trained()
    hub = FakeHub()
    hub.script(f"{session.id}/1/rows/1-1", Declined("too large", 413))
    refuse(session, hub)
    ((level, text),) = about(found(), "session")
    assert level is Level.TROUBLE
    assert f"hubstate sync {session.id} --retry-refused" in text


@DAMAGED
def test_damaged_lines_are_in_the_way_and_the_rest_is_read():
    """Every line of every segment is judged: a damaged one is told with its place."""
    session = trained()
    file = Path(".hubstate") / session.id / "journal-000001.jsonl"
    lines = file.read_bytes().split(b"\n")
    lines[4] = lines[4].replace(b"loss", b"lost")
    file.write_bytes(b"\n".join(lines))
    findings = found()
    ((level, text),) = about(findings, "journal")
    assert level is Level.TROUBLE
    assert "journal-000001.jsonl line 5" in text
    assert about(findings, "journals") == [(Level.FINE, f"sessions here: 1; steps read: {len(lines) - 3}")]


@DAMAGED
def test_a_journal_beyond_reading_is_in_the_way(tmp_path):
    """A session that cannot be read at all is told once."""
    with hubstate.start("digits", directory=tmp_path) as session:
        session.log({"loss": 1.0})
    (tmp_path / session.id / "journal-000001.jsonl").write_bytes(b"no journal\n")
    ((level, text),) = about(found(look_into=tmp_path), "session")
    assert level is Level.TROUBLE
    assert text.startswith(f"{session.id}: no segment")


def refuse(session: hubstate.Session, hub: FakeHub) -> None:
    """Lets `hub` answer what waits in a session."""
    with Round(
        settings.resolve(hub="http://hub.test"),
        hub="http://hub.test",
        retry_refused=False,
        reason=None,
        clock=VirtualClock(NOW),
        chance=random.Random(1),
        open_hub=lambda *_: hub,
        say=lambda _text: None,
        watch=lambda *_: nullcontext(lambda _memory: None),
    ) as work:
        for seen in overview.look_at_all([Path(".hubstate") / session.id]):
            work.visit(seen)
