// The page of a run: keeps its trials, what is selected and which axis is shown, and draws again what changed.
import { emptyView, readAddress, writeAddress } from "./address.js";
import { createChart } from "./chart.js";
import { byId, show } from "./dom.js";
import { drawEmpty, showEmpty } from "./empty.js";
import { progressWords } from "./format.js";
import { downloadCsv, drawFront, drawStated, drawStrip, markPicks } from "./front.js";
import { drawHeader, showConnection } from "./header.js";
import { drawEffects, drawFailures, drawHealth } from "./health.js";
import { listenToKeys } from "./keys.js";
import { describe, drawPanel, redrawPanel } from "./panel.js";
import { NUMBER, chartView, drawLegend, xChoice, xChoices } from "./picture.js";
import { openSource } from "./source.js";
import { Store } from "./store.js";

const PROGRESS_SECONDS = 60;
const HEALTH_SECONDS = 5;

const store = new Store();
const page = { source: null, chart: null, view: emptyView(), shown: null, details: new Map(), told: 0 };

async function start() {
  page.source = await openSource();
  page.chart = createChart(byId("chart"), (row, second) => pick(store.columns.number[row], second), zoomed);
  page.view = readAddress();
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
  if (news.front || news.retrained) {
    if (news.retrained) page.details.clear();
    drawMembers();
    drawSelection();
  }
  refreshHealth();
}

// progress is said once a minute at most, new trials are not
function tellProgress() {
  if (Date.now() - page.told < 1000 * PROGRESS_SECONDS) return;
  if (page.told) byId("progress-news").textContent = progressWords(store.summary);
  page.told = Date.now();
}

function drawData() {
  const { view } = page;
  const shown = chartView(store, view);
  page.shown = shown;
  drawOptions(shown);
  byId("chart-title").textContent = shown.x === NUMBER ? `${capital(shown.y.title)} over the search` : `${capital(shown.y.title)} against ${shown.x.title}`;
  const nothing = shown.shown.length === 0;
  showEmpty(nothing);
  if (nothing) drawEmpty(store, view, shown.x, shown.cheapest, (value) => setCap(roundedUp(value, shown.x.decimals)));
  else page.chart.draw(shown).catch(showProblem);
  drawLegend(byId("legend"), shown, store, view);
}

function drawOptions({ x, spread, hasReferences, hasFailed, allRetrained, hasStated, full, stated }) {
  const select = byId("x-axis");
  const choices = xChoices(store);
  if (select.options.length !== choices.length || select.value !== x.name) {
    select.replaceChildren(...choices.map((metric) => new Option(metric.unit ? `${metric.title} (${metric.unit})` : metric.title, metric.name)));
    select.value = x.name;
  }
  byId("cap-unit").textContent = x.unit;
  show(byId("bars-label"), spread);
  show(byId("spread-note"), !spread && store.front.length > 0);
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
  const x = xChoice(store, page.view);
  const shown = store.frontMembers.filter((member) => page.view.cap === null || valueOn(member, x) <= page.view.cap);
  show(byId("front-section"), shown.length > 0);
  show(byId("strip-section"), shown.length > 1);
  const retrained = new Map(store.retrained.map((point) => [point.number, point]));
  drawFront(shown, store.tableMetrics, store.kinds, retrained, page.source.base, pick);
  drawStrip(shown, store.kinds, pick);
  markPicks(page.view.a, page.view.b);
}

function valueOn(member, x) {
  return x === NUMBER ? member.number : member.values[x.name] * x.scale;
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

// the chart has drawn it already
function zoomed(zoom) {
  page.view.zoom = zoom;
  writeAddress(page.view);
}

function viewChanged() {
  writeAddress(page.view);
  drawData();
  drawMembers();
  drawSelection();
}

async function drawSelection() {
  const { a: first, b: second } = page.view;
  page.chart.select(store.rowOf.get(first) ?? null, store.rowOf.get(second) ?? null);
  markPicks(first, second);
  const [a, b] = await Promise.all([first, second].map(detail));
  if (page.view.a !== first || page.view.b !== second) return;
  const onFront = new Set(store.front);
  const curveMetric = store.metric("top1") ?? store.yMetric;
  const actions = { setB, swap, clear };
  drawPanel(a, b, { onFront, metrics: store.tableMetrics, curveMetric, base: page.source.base, run: store.summary.run, actions, nearest });
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

function setCap(text) {
  byId("cap").value = text;
  page.view.cap = text === "" || Number.isNaN(Number(text)) ? null : Number(text);
  viewChanged();
}

let healthAt = 0;
let waitingForHealth = null;

// asked for only while the panel is open, and not more often than it takes to read
function refreshHealth() {
  if (!byId("health-details").open || waitingForHealth) return;
  const wait = Math.max(0, healthAt + 1000 * HEALTH_SECONDS - Date.now());
  waitingForHealth = setTimeout(async () => {
    try {
      const health = await page.source.health();
      drawHealth(health, store);
      drawEffects(health.effects, store);
    } catch (error) {
      showProblem(error);
    }
    healthAt = Date.now();
    waitingForHealth = null;
  }, wait);
}

function listen() {
  byId("x-axis").addEventListener("change", (event) => {
    page.view.x = event.target.value;
    page.view.zoom = null;
    setCap("");
  });
  byId("colour").addEventListener("change", (event) => {
    page.view.colour = event.target.value || null;
    viewChanged();
  });
  for (const name of ["log", "bars", "published", "retrained", "dominated", "failed", "full"]) {
    byId(name).addEventListener("change", (event) => {
      page.view[name] = event.target.checked;
      if (name === "log") page.view.zoom = null;
      viewChanged();
    });
  }
  byId("cap").addEventListener("change", (event) => setCap(event.target.value));
  byId("csv").addEventListener("click", () => downloadCsv(store.summary.run, store.frontMembers, store.tableMetrics));
  byId("health-details").addEventListener("toggle", refreshHealth);
  byId("bad").addEventListener("click", () => (byId("health-details").open = true));
  listenToKeys({
    chart: page.chart,
    numbers: () => store.front,
    a: () => page.view.a,
    pick,
    mark: () => page.view.a !== null && setB(page.view.b === null),
    swap,
    clear,
    near: (number) => page.chart.near(store.rowOf.get(number)).map((row) => store.columns.number[row]),
  });
  addEventListener("hashchange", () => {
    if (/^#(chart|health)$/.test(location.hash)) return writeAddress(page.view);
    page.view = readAddress();
    fillOptions();
    viewChanged();
  });
  fillOptions();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    redrawPanel();
    viewChanged();
    healthAt = 0;
    refreshHealth();
  });
}

function fillOptions() {
  for (const name of ["log", "bars", "published", "retrained", "dominated", "failed", "full"]) byId(name).checked = page.view[name];
  byId("cap").value = page.view.cap ?? "";
  byId("colour").value = page.view.colour ?? "";
}

// a cap that lets the value through, in no more digits than it is shown with
function roundedUp(value, decimals) {
  return String(Math.ceil(value * 10 ** decimals) / 10 ** decimals);
}

function capital(text) {
  return text[0].toUpperCase() + text.slice(1);
}

function showProblem(error) {
  const problem = byId("problem");
  show(problem, true);
  problem.textContent = `This page cannot be shown: ${error.message}`;
}

start().catch(showProblem);
