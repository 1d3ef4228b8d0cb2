"""Charts in a browser: they lose and double nothing, are looked into by mouse and by keys, and say what is amiss."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from charted import drawn, inside, losses, shown_range
from hub_client import Client, row
from platform_client import Callback
from watching import Watched

from hubstate.errors import StorageError
from hubstate.server.running import running
from hubstate.server.terms import Terms

pytestmark = pytest.mark.renderer

Opened = Callable[..., Any]

POINTS = re.compile(r"/points\?")
#: How often a chart is drawn into: what is taken off and put up anew is another box.
KEEP = "() => { for (const figure of document.querySelectorAll('figure')) figure.kept = true; }"
KEPT = "() => [...document.querySelectorAll('figure')].every((figure) => figure.kept)"


#: Timers of a second and more: what they are set to is told, two of them are over at once, and the rest when it is said.
HURRIED = """
window.waits = [];
const late = [];
const real = window.setTimeout;
window.setTimeout = (act, ms = 0, ...more) => {
  if (ms < 1000) return real(act, ms, ...more);
  document.documentElement.dataset.waits = window.waits.push(ms);
  return window.waits.length > 2 ? late.push(act) : real(act, 0);
};
window.hurry = () => late.splice(0).forEach((act) => act());
"""


class Gate:
    """Holds back what a page fetches for its charts, until it is opened.

    `early`: the hub has answered by then, and its answer is under way; else it is asked only when the gate opens.
    """

    def __init__(self, page: Any, *, early: bool) -> None:
        self._page = page
        self._early = early
        self._held: list[tuple[Any, Any]] = []
        self._is_open = False
        page.route(POINTS, self._hold)

    def _hold(self, route: Any) -> None:
        if self._is_open:
            route.continue_()
            return
        self._held.append((route, route.fetch() if self._early else None))

    def wait(self) -> None:
        """Returns once something is held back."""
        while not self._held:
            self._page.wait_for_event("request")

    def open(self) -> None:
        """Lets through what is held, and all that comes later."""
        self._is_open = True
        for route, answer in self._held:
            route.continue_() if answer is None else route.fulfill(response=answer)
        self._held.clear()


def told_last(page: Any, value: str) -> None:
    """Returns once the stream brought this value: the number beside the chart's name needs no points."""
    page.locator("figure[data-name='loss'] [data-last]").get_by_text(value, exact=True).wait_for()


@pytest.mark.parametrize("early", [True, False], ids=["answered-before", "answered-after"])
def test_points_that_arrive_while_a_chart_is_fetched_come_once(
    client: Client, opened: Opened, *, early: bool
) -> None:
    """What the stream tells while a chart's first points are under way is neither lost nor drawn twice."""
    client.open(epochs=10)
    client.rows(losses(range(3)))
    page = opened("about:blank")
    gate = Gate(page, early=early)
    page.goto(f"{client.url}/models/S1")
    gate.wait()
    page.locator("#link-state[data-state=live]").wait_for()
    for epoch in (3, 4):
        client.rows(losses(range(epoch, epoch + 1)))
        told_last(page, "0.25" if epoch == 3 else "0.2")
    assert page.locator("figure[data-drawn]").count() == 0
    gate.open()
    (line,) = drawn(page, "loss", 5)
    assert [x for x, _ in line] == list(range(5))


@pytest.mark.parametrize("early", [True, False], ids=["answered-before", "answered-after"])
def test_points_that_arrive_while_a_long_chart_is_thinned_out_come_once(
    client: Client, opened: Opened, *, early: bool
) -> None:
    """A chart that grew too long is fetched anew; what is told meanwhile is in it once, and before it came as well."""
    client.open()
    client.rows([row(epoch, loss=epoch) for epoch in range(1900)])
    page = opened(f"{client.url}/models/S1")
    page.locator("figure[data-drawn]").wait_for()
    page.evaluate(KEEP)
    gate = Gate(page, early=early)
    for epoch in range(1900, 3200, 100):
        client.rows([row(one, loss=one) for one in range(epoch, epoch + 100)])
        told_last(page, str(epoch + 99))
    gate.wait()
    client.rows([row(3200, loss=7)])
    told_last(page, "7")
    count = int(page.locator("figure").get_attribute("data-points"))
    gate.open()
    page.locator(f"figure:not([data-points='{count}'])").wait_for()
    ((*_, before, last),) = inside(page, "loss", "(chart) => chart.whole.lines.map((line) => line.x)")
    assert (before, last) == (3199, 3200)
    xs = inside(page, "loss", "(chart) => chart.whole.lines[0].x")
    assert xs == sorted(set(xs))
    assert page.evaluate(KEPT)


