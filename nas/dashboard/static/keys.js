// The keyboard in the chart. Single letters act only while the chart has the focus.
import { byId } from "./dom.js";
import { copyCommand } from "./panel.js";

// page: {numbers(), a(), pick(number), mark(), keep(number), swap(), clear(), near(number), chart}
export function listenToKeys(page) {
  let anchor = null;
  let others = [];
  const along = (step) => {
    const numbers = page.numbers();
    const at = numbers.indexOf(page.a());
    const start = at < 0 ? (step > 0 ? -1 : numbers.length) : at;
    page.pick(numbers[Math.min(Math.max(start + step, 0), numbers.length - 1)]);
  };
  // away from the last point of the front to the dominated ones around it, and back
  const aside = (step) => {
    const now = page.a();
    if (now === null) return;
    if (now !== anchor && !others.includes(now)) [anchor, others] = [now, page.near(now)];
    const at = others.indexOf(now) + step;
    page.pick(at < 0 ? anchor : others[Math.min(at, others.length - 1)] ?? anchor);
  };
  const moves = {
    ArrowRight: () => along(1),
    ArrowLeft: () => along(-1),
    Home: () => page.pick(page.numbers()[0]),
    End: () => page.pick(page.numbers().at(-1)),
    ArrowDown: () => aside(1),
    ArrowUp: () => aside(-1),
    b: page.mark,
    x: page.swap,
    k: () => page.a() !== null && page.keep(page.a()),
    r: () => byId("command")?.parentElement.focus(),
    c: copyCommand,
    Escape: page.clear,
    "+": () => page.chart.zoomBy(0.7),
    "=": () => page.chart.zoomBy(0.7),
    "-": () => page.chart.zoomBy(1 / 0.7),
    0: page.chart.reset,
    "?": () => byId("keys").showModal(),
  };
  byId("chart").addEventListener("keydown", (event) => {
    const move = moves[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!move || event.ctrlKey || event.metaKey || event.altKey || !page.numbers().length) return;
    event.preventDefault();
    move();
  });
  byId("show-keys").addEventListener("click", () => byId("keys").showModal());
  byId("close-keys").addEventListener("click", () => byId("keys").close());
}
