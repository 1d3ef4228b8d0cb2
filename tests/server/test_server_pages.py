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
from hubstate.errors import StorageError
from hubstate.server import keys
from hubstate.server.charts import HEIGHT, WIDTH, drawing, shown_number
from hubstate.server.curves import Curve, Points
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
        "2 of 4",
        "failed",
        "2 min ago",
        "0 s ago",
    ):
        assert shown in page
    assert re.search(r'<progress max="4" value="2"', page)


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
        "3 of 9",
        "NaN",
        sha256,
        "4.9 KiB",
        "train end",
        "lr",
        "0.05",
    ):
        assert shown in page
    assert page.count("<figure") == 2
    link = re.search(r'href="(/v1/files/[^"]+)"', page)
    assert link is not None
    assert client.get(link[1].replace("&amp;", "&")).content == b"x" * 5000


def test_nothing_that_was_sent_becomes_part_of_a_page(client: Client) -> None:
    """Every text from outside is escaped, and the page allows no script but the hub's own files."""
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
        for tag in re.findall(r"<script.*", answer.text):
            assert re.fullmatch(
                r'<script (?:type="module"|defer) src="/static/[0-9a-f]+/[\w.]+"></script>', tag
            )
        assert "&lt;script&gt;" in answer.text
        assert "{{ 7 * 7 }}" in answer.text
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
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


def test_a_huge_whole_number_does_not_break_a_page(client: Client) -> None:
    """JSON has whole numbers of any length: one that no database holds is drawn like any other, and told as it came."""
    client.open()
    client.rows([row(epoch, a=value, b=-value) for epoch, value in enumerate((1, 2**63, 10**30))])
    assert "1e+30" in text_of(client, "/models/S1")
    assert "digits" in text_of(client, "/compare?session=S1")
    assert client.get("/models/S1/points?curve=1").status_code == 200
    assert [told["metrics"]["a"] for told in client.get("/v1/models/S1/metrics").json()["data"]] == [
        1,
        2**63,
        10**30,
    ]


def test_a_session_that_fell_silent_is_told_so(client: Client, clock: VirtualClock) -> None:
    """After three heartbeats without a word the list and the page say that there is no contact."""
    client.open()
    assert "no contact" not in text_of(client, "/models/S1")
    clock.advance(901)
    assert '<span class="mark unknown">no contact</span>' in text_of(client, "/")
    page = text_of(client, "/models/S1")
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


def test_behind_a_proxy_every_address_has_its_path(data_dir: Path, clock: VirtualClock) -> None:
    """Shown under a path of a proxy, all that a page links, loads, sends to and listens to lies below that path."""
    with running(data_dir, wall=clock.wall, public_url="http://127.0.0.1:9/some/hub") as hub:
        client = Client(hub.url)
        client.open(project="p", tags=["t"])
        client.rows([row(0, a=1)])
        client.upload(b"x")
        for path in ("/", "/models/S1", "/compare?session=S1", "/keys", "/login", "/?q=none"):
            page = text_of(client, path)
            found = re.findall(r'\s(?:href|src|action|data-live|data-points)="([^"#]+)"', page)
            assert len(found) > 5
            assert [one for one in found if not one.startswith("/some/hub/")] == []
        stop = client.http.post(f"{client.url}/models/S1/stop", allow_redirects=False, timeout=30)
        assert stop.headers["Location"] == "/some/hub/models/S1"
        client.http.close()


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
    assert (
        stop.headers["Location"] == "/login?next=/models/S1"
    )  # the form leads to a page, not to what was posted
    revoke = requests.post(f"{hub.url}/keys/1/revoke", allow_redirects=False, timeout=30)
    assert revoke.headers["Location"] == "/login?next=/keys"
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


def test_a_login_under_a_path_is_sent_below_it_alone(data_dir: Path, clock: VirtualClock) -> None:
    """What else a proxy shows under the same name never gets the cookie, and logging out takes it from where it is."""
    key = keys.create(data_dir, "good")
    with running(data_dir, wall=clock.wall, public_url="http://127.0.0.1:9/some/hub") as hub:
        browser, answer = log_in(hub, key)
        assert "Path=/some/hub;" in answer.headers["Set-Cookie"]
        gone = browser.post(f"{hub.url}/logout", allow_redirects=False, timeout=30)
        assert "Path=/some/hub;" in gone.headers["Set-Cookie"]
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