def test_attempts_that_lie_between_one_another_are_lines_of_their_own(client: Client, opened: Opened) -> None:
    """Where rows of two attempts alternate, each stretch is a line in its attempt's colour, appended live as when loaded."""
    client.open(epochs=20)
    client.rows(losses(range(3)))
    client.open(attempt=2, first_epoch=10)
    page = opened(f"{client.url}/models/S1")
    drawn(page, "loss", 3)
    page.evaluate(KEEP)
    for count, (epoch, attempt) in enumerate([(3, 2), (4, 2), (5, 1), (6, 2), (10, 2)], 4):
        client.rows(losses(range(epoch, epoch + 1), attempt))
        drawn(page, "loss", count)
    assert page.evaluate(KEPT), "it was not appended but made anew"
    lines = "(chart) => chart.whole.lines.map((line) => [line.key, line.colour, line.x])"
    live = inside(page, "loss", lines)
    assert live == [[1, 0, [0, 1, 2]], [2, 1, [3, 4]], [1, 0, [5]], [2, 1, [6, 10]]]
    page.reload()
    drawn(page, "loss", 8)
    assert inside(page, "loss", lines) == live


def test_what_a_reader_opened_stays_open(data_dir: Path, opened: Opened) -> None:
    """A part that the stream replaces keeps what is open in it, and the focus; what was closed stays closed."""
    with running(data_dir, terms=Terms(console=True)) as hub:
        client = Client(hub.url)
        run = Callback(client)
        run.start()
        run.say("console_output", {"chunkId": 1, "content": "the first line", "lineCount": 1})
        page = opened(f"{hub.url}/models/{run.model}")
        page.locator("#link-state[data-state=live]").wait_for()
        console = page.locator("[data-part=console] details")
        run.say("console_output", {"chunkId": 2, "content": "the second line", "lineCount": 1})
        console.get_by_text("the second line").wait_for(state="attached")
        assert console.get_attribute("open") is None
        console.locator("summary").focus()
        page.keyboard.press("Enter")
        console.get_by_text("the first line").wait_for()
        run.say("console_output", {"chunkId": 3, "content": "the third line", "lineCount": 1})
        console.get_by_text("the third line").wait_for()
        assert console.get_attribute("open") is not None
        assert page.evaluate("document.activeElement.matches('[data-part=console] summary')")
        page.get_by_text("Every state, what leads").click()
        run.epoch(0)
        page.locator("#state-training.current").wait_for()
        assert page.locator(".machine-box").get_attribute("open") is not None
        page.close()
        client.http.close()


@pytest.fixture(params=["session", "compare"])
def charts_page(request: pytest.FixtureRequest, client: Client, opened: Opened) -> Any:
    """An open page with the charts `accuracy` and `loss` over 101 epochs, of one session or of two."""
    for session in ("S1", "S2"):
        client.open(session, name=f"run {session}", epochs=101)
        client.rows([row(n, loss=n + 1, accuracy=n / 100) for n in range(101)], session)
    path = {"session": "/models/S1", "compare": "/compare?session=S1&session=S2"}[request.param]
    page = opened(client.url + path)
    page.locator("figure[data-drawn]").nth(1).wait_for()
    return page


def test_charts_are_zoomed_by_keys(charts_page: Any) -> None:
    """The focused chart alone comes closer and moves, never beyond its ends; 0, and the button for all, show the whole."""
    page = charts_page
    whole = [0, 100]
    page.locator("#reset-zoom").focus()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.dataset.name") == "accuracy"
    page.keyboard.press("ArrowLeft")
    assert shown_range(page, "accuracy") == whole
    page.keyboard.press("+")
    page.keyboard.press("+")
    assert shown_range(page, "accuracy") == pytest.approx([50 - 50 / 1.6**2, 50 + 50 / 1.6**2])
    assert shown_range(page, "loss") == whole
    page.keyboard.press("-")
    assert shown_range(page, "accuracy") == pytest.approx([18.75, 81.25])
    for key, end in (("ArrowRight", 100), ("ArrowLeft", 0)):
        for _ in range(5):
            page.keyboard.press(key)
        low, high = shown_range(page, "accuracy")
        assert high - low == pytest.approx(62.5)
        assert end in (low, high)
    page.keyboard.press("0")
    assert shown_range(page, "accuracy") == whole
    page.keyboard.press("=")
    page.keyboard.press("Tab")
    page.keyboard.press("+")
    assert shown_range(page, "loss") == pytest.approx([18.75, 81.25])
    page.locator("#reset-zoom").focus()
    page.keyboard.press("Enter")
    assert shown_range(page, "accuracy") == shown_range(page, "loss") == whole


