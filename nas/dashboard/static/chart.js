// The chart of accuracy against cost. Plotly draws axes, front, zoom and pictures; the dominated trials are painted on a
// canvas below it, and A, B and the figures of a point are put above it, because with thousands of points in Plotly every
// new trial and every click would take a second.
import { element, show } from "./dom.js";
import { axis, colour, layout, loadPlotly } from "./plotly.js";

const REACH = 9;
const DOT = 3;

// points that no other one beats in both axes, by rising x
export function frontLine(points, maximize) {
  const better = (a, b) => (maximize ? a > b : a < b);
  const sorted = [...points].sort((p, q) => p.x - q.x || (maximize ? q.y - p.y : p.y - q.y));
  const line = [];
  for (const point of sorted) if (!line.length || better(point.y, line.at(-1).y)) line.push(point);
  return line;
}

// Fills `box` with a chart. It calls onPick(number, second) for a click on a point (second: with Shift), and offers
// draw({x, y: metrics, points: [{number, x, y, front}], log, words(point)}), x and y in the metrics' units, and select(a, b).
export function createChart(box, onPick) {
  const canvas = element("canvas", { "aria-hidden": "true" });
  const plot = element("div", { class: "plot" });
  const marks = ["a", "b"].map((name) => element("div", { class: `mark ${name}`, hidden: true }, element("b", {}, name.toUpperCase())));
  const tip = element("div", { class: "tip", hidden: true });
  box.replaceChildren(canvas, plot, ...marks, tip);
  let view = null;
  let chosen = [];

  function place() {
    const place2d = view && mapping(plot);
    if (!place2d) return;
    paintCloud(canvas, box, view.points, place2d);
    marks.forEach((mark, i) => {
      const point = view.points.find(({ number }) => number === chosen[i]);
      const at = point && place2d(point);
      show(mark, Boolean(at));
      if (at) mark.style.transform = `translate(${at.left}px, ${at.top}px)`;
    });
  }

  // the point under the pointer: of the front where one is in reach, else the nearest
  function find(event) {
    const place2d = view && mapping(plot);
    if (!place2d || !(event.target instanceof Element) || event.target.closest(".modebar")) return null;
    const { left, top } = box.getBoundingClientRect();
    const distances = view.points.map((point) => {
      const at = place2d(point);
      return at ? Math.hypot(at.left - event.clientX + left, at.top - event.clientY + top) : Infinity;
    });
    let best = null;
    let least = REACH;
    distances.forEach((distance, i) => {
      const felt = view.points[i].front ? distance / 2 : distance;
      if (distance < REACH && felt < least) [best, least] = [view.points[i], felt];
    });
    return best;
  }

  function showTip(event) {
    const point = event.buttons ? null : find(event);
    show(tip, Boolean(point));
    plot.classList.toggle("over", Boolean(point));
    if (!point) return;
    tip.replaceChildren(...view.words(point).map((line) => element("div", {}, line)));
    const at = mapping(plot)(point);
    const onLeft = at.left > box.clientWidth / 2;
    tip.style.transform = `translate(${at.left + (onLeft ? -14 : 14)}px, ${at.top}px) translate(${onLeft ? -100 : 0}%, -50%)`;
  }

  let pressed = null;
  box.addEventListener("pointerdown", (event) => (pressed = event), true);
  // Plotly keeps clicks to itself where a drag could begin; a press that did not move is a click
  addEventListener("pointerup", (event) => {
    const still = pressed && Math.hypot(event.clientX - pressed.clientX, event.clientY - pressed.clientY) < 4;
    const point = still && event.button === 0 ? find(pressed) : null;
    pressed = null;
    if (point) onPick(point.number, event.shiftKey);
  }, true);
  box.addEventListener("pointermove", showTip);
  box.addEventListener("pointerleave", () => show(tip, false));

  let listening = false;
  let drawing = Promise.resolve();

  // one drawing after the other, since Plotly cannot be told anew while it begins; what came in between is left out
  function draw(next) {
    view = next;
    drawing = drawing.then(() => (view === next ? render() : undefined));
    return drawing;
  }

  async function render() {
    await loadPlotly();
    await Plotly.react(plot, traces(view), shape(view), settings(() => savePicture(box, view)));
    if (!listening) {
      listening = true;
      plot.on("plotly_afterplot", place);
      plot.on("plotly_relayouting", place);
    }
    place();
  }

  function select(a, b) {
    chosen = [a, b];
    place();
  }

  return { draw, select };
}

