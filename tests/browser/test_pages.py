"""What people do with the pages, in the browser that they do it with."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from charted import drawn, inside, losses, shown_range
from hub_client import Client, row
from watching import Watched

from hubstate.server.running import RunningHub, running

pytestmark = pytest.mark.renderer

Opened = Callable[..., Any]

WIDER = "document.documentElement.scrollWidth > window.innerWidth"


def test_a_session_page_follows_without_being_loaded_again(client: Client, opened: Opened) -> None:
    """New rows, a new metric, the state and the stop button's end come to the open page; nothing is loaded again."""
    client.open(epochs=10)
    client.rows(losses(range(3)))
    page = opened(f"{client.url}/models/S1")
    page.evaluate("window.same = true")
    assert drawn(page, "loss", 3) == [[[0, 1], [1, 0.5], [2, 1 / 3]]]
    client.rows(losses(range(3, 6)))
    assert drawn(page, "loss", 6) == [[[epoch, 1 / (epoch + 1)] for epoch in range(6)]]
    client.rows([row(6, at=9, **{"val/accuracy": 0.9})])
    assert drawn(page, "val/accuracy", 1) == [[[6, 0.9]]]
    assert page.locator("figure.chart").count() == 2
    client.upload(b"x" * 1000, epoch=6)
    page.get_by_text("Download", exact=True).and_(page.locator("a")).wait_for()
    client.end(outcome="finished", rows=7)
    page.locator(".facts .mark.finished").wait_for()
    assert page.locator("[aria-current=step]").inner_text() == "done"
    assert page.locator(".facts").get_by_text("7 of 7").count() == 1
    assert page.get_by_role("button", name="Stop this training").count() == 0
    assert page.evaluate("window.same")


def test_rows_that_take_others_back_redraw_the_chart(client: Client, opened: Opened) -> None:
    """A new attempt that begins earlier takes back what it repeats, and has a line of its own."""
    client.open(epochs=10)
    client.rows(losses(range(5)))
    page = opened(f"{client.url}/models/S1")
    drawn(page, "loss", 5)
    client.open(attempt=2, first_epoch=3)
    client.rows([row(epoch, attempt=2, at=20 + epoch, loss=9) for epoch in (3, 4, 5)])
    assert drawn(page, "loss", 6) == [[[0, 1], [1, 0.5], [2, 1 / 3]], [[3, 9], [4, 9], [5, 9]]]


def test_the_list_follows_without_being_loaded_again(client: Client, opened: Opened) -> None:
    """Progress, state and new sessions come to the open list; a chosen session stays chosen."""
    client.open("A", name="first", epochs=4)
    client.open("B", name="second", epochs=4)
    page = opened(client.url)
    page.evaluate("window.same = true")
    page.get_by_label("Compare first").check()
    page.locator("#link-state[data-state=live]").wait_for()
    client.rows(losses(range(2)), "A")
    page.locator("tr[data-session=A]").get_by_text("2 of 4").wait_for()
    client.end("A", outcome="finished")
    page.locator("tr[data-session=A] .mark.finished").wait_for()
    client.open("C", name="third")
    page.locator("tr[data-session=C]").wait_for()
    assert page.locator("#sessions tr").evaluate_all("rows => rows.map(row => row.dataset.session)") == [
        "C",
        "B",
        "A",
    ]
    assert page.get_by_label("Compare first").is_checked()
    assert page.locator(".pager").get_by_text("of 3").count() == 1
    assert page.evaluate("window.same")


