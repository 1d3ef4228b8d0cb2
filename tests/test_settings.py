"""Settings: which source wins, what is refused by name, and that no key is ever shown."""

from __future__ import annotations

import itertools
import pwd
import traceback
from pathlib import Path

import pytest

import hubstate
from hubstate import settings as room
from hubstate.errors import SettingsError, StorageError
from hubstate.settings import Settings, for_hub, remember_login, resolve, user_file

KEY = "hs_SECRET-0123456789"
HUB = "http://hub.test:8765"
OTHER = "http://other.test"


@pytest.fixture
def here(tmp_path):
    """A working directory, two levels into a project."""
    folder = tmp_path / "project" / "sub"
    folder.mkdir(parents=True)
    return folder


def write_user(text: str) -> Path:
    file = user_file()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def write_project(here: Path, text: str, name: str = "hubstate.toml") -> Path:
    file = here.parent / name
    file.write_text(text)
    return file


def find(here: Path, **arguments) -> Settings:
    return resolve(environment=arguments.pop("environment", {}), cwd=here, **arguments)


# -- which source wins -----------------------------------------------------------------------------------

#: For each name: how an argument, the environment, the project's file and the user's file say it; and where it shows.
SOURCES = {
    "hub": (
        {"hub": "http://argument"},
        {"HUBSTATE_HUB": "http://environment"},
        'hub = "http://project"',
        'hub = "http://user"',
    ),
    "directory": ({"directory": "argument"}, {"HUBSTATE_DIR": "environment"}, 'directory = "project"', ""),
    "mode": ({"mode": "off"}, {"HUBSTATE_MODE": "offline"}, 'mode = "on"', ""),
    "project": ({"project": "argument"}, {}, 'project = "project"', ""),
    "group": ({"group": "argument"}, {}, 'group = "project"', ""),
    "limits.metrics": (
        {"limits": {"metrics": 1}},
        {"HUBSTATE_LIMIT_METRICS": "2"},
        "[limits]\nmetrics = 4",
        "",
    ),
    "limits.checkpoint": (
        {"limits": {"checkpoint": 1}},
        {"HUBSTATE_LIMIT_CHECKPOINT": "2"},
        "[limits]\ncheckpoint = 4",
        "",
    ),
    "limits.heartbeat": (
        {"limits": {"heartbeat": 1}},
        {"HUBSTATE_LIMIT_HEARTBEAT": "2"},
        "[limits]\nheartbeat = 4",
        "",
    ),
    "api_key": (
        {"api_key": "argument"},
        {"HUBSTATE_API_KEY": "environment"},
        "",
        '[keys]\n"http://hub.test" = "user"',
    ),
}
EXPECTED = {
    "hub": ["http://argument", "http://environment", "http://project", "http://user"],
    "directory": ["sub/argument", "sub/environment", "project", None],
    "mode": ["off", "offline", "on", None],
    "project": ["argument", None, "project", None],
    "group": ["argument", None, "project", None],
    "limits.metrics": [1.0, 2.0, 4.0, None],
    "limits.checkpoint": [1.0, 2.0, 4.0, None],
    "limits.heartbeat": [1.0, 2.0, 4.0, None],
    "api_key": ["argument", "environment", None, "user"],
}
WHERE = ["argument", "environment HUBSTATE_", "hubstate.toml", "hubstate.toml"]


def value_of(found: Settings, name: str) -> object:
    kind, _, limit = name.partition(".")
    return found.limits[limit] if limit else getattr(found, kind)


@pytest.mark.parametrize(
    ("name", "present"),
    [(name, present) for name in SOURCES for present in itertools.product([True, False], repeat=4)],
    ids=str,
)
def test_arguments_beat_environment_beats_project_beats_user(here, name, present):
    """For every name and every set of sources that tell it, the strongest one holds, and it is told which that was."""
    argument, environment, project, user = SOURCES[name]
    if present[2]:
        write_project(here, project)
    if present[3]:
        write_user(user)
    told = dict(argument) if present[0] else {}
    if name == "api_key":
        told["hub"] = "http://hub.test"
    found = find(here, environment=environment if present[1] else {}, **told)
    sources = [n for n in range(4) if present[n] and EXPECTED[name][n] is not None]
    if not sources:
        assert name not in found.sources
        return
    expected = EXPECTED[name][sources[0]]
    if name == "directory":
        expected = (here if sources[0] < 2 else here.parent).joinpath(Path(expected).name)
    assert value_of(found, name) == expected
    assert WHERE[sources[0]] in found.sources[name]


