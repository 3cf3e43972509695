// Rings of fixed size: what the page remembers is bounded, however long it stays open.

/** Value over time, one point per `step` milliseconds, the newest `size` points. */
export class Series {
  constructor(size = 1200, step = 250) {
    this.size = size;
    this.step = step;
    this.length = 0;
    this.next = 0;
    this.times = new Float64Array(size);
    this.values = new Float64Array(size);
  }

  /** Add a value; within a step the newest stands. Returns whether a point was begun. */
  add(time, value) {
    const last = (this.next + this.size - 1) % this.size;
    if (this.length && time - this.times[last] < this.step) {
      this.values[last] = value;
      return false;
    }
    this.times[this.next] = time;
    this.values[this.next] = value;
    this.next = (this.next + 1) % this.size;
    this.length = Math.min(this.length + 1, this.size);
    return true;
  }

  /** Call `visit(time, value)` for the points from `since` on, oldest first. */
  each(since, visit) {
    const first = (this.next + this.size - this.length) % this.size;
    for (let i = 0; i < this.length; i += 1) {
      const at = (first + i) % this.size;
      if (this.times[at] >= since) visit(this.times[at], this.values[at]);
    }
  }

  /** Time of the oldest point, or NaN when there is none. */
  get begin() {
    return this.length ? this.times[(this.next + this.size - this.length) % this.size] : NaN;
  }

  /** {first, low, high} of the points from `since` on, or null when there are none. */
  range(since) {
    let found = null;
    this.each(since, (_, value) => {
      if (!found) found = { first: value, low: value, high: value };
      else if (value < found.low) found.low = value;
      else if (value > found.high) found.high = value;
    });
    return found;
  }
}

/** The last `size` numbers, for a median. */
export class Samples {
  constructor(size = 256) {
    this.values = new Float64Array(size);
    this.count = 0;
  }

  add(value) {
    this.values[this.count % this.values.length] = value;
    this.count += 1;
  }

  clear() {
    this.count = 0;
  }

  median() {
    const length = Math.min(this.count, this.values.length);
    if (!length) return NaN;
    return this.values.slice(0, length).sort()[length >> 1];
  }
}