def test_the_focus_stays_on_its_session_while_the_list_changes(client: Client, opened: Opened) -> None:
    """Rows change and new ones come above, and Space and Enter still mean the session that had the focus before."""
    for session in "AB":
        client.open(session, name=f"run {session}", epochs=4)
    page = opened(client.url)
    page.locator("#link-state[data-state=live]").wait_for()
    page.get_by_label("Compare run A").focus()
    client.rows(losses(range(2)), "A")
    page.locator("tr[data-session=A]").get_by_text("2 of 4").wait_for()
    client.open("C", name="run C")
    page.locator("tr[data-session=C]").wait_for()
    page.keyboard.press("Space")
    assert page.locator("#sessions input:checked").evaluate_all("all => all.map(one => one.value)") == ["A"]
    page.keyboard.press("Tab")
    client.open("D", name="run D")
    page.locator("tr[data-session=D]").wait_for()
    page.keyboard.press("Enter")
    page.wait_for_url("**/models/A")


def test_the_focus_stays_on_a_table_that_grows(client: Client, opened: Opened) -> None:
    """Whoever scrolls a table by keys goes on with it when a row comes."""
    client.open(epochs=9)
    client.rows([row(0, loss=1)])
    page = opened(f"{client.url}/models/S1")
    page.locator("[aria-label='Rows in force']").focus()
    client.rows([row(1, loss=0.123)])
    page.get_by_role("cell", name="0.123").wait_for()
    assert page.evaluate("document.activeElement.ariaLabel") == "Rows in force"


def test_the_focus_stays_on_its_file_while_others_come(client: Client, opened: Opened) -> None:
    """Whoever stands on a download finds the focus on the same file when further ones come, and on none when it is gone."""
    client.open(epochs=9)
    client.upload(b"l" * 100, epoch=1)
    page = opened(f"{client.url}/models/S1")
    page.locator("#link-state[data-state=live]").wait_for()
    link = page.get_by_role("link", name="Download")
    address = link.get_attribute("href")
    link.focus()
    for kind in ("best", "final"):
        client.upload(b"b" * 100, kind=kind, type="final" if kind == "final" else "epoch", epoch=2)
        page.locator("[data-part=checkpoints]").get_by_text(kind, exact=True).wait_for()
        assert page.evaluate("document.activeElement.getAttribute('href')") == address
    client.upload(b"m" * 100, epoch=3)
    page.locator(f"[data-part=checkpoints] a[href='{address}']").wait_for(state="detached")
    assert page.evaluate("document.activeElement === document.body")


def test_an_empty_hub_shows_the_first_session_by_itself(client: Client, opened: Opened) -> None:
    """Whoever left the first page open sees the first session arrive."""
    page = opened(client.url)
    page.get_by_text("Nothing is here yet").wait_for()
    assert page.get_by_text(f"hubstate demo --hub {client.url}").count() == 1
    page.locator("#link-state[data-state=live]").wait_for()
    client.open()
    page.locator("tr[data-session=S1]").wait_for()


TRAINING = """
import sys, threading
import hubstate

with hubstate.start("real", hub=sys.argv[1], epochs=100_000, limits=hubstate.Limits(metrics=0.1)) as session:
    print(session.id, flush=True)
    for epoch in session.epochs():
        session.log({"loss": 1 / (epoch + 1)})
        threading.Event().wait(0.02)
print("ended after", epoch, session.outcome.value)
"""


