"""MLflow's own variables: what they say holds for an MLflow server, and its user is shown to no other one."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from scripted import ScriptedHub
from standin_mlflow import StandinMLflow

from hubstate.clock import SystemClock
from hubstate.doctor import examine
from hubstate.errors import HubRefused, HubUnreachable, SettingsError
from hubstate.hubs import open_hub
from hubstate.hubs.base import Accepted, Delayed
from hubstate.session import begin
from hubstate.settings import MLflow, Settings, for_hub, remember_login, resolve, user_file
from hubstate.sync import with_why
from hubstate.testing import FakeHub
from hubstate.wish import Wish

SERVER = "https://mlflow.test"
HUB = f"mlflow+{SERVER}"
TOKEN = {"MLFLOW_TRACKING_TOKEN": "a-token"}
CERTIFICATE = {"MLFLOW_TRACKING_CLIENT_CERT_PATH": "me.pem"}
INSECURE = {"MLFLOW_TRACKING_INSECURE_TLS": "true"}
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
    """Experiment and certificates are those that MLflow's own client would take, and another kind of hub has none."""
    assert found({}).mlflow == MLflow()
    told = {"MLFLOW_EXPERIMENT_NAME": "mine", "MLFLOW_EXPERIMENT_ID": "7"}
    told |= {"MLFLOW_TRACKING_SERVER_CERT_PATH": "ca.pem"} | CERTIFICATE
    assert found(told).mlflow == MLflow("mine", "7", "ca.pem", "me.pem")
    assert found(told, hub="https://hub.test").mlflow == MLflow()


@pytest.mark.parametrize(("said", "trust"), [("true", False), ("1", False), ("false", True), ("", True)])
def test_any_certificate_is_believed_only_by_a_clear_word(said: str, trust: bool) -> None:
    """MLFLOW_TRACKING_INSECURE_TLS is heeded; a file of certificates beats it."""
    insecure = {"MLFLOW_TRACKING_INSECURE_TLS": said}
    assert found(insecure).mlflow.trust is trust
    believed = insecure | {"MLFLOW_TRACKING_SERVER_CERT_PATH": "ca.pem"}
    assert found(believed).mlflow.trust == "ca.pem"
    assert found(believed).mlflow.withheld == ""


def test_a_server_that_only_a_projects_file_names_gets_no_certificate(tmp_path: Path) -> None:
    """A cloned repository that names a server gets no certificate, and has to prove who it is; that is told."""
    Path("hubstate.toml").write_text(f'hub = "{HUB}"\n')
    held_back = found(CERTIFICATE | INSECURE, hub=None).mlflow
    assert (held_back.certificate, held_back.trust) == (None, True)
    for name in (*CERTIFICATE, *INSECURE, "MLFLOW_TRACKING_URI", SERVER):
        assert name in held_back.withheld


@pytest.mark.parametrize(
    "environment", [{"MLFLOW_TRACKING_URI": f"{SERVER}/"}, {"HUBSTATE_HUB": HUB}, {"login": "kept"}]
)
def test_a_server_that_this_user_named_as_well_gets_a_certificate(environment: dict[str, str]) -> None:
    """MLflow's variables, hubstate's, or a login name the very server of the project's file: it gets the certificate."""
    Path("hubstate.toml").write_text(f'hub = "{HUB}"\n')
    if environment.pop("login", ""):
        remember_login(HUB, "a-token")
        user_file().write_text(user_file().read_text().partition("\n")[2])  # not the hub by default
    assert found(environment | CERTIFICATE, hub=None).mlflow.certificate == "me.pem"
    assert found(environment | INSECURE, hub=None).mlflow.trust is False


def test_another_server_than_mlflows_variables_name_gets_no_certificate() -> None:
    """The certificate for the server that MLFLOW_TRACKING_URI names is for no other, also if that is named as the hub."""
    told = found(CERTIFICATE | INSECURE | {"MLFLOW_TRACKING_URI": "https://other.test"}).mlflow
    assert (told.certificate, told.trust) == (None, True)
    assert told.withheld


@pytest.mark.parametrize("beside", [True, False])
def test_the_server_of_a_session_gets_a_certificate_as_it_gets_a_user(
    monkeypatch: pytest.MonkeyPatch, beside: bool
) -> None:
    """A session that was found gives a server no certificate, unless a command opened it beside that certificate."""
    for name, value in (CERTIFICATE | INSECURE).items():
        monkeypatch.setenv(name, value)
    told = for_hub(HUB, resolve(), beside=beside).mlflow
    assert (told.certificate, told.trust) == (("me.pem", False) if beside else (None, True))
    assert bool(told.withheld) is not beside
    monkeypatch.setenv("MLFLOW_TRACKING_URI", SERVER)
    assert for_hub(HUB, resolve(), beside=beside).mlflow.certificate == "me.pem"


@pytest.mark.parametrize("named", ["project", "user"])
def test_a_certificate_leaves_for_a_server_that_was_named_alone(
    serve: Callable[..., ScriptedHub], monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    """A server that asks for a certificate is shown it if this user named that server, and never for a project's file."""
    pem = str(Path(__file__).with_name("loopback.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    context.load_verify_locations(pem)
    context.verify_mode = ssl.CERT_REQUIRED
    address = f"mlflow+{serve(StandinMLflow(), tls=context).url}"
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", pem)
    monkeypatch.setenv("MLFLOW_TRACKING_CLIENT_CERT_PATH", pem)
    Path("hubstate.toml").write_text(f'hub = "{address}"\n')
    told = resolve(hub=address if named == "user" else None)
    with closing(open_hub(address, None, found=told)) as client:
        assert isinstance(client.check(), Accepted if named == "user" else Delayed)
    with closing(open_hub(address, None)) as client:
        assert isinstance(client.check(), Delayed)


def test_whoever_is_kept_from_a_server_is_told_why() -> None:
    """A session's start and a failed delivery name the variable that was held back, and what to do."""
    Path("hubstate.toml").write_text(f'hub = "{HUB}"\n')
    told = found(CERTIFICATE, hub=None)
    failures = [with_why(kind("away"), told) for kind in (HubUnreachable, HubRefused)]
    assert [type(failure) for failure in failures] == [HubUnreachable, HubRefused]
    assert all("away; what MLFLOW_TRACKING_CLIENT_CERT_PATH says" in str(failure) for failure in failures)
    said: list[str] = []
    begin(Wish("digits"), told, open_hub=lambda _address, _key: FakeHub(), say=said.append).close()
    assert told.mlflow.withheld in said
    findings = examine(told, SystemClock(), lambda _address, _key: FakeHub())
    assert told.mlflow.withheld in [finding.text for finding in findings if finding.about == "certificates"]


def test_doctor_tells_who_it_is() -> None:
    """`doctor` tells where the user was found, and that a server without users needs none."""
    for environment, words in ((TOKEN, "set, from environment MLFLOW_TRACKING_TOKEN"), ({}, "without users")):
        findings = examine(found(environment), SystemClock(), lambda _address, _key: FakeHub())
        (told,) = (finding.text for finding in findings if finding.about == "api key")
        assert words in told
        assert "a-token" not in told
