// The panel of the selected networks: figures, the command that retrains A, blocks, learning curves.
import { diagram, differences } from "./blocks.js";
import { afterPaint, byId, element, fillTable } from "./dom.js";
import { accuracy, clock, difference, duration, figure, milliseconds, sequence, titleOf, trained, trialState } from "./format.js";
import { download } from "./front.js";
import { between, probability } from "./noise.js";
import { noteBox } from "./notes.js";
import { whatIf } from "./whatif.js";
import { drawCurves } from "./plotly.js";

const HINT = "Click a point of the chart or a row of the table to see the network. With Shift, a second one is compared with it.";
let filled = null;

// a, b: whole trials or null; context: {onFront, metrics, curveMetric, base, run, noise: see noise.js, or null,
// source, store, pick(number): for the network that is thought of, notes: by number of the trial, note(number, note): keeps one, null in a saved copy, kept: trials whose curves stay, actions: {setB, swap, clear, keep(number)}, nearest(trial)}
export function drawPanel(a, b, context) {
  const panel = byId("panel");
  const shown = JSON.stringify([a, b, context.onFront.has(a?.number), context.onFront.has(b?.number), ...[a, b].map((trial) => trial && context.noise?.of(trial.number)), context.kept.map((trial) => trial?.number)]);
  if (shown === filled) return; // what is open or has the focus stays
  filled = shown;
  if (!a) {
    panel.replaceChildren(element("h2", {}, "No network selected"), element("p", { class: "quiet" }, HINT));
    return;
  }
  const parts = [heading(a, "A", context), b ? heading(b, "B", context) : null, buttons(b, context.actions), metricTable(a, b, context.metrics)];
  parts.push(...notes(a, b, context));
  if (a.error) parts.push(element("p", { class: a.state === "failed" ? "warning" : "quiet note" }, a.error));
  parts.push(noteBox(a.number, "A", context.notes[a.number], context.note));
  if (a.state === "complete" || a.state === "stopped") parts.push(...retrain(a, context.run));
  if (b) parts.push(...differences(a, b));
  else parts.push(element("h3", {}, `Architecture: ${a.stages.flat().length} blocks`), diagram(a), ...profileHint(a, context.run));
  parts.push(whatIf(a, context));
  const kept = context.kept.filter((trial) => trial && trial !== a && trial !== b);
  const curve = element("div", { class: "curve", role: "img", "aria-label": curveWords([a, b, ...kept]) });
  const named = [["A", a], ["B", b], ...kept.map((trial) => [`trial ${trial.number}`, trial])];
  const curves = named.filter(([, trial]) => trial?.curve.length).map(([name, trial]) => ({ name, rows: trial.curve }));
  if (curves.length) parts.push(element("h3", {}, curves.length > 1 ? "Learning curves" : "Learning curve"), curve, keepButtons(a, context));
  panel.replaceChildren(...parts.filter(Boolean));
  // Plotly takes a while: the panel is shown before
  if (curves.length) afterPaint(() => curve.isConnected && drawCurves(curve, curves, context.curveMetric));
}

// the charts in the panel take their colours anew
export function redrawPanel() {
  filled = null;
}

// curves stay in the chart while A and B go on
function keepButtons(a, { kept, actions }) {
  const drop = kept.filter(Boolean).map(({ number }) => element("button", { type: "button", onclick: () => actions.keep(number) }, `Drop trial ${number}`));
  const isKept = kept.some((trial) => trial?.number === a.number);
  return element("p", { class: "buttons" }, isKept ? null : element("button", { type: "button", id: "keep", onclick: () => actions.keep(a.number) }, "Keep the curve of A"), ...drop);
}

function curveWords(trials) {
  const ends = trials.filter((trial) => trial?.curve.length).map((trial) => `trial ${trial.number} ends at ${accuracy(trained(trial.curve.at(-1)))} % after ${trial.curve.length} epochs`);
  return `Accuracy by epoch: ${ends.join("; ")}`;
}

function heading(trial, letter, { onFront, base }) {
  const words = [trial.state === "complete" ? (onFront.has(trial.number) ? "on the front" : "dominated") : trialState(trial.state)];
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
    const cells = [titleOf(metric), figure(metric, left)];
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
    lines.push(`latency: the middle 60 % of ${runs ?? "its"} runs took between ${milliseconds(low)} and ${milliseconds(high)} ms; ${setting}`);
  } else if (setting) lines.push(`latency: ${setting}`);
  const other = b?.latency;
  if (typeof low === "number" && typeof other?.low === "number") {
    const apart = low > other.high || other.low > high;
    lines.push(apart ? "The latencies of A and B are apart: the middle 60 % of their runs do not overlap." : "Latency: not distinguishable, the middle 60 % of their runs overlap.");
  }
  lines.push(judgedNote(a, "A", context.noise), b && judgedNote(b, "B", context.noise));
  if (b) lines.push(accuracyNote(a, b, context.noise));
  const nearest = context.nearest(a);
  if (nearest) lines.push(`nearest published network in this run: ${nearest}`);
  if (a.seeds && !context.noise) lines.push(`accuracy: mean ${accuracy(a.seeds.mean)} ± ${accuracy(a.seeds.sd)} % (standard deviation of ${a.seeds.count} seeds)`);
  return lines.filter(Boolean).map((line) => element("p", { class: "quiet note" }, line));
}

