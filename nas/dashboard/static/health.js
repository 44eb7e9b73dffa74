// How the search went: why trials failed, pace, hypervolume, proxy against retrained.
import { byId, element, fillTable, show } from "./dom.js";
import { count, trialState } from "./format.js";
import { colour, drawSmall } from "./plotly.js";

// why a search does not train a network, or not to the end: nothing is wrong with these
const REASONS = {
  measured: "only measured: latency and size, from which the sampler learns what costs what",
  known: "rejected: the same network was proposed before",
  constraint: "rejected: beyond a limit of the experiment",
  dominated: "rejected: another network is better whatever accuracy this one had reached",
};

export function drawFailures({ failures, rejections, examples, unreadable, counts }, base) {
  const rows = Object.entries(failures).map(([kind, number]) => ({ cells: [kind, count(number), example(examples[kind], base)] }));
  const columns = [{ title: "reason" }, { title: "trials", number: true }, { title: "first message" }];
  fillTable(byId("failure-table"), columns, rows);
  show(byId("no-failures"), rows.length === 0);
  show(byId("failure-scroll"), rows.length > 0);
  const left = byId("unreadable");
  show(left, unreadable.length > 0);
  const more = unreadable.length > 5 ? " and more" : "";
  left.textContent = `${count(unreadable.length)} unreadable record${unreadable.length > 1 ? "s" : ""} left out: ${unreadable.slice(0, 5).join(", ")}${more}`;
  const aside = [[trialState("stopped"), counts.stopped], ...Object.entries(rejections).map(([kind, number]) => [REASONS[kind] ?? `rejected: ${kind}`, number])];
  const said = aside.filter(([, number]) => number).map(([words, number]) => element("li", {}, `${count(number)} ${words}`));
  show(byId("untrained"), said.length > 0);
  byId("untrained-reasons").replaceChildren(...said);
  return rows.length > 0 || unreadable.length > 0;
}

function example(found, base) {
  if (!found) return "";
  const [number, message] = found;
  if (!base) return message;
  return element("span", {}, element("a", { href: `${base}/trial/${number}` }, `trial ${number}`), ` ${message}`);
}

// the charts, once the panel is open; health: what the server found, or null before
export function drawHealth(health, store) {
  const trace = (x, y, name) => ({ type: "scatter", mode: "lines", x, y, line: { color: colour("front"), width: 2, shape: name === "volume" ? "hv" : "linear" }, hoverinfo: "x+y" });
  const { volume, pace } = health;
  show(byId("volume-part"), Boolean(volume));
  if (volume) {
    byId("volume-words").textContent = `From ${volume.share[0].toFixed(3)} after ${count(volume.trainings[0])} training${volume.trainings[0] === 1 ? "" : "s"} to ${volume.share.at(-1).toFixed(3)} after ${count(volume.trainings.at(-1))}.`;
    drawSmall(byId("volume-chart"), [trace(volume.trainings, volume.share, "volume")], { title: "trainings" }, { title: "share" });
  }
  show(byId("pace-part"), Boolean(pace));
  if (pace) {
    const mean = pace.per_minute.reduce((a, b) => a + b, 0) / pace.per_minute.length;
    byId("pace-words").textContent = `On average ${mean.toPrecision(3)} trainings per minute.`;
    drawSmall(byId("pace-chart"), [trace(pace.time.map((seconds) => new Date(seconds * 1000)), pace.per_minute, "pace")], { title: "" }, { title: "per minute" }, { date: true, fromZero: true });
  }
  drawAgreement(health.agreement, store);
}

function drawAgreement(agreement, store) {
  const points = store.retrained.filter(({ done }) => done).map((point) => ({ ...point, row: store.rowOf.get(point.number) })).filter(({ row }) => row !== undefined);
  show(byId("agreement-part"), points.length > 0);
  if (!points.length) return;
  const words = agreement ? [`Kendall's τ ${agreement.tau.toFixed(2)}`] : ["Too few retrained networks for Kendall's τ"];
  if (agreement && agreement.low !== null) words.push(`95 % interval ${agreement.low.toFixed(2)} to ${agreement.high.toFixed(2)}`);
  words.push(`${points.length} network${points.length > 1 ? "s" : ""}`);
  byId("agreement-words").textContent = `${words.join(", ")}.`;
  const top1 = store.metric("top1");
  const dots = { type: "scatter", mode: "markers", x: points.map(({ row }) => store.value(row, top1)), y: points.map(({ top1: value }) => 100 * value), marker: { size: 11, symbol: "star", color: colour("good") }, hoverinfo: "x+y" };
  drawSmall(byId("agreement-chart"), [dots], { title: "proxy top-1", unit: "%" }, { title: "retrained", unit: "%" }, { free: true });
}