# -- keys ------------------------------------------------------------------------------------------------


def test_the_first_key_is_made_on_the_page_and_shown_once(client: Client) -> None:
    """An open hub's page makes the first key, shows it once, and is logged in with it; nobody else comes in any more."""
    made = client.http.post(f"{client.url}/keys", data={"name": "laptop"}, timeout=30)
    assert made.status_code == 200
    (key,) = set(re.findall(r"ul_[0-9a-f]{40}", made.text))
    again = text_of(client, "/keys")
    assert "laptop" in again
    assert key not in again
    assert requests.get(client.url, timeout=30, allow_redirects=False).status_code == 303
    other = Client(client.url, key)
    assert other.get("/v1/models").status_code == 200
    other.http.close()


def test_a_key_is_revoked_on_the_page(keyed: tuple[RunningHub, str]) -> None:
    """A key of one's own ends by its button; the login that was made with it ends, too."""
    hub, key = keyed
    browser, _ = log_in(hub, key)
    page = browser.get(f"{hub.url}/keys", timeout=30).text
    number = re.search(r"/keys/(\d+)/revoke", page)
    assert number is not None
    browser.post(f"{hub.url}/keys/{number[1]}/revoke", allow_redirects=False, timeout=30)
    client = Client(hub.url, key)
    assert client.get("/v1/models").status_code == 401
    assert browser.get(f"{hub.url}/keys", allow_redirects=False, timeout=30).status_code == 303
    client.http.close()
    browser.close()


def test_nobody_sees_or_ends_another_owners_key(keyed: tuple[RunningHub, str]) -> None:
    """Another owner's key is not listed, and to revoke it is as to revoke one that never was."""
    hub, key = keyed
    theirs = keys.create(hub.data_dir, "theirs", owner="somebody")
    browser, _ = log_in(hub, key)
    assert "theirs" not in browser.get(f"{hub.url}/keys", timeout=30).text
    (number,) = [one.id for one in keys.listed(hub.data_dir) if one.name == "theirs"]
    answers = [browser.post(f"{hub.url}/keys/{n}/revoke", timeout=30).status_code for n in (number, 99)]
    assert answers == [404, 404]
    client = Client(hub.url, theirs)
    assert client.get("/v1/models").status_code == 200
    client.http.close()
    browser.close()


@pytest.mark.parametrize("name", ["", "good", "x" * 101, "a\tb"], ids=["empty", "taken", "long", "odd"])
def test_a_name_that_no_key_can_have_is_told(keyed: tuple[RunningHub, str], name: str) -> None:
    """The page says what is wrong with the name, and makes no key."""
    hub, key = keyed
    browser, _ = log_in(hub, key)
    answer = browser.post(f"{hub.url}/keys", data={"name": name}, timeout=30)
    assert answer.status_code == 422
    assert "name" in answer.text
    assert "ul_" not in answer.text
    assert len(keys.listed(hub.data_dir)) == 1
    browser.close()


@pytest.mark.parametrize("path", ["/keys", "/keys/1/revoke", "/logout", "/login"])
def test_no_other_site_sends_a_form_of_a_page(keyed: tuple[RunningHub, str], path: str) -> None:
    """What another site's page sends through a browser is refused, whatever form it is."""
    hub, key = keyed
    browser, _ = log_in(hub, key)
    sent = {"Origin": "https://evil.example"}
    answer = browser.post(hub.url + path, data={"name": "x", "key": key}, headers=sent, timeout=30)
    assert answer.status_code == 403
    assert [one.revoked_at for one in keys.listed(hub.data_dir)] == [None]
    browser.close()


# -- the list --------------------------------------------------------------------------------------------


def listed(client: Client, query: str) -> list[str]:
    """The ids of the sessions that the list shows."""
    return re.findall(r'data-session="([^"]+)"', text_of(client, f"/?{query}"))


