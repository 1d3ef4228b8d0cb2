"""The pages: what people see, that nothing sent can become part of the page, and who may look."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from hub_client import Client, row
from hypothesis import given, settings
from hypothesis import strategies as st

from hubstate.clock import VirtualClock
from hubstate.server import keys
from hubstate.server.charts import HEIGHT, WIDTH, charts_of, shown_number
from hubstate.server.running import RunningHub, running

EVIL = "<script>alert('x')</script>&\"'{{ 7 * 7 }}"


def text_of(client: Client, path: str) -> str:
    answer = client.get(path, headers={"Accept": "text/html"})
    assert answer.status_code == 200, answer.text
    return answer.text


def test_an_empty_hub_tells_how_to_begin(client: Client) -> None:
    """Without any session the first page shows the commands, with this hub's own address."""
    page = text_of(client, "/")
    for command in ("hubstate demo --hub", "export HUBSTATE_HUB=", "hubstate login", "ULTRALYTICS_HUB_API="):
        assert command in page
    assert page.count(client.url) >= 4


def test_the_list_shows_how_each_session_fares(client: Client, clock: VirtualClock) -> None:
    """Name, state, outcome, epochs, rows and last contact, newest first."""
    client.open("S1", name="first", epochs=4)
    client.rows([row(0, a=1), row(1, a=1)], "S1")
    clock.advance(120)
    client.open("S2", name="second")
    client.end("S2", state="aborted", outcome="failed")
    page = text_of(client, "/")
    assert page.index("second") < page.index("first")
    for shown in (
        'href="/models/S1"',
        "training",
        "running",
        "2 of 4",
        "aborted",
        "failed",
        "2 min ago",
        "0 s ago",
    ):
        assert shown in page
    assert re.search(r'<progress max="4" value="2">', page)


def test_the_page_of_a_session_shows_what_the_hub_holds(client: Client) -> None:
    """State, reason, attempts, rows, charts, checkpoints with digest and link, steps."""
    client.open(epochs=3, config={"lr": 0.05}, project="p")
    client.rows(
        [row(0, loss=0.5), row(1, loss=None, other=2) | {"nonfinite": {"loss": "NaN"}}, row(2, loss=0.25)]
    )
    sha256 = client.upload(b"x" * 5000, epoch=1).json()["data"]["sha256"]
    client.post(
        "/v1/models/S1/steps", {"steps": [{"n": 1, "event": {"event": "train_end", "at": 5.0}, "to": "x"}]}
    )
    client.end(state="aborted", outcome="failed", reason="RuntimeError: boom", rows=9)
    page = text_of(client, "/models/S1")
    for shown in (
        "RuntimeError: boom",
        "aborted",
        "3 of 9 recorded",
        "NaN",
        sha256,
        "4.9 KiB",
        "train end",
        "lr",
        "0.05",
    ):
        assert shown in page
    assert page.count("<svg") == 2
    link = re.search(r'href="(/v1/files/[^"]+)"', page)
    assert link is not None
    assert client.get(link[1].replace("&amp;", "&")).content == b"x" * 5000


def test_nothing_that_was_sent_becomes_part_of_a_page(client: Client) -> None:
    """Every text from outside is escaped, and the page allows no script at all."""
    client.open(name=EVIL, project=EVIL, group=EVIL, tags=[EVIL], config={EVIL: EVIL})
    client.rows([row(0, **{EVIL: 1}), row(1, **{EVIL: 2})])
    step = {"n": 1, "event": {"event": EVIL, "at": 1.0}, "from": EVIL, "to": "x", "refusal": EVIL}
    client.post("/v1/models/S1/steps", {"steps": [step]})
    client.post("/v1/models/S1/usage", {"what": EVIL})
    client.end(state="aborted", outcome="failed", reason=EVIL)
    model = client.foreign(EVIL)
    client.post(f"/v1/models/{model}", {"metrics": {EVIL: "{}"}, "type": "metrics"})
    for path in ("/", "/models/S1", f"/models/{model}"):
        answer = client.get(path, headers={"Accept": "text/html"})
        assert "<script" not in answer.text
        assert "&lt;script&gt;" in answer.text
        assert "{{ 7 * 7 }}" in answer.text
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "script-src" not in policy
        assert "unsafe" not in policy
        assert not re.search(r"""\s(style|on\w+)=""", answer.text)


@pytest.mark.parametrize(
    "step",
    [
        {"n": 1},
        {"n": 1, "event": None},
        {"n": 1, "event": "x", "at": "y"},
        {"n": 1, "event": {"at": 1e300}},
        {"n": 1, "event": [1], "to": {}},
    ],
    ids=str,
)
def test_an_odd_step_does_not_break_the_page(client: Client, step: dict[str, Any]) -> None:
    """Whatever a journal's line holds, the page is shown."""
    client.open()
    assert client.post("/v1/models/S1/steps", {"steps": [step]}).status_code == 200
    assert "The way it took" in text_of(client, "/models/S1")


