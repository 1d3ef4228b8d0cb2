"""What is drawn opens in the programs that people open it with: a browser, Mermaid, Graphviz.

Each test is skipped, with the reason, where its program is missing: Debian's `chromium`, `graphviz` and `npm`.
"""

from __future__ import annotations

import hashlib
import html
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import zlib
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from pictures import Box, overlapping
from walks import WALKS

from hubstate.diagram import render, render_svg
from hubstate.states import State

pytestmark = pytest.mark.renderer

#: What GitHub and others draw Mermaid with: its one file for browsers, by its SHA-256.
MERMAID = "11.17.2"
MERMAID_SHA256 = "581ed7d74bd9048d0e3a91363927d72ef22942d7722546b27f7cc29e35390eb8"
SHOWN = ["machine", "training", "done", "aborted", "refused", "crowded"]


def program(*names: str, package: str) -> str:
    """The first of these programs that this machine has; else the test is skipped, naming Debian's package."""
    for name in names:
        if found := shutil.which(name):
            return found
    pytest.skip(f"this machine has no {names[0]}: install Debian's package {package} to run this test")


class Chromium:
    """A headless browser without a network. `dark`: it belongs to somebody who prefers dark pages."""

    def __init__(self, folder: Path) -> None:
        self._program = program("chromium", "chromium-browser", "google-chrome", package="chromium")
        self._folder = folder

    def _run(self, page: Path, *options: str, dark: bool) -> str:
        command = [
            self._program,
            "--headless",
            "--no-sandbox",  # it opens nothing but what these tests wrote, and may run as root
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={self._folder / 'profile'}",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            "--virtual-time-budget=20000",
            *options,
            page.as_uri(),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=240)
        return done.stdout

    def told(self, body: str, script: str, *, dark: bool = False) -> object:
        """Opens a page with this body and tells what the script's expression (a promise, perhaps) comes to."""
        page = self._folder / "page.html"
        page.write_text(
            f'<!doctype html><meta charset="utf-8"><body>{body}<pre id="told"></pre><script>'
            f"(async () => {{ let told; try {{ told = {{right: await ({script})}} }} "
            "catch (error) { told = {wrong: String(error)} }"
            'document.getElementById("told").textContent = JSON.stringify(told) })()</script>',
            encoding="utf-8",
        )
        (text,) = re.findall(
            r'<pre id="told">(.*?)</pre>', self._run(page, "--dump-dom", dark=dark), re.DOTALL
        )
        told = json.loads(html.unescape(text))
        assert "wrong" not in told, told
        return told["right"]

    def screenshot(self, picture: Path, size: tuple[int, int], *, dark: bool = False) -> bytes:
        """A PNG of a file, opened by itself."""
        target = self._folder / "screen.png"
        options = [f"--window-size={size[0]},{size[1]}", f"--screenshot={target}"]
        self._run(picture, *options, dark=dark)
        return target.read_bytes()


@pytest.fixture
def chromium(tmp_path: Path) -> Chromium:
    """A browser of this test's own."""
    return Chromium(tmp_path)


# -- the svg in a browser --------------------------------------------------------------------------------

FONTS = ["", "DejaVu Sans", "Liberation Sans", "sans-serif", "serif"]
#: For each font (none: the picture's own) the boxes that the browser gives to words, states and the panel, as
#: (what, left, top, right, bottom).
BOXES = f"""{json.dumps(FONTS)}.map(font => {{
  const svg = document.querySelector("svg");
  if (font) svg.setAttribute("font-family", font);
  const box = (what, one) => {{ const at = one.getBoundingClientRect();
    return [what, at.left, at.top, at.right, at.bottom] }};
  return {{
    words: [...svg.querySelectorAll("text")].map(one => box(one.textContent, one)),
    states: [...svg.querySelectorAll('g[id^="state-"], g.shared')].map(one => ({{
      box: box(one.id || "shared", one.querySelector(".box")),
      words: [...one.querySelectorAll("text")].map(text => box(text.textContent, text)) }})),
    moves: [...svg.querySelectorAll(".move text")].map(one => box(one.textContent, one)),
    whole: box("picture", svg),
  }} }})"""


@pytest.mark.parametrize("walk", SHOWN)
def test_a_browser_lays_no_words_on_others(chromium, walk):
    """In the browser's own fonts, narrow and wide ones, no words overlap and none leave their box."""
    drawn = render("svg", WALKS[walk], title="digits of a long name " * 5)
    told = chromium.told(drawn, BOXES)
    assert len(told) == len(FONTS)
    for seen in told:
        check_boxes(seen)


