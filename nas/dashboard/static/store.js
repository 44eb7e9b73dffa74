// The trials of a run as columns, row by row in the order in which they came, and what else the page was told.

import { nameOperators } from "./dom.js";

const ARRAYS = { f4: Float32Array, f8: Float64Array, u1: Uint8Array, u4: Uint32Array };

// bytes of the server: length of the head, the head as JSON, then its columns, 8-aligned
export function unpack(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  let at = 4 + length;
  const rows = {};
  for (const [name, kind, count] of head.columns) {
    const size = count * ARRAYS[kind].BYTES_PER_ELEMENT;
    rows[name] = new ARRAYS[kind](buffer, at, count);
    at += size + ((8 - (size % 8)) % 8);
  }
  return { ...head, rows };
}

export class Store {
  constructor() {
    this.clear();
  }

  clear() {
    Object.assign(this, { metrics: [], figures: [], states: [], operators: [], labels: [], summary: null, kinds: {}, front: [], references: [], retrained: [], published: [], notes: {}, noise: null });
    this.members = new Map();
    this.rowOf = new Map();
    this.columns = {};
    this.further = {};
    this.count = 0;
    this.capacity = 0;
  }

  // takes what the server sent; what is absent did not change
  take(news) {
    for (const name of ["metrics", "figures", "states", "operators", "summary", "kinds", "labels", "front", "references", "retrained", "published", "notes"]) {
      if (news[name] !== undefined) this[name] = news[name];
    }
    nameOperators(this.operators);
    this.complete = this.states.indexOf("complete");
    this.failed = this.states.indexOf("failed");
    for (const member of news.members ?? []) this.members.set(member.number, member);
    if (news.rows?.number.length) this.addRows(news.rows);
  }

  addRows(rows) {
    const added = rows.number.length;
    if (!this.count && ArrayBuffer.isView(rows.number)) {
      this.columns = rows;
      this.count = this.capacity = added;
      rows.number.forEach((number, row) => this.rowOf.set(number, row));
      return;
    }
    if (this.count + added > this.capacity) this.grow(rows, this.count + added);
    for (let i = 0; i < added; i += 1) {
      const number = rows.number[i];
      const row = this.rowOf.get(number) ?? this.count;
      if (row === this.count) {
        this.rowOf.set(number, row);
        this.count += 1;
      }
      for (const name of Object.keys(this.columns)) this.columns[name][row] = rows[name][i] ?? NaN;
    }
  }

  grow(rows, needed) {
    this.capacity = Math.max(2 * this.capacity, needed, 64);
    for (const name of Object.keys(rows)) {
      const kind = name === "number" ? Float64Array : ["state", "most", "last", "label"].includes(name) ? Uint8Array : Float32Array;
      const wider = new kind(this.capacity);
      if (this.columns[name]) wider.set(this.columns[name]);
      this.columns[name] = wider;
    }
  }

  // a value in the unit of its metric, or NaN
  value(row, metric) {
    return (this.column(metric.name)[row] ?? NaN) * metric.scale;
  }

  // the values of a metric, or of a further figure once it was asked for
  column(name) {
    return this.columns[name] ?? this.further[name] ?? [];
  }

  metric(name) {
    return this.metrics.find((metric) => metric.name === name);
  }

  // metrics that any trial has, and further figures
  get knownFigures() {
    const known = ({ name }) => this.columns[name]?.subarray(0, this.count).some((value) => !Number.isNaN(value));
    return [...this.metrics.filter(known), ...this.figures];
  }

  isComplete(row) {
    return this.columns.state[row] === this.complete;
  }

  // the objective that the y axis shows: the first that is maximized, else the first
  get yMetric() {
    const { objectives } = this.summary;
    const best = objectives.find(({ direction }) => direction === "maximize") ?? objectives[0];
    return this.metric(best?.name ?? "top1");
  }

  // whether any complete trial knows a metric
  knows(metric) {
    const column = this.columns[metric.name] ?? [];
    for (let row = 0; row < this.count; row += 1) if (this.isComplete(row) && !Number.isNaN(column[row])) return true;
    return false;
  }

  // the columns of tables: objectives first, then costs that any member of the front knows
  get tableMetrics() {
    const names = this.summary.objectives.map(({ name }) => name);
    const isCost = ({ name }) => !names.includes(name) && this.frontMembers.some((member) => member.values[name] !== undefined);
    return [...names.map((name) => this.metric(name)), ...this.metrics.filter(isCost)];
  }

  get frontMembers() {
    return this.front.map((number) => this.members.get(number)).filter(Boolean);
  }
}