def test_the_stop_button_ends_a_real_training(hub: RunningHub, opened: Opened, watched: Watched) -> None:
    """A training in a process of its own ends in good order once the button on its page was pressed and confirmed."""
    training = subprocess.Popen(
        [sys.executable, "-c", TRAINING, hub.url], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert training.stdout is not None
        model = training.stdout.readline().strip()
        page = opened(hub.url)
        page.locator(f"tr[data-session='{model}']").wait_for()
        page.get_by_role("link", name="real").click()
        page.get_by_role("button", name="Stop this training").click()
        page.locator(".facts .mark.stopped").wait_for(timeout=60_000)
        told, complaints = training.communicate(timeout=60)
    finally:
        training.kill()
        training.wait()
    assert training.returncode == 0, complaints
    assert told.startswith("ended after")
    assert told.strip().endswith("stopped")
    assert len(watched.dialogs) == 1


def test_a_stream_that_breaks_off_goes_on_where_it_was(
    data_dir: Path, opened: Opened, watched: Watched
) -> None:
    """The hub stops and starts again while rows arrive: the page names where it was, and has each point exactly once."""
    watched.forgiven = ["ERR_CONNECTION_REFUSED", "ERR_INCOMPLETE_CHUNKED_ENCODING", "ERR_EMPTY_RESPONSE"]
    with running(data_dir) as hub:
        client = Client(hub.url)
        client.open(epochs=40)
        client.rows(losses(range(10)))
        page = opened(f"{hub.url}/models/S1")
        drawn(page, "loss", 10)
        client.rows(losses(range(10, 20)))
        drawn(page, "loss", 20)
        client.http.close()
    page.locator("#link-state[data-state=reconnecting]").wait_for()
    with running(data_dir, port=hub.port) as hub:
        client = Client(hub.url)
        client.rows(losses(range(20, 30)))
        drawn(page, "loss", 30)
        client.rows(losses(range(30, 40)))
        (line,) = drawn(page, "loss", 40)
        client.http.close()
        assert [x for x, _ in line] == list(range(40))
        streams = [request.all_headers() for request in watched.requests if "/events" in request.url]
        assert len(streams) >= 2
        assert streams[-1]["last-event-id"].split(".")[1] == "20"
        page.close()


def test_a_page_in_the_background_lets_go_of_its_stream(
    client: Client, opened: Opened, watched: Watched
) -> None:
    """Hidden pages hold no connection; one that comes to the front again goes on where it was."""
    client.open(epochs=10)
    client.rows(losses(range(3)))
    page = opened(f"{client.url}/models/S1")
    drawn(page, "loss", 3)
    page.locator("#link-state[data-state=live]").wait_for()
    hide = "(hidden) => { Object.defineProperty(document, 'hidden', {value: hidden, configurable: true});"
    hide += " document.dispatchEvent(new Event('visibilitychange')); }"
    page.evaluate(hide, True)
    client.rows(losses(range(3, 6)))
    page.evaluate(hide, False)
    (line,) = drawn(page, "loss", 6)
    assert [x for x, _ in line] == list(range(6))
    streams = [request.url for request in watched.requests if "/events" in request.url]
    assert len(streams) == 2


HOSTILE = [
    "<script>window.hit = 1</script><img src=x onerror='window.hit = 1'>",
    "\N{RIGHT-TO-LEFT OVERRIDE}tpircs\N{HEBREW LETTER ALEF} txt.exe",
    "m" * 10_240,
    "\"'><svg onload=window.hit=1> {{ 7 * 7 }} \N{ZERO WIDTH JOINER}\n\0\t end",
]


@pytest.mark.parametrize("name", HOSTILE, ids=["script", "right-to-left", "long", "odd"])
@pytest.mark.parametrize("width", [1280, 390])
def test_hostile_names_do_no_harm(client: Client, opened: Opened, name: str, width: int) -> None:
    """Whatever a name, a tag, a metric or a reason holds: nothing runs, nothing leaves its place, no page grows wider."""
    model = client.foreign(name)
    client.open(
        name=name[:500], project=name[:2000], group=name[:2000], tags=[name[:2000]], config={name: name}
    )
    client.rows([row(0, **{name: 1}), row(1, at=2, **{name: 2})])
    page = opened(f"{client.url}/", viewport={"width": width, "height": 800})
    for path in ("/", "/models/S1", f"/models/{model}", f"/compare?session=S1&session={model}"):
        page.goto(client.url + path)
        assert not page.evaluate(WIDER), path
        assert page.evaluate("window.hit") is None
        isolated = page.locator("bdi").evaluate_all(
            "all => all.map(one => getComputedStyle(one).unicodeBidi)"
        )
        assert set(isolated) == {"isolate"}
    page.goto(f"{client.url}/models/S1")
    page.locator("figure").scroll_into_view_if_needed()
    page.locator("figure[data-drawn]").wait_for()
    client.rows([row(2, at=3, **{name: 3, f"{name}2": 4})])
    page.locator("figure").nth(1).wait_for()
    client.end(state="aborted", outcome="failed", reason=name[:2000])
    page.locator(".reason").wait_for()
    assert page.evaluate("window.hit") is None
    assert not page.evaluate(WIDER)


def test_a_list_is_used_by_keyboard(client: Client, opened: Opened) -> None:
    """`/` leads to the search, which filters while one types; the arrow of focus reaches a session, Enter opens it."""
    client.open("A", name="alpha")
    client.open("B", name="beta")
    page = opened(client.url)
    page.locator("#link-state[data-state=live]").wait_for()
    page.keyboard.press("/")
    page.keyboard.type("alp")
    page.locator("tr[data-session=B]").wait_for(state="detached")
    assert page.url.endswith("?q=alp")
    for _ in range(8):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.closest('.title') !== null"):
            break
    page.keyboard.press("Enter")
    page.wait_for_url("**/models/A")
    assert page.get_by_role("heading", level=1).inner_text() == "alpha"


def test_a_closer_look_fetches_the_finer_points(client: Client, opened: Opened) -> None:
    """A long chart is thinned out; a stretch that is dragged over is shown with all its rows, a double click shows all again."""
    client.open()
    client.rows([row(epoch, loss=math.sin(epoch / 300)) for epoch in range(6000)])
    page = opened(f"{client.url}/models/S1")
    page.locator("figure[data-points='1000']").wait_for()
    assert shown_range(page, "loss") == [0, 5999]
    box = page.locator("figure .u-over").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + 50, steps=4)
    page.mouse.up()
    low, high = shown_range(page, "loss")
    assert 2900 < low < 3100
    assert 3500 < high < 3700
    # All rows of the stretch, and one on either side.
    page.locator(f"figure[data-points='{math.floor(high) - math.ceil(low) + 3}']").wait_for()
    page.locator("figure .u-over").dblclick()
    page.locator("figure[data-points='1000']").wait_for()
    assert shown_range(page, "loss") == [0, 5999]


