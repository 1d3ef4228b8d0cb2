// Several sessions in the same charts.
import { Chart, Tools } from "./charts.js";

const grid = document.getElementById("overlays");
const rows = [...document.querySelectorAll("#compared tbody tr")];
const names = rows.map((row) => row.querySelector(".title").textContent.trim());
const hidden = new Set();

export const charts = new Map();
const tools = new Tools(charts);

// One chart after the other: asked for all at once they share the hub's one interpreter, and the first comes with the last.
let turn = Promise.resolve();
function inTurn(ask) {
  const mine = turn.then(ask);
  turn = mine.catch(() => {}); // who asked hears of it; the next one has its turn all the same
  return mine;
}

// The first chart's points were on their way before this script was: the page's head names them.
let early = grid?.dataset.first;

function adopt(figure, number) {
  // `PLACE:CURVE` for each session that has this metric, by its place in the table above.
  const told = figure.dataset.of.trim().split(" ").map((one) => one.split(":").map(Number));
  const load = async (low, high, parts) => {
    const query = new URLSearchParams(told.map(([place, curve]) => ["of", `${rows[place].dataset.session}:${curve}`]));
    // A chart of many lines has no more pixels than one of a single line.
    query.set("parts", Math.max(150, Math.round(parts / Math.sqrt(told.length))));
    if (low !== null) {
      query.set("from", low);
      query.set("to", high);
    }
    const address = early ?? `${grid.dataset.points}?${query}`;
    early = undefined;
    const answer = await inTurn(() => fetch(address));
    if (!answer.ok) throw new Error(`the hub answered ${answer.status}`);
    const { curves } = await answer.json();
    const lines = curves.flatMap((curve, n) => {
      if (!curve) return [];
      const place = told[n][0];
      return [{
        key: place, name: names[place], colour: place,
        x: curve.x, y: curve.y, middleX: curve.middle_x, middleY: curve.middle_y,
      }];
    });
    return { lines, thinned: curves.some((curve) => curve?.middle_x.length) };
  };
  const chart = new Chart(figure, load, tools, { many: true, isHidden: (key) => hidden.has(key) });
  charts.set(String(number), chart);
}

[...grid.children].forEach(adopt);
if (early) charts.get("0").see();

// Charts of long sessions that nobody saw yet are still being made: the page comes again until all are there.
if (grid.dataset.waiting) setTimeout(() => location.reload(), 1500);
tools.filter();

rows.forEach((row, place) => {
  row.querySelector("input").addEventListener("change", (event) => {
    if (event.target.checked) hidden.delete(place);
    else hidden.add(place);
    for (const chart of charts.values()) chart.draw();
  });
});
