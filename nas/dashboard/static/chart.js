// The chart of two figures, at first accuracy against cost. A canvas has the dominated trials, and everything until Plotly is there; Plotly
// draws axes, front, zoom and pictures; A, B and the figures of a point are put above it.
import { MARGIN, fit, frameOf, heightOf } from "./axes.js";
import { paintCloud } from "./cloud.js";
import { element, show } from "./dom.js";
import { titleOf } from "./format.js";
import { axis, colour, layout, loadPlotly } from "./plotly.js";

const REACH = 9;
const NEAR = 30;
const FADED = 0.35;
const LETTER = 7.2;
const MOST_WAITING = 1000; // milliseconds

// rows that no other one beats in both axes, from the best x to the worst, as points
export function frontLine({ x, y, xs, ys }, rows) {
  const [across, up] = [x, y].map(({ maximize }) => (maximize ? -1 : 1));
  const sorted = [...rows].sort((p, q) => across * (xs[p] - xs[q]) || up * (ys[p] - ys[q]));
  const line = [];
  for (const row of sorted) if (!line.length || up * (ys[row] - line.at(-1).y) < 0) line.push({ x: xs[row], y: ys[row] });
  return line;
}

// Fills `box` with a chart. It calls onPick(row, second) for a click on a point (second: with Shift), and onZoom(zoom) with
// the new ranges, null for everything. draw(view) takes
//   {x, y: metrics, xs, ys: values by row in their units, log: whether x and y are logarithmic, shown: rows, frontRows,
//    members: rows of the front that a filter hides besides, isFront(row), steps: points of the front's line, dominated: whether to show the others, tint: index into palette by row or null, palette,
//    bars: [{row, x: [low, high], y: [low, high]}], references: [{row, name}], retrained: [{row, y}], failed: rows
//    marked at the foot of the chart, stated: [{name, x, y, words}], points that are no rows, full: whether rows are faded
//    behind those, partial: whether more trials come at once, zoom: ranges or null, words(row), name}
export function createChart(box, onPick, onZoom) {
  const canvas = element("canvas", { "aria-hidden": "true" });
  const plot = element("div", { class: "plot" });
  const marks = ["a", "b"].map((name) => element("div", { class: `mark ${name}`, hidden: true }, element("b", {}, name.toUpperCase())));
  const tip = element("div", { class: "tip", hidden: true });
  const edges = element("div", { class: "edges", hidden: true });
  box.replaceChildren(canvas, plot, edges, ...marks, tip);
  let view = null;
  let fitted = null;
  let zoom = null;
  let chosen = [null, null];
  let ready = false;
  let drawn = "";

  const ranges = () => zoom ?? [fitted.x.range, fitted.y.range];
  const frame = () => frameOf(box, ranges(), view.log);

  function draw(next) {
    view = next;
    zoom = next.zoom;
    const always = [...view.members, ...view.references.map(({ row }) => row)];
    const tall = [...view.retrained.map(({ y }) => y), ...view.stated.map(({ y }) => y), ...view.bars.flatMap(({ y }) => y ?? [])];
    const column = (values) => Float64Array.from(view.shown, (row) => values[row]);
    fitted = {
      x: fit(column(view.xs), [...always.map((row) => view.xs[row]), ...view.stated.map((point) => point.x), ...view.bars.flatMap(({ x }) => x ?? [])], view.log[0]),
      y: fit(column(view.ys), [...always.map((row) => view.ys[row]), ...tall], view.log[1]),
    };
    paint();
    requestAnimationFrame(() => performance.mark("chart"));
    return ready ? render() : begin();
  }

  let beginning = null;
  function begin() {
    beginning ??= calm().then(loadPlotly).then(() => {
      ready = true;
      return render();
    });
    return beginning;
  }

  // Plotly takes a while to start: the first picture is shown before, with all trials where their reading ends soon
  async function calm() {
    const begun = performance.now();
    do {
      await new Promise((resolve) => setTimeout(resolve, 60));
    } while (view.partial && performance.now() - begun < MOST_WAITING);
  }

  function paint() {
    if (!view || !box.clientWidth) return;
    const ink = { text: colour("text"), line: colour("line"), front: colour("front"), bad: colour("warning") };
    paintCloud(canvas, box, view, frame(), ranges(), ink, !drawn);
    moveMarks();
    const { x, y } = fitted;
    const outside = [[x.below, "◂"], [x.above, "▸"], [y.above, "▴"], [y.below, "▾"]].filter(([count]) => count);
    show(edges, outside.length > 0 && !zoom);
    edges.textContent = outside.map(([count, arrow]) => `${arrow} ${count} outside`).join("  ");
  }

  function moveMarks() {
    const at = frame();
    marks.forEach((mark, i) => {
      const row = chosen[i];
      const seen = row !== null && view.shownAt(row) && at.holds(at.x(view.xs[row]), at.y(view.ys[row]));
      show(mark, Boolean(seen));
      if (seen) mark.style.transform = `translate(${at.x(view.xs[row])}px, ${at.y(view.ys[row])}px)`;
    });
  }

  // Plotly is told only what it draws: a new dominated trial changes nothing of that
  async function render() {
    const data = traces(view, frame());
    const form = shape(view, ranges());
    const wanted = JSON.stringify([data, form, box.clientWidth, box.clientHeight]);
    if (wanted === drawn || !box.clientWidth) return;
    const first = !drawn;
    drawn = wanted;
    await Plotly.react(plot, data, form, settings(() => savePicture(box, view, ranges()), reset));
    paint();
    if (!first) return;
    plot.on("plotly_relayout", () => zoomTo(visible()));
    plot.on("plotly_relayouting", () => {
      zoom = visible();
      paint();
    });
    plot.on("plotly_doubleclick", reset);
    box.dataset.ready = "plotly";
    performance.mark("plotly");
  }

  function visible() {
    const { xaxis, yaxis } = plot._fullLayout;
    return [[...xaxis.range], [...yaxis.range]];
  }

  function zoomTo(wanted) {
    zoom = wanted;
    onZoom(zoom);
    paint();
    if (ready) render();
  }

  function reset() {
    zoomTo(null);
    return false;
  }

  // about the middle of what is shown; below 1 goes in
  function zoomBy(factor) {
    zoomTo(ranges().map(([low, high]) => {
      const [middle, half] = [(low + high) / 2, (factor * (high - low)) / 2];
      return [middle - half, middle + half];
    }));
  }

  // the row under the pointer: of the front where one is in reach, else the nearest
  function find(event) {
    if (!view || !(event.target instanceof Element) || event.target.closest(".modebar")) return null;
    const { left, top } = box.getBoundingClientRect();
    const at = frame();
    let best = null;
    let least = REACH;
    for (const row of [...(view.dominated ? view.shown : view.frontRows), ...view.failed]) {
      const distance = Math.hypot(at.x(view.xs[row]) - event.clientX + left, heightOf(at, view, row) - event.clientY + top);
      const felt = view.isFront(row) ? distance / 2 : distance;
      if (distance < REACH && felt < least) [best, least] = [row, felt];
    }
    return best;
  }

  // what the pointer is at: position and words of a row, or of a point that is none
  function under(event) {
    const row = find(event);
    const at = frame();
    if (row !== null) return { x: at.x(view.xs[row]), y: heightOf(at, view, row), words: view.words(row) };
    const { left, top } = box.getBoundingClientRect();
    const stated = (view?.stated ?? []).map(({ x, y, words }) => ({ x: at.x(x), y: at.y(y), words }));
    return stated.find(({ x, y }) => Math.hypot(x - event.clientX + left, y - event.clientY + top) < REACH) ?? null;
  }

  // dominated rows by their distance on the screen from a row
  function near(row) {
    const at = frame();
    const [x, y] = [at.x(view.xs[row]), at.y(view.ys[row])];
    const others = Array.from(view.shown).filter((other) => other !== row && !view.isFront(other));
    const distance = (other) => Math.hypot(at.x(view.xs[other]) - x, at.y(view.ys[other]) - y);
    return others.map((other) => [distance(other), other]).sort((p, q) => p[0] - q[0]).slice(0, NEAR).map(([, other]) => other);
  }

  function showTip(event) {
    const found = view && !event.buttons ? under(event) : null;
    show(tip, found !== null);
    plot.classList.toggle("over", found !== null);
    if (found === null) return;
    tip.replaceChildren(...found.words.map((line) => element("div", {}, line)));
    const onLeft = found.x > box.clientWidth / 2;
    tip.style.transform = `translate(${found.x + (onLeft ? -14 : 14)}px, ${found.y}px) translate(${onLeft ? -100 : 0}%, -50%)`;
  }

  let pressed = null;
  box.addEventListener("pointerdown", (event) => (pressed = event), true);
  // Plotly keeps clicks to itself where a drag could begin; a press that did not move is a click
  addEventListener("pointerup", (event) => {
    const still = pressed && Math.hypot(event.clientX - pressed.clientX, event.clientY - pressed.clientY) < 4;
    const row = still && event.button === 0 ? find(pressed) : null;
    pressed = null;
    if (row !== null) onPick(row, event.shiftKey);
  }, true);
  box.addEventListener("pointermove", showTip);
  box.addEventListener("pointerleave", () => show(tip, false));
  new ResizeObserver(() => {
    paint();
    if (ready && view) render();
  }).observe(box);

  function select(a, b) {
    chosen = [a, b];
    if (view) moveMarks();
  }

  return { draw, select, zoomBy, reset, near, sketched: () => Boolean(view) };
}

