// Whether what is shown can be trusted: the connection, the servers behind it, and how fresh and
// how fast the messages are.

import { $, make, setData, setText } from "./dom.js";
import { milliseconds, seconds, time } from "./format.js";
import { Samples } from "./series.js";

const HEALTH_EVERY = 10_000;
const HEALTH_WHEN_DEGRADED = 3_000;
const REDIS_AWAY =
  "Redis is unreachable: accounts are read from the database; prices and orders wait.";
const DATABASE_AWAY =
  "The database is unreachable: accounts are shown as far as they are cached; orders wait.";
// A tick cannot come from the future, and one so old says that the clocks differ or that a past
// day is replayed: then no latency is shown rather than a wrong one.
const SANE = [-2, 5_000];

export class Status {
  constructor({ onRetry }) {
    this.phase = "connecting";
    this.retryAt = null;
    this.server = null;
    this.health = null;
    this.ticks = 0;
    this.counted = performance.now();
    this.lastMessage = null;
    this.gaps = 0;
    this.latency = new Samples();
    this.roundTrips = new Samples(12);
    this.askedHealth = -Infinity;
    $("retry").addEventListener("click", onRetry);
    setInterval(() => this.#second(), 1000);
    setInterval(() => document.hidden || this.#show(), 250);
  }

  socket(phase, retryAt) {
    this.phase = phase;
    this.retryAt = retryAt;
    if (phase !== "live") {
      this.latency.clear();
      this.roundTrips.clear();
      this.server = null;
      this.health = null;
      this.#roles();
    }
    this.#show();
  }

  state(message) {
    this.server = message;
    this.askedHealth = -Infinity;
    this.#show();
    this.#ask();
  }

  message() {
    this.lastMessage = Date.now();
  }

  tick(sentAt) {
    this.ticks += 1;
    this.latency.add(Date.now() - sentAt);
  }

  roundTrip(ms) {
    this.roundTrips.add(ms);
  }

  gap() {
    this.gaps += 1;
  }

  get degraded() {
    return this.server !== null && (this.server.degraded || !this.server.ready);
  }

  #second() {
    const now = performance.now();
    const rate = (this.ticks * 1000) / (now - this.counted);
    this.ticks = 0;
    this.counted = now;
    if (document.hidden) return;
    setText($("m-rate"), rate >= 100 ? rate.toFixed(0) : rate.toFixed(rate ? 1 : 0));
    const p50 = this.latency.median();
    const sane = p50 >= SANE[0] && p50 <= SANE[1];
    setText($("m-latency"), sane ? milliseconds(Math.max(0, p50)) : "–");
    const trip = this.roundTrips.median();
    setText($("m-rtt"), Number.isFinite(trip) ? milliseconds(trip) : "–");
    setText($("m-gaps"), String(this.gaps));
    setData($("m-gaps"), "some", this.gaps ? "" : null);
    this.#ask();
  }

  /** Ask which server is away; health is never rate limited. */
  async #ask() {
    const every = this.degraded ? HEALTH_WHEN_DEGRADED : HEALTH_EVERY;
    if (this.phase !== "live" || performance.now() - this.askedHealth < every) return;
    this.askedHealth = performance.now();
    try {
      const response = await fetch("/health/ready", { cache: "no-store" });
      this.health = await response.json();
    } catch {
      this.health = null;
    }
    this.#roles();
    this.#show();
  }

  #show() {
    const phase = this.phase === "live" && this.degraded ? "degraded" : this.phase;
    setData($("pill"), "state", phase);
    setText($("pill-text"), phase);
    const title = phase === "live" ? "RTX" : `(${phase}) RTX`;
    if (document.title !== title) document.title = title;
    const since = this.lastMessage === null ? null : (Date.now() - this.lastMessage) / 1000;
    setText($("m-last"), since === null ? "none yet"
      : since < 2 ? time(this.lastMessage) : `${seconds(since)} ago`);
    setData($("m-last"), "late", since > 2 ? "" : null);
    this.#banner(phase);
  }

  #banner(phase) {
    const banner = $("banner");
    let text = "";
    if (phase === "reconnecting") {
      const wait = this.retryAt === null ? 0 : Math.max(0, this.retryAt - Date.now());
      text = "The connection to the gateway is lost; prices are the last ones seen. ";
      text += wait > 0 ? `Trying again in ${Math.ceil(wait / 1000)} s.` : "Trying again now.";
    } else if (phase === "degraded") {
      text = this.#degradedText();
    }
    // The text counts down inside an alert region: off while it does, or readers hear each second.
    banner.setAttribute("aria-live", banner.dataset.phase === phase ? "off" : "assertive");
    setData(banner, "phase", phase);
    setText($("banner-text"), text);
    $("retry").hidden = phase !== "reconnecting";
    banner.hidden = !text;
  }

  #degradedText() {
    const away = (part) => part && !part.up;
    const roles = Object.entries(this.health?.roles ?? {}).filter(([, role]) => away(role));
    const redis = roles.length > 0 || !this.health;
    const text = [];
    if (redis || !away(this.health?.database)) text.push(REDIS_AWAY);
    if (away(this.health?.database)) text.push(DATABASE_AWAY);
    const errors = new Map();
    for (const [name, { error }] of roles) {
      if (error) errors.set(error, [...(errors.get(error) ?? []), name]);
    }
    for (const [error, names] of errors) text.push(`(${names.join(", ")}: ${error})`);
    return text.join(" ");
  }

  #roles() {
    const parts = Object.entries(this.health?.roles ?? {});
    if (this.health?.database) parts.push(["database", this.health.database]);
    $("roles").replaceChildren(...parts.map(([name, { up, error, latency_ms: latency }]) => {
      const item = make("li", { "data-up": String(up), title: error || "" },
        make("span", { "aria-hidden": "true", className: "mark" }),
        make("span", { text: name }),
        make("span", { className: "sr", text: up ? " is up" : " is down" }));
      if (up && Number.isFinite(latency)) {
        item.append(make("small", { text: `${latency.toFixed(latency < 10 ? 1 : 0)} ms` }));
      } else if (!up) item.append(make("small", { text: "down" }));
      return item;
    }));
  }
}
