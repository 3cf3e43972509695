// The list of prices: one row a symbol, with the digits that matter large.

import { $, calm, make, setData, setText } from "./dom.js";
import { percent, price, seconds, splitPrice, spread } from "./format.js";
import { draw } from "./frame.js";
import { sparkline } from "./sparkline.js";

const FLASH = 450;
const ARROWS = { "-1": "▼", 0: "", 1: "▲" };
const WORDS = { "-1": ", down", 0: "", 1: ", up" };

export class PriceList {
  constructor({ market }) {
    this.market = market;
    this.rows = new Map();
    this.changed = new Set();
    this.body = $("price-rows");
    this.render = () => this.#render();
    this.body.addEventListener("click", (event) => {
      const row = event.target.closest("tr");
      if (row) market.select(row.dataset.symbol);
    });
    this.body.addEventListener("keydown", (event) => this.#move(event));
    setInterval(() => this.#refresh(), 250);
    new ResizeObserver(() => this.#refresh(true)).observe(this.body);
  }

  add(quote) {
    const row = new Row(quote);
    this.rows.set(quote.symbol, row);
    const after = [...this.body.rows].find((other) => other.dataset.symbol > quote.symbol);
    this.body.insertBefore(row.element, after ?? null);
    $("prices-empty").hidden = true;
  }

  change(quote) {
    this.changed.add(quote.symbol);
    draw(this.render);
  }

  select(quote) {
    for (const [symbol, row] of this.rows) row.select(symbol === quote.symbol);
  }

  #render() {
    for (const symbol of this.changed) this.rows.get(symbol).show();
    this.changed.clear();
  }

  /** Ages move on without ticks. */
  #refresh(resized = false) {
    if (document.hidden) return;
    for (const row of this.rows.values()) {
      if (resized) row.drawn = -1;
      if (resized || row.quote.stale !== row.stale || row.stale) this.changed.add(row.quote.symbol);
    }
    if (this.changed.size) draw(this.render);
    const left = this.market.left.size;
    const { size } = this.rows;
    setText($("prices-note"), left ? `${size} shown, ${left} more` : `${size || ""}`);
  }

  #move(event) {
    const step = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
    const row = step && event.target.closest("tr")?.[step];
    if (!row) return;
    event.preventDefault();
    row.querySelector("button").focus();
    this.market.select(row.dataset.symbol);
  }
}

class Row {
  constructor(quote) {
    this.quote = quote;
    this.drawn = -1;
    this.stale = false;
    this.pick = make("button", {
      className: "pick", type: "button", text: quote.symbol, "aria-pressed": "false",
    });
    this.note = make("span");
    this.lp = make("span", { className: "lp" });
    this.narrow = make("span", { className: "narrow", "aria-hidden": "true" });
    this.about = make("span", { className: "about" }, this.note, this.lp, this.narrow);
    this.canvas = make("canvas", { "aria-hidden": "true" });
    this.bid = new Side("bid");
    this.ask = new Side("ask");
    this.spread = make("span");
    this.unit = make("small");
    this.element = make(
      "tr",
      { "data-symbol": quote.symbol },
      make("th", { scope: "row" }, this.pick, this.about),
      make("td", { className: "spark" }, this.canvas),
      this.bid.cell,
      this.ask.cell,
      make("td", { className: "num spread" }, this.spread, this.unit),
    );
  }

  select(on) {
    this.pick.setAttribute("aria-pressed", String(on));
    setData(this.element, "selected", on ? "" : null);
  }

  show() {
    const { quote } = this;
    this.stale = quote.stale;
    setData(this.element, "stale", this.stale ? "" : null);
    this.bid.show(quote.bid, quote.digits, quote.bidMove, this.stale);
    this.ask.show(quote.ask, quote.digits, quote.askMove, this.stale);
    const [width, unit] = spread(quote.bid, quote.ask, quote.digits);
    setText(this.spread, width);
    setText(this.unit, unit);
    setText(this.narrow, ` · ${width} ${unit}`);
    this.pick.title = quote.spec?.description ?? "";
    if (this.drawn !== quote.points) {
      this.drawn = quote.points;
      this.change = sparkline(this.canvas, quote.series);
    }
    setText(this.note, this.stale ? `stale ${seconds(quote.age / 1000)}` : percent(this.change));
    setText(this.lp, quote.lp ? ` · ${quote.lp}` : "");
  }
}

class Side {
  constructor(name) {
    this.arrow = make("i", { className: "arrow" });
    this.head = make("span");
    this.pips = make("b");
    this.tail = make("span", { className: "tail" });
    this.spoken = make("span", { className: "sr" });
    this.figure = make("span", { className: "figure", "aria-hidden": "true" },
      this.arrow, this.head, this.pips, this.tail);
    this.cell = make("td", { className: `num quote ${name}` }, this.figure, this.spoken);
    this.value = NaN;
    this.digits = 0;
    this.flashed = 0;
    this.lit = 0;
    this.light = null;
  }

  show(value, digits, move, stale) {
    if (value !== this.value || digits !== this.digits) {
      const [head, pips, tail] = splitPrice(value, digits);
      setText(this.head, head);
      setText(this.pips, pips);
      setText(this.tail, tail);
      setText(this.spoken, price(value, digits) + WORDS[move]);
      setText(this.arrow, ARROWS[move]);
      setData(this.cell, "move", move ? String(move) : null);
      if (move && !stale && Number.isFinite(this.value)) this.#flash(move);
      this.value = value;
      this.digits = digits;
    }
  }

  /** Light up a change; the same way again only after a while, so that it stays readable. */
  #flash(move) {
    const now = performance.now();
    if (calm.matches || (move === this.lit && now - this.flashed < FLASH)) return;
    this.flashed = now;
    this.lit = move;
    this.light?.cancel();
    const from = getComputedStyle(this.cell).getPropertyValue("--flash");
    const frames = [{ backgroundColor: from }, { backgroundColor: "transparent" }];
    this.light = this.figure.animate(frames, { duration: FLASH, easing: "ease-out" });
  }
}
