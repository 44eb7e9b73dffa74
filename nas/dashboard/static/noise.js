// What noise says of the accuracies: intervals, and probabilities of being on the front and of being better.
import { accuracy } from "./format.js";

const NORMAL_95 = 1.96;

// found: the head `noise` of the server and its columns by trial; null where nothing is known
export function readNoise({ noise, rows }) {
  if (!noise) return null;
  const at = new Map();
  rows.number.forEach((number, i) => at.set(number, i));
  const of = (number) => {
    const i = at.get(number);
    if (i === undefined) return null;
    const [mean, error] = [rows.mean[i], rows.error[i]];
    const interval = [Math.max(mean - NORMAL_95 * error, 0), Math.min(mean + NORMAL_95 * error, 1)];
    return { mean, error, interval, trainings: rows.trainings[i], onFront: rows.on_front[i] };
  };
  // the probability that the network of one trial is more accurate than that of another
  const beats = (one, other) => {
    const [a, b] = [of(one), of(other)];
    return a && b ? normal((a.mean - b.mean) / Math.hypot(a.error, b.error)) : null;
  };
  return { ...noise, of, beats };
}

// the normal distribution: Abramowitz and Stegun 26.2.17, wrong by 1e-7 at most
function normal(x) {
  const t = 1 / (1 + 0.2316419 * Math.abs(x));
  const terms = [1.330274429, -1.821255978, 1.781477937, -0.356563782, 0.31938153];
  const tail = (Math.exp((-x * x) / 2) / Math.sqrt(2 * Math.PI)) * terms.reduce((sum, term) => (sum + term) * t, 0);
  return x < 0 ? tail : 1 - tail;
}

// as the report has it: of what is drawn, 0 and 1 are not certain
export function probability(value) {
  return value < 0.005 ? "<.01" : value > 0.995 ? ">.99" : value.toFixed(2);
}

// "81.20 – 85.90" in the unit of the accuracy
export function between([low, high]) {
  return `${accuracy(low)} – ${accuracy(high)}`;
}

// how the intervals are meant
export function noiseWords({ num_images: images, seed_sd: sd, degrees }) {
  const measured = images ? `measured on ${images.toLocaleString("en")} images` : "measured on an unknown number of images";
  const from = degrees ? `from ${degrees} further training${degrees > 1 ? "s" : ""}` : "not measured, of the usual size";
  return `95 % interval over seeds and images: ${measured}; standard deviation from seed to seed ${accuracy(sd)} %, ${from}. P on front: that no network is more accurate at no more cost.`;
}
