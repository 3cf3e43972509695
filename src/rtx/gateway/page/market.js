// The latest quote of every symbol, its last minutes, and its terms of trade.

import { decimals } from "./format.js";
import { Series } from "./series.js";

/** A price is fresh for a second: as long as the layer's cache keeps it. */
export const FRESH = 1000;
const MOST_SYMBOLS = 200;
const SPECS = "rtx.specs";
const SPEC_AGE = 3_600_000;

class Quote {
  constructor(symbol) {
    this.symbol = symbol;
    this.bid = NaN;
    this.ask = NaN;
    this.lp = "";
    this.at = -Infinity; // arrival, by performance.now()
    this.bidMove = 0; // +1, 0, -1: the way of the last change
    this.askMove = 0;
    this.digits = 0;
    this.spec = null;
    this.series = new Series();
    this.points = 0;
  }

  get mid() {
    return (this.bid + this.ask) / 2;
  }

  /** Milliseconds since the last tick came in. */
  get age() {
    return performance.now() - this.at;
  }

  get stale() {
    return this.age > FRESH;
  }
}

export class Market {
  /** `on` has: added(quote), changed(quote), spec(quote), selected(quote). */
  constructor({ api, on }) {
    this.api = api;
    this.on = on;
    this.quotes = new Map();
    this.left = new Set(); // symbols beyond the bound
    this.selected = null;
    this.unknown = [];
    this.specs = storedSpecs();
  }

  get(symbol) {
    return this.quotes.get(symbol);
  }

  /** Decimals of a symbol's prices; those that `values` show while nothing else is known. */
  digits(symbol, ...values) {
    return this.quotes.get(symbol)?.digits ?? Math.max(...values.map(decimals));
  }

  select(symbol) {
    const quote = this.quotes.get(symbol);
    if (!quote || quote === this.selected) return;
    this.selected = quote;
    this.on.selected(quote);
  }

  /** Take the prices of GET /v1/prices, unless a tick came first. */
  seed(prices) {
    for (const price of prices) {
      if (!this.quotes.has(price.symbol)) this.tick(price);
    }
  }

  tick({ symbol, bid, ask, lp }) {
    let quote = this.quotes.get(symbol);
    if (!quote) {
      if (this.quotes.size >= MOST_SYMBOLS) {
        this.left.add(symbol);
        return;
      }
      quote = this.#add(symbol);
    }
    if (bid !== quote.bid && quote.bid) quote.bidMove = bid > quote.bid ? 1 : -1;
    if (ask !== quote.ask && quote.ask) quote.askMove = ask > quote.ask ? 1 : -1;
    quote.bid = bid;
    quote.ask = ask;
    if (lp) quote.lp = lp;
    quote.at = performance.now();
    if (!quote.spec) quote.digits = Math.max(quote.digits, decimals(bid), decimals(ask));
    if (quote.series.add(Date.now(), (bid + ask) / 2)) quote.points += 1;
    this.on.changed(quote);
  }

  #add(symbol) {
    const quote = new Quote(symbol);
    this.quotes.set(symbol, quote);
    this.on.added(quote);
    if (!this.selected) this.select(symbol);
    if (this.specs[symbol]) this.#know(quote, this.specs[symbol]);
    else if (this.unknown.push(quote) === 1) this.#learn();
    return quote;
  }

  #know(quote, spec) {
    quote.spec = spec;
    quote.digits = spec.digits;
    this.on.spec(quote);
  }

  /** Ask for missing specs one after the other, to spare the API's rate limit. */
  async #learn() {
    while (this.unknown.length) {
      const quote = this.unknown[0];
      try {
        const spec = await this.api.get(`/v1/symbols/${encodeURIComponent(quote.symbol)}`);
        this.specs[quote.symbol] = spec;
        sessionStorage.setItem(SPECS, JSON.stringify({ at: Date.now(), specs: this.specs }));
        this.#know(quote, spec);
      } catch (error) {
        if (error.retryable || error.status === 429) {
          await new Promise((done) => setTimeout(done, (error.retryAfter ?? 5) * 1000));
          continue;
        }
      }
      this.unknown.shift();
    }
  }
}

function storedSpecs() {
  try {
    const { at, specs } = JSON.parse(sessionStorage.getItem(SPECS));
    return Date.now() - at < SPEC_AGE ? specs : {};
  } catch {
    return {};
  }
}
