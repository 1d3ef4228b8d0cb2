"""What leaves for an MLflow server, what of its answers counts, and that a repeat never makes a second thing there."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import ssl
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
from parcels import SESSION, checkpoint, close, end, every, heartbeat, keep, opening, row, rows, usage
from scripted import Request, Says, ScriptedHub
from standin_mlflow import StandinMLflow

from hubstate.actions import CloseSession, EndSession, SendCheckpoint
from hubstate.errors import UsageError
from hubstate.hubs import open_hub
from hubstate.hubs.base import Accepted, Declined, Delayed, Hub, Parcel
from hubstate.hubs.mlflow import MLflowHub
from hubstate.hubs.mlflow_bodies import MOST_TAGS
from hubstate.hubs.mlflow_files import place_of
from hubstate.settings import MLflow
from hubstate.states import CheckpointKind, Outcome
from hubstate.testing import HubTests

NOW = 1_800_000_000.0
LOG_BATCH = "/runs/log-batch"


@pytest.fixture
def mlflow() -> StandinMLflow:
    return StandinMLflow()


@pytest.fixture
def hub(mlflow: StandinMLflow, serve: Callable[..., ScriptedHub]) -> ScriptedHub:
    return serve(mlflow)


@pytest.fixture
def connect() -> Iterator[Callable[..., MLflowHub]]:
    """Makes clients, and closes them."""
    clients: list[MLflowHub] = []

    def make(address: str, key: str | None = None, **options: Any) -> MLflowHub:
        clients.append(MLflowHub(f"mlflow+{address}", key, **({"wall": lambda: NOW} | options)))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def client(hub: ScriptedHub, connect: Callable[..., MLflowHub]) -> MLflowHub:
    return connect(hub.url)


@pytest.fixture
def model(client: MLflowHub) -> str:
    """The run of a session that is open."""
    return opened(client)


def opened(client: MLflowHub, *, model: str | None = None, attempt: int = 1, **fields: Any) -> str:
    reply = client.deliver(opening(model, attempt=attempt, **fields))
    assert isinstance(reply, Accepted), reply
    assert reply.news.model is not None
    return reply.news.model


class TestMLflow(HubTests):
    """The client of MLflow keeps what every hub promises."""

    @pytest.fixture
    def hub(self, connect: Callable[..., MLflowHub], serve: Callable[..., ScriptedHub]) -> MLflowHub:
        return connect(serve(StandinMLflow()).url)


# -- the address and the credentials -----------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["mlflow+http", "mlflow+https", "MLflow+HTTP"])
def test_the_scheme_names_it(scheme: str) -> None:
    """An address of an MLflow server is told by its scheme, and opens no connection."""
    place = open_hub(f"{scheme.lower()}://127.0.0.1:1/mlflow/", "token")
    assert isinstance(place, MLflowHub)
    assert isinstance(place, Hub)
    assert place.address == f"{scheme.lower()}://127.0.0.1:1/mlflow"
    assert "token" not in repr(place)
    place.close()


@pytest.mark.parametrize(
    "address", ["http://h", "mlflow+ftp://h", "mlflow+http://u:p@h", "mlflow+http://h?x=1"]
)
def test_an_address_that_is_none_is_refused(address: str) -> None:
    """A wrong address is the caller's blame, and told at once."""
    with pytest.raises(UsageError):
        MLflowHub(address, None)


@pytest.mark.parametrize(
    ("key", "header"),
    [
        ("a.b-c", "Bearer a.b-c"),
        ("ada:pass:word", "Basic " + base64.b64encode(b"ada:pass:word").decode()),
        ("ada:größer", "Basic " + base64.b64encode("ada:größer".encode()).decode()),
        (None, None),
    ],
)
def test_every_request_carries_the_credentials(
    hub: ScriptedHub, connect: Callable[..., MLflowHub], file: Path, key: str | None, header: str | None
) -> None:
    """A token is a bearer's, a user and a password are basic authentication, and without either there is no header."""
    client = connect(hub.url, key)
    model = opened(client)
    for parcel in every(file):
        client.deliver(
            Parcel(parcel.key, parcel.action, SESSION, model, parcel.rows, parcel.file, parcel.sha256)
        )
    client.check()
    assert len(hub.requests) > 15
    assert {request.headers.get("authorization") for request in hub.requests} == {header}
    assert not any("x-api-key" in request.headers for request in hub.requests)


@pytest.mark.parametrize("key", ["größer", "ada:a\udcffb", "ada:a\nb", " "])
def test_credentials_that_no_header_carries_are_refused(key: str) -> None:
    """What cannot be sent as it is is refused at once, and not shown."""
    with pytest.raises(UsageError, match="no header can carry") as refusal:
        MLflowHub("mlflow+http://127.0.0.1:1", key)
    assert key.strip() == "" or key not in str(refusal.value)


def test_a_server_that_repeats_the_credentials_tells_nobody(
    hub: ScriptedHub, connect: Callable[..., MLflowHub]
) -> None:
    """Whatever a server says, no reason holds the password, nor the header that carries it."""
    secret = base64.b64encode(b"ada:pass-word").decode()
    hub.then(
        "/experiments/search", Says(401, {"error_code": "X", "message": f"{secret} ada:pass-word pass-word"})
    )
    reply = connect(hub.url, "ada:pass-word").check()
    assert isinstance(reply, Delayed)
    assert reply.condition == "credentials_rejected"
    assert secret not in reply.reason
    assert "pass-word" not in reply.reason


@pytest.mark.parametrize("before", range(0, 320, 20))
def test_no_message_that_is_cut_holds_half_a_key(
    hub: ScriptedHub, connect: Callable[..., MLflowHub], before: int
) -> None:
    """A key that a long message repeats is taken out wherever it stands, before the message is cut."""
    hub.then("/experiments/search", Says(401, {"error_code": "X", "message": "." * before + "secret" * 10}))
    reply = connect(hub.url, "secret" * 10).check()
    assert isinstance(reply, Delayed)
    assert "secret" not in reply.reason


