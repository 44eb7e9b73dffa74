// The page of a run: keeps its trials, what is selected and which axis is shown, and draws again what changed.
import { createChart } from "./chart.js";
import { byId, element, fillTable, show } from "./dom.js";
import { clock, count, progressWords, sequence, stateWords, withUnit } from "./format.js";
import { downloadCsv, drawFront, drawStrip, markPicks } from "./front.js";
import { describe, drawPanel } from "./panel.js";
import { openSource } from "./source.js";

const NUMBER = { name: "number", title: "trial", unit: "", scale: 1, decimals: 0, maximize: false };

const page = {
  source: null,
  chart: null,
  metrics: [],
  summary: null,
  kinds: {},
  front: [],
  trials: new Map(),
  details: new Map(),
  x: null,
  log: false,
  cap: null,
  a: null,
  b: null,
};

async function start() {
  page.source = await openSource();
  page.chart = createChart(byId("chart"), pick);
  readAddress();
  takeSnapshot(await page.source.snapshot());
  listen();
  await drawSelection();
}

function takeSnapshot(content) {
  page.metrics = content.metrics;
  page.complete = content.states.indexOf("complete");
  page.trials.clear();
  page.details.clear();
  take(content);
  if (page.following) return;
  page.following = true;
  page.source.follow(content.version, takeNews, showConnection);
}

async function takeNews(news) {
  if (news.reset) takeSnapshot(await page.source.snapshot());
  else take(news);
}

function take(news) {
  const rows = news.rows;
  if (rows) {
    rows.number.forEach((number, i) => {
      const values = Object.fromEntries(Object.entries(rows.values).map(([name, column]) => [name, column[i]]));
      page.trials.set(number, { number, key: rows.key[i], state: rows.state[i], values });
      page.details.delete(number);
    });
  }
  page.kinds = news.kinds ?? page.kinds;
  page.front = news.front ?? page.front;
  page.summary = news.summary;
  drawHeader();
  drawFailures();
  if (rows) drawData();
  if (news.front) {
    drawMembers();
    drawSelection();
  }
}

function drawHeader() {
  const { summary } = page;
  document.title = `${summary.run} · ${stateWords(summary.state)}`;
  byId("name").textContent = summary.run;
  const state = byId("state");
  state.textContent = stateWords(summary.state);
  state.className = `badge ${summary.state}`;
  const progress = byId("progress");
  show(progress, summary.num_trials !== null);
  if (summary.num_trials) progress.value = Math.min(summary.num_trainings / summary.num_trials, 1);
  byId("progress-text").textContent = progressWords(summary);
  const volume = summary.hypervolume;
  const added = volume?.added === null ? "" : `, ${((volume?.added ?? 0) * 100).toFixed(1)} % of it from the last ${count(volume?.window ?? 0)} trainings`;
  byId("volume").textContent = volume ? `hypervolume ${volume.share.toFixed(4)}${added}` : "";
  const facts = [summary.sampler && `sampler ${summary.sampler}`, summary.seed !== null && `seed ${summary.seed}`, summary.device];
  if (summary.started) facts.push(`since ${clock(summary.started)}`);
  byId("circumstances").textContent = facts.filter(Boolean).join(" · ");
  if (page.source.saved) byId("live").textContent = `saved copy, ${clock(page.source.saved)}`;
  show(byId("home"), !page.source.saved);
  const problem = byId("problem");
  show(problem, Boolean(summary.problem));
  problem.textContent = summary.problem ? `The experiment cannot be read: ${summary.problem}` : "";
}

function showConnection(open) {
  const now = new Date().toLocaleTimeString([], { timeStyle: "short" });
  const live = byId("live");
  if (open) live.textContent = "live";
  else if (live.textContent === "live" || !live.textContent) live.textContent = `not live since ${now}, trying again`;
  live.classList.toggle("lost", !open);
}

function yMetric() {
  const objectives = page.summary.objectives;
  const best = objectives.find(({ direction }) => direction === "maximize") ?? objectives[0];
  return page.metrics.find(({ name }) => name === (best?.name ?? "top1"));
}

// what the x axis may show: objectives first, then every other known cost, then the trial number
function xChoices() {
  const y = yMetric();
  const known = page.metrics.filter(({ name }) => name !== y.name && complete().some((trial) => trial.values[name] !== null));
  const names = page.summary.objectives.map(({ name }) => name);
  const rank = ({ name }) => (names.includes(name) ? names.indexOf(name) : names.length);
  known.sort((p, q) => rank(p) - rank(q));
  return names.length > 1 ? [...known, NUMBER] : [NUMBER, ...known];
}

