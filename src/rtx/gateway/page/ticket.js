// The order ticket: sell at the bid, buy at the ask, and what became of it.

import { $, make, setData, setText } from "./dom.js";
import { price, splitPrice, spread, volume } from "./format.js";
import { draw } from "./frame.js";

const COMMON = [0.01, 0.1, 0.5, 1, 5];

export class Ticket {
  /** `account()` gives the account's id or null; `onOutcome(outcome)` hears of every order. */
  constructor({ api, market, account, onOutcome }) {
    Object.assign(this, { api, market, account, onOutcome });
    this.render = () => this.#render();
    $("symbol").addEventListener("change", (event) => market.select(event.target.value));
    $("order-form").addEventListener("submit", (event) => {
      event.preventDefault();
      if (event.submitter?.value) this.#order(event.submitter);
    });
    // Enter in the volume field would press the first button and sell: an order takes a click.
    $("volume").addEventListener("keydown", (event) => {
      if (event.key === "Enter") event.preventDefault();
    });
    $("quick").append(...COMMON.map((lots) =>
      make("button", { type: "button", text: volume(lots), "data-lots": String(lots) })));
    $("quick").addEventListener("click", (event) => {
      const { lots } = event.target.dataset;
      if (lots) this.setVolume(Number(lots));
    });
    $("volume").addEventListener("input", () => this.#estimate());
    setInterval(() => document.hidden || this.change(), 500);
  }

  add(quote) {
    const select = $("symbol");
    const after = [...select.options].find((other) => other.value > quote.symbol);
    select.insertBefore(make("option", { value: quote.symbol, text: quote.symbol }), after ?? null);
    if (this.market.selected) select.value = this.market.selected.symbol;
  }

  select(quote) {
    $("symbol").value = quote.symbol;
    for (const id of ["sell", "buy", "burst"]) $(id).disabled = false;
    this.terms();
    this.change();
  }

  /** Take volume's bounds from the selected symbol's spec. */
  terms() {
    const spec = this.market.selected?.spec;
    if (!spec) return;
    const input = $("volume");
    input.min = spec.min_volume;
    input.max = spec.max_volume;
    input.step = spec.volume_step;
    for (const button of $("quick").children) {
      const lots = Number(button.dataset.lots);
      button.disabled = lots < spec.min_volume || lots > spec.max_volume;
    }
    this.#estimate();
  }

  setVolume(lots) {
    $("volume").value = String(lots);
    this.#estimate();
  }

  change() {
    draw(this.render);
  }

  /** Send one market order; returns {kind, code, text, ...} and never raises. */
  async send(symbol, side, lots) {
    const begun = performance.now();
    let outcome;
    try {
      const fill = await this.api.post(`/v1/accounts/${this.account()}/orders`, {
        symbol, side, volume: lots,
      });
      outcome = { kind: "good", code: "filled", fill };
    } catch (error) {
      outcome = {
        kind: error.status === 429 ? "wait" : "bad",
        code: error.code,
        text: error.message,
        // A request that may have been carried out is not to be sent again by the clock.
        retryAfter: error.retryable || error.status === 429 ? error.retryAfter : null,
      };
    }
    outcome.at = performance.now();
    outcome.took = outcome.at - begun;
    this.onOutcome(outcome);
    return outcome;
  }

  async #order(button) {
    const { selected } = this.market;
    if (!selected || this.account() === null) return;
    button.setAttribute("aria-busy", "true");
    const outcome = await this.send(selected.symbol, button.value, Number($("volume").value));
    button.removeAttribute("aria-busy");
    this.#report(outcome);
  }

  #report(outcome) {
    clearInterval(this.countdown);
    const result = $("order-result");
    result.dataset.kind = outcome.kind;
    if (outcome.fill) {
      const { side, volume: lots, symbol, price: at, order_id: order } = outcome.fill;
      const digits = this.market.digits(symbol, at);
      setText(result,
        `Filled: ${side} ${volume(lots)} ${symbol} at ${price(at, digits)}, ` +
        `order ${order}, in ${Math.max(1, Math.round(outcome.took))} ms`);
    } else if (outcome.retryAfter) {
      this.#count(result, outcome);
    } else {
      setText(result, `Refused: ${outcome.text}`);
    }
  }

  /** Count down to the moment the server named; the sentence itself is set once, for readers. */
  #count(result, { kind, text, retryAfter, at }) {
    const left = make("progress", { max: "1", "aria-label": "Time until orders pass again" });
    const figure = make("b", { "aria-hidden": "true" });
    const over = kind === "wait" ? "Orders pass again." : "Try again now.";
    const reason = make("span", { text: `Refused: ${text.replace(/\.$/, "")}. ` });
    result.replaceChildren(reason, figure, left);
    const step = () => {
      const rest = retryAfter - (performance.now() - at) / 1000;
      left.value = Math.max(0, rest / retryAfter);
      figure.textContent = rest > 0 ? `Again in ${rest.toFixed(1)} s` : over;
      if (rest <= 0) clearInterval(this.countdown);
    };
    step();
    this.countdown = setInterval(step, 100);
  }

  #render() {
    const quote = this.market.selected;
    if (!quote) return;
    figure($("sell-price"), quote.bid, quote.digits);
    figure($("buy-price"), quote.ask, quote.digits);
    setText($("ticket-spread"), spread(quote.bid, quote.ask, quote.digits)[0]);
    for (const id of ["sell", "buy"]) setData($(id), "stale", quote.stale ? "" : null);
    this.#estimate();
  }

  #estimate() {
    const quote = this.market.selected;
    const lots = Number($("volume").value);
    const note = $("ticket-note");
    if (quote?.stale) {
      setText(note, "price is stale");
      note.dataset.kind = "warn";
      return;
    }
    delete note.dataset.kind;
    if (!quote?.spec || !(lots > 0)) {
      setText(note, "");
      return;
    }
    const margin = lots * quote.spec.contract_size * quote.mid * quote.spec.margin_rate;
    setText(note, `margin about ${price(margin, 2)} ${quote.spec.quote}`);
  }
}

function figure(element, value, digits) {
  const [head, pips, tail] = splitPrice(value, digits);
  const text = head + pips + tail;
  if (element.dataset.text === text) return;
  element.dataset.text = text;
  const last = make("span", { className: "tail", text: tail });
  element.replaceChildren(head, make("b", { text: pips }), last);
}