def test_the_defaults(here):
    """Without any setting: no hub, no key, mode on, the limits of the original, `.hubstate` in the working directory."""
    found = find(here)
    assert (found.hub, found.api_key, found.mode, found.rank) == (None, None, "on", 0)
    assert found.directory == here / ".hubstate"
    assert found.limits == {"metrics": 3.0, "checkpoint": 900.0, "heartbeat": 300.0}
    assert (found.project, found.group, found.sources) == (None, None, {})
    assert found.data_folder.is_absolute()


@pytest.mark.parametrize("home", [None, "", "relative"], ids=["unset", "empty", "relative"])
def test_a_user_without_a_home_is_told_what_to_set(here, monkeypatch, home):
    """A container may run as a number that nothing else knows: `start` names HOME, and serves once it is set."""

    def unknown(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("CONFIG", "DATA", "CACHE"):
        monkeypatch.delenv(f"XDG_{name}_HOME")
    if home is None:
        monkeypatch.delenv("HOME")
    else:
        monkeypatch.setenv("HOME", home)
    with pytest.raises(
        SettingsError, match=r"no absolute HOME.*set HOME to a folder of yours, or XDG_CONFIG_HOME"
    ):
        hubstate.start("digits", mode="offline")
    for folder, variable in ((room.data_folder, "XDG_DATA_HOME"), (room.cache_folder, "XDG_CACHE_HOME")):
        with pytest.raises(SettingsError, match=f"set HOME to a folder of yours, or {variable}"):
            folder()
    monkeypatch.setenv("HOME", str(here))
    assert find(here).data_folder == here / ".local/share/hubstate"


def test_a_directory_in_a_home_that_nobody_knows_is_named(here):
    """`~name` of a user who is not there is a bad setting, told with its place."""
    with pytest.raises(SettingsError, match=r"'~nobody-here/runs' \(argument\).*without ~"):
        find(here, directory="~nobody-here/runs")


def test_an_empty_variable_says_nothing(here):
    """`HUBSTATE_HUB=` in a script means that it is not set."""
    empty = dict.fromkeys(["HUBSTATE_HUB", "HUBSTATE_API_KEY", "HUBSTATE_DIR", "HUBSTATE_MODE"], "")
    assert find(here, environment=empty).sources == {}


def test_the_environment_and_the_working_directory_are_the_processes_own(here, monkeypatch):
    """Without other words, the settings are read when asked for, and not when the module is loaded."""
    monkeypatch.chdir(here)
    monkeypatch.setenv("HUBSTATE_HUB", HUB)
    assert resolve().hub == HUB
    assert resolve().directory == here / ".hubstate"


def test_the_nearest_project_file_holds(here):
    """`hubstate.toml` goes before `pyproject.toml` in one folder, and a nearer folder before a farther one."""
    write_project(here, '[tool.hubstate]\ngroup = "pyproject"', "pyproject.toml")
    assert find(here).group == "pyproject"
    assert find(here).sources["group"].endswith("pyproject.toml [tool.hubstate]")
    write_project(here, 'group = "own"')
    assert find(here).group == "own"
    (here / "pyproject.toml").write_text('[project]\nname = "x"')
    assert find(here).group == "own"
    (here / "pyproject.toml").write_text('[tool.hubstate]\ngroup = "near"')
    assert find(here).group == "near"


def test_paths_are_made_absolute(here, monkeypatch):
    """A directory is where it was named, whatever the working directory later is; `~` is the user's home."""
    monkeypatch.setenv("HOME", "/home/me")
    assert find(here, directory="~/runs").directory == Path("/home/me/runs")
    assert find(here, directory=Path("/data")).directory == Path("/data")
    assert find(here, directory="").directory == here / ".hubstate"


@pytest.mark.parametrize(
    ("rank", "found"), [("0", 0), ("3", 3), ("-1", -1), ("", 0), ("--1", 0), ("²", 0), ("x", 0)]
)
def test_the_rank_in_a_distributed_job(here, rank, found):
    """Launchers number processes in RANK; what is no number is no rank."""
    assert find(here, environment={"RANK": rank}).rank == found


# -- keys ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["api_key", "key", "keys"])
@pytest.mark.parametrize("file", ["hubstate.toml", "pyproject.toml"])
def test_a_key_in_a_projects_file_is_refused_by_name_and_not_shown(here, name, file):
    """Project files are shared: the message says where the key stands and what to do, and does not repeat it."""
    table = "[tool.hubstate]\n" if file == "pyproject.toml" else ""
    path = write_project(here, f'{table}{name} = "{KEY}"', file)
    with pytest.raises(SettingsError) as refused:
        find(here)
    assert f"{path} holds {name!r}" in str(refused.value)
    assert "hubstate login" in str(refused.value)
    assert KEY not in "".join(traceback.format_exception(refused.value))


@pytest.mark.promise("D25")
def test_a_key_is_in_no_repr(here):
    """Settings may be printed and logged."""
    found = find(here, hub=HUB, api_key=KEY)
    assert found.api_key == KEY
    assert KEY not in repr(found)
    assert KEY not in str(found.sources)


@pytest.mark.parametrize("key", ["", "  ", f"{KEY}\n{KEY}", f"{KEY}é", 7])
def test_a_key_that_no_header_can_carry_is_refused_and_not_shown(here, key):
    """A key that was pasted with a line break is told as such, wherever it stood."""
    for use in (lambda: find(here, hub=HUB, api_key=key), lambda: remember_login(HUB, key)):
        with pytest.raises(SettingsError, match=r"the api key .argument. is empty or holds") as refused:
            use()
        assert KEY not in str(refused.value)
    assert not user_file().exists()


def test_a_key_is_only_for_its_own_hub(here):
    """What `login` kept for one hub is never shown to another."""
    remember_login(HUB, KEY)
    assert find(here).api_key == KEY
    assert find(here, hub=HUB + "/").api_key == KEY
    assert find(here, hub="http://other.test").api_key is None
    assert find(here, hub=HUB).sources["api_key"] == str(user_file())


def test_login_keeps_hub_and_key_for_their_owner_alone(here):
    """The file can be read by its owner only, even where it was open before; earlier hubs' keys stay in it."""
    write_user("").chmod(0o644)
    remember_login("https://first.test", 'odd "key" \\ with marks')
    path = remember_login(HUB + "/", f" {KEY} ")
    assert path == user_file()
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert (find(here).hub, find(here).api_key) == (HUB, KEY)
    assert find(here, hub="https://first.test").api_key == 'odd "key" \\ with marks'


def test_a_login_that_cannot_be_kept_is_told(monkeypatch):
    """A folder that takes no file is this machine's error and names the file."""
    user_file().parent.parent.mkdir(parents=True)
    user_file().parent.write_text("a file")
    monkeypatch.setattr(room, "_read", lambda path: {})
    with pytest.raises(StorageError, match=r"cannot write .*hubstate.toml"):
        remember_login(HUB, KEY)


def test_a_key_in_the_environment_is_for_the_hub_beside_it(here):
    """Whoever sends to another hub by name does not show it the key that was set for the first one."""
    found = find(here, environment={"HUBSTATE_HUB": HUB, "HUBSTATE_API_KEY": KEY})
    assert for_hub(HUB, found).api_key == KEY
    assert for_hub(HUB + "/", found).api_key == KEY
    other = for_hub(OTHER, found)
    assert (other.hub, other.api_key) == (OTHER, None)
    assert for_hub(HUB, other).key_withheld
    remember_login(OTHER, "ul_other")
    kept = for_hub(OTHER, found)
    assert (kept.api_key, kept.sources["api_key"], kept.key_withheld) == ("ul_other", str(user_file()), "")


@pytest.mark.parametrize("file", ["hubstate.toml", "pyproject.toml"])
def test_a_hub_that_only_a_projects_file_names_is_not_shown_the_key_in_the_environment(here, file):
    """Whoever wrote the file in a cloned repository chose the hub, and not the key: it does not go there."""
    table = "[tool.hubstate]\n" if file == "pyproject.toml" else ""
    path = write_project(here, f'{table}hub = "{OTHER}"', file)
    found = find(here, environment={"HUBSTATE_API_KEY": KEY})
    assert (found.hub, found.api_key, "api_key" in found.sources) == (OTHER, None, False)
    assert str(path) in found.key_withheld
    assert f"hubstate login {OTHER}" in found.key_withheld
    assert KEY not in repr(found)
    assert for_hub(OTHER, found).api_key is None


def test_a_hub_that_only_a_projects_file_names_gets_what_was_kept_or_given_for_it(here):
    """A key that `login` kept for exactly this hub is used, and so is an argument; then nothing is held back."""
    write_project(here, f'hub = "{OTHER}"')
    env = {"HUBSTATE_API_KEY": KEY}
    given = find(here, environment=env, api_key="ul_given")
    assert (given.api_key, given.key_withheld) == ("ul_given", "")
    remember_login(HUB, "ul_of_another")
    assert find(here, environment=env).api_key is None
    remember_login(OTHER, "ul_kept")
    kept = find(here, environment=env)
    assert (kept.api_key, kept.sources["api_key"], kept.key_withheld) == ("ul_kept", str(user_file()), "")


def test_the_key_in_the_environment_is_for_a_hub_that_this_user_named(here):
    """An argument, the environment and the user's own file are this user's words; they beat the project's file."""
    remember_login("http://kept.test", "ul_kept")
    env = {"HUBSTATE_API_KEY": KEY}
    for environment, arguments in ((env, {"hub": HUB}), ({**env, "HUBSTATE_HUB": HUB}, {}), (env, {})):
        found = find(here, environment=environment, **arguments)
        assert (found.api_key, found.key_withheld) == (KEY, "")
    write_project(here, f'hub = "{OTHER}"')
    assert find(here, environment=env, hub=HUB).api_key == KEY


def test_a_session_that_was_found_does_not_choose_who_is_shown_a_key(here):
    """Where no hub is set, a key that is an argument goes to the session's hub; one in the environment does not.

    A folder of sessions may have come with a cloned repository as well. Who ran the command that opened the session
    knows better: `beside`.
    """
    argument = for_hub(OTHER, find(here, api_key=KEY))
    assert (argument.hub, argument.api_key, argument.sources["api_key"]) == (OTHER, KEY, "argument")
    found = find(here, environment={"HUBSTATE_API_KEY": KEY})
    held_back = for_hub(OTHER, found)
    assert held_back.api_key is None
    assert "the session names" in held_back.key_withheld
    assert for_hub(OTHER, found, beside=True).api_key == KEY
    set_beside = find(here, hub=HUB, environment={"HUBSTATE_API_KEY": KEY})
    assert for_hub(OTHER, set_beside, beside=True).api_key is None
    assert "argument" in for_hub(OTHER, find(here, hub=HUB, api_key=KEY)).key_withheld
    assert for_hub(OTHER, find(here)).key_withheld == ""
    with pytest.raises(SettingsError, match="the session"):
        for_hub("ftp://other.test", found)


# -- what is refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    ["hub.test", "ftp://hub.test", "http://", "http:///", "", "https:/hub.test", "http://hub.test/\n"],
)
def test_an_address_that_is_none_is_refused(here, address):
    """The message shows what was given, where, and what an address looks like."""
    with pytest.raises(SettingsError, match=r"argument.* must look like http://host:8765") as refused:
        find(here, hub=address)
    assert repr(address) in str(refused.value)


