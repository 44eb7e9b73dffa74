// What the chart is to show: from the trials and the options of the page to points, line, colours and words.
import { spansDecades } from "./axes.js";
import { frontLine } from "./chart.js";
import { element, operatorColour, swatch } from "./dom.js";
import { TRAINED, figure, sequence, withUnit } from "./format.js";
import { between, probability } from "./noise.js";
import { colour } from "./plotly.js";

export const NUMBER = { name: "number", title: "trial", unit: "", scale: 1, decimals: 0, maximize: false };
const FEWEST_FOR_A_LINE = 3;
const SHADES = 12;
const NO_OPERATOR = 255;

// what the axes may show: objectives first, then every other known figure; the x axis the trial number too, first where
// there is one objective alone
function figureChoices(store) {
  const names = store.summary.objectives.map(({ name }) => name);
  const rank = ({ name }) => (names.includes(name) ? names.indexOf(name) : names.length);
  const known = [...store.metrics.filter((metric) => store.knows(metric)), ...store.figures];
  return known.sort((p, q) => rank(p) - rank(q));
}

// {x, y: what the axes show, xChoices, yChoices}; `maximize` of what is an objective is that of the run
export function axesOf(store, view) {
  const { objectives } = store.summary;
  const known = figureChoices(store);
  const yChoices = known.length ? known : [store.yMetric];
  const y = yChoices.find(({ name }) => name === view.y) ?? yChoices.find(({ name }) => name === store.yMetric.name) ?? yChoices[0];
  const others = known.filter(({ name }) => name !== y.name);
  const xChoices = objectives.length > 1 ? [...others, NUMBER] : [NUMBER, ...others];
  const x = xChoices.find(({ name }) => name === view.x) ?? xChoices[0];
  const directed = (metric) => ({ ...metric, maximize: directionOf(store, metric) === "maximize" });
  return { x: x === NUMBER ? x : directed(x), y: directed(y), xChoices, yChoices };
}

function directionOf(store, { name }) {
  return store.summary.objectives.find((objective) => objective.name === name)?.direction;
}

// what chart.draw takes, and what the options and the empty page need to know; passes: what a filter lets through, or null
export function chartView(store, view, passes) {
  const axes = axesOf(store, view);
  const { x } = axes;
  const hasStated = axes.y.name === "top1" && store.published.length > 0;
  const full = view.full && hasStated;
  const y = full ? { ...axes.y, title: `${axes.y.title} of the full training` } : axes.y;
  const { xs, ys, all, shown, failed, cheapest } = shownPoints(store, view, x, y, passes);
  const [inAll, at] = [all, shown].map((rows) => marked(rows, store.count));
  const members = store.front.map((number) => store.rowOf.get(number)).filter((row) => row !== undefined && inAll[row]);
  const frontRows = members.filter((row) => at[row]);
  const isMember = new Set(members);
  const references = store.references.map(({ number, name }) => ({ row: store.rowOf.get(number), name })).filter(({ row }) => at[row]);
  const allRetrained = store.retrained.map((point) => ({ ...point, row: store.rowOf.get(point.number), y: 100 * point.top1 })).filter(({ row }) => at[row]);
  const retrained = view.retrained && y.name === "top1" ? allRetrained : [];
  const bars = frontRows.map((row) => ({ row, x: spreadOf(store, x, xs, row), y: spreadOf(store, y, ys, row) })).filter((bar) => bar.x || bar.y);
  const isLog = (metric, values, wanted) => metric !== NUMBER && (wanted ?? (!view.zoom && spansDecades(Float64Array.from(all, (row) => values[row]))));
  const picture = {
    name: `${store.summary.run}-front`, ...axes, y, xs, ys, all, shown, cheapest, members, frontRows, retrained, allRetrained,
    references: view.published && !full ? references : [],
    full,
    stated: full ? statedPoints(store, view, x, y, xs, at) : [],
    failed: view.failed ? failed : [],
    zoom: view.zoom,
    isFront: (row) => isMember.has(row),
    shownAt: (row) => at[row] === 1,
    log: [isLog(x, xs, view.log), isLog(y, ys, view.ylog)],
    dominated: view.dominated,
    partial: store.summary.unread > 0,
    spread: bars.length > 0,
    bars: view.bars ? bars : [],
    ...tints(store, view),
  };
  picture.search = x === NUMBER && Boolean(directionOf(store, y));
  picture.plane = isPlane(store, x, y);
  const wanted = picture.search ? all : picture.plane ? members : [];
  picture.steps = all.length >= FEWEST_FOR_A_LINE ? frontSteps(picture, wanted) : [];
  picture.words = (row) => pointWords(store, picture, row);
  return { ...picture, hasReferences: references.length > 0, hasFailed: failed.length > 0, hasStated };
}