function judgedNote(trial, letter, noise) {
  const judged = noise?.of(trial.number);
  if (!judged) return null;
  const mean = judged.trainings > 1 ? `mean of ${judged.trainings} trainings ${accuracy(judged.mean)} %, ` : "";
  return `accuracy of ${letter}: ${mean}95 % interval ${between(judged.interval)} %; P on front ${probability(judged.onFront)}`;
}

function accuracyNote(a, b, noise) {
  const better = noise?.beats(a.number, b.number) ?? null;
  if (better !== null) {
    const [first, second, sure] = better >= 0.5 ? ["A", "B", better] : ["B", "A", 1 - better];
    return `${first} is more accurate than ${second} with probability ${probability(sure)}.`;
  }
  if (!a.seeds || !b.seeds) return "Accuracy: one seed each, so a small difference says little.";
  const gap = a.seeds.mean - b.seeds.mean;
  const error = 2 * Math.hypot(a.seeds.sd / Math.sqrt(a.seeds.count), b.seeds.sd / Math.sqrt(b.seeds.count));
  const words = `difference ${accuracy(gap)} ± ${accuracy(error)}`;
  return Math.abs(gap) > error ? `Accuracy: apart, ${words}.` : `Accuracy: not distinguishable, ${words}.`;
}

function retrain(trial, run) {
  const config = element("button", { type: "button", id: "genotype" }, "Download config");
  config.addEventListener("click", () => download(`${run}-${trial.key}.json`, `${JSON.stringify(trial.genotype, null, 1)}\n`, "application/json"));
  const about = "The config is the architecture as a file: nas profile reads it, and nas.genotype.Genotype.";
  if (!trial.command) {
    return [
      element("h3", {}, "Take this"),
      element("p", { class: "quiet" }, `Detectors are neither retrained nor exported yet. ${about}`),
      element("p", { class: "buttons" }, config),
      ...otherCommand("Measure it block by block", trial.profile),
    ];
  }
  const command = element("code", { id: "command" }, trial.command);
  const button = element("button", { type: "button", class: "main", id: "copy" }, "Copy command");
  button.addEventListener("click", () => copyCommand());
  const states = trial.retrained.map(
    (one) => `${one.done ? "Retrained" : "Retraining"}${one.name ? ` (${one.name})` : ""}: ${accuracy(one.top1)} % after ${one.epochs} epochs${one.asked && !one.done ? ` of ${one.asked}` : ""}${one.resolution ? ` at ${one.resolution} pixels` : ""}.`,
  );
  return [
    element("h3", {}, "Retrain this"),
    ...(states.length ? states : ["Not retrained yet."]).map((state) => element("p", { class: "quiet" }, state)),
    element("pre", { tabindex: "0", "aria-label": "Command that retrains A", role: "group" }, command),
    element("p", { class: "buttons" }, button, config),
    element("p", { class: "quiet note" }, `${trial.command.endsWith(" DIR") ? "DIR is the folder of the images. " : ""}${about}`),
    ...otherCommand("Measure it block by block", trial.profile),
    ...otherCommand(trial.export.endsWith(" proxy") ? "Export it with the weights of the search" : states.some((state) => state.startsWith("Retrained")) ? "Export it" : "Export it, once it is retrained", trial.export),
  ];
}

function otherCommand(title, text) {
  const code = element("code", {}, text);
  const copy = element("button", { type: "button", "aria-label": `Copy the command: ${title}` }, "Copy");
  copy.addEventListener("click", () => copyText(code, copy));
  return [element("p", { class: "line command" }, title, element("span", { class: "stretch" }), copy), element("pre", { tabindex: "0", role: "group", "aria-label": title }, code)];
}

// copies the command of A, also for the key C
export async function copyCommand() {
  if (byId("command")) await copyText(byId("command"), byId("copy"));
}

async function copyText(node, button) {
  const before = button.textContent;
  try {
    await navigator.clipboard.writeText(node.textContent);
    button.textContent = "Copied";
  } catch {
    // the browser keeps the clipboard from this page: leave the text selected for the keyboard
    getSelection().selectAllChildren(node);
    button.textContent = "Selected: press Ctrl+C";
  }
  setTimeout(() => (button.textContent = before), 2000);
}

function profileHint(trial, run) {
  if (trial.blocks_ms || !/^[0-9a-z]+$/i.test(trial.key)) return [];
  return [element("p", { class: "quiet note" }, `Milliseconds per block appear here once the output of ${trial.profile} --json is profiles/${trial.key}.json in the folder of ${run}.`)];
}

// one line that says what a trial is, for the announcement under the chart
export function describe(trial, letter, metrics, position) {
  const values = metrics.filter(({ name }) => trial.values[name] !== undefined).map((metric) => `${figure(metric, trial.values[metric.name])} ${metric.unit}`);
  const operators = trial.stages.map((stage) => sequence(stage.map((block) => block.label))).join(" | ");
  return `${letter}: trial ${trial.number}, ${values.join(", ")}, ${position}; ${operators}`;
}
