// The page: its parts joined. Messages come in by the socket and go to the part that shows them.

import { AccountPanel } from "./account.js";
import { Api } from "./api.js";
import { Chart } from "./chart.js";
import { Feed } from "./feed.js";
import { Limiter } from "./limiter.js";
import { Market } from "./market.js";
import { PriceList } from "./prices.js";
import { Session } from "./session.js";
import { Socket } from "./socket.js";
import { Status } from "./status.js";
import { Ticket } from "./ticket.js";

const HISTORY = 50;
const TOO_SLOW = 4008;
// The REST API says the same, and the login form is shown then.
const NEEDS_LOGIN = new Set(["login_required", "session_ended"]);

const session = new Session({
  onChange() {
    socket.restart();
    account.open(session.accounts);
  },
});
const api = new Api({
  token: () => session.token,
  onUnauthorized(token) {
    account.close();
    session.refused(token);
  },
});
session.use(api);

const socket = new Socket({
  token: () => session.token,
  on: {
    messages(list) {
      status.message();
      for (const message of list) take(message);
    },
    phase: (name, retryAt) => status.socket(name, retryAt),
    back(away, code) {
      const why = code === TOO_SLOW
        ? "closed by the gateway: this page was too slow"
        : "connection lost";
      feed.notice(`${why}, back after ${(away / 1000).toFixed(1)} s`, "page", "recovered");
      status.gap();
      account.touch();
    },
    roundTrip: (ms) => status.roundTrip(ms),
  },
});
const status = new Status({ onRetry: () => socket.restart() });

const market = new Market({
  api,
  on: {
    added(quote) {
      prices.add(quote);
      ticket.add(quote);
    },
    changed(quote) {
      prices.change(quote);
      account.move();
      if (quote !== market.selected) return;
      chart.change();
      ticket.change();
    },
    spec(quote) {
      prices.change(quote);
      if (quote !== market.selected) return;
      chart.about();
      ticket.terms();
    },
    selected(quote) {
      prices.select(quote);
      chart.select(quote);
      ticket.select(quote);
    },
  },
});
const prices = new PriceList({ market });
const feed = new Feed({ market });
const account = new AccountPanel({
  api,
  market,
  onSelect: follow,
  onRead: () => session.show("given"),
  onPick(position) {
    market.select(position.symbol);
    ticket.setVolume(position.volume);
  },
});
const chart = new Chart({ fills: () => feed.fills, positions: () => account.valued });
const ticket = new Ticket({
  api,
  market,
  account: () => account.id,
  onOutcome: (outcome) => limiter.add(outcome),
});
const limiter = new Limiter({
  // Sides alternate, so that a burst leaves the account about as it was.
  send(i) {
    const { symbol, spec } = market.selected;
    return ticket.send(symbol, i % 2 ? "SELL" : "BUY", spec?.min_volume ?? 0.01);
  },
});

/** Give a message of the stream to the part that shows it. */
function take(message) {
  switch (message.type) {
    case "tick":
      market.tick(message);
      status.tick(message.time);
      break;
    case "execution":
      feed.execution(message);
      account.touch();
      break;
    case "alert":
      feed.alert(message);
      break;
    case "gap":
      feed.gap(message);
      status.gap();
      break;
    case "subscribed":
      if (message.resumed) resumed(message);
      break;
    case "state":
      status.state(message);
      break;
    case "error":
      if (NEEDS_LOGIN.has(message.code)) break;
      feed.notice(message.reason, message.channel ?? message.code);
      break;
  }
}

/** A journal was resumed after a break: say whether anything was lost. */
function resumed({ channel, recovered, reason }) {
  const cause = recovered ? "" : reason || "the log no longer reaches back";
  feed.gap({ channel, cause, duration: null, recovered });
  if (!recovered) status.gap();
}

let followed = [];

/** Follow an account's executions and alerts: its latest first, then all that come after. */
async function follow(id) {
  socket.unsubscribe(followed);
  followed = [];
  feed.clear();
  if (id === null) return;
  const channels = [`executions:${id}`, `alerts:${id}`];
  followed = channels;
  const after = {};
  try {
    const history = await api.get(`/v1/accounts/${id}/executions?limit=${HISTORY}`);
    if (followed !== channels) return;
    history.messages.forEach((message) => feed.execution(message));
    if (history.last) after[channels[0]] = history.last;
  } catch {
    // Without a history the stream alone tells what happens from here on.
  }
  if (followed === channels) socket.subscribe(channels, after);
}

socket.subscribe(["market_data:*", "alerts:system"]);
socket.start();
api.get("/v1/prices").then((list) => market.seed(list), () => {});
account.open(session.accounts);
