"""The only reader of the environment and of settings files.

Arguments beat the environment, which beats the project's file (`hubstate.toml`, or `[tool.hubstate]` in
`pyproject.toml`, in the working directory or above it), which beats the user's file (written by
`hubstate login`, readable by its owner alone). A directory named in a project's file counts from that file's folder;
any other one from the working directory. Everything else gets what it needs handed over as plain values.

Who wrote a project's file need not be who runs it: a repository is cloned with the file in it. So a key there is
refused by name, and a hub that only such a file names, or a session that was found, is not shown the key in the
environment: that one belongs to the hub which this user set beside it. A key that `hubstate login` kept for exactly
that hub is.

For an MLflow server (`mlflow+http://…`) the variables of MLflow hold as well. What they say of a user, of this client's
own certificate, and of a server that need not prove who it is, belongs to the server that `MLFLOW_TRACKING_URI` names; if
none is named, to the one that this user named as the hub.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import platformdirs

from hubstate.errors import SettingsError, StorageError

__all__ = [
    "MLFLOW",
    "MODES",
    "RUN_VARIABLE",
    "MLflow",
    "Settings",
    "cache_folder",
    "data_folder",
    "for_command",
    "for_hub",
    "remember_login",
    "resolve",
    "user_file",
]

MODES = ("on", "offline", "off")
_KEY_VARIABLE = "environment HUBSTATE_API_KEY"
#: How the address of an MLflow server begins, before `http`.
MLFLOW = "mlflow+"
_SCHEMES = ("http", "https", f"{MLFLOW}http", f"{MLFLOW}https")
#: Set by `hubstate run` for its command, and by nobody else.
RUN_VARIABLE = "HUBSTATE_RUN"
_DEFAULTS = {"metrics": 3.0, "checkpoint": 900.0, "heartbeat": 300.0}
_PROJECT_KEYS = {"hub", "directory", "mode", "project", "group", "limits"}


@dataclass(frozen=True)
class MLflow:
    """What the variables of MLflow say to a client, of users excepted. The experiment is told by its name or its id.

    `trust`: a file with the certificates that are believed; True: those that are believed anyway; False: any.
    `certificate`: a file with this client's own certificate. `withheld`: why some of it is not for this hub, and what to
    do; empty where nothing is held back.
    """

    experiment: str | None = None
    experiment_id: str | None = None
    trust: bool | str = True
    certificate: str | None = None
    withheld: str = ""


@dataclass(frozen=True)
class Settings:
    """What holds for one session. `sources` tells for each name where its value was found. Limits in seconds."""

    hub: str | None = None
    api_key: str | None = field(default=None, repr=False)
    #: Why the key that stands in the environment is not for this hub, and what to do; empty where none is held back.
    key_withheld: str = ""
    #: What holds if the hub is an MLflow server.
    mlflow: MLflow = MLflow()
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
    #: Files of others that were passed over because they cannot be read, each with the reason.
    passed_over: tuple[str, ...] = ()


def user_file() -> Path:
    """Where `hubstate login` keeps hub and key of this user."""
    return _own(platformdirs.user_config_dir, "XDG_CONFIG_HOME") / "hubstate.toml"


def data_folder() -> Path:
    """Where this user's data lie: the index of sessions, and the hub if none is put elsewhere."""
    return _own(platformdirs.user_data_dir, "XDG_DATA_HOME")


def cache_folder() -> Path:
    """Where lies what can be made anew: the outboxes of sessions that lie on a network share."""
    return _own(platformdirs.user_cache_dir, "XDG_CACHE_HOME")


def _own(folder: Callable[..., str], variable: str) -> Path:
    """One of this user's folders. Raises `SettingsError` where nothing tells which they are."""
    try:
        return Path(folder("hubstate", appauthor=False))
    except RuntimeError as error:
        raise SettingsError(
            f"no home of this user is known, where settings and the list of sessions lie (user {os.getuid()} has no "
            f"entry in passwd, and the environment no absolute HOME): set HOME to a folder of yours, or {variable}"
        ) from error


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
    passed_over: list[str] = []
    project_values, project_name, project_folder = _project_file(here, passed_over)
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
    in_environment, withheld, named = env.get("HUBSTATE_API_KEY"), "", _KEY_VARIABLE
    by_user = address is not None and sources["hub"] != project_name
    if in_environment and address is not None and not by_user:
        in_environment, withheld = None, _why_withheld(_KEY_VARIABLE, address, project_name)
    if not in_environment and address is not None:
        in_environment, named, why = _mlflow_user(address, env, by_user=by_user)
        withheld = withheld or why
    key = _key(address, api_key, (in_environment or None, named), user_values.get("keys", {}), sources)
    return Settings(
        hub=address,
        api_key=key,
        key_withheld=withheld if key is None else "",
        mlflow=_mlflow(address, env, by_user=by_user, kept=user_values.get("keys", {})),
        directory=(base / _expanded(where, sources)).absolute(),
        mode=chosen_mode,
        project=pick("project", project, None),
        group=pick("group", group, None),
        limits=_limits(limits, env, project_values.get("limits", {}), project_name, sources),
        data_folder=data_folder(),
        rank=_rank(env),
        run=_run(env),
        sources=sources,
        passed_over=tuple(passed_over),
    )


