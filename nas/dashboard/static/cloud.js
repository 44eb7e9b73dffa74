// The dominated trials on a canvas: with thousands of points in Plotly every new trial and every click would take a second.
import { heightOf, paintAxes } from "./axes.js";

const DOT = 3;
const CROSS = 4;
// more dots than this on one pixel look the same
const DEEPEST = 5;

// Paints the cloud of `view` (see chart.js) and, while Plotly is not there (`sketch`), axes and front as well.
export function paintCloud(canvas, box, view, frame, ranges, ink, sketch) {
  const [width, height] = [box.clientWidth, box.clientHeight];
  if (!width || !height || !frame.width || !frame.height) return;
  const ratio = devicePixelRatio || 1;
  Object.assign(canvas, { width: Math.round(width * ratio), height: Math.round(height * ratio) });
  const paper = canvas.getContext("2d");
  paper.scale(ratio, ratio);
  if (sketch) paintAxes(paper, frame, ranges, view, ink);
  if (view.dominated) {
    paper.globalAlpha = (view.tint ? 0.75 : view.shown.length > 2000 ? 0.35 : 0.55) * (view.full ? 0.5 : 1);
    paintDots(paper, view, frame, ratio);
    paper.globalAlpha = 1;
  }
  paintFailed(paper, view, frame, ink);
  if (sketch) paintFront(paper, view, frame, ink);
}

function paintFailed(paper, view, frame, ink) {
  paper.strokeStyle = ink.bad;
  paper.lineWidth = 1.5;
  paper.beginPath();
  for (const row of view.failed) {
    const [x, y] = [frame.x(view.xs[row]), heightOf(frame, view, row)];
    if (!frame.holds(x, y)) continue;
    for (const lean of [-CROSS, CROSS]) {
      paper.moveTo(x - lean, y - CROSS);
      paper.lineTo(x + lean, y + CROSS);
    }
  }
  paper.stroke();
}

function paintDots(paper, view, frame, ratio) {
  const dots = view.palette.map((colour) => stamp(colour, DOT, ratio));
  const depth = new Uint8Array((frame.width + 1) * (frame.height + 1));
  const columns = Math.ceil(frame.width) + 1;
  for (const row of view.shown) {
    if (view.isFront(row)) continue;
    const [x, y] = [frame.x(view.xs[row]), frame.y(view.ys[row])];
    if (!frame.holds(x, y)) continue;
    const cell = Math.floor(y - frame.top) * columns + Math.floor(x - frame.left);
    if (depth[cell] >= DEEPEST) continue;
    depth[cell] += 1;
    paper.drawImage(dots[view.tint ? view.tint[row] : 0], x - DOT, y - DOT, 2 * DOT, 2 * DOT);
  }
}

function stamp(colour, radius, ratio) {
  const dot = document.createElement("canvas");
  dot.width = dot.height = Math.ceil(2 * radius * ratio);
  const paper = dot.getContext("2d");
  paper.fillStyle = colour;
  paper.arc(dot.width / 2, dot.width / 2, dot.width / 2, 0, 7);
  paper.fill();
  return dot;
}

function paintFront(paper, view, frame, ink) {
  paper.save();
  paper.beginPath();
  paper.rect(frame.left, frame.top, frame.width, frame.height);
  paper.clip();
  paper.strokeStyle = paper.fillStyle = ink.front;
  paper.lineWidth = 2;
  paper.beginPath();
  view.steps.forEach(({ x, y }, i) => {
    const [px, py] = [frame.x(x), frame.y(y)];
    if (i) paper.lineTo(px, frame.y(view.steps[i - 1].y));
    paper[i ? "lineTo" : "moveTo"](px, py);
  });
  paper.stroke();
  for (const row of view.frontRows) {
    paper.beginPath();
    paper.arc(frame.x(view.xs[row]), frame.y(view.ys[row]), 4.5, 0, 7);
    paper.fill();
  }
  paper.restore();
}
