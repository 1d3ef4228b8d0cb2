"""How soon a page shows its charts, in a browser: a long session, and many long sessions in one chart.

    python bench/pages.py [RUNS [ROWS [SESSIONS]]]

The data: SESSIONS sessions (20) of ROWS rows (100,000) with twenty metrics each, in the database of a real hub, which
runs as a process of its own. Headless Chromium (Debian's, driven by Playwright) opens the pages, each time with an empty
cache. Times are the browser's own, from the beginning of the navigation until a chart was drawn.

*Cold* is the first look at a session since the hub was made: its columns (`curves.sqlite`) are laid out meanwhile.

The data are made in a folder that is removed; `HUBSTATE_BENCH_FOLDER=DIR` keeps them, and those of the others, for the
next run.

With `HUBSTATE_BENCH_PEERS=PYTHON`, an interpreter that has tensorboard and trackio, the same values are written by their
own writers, and their pages are measured beside, once their servers have read all. TensorBoard thins out when it reads
(1,000 points of each line); trackio sends every page all points, up to its own limit.
"""

from __future__ import annotations

import hashlib
import math
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hub import serving
from measure import machine
from playwright.sync_api import Browser, Page, sync_playwright
from sqlalchemy import insert

from hubstate.server import keys, rows, schema, sessions
from hubstate.server.store import Store

METRICS = 20
#: When the first chart was drawn, and when all that can be seen were, in ms.
DRAWN = """() => {
  const all = [...document.querySelectorAll('figure')];
  const seen = all.filter((one, n) => n === 0 || one.getBoundingClientRect().top < innerHeight);
  const marks = performance.getEntriesByName('chart-drawn').map((one) => one.startTime);
  return marks.length >= seen.length && seen.length ? [Math.min(...marks), Math.max(...marks)] : null;
}"""


def values(session: int, count: int) -> Iterator[dict[str, float]]:
    chance = random.Random(session)
    for n in range(count):
        yield {
            f"metric/{k:02}": math.exp(-n / count * (k + 1)) + chance.random() / 10 for k in range(METRICS)
        }