def for_hub(address: str, found: Settings, *, beside: bool = False) -> Settings:
    """The settings with the hub that a session belongs to in place of the one that was `found`, and its own key.

    A key that was given belongs to the hub that was given with it: another one is not shown it. Where no hub was
    given at all, a key that is an argument is for the session's hub; one in the environment is so only if `beside`:
    the session was opened by a command that was run with that environment.
    """
    address = _address(address, "the session")
    if address == found.hub:
        return found
    source = found.sources.get("api_key", "")
    sources = {**found.sources, "hub": "the session"}
    kept, by_user = _user_values().get("keys", {}), beside and found.hub is None
    mlflow = _mlflow(address, os.environ, by_user=by_user, kept=kept)
    its_own = replace(found, hub=address, mlflow=mlflow, sources=sources)
    if found.hub is None and (source == "argument" or (beside and source == _KEY_VARIABLE)):
        return its_own
    sources.pop("api_key", None)
    key = _kept_key(address, kept, sources)
    if key is None:
        key, variable, why = _mlflow_user(address, os.environ, by_user=by_user)
        if key is not None:
            sources["api_key"] = variable
            return replace(its_own, api_key=_usable_key(key, variable, address), key_withheld="")
        if why:
            return replace(its_own, api_key=None, key_withheld=why)
    given = source if source in ("argument", _KEY_VARIABLE) else _KEY_VARIABLE if found.key_withheld else ""
    withheld = _why_withheld(given, address, "the session") if given and key is None else ""
    return replace(its_own, api_key=key, key_withheld=withheld)


def for_command(run: Path | None) -> dict[str, str]:
    """The environment for a command of `hubstate run`, which notes its sessions in the folder `run`."""
    env = {name: value for name, value in os.environ.items() if name != RUN_VARIABLE}
    return env if run is None else {**env, RUN_VARIABLE: str(run)}


def remember_login(hub: str, api_key: str) -> Path:
    """Keeps hub and key for this user, in a file that only they can read; returns the file.

    Raises `SettingsError` for an address or a key that is none, `StorageError` if the file cannot be written.
    """
    address = _address(hub, "argument")
    key = _usable_key(api_key, "argument", address)
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


def _project_file(here: Path, passed_over: list[str]) -> tuple[dict[str, Any], str, Path]:
    """The nearest project file at or above `here`, its name, and the folder that holds it.

    `hubstate.toml` is ours, and has to be right. A `pyproject.toml` is everybody's, and may lie in a folder that has
    nothing to do with this run: one that cannot be read is no reason to record nothing, so it goes to `passed_over`.
    """
    for folder in (here, *here.parents):
        own = folder / "hubstate.toml"
        if own.is_file():
            return _checked(_read(own), own), str(own), folder
        shared = folder / "pyproject.toml"
        if shared.is_file():
            try:
                tools = _read(shared).get("tool", {})
            except SettingsError as failure:
                passed_over.append(str(failure))
                continue
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
    if scheme not in _SCHEMES or not rest.strip("/") or not address.isprintable():
        raise SettingsError(
            f"the hub's address {address!r} ({source}) must look like http://host:8765, https://host, or "
            "mlflow+https://host for an MLflow server"
        )
    return address.rstrip("/")


def _key(
    hub: str | None,
    argument: str | None,
    in_environment: tuple[str | None, str],
    kept: Mapping[str, Any],
    sources: dict[str, str],
) -> str | None:
    for key, source in ((argument, "argument"), in_environment):
        if key is not None:
            sources["api_key"] = source
            return _usable_key(key, source, hub)
    return _kept_key(hub, kept, sources)


