"""Whether a page can be read and reached: contrast, names, the way of the Tab key. Each gives what is amiss, in words."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["LEAST_CONTRAST", "faint_lines", "faint_texts", "nameless", "untold_focus"]

#: Of text to its ground, and of a line or the edge of a field to its own (WCAG 2.2, 1.4.3 and 1.4.11).
LEAST_CONTRAST, _LEAST_OF_LINES = 4.5, 3.0

_COLOURS = """
  const parts = (colour) => {
    const numbers = colour.match(/[\\d.]+(e-?\\d+)?/g).map(Number);
    const scale = colour.startsWith('color(') ? 1 : 255;
    return { rgb: numbers.slice(0, 3).map((one) => one / scale), alpha: numbers[3] ?? 1 };
  };
  const over = (top, below) => top.rgb.map((one, n) => one * top.alpha + below[n] * (1 - top.alpha));
  const light = (rgb) => {
    const [r, g, b] = rgb.map((one) => (one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (one, other) => {
    const [a, b] = [light(one), light(other)].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05);
  };
"""

#: Every text that is seen, with a contrast that is too low. In a drawing the ground is the last shape painted below it.
_FAINT = (
    """(least) => {"""
    + _COLOURS
    + """
  const ground = (element) => {
    const layers = [];
    for (let one = element; one; one = one.parentElement) {
      const colour = parts(getComputedStyle(one).backgroundColor);
      layers.push(colour);
      if (colour.alpha === 1) break;
    }
    return layers.reduceRight((below, layer) => over(layer, below), [1, 1, 1]);
  };
  const drawn = (text, svg) => {
    const box = text.getBoundingClientRect();
    const [x, y] = [box.left + box.width / 2, box.top + box.height / 2];
    let below = ground(svg);
    for (const shape of svg.querySelectorAll('rect')) {
      if (!(shape.compareDocumentPosition(text) & Node.DOCUMENT_POSITION_FOLLOWING)) break;
      const { fill } = getComputedStyle(shape);
      const at = shape.getBoundingClientRect();
      if (fill === 'none' || x < at.left || x > at.right || y < at.top || y > at.bottom) continue;
      below = over(parts(fill), below);
    }
    return below;
  };
  const found = [];
  const judge = (told, colour, below) => {
    const ratio = contrast(over(parts(colour), below), below);
    if (ratio < least) found.push(`${told.trim().slice(0, 40)}: ${ratio.toFixed(2)}, ${colour}`);
  };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let count = 0;
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    const told = texts.currentNode.textContent;
    if (!told.trim() || element.closest('noscript, :disabled, option')) continue;
    if (!element.checkVisibility({ opacityProperty: true, visibilityProperty: true })) continue;
    const svg = element.closest('svg');
    const { color, fill } = getComputedStyle(element);
    judge(told, svg ? fill : color, svg ? drawn(element, svg) : ground(element));
    count += 1;
  }
  for (const field of document.querySelectorAll('select, input[placeholder]')) {
    judge(field.name, getComputedStyle(field, field.placeholder ? '::placeholder' : null).color, ground(field));
  }
  return count > 5 ? found : [`only ${count} texts were found`];
}"""
)

#: The lines of charts on a card, and the edges of fields on what is behind them.
_FAINT_LINES = (
    """(least) => {"""
    + _COLOURS
    + """
  const probe = document.body.appendChild(document.createElement('i'));
  const shown = (name) => {
    probe.style.setProperty('color', `var(--${name})`);
    return parts(getComputedStyle(probe).color).rgb;
  };
  const lines = [...Array(10).keys()].map((n) => `s${n}`);
  const ratios = [...lines, 'field'].map((name) => [name, contrast(shown(name), shown('card'))]);
  probe.remove();
  return ratios.filter(([, ratio]) => ratio < least).map(([name, ratio]) => `--${name}: ${ratio.toFixed(2)}`);
}"""
)

_NAMELESS = re.compile(
    r"^\s*- (?:button|link|textbox|searchbox|checkbox|combobox|slider|region|figure)(?! \")[^\n]*$",
    re.MULTILINE,
)

_NUMBER = """() => {
  const all = document.querySelectorAll('a[href], button, input, select, summary, [tabindex]');
  let n = 0;
  for (const one of all) {
    if (one.disabled || one.type === 'hidden' || one.tabIndex < 0) continue;
    if (one.checkVisibility({ visibilityProperty: true })) one.dataset.stop = n++;
  }
  const scrolls = (box) => {
    const { overflowX, overflowY } = getComputedStyle(box);
    const goes = (how) => how === 'auto' || how === 'scroll';
    const wide = goes(overflowX) && box.scrollWidth > box.clientWidth + 1;
    return wide || (goes(overflowY) && box.scrollHeight > box.clientHeight + 1);
  };
  const stuck = [...document.body.querySelectorAll('*')]
    .filter((box) => box.checkVisibility() && scrolls(box))
    .filter((box) => box.dataset.stop === undefined && !box.querySelector('[data-stop]'))
    .map((box) => `no key scrolls <${box.localName} class="${box.className}">`);
  return [n, stuck];
}"""

#: The next Tab leads to the first of all, wherever the focus was.
_FROM_THE_TOP = """() => {
  document.body.tabIndex = -1;
  document.body.focus();
  document.body.removeAttribute('tabindex');
}"""

#: What has the focus, and what is amiss with the mark of it: none, out of sight, or cut by a box around it.
_FOCUSED = """() => {
  const one = document.activeElement;
  if (one.dataset.stop === undefined) return null;
  const told = `<${one.localName}> ${(one.ariaLabel ?? one.textContent ?? '').trim().slice(0, 40)}`;
  const style = getComputedStyle(one);
  const width = parseFloat(style.outlineWidth);
  const reach = width + parseFloat(style.outlineOffset);
  const box = one.getBoundingClientRect();
  const amiss = [];
  if (style.outlineStyle === 'none' || width < 2) amiss.push(`${told} has no mark`);
  if (box.bottom < 0 || box.top > innerHeight) amiss.push(`${told} is out of sight`);
  for (let around = one.parentElement; around && around !== document.body; around = around.parentElement) {
    const { overflowX, overflowClipMargin } = getComputedStyle(around);
    if (overflowX === 'visible') continue;
    const margin = overflowX === 'clip' ? parseFloat(overflowClipMargin) : 0;
    const edge = around.getBoundingClientRect();
    const cut = [edge.left - (box.left - reach), box.right + reach - edge.right, edge.top - (box.top - reach)];
    if (Math.max(...cut) > margin + 0.5) amiss.push(`the mark of ${told} is cut by <${around.localName}>`);
  }
  return [Number(one.dataset.stop), amiss];
}"""


def faint_texts(page: Any) -> list[str]:
    """Texts whose contrast is under the least."""
    found: list[str] = page.evaluate(_FAINT, LEAST_CONTRAST)
    return found


def faint_lines(page: Any) -> list[str]:
    """Colours of lines and edges whose contrast is under the least."""
    found: list[str] = page.evaluate(_FAINT_LINES, _LEAST_OF_LINES)
    return found


def nameless(page: Any) -> list[str]:
    """Controls and regions without a name, as the tree that aids read tells them."""
    return _NAMELESS.findall(page.locator("body").aria_snapshot())


def untold_focus(page: Any) -> list[str]:
    """What Tab does not reach, and what reaches it without a mark that is seen."""
    count, amiss = page.evaluate(_NUMBER)
    reached = set()
    page.evaluate(_FROM_THE_TOP)
    for _ in range(count):
        page.keyboard.press("Tab")
        told = page.evaluate(_FOCUSED)
        if told is not None:
            reached.add(told[0])
            amiss += told[1]
    unreached = "[...document.querySelectorAll('[data-stop]')].map((one) => one.outerHTML.slice(0, 90))"
    everything = page.evaluate(unreached)
    return amiss + [f"Tab does not reach {everything[n]}" for n in sorted(set(range(count)) - reached)]
