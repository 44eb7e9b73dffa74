// The front as a table, as a CSV file, and as a strip of operators.
import { byId, element, fillTable, show, swatch } from "./dom.js";
import { TRAINED, accuracy, figure, sequence } from "./format.js";
import { between, probability } from "./noise.js";

// members: [{number, key, operators, training, values, latency, disturbed, seeds}]; metrics: the columns; store has kinds, noise
// and notes; retrained: by number; pick(number, second) is called for a click
export function drawFront(members, metrics, { kinds, noise, notes }, retrained, base, pick) {
  const trained = members.some(({ number }) => retrained.has(number));
  const columns = [
    { title: "key" },
    { title: "trial", number: true },
    ...metrics.map(({ title, unit }) => ({ title, unit, number: true })),
    ...(noise ? [{ title: "P on front", number: true }] : []),
    ...(trained ? [{ title: "retrained", unit: "%", number: true }] : []),
    { title: "operators, stage by stage" },
  ];
  const rows = members.map((member) => ({
    "data-number": member.number,
    onclick: (event) => event.target.closest("a") || pick(member.number, event.shiftKey),
    cells: [
      element("button", { type: "button", class: "key", title: "Show this network" }, member.key),
      trialCell(member.number, base, notes[member.number]),
      ...metrics.map((metric) => valueCell(member, metric, noise)),
      ...(noise ? [onFrontWords(noise.of(member.number))] : []),
      ...(trained ? [retrainedCell(retrained.get(member.number))] : []),
      operatorsCell(member.operators, kinds, member.training),
    ],
  }));
  fillTable(byId("front"), columns, rows);
  show(byId("disturbed-note"), members.some(({ disturbed }) => disturbed));
}

// the number of a trial, with a star where it has one, and its note
export function trialCell(number, base, note) {
  const star = note?.star ? element("span", { class: "starred", role: "img", "aria-label": "starred" }, "★ ") : null;
  return element("span", { title: note?.text || null }, star, base ? element("a", { href: `${base}/trial/${number}` }, String(number)) : String(number));
}

// the published accuracies: the chart has those of them whose cost is known
export function drawStated(published) {
  const columns = [
    { title: "network" },
    { title: "top-1 accuracy", unit: "%", number: true },
    { title: "parameters", unit: "M", number: true },
    { title: "training" },
    { title: "paper" },
  ];
  const rows = [...published].sort((p, q) => q.top1 - p.top1).map(({ name, top1, values, training, paper }) => ({
    cells: [name, accuracy(top1), (values.num_params / 1e6).toFixed(2), training, paper],
  }));
  fillTable(byId("stated"), columns, rows);
}

function onFrontWords(judged) {
  return judged ? probability(judged.onFront) : "–";
}

function valueCell(member, metric, noise) {
  const text = figure(metric, member.values[metric.name]);
  if (metric.name === "latency_ms" && member.latency) {
    const half = (member.latency[1] - member.latency[0]) / 2;
    return element("span", { title: `the middle 60 % of its runs: ${member.latency.map((end) => figure(metric, end)).join(" to ")} ms` }, text, member.disturbed ? "*" : "", element("small", {}, ` ± ${figure(metric, half)}`));
  }
  const judged = TRAINED.includes(metric.name) ? noise?.of(member.number) : null;
  if (judged) {
    const trainings = judged.trainings > 1 ? `mean of ${judged.trainings} trainings ${figure(metric, judged.mean)} %, ` : "";
    return element("span", { title: `${trainings}95 % interval` }, text, element("small", {}, ` ${between(judged.interval)}`));
  }
  if (TRAINED.includes(metric.name) && member.seeds) return element("span", {}, text, element("small", {}, ` ± ${accuracy(member.seeds.sd)}`));
  return text;
}

function retrainedCell(training) {
  if (!training) return "–";
  const text = accuracy(training.top1);
  return training.done ? text : element("span", {}, text, element("small", {}, ` epoch ${training.epochs}`));
}

// marks A and B in the table and in the strip
export function markPicks(a, b) {
  for (const node of document.querySelectorAll("#front [data-number], #strip [data-number], #trials [data-number]")) {
    const number = Number(node.dataset.number);
    node.classList.toggle("picked-a", number === a);
    node.classList.toggle("picked-b", number === b && number !== a);
  }
}

function operatorsCell(stages, kinds, training) {
  const cell = element("span", { class: "operators" });
  stages.forEach((labels, i) => {
    if (i) cell.append(element("span", { class: "quiet" }, " | "));
    for (const part of sequence(labels).split(" ")) {
      cell.append(element("span", {}, swatch(kinds[part.split("×")[0]]), part), " ");
    }
  });
  if (training) cell.append(element("small", {}, training));
  return cell;
}

// the strip: one column per member, one cell per block; mark(label): its coloured mark, name(label): what the legend says
export function drawStrip(members, { mark, name }, pick) {
  const used = new Map();
  const columns = members.map((member) => {
    const stages = member.operators.map((labels) => {
      labels.forEach((label) => used.set(name(label), label));
      return element("span", {}, ...labels.map(mark));
    });
    return element(
      "div",
      {
        class: "column",
        "data-number": member.number,
        title: `trial ${member.number}: ${member.operators.map(sequence).join(" | ")}`,
        onclick: (event) => pick(member.number, event.shiftKey),
      },
      ...stages,
      element("b", {}),
    );
  });
  byId("strip").replaceChildren(...columns);
  byId("operators").replaceChildren(...[...used].sort().map(([words, label]) => element("span", {}, mark(label), words)));
}

export function downloadCsv(name, members, metrics, noise) {
  const judged = noise ? ["top1_low", "top1_high", "on_front"] : [];
  const head = ["key", "trial", ...metrics.map((metric) => metric.name), "latency_p20_ms", "latency_p80_ms", ...judged, "operators"];
  const noiseOf = (number) => [...(noise.of(number)?.interval ?? ["", ""]), noise.of(number)?.onFront ?? ""];
  const lines = members.map((member) => [
    member.key,
    member.number,
    ...metrics.map((metric) => member.values[metric.name] ?? ""),
    ...(member.latency ?? ["", ""]),
    ...(noise ? noiseOf(member.number) : []),
    member.operators.map((labels) => labels.join(" ")).join(" | "),
  ]);
  download(`${name}-front.csv`, csvText([head, ...lines]), "text/csv");
}

export function csvText(lines) {
  return `${lines.map((line) => line.map(csvCell).join(",")).join("\r\n")}\r\n`;
}

export function download(name, text, type) {
  const link = element("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
  link.click();
  URL.revokeObjectURL(link.href);
}

// spreadsheets run a text that begins like a formula
function csvCell(value) {
  if (typeof value === "number") return String(value);
  const text = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
