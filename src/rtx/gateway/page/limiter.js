// The order limit at work: this page's orders of the last two seconds as dots in a window that
// moves on, how many of its ten places are taken, and a burst that shows it hold.

import { $, calm, make, setData, setText } from "./dom.js";
import { colour, draw, surface } from "./frame.js";

const LIMIT = 10;
const WINDOW = 1000;
const SHOWN = 2000;
const BURST = 15;
const MOST = 200;
const LANES = 5;
const NEAR = 60; // orders this close in time are drawn side by side
const EDGE = 24; // room for them right of now

export class Limiter {
  /** `send(i)` places order `i` of a burst and resolves to its outcome. */
  constructor({ send }) {
    this.send = send;
    this.dots = [];
    this.passed = 0;
    this.refused = 0;
    this.render = () => this.#render();
    this.slots = Array.from({ length: LIMIT }, () => make("i"));
    $("slots").append(...this.slots);
    $("burst").addEventListener("click", () => this.#burst());
    new ResizeObserver(() => draw(this.render)).observe($("window"));
  }

  /** Count an order that the server decided on. */
  add({ at, kind, code }) {
    const limited = kind === "wait" && code !== "rate_limited";
    if (!limited && code !== "filled") return; // refused for another reason, before or after
    if (limited) this.refused += 1;
    else this.passed += 1;
    const last = this.dots.at(-1);
    const near = last && at - last.begun < NEAR;
    this.dots.push({
      at,
      limited,
      begun: near ? last.begun : at,
      place: near ? last.place + 1 : 0,
    });
    if (this.dots.length > MOST) this.dots.shift();
    draw(this.render);
  }

  async #burst() {
    const button = $("burst");
    button.disabled = true;
    const result = $("burst-result");
    result.dataset.kind = "";
    setText(result, "");
    const begun = performance.now();
    const taken = this.#used(begun);
    const outcomes = await Promise.all(Array.from({ length: BURST }, (_, i) => this.send(i)));
    const took = Math.round(performance.now() - begun);
    const count = (test) => outcomes.filter(test).length;
    const filled = count(({ code }) => code === "filled");
    const limited = count(({ kind, code }) => kind === "wait" && code !== "rate_limited");
    const parts = [`${filled} filled`, `${limited} refused by the limit`];
    const other = outcomes.find(({ kind, code }) => kind === "bad" || code === "rate_limited");
    if (limited && taken && filled < LIMIT) parts.push("the other places were taken before");
    if (other) parts.push(`${BURST - filled - limited} refused otherwise: ${other.text}`);
    result.dataset.kind = other ? "bad" : limited ? "wait" : "good";
    setText(result, `${BURST} orders in ${took} ms: ${parts.join(", ")}`);
    button.disabled = false;
  }

  #render() {
    const now = performance.now();
    const canvas = $("window");
    const [context, width, height] = surface(canvas);
    this.dots = this.dots.filter(({ at }) => now - at < SHOWN + 500);
    this.#scene(context, width, height);
    for (const dot of this.dots) {
      const column = Math.floor(dot.place / LANES);
      const x = this.#x(now - dot.begun, width) + column * 9;
      const y = 12 + (dot.place % LANES) * ((height - 30) / (LANES - 1));
      context.globalAlpha = now - dot.at < WINDOW ? 1 : 0.35;
      mark(context, x, y, dot.limited);
    }
    context.globalAlpha = 1;
    const used = this.#used(now);
    const refused = this.dots.filter(({ at, limited }) => limited && now - at < WINDOW).length;
    for (const [i, slot] of this.slots.entries()) setData(slot, "used", i < used ? "" : null);
    setText($("slots-text"), `${Math.min(used, LIMIT)} of ${LIMIT} used`);
    setText($("passed"), String(this.passed));
    setText($("refused"), String(this.refused));
    if (this.dots.length) {
      const label = `${used} orders passed and ${refused} refused in the last second`;
      if (canvas.getAttribute("aria-label") !== label) canvas.setAttribute("aria-label", label);
      if (calm.matches) setTimeout(() => draw(this.render), 250);
      else draw(this.render);
    }
  }

  #used(now) {
    return this.dots.filter(({ at, limited }) => !limited && now - at < WINDOW).length;
  }

  #x(age, width) {
    return (1 - age / SHOWN) * (width - EDGE);
  }

  #scene(context, width, height) {
    const edge = Math.round(this.#x(WINDOW, width)) + 0.5;
    context.fillStyle = colour("window");
    context.fillRect(edge, 0, width - edge, height - 14);
    context.strokeStyle = colour("accent");
    context.setLineDash([2, 3]);
    context.beginPath();
    context.moveTo(edge, 0);
    context.lineTo(edge, height - 14);
    context.stroke();
    context.setLineDash([]);
    context.fillStyle = colour("dim");
    context.font = `10px ${colour("font")}`;
    context.textBaseline = "alphabetic";
    context.textAlign = "left";
    context.fillText("2 s ago", 0, height - 2);
    context.textAlign = "center";
    context.fillText("1 s ago", edge, height - 2);
    context.fillText("now", width - EDGE, height - 2);
  }
}

function mark(context, x, y, limited) {
  context.beginPath();
  if (limited) {
    context.strokeStyle = colour("warn");
    context.lineWidth = 1.75;
    context.moveTo(x - 3, y - 3);
    context.lineTo(x + 3, y + 3);
    context.moveTo(x + 3, y - 3);
    context.lineTo(x - 3, y + 3);
    context.stroke();
  } else {
    context.fillStyle = colour("up");
    context.arc(x, y, 3.25, 0, 7);
    context.fill();
  }
}