def test_whose_certificate_is_believed_is_said_by_mlflows_variables(
    mlflow: StandinMLflow, serve: Callable[..., ScriptedHub], connect: Callable[..., MLflowHub]
) -> None:
    """A server with a certificate of its own is believed by the file that names it, and not otherwise."""
    pem = Path(__file__).with_name("loopback.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    url = serve(mlflow, tls=context).url
    refused = connect(url).check()
    assert isinstance(refused, Delayed)
    assert "certificate" in refused.reason
    assert isinstance(connect(url, wanted=MLflow(trust=str(pem))).check(), Accepted)


@pytest.mark.parametrize("strict", [True, False])
def test_a_certificate_that_nobody_looks_at_is_taken(
    mlflow: StandinMLflow, serve: Callable[..., ScriptedHub], connect: Callable[..., MLflowHub], strict: bool
) -> None:
    """Who wants no certificate looked at gets through; where warnings are errors that is told, and nothing raises."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(Path(__file__).with_name("loopback.pem"))
    client = connect(serve(mlflow, tls=context).url, wanted=MLflow(trust=False))
    with warnings.catch_warnings():
        warnings.simplefilter("error" if strict else "ignore")
        reply = client.check()
    assert isinstance(reply, Delayed if strict else Accepted)
    assert isinstance(reply, Accepted) or "warnings are errors here" in reply.reason


# -- who is there ------------------------------------------------------------------------------------------


def test_check_changes_nothing(mlflow: StandinMLflow, client: MLflowHub) -> None:
    """`check` makes neither a run nor an experiment nor a file, and tells whose it is."""
    reply = client.check()
    assert isinstance(reply, Accepted)
    assert reply.news.hub == client.address
    assert (mlflow.runs, mlflow.files, len(mlflow.experiments)) == ({}, {}, 1)


def test_a_newer_server_that_tells_more_is_one(hub: ScriptedHub, client: MLflowHub) -> None:
    """A server that tells more beside its experiments than today's do is an MLflow server all the same."""
    hub.then("/experiments/search", Says(200, {"experiments": [], "total": 7}))
    assert isinstance(client.check(), Accepted)


def test_what_it_cannot_is_declared(client: MLflowHub) -> None:
    """It asks for no stop, tells no digest, goes on with no upload and takes no row back; files it holds once it said so."""
    can = client.capabilities
    assert (can.stop_request, can.own_digest, can.resumable, can.rewinds) == (False, False, False, False)
    assert (can.step_rows, can.folders, can.closing, can.files) == (True, True, True, False)
    client.check()
    assert client.capabilities.files


@pytest.mark.parametrize(
    ("answer", "condition"),
    [
        (Says(401, b"You are not authenticated."), "credentials_rejected"),
        (Says(403, {"error_code": "PERMISSION_DENIED", "message": "no"}), "credentials_rejected"),
        (Says(403, b"Invalid Host header - possible DNS rebinding attack detected"), "hub_failing"),
        (Says(404, b"<html>no such page</html>"), "hub_failing"),
        (Says(200, b"<html>log in</html>"), "hub_failing"),
        (Says(200, {"success": True, "hubstate": 1}), "hub_failing"),
        (Says(200, {"experiments": 5}), "hub_failing"),
        (Says(500, {"error_code": "INTERNAL_ERROR", "message": "x"}), "hub_failing"),
        (Says(429, {"error_code": "REQUEST_LIMIT_EXCEEDED", "message": "x"}), "rate_limited"),
        (Says(drop=True), "offline"),
    ],
)
def test_whoever_is_no_mlflow_or_does_not_take_us_is_told(
    hub: ScriptedHub, client: MLflowHub, answer: Says, condition: str
) -> None:
    """A wrong place, a page in between, a refusal and an outage are told apart, and none is final."""
    hub.then("/experiments/search", answer)
    reply = client.check()
    assert isinstance(reply, Delayed)
    assert reply.condition == condition


# -- opening -----------------------------------------------------------------------------------------------


def test_a_session_is_one_run_however_often_it_is_opened(
    mlflow: StandinMLflow, hub: ScriptedHub, connect: Callable[..., MLflowHub]
) -> None:
    """Each opening, of this process or of others, finds the run that the first one made."""
    assert {opened(connect(hub.url)) for _ in range(3)} == {next(iter(mlflow.runs))}
    assert len(mlflow.runs) == 1


@pytest.mark.parametrize("request_number", range(12))
def test_an_answer_that_is_lost_makes_no_second_run(
    mlflow: StandinMLflow,
    serve: Callable[..., ScriptedHub],
    connect: Callable[..., MLflowHub],
    request_number: int,
) -> None:
    """Whichever request of an opening is done without an answer, the repeat finds what it made."""
    seen: list[str] = []

    def lossy(request: Request) -> Says:
        seen.append(request.path)
        answer = mlflow(request)
        return Says(drop=True) if len(seen) == request_number + 1 else answer

    client = connect(serve(lossy).url)
    first = client.deliver(opening(config={"lr": 1}, mark="m"))
    assert isinstance(first, Delayed) or len(seen) <= request_number
    model = opened(client, config={"lr": 1}, mark="m")
    assert [run["info"]["run_id"] for run in mlflow.living()] == [model]
    assert mlflow.tags()["hubstate.attempt.1"] == '{"first_epoch": 0}'


@pytest.mark.parametrize("moment", range(14))
def test_another_process_in_the_middle_of_an_opening_gets_the_same_run(
    mlflow: StandinMLflow, serve: Callable[..., ScriptedHub], connect: Callable[..., MLflowHub], moment: int
) -> None:
    """Wherever in one opening another one comes between, both get one run, and no second one stays."""
    others: list[str] = []
    seen: list[str] = []
    other = connect(serve(mlflow).url)

    def interrupted(request: Request) -> Says:
        seen.append(request.path)
        if len(seen) == moment + 1:
            others.append(opened(other))
        return mlflow(request)

    model = opened(connect(serve(interrupted).url))
    if not others:
        others.append(opened(other))
    assert others == [model]
    assert opened(other) == model
    assert [run["info"]["run_id"] for run in mlflow.living()] == [model]


class Turns:
    """Lets one request of several clients through at a time, as a seed draws: whose is next is known once all wait."""

    def __init__(self, clients: int, seed: int) -> None:
        self._alive = clients
        self._chance = random.Random(seed)
        self._waiting: set[int] = set()
        self._next: int | None = None
        self._changed = threading.Condition()

    def answer(self, who: int, request: Request, server: StandinMLflow) -> Says:
        with self._changed:
            self._waiting.add(who)
            self._draw()
            self._changed.wait_for(lambda: self._next == who)
            self._next = None
            self._waiting.discard(who)
            return server(request)

    def end(self) -> None:
        """A client is through."""
        with self._changed:
            self._alive -= 1
            self._draw()

    def _draw(self) -> None:
        if self._next is None and self._alive and len(self._waiting) == self._alive:
            self._next = self._chance.choice(sorted(self._waiting))
            self._changed.notify_all()


@pytest.mark.parametrize("seed", range(60))
def test_several_processes_whose_requests_mix_get_the_same_run(
    mlflow: StandinMLflow, serve: Callable[..., ScriptedHub], connect: Callable[..., MLflowHub], seed: int
) -> None:
    """In whatever order the requests of three openings of one session arrive, all get one run, and no other one stays."""
    turns = Turns(3, seed)
    urls = [serve(lambda request, who=who: turns.answer(who, request, mlflow)).url for who in range(3)]
    clients = [connect(url) for url in urls]

    def work(client: MLflowHub) -> str:
        try:
            return opened(client)
        finally:
            turns.end()

    with ThreadPoolExecutor(3) as pool:
        models = set(pool.map(work, clients))
    model = opened(connect(serve(mlflow).url))
    assert models == {model}
    assert [run["info"]["run_id"] for run in mlflow.living()] == [model]


@pytest.mark.parametrize("before", [True, False])
def test_a_create_that_arrives_late_makes_a_run_that_does_not_count(
    mlflow: StandinMLflow, serve: Callable[..., ScriptedHub], connect: Callable[..., MLflowHub], before: bool
) -> None:
    """A request that a proxy held back for long makes another run; the next opening, wherever, deletes it."""
    late: list[Request] = []

    def held_back(request: Request) -> Says:
        if request.path.endswith("/runs/create") and not late:
            late.append(request)
            return Says(drop=True)
        return mlflow(request)

    client = connect(serve(held_back).url)
    assert isinstance(client.deliver(opening()), Delayed)
    if before:
        mlflow(late[0])
    model = opened(client)
    if not before:
        mlflow(late[0])
        assert opened(client) == model
    assert [run["info"]["run_id"] for run in mlflow.living()] == [model]


def test_the_attempt_that_another_process_opened_first_is_its_own(client: MLflowHub, model: str) -> None:
    """Two openings of one attempt are told apart by their marks: the later one is refused, and a repeat is not."""
    for _ in range(2):
        assert opened(client, model=model, attempt=2, mark="1800000000.1") == model
    reply = client.deliver(opening(model, attempt=2, mark="1800000000.2"))
    assert isinstance(reply, Declined)
    assert "another process" in reply.reason


def test_who_opened_an_attempt_is_refused_only_once_it_is_known(
    hub: ScriptedHub, client: MLflowHub, model: str
) -> None:
    """Where the server cannot be asked which process was the first, the opening is repeated, and not given up."""
    opened(client, model=model, attempt=2, mark="1800000000.1")
    hub.then(f"/runs/get?run_id={model}", Says(body={"run": {"info": {"run_id": model}}}), Says(drop=True))
    assert isinstance(client.deliver(opening(model, attempt=2, mark="1800000000.2")), Delayed)


@pytest.mark.parametrize(
    ("wanted", "project", "name"),
    [
        (MLflow(), None, "Default"),
        (MLflow(), "digits", "digits"),
        (MLflow(experiment="mine"), None, "mine"),
        (MLflow(experiment="mine"), "digits", "digits"),
        (MLflow(experiment="mine", experiment_id="0"), None, "Default"),
    ],
)
def test_the_experiment_is_the_projects_or_what_mlflows_variables_say(
    mlflow: StandinMLflow,
    hub: ScriptedHub,
    connect: Callable[..., MLflowHub],
    wanted: MLflow,
    project: str | None,
    name: str,
) -> None:
    """A project is an experiment, which is made where there is none; without one MLflow's own variables hold."""
    opened(connect(hub.url, wanted=wanted), project=project)
    (run,) = mlflow.living()
    assert mlflow.experiments[run["info"]["experiment_id"]]["name"] == name


def test_whoever_opens_the_hub_is_heard_by_mlflows_variables(
    mlflow: StandinMLflow, hub: ScriptedHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The address alone opens a client that does as MLflow's variables say."""
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    client = open_hub(f"mlflow+{hub.url}", None)
    assert isinstance(client, MLflowHub)
    opened(client)
    client.close()
    assert [experiment["name"] for experiment in mlflow.experiments.values()] == ["Default", "mine"]


def test_an_experiment_is_made_as_one_of_trainings(mlflow: StandinMLflow, client: MLflowHub) -> None:
    """MLflow's pages show a new experiment's runs as trainings, and not among the evaluations of language models."""
    opened(client, project="digits")
    (tag,) = mlflow.experiments["1"]["tags"]
    assert tag == {"key": "mlflow.experimentKind", "value": "custom_model_development"}


def test_a_run_is_found_in_whatever_experiment_it_is(
    mlflow: StandinMLflow, hub: ScriptedHub, connect: Callable[..., MLflowHub]
) -> None:
    """Whoever delivers later, with other variables and behind many experiments, finds the run that was made."""
    for number in range(5):
        opened(connect(hub.url, wanted=MLflow(experiment=f"experiment {number}")))
    assert len(mlflow.runs) == 1


@pytest.mark.parametrize("wanted", [MLflow(experiment_id="77"), MLflow(experiment="gone")])
def test_an_experiment_that_is_not_there_is_named(
    mlflow: StandinMLflow, hub: ScriptedHub, connect: Callable[..., MLflowHub], wanted: MLflow
) -> None:
    """An experiment that does not exist by its id, or that somebody deleted, is told; no run goes elsewhere."""
    mlflow._make_experiment("gone")
    mlflow.experiments["1"]["lifecycle_stage"] = "deleted"
    reply = connect(hub.url, wanted=wanted).deliver(opening())
    assert isinstance(reply, Declined)
    assert "77" in reply.reason or "'gone' was deleted" in reply.reason
    assert mlflow.runs == {}


@pytest.mark.parametrize("known", [True, False])
def test_a_run_that_somebody_deleted_is_not_made_anew(
    mlflow: StandinMLflow, client: MLflowHub, model: str, known: bool
) -> None:
    """What people deleted stays deleted: it is told, with how to go on, whether its id is remembered or not."""
    mlflow.runs[model]["info"]["lifecycle_stage"] = "deleted"
    reply = client.deliver(opening(model if known else None, attempt=2))
    assert isinstance(reply, Declined)
    assert "restore it" in reply.reason
    assert len(mlflow.runs) == 1


def test_what_a_run_tells(mlflow: StandinMLflow, client: MLflowHub) -> None:
    """Name, start, page, group and labels are where people look for them; a label never passes for one of MLflow's own."""
    reply = client.deliver(
        opening(group="g", tags=("fast", "a=b", "mlflow.runName"), epochs=3, first_epoch=0)
    )
    (run,) = mlflow.living()
    assert (
        reply.news.url
        == f"{client.address.removeprefix('mlflow+')}/#/experiments/0/runs/{run['info']['run_id']}"
    )
    assert run["info"]["run_name"] == "digits"
    assert run["info"]["start_time"] == 1752245993472  # as the session's id tells
    told = mlflow.tags()
    assert (told["hubstate.session"], told["hubstate.group"], told["hubstate.epochs"]) == (SESSION, "g", "3")
    assert told["fast"] == told["a--.3d--b"] == told["hubstate.tag/mlflow.runName"] == "true"
    assert "mlflow.runName" not in told


# -- the configuration -------------------------------------------------------------------------------------


def test_the_configuration_is_parameters(mlflow: StandinMLflow, client: MLflowHub) -> None:
    """Values are spelled as Python does, one inside another has both names, and what is long is cut."""
    opened(
        client,
        config={
            "lr": 0.1,
            "net": {"layers": [1, 2], "bias": True, "no": {}},
            "x(y)": None,
            "long": "z" * 9000,
        },
    )
    (run,) = mlflow.living()
    told = run["params"]
    assert (told["lr"], told["net.layers"], told["net.bias"], told["net.no"]) == (
        "0.1",
        "[1, 2]",
        "True",
        "{}",
    )
    assert told["x--y--"] == "None"
    assert len(told["long"]) == 6_000
    assert told["long"].endswith("…")
    assert run["tags"]["hubstate.name/x--y--"] == "x(y)"


def test_a_value_that_changed_stands_beside_the_first(mlflow: StandinMLflow, client: MLflowHub) -> None:
    """A later attempt's other value is told under the attempt's name, however often the opening is repeated."""
    model = opened(client, config={"lr": 0.1, "seed": 1})
    for attempt, rate in ((2, 0.2), (2, 0.2), (3, 0.2), (4, 0.1), (4, 0.1)):
        opened(client, model=model, attempt=attempt, config={"lr": rate, "seed": 1, "new": 5})
    (run,) = mlflow.living()
    told = {name: value for name, value in run["params"].items() if not name.startswith("hubstate")}
    assert told == {"lr": "0.1", "seed": "1", "new": "5", "lr attempt 2": "0.2", "lr attempt 4": "0.1"}


def test_many_parameters_leave_in_several_requests(
    mlflow: StandinMLflow, hub: ScriptedHub, client: MLflowHub
) -> None:
    """A configuration of any size opens the session; what has no room is named in a tag."""
    for _ in range(2):
        opened(client, config={f"p{number}": number for number in range(2_003)})
    (run,) = mlflow.living()
    assert len([name for name in run["params"] if name.startswith("p")]) == 2_000
    assert run["tags"]["hubstate.config.left_out"] == "p2000, p2001, p2002"
    assert all(len(request.json.get("params", [])) <= MOST_TAGS for request in hub.of(LOG_BATCH))


def test_two_parameters_of_one_name_are_not_mixed_up(mlflow: StandinMLflow, client: MLflowHub) -> None:
    """A dotted name and one inside another that come out the same are told once, and the other one is named."""
    opened(client, config={"a.b": 1, "a": {"b": 2}})
    (run,) = mlflow.living()
    assert run["params"]["a.b"] == "1"
    assert run["tags"]["hubstate.config.left_out"] == "a.b"


def test_a_parameter_that_a_server_refuses_holds_up_nothing(
    mlflow: StandinMLflow, hub: ScriptedHub, client: MLflowHub, model: str
) -> None:
    """An older server that takes shorter values gets them shorter; what it takes in no way is named in a tag."""
    refused = {"error_code": "INVALID_PARAMETER_VALUE", "message": "too long"}
    hub.then(LOG_BATCH, Says(400, refused))
    # `a` whole and cut, then `b` whole; `b` cut is taken.
    hub.then("/runs/log-parameter", *[Says(400, refused)] * 3)
    opened(client, model=model, attempt=2, config={"a": "x" * 600, "b": "y" * 600})
    assert mlflow.tags()["hubstate.config.left_out"] == "a"
    assert mlflow.runs[model]["params"]["b"] == "y" * 250


# -- rows --------------------------------------------------------------------------------------------------


def test_many_tags_leave_in_several_requests(mlflow: StandinMLflow, client: MLflowHub) -> None:
    """A session with more tags than a request may hold is opened, and has them all."""
    opened(client, tags=tuple(f"label {number}" for number in range(150)))
    assert {f"label {number}" for number in range(150)} <= mlflow.tags().keys()


def test_what_no_database_holds_is_replaced(mlflow: StandinMLflow, client: MLflowHub) -> None:
    """A NUL, which PostgreSQL refuses as if the server had failed, and a surrogate are replaced, and hold up nothing."""
    parcel = opening(project="c\0\udcff", group="d\0", tags=("e\0",), config={"f\0": "g\0h"})
    named = msgspec.structs.replace(parcel, action=msgspec.structs.replace(parcel.action, name="a\0b"))
    model = client.deliver(named).news.model
    assert model is not None
    run = mlflow.runs[model]
    assert run["info"]["run_name"] == "a\ufffdb"
    assert mlflow.experiments[run["info"]["experiment_id"]]["name"] == "c\ufffd?"
    assert run["tags"]["hubstate.group"] == "d\ufffd"
    assert run["params"]["f--.0--"] == "g\ufffdh"
    assert isinstance(client.deliver(rows(row(1, 0, **{"loss\0": 0.5}), model=model)), Accepted)
    assert ("loss--.0--", 0.5) in [point[:2] for point in mlflow.points()]


def test_rows_are_points_at_the_time_when_they_were_recorded(
    mlflow: StandinMLflow, client: MLflowHub, model: str
) -> None:
    """An epoch's row stands at its epoch, a step's on an axis of its own, the final evaluation's on another."""
    parcel = rows(
        row(1, 0, loss=0.5),
        row(2, 1, step=7, loss=0.25),
        row(3, 1, final=True, **{"metrics/mAP50(B)": 0.75}),
        model=model,
    )
    assert client.deliver(parcel) == Accepted(rows=3, news=client.deliver(parcel).news)
    at = 1_800_000_000_000
    assert mlflow.points() == sorted(
        [
            ("hubstate/attempt", 1, at + 1000, 0),
            ("loss", 0.5, at + 1000, 0),
            ("step/hubstate/attempt", 1, at + 2000, 7),
            ("step/hubstate/epoch", 1, at + 2000, 7),
            ("step/loss", 0.25, at + 2000, 7),
            ("final/hubstate/attempt", 1, at + 3000, 1),
            ("final/metrics/mAP50--B--", 0.75, at + 3000, 1),
        ],
        key=repr,
    )
    assert mlflow.tags()["hubstate.name/metrics/mAP50--B--"] == "metrics/mAP50(B)"


def test_what_is_no_number_is_sent_as_a_word(mlflow: StandinMLflow, client: MLflowHub, model: str) -> None:
    """NaN and infinities leave as the words that MLflow reads."""
    client.deliver(rows(row(1, 0, a="NaN", b="Infinity", c="-Infinity"), model=model))
    told = {key: value for key, value, _, _ in mlflow.points()}
    assert (told["a"], told["b"], told["c"]) == ("NaN", 1.7976931348623157e308, -1.7976931348623157e308)


@pytest.mark.parametrize("lost", range(4))
def test_a_repeat_makes_no_second_point(
    mlflow: StandinMLflow, serve: Callable[..., ScriptedHub], connect: Callable[..., MLflowHub], lost: int
) -> None:
    """Whichever of the requests of one delivery was done without an answer, all points are there once in the end."""
    seen: list[Request] = []

    def lossy(request: Request) -> Says:
        answer = mlflow(request)
        if request.path.endswith(LOG_BATCH):
            seen.append(request)
        return Says(drop=True) if len(seen) == lost + 2 and seen[-1] is request else answer

    client = connect(serve(lossy).url)
    model = opened(client)
    parcel = rows(*(row(n, n, **{f"m{k}": n + k / 10 for k in range(9)}) for n in range(1, 401)), model=model)
    first = client.deliver(parcel)
    assert isinstance(first, Delayed)
    reply = client.deliver(parcel)
    assert isinstance(reply, Accepted)
    assert reply.rows == 400
    assert len(mlflow.points()) == 400 * 10


def test_of_two_values_in_one_millisecond_the_later_one_leaves(
    mlflow: StandinMLflow, client: MLflowHub, model: str
) -> None:
    """MLflow tells points apart by time: what one row says twice at the same time it is told once, as it was said last."""
    first, second = row(1, 0, loss=0.5, a=1.0), row(2, 0, loss=0.25, b=2.0)
    second = msgspec.structs.replace(second, at=first.at + 0.0001)
    client.deliver(rows(first, second, row(3, 0, loss=0.125), model=model))
    told = [(key, value) for key, value, _, _ in mlflow.points() if key != "hubstate/attempt"]
    assert told == [("a", 1.0), ("b", 2.0), ("loss", 0.125), ("loss", 0.25)]


def test_no_request_is_larger_than_mlflow_takes(
    mlflow: StandinMLflow, hub: ScriptedHub, client: MLflowHub, model: str
) -> None:
    """However many metrics, of whatever names, each request keeps to 1,000 entries, 100 tags and 1 MB."""
    wide = {f"({'x' * 200}{number})": number for number in range(5_000)}
    many = [row(number, number, loss=number) for number in range(2, 1_000)]
    assert isinstance(client.deliver(rows(row(1, 1, **wide), *many, model=model)), Accepted)
    for request in hub.of(LOG_BATCH):
        body = request.json
        assert sum(len(body.get(kind, [])) for kind in ("metrics", "params", "tags")) <= 1_000
        assert len(body.get("tags", [])) <= 100
        assert request.size <= 1_000_000
    assert len(mlflow.points()) == 5_000 + 998 + 999
    told = [name for name in mlflow.tags().items() if name[0].startswith("hubstate.name/")]
    assert {value for _, value in told} == set(wide)


def test_a_name_is_told_once(hub: ScriptedHub, client: MLflowHub, model: str) -> None:
    """The tag that tells a name leaves with its first row, and not with every one."""
    for number in (1, 2):
        client.deliver(rows(row(number, number, **{"a(b)": 1.0}), model=model))
    told = [request.json.get("tags", []) for request in hub.of(LOG_BATCH)[-2:]]
    assert [len(tags) for tags in told] == [1, 0]


@pytest.mark.parametrize(
    ("answer", "condition"),
    [
        (
            Says(400, {"error_code": "BAD_REQUEST", "message": "QueuePool limit of size 5 reached"}),
            "hub_failing",
        ),
        (
            Says(503, {"error_code": "TEMPORARILY_UNAVAILABLE", "message": "database is locked"}),
            "hub_failing",
        ),
        (Says(500, {"error_code": "INTERNAL_ERROR", "message": "x"}), "hub_failing"),
        (Says(404, b"<html>nginx</html>"), "hub_failing"),
        (Says(400, b"Bad Request"), "hub_failing"),
        (Says(302, b"", (("Location", "https://elsewhere/login"),)), "hub_failing"),
        (Says(200, b"<html>log in</html>"), "hub_failing"),
        (Says(429, {"error_code": "REQUEST_LIMIT_EXCEEDED", "message": "x"}), "rate_limited"),
        (Says(401, b"who are you"), "credentials_rejected"),
        (Says(drop=True), "offline"),
    ],
)
def test_what_says_nothing_of_the_rows_is_repeated(
    hub: ScriptedHub, client: MLflowHub, model: str, answer: Says, condition: str
) -> None:
    """A database that fails, a proxy, a pause or an outage is no refusal of what was sent."""
    hub.then(LOG_BATCH, answer)
    reply = client.deliver(rows(row(1, 0, loss=1.0), model=model))
    assert isinstance(reply, Delayed)
    assert reply.condition == condition


def test_what_mlflow_says_of_the_rows_is_final(hub: ScriptedHub, client: MLflowHub, model: str) -> None:
    """A refusal of MLflow's own is one, with its words."""
    hub.then(LOG_BATCH, Says(400, {"error_code": "INVALID_PARAMETER_VALUE", "message": "not so"}))
    reply = client.deliver(rows(row(1, 0, loss=1.0), model=model))
    assert isinstance(reply, Declined)
    assert reply.reason == "not so"


def test_before_the_run_is_known_nothing_leaves(hub: ScriptedHub, client: MLflowHub, file: Path) -> None:
    """Rows, files, signs of life and ends wait until the server said what it calls the session."""
    for parcel in every(file):
        if parcel.action.key.endswith(("open", "usage/1")):
            continue
        reply = client.deliver(Parcel(parcel.key, parcel.action, SESSION, None, parcel.rows, parcel.file))
        assert isinstance(reply, Delayed)
    assert hub.requests == []


# -- files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(CheckpointKind), ids=lambda kind: kind.value)
def test_a_file_counts_once_a_tag_names_it(
    mlflow: StandinMLflow, hub: ScriptedHub, client: MLflowHub, model: str, file: Path, kind: CheckpointKind
) -> None:
    """The bytes leave under a name with their digest, what lies there is asked for, and then a tag tells of it."""
    reply = client.deliver(checkpoint(file, kind, model=model, fitness=0.5))
    assert reply == Accepted(news=reply.news)
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    told = json.loads(mlflow.tags()[f"hubstate.checkpoint.{kind.value}"])
    assert told == {
        "path": f"checkpoints/{kind.value}/epoch-3-{sha256[:16]}.pt",
        "size": 300_000,
        "sha256": sha256,
        "epoch": 3,
        "attempt": 1,
        "fitness": 0.5,
        "folder": False,
    }
    assert mlflow.files == {f"0/{model}/artifacts/{told['path']}": file.read_bytes()}
    methods = [request.method for request in hub.requests[-5:]]
    assert methods == ["GET", "PUT", "GET", "POST", "GET"]


def test_a_newer_file_takes_the_place_of_the_one_before(
    mlflow: StandinMLflow, client: MLflowHub, model: str, file: Path
) -> None:
    """At no moment does the tag name a file that is not there; the older one is removed afterwards."""
    client.deliver(checkpoint(file, model=model))
    before = dict(mlflow.files)
    file.write_bytes(b"newer")
    client.deliver(checkpoint(file, model=model))
    (place,) = mlflow.files
    assert place not in before
    assert place.endswith(json.loads(mlflow.tags()["hubstate.checkpoint.last"])["path"])


@pytest.mark.parametrize("arrives", [True, False])
def test_a_file_whose_word_was_lost_does_not_stay(
    mlflow: StandinMLflow,
    serve: Callable[..., ScriptedHub],
    connect: Callable[..., MLflowHub],
    file: Path,
    arrives: bool,
) -> None:
    """What no tag names any more is removed, wherever the server failed; what others put there stays."""
    failing = threading.Event()

    def server(request: Request) -> Says:
        if not failing.is_set() or not request.path.endswith(LOG_BATCH):
            return mlflow(request)
        if arrives:
            mlflow(request)
        return Says(500, {"error_code": "INTERNAL_ERROR", "message": "the database is gone"})

    client = connect(serve(server).url)
    model = opened(client)
    assert isinstance(client.deliver(checkpoint(file, model=model)), Accepted)
    (place,) = mlflow.files
    theirs = place.replace("epoch-3", "notes")
    mlflow.files[theirs] = b"theirs"
    file.write_bytes(b"newer")
    failing.set()
    assert isinstance(client.deliver(checkpoint(file, model=model)), Delayed)
    failing.clear()
    if not arrives:
        file.write_bytes(b"newest")  # which took the place of the newer one meanwhile
    assert isinstance(client.deliver(checkpoint(file, model=model)), Accepted)
    assert sorted(mlflow.files.values()) == sorted([b"theirs", file.read_bytes()])


def test_a_server_that_removes_nothing_gets_the_newer_file_all_the_same(
    mlflow: StandinMLflow, hub: ScriptedHub, client: MLflowHub, model: str, file: Path
) -> None:
    """Where the older file cannot be removed it stays, and nothing is held up by it."""
    client.deliver(checkpoint(file, model=model))
    (older,) = mlflow.files
    file.write_bytes(b"newer")
    hub.then(older, Says(405, b"no"))
    assert isinstance(client.deliver(checkpoint(file, model=model)), Accepted)
    assert len(mlflow.files) == 2


def test_a_repeat_of_a_file_sends_it_once(
    hub: ScriptedHub, client: MLflowHub, model: str, file: Path
) -> None:
    """What a tag names already does not leave again, however large it is."""
    for _ in range(2):
        assert isinstance(client.deliver(checkpoint(file, model=model)), Accepted)
    assert [request.method for request in hub.requests].count("PUT") == 1


def test_the_same_file_at_a_later_epoch_is_told_and_not_sent(
    mlflow: StandinMLflow, hub: ScriptedHub, client: MLflowHub, model: str, file: Path
) -> None:
    """A file that has not changed since an earlier epoch does not leave again; its tag tells the later epoch."""
    parcel = checkpoint(file, model=model, fitness=0.5)
    assert isinstance(parcel.action, SendCheckpoint)
    later = msgspec.structs.replace(parcel.action, epoch=4, fitness=0.75)
    for action in (parcel.action, later):
        assert isinstance(client.deliver(msgspec.structs.replace(parcel, action=action)), Accepted)
    told = json.loads(mlflow.tags()["hubstate.checkpoint.last"])
    assert (told["epoch"], told["fitness"]) == (4, 0.75)
    assert [place.rpartition("artifacts/")[2] for place in mlflow.files] == [told["path"]]
    assert [request.method for request in hub.requests].count("PUT") == 1


@pytest.mark.parametrize("listed", [{}, {"files": []}, {"files": 7}, {"files": [5]}])
def test_a_file_that_does_not_lie_there_is_not_acknowledged(
    mlflow: StandinMLflow,
    serve: Callable[..., ScriptedHub],
    connect: Callable[..., MLflowHub],
    file: Path,
    listed: Any,
) -> None:
    """A server that took the bytes and lists no file, or one of another size, does not hold it."""

    def forgetful(request: Request) -> Says:
        if request.method == "GET" and "mlflow-artifacts" in request.path:
            return Says(body=listed)
        return mlflow(request)

    client = connect(serve(forgetful).url)
    reply = client.deliver(checkpoint(file, model=opened(client)))
    assert isinstance(reply, Delayed)
    assert "does not hold the 300000 bytes" in reply.reason
    assert "hubstate.checkpoint.last" not in mlflow.tags()


def test_half_a_file_is_not_acknowledged(
    mlflow: StandinMLflow, client: MLflowHub, hub: ScriptedHub, model: str, file: Path
) -> None:
    """Of a store that kept a part of the file the size tells it."""
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    name = f"epoch-3-{sha256[:16]}.pt"
    hub.then(
        "checkpoints%2Flast", Says(body={"files": [{"path": name, "is_dir": False, "file_size": 299_999}]})
    )
    assert isinstance(client.deliver(checkpoint(file, model=model)), Delayed)
    assert isinstance(client.deliver(checkpoint(file, model=model)), Accepted)


def test_a_folder_is_one_tar(mlflow: StandinMLflow, client: MLflowHub, model: str, tmp_path: Path) -> None:
    """A checkpoint that is a folder lies there as one archive, whole or not at all."""
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "a.bin").write_bytes(b"a" * 100)
    parcel = checkpoint(folder, model=model, sha256="ab" * 32)
    assert isinstance(client.deliver(parcel), Accepted)
    ((place, content),) = mlflow.files.items()
    assert place.endswith(".tar")
    assert content[:5] == b"a.bin"


@pytest.mark.parametrize("newer", [True, False])
def test_an_older_attempts_file_never_replaces_a_newer_ones(
    mlflow: StandinMLflow, client: MLflowHub, model: str, file: Path, newer: bool
) -> None:
    """A file that an earlier attempt could not deliver comes too late once a later attempt's is there."""
    other = {
        "path": "checkpoints/last/x.pt",
        "size": 1,
        "sha256": "00",
        "epoch": 9,
        "attempt": 2 if newer else 1,
    }
    mlflow.runs[model]["tags"]["hubstate.checkpoint.last"] = json.dumps(other)
    reply = client.deliver(checkpoint(file, model=model))
    assert isinstance(reply, Accepted)
    assert bool(reply.not_taken) is newer
    assert bool(mlflow.files) is not newer


def test_a_tag_that_somebody_changed_stops_nothing(
    mlflow: StandinMLflow, client: MLflowHub, model: str, file: Path
) -> None:
    """Tags can be edited by anybody: one that tells of no file, or of one elsewhere, is as none."""
    for odd in (
        "",
        "{}",
        "null",
        '{"x":' + "[" * 6_000,
        '{"path":"../../x","size":1,"sha256":"0","epoch":1,"attempt":9}',
    ):
        mlflow.runs[model]["tags"]["hubstate.checkpoint.last"] = odd
        mlflow.files = {"x": b"theirs"}
        assert isinstance(client.deliver(checkpoint(file, model=model)), Accepted)
        assert mlflow.files.pop("x") == b"theirs"
        assert len(mlflow.files) == 1


@pytest.mark.parametrize(
    "root", ["s3://bucket/", "file:///x/", "http://[x/", "/x/", "mlflow-artifacts://elsewhere:5/"]
)
def test_files_that_do_not_go_through_the_server_are_not_taken(
    serve: Callable[..., ScriptedHub], connect: Callable[..., MLflowHub], file: Path, root: str
) -> None:
    """Where clients write artifacts by themselves a checkpoint is not taken, and the reason says why; rows go on."""
    hub = serve(StandinMLflow(root=root))
    client = connect(hub.url)
    model = opened(client)
    reply = client.deliver(checkpoint(file, model=model))
    assert isinstance(reply, Accepted)
    assert "do not go through its MLflow server" in reply.not_taken
    assert not any(request.method == "PUT" for request in hub.requests)
    assert isinstance(client.deliver(rows(row(1, 0, loss=1.0), model=model)), Accepted)


@pytest.mark.parametrize(
    "said", [b"run it with `--serve-artifacts`", {"detail": "Run it with `--serve-artifacts`."}]
)
def test_a_server_that_hands_out_no_artifacts_gets_no_files(
    hub: ScriptedHub, client: MLflowHub, model: str, file: Path, said: Any
) -> None:
    """`--no-serve-artifacts` is told from an outage, by what older and newer servers say: the file is not taken."""
    hub.then(".pt", Says(503, said))
    reply = client.deliver(checkpoint(file, model=model))
    assert isinstance(reply, Accepted)
    assert "--no-serve-artifacts" in reply.not_taken
    hub.then(".pt", Says(503, b"upstream"))
    assert isinstance(client.deliver(checkpoint(file, model=model)), Delayed)


def test_what_cannot_be_read_here_is_said_to_be_so(client: MLflowHub, model: str, tmp_path: Path) -> None:
    """A kept file that is gone, and a folder that is none, are this machine's matter."""
    gone = checkpoint(tmp_path / "gone.pt", model=model)
    empty = tmp_path / "empty"
    empty.mkdir()
    for parcel in (
        gone,
        checkpoint(empty, model=model, sha256="00"),
        Parcel(gone.key, gone.action, SESSION, model),
    ):
        assert isinstance(client.deliver(parcel), Declined)


# -- signs of life and the end -----------------------------------------------------------------------------


def test_a_sign_of_life_is_tags(mlflow: StandinMLflow, client: MLflowHub, model: str) -> None:
    """When, in which state, at which epoch and how much waits are told by tags."""
    assert isinstance(client.deliver(heartbeat(model)), Accepted)
    told = mlflow.tags()
    assert told["hubstate.heartbeat"] == "2027-01-15T08:00:00Z"
    assert (told["hubstate.state"], told["hubstate.epoch"], told["hubstate.waiting"]) == (
        "training",
        "3",
        "2",
    )


def test_the_end_is_a_status_at_the_time_of_the_last_row(
    mlflow: StandinMLflow, client: MLflowHub, model: str
) -> None:
    """A closed session is FINISHED, at the time of its last row however late the word comes; an aborted one says why."""
    client.deliver(rows(row(1, 0, loss=1.0), model=model))
    assert isinstance(client.deliver(close(model)), Accepted)
    (run,) = mlflow.living()
    assert (run["info"]["status"], run["info"]["end_time"]) == ("FINISHED", 1_800_000_001_000)
    opened(client, model=model, attempt=2)
    assert run["info"]["status"] == "RUNNING"
    assert isinstance(client.deliver(end(model)), Accepted)
    assert run["info"]["status"] == "FAILED"
    assert mlflow.tags()["hubstate.reason"] == "out of memory"
    assert (mlflow.tags()["hubstate.state"], mlflow.tags()["hubstate.outcome"]) == ("aborted", "failed")


def test_a_run_of_very_many_metrics_comes_to_its_end(
    mlflow: StandinMLflow, client: MLflowHub, model: str
) -> None:
    """A server tells the newest point of each metric whenever it tells of a run, however long that becomes."""
    mlflow.runs[model]["metrics"] = {(f"metric {number} {'x' * 180}", 1.0, 1, 0) for number in range(20_000)}
    assert isinstance(client.deliver(close(model)), Accepted)


def test_a_run_without_rows_ends_when_the_word_comes(
    mlflow: StandinMLflow, client: MLflowHub, model: str
) -> None:
    """Without a row there is no other time than now."""
    client.deliver(close(model))
    (run,) = mlflow.living()
    assert run["info"]["end_time"] == NOW * 1000


def test_what_mlflow_has_no_word_for_is_settled(client: MLflowHub, model: str, file: Path) -> None:
    """A usage is not taken, and what is kept here asks nothing of anybody."""
    reply = client.deliver(usage(model))
    assert isinstance(reply, Accepted)
    assert reply.not_taken
    assert isinstance(client.deliver(keep(file)), Accepted)


@pytest.mark.parametrize(
    "nonsense",
    [b"", b"{", b"[]", b"null", b'"x"', {"run": 5}, {"runs": [5]}, {"runs": [{"info": {"run_id": "../x"}}]},
     {"run": {"info": {"run_id": "abc", "experiment_id": "1\x1b[2J"}}},
     {"experiments": 5}, {"experiment": {"experiment_id": 7}}, {"files": {"a": 1}}, {"error_code": 7}],
)  # fmt: skip
def test_no_answer_makes_a_method_raise(
    serve: Callable[..., ScriptedHub], connect: Callable[..., MLflowHub], file: Path, nonsense: Any
) -> None:
    """Whatever a server answers to whatever, the client says with a value that it does not count, or that nothing was asked."""
    client = connect(serve(lambda _request: Says(body=nonsense)).url)
    client.check()
    assert isinstance(client.deliver(opening()), Delayed | Declined)
    assert isinstance(client.deliver(opening("abc")), Delayed | Declined)
    assert isinstance(client.deliver(checkpoint(file, model="abc")), Delayed | Declined)
    assert isinstance(client.deliver(close("abc")), Delayed | Declined)


# -- trouble anywhere --------------------------------------------------------------------------------------


def deliver_all(client: MLflowHub, file: Path) -> int:
    """A whole session, each parcel until it is taken; how many tries were in vain."""
    vain, model = 0, None
    config = {"lr": 0.1, "x(y)": 1, **{f"p{number}": number for number in range(120)}}
    rate = {"m(B)": 0.5}
    for parcel in [
        opening(config=config, project="digits", mark="m", tags=("fast",)),
        rows(row(1, 0, **rate), row(2, 0, step=1, loss=0.25)),
        checkpoint(file),
        heartbeat(),
        close(),
    ]:
        for _ in range(3):
            reply = client.deliver(
                Parcel(parcel.key, parcel.action, SESSION, model, parcel.rows, parcel.file, parcel.sha256)
            )
            model = model or reply.news.model
            if isinstance(reply, Accepted):
                break
            assert isinstance(reply, Delayed), reply
            vain += 1
        else:
            raise AssertionError(f"never taken: {reply}")
    return vain


@pytest.mark.parametrize("arrives", [True, False])
@pytest.mark.parametrize("number", range(25))
def test_trouble_at_any_request_changes_nothing_in_the_end(
    mlflow: StandinMLflow,
    serve: Callable[..., ScriptedHub],
    connect: Callable[..., MLflowHub],
    file: Path,
    number: int,
    arrives: bool,
) -> None:
    """Whichever request of a whole session fails, done or not done, the server holds the same in the end as without."""
    seen: list[str] = []

    def failing(request: Request) -> Says:
        seen.append(request.path)
        if len(seen) != number + 1:
            return mlflow(request)
        if arrives:
            mlflow(request)
        return Says(500, {"error_code": "INTERNAL_ERROR", "message": "the database is gone"})

    vain = deliver_all(connect(serve(failing).url), file)
    assert vain <= 1
    assert len(seen) > number, "there are fewer requests: the range is too long"
    well = StandinMLflow()
    deliver_all(connect(serve(well).url), file)
    (run,), (other,) = mlflow.living(), well.living()
    for what in ("metrics", "params", "tags"):
        assert told_of(run[what]) == told_of(other[what])
    assert run["info"]["status"] == other["info"]["status"] == "FINISHED"
    assert [content for _, content in sorted(mlflow.files.items())] == [file.read_bytes()]


def told_of(what: Any) -> str:
    return repr(sorted(what.items() if isinstance(what, dict) else what, key=repr))


@pytest.mark.parametrize(
    ("action", "status"),
    [
        (CloseSession("k", 1, outcome=Outcome.FINISHED, rows=0), "FINISHED"),
        (CloseSession("k", 1, outcome=Outcome.STOPPED, rows=0), "FINISHED"),
        (EndSession("k", 1, outcome=Outcome.STOPPED, reason="", rows=0), "KILLED"),
        (EndSession("k", 1, outcome=Outcome.FAILED, reason="", rows=0), "FAILED"),
        (EndSession("k", 1, outcome=Outcome.INTERRUPTED, reason="", rows=0), "KILLED"),
        (EndSession("k", 1, outcome=Outcome.UNKNOWN, reason="", rows=0), "KILLED"),
    ],
)
def test_each_end_has_its_status(
    mlflow: StandinMLflow, client: MLflowHub, model: str, action: CloseSession | EndSession, status: str
) -> None:
    """What became of a training is told by the status that MLflow has for it, and exactly by a tag."""
    assert isinstance(client.deliver(Parcel("k", action, SESSION, model)), Accepted)
    assert mlflow.runs[model]["info"]["status"] == status
    assert mlflow.tags()["hubstate.outcome"] == action.outcome.value


@pytest.mark.parametrize(
    ("uri", "place"),
    [
        ("mlflow-artifacts:/0/abc/artifacts", "0/abc/artifacts"),
        ("mlflow-artifacts://h:5000/0/abc/artifacts/", "0/abc/artifacts"),
        ("mlflow-artifacts://other:5000/0/abc", None),
        ("http://h:5000/x/api/2.0/mlflow-artifacts/artifacts/0/abc", "0/abc"),
        ("http://other/x/api/2.0/mlflow-artifacts/artifacts/0/abc", None),
        ("http://h:5000/elsewhere/0/abc", None),
        ("mlflow-artifacts:/0/../../abc", None),
        ("mlflow-artifacts:", None),
        ("mlflow-artifacts://[::1", None),
        ("s3://bucket/0/abc", None),
        ("", None),
    ],
)
def test_where_a_runs_files_lie(uri: str, place: str | None) -> None:
    """A run's files go through the server if their place says so, and nowhere else whatever it says."""
    assert place_of(uri, "http://h:5000/x") == place
