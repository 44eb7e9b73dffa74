// The panel of the selected networks: figures, the command that retrains A, blocks, learning curves.
import { diagram, differences } from "./blocks.js";
import { afterPaint, byId, element, fillTable } from "./dom.js";
import { clock, difference, duration, figure, sequence } from "./format.js";
import { download } from "./front.js";
import { drawCurves } from "./plotly.js";

const HINT = "Click a point of the chart or a row of the table to see the network. With Shift, a second one is compared with it.";
let filled = null;

// a, b: whole trials or null; context: {onFront, metrics, curveMetric, base, run, actions: {setB, swap, clear}, nearest(trial)}
export function drawPanel(a, b, context) {
  const panel = byId("panel");
  const shown = JSON.stringify([a, b, context.onFront.has(a?.number), context.onFront.has(b?.number)]);
  if (shown === filled) return; // what is open or has the focus stays
  filled = shown;
  if (!a) {
    panel.replaceChildren(element("h2", {}, "No network selected"), element("p", { class: "quiet" }, HINT));
    return;
  }
  const parts = [heading(a, "A", context), b ? heading(b, "B", context) : null, buttons(b, context.actions), metricTable(a, b, context.metrics)];
  parts.push(...notes(a, b, context));
  if (a.error) parts.push(element("p", { class: "warning" }, a.error));
  if (a.state === "complete" || a.state === "stopped") parts.push(...retrain(a, context.run));
  if (b) parts.push(...differences(a, b));
  else parts.push(element("h3", {}, `Architecture: ${a.stages.flat().length} blocks`), diagram(a), ...profileHint(a, context.run));
  const curve = element("div", { class: "curve", role: "img", "aria-label": curveWords(a, b) });
  const curves = [["A", a], ["B", b]].filter(([, trial]) => trial?.curve.length).map(([name, trial]) => ({ name, rows: trial.curve }));
  if (curves.length) parts.push(element("h3", {}, "Learning curve"), curve);
  panel.replaceChildren(...parts.filter(Boolean));
  // Plotly takes a while: the panel is shown before
  if (curves.length) afterPaint(() => curve.isConnected && drawCurves(curve, curves, context.curveMetric));
}

// the charts in the panel take their colours anew
export function redrawPanel() {
  filled = null;
}

function curveWords(a, b) {
  const ends = [a, b].filter((trial) => trial?.curve.length).map((trial) => `trial ${trial.number} ends at ${((trial.curve.at(-1).top1 ?? 0) * 100).toFixed(2)} % after ${trial.curve.length} epochs`);
  return `Accuracy by epoch: ${ends.join("; ")}`;
}

function heading(trial, letter, { onFront, base }) {
  const words = [trial.state === "complete" ? (onFront.has(trial.number) ? "on the front" : "dominated") : trial.state];
  if (trial.seconds) words.push(`took ${duration(trial.seconds)}`);
  if (trial.finished) words.push(clock(trial.finished));
  const name = `trial ${trial.number}`;
  return element(
    "div",
    { class: `selected ${letter.toLowerCase()}` },
    element("h2", {}, element("b", {}, letter), " ", base ? element("a", { href: `${base}/trial/${trial.number}` }, name) : name, " ", element("code", {}, trial.key)),
    element("p", { class: "quiet" }, words.join(" · ")),
  );
}

function buttons(b, { setB, swap, clear }) {
  const made = b
    ? [element("button", { type: "button", onclick: swap }, "Swap A and B"), element("button", { type: "button", onclick: () => setB(false) }, "Drop B")]
    : [element("button", { type: "button", onclick: () => setB(true) }, "Keep as B to compare")];
  return element("p", { class: "buttons" }, ...made, element("button", { type: "button", onclick: clear }, "Clear"));
}

export function metricTable(a, b, metrics) {
  const columns = [{ title: "figure" }, { title: "A", number: true }];
  if (b) columns.push({ title: "B", number: true }, { title: "A − B", number: true });
  const shown = metrics.filter(({ name }) => name in a.values || (b && name in b.values));
  const rows = shown.map((metric) => {
    const [left, right] = [a, b].map((trial) => trial?.values[metric.name]);
    const cells = [`${metric.title} (${metric.unit})`, figure(metric, left)];
    if (b) cells.push(figure(metric, right), difference(metric, left, right));
    return { cells };
  });
  const table = element("table", { class: "metrics" });
  fillTable(table, columns, rows);
  return table;
}

