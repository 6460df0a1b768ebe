// How the page hears of changes: a stream of events, and asking every few seconds while that is down.

import { Away, Refused } from "./api.js";
import { pause } from "./time.js";

const ASKING = 3_000;
const IDLING = 10_000;
const LOOKING = 60_000; // a stream may lose something too: the table is the truth
const SILENCE = 40_000; // a heartbeat comes every 15 s
const LONGEST = 30_000;

/** Read server-sent events from a body; `alive` hears of every piece, heartbeats too. */
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
      // A carriage return at the very end may be the first half of a line's end.
      const whole = rest.endsWith("\r") ? rest.slice(0, -1) : rest;
      const lines = whole.split(/\r\n|\n|\r/);
      rest = lines.pop() + rest.slice(whole.length);
      for (const line of lines) {
        if (line === "") {
          if (event.data.length) yield { ...event, data: event.data.join("\n") };
          event = { type: "message", data: [], id: event.id };
        } else {
          note(event, line);
        }
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function note(event, line) {
  const [, field, value] = /^([^:]*)(?:: ?(.*))?$/.exec(line);
  if (field === "event") event.type = value;
  else if (field === "data") event.data.push(value ?? "");
  else if (field === "id" && !value?.includes("\0")) event.id = value;
}

/** Hears of changes until it is stopped; `hears` are the ears. */
export class Live {
  #api;
  #hears;
  #stopped = new AbortController();
  #nudge = new AbortController();
  #streaming = false;
  #reachable = null;
  #last = null;

  /** `changed(id)`: this generation moved; `refresh()`: look at everything; `busy()`: whether something is on its way; `refused()`: not with this token;
   *  `state(word)`: live, polling or away. */
  constructor(api, hears) {
    this.#api = api;
    this.#hears = hears;
    const signal = this.#stopped.signal;
    const wake = () => this.#wake();
    addEventListener("online", wake, { signal });
    addEventListener("offline", wake, { signal });
    document.addEventListener("visibilitychange", wake, { signal });
    this.#stream();
    this.#look();
  }

  /** Hear nothing more. */
  stop() {
    this.#stopped.abort();
    this.#nudge.abort();
  }

  /** Look at once: what is wanted has changed. */
  lookNow() {
    return this.#refresh();
  }

  /** Take the next turn at once; a page that nobody sees lets its connection go. */
  #wake() {
    this.#nudge.abort();
    this.#nudge = new AbortController();
  }

  async #stream() {
    let tries = 0;
    while (!this.#stopped.signal.aborted) {
      let after = 0;
      if (!document.hidden) {
        try {
          await this.#listen(() => (tries = 0));
        } catch (error) {
          if (error instanceof Refused && error.status === 401) return this.#refused();
          if (error instanceof Away) after = 1000 * error.after;
        }
        this.#told({ streaming: false });
      }
      const wait = document.hidden ? LONGEST : Math.min(LONGEST, Math.max(after, 500 * 2 ** tries++));
      await pause(wait * (0.75 + Math.random() / 2), this.#nudge.signal);
    }
  }

  async #listen(heard) {
    const end = new AbortController();
    const hide = () => document.hidden && end.abort();
    const cut = () => end.abort();
    let silence = setTimeout(cut, SILENCE);
    const alive = () => {
      clearTimeout(silence);
      silence = setTimeout(cut, SILENCE);
    };
    document.addEventListener("visibilitychange", hide);
    this.#stopped.signal.addEventListener("abort", cut);
    try {
      const answer = await this.#api.events(this.#last, end.signal);
      for await (const event of events(answer.body, alive)) {
        heard();
        this.#hear(event);
      }
    } finally {
      clearTimeout(silence);
      document.removeEventListener("visibilitychange", hide);
      this.#stopped.signal.removeEventListener("abort", cut);
    }
  }

  #hear(event) {
    this.#last = event.id ?? this.#last;
    if (!this.#streaming) {
      this.#told({ streaming: true, reachable: true });
      this.#refresh(); // what happened before the stream began
    }
    if (event.type === "generation") this.#hears.changed(JSON.parse(event.data).id);
    // Every open page is told this at once; they need not all ask at once.
    if (event.type === "resync") setTimeout(() => this.#refresh(), 1000 * Math.random());
  }

  async #look() {
    while (!this.#stopped.signal.aborted) {
      if (!document.hidden) await this.#refresh();
      const asking = this.#hears.busy() || !this.#reachable ? ASKING : IDLING;
      await pause(this.#streaming && this.#reachable ? LOOKING : asking, this.#nudge.signal);
    }
  }

  async #refresh() {
    try {
      await this.#hears.refresh();
      this.#told({ reachable: true });
    } catch (error) {
      if (this.#stopped.signal.aborted || error.name === "AbortError") return;
      if (error instanceof Refused && error.status === 401) this.#refused();
      else {
        if (!(error instanceof Away)) console.error(error);
        this.#told({ reachable: false });
      }
    }
  }

  #refused() {
    if (this.#stopped.signal.aborted) return;
    this.stop();
    this.#hears.refused();
  }

  #told({ streaming = this.#streaming, reachable = this.#reachable }) {
    if (this.#stopped.signal.aborted) return;
    // News to the one who looks: ask at once, not when the minute is over.
    const fell = (this.#streaming && !streaming) || (this.#reachable && !reachable);
    this.#streaming = streaming;
    this.#reachable = reachable;
    if (reachable === null) return;
    this.#hears.state(!reachable ? "away" : streaming ? "live" : "polling");
    if (fell) this.#wake();
  }
}
