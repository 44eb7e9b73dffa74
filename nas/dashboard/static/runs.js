// The page of a folder: its runs, newest first, asked for again every few seconds; the fronts of ticked ones in one chart.
import { byId, element, show } from "./dom.js";
import { clock, count, duration, stateWords } from "./format.js";
import { axis, colour, layout, loadPlotly } from "./plotly.js";
import { drawRetrained } from "./retrained.js";
import { getJson } from "./source.js";

const SECONDS = 5;
const LINES = ["front", "a", "good", "b", "text"];
const DASHES = ["solid", "dash", "dot", "dashdot", "longdash"];
const NAMES = { top1: ["top-1 accuracy (%)", 100], box_ap: ["box AP (%)", 100], zero_cost: ["zero-cost score", 1], supernet: ["top-1, inherited weights (%)", 100], score: ["score", 1], latency_ms: ["latency (ms)", 1], num_params: ["parameters (M)", 1e-6], num_macs: ["MACs (M)", 1e-6], peak_memory_mb: ["peak memory (MB)", 1] };
const COLUMNS = [
  { title: "compare" },
  { title: "run", by: (run) => run.run },
  { title: "state", by: (run) => run.state },
  { title: "trainings", number: true, by: (run) => run.num_trainings },
  { title: "left", number: true, by: (run) => run.seconds_left?.[1] ?? -1 },
  { title: "failed", number: true, by: (run) => run.counts.failed },
  { title: "best", number: true, by: (run) => best(run) ?? -Infinity },
  { title: "hypervolume", number: true, by: (run) => run.hypervolume?.share ?? -1 },
  { title: "growth" },
  { title: "objectives" },
  { title: "sampler", by: (run) => run.origin ?? run.sampler ?? "" },
  { title: "started", by: (run) => run.started ?? 0 },
  { title: "device" },
  { title: "revision" },
];

const view = { runs: [], ticked: new Set(), by: null, down: false, filter: "", cap: null, trained: "" };

// the best accuracy among the front's members within the cap, in percent
function best(run) {
  const cost = costOf(run);
  const within = run.front.filter((values) => values.top1 !== undefined && (view.cap === null || !cost || values[cost] * NAMES[cost][1] <= view.cap));
  return within.length ? 100 * Math.max(...within.map(({ top1 }) => top1)) : null;
}

function costOf(run) {
  return run.objectives.find(({ direction }) => direction === "minimize")?.name ?? null;
}

function row(run) {
  const asked = run.num_trials === null ? "" : ` of ${count(run.num_trials)}`;
  const tick = element("input", { type: "checkbox", "aria-label": `Compare ${run.run}` });
  tick.checked = view.ticked.has(run.run);
  tick.addEventListener("change", () => {
    if (tick.checked) view.ticked.add(run.run);
    else view.ticked.delete(run.run);
    write();
    drawOverlay();
  });
  const left = run.seconds_left && ["running", "quiet"].includes(run.state) ? `${duration(run.seconds_left[0])} – ${duration(run.seconds_left[1])}` : "–";
  const top = best(run);
  return [
    tick,
    element("a", { href: `/run/${encodeURIComponent(run.run)}` }, run.run),
    element("span", { class: `badge ${run.state}` }, stateWords(run.state)),
    `${count(run.num_trainings)}${asked}`,
    left,
    count(run.counts.failed),
    top === null ? "–" : `${top.toFixed(2)} %`,
    volumeOf(run),
    sparkline(run.growth),
    run.objectives.map(({ name }) => name).join(", ") || "–",
    run.origin ?? run.sampler ?? "–",
    clock(run.started),
    run.device ?? "–",
    run.revision ?? "–",
  ];
}

// shares of different boxes do not compare: a number only where other runs have the same problem, and one box for all
function volumeOf({ hypervolume: volume }) {
  const words = volume ? `Share of the box that it spans together with ${volume.others.join(", ")}` : "No other run here has the same objectives, short training and device";
  return element("span", { title: words }, volume ? volume.share.toFixed(4) : "–");
}

function sparkline(growth) {
  if (!growth) return "–";
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  const line = document.createElementNS(space, "polyline");
  const last = growth.trainings.at(-1);
  const points = growth.trainings.map((at, i) => `${((80 * at) / last).toFixed(1)},${(19 - 18 * growth.share[i]).toFixed(1)}`);
  line.setAttribute("points", points.join(" "));
  for (const [name, value] of [["viewBox", "0 0 80 20"], ["class", "spark"], ["role", "img"], ["aria-label", `growth of the hypervolume over ${count(last)} trainings`]]) svg.setAttribute(name, value);
  svg.append(line);
  return svg;
}

