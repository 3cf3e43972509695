// The large chart of the selected symbol, with what the account holds and did on it.

import { BREAK, line, nice, scale } from "./curve.js";
import { $, choices, setText } from "./dom.js";
import { money, percent, price, shortTime, time, volume } from "./format.js";
import { colour, draw, surface } from "./frame.js";

const SHORTEST = 60_000;
const RIGHT = 76;
const BOTTOM = 22;
const TOP = 12;

export class Chart {
  /** `fills()` and `positions()` give what to mark on the selected symbol. */
  constructor({ fills, positions }) {
    this.fills = fills;
    this.positions = positions;
    this.canvas = $("big-chart");
    this.quote = null;
    this.span = 300_000;
    this.pointer = null;
    this.render = () => this.#render();
    choices(document.querySelector("#chart .choices"), (button) => {
      this.span = Number(button.dataset.span) * 1000;
      this.change();
    });
    this.canvas.addEventListener("pointermove", (event) => {
      this.pointer = { x: event.offsetX, y: event.offsetY };
      this.change();
    });
    this.canvas.addEventListener("pointerleave", () => {
      this.pointer = null;
      this.change();
    });
    new ResizeObserver(() => this.change()).observe(this.canvas);
    setInterval(() => document.hidden || this.change(), 500);
    setInterval(() => this.#describe(), 5000);
  }

  select(quote) {
    this.quote = quote;
    setText($("chart-title"), quote.symbol);
    this.about();
    this.change();
    this.#describe();
  }

  about() {
    setText($("chart-about"), this.quote?.spec?.description ?? "");
    setText($("chart-lp"), this.quote?.lp ?? "");
  }

  change() {
    draw(this.render);
  }

  #render() {
    const [context, width, height] = surface(this.canvas);
    const { quote } = this;
    const now = Date.now();
    const begin = quote ? this.#begin(quote.series, now) : 0;
    const range = quote?.series.range(begin);
    $("chart-empty").hidden = Boolean(range) || Boolean(quote?.series.length);
    if (!range || width < RIGHT * 2) return;

    const plot = { left: 0, right: width - RIGHT, top: TOP, bottom: height - BOTTOM };
    // Room for the bid and ask around the mid, where fills are marked.
    const points = 2 * 10 ** -quote.digits;
    const margin = Math.max((range.high - range.low) * 0.12, quote.ask - quote.bid, points);
    const low = range.low - margin;
    const high = range.high + margin;
    const x = (at) => ((at - begin) / (now - begin)) * (plot.right - plot.left) + plot.left;
    const y = scale(low, high, plot.bottom, plot.top);
    context.font = `11px ${colour("font")}`;
    context.textBaseline = "middle";

    this.#grid(context, plot, { begin, now, low, high, x, y });
    this.#curve(context, plot, begin, range.high, x, y);
    this.#marks(context, plot, { begin, low, high, x, y });
    this.#now(context, plot, y);
    if (this.pointer) this.#cross(context, plot, { begin, now, low, high, y });

    setText($("chart-lp"), quote.lp);
    const change = (quote.mid / range.first - 1) * 100;
    const label = $("chart-change");
    setText(label, `${change < 0 ? "▼" : "▲"} ${percent(change, 3)}`);
    label.dataset.move = change < 0 ? "-1" : "1";
  }

