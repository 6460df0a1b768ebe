// One generation as a card: what it is, how it stands, its results; repainted only where it changed.

import { Viewer, sentence } from "./media.js";
import { spoken, text } from "./texts.js";
import { ago, since, span } from "./time.js";

const STANDINGS = {
  queued: "working",
  pending: "working",
  generating: "working",
  processing: "working",
  success: "ready",
  completed: "ready",
  failed: "failed",
};

const WORDS = { working: "isWorking", ready: "isReady", failed: "isFailed", other: "isOther" };

/** Return how a generation stands: working, ready, failed, or other where the application closed it. */
export function standing(item) {
  return STANDINGS[item.status] ?? "other";
}

/** Return what a person calls it. */
export function titled(item) {
  return item.prompt?.trim() || [text(item.kind) ?? item.kind, item.model].filter(Boolean).join(" · ") || item.id;
}

export class Card {
  #parts;
  #painted = "";
  #viewer = null;
  #ways;
  #progress = null;

  /** `ways.link(id, url)` makes a lasting address, `ways.story(id)` tells why; the second is for the operator alone. */
  constructor(item, ways) {
    this.#ways = ways;
    this.element = document.getElementById("card").content.firstElementChild.cloneNode(true);
    const part = (selector) => this.element.querySelector(selector);
    this.#parts = Object.fromEntries(
      ["stage", "title", "word", "model", "owner", "because", "file", "why"].map((name) => [name, part(`.${name}`)]),
    );
    this.#parts.time = part("time");
    this.#parts.why.addEventListener("toggle", () => this.#explain());
    this.put(item);
  }

  /** Show this state of the generation; a film that plays goes on where nothing of it changed. */
  put(item) {
    this.item = item;
    const seen = JSON.stringify([spoken(), { ...item, story: null, expectedSeconds: null, progress: null }]);
    if (seen !== this.#painted) {
      this.#painted = seen;
      this.#paint();
    }
    if (item.story && this.#ways.single) this.#parts.why.open = true;
    this.tick();
  }

  /** Show what time alone changes. */
  tick() {
    const { item } = this;
    this.#parts.time.textContent = ago(item.createdAt, spoken());
    if (this.#progress) this.#progress();
  }

  /** Try once more to show what could not be shown. */
  retry() {
    if (this.#viewer?.failed) this.#paint();
  }

  #paint() {
    const { item } = this;
    const { stage, title, model, owner, because, time, why } = this.#parts;
    const how = standing(item);
    this.element.dataset.standing = how;
    this.element.dataset.id = item.id;
    title.textContent = titled(item);
    title.href = `./?id=${encodeURIComponent(item.id)}`;
    model.textContent = item.model ?? text(item.kind) ?? "";
    time.dateTime = item.createdAt;
    time.title = new Date(item.createdAt).toLocaleString(spoken());
    owner.hidden = why.hidden = !this.#ways.operator();
    owner.textContent = owner.title = text("owner", item.userId ?? "–");
    because.hidden = !item.why;
    because.textContent = item.why ?? "";
    why.firstElementChild.textContent = text("why");
    this.#explain();
    this.#offer(null, null);
    this.#progress = this.#viewer = null;
    this.#stage(how, stage);
  }

  #stage(how, stage) {
    const { item } = this;
    if (how === "working") return this.#work(stage);
    if (how === "failed") return stage.replaceChildren(cross(), sentence(item.error || text("sorry")));
    if (how === "other") return stage.replaceChildren(sentence(text("cancelled")));
    this.#viewer = new Viewer(item, titled(item), {
      link: (url) => this.#ways.link(item.id, url),
      shown: (url, from) => this.#offer(url, from),
      again: () => this.#paint(),
    });
    this.#viewer.open(stage);
  }

  #work(stage) {
    const box = document.createElement("div");
    box.className = "work";
    const ring = document.createElement("span");
    ring.className = "ring";
    const phase = document.createElement("p");
    phase.className = "phase";
    phase.textContent = text(["queued", "pending"].includes(this.item.status) ? "queued" : "generating");
    const elapsed = document.createElement("p");
    elapsed.className = "elapsed";
    const bar = document.createElement("progress");
    bar.max = 100;
    bar.setAttribute("aria-label", `${text("progress")}: ${titled(this.item)}`);
    box.append(ring, phase, elapsed, bar);
    stage.replaceChildren(box);
    this.#progress = () => measure(this.item, elapsed, bar);
  }

  #offer(url, from) {
    const link = this.#parts.file;
    link.hidden = url === null;
    this.#parts.word.textContent = text({ result: "result", preview: "preview" }[from] ?? WORDS[standing(this.item)]);
    if (url === null) return;
    const ours = url.origin === location.origin;
    const supabase = url.pathname.includes("/storage/v1/object/public/");
    const target = new URL(url);
    // Supabase sends a file to be kept where the address asks for it; of another host only the person can keep it.
    if (supabase) target.searchParams.set("download", "");
    link.href = target.href;
    link.toggleAttribute("download", ours);
    link.rel = "noopener noreferrer";
    link.target = ours || supabase ? "" : "_blank";
    link.textContent = text(ours || supabase ? "download" : "openFile");
    link.setAttribute("aria-label", `${link.textContent}: ${titled(this.item)}`);
  }

  async #explain() {
    const { why } = this.#parts;
    if (!why.open) return;
    const list = why.querySelector("dl");
    const story = this.item.story ?? (await this.#ways.story(this.item.id).catch(() => null));
    const told = story ? Object.entries(story) : [["why", text("whyAway")]];
    list.replaceChildren(...told.flatMap(([about, words]) => [
      Object.assign(document.createElement("dt"), { textContent: text("story")[about] ?? about }),
      Object.assign(document.createElement("dd"), { textContent: [words].flat().join("\n") }),
    ]));
  }
}

function measure(item, elapsed, bar) {
  const seconds = since(item.startedAt);
  const expected = item.expectedSeconds;
  const said = span(seconds, spoken());
  if (!expected) {
    elapsed.textContent = text("alone", said);
    bar.removeAttribute("value");
    return;
  }
  elapsed.textContent = text(seconds > expected ? "longer" : "elapsed", said, span(expected, spoken()));
  // As long as the text says, then ever slower: it is never full before the result is there.
  const share = seconds / expected;
  const length = share < 1 ? 0.8 * share : 0.95 - 0.15 / share ** 2;
  bar.value = Math.round(1000 * Math.max(length, item.progress ?? 0)) / 10;
}

function cross() {
  const sign = document.createElement("span");
  sign.className = "cross";
  sign.setAttribute("aria-hidden", "true");
  return sign;
}