def fill(folder: Path, count: int, many: int) -> None:
    """Long sessions, and a thousand short ones for the list."""
    store = Store(folder)
    for session in range(many):
        with store.database.writing() as connection:
            told = {
                "name": f"long {session}",
                "epochs": None,
                "project": None,
                "group": None,
                "tags": [],
                "config": {},
            }
            sessions.new_attempt(
                connection,
                keys.DEFAULT_OWNER,
                f"S{session}",
                attempt=1,
                first_epoch=0,
                body={},
                told=told,
                now=0.0,
            )
            new = (
                rows.RowIn(1, n // 1000, n, False, float(n), metrics, {})
                for n, metrics in enumerate(values(session, count))
            )
            rows.keep(connection, f"S{session}", new, 0.0)
    with store.database.writing() as connection:
        for session in range(1000):
            told = {
                "name": f"short {session}",
                "epochs": 9,
                "project": None,
                "group": None,
                "tags": [],
                "config": {},
            }
            sessions.new_attempt(
                connection,
                keys.DEFAULT_OWNER,
                f"T{session}",
                attempt=1,
                first_epoch=0,
                body={},
                told=told,
                now=1.0,
            )
        connection.execute(insert(schema.rows), [
            {"session": f"T{session}", "attempt": 1, "epoch": epoch, "step": None, "final": False, "at": 1.0,
             "metrics": {"loss": 1.0}, "nonfinite": {}, "digest": "x"}
            for session in range(1000) for epoch in range(5)
        ])  # fmt: skip
    store.close()


def opened(browser: Browser, address: str, look: Callable[[Page], Any]) -> Any:
    context = browser.new_context(viewport={"width": 1360, "height": 900})
    page = context.new_page()
    page.goto(address)
    try:
        return look(page)
    finally:
        context.close()


def drawn(page: Page) -> tuple[float, float]:
    while (told := page.evaluate(DRAWN)) is None:
        page.wait_for_timeout(20)
    return told[0], told[1]


def loaded(page: Page) -> tuple[float, float]:
    """When the list stands, and how long it takes until it is filtered."""
    stands = page.evaluate("performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd")
    page.locator("#link-state[data-state=live]").wait_for()
    begin = page.evaluate("performance.now()")
    page.locator("input[type=search]").fill("short 999")
    page.locator("#sessions tr").nth(1).wait_for(state="detached")
    return stands, page.evaluate("performance.now()") - begin


def all_made(page: Page) -> None:
    """Waits until the page of many sessions waits for none of them."""
    page.locator("#overlays:not([data-waiting]) figure[data-drawn]").first.wait_for(timeout=600_000)


def told(times: list[float]) -> str:
    return f"{statistics.median(times):.0f} ({min(times):.0f} to {max(times):.0f})"


def line(what: str, found: list[tuple[float, float]]) -> None:
    first, last = zip(*found, strict=True)
    print(f"| {what} | {told(list(first))} | {told(list(last))} |", flush=True)


# -- the others ------------------------------------------------------------------------------------------

WRITE_TENSORBOARD = """
import sys
sys.path.insert(0, sys.argv[1])
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from bench_values import values

for session in range(int(sys.argv[3])):
    writer = EventFileWriter(f"{sys.argv[1]}/logs/run{session}")
    for n, metrics in enumerate(values(session, int(sys.argv[2]))):
        told = [Summary.Value(tag=name, simple_value=value) for name, value in metrics.items()]
        writer.add_event(Event(step=n, wall_time=n, summary=Summary(value=told)))
    writer.close()
"""
WRITE_TRACKIO = """
import sys
sys.path.insert(0, sys.argv[1])
import trackio
from bench_values import values

for session in range(int(sys.argv[3])):
    trackio.init(project="bench", name=f"run{session}")
    for n, metrics in enumerate(values(session, int(sys.argv[2]))):
        trackio.log(metrics, step=n)
    trackio.finish()
"""


def written(python: str, writer: str, folder: Path, count: int, many: int) -> dict[str, str]:
    """Writes the values with somebody else's writer, unless an earlier run did; the environment for its server."""
    text = Path(__file__).read_text(encoding="utf-8")
    values_text = text[text.index("def values(") : text.index("def fill(")]
    head = f"from __future__ import annotations\nimport math, random\nMETRICS = {METRICS}\n"
    (folder / "bench_values.py").write_text(head + values_text, encoding="utf-8")
    environment = {**os.environ, "TRACKIO_DIR": str(folder / "trackio"), "GRADIO_ANALYTICS_ENABLED": "False"}
    done = folder / f"written-{hashlib.sha256(writer.encode()).hexdigest()[:8]}"
    if not done.exists():
        command = [python, "-c", writer, str(folder), str(count), str(many)]
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
        done.touch()
    return environment


@contextmanager
def running(command: list[str], environment: dict[str, str], ready: Callable[[], bool]) -> Iterator[None]:
    """A server, from when it is ready on."""
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 1200
        while not ready():
            if time.monotonic() > deadline or process.poll() is not None:
                sys.exit(f"{command[:3]} did not get ready")
            time.sleep(0.5)  # between two looks whether it is ready
        yield
    finally:
        process.terminate()
        process.wait()


def fetched(address: str) -> bytes:
    try:
        with urllib.request.urlopen(address, timeout=120) as answer:
            body: bytes = answer.read()
    except OSError:
        return b""
    return body


def tensorboard_at(page: Page) -> tuple[float, float]:
    """When the points of the first chart were there, and those of all that it asked for; it draws after that."""
    page.locator("line-chart").first.wait_for(timeout=300_000)
    page.wait_for_load_state("networkidle")
    told = page.evaluate(
        "performance.getEntriesByType('resource').filter((one) => one.name.includes('timeSeries')).map((one) => one.responseEnd)"
    )
    return min(told), max(told)


def trackio_at(page: Page) -> tuple[float, float]:
    """When the first chart was there, and when there were nine: what it draws in sight and just below."""
    first: float | None = None
    while True:
        count, now = page.evaluate("[document.querySelectorAll('canvas.marks').length, performance.now()]")
        first = now if first is None and count else first
        if first is not None and count >= 9:
            return first, now
        page.wait_for_timeout(20)


def others(browser: Browser, python: str, place: Path, runs: int, count: int, many: int) -> None:
    """The pages of TensorBoard and trackio over the same values."""
    port = "16006"
    address = f"http://127.0.0.1:{port}/"
    what = "a session" if many == 1 else f"{many} sessions in each chart"

    def tensorboard_read_all() -> bool:
        if fetched(f"{address}data/plugin/scalars/tags").count(b"metric/") < METRICS * many:
            return False
        last = fetched(f"{address}data/plugin/scalars/scalars?run=run{many - 1}&tag=metric/{METRICS - 1}")
        return f" {count - 1},".encode() in last

    environment = written(python, WRITE_TENSORBOARD, place, count, many)
    command = [
        python,
        "-m",
        "tensorboard.main",
        "--logdir",
        str(place / "logs"),
        "--port",
        port,
        "--load_fast",
        "false",
    ]
    with running(command, environment, tensorboard_read_all):
        line(
            f"TensorBoard, {what}",
            [opened(browser, f"{address}#timeseries", tensorboard_at) for _ in range(runs)],
        )
    environment = written(python, WRITE_TRACKIO, place, count, many)
    command = [
        python,
        "-c",
        "import trackio, threading; trackio.show(project='bench', block_thread=True, open_browser=False)",
    ]
    environment |= {"GRADIO_SERVER_PORT": port}
    with running(command, environment, lambda: bool(fetched(f"{address}?project=bench"))):
        line(
            f"trackio, {what}", [opened(browser, f"{address}?project=bench", trackio_at) for _ in range(runs)]
        )


def main(runs: int, count: int, many: int) -> None:
    program = shutil.which("chromium") or sys.exit("bench/pages.py needs Debian's package chromium")
    kept = os.environ.get("HUBSTATE_BENCH_FOLDER")
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as driver:
        folder = Path(kept or temporary)
        if not (folder / "hub").exists():
            fill(folder / "hub", count, many)
        for path in (folder / "hub").glob("curves.sqlite*"):
            path.unlink()
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        print(
            f"{machine()}; {runs} runs; {many} sessions of {count:,} rows with {METRICS} metrics; ms, median (min to max)"
        )
        print("\n| page | first chart | all charts in sight |\n|---|---|---|")
        cold = []
        for session in range(min(runs, many)):
            with serving(folder / "hub") as address:
                opened(browser, f"{address}/keys", lambda page: page.title())
                cold.append(opened(browser, f"{address}/models/S{session}", drawn))
        line("a session, cold", cold)
        with serving(folder / "hub") as address:
            line("a session", [opened(browser, f"{address}/models/S0", drawn) for _ in range(runs)])
            query = "&".join(f"session=S{session}" for session in range(many))
            opened(browser, f"{address}/", loaded)  # the list makes the columns of what it shows
            opened(browser, f"{address}/compare?{query}", all_made)
            line(
                f"{many} sessions in each chart",
                [opened(browser, f"{address}/compare?{query}", drawn) for _ in range(runs)],
            )
            found = [opened(browser, f"{address}/", loaded) for _ in range(runs)]
        python = os.environ.get("HUBSTATE_BENCH_PEERS")
        for number in sorted({1, many}) if python else ():
            place = folder / f"others{number}"
            place.mkdir(exist_ok=True)
            others(browser, python or "", place, runs, count, number)
        print(f"\nThe list of {1000 + many:,} sessions stands after {told([a for a, _ in found])} ms, and is filtered "
              f"{told([b for _, b in found])} ms after a letter was typed (150 of them it waits for more letters).")  # fmt: skip
        browser.close()


if __name__ == "__main__":
    arguments = [int(one) for one in sys.argv[1:]] + [5, 100_000, 20][len(sys.argv) - 1 :]
    main(*arguments)
