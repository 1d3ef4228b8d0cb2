"""`hubstate show` as a person has it: a real training goes on, and its chart grows in the open page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import hubstate
from hubstate import overview, settings
from hubstate.show import showing

pytestmark = pytest.mark.renderer


def test_a_training_is_seen_while_it_goes_on(opened: Callable[..., Any]) -> None:
    """Rows that are written while the page is open come to its chart, and so does the end; nothing is loaded again."""
    found = settings.resolve()
    session = hubstate.start("digits", epochs=4, mode="offline")
    session.log({"loss": 1.0}, epoch=0)
    with showing(lambda: overview.folders(found), pause=0.05) as hub:
        page = opened(hub.url)
        page.get_by_role("link", name="digits").click()
        page.locator("figure[data-name='loss'][data-points='1']").wait_for()
        page.evaluate("window.same = true")
        for epoch in (1, 2, 3):
            session.log({"loss": 1 / (epoch + 1)}, epoch=epoch)
        page.locator("figure[data-name='loss'][data-points='4']").wait_for()
        session.finish()
        page.locator(".facts .mark.finished").wait_for()
        assert page.get_by_text("on this machine alone").count() == 1
        assert page.get_by_role("button", name="Stop this training").count() == 0
        assert page.evaluate("window.same")
        page.close()  # before the hub goes, which a page that is open complains of


def test_an_empty_machine_is_told_how_to_begin(opened: Callable[..., Any]) -> None:
    """Without any session the page says how to record one and how to import; one that comes is seen without a click."""
    found = settings.resolve()
    with showing(lambda: overview.folders(found), pause=0.05) as hub:
        page = opened(hub.url)
        page.get_by_text("hubstate import DIR").wait_for()
        assert page.get_by_role("link", name="Keys").count() == 0
        with hubstate.start("digits", mode="offline") as session:
            session.log({"loss": 1.0})
        page.get_by_role("link", name="digits").wait_for()
        page.close()
