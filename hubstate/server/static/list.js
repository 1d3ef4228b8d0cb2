// The list: it is filtered while one types, follows what happens, and remembers what is chosen to be compared.
import { Stream, focusOf, replace } from "./live.js";
import { showTimes } from "./times.js";

const filter = document.getElementById("filter");
const compare = document.getElementById("compare");
const chosen = new Set();
let stream = null;
let asking = null;

// -- an empty hub: the first session brings the list --

const empty = document.getElementById("nothing-yet");
if (empty) {
  new Stream(empty.dataset.live, "", (news) => {
    if (news.order.length > 0) location.reload();
  });
}

// -- another part of the list --

async function show(address, { typed = false } = {}) {
  asking?.abort();
  asking = new AbortController();
  let text;
  try {
    const answer = await fetch(address, { headers: { Accept: "text/html" }, signal: asking.signal });
    if (!answer.ok || answer.redirected) {
      location.assign(address);
      return;
    }
    text = await answer.text();
  } catch (failure) {
    if (failure.name === "AbortError") return; // something newer was asked for
    throw failure;
  }
  const there = new DOMParser().parseFromString(text, "text/html").getElementById("list");
  const here = document.getElementById("list");
  if (!there || !here) {
    location.assign(address);
    return;
  }
  const refocus = focusOf(here);
  here.replaceWith(document.adoptNode(there));
  refocus(there);
  if (typed) history.replaceState(null, "", address);
  listen();
}

function asked() {
  const told = [...new FormData(filter)].filter(([, value]) => value !== "");
  const query = new URLSearchParams(told).toString();
  return filter.getAttribute("action") + (query && `?${query}`);
}

if (filter) {
  let timer = null;
  filter.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => show(asked(), { typed: true }), 150);
  });
  filter.addEventListener("submit", (event) => {
    event.preventDefault();
    show(asked(), { typed: true });
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !event.target.closest("input, select, textarea")) {
      event.preventDefault();
      filter.elements.q.focus();
    }
  });
}

// -- what is new --

function rowOf(session) {
  return document.querySelector(`#sessions tr[data-session="${CSS.escape(session)}"]`);
}

function take(news) {
  const shown = [...document.querySelectorAll("#sessions tr")].map((row) => row.dataset.session);
  if (shown.length !== news.order.length || news.order.some((session, n) => session !== shown[n])) {
    show(location.href); // one came, went, or moved: the pager counts them, too
    return;
  }
  for (const [session, html] of Object.entries(news.rows)) {
    const box = document.createElement("template");
    box.innerHTML = html.trim();
    const [row, next] = [rowOf(session), box.content.firstElementChild];
    replace(row, next.innerHTML);
  }
  markChosen();
}

function listen() {
  stream?.close();
  const list = document.getElementById("list");
  showTimes(list);
  markChosen();
  stream = new Stream(list.dataset.live, list.dataset.after, take);
}

// -- comparing --

function markChosen() {
  for (const box of document.querySelectorAll("#sessions .pick input")) box.checked = chosen.has(box.value);
  const here = new Set([...document.querySelectorAll("#sessions .pick input")].map((box) => box.value));
  // Those on other pages of the list go along unseen.
  compare.querySelectorAll("input").forEach((input) => input.remove());
  for (const session of chosen) {
    if (here.has(session)) continue;
    const input = document.createElement("input");
    Object.assign(input, { type: "hidden", name: "session", value: session });
    compare.append(input);
  }
  const button = document.getElementById("compare-button");
  button.disabled = chosen.size < 2;
  button.textContent = chosen.size > 1 ? `Compare ${chosen.size}` : "Compare";
}

if (document.getElementById("list")) {
  document.addEventListener("change", (event) => {
    const box = event.target.closest?.(".pick input");
    if (!box) return;
    if (box.checked) chosen.add(box.value);
    else chosen.delete(box.value);
    markChosen();
  });
  for (const box of document.querySelectorAll("#sessions .pick input:checked")) chosen.add(box.value);
  listen();
}
