// Charts: uPlot draws, the hub thins out. A chart holds about as many points as it has pixels; whoever looks closer
// gets the points of that stretch.
/* global uPlot */

const HEIGHT = 180;
const PARTS = 500;
// A chart that grew to so many points is fetched anew, thinned out.
const MOST_POINTS = 4 * PARTS;
const ZOOM = 1.6;
// What could not be fetched is asked for again, each time after twice as long.
const AGAIN_MS = 1000;
const LONGEST_MS = 30_000;

function style(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

// Ten colours, and ten more that are dashed.
function strokeOf(colour) {
  return { stroke: style(`--s${colour % 10}`), dash: Math.floor(colour / 10) % 2 ? [5, 4] : undefined };
}

export function shown(value) {
  if (value === null || value === undefined) return "–";
  if (Number.isInteger(value) && Math.abs(value) < 1e9) return String(value);
  const size = Math.abs(value);
  return size >= 1e-3 && size < 1e5 ? String(Number(value.toPrecision(4))) : value.toExponential(2);
}

// The same for an axis, which has no room for long numbers.
function brief(value) {
  return Math.abs(value) < 1e5 ? shown(value) : value.toExponential().replace("+", "");
}

// A line that is level lies in the middle, and not at the foot of a hundred.
function plainRange(u, low, high) {
  if (low === null || low !== high) return uPlot.rangeNum(low ?? 0, high ?? 100, 0.1, true);
  const room = Math.abs(low) / 10 || 1;
  return [low - room, high + room];
}

// A moving mean that forgets: a point counts the less, the further back it lies on the axis. So it is the same line
// whether the points stand close or were thinned out.
export function smoothed(xs, ys, strength) {
  if (xs.length < 2) return ys;
  const reach = (strength / (1 - strength)) * ((xs.at(-1) - xs[0]) / (xs.length - 1));
  let mean = 0;
  let weight = 0;
  let before = xs[0];
  return ys.map((y, n) => {
    if (y === null) return null;
    const keep = Math.exp(-(xs[n] - before) / reach);
    before = xs[n];
    const part = 1 - Math.exp(-1 / Math.max(strength / (1 - strength), 1e-9));
    mean = mean * keep + y * part;
    weight = weight * keep + part;
    return mean / weight;
  });
}

// The tools above the charts; they hold for all of them.
export class Tools {
  constructor(charts) {
    this.charts = charts;
    this.smoothing = 0;
    this.log = false;
    this.waiting = new Set(); // charts that could not be fetched
    this.failures = 0; // in a row
    this.timer = null;
    this.search = document.getElementById("metric-filter");
    const slider = document.getElementById("smoothing");
    const log = document.getElementById("log-scale");
    const told = document.getElementById("smoothing-told");
    const read = () => {
      this.smoothing = Number(slider.value);
      this.log = log.checked;
      told.textContent = this.smoothing ? this.smoothing.toFixed(2) : "off";
    };
    read(); // a browser may keep what was set before the page was loaded again
    for (const control of [slider, log]) {
      control.addEventListener("input", () => {
        read();
        for (const chart of charts.values()) chart.draw();
      });
    }
    this.search.addEventListener("input", () => this.filter());
    document.getElementById("reset-zoom").addEventListener("click", () => {
      for (const chart of charts.values()) chart.zoom(null);
    });
    // Lines have the colours of the style sheet, for light and for dark.
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
      for (const chart of charts.values()) chart.draw({ anew: true });
    });
    this.sizes = new ResizeObserver((entries) => {
      for (const { target } of entries) this.find(target)?.resize();
    });
    this.sights = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) {
        if (isIntersecting) this.find(target)?.see();
      }
    }, { rootMargin: "300px" });
  }

  // All of them together, so that they can be asked for at once.
  tryAgain(chart) {
    this.waiting.add(chart);
    if (this.timer !== null) return;
    this.timer = setTimeout(() => {
      this.timer = null;
      for (const one of [...this.waiting]) one.fetchWhole();
    }, Math.min(LONGEST_MS, AGAIN_MS * 2 ** this.failures));
    this.failures += 1;
  }

  find(figure) {
    return [...this.charts.values()].find((chart) => chart.figure === figure);
  }

  filter() {
    const words = this.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const chart of this.charts.values()) {
      const name = chart.figure.dataset.name.toLowerCase();
      chart.figure.hidden = !words.every((word) => name.includes(word));
    }
  }
}

