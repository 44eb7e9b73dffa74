// What stands in place of the chart when there is nothing to draw.
import { byId, element, show } from "./dom.js";
import { clock, duration, withUnit } from "./format.js";

// shown: see picture.js; allow(value) sets the cap, clear() ends the filter
export function drawEmpty(store, view, { x, y, cheapest, all }, allow, clear) {
  const { summary } = store;
  const box = byId("empty");
  if (all.length) {
    box.replaceChildren("No complete trial fits the filter. ", element("button", { type: "button", onclick: clear }, "Clear the filter"));
  } else if (view.cap !== null && cheapest) {
    const said = `No trial has at most ${view.cap} ${x.unit}; the cheapest has ${withUnit({ ...x, scale: 1 }, cheapest.value)} (trial ${cheapest.number}). `;
    box.replaceChildren(said, element("button", { type: "button", onclick: () => allow(cheapest.value) }, "Set the cap there"));
  } else if (summary.counts.failed && summary.counts.failed === summary.num_trainings) {
    box.textContent = "Every training failed so far. The reasons are listed below.";
  } else if (summary.counts.complete) {
    box.textContent = `No complete trial has both figures, ${y.title} and ${x.title}.`;
  } else if (store.count) {
    box.textContent = "No trial was trained to the end yet, so there is no front.";
  } else if (summary.unread) {
    box.textContent = "Reading the records …";
  } else if (summary.state === "interrupted") {
    box.textContent = "No trial has finished, and no search is running.";
  } else {
    box.replaceChildren(element("p", {}, "No trial has finished yet. The first ones appear here by themselves."), ...waiting(summary));
  }
}

function waiting({ begun, under_way: running }) {
  const words = [];
  if (begun) words.push(`The search began ${clock(begun)}, ${duration(Math.max(Date.now() / 1000 - begun, 0))} ago.`);
  if (running?.length) words.push(`Under way: trial ${running.join(", ")}.`);
  return words.length ? [element("p", { class: "quiet" }, words.join(" "))] : [];
}

export function showEmpty(visible) {
  show(byId("empty"), visible);
  for (const id of ["chart", "legend", "picked"]) show(byId(id), !visible);
}
