// Architectures block by block: as a diagram, and as the differences of two.
import { element, fillTable, swatch } from "./dom.js";
import { milliseconds, sequence } from "./format.js";

const MANY = 8;

// a: a whole trial; the widths of the boxes are those of the channels, halving with every quarter less
export function diagram(trial) {
  const widest = Math.max(...trial.stages.flat().map(({ width }) => width));
  const times = trial.blocks_ms;
  const longest = times ? Math.max(...times.stages.flat()) : 0;
  const stages = trial.stages.map((stage, i) =>
    element("li", { class: "stage" }, element("ol", {}, ...stage.map((block, j) => box(block, `${i + 1}.${j + 1}`, widest, times?.stages[i][j], longest)))),
  );
  const ends = (name, text) => element("li", { class: "end" }, text, times ? element("small", {}, ` ${milliseconds(times[name])} ms`) : null);
  return element(
    "div",
    { class: "diagram" },
    element("ol", { "aria-label": `Blocks of trial ${trial.number}, from input to output` }, ends("stem", `${trial.stem} stem`), ...stages, ends("head", `${trial.head} head`)),
    times ? element("p", { class: "quiet" }, element("small", {}, `Milliseconds per block: ${times.setting}`)) : null,
  );
}

function box(block, position, widest, time, longest) {
  const width = 55 + 45 * (1 + Math.log2(block.width / widest) / 4);
  const bar = time === undefined ? null : element("span", { class: "time" }, element("i", { style: `width:${(100 * time) / longest}%` }), `${milliseconds(time)} ms`);
  return element(
    "li",
    { class: "block", style: `width:${Math.max(width, 55)}%`, title: block.options ? `${block.operator}: ${block.options}` : block.operator },
    element("span", { class: "position" }, position),
    ...blockWords(block),
    bar,
  );
}

function blockWords(block) {
  const stride = block.stride > 1 ? `, stride ${block.stride}` : "";
  const pointwise = block.pointwise ? `, 1×1 by ${block.pointwise}` : "";
  return [
    element("span", { class: "label" }, swatch(block.operator), block.label),
    element("small", {}, `${block.kind.replaceAll("_", " ")} ${block.width}${stride}${pointwise}`),
  ];
}

// what differs between two: stage by stage first where that is much, then the blocks, equal ones folded
export function differences(a, b) {
  const rows = [];
  for (let stage = 0; stage < Math.max(a.stages.length, b.stages.length); stage += 1) {
    const [left, right] = [a, b].map((trial) => trial.stages[stage] ?? []);
    for (let i = 0; i < Math.max(left.length, right.length); i += 1) {
      rows.push({ position: `${stage + 1}.${i + 1}`, pair: [left[i], right[i]], differs: JSON.stringify(left[i]) !== JSON.stringify(right[i]) });
    }
  }
  const count = rows.filter(({ differs }) => differs).length;
  const parts = [element("h3", {}, `A against B: ${count} of ${rows.length} blocks differ`)];
  const ends = [a, b].map((trial) => `${trial.stem} stem, ${trial.head} head`);
  parts.push(element("p", { class: "quiet" }, ends[0] === ends[1] ? ends[0] : `A: ${ends[0]}; B: ${ends[1]}`));
  if (count > MANY) parts.push(stageTable(a, b));
  parts.push(element("div", { class: "scroll" }, blockTable(rows)));
  return parts;
}

function stageTable(a, b) {
  const table = element("table", { class: "stages" });
  const names = (trial, i) => sequence((trial.stages[i] ?? []).map(({ label }) => label)) || "none";
  const rows = Array.from({ length: Math.max(a.stages.length, b.stages.length) }, (_, i) => ({ cells: [String(i + 1), names(a, i), names(b, i)] }));
  fillTable(table, [{ title: "stage" }, { title: "A" }, { title: "B" }], rows);
  return table;
}

function blockTable(rows) {
  const table = element("table", { class: "blocks" });
  const opened = new Set();
  const cell = (block) => element("span", {}, ...(block ? blockWords(block) : [element("span", { class: "quiet" }, "none")]));
  const fill = () => {
    const shown = [];
    for (let i = 0; i < rows.length; i += 1) {
      const first = i;
      while (!rows[i].differs && i + 1 < rows.length && !rows[i + 1].differs) i += 1;
      if (rows[i].differs || opened.has(first)) {
        for (const { position, pair, differs } of rows.slice(first, i + 1)) shown.push({ class: differs ? "differs" : "", cells: [position, ...pair.map(cell)] });
        continue;
      }
      const number = i - first + 1;
      const text = number > 1 ? `${number} equal blocks` : "1 equal block";
      const open = () => {
        opened.add(first);
        fill();
      };
      const unfold = element("button", { type: "button", class: "fold", onclick: open, "aria-label": `Show ${text}` }, text);
      shown.push({ cells: [number > 1 ? `${rows[first].position} – ${rows[i].position}` : rows[first].position, unfold, ""] });
    }
    fillTable(table, [{ title: "block" }, { title: "A" }, { title: "B" }], shown);
  };
  fill();
  return table;
}
