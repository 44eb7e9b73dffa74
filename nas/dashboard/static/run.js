// The page of a run: keeps its trials, what is selected and which axis is shown, and draws again what changed.
import { emptyView, readAddress, writeAddress } from "./address.js";
import { createChart } from "./chart.js";
import { drawDecides, drawEffects, drawTrust } from "./decides.js";
import { byId, element, show, swatch } from "./dom.js";
import { drawEmpty, showEmpty } from "./empty.js";
import { capital, progressWords } from "./format.js";
import { downloadCsv, drawFront, drawStated, drawStrip, markPicks } from "./front.js";
import { drawHeader, showConnection } from "./header.js";
import { drawFailures, drawHealth } from "./health.js";
import { listenToKeys } from "./keys.js";
import { noiseWords, probability, readNoise } from "./noise.js";
import { describe, drawPanel, redrawPanel } from "./panel.js";
import { NUMBER, chartView, drawLegend, labelSwatch, xChoice, xChoices } from "./picture.js";
import { drawPredictions, redrawPredictions } from "./predictions.js";
import { openSource } from "./source.js";
import { Store } from "./store.js";
import { createTrials } from "./trials.js";

const PROGRESS_SECONDS = 60;
const MOST_CONTENDERS = 8;
const HEALTH_SECONDS = 5;
const FINDINGS_SECONDS = 15;
const EXPLAIN_SECONDS = 2;
const EXPLAIN_GROWTH = 1.2;

const store = new Store();
const page = { source: null, chart: null, view: emptyView(), shown: null, drawn: null, details: new Map(), told: 0 };

async function start() {
  page.source = await openSource();
  page.chart = createChart(byId("chart"), (row, second) => pick(store.columns.number[row], second), zoomed);
  page.view = readAddress();
  page.trials = createTrials({
    store,
    source: page.source,
    get view() {
      return page.view;
    },
    pick,
    changed: () => writeAddress(page.view),
    failed: showProblem,
  });
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
    refreshFindings();
    page.trials.refresh().catch(showProblem);
  }
  if (news.notes) page.trials.update();
  if (news.front || news.retrained || news.notes) {
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
  else page.drawn = page.chart.draw(shown).catch(showProblem);
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
  const { a: first, b: second, kept } = page.view;
  page.chart.select(store.rowOf.get(first) ?? null, store.rowOf.get(second) ?? null);
  markPicks(first, second);
  const [a, b, ...others] = await Promise.all([first, second, ...kept].map(detail));
  if (page.view.a !== first || page.view.b !== second || page.view.kept !== kept) return;
  const onFront = new Set(store.front);
  const curveMetric = store.metric("top1") ?? store.yMetric;
  const actions = { setB, swap, clear, keep };
  drawPanel(a, b, { onFront, metrics: store.tableMetrics, curveMetric, base: page.source.base, run: store.summary.run, noise: store.noise, notes: store.notes, note: page.source.note, kept: others, actions, nearest });
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

function setCap(text) {
  byId("cap").value = text;
  page.view.cap = text === "" || Number.isNaN(Number(text)) ? null : Number(text);
  viewChanged();
}

let findingsAt = 0;
let waitingForFindings = null;

// noise, trust and effects: asked for once the chart is drawn, and not more often than it takes to read
function refreshFindings() {
  if (waitingForFindings || !store.front.length) return;
  const wait = Math.max(0, findingsAt + 1000 * FINDINGS_SECONDS - Date.now());
  waitingForFindings = setTimeout(async () => {
    try {
      await page.drawn;
      const found = await page.source.findings();
      store.noise = readNoise(found);
      drawTrust(found.trust, store.summary.run);
      drawEffects(found.effects, store);
      if (store.noise) {
        drawData();
        drawMembers();
        drawSelection();
        page.trials.update();
      }
      refreshExplained();
    } catch (error) {
      showProblem(error);
    }
    findingsAt = Date.now();
    waitingForFindings = null;
  }, wait);
}

let explainedAt = 0;

// what decides takes the server seconds: asked for where somebody stays and sees its place, and again when the trials
// have become a fifth more
async function refreshExplained() {
  const { complete } = store.summary.counts;
  if (complete < EXPLAIN_GROWTH * explainedAt) return;
  if (!explainedAt) drawDecides(undefined, store);
  explainedAt = complete;
  if (!page.source.saved) await seen(byId("decides"));
  const why = await page.source.explained();
  show(byId("decides"), true);
  drawDecides(why, store);
  drawPredictions(why?.predictions, store, pick);
}

// resolves once a node is in the window and the reader has stayed for a while
function seen(node) {
  return new Promise((resolve) => {
    const watch = new IntersectionObserver((entries) => {
      if (!entries.some(({ isIntersecting }) => isIntersecting)) return;
      watch.disconnect();
      setTimeout(resolve, 1000 * EXPLAIN_SECONDS);
    });
    watch.observe(node);
  });
}

let healthAt = 0;
let waitingForHealth = null;

// asked for only while the panel is open, and not more often than it takes to read
function refreshHealth() {
  if (!byId("health-details").open || waitingForHealth) return;
  const wait = Math.max(0, healthAt + 1000 * HEALTH_SECONDS - Date.now());
  waitingForHealth = setTimeout(async () => {
    try {
      drawHealth(await page.source.health(), store);
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
  byId("csv").addEventListener("click", () => downloadCsv(store.summary.run, store.frontMembers, store.tableMetrics, store.noise));
  byId("health-details").addEventListener("toggle", refreshHealth);
  byId("predictions-details").addEventListener("toggle", redrawPredictions);
  byId("bad").addEventListener("click", () => (byId("health-details").open = true));
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
    viewChanged();
  });
  fillOptions();
  if (page.view.trials) byId("trials-details").open = true;
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    redrawPanel();
    viewChanged();
    healthAt = 0;
    refreshHealth();
    redrawPredictions();
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

function showProblem(error) {
  const problem = byId("problem");
  show(problem, true);
  problem.textContent = `This page cannot be shown: ${error.message}`;
}

start().catch(showProblem);
