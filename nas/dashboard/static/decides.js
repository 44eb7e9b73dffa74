// What decides: whether the short training can be trusted, what each operator does in each stage, which choices count.
import { byId, element, fillTable, show, swatch } from "./dom.js";
import { accuracy, count, difference } from "./format.js";

const MOST_CHOICES = 6;

// trust: what each kind of longer training said, those of most networks first
export function drawTrust(trust, { run, origin }) {
  show(byId("decides"), true);
  const [first] = trust;
  show(byId("trust"), Boolean(first) || !origin); // of longer trainings none are longer
  const mark = first ? first.verdict.split(":")[0] : "not checked";
  const settings = Object.entries(first?.settings ?? {}).map(([name, value]) => `${name.replaceAll("_", " ")} ${value}`).join(", ");
  const words = first
    ? `${first.verdict.slice(mark.length + 1)} (${first.num_networks} networks trained again with ${settings || "other settings"}).`
    : `whether the short training ranks networks as a longer one would. nas report ${run} --proxy trains some longer and tells.`;
  byId("trust").replaceChildren(
    element("b", { class: mark === "trusted" ? "better" : "worse" }, `Proxy ${mark}: `),
    words,
    ...(first?.regret > 0 ? [` The best of its first five is ${accuracy(first.regret)} % below the best.`] : []),
  );
}

// why: {operators, choices} of the server, undefined while it computes, null in a saved copy without them
export function drawDecides(why, store) {
  const words = byId("changes-words");
  const { operators, choices, problem } = why ?? {};
  show(byId("changes-scroll"), Boolean(operators));
  show(byId("choices-part"), Boolean(choices));
  if (why === null) words.textContent = "";
  else if (!why) words.textContent = "What each operator does in each stage is being computed …";
  else if (problem) words.textContent = `What each operator does cannot be computed here: ${problem}`;
  else if (!operators) words.textContent = "What each operator does cannot be told yet: ten complete trials are needed.";
  else drawChanges(operators, store, words);
  if (choices) drawChoices(choices, store);
}

function drawChanges({ baseline, num_trials: trials, rows }, store, words) {
  words.textContent = `One operator in the place of ${baseline}, all else equal, predicted from ${count(trials)} trials with 95 % intervals; grey where the interval spans 0.`;
  const stages = [...new Set(rows.map(({ stage }) => stage))].sort((p, q) => p - q);
  const metrics = store.tableMetrics.filter(({ name }) => rows.some(({ changes }) => name in changes));
  const cell = (label, stage) => {
    const found = rows.find((row) => row.stage === stage && row.label === label);
    if (!found) return "–";
    const { pairs, changes } = found.seen;
    const seen = pairs ? `${pairs} pair${pairs > 1 ? "s" : ""} of trained networks differ in just that, by ${metrics.map((metric) => `${difference(metric, changes[metric.name], 0)} ${metric.unit}`).join(", ")}` : null;
    return element("div", { title: seen }, ...metrics.map((metric) => element("div", { class: "change" }, changeOf(metric, found.changes[metric.name]), " ", element("small", {}, metric.unit))));
  };
  const labels = [...new Set(rows.map(({ label }) => label))];
  const columns = [{ title: "operator" }, ...stages.map((stage) => ({ title: rows.find((row) => row.stage === stage).place, number: true }))];
  fillTable(byId("changes"), columns, labels.map((label) => ({ cells: [element("span", { class: "label" }, swatch(store.kinds[label]), label), ...stages.map((stage) => cell(label, stage))] })));
}

// a change with its interval; better and worse have their colours, grey is what may be nothing
export function changeOf(metric, found) {
  if (!found) return "–";
  const unsure = Math.abs(found.change) <= found.margin;
  const better = found.change > 0 === metric.maximize;
  return element("span", { class: unsure ? "quiet" : better ? "better" : "worse" }, difference(metric, found.change, 0), element("small", {}, ` ± ${difference(metric, found.margin, 0).slice(1)}`));
}

// shares of the choices for each objective, the greatest first
function drawChoices(choices, store) {
  const metrics = Object.keys(choices).map((name) => store.metric(name));
  const greatest = (name) => Math.max(...metrics.map((metric) => choices[metric.name][name] ?? 0));
  const names = [...new Set(metrics.flatMap((metric) => Object.keys(choices[metric.name])))].sort((p, q) => greatest(q) - greatest(p)).slice(0, MOST_CHOICES);
  const cell = (share) => (share === undefined ? "–" : element("span", { class: "share" }, element("i", { style: `width:${(2 * share).toFixed(2)}rem` }), `${Math.round(100 * share)} %`));
  const columns = [{ title: "choice" }, ...metrics.map(({ title }) => ({ title, number: true }))];
  fillTable(byId("choices"), columns, names.map((name) => ({ cells: [choiceWords(name), ...metrics.map((metric) => cell(choices[metric.name][name]))] })));
}

// "stages.1.width" as "stage 2 width", "stages.0.blocks.1.operator" as "block 1.2 operator", as the diagram has it
function choiceWords(name) {
  return name
    .replace(/^stages\.(\d+)\.blocks\.(\d+)\./, (_, i, j) => `block ${Number(i) + 1}·${Number(j) + 1} `)
    .replace(/^stages\.(\d+)\./, (_, i) => `stage ${Number(i) + 1} `)
    .replaceAll(".", " ")
    .replace("·", ".")
    .replaceAll("_", " ");
}

// per operator and stage what a swap changes by the linear model of all trials
export function drawEffects(effects, store) {
  show(byId("effects-details"), Boolean(effects));
  if (!effects) return;
  const metrics = store.tableMetrics.filter(({ name }) => effects.rows.some(({ changes }) => name in changes));
  const columns = [{ title: "stage" }, { title: "block becomes" }, ...metrics.map(({ title, unit }) => ({ title, unit, number: true }))];
  const rows = effects.rows.map(({ place, label, changes }) => ({
    cells: [place.replace(/^stage /, ""), element("span", {}, swatch(store.kinds[label]), label), ...metrics.map((metric) => changeOf(metric, changes[metric.name]))],
  }));
  fillTable(byId("effects"), columns, rows);
  byId("effects-words").textContent = `One block from ${effects.baseline} to another operator, with 95 % intervals, by a linear model on ${count(effects.num_trials)} trials; grey where the interval spans 0. It describes the trials that this search drew, not causes.`;
}