def test_charts_are_zoomed_by_mouse(charts_page: Any) -> None:
    """A drag shows that stretch, a double click all of it; a click alone changes nothing."""
    page = charts_page
    box = page.locator("figure[data-name='loss'] .u-over").bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + 30)
    assert shown_range(page, "loss") == [0, 100]
    page.mouse.move(box["x"] + box["width"] / 4, box["y"] + 30)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 30, steps=3)
    page.mouse.up()
    assert shown_range(page, "loss") == pytest.approx([25, 50], abs=1)
    assert shown_range(page, "accuracy") == [0, 100]
    page.locator("figure[data-name='loss'] .u-over").dblclick()
    assert shown_range(page, "loss") == [0, 100]


def test_where_somebody_looks_they_stay(client: Client, opened: Opened) -> None:
    """Charts that are made anew, because a late row changed what was in force, show the stretch that was looked at."""
    client.open(epochs=101)
    client.rows([row(n, loss=n) for n in range(101)])
    page = opened(f"{client.url}/models/S1")
    page.locator("figure[data-drawn]").focus()
    page.keyboard.press("+")
    client.rows([row(50, other=1)])
    page.locator("figure[data-name='other'][data-drawn]").wait_for()
    page.locator("figure[data-name='loss'][data-drawn]").wait_for()
    assert shown_range(page, "loss") == pytest.approx([18.75, 81.25])


def test_a_level_line_lies_in_the_middle(client: Client, opened: Opened) -> None:
    """The axis of a metric that never changes goes as far below it as above, and a big number fits beside it."""
    client.open(epochs=9)
    client.rows([row(n, loss=0, parameters=4_000_000) for n in range(3)])
    page = opened(f"{client.url}/models/S1")
    for name, ends in (("loss", [-1, 1]), ("parameters", [3.6e6, 4.4e6])):
        page.locator(f"figure[data-name='{name}'][data-drawn]").wait_for()
        look = "(chart) => [chart.drawn.scales.y.min, chart.drawn.scales.y.max, chart.drawn.axes[1]._values]"
        low, high, words = inside(page, name, look)
        assert [low, high] == pytest.approx(ends)
        assert all(len(word) <= 7 for word in words)


def test_the_tools_work_by_keys(charts_page: Any) -> None:
    """Filter, smoothing and log scale are reached one after the other and set without a mouse; each says how it is set."""
    page = charts_page
    scale = "(chart) => chart.drawn.scales.y.distr"
    lines = "(chart) => chart.drawn.series.length - 1"
    before = inside(page, "loss", lines)
    page.get_by_label("Filter metrics").focus()
    page.keyboard.type("LO")
    assert page.locator("figure:visible").evaluate_all("all => all.map(one => one.dataset.name)") == ["loss"]
    page.keyboard.press("Tab")
    page.keyboard.press("End")
    assert page.locator("#smoothing-told").inner_text() == "0.99"
    assert inside(page, "loss", lines) == 2 * before
    page.keyboard.press("Home")
    assert page.locator("#smoothing-told").inner_text() == "off"
    assert inside(page, "loss", lines) == before
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert inside(page, "loss", scale) == 3
    page.keyboard.press("Space")
    assert inside(page, "loss", scale) == 1
    for _ in range(2):
        page.keyboard.press("Shift+Tab")
    page.keyboard.press("Control+a")
    page.keyboard.press("Delete")
    assert page.locator("figure:visible").count() == 2


def test_a_hidden_session_has_no_line(client: Client, opened: Opened) -> None:
    """Whoever takes the mark from a session's box, by key or mouse, sees its line go from every chart, and come back."""
    for session in "AB":
        client.open(session, name=f"run {session}")
        client.rows([row(epoch, loss=epoch, other=1) for epoch in range(5)], session)
    page = opened(f"{client.url}/compare?session=A&session=B")
    page.locator("figure[data-drawn]").nth(1).wait_for()

    def shown() -> list[list[str]]:
        names = "(chart) => chart.series.map((one) => one.line.name)"
        counts = "(chart) => chart.drawn.series.length - 1"
        told = [inside(page, name, names) for name in ("loss", "other")]
        assert [len(one) for one in told] == [inside(page, name, counts) for name in ("loss", "other")]
        return told

    assert shown() == [["run A", "run B"]] * 2
    page.get_by_label("Show run A").focus()
    page.keyboard.press("Space")
    assert shown() == [["run B"]] * 2
    page.get_by_label("Show run B").uncheck()
    assert shown() == [[], []]
    page.get_by_label("Show run A").check()
    assert shown() == [["run A"]] * 2


