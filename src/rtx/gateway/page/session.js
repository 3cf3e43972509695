// Who is logged in, kept for this tab only, and the login form.

import { $, setText } from "./dom.js";

const KEY = "rtx.session";

export class Session {
  /** `onChange` hears of every login and logout. */
  constructor({ onChange }) {
    this.onChange = onChange;
    this.current = stored();
    $("login-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#login();
    });
    $("logout").addEventListener("click", () => this.logout());
  }

  /** Attach the API; it in turn asks this session for the token. */
  use(api) {
    this.api = api;
  }

  get token() {
    return this.current?.token ?? null;
  }

  /** Accounts the session may use, or null without one. */
  get accounts() {
    return this.current?.accounts ?? null;
  }

  /** Show what fits: the login form, or the account with the user's name. */
  show(state) {
    document.body.dataset.auth = state;
    const needed = state === "needed";
    $("login").hidden = !needed;
    $("skip").hash = needed ? "#login-user" : "#volume";
    setText($("skip"), needed ? "Skip to the login" : "Skip to the order ticket");
    $("logout").hidden = !this.current;
    $("user").hidden = !this.current;
    setText($("user"), this.current?.user_id ?? "");
  }

  /** Forget a token that the API refused; a newer one stays. */
  refused(token) {
    if (token && token !== this.token) return;
    const had = this.current !== null;
    this.#keep(null);
    if (had) setText($("login-result"), "The session has ended. Please log in again.");
    this.show("needed");
    if (had) this.onChange();
  }

  async logout() {
    try {
      await this.api.delete("/v1/sessions/current");
    } catch {
      // The token is forgotten here in any case and ends by itself within a day.
    }
    this.#keep(null);
    setText($("login-result"), "");
    this.onChange();
    if (!$("login").hidden) $("login-user").focus();
  }

  async #login() {
    const result = $("login-result");
    $("login-send").disabled = true;
    setText(result, "");
    try {
      const session = await this.api.post("/v1/sessions", {
        user: $("login-user").value,
        password: $("login-password").value,
      });
      this.#keep(session);
      $("login-password").value = "";
      this.onChange();
    } catch (error) {
      result.dataset.kind = "bad";
      setText(result, error.message);
    } finally {
      $("login-send").disabled = false;
    }
  }

  #keep(session) {
    this.current = session;
    if (session) sessionStorage.setItem(KEY, JSON.stringify(session));
    else sessionStorage.removeItem(KEY);
  }
}

function stored() {
  try {
    const session = JSON.parse(sessionStorage.getItem(KEY));
    return new Date(session?.expires_at ?? 0) > new Date() ? session : null;
  } catch {
    return null;
  }
}