def test_the_charts_of_a_long_session_come_by_themselves(client: Client, opened: Opened) -> None:
    """A page that was shown before its charts were made gets them over its stream."""
    client.open()
    client.rows([row(epoch, loss=epoch) for epoch in range(6000)])
    page = opened(f"{client.url}/models/S1")
    page.locator("figure[data-drawn]").wait_for()
    assert page.locator("#no-metrics").is_hidden()
    client.rows([row(6000, loss=1)])
    page.locator("figure[data-points='1001']").wait_for()


def test_smoothing_and_log_scale_hold_for_all_charts(client: Client, opened: Opened) -> None:
    """The tools draw every chart anew: a smooth line beside the told one, and a log scale that leaves out what it cannot show."""
    client.open()
    client.rows([row(epoch, a=epoch - 1, b=epoch) for epoch in range(30)])
    page = opened(f"{client.url}/models/S1")
    page.locator("figure[data-drawn]").nth(1).wait_for()
    look = "({ drawn }) => [drawn.series.length - 1, drawn.scales.y.distr]"
    assert [inside(page, name, look) for name in "ab"] == [[1, 1], [1, 1]]
    page.get_by_label("Smoothing").fill("0.9")
    page.get_by_label("log scale").check()
    assert [inside(page, name, look) for name in "ab"] == [[2, 3], [2, 3]]
    page.get_by_label("Filter metrics").fill("b")
    assert page.locator("figure:visible").count() == 1