@pytest.mark.parametrize("path", ["/models/S1", "/compare?session=S1&session=S2"])
def test_a_chart_that_cannot_be_fetched_says_so_and_comes_back(
    client: Client, opened: Opened, watched: Watched, path: str
) -> None:
    """Its place tells what the hub answered; it is asked for again, ever more seldom, until it comes, and then is whole."""
    watched.forgiven = ["503", "preload"]
    for session in ("S1", "S2"):
        client.open(session, epochs=9)
        client.rows(losses(range(3)), session)
    page = opened("about:blank")
    page.add_init_script(HURRIED)
    page.route(POINTS, lambda route: route.fulfill(status=503, body="no"))
    page.goto(client.url + path)
    page.locator("html[data-waits='3']").wait_for()
    page.get_by_text("These points could not be fetched: the hub answered 503. It is tried again.").wait_for()
    assert page.locator("figure[data-drawn]").count() == 0
    page.unroute(POINTS)
    page.evaluate("window.hurry()")
    for line in drawn(page, "loss", 3 * max(1, path.count("session="))):
        assert [x for x, _ in line] == [0, 1, 2]
    assert page.locator(".trouble").count() == 0
    assert page.evaluate("window.waits.slice(0, 3)") == [1000, 2000, 4000]


def test_finer_points_that_cannot_be_fetched_are_told(
    client: Client, opened: Opened, watched: Watched
) -> None:
    """A closer look that fails leaves the chart as it was and says so; the next one that succeeds takes the words away."""
    watched.forgiven = ["503"]
    client.open()
    client.rows([row(epoch, loss=epoch) for epoch in range(4000)])
    page = opened(f"{client.url}/models/S1")
    page.locator("figure[data-drawn]").wait_for()
    page.route(POINTS, lambda route: route.fulfill(status=503, body="no"))
    page.locator("figure").focus()
    page.keyboard.press("+")
    page.get_by_text("The finer points could not be fetched: the hub answered 503. Zoom again.").wait_for()
    assert page.locator("figure").get_attribute("data-points") == "1000"
    page.unroute(POINTS)
    for _ in range(3):
        page.keyboard.press("+")
    low, high = shown_range(page, "loss")
    # All rows of the stretch, and one on either side.
    count = math.floor(high) - math.ceil(low) + 3
    page.locator(f"figure:not([data-failed])[data-points='{count}']").wait_for()
    assert page.locator(".trouble").count() == 0


def test_a_comparison_tells_of_sessions_that_are_gone(client: Client, opened: Opened) -> None:
    """An address that names a removed session shows the others, and says that one of them is not here any more."""
    for session in ("S1", "S2", "S3"):
        client.open(session, name=f"run {session}")
        client.rows(losses(range(3)), session)
    address = f"{client.url}/compare?session=S1&session=S2&session=S3"
    page = opened(address)
    page.locator("figure[data-drawn]").wait_for()
    assert page.locator(".condition").count() == 0
    client.http.delete(f"{client.url}/v1/models/S2", timeout=30).raise_for_status()
    page.goto(address)
    page.get_by_text("1 of the sessions that this address names is not here any more.").wait_for()
    names = "(chart) => chart.series.map((one) => one.line.name)"
    page.locator("figure[data-drawn]").wait_for()
    assert inside(page, "loss", names) == ["run S1", "run S3"]


def test_charts_that_may_be_old_say_so(
    client: Client, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the disk takes no copy for charts, both pages draw what was laid out before and tell that rows may be missing."""
    client.open(epochs=9)
    client.rows(losses(range(3)))
    words = "they may lack the newest rows"
    page = opened(f"{client.url}/models/S1")
    drawn(page, "loss", 3)
    assert page.get_by_text(words).count() == 0

    def failing(*_arguments: object) -> None:
        raise StorageError("cannot write curves.sqlite: database or disk is full")

    monkeypatch.setattr("hubstate.server.curves.Curves.lay_out", failing)
    client.rows(losses(range(3, 5)))
    for path in ("/models/S1", "/compare?session=S1"):
        page.goto(client.url + path)
        page.get_by_text(words).wait_for()
        drawn(page, "loss", 3)
    page.goto(f"{client.url}/models/S1")
    assert page.locator("[data-part=rows] tbody tr").count() == 5
