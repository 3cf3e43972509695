// The account shown: its money and positions, read again after each execution and every few
// seconds, and moved along with the prices in between.

import { $, make, setData, setText } from "./dom.js";
import { money, percent, price, seconds, volume } from "./format.js";
import { draw } from "./frame.js";
import { closing, profit } from "./valuation.js";

const REFRESH = 10_000; // two requests each; the API's limit is 100 in 60 s for the whole page
const RETRY = 5_000;
const SOON = 120; // executions of a burst share one refresh
const MOST = 100; // accounts offered
const FIGURES = ["equity", "profit", "balance", "margin", "free", "level"];

export class AccountPanel {
  /**
   * `onSelect(id)` hears of the account shown, null for none; `onRead()` of each time it was read;
   * `onPick(position)` of a click on one.
   */
  constructor({ api, market, onSelect, onRead, onPick }) {
    Object.assign(this, { api, market, onSelect, onRead, onPick });
    this.id = null;
    this.account = null;
    this.positions = [];
    this.rows = new Map();
    this.readAt = null;
    this.triedAt = 0;
    this.pausedUntil = 0;
    this.problem = "";
    this.render = () => this.#render();
    $("account-select").addEventListener("change", (event) => {
      this.select(Number(event.target.value));
    });
    $("position-rows").addEventListener("click", (event) => {
      const row = event.target.closest("tr");
      const position = row && this.positions.find((one) => String(one.id) === row.dataset.position);
      if (position) this.onPick(position);
    });
    setInterval(() => this.#tend(), 1000);
    document.addEventListener("visibilitychange", () => this.#tend());
  }

  /**
   * Offer the session's accounts. Where anyone may look nobody lists them: then the list begins
   * with account 1, and each one that is read adds the next.
   */
  open(accounts) {
    this.grows = accounts === null;
    const ids = accounts ?? [1];
    $("account-select").replaceChildren(
      ...ids.map((id) => make("option", { value: String(id), text: `Account ${id}` })),
    );
    $("account-select").hidden = ids.length === 0;
    if (ids.length) this.select(ids[0]);
    else this.close();
  }

  select(id) {
    this.close();
    this.id = id;
    $("account-select").value = String(id);
    this.onSelect(id);
    draw(this.render);
    this.refresh();
  }

  /** Show no account. */
  close() {
    if (this.id !== null) this.onSelect(null);
    this.id = null;
    this.account = null;
    this.positions = [];
    this.readAt = null;
    this.problem = "";
    draw(this.render);
  }

  /** Read again soon. */
  touch() {
    this.soon ??= setTimeout(() => {
      this.soon = null;
      this.refresh();
    }, SOON);
  }

  async refresh() {
    if (this.reading) {
      this.again = true;
      return;
    }
    const { id } = this;
    if (id === null || Date.now() < this.pausedUntil) return;
    this.reading = true;
    this.triedAt = Date.now();
    try {
      const [account, positions] = await Promise.all([
        this.api.get(`/v1/accounts/${id}`),
        this.api.get(`/v1/accounts/${id}/positions`),
      ]);
      if (id === this.id) {
        this.account = account;
        this.positions = positions;
        this.readAt = Date.now();
        this.problem = "";
        this.#known(account);
      }
    } catch (error) {
      if (id === this.id) this.#failed(error);
    } finally {
      this.reading = false;
    }
    draw(this.render);
    if (this.again) {
      this.again = false;
      this.touch();
    }
  }

  /** Prices have moved. */
  move() {
    if (this.positions.length) draw(this.render);
  }

  /** Open positions with their profit at this moment. */
  get valued() {
    return this.positions.map((one) => ({ ...one, profit: profit(one, this.market) }));
  }

  /** Name the account in the list, and offer the one after the last. */
  #known({ id, account_number: number }) {
    const select = $("account-select");
    const option = [...select.options].find((one) => one.value === String(id));
    setText(option, `${id} · ${number}`);
    if (this.grows && option === select.options[select.length - 1] && select.length < MOST) {
      select.append(make("option", { value: String(id + 1), text: `Account ${id + 1}` }));
    }
    this.onRead();
  }

  /** The account after the last does not exist: the list is complete. */
  #ended() {
    const select = $("account-select");
    this.grows = false;
    select.options[select.length - 1].remove();
    this.select(Number(select.options[select.length - 1].value));
  }