export class Chart {
  // `load(low, high, parts)` fetches `{lines, thinned}` of a stretch, of all where `low` is null. A line has `key`,
  // `name`, `colour`, `x`, `y`, and `middleX`, `middleY` where it was thinned out. `many`: of several sessions.
  constructor(figure, load, tools, { many = false, isHidden = () => false } = {}) {
    this.figure = figure;
    this.load = load;
    this.tools = tools;
    this.many = many;
    this.isHidden = isHidden;
    this.over = figure.dataset.over;
    this.plot = figure.querySelector(".plot");
    this.at = figure.querySelector("[data-at]");
    this.last = figure.querySelector("[data-last]");
    this.lastText = this.last.textContent;
    this.range = null; // what is looked at, where that is not all
    this.whole = null;
    this.close_ = null; // the finer points of the range
    this.drawn = null;
    this.loading = null;
    this.missed = []; // what came while the whole was being fetched
    this.closed = false;
    figure.addEventListener("keydown", (event) => this.onKey(event));
    tools.sights.observe(figure);
    tools.sizes.observe(figure);
  }

  close() {
    this.closed = true;
    this.tools.waiting.delete(this);
    this.tools.sights.unobserve(this.figure);
    this.tools.sizes.unobserve(this.figure);
    this.drawn?.destroy();
    this.drawn = null;
  }

  // -- points --

  see() {
    if (!this.whole && !this.loading) this.fetchWhole();
  }

  fetchWhole() {
    this.tools.waiting.delete(this);
    this.missed = [];
    this.loading = this.load(null, null, PARTS).then(
      (whole) => {
        this.loading = null;
        this.tools.failures = 0;
        this.tell("");
        this.whole = whole;
        for (const tail of this.missed.splice(0)) this.add(tail);
        if (this.range && !this.close_) this.zoom(this.range); // of a chart that took another one's place
        else this.draw();
      },
      (failure) => {
        this.loading = null;
        if (this.closed) return;
        this.tell(`These points could not be fetched: ${failure.message}. It is tried again.`);
        this.tools.tryAgain(this);
      },
    );
    return this.loading;
  }

  // Tells in the chart what went wrong; nothing: that all is well.
  tell(wrong) {
    this.figure.toggleAttribute("data-failed", wrong !== "");
    this.trouble?.remove();
    this.trouble = null;
    if (!wrong) return;
    this.trouble = document.createElement("p");
    this.trouble.className = "trouble";
    this.trouble.setAttribute("role", "status");
    this.trouble.textContent = wrong;
    this.plot.append(this.trouble);
  }

  // New points, with the attempt of each. What was fetched may hold the first of them already.
  append(tail) {
    const y = tail.y.at(-1);
    this.lastText = shown(y);
    if (this.drawn?.cursor.idx == null) this.last.textContent = this.lastText;
    if (this.loading) this.missed.push(tail);
    if (!this.whole) return;
    this.add(tail);
    // One fetch at a time: what comes meanwhile is kept for that one alone.
    if (!this.loading && !this.tools.waiting.has(this) && this.whole.lines.some((line) => line.x.length > MOST_POINTS)) this.fetchWhole();
    else this.draw();
  }

  // They go on behind all that is there, so they belong to the last line, or to a new one: an attempt has several lines
  // where another one lies between.
  add(tail) {
    const { lines } = this.whole;
    tail.x.forEach((x, n) => {
      if (x <= lines.findLast((one) => one.x.length)?.x.at(-1)) return;
      const attempt = tail.attempts[n];
      let line = lines.at(-1);
      if (line?.key !== attempt) {
        line = { key: attempt, name: `attempt ${attempt}`, colour: attempt - 1, x: [], y: [], middleX: [], middleY: [] };
        lines.push(line);
      }
      line.x.push(x);
      line.y.push(tail.y[n]);
      if (this.whole.thinned) {
        line.middleX.push(x);
        line.middleY.push(tail.y[n]);
      }
    });
  }

  // -- zooming --

  zoom(range) {
    this.range = range;
    this.close_ = null;
    if (this.whole && !this.tools.waiting.has(this)) this.tell("");
    this.draw();
    if (range && this.whole?.thinned) {
      this.load(range[0], range[1], PARTS).then(
        (close) => {
          if (this.range !== range) return;
          this.tell("");
          this.close_ = close;
          this.draw();
        },
        (failure) => {
          if (this.range !== range) return;
          // What is there stays, only less fine.
          this.tell(`The finer points could not be fetched: ${failure.message}. Zoom again.`);
        },
      );
    }
  }

  extent() {
    const ends = this.whole.lines.flatMap((line) => (line.x.length ? [line.x[0], line.x.at(-1)] : []));
    return [Math.min(...ends), Math.max(...ends)];
  }

