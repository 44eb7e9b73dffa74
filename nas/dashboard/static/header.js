// The head of the page: how far the run is, what it ran on, whether the page is live.
import { byId, element, show } from "./dom.js";
import { clock, count, duration, evaluatorName, percent, progressWords, stateWords } from "./format.js";

export function drawHeader(summary, source) {
  document.title = `${summary.run} · ${stateWords(summary.state)}`;
  byId("name").textContent = summary.run;
  const state = byId("state");
  state.textContent = stateWords(summary.state);
  state.className = `badge ${summary.state}`;
  const progress = byId("progress");
  show(progress, summary.num_trials !== null);
  if (summary.num_trials) progress.value = Math.min(summary.num_trainings / summary.num_trials, 1);
  byId("progress-text").textContent = progressWords(summary);
  drawBad(summary);
  byId("volume").textContent = volumeWords(summary.hypervolume);
  const facts = [summary.origin ?? (summary.sampler && `sampler ${summary.sampler}`), summary.seed !== null && `seed ${summary.seed}`, summary.device];
  facts.push(...summary.evaluators.filter(({ networks }) => networks).map(judgingWords));
  if (summary.started) facts.push(`since ${clock(summary.started)}`);
  byId("circumstances").textContent = facts.filter(Boolean).join(" · ");
  drawProblems(summary);
  if (source.saved) byId("live").textContent = `saved copy, ${clock(source.saved)}`;
  for (const id of ["home", "about", "save"]) show(byId(id), !source.saved);
  if (!source.base) return;
  byId("about").href = `${source.base}/about`;
  byId("save").href = `${source.base}/saved.html`;
}

// what an evaluator took, such as "zero_cost (snip): 40 networks, 12 rejected, 9 s"
function judgingWords(one) {
  const words = [`${count(one.networks)} network${one.networks > 1 ? "s" : ""}`];
  if (one.rejected) words.push(`${count(one.rejected)} rejected`);
  if (one.epochs) words.push(`${count(one.epochs)} epochs`);
  return `${evaluatorName(one)}: ${[...words, duration(one.seconds)].join(", ")}`;
}

function volumeWords(volume) {
  if (!volume) return "";
  const added = volume.added === null ? "" : `, ${percent(volume.added)} of it from the last ${count(volume.window)} trainings`;
  return `hypervolume ${volume.share.toFixed(4)}${added}`;
}

// what went wrong, and what was set aside as a search does, as links to the reasons
function drawBad(summary) {
  const { stopped, failed } = summary.counts;
  const measured = summary.rejections.measured ?? 0;
  const kinds = { bad: [[failed, "failed"]], aside: [[stopped, "stopped early"], [summary.counts.rejected - measured, "rejected"], [measured, "only measured"]] };
  for (const [id, counts] of Object.entries(kinds)) {
    const words = counts.filter(([number]) => number).map(([number, word]) => `${count(number)} ${word}`);
    show(byId(id), words.length > 0);
    byId(id).textContent = words.join(" · ");
  }
}

function drawProblems(summary) {
  const problems = [];
  if (summary.newer) {
    problems.push(`This run was written by a newer version of opnas (records of format ${summary.newer}); what this version cannot read is left out. Update opnas to see it whole.`);
  }
  if (summary.problem) problems.push(`The experiment cannot be read: ${summary.problem}`);
  if (summary.state === "quiet") {
    const since = Date.now() / 1000 - summary.finished;
    problems.push(`No news for ${duration(since)}; the last trial finished ${clock(summary.finished)}. Check with: nas status ${summary.run}`);
  }
  const list = byId("problem");
  show(list, problems.length > 0);
  list.replaceChildren(...problems.map((text) => element("p", {}, text)));
  const reading = byId("reading");
  show(reading, summary.unread > 0);
  reading.textContent = summary.unread ? `Reading the records: ${count(summary.unread)} to go. Front and figures are those of what is read.` : "";
}

// whether events come in; `seconds` until the next try
export function showConnection(open, seconds) {
  const live = byId("live");
  if (open) live.textContent = "live";
  else if (!live.classList.contains("lost")) {
    const now = new Date().toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
    live.textContent = `not live, last update ${now}, trying again every ${seconds} s`;
  }
  live.classList.toggle("lost", !open);
}
