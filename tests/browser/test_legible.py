"""The pages can be read and reached by everybody: contrast in both schemes, names, and the way of the Tab key."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from charted import losses
from hub_client import Client, row
from legible import faint_lines, faint_texts, nameless, untold_focus
from platform_client import Callback
from watching import Watched

from hubstate.server.running import running
from hubstate.server.terms import Terms

pytestmark = pytest.mark.renderer

Opened = Callable[..., Any]

#: Lines of a journal: one step that was held back, one that was illegal, one that a hub refused.
STEPS = [
    {"n": 1, "event": {"event": "pretrain_routine_end", "at": 2.0}, "from": "session_created", "to": "timing"},
    {"n": 2, "event": {"event": "train_start", "at": 3.0}, "from": "timing", "to": "training"},
    {"n": 3, "event": {"event": "model_save", "at": 4.0}, "from": "training", "to": "training",
     "refusal": "not yet: 412 s left of 900 s", "guards": {"keep_due": False}},
    {"n": 4, "event": {"event": "train_start", "at": 5.0}, "from": "training", "to": "training",
     "illegal": True, "refusal": "train_start is not legal in training"},
    {"n": 5, "event": {"event": "refused", "at": 6.0}, "from": "training", "to": "training"},
]  # fmt: skip


@pytest.fixture
def client(data_dir: Path) -> Iterator[Client]:
    """Says to a hub what fills every part of its pages."""
    with running(data_dir, terms=Terms(console=True)) as hub:
        client = Client(hub.url)
        client.open(
            "S1", name="first", epochs=20, project="digits", group="g", tags=["a", "b"], config={"lr": 1}
        )
        client.rows(losses(range(4)))
        client.open("S1", name="first", attempt=2, first_epoch=3, epochs=20, config={"lr": 1})
        client.rows(
            [row(n, 2, loss=n, **{f"a long name of a metric {m}": m for m in range(12)}) for n in (3, 4)]
        )
        client.upload(b"x" * 2000, attempt=2)
        client.post("/v1/models/S1/steps", {"steps": STEPS})
        client.beat(attempt=2, conditions=[{"name": "refused", "since": 1.0, "reason": "two were refused"}])
        client.open("S2", name="second")
        client.rows(losses(range(3)), "S2")
        client.end("S2", state="aborted", outcome="failed", reason="out of memory", rows=3)
        for n, (state, outcome) in enumerate(
            [("done", "finished"), ("done", "stopped"), ("aborted", "interrupted")]
        ):
            client.open(f"E{n}", name=outcome, epochs=3)
            client.end(f"E{n}", state=state, outcome=outcome)
        run = Callback(client, name="with a console")
        run.start()
        run.epoch(0)
        run.say("console_output", {"chunkId": 1, "content": "a line of the console " * 20, "lineCount": 1})
        yield client
        client.http.close()


def each_page(client: Client, page: Any) -> Iterator[str]:
    """Leads the page to each of the hub's, with all that can be opened open, and gives its path."""
    run = client.get("/v1/models").json()["data"]["results"]
    consoled = next(one["id"] for one in run if one["name"] == "with a console")
    for path in (
        "/",
        "/?q=nothing+is+like+that",
        "/models/S1",
        "/models/S2",
        f"/models/{consoled}",
        "/compare",
        "/compare?session=S1&session=S2&session=gone",
        "/docs",
        "/nowhere",
        "/login",
        "/keys",
    ):
        page.goto(client.url + path)
        if page.locator("figure").count():
            page.locator("figure[data-drawn]").first.wait_for()
        if path != "/docs":  # which has too many to be gone through
            page.locator("details").evaluate_all("all => all.forEach(one => { one.open = true; })")
        else:
            page.locator("details").evaluate_all("all => all.slice(4).forEach(one => one.remove())")
            page.locator("details").evaluate_all("all => all.forEach(one => { one.open = true; })")
        yield path


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_from_its_ground(
    client: Client, opened: Opened, watched: Watched, scheme: str
) -> None:
    """On every page each text has a contrast of 4.5 to what is behind it, each line of a chart and edge of a field 3."""
    watched.forgiven = ["404"]
    page = opened(client.url, color_scheme=scheme)
    assert faint_lines(page) == []
    faint = {path: found for path in each_page(client, page) if (found := faint_texts(page))}
    assert faint == {}


def test_every_control_has_a_name(client: Client, opened: Opened, watched: Watched) -> None:
    """Links, buttons, fields, charts and regions tell by a name what they are for."""
    watched.forgiven = ["404"]
    page = opened(client.url)
    found = {path: lines for path in each_page(client, page) if (lines := nameless(page))}
    assert found == {}


@pytest.mark.parametrize("width", [1280, 360])
def test_tab_reaches_everything_and_shows_where_it_is(
    client: Client, opened: Opened, watched: Watched, width: int
) -> None:
    """The Tab key comes to every control and to every box that scrolls; the mark of the focus is in sight and whole."""
    watched.forgiven = ["404"]
    page = opened(client.url, viewport={"width": width, "height": 800})
    found = {path: amiss for path in each_page(client, page) if (amiss := untold_focus(page))}
    assert found == {}


def test_a_login_and_its_keys_can_be_read_and_reached(client: Client, opened: Opened) -> None:
    """The page of a key that was just made, with a button to log out, holds the same, and is no wider than a phone."""
    page = opened(f"{client.url}/keys", viewport={"width": 360, "height": 740}, is_mobile=True)
    page.get_by_label("A new key").fill("a laptop of a rather long name " * 3)
    page.get_by_role("button", name="Make a key").click()
    page.locator(".made code").first.wait_for()
    for path in ("", "/", "/models/S1", "/compare?session=S1&session=S2", "/keys"):
        if path:
            page.goto(client.url + path)
            page.get_by_role("button", name="Log out").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, path
        inside = page.locator("header > *").evaluate_all(
            "all => all.every(one => one.getBoundingClientRect().right <= innerWidth)"
        )
        assert inside, path
        assert faint_texts(page) == nameless(page) == untold_focus(page) == [], path
    box = page.locator(".wide:has(table.keys)").first
    assert box.evaluate("one => one.scrollWidth <= one.clientWidth"), "a button is out of sight"