function complete() {
  return [...page.trials.values()].filter((trial) => trial.state === page.complete);
}

function drawData() {
  const choices = xChoices();
  const x = xChoice();
  const y = yMetric();
  const select = byId("x-axis");
  const options = choices.map((metric) => element("option", { value: metric.name }, metric.unit ? `${metric.title} (${metric.unit})` : metric.title));
  if (select.options.length !== options.length) select.replaceChildren(...options);
  select.value = x.name;
  byId("cap-unit").textContent = x.unit;
  byId("chart-title").textContent = x === NUMBER ? `${capital(y.title)} over the search` : `${capital(y.title)} against ${x.title}`;

  const members = new Set(page.front.map(({ number }) => number));
  const points = complete()
    .filter((trial) => valueOf(trial, x) !== null && trial.values[y.name] !== null)
    .filter((trial) => allowed(trial, x))
    .map((trial) => ({ number: trial.number, x: valueOf(trial, x), y: trial.values[y.name] * y.scale, front: members.has(trial.number) }));
  drawEmpty(points.length, x);
  show(byId("chart"), points.length > 0);
  show(byId("legend"), points.length > 0);
  if (points.length) page.chart.draw({ x, y, points, log: page.log, words: (point) => pointWords(point, x, y) }).catch(showProblem);
}

function drawMembers() {
  const x = xChoice();
  const shown = frontMembers().filter((trial) => allowed(trial, x));
  show(byId("front-section"), shown.length > 0);
  show(byId("strip-section"), shown.length > 1);
  drawFront(shown, tableMetrics(), page.kinds, pick);
  drawStrip(shown, page.kinds, pick);
  markPicks(page.a, page.b);
}

function pointWords(point, x, y) {
  const words = [`trial ${point.number}`, ...[y, x].filter((metric) => metric !== NUMBER).map((metric) => withUnit(metric, page.trials.get(point.number).values[metric.name]))];
  const member = page.front.find(({ number }) => number === point.number);
  return member ? [...words, member.operators.map(sequence).join(" | ")] : words;
}

function allowed(trial, x) {
  return page.cap === null || valueOf(trial, x) <= page.cap;
}

function xChoice() {
  const choices = xChoices();
  return choices.find(({ name }) => name === page.x) ?? choices[0];
}

// a trial's value on the x axis in its unit
function valueOf(trial, x) {
  if (x === NUMBER) return trial.number;
  const value = trial.values[x.name];
  return value === null ? null : value * x.scale;
}

function frontMembers() {
  return page.front.map(({ number, operators }) => ({ ...page.trials.get(number), operators }));
}

// the columns of tables: objectives first, then costs that any trial of the front knows
function tableMetrics() {
  const names = page.summary.objectives.map(({ name }) => name);
  const others = page.metrics.map(({ name }) => name).filter((name) => !names.includes(name));
  const known = (name) => page.trials.size && frontMembers().some((trial) => trial.values[name] !== null);
  return [...names, ...others.filter(known)].map((name) => page.metrics.find((metric) => metric.name === name));
}

function drawEmpty(numPoints, x) {
  const { summary } = page;
  const empty = byId("empty");
  show(empty, numPoints === 0);
  if (numPoints) return;
  const { counts } = summary;
  const cheapest = complete().map((trial) => valueOf(trial, x)).filter((value) => value !== null).sort((p, q) => p - q)[0];
  if (page.cap !== null && cheapest !== undefined) {
    const unscaled = { ...x, scale: 1 };
    const set = element("button", { type: "button", onclick: () => setCap(String(cheapest)) }, "Allow it");
    empty.replaceChildren(`No trial has at most ${page.cap} ${x.unit}; the cheapest has ${withUnit(unscaled, cheapest)}. `, set);
  } else if (counts.failed && counts.failed === summary.num_trainings) {
    empty.textContent = "Every training failed so far. The reasons are listed below.";
  } else if (page.trials.size) {
    empty.textContent = "No trial was trained to the end yet, so there is no front.";
  } else if (summary.state === "interrupted") {
    empty.textContent = "No trial has finished, and no search is running.";
  } else {
    empty.textContent = "No trial has finished yet. The first ones appear here by themselves.";
  }
}