  onKey(event) {
    if (!this.whole || event.target !== this.figure || event.ctrlKey || event.metaKey || event.altKey) return;
    const [low, high] = this.extent();
    const [from, to] = this.range ?? [low, high];
    const span = to - from;
    const middle = (from + to) / 2;
    const moves = {
      "+": () => [middle - span / ZOOM / 2, middle + span / ZOOM / 2],
      "=": () => moves["+"](),
      "-": () => [Math.max(low, middle - (span * ZOOM) / 2), Math.min(high, middle + (span * ZOOM) / 2)],
      ArrowLeft: () => (from - span / 4 < low ? [low, low + span] : [from - span / 4, to - span / 4]),
      ArrowRight: () => (to + span / 4 > high ? [high - span, high] : [from + span / 4, to + span / 4]),
      0: () => null,
    };
    if (!(event.key in moves)) return;
    event.preventDefault();
    const range = moves[event.key]();
    this.zoom(range && range[0] <= low && range[1] >= high ? null : range);
  }

  // -- drawing --

  // What uPlot is given: one column of x, and a column for each line; with smoothing two, the told one faint.
  table() {
    const { lines } = this.close_ ?? this.whole;
    const { smoothing, log } = this.tools;
    const tables = [];
    const series = [];
    const positive = (ys) => (log ? ys.map((y) => (y > 0 ? y : null)) : ys);
    for (const line of lines) {
      if (this.isHidden(line.key) || line.x.length === 0) continue;
      const looks = strokeOf(line.colour);
      tables.push([line.x, positive(line.y)]);
      series.push({ ...looks, line, width: smoothing ? 1 : 1.5, alpha: smoothing ? 0.25 : 1, told: true });
      if (smoothing) {
        const [x, y] = line.middleX.length ? [line.middleX, line.middleY] : [line.x, line.y];
        tables.push([x, positive(smoothed(x, y, smoothing))]);
        series.push({ ...looks, line, width: 1.75, alpha: 1, told: false });
      }
    }
    const data = tables.length > 1 ? uPlot.join(tables) : tables[0] ?? [[], []];
    return { data, series };
  }

  draw({ anew = false } = {}) {
    if (!this.whole || this.plot.clientWidth === 0) return;
    const { data, series } = this.table();
    const shape = JSON.stringify([series.map((one) => [one.line.key, one.told]), this.tools.log, Boolean(this.tools.smoothing)]);
    if (anew || shape !== this.shape || !this.drawn) {
      this.drawn?.destroy();
      this.shape = shape;
      this.series = series;
      this.drawn = new uPlot(this.options(series), data, this.plot);
    } else {
      this.drawn.setData(data, false);
    }
    const bare = data.slice(1).every((ys) => ys.every((y) => y === null || y === undefined));
    this.figure.toggleAttribute("data-bare", this.tools.log && series.length > 0 && bare);
    const [low, high] = this.range ?? (data[0].length ? this.extent() : [0, 1]);
    this.drawn.setScale("x", low < high ? { min: low, max: high } : { min: low - 0.5, max: low + 0.5 });
    const { lines } = this.close_ ?? this.whole;
    this.figure.dataset.points = lines.reduce((sum, line) => sum + line.x.length, 0);
    if (!this.figure.dataset.drawn) {
      this.figure.dataset.drawn = "yes";
      performance.mark("chart-drawn", { detail: this.figure.dataset.name });
    }
  }

  resize() {
    const width = this.plot.clientWidth;
    if (!width) return;
    if (!this.drawn) this.draw();
    else if (this.drawn.width !== width) this.drawn.setSize({ width, height: HEIGHT });
  }

