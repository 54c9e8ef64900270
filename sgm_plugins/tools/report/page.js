"use strict";
// Draws the charts, moves the slider, and loads the page again while the run goes on. Texts go into the document as
// texts only (textContent), never as HTML.
const data = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 240, LEFT = 54, RIGHT = 12, TOP = 10, BOTTOM = 26;

function element(name, attributes = {}, children = []) {
  const svg = ["svg", "path", "line", "text", "circle", "g"].includes(name);
  const node = svg ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

// What the reader has set outlives a reload, in this tab.
const memory = {
  key: "sgm-report:" + location.pathname,
  read() {
    try { return JSON.parse(sessionStorage.getItem(this.key)) || {}; } catch { return {}; }
  },
  write(change) {
    try { sessionStorage.setItem(this.key, JSON.stringify({ ...this.read(), ...change })); } catch { /* not allowed */ }
  },
};
const remembered = memory.read();

// --- numbers ---------------------------------------------------------------------------------------------------------

function short(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-3) return value.toExponential(2).replace(/\.?0+e/, "e").replace("e+", "e");
  return String(Number(value.toPrecision(4)));
}

function steps(value) {
  if (value >= 1e6) return Number((value / 1e6).toPrecision(4)) + "M";
  return value >= 1e4 ? Number((value / 1e3).toPrecision(4)) + "k" : String(value);
}

function ticks(low, high, count) {
  const raw = (high - low) / count, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= raw);
  const found = [];
  // by number, not by adding: beyond 2^53 a number and the next are one
  const first = Math.ceil(low / step);
  for (let k = 0; k < 100 && (first + k) * step <= high + step * 1e-9; k++) found.push((first + k) * step);
  return found;
}

function logTicks(low, high) {
  const found = [];
  const factors = high - low < 1.2 ? [1, 2, 5] : [1];
  const stride = Math.max(1, Math.round((high - low) / 5));
  for (let power = Math.floor(low); power <= high; power += stride)
    for (const factor of factors) {
      const value = Math.log10(factor) + power;
      if (value >= low && value <= high) found.push(value);
    }
  return found.length > 1 && found.length < 100 ? found : [low, high];
}

// A moving average whose weights fade over `span` points to both sides, so that it does not lag.
function smoothed(values, span) {
  const keep = 1 - 1 / span;
  const sweep = (list) => {
    let mean = 0, weight = 0;
    return list.map((value) => {
      if (value === null) return null;
      mean = keep * mean + value;
      weight = keep * weight + 1;
      return [mean, weight];
    });
  };
  const before = sweep(values), after = sweep([...values].reverse()).reverse();
  return values.map((value, i) => {
    if (value === null) return null;
    return (before[i][0] + after[i][0] - value) / (before[i][1] + after[i][1] - 1);
  });
}

// --- a chart ---------------------------------------------------------------------------------------------------------

class Chart {
  constructor(spec) {
    this.spec = spec;
    this.id = spec.title;
    const set = (remembered.charts || {})[this.id] || {};
    this.log = set.log ?? false;
    const long = Math.max(...spec.series.map((s) => s.x.length)) > 60;
    this.span = set.span ?? (long && spec.title.includes("loss") ? 6 : 1);
    this.hidden = new Set(set.hidden || []);
    this.svg = element("svg", { role: "img", "aria-label": spec.title, height: HEIGHT });
    this.tip = element("div", { class: "tip", hidden: "" });
    this.legend = element("div", { class: "legend" });
    const positive = spec.series.every((s) => s.y.every((y) => y === null || y > 0));
    const log = element("input", { type: "checkbox" });
    log.checked = this.log = this.log && positive;
    log.onchange = () => { this.log = log.checked; this.changed(); };
    const span = element("input", { type: "range", min: 1, max: 60, "aria-label": "smoothing" });
    span.value = this.span;
    span.oninput = () => { this.span = Number(span.value); this.changed(); };
    const controls = element("div", { class: "controls" });
    if (positive) controls.append(element("label", {}, [log, " log"]));
    controls.append(element("label", {}, ["smooth ", span]));
    const plot = element("div", { class: "plot" }, [this.svg, this.tip]);
    this.card = element("article", { class: "card chart" }, [
      element("div", { class: "head" }, [element("h2", {}, [spec.title]), controls]), plot, this.legend,
    ]);
    this.card.dataset.title = spec.title;
    spec.series.forEach((s, i) => this.legend.append(this.entry(s, i)));
    plot.onpointermove = plot.onpointerdown = (event) => this.point(event);
    plot.onpointerleave = () => this.unpoint();
  }

  colour(i) {
    const { ordered, series } = this.spec;
    if (!ordered) return `var(--c${i % 8})`;
    return `hsl(${250 - (250 * i) / Math.max(series.length - 1, 1)} 70% var(--ramp))`;
  }