@pytest.mark.parametrize(
    "address",
    [
        f"http://user:{KEY}@hub.test",
        f"http:/user:{KEY}@hub.test",
        f"http://hub.test/?api_key={KEY}",
        f"hub.test#{KEY}",
    ],
)
def test_an_address_with_a_key_in_it_is_refused_and_not_shown(here, address):
    """Addresses end up in logs and histories: whatever holds a user, a key or a query is not repeated."""
    for use in (lambda: find(here, hub=address), lambda: remember_login(address, "k")):
        with pytest.raises(SettingsError, match="must hold no user, key or query") as refused:
            use()
        assert KEY not in str(refused.value)


@pytest.mark.parametrize(
    ("project", "words"),
    [
        ("hub = 5", "hub must be a text, not int .*hubstate.toml"),
        ("directory = 5", "directory must be a text, not int"),
        ("group = true", "group must be a text, not bool"),
        ('project = ["a"]', "project must be a text, not list"),
        ('mode = "sometimes"', "mode must be one of on, offline, off, not 'sometimes' .*hubstate.toml"),
        ("colour = 1", "holds the unknown setting 'colour'; known: directory, group"),
        ("limits = 5", "limits in .*hubstate.toml must be a table of seconds"),
        ("[limits]\nheartbeats = 5", "there is no limit 'heartbeats' .*; known: metrics, checkpoint"),
        ('[limits]\nmetrics = "soon"', "the limit metrics .*hubstate.toml. must be a number of seconds"),
        ("[limits]\nmetrics = [1]", "the limit metrics .* must be a number of seconds, not .1."),
        ("[limits]\nmetrics = true", "the limit metrics .* must be 0 or more seconds, not True"),
        ("[limits]\nmetrics = nan", "the limit metrics .* must be 0 or more seconds"),
        ("[limits]\nheartbeat = 0", "the limit heartbeat .* must be more than 0 seconds"),
        ("hub = ", "cannot read the settings in .*hubstate.toml"),
    ],
)
def test_a_bad_value_is_named_with_its_place(here, project, words):
    """Whoever reads the message knows which setting, in which file, and what is allowed."""
    write_project(here, project)
    with pytest.raises(SettingsError, match=words):
        find(here)


