// The page of a run: keeps its trials, what is selected and which axis is shown, and draws again what changed.
import { emptyView, readAddress, writeAddress } from "./address.js";
import { createArchitectures } from "./architectures.js";
import { createChart } from "./chart.js";
import { byId, element, show, swatch } from "./dom.js";
import { drawEmpty, showEmpty } from "./empty.js";
import { TRAINED, capital, count, progressWords, titleOf } from "./format.js";
import { downloadCsv, drawFront, drawStated, drawStrip, markPicks } from "./front.js";
import { drawHeader, showConnection } from "./header.js";
import { drawFailures } from "./health.js";
import { listenToKeys } from "./keys.js";
import { createLater } from "./later.js";
import { noiseWords, probability } from "./noise.js";
import { createParallel } from "./parallel.js";
import { describe, drawPanel, redrawPanel } from "./panel.js";
import { NUMBER, axesOf, chartView, drawLegend, labelSwatch } from "./picture.js";
import { redrawPredictions } from "./predictions.js";
import { openSource } from "./source.js";
import { Store } from "./store.js";
import { createTrials } from "./trials.js";

const PROGRESS_SECONDS = 60;
const MOST_CONTENDERS = 8;
const BOXES = ["bars", "published", "retrained", "dominated", "failed", "full"];

const store = new Store();
const page = { source: null, chart: null, view: emptyView(), shown: null, drawn: null, details: new Map(), told: 0 };

async function start() {
  page.source = await openSource();
  page.chart = createChart(byId("chart"), (row, second) => pick(store.columns.number[row], second), zoomed);
  page.view = readAddress();
  page.known = createArchitectures(store, page.source);
  page.trials = createTrials({
    store,
    known: page.known,
    base: page.source.base,
    get view() {
      return page.view;
    },
    pick,
    changed: () => writeAddress(page.view),
    filtered: () => drawData(),
  });
  page.later = createLater({ store, source: page.source, drawn: () => page.drawn, pick, judged, failed: showProblem });
  const picked = () => [page.view.a, page.view.b].map((number) => store.rowOf.get(number) ?? null);
  page.parallel = createParallel({ store, known: page.known, filter: page.trials.filter, shown: () => page.shown, picked });
  const content = await page.source.snapshot();
  take(content);
  listen();
  drawSelection();
  page.source.follow(content.version, takeNews, showConnection);
}

// gives the version from which to go on where the server did not send all
async function takeNews(news, seen) {
  if (!news.reset && !news.fetch) return take(news);
  const content = await page.source.snapshot(news.fetch ? seen : "");
  if (content.whole) {
    store.clear();
    page.details.clear();
  }
  take(content);
  return content.version;
}

function take(news) {
  store.take(news);
  for (const number of news.rows?.number ?? []) page.details.delete(number);
  drawHeader(store.summary, page.source);
  tellProgress();
  const bad = drawFailures(store.summary, page.source.base);
  if (bad && !store.front.length) byId("health-details").open = true;
  if (news.rows || news.retrained) drawData();
  if (news.rows?.number.length || news.retrained) {
    page.later.refreshFindings();
    refreshKnown();
  }
  if (news.notes) {
    page.trials.update();
    if (page.trials.filter.passes()) drawData();
  }
  if (news.front || news.retrained || news.notes) {
    if (news.retrained) page.details.clear();
    drawMembers();
    drawSelection();
  }
  page.later.refreshHealth();
}

// keys, shapes and further figures: asked for where something that is seen needs them
function refreshKnown() {
  const { view } = page;
  const isFurther = ({ name }) => store.figures.some((figure) => figure.name === name);
  const { x, y } = axesOf(store, view);
  if (!store.count || !(view.trials || [x, y].some(isFurther) || ["trials", "parallel"].some((name) => byId(`${name}-details`).open))) return;
  page.known.refresh().then(() => {
    page.trials.refresh();
    if (view.trials || page.view.trials || [x, y].some(isFurther)) viewChanged();
    else page.parallel.draw();
  }).catch(showProblem);
}