  entry(series, i) {
    const button = element("button", { type: "button" }, [element("i"), series.name]);
    button.firstChild.style.background = this.colour(i);
    const last = series.y.filter((y) => y !== null).at(-1);
    if (last !== undefined) button.append(element("b", {}, [short(last)]));
    const wild = series.y.filter((y) => y === null).length;
    if (wild) button.append(element("em", {}, [`${wild} not finite`]));
    const show = () => button.setAttribute("aria-pressed", String(!this.hidden.has(series.name)));
    button.onclick = () => {
      if (!this.hidden.delete(series.name)) this.hidden.add(series.name);
      show();
      this.changed();
    };
    show();
    return button;
  }

  changed() {
    const charts = memory.read().charts || {};
    charts[this.id] = { log: this.log, span: this.span, hidden: [...this.hidden] };
    memory.write({ charts });
    this.draw();
  }

  get shown() {
    return this.spec.series.map((s, i) => [s, i]).filter(([s]) => !this.hidden.has(s.name));
  }

  draw() {
    const width = this.svg.parentNode.clientWidth;
    if (!width) return;
    this.svg.setAttribute("width", width);
    this.svg.replaceChildren();
    const value = (y) => (this.log ? Math.log10(y) : y);
    let [left, right, low, high] = [Infinity, -Infinity, Infinity, -Infinity];
    for (const [s] of this.shown)
      s.y.forEach((y, i) => {
        left = Math.min(left, s.x[i]);
        right = Math.max(right, s.x[i]);
        if (y === null) return;
        low = Math.min(low, value(y));
        high = Math.max(high, value(y));
      });
    if (left === Infinity) return;
    if (left === right) [left, right] = [left - Math.max(1, left * 1e-6), right + Math.max(1, right * 1e-6)];
    if (low === Infinity) [low, high] = [0, 1];
    if (low === high) [low, high] = [low - (Math.abs(low) || 1) * 0.1, high + (Math.abs(high) || 1) * 0.1];
    const margin = (high - low) * 0.05;
    if (!this.log && low >= 0 && low < (high - low) * 0.5) low = 0; else low -= margin;
    high += margin;
    const x = (step) => LEFT + ((step - left) / (right - left)) * (width - LEFT - RIGHT);
    const y = (v) => TOP + ((high - value(v)) / (high - low)) * (HEIGHT - TOP - BOTTOM);
    this.scale = { x, y, left, right, width };
    for (const at of this.log ? logTicks(low, high) : ticks(low, high, 4)) {
      const real = this.log ? 10 ** at : at, place = y(real);
      this.svg.append(
        element("line", { class: "rule", x1: LEFT, x2: width - RIGHT, y1: place, y2: place }),
        element("text", { class: "tick", x: LEFT - 6, y: place + 4, "text-anchor": "end" }, [short(real)]),
      );
    }
    for (const at of ticks(left, right, Math.max(2, Math.floor(width / 75))))
      if (Number.isInteger(at))
        this.svg.append(element("text", { class: "tick", x: x(at), y: HEIGHT - 6, "text-anchor": "middle" }, [steps(at)]));
    for (const at of data.resumed)
      if (at > left && at < right)
        this.svg.append(element("line", { class: "resumed", x1: x(at), x2: x(at), y1: TOP, y2: HEIGHT - BOTTOM }));
    for (const [s, i] of this.shown) {
      const colour = this.colour(i), smooth = this.span > 1 && s.x.length > 3 * this.span;
      this.svg.append(this.path(s, s.y, colour, smooth ? "raw faint" : "raw"));
      if (smooth) this.svg.append(this.path(s, smoothed(s.y, this.span), colour, "smooth"));
      s.y.forEach((v, j) => {
        const alone = v !== null && (s.y[j - 1] ?? null) === null && (s.y[j + 1] ?? null) === null;
        if (v === null) this.svg.append(element("path", { class: "wild", d: `M${x(s.x[j])} ${HEIGHT - BOTTOM}l-4 8h8z` }));
        if (alone) this.svg.append(element("circle", { cx: x(s.x[j]), cy: y(v), r: 2.5, fill: colour }));
      });
    }
    this.rule = element("line", { class: "pointer", y1: TOP, y2: HEIGHT - BOTTOM, visibility: "hidden" });
    this.svg.append(this.rule);
  }

  path(series, values, colour, kind) {
    const { x, y } = this.scale;
    let line = "", pen = "M";
    values.forEach((v, i) => {
      if (v === null) { pen = "M"; return; }
      line += pen + x(series.x[i]).toFixed(1) + " " + y(v).toFixed(1);
      pen = "L";
    });
    const path = element("path", { class: kind, d: line, stroke: colour });
    path.dataset.name = series.name;
    return path;
  }

