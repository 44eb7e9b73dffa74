// The view in the address: axes, cap, colour, toggles, zoom and selection, so that a copied link shows the same.

const SWITCHES = { bars: true, published: true, retrained: true, dominated: true, failed: false, full: false, parallel: false };
// whether an axis is logarithmic; null: where its figure spans decades
const LOGS = ["log", "ylog"];

export function emptyView() {
  return { x: null, y: null, log: null, ylog: null, colour: null, cap: null, zoom: null, a: null, b: null, trials: null, kept: [], ...SWITCHES };
}

export function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  const number = (name) => (/^\d+$/.test(given.get(name) ?? "") ? Number(given.get(name)) : null);
  const view = { ...emptyView(), x: given.get("x"), y: given.get("y"), trials: given.get("trials"), colour: given.get("colour"), a: number("a"), b: number("b") };
  if (given.has("cap") && given.get("cap") !== "" && Number.isFinite(Number(given.get("cap")))) view.cap = Number(given.get("cap"));
  view.kept = (given.get("kept") ?? "").split(",").filter((text) => /^\d+$/.test(text)).map(Number);
  const corners = (given.get("zoom") ?? "").split(",").map(Number);
  const [left, right, bottom, top] = corners;
  if (corners.length === 4 && corners.every(Number.isFinite) && left < right && bottom < top) view.zoom = [[left, right], [bottom, top]];
  for (const name of [...LOGS, ...Object.keys(SWITCHES)]) if (given.has(name)) view[name] = given.get(name) === "1";
  return view;
}

// only what differs from the usual view is written
export function writeAddress(view) {
  const given = Object.entries(view).filter(([name, value]) => value !== null && value !== undefined && value !== SWITCHES[name] && value.length !== 0);
  const words = given.map(([name, value]) => [name, name === "zoom" ? rounded(value) : typeof value === "boolean" ? Number(value) : value]);
  history.replaceState(null, "", words.length ? `#${new URLSearchParams(words)}` : location.pathname + location.search);
}

// left, right, bottom, top of the zoom; on a logarithmic axis the logarithms
function rounded(zoom) {
  return zoom.flat().map((value) => Number(value.toPrecision(6))).join(",");
}
