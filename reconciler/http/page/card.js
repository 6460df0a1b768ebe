// One generation as a card: its title, its status and its results. It is painted again only when it has changed.

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

/** The fields that are painted; the times and the progress are updated in between. A list and a single answer hold other fields, too. */
const PAINTED = ["id", "userId", "status", "kind", "model", "prompt", "error", "assetUrl", "assetUrls", "resultUrls", "previewUrl", "createdAt", "why"];

const WORDS = { working: "isWorking", ready: "isReady", failed: "isFailed", other: "isOther" };

/** Return the state of a generation: working, ready, failed, or other where the application closed it. */
export function standing(item) {
  return STANDINGS[item.status] ?? "other";
}

/** Return the title: the prompt, else kind and model, else the id. */
export function titled(item) {
  return item.prompt?.trim() || [text(item.kind) ?? item.kind, item.model].filter(Boolean).join(" · ") || item.id;
}

export class Card {
  #parts;
  #painted = "";
  #viewer = null;
  #actions;
  #progress = null;

  /** `actions.link(id, url)` returns a fresh address, `actions.story(id)` the explanation, for the operator alone. */
  constructor(item, actions) {
    this.#actions = actions;
    this.element = document.getElementById("card").content.firstElementChild.cloneNode(true);
    const part = (selector) => this.element.querySelector(selector);
    this.#parts = Object.fromEntries(
      ["stage", "title", "word", "model", "owner", "because", "file", "why"].map((name) => [name, part(`.${name}`)]),
    );
    this.#parts.time = part("time");
    this.#parts.why.addEventListener("toggle", () => this.#explain());
    this.put(item);
  }

  /** Show this state of the generation; a playing film continues where nothing has changed. */
  put(item) {
    this.item = item;
    const state = JSON.stringify([spoken(), PAINTED.map((name) => item[name])]);
    if (state !== this.#painted) {
      this.#painted = state;
      this.#paint();
    } else if (item.story) {
      this.#explain();
    }
    if (item.story && this.#actions.single) this.#parts.why.open = true;
    this.tick();
  }

  /** Update the times and the progress. */
  tick() {
    const { item } = this;
    this.#parts.time.textContent = ago(item.createdAt, spoken());
    if (this.#progress) this.#progress();
  }

  /** Try again to show a result that could not be shown. */
  retry() {
    if (this.#viewer?.failed) this.#paint();
  }

  #paint() {
    const { item } = this;
    const { stage, title, model, owner, because, time, why } = this.#parts;
    const state = standing(item);
    this.element.dataset.standing = state;
    this.element.dataset.id = item.id;
    title.textContent = titled(item);
    title.href = `./?id=${encodeURIComponent(item.id)}`;
    model.textContent = item.model ?? text(item.kind) ?? "";
    time.dateTime = item.createdAt;
    time.title = new Date(item.createdAt).toLocaleString(spoken());
    owner.hidden = why.hidden = !this.#actions.operator();
    owner.textContent = owner.title = text("owner", item.userId ?? "–");
    because.hidden = !item.why;
    because.textContent = item.why ?? "";
    why.firstElementChild.textContent = text("why");
    this.#explain();
    this.#offer(null, null);
    this.#progress = this.#viewer = null;
    this.#stage(state, stage);
  }

  #stage(state, stage) {
    const { item } = this;
    if (state === "working") return this.#showProgress(stage);
    if (state === "failed") return stage.replaceChildren(cross(), sentence(item.error || text("sorry")));
    if (state === "other") return stage.replaceChildren(sentence(text("cancelled")));
    this.#viewer = new Viewer(item, titled(item), {
      link: (url) => this.#actions.link(item.id, url),
      shown: (url, from) => this.#offer(url, from),
      again: () => this.#paint(),
    });
    this.#viewer.open(stage);
  }

  #showProgress(stage) {
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
    // Supabase sends a download where the address asks for it; a file of another host can only be opened.
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
    const story = this.item.story ?? (await this.#actions.story(this.item.id).catch(() => null));
    const entries = story ? Object.entries(story) : [["why", text("whyAway")]];
    list.replaceChildren(...entries.flatMap(([about, words]) => [
      Object.assign(document.createElement("dt"), { textContent: text("story")[about] ?? about }),
      Object.assign(document.createElement("dd"), { textContent: [words].flat().join("\n") }),
    ]));
  }
}

function measure(item, elapsed, bar) {
  const seconds = since(item.startedAt);
  const expected = item.expectedSeconds;
  const duration = span(seconds, spoken());
  if (!expected) {
    elapsed.textContent = text("alone", duration);
    bar.removeAttribute("value");
    return;
  }
  elapsed.textContent = text(seconds > expected ? "longer" : "elapsed", duration, span(expected, spoken()));
  // Linear up to the expected time, then ever slower: the bar is never full before the result is there.
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
