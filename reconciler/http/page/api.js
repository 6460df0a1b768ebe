// The page's requests to the server. Each carries the token in a header; each failure is a Refused or an Away error.

import { learnServerTime } from "./time.js";

/** The server answered and refused the request; `word` is the stable word of its problem. */
export class Refused extends Error {
  constructor(status, word, detail) {
    super(detail || word);
    this.status = status;
    this.word = word;
  }
}

/** No answer came, or one that says to try again; `after` is the number of seconds to wait, 0 where none was stated. */
export class Away extends Error {
  constructor(detail, after = 0) {
    super(detail);
    this.after = after;
  }
}

const TIMEOUT = 15_000;

export class Api {
  #token;

  constructor(token) {
    this.#token = token;
  }

  /** Return one page of generations, the newest first. */
  list(query, signal) {
    const present = Object.entries(query).filter(([, value]) => value);
    return this.#json(`api/generations?${new URLSearchParams(present)}`, { signal });
  }

  /** Return one generation. */
  one(id, signal) {
    return this.#json(`api/generations/${encodeURIComponent(id)}`, { signal });
  }

  /** Return the open findings and the figures of the last day; for the operator. */
  status(signal) {
    return this.#json("api/status", { signal });
  }

  /** Return an address from which a result of the provider can be fetched for some minutes. */
  async link(generationId, url, signal) {
    const body = JSON.stringify({ generationId, url });
    const headers = { "Content-Type": "application/json" };
    return (await this.#json("api/kie/downloadUrl", { method: "POST", body, headers, signal })).downloadUrl;
  }

  /** Return the response of the event stream; the caller reads its body. */
  events(after, signal) {
    const headers = { Accept: "text/event-stream", ...(after && { "Last-Event-ID": after }) };
    return this.#ask("api/events", { headers, signal });
  }

  async #json(path, { signal, ...options }) {
    const limit = AbortSignal.timeout(TIMEOUT);
    const sent = Date.now();
    try {
      const answer = await this.#ask(path, { ...options, signal: signal ? AbortSignal.any([signal, limit]) : limit });
      const body = await answer.json();
      learnServerTime(body.serverTime, sent, Date.now());
      return body;
    } catch (error) {
      if (error instanceof Refused || error instanceof Away || signal?.aborted) throw error;
      throw new Away(String(error));
    }
  }

  async #ask(path, { headers, ...options }) {
    let answer;
    try {
      answer = await fetch(path, {
        ...options,
        headers: { ...headers, Authorization: `Bearer ${this.#token}` },
        cache: "no-store",
        credentials: "omit",
        redirect: "error",
      });
    } catch (error) {
      if (options.signal?.aborted) throw error;
      throw new Away(String(error));
    }
    if (answer.ok) return answer;
    const problem = await answer.json().catch(() => ({}));
    if (answer.status === 429 || answer.status >= 500) {
      throw new Away(problem.detail ?? answer.statusText, Number(answer.headers.get("Retry-After")) || 0);
    }
    throw new Refused(answer.status, problem.error ?? "refused", problem.detail ?? answer.statusText);
  }
}
