// Numbers, durations and times as text.

const MISSING = "–";

// a value in the unit of its metric, such as 0.8312 -> "83.12"
export function figure(metric, value) {
  if (value === null || value === undefined) return MISSING;
  return (value * metric.scale).toLocaleString("en", {
    minimumFractionDigits: metric.decimals,
    maximumFractionDigits: metric.decimals,
  });
}

export function withUnit(metric, value) {
  return `${figure(metric, value)} ${metric.unit}`.trim();
}

export function titleOf(metric) {
  return metric.unit ? `${metric.title} (${metric.unit})` : metric.title;
}

// who judged a network, such as "zero_cost (grad_norm)"
export function evaluatorName({ evaluator, score }) {
  return score ? `${evaluator} (${score})` : evaluator;
}

// what that took, such as "12 epochs, 40 s"
export function evaluationWords({ seconds, epochs }) {
  return `${epochs ? `${count(epochs)} epoch${epochs > 1 ? "s" : ""}, ` : ""}${duration(seconds)}`;
}

// what a training says of a network, by its task
export const TRAINED = ["top1", "box_ap"];

// that after an epoch
export function trained(row) {
  return row[TRAINED.find((name) => name in row)] ?? 0;
}

// a share as percent and a latency, rounded as figures of the tables are
export function accuracy(share) {
  return figure({ scale: 100, decimals: 2 }, share);
}

export function milliseconds(value) {
  return figure({ scale: 1, decimals: 3 }, value);
}

export function difference(metric, a, b) {
  if ([a, b].some((value) => value === null || value === undefined)) return MISSING;
  return `${a >= b ? "+" : "−"}${figure(metric, Math.abs(a - b))}`;
}

export function capital(text) {
  return text[0].toUpperCase() + text.slice(1);
}

export function count(number) {
  return number.toLocaleString("en");
}

export function percent(share) {
  return `${(100 * share).toFixed(1)} %`;
}

export function duration(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 90) return `${minutes} min`;
  if (minutes < 48 * 60) return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")}`;
  return `${Math.round(minutes / 60 / 24)} days`;
}

export function clock(unixSeconds) {
  return unixSeconds ? new Date(unixSeconds * 1000).toLocaleString([], { dateStyle: "medium", timeStyle: "short" }) : MISSING;
}

// "inv7×2 od4" for neighbours with the same label
export function sequence(labels) {
  const parts = [];
  for (const label of labels) {
    const last = parts.at(-1);
    if (last && last[0] === label) last[1] += 1;
    else parts.push([label, 1]);
  }
  return parts.map(([label, times]) => (times > 1 ? `${label}×${times}` : label)).join(" ");
}

const STATES = {
  waiting: "waiting for the first trial",
  running: "running",
  quiet: "running, but no news",
  interrupted: "not running",
  unknown: "not known whether it runs",
  finished: "finished",
};

const TRIAL_STATES = { stopped: "stopped early", measured: "only measured" };

export function trialState(state) {
  return TRIAL_STATES[state] ?? state;
}

export function stateWords(state) {
  return STATES[state] ?? state;
}

// "43 of 60 trainings · 5.7/min · 2 min – 3 min left"
export function progressWords(summary) {
  const asked = summary.num_trials === null ? "" : ` of ${count(summary.num_trials)}`;
  const noun = summary.evaluators.at(-1).evaluator === "train" ? "trainings" : "networks";
  const words = [`${count(summary.num_trainings)}${asked} ${noun}`];
  if (["running", "quiet"].includes(summary.state)) {
    if (summary.trainings_per_minute) words.push(`${summary.trainings_per_minute.toPrecision(3)}/min`);
    if (summary.seconds_left) {
      const [low, high] = summary.seconds_left.map(duration);
      words.push(low === high ? `about ${low} left` : `${low} – ${high} left`);
    }
  }
  return words.join(" · ");
}
