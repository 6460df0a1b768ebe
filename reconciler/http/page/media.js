// The results of one generation: pictures, films, sounds, words or other files, with buttons to page where there are several.

import { Away } from "./api.js";
import { text } from "./texts.js";

const ENDINGS = {
  image: /\.(png|jpe?g|gif|webp|avif)$/i,
  video: /\.(mp4|webm|mov|m4v)$/i,
  audio: /\.(mp3|wav|ogg|oga|flac|aac|m4a|opus)$/i,
  text: /\.(txt|json|srt|vtt)$/i,
};
const ENDING = /\.([a-z0-9]{1,10})$/i;
const SHOWN_BYTES = 64 * 1024;

/** Return the address as a URL where it is http(s) without a login; null for everything else. */
export function safe(address) {
  try {
    const url = new URL(address);
    return /^https?:$/.test(url.protocol) && !url.username && !url.password ? url : null;
  } catch {
    return null;
  }
}

/** Return the sources of the results, the best first: our storage, the provider, the preview. Each has its addresses and URLs. */
export function sources(item) {
  const places = [
    ["asset", item.assetUrls?.length ? item.assetUrls : [item.assetUrl]],
    ["result", item.resultUrls ?? []],
    ["preview", [item.previewUrl]],
  ];
  const checked = places.map(([from, addresses]) => {
    const usable = addresses.filter(safe);
    return { from, addresses: usable, urls: usable.map(safe) };
  });
  return checked.filter((source) => source.urls.length > 0);
}

/** Return whether a file is an image, a video, audio, text or another file: by its name, else by what was ordered. */
export function sort(url, kind, from) {
  const found = Object.entries(ENDINGS).find(([, ending]) => ending.test(url.pathname));
  if (found) return found[0];
  // The name of a stored file always tells its type; the provider's names may not.
  if (from === "asset" && ENDING.test(url.pathname)) return "file";
  return kind in ENDINGS ? kind : "image";
}

const pending = new WeakMap();
const observer = new IntersectionObserver(
  (entries) => {
    for (const entry of entries.filter((one) => one.isIntersecting)) {
      observer.unobserve(entry.target);
      pending.get(entry.target)?.();
    }
  },
  { rootMargin: "300px" },
);

/** Call `act` when the element is about to become visible: a card out of view costs no request. */
function whenNear(element, act) {
  pending.set(element, act);
  observer.observe(element);
}

/** The results of one generation in a frame; falls back from the provider to the preview, and then to a sentence. */
export class Viewer {
  #item;
  #title;
  #actions;
  #sources;
  #index = 0;
  #frame = document.createElement("div");
  #pager = null;
  #why = "unstored";
  #broken = false;

  /** `actions.link(url)` returns a fresh address for the provider's; `actions.shown(url, from)` is called with what is shown, `actions.again()` to start again. */
  constructor(item, title, actions) {
    this.#item = item;
    this.#title = title;
    this.#actions = actions;
    this.#sources = sources(item);
    this.#frame.className = "frame";
  }

  /** Whether nothing could be shown. */
  get failed() {
    return this.#broken || this.#sources.length === 0;
  }