// progress is said once a minute at most, new trials are not
function tellProgress() {
  if (Date.now() - page.told < 1000 * PROGRESS_SECONDS) return;
  if (page.told) byId("progress-news").textContent = progressWords(store.summary);
  page.told = Date.now();
}

function drawData() {
  const { view } = page;
  const passes = page.trials.filter.passes();
  const shown = chartView(store, view, passes);
  page.shown = shown;
  drawOptions(shown);
  byId("chart-title").textContent = shown.x === NUMBER ? `${capital(shown.y.title)} over the search` : `${capital(shown.y.title)} against ${shown.x.title}`;
  const nothing = shown.shown.length === 0;
  showEmpty(nothing);
  if (nothing) drawEmpty(store, view, shown, (value) => setCap(roundedUp(value, shown.x.decimals)), page.trials.filter.clear);
  else page.drawn = page.chart.draw(shown).catch(showProblem);
  drawLegend(byId("legend"), shown, store, view);
  show(byId("filter-note"), passes !== null && !nothing);
  byId("filter-words").textContent = `Filtered: ${count(shown.shown.length)} of ${count(shown.all.length)} trials. ${shown.steps.length ? "The line is that of all." : ""} `;
  page.parallel.draw();
}

function drawOptions({ x, y, xChoices, yChoices, log, spread, hasReferences, hasFailed, allRetrained, hasStated, full, stated }) {
  const isSame = (select, choices) => choices.map(({ name }) => name).join() === [...select.options].map(({ value }) => value).join();
  for (const [id, choices, { name }] of [["x-axis", xChoices, x], ["y-axis", yChoices, y]]) {
    if (!isSame(byId(id), choices)) byId(id).replaceChildren(...choices.map((metric) => new Option(titleOf(metric), metric.name)));
    byId(id).value = name;
  }
  [byId("log").checked, byId("ylog").checked] = log;
  byId("log").disabled = x === NUMBER;
  byId("cap-unit").textContent = x.unit;
  show(byId("bars-label"), spread);
  show(byId("spread-note"), !spread && store.front.length > 0 && TRAINED.includes(y.name));
  byId("spread-note").textContent = "One seed each and no spread on this axis: no error bars.";
  show(byId("published-label"), hasReferences && !full);
  show(byId("full-label"), hasStated);
  show(byId("stated-section"), full);
  const unplaced = store.published.length - stated.length;
  show(byId("stated-note"), full && unplaced > 0);
  byId("stated-note").textContent = `${unplaced} of ${store.published.length} published networks have no place here: above the cap, or their ${x.title} was not measured in this run, as that of search.warm_start is.`;
  if (full) drawStated(store.published);
  show(byId("failed-label"), hasFailed);
  show(byId("retrained-label"), allRetrained.length > 0);
}

function drawMembers() {
  const { x } = axesOf(store, page.view);
  const shown = store.frontMembers.filter((member) => page.view.cap === null || valueOn(member, x) <= page.view.cap);
  show(byId("front-section"), shown.length > 0);
  show(byId("strip-section"), shown.length > 1);
  const retrained = new Map(store.retrained.map((point) => [point.number, point]));
  drawFront(shown, store.tableMetrics, store, retrained, page.source.base, pick);
  drawNoise();
  const byLabel = { mark: (label) => labelSwatch(store, label), name: (label) => label };
  const byOperator = { mark: (label) => swatch(store.kinds[label]), name: (label) => store.kinds[label] };
  drawStrip(shown, page.view.colour === "label" ? byLabel : byOperator, pick);
  markPicks(page.view.a, page.view.b);
}

