// The table of all trials: filtered and sorted here, so that it answers at once; only the rows in sight are in the page.
import { byId, element, swatch } from "./dom.js";
import { clock, count, duration, figure, sequence, trialState } from "./format.js";
import { csvText, download, markPicks, trialCell } from "./front.js";
import { probability } from "./noise.js";

const ROW = 32; // pixels, as the style sheet has it
const TALLEST = 432;
const SPARE = 12;
const NO_STAGE = 2 ** 32 - 1;
const SECONDS = 5;
const DIGITS = 7; // of the figures, which are sent as 32-bit floats
const FIELDS = ["state", "operator", "stage", "width", "figure", "low", "high", "noted"];

// page: {store, source, view, pick(number, second), changed(), failed(error)}; refresh() takes what is new, mark() the selection
export function createTrials(page) {
  const { store } = page;
  let data = null;
  let at = new Int32Array(0); // place in `data` by row of the store
  let rows = new Int32Array(0); // rows of the store that are shown, in their order
  let order = { by: "number", down: false };
  let drawn = null;
  let asked = false;
  const scroller = byId("trials-scroll");
  const field = (name) => byId(`trials-${name}`);

  // asked for only while the table is open, and not more often than it takes to read
  async function refresh() {
    if (!byId("trials-details").open || asked || !store.count) return;
    asked = true;
    await new Promise((resolve) => setTimeout(resolve, data ? 1000 * SECONDS : 0));
    try {
      data = await page.source.architectures();
      at = new Int32Array(store.count).fill(-1);
      data.rows.number.forEach((number, i) => {
        const row = store.rowOf.get(number);
        if (row !== undefined) at[row] = i;
      });
      fillChoices();
      update();
    } finally {
      asked = false;
    }
  }

  const shapeOf = (row) => (at[row] < 0 ? [] : data.shapes[data.rows.shape[at[row]]]);
  const numStages = () => Object.keys(data.rows).filter((name) => name.startsWith("stage")).length;
  const stagesOf = (row) => {
    const found = [];
    for (let i = 0; at[row] >= 0 && i < numStages(); i += 1) {
      const stage = data.rows[`stage${i}`][at[row]];
      if (stage !== NO_STAGE) found.push(data.stages[stage]);
    }
    return found;
  };
  const stateOf = (row) => store.states[store.columns.state[row]] ?? "unknown";
  const knownMetrics = () => store.metrics.filter(({ name }) => store.columns[name]?.subarray(0, store.count).some((value) => !Number.isNaN(value)));
  const finishedOf = (row) => data.rows.finished[at[row]];

  // every column: its words in a row, what it is sorted by, and what a file says
  function columns() {
    const judged = (row) => store.noise?.of(store.columns.number[row]);
    const shapeWords = (row, which) => sequenceOf(shapeOf(row).map((one) => one[which]));
    const depth = (row) => stagesOf(row).map((labels) => labels.length);
    return [
      { name: "number", title: "trial", number: true, cell: trialLink, by: (row) => store.columns.number[row], file: (row) => store.columns.number[row] },
      { name: "key", title: "key", cell: keyButton, file: (row) => data.keys[at[row]] },
      { name: "state", title: "state", cell: (row) => trialState(stateOf(row)), by: (row) => store.columns.state[row], file: stateOf },
      ...knownMetrics().map((metric) => ({
        name: metric.name, title: metric.title, unit: metric.unit, number: true,
        cell: (row) => (Number.isNaN(store.columns[metric.name][row]) ? "–" : figure(metric, store.columns[metric.name][row])),
        by: (row) => store.columns[metric.name][row],
        file: (row) => exact(store.columns[metric.name][row]),
      })),
      ...(store.noise ? [{ name: "on_front", title: "P on front", number: true, cell: (row) => (judged(row) ? probability(judged(row).onFront) : "–"), by: (row) => judged(row)?.onFront ?? NaN, file: (row) => exact(judged(row)?.onFront ?? NaN) }] : []),
      { name: "depth", title: "depth", cell: (row) => depth(row).join(" "), by: (row) => depth(row).reduce((sum, one) => sum + one, 0), file: (row) => depth(row).join(" ") },
      { name: "width", title: "width", cell: (row) => shapeOf(row).map(([, width]) => width).join(" "), by: (row) => shapeOf(row).reduce((sum, [, width]) => sum + width, 0), file: (row) => shapeOf(row).map(([, width]) => width).join(" ") },
      { name: "block", title: "block", cell: (row) => shapeWords(row, 0).replaceAll("_", " "), by: ranks((row) => shapeWords(row, 0)), file: (row) => shapeOf(row).map(([kind]) => kind).join(" | ") },
      { name: "operators", title: "operators, stage by stage", cell: operatorWords, file: (row) => stagesOf(row).map((labels) => labels.join(" ")).join(" | ") },
      { name: "seconds", title: "took", number: true, cell: (row) => (at[row] < 0 ? "–" : duration(data.rows.seconds[at[row]])), by: (row) => data.rows.seconds[at[row]] ?? NaN, file: (row) => exact(data.rows.seconds[at[row]] ?? NaN) },
      { name: "finished", title: "finished", cell: (row) => clock(finishedOf(row)), by: (row) => finishedOf(row) ?? NaN, file: (row) => (finishedOf(row) ? new Date(1000 * finishedOf(row)).toISOString() : "") },
      ...(Object.keys(store.notes).length ? [{ name: "note", title: "note", cell: (row) => noteOf(row)?.text ?? "", file: (row) => [noteOf(row)?.star ? "★" : "", noteOf(row)?.text ?? ""].filter(Boolean).join(" ") }] : []),
    ];
  }

  const noteOf = (row) => store.notes[store.columns.number[row]];
  const trialLink = (row) => trialCell(store.columns.number[row], page.source.base, noteOf(row));
  const keyButton = (row) => element("button", { type: "button", class: "key", title: "Show this network" }, data.keys[at[row]] ?? `trial ${store.columns.number[row]}`);
  const operatorWords = (row) => {
    const cell = element("span", { class: "operators" });
    stagesOf(row).forEach((labels, i) => {
      if (i) cell.append(element("span", { class: "quiet" }, " | "));
      for (const part of sequence(labels).split(" ")) cell.append(element("span", {}, swatch(store.kinds[part.split("×")[0]]), part), " ");
    });
    return cell;
  };

  // words as numbers in their alphabetical order
  function ranks(words) {
    const known = new Map();
    return (row) => {
      if (!known.size) [...new Set(Array.from(at.keys(), words))].sort().forEach((word, i) => known.set(word, i));
      return known.get(words(row));
    };
  }

  function fillChoices() {
    const widths = [...new Set(data.shapes.flatMap((shape) => shape.map(([, width]) => width)))].sort((p, q) => p - q);
    const labels = [...new Set(data.stages.flat())].sort();
    const kinds = [...new Set(labels.map((label) => store.kinds[label]))];
    const group = (title, options) => Object.assign(element("optgroup", { label: title }, ...options));
    const fill = (name, ...options) => {
      const { value } = field(name);
      field(name).replaceChildren(...options);
      field(name).value = value || "";
    };
    fill("state", new Option("any", ""), ...store.states.map((state) => new Option(trialState(state), state)));
    fill("operator", new Option("any", ""), group("operator", kinds.map((kind) => new Option(kind, `op:${kind}`))), group("label", labels.map((label) => new Option(label, label))));
    fill("noted", new Option("any", ""), new Option("starred", "star"), new Option("with a note", "text"));
    fill("stage", new Option("any stage", ""), ...Array.from({ length: numStages() }, (_, i) => new Option(`stage ${i + 1}`, i)));
    fill("width", new Option("any", ""), ...widths.map((width) => new Option(width, width)));
    fill("figure", ...knownMetrics().map((metric) => new Option(metric.unit ? `${metric.title} (${metric.unit})` : metric.title, metric.name)));
    if (!field("figure").value) field("figure").selectedIndex = 0;
    const given = new URLSearchParams(page.view.trials ?? "");
    for (const name of FIELDS) if (given.has(name)) field(name).value = given.get(name);
    if (given.has("sort")) order = { by: given.get("sort"), down: given.get("down") === "1" };
  }

  // whether a row of the store is wanted, by the fields
  function filter() {
    const [state, operator, stage, width] = ["state", "operator", "stage", "width"].map((name) => field(name).value);
    const noted = field("noted").value;
    const wanted = state === "" ? null : store.states.indexOf(state);
    const stages = Array.from({ length: numStages() }, (_, i) => i).filter((i) => stage === "" || i === Number(stage));
    const named = operator.startsWith("op:") ? (label) => store.kinds[label] === operator.slice(3) : (label) => label === operator;
    const has = data.stages.map((labels) => labels.some(named));
    const wide = data.shapes.map((shape) => stages.some((i) => shape[i]?.[1] === Number(width)));
    const metric = store.metric(field("figure").value);
    const [low, high] = ["low", "high"].map((name) => (field(name).value === "" ? null : Number(field(name).value)));
    const column = store.columns[metric?.name];
    return (row) => {
      if (wanted !== null && store.columns.state[row] !== wanted) return false;
      const place = at[row];
      if (operator && (place < 0 || !stages.some((i) => has[data.rows[`stage${i}`][place]]))) return false;
      if (width && (place < 0 || !wide[data.rows.shape[place]])) return false;
      if (noted && !noteOf(row)?.[noted]) return false;
      const value = column ? column[row] * metric.scale : NaN;
      return (low === null || value >= low) && (high === null || value <= high);
    };
  }

  // what is shown, anew
  function update() {
    if (!data) return;
    const wanted = filter();
    const found = [];
    for (let row = 0; row < at.length; row += 1) if (wanted(row)) found.push(row);
    rows = Int32Array.from(found);
    const { by } = columns().find(({ name }) => name === order.by) ?? columns()[0];
    const values = new Float64Array(at.length);
    for (const row of rows) values[row] = by(row);
    const sign = order.down ? -1 : 1;
    // what is unknown stands last
    rows.sort((p, q) => Number.isNaN(values[p]) - Number.isNaN(values[q]) || sign * (values[p] - values[q]) || p - q);
    byId("trials-count").textContent = `${count(rows.length)} of ${count(store.count)} trials`;
    for (const name of ["csv", "json"]) field(name).disabled = !rows.length;
    // headings are made here alone: scrolling must not take the focus from them
    byId("trials").setAttribute("aria-rowcount", rows.length + 1);
    byId("trials").replaceChildren(element("thead", {}, element("tr", {}, ...columns().map(heading))), element("tbody"));
    drawn = null;
    draw();
  }

  // the rows in sight and some around them
  function draw() {
    if (!data) return;
    const first = Math.max(Math.floor(scroller.scrollTop / ROW) - SPARE, 0);
    const height = Math.max(scroller.clientHeight, TALLEST);
    const last = Math.min(Math.ceil((scroller.scrollTop + height) / ROW) + SPARE, rows.length);
    if (drawn && drawn.first <= first + SPARE / 2 && drawn.last >= Math.min(last - SPARE / 2, rows.length)) return;
    drawn = { first, last };
    const shown = columns();
    const focus = document.activeElement?.closest("#trials tr[data-number]")?.dataset.number;
    const tag = document.activeElement?.tagName;
    const space = (height) => (height > 0 ? [element("tr", { "aria-hidden": "true", class: "space" }, element("td", { colspan: shown.length, style: `height:${height}px` }))] : []);
    const lines = Array.from(rows.subarray(first, last), (row, i) =>
      element("tr", { "data-number": store.columns.number[row], "aria-rowindex": first + i + 2 }, ...shown.map((column) => element("td", { class: column.number ? "number" : undefined }, column.cell(row)))),
    );
    const table = byId("trials");
    table.tBodies[0].replaceChildren(...space(first * ROW), ...lines, ...space((rows.length - last) * ROW));
    if (focus) table.querySelector(`tr[data-number="${focus}"] ${tag}`)?.focus({ preventScroll: true });
    mark();
  }

  function heading(column) {
    const sorted = order.by === column.name ? (order.down ? "descending" : "ascending") : undefined;
    const sort = column.by && element("button", { type: "button", class: "sort", onclick: () => sortBy(column) }, column.title, sorted ? (order.down ? " ▾" : " ▴") : "");
    return element("th", { scope: "col", class: column.number ? "number" : undefined, "aria-sort": sorted }, sort ?? column.title, column.unit ? element("small", {}, column.unit) : null);
  }

  // figures from the highest first, at a second click the other way
  function sortBy(column) {
    order = { by: column.name, down: order.by === column.name ? !order.down : Boolean(column.number && column.name !== "number") };
    scroller.scrollTop = 0;
    changed();
    byId("trials").querySelector("[aria-sort] button")?.focus();
  }

  function changed() {
    const given = FIELDS.filter((name) => field(name).value !== "" && (name !== "figure" || field("low").value || field("high").value)).map((name) => [name, field(name).value]);
    if (order.by !== "number" || order.down) given.push(["sort", order.by], ["down", Number(order.down)]);
    page.view.trials = given.length ? String(new URLSearchParams(given)) : null;
    page.changed();
    update();
  }

  function clear() {
    for (const name of FIELDS) if (name !== "figure") field(name).value = "";
    scroller.scrollTop = 0;
    changed();
  }

  function mark() {
    markPicks(page.view.a, page.view.b);
  }

  // what is filtered, in its order
  function files() {
    const shown = columns();
    return { names: shown.map(({ name }) => (name === "number" ? "trial" : name)), lines: Array.from(rows, (row) => shown.map((column) => column.file(row))) };
  }

  byId("trials-details").addEventListener("toggle", () => refresh().catch(page.failed));
  scroller.addEventListener("scroll", () => requestAnimationFrame(draw));
  for (const name of FIELDS) field(name).addEventListener("change", changed);
  field("clear").addEventListener("click", clear);
  field("csv").addEventListener("click", () => {
    const { names, lines } = files();
    download(`${store.summary.run}-trials.csv`, csvText([names, ...lines]), "text/csv");
  });
  field("json").addEventListener("click", () => {
    const { names, lines } = files();
    const objects = lines.map((line) => Object.fromEntries(names.map((name, i) => [name, line[i] === "" ? null : line[i]])));
    download(`${store.summary.run}-trials.json`, `${JSON.stringify(objects, null, 1)}\n`, "application/json");
  });
  byId("trials").addEventListener("click", (event) => {
    const line = event.target.closest("tr[data-number]");
    if (line && !event.target.closest("a")) page.pick(Number(line.dataset.number), event.shiftKey);
  });
  return { refresh, update };
}

// a figure in as many digits as it was sent with; empty where there is none
function exact(value) {
  return Number.isNaN(value) ? "" : Number(value.toPrecision(DIGITS));
}

// "basic" for stages that are all alike, else each
function sequenceOf(words) {
  return new Set(words).size === 1 ? String(words[0]) : words.join(" | ");
}
