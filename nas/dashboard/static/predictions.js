// The surrogate's predictions against what came: how well they rank in words, every trial as a point, the worst misses.
import { byId, element, fillTable, show } from "./dom.js";
import { capital, difference, figure } from "./format.js";
import { colour, drawSmall } from "./plotly.js";

let shown = null;

// found: {in_order, objectives} of the server, or nothing; pick(number, second): selects a trial
export function drawPredictions(found, store, pick) {
  shown = found ? { found, store, pick } : null;
  show(byId("predictions-words"), Boolean(found));
  show(byId("predictions-details"), Boolean(found));
  if (!found) return;
  const objectives = Object.entries(found.objectives);
  const how = found.in_order ? "each trial predicted from those that had ended before it began" : "each trial predicted from nine tenths of the others";
  byId("predictions-words").replaceChildren(element("b", {}, "Surrogate's predictions"), `, ${how}. ${objectives.map(([, { words }]) => capital(words)).join(". ")}.`);
  drawMisses(objectives);
  redrawPredictions();
}

// the charts, while they are in sight: Plotly takes a while
export function redrawPredictions() {
  if (!shown || !byId("predictions-details").open) return;
  const { found, store, pick } = shown;
  const parts = Object.entries(found.objectives).map(([name, { trials, words }]) => {
    const metric = store.metric(name);
    const node = element("div", { class: "square", role: "img", "aria-label": `Measured against predicted ${words}` });
    return { metric, trials, node, part: element("div", {}, element("h3", {}, capital(metric.title)), node) };
  });
  byId("predictions").replaceChildren(...parts.map(({ part }) => part));
  for (const { metric, trials, node } of parts) drawOne(node, metric, trials, pick);
}

async function drawOne(node, metric, trials, pick) {
  const scaled = (name) => trials.map((trial) => trial[name] * metric.scale);
  const [x, y, margins] = ["predicted", "measured", "margin"].map(scaled);
  const most = metric.unit === "%" ? 100 : Infinity; // a figure is never below 0, a share not above 1
  const ends = [Math.min(...x, ...y), Math.max(...x, ...y)];
  const equal = { type: "scatter", mode: "lines", x: ends, y: ends, line: { color: colour("quiet"), width: 1, dash: "dash" }, hoverinfo: "skip" };
  const points = {
    type: "scatter",
    mode: "markers",
    x,
    y,
    text: trials.map(({ number, measured, predicted, margin }) => `trial ${number}: ${figure(metric, measured)} ${metric.unit}, predicted ${figure(metric, predicted)} ± ${figure(metric, margin)}`),
    error_x: { type: "data", symmetric: false, array: margins.map((half, i) => Math.max(Math.min(half, most - x[i]), 0)), arrayminus: margins.map((half, i) => Math.min(half, x[i])), color: colour("cloud"), thickness: 1, width: 0 },
    marker: { size: 7, color: colour("front") },
    hovertemplate: "%{text}<extra></extra>",
  };
  await drawSmall(node, [equal, points], { title: "predicted", unit: metric.unit }, { title: "measured", unit: metric.unit }, { free: true, height: 260 });
  node.on("plotly_click", ({ points: [point], event }) => pick(trials[point.pointIndex].number, event.shiftKey));
}

function drawMisses(objectives) {
  const { store, pick } = shown;
  const rows = objectives.flatMap(([name, { trials, misses }]) =>
    misses.map((number) => {
      const metric = store.metric(name);
      const { predicted, margin, measured } = trials.find((trial) => trial.number === number);
      const button = element("button", { type: "button", class: "key", onclick: (event) => pick(number, event.shiftKey) }, `trial ${number}`);
      return { cells: [button, `${metric.title} (${metric.unit})`, figure(metric, measured), `${figure(metric, predicted)} ± ${figure(metric, margin)}`, difference(metric, measured, predicted)] };
    }),
  );
  show(byId("misses-scroll"), rows.length > 0);
  byId("misses-words").textContent = rows.length ? "Farthest outside of their 95 % intervals:" : "Everything that was measured lies in its 95 % interval.";
  fillTable(byId("misses"), [{ title: "trial" }, { title: "figure" }, { title: "measured", number: true }, { title: "predicted", number: true }, { title: "difference", number: true }], rows);
}
