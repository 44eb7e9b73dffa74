// The page of a folder: its runs, newest first, asked for again every few seconds.
import { byId, element, fillTable, show } from "./dom.js";
import { clock, count, stateWords } from "./format.js";
import { getJson } from "./source.js";

const SECONDS = 5;
const COLUMNS = [
  { title: "run" },
  { title: "state" },
  { title: "trainings", number: true },
  { title: "failed", number: true },
  { title: "hypervolume", number: true },
  { title: "objectives" },
  { title: "sampler" },
  { title: "started" },
  { title: "device" },
];

function row(run) {
  const asked = run.num_trials === null ? "" : ` of ${count(run.num_trials)}`;
  return {
    cells: [
      element("a", { href: `/run/${encodeURIComponent(run.run)}` }, run.run),
      element("span", { class: `badge ${run.state}` }, stateWords(run.state)),
      `${count(run.num_trainings)}${asked}`,
      count(run.counts.failed),
      run.hypervolume ? run.hypervolume.share.toFixed(4) : "–",
      run.objectives.map(({ name }) => name).join(", ") || "–",
      run.sampler ?? "–",
      clock(run.started),
      run.device ?? "–",
    ],
  };
}

// the next question only after the last answer: a slow server is not asked twice at once
async function refresh() {
  try {
    const { folder, runs } = await getJson("/api/runs");
    byId("folder").textContent = folder;
    const empty = byId("empty");
    show(empty, runs.length === 0);
    empty.textContent = "No runs in this folder yet. Start one: nas search search_spaces/quickstart.yaml";
    show(byId("runs"), runs.length > 0);
    fillTable(byId("runs"), COLUMNS, runs.map(row));
    byId("live").textContent = "";
  } catch {
    byId("live").textContent = "not live, trying again";
  }
  setTimeout(refresh, SECONDS * 1000);
}

refresh();
