// What all charts share, and the learning curves. Colours come from the style sheet.

const CURVE_SETTINGS = { displayModeBar: false, responsive: true };

let loading = null;

// Plotly takes a second to start: the page loads it when there is something to draw, and shows the rest before. A saved
// copy has it already.
export function loadPlotly() {
  loading ??= window.Plotly
    ? Promise.resolve()
    : new Promise((resolve, reject) => {
        const script = document.createElement("script");
        Object.assign(script, { src: "/static/plotly.min.js", onload: resolve, onerror: () => reject(new Error("Plotly does not load")) });
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

// curves: [{name: "A" | "B", rows: [{epoch, top1, ...}]}]
export async function drawCurves(node, curves, metric) {
  await loadPlotly();
  const traces = curves.map(({ name, rows }) => ({
    type: "scatter",
    mode: "lines+markers",
    name,
    x: rows.map((row) => row.epoch),
    y: rows.map((row) => (row[metric.name] === undefined ? null : row[metric.name] * metric.scale)),
    line: { color: colour(name.toLowerCase()), width: 2, dash: name === "B" ? "dash" : "solid" },
    marker: { size: 5 },
    hovertemplate: `${name}, epoch %{x}: %{y:.${metric.decimals}f} ${metric.unit}<extra></extra>`,
  }));
  const shape = layout({
    height: 190,
    margin: { l: 50, r: 8, t: 8, b: 40 },
    xaxis: axis({ title: "epoch", unit: "" }, { rangemode: "tozero" }),
    yaxis: axis({ title: `${metric.title.split(" ")[0]} (${metric.unit})`, unit: "" }, {}),
  });
  return Plotly.react(node, traces, shape, CURVE_SETTINGS);
}
