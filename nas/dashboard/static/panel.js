// The panel of the selected networks: figures, the command that retrains A, blocks, learning curves.
import { byId, element, fillTable, swatch } from "./dom.js";
import { clock, difference, duration, figure, sequence } from "./format.js";
import { drawCurves } from "./plotly.js";

const HINT = "Click a point of the chart or a row of the table to see the network. With Shift, a second one is compared with it.";

// a, b: whole trials or null; curveMetric: what the learning curve shows; actions: {setB, swap, clear}
export function drawPanel(a, b, metrics, onFront, curveMetric, actions) {
  const panel = byId("panel");
  if (!a) {
    panel.replaceChildren(element("h2", {}, "No network selected"), element("p", { class: "quiet" }, HINT));
    return;
  }
  const parts = [heading(a, "A", onFront), b ? heading(b, "B", onFront) : null, buttons(b, actions)];
  parts.push(metricTable(a, b, metrics));
  if (a.latency) parts.push(element("p", { class: "quiet" }, element("small", {}, `A's ${a.latency}`)));
  if (a.error) parts.push(element("p", { class: "warning" }, a.error));
  if (a.state === "complete" || a.state === "stopped") parts.push(...retrain(a));
  parts.push(...blocks(a, b));
  const curve = element("div", { class: "curve" });
  const curves = [["A", a], ["B", b]].filter(([, trial]) => trial?.curve.length).map(([name, trial]) => ({ name, rows: trial.curve }));
  if (curves.length) parts.push(element("h3", {}, "Learning curve"), curve);
  panel.replaceChildren(...parts.filter(Boolean));
  if (curves.length) drawCurves(curve, curves, curveMetric);
}

function heading(trial, letter, onFront) {
  const words = [trial.state === "complete" ? (onFront.has(trial.number) ? "on the front" : "dominated") : trial.state];
  if (trial.seconds) words.push(`took ${duration(trial.seconds)}`);
  if (trial.finished) words.push(clock(trial.finished));
  return element(
    "div",
    { class: `selected ${letter.toLowerCase()}` },
    element("h2", {}, element("b", {}, letter), ` trial ${trial.number} `, element("code", {}, trial.key)),
    element("p", { class: "quiet" }, words.join(" · ")),
  );
}

function buttons(b, { setB, swap, clear }) {
  const made = b
    ? [element("button", { type: "button", onclick: swap }, "Swap A and B"), element("button", { type: "button", onclick: () => setB(false) }, "Drop B")]
    : [element("button", { type: "button", onclick: () => setB(true) }, "Keep as B to compare")];
  return element("p", { class: "buttons" }, ...made, element("button", { type: "button", onclick: clear }, "Clear"));
}

function metricTable(a, b, metrics) {
  const columns = [{ title: "" }, { title: "A", number: true }];
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

function retrain(trial) {
  const command = element("code", { id: "command" }, trial.command);
  const button = element("button", { type: "button", class: "main", id: "copy" }, "Copy command");
  button.addEventListener("click", () => copy(command, button));
  return [
    element("h3", {}, "Retrain A"),
    element("pre", { tabindex: "0", "aria-label": "Command that retrains A" }, command),
    element("p", { class: "buttons" }, button, element("span", { class: "quiet" }, "DIR is the folder of the images")),
  ];
}

async function copy(node, button) {
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

// a row per block, stage by stage; beside B the rows that differ are marked
function blocks(a, b) {
  const trials = b ? [a, b] : [a];
  const columns = [{ title: "block" }, { title: "A" }, ...(b ? [{ title: "B" }] : [])];
  const rows = [];
  let different = 0;
  for (let stage = 0; stage < Math.max(...trials.map((trial) => trial.stages.length)); stage += 1) {
    const depth = Math.max(...trials.map((trial) => trial.stages[stage]?.length ?? 0));
    for (let i = 0; i < depth; i += 1) {
      const found = trials.map((trial) => trial.stages[stage]?.[i]);
      const differs = b && JSON.stringify(found[0]) !== JSON.stringify(found[1]);
      different += differs ? 1 : 0;
      rows.push({
        class: [differs ? "differs" : "", i === 0 ? "first" : ""].join(" ").trim(),
        cells: [`${stage + 1}.${i + 1}`, ...found.map(blockCell)],
      });
    }
  }
  const table = element("table", { class: "blocks" });
  fillTable(table, columns, rows);
  const title = b ? `A against B: ${different} of ${rows.length} blocks differ` : `Architecture: ${rows.length} blocks`;
  const ends = trials.map((trial) => `${trial.stem} stem, ${trial.head} head`);
  const about = [...new Set(ends)].join("; ");
  return [element("h3", {}, title), element("p", { class: "quiet" }, about), element("div", { class: "scroll" }, table)];
}

function blockCell(block) {
  if (!block) return element("span", { class: "quiet" }, "none");
  const stride = block.stride > 1 ? `, stride ${block.stride}` : "";
  const pointwise = block.pointwise ? `, 1×1 by ${block.pointwise}` : "";
  return element(
    "span",
    { title: block.options ? `${block.operator}: ${block.options}` : block.operator },
    element("span", { class: "label" }, swatch(block.operator), block.label),
    element("small", {}, `${block.kind.replaceAll("_", " ")} ${block.width}${stride}${pointwise}`),
  );
}

// one line that says what a trial is, for the announcement under the chart
export function describe(trial, letter, metrics, position) {
  const values = metrics.map((metric) => `${figure(metric, trial.values[metric.name])} ${metric.unit}`);
  const operators = trial.stages.map((stage) => sequence(stage.map((block) => block.label))).join(" | ");
  return `${letter}: trial ${trial.number}, ${values.join(", ")}, ${position}; ${operators}`;
}
