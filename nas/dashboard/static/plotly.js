// What all charts share, and the learning curves. Colours come from the style sheet.

import { unzip } from "./source.js";

const CURVE_SETTINGS = { displayModeBar: false, responsive: true };

let loading = null;

// Plotly takes a second to start: the page loads it when there is something to draw, and shows the rest before. A saved
// copy has it packed inside; its policy allows that one script by its hash.
export function loadPlotly() {
  loading ??= window.Plotly
    ? Promise.resolve()
    : new Promise((resolve, reject) => {
        const script = document.createElement("script");
        Object.assign(script, { onload: resolve, onerror: () => reject(new Error("Plotly does not load")) });
        const packed = document.getElementById("plotly");
        if (packed) {
          unzip(packed.textContent).then(async (answer) => {
            script.textContent = await answer.text();
            document.head.append(script);
            resolve();
          }, reject);
          return;
        }
        script.src = "/static/plotly.min.js";
        document.head.append(script);
      });
  return loading;
}

export function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

export function axis(metric, more) {
  return {
    title: { text: metric.unit ? `${metric.title} (${metric.unit})` : metric.title, standoff: 8 },
    gridcolor: colour("line"),
    linecolor: colour("line"),
    zeroline: false,
    automargin: true,
    ...more,
  };
}

export function layout(more) {
  return {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: colour("text") },
    margin: { l: 56, r: 12, t: 12, b: 48 },
    showlegend: false,
    hovermode: "closest",
    hoverlabel: { bgcolor: colour("ground"), bordercolor: colour("text"), font: { color: colour("text") } },
    ...more,
  };
}

const KEPT = ["front", "good", "text", "cloud", "involution"];

// the colour and the dashes of a curve: those of A and of B, of others in turn
function curveLine(name, i) {
  if (name.length === 1 && "AB".includes(name)) return { color: colour(name.toLowerCase()), width: 2, dash: name === "B" ? "dash" : "solid" };
  return { color: colour(KEPT[i % KEPT.length]), width: 1.5, dash: ["dot", "dashdot"][Math.floor(i / KEPT.length) % 2] };
}

// curves: [{name: "A", "B" or what a kept one is called, rows: [{epoch, top1, ...}]}]
export async function drawCurves(node, curves, metric) {
  await loadPlotly();
  const traces = curves.map(({ name, rows }, i) => ({
    type: "scatter",
    mode: "lines+markers",
    name,
    x: rows.map((row) => row.epoch),
    y: rows.map((row) => (row[metric.name] === undefined ? null : row[metric.name] * metric.scale)),
    line: curveLine(name, i),
    marker: { size: 5 },
    hovertemplate: `${name}, epoch %{x}: %{y:.${metric.decimals}f} ${metric.unit}<extra></extra>`,
  }));
  return drawSmall(node, traces, { title: "epoch", unit: "" }, { title: metric.title.split(" ")[0], unit: metric.unit }, { named: curves.length > 2 });
}

// a small chart without controls
export async function drawSmall(node, traces, x, y, more = {}) {
  await loadPlotly();
  const form = layout({
    height: more.height ?? (more.named ? 260 : 190),
    showlegend: Boolean(more.named),
    legend: { orientation: "h", y: -0.3 },
    margin: { l: 50, r: 8, t: 8, b: 40 },
    xaxis: axis(x, { rangemode: more.free || more.date ? "normal" : "tozero", type: more.date ? "date" : "linear" }),
    yaxis: axis(y, { rangemode: more.fromZero ? "tozero" : "normal" }),
  });
  return Plotly.react(node, traces, form, CURVE_SETTINGS);
}