function scatter(points, more) {
  return { type: "scatter", mode: "markers", hoverinfo: "skip", x: points.map(({ x }) => x), y: points.map(({ y }) => y), ...more };
}

function traces(view, frame) {
  const at = (row) => ({ x: view.xs[row], y: view.ys[row] });
  const opacity = view.full ? FADED : 1;
  const found = [
    scatter(view.steps, { mode: "lines", line: { shape: "hv", width: 2, color: colour("front") }, name: "line", opacity }),
    scatter(view.frontRows.map(at), { marker: { size: 9, color: colour("front") }, name: "front", opacity, ...errorBars(view) }),
  ];
  const published = view.full ? view.stated : view.references.map(({ row, name }) => ({ ...at(row), name }));
  if (published.length) {
    found.push(scatter(published, {
      mode: "markers+text",
      text: labels(published, frame),
      textposition: "middle right",
      textfont: { size: 12, color: colour("text") },
      marker: { size: 11, symbol: "diamond-open", color: colour("text"), line: { width: 2 } },
      name: "published",
    }));
  }
  if (view.retrained.length) {
    const linked = view.retrained.flatMap(({ row, y }) => [at(row), { x: view.xs[row], y }, { x: null, y: null }]);
    found.push(scatter(linked, { mode: "lines", line: { dash: "dot", width: 1.5, color: colour("good") }, name: "link" }));
    const ends = view.retrained.map(({ row, y }) => ({ x: view.xs[row], y }));
    found.push(scatter(ends, { marker: { size: 13, symbol: "star", color: colour("good") }, name: "retrained" }));
  }
  return found;
}

