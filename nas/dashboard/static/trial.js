// The page of one trial: all that its record says.
import { diagram } from "./blocks.js";
import { byId, element, fillTable, nameOperators, show } from "./dom.js";
import { accuracy, clock, duration, evaluationWords, evaluatorName, figure, milliseconds, titleOf, trialState } from "./format.js";
import { mistakesParts } from "./mistakes.js";
import { noteBox } from "./notes.js";
import { drawCurves } from "./plotly.js";
import { getJson, openSource } from "./source.js";

const TOP1 = { name: "top1", title: "top-1 accuracy", unit: "%", scale: 100, decimals: 2 };
const BOX_AP = { name: "box_ap", title: "box AP", unit: "%", scale: 100, decimals: 2 };
const METRICS = [
  TOP1,
  BOX_AP,
  { name: "zero_cost", title: "zero-cost score", unit: "", scale: 1, decimals: 4 },
  { name: "supernet", title: "top-1 with inherited weights", unit: "%", scale: 100, decimals: 2 },
  { name: "score", title: "score", unit: "", scale: 1, decimals: 4 },
  { name: "latency_ms", title: "latency", unit: "ms", scale: 1, decimals: 3 },
  { name: "num_params", title: "parameters", unit: "M", scale: 1e-6, decimals: 3 },
  { name: "num_macs", title: "MACs", unit: "M", scale: 1e-6, decimals: 2 },
  { name: "peak_memory_mb", title: "peak memory", unit: "MB", scale: 1, decimals: 1 },
];
const [, , name, , number] = location.pathname.split("/");

function part(title, ...content) {
  return element("section", {}, element("h2", {}, title), ...content);
}

function whole(title, ...content) {
  return Object.assign(part(title, ...content), { className: "whole" });
}

function pairs(rows) {
  const table = element("table", { class: "pairs" });
  table.append(element("tbody", {}, ...rows.map(([title, value]) => element("tr", {}, element("th", { scope: "row" }, title), element("td", {}, value)))));
  return table;
}

function wide(label, node) {
  return element("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": label }, node);
}

// noted: see notes.js
function figures(trial, noted) {
  const rows = METRICS.filter(({ name: metric }) => metric in trial.values).map((metric) => [titleOf(metric), figure(metric, trial.values[metric.name])]);
  const { low, high, runs, setting } = trial.latency ?? {};
  if (typeof low === "number" && typeof high === "number") rows.push(["latency, middle 60 %", `${milliseconds(low)} to ${milliseconds(high)} ms of ${runs} runs; ${setting}`]);
  for (const one of trial.evaluations) rows.push([`judged by ${evaluatorName(one)}`, evaluationWords(one)]);
  for (const one of trial.retrained) rows.push([`retrained${one.name ? ` (${one.name})` : ""}`, `${accuracy(one.top1)} %, ${one.epochs} epochs${one.done ? "" : " so far"}`]);
  return part("Figures", pairs(rows), element("h3", {}, "Note"), noted);
}

function course(trial) {
  const rows = [["started", clock(trial.started)], ["finished", clock(trial.finished)], ["took", duration(trial.seconds)], ["attempts", String(trial.attempts)], ...(trial.host ? [["host", trial.host]] : []), ...(trial.device ? [["device", trial.device]] : []), ["seed", trial.seed]];
  if (trial.seeds) rows.push(["seeds", `${trial.seeds.count} trainings of this network, first in trial ${trial.seeds.numbers.join(", ")}`]);
  for (const [phase, seconds] of Object.entries(trial.timings)) rows.push([`time: ${phase}`, `${seconds.toFixed(2)} s`]);
  return part("Course", pairs(rows));
}

function epochs(trial) {
  const columns = [...new Set(trial.curve.flatMap((row) => Object.keys(row)))];
  const table = element("table");
  const text = (value) => (value === undefined ? "–" : Number.isInteger(value) ? String(value) : value.toPrecision(5));
  fillTable(table, columns.map((title) => ({ title: title.replaceAll("_", " "), number: true })), trial.curve.map((row) => ({ cells: columns.map((column) => text(row[column])) })));
  return table;
}

async function start() {
  byId("run").href = `/run/${name}#a=${Number(number)}`;
  byId("record").href = `/api/run/${name}/trial/${Number(number)}`;
  const source = await openSource();
  const trial = await source.trial(number);
  nameOperators(trial.operators);
  document.title = `trial ${trial.number} · ${decodeURIComponent(name)}`;
  byId("name").textContent = `${decodeURIComponent(name)}: trial ${trial.number}`;
  byId("key").textContent = trial.key;
  byId("state").textContent = trialState(trial.state);
  const isFailed = trial.state === "failed";
  byId("state").classList.add(isFailed ? "quiet" : trial.state === "complete" ? "finished" : "other");
  const parts = [];
  if (trial.error) parts.push(whole(isFailed ? "Failure" : "Why it was not trained", element("p", { class: isFailed ? "warning" : null }, trial.error), trial.trace ? wide("Trace", element("pre", {}, trial.trace)) : null));
  parts.push(figures(trial, noteBox(trial.number, `trial ${trial.number}`, trial.note, source.note)), course(trial));
  const curve = element("div", { class: "small", role: "img", "aria-label": "Accuracy by epoch; the figures are in the table below" });
  if (trial.curve.length) parts.push(part("Learning curve", curve, wide("Epochs", epochs(trial))));
  parts.push(part("Architecture", diagram(trial)));
  const confused = part("What it confuses");
  show(confused, false);
  parts.push(confused);
  parts.push(part("Parameters of the search space", pairs(Object.entries(trial.params))));
  if (trial.state === "complete" && trial.command) parts.push(part("Retrain this", wide("Command", element("pre", {}, trial.command))));
  parts.push(part("Files, in the run's folder", element("ul", { class: "files" }, ...trial.files.map((file) => element("li", {}, element("code", {}, file))))));
  parts.push(part("Genotype", wide("Genotype", element("pre", {}, JSON.stringify(trial.genotype, null, 1)))));
  byId("parts").replaceChildren(...parts);
  if (trial.state === "complete") showMistakes(confused);
  if (trial.curve.length) drawCurves(curve, [{ name: "A", rows: trial.curve }], "box_ap" in trial.curve[0] ? BOX_AP : TOP1);
}

// one network may have been trained at length several times; asked for once the page has drawn
async function showMistakes(section) {
  const found = mistakesParts(await getJson(`${byId("record").href}/mistakes`));
  show(section, found.length > 0);
  section.append(...found);
}

start().catch((error) => {
  show(byId("problem"), true);
  byId("problem").textContent = `This page cannot be shown: ${error.message}`;
});