function drawFailures() {
  const { failures, rejections, examples, unreadable } = page.summary;
  const rows = [
    ...Object.entries(failures).map(([kind, number]) => ({ cells: [kind, "failed", count(number), examples[kind] ?? ""] })),
    ...Object.entries(rejections).map(([kind, number]) => ({ cells: [kind, "rejected before training", count(number), ""] })),
  ];
  const columns = [{ title: "reason" }, { title: "what became of the trial" }, { title: "trials", number: true }, { title: "first message" }];
  fillTable(byId("failure-table"), columns, rows);
  const left = byId("unreadable");
  show(left, unreadable.length > 0);
  left.textContent = `${count(unreadable.length)} unreadable record${unreadable.length > 1 ? "s" : ""} left out: ${unreadable.slice(0, 5).join(", ")}`;
  show(byId("failures"), rows.length > 0 || unreadable.length > 0);
}

// click: A; with Shift: B, or A where there is none yet
function pick(number, second = false) {
  if (second && page.a !== null) page.b = number;
  else page.a = number;
  selectionChanged();
}

async function selectionChanged() {
  writeAddress();
  await drawSelection();
}

function viewChanged() {
  writeAddress();
  drawData();
  drawMembers();
}

async function drawSelection() {
  const asked = [page.a, page.b];
  page.chart.select(page.a, page.b);
  markPicks(page.a, page.b);
  const [a, b] = await Promise.all(asked.map(detail));
  if (page.a !== asked[0] || page.b !== asked[1]) return;
  const y = yMetric();
  const onFront = new Set(page.front.map(({ number }) => number));
  drawPanel(a, b, tableMetrics(), onFront, page.metrics.find(({ name }) => name === "top1") ?? y, { setB, swap, clear });
  const position = a && (onFront.has(a.number) ? `${[...onFront].indexOf(a.number) + 1} of ${onFront.size} on the front` : "not on the front");
  byId("announcement").textContent = a ? describe(a, "A", tableMetrics().slice(0, 2), position) : "";
}

async function detail(number) {
  if (number === null || !page.trials.has(number)) return null;
  if (!page.details.has(number)) page.details.set(number, await page.source.trial(number));
  return page.details.get(number);
}

// B becomes what A is, so that A can go on; or nothing
function setB(wanted) {
  page.b = wanted ? page.a : null;
  selectionChanged();
}

function swap() {
  if (page.b !== null) [page.a, page.b] = [page.b, page.a];
  selectionChanged();
}

function clear() {
  page.a = null;
  page.b = null;
  selectionChanged();
}

function setCap(text) {
  byId("cap").value = text;
  page.cap = text === "" || Number.isNaN(Number(text)) ? null : Number(text);
  viewChanged();
}

function step(event) {
  const numbers = frontMembers().map(({ number }) => number);
  const at = numbers.indexOf(page.a);
  const moves = {
    ArrowRight: () => pick(numbers[Math.min(at + 1, numbers.length - 1)]),
    ArrowLeft: () => pick(numbers[at < 0 ? numbers.length - 1 : Math.max(at - 1, 0)]),
    Home: () => pick(numbers[0]),
    End: () => pick(numbers.at(-1)),
    b: () => page.a !== null && setB(page.b === null),
    x: swap,
    Escape: clear,
  };
  const move = moves[event.key];
  if (!move || !numbers.length || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  move();
}

function listen() {
  byId("x-axis").addEventListener("change", (event) => {
    page.x = event.target.value;
    setCap("");
  });
  byId("log").addEventListener("change", (event) => {
    page.log = event.target.checked;
    viewChanged();
  });
  byId("cap").addEventListener("change", (event) => setCap(event.target.value));
  byId("csv").addEventListener("click", () => downloadCsv(page.summary.run, frontMembers(), tableMetrics()));
  byId("chart").addEventListener("keydown", step);
  addEventListener("hashchange", () => {
    readAddress();
    viewChanged();
    drawSelection();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    drawData();
    drawSelection();
  });
}

// axis, cap and selection live in the address, so that a copied link shows the same view
function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  const number = (name) => (/^\d+$/.test(given.get(name) ?? "") ? Number(given.get(name)) : null);
  Object.assign(page, { x: given.get("x"), log: given.has("log"), a: number("a"), b: number("b") });
  page.cap = given.has("cap") && Number.isFinite(Number(given.get("cap"))) ? Number(given.get("cap")) : null;
  byId("log").checked = page.log;
  byId("cap").value = page.cap ?? "";
}

function writeAddress() {
  const state = { x: page.x, log: page.log ? "1" : null, cap: page.cap, a: page.a, b: page.b };
  const given = Object.entries(state).filter(([, value]) => value !== null && value !== undefined);
  history.replaceState(null, "", `#${new URLSearchParams(given)}`);
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
