// Which trials the table of all, the chart and the parallel coordinates show: the fields above the table, and limits on
// figures and choices, which a brush of the parallel coordinates sets as well.
import { dimensions } from "./dimensions.js";
import { byId, element, show } from "./dom.js";
import { trialState } from "./format.js";

const SELECTS = ["state", "operator", "stage", "width", "noted"];
const SURE_DIGITS = 4; // of the ends of a brush

// known: see architectures.js; changed() is called for every change of a field. The limits are by name of a dimension
// {low, high}, null where open, or {of: labels}.
export function createFilter(store, known, changed) {
  let limits = new Map();
  const field = (name) => byId(`trials-${name}`);
  const limited = () => dimensions(store, known).find(({ name }) => name === field("figure").value);

  // choices of the fields, by what is known; a field that is given something else than one of them is empty
  function fill(given) {
    const widths = [...new Set(known.shapes().flatMap((shape) => shape.map(([, width]) => width)))].sort((p, q) => p - q);
    const labels = [...new Set(known.stages().flat())].sort();
    const kinds = [...new Set(labels.map((label) => store.kinds[label]))];
    const states = new Set(store.columns.state.subarray(0, store.count));
    const group = (title, options) => element("optgroup", { label: title }, ...options);
    const options = {
      state: [new Option("any", ""), ...store.states.filter((_, i) => states.has(i)).map((state) => new Option(trialState(state), state))],
      operator: [new Option("any", ""), group("operator", kinds.map((kind) => new Option(kind, `op:${kind}`))), group("label", labels.map((label) => new Option(label, label)))],
      stage: [new Option("any stage", ""), ...Array.from({ length: known.numStages() }, (_, i) => new Option(known.placeName(i), i))],
      width: [new Option("any", ""), ...widths.map((width) => new Option(width, width))],
      noted: [new Option("any", ""), new Option("starred", "star"), new Option("with a note", "text")],
    };
    for (const name of SELECTS) {
      field(name).replaceChildren(...options[name]);
      field(name).value = given.get(name) ?? "";
      if (field(name).selectedIndex < 0) field(name).value = "";
    }
    limits = readLimits(given);
    fillFigures(group);
  }

  function fillFigures(group) {
    const { value } = field("figure");
    const option = ({ name, title, unit }) => new Option(unit ? `${title} (${unit})` : title, name);
    const every = dimensions(store, known);
    const [figures, choices] = [false, true].map((wanted) => every.filter((one) => "stage" in one === wanted).map(option));
    field("figure").replaceChildren(group("figure", figures), group("choice", choices));
    field("figure").value = value || [...limits.keys()].at(-1) || every[0]?.name;
    if (field("figure").selectedIndex < 0) field("figure").selectedIndex = 0;
    drawLimits();
  }

  // the limit of the chosen figure in its fields, and all of them as buttons that drop them
  function drawLimits() {
    const chosen = limited();
    show(byId("trials-range"), !chosen?.labels);
    show(byId("trials-values"), Boolean(chosen?.labels));
    const limit = limits.get(chosen?.name);
    for (const end of ["low", "high"]) field(end).value = limit?.[end] ?? "";
    byId("trials-values").setAttribute("aria-label", chosen?.title ?? "");
    const boxes = (chosen?.labels ?? []).map((label) => {
      const box = element("input", { type: "checkbox", value: label, onchange: takeFields });
      box.checked = !limit || limit.of.includes(label);
      return element("label", {}, box, ` ${label}`);
    });
    byId("trials-values").replaceChildren(...boxes);
    const drop = (name) => {
      limitTo(name, null);
      byId("trials-figure").focus();
    };
    const buttons = inWords().map(([name, words]) => element("button", { type: "button", onclick: () => drop(name), "aria-label": `Drop: ${words}` }, `${words} ✕`));
    byId("trials-limits").replaceChildren(...buttons);
    show(byId("trials-limits"), buttons.length > 0);
  }

  // [name, words] of each limit
  function inWords() {
    const every = dimensions(store, known);
    return [...limits].map(([name, limit]) => [every.find((one) => one.name === name), limit]).filter(([one]) => one).map(([one, { low, high, of }]) => {
      const range = low === null ? `at most ${high}` : high === null ? `at least ${low}` : low === high ? String(low) : `${low} to ${high}`;
      return [one.name, of ? `${one.title}: ${of.join(", ") || "none"}` : `${one.title} ${range} ${one.unit}`.trim()];
    });
  }

  function takeFields() {
    const chosen = limited();
    const boxes = [...byId("trials-values").querySelectorAll("input")];
    const of = boxes.filter(({ checked }) => checked).map(({ value }) => value);
    const [low, high] = ["low", "high"].map((end) => (field(end).value === "" ? null : Number(field(end).value)));
    if (chosen.labels) limits.set(chosen.name, { of });
    else limits.set(chosen.name, { low, high });
    if (chosen.labels ? of.length === boxes.length : low === null && high === null) limits.delete(chosen.name);
    said();
  }

  // keeps a limit, or drops it for null
  function limitTo(name, limit) {
    if (limit) limits.set(name, limit.of ? limit : { low: roundedEnd(limit.low), high: roundedEnd(limit.high) });
    else limits.delete(name);
    if (limit) field("figure").value = name;
    drawLimits();
    changed();
  }

  function said() {
    const focus = document.activeElement?.closest("#trials-values input")?.value;
    drawLimits();
    if (focus) byId("trials-values").querySelector(`[value="${CSS.escape(focus)}"]`)?.focus();
    changed();
  }

  function clear() {
    for (const name of SELECTS) field(name).value = "";
    limits.clear();
    said();
  }

  // for the address
  function entries() {
    const chosen = SELECTS.filter((name) => field(name).value !== "").map((name) => [name, field(name).value]);
    const range = ({ low, high }) => `${low ?? ""}..${high ?? ""}`;
    return [...chosen, ...[...limits].flatMap(([name, limit]) => (limit.of ? (limit.of.length ? limit.of : [""]).map((label) => [`is.${name}`, label]) : [[`in.${name}`, range(limit)]]))];
  }

  // whether a row of the store is let through; null where all are, or nothing is known yet
  function passes() {
    if (!known.ready()) return null;
    const tests = [...fieldTests(), ...limitTests()];
    return tests.length ? (row) => tests.every((test) => test(row)) : null;
  }

  function fieldTests() {
    const [state, operator, stage, width, noted] = SELECTS.map((name) => field(name).value);
    const tests = [];
    if (state) tests.push((row) => store.states[store.columns.state[row]] === state);
    const stages = Array.from({ length: known.numStages() }, (_, i) => i).filter((i) => stage === "" || i === Number(stage));
    const named = operator.startsWith("op:") ? (label) => store.kinds[label] === operator.slice(3) : (label) => label === operator;
    const has = known.stages().map((labels) => labels.some(named));
    if (operator) tests.push((row) => stages.some((i) => has[known.stageAt(row, i)]));
    const wide = known.shapes().map((shape) => stages.some((i) => shape[i]?.[1] === Number(width)));
    if (width) tests.push((row) => wide[known.shapeAt(row)] ?? false);
    if (noted) tests.push((row) => Boolean(store.notes[store.columns.number[row]]?.[noted]));
    return tests;
  }

  function limitTests() {
    const every = dimensions(store, known);
    return every.filter(({ name }) => limits.has(name)).map(({ name, labels, value }) => {
      const { low, high, of } = limits.get(name);
      if (of) return (row) => of.includes(labels[value(row)]);
      return (row) => (low === null || value(row) >= low) && (high === null || value(row) <= high);
    });
  }

  for (const name of SELECTS) field(name).addEventListener("change", said);
  for (const end of ["low", "high"]) field(end).addEventListener("change", takeFields);
  field("figure").addEventListener("change", drawLimits);
  field("clear").addEventListener("click", clear);
  return { fill, clear, entries, passes, limit: limitTo, limitOf: (name) => limits.get(name) ?? null };
}

function readLimits(given) {
  const found = new Map();
  for (const [key, text] of given) {
    const [, kind, name] = /^(in|is)\.(\w+)$/.exec(key) ?? [];
    const ends = text.split("..").map((end) => (end === "" ? null : Number(end)));
    if (kind === "is") found.set(name, { of: [...(found.get(name)?.of ?? []), text].filter(Boolean) });
    else if (kind === "in" && ends.length === 2 && ends.every((end) => end === null || Number.isFinite(end))) found.set(name, { low: ends[0], high: ends[1] });
  }
  return found;
}

function roundedEnd(value) {
  return value === null ? null : Number(value.toPrecision(SURE_DIGITS));
}
