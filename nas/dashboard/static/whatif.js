// What if: a network like A with other choices, what it would reach and cost, beside A.
import { element, fillTable } from "./dom.js";
import { difference, figure } from "./format.js";

// what was made of which trial stays when the panel is drawn anew
let made = { number: null, params: null, open: false };

// a: the whole trial; context: {source, store, pick, run}
export function whatIf(a, { source, store, pick, run }) {
  if (!["complete", "stopped"].includes(a.state)) return null;
  const title = element("summary", {}, "What if: A with other choices");
  if (!source.form) return element("details", {}, title, element("p", { class: "quiet note" }, `Predictions of other networks need the page that a server shows: nas dashboard ${run}`));
  const body = element("div");
  const node = element("details", { id: "what-if" }, title, body);
  if (made.number !== a.number) made = { number: a.number, params: null, open: false };
  const mine = made;
  node.addEventListener("toggle", () => {
    mine.open = node.open;
    if (node.open && !body.childNodes.length) fill(body, a, { source, store, pick }, mine);
  });
  node.open = mine.open;
  return node;
}

async function fill(body, a, { source, store, pick }, mine) {
  const said = element("p", { class: "quiet note", role: "status" }, "Reading the choices …");
  body.append(said);
  try {
    const form = await source.form(a.number);
    if (form.problem) {
      said.textContent = `Nothing can be changed: ${form.problem}`;
      return;
    }
    mine.params ??= { ...form.params };
    const fields = element("div", { class: "stages-form" });
    const answer = element("div");
    const back = element("button", { type: "button" }, "Back to A");
    let turn = 0;
    const ask = async () => {
      turn += 1;
      const mineTurn = turn;
      said.textContent = "Predicting …";
      let found;
      try {
        found = await source.whatIf(mine.params);
      } catch (error) {
        found = { failed: error.message };
      }
      if (mineTurn === turn) showAnswer(found, { a, store, pick, said, answer, changed: differing(form, mine.params) });
    };
    const draw = () => {
      const at = document.activeElement?.dataset?.choice;
      fields.replaceChildren(...stageFields(form, mine.params, change), ...otherFields(form, mine.params, change));
      if (at) fields.querySelector(`[data-choice="${at}"]`)?.focus();
    };
    const change = (changes) => {
      Object.assign(mine.params, changes);
      draw();
      ask();
    };
    back.addEventListener("click", () => change({ ...form.params }));
    draw();
    body.replaceChildren(fields, element("p", { class: "buttons" }, back), said, answer);
    ask();
  } catch (error) {
    said.textContent = `The choices cannot be read: ${error.message}`;
  }
}

function differing(form, params) {
  return Object.keys(params).some((name) => params[name] !== form.params[name]);
}

function stageFields(form, params, change) {
  return form.stages.map((stage, i) => {
    const kind = params[stage.block.name];
    const slots = operatorsOf(stage, params);
    const parts = [
      ...[["block", stage.block], ["depth", stage.depth], ["width", stage.width]].map(([title, entry]) => choice(form, params, title, entry.name, entry.values, (value) => change(carried(stage, params, { [entry.name]: value })))),
      stage.pointwise?.of.includes(kind) ? choice(form, params, "1×1", stage.pointwise.name, stage.pointwise.values, (value) => change({ [stage.pointwise.name]: value })) : null,
      ...slots.map((name, j) => choice(form, params, slots.length > 1 || name.includes(".blocks.") ? `block ${i + 1}.${j + 1}` : "operator", name, form.labels, (value) => change({ [name]: value }))),
    ];
    return element("fieldset", {}, element("legend", {}, `stage ${i + 1}`), ...parts);
  });
}

// the names of the operators in effect: one, or one for each block
function operatorsOf(stage, params) {
  const names = stage.operators[params[stage.block.name]];
  return names[0]?.includes(".blocks.") ? names.slice(0, params[stage.depth.name]) : names;
}

// with another kind of block or more blocks the operators that are shown stay, further ones are as the last
function carried(stage, params, changes) {
  const before = operatorsOf(stage, params).map((name) => params[name]);
  const after = operatorsOf(stage, { ...params, ...changes });
  return { ...changes, ...Object.fromEntries(after.map((name, j) => [name, before[Math.min(j, before.length - 1)]])) };
}

function otherFields(form, params, change) {
  const groups = [["dense.", "neck and head"], ["proxy.", "training"]];
  return groups.flatMap(([prefix, title]) => {
    const entries = form.others.filter(({ name }) => name.startsWith(prefix));
    const parts = entries.map(({ name, values }) => choice(form, params, name.slice(prefix.length).replaceAll("_", " "), name, values, (value) => change({ [name]: value })));
    return parts.length ? [element("fieldset", {}, element("legend", {}, title), ...parts)] : [];
  });
}

// one that leaves no choice is text
function choice(form, params, title, name, values, chosen) {
  if (values.length < 2) return element("label", {}, `${title} ${values[0]}`);
  const select = element("select", { "data-choice": name, class: params[name] === form.params[name] ? undefined : "changed" }, ...values.map((value, at) => new Option(String(value).replaceAll("_", " "), at)));
  select.value = String(values.indexOf(params[name]));
  select.addEventListener("change", () => chosen(values[Number(select.value)]));
  return element("label", {}, `${title} `, select);
}

function showAnswer({ failed, problems, predicted, limits, trial }, { a, store, pick, said, answer, changed }) {
  answer.replaceChildren();
  if (failed) said.textContent = `It cannot be predicted here: ${failed}`;
  else if (problems.length) said.textContent = `There is no such network here. ${problems.map((text) => `${text[0].toUpperCase()}${text.slice(1)}.`).join(" ")}`;
  if (failed || problems.length) return;
  const measured = trial && trial.number !== a.number;
  const words = [changed ? "" : "These are the choices of A itself."];
  if (measured) words.push("This network was trained already.");
  words.push(...limits.map((text) => `The ${text}.`));
  said.textContent = words.filter(Boolean).join(" ");
  const metrics = store.metrics.filter(({ name }) => name in predicted);
  const columns = [{ title: "figure" }, { title: "A", number: true }, { title: "predicted", number: true }, { title: "change", number: true }];
  if (measured) columns.push({ title: "measured", number: true });
  const rows = metrics.map((metric) => {
    const { value, margin, exact } = predicted[metric.name];
    const guess = element("span", {}, figure(metric, value), exact ? element("small", {}, " exact") : element("small", {}, ` ± ${figure(metric, margin)}`));
    const own = a.values[metric.name];
    const cells = [`${metric.title} (${metric.unit})`, figure(metric, own), guess, difference(metric, value, own)];
    return { cells: measured ? [...cells, figure(metric, trial.values[metric.name])] : cells };
  });
  const table = element("table", { class: "metrics" });
  fillTable(table, columns, rows);
  const note = "By the surrogate's model of this run's trials, with 95 % intervals of one training or measurement; exact figures are counted from the network.";
  answer.append(element("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "What the network would reach and cost" }, table), element("p", { class: "quiet note" }, note));
  if (measured) answer.append(element("p", { class: "buttons" }, element("button", { type: "button", class: "key", onclick: (event) => pick(trial.number, event.shiftKey) }, `trial ${trial.number}`), "is this network"));
}