function marked(rows, count) {
  const marks = new Uint8Array(count);
  for (const row of rows) marks[row] = 1;
  return marks;
}

// the published accuracies whose cost is known: measured in this run, or counted alike
function statedPoints(store, view, x, y, xs, at) {
  const rows = new Map(store.references.map(({ number, name }) => [name, store.rowOf.get(number)]));
  const points = store.published.map((network) => {
    const row = rows.get(network.name);
    const cost = at[row] && x !== NUMBER ? xs[row] : (network.values[x.name] ?? NaN) * x.scale;
    const words = [network.name, `${withUnit(y, network.top1)} published, ImageNet-1k`, network.training, network.paper];
    return { name: network.name, x: cost, y: network.top1 * y.scale, words };
  });
  return points.filter((point) => !Number.isNaN(point.x) && (view.cap === null || point.x <= view.cap));
}

// all: complete trials with both figures, under the cap; shown: those of them that the filter lets through
function shownPoints(store, view, x, y, passes) {
  const { columns, count } = store;
  const xs = new Float64Array(count);
  const ys = new Float64Array(count);
  const [rows, failed] = [[], []];
  let cheapest = null;
  const [xColumn, yColumn] = [store.column(x.name), store.column(y.name)];
  for (let row = 0; row < count; row += 1) {
    xs[row] = (xColumn[row] ?? NaN) * x.scale;
    ys[row] = (yColumn[row] ?? NaN) * y.scale;
    if (columns.state[row] === store.failed && !Number.isNaN(xs[row]) && (view.cap === null || xs[row] <= view.cap)) {
      failed.push(row);
      ys[row] = NaN;
    }
    if (columns.state[row] !== store.complete || Number.isNaN(xs[row]) || Number.isNaN(ys[row])) continue;
    if (!cheapest || xs[row] < cheapest.value) cheapest = { value: xs[row], number: columns.number[row] };
    if (view.cap === null || xs[row] <= view.cap) rows.push(row);
  }
  const all = Int32Array.from(rows);
  return { xs, ys, all, shown: passes ? all.filter(passes) : all, failed: passes ? failed.filter(passes) : failed, cheapest };
}

// whether the axes are all objectives: only then what lies beyond the front's line is dominated
function isPlane(store, x, y) {
  return store.summary.objectives.length === 2 && [x, y].every((metric) => directionOf(store, metric));
}

// the line goes on to the trial that is worst in x
function frontSteps(picture, rows) {
  const line = frontLine(picture, rows);
  const worst = picture.x.maximize ? Math.min : Math.max;
  return line.length ? [...line, { x: picture.all.reduce((last, row) => worst(last, picture.xs[row]), line.at(-1).x), y: line.at(-1).y }] : [];
}

// how far the figure of a member of the front scatters, in its unit; null where that is not known
function spreadOf(store, metric, values, row) {
  const member = store.members.get(store.columns.number[row]);
  if (metric.name === "latency_ms") return member.latency ?? null;
  if (!TRAINED.includes(metric.name)) return null;
  const judged = store.noise?.of(member.number);
  if (judged) return judged.interval.map((end) => end * metric.scale);
  return member.seeds ? [values[row] - 100 * member.seeds.sd, values[row] + 100 * member.seeds.sd] : null;
}

// a colour per row, as an index into a palette, by what the page was asked for
function tints(store, view) {
  const plain = { tint: null, palette: [colour("cloud")] };
  if (view.colour === "number") {
    const numbers = store.columns.number.subarray(0, store.count);
    const most = numbers.reduce((a, b) => Math.max(a, b), 1);
    const palette = Array.from({ length: SHADES }, (_, i) => `color-mix(in oklab, ${colour("early")}, ${colour("late")} ${(100 * i) / (SHADES - 1)}%)`);
    return { tint: Uint8Array.from(numbers, (number) => Math.min(Math.floor((SHADES * number) / (most + 1)), SHADES - 1)), palette };
  }
  if (view.colour === "label") {
    const palette = [...store.labels.map((label) => labelColour(store, label)), colour("cloud")];
    return { tint: Uint8Array.from(store.columns.label.subarray(0, store.count), (label) => Math.min(label, palette.length - 1)), palette };
  }
  if (!["most", "last"].includes(view.colour)) return plain;
  const column = store.columns[view.colour].subarray(0, store.count);
  const palette = [...store.operators.map((name) => colour(operatorColour(name))), colour("cloud")];
  return { tint: Uint8Array.from(column, (kind) => (kind === NO_OPERATOR ? palette.length - 1 : kind)), palette };
}