// from a point to its pixels in the box, or null outside of what the axes show
function mapping(plot) {
  const axes = plot._fullLayout && [plot._fullLayout.xaxis, plot._fullLayout.yaxis];
  if (!axes?.every((one) => one?.range && one._length)) return null;
  const [across, up] = axes.map(({ range: [low, high], type, _length: length }) => (value) => {
    const share = ((type === "log" ? Math.log10(value) : value) - low) / (high - low);
    return share >= 0 && share <= 1 ? share * length : null;
  });
  const [x, y] = axes;
  return (point) => {
    const [right, high] = [across(point.x), up(point.y)];
    return right === null || high === null ? null : { left: x._offset + right, top: y._offset + y._length - high };
  };
}

function paintCloud(canvas, box, points, place2d) {
  const [width, height] = [box.clientWidth, box.clientHeight];
  if (!width || !height) return;
  const ratio = devicePixelRatio || 1;
  Object.assign(canvas, { width: Math.round(width * ratio), height: Math.round(height * ratio) });
  const dot = document.createElement("canvas");
  dot.width = dot.height = Math.ceil(2 * DOT * ratio);
  const ink = dot.getContext("2d");
  ink.fillStyle = colour("cloud");
  ink.arc(dot.width / 2, dot.width / 2, dot.width / 2, 0, 7);
  ink.fill();
  const paper = canvas.getContext("2d");
  paper.globalAlpha = points.length > 2000 ? 0.4 : 0.6;
  for (const point of points) {
    const at = point.front ? null : place2d(point);
    if (at) paper.drawImage(dot, at.left * ratio - dot.width / 2, at.top * ratio - dot.width / 2);
  }
}

function scatter(points, more) {
  return { type: "scatter", mode: "markers", hoverinfo: "skip", x: points.map(({ x }) => x), y: points.map(({ y }) => y), ...more };
}

function traces({ points, y }) {
  const line = points.length >= 3 ? frontLine(points, y.maximize) : [];
  const [xs, ys] = [points.map((point) => point.x), points.map((point) => point.y)];
  const [low, high] = [least, most].map((end) => ({ x: end(xs), y: end(ys) }));
  const steps = line.length ? [...line, { x: high.x, y: line.at(-1).y }] : [];
  return [
    // unseen: the corners of the cloud, for the ranges of the axes
    scatter([low, high], { marker: { opacity: 0, size: 8 } }),
    scatter(steps, { mode: "lines", line: { shape: "hv", width: 2, color: colour("front") } }),
    scatter(points.filter((point) => point.front), { marker: { size: 9, color: colour("front") } }),
  ];
}

function least(values) {
  return values.reduce((a, b) => Math.min(a, b), Infinity);
}

function most(values) {
  return values.reduce((a, b) => Math.max(a, b), -Infinity);
}

function shape({ x, y, log }) {
  return layout({
    // zoom and pan stay while trials come in, and go when the axis is another
    uirevision: `${x.name} ${log}`,
    hovermode: false,
    xaxis: axis(x, { type: log ? "log" : "linear" }),
    yaxis: axis(y, {}),
  });
}

function settings(save) {
  return {
    displaylogo: false,
    responsive: true,
    doubleClick: "reset",
    modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d", "toImage"],
    modeBarButtonsToAdd: [{ name: "save", title: "Save as PNG", icon: Plotly.Icons.camera, click: save }],
  };
}

// the picture holds the dominated trials as well, which the page paints beside Plotly
function savePicture(box, view) {
  const cloud = scatter(view.points.filter((point) => !point.front), { marker: { size: 6, color: colour("cloud"), opacity: 0.5 } });
  const figure = { data: [cloud, ...traces(view)], layout: { ...shape(view), paper_bgcolor: colour("ground") } };
  const size = { width: box.clientWidth, height: box.clientHeight, scale: 2 };
  return Plotly.downloadImage(figure, { format: "png", filename: "front", ...size });
}