def test_a_bad_variable_is_named(here):
    """The same for the environment and for arguments."""
    for variable, value, words in (
        ("HUBSTATE_MODE", "maybe", "not 'maybe' .environment HUBSTATE_MODE."),
        ("HUBSTATE_LIMIT_METRICS", "-1", "metrics .environment HUBSTATE_LIMIT_METRICS. must be 0 or more"),
        ("HUBSTATE_HUB", "nowhere", "environment HUBSTATE_HUB"),
    ):
        with pytest.raises(SettingsError, match=words):
            find(here, environment={variable: value})
    with pytest.raises(SettingsError, match=r"there is no limit 'rows' .argument."):
        find(here, limits={"rows": 1})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hub = 5", "hub must be a text"),
        ("keys = 5", "must be a table of hub and key"),
        ("[keys", "cannot read the settings in"),
    ],
)
def test_a_damaged_file_of_the_user_is_named(here, text, words):
    """A file that was written by hand is judged like any other."""
    write_user(text)
    with pytest.raises(SettingsError, match=words):
        find(here)


@pytest.mark.parametrize("text", ["tool = 5", "[tool]\nhubstate = 5"])
def test_an_odd_pyproject_is_no_crash(here, text):
    """Another tool's odd file is passed by; an odd table of our own is named."""
    write_project(here, text, "pyproject.toml")
    if "hubstate" not in text:
        assert find(here).sources == {}
        return
    with pytest.raises(SettingsError, match="must be a table of settings, not int"):
        find(here)


@pytest.mark.parametrize("text", [b"[tool.hubstate\n", b"\xff"])
def test_a_pyproject_that_cannot_be_read_is_passed_over(here, text):
    """A broken file of another tool, in whatever folder above, hinders no run: the next one above holds, and it is told."""
    (here / "pyproject.toml").write_bytes(text)
    write_project(here, 'group = "above"')
    found = find(here)
    assert found.group == "above"
    (told,) = found.passed_over
    assert str(here / "pyproject.toml") in told
    (here / "hubstate.toml").write_bytes(text)
    with pytest.raises(SettingsError, match=r"cannot read the settings in .*hubstate.toml"):
        find(here)