def test_a_log_scale_goes_from_round_to_round_and_says_where_it_is_bare(
    client: Client, opened: Opened
) -> None:
    """The axis begins and ends at round numbers close around the values; a chart of which nothing can be shown tells it."""
    client.open()
    values = {"small": [0.35, 2.3, 0.9], "one": [5, 5, 5], "wide": [0.002, 1e6, 3], "never": [-1, 0, -3]}
    client.rows([row(n, **{name: told[n] for name, told in values.items()}) for n in range(3)])
    page = opened(f"{client.url}/models/S1")
    page.locator("figure[data-drawn]").nth(3).wait_for()
    page.get_by_label("log scale").check()
    look = "({ drawn }) => [drawn.scales.y.min, drawn.scales.y.max]"
    assert {name: inside(page, name, look) for name in values} == {
        "small": pytest.approx([0.3, 3]),
        "one": pytest.approx([0.5, 50]),
        "wide": pytest.approx([0.002, 1e6]),
        "never": pytest.approx([1, 10]),
    }
    bare = page.locator("figure[data-bare]")
    assert bare.evaluate_all("all => all.map(one => one.dataset.name)") == ["never"]
    words = "one => getComputedStyle(one.querySelector('.plot'), '::after').content"
    assert "Nothing here is positive" in bare.evaluate(words)
    page.get_by_label("log scale").uncheck()
    assert bare.count() == 0


def test_several_sessions_are_compared(client: Client, opened: Opened) -> None:
    """Two chosen in the list come into the same chart, a line for each; a metric of one has a line of that one."""
    for session in "AB":
        client.open(session, name=f"run {session}")
        client.rows(losses(range(5)), session)
    client.rows([row(9, at=9, only=1)], "B")
    page = opened(client.url)
    page.locator("#compare-button:disabled").wait_for()
    page.get_by_label("Compare run A").check()
    page.get_by_label("Compare run B").check()
    page.get_by_role("button", name="Compare 2").click()
    page.locator("figure[data-drawn]").nth(1).wait_for()
    names = "(chart) => chart.series.map((one) => one.line.name)"
    assert inside(page, "loss", names) == ["run B", "run A"]
    assert inside(page, "only", names) == ["run B"]


def test_long_sessions_are_compared_once_their_charts_are_made(client: Client, opened: Opened) -> None:
    """Whoever compares long sessions that nobody saw yet sees the page at once, and their charts by themselves."""
    for session in "AB":
        client.open(session, name=f"run {session}")
        client.rows([row(epoch, loss=epoch) for epoch in range(6000)], session)
    page = opened(f"{client.url}/compare?session=A&session=B")
    page.locator("#overlays:not([data-waiting]) figure[data-points='1416']").wait_for()


#: Keeps what jumps from the first moment on: how far, and what it was.
JUMPS = """
window.jumps = [];
window.jumping = new PerformanceObserver((list) => window.jumps.push(...list.getEntries()));
window.jumping.observe({ type: 'layout-shift', buffered: true });
"""
#: Once two more pictures were drawn, nothing that happened before them is untold.
JUMPED = """() => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(() => {
  window.jumps.push(...window.jumping.takeRecords());
  const sizes = window.jumps.map((one) => one.value);
  const what = window.jumps.flatMap((one) => one.sources.map(({ node }) => node?.outerHTML?.slice(0, 80)));
  resolve([sizes.reduce((sum, one) => sum + one, 0), what]);
})))"""


def test_nothing_moves_while_a_page_loads(client: Client, opened: Opened) -> None:
    """What a script adds has its place already: nothing jumps under the reader's hand until all is drawn and live."""
    for session in ("S1", "S2"):
        client.open(session, epochs=9, config={"lr": 1})
        client.rows(
            [row(epoch, **{f"metric {n}": epoch * n for n in range(6)}) for epoch in range(9)], session
        )
    page = opened("about:blank")
    page.add_init_script(JUMPS)
    for path in ("/", "/models/S1", "/compare?session=S1&session=S2"):
        page.goto(client.url + path)
        if not path.startswith("/compare"):
            page.locator("#link-state[data-state=live]").wait_for()
        for n in range(6 if path != "/" else 0):
            page.locator(f"figure[data-name='metric {n}'][data-drawn]").wait_for()
        far, what = page.evaluate(JUMPED)
        assert far < 0.001, (path, what)