function draw() {
  const shown = view.runs.filter(({ run }) => run.toLowerCase().includes(view.filter.toLowerCase()));
  if (view.by !== null) {
    const value = COLUMNS[view.by].by;
    shown.sort((p, q) => (value(p) > value(q) ? 1 : value(p) < value(q) ? -1 : 0) * (view.down ? -1 : 1));
  }
  const focused = document.activeElement?.dataset?.column;
  const head = COLUMNS.map((column, i) => {
    const sorted = view.by === i ? (view.down ? "descending" : "ascending") : undefined;
    const sort = element("button", { type: "button", class: "sort", "data-column": i, onclick: () => sortBy(i) }, column.title, sorted ? (view.down ? " ▾" : " ▴") : "");
    return element("th", { scope: "col", class: column.number ? "number" : undefined, "aria-sort": sorted }, column.by ? sort : column.title);
  });
  const body = shown.map((run) => element("tr", {}, ...row(run).map((cell, i) => element("td", { class: COLUMNS[i].number ? "number" : undefined }, cell))));
  byId("runs").replaceChildren(element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...body));
  if (focused) document.querySelector(`[data-column="${focused}"]`)?.focus();
  const cost = view.runs.map(costOf).find(Boolean);
  byId("cap-unit").textContent = cost ? NAMES[cost][0] : "";
}

function sortBy(column) {
  view.down = view.by === column ? !view.down : Boolean(COLUMNS[column].number);
  view.by = column;
  write();
  draw();
}

// runs of the same two objectives share a chart; each has a colour and a dash of its own
async function drawOverlay() {
  const ticked = view.runs.filter(({ run, front }) => view.ticked.has(run) && front.length);
  show(byId("overlay-section"), ticked.length > 1);
  if (ticked.length < 2) return;
  const cost = costOf(ticked[0]) ?? "num_params";
  const same = ticked.filter((run) => (costOf(run) ?? "num_params") === cost);
  const devices = new Set(same.map(({ device }) => device));
  const left = ticked.length - same.length;
  const notes = [left ? `${left} left out: they minimize something else.` : "", devices.size > 1 && cost === "latency_ms" ? "The runs were measured on different devices: their latencies do not compare." : ""];
  byId("overlay-note").textContent = notes.filter(Boolean).join(" ");
  await loadPlotly();
  const traces = same.map(({ run, front }, i) => {
    const points = front.filter((values) => values.top1 !== undefined && values[cost] !== undefined);
    return {
      type: "scatter",
      mode: "lines+markers",
      name: run.replaceAll("<", "‹").replaceAll("&", "＆"),
      x: points.map((values) => values[cost] * NAMES[cost][1]),
      y: points.map(({ top1 }) => 100 * top1),
      line: { shape: "hv", width: 2, color: colour(LINES[i % LINES.length]), dash: DASHES[i % DASHES.length] },
      marker: { size: 7, symbol: i },
      hoverinfo: "x+y+name",
    };
  });
  const form = layout({ height: 380, showlegend: true, legend: { orientation: "h", y: 1.12 }, xaxis: axis({ title: NAMES[cost][0] }), yaxis: axis({ title: NAMES.top1[0] }) });
  await Plotly.react(byId("overlay"), traces, form, { displaylogo: false, responsive: true });
}

// the next question only after the last answer: a slow server is not asked twice at once
async function refresh() {
  try {
    const { folder, runs, retrained } = await getJson("/api/runs");
    const changed = JSON.stringify(runs) !== JSON.stringify(view.runs);
    const trained = JSON.stringify(retrained);
    if (trained !== view.trained) drawRetrained(retrained);
    Object.assign(view, { runs, trained });
    byId("folder").textContent = folder;
    const empty = byId("empty");
    show(empty, runs.length === 0);
    const command = element("code", {}, "nas search search_spaces/quickstart.yaml");
    empty.replaceChildren(element("p", {}, `No runs in ${folder} yet.`), element("p", {}, "Start one: ", command), element("p", { class: "quiet" }, "It searches all five operators on handwritten digits, in some minutes on any CPU."));
    show(byId("runs"), runs.length > 0);
    show(byId("options"), runs.length > 0);
    if (changed) {
      draw();
      drawOverlay();
    }
    byId("live").textContent = "";
  } catch {
    byId("live").textContent = `not live, trying again every ${SECONDS} s`;
  }
  setTimeout(refresh, SECONDS * 1000);
}

function read() {
  const given = new URLSearchParams(location.hash.slice(1));
  view.ticked = new Set(given.getAll("run"));
  view.filter = given.get("filter") ?? "";
  const by = COLUMNS.findIndex(({ title, by: value }) => value && title === given.get("sort"));
  Object.assign(view, { by: by < 0 ? null : by, down: given.has("down"), cap: given.get("cap") ? Number(given.get("cap")) : null });
  byId("filter").value = view.filter;
  byId("cap").value = view.cap ?? "";
}

function write() {
  const given = new URLSearchParams([...view.ticked].map((run) => ["run", run]));
  if (view.filter) given.set("filter", view.filter);
  if (view.cap !== null) given.set("cap", view.cap);
  if (view.by !== null) given.set("sort", COLUMNS[view.by].title);
  if (view.down) given.set("down", "1");
  history.replaceState(null, "", `#${given}`);
}

byId("filter").addEventListener("input", (event) => {
  view.filter = event.target.value;
  write();
  draw();
});
byId("cap").addEventListener("change", (event) => {
  view.cap = event.target.value === "" ? null : Number(event.target.value);
  write();
  draw();
});
read();
refresh();