def test_the_list_is_searched_and_filtered(client: Client, clock: VirtualClock) -> None:
    """By a part of the name, the beginning of the id, how it fares, project and tag; also all at once."""
    client.open("A1", name="alpha 50%", project="p", tags=["x", "long tail"])
    client.open("B1", name="beta", project="q", tags=["x"])
    client.open("C1", name="gamma", project="p")
    client.end("C1")
    clock.advance(901)
    client.beat("A1")
    for query, expected in (
        ("q=alph", ["A1"]),
        ("q=50%25", ["A1"]),
        ("q=_", []),
        ("q=B", ["B1"]),
        ("state=live", ["A1"]),
        ("state=silent", ["B1"]),
        ("state=done", ["C1"]),
        ("state=nonsense", ["C1", "B1", "A1"]),
        ("project=p", ["C1", "A1"]),
        ("tag=long+tail", ["A1"]),
        ("tag=x&project=q", ["B1"]),
        ("page=9999", ["C1", "B1", "A1"]),
        ("page=x", ["C1", "B1", "A1"]),
    ):
        assert listed(client, query) == expected, query


def test_a_list_that_finds_nothing_says_so(client: Client) -> None:
    """A filter that nothing passes is not an empty hub."""
    client.open()
    page = text_of(client, "/?q=none")
    assert "No session is like that" in page
    assert "Nothing is here yet" not in page


def test_a_page_behind_the_last_is_the_last_and_listens_to_it(client: Client) -> None:
    """An address of a page that is not there any more shows the last one, whose stream has nothing new to tell."""
    client.open("S1")
    page = text_of(client, "/?page=9")
    assert 'data-session="S1"' in page
    assert re.search(r'data-live="/events\?"', page)


def test_a_compared_session_that_fell_silent_is_told_so(client: Client, clock: VirtualClock) -> None:
    """Beside its line a session fares as in the list: one that nobody hears of is not told to be training."""
    client.open("S1")
    client.open("S2")
    client.rows([row(0, a=1)], "S2")
    client.end("S2", state="aborted", outcome="failed")
    clock.advance(86_400)
    page = text_of(client, "/compare?session=S1&session=S2")
    assert re.findall(r'class="mark [^>]*>([^<]*)<', page) == ["no contact", "failed"]


def test_a_compared_session_that_was_removed_leaves_the_others(client: Client) -> None:
    """An address that names a session which is gone shows the others, each with its own line, and says so."""
    for session in ("S1", "S2", "S3"):
        client.open(session)
        client.rows([row(0, a=1)], session)
    client.http.delete(f"{client.url}/v1/models/S2", timeout=30)
    page = text_of(client, "/compare?session=S1&session=S2&session=S3&session=none")
    assert re.findall(r'data-session="([^"]+)"', page) == ["S1", "S3"]
    assert re.findall(r'data-of="([^"]+)"', page) == ["0:0 1:0 "]
    assert "2 of the sessions that this address names are not here any more" in page