// names of the published networks, left out where one would lie on another, on a diamond or outside; tip and table have all
export function labels(points, at) {
  const centres = points.map(({ x, y }) => [at.x(x), at.y(y)]);
  const taken = centres.map(([x, y]) => [x - 6, y - 6, x + 6, y + 6]);
  return points.map(({ name }, i) => {
    const [x, y] = centres[i];
    const wanted = [x + 8, y - 8, x + 12 + LETTER * name.length, y + 8];
    const free = wanted[2] <= at.left + at.width && taken.every(([left, top, right, bottom]) => right <= wanted[0] || left >= wanted[2] || bottom <= wanted[1] || top >= wanted[3]);
    if (free) taken.push(wanted);
    return free ? ` ${name}` : "";
  });
}

function errorBars(view) {
  if (!view.bars.length) return {};
  const of = new Map(view.bars.map((bar) => [bar.row, bar]));
  const side = (name, end, sign) => view.frontRows.map((row) => {
    const range = of.get(row)?.[name];
    return range ? Math.max(sign * (range[end] - (name === "x" ? view.xs : view.ys)[row]), 0) : 0;
  });
  const bar = (name) => ({ type: "data", symmetric: false, array: side(name, 1, 1), arrayminus: side(name, 0, -1), thickness: 1.2, width: 3, color: colour("front") });
  return { error_x: bar("x"), error_y: bar("y") };
}

function shape(view, [x, y]) {
  return layout({
    hovermode: false,
    dragmode: "zoom",
    margin: { l: MARGIN.left, r: MARGIN.right, t: MARGIN.top, b: MARGIN.bottom },
    xaxis: axis({ title: titleOf(view.x) }, { type: view.log[0] ? "log" : "linear", range: [...x], automargin: false }),
    yaxis: axis({ title: titleOf(view.y) }, { type: view.log[1] ? "log" : "linear", range: [...y], automargin: false }),
  });
}

function settings(save, reset) {
  return {
    displaylogo: false,
    doubleClick: false,
    modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d", "resetScale2d", "toImage"],
    modeBarButtonsToAdd: [
      { name: "reset", title: "Show all", icon: Plotly.Icons.home, click: reset },
      { name: "save", title: "Save as PNG", icon: Plotly.Icons.camera, click: save },
    ],
  };
}

// the picture holds the dominated trials as well, which the page paints beside Plotly
function savePicture(box, view, ranges) {
  const others = Array.from(view.shown).filter((row) => view.dominated && !view.isFront(row));
  const colours = view.tint ? others.map((row) => view.palette[view.tint[row]]) : view.palette[0];
  const cloud = scatter(others.map((row) => ({ x: view.xs[row], y: view.ys[row] })), { marker: { size: 6, color: colours, opacity: 0.5 } });
  const figure = { data: [cloud, ...traces(view, frameOf(box, ranges, view.log))], layout: { ...shape(view, ranges), paper_bgcolor: colour("ground") } };
  return Plotly.downloadImage(figure, { format: "png", filename: view.name, width: box.clientWidth, height: box.clientHeight, scale: 2 });
}
