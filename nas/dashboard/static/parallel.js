// Parallel coordinates: a line per complete trial through its figures and choices. Drawn only while its section is open,
// on a canvas of our own: Plotly's needs WebGL, and without a graphics card seconds for every brush.
import { spansDecades, ticks } from "./axes.js";
import { dimensions } from "./dimensions.js";
import { byId, element, show } from "./dom.js";
import { count } from "./format.js";
import { colour } from "./plotly.js";

const MOST_LINES = 5000;
const CLOSEST = 78; // pixels between two axes
const EDGE = 42;
const TOP = 66;
const HEIGHT = 250;
const FEW = 8; // values that are all written at their axis
const STILL = 4;
const SUMS = ["depth", "width"];

// page: {store, known, filter, shown(): see picture.js, picked(): rows of A and B}; draw() draws all, mark() A and B
export function createParallel(page) {
  const { store, known } = page;
  const box = byId("parallel");
  const lines = element("canvas", { "aria-hidden": "true" });
  const picks = element("canvas", { "aria-hidden": "true" });
  let axes = [];
  let held = false; // a drag ends before anything is drawn anew

  function draw() {
    if (held || !byId("parallel-details").open || !known.ready() || !page.shown()) return;
    const complete = [];
    for (let row = 0; row < store.count; row += 1) if (store.isComplete(row)) complete.push(row);
    axes = ordered().map((dimension) => axisOf(dimension, complete)).filter(Boolean);
    const room = byId("parallel-scroll").clientWidth - 2 * EDGE;
    const gap = Math.max(room / Math.max(axes.length - 1, 1), CLOSEST);
    axes.forEach((axis, i) => (axis.x = EDGE + i * gap));
    box.style.width = `${2 * EDGE + gap * (axes.length - 1)}px`;
    box.replaceChildren(lines, picks, ...axes.map((axis) => axisBox(axis, gap)));
    paint(complete);
    mark();
  }

  // objectives, what was chosen, other figures; sums over the stages say nothing beside these
  function ordered() {
    const objectives = store.summary.objectives.map(({ name }) => name);
    const rank = (one) => (objectives.includes(one.name) ? 0 : "stage" in one ? 1 : 2);
    return dimensions(store, known).filter(({ name }) => !SUMS.includes(name)).sort((p, q) => rank(p) - rank(q));
  }

  // where the values of a dimension lie, from 0 at the foot to 1; null where all trials have the same
  function axisOf(dimension, rows) {
    const values = Float64Array.from(rows, dimension.value);
    const distinct = new Set();
    let [low, high] = [Infinity, -Infinity];
    for (const value of values) {
      if (Number.isNaN(value)) continue;
      [low, high] = [Math.min(low, value), Math.max(high, value)];
      if (distinct.size <= FEW) distinct.add(value);
    }
    if (!(high > low)) return null;
    const log = !dimension.labels && spansDecades(values);
    const turn = log ? Math.log10 : (value) => value;
    const place = (value) => (turn(value) - turn(low)) / (turn(high) - turn(low));
    const back = (share) => (log ? 10 ** (turn(low) + share * (turn(high) - turn(low))) : low + share * (high - low));
    const few = distinct.size <= FEW && (dimension.labels || dimension.decimals === 0);
    const marks = few ? [...distinct] : ticks([turn(low), turn(high)], 4, log).map(([, value]) => value);
    return { ...dimension, place, back, marks };
  }

  function axisBox(axis, gap) {
    const words = (value) => axis.labels?.[value] ?? value.toLocaleString("en", { maximumSignificantDigits: 4 });
    const marks = axis.marks.map((value) => element("small", { style: `top:${(1 - axis.place(value)) * HEIGHT}px` }, words(value)));
    const brush = element("i", { class: "brush" });
    const rail = element("div", { class: "rail", style: `height:${HEIGHT}px` }, brush, ...marks);
    showBrush(axis, brush);
    listen(axis, rail, brush);
    const title = element("div", { class: "name" }, axis.title, axis.unit ? element("small", {}, axis.unit) : null);
    return element("div", { class: "axis", "data-name": axis.name, style: `left:${axis.x}px;width:${gap}px` }, title, rail);
  }

  // the part of an axis that its limit keeps
  function showBrush(axis, brush) {
    const limit = page.filter.limitOf(axis.name);
    show(brush, Boolean(limit));
    if (!limit) return;
    const kept = limit.of ? limit.of.map((label) => axis.place(axis.labels.indexOf(label))) : [limit.low === null ? 0 : axis.place(limit.low), limit.high === null ? 1 : axis.place(limit.high)];
    place(brush, Math.max(Math.min(...kept), 0), Math.min(Math.max(...kept), 1));
  }

  function place(brush, low, high) {
    brush.style.top = `${(1 - high) * HEIGHT - 3}px`;
    brush.style.height = `${Math.max((high - low) * HEIGHT, 0) + 6}px`;
  }

  // a drag along an axis keeps what it passes, a press that does not move drops the limit
  function listen(axis, rail, brush) {
    let from = null;
    const share = (event) => Math.min(Math.max(1 - (event.clientY - rail.getBoundingClientRect().top) / HEIGHT, 0), 1);
    const ends = (event) => [from, share(event)].sort((p, q) => p - q);
    rail.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      from = share(event);
      held = true;
      rail.setPointerCapture(event.pointerId);
      event.preventDefault();
    });
    rail.addEventListener("pointermove", (event) => {
      if (from === null) return;
      show(brush, true);
      place(brush, ...ends(event));
    });
    rail.addEventListener("pointercancel", () => {
      from = null;
      held = false;
      draw();
    });
    rail.addEventListener("pointerup", (event) => {
      if (from === null) return;
      const [low, high] = ends(event);
      from = null;
      held = false;
      page.filter.limit(axis.name, (high - low) * HEIGHT < STILL ? null : limitOver(axis, low, high));
    });
  }

  // an end of the axis leaves the limit open there
  function limitOver(axis, low, high) {
    if (axis.labels) {
      const of = axis.labels.filter((_, i) => axis.place(i) >= low && axis.place(i) <= high);
      return of.length ? { of } : null;
    }
    return low === 0 && high === 1 ? null : { low: low === 0 ? null : axis.back(low), high: high === 1 ? null : axis.back(high) };
  }

  // what the filter lets through has the colours of the chart, and lies above the others
  function paint(complete) {
    const passes = page.filter.passes();
    const shown = page.shown();
    const kept = passes ? complete.filter(passes) : complete;
    const others = passes ? complete.filter((row) => !passes(row)) : [];
    const drawn = sample(kept, MOST_LINES);
    const behind = sample(others, MOST_LINES - drawn.length);
    const paper = paperOf(lines);
    paper.lineWidth = 1;
    paper.globalAlpha = 0.5;
    paper.strokeStyle = colour("line");
    for (const row of behind) stroke(paper, row);
    paper.globalAlpha = drawn.length > 1000 ? 0.25 : 0.6;
    for (const row of drawn) {
      paper.strokeStyle = shown.palette[shown.tint ? shown.tint[row] : 0];
      stroke(paper, row);
    }
    paper.globalAlpha = 1;
    paper.lineWidth = 2;
    paper.strokeStyle = colour("front");
    if (!shown.tint) for (const row of kept) if (shown.isFront(row)) stroke(paper, row);
    const part = drawn.length + behind.length < complete.length ? ` ${count(drawn.length + behind.length)} of them are drawn, evenly taken.` : "";
    byId("parallel-words").textContent = `A line for each of ${count(complete.length)} complete trials${passes ? `, ${count(kept.length)} of which fit the filter` : ""}.${part} ${axes.length ? HELP : "Nothing differs between them."}`;
  }

  function mark() {
    if (!byId("parallel-details").open || !axes.length) return;
    const paper = paperOf(picks);
    paper.lineWidth = 3;
    page.picked().forEach((row, i) => {
      paper.strokeStyle = colour(i ? "b" : "a");
      if (row !== null && store.isComplete(row)) stroke(paper, row);
    });
  }

  function stroke(paper, row) {
    paper.beginPath();
    let begun = false;
    for (const axis of axes) {
      const share = axis.place(axis.value(row));
      paper[begun ? "lineTo" : "moveTo"](axis.x, TOP + (1 - share) * HEIGHT); // nothing, where it is unknown
      begun = !Number.isNaN(share);
    }
    paper.stroke();
  }

  function paperOf(canvas) {
    const ratio = devicePixelRatio || 1;
    const [width, height] = [box.clientWidth, box.clientHeight];
    Object.assign(canvas, { width: Math.round(width * ratio), height: Math.round(height * ratio) });
    const paper = canvas.getContext("2d");
    paper.scale(ratio, ratio);
    paper.lineJoin = "round";
    return paper;
  }

  new ResizeObserver(draw).observe(byId("parallel-scroll"));
  return { draw, mark };
}

const HELP = "Drag along an axis to keep a part of it, in the table and the chart too; click the axis to drop that. The filter of all trials below does the same by keyboard.";

// at most so many of the rows, evenly
export function sample(rows, most) {
  if (rows.length <= most) return rows;
  return Array.from({ length: Math.max(most, 0) }, (_, i) => rows[Math.floor((i * rows.length) / most)]);
}
