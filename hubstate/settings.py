"""The only reader of the environment and of settings files.

Arguments beat the environment, which beats the project's file (`hubstate.toml`, or `[tool.hubstate]` in
`pyproject.toml`, in the working directory or above it), which beats the user's file (written by
`hubstate login`, readable by its owner alone). A key in a project's file is refused by name: such files are
shared. A directory named there counts from that file's folder; any other one from the working directory. Everything
else gets what it needs handed over as plain values.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import platformdirs

from hubstate.errors import SettingsError, StorageError

__all__ = [
    "MODES",
    "RUN_VARIABLE",
    "Settings",
    "data_folder",
    "for_command",
    "for_hub",
    "remember_login",
    "resolve",
    "user_file",
]

MODES = ("on", "offline", "off")
#: Set by `hubstate run` for its command, and by nobody else.
RUN_VARIABLE = "HUBSTATE_RUN"
_DEFAULTS = {"metrics": 3.0, "checkpoint": 900.0, "heartbeat": 300.0}
_PROJECT_KEYS = {"hub", "directory", "mode", "project", "group", "limits"}


@dataclass(frozen=True)
class Settings:
    """What holds for one session. `sources` tells for each name where its value was found. Limits in seconds."""

    hub: str | None = None
    api_key: str | None = field(default=None, repr=False)
    directory: Path = Path(".hubstate")
    mode: str = "on"
    project: str | None = None
    group: str | None = None
    limits: Mapping[str, float] = field(default_factory=lambda: dict(_DEFAULTS))
    data_folder: Path = Path()
    rank: int = 0
    #: Where `hubstate run` wants to hear which sessions its command opened; None where nobody listens.
    run: Path | None = None
    sources: Mapping[str, str] = field(default_factory=dict)


def user_file() -> Path:
    """Where `hubstate login` keeps hub and key of this user."""
    return Path(platformdirs.user_config_dir("hubstate", appauthor=False)) / "hubstate.toml"


def data_folder() -> Path:
    """Where this user's data lie: the index of sessions, and the hub if none is put elsewhere."""
    return Path(platformdirs.user_data_dir("hubstate", appauthor=False))