  #failed(error) {
    const past = this.grows && error.status === 404 && this.id > 1;
    if (past) this.#ended();
    if (error.retryAfter) this.pausedUntil = Date.now() + error.retryAfter * 1000;
    this.problem = error.status === 429
      ? "The API's own limit is reached"
      : error.message.replace(/\.$/, "");
  }

  #tend() {
    if (document.hidden || this.id === null) return;
    if (Date.now() >= this.triedAt + (this.problem ? RETRY : REFRESH)) this.refresh();
    this.#note();
  }

  #note() {
    const age = (Date.now() - this.readAt) / 1000;
    setText($("account-note"), this.readAt === null ? "" : `read ${seconds(age)} ago`);
    const wait = Math.ceil((this.pausedUntil - Date.now()) / 1000);
    const problem = $("account-problem");
    setText(problem, wait > 0 ? `${this.problem}; read again in ${wait} s` : this.problem);
    problem.hidden = !this.problem;
  }

  #render() {
    const positions = this.valued;
    this.#book(positions);
    this.#money(positions);
    this.#note();
  }

  #money(positions) {
    const { account } = this;
    const show = (name, text) => setText($(`a-${name}`), text);
    if (!account) {
      for (const name of FIGURES) show(name, "–");
      show("used", "");
      $("level-meter").setAttribute("aria-valuenow", "0");
      $("level-meter").firstElementChild.style.width = "0";
      return;
    }
    // Until the positions are read, the account's own equity is the best figure there is.
    const open = this.readAt === null
      ? account.equity - account.balance
      : positions.reduce((sum, one) => sum + one.profit, 0);
    const equity = account.balance + open;
    const used = equity > 0 ? Math.min(100, (account.margin / equity) * 100) : 100;
    show("equity", money(equity));
    show("profit", money(open, true));
    setData($("a-profit"), "move", open ? String(Math.sign(open)) : null);
    show("balance", money(account.balance));
    show("margin", money(account.margin));
    show("free", money(equity - account.margin));
    const level = account.margin ? (equity / account.margin) * 100 : null;
    show("level", level === null ? "no margin used" : percent(level, 0).replace("+", ""));
    const meter = $("level-meter");
    const kind = level === null || level >= 200 ? "good" : level >= 100 ? "warn" : "bad";
    setData(meter, "kind", kind);
    meter.setAttribute("aria-valuenow", used.toFixed(0));
    meter.setAttribute("aria-valuetext", `${used.toFixed(1)} percent of equity is held as margin`);
    meter.firstElementChild.style.width = `${account.margin ? Math.max(used, 0.5) : 0}%`;
    const word = { good: "", warn: "Low. ", bad: "Margin call. " }[kind];
    show("used", account.margin ? `${word}${used.toFixed(1)} % of equity is held as margin` : "");
  }

  #book(positions) {
    const body = $("position-rows");
    const kept = new Set(positions.map((one) => one.id));
    for (const [id, row] of this.rows) {
      if (kept.has(id)) continue;
      row.element.remove();
      this.rows.delete(id);
    }
    for (const position of positions) {
      let row = this.rows.get(position.id);
      if (!row) {
        row = new PositionRow(position);
        this.rows.set(position.id, row);
        body.append(row.element);
      }
      const { symbol, open_price: open, current_price: current } = position;
      const digits = this.market.digits(symbol, open, current);
      row.show(position, this.market.get(symbol), digits);
    }
    $("positions-empty").hidden = positions.length > 0 || this.id === null;
    setText($("positions-note"), positions.length ? `${positions.length} open` : "");
  }
}

class PositionRow {
  constructor(position) {
    const cell = (className) => make("td", { className });
    this.symbol = make("button", { className: "pick", type: "button" });
    this.symbol.title = "Show this symbol and take its volume into the ticket";
    [this.side, this.volume, this.open, this.current, this.profit] =
      ["way", "num", "num", "num", "num profit"].map(cell);
    this.element = make("tr", { "data-position": String(position.id) },
      make("th", { scope: "row" }, this.symbol),
      this.side, this.volume, this.open, this.current, this.profit);
  }

  show(position, quote, digits) {
    const live = quote ? closing(position, quote) : position.current_price;
    setText(this.symbol, position.symbol);
    setText(this.side, position.side === "BUY" ? "▲ Buy" : "▼ Sell");
    setData(this.side, "move", position.side === "BUY" ? "1" : "-1");
    setText(this.volume, volume(position.volume));
    setText(this.open, price(position.open_price, digits));
    setText(this.current, price(live, digits));
    setText(this.profit, money(position.profit, true));
    setData(this.profit, "move", position.profit ? String(Math.sign(position.profit)) : null);
    setData(this.element, "stale", quote?.stale ?? true ? "" : null);
  }
}