  #begin(series, now) {
    // The span grows with the data, so that the first minute is not a stub at the right edge.
    const known = now - (series.begin || now);
    return now - Math.min(this.span, Math.max(SHORTEST, known));
  }

  #grid(context, plot, { begin, now, low, high, x, y }) {
    context.strokeStyle = colour("grid");
    context.fillStyle = colour("dim");
    context.lineWidth = 1;
    context.textAlign = "left";
    const step = nice((high - low) / Math.max(3, (plot.bottom - plot.top) / 52));
    for (let value = Math.ceil(low / step) * step; value < high; value += step) {
      rule(context, plot.left, plot.right, y(value));
      const covered = Math.abs(y(value) - y(this.quote.mid)) < 18;
      if (!covered) context.fillText(price(value, this.quote.digits), plot.right + 10, y(value));
    }
    context.textAlign = "center";
    const seconds = now - begin > 150_000 ? 60_000 : 15_000;
    for (let at = Math.ceil(begin / seconds) * seconds; at < now; at += seconds) {
      const label = seconds < 60_000 ? time(at) : shortTime(at);
      if (x(at) < 24 || x(at) > plot.right - 10) continue;
      context.fillText(label, x(at), plot.bottom + 13);
    }
  }

  #curve(context, plot, begin, high, x, y) {
    const path = line(this.quote.series, begin, x, y);
    const fill = context.createLinearGradient(0, y(high), 0, plot.bottom);
    fill.addColorStop(0, colour("area"));
    fill.addColorStop(1, "transparent");
    const area = new Path2D();
    let first = null;
    let previous = null;
    const close = () => {
      if (previous === null) return;
      area.lineTo(x(previous), plot.bottom);
      area.lineTo(x(first), plot.bottom);
      area.closePath();
    };
    this.quote.series.each(begin, (at, value) => {
      if (previous === null || at - previous > BREAK) {
        close();
        first = at;
        area.moveTo(x(at), y(value));
      } else {
        area.lineTo(x(at), y(value));
      }
      previous = at;
    });
    close();
    context.fillStyle = fill;
    context.fill(area);
    context.strokeStyle = colour("accent");
    context.lineWidth = 1.6;
    context.lineJoin = "round";
    context.stroke(path);
  }

  /** Open positions as dashed lines, fills as arrows at their time and price. */
  #marks(context, plot, { begin, low, high, x, y }) {
    context.textAlign = "left";
    for (const position of this.positions()) {
      if (position.symbol !== this.quote.symbol) continue;
      if (position.open_price < low || position.open_price > high) continue;
      const at = y(position.open_price);
      context.strokeStyle = context.fillStyle = colour(position.side === "BUY" ? "up" : "down");
      context.setLineDash([3, 4]);
      rule(context, plot.left, plot.right, at);
      context.setLineDash([]);
      const arrow = position.side === "BUY" ? "▲" : "▼";
      const text = `${arrow} ${volume(position.volume)}  ${money(position.profit, true)}`;
      context.fillText(text, plot.left + 8, at - 9);
    }
    const known = Math.max(begin, this.quote.series.begin);
    for (const fill of this.fills()) {
      if (fill.symbol !== this.quote.symbol || fill.timestamp < known) continue;
      if (fill.price < low || fill.price > high) continue;
      const up = fill.side === "BUY" ? 1 : -1;
      const [left, top] = [x(fill.timestamp), y(fill.price)];
      context.fillStyle = colour(up > 0 ? "up" : "down");
      context.strokeStyle = colour("panel");
      context.beginPath();
      context.moveTo(left, top);
      context.lineTo(left - 5, top + 9 * up);
      context.lineTo(left + 5, top + 9 * up);
      context.closePath();
      context.fill();
      context.stroke();
    }
  }

  /** Bid and ask of this moment, on the scale. */
  #now(context, plot, y) {
    const { quote } = this;
    const stale = quote.stale;
    context.textAlign = "left";
    const at = y(quote.mid);
    context.strokeStyle = colour(stale ? "dim" : "accent");
    context.setLineDash([1, 3]);
    rule(context, plot.left, plot.right, at);
    context.setLineDash([]);
    tag(context, plot.right + 4, at, price(quote.mid, quote.digits),
      colour(stale ? "line" : "accent"), colour(stale ? "text" : "ink"));
    if (stale) {
      context.fillStyle = colour("warn");
      context.textAlign = "right";
      context.fillText("stale", plot.right - 8, at - 10);
    }
  }

  #cross(context, plot, { begin, now, low, high, y }) {
    const { x: left, y: top } = this.pointer;
    if (left > plot.right || top > plot.bottom || top < plot.top) return;
    context.strokeStyle = colour("dim");
    context.setLineDash([2, 3]);
    rule(context, plot.left, plot.right, top);
    context.beginPath();
    context.moveTo(left, plot.top);
    context.lineTo(left, plot.bottom);
    context.stroke();
    context.setLineDash([]);
    const share = (plot.bottom - top) / (plot.bottom - plot.top);
    const value = low + share * (high - low);
    context.textAlign = "left";
    tag(context, plot.right + 4, y(value), price(value, this.quote.digits),
      colour("line"), colour("text"));
    const at = begin + ((left - plot.left) / (plot.right - plot.left)) * (now - begin);
    context.textAlign = "center";
    context.fillStyle = colour("text");
    const near = Math.min(Math.max(left, 34), plot.right - 34);
    tag(context, near - 32, plot.bottom + 12, time(at), colour("line"), colour("text"), 64);
  }

  #describe() {
    const { quote } = this;
    const range = quote?.series.range(Date.now() - this.span);
    if (!range) return;
    const [low, high] = [price(range.low, quote.digits), price(range.high, quote.digits)];
    this.canvas.setAttribute("aria-label",
      `${quote.symbol} over the last minutes: now ${price(quote.mid, quote.digits)}, ` +
      `lowest ${low}, highest ${high}`);
  }
}

function rule(context, from, to, at) {
  const y = Math.round(at) + 0.5;
  context.beginPath();
  context.moveTo(from, y);
  context.lineTo(to, y);
  context.stroke();
}

function tag(context, left, middle, text, back, front, width = RIGHT - 6) {
  context.fillStyle = back;
  context.beginPath();
  context.roundRect(left, middle - 9, width, 18, 4);
  context.fill();
  context.fillStyle = front;
  const begin = context.textAlign === "center" ? left + width / 2 : left + 6;
  context.fillText(text, begin, middle + 0.5);
}
