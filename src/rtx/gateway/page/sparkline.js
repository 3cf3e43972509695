// The small trend beside a price.

import { line, scale } from "./curve.js";
import { colour, surface } from "./frame.js";

const TREND = 180_000;
const SHORTEST = 30_000;

/** Draw the trend of the last minutes; returns its change in percent. */
export function sparkline(canvas, series) {
  const [context, width, height] = surface(canvas);
  const now = Date.now();
  const range = series.range(now - TREND);
  if (!range || !width) return 0;
  const begin = Math.max(now - TREND, Math.min(series.begin, now - SHORTEST));
  const x = (at) => ((at - begin) / (now - begin)) * (width - 4) + 1;
  const y = scale(range.low, range.high, height - 3, 3);
  let last = range.first;
  const path = line(series, begin, x, (value) => {
    last = value;
    return y(value);
  });
  const change = (last / range.first - 1) * 100;
  context.strokeStyle = colour(change < 0 ? "down" : "up");
  context.lineWidth = 1.25;
  context.lineJoin = "round";
  context.stroke(path);
  context.fillStyle = context.strokeStyle;
  context.beginPath();
  context.arc(x(now), y(last), 1.75, 0, 7);
  context.fill();
  return change;
}