def resolve(
    *,
    hub: str | None = None,
    api_key: str | None = None,
    directory: str | os.PathLike[str] | None = None,
    mode: str | None = None,
    project: str | None = None,
    group: str | None = None,
    limits: Mapping[str, float] | None = None,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Settings:
    """Puts the settings together. Raises `SettingsError` naming the setting that cannot be used, and where it stands."""
    env = os.environ if environment is None else environment
    here = Path.cwd() if cwd is None else cwd
    project_values, project_name, project_folder = _project_file(here)
    user_values = _user_values()
    sources: dict[str, str] = {}

    def pick(name: str, argument: object, variable: str | None, user_value: object = None) -> str | None:
        candidates = [
            (argument, "argument"),
            (env.get(variable) or None if variable else None, f"environment {variable}"),
            (project_values.get(name), project_name),
            (user_value, str(user_file())),
        ]
        for value, source in candidates:
            if value is not None:
                sources[name] = source
                return _text(name, value, source)
        return None

    address = pick("hub", hub, "HUBSTATE_HUB", user_values.get("hub"))
    if address is not None:
        address = _address(address, sources["hub"])
    chosen_mode = pick("mode", mode, "HUBSTATE_MODE") or "on"
    if chosen_mode not in MODES:
        raise SettingsError(
            f"mode must be one of {', '.join(MODES)}, not {chosen_mode!r} ({sources['mode']})"
        )
    named = None if directory is None else os.fspath(directory)
    where = pick("directory", named, "HUBSTATE_DIR") or ".hubstate"
    base = project_folder if sources.get("directory") == project_name else here
    return Settings(
        hub=address,
        api_key=_key(address, api_key, env, user_values.get("keys", {}), sources),
        directory=(base / Path(where).expanduser()).absolute(),
        mode=chosen_mode,
        project=pick("project", project, None),
        group=pick("group", group, None),
        limits=_limits(limits, env, project_values.get("limits", {}), project_name, sources),
        data_folder=data_folder(),
        rank=_rank(env),
        run=_run(env),
        sources=sources,
    )


def for_hub(address: str, found: Settings, *, environment: Mapping[str, str] | None = None) -> Settings:
    """The settings with another hub in place of the one that was `found`, and with that hub's own key.

    A key in the environment belongs to the hub that is set beside it; another hub is not shown it.
    """
    env = dict(os.environ if environment is None else environment)
    if found.hub not in (None, address.rstrip("/")):
        env.pop("HUBSTATE_API_KEY", None)
    return resolve(hub=address, environment=env)


def for_command(run: Path | None) -> dict[str, str]:
    """The environment for a command of `hubstate run`, which notes its sessions in the folder `run`."""
    env = {name: value for name, value in os.environ.items() if name != RUN_VARIABLE}
    return env if run is None else {**env, RUN_VARIABLE: str(run)}


def remember_login(hub: str, api_key: str) -> Path:
    """Keeps hub and key for this user, in a file that only they can read; returns the file.

    Raises `SettingsError` for an address or a key that is none, `StorageError` if the file cannot be written.
    """
    address = _address(hub, "argument")
    key = _usable_key(api_key, "argument")
    path = user_file()
    keys = dict(_user_values().get("keys", {}))
    keys[address] = key
    lines = [f"hub = {_quoted(address)}", "", "[keys]"]
    lines += [f"{_quoted(name)} = {_quoted(value)}" for name, value in sorted(keys.items())]
    making = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        making.unlink(missing_ok=True)
        fd = os.open(making, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
        making.replace(path)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from error
    return path


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _text(name: str, value: object, source: str) -> str:
    if not isinstance(value, str):
        raise SettingsError(f"{name} must be a text, not {type(value).__name__} ({source})")
    return value


def _user_values() -> dict[str, Any]:
    values = _read(user_file())
    keys = values.get("keys", {})
    if not isinstance(keys, dict):
        raise SettingsError(
            f"[keys] in {user_file()} must be a table of hub and key; `hubstate login` writes it"
        )
    return values


def _project_file(here: Path) -> tuple[dict[str, Any], str, Path]:
    """The nearest project file at or above `here`, its name, and the folder that holds it."""
    for folder in (here, *here.parents):
        own = folder / "hubstate.toml"
        if own.is_file():
            return _checked(_read(own), own), str(own), folder
        shared = folder / "pyproject.toml"
        if shared.is_file():
            tools = _read(shared).get("tool", {})
            table = tools.get("hubstate") if isinstance(tools, dict) else None
            if table is not None:
                return _checked(table, shared), f"{shared} [tool.hubstate]", folder
    return {}, "", here


def _checked(values: object, path: Path) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise SettingsError(f"hubstate in {path} must be a table of settings, not {type(values).__name__}")
    for name in values:
        if name in ("api_key", "key", "keys"):
            raise SettingsError(
                f"{path} holds {name!r}: a key does not belong into a project's file, which is shared; "
                "use `hubstate login` or HUBSTATE_API_KEY, and revoke this key"
            )
        if name not in _PROJECT_KEYS:
            raise SettingsError(
                f"{path} holds the unknown setting {name!r}; known: {', '.join(sorted(_PROJECT_KEYS))}"
            )
    return values


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot read the settings in {path}: {error}") from error


def _address(address: str, source: str) -> str:
    scheme, _, rest = address.partition("://")
    # Whatever is wrong with it: a text that may hold a password is not repeated.
    if "@" in address or "?" in address or "#" in address:
        raise SettingsError(
            f"the hub's address ({source}) must hold no user, key or query: give the key by `hubstate login` "
            "or HUBSTATE_API_KEY"
        )
    if scheme not in ("http", "https") or not rest.strip("/") or not address.isprintable():
        raise SettingsError(
            f"the hub's address {address!r} ({source}) must look like http://host:8765 or https://host"
        )
    return address.rstrip("/")


def _key(
    hub: str | None,
    argument: str | None,
    env: Mapping[str, str],
    user: Mapping[str, Any],
    sources: dict[str, str],
) -> str | None:
    if argument is not None:
        key, source = argument, "argument"
    elif env.get("HUBSTATE_API_KEY"):
        key, source = env["HUBSTATE_API_KEY"], "environment HUBSTATE_API_KEY"
    elif hub is not None and hub in user:
        # A key is kept with its hub, and never shown to another one.
        key, source = user[hub], str(user_file())
    else:
        return None
    sources["api_key"] = source
    return _usable_key(key, source)


def _usable_key(key: object, source: str) -> str:
    if not isinstance(key, str) or not key.strip() or not key.isascii() or not key.isprintable():
        raise SettingsError(f"the api key ({source}) is empty or holds characters that no header can carry")
    return key.strip()


def _limits(
    argument: Mapping[str, float] | None,
    env: Mapping[str, str],
    project: object,
    project_name: str,
    sources: dict[str, str],
) -> dict[str, float]:
    if not isinstance(project, Mapping):
        raise SettingsError(f"limits in {project_name} must be a table of seconds")
    limits = dict(_DEFAULTS)
    for values, source in ((argument or {}, "argument"), (project, project_name)):
        for name in values:
            if name not in limits:
                raise SettingsError(f"there is no limit {name!r} ({source}); known: {', '.join(limits)}")
    for name in _DEFAULTS:
        variable = f"HUBSTATE_LIMIT_{name.upper()}"
        for value, source in (
            ((argument or {}).get(name), "argument"),
            (env.get(variable) or None, f"environment {variable}"),
            (project.get(name), project_name),
        ):
            if value is not None:
                limits[name] = _seconds(name, value, source)
                sources[f"limits.{name}"] = source
                break
    return limits


def _seconds(name: str, value: object, source: str) -> float:
    try:
        seconds = float("nan" if isinstance(value, bool) else value)  # type: ignore[arg-type]  # judged below
    except (TypeError, ValueError) as error:
        raise SettingsError(
            f"the limit {name} ({source}) must be a number of seconds, not {value!r}"
        ) from error
    if not 0 <= seconds < float("inf") or (name == "heartbeat" and seconds == 0):
        least = "more than 0" if name == "heartbeat" else "0 or more"
        raise SettingsError(f"the limit {name} ({source}) must be {least} seconds, not {value!r}")
    return seconds


def _rank(env: Mapping[str, str]) -> int:
    """The rank of this process in a distributed job; 0 where there is none."""
    rank = env.get("RANK", "0")
    return int(rank) if re.fullmatch("-?[0-9]+", rank) else 0


def _run(env: Mapping[str, str]) -> Path | None:
    """The folder of the `hubstate run` that this process descends from, as long as that one lives."""
    folder = Path(env.get(RUN_VARIABLE, ""))
    return folder if folder.is_absolute() and os.access(folder, os.W_OK | os.X_OK) else None