def test_a_page_of_something_that_runs_loads_itself_again(client: Client, clock: VirtualClock) -> None:
    """While a session is live and in contact the page asks to be loaded again; ended or silent ones rest."""
    again = 'http-equiv="refresh"'
    assert again not in text_of(client, "/")
    client.open()
    assert again in text_of(client, "/")
    assert again in text_of(client, "/models/S1")
    clock.advance(901)
    assert again not in text_of(client, "/")
    page = text_of(client, "/models/S1")
    assert again not in page
    assert "no contact" in page
    assert "unknown" in page


def test_a_training_can_be_asked_to_stop(client: Client) -> None:
    """The button is there while the session is live; once pressed, the page says so; ended ones have none."""
    client.open()
    button = "Stop this training"
    assert button in text_of(client, "/models/S1")
    answer = client.http.post(f"{client.url}/models/S1/stop", allow_redirects=False, timeout=30)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/models/S1")
    page = text_of(client, "/models/S1")
    assert button not in page
    assert "stop wanted" in page
    client.end(outcome="stopped")
    assert "stop wanted" not in text_of(client, "/models/S1")


def test_an_old_client_is_not_offered_what_it_cannot_hear(client: Client) -> None:
    """A client of the old HUB reads no wish to stop: its page says so and has no button."""
    page = text_of(client, f"/models/{client.foreign()}")
    assert "Stop this training" not in page
    assert "cannot be asked to stop" in page


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Origin": "same"}, 303),
        ({}, 303),
    ],
    ids=str,
)
def test_no_other_site_stops_a_training(client: Client, headers: dict[str, str], expected: int) -> None:
    """A form that another site's page sends through a browser does nothing."""
    client.open()
    sent = {name: client.url if value == "same" else value for name, value in headers.items()}
    answer = client.http.post(f"{client.url}/models/S1/stop", headers=sent, allow_redirects=False, timeout=30)
    assert answer.status_code == expected
    assert (client.model()["stop"] is not None) == (expected == 303)


def test_an_unknown_page_is_a_page_for_people_and_json_for_programs(client: Client) -> None:
    """404 in the language of whoever asks."""
    for path in ("/models/none", "/nowhere"):
        page = client.get(path, headers={"Accept": "text/html"})
        assert (page.status_code, page.headers["content-type"]) == (404, "text/html; charset=utf-8")
        assert client.get(path).json()["success"] is False
    assert client.get("/v1/none", headers={"Accept": "text/html"}).json()["success"] is False


def test_the_page_brings_its_own_style(client: Client) -> None:
    """Style sheet and icon come from the hub itself, light and dark are both there."""
    page = text_of(client, "/")
    assert not re.search(r"(src|href)=.https?:", page)
    style = client.get("/static/hub.css")
    assert (style.status_code, style.headers["content-type"]) == (200, "text/css; charset=utf-8")
    assert "prefers-color-scheme: dark" in style.text
    assert client.get("/static/icon.svg").status_code == 200
    assert client.get("/static/../pages.py").status_code == 404
    assert client.get("/static/%2e%2e/pages.py").status_code == 404


# -- with keys -------------------------------------------------------------------------------------------


@pytest.fixture
def keyed(data_dir: Path, clock: VirtualClock) -> Iterator[tuple[RunningHub, str]]:
    """A hub with a key, one session, and that key."""
    key = keys.create(data_dir, "good")
    with running(data_dir, wall=clock.wall) as hub:
        client = Client(hub.url, key)
        client.open()
        client.http.close()
        yield hub, key


def log_in(hub: RunningHub, key: str, goal: str = "/") -> tuple[requests.Session, requests.Response]:
    browser = requests.Session()
    browser.trust_env = False
    answer = browser.post(
        f"{hub.url}/login", data={"key": key, "next": goal}, allow_redirects=False, timeout=30
    )
    return browser, answer


def test_with_keys_a_page_asks_for_one(keyed: tuple[RunningHub, str]) -> None:
    """Without a login every page leads to the form, and the form leads back."""
    hub, key = keyed
    for path in ("/", "/models/S1"):
        answer = requests.get(hub.url + path, allow_redirects=False, timeout=30)
        assert (answer.status_code, answer.headers["Location"]) == (303, f"/login?next={path}")
    stop = requests.post(f"{hub.url}/models/S1/stop", allow_redirects=False, timeout=30)
    assert stop.headers["Location"].startswith("/login")
    form = requests.get(f"{hub.url}/login?next=/models/S1", timeout=30).text
    assert 'name="next" value="/models/S1"' in form
    browser, answer = log_in(hub, key, "/models/S1")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/models/S1")
    cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert key not in cookie
    assert browser.get(f"{hub.url}/models/S1", timeout=30).status_code == 200
    assert browser.post(f"{hub.url}/models/S1/stop", timeout=30).status_code == 200
    client = Client(hub.url, key)
    assert client.model()["stop"] is not None
    client.http.close()
    browser.post(f"{hub.url}/logout", timeout=30)
    assert browser.get(hub.url, allow_redirects=False, timeout=30).status_code == 303
    browser.close()


