"""What the promises are about is real: the unmodified hub-sdk, in a process of its own, breaks these five of them.

Each situation here is one that the tests of the promise make for hubstate. If hub-sdk ever mends one of them, the test
says so, and the page can be told.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from scene import KEY
from scripted import Request, Says, ScriptedHub, foreign_hub

PROGRAM = """
import json, os, signal, sys, threading
from hub_sdk import HUBClient

told = {}
client = HUBClient({"api_key": sys.argv[1]})

def create():
    model = client.model()
    model.create_model({"config": {}, "dataset": {"name": ""}, "lineage": {}, "meta": {"name": "digits"}})
    return model

# a redirect of a write
model = create()
answer = model.upload_metrics({"0": json.dumps({"loss": 0.5})})
told["redirected"] = getattr(answer, "status_code", None)

# a thread that is not the main one
def elsewhere():
    try:
        create().start_heartbeat(interval=3600)
        told["in_a_thread"] = "began"
    except ValueError as error:
        told["in_a_thread"] = str(error)
thread = threading.Thread(target=elsewhere)
thread.start()
thread.join()

# the user's signal handlers, and one odd answer to a sign of life
before = signal.getsignal(signal.SIGINT)
threads = set(threading.enumerate())
threading.excepthook = lambda args: told.setdefault("raised", args.exc_type.__name__)
model.start_heartbeat(interval=3600)
told["handler_during"] = signal.getsignal(signal.SIGINT) is before
(beating,) = set(threading.enumerate()) - threads or (None,)
if beating is not None:
    beating.join(20)
told["beats_on"] = beating is not None and beating.is_alive()
model.stop_heartbeat()
told["handler_after"] = signal.getsignal(signal.SIGINT) is before

# a hub that is busy when it is asked about the key
client = HUBClient({"api_key": sys.argv[1]})
told["authenticated"] = client.authenticated
create()
print(json.dumps(told))
sys.stdout.flush()
os._exit(0)
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[Request]]:
    """What the client made of these answers, and all that it sent."""
    busy = Says(503, {"success": False, "message": "busy"})
    with ScriptedHub(foreign_hub) as hub:
        hub.then("/v1/auth", Says(200, {"success": True}), busy)
        hub.then("/v1/models/m42", Says(200, {}), Says(302, b"", (("Location", f"{hub.url}/moved"),)))
        hub.script = lambda request: Says(200, []) if "heartbeat" in request.path else foreign_hub(request)
        folder = tmp_path_factory.mktemp("old")
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, KEY],
            env={
                **{name: value for name, value in os.environ.items() if "proxy" not in name.lower()},
                "ULTRALYTICS_HUB_API": hub.url,
                "ULTRALYTICS_HUB_WEB": hub.url,
                "HOME": str(folder),
            },
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            cwd=folder,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1]), list(hub.requests)


Seen = tuple[dict[str, Any], list[Request]]


def test_it_takes_a_redirect_for_a_delivery(seen: Seen) -> None:
    """D31: the rows are lost on a redirect, and the answer to what was asked instead counts as theirs."""
    told, sent = seen
    assert told["redirected"] == 200
    (moved,) = [request for request in sent if request.path == "/moved"]
    assert (moved.method, moved.body) == ("GET", b"")


def test_it_begins_in_the_main_thread_alone(seen: Seen) -> None:
    """D13: in a worker thread the start of its heartbeats raises."""
    assert "main thread" in seen[0]["in_a_thread"]


def test_it_replaces_the_users_signal_handlers(seen: Seen) -> None:
    """D12: Ctrl-C is its own from the first heartbeat on, also after the last one."""
    assert (seen[0]["handler_during"], seen[0]["handler_after"]) == (False, False)


def test_one_odd_answer_ends_its_heartbeats(seen: Seen) -> None:
    """D18: a list where an object was expected ends the thread that beats, for good."""
    told, sent = seen
    assert (told["beats_on"], told["raised"]) == (False, "AttributeError")
    assert len([request for request in sent if "heartbeat" in request.path]) == 1


def test_a_busy_hub_costs_it_the_key(seen: Seen) -> None:
    """D15: 503 at the first question counts as a bad key, and what follows leaves without one."""
    told, sent = seen
    assert told["authenticated"] is False
    creates = [request for request in sent if request.path == "/v1/models"]
    assert creates[0].headers["x-api-key"] == KEY
    assert "x-api-key" not in creates[-1].headers