  /** Show the results in this element. */
  open(stage) {
    stage.replaceChildren(this.#frame);
    if (this.#sources[0]?.urls.length > 1) stage.append(this.#buildPager());
    whenNear(this.#frame, () => this.#show());
    this.#fill(waiting());
  }

  async #show() {
    const [source] = this.#sources;
    if (source === undefined) return this.#end();
    const place = Math.min(this.#index, source.urls.length - 1);
    const url = source.urls[place];
    this.#broken = false;
    this.#updatePager();
    try {
      const address = source.from === "result" ? safe(await this.#actions.link(source.addresses[place])) : url;
      if (source !== this.#sources[0]) return;
      if (address === null) throw new Error("not a web address");
      this.#fill(this.#element(address, sort(url, this.#item.kind, source.from), source));
      this.#actions.shown(address, source.from);
    } catch (error) {
      this.#drop(source, error instanceof Away ? "unasked" : "withheld");
    }
  }

  #drop(source, why) {
    if (source !== this.#sources[0]) return;
    this.#why = why;
    this.#sources.shift();
    this.#show();
  }

  #end() {
    this.#pager?.remove();
    this.#actions.shown(null, null);
    this.#fill(sentence(text(this.#why)));
    if (this.#why !== "unstored") this.#addRetry(() => this.#actions.again());
  }

  #fail(element, source, why) {
    if (source.from !== "asset") return this.#drop(source, why);
    if (!this.#frame.contains(element)) return;
    // The stored file is the result, so no preview replaces it. It can be downloaded, and the other results can be shown.
    this.#broken = true;
    this.#fill(sentence(text(why)));
    this.#addRetry(() => this.#show());
  }

  #addRetry(act) {
    const again = document.createElement("button");
    again.type = "button";
    again.className = "quiet";
    again.textContent = text("again");
    again.addEventListener("click", act);
    this.#frame.append(again);
  }

  #element(address, sort, source) {
    if (sort === "text" || sort === "file") return paper(address, sort);
    const element = document.createElement({ image: "img", video: "video", audio: "audio" }[sort]);
    const why = sort === "image" ? "unloaded" : "unplayable";
    element.addEventListener("error", () => this.#fail(element, source, why), { once: true });
    if (sort === "image") {
      element.alt = this.#title;
      element.decoding = "async";
    } else {
      element.controls = true;
      element.preload = "metadata";
      element.playsInline = true;
      element.setAttribute("aria-label", `${text(sort)}: ${this.#title}`);
    }
    // Some phones show no frame of a film before it plays, unless the address asks for a moment of it.
    element.src = sort === "video" ? `${address.href}#t=0.001` : address.href;
    if (sort !== "audio") return element;
    const box = document.createElement("div");
    box.className = "sound";
    box.append(wave(), element);
    return box;
  }

  #fill(element) {
    this.#frame.replaceChildren(element);
  }

  #buildPager() {
    this.#pager = document.createElement("div");
    this.#pager.className = "pager";
    this.#pager.role = "group";
    this.#pager.ariaLabel = text("results");
    const place = document.createElement("span");
    place.setAttribute("aria-live", "polite");
    this.#pager.append(this.#step("‹", "previous", -1), place, this.#step("›", "next", 1));
    this.#pager.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (by) this.#go(by);
    });
    this.#updatePager();
    return this.#pager;
  }

  #step(sign, name, by) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = sign;
    button.ariaLabel = text(name);
    button.addEventListener("click", () => this.#go(by));
    return button;
  }

  #go(by) {
    const count = this.#sources[0].urls.length;
    this.#index = (this.#index + by + count) % count;
    this.#show();
  }

  #updatePager() {
    const count = this.#sources[0].urls.length;
    if (this.#pager === null) return;
    this.#pager.hidden = count < 2;
    this.#pager.children[1].textContent = text("place", Math.min(this.#index, count - 1) + 1, count);
  }
}

function waiting() {
  const ring = document.createElement("span");
  ring.className = "ring";
  ring.role = "img";
  ring.ariaLabel = text("fetching");
  return ring;
}

/** Return the sign of a file that is not shown in place; the card links to it. Words from this server take its place. */
function paper(address, sort) {
  const box = document.createElement("div");
  box.className = "paper";
  const ending = document.createElement("b");
  ending.textContent = ENDING.exec(address.pathname)?.[1].toUpperCase() ?? "";
  const name = document.createElement("p");
  name.textContent = text(sort);
  box.append(ending, name);
  // The page's policy allows no other server to be asked.
  if (sort === "text" && address.origin === location.origin) showWords(address, box);
  return box;
}

async function showWords(address, box) {
  const answer = await fetch(address, { headers: { Range: `bytes=0-${SHOWN_BYTES - 1}` } }).catch(() => null);
  if (!answer?.ok) return;
  const words = document.createElement("pre");
  words.tabIndex = 0;
  words.role = "region";
  words.ariaLabel = text("text");
  words.textContent = await answer.text();
  box.replaceChildren(words);
}

/** Return an element with a sentence, shown in place of a result. */
export function sentence(words) {
  const element = document.createElement("p");
  element.className = "sorry";
  element.textContent = words;
  return element;
}

function wave() {
  const element = document.createElement("div");
  element.className = "wave";
  element.setAttribute("aria-hidden", "true");
  element.append(...Array.from({ length: 9 }, () => document.createElement("i")));
  return element;
}
