// Executions, alerts and gaps, newest first, in a list of bounded length.

import { $, choices, make, setText } from "./dom.js";
import { price, seconds, time, volume } from "./format.js";

const MOST = 200;
const TOGETHER = 2000; // gaps of many channels that come of one break share a line
const SIGNS = { info: "•", warning: "!", critical: "!!" };

export class Feed {
  constructor({ market }) {
    this.market = market;
    this.list = $("feed-list");
    this.fills = []; // of the account shown, for the chart
    choices(document.querySelector("#feed .choices"), (button) => {
      this.list.dataset.show = button.dataset.kind;
      this.#empty();
    });
    this.list.dataset.show = "all";
  }

  execution(message) {
    const { side, symbol, volume: lots, price: at, order_id: order, timestamp } = message;
    const digits = this.market.digits(symbol, at);
    const bought = side === "BUY";
    this.fills.push(message);
    if (this.fills.length > MOST) this.fills.shift();
    const text = make("span", { className: "what" },
      make("b", { text: bought ? "▲ Buy" : "▼ Sell", "data-move": bought ? "1" : "-1" }),
      ` ${volume(lots)} `, make("b", { text: symbol }), ` at ${price(at, digits)}`);
    this.#add("execution", timestamp, text, `order ${order}`);
  }

  alert(message) {
    const { kind, severity, message: said, channel, timestamp } = message;
    const everyone = channel === "alerts:system";
    const sign = SIGNS[severity] ?? "•";
    const text = make("span", { className: "what" },
      make("b", { className: "severity", text: `${sign} ${kind.replaceAll("_", " ")}` }),
      ` ${said}`);
    const item = this.#add("alert", timestamp, text, everyone ? "to all" : severity);
    item.dataset.severity = severity;
    if (everyone) item.dataset.everyone = "";
  }

  /** A break in a channel; `duration` in seconds, null when unknown. */
  gap({ channel, cause, duration, recovered }) {
    const kind = recovered ? "recovered" : "missed";
    const market = channel.startsWith("market_data");
    const key = `${kind}:${cause}:${market}`;
    const last = this.lastGap;
    if (last?.key === key && Date.now() - last.at < TOGETHER) {
      last.count += 1;
      setText(last.place, `${last.count} channels`);
      return;
    }
    const outcome = recovered
      ? "nothing is missing"
      : market ? "went on from the latest price" : "messages are missing";
    const long = duration ? ` after ${seconds(duration)}` : "";
    const text = make("span", { className: "what" },
      make("b", { text: recovered ? "✓ recovered" : "! gap" }), `${long}: ${outcome}`);
    if (cause) text.append(make("span", { className: "cause", text: cause, title: cause }));
    const item = this.#add("gap", Date.now(), text, channel);
    item.dataset.outcome = kind;
    this.lastGap = { key, at: Date.now(), count: 1, place: item.lastElementChild };
  }

  /** A line of the page's own, such as a lost connection. */
  notice(said, place, outcome = "missed") {
    const sign = outcome === "recovered" ? "✓" : "!";
    const text = make("span", { className: "what" }, make("b", { text: `${sign} ${said}` }));
    this.#add("gap", Date.now(), text, place).dataset.outcome = outcome;
  }

  /** Another account is shown: what was told to the last one leaves. */
  clear() {
    this.fills = [];
    const own = '[data-kind="execution"], [data-kind="alert"]:not([data-everyone])';
    for (const item of this.list.querySelectorAll(own)) item.remove();
    this.#empty();
  }

  #add(kind, at, text, place) {
    const when = make("time", { text: time(at), datetime: new Date(at).toISOString() });
    const where = make("span", { className: "place", text: place });
    const item = make("li", { "data-kind": kind }, when, text, where);
    this.list.prepend(item);
    while (this.list.children.length > MOST) this.list.lastElementChild.remove();
    this.#empty();
    return item;
  }

  #empty() {
    const { show } = this.list.dataset;
    const found = show === "all" ? this.list.firstElementChild
      : this.list.querySelector(`[data-kind="${show}"]`);
    $("feed-empty").hidden = Boolean(found);
  }
}
