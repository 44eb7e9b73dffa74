// The table of all trials: filtered (see filter.js) and sorted here, so that it answers at once; only the rows in sight
// are in the page.
import { byId, element, swatch } from "./dom.js";
import { clock, count, duration, figure, sequence, trialState } from "./format.js";
import { createFilter } from "./filter.js";
import { csvText, download, markPicks, trialCell } from "./front.js";
import { probability } from "./noise.js";

const ROW = 32; // pixels, as the style sheet has it
const TALLEST = 432;
const SPARE = 12;
const DIGITS = 7; // of the figures, which are sent as 32-bit floats
const SECONDS = { name: "seconds" };
const OWN_COLUMNS = ["depth", "width", "seconds"]; // figures that have a column of their own, with more words

// page: {store, known: see architectures.js, base, view, pick(number, second), changed(), filtered()}; refresh() takes what
// is new, update() shows it
export function createTrials(page) {
  const { store, known } = page;
  let rows = new Int32Array(0); // rows of the store that are shown, in their order
  let order = { by: "number", down: false };
  let drawn = null;
  const scroller = byId("trials-scroll");
  const filter = createFilter(store, known, changed);

  // fields and table anew, after what is known or the address changed
  function refresh() {
    if (!known.ready()) return;
    const given = new URLSearchParams(page.view.trials ?? "");
    filter.fill(given);
    order = { by: given.get("sort") ?? "number", down: given.get("down") === "1" };
    update();
  }

  const { shapeOf, stagesOf } = known;
  const stateOf = (row) => store.states[store.columns.state[row]] ?? "unknown";

  // every column: its words in a row, what it is sorted by, and what a file says
  function columns() {
    const judged = (row) => store.noise?.of(store.columns.number[row]);
    const shapeWords = (row, which) => sequenceOf(shapeOf(row).map((one) => one[which]));
    const depth = (row) => stagesOf(row).slice(0, shapeOf(row).length).map((labels) => labels.length);
    return [
      { name: "number", title: "trial", number: true, cell: trialLink, by: (row) => store.columns.number[row], file: (row) => store.columns.number[row] },
      { name: "key", title: "key", cell: keyButton, file: known.keyOf },
      { name: "state", title: "state", cell: (row) => trialState(stateOf(row)), by: (row) => store.columns.state[row], file: stateOf },
      ...store.knownFigures.filter(({ name }) => !OWN_COLUMNS.includes(name)).map((metric) => ({
        name: metric.name, title: metric.title, unit: metric.unit, number: true,
        cell: (row) => (Number.isNaN(valueOf(metric, row)) ? "–" : figure(metric, valueOf(metric, row))),
        by: (row) => valueOf(metric, row),
        file: (row) => exact(valueOf(metric, row)),
      })),
      ...(store.noise ? [{ name: "on_front", title: "P on front", number: true, cell: (row) => (judged(row) ? probability(judged(row).onFront) : "–"), by: (row) => judged(row)?.onFront ?? NaN, file: (row) => exact(judged(row)?.onFront ?? NaN) }] : []),
      { name: "depth", title: "depth", cell: (row) => depth(row).join(" "), by: (row) => depth(row).reduce((sum, one) => sum + one, 0), file: (row) => depth(row).join(" ") },
      { name: "width", title: "width", cell: (row) => shapeOf(row).map(([, width]) => width).join(" "), by: (row) => shapeOf(row).reduce((sum, [, width]) => sum + width, 0), file: (row) => shapeOf(row).map(([, width]) => width).join(" ") },
      { name: "block", title: "block", cell: (row) => shapeWords(row, 0).replaceAll("_", " "), by: ranks((row) => shapeWords(row, 0)), file: (row) => shapeOf(row).map(([kind]) => kind).join(" | ") },
      { name: "operators", title: "operators, stage by stage", cell: operatorWords, file: (row) => stagesOf(row).map((labels) => labels.join(" ")).join(" | ") },
      { name: "seconds", title: "took", number: true, cell: (row) => (Number.isNaN(valueOf(SECONDS, row)) ? "–" : duration(valueOf(SECONDS, row))), by: (row) => valueOf(SECONDS, row), file: (row) => exact(valueOf(SECONDS, row)) },
      { name: "finished", title: "finished", cell: (row) => clock(known.finishedOf(row)), by: (row) => known.finishedOf(row) ?? NaN, file: (row) => (known.finishedOf(row) ? new Date(1000 * known.finishedOf(row)).toISOString() : "") },
      ...(Object.keys(store.notes).length ? [{ name: "note", title: "note", cell: (row) => noteOf(row)?.text ?? "", file: (row) => [noteOf(row)?.star ? "★" : "", noteOf(row)?.text ?? ""].filter(Boolean).join(" ") }] : []),
    ];
  }

  const valueOf = ({ name }, row) => store.column(name)[row] ?? NaN;
  const noteOf = (row) => store.notes[store.columns.number[row]];
  const trialLink = (row) => trialCell(store.columns.number[row], page.base, noteOf(row));
  const keyButton = (row) => element("button", { type: "button", class: "key", title: "Show this network" }, known.keyOf(row) ?? `trial ${store.columns.number[row]}`);
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
    const places = new Map();
    return (row) => {
      if (!places.size) [...new Set(Array.from({ length: known.rows() }, (_, i) => words(i)))].sort().forEach((word, i) => places.set(word, i));
      return places.get(words(row));
    };
  }

  // what is shown, anew
  function update() {
    if (!known.ready() || !byId("trials-details").open) return;
    const wanted = filter.passes();
    const found = [];
    for (let row = 0; row < known.rows(); row += 1) if (!wanted || wanted(row)) found.push(row);
    rows = Int32Array.from(found);
    const { by } = columns().find(({ name }) => name === order.by) ?? columns()[0];
    const values = new Float64Array(known.rows());
    for (const row of rows) values[row] = by(row);
    const sign = order.down ? -1 : 1;
    // what is unknown stands last
    rows.sort((p, q) => Number.isNaN(values[p]) - Number.isNaN(values[q]) || sign * (values[p] - values[q]) || p - q);
    byId("trials-count").textContent = `${count(rows.length)} of ${count(store.count)} trials`;
    for (const name of ["csv", "json"]) byId(`trials-${name}`).disabled = !rows.length;
    // headings are made here alone: scrolling must not take the focus from them
    byId("trials").setAttribute("aria-rowcount", rows.length + 1);
    byId("trials").replaceChildren(element("thead", {}, element("tr", {}, ...columns().map(heading))), element("tbody"));
    drawn = null;
    draw();
  }

  // the rows in sight and some around them
  function draw() {
    if (!known.ready()) return;
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
    changed();
    byId("trials").querySelector("[aria-sort] button")?.focus();
  }

  function changed() {
    const given = filter.entries();
    if (order.by !== "number" || order.down) given.push(["sort", order.by], ["down", Number(order.down)]);
    page.view.trials = given.length ? String(new URLSearchParams(given)) : null;
    scroller.scrollTop = 0;
    page.changed();
    update();
    page.filtered();
  }

  function mark() {
    markPicks(page.view.a, page.view.b);
  }

  // what is filtered, in its order
  function files() {
    const shown = columns();
    return { names: shown.map(({ name }) => (name === "number" ? "trial" : name)), lines: Array.from(rows, (row) => shown.map((column) => column.file(row))) };
  }

  scroller.addEventListener("scroll", () => requestAnimationFrame(draw));
  byId("trials-csv").addEventListener("click", () => {
    const { names, lines } = files();
    download(`${store.summary.run}-trials.csv`, csvText([names, ...lines]), "text/csv");
  });
  byId("trials-json").addEventListener("click", () => {
    const { names, lines } = files();
    const objects = lines.map((line) => Object.fromEntries(names.map((name, i) => [name, line[i] === "" ? null : line[i]])));
    download(`${store.summary.run}-trials.json`, `${JSON.stringify(objects, null, 1)}\n`, "application/json");
  });
  byId("trials").addEventListener("click", (event) => {
    const line = event.target.closest("tr[data-number]");
    if (line && !event.target.closest("a")) page.pick(Number(line.dataset.number), event.shiftKey);
  });
  return { refresh, update, filter };
}

// a figure in as many digits as it was sent with; empty where there is none
function exact(value) {
  return Number.isNaN(value) ? "" : Number(value.toPrecision(DIGITS));
}

// "basic" for stages that are all alike, else each
function sequenceOf(words) {
  return new Set(words).size === 1 ? String(words[0]) : words.join(" | ");
}
