// The page of one session: its parts change as the stream tells, its charts grow.
import { Chart, Tools } from "./charts.js";
import { Stream, replace } from "./live.js";

const page = document.getElementById("session");
const grid = document.getElementById("charts");

// Every chart by the number of its curve; for whoever looks from the browser's console, too.
export const charts = new Map();
const tools = new Tools(charts);

// -- points: what several charts want at once is asked for at once, a few at a time so that the first is soon there --

const AT_ONCE = 6;
let wanted = [];

async function fetched(address) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(`the hub answered ${answer.status}`);
  return (await answer.json()).curves;
}

// The first charts' points were on their way before this script was: the page's head names them.
const early = new Map();
if (grid.dataset.first) {
  const coming = fetched(grid.dataset.first);
  const curves = new URLSearchParams(grid.dataset.first.split("?")[1]).getAll("curve");
  for (const curve of curves) early.set(curve, coming.then((told) => told[curve]));
}

function wholeCurve(curve, parts) {
  if (early.has(curve)) {
    const coming = early.get(curve);
    early.delete(curve); // whoever asks again wants what is there by then
    return coming;
  }
  return new Promise((resolve, reject) => {
    if (wanted.length === 0) queueMicrotask(() => ask(parts));
    wanted.push({ curve, resolve, reject });
  });
}

async function ask(parts) {
  const all = wanted;
  wanted = [];
  for (let at = 0; at < all.length; at += AT_ONCE) {
    const some = all.slice(at, at + AT_ONCE);
    const query = new URLSearchParams(some.map((one) => ["curve", one.curve]));
    query.set("parts", parts);
    fetched(`${page.dataset.points}?${query}`).then(
      (curves) => some.forEach((one) => one.resolve(curves[one.curve])),
      (failure) => some.forEach((one) => one.reject(failure)),
    );
  }
}

async function points(curve, low, high, parts) {
  if (low === null) return wholeCurve(curve, parts);
  const query = new URLSearchParams({ curve, from: low, to: high, parts });
  return (await fetched(`${page.dataset.points}?${query}`))[curve];
}

// An attempt is a line of its own: it may begin where an earlier one was taken back to.
function linesOf(curve) {
  if (!curve) return [];
  return curve.attempts.map(([begin, attempt], n) => {
    const end = curve.attempts[n + 1]?.[0] ?? Infinity;
    const within = (xs, ys) => {
      const kept = xs.map((x, at) => [x, ys[at]]).filter(([x]) => x >= begin && x < end);
      return [kept.map((pair) => pair[0]), kept.map((pair) => pair[1])];
    };
    const one = curve.attempts.length === 1;
    const [x, y] = one ? [curve.x, curve.y] : within(curve.x, curve.y);
    const [middleX, middleY] = one
      ? [curve.middle_x, curve.middle_y]
      : within(curve.middle_x, curve.middle_y);
    const name = curve.attempts.length > 1 ? `attempt ${attempt}` : "";
    return { key: attempt, name, colour: attempt - 1, x, y, middleX, middleY };
  });
}

function adopt(figure) {
  const { curve } = figure.dataset;
  const load = async (low, high, parts) => {
    const told = await points(curve, low, high, parts);
    return { lines: linesOf(told), thinned: Boolean(told?.middle_x.length) };
  };
  charts.set(curve, new Chart(figure, load, tools));
}

grid.querySelectorAll("figure").forEach(adopt);
// At once, and not when they come into sight: what is told from now on has to find them fetching.
for (const curve of [...early.keys()]) charts.get(curve).see();
tools.filter();

// -- what is new --

function showFigures(html, again) {
  const box = document.createElement("template");
  box.innerHTML = html;
  const ranges = new Map();
  if (again) {
    for (const { figure, range } of charts.values()) ranges.set(figure.dataset.name, range);
    for (const chart of charts.values()) chart.close();
    charts.clear();
    grid.replaceChildren();
  }
  for (const figure of box.content.querySelectorAll("figure")) {
    if (charts.has(figure.dataset.curve)) continue;
    // By name, as the hub sorts them.
    const after = [...grid.children].find((other) => other.dataset.name > figure.dataset.name);
    grid.insertBefore(figure, after ?? null);
    adopt(figure);
    charts.get(figure.dataset.curve).range = ranges.get(figure.dataset.name) ?? null; // where somebody looks they stay
  }
  document.getElementById("no-metrics").hidden = charts.size > 0;
  tools.filter();
}

function take(news) {
  for (const [name, html] of Object.entries(news.parts ?? {})) {
    const element = page.querySelector(`[data-part="${name}"]`);
    if (element) replace(element, html);
  }
  if (!news.curves) return;
  const { figures, again, points: tails } = news.curves;
  const known = new Set(charts.keys());
  if (figures) showFigures(figures, again);
  for (const [curve, tail] of Object.entries(tails ?? {})) {
    // A chart that came with this event fetches its points itself, these among them.
    if (known.has(curve)) charts.get(curve).append(tail);
  }
}

new Stream(page.dataset.live, page.dataset.after, take);
