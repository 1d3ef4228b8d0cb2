"""The command as a whole: help, codes, what goes to stdout and what to stderr, and pipes that close."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from command import EXECUTABLE, run, trained
from typer.testing import CliRunner

from hubstate.cli.app import app
from hubstate.cli.ends import code_of, extra
from hubstate.errors import (
    HubRefused,
    HubUnreachable,
    SessionBusy,
    SessionNotFound,
    SettingsError,
    UsageError,
)

COMMANDS = [
    "backup",
    "check",
    "demo",
    "diagram",
    "doctor",
    "export",
    "forget",
    "import",
    "keys",
    "login",
    "restore",
    "run",
    "serve",
    "show",
    "simulate",
    "status",
    "sync",
    "trace",
    "verify",
]


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_the_help_names_every_command_and_no_other(option):
    """Whoever asks for help sees each command that exists, and none that does not."""
    text = run(option).stdout
    shown = [line.split()[1] for line in text.splitlines() if line.startswith("│ ") and line[2].isalpha()]
    assert sorted(shown) == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command):
    """Each command has its own help."""
    assert f"hubstate {command}" in run(command, "-h").stdout


def test_the_version_is_told():
    """`--version` names the program and its version."""
    assert run("--version").stdout.startswith("hubstate 0.")


@pytest.mark.parametrize(
    "arguments",
    [["bogus"], ["trace"], ["status", "--nonsense"], ["serve", "--port", "70000"], ["demo", "--epochs", "0"]],
)
def test_what_cannot_be_understood_is_a_mistake_of_usage(arguments):
    """A wrong command line ends with 2, and says so on stderr alone."""
    ended = run(*arguments, code=2)
    assert ended.stdout == ""
    assert "Error" in ended.stderr


def test_an_error_is_one_line_on_stderr():
    """What hubstate finds wrong is one line that names the program, and nothing on stdout."""
    ended = run("status", "nobody", code=2)
    assert ended.stdout == ""
    assert ended.stderr.startswith("hubstate: no session 'nobody' is known here")
    assert ended.stderr.count("\n") == 1


def test_a_key_in_a_project_file_is_refused_and_not_printed(tmp_path, monkeypatch):
    """A setting that cannot be used ends every command with 2; the key in it stays untold."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hubstate.toml").write_text('api_key = "ul_secret"\n', encoding="utf-8")
    ended = run("status", code=2)
    assert "api_key" in ended.stderr
    assert "ul_secret" not in ended.stderr + ended.stdout


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("x"), 2),
        (SettingsError("x"), 2),
        (SessionNotFound("x"), 2),
        (SessionBusy("x"), 1),
        (HubUnreachable("x"), 1),
        (HubRefused("x"), 1),
        (HubRefused("x", credentials=True), 3),
    ],
)
def test_every_error_has_its_code(error, code):
    """1: not all done, 2: usage, 3: the hub refused the credentials."""
    assert code_of(error) == code


def test_a_pipe_that_closes_is_no_accident():
    """`hubstate trace ... | head -1` ends quietly, however long the journal is."""
    session = trained(epochs=2_000)
    first = f"{EXECUTABLE} trace {session} | head -1"
    ended = subprocess.run(["bash", "-c", first], capture_output=True, text=True, check=False, timeout=60)
    assert ended.stderr == ""
    assert "pretrain_routine_start" in ended.stdout


def test_the_package_runs_as_a_module():
    """`python -m hubstate` is the same command."""
    ended = subprocess.run(
        [sys.executable, "-m", "hubstate", "--version"], capture_output=True, text=True, check=True
    )
    assert ended.stdout == run("--version").stdout


def test_help_loads_nothing_heavy():
    """What only some commands need is imported when they run: no requests, no server, no log, no journal."""
    code = (
        "import sys, hubstate.cli.app; "
        "print([name for name in ('requests', 'fastapi', 'sqlalchemy', 'structlog', 'transitions', 'numpy') "
        "if name in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "[]\n"


def test_a_missing_extra_is_named():
    """Where an extra is not installed, the command says which one to install."""
    with (
        pytest.raises(UsageError, match=r"needs uvicorn, .* pip install 'hubstate\[server\]'"),
        extra("server"),
    ):
        raise ModuleNotFoundError(name="uvicorn.config")


def test_a_defect_is_not_taken_for_a_missing_extra():
    """A module that is no part of the extra is a defect, and stays one."""
    with pytest.raises(ModuleNotFoundError), extra("server"):
        raise ModuleNotFoundError(name="hubstate.nowhere")


def test_a_command_without_its_extra_ends_with_2(monkeypatch):
    """`serve` without what a hub is made of is a mistake of usage."""
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "hubstate.server.running", raising=False)
    ended = CliRunner().invoke(app, ["serve"])
    assert ended.exit_code == 2
    assert "hubstate[server]" in ended.stderr


def test_the_machine_is_drawn():
    """`diagram` prints the drawing that the code renders; an unknown format is refused with the known ones."""
    assert run("diagram").stdout.startswith("%%") or "stateDiagram-v2" in run("diagram").stdout
    assert run("diagram", "--format", "markdown").stdout.startswith("|")
    assert "mermaid" in run("diagram", "--format", "gif", code=2).stderr


def test_the_machine_is_written_to_a_file(tmp_path):
    """With `-o` the drawing goes to a file and nothing to stdout; a file that cannot be written is told."""
    ended = run("diagram", "-o", tmp_path / "machine.mmd")
    assert ended.stdout == ""
    assert (tmp_path / "machine.mmd").read_text(encoding="utf-8") == run("diagram").stdout
    assert "cannot write" in run("diagram", "-o", tmp_path / "no" / "machine.mmd", code=1).stderr


@pytest.mark.parametrize("page", ["README.md", "docs/first-look.md", "docs/command-line.md", "docs/hub.md"])
def test_the_pages_name_commands_that_exist(page):
    """Whatever a page tells people to type is a command."""
    text = (Path(__file__).parents[2] / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```(?:sh|console)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    typed = re.findall(r"^(?:\$ )?hubstate ([a-z]+)", "\n".join(blocks), re.MULTILINE)
    typed += re.findall(r"`hubstate ([a-z]+)", text)
    assert typed
    assert set(typed) <= set(COMMANDS)
