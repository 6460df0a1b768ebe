// What the page asks of the server. Every request carries the token in a header; every failure says what it means.

import { heard } from "./time.js";

/** The server answered and refused: by status and by a stable word. */
export class Refused extends Error {
  constructor(status, word, detail) {
    super(detail || word);
    this.status = status;
    this.word = word;
  }
}

/** Nobody answered, or the answer was that it will pass; `after` is how many seconds to wait, where that was said. */
export class Away extends Error {
  constructor(detail, after = 0) {
    super(detail);
    this.after = after;
  }
}

const PATIENCE = 15_000;

export class Api {
  #token;

  constructor(token) {
    this.#token = token;
  }

  /** One page of generations, the newest first. */
  list(query, signal) {
    const known = Object.entries(query).filter(([, value]) => value);
    return this.#json(`api/generations?${new URLSearchParams(known)}`, { signal });
  }

  /** One generation. */
  one(id, signal) {
    return this.#json(`api/generations/${encodeURIComponent(id)}`, { signal });
  }

  /** An address at which a result of the provider can be fetched for a while. */
  async link(generationId, url, signal) {
    const body = JSON.stringify({ generationId, url });
    const headers = { "Content-Type": "application/json" };
    return (await this.#json("api/kie/downloadUrl", { method: "POST", body, headers, signal })).downloadUrl;
  }

  /** The stream of events; the answer's body is to be read. */
  events(after, signal) {
    const headers = { Accept: "text/event-stream", ...(after && { "Last-Event-ID": after }) };
    return this.#ask("api/events", { headers, signal });
  }

  async #json(path, { signal, ...options }) {
    const limit = AbortSignal.timeout(PATIENCE);
    const sent = Date.now();
    try {
      const answer = await this.#ask(path, { ...options, signal: signal ? AbortSignal.any([signal, limit]) : limit });
      const body = await answer.json();
      heard(body.serverTime, sent, Date.now());
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
    const told = await answer.json().catch(() => ({}));
    if (answer.status === 429 || answer.status >= 500) {
      throw new Away(told.detail ?? answer.statusText, Number(answer.headers.get("Retry-After")) || 0);
    }
    throw new Refused(answer.status, told.error ?? "refused", told.detail ?? answer.statusText);
  }
}