// how the intervals are meant, and which networks may be on the front besides
function drawNoise() {
  const { noise } = store;
  show(byId("noise-note"), Boolean(noise));
  if (!noise) return;
  const others = noise.contenders.filter((number) => !store.front.includes(number)).slice(0, MOST_CONTENDERS);
  const buttons = others.flatMap((number) => [" ", element("button", { type: "button", class: "key", onclick: (event) => pick(number, event.shiftKey) }, `trial ${number}: ${probability(noise.of(number).onFront)}`)]);
  byId("noise-note").replaceChildren(noiseWords(noise), ...(others.length ? [" Others that may be on it, with P on front:", ...buttons] : []));
}

function valueOn(member, x) {
  return store.value(store.rowOf.get(member.number), x);
}

// click: A; with Shift: B, or A where there is none yet
function pick(number, second = false) {
  if (second && page.view.a !== null) page.view.b = number;
  else page.view.a = number;
  selectionChanged();
}

function selectionChanged() {
  writeAddress(page.view);
  return drawSelection();
}

// the chart has drawn it already; ranges mean something on such axes alone
function zoomed(zoom) {
  page.view.zoom = zoom;
  if (zoom && page.shown.log[0]) page.view.log = true;
  if (zoom && page.shown.log[1]) page.view.ylog = true;
  writeAddress(page.view);
}

function viewChanged() {
  writeAddress(page.view);
  drawData();
  drawMembers();
  drawSelection();
}

async function drawSelection() {
  const { a: first, b: second, kept } = page.view;
  page.chart.select(store.rowOf.get(first) ?? null, store.rowOf.get(second) ?? null);
  markPicks(first, second);
  page.parallel.mark();
  const [a, b, ...others] = await Promise.all([first, second, ...kept].map(detail));
  if (page.view.a !== first || page.view.b !== second || page.view.kept !== kept) return;
  const onFront = new Set(store.front);
  const curveMetric = TRAINED.includes(store.yMetric.name) ? store.yMetric : (store.metric("top1") ?? store.yMetric);
  const actions = { setB, swap, clear, keep };
  drawPanel(a, b, { onFront, metrics: store.tableMetrics, curveMetric, base: page.source.base, run: store.summary.run, noise: store.noise, notes: store.notes, note: page.source.note, source: page.source, store, pick, kept: others, actions, nearest });
  const position = a && (onFront.has(a.number) ? `on the front, ${store.front.indexOf(a.number) + 1} of ${store.front.length}` : "not on the front");
  byId("picked").textContent = a ? describe(a, "A", store.tableMetrics.slice(0, 2), position) : "";
}

async function detail(number) {
  if (number === null || !store.rowOf.has(number)) return null;
  if (!page.details.has(number)) page.details.set(number, await page.source.trial(number));
  return page.details.get(number);
}

// the published network of this run that is closest on the chart
function nearest(trial) {
  const { shown } = page;
  const row = store.rowOf.get(trial.number);
  if (!shown?.references.length || row === undefined) return null;
  const [wide, high] = [shown.xs, shown.ys].map((values) => {
    const seen = shown.references.map((reference) => values[reference.row]).concat(values[row]);
    return Math.max(...seen) - Math.min(...seen) || 1;
  });
  const distance = (other) => Math.hypot((shown.xs[other] - shown.xs[row]) / wide, (shown.ys[other] - shown.ys[row]) / high);
  const [closest] = [...shown.references].sort((p, q) => distance(p.row) - distance(q.row));
  return `${closest.name} (trial ${store.columns.number[closest.row]})`;
}

// B becomes what A is, so that A can go on; or nothing
function setB(wanted) {
  page.view.b = wanted ? page.view.a : null;
  selectionChanged();
}

// the learning curve of a trial stays beside those of A and B, or goes
function keep(number) {
  const { kept } = page.view;
  page.view.kept = kept.includes(number) ? kept.filter((other) => other !== number) : [...kept, number];
  selectionChanged();
}

function swap() {
  const { view } = page;
  if (view.b !== null) [view.a, view.b] = [view.b, view.a];
  selectionChanged();
}