// the colour of a label's operator; further labels of the operator have darker ones, or lighter where it is dark
function labelColour(store, label) {
  const base = colour(operatorColour(store.kinds[label]));
  const alike = store.labels.filter((other) => store.kinds[other] === store.kinds[label]);
  const channels = [1, 3, 5].map((at) => parseInt(base.slice(at, at + 2), 16));
  const bright = channels[0] * 0.3 + channels[1] * 0.59 + channels[2] * 0.11 > 90;
  const share = Math.round((70 * alike.indexOf(label)) / Math.max(alike.length - 1, 2));
  return `color-mix(in oklab, ${base}, ${bright ? "black" : "white"} ${share}%)`;
}

export function labelSwatch(store, label) {
  return element("i", { class: "swatch", style: `background:${labelColour(store, label)}`, "aria-hidden": "true" });
}

function pointWords(store, picture, row) {
  const number = store.columns.number[row];
  const { x, y } = picture;
  const failed = Number.isNaN(picture.ys[row]);
  const judged = failed || !TRAINED.includes(y.name) ? null : store.noise?.of(number);
  const noise = judged ? [`95 % interval ${between(judged.interval)}, P on front ${probability(judged.onFront)}`] : [];
  const figures = (failed ? [x] : [y, x]).filter((metric) => metric !== NUMBER).map((metric) => withUnit(metric, store.column(metric.name)[row]));
  const member = picture.isFront(row) ? store.members.get(number) : null;
  const named = picture.references.filter((reference) => reference.row === row).map(({ name }) => `${name}, published network, same proxy and device`);
  const trained = picture.retrained.filter((point) => point.row === row).map((point) => `retrained${point.name ? ` (${point.name})` : ""} ${figure(y, point.top1)} %, ${point.epochs} epochs${point.done ? "" : " so far"}`);
  return [`trial ${number}${failed ? ", failed" : ""}`, ...figures, ...noise, ...named, ...trained, ...(member ? [member.operators.map(sequence).join(" | ")] : [])];
}

// where the axes do not show all objectives, and no others, a member of the front may lie below others
function frontWords({ plane, search, full }, store) {
  if (search) return "best of the search";
  const titles = store.summary.objectives.map(({ name }) => store.metric(name).title);
  return `Pareto front${full ? ", proxy" : ""}${plane ? "" : ` in ${titles.join(", ")}`}`;
}

export function drawLegend(node, picture, store, view) {
  const item = (mark, text) => element("span", {}, element("i", { class: mark, "aria-hidden": "true" }), text);
  const items = [];
  if (view.dominated && !picture.tint) items.push(item("dot cloud", "dominated"));
  items.push(item("dot front", frontWords(picture, store)));
  if (picture.references.length) items.push(item("diamond", "published network, same proxy and device"));
  if (picture.stated.length) items.push(item("diamond", "published accuracy, its authors' training"));
  if (picture.retrained.length) items.push(item("star", "retrained: the full training"));
  if (picture.failed.length) items.push(item("cross", "failed, at its cost"));
  items.push(item("ring a", "A: click"), item("ring b", "B: Shift and click"));
  if (view.dominated && ["most", "last"].includes(view.colour)) {
    const used = new Set(picture.tint);
    store.operators.forEach((name, i) => used.has(i) && items.push(element("span", {}, swatch(name), name)));
  }
  if (view.dominated && view.colour === "label") {
    const used = new Set(picture.tint);
    store.labels.forEach((label, i) => used.has(i) && items.push(element("span", {}, labelSwatch(store, label), label)));
  }
  if (view.dominated && view.colour === "number") items.push(element("span", {}, "early", element("i", { class: "ramp", "aria-hidden": "true" }), "late"));
  node.replaceChildren(...items);
}