def _mlflow_user(address: str, env: Mapping[str, str], *, by_user: bool) -> tuple[str | None, str, str]:
    """Who MLflow's variables say that this is to the hub at `address`: `user:password`, or a token; and which those are.

    They belong to the server that they name. Where they name none, they belong to a hub that this user named: `by_user`.
    The third is why they are not for this one, if so.
    """
    user, password = env.get("MLFLOW_TRACKING_USERNAME"), env.get("MLFLOW_TRACKING_PASSWORD")
    key, source = env.get("MLFLOW_TRACKING_TOKEN") or None, "environment MLFLOW_TRACKING_TOKEN"
    if user and password:
        key, source = f"{user}:{password}", "environment MLFLOW_TRACKING_USERNAME"
    if key is None or not address.startswith(MLFLOW):
        return None, source, ""
    if _belongs(address, env, by_user=by_user):
        return key, source, ""
    why = (
        f"the MLflow user ({source}) is not shown to {address}, which MLFLOW_TRACKING_URI does not name: set that, or "
        f"keep a key for this hub by `hubstate login {address}`"
    )
    return None, source, why


def _belongs(address: str, env: Mapping[str, str], *, by_user: bool) -> bool:
    """Whether the server at `address` is the one that MLflow's variables are about; see `_mlflow_user`."""
    server = env.get("MLFLOW_TRACKING_URI")
    return server.rstrip("/") == address.removeprefix(MLFLOW) if server else by_user


def _mlflow(address: str | None, env: Mapping[str, str], *, by_user: bool, kept: Mapping[str, Any]) -> MLflow:
    """What MLflow's variables say to the hub at `address`, beside who this is.

    A certificate tells who this is as well, and a server that need not prove who it is could be anybody. So both belong
    where a user does (see `_mlflow_user`), and to a hub that this user logged into: `kept` are the keys of those.
    """
    if address is None or not address.startswith(MLFLOW):
        return MLflow()
    certificate = env.get("MLFLOW_TRACKING_CLIENT_CERT_PATH") or None
    # Where both are said, MLflow's own client refuses to work; here the safe one of the two holds.
    believed = env.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or None
    insecure = env.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("true", "1") and believed is None
    theirs = {"MLFLOW_TRACKING_CLIENT_CERT_PATH": certificate, "MLFLOW_TRACKING_INSECURE_TLS": insecure}
    said, withheld = " and ".join(name for name, value in theirs.items() if value), ""
    if said and not _belongs(address, env, by_user=by_user or address in kept):
        certificate, insecure = None, False
        withheld = (
            f"what {said} says does not hold for {address}, which MLFLOW_TRACKING_URI does not name: set that to "
            f"{address.removeprefix(MLFLOW)} if it should"
        )
    return MLflow(
        experiment=env.get("MLFLOW_EXPERIMENT_NAME") or None,
        experiment_id=env.get("MLFLOW_EXPERIMENT_ID") or None,
        trust=believed or not insecure,
        certificate=certificate,
        withheld=withheld,
    )


def _kept_key(hub: str | None, kept: Mapping[str, Any], sources: dict[str, str]) -> str | None:
    """What `login` kept for exactly this hub: a key is kept with its hub, and never shown to another one."""
    if hub is None or hub not in kept:
        return None
    sources["api_key"] = str(user_file())
    return _usable_key(kept[hub], sources["api_key"], hub)


def _why_withheld(source: str, hub: str, namer: str) -> str:
    return (
        f"the api key ({source}) is not shown to {hub}, which {namer} names and not you: keep a key for this hub by "
        f"`hubstate login {hub}`, or name it beside the key (HUBSTATE_HUB, --hub or hub=)"
    )


def _usable_key(key: object, source: str, hub: str | None) -> str:
    # The password of MLflow's user (`user:password`) leaves encoded, so it may hold any letter.
    mlflow = hub is not None and hub.startswith(MLFLOW)
    if (
        not isinstance(key, str)
        or not key.strip()
        or not key.isprintable()
        or not (key.isascii() or (mlflow and ":" in key))
    ):
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


def _expanded(where: str, sources: Mapping[str, str]) -> Path:
    """The directory without its `~`."""
    try:
        return Path(where).expanduser()
    except RuntimeError as error:
        raise SettingsError(
            f"the directory {where!r} ({sources['directory']}) begins in a home that nobody knows: set HOME, or name "
            "the directory without ~"
        ) from error


def _rank(env: Mapping[str, str]) -> int:
    """The rank of this process in a distributed job; 0 where there is none."""
    rank = env.get("RANK", "0")
    return int(rank) if re.fullmatch("-?[0-9]+", rank) else 0


def _run(env: Mapping[str, str]) -> Path | None:
    """The folder of the `hubstate run` that this process descends from, as long as that one lives."""
    folder = Path(env.get(RUN_VARIABLE, ""))
    return folder if folder.is_absolute() and os.access(folder, os.W_OK | os.X_OK) else None