def test_a_training_that_is_over_is_not_to_be_stopped(client: Client, opened: Opened) -> None:
    """While what is left of a session is being delivered its page has no button to stop it, and loses the one it had."""
    client.open(epochs=3)
    client.rows(losses(range(3)))
    page = opened(f"{client.url}/models/S1")
    page.get_by_role("button", name="Stop this training").wait_for()
    client.beat(state="finalizing", outcome="finished")
    page.locator(".strip .current.finalizing").wait_for()
    assert page.get_by_role("button", name="Stop this training").count() == 0


def test_a_very_long_list_is_gone_through(client: Client, opened: Opened) -> None:
    """A page of the list holds fifty; the next is reached by key, follows what happens there, and keeps what was asked for."""
    for n in range(120):
        client.open(f"S{n:03}", name=f"run {n}", project="many", epochs=4)
    page = opened(f"{client.url}/?project=many")
    assert page.locator("#sessions tr").count() == 50
    for first in (51, 101):
        page.get_by_role("link", name="Older").focus()
        page.keyboard.press("Enter")
        page.get_by_text(f"{first}\N{EN DASH}").wait_for()
    assert page.locator("#sessions tr").count() == 20
    assert page.get_by_label("Project").input_value() == "many"
    page.locator("#link-state[data-state=live]").wait_for()
    client.rows(losses(range(2)), "S000")
    page.locator("tr[data-session=S000]").get_by_text("2 of 4").wait_for()
    client.open("S120", project="many")
    page.locator("tr[data-session=S020]").wait_for()


def test_pages_work_without_script(client: Client, opened: Opened) -> None:
    """Without script the list filters by its button, and a session's page shows its charts as pictures."""
    client.open("A", name="alpha")
    client.open("B", name="beta")
    client.rows(losses(range(5)), "A")
    page = opened(client.url, java_script_enabled=False)
    page.get_by_role("searchbox").fill("alpha")
    page.get_by_role("button", name="Filter").click()
    assert page.locator("#sessions tr").count() == 1
    page.get_by_role("link", name="alpha").click()
    picture = page.locator("figure img")
    picture.scroll_into_view_if_needed()
    answer = page.request.get(client.url + picture.get_attribute("src"))
    assert answer.ok
    assert picture.bounding_box()["height"] > 100


def test_keys_are_made_and_revoked(client: Client, opened: Opened, watched: Watched) -> None:
    """The page makes a key, shows it once, and revokes it after asking; revoking the own one leads to the login."""
    page = opened(f"{client.url}/keys")
    page.get_by_label("A new key").fill("laptop")
    page.get_by_role("button", name="Make a key").click()
    key = page.locator(".made code").first.inner_text()
    assert key.startswith("ul_")
    page.goto(f"{client.url}/keys")
    assert key not in page.content()
    page.get_by_role("button", name="Revoke laptop").click()
    page.wait_for_url("**/login**")
    assert len(watched.dialogs) == 1


@pytest.mark.parametrize(
    "path", ["/", "/models/S1", "/keys", "/compare?session=S1", "/login", "/nowhere", "/docs"]
)
def test_every_page_fits_a_phone_and_has_its_dark_side(
    client: Client, opened: Opened, watched: Watched, path: str
) -> None:
    """No page is wider than a phone; who prefers dark gets a dark page, by the same style sheet."""
    watched.forgiven = ["404"]
    client.open(epochs=3, config={"lr": 1})
    client.rows([row(epoch, **{f"metric {n}": epoch * n for n in range(20)}) for epoch in range(3)])
    client.upload(b"x" * 1000)
    grounds = []
    for scheme in ("light", "dark"):
        page = opened(
            client.url + path, viewport={"width": 360, "height": 740}, is_mobile=True, color_scheme=scheme
        )
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        grounds.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert grounds[0] != grounds[1]
