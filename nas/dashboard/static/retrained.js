// The networks that were trained at length, of all runs, as a table that sorts.
import { byId, element, fillTable, show } from "./dom.js";
import { accuracy, clock, milliseconds } from "./format.js";

const COLUMNS = [
  { title: "run", by: ({ run }) => run },
  { title: "network", by: ({ number }) => number ?? Infinity },
  { title: "recipe", by: ({ recipe }) => recipe },
  { title: "data", by: ({ dataset }) => dataset },
  { title: "epochs", number: true, by: ({ epochs }) => epochs ?? 0 },
  { title: "top-1", unit: "%", number: true, by: ({ top1 }) => top1 },
  { title: "best epoch", unit: "%", number: true, by: ({ best_top1: best }) => best },
  { title: "in the search", unit: "%", number: true, by: ({ proxy_top1: proxy }) => proxy ?? -1 },
  { title: "latency", unit: "ms", number: true, by: ({ latency_ms: ms }) => ms ?? Infinity },
  { title: "finished", by: ({ changed }) => changed },
];

const order = { by: COLUMNS.length - 1, down: true };

// rows: of the server, see nas.runs.retrainings.listed
export function drawRetrained(rows) {
  show(byId("retrained-section"), rows.length > 0);
  const value = COLUMNS[order.by].by;
  const sorted = [...rows].sort((p, q) => (value(p) > value(q) ? 1 : value(p) < value(q) ? -1 : 0) * (order.down ? -1 : 1));
  const sort = (i) => {
    Object.assign(order, { by: i, down: order.by === i ? !order.down : Boolean(COLUMNS[i].number) });
    drawRetrained(rows);
    byId("retrained").querySelector(`[data-column="${i}"]`).focus();
  };
  const columns = COLUMNS.map(({ title, ...more }, i) => {
    const mark = i === order.by ? (order.down ? " ▾" : " ▴") : "";
    return { ...more, title: element("button", { type: "button", class: "sort", "data-column": i, onclick: () => sort(i) }, title, mark) };
  });
  const table = byId("retrained");
  const focused = table.contains(document.activeElement) ? document.activeElement.dataset.column : undefined;
  fillTable(table, columns, sorted.map((row) => ({ cells: cells(row) })));
  table.querySelectorAll("th")[order.by].setAttribute("aria-sort", order.down ? "descending" : "ascending");
  if (focused !== undefined) table.querySelector(`[data-column="${focused}"]`)?.focus();
}

function cells(row) {
  const { run, number, key, name, recipe, dataset, resolution, epochs, asked, done } = row;
  const network = number === null ? element("code", {}, key) : element("span", {}, element("a", { href: `/run/${encodeURIComponent(run)}/trial/${number}` }, `trial ${number}`), " ", element("code", {}, key));
  if (name) network.append(` (${name})`);
  return [
    run,
    network,
    recipe || "–",
    resolution ? `${dataset} at ${resolution}` : dataset,
    done || !asked ? String(epochs ?? "–") : `${epochs ?? 0} of ${asked}`,
    accuracy(row.top1),
    accuracy(row.best_top1),
    accuracy(row.proxy_top1),
    milliseconds(row.latency_ms),
    done ? clock(row.changed) : "not yet",
  ];
}
