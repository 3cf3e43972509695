// One draw per frame, however many messages come in. A hidden tab draws nothing; what waits is
// drawn once when it is seen again.

const waiting = new Set();
let asked = false;

/** Run `job` in the next animation frame, once, however often it is asked for. */
export function draw(job) {
  waiting.add(job);
  if (asked) return;
  asked = true;
  requestAnimationFrame(() => {
    asked = false;
    const jobs = [...waiting];
    waiting.clear();
    for (const one of jobs) one();
  });
}

/** Size a canvas to its box in device pixels; returns [context, width, height] in CSS pixels. */
export function surface(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const { clientWidth: width, clientHeight: height } = canvas;
  const wide = Math.round(width * ratio);
  const high = Math.round(height * ratio);
  if (canvas.width !== wide || canvas.height !== high) {
    canvas.width = wide;
    canvas.height = high;
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return [context, width, height];
}

const colours = new Map();

/** A colour of the style sheet, by the name of its custom property. */
export function colour(name) {
  let value = colours.get(name);
  if (!value) {
    value = getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
    colours.set(name, value);
  }
  return value;
}
