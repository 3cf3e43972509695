// The geometry of values over time.

/** Without a price for so many milliseconds, a line is broken rather than guessed. */
export const BREAK = 5000;

/** Map values from low to high onto pixels from bottom to top. */
export function scale(low, high, bottom, top) {
  if (high === low) return () => (bottom + top) / 2;
  return (value) => bottom - ((value - low) / (high - low)) * (bottom - top);
}

/** The path of a series from `since` on. */
export function line(series, since, x, y) {
  const path = new Path2D();
  let previous = -Infinity;
  series.each(since, (at, value) => {
    if (at - previous > BREAK) path.moveTo(x(at), y(value));
    else path.lineTo(x(at), y(value));
    previous = at;
  });
  return path;
}

/** The next of 1, 2, 5 times a power of ten. */
export function nice(step) {
  const power = 10 ** Math.floor(Math.log10(step));
  const share = step / power;
  return power * (share <= 1 ? 1 : share <= 2 ? 2 : share <= 5 ? 5 : 10);
}