function clear() {
  page.view.a = null;
  page.view.b = null;
  selectionChanged();
}

function setAxes(x, y) {
  const usual = axesOf(store, emptyView());
  page.view.y = y === usual.y.name ? null : y;
  page.view.x = x;
  Object.assign(page.view, { zoom: null, log: null, ylog: null });
  setCap("");
  if (!page.known.ready()) refreshKnown();
}

function setCap(text) {
  byId("cap").value = text;
  page.view.cap = text === "" || Number.isNaN(Number(text)) ? null : Number(text);
  viewChanged();
}

function listen() {
  byId("x-axis").addEventListener("change", (event) => setAxes(event.target.value, axesOf(store, page.view).y.name));
  // what the x axis shows goes to the other where it is chosen there
  byId("y-axis").addEventListener("change", (event) => {
    const { x, y } = axesOf(store, page.view);
    setAxes(x.name === event.target.value ? y.name : x.name, event.target.value);
  });
  byId("colour").addEventListener("change", (event) => {
    page.view.colour = event.target.value || null;
    viewChanged();
  });
  for (const name of ["log", "ylog", ...BOXES]) {
    byId(name).addEventListener("change", (event) => {
      page.view[name] = event.target.checked;
      if (name.endsWith("log")) page.view.zoom = null;
      viewChanged();
    });
  }
  byId("cap").addEventListener("change", (event) => setCap(event.target.value));
  byId("csv").addEventListener("click", () => downloadCsv(store.summary.run, store.frontMembers, store.tableMetrics, store.noise));
  byId("health-details").addEventListener("toggle", () => page.later.refreshHealth());
  byId("filter-clear").addEventListener("click", () => {
    page.trials.filter.clear();
    byId("chart").focus();
  });
  for (const name of ["trials", "parallel"]) {
    byId(`${name}-details`).addEventListener("toggle", () => {
      if (name === "parallel") page.view.parallel = byId("parallel-details").open;
      writeAddress(page.view);
      if (!page.known.ready()) return refreshKnown();
      page.trials.update();
      page.parallel.draw();
    });
  }
  for (const id of ["bad", "aside"]) byId(id).addEventListener("click", () => (byId("health-details").open = true));
  byId("predictions-details").addEventListener("toggle", redrawPredictions);
  listenToKeys({
    chart: page.chart,
    numbers: () => store.front,
    a: () => page.view.a,
    pick,
    mark: () => page.view.a !== null && setB(page.view.b === null),
    swap,
    keep,
    clear,
    near: (number) => page.chart.near(store.rowOf.get(number)).map((row) => store.columns.number[row]),
  });
  addEventListener("hashchange", () => {
    if (/^#(chart|health)$/.test(location.hash)) return writeAddress(page.view);
    page.view = readAddress();
    fillOptions();
    page.trials.refresh();
    viewChanged();
    if (!page.known.ready()) refreshKnown();
  });
  fillOptions();
  if (page.view.trials) byId("trials-details").open = true;
  byId("parallel-details").open = page.view.parallel;
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    redrawPanel();
    viewChanged();
    page.later.refreshHealth(true);
    redrawPredictions();
  });
}

// what noise says is known
function judged() {
  drawData();
  drawMembers();
  drawSelection();
  page.trials.update();
}

function fillOptions() {
  for (const name of BOXES) byId(name).checked = page.view[name];
  byId("cap").value = page.view.cap ?? "";
  byId("colour").value = page.view.colour ?? "";
}

// a cap that lets the value through, in no more digits than it is shown with
function roundedUp(value, decimals) {
  return String(Math.ceil(value * 10 ** decimals) / 10 ** decimals);
}

function showProblem(error) {
  const problem = byId("problem");
  show(problem, true);
  problem.textContent = `This page cannot be shown: ${error.message}`;
}

start().catch(showProblem);
