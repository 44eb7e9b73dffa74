// Building and finding elements. Whatever comes from a run goes in as text, never as markup.

export function byId(id) {
  return document.getElementById(id);
}

// element("td", {class: "number"}, "12.3", otherElement); on* takes a listener, absent values are left out
export function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export function show(node, visible) {
  node.hidden = !visible;
}

// does what takes long once the browser has painted what is there
export function afterPaint(work) {
  requestAnimationFrame(() => setTimeout(work));
}

const OPERATORS = ["conv", "involution", "odconv", "scconv", "gnconv"];
const OWN_COLOURS = 4;
let own = [];

// the operators of a run: those of others take the colours own-0, own-1, ... in the order in which they came up
export function nameOperators(names) {
  own = names.filter((name) => !OPERATORS.includes(name));
}

// the name of an operator's colour in the style sheet; none for one that the run does not have
export function operatorColour(kind) {
  if (OPERATORS.includes(kind)) return kind;
  const at = own.indexOf(kind);
  return at < 0 ? null : `own-${at % OWN_COLOURS}`;
}

// the coloured mark of an operator
export function swatch(kind) {
  const name = operatorColour(kind);
  return element("i", { class: name ? `swatch op-${name}` : "swatch", "aria-hidden": "true" });
}

// a table head and body out of plain rows; a cell is text or an element, columns with `number` are flush right
export function fillTable(table, columns, rows) {
  const classOf = (column) => (column.number ? "number" : undefined);
  const head = columns.map((column) =>
    element("th", { scope: "col", class: classOf(column) }, column.title, column.unit ? element("small", {}, column.unit) : null),
  );
  const body = rows.map(({ cells, ...attributes }) =>
    element("tr", attributes, ...cells.map((cell, i) => element("td", { class: classOf(columns[i]) }, cell))),
  );
  table.replaceChildren(element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...body));
}