def test_a_page_is_shown_though_its_charts_cannot_be_brought_up(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the disk does not take the charts' copy, a session is shown with the charts of before, and says so."""
    client.open()
    client.rows([row(0, a=1)])
    text_of(client, "/models/S1")
    client.rows([row(1, a=1, b=2)])

    def failing(*_arguments: object) -> None:
        raise StorageError("cannot write curves.sqlite: database or disk is full")

    monkeypatch.setattr("hubstate.server.curves.Curves.lay_out", failing)
    for path in ("/models/S1", "/compare?session=S1"):
        page = text_of(client, path)
        assert page.count("<figure") == 1
        assert "they may lack the newest rows" in page
    points = client.get("/models/S1/points?curve=0").json()
    assert points["curves"]["0"]["x"] == [0.0]


def test_a_thousand_sessions_come_in_pages(data_dir: Path, clock: VirtualClock) -> None:
    """Each page holds fifty, newest first, keeps what was asked for, and together they hold each session once."""
    with running(data_dir, wall=clock.wall) as hub:
        client = Client(hub.url)
        for n in range(120):
            client.open(f"S{n:03}", name="many")
        seen, address = [], "?q=many"
        while address:
            page = text_of(client, f"/{address}")
            seen += re.findall(r'data-session="([^"]+)"', page)
            found = re.search(r'href="/(\?[^"]+)" rel="next"', page)
            address = found[1].replace("&amp;", "&") if found else ""
        assert "101\N{EN DASH}120 of 120" in page
        assert seen == [f"S{n:03}" for n in reversed(range(120))]
        client.http.close()


# -- charts ----------------------------------------------------------------------------------------------


def points(client: Client, query: str, model: str = "S1") -> dict[str, Any]:
    answer = client.get(f"/models/{model}/points?{query}")
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()["curves"]
    return told


def test_points_are_told_as_they_are_or_by_their_extremes(client: Client) -> None:
    """Few points come whole; many come as the lowest and highest of each part, with means; a stretch comes finer."""
    client.open()
    values = [9.0 if epoch == 777 else math.sin(epoch) for epoch in range(2000)]
    client.rows([row(epoch, a=value) for epoch, value in enumerate(values)])
    whole = points(client, "curve=0&parts=1000")["0"]
    assert (whole["y"], whole["middle_x"]) == (values, [])
    thin = points(client, "curve=0&parts=100")["0"]
    assert len(thin["x"]) <= 200
    assert max(thin["y"]) == 9.0
    assert len(thin["middle_y"]) == 100
    assert thin["of"] == 2000
    near = points(client, "curve=0&parts=100&from=770&to=780")["0"]
    assert near["x"] == [float(x) for x in range(769, 782)]


@pytest.mark.parametrize("query", ["curve=x", "curve=0&from=a", "curve=0&to=nan", "curve=0&parts=-1"])
def test_a_stretch_that_makes_no_sense_is_refused(client: Client, query: str) -> None:
    """What a script asks for is read strictly."""
    client.open()
    answer = client.get(f"/models/S1/points?{query}")
    assert (answer.status_code, answer.json()["error"]) == (422, "invalid")


def test_a_page_without_script_has_its_charts_as_pictures(client: Client) -> None:
    """Each curve is an image, drawn by the hub, with its name and range in words."""
    client.open()
    client.rows([row(0, **{"a<b": 1}), row(1, **{"a<b": 3})])
    page = text_of(client, "/models/S1")
    assert '<noscript><img src="/models/S1/curves/0.svg"' in page
    picture = client.get("/models/S1/curves/0.svg")
    assert picture.headers["content-type"].startswith("image/svg+xml")
    assert "a&lt;b over epoch: from 1 to 3" in picture.text
    assert client.get("/models/S1/curves/7.svg").status_code == 404


def test_a_long_session_is_shown_before_its_charts_are_made(client: Client) -> None:
    """The first look at many rows waits for no chart: they are made meanwhile, and are there on the next one."""
    client.open()
    client.rows([row(epoch, a=epoch) for epoch in range(6000)])
    page = text_of(client, "/models/S1")
    assert "The charts of these 6000 rows are being made." in page
    assert "<figure" not in page
    assert points(client, "curve=0")["0"]["of"] == 6000
    assert "<figure" in text_of(client, "/models/S1")


values = st.none() | st.floats(allow_nan=False, allow_infinity=False)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 3), values), min_size=1, max_size=20))
def test_every_chart_stays_in_its_box(told: list[tuple[int, float | None]]) -> None:
    """Whatever finite numbers a metric takes, its points are numbers within the box."""
    x = [float(n) for n in range(len(told))]
    starts = [(at, attempt) for at, (attempt, _) in zip(x, told, strict=True)]
    picture = drawing(
        Curve(0, "a", "epoch", len(told), None),
        Points(x, [value for _, value in told], len(told), [], [], starts),
    )
    found = [
        two for pair in re.findall(r'points="([^"]+)"|d="M([-\d. ]+)h0"', picture) for two in pair if two
    ]
    pairs = [pair for one in found for pair in re.findall(r"(\S+?)[, ](\S+)", one)]
    assert bool(pairs) == any(value is not None for _, value in told)
    for x_at, y_at in pairs:
        assert 0 <= float(x_at) <= WIDTH
        assert 0 <= float(y_at) <= HEIGHT
    assert "nan" not in picture
    assert "inf" not in picture


def test_numbers_are_shown_short() -> None:
    """Four significant digits, whole numbers as they are."""
    assert [shown_number(n) for n in (None, 3, 0.123456, 10**12, 1e-9)] == [
        "-",
        "3",
        "0.1235",
        "1e+12",
        "1e-09",
    ]