def check_boxes(seen: dict) -> None:
    """What the browser tells of one font."""
    assert len(seen["states"]) == len(State) + 1
    words = [shrunk(one) for one in seen["words"]]
    assert len(words) > 40
    assert overlapping(words) == []
    whole = Box(*seen["whole"])
    assert [one.what for one in words if not whole.holds(one)] == []
    for state in seen["states"]:
        around = Box(*state["box"])
        assert [text[0] for text in state["words"] if not around.holds(shrunk(text))] == []
    beside = [shrunk(one) for one in seen["moves"]]
    states = [Box(*state["box"]) for state in seen["states"]]
    assert [(text.what, box.what) for text in beside for box in states if text.meets(box)] == []


def shrunk(box: list) -> Box:
    """The box of some words as a browser gives it, without the room that its font keeps above and below letters."""
    what, left, top, right, bottom = box
    spare = (bottom - top) * 0.12
    return Box(what, left, top + spare, right, bottom - spare)


#: For every piece of text its colour and that of what lies behind it, as computed.
COLOURS = """[...document.querySelectorAll("svg text")].flatMap(text => {
  const group = text.closest(".state, .shared");
  const behind = (group && group.querySelector(".box")) || document.querySelector(".ground");
  const pieces = text.children.length ? [...text.children] : [text];
  return pieces.map(one => [one.textContent, getComputedStyle(one).fill, getComputedStyle(behind).fill]) })"""


def luminance(colour: str) -> float:
    """How bright a colour is, between 0 and 1, as WCAG reckons it."""
    parts = [int(part) / 255 for part in re.fullmatch(r"rgb\((\d+), (\d+), (\d+)\)", colour).groups()]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("walk", SHOWN)
def test_every_word_can_be_read_in_light_and_in_dark(chromium, walk, dark):
    """Each piece of text stands out from what is behind it by 4.5 : 1 at least, whichever scheme is preferred."""
    told = chromium.told(render("svg", WALKS[walk], title="digits"), COLOURS, dark=dark)
    grounds = set()
    for text, colour, behind in told:
        brighter, darker = sorted((luminance(colour), luminance(behind)), reverse=True)
        assert (brighter + 0.05) / (darker + 0.05) >= 4.5, (text, colour, behind)
        grounds.add(behind)
    assert all((luminance(behind) < 0.2) == dark for behind in grounds)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_browser_shows_the_file(chromium, tmp_path, dark):
    """The file opened by itself fills a screen of its size, with its ground in its middle tone and words on it."""
    file = tmp_path / "machine.svg"
    file.write_text(render("svg"), encoding="utf-8")
    root = ET.fromstring(file.read_text())
    size = int(root.get("width", "")), int(root.get("height", ""))
    wide, high, pixels = decoded(chromium.screenshot(file, size, dark=dark))
    assert (wide, high) == size
    colours: dict[tuple[int, ...], int] = {}
    for row in pixels:
        for x in range(0, len(row), 3):
            colour = tuple(row[x : x + 3])
            colours[colour] = colours.get(colour, 0) + 1
    ground = max(colours, key=colours.__getitem__)
    assert ground == ((13, 17, 23) if dark else (255, 255, 255))
    assert len(colours) > 50