  point(event) {
    if (!this.scale) return;
    const { x, left, right, width } = this.scale;
    const place = event.clientX - this.svg.getBoundingClientRect().left;
    const step = left + ((place - LEFT) / (width - LEFT - RIGHT)) * (right - left);
    let nearest = null;
    const rows = [];
    for (const [s, i] of this.shown) {
      let j = 0;
      s.x.forEach((at, k) => { if (Math.abs(at - step) < Math.abs(s.x[j] - step)) j = k; });
      if (nearest === null || Math.abs(s.x[j] - step) < Math.abs(nearest - step)) nearest = s.x[j];
      rows.push([i, s, j]);
    }
    if (nearest === null) return;
    this.rule.setAttribute("x1", x(nearest));
    this.rule.setAttribute("x2", x(nearest));
    this.rule.setAttribute("visibility", "visible");
    this.tip.replaceChildren(element("b", {}, [`step ${nearest}`]), ...rows.slice(0, 12).map(([i, s, j]) => {
      const mark = element("i");
      mark.style.background = this.colour(i);
      const beside = s.x[j] === nearest ? "" : ` (step ${s.x[j]})`;
      return element("div", {}, [mark, `${s.name} ${s.y[j] === null ? "not finite" : short(s.y[j])}${beside}`]);
    }));
    this.tip.hidden = false;
    const room = this.tip.offsetWidth;
    this.tip.style.left = Math.max(0, x(nearest) + 12 + room > width ? x(nearest) - room - 12 : x(nearest) + 12) + "px";
  }

  unpoint() {
    this.tip.hidden = true;
    if (this.rule) this.rule.setAttribute("visibility", "hidden");
  }
}

const charts = data.charts.map((spec) => new Chart(spec));
const place = document.getElementById("charts");
if (place) {
  place.append(...charts.map((chart) => chart.card));
  const redraw = () => charts.forEach((chart) => chart.draw());
  redraw();
  new ResizeObserver(redraw).observe(place);
}

// --- grids -----------------------------------------------------------------------------------------------------------

const slider = document.getElementById("step");
function show() {
  const at = Number(slider.value);
  document.getElementById("shown-step").textContent = data.steps[at];
  for (const figure of document.querySelectorAll("#grids figure")) {
    const numbers = data.shown[figure.dataset.key];
    let from = at; // the latest that was drawn by then
    while (from > 0 && numbers[from] === null) from--;
    const picture = figure.querySelector("img");
    figure.classList.toggle("absent", numbers[from] === null);
    if (numbers[from] === null) picture.removeAttribute("src");
    else if (picture.dataset.number !== String(numbers[from])) picture.src = data.pictures[numbers[from]];
    picture.dataset.number = numbers[from];
    figure.querySelector("span").textContent = from === at || numbers[from] === null ? "" : ` (of step ${data.steps[from]})`;
  }
}
if (slider) {
  const chosen = data.steps.indexOf(remembered.step);
  if (chosen >= 0) slider.value = chosen;
  slider.oninput = () => {
    const last = Number(slider.value) === data.steps.length - 1; // follows the run
    memory.write({ step: last ? null : data.steps[Number(slider.value)] });
    show();
  };
  show();
}

// --- config ----------------------------------------------------------------------------------------------------------

const defaults = document.getElementById("defaults");
if (defaults) {
  const apply = () => document.getElementById("config").classList.toggle("all", defaults.checked);
  defaults.checked = Boolean(remembered.defaults);
  defaults.onchange = () => { memory.write({ defaults: defaults.checked }); apply(); };
  apply();
}
for (const fold of document.querySelectorAll("details[id]")) {
  if ((remembered.folds || {})[fold.id] !== undefined) fold.open = remembered.folds[fold.id];
  fold.ontoggle = () => memory.write({ folds: { ...(memory.read().folds || {}), [fold.id]: fold.open } });
}

// --- alive -----------------------------------------------------------------------------------------------------------

if (data.state === "running") {
  const silence = Math.max(600, 20 * data.interval);
  const age = () => Date.now() / 1000 - data.updated;
  let touched = 0;
  for (const kind of ["pointerdown", "pointermove", "keydown", "wheel"])
    document.addEventListener(kind, () => { touched = Date.now(); }, { passive: true });
  const tell = () => {
    if (age() < silence) return;
    const state = document.getElementById("state");
    state.className = "killed";
    state.querySelector("b").textContent = `no news for ${Math.round(age() / 60)} min: killed, or waiting for something`;
  };
  tell();
  setInterval(() => {
    tell();
    // not under the hands of a reader, nor in a tab that nobody sees
    if (age() < silence && Date.now() - touched > 3000 && !document.hidden) location.reload();
  }, Math.max(5, data.interval) * 1000);
}