  options(series) {
    const axis = {
      stroke: style("--quiet"),
      font: "11px system-ui, sans-serif",
      grid: { stroke: style("--rule"), width: 1 },
      ticks: { show: false },
    };
    return {
      width: this.plot.clientWidth,
      height: HEIGHT,
      padding: [8, 10, 0, 0],
      legend: { show: false },
      scales: { x: { time: false, auto: false }, y: this.tools.log ? { distr: 3, range: logRange } : { distr: 1, range: plainRange } },
      axes: [
        { ...axis, size: 24, space: 60, values: (_, ticks) => ticks.map((tick) => (Number.isInteger(tick) ? shown(tick) : "")) },
        { ...axis, size: 52, grid: { ...axis.grid, filter: this.tools.log ? fewLines : (_, places) => places }, values: (_, ticks) => ticks.map((tick) => (tick === null ? "" : brief(tick))) },
      ],
      series: [
        {},
        ...series.map((one) => ({
          stroke: one.stroke, dash: one.dash, width: one.width, alpha: one.alpha,
          // Points that stand alone are seen only as points; a line has none.
          points: { show: (u, n) => one.told && u.data[n].length < 30, size: 4 },
        })),
      ],
      cursor: {
        y: false,
        points: { size: 6, show: !this.many || series.length < 12 },
        drag: { x: true, y: false, setScale: false },
        // The others show the same place on the axis; what is dragged over is this chart's alone.
        sync: { key: `charts-${this.over}`, setSeries: false, filters: { pub: isNoDrag } },
        bind: { dblclick: () => () => this.zoom(null) },
        // In several lines together most have no point at just this x: the nearest one is meant.
        dataIdx: (u, n, at) => (n === 0 ? at : nearest(u, n, at)),
      },
      hooks: {
        setSelect: [(u) => this.onSelect(u)],
        setCursor: [(u) => this.onCursor(u)],
      },
    };
  }

  onSelect(u) {
    if (u.select.width < 4) return;
    const [low, high] = [u.select.left, u.select.left + u.select.width].map((left) => u.posToVal(left, "x"));
    u.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
    this.zoom([low, high]);
  }

  onCursor(u) {
    const { idx, idxs } = u.cursor;
    if (idx == null) {
      this.at.textContent = "";
      this.last.textContent = this.lastText;
      if (this.tip) this.tip.hidden = true;
      return;
    }
    this.at.textContent = `${this.over} ${shown(u.data[0][idx])}`;
    const values = this.series.flatMap((one, n) => {
      const at = idxs[n + 1];
      return at == null ? [] : [{ one, value: u.data[n + 1][at] }];
    });
    const best = values.findLast(({ one }) => !one.told) ?? values.at(-1);
    if (!this.many) this.last.textContent = best ? shown(best.value) : "–";
    else this.showTip(u, values);
  }

  // The values of all sessions at the cursor, the highest first. Only in the chart under the pointer.
  showTip(u, values) {
    if (!this.tip) {
      this.tip = document.createElement("div");
      this.tip.className = "tip";
      this.plot.append(this.tip);
    }
    this.tip.hidden = !this.plot.matches(":hover");
    if (this.tip.hidden) return;
    const smooth = values.some(({ one }) => !one.told);
    const told = values.filter(({ one }) => one.told !== smooth).sort((a, b) => b.value - a.value);
    this.tip.replaceChildren(...told.map(({ one, value }) => {
      const row = document.createElement("div");
      const mark = document.createElement("span");
      mark.className = `mark-line s${one.line.colour}`;
      const name = document.createElement("bdi");
      name.textContent = one.line.name;
      const number = document.createElement("b");
      number.textContent = shown(value);
      row.append(mark, name, number);
      return row;
    }));
    this.tip.classList.toggle("left", u.cursor.left > u.width / 2);
  }
}

// From one round number to the next, so that the axis can be told: 0.35 to 2.3 is seen between 0.3 and 3.
function logRange(_, low, high) {
  if (low === null || low === undefined) return [1, 10];
  // Beside the smallest and the biggest number there is, nothing is round.
  const size = (value) => 10 ** Math.floor(Math.log10(value) + 1e-9) || value;
  const from = Math.floor(low / size(low) + 1e-9) * size(low);
  const to = Math.min(Math.ceil(high / size(high) - 1e-9) * size(high), Number.MAX_VALUE);
  return from < to ? [from, to] : [from / 10, to * 10];
}

// Over many powers of ten the lines between these would fill the ground.
function fewLines(u, places) {
  const { min, max } = u.scales.y;
  if (max / min < 1000) return places;
  return places.map((place) => (Math.abs(Math.log10(place) - Math.round(Math.log10(place))) < 1e-6 ? place : null));
}

function isNoDrag(kind) {
  return kind !== "mousedown" && kind !== "mouseup";
}

// The point of a line that is nearest to a place on the axis; none where the line does not reach it.
function nearest(u, n, at) {
  const [xs, ys] = [u.data[0], u.data[n]];
  if (ys[at] != null) return at;
  let [left, right] = [at, at];
  while (left >= 0 && ys[left] == null) left -= 1;
  while (right < ys.length && ys[right] == null) right += 1;
  const reach = (u.scales.x.max - u.scales.x.min) / 100;
  const away = (place) => Math.abs(xs[place] - xs[at]);
  if (left < 0) return right < ys.length && away(right) <= reach ? right : null;
  if (right >= ys.length) return away(left) <= reach ? left : null;
  return away(left) <= away(right) ? left : right;
}
