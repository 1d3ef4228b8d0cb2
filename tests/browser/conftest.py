"""The pages in a real browser: Debian's chromium, driven by Playwright, against a hub on loopback.

Every page that a test opens is watched: a line on the console that is an error, an accident in a script, or a request to
anybody but the hub fails the test, whatever it was about.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "server"))

from hub_client import Client
from watching import Watched

from hubstate.server.running import RunningHub, running

playwright = pytest.importorskip("playwright.sync_api", reason="scripts/setup dev brings Playwright")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A headless browser, for the tests of one module: Playwright's loop must not run beside another one's."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("this machine has no chromium: install Debian's package chromium to run these tests")
    home = tmp_path_factory.mktemp("browser")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=program,
            # It opens nothing but what these tests made, and may run as root.
            args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
            env={**os.environ, "HOME": str(home)},
        )
        yield browser
        browser.close()


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """The hub's folder."""
    return tmp_path / "hub"


@pytest.fixture
def hub(data_dir: Path) -> Iterator[RunningHub]:
    """A running hub without any key."""
    with running(data_dir) as hub:
        yield hub


@pytest.fixture
def client(hub: RunningHub) -> Iterator[Client]:
    """Says to that hub what trainings say."""
    client = Client(hub.url)
    yield client
    client.http.close()


@pytest.fixture
def watched() -> Iterator[Watched]:
    """What happened; it has to have been clean."""
    watched = Watched()
    yield watched
    wrong = [one for one in watched.wrong if not any(part in one for part in watched.forgiven)]
    assert not wrong
    hosts = {urlsplit(request.url).hostname for request in watched.requests}
    assert hosts <= {"127.0.0.1"}, "a page asked somebody else"


@pytest.fixture
def opened(browser: Any, watched: Watched) -> Iterator[Callable[..., Any]]:
    """Opens an address in a new window of the browser, with Playwright's options for one."""
    contexts = []

    def open_(url: str, **options: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        watched.follow(page)
        page.goto(url)
        return page

    yield open_
    for context in contexts:
        context.close()
