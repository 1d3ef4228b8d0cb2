"""MLflow's own variables: what they say holds for an MLflow server, and its user is shown to no other one."""

from __future__ import annotations

from pathlib import Path

import pytest

from hubstate.clock import SystemClock
from hubstate.doctor import examine
from hubstate.errors import SettingsError
from hubstate.settings import MLflow, Settings, for_hub, for_mlflow, remember_login, resolve
from hubstate.testing import FakeHub

SERVER = "https://mlflow.test"
HUB = f"mlflow+{SERVER}"
TOKEN = {"MLFLOW_TRACKING_TOKEN": "a-token"}
USER = {"MLFLOW_TRACKING_USERNAME": "ada", "MLFLOW_TRACKING_PASSWORD": "pass"}


def found(environment: dict[str, str], hub: str | None = HUB, **arguments: str) -> Settings:
    return resolve(hub=hub, environment=environment, **arguments)


@pytest.mark.parametrize(
    ("environment", "key", "source"),
    [
        (TOKEN, "a-token", "MLFLOW_TRACKING_TOKEN"),
        (USER, "ada:pass", "MLFLOW_TRACKING_USERNAME"),
        (USER | {"MLFLOW_TRACKING_PASSWORD": "größer"}, "ada:größer", "MLFLOW_TRACKING_USERNAME"),
        (USER | TOKEN, "ada:pass", "MLFLOW_TRACKING_USERNAME"),
        (TOKEN | {"HUBSTATE_API_KEY": "ours"}, "ours", "HUBSTATE_API_KEY"),
        (TOKEN | {"MLFLOW_TRACKING_URI": f"{SERVER}/"}, "a-token", "MLFLOW_TRACKING_TOKEN"),
        ({"MLFLOW_TRACKING_USERNAME": "ada"}, None, ""),
        ({}, None, ""),
    ],
)
def test_who_it_is(environment: dict[str, str], key: str | None, source: str) -> None:
    """The user of MLflow's variables is used where hubstate was told no key of its own; and it is told from where."""
    told = found(environment)
    assert told.api_key == key
    assert source in told.sources.get("api_key", "")
    assert told.key_withheld == ""


@pytest.mark.parametrize(
    "environment", [{"MLFLOW_TRACKING_TOKEN": "größer"}, USER | {"MLFLOW_TRACKING_PASSWORD": "a\udcffb"}]
)
def test_what_no_header_carries_is_refused(environment: dict[str, str]) -> None:
    """A token with letters that no header holds, and a password that is no text, are told by their variable."""
    with pytest.raises(SettingsError, match=r"MLFLOW_TRACKING_.* no header can carry") as refusal:
        found(environment)
    assert "größer" not in str(refusal.value)


def test_a_hub_of_ones_own_takes_no_more_letters_than_before() -> None:
    """A key with letters that no header holds is refused for any other hub, whatever it looks like."""
    with pytest.raises(SettingsError, match="no header can carry"):
        found({"HUBSTATE_API_KEY": "ada:größer"}, hub="https://hub.test")
    with pytest.raises(SettingsError, match="no header can carry"):
        remember_login("https://hub.test", "ada:größer")
    remember_login(HUB, "ada:größer")
    assert found({}).api_key == "ada:größer"


def test_an_argument_beats_them() -> None:
    """A key that is given holds, as everywhere."""
    assert found(TOKEN, api_key="given").api_key == "given"


def test_another_kind_of_hub_is_not_shown_them() -> None:
    """What belongs to MLflow never leaves for a hub of one's own."""
    told = found(TOKEN | USER, hub="https://hub.test")
    assert (told.api_key, told.key_withheld) == (None, "")


def test_another_server_than_they_name_is_not_shown_them() -> None:
    """A user of the server that MLFLOW_TRACKING_URI names is not shown to another one, and it is told why not."""
    told = found(TOKEN | {"MLFLOW_TRACKING_URI": "https://other.test"})
    assert told.api_key is None
    assert "MLFLOW_TRACKING_URI" in told.key_withheld
    assert "a-token" not in repr(told) + told.key_withheld


def test_a_server_that_only_a_projects_file_names_is_not_shown_them(tmp_path: Path) -> None:
    """A cloned repository that names a server gets no user, unless MLflow's variables name that very server."""
    Path("hubstate.toml").write_text(f'hub = "{HUB}"\n')
    assert found(TOKEN, hub=None).api_key is None
    assert found(TOKEN, hub=None).key_withheld
    assert found(TOKEN | {"MLFLOW_TRACKING_URI": SERVER}, hub=None).api_key == "a-token"


@pytest.mark.parametrize("named", [True, False])
def test_a_session_of_the_server_gets_them_later(monkeypatch: pytest.MonkeyPatch, named: bool) -> None:
    """`sync` without a hub shows them to the server that the session belongs to if they name it, and to no other."""
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "a-token")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", SERVER if named else "https://other.test")
    told = for_hub(HUB, resolve())
    assert told.api_key == ("a-token" if named else None)
    assert bool(told.key_withheld) is not named


def test_a_session_that_was_opened_beside_gets_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `hubstate run` delivers for its command may use what the command had."""
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "a-token")
    assert for_hub(HUB, resolve(), beside=True).api_key == "a-token"
    assert for_hub(HUB, resolve()).api_key is None


def test_a_login_is_kept_for_the_server() -> None:
    """`hubstate login` keeps a user and a password for an MLflow server as it keeps any key."""
    remember_login(f"{HUB}/", "ada:word")
    assert found({}).api_key == "ada:word"


def test_the_other_variables() -> None:
    """Experiment and certificates are those that MLflow's own client would take."""
    assert for_mlflow({}) == MLflow()
    told = {
        "MLFLOW_EXPERIMENT_NAME": "mine",
        "MLFLOW_EXPERIMENT_ID": "7",
        "MLFLOW_TRACKING_SERVER_CERT_PATH": "ca.pem",
        "MLFLOW_TRACKING_CLIENT_CERT_PATH": "me.pem",
    }
    assert for_mlflow(told) == MLflow("mine", "7", "ca.pem", "me.pem")


@pytest.mark.parametrize(("said", "trust"), [("true", False), ("1", False), ("false", True), ("", True)])
def test_any_certificate_is_believed_only_by_a_clear_word(said: str, trust: bool) -> None:
    """MLFLOW_TRACKING_INSECURE_TLS is heeded; a file of certificates beats it."""
    insecure = {"MLFLOW_TRACKING_INSECURE_TLS": said}
    assert for_mlflow(insecure).trust is trust
    assert for_mlflow(insecure | {"MLFLOW_TRACKING_SERVER_CERT_PATH": "ca.pem"}).trust == "ca.pem"


def test_doctor_tells_who_it_is() -> None:
    """`doctor` tells where the user was found, and that a server without users needs none."""
    for environment, words in ((TOKEN, "set, from environment MLFLOW_TRACKING_TOKEN"), ({}, "without users")):
        findings = examine(found(environment), SystemClock(), lambda _address, _key: FakeHub())
        (told,) = (finding.text for finding in findings if finding.about == "api key")
        assert words in told
        assert "a-token" not in told
