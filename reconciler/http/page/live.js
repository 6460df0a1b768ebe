// How the page learns of changes: by the event stream, and by polling while the stream is down.

import { Away, Refused } from "./api.js";
import { pause } from "./time.js";

const POLL_BUSY = 3_000;
const POLL_IDLE = 10_000;
const POLL_STREAMING = 60_000; // a stream may lose an event: the table is the truth
const SILENCE = 40_000; // a keep-alive comment comes every 15 s
const LONGEST_PAUSE = 30_000;

/** Read server-sent events from a body; `alive` is called for every piece, keep-alive comments included. */
export async function* events(body, alive = () => {}) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let event = { type: "message", data: [] };
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      alive();
      rest += value;
      // A carriage return at the very end may be the first half of a line break.
      const whole = rest.endsWith("\r") ? rest.slice(0, -1) : rest;
      const lines = whole.split(/\r\n|\n|\r/);
      rest = lines.pop() + rest.slice(whole.length);
      for (const line of lines) {
        if (line === "") {
          if (event.data.length) yield { ...event, data: event.data.join("\n") };
          event = { type: "message", data: [], id: event.id };
        } else {
          addField(event, line);
        }
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function addField(event, line) {
  const [, field, value] = /^([^:]*)(?:: ?(.*))?$/.exec(line);
  if (field === "event") event.type = value;
  else if (field === "data") event.data.push(value ?? "");
  else if (field === "id" && !value?.includes("\0")) event.id = value;
}

/** Calls its handlers for changes until it is stopped. */
export class Live {
  #api;
  #handlers;
  #stopped = new AbortController();
  #wakeUp = new AbortController();
  #streaming = false;
  #reachable = null;
  #last = null;

  /** Handlers: `changed(id)`: this generation changed; `refresh()`: fetch everything; `busy()`: whether a generation is in progress;
   *  `refused()`: the token is not accepted; `state(word)`: live, polling or away. */
  constructor(api, handlers) {
    this.#api = api;
    this.#handlers = handlers;
    const signal = this.#stopped.signal;
    const wake = () => this.#wake();
    addEventListener("online", wake, { signal });
    addEventListener("offline", wake, { signal });
    document.addEventListener("visibilitychange", wake, { signal });
    this.#stream();
    this.#poll();
  }

  /** Stop; no handler is called any more. */
  stop() {
    this.#stopped.abort();
    this.#wakeUp.abort();
  }

  /** Refresh at once. */
  refreshNow() {
    return this.#refresh();
  }

  /** End the pauses: connect and poll at once. */
  #wake() {
    this.#wakeUp.abort();
    this.#wakeUp = new AbortController();
  }

  async #stream() {
    let tries = 0;
    while (!this.#stopped.signal.aborted) {
      let after = 0;
      if (!document.hidden) {
        try {
          await this.#readStream(() => (tries = 0));
        } catch (error) {
          if (error instanceof Refused && error.status === 401) return this.#refused();
          if (error instanceof Away) after = 1000 * error.after;
        }
        this.#setState({ streaming: false });
      }
      const wait = document.hidden ? LONGEST_PAUSE : Math.min(LONGEST_PAUSE, Math.max(after, 500 * 2 ** tries++));
      await pause(wait * (0.75 + Math.random() / 2), this.#wakeUp.signal);
    }
  }

  async #readStream(received) {
    const end = new AbortController();
    const cutIfHidden = () => document.hidden && end.abort();
    const cut = () => end.abort();
    let silence = setTimeout(cut, SILENCE);
    const alive = () => {
      clearTimeout(silence);
      silence = setTimeout(cut, SILENCE);
    };
    document.addEventListener("visibilitychange", cutIfHidden);
    this.#stopped.signal.addEventListener("abort", cut);
    try {
      const answer = await this.#api.events(this.#last, end.signal);
      for await (const event of events(answer.body, alive)) {
        received();
        this.#handle(event);
      }
    } finally {
      clearTimeout(silence);
      document.removeEventListener("visibilitychange", cutIfHidden);
      this.#stopped.signal.removeEventListener("abort", cut);
    }
  }

  #handle(event) {
    this.#last = event.id ?? this.#last;
    if (!this.#streaming) {
      this.#setState({ streaming: true, reachable: true });
      this.#refresh(); // for changes before the stream began
    }
    if (event.type === "generation") this.#handlers.changed(JSON.parse(event.data).id);
    // Every open page gets this event at once. The random delay keeps them from asking all at once.
    if (event.type === "resync") setTimeout(() => this.#refresh(), 1000 * Math.random());
  }

  async #poll() {
    while (!this.#stopped.signal.aborted) {
      if (!document.hidden) await this.#refresh();
      const polling = this.#handlers.busy() || !this.#reachable ? POLL_BUSY : POLL_IDLE;
      await pause(this.#streaming && this.#reachable ? POLL_STREAMING : polling, this.#wakeUp.signal);
    }
  }

  async #refresh() {
    try {
      await this.#handlers.refresh();
      this.#setState({ reachable: true });
    } catch (error) {
      if (this.#stopped.signal.aborted || error.name === "AbortError") return;
      if (error instanceof Refused && error.status === 401) this.#refused();
      else {
        if (!(error instanceof Away)) console.error(error);
        this.#setState({ reachable: false });
      }
    }
  }

  #refused() {
    if (this.#stopped.signal.aborted) return;
    this.stop();
    this.#handlers.refused();
  }

  #setState({ streaming = this.#streaming, reachable = this.#reachable }) {
    if (this.#stopped.signal.aborted) return;
    // After a change for the worse, poll at once and not when the minute is over.
    const worse = (this.#streaming && !streaming) || (this.#reachable && !reachable);
    this.#streaming = streaming;
    this.#reachable = reachable;
    if (reachable === null) return;
    this.#handlers.state(!reachable ? "away" : streaming ? "live" : "polling");
    if (worse) this.#wake();
  }
}
