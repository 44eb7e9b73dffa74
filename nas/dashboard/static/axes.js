// The axes of the chart: what they show, and where a value lies on the screen. Plotly gets the same ranges and margins,
// so that the first picture, which is there before Plotly, does not move when it takes over.
import { titleOf } from "./format.js";

export const MARGIN = { left: 66, right: 18, top: 16, bottom: 50 };
const CUT = 0.005;
const PADDING = 0.05;
const DECADES = 100;

// The range that shows 99 % of the values and all of `always`; more only if the rest is near. {range, below, above}: what
// lies outside. With `log` the range is that of the logarithms, as Plotly has it.
export function fit(values, always, log) {
  const seen = values.filter((value) => Number.isFinite(value) && (!log || value > 0)).sort();
  const must = always.filter((value) => Number.isFinite(value) && (!log || value > 0));
  if (!seen.length && !must.length) return { range: log ? [0, 1] : [0, 1], below: 0, above: 0 };
  const turn = log ? Math.log10 : (value) => value;
  const all = seen.length ? seen : Float64Array.from(must);
  let low = turn(all[Math.ceil(CUT * (all.length - 1))]);
  let high = turn(all[Math.floor((1 - CUT) * (all.length - 1))]);
  for (const value of must) [low, high] = [Math.min(low, turn(value)), Math.max(high, turn(value))];
  const reach = 0.5 * (high - low);
  if (turn(all[0]) > low - reach) low = Math.min(low, turn(all[0]));
  if (turn(all.at(-1)) < high + reach) high = Math.max(high, turn(all.at(-1)));
  const pad = PADDING * (high - low) || Math.abs(high) * PADDING || 0.5;
  const range = [low - pad, high + pad];
  const [first, last] = log ? range.map((value) => 10 ** value) : range;
  let [below, above] = [0, 0];
  for (const value of seen) {
    if (value < first) below += 1;
    else if (value > last) above += 1;
  }
  return { range, below, above };
}

// whether values are positive and span more than two decades, but for the few that lie far from the others
export function spansDecades(values) {
  let [least, most] = [Infinity, -Infinity];
  for (const value of values) if (Number.isFinite(value)) [least, most] = [Math.min(least, value), Math.max(most, value)];
  if (!(least > 0 && most > DECADES * least)) return false;
  const sorted = Float64Array.from(values).filter(Number.isFinite).sort();
  const last = sorted.length - 1;
  return sorted[Math.floor((1 - CUT) * last)] > DECADES * sorted[Math.ceil(CUT * last)];
}

// where a value lies in the box: {left, top, width, height, x(value), y(value), holds(x, y)}, all in pixels
export function frameOf(box, ranges, [logX, logY]) {
  const left = MARGIN.left;
  const top = MARGIN.top;
  const width = Math.max(box.clientWidth - MARGIN.left - MARGIN.right, 0);
  const height = Math.max(box.clientHeight - MARGIN.top - MARGIN.bottom, 0);
  const [[x0, x1], [y0, y1]] = ranges;
  const across = width / (x1 - x0);
  const up = height / (y1 - y0);
  const x = logX ? (value) => left + (Math.log10(value) - x0) * across : (value) => left + (value - x0) * across;
  const y = logY ? (value) => top + height - (Math.log10(value) - y0) * up : (value) => top + height - (value - y0) * up;
  return { left, top, width, height, x, y, holds: (px, py) => px >= left && px <= left + width && py >= top && py <= top + height };
}

// the height in the box of a trial; one that failed has no value and stands at the foot
export function heightOf(frame, view, row) {
  return Number.isNaN(view.ys[row]) ? frame.top + frame.height - 9 : frame.y(view.ys[row]);
}

// round numbers within a range, about `count` of them, as [position in the range, value]
export function ticks([low, high], count, log) {
  if (log) {
    const found = [];
    for (let power = Math.floor(low); power <= Math.ceil(high); power += 1) {
      for (const digit of [1, 2, 5]) {
        const at = power + Math.log10(digit);
        if (at >= low && at <= high) found.push([at, digit * 10 ** power]);
      }
    }
    return found;
  }
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((digit) => digit * power >= rough) * power;
  const found = [];
  for (let i = Math.ceil(low / step); i * step <= high; i += 1) found.push([i * step, i * step]);
  return found;
}

// grid, figures and titles on a canvas; `paper` is scaled to CSS pixels
export function paintAxes(paper, frame, ranges, view, ink) {
  const digits = (value) => String(Number(value.toPrecision(6)));
  paper.font = "13px system-ui, 'DejaVu Sans', sans-serif";
  paper.fillStyle = ink.text;
  paper.strokeStyle = ink.line;
  paper.lineWidth = 1;
  paper.textAlign = "center";
  paper.textBaseline = "top";
  for (const [, value] of ticks(ranges[0], frame.width / 110, view.log[0])) {
    const at = Math.round(frame.x(value)) + 0.5;
    stroke(paper, at, frame.top, at, frame.top + frame.height);
    paper.fillText(digits(value), at, frame.top + frame.height + 6);
  }
  paper.textAlign = "right";
  paper.textBaseline = "middle";
  for (const [, value] of ticks(ranges[1], frame.height / 60, view.log[1])) {
    const at = Math.round(frame.y(value)) + 0.5;
    stroke(paper, frame.left, at, frame.left + frame.width, at);
    paper.fillText(digits(value), frame.left - 6, at);
  }
  paper.textAlign = "center";
  paper.fillText(titleOf(view.x), frame.left + frame.width / 2, frame.top + frame.height + 36);
  paper.save();
  paper.translate(16, frame.top + frame.height / 2);
  paper.rotate(-Math.PI / 2);
  paper.fillText(titleOf(view.y), 0, 0);
  paper.restore();
}

function stroke(paper, x0, y0, x1, y1) {
  paper.beginPath();
  paper.moveTo(x0, y0);
  paper.lineTo(x1, y1);
  paper.stroke();
}