def decoded(png: bytes) -> tuple[int, int, list[bytes]]:
    """Width, height, and rows of RGB of a PNG of 8 bits a channel."""
    at, data, wide, high, channels = 8, b"", 0, 0, 0
    while at < len(png):
        length, kind = struct.unpack(">I4s", png[at : at + 8])
        body = png[at + 8 : at + 8 + length]
        if kind == b"IHDR":
            wide, high, depth, colour = struct.unpack(">IIBB", body[:10])
            assert depth == 8
            channels = {2: 3, 6: 4}[colour]
        data += body if kind == b"IDAT" else b""
        at += length + 12
    raw, rows, stride = zlib.decompress(data), [], wide * channels
    before = bytes(stride)
    for y in range(high):
        kind, line = raw[y * (stride + 1)], bytearray(raw[y * (stride + 1) + 1 : (y + 1) * (stride + 1)])
        for x in range(stride):
            left = line[x - channels] if x >= channels else 0
            corner = before[x - channels] if x >= channels else 0
            guess = (0, left, before[x], (left + before[x]) // 2, _paeth(left, before[x], corner))[kind]
            line[x] = (line[x] + guess) & 255
        before = bytes(line)
        rows.append(b"".join(before[x : x + 3] for x in range(0, stride, channels)))
    return wide, high, rows


def _paeth(left: int, up: int, corner: int) -> int:
    guess = left + up - corner
    return min((left, up, corner), key=lambda one: abs(guess - one))


def test_a_page_recolours_one_state(chromium):
    """A page whose stylesheet knows the classes colours the bare picture, and one state by adding a class to it."""
    style = ".state .box { fill: rgb(1, 2, 3) } .state.late .box { fill: rgb(4, 5, 6) }"
    colours = """(() => {
      document.getElementById("state-timing").classList.add("late");
      return [...document.querySelectorAll('g[id^="state-"]')].map(
        one => [one.id, getComputedStyle(one.querySelector(".box")).fill]) })()"""
    told = chromium.told(f"<style>{style}</style>{render_svg(style=False)}", colours)
    assert dict(told) == {
        f"state-{state.value}": "rgb(4, 5, 6)" if state is State.TIMING else "rgb(1, 2, 3)" for state in State
    }


# -- mermaid ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def mermaid_script() -> Path:
    """Mermaid's file for browsers, of one version, kept beside the packages of this Python."""
    kept = Path(sys.prefix) / f"mermaid-{MERMAID}.min.js"
    if not kept.is_file():
        _fetch(kept)
    assert hashlib.sha256(kept.read_bytes()).hexdigest() == MERMAID_SHA256
    return kept


def _fetch(kept: Path) -> None:
    npm = program("npm", package="npm")
    folder = kept.with_suffix(f".{os.getpid()}")
    folder.mkdir()
    try:
        command = [npm, "pack", "--silent", f"mermaid@{MERMAID}"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=240)
        packed = list(folder.glob("*.tgz"))
        if done.returncode or not packed:
            pytest.skip(f"npm cannot fetch mermaid {MERMAID} here: {done.stderr.strip()[-300:]}")
        with tarfile.open(packed[0]) as archive:
            member = archive.extractfile("package/dist/mermaid.min.js")
            assert member
            (folder / "script").write_bytes(member.read())
        (folder / "script").replace(kept)
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize("walk", SHOWN)
def test_mermaid_reads_and_draws_it(chromium, mermaid_script, walk):
    """Mermaid's own parser accepts the diagram, and what it draws holds each state once and none beside them."""
    drawn = render("mermaid", WALKS[walk], title="digits")
    script = f"""(async () => {{
      mermaid.initialize({{startOnLoad: false}});
      const parsed = await mermaid.parse({json.dumps(drawn)});
      const {{svg}} = await mermaid.render("drawn", {json.dumps(drawn)});
      document.getElementById("here").innerHTML = svg;
      const nodes = [...document.querySelectorAll("#here .node")].map(one => {{
        const at = one.getBoundingClientRect();
        return [one.querySelector("b")?.textContent ?? "", at.left, at.top, at.right, at.bottom] }});
      return {{kind: parsed.diagramType, nodes}} }})()"""
    body = f'<div id="here" style="width: 840px"></div><script src="{mermaid_script.as_uri()}"></script>'
    told = chromium.told(body, script)
    assert told["kind"] == "stateDiagram"
    boxes = [Box(*node) for node in told["nodes"]]
    for state in State:
        assert [box.what for box in boxes].count(state.value) == 1
    named = [box for box in boxes if box.what]
    assert len(named) == len(State) + 1  # the note
    assert [(a.what, b.what) for a, b in combinations(named, 2) if a.meets(b)] == []


# -- dot -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("walk", WALKS)
def test_graphviz_reads_and_draws_it(walk):
    """Graphviz accepts the digraph without a warning, and draws each state as one node."""
    dot = program("dot", package="graphviz")
    drawn = render("dot", WALKS[walk], title='digits <b> & "more"')
    done = subprocess.run(
        [dot, "-Tsvg"], input=drawn, capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    nodes = re.findall(r'class="node">\n<title>(\w+)</title>', done.stdout)
    assert [node for node in nodes if node in {state.value for state in State}] == [
        state.value for state in State
    ]
    assert "shared" in nodes
