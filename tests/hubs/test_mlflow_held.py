"""What an MLflow server holds, put together again; and that `verify --hub` sees whatever somebody changed there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from scripted import Says, ScriptedHub
from standin_mlflow import StandinMLflow

import hubstate
from hubstate.errors import HubRefused, HubUnreachable, SessionNotFound
from hubstate.hubs.held import held
from hubstate.proof.holdings import Comparison, compare
from hubstate.states import State


@pytest.fixture
def mlflow() -> StandinMLflow:
    return StandinMLflow()


@pytest.fixture
def hub(mlflow: StandinMLflow, serve: Callable[..., ScriptedHub]) -> ScriptedHub:
    return serve(mlflow)


def train(hub: ScriptedHub, *, resume: bool = False, fails: bool = False) -> Path:
    """A training of three epochs with steps, odd names and odd values; the session's folder."""
    begun = hubstate.start("odd", hub=f"mlflow+{hub.url}", epochs=3, config={"lr": 0.1}, resume=resume)
    with begun as session:
        for epoch in session.epochs():
            session.log({"loss": 0.5 / (1 + epoch)}, step=epoch)
            session.log(
                {
                    "loss": float("nan"),
                    "nul\0": 1.0,
                    "m(B)": 0.1 * epoch,
                    "up": float("inf"),
                    "long" * 80: -float("inf"),
                }
            )
            session.log({"more": 0.2 * epoch}, epoch=epoch)  # joins the row before
            if fails and epoch == 1:
                assert session.flush(30)
                session.close()
                break
            Path("last.pt").write_bytes(bytes([epoch]) * 1000)
            session.save("last.pt", fitness=epoch)
        else:
            session.log({"m(B)": 0.75}, epoch=2, step=50)
            assert session.finish(30).state is State.DONE
    return Path(".hubstate") / session.id


def compared(hub: ScriptedHub, mlflow: StandinMLflow, folder: Path) -> Comparison:
    (run,) = mlflow.living()
    return compare(folder, held(f"mlflow+{hub.url}", None, run["info"]["run_id"]))


def test_everything_comes_back_as_it_was_recorded(hub: ScriptedHub, mlflow: StandinMLflow) -> None:
    """Rows of epochs and steps, odd names, NaN and infinities, and files are equal to what the journal tells."""
    comparison = compared(hub, mlflow, train(hub))
    assert comparison.equal, comparison.difference
    assert (comparison.rows, comparison.files) == (7, 1)


def test_of_several_attempts_what_is_in_force_comes_back(hub: ScriptedHub, mlflow: StandinMLflow) -> None:
    """Rows that a later attempt began again are there and not in force."""
    train(hub, fails=True)
    folder = train(hub, resume=True)
    comparison = compared(hub, mlflow, folder)
    assert comparison.equal, comparison.difference
    assert len([point for point in mlflow.points() if point[0] == "hubstate/attempt"]) > 3


@pytest.mark.parametrize("change", ["value", "gone", "more", "file", "outcome"])
def test_what_somebody_changed_is_seen(hub: ScriptedHub, mlflow: StandinMLflow, change: str) -> None:
    """A value, a row, a file or an end that is another one at the server is a difference, and is named."""
    folder = train(hub)
    (run,) = mlflow.living()
    match change:
        case "value":
            point = next(point for point in run["metrics"] if point[0] == "step/loss")
            run["metrics"].remove(point)
            run["metrics"].add((point[0], 7.0, *point[2:]))
        case "gone":
            run["metrics"] = {point for point in run["metrics"] if point[3] != 0}
        case "more":
            run["metrics"].add(("hubstate/attempt", 1, 5, 99))
        case "file":
            mlflow.files = {place: b"other" + content[5:] for place, content in mlflow.files.items()}
        case "outcome":
            run["tags"]["hubstate.outcome"] = "failed"
    assert compared(hub, mlflow, folder).difference


def test_points_of_others_are_no_rows(hub: ScriptedHub, mlflow: StandinMLflow) -> None:
    """What another client logged to the run beside us is not ours to judge."""
    folder = train(hub)
    (run,) = mlflow.living()
    run["metrics"].add(("system/cpu", 0.5, 123, 0))
    run["tags"]["hubstate.attempt.x"] = "{}"
    run["tags"]["hubstate.attempt.7"] = "[nonsense"
    run["tags"]["hubstate.attempt.8"] = '{"first_epoch":' + "[" * 6_000
    run["metrics"].add(("hubstate/attempt", "NaN", 123, 0))
    assert compared(hub, mlflow, folder).equal


def test_a_file_that_is_gone_is_seen(hub: ScriptedHub, mlflow: StandinMLflow) -> None:
    """A tag that names a file which is not there any more does not pass for the file."""
    folder = train(hub)
    mlflow.files.clear()
    assert not compared(hub, mlflow, folder).equal


@pytest.mark.parametrize(
    ("ending", "answer", "failure"),
    [
        (
            "/runs/get?run_id=m",
            Says(404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "x"}),
            HubRefused,
        ),
        ("/runs/get?run_id=m", Says(401, b"no"), HubRefused),
        ("/runs/get?run_id=m", Says(drop=True), HubUnreachable),
        ("/runs/get?run_id=m", Says(200, {"run": {"info": {"run_id": "other"}}}), HubUnreachable),
    ],
)
def test_a_server_that_tells_nothing_is_told(
    hub: ScriptedHub, ending: str, answer: Says, failure: type[Exception]
) -> None:
    """No run, no access and no answer are errors of their kinds, as with any hub."""
    hub.then(ending, answer)
    with pytest.raises(failure):
        held(f"mlflow+{hub.url}", None, "m")


@pytest.mark.parametrize("point", [{"timestamp": "now"}, {"timestamp": 1, "value": "much"}])
def test_odd_points_are_an_error_and_no_crash(
    serve: Callable[..., ScriptedHub], point: dict[str, object]
) -> None:
    """A server that tells points as MLflow does not is refused by name."""
    run = {"info": {"run_id": "m"}, "data": {"metrics": [{"key": "loss"}]}}

    def odd(request: object) -> Says:
        path = getattr(request, "path", "")
        return Says(body={"run": run} if "runs/get" in path else {"metrics": [point]})

    with pytest.raises(HubRefused, match="tells points as MLflow does not"):
        held(f"mlflow+{serve(odd).url}", None, "m")


def test_the_tag_of_a_file_is_what_was_sent(hub: ScriptedHub, mlflow: StandinMLflow) -> None:
    """Where the kept copy is gone here, the tag tells which bytes were sent, and the file there is digested anew."""
    train(hub)
    (run,) = mlflow.living()
    holds = held(f"mlflow+{hub.url}", None, run["info"]["run_id"])
    told = json.loads(run["tags"]["hubstate.checkpoint.final"])
    (final,) = (file for file in holds.files if file.kind == "final")
    assert final.sha256 == final.sent == told["sha256"]


def test_a_session_of_another_machine_is_not_brought_from_there(hub: ScriptedHub) -> None:
    """Who asks for a session by an id that is unknown here learns that an MLflow server hands none over."""
    with pytest.raises(SessionNotFound, match="MLflow server hands none over"):
        hubstate.start("other", hub=f"mlflow+{hub.url}", resume="01M8B0FAD3C9TATAKWTAXAN6F2")
    assert hub.requests == []
