// The REST API, with the session's token and its errors as one type.

/** An answer that is not a success: `status` 0 is no answer at all; `retryAfter` in seconds. */
export class ApiError extends Error {
  constructor(status, { code, reason, retryable = false } = {}, retryAfter = null) {
    super(reason || `The gateway answered ${status}.`);
    this.status = status;
    this.code = code || "unknown";
    this.retryable = retryable;
    this.retryAfter = retryAfter;
  }
}

const UNREACHABLE = {
  code: "unreachable",
  reason: "The gateway did not answer. Check that it runs, then try again.",
  retryable: true,
};

const DEADLINE = 10_000;

export class Api {
  /** `token()` gives the session's token or null; `onUnauthorized` hears of every 401. */
  constructor({ token, onUnauthorized }) {
    this.token = token;
    this.onUnauthorized = onUnauthorized;
  }

  get(path) {
    return this.#send("GET", path);
  }

  post(path, body) {
    return this.#send("POST", path, body);
  }

  delete(path) {
    return this.#send("DELETE", path);
  }

  async #send(method, path, body) {
    const headers = { Accept: "application/json" };
    const token = this.token();
    if (token) headers.Authorization = `Bearer ${token}`;
    if (body !== undefined) headers["Content-Type"] = "application/json";
    let response;
    let content;
    try {
      response = await fetch(path, {
        method,
        headers,
        body: body === undefined ? undefined : JSON.stringify(body),
        cache: "no-store",
        signal: AbortSignal.timeout(DEADLINE),
      });
      content = await response.text();
    } catch {
      throw new ApiError(0, UNREACHABLE);
    }
    const answer = parsed(content);
    if (response.ok) return answer;
    if (response.status === 401) this.onUnauthorized(token);
    const wait = Number.parseFloat(response.headers.get("Retry-After") ?? "");
    throw new ApiError(response.status, answer ?? {}, Number.isFinite(wait) ? wait : null);
  }
}

function parsed(content) {
  try {
    return content ? JSON.parse(content) : null;
  } catch {
    return null;
  }
}
