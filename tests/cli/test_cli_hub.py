"""`serve`, `keys`, `login`, `doctor` and `demo`: the hub one owns, from the command line."""

from __future__ import annotations

import json
import os
import pty
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from command import EXECUTABLE, run, trained
from loopback import refused_port

import hubstate
from hubstate import settings
from hubstate.server import keys
from hubstate.server.running import RunningHub, running


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[RunningHub]:
    with running(tmp_path / "hub") as hub:
        yield hub


def test_the_hub_serves_until_it_is_told_to_stop(tmp_path):
    """`serve` tells its address and how to make a key on stderr, answers, and ends well by SIGTERM."""
    process = subprocess.Popen(
        [EXECUTABLE, "serve", "--port", "0", "--data-dir", str(tmp_path / "hub")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    line = process.stderr.readline()
    hint = process.stderr.readline()
    address = next(word for word in line.replace(";", " ").split() if word.startswith("http://"))
    assert requests.get(address, timeout=30).status_code == 200
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "")
    assert "hubstate keys create" in hint
    assert "Traceback" not in err


def test_the_owner_says_how_long_it_keeps_and_whom_it_tells(tmp_path):
    """`serve` takes the days that it keeps, a webhook and the time of a stop, and no word of it shows the webhook's secret."""
    options = ["--keep-days", "30", "--keep-last-days", "7", "--grace", "1"]
    options += ["--notify", "http://127.0.0.1:9/geheim"]
    process = subprocess.Popen(
        [EXECUTABLE, "serve", "--port", "0", "--data-dir", str(tmp_path / "hub"), *options],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    address = next(word for word in process.stderr.readline().replace(";", " ").split() if "://" in word)
    assert requests.get(f"{address}/healthz", timeout=30).json() == {"status": "ok"}
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "geheim" not in err
    bad = run("serve", "--data-dir", tmp_path / "other", "--notify", "hooks.example/geheim", code=2)
    assert "https://host/path" in bad.stderr
    assert "geheim" not in bad.stderr


def test_a_port_that_is_taken_is_a_mistake_of_usage(hub, tmp_path):
    """A port in use is told in one line, with what to do."""
    ended = run("serve", "--port", hub.port, "--data-dir", tmp_path / "other", code=2)
    assert "--port" in ended.stderr


def test_a_key_is_shown_once_alone_on_stdout(tmp_path):
    """`keys create` prints the key and nothing else on stdout, so that a script can take it; `list` never shows it."""
    made = run("keys", "create", "laptop", "--data-dir", tmp_path)
    key = made.stdout.strip()
    assert made.stdout == f"{key}\n"
    assert key.startswith("ul_")
    assert key not in made.stderr
    listed = run("keys", "list", "--data-dir", tmp_path).stdout
    assert "laptop" in listed
    assert "valid" in listed
    assert key not in listed


def test_a_key_is_revoked_by_its_name(tmp_path):
    """A revoked key stays in the list as such; one that is not there, and a name that is taken, are mistakes."""
    run("keys", "create", "laptop", "--data-dir", tmp_path)
    run("keys", "create", "laptop", "--data-dir", tmp_path, code=2)
    run("keys", "revoke", "laptop", "--data-dir", tmp_path)
    assert "revoked 2" in run("keys", "list", "--data-dir", tmp_path).stdout
    run("keys", "revoke", "laptop", "--data-dir", tmp_path, code=2)


def test_a_key_has_an_owner(tmp_path):
    """Whose a key is can be said when it is made, and is listed; who says nothing is `default`."""
    run("keys", "create", "one", "--data-dir", tmp_path)
    run("keys", "create", "two", "--owner", "ada", "--data-dir", tmp_path)
    listed = run("keys", "list", "--data-dir", tmp_path).stdout.splitlines()
    assert [line.split()[:2] for line in listed] == [["NAME", "OWNER"], ["one", "default"], ["two", "ada"]]
    assert "owner" in run("keys", "create", "three", "--owner", " ", "--data-dir", tmp_path, code=2).stderr


def test_without_keys_the_way_to_make_one_is_told():
    """The hub's folder is this user's own where none is named, and an empty list says what to do."""
    with running(settings.data_folder() / "hub"):
        ended = run("keys", "list")
    assert ended.stdout == ""
    assert "no key yet" in ended.stderr
    assert "hubstate keys create" in ended.stderr


@pytest.mark.parametrize("command", [("list",), ("revoke", "laptop")], ids=["list", "revoke"])
def test_keys_of_a_hub_that_is_not_there(tmp_path, command):
    """Where no hub lies, none is made by asking for its keys: the folder was probably mistyped."""
    ended = run("keys", *command, "--data-dir", tmp_path / "typo", code=2)
    assert ended.stdout == ""
    assert f"there is no hub in {tmp_path / 'typo'}" in ended.stderr
    assert "--data-dir" in ended.stderr
    assert not (tmp_path / "typo").exists()


def test_a_login_is_kept_for_this_user_alone(hub):
    """A key from a pipe is checked against the hub, and kept in a file that only this user can read."""
    key = keys.create(hub.data_dir, "laptop")
    ended = run("login", hub.url, stdin=f"{key}\n")
    file = settings.user_file()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert (settings.resolve().hub, settings.resolve().api_key) == (hub.url, key)
    assert key not in ended.stdout + ended.stderr
    trained()
    run("sync")


def test_a_wrong_key_is_not_kept(hub):
    """A key that the hub refuses ends with 3, and nothing is kept."""
    keys.create(hub.data_dir, "laptop")
    ended = run("login", hub.url, stdin="ul_wrong\n", code=3)
    assert "ul_wrong" not in ended.stderr
    assert not settings.user_file().exists()


def test_a_hub_that_is_away_is_kept_only_unchecked():
    """Without an answer nothing is kept, unless it was said that nobody need be asked."""
    address = f"http://127.0.0.1:{refused_port()}"
    assert "connection refused" in run("login", address, stdin="ul_some\n", code=1).stderr
    assert not settings.user_file().exists()
    assert "unchecked" in run("login", address, "--no-check", stdin="ul_some\n").stderr
    assert settings.resolve().hub == address


@pytest.mark.parametrize(("address", "key"), [("ftp://x", "k\n"), ("http://127.0.0.1:1", "\n")])
def test_a_login_needs_an_address_and_a_key(address, key):
    """What is no address, and a key that is empty, are mistakes of usage."""
    run("login", address, stdin=key, code=2)


def test_a_key_that_is_not_shown_is_told(hub, monkeypatch):
    """Where only the session names the hub, the key in the environment stays here, and each command says why."""
    monkeypatch.setenv("HUBSTATE_API_KEY", keys.create(hub.data_dir, "laptop"))
    monkeypatch.setenv("HUBSTATE_HUB", hub.url)
    trained()
    run("sync")
    run("verify", "digits", "--hub")
    monkeypatch.delenv("HUBSTATE_HUB")
    ended = run("verify", "digits", "--hub", code=3)
    assert f"is not shown to {hub.url}" in ended.stderr
    assert f"hubstate login {hub.url}" in ended.stderr


def test_a_key_is_asked_for_without_an_echo(hub):
    """At a terminal the key is asked for, and what is typed is not shown."""
    key = keys.create(hub.data_dir, "laptop")
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(EXECUTABLE, [EXECUTABLE, "login", hub.url])
    shown = b""
    while b"not shown" not in shown:
        shown += os.read(terminal, 1_000)
    os.write(terminal, f"{key}\n".encode())
    while True:
        try:
            shown += os.read(terminal, 1_000)
        except OSError:  # the other side is closed
            break
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert key.encode() not in shown
    assert settings.resolve().api_key == key


def test_the_doctor_finds_nothing_where_all_is_well(hub, monkeypatch):
    """A hub that answers and takes the key: nothing keeps a run from being sent; the key is not told."""
    key = keys.create(hub.data_dir, "laptop")
    monkeypatch.setenv("HUBSTATE_HUB", hub.url)
    monkeypatch.setenv("HUBSTATE_API_KEY", key)
    text = run("doctor").stdout
    assert "set, from environment HUBSTATE_API_KEY" in text
    assert "as the hub's" in text
    assert text.endswith("nothing keeps a run from being sent\n")
    assert key not in text


def test_the_doctor_tells_a_wrong_key_from_other_troubles(hub, monkeypatch):
    """A refused key ends with 3, no hub at all with 1."""
    keys.create(hub.data_dir, "laptop")
    assert "no hub is set" in run("doctor", code=1).stdout
    monkeypatch.setenv("HUBSTATE_HUB", hub.url)
    monkeypatch.setenv("HUBSTATE_API_KEY", "ul_wrong")
    assert "hubstate login" in run("doctor", code=3).stdout


def test_the_demo_ends_by_its_own_code(hub, tmp_path):
    """`demo` trains, delivers to the hub that is named, and its session is found as any other."""
    ended = run("demo", "--epochs", "2", "--hub", hub.url, "--data-dir", tmp_path / "demo")
    assert "done" in ended.stdout
    (told,) = json.loads(run("status", "--json").stdout)
    assert (told["state"], told["delivered"], told["hub"]) == ("done", 2, hub.url)
    assert "finalizing → done" in run("trace", told["id"]).stdout


def delivered(hub: RunningHub, weights: Path) -> str:
    """A session with a checkpoint that the hub holds; its id."""
    weights.write_bytes(b"weights")
    with hubstate.start("digits", epochs=1, hub=hub.url, directory=weights.parent / "kept") as session:
        for epoch in session.epochs():
            session.log({"loss": 1.0})
            session.save(weights, epoch=epoch)
    return session.id


def test_a_hub_is_backed_up_and_restored(hub, tmp_path):
    """`backup` copies a running hub, `restore --check` looks at the copy, and `restore` makes a hub of it elsewhere."""
    session = delivered(hub, tmp_path / "weights.bin")
    made = run("backup", tmp_path / "copy", "--data-dir", hub.data_dir)
    assert "1 files" in made.stderr
    run("restore", tmp_path / "copy", "--check")
    run("restore", tmp_path / "copy", "--data-dir", tmp_path / "again")
    run("restore", tmp_path / "copy", "--data-dir", tmp_path / "again", code=2)
    with running(tmp_path / "again") as again:
        for address in (hub.url, again.url):
            assert (
                requests.get(f"{address}/v1/models/{session}", timeout=30).json()["data"]["outcome"]
                == "finished"
            )


def test_a_damaged_backup_is_told(hub, tmp_path):
    """What is damaged is named, in words and by the exit code, when it is backed up, looked at, and restored."""
    delivered(hub, tmp_path / "weights.bin")
    run("backup", tmp_path / "copy", "--data-dir", hub.data_dir)
    kept = next((tmp_path / "copy" / "files").iterdir())
    kept.write_bytes(b"")
    assert kept.name in run("restore", tmp_path / "copy", "--check", code=1).stderr
    run("restore", tmp_path / "copy", "--data-dir", tmp_path / "again", code=1)
    restored = run("restore", tmp_path / "copy", "--damaged-too", "--data-dir", tmp_path / "again", code=1)
    assert "is damaged" in restored.stderr
    original = next((hub.data_dir / "files").rglob("*.pt"))
    original.unlink()
    assert (
        f"{original.name} is missing"
        in run("backup", tmp_path / "copy", "--data-dir", hub.data_dir, code=1).stderr
    )