def test_a_wrong_key_opens_no_page(keyed: tuple[RunningHub, str]) -> None:
    """A wrong key is told so with 401 and sets no cookie; what was typed is not shown again."""
    hub, _ = keyed
    for wrong in ("", "ul_wrong", EVIL):
        browser, answer = log_in(hub, wrong)
        assert (answer.status_code, "Set-Cookie" in answer.headers) == (401, False)
        assert "alert" not in answer.text
        browser.close()


def test_a_login_ends_with_its_key_and_with_time(keyed: tuple[RunningHub, str], clock: VirtualClock) -> None:
    """A cookie holds for thirty days, and not a moment longer than its key."""
    hub, key = keyed
    browser, _ = log_in(hub, key)
    clock.advance(30 * 86400 - 10)
    jar = {"hubstate_page": browser.cookies["hubstate_page"]}
    assert requests.get(hub.url, cookies=jar, timeout=30, allow_redirects=False).status_code == 200
    clock.advance(20)
    assert requests.get(hub.url, cookies=jar, timeout=30, allow_redirects=False).status_code == 303
    browser.close()
    browser, _ = log_in(hub, key)
    keys.revoke(hub.data_dir, "good")
    jar = {"hubstate_page": browser.cookies["hubstate_page"]}
    assert requests.get(hub.url, cookies=jar, timeout=30, allow_redirects=False).status_code == 303
    browser.close()


@pytest.mark.parametrize("cookie", ["", "1", "1.2", "1.9999999999.", "x.y.z", "1.9999999999." + "0" * 64])
def test_a_made_up_cookie_opens_nothing(keyed: tuple[RunningHub, str], cookie: str) -> None:
    """Only what this hub signed is a login."""
    hub, _ = keyed
    answer = requests.get(hub.url, cookies={"hubstate_page": cookie}, timeout=30, allow_redirects=False)
    assert answer.status_code == 303


@pytest.mark.parametrize(
    "goal", ["https://evil.example", "//evil.example", "/\\evil.example", "evil", "/a\nb", ""]
)
def test_a_login_never_leads_elsewhere(keyed: tuple[RunningHub, str], goal: str) -> None:
    """Only paths of this hub are followed after a login."""
    hub, key = keyed
    browser, answer = log_in(hub, key, goal)
    assert answer.headers["Location"] == "/"
    browser.close()


# -- charts ----------------------------------------------------------------------------------------------

values = st.none() | st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**30), 10**30)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 3), st.integers(0, 2**53), st.none() | st.integers(0, 9), values),
        max_size=20,
    )
)
def test_every_chart_stays_in_its_box(drawn: list[tuple[int, int, int | None, float | None]]) -> None:
    """Whatever finite numbers a metric takes, its points are numbers within the box."""
    rows = [
        {"epoch": epoch, "step": step, "attempt": attempt, "final": False, "metrics": {"a": value}}
        for attempt, epoch, step, value in drawn
    ]
    for chart in charts_of(rows):
        points = [pair.split(",") for line in chart.lines for piece in line.pieces for pair in piece.split()]
        points += [list(dot) for line in chart.lines for dot in line.dots]
        assert points
        for x, y in points:
            assert 0 <= float(x) <= WIDTH
            assert 0 <= float(y) <= HEIGHT


def test_a_chart_keeps_its_extremes_when_it_is_thinned() -> None:
    """Of ten thousand epochs a few hundred points are drawn, the one peak among them."""
    rows = [
        {
            "epoch": e,
            "step": None,
            "attempt": 1,
            "final": False,
            "metrics": {"a": 9.0 if e == 7777 else math.sin(e)},
        }
        for e in range(10_000)
    ]
    (chart,) = charts_of(rows)
    points = [pair.split(",") for pair in chart.lines[0].pieces[0].split()]
    assert len(points) < 600
    assert min(float(y) for _, y in points) == 8.0
    assert (chart.highest, chart.first_x, chart.last_x) == ("9", 0, 9999)


def test_final_evaluations_and_steps_beside_epochs_are_not_drawn() -> None:
    """A metric that epochs measure is drawn over epochs; one that only steps measure over steps."""
    rows = [
        {"epoch": 0, "step": None, "attempt": 1, "final": False, "metrics": {"loss": 1.0}},
        {"epoch": 0, "step": 3, "attempt": 1, "final": False, "metrics": {"loss": 7.0, "lr": 0.1}},
        {"epoch": 0, "step": None, "attempt": 1, "final": True, "metrics": {"loss": 9.0}},
    ]
    assert [(chart.name, chart.over, chart.highest) for chart in charts_of(rows)] == [
        ("loss", "epoch", "1"),
        ("lr", "step", "0.1"),
    ]


def test_numbers_are_shown_short() -> None:
    """Four significant digits, whole numbers as they are."""
    assert [shown_number(n) for n in (None, 3, 0.123456, 10**12, 1e-9)] == [
        "-",
        "3",
        "0.1235",
        "1e+12",
        "1e-09",
    ]
