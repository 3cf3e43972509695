// The WebSocket: one connection that comes back by itself, resubscribes, and resumes executions
// and alerts after the last message seen, so that none is shown twice and none is missed unsaid.

const PATH = "/v1/stream";
const FIRST_DELAY = 400;
const LONGEST_DELAY = 10_000;
const PING_EVERY = 5_000;
const PONG_WITHIN = 8_000;
const ASK_AGAIN = 3_000;
const SILENT = 4000; // stands for a close code where the server gave none
const STEADY_AFTER = 5_000; // a connection that lasts this long resets the backoff

export class Socket {
  /**
   * `token()` gives a token or null. `on` has:
   *   messages(list)          the messages of one frame, without those already seen
   *   phase(name, retryAt)    "connecting" | "live" | "reconnecting"
   *   back(away, code)        connected again after `away` milliseconds; close code of the loss
   *   roundTrip(ms)           a ping and its pong
   */
  constructor({ token, on }) {
    this.token = token;
    this.on = on;
    this.channels = new Map(); // channel → place()
    this.socket = null;
    this.attempt = 0;
    this.lostAt = 0;
    this.pings = 0;
    setInterval(() => this.#watch(), PING_EVERY);
    document.addEventListener("visibilitychange", () => document.hidden || this.#wake());
    window.addEventListener("online", () => this.#wake());
  }

  start() {
    clearTimeout(this.timer);
    this.#connect();
  }

  /** Connect anew, with the token of the moment. */
  restart() {
    this.#drop();
    this.attempt = 0;
    this.start();
  }

  /** Want channels; `after` is {channel: "epoch:seq"} to resume from. */
  subscribe(channels, after = {}) {
    for (const channel of channels) {
      if (this.channels.has(channel)) continue;
      this.channels.set(channel, place(after[channel]));
    }
    if (this.#open) this.#send(this.#request(channels, false));
  }

  unsubscribe(channels) {
    for (const channel of channels) this.channels.delete(channel);
    if (this.#open && channels.length) this.#send({ op: "unsubscribe", channels });
  }

  get #open() {
    return this.socket?.readyState === WebSocket.OPEN;
  }

  #send(message) {
    this.socket.send(JSON.stringify(message));
  }

  /** `again`: after a break, so that what became of the missing part is worth telling. */
  #request(channels, again) {
    const after = {};
    for (const channel of channels) {
      const at = this.channels.get(channel);
      at.resuming = Boolean(at.after);
      at.again = again;
      if (at.after) after[channel] = at.after;
    }
    return { op: "subscribe", channels, after };
  }

  #connect() {
    this.on.phase(this.lostAt ? "reconnecting" : "connecting", null);
    const url = new URL(PATH, location.href);
    url.protocol = url.protocol.replace("http", "ws");
    const token = this.token();
    if (token) url.searchParams.set("token", token);
    const socket = new WebSocket(url);
    this.socket = socket;
    socket.onopen = () => this.#opened();
    socket.onmessage = (event) => this.#received(event.data);
    socket.onclose = (event) => {
      if (socket === this.socket) this.#lost(event.code);
    };
  }

  #opened() {
    this.openedAt = performance.now();
    this.heardAt = this.openedAt;
    this.askedAt = null;
    this.on.phase("live", null);
    const again = this.lostAt > 0;
    if (again) this.on.back(this.openedAt - this.lostAt, this.code);
    this.lostAt = 0;
    if (this.channels.size) this.#send(this.#request([...this.channels.keys()], again));
    this.#ping();
  }

  #lost(code) {
    const now = performance.now();
    if (!this.lostAt) {
      this.lostAt = now;
      this.code = code;
      if (this.openedAt && now - this.openedAt > STEADY_AFTER) this.attempt = 0;
    }
    this.socket = null;
    const longest = Math.min(LONGEST_DELAY, FIRST_DELAY * 2 ** this.attempt);
    // Jitter: after a restart of the gateway its clients must not all come back in one moment.
    const delay = longest * (0.5 + Math.random() / 2);
    this.attempt += 1;
    this.on.phase("reconnecting", Date.now() + delay);
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.#connect(), delay);
  }

  #drop() {
    const socket = this.socket;
    this.socket = null;
    if (!socket) return;
    socket.onmessage = socket.onclose = null;
    // Closing a socket that still connects would make the browser report an error.
    socket.onopen = () => socket.close();
    if (socket.readyState === WebSocket.OPEN) socket.close();
  }

  /** Ping a quiet line, and give up one whose pong is overdue. */
  #watch() {
    if (!this.#open) return;
    const now = performance.now();
    const overdue = this.askedAt !== null && now - this.askedAt > PONG_WITHIN;
    if (overdue && this.heardAt < this.askedAt) {
      this.#drop();
      this.#lost(SILENT);
      return;
    }
    if (overdue) this.askedAt = null;
    this.#ping();
  }

  #ping() {
    if (this.askedAt !== null) return;
    this.askedAt = performance.now();
    this.pings += 1;
    this.#send({ op: "ping", id: this.pings });
  }

  /** Retry at once when the network or the tab is back. */
  #wake() {
    if (!this.socket) {
      this.attempt = 0;
      this.start();
    }
  }

  #received(data) {
    this.heardAt = performance.now();
    const list = JSON.parse(data);
    const fresh = [];
    for (const message of Array.isArray(list) ? list : [list]) {
      if (message.type === "pong") {
        if (message.id === this.pings && this.askedAt !== null) {
          this.on.roundTrip(this.heardAt - this.askedAt);
        }
        this.askedAt = null;
      } else if (this.#isNew(message)) {
        if (message.type === "error" && message.retryable) this.#askAgain(message.channel);
        fresh.push(message);
      }
    }
    if (fresh.length) this.on.messages(fresh);
  }

  /** A subscription that failed is over; ask for it again unless it is no longer wanted. */
  #askAgain(channel) {
    const { socket } = this;
    setTimeout(() => {
      const wanted = this.channels.has(channel) && this.#open && socket === this.socket;
      if (wanted) this.#send(this.#request([channel], true));
    }, ASK_AGAIN);
  }

  /** Keep each journal's place; false for a message that was seen before. */
  #isNew(message) {
    const at = this.channels.get(message.channel);
    if (message.type === "subscribed" && at) {
      message.resumed = at.resuming && at.again;
      if (at.resuming && message.recovered) return true; // the messages themselves move the place
      this.channels.set(message.channel, place(message.last));
      return true;
    }
    if (message.type !== "execution" && message.type !== "alert") return true;
    if (!at) return false; // of an account that is no longer shown
    if (!message.epoch) return true;
    if (at.epoch === message.epoch && message.seq <= at.seq) return false;
    at.epoch = message.epoch;
    at.seq = message.seq;
    at.after = `${message.epoch}:${message.seq}`;
    return true;
  }
}

/** Where a journal was read up to; `seq` 0 until a message itself was seen. */
function place(after) {
  return { after: after ?? null, epoch: "", seq: 0, resuming: false, again: false };
}