// how sure the figures are, and where the network stands
function notes(a, b, context) {
  const lines = [];
  const { low, high, runs, setting } = a.latency ?? {};
  if (typeof low === "number" && typeof high === "number") {
    lines.push(`latency: the middle 60 % of ${runs ?? "its"} runs took between ${low.toFixed(3)} and ${high.toFixed(3)} ms; ${setting}`);
  } else if (setting) lines.push(`latency: ${setting}`);
  const other = b?.latency;
  if (typeof low === "number" && typeof other?.low === "number") {
    const apart = low > other.high || other.low > high;
    lines.push(apart ? "The latencies of A and B are apart: the middle 60 % of their runs do not overlap." : "Latency: not distinguishable, the middle 60 % of their runs overlap.");
  }
  if (b) lines.push(accuracyNote(a, b));
  const nearest = context.nearest(a);
  if (nearest) lines.push(`nearest published network in this run: ${nearest}`);
  if (a.seeds) lines.push(`accuracy: mean ${(a.seeds.mean * 100).toFixed(2)} ± ${(a.seeds.sd * 100).toFixed(2)} % (standard deviation of ${a.seeds.count} seeds)`);
  return lines.filter(Boolean).map((line) => element("p", { class: "quiet note" }, line));
}

function accuracyNote(a, b) {
  if (!a.seeds || !b.seeds) return "Accuracy: one seed each, so a small difference says little.";
  const gap = a.seeds.mean - b.seeds.mean;
  const error = 2 * Math.hypot(a.seeds.sd / Math.sqrt(a.seeds.count), b.seeds.sd / Math.sqrt(b.seeds.count));
  const words = `difference ${(gap * 100).toFixed(2)} ± ${(error * 100).toFixed(2)}`;
  return Math.abs(gap) > error ? `Accuracy: apart, ${words}.` : `Accuracy: not distinguishable, ${words}.`;
}

function retrain(trial, run) {
  const command = element("code", { id: "command" }, trial.command);
  const button = element("button", { type: "button", class: "main", id: "copy" }, "Copy command");
  button.addEventListener("click", () => copyCommand());
  const config = element("button", { type: "button", id: "genotype" }, "Download config");
  config.addEventListener("click", () => download(`${run}-${trial.key}.json`, `${JSON.stringify(trial.genotype, null, 1)}\n`, "application/json"));
  const states = trial.retrained.map(
    (one) => `${one.done ? "Retrained" : "Retraining"}${one.name ? ` (${one.name})` : ""}: ${(one.top1 * 100).toFixed(2)} % after ${one.epochs} epochs${one.asked && !one.done ? ` of ${one.asked}` : ""}${one.resolution ? ` at ${one.resolution} pixels` : ""}.`,
  );
  return [
    element("h3", {}, "Retrain this"),
    ...(states.length ? states : ["Not retrained yet."]).map((state) => element("p", { class: "quiet" }, state)),
    element("pre", { tabindex: "0", "aria-label": "Command that retrains A", role: "group" }, command),
    element("p", { class: "buttons" }, button, config),
    element("p", { class: "quiet note" }, `${trial.command.endsWith(" DIR") ? "DIR is the folder of the images. " : ""}The config is the architecture as a file: nas profile reads it, and nas.genotype.Genotype.`),
  ];
}

// copies the command of A, also for the key C
export async function copyCommand() {
  const [node, button] = [byId("command"), byId("copy")];
  if (!node) return;
  try {
    await navigator.clipboard.writeText(node.textContent);
    button.textContent = "Copied";
  } catch {
    // the browser keeps the clipboard from this page: leave the text selected for the keyboard
    getSelection().selectAllChildren(node);
    button.textContent = "Selected: press Ctrl+C";
  }
  setTimeout(() => (button.textContent = "Copy command"), 2000);
}

function profileHint(trial, run) {
  if (trial.blocks_ms || !/^[0-9a-z]+$/i.test(trial.key)) return [];
  const text = `Latency per block: download the config, then nas profile ${run}-${trial.key}.json --json, saved as profiles/${trial.key}.json in the run's folder.`;
  return [element("p", { class: "quiet note" }, text)];
}

// one line that says what a trial is, for the announcement under the chart
export function describe(trial, letter, metrics, position) {
  const values = metrics.map((metric) => `${figure(metric, trial.values[metric.name])} ${metric.unit}`);
  const operators = trial.stages.map((stage) => sequence(stage.map((block) => block.label))).join(" | ");
  return `${letter}: trial ${trial.number}, ${values.join(", ")}, ${position}; ${operators}`;
}
