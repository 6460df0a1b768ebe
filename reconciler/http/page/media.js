// The results of one generation, shown in place: pictures, films, sounds, one after the other where there are several.

import { Away } from "./api.js";
import { text } from "./texts.js";

const ENDINGS = {
  image: /\.(png|jpe?g|gif|webp|avif)$/i,
  video: /\.(mp4|webm|mov|m4v)$/i,
  audio: /\.(mp3|wav|ogg|oga|flac|aac|m4a|opus)$/i,
};

/** Return the address where it is one of the web and carries no login; null for everything else. */
export function safe(address) {
  try {
    const url = new URL(address);
    return /^https?:$/.test(url.protocol) && !url.username && !url.password ? url : null;
  } catch {
    return null;
  }
}

/** Return where the results lie, the best place first: our storage, the provider, an old preview; each as told and as URL. */
export function shelves(item) {
  const places = [
    ["asset", item.assetUrls?.length ? item.assetUrls : [item.assetUrl]],
    ["result", item.resultUrls ?? []],
    ["preview", [item.previewUrl]],
  ];
  const checked = places.map(([from, addresses]) => {
    const told = addresses.filter(safe);
    return { from, told, urls: told.map(safe) };
  });
  return checked.filter((shelf) => shelf.urls.length > 0);
}

/** Return whether a file is a picture, a film or a sound: by its name, else by what was ordered. */
export function sort(url, kind) {
  const found = Object.entries(ENDINGS).find(([, ending]) => ending.test(url.pathname));
  return found?.[0] ?? (kind in ENDINGS ? kind : "image");
}

const arriving = new WeakMap();
const watching = new IntersectionObserver(
  (entries) => {
    for (const entry of entries.filter((one) => one.isIntersecting)) {
      watching.unobserve(entry.target);
      arriving.get(entry.target)?.();
    }
  },
  { rootMargin: "300px" },
);

/** Do this once the element is about to be seen: what nobody looks at costs no connection and no request. */
function near(element, act) {
  arriving.set(element, act);
  watching.observe(element);
}

/** One generation's results in a frame; falls back from the provider to a preview, and ends with a sentence. */
export class Viewer {
  #item;
  #title;
  #ways;
  #shelves;
  #n = 0;
  #frame = document.createElement("div");
  #pager = null;
  #why = "unstored";
  #spoilt = false;

  /** `ways.link(url)` makes a lasting address of a provider's; `ways.shown(url, from)` hears what is shown, `ways.again()` that it is to be tried anew. */
  constructor(item, title, ways) {
    this.#item = item;
    this.#title = title;
    this.#ways = ways;
    this.#shelves = shelves(item);
    this.#frame.className = "frame";
  }

  /** Whether nothing could be shown. */
  get failed() {
    return this.#spoilt || this.#shelves.length === 0;
  }

  /** Put the results into this element. */
  open(stage) {
    stage.replaceChildren(this.#frame);
    if (this.#shelves[0]?.urls.length > 1) stage.append(this.#pages());
    near(this.#frame, () => this.#show());
    this.#fill(waiting());
  }

  async #show() {
    const [shelf] = this.#shelves;
    if (shelf === undefined) return this.#end();
    const place = Math.min(this.#n, shelf.urls.length - 1);
    const url = shelf.urls[place];
    this.#spoilt = false;
    this.#turned();
    try {
      const address = shelf.from === "result" ? safe(await this.#ways.link(shelf.told[place])) : url;
      if (shelf !== this.#shelves[0]) return;
      if (address === null) throw new Error("no address of the web");
      this.#fill(this.#element(address, sort(url, this.#item.kind), shelf));
      this.#ways.shown(address, shelf.from);
    } catch (error) {
      this.#drop(shelf, error instanceof Away ? "unasked" : "withheld");
    }
  }

  #drop(shelf, why) {
    if (shelf !== this.#shelves[0]) return;
    this.#why = why;
    this.#shelves.shift();
    this.#show();
  }

  #end() {
    this.#pager?.remove();
    this.#ways.shown(null, null);
    this.#fill(sentence(text(this.#why)));
    if (this.#why !== "unstored") this.#again(() => this.#ways.again());
  }

  #fail(element, shelf, why) {
    if (shelf.from !== "asset") return this.#drop(shelf, why);
    if (!this.#frame.contains(element)) return;
    // What is stored is the result: nothing that is worth less takes its place. It can be kept, the others looked at.
    this.#spoilt = true;
    this.#fill(sentence(text(why)));
    this.#again(() => this.#show());
  }

  #again(act) {
    const again = document.createElement("button");
    again.type = "button";
    again.className = "quiet";
    again.textContent = text("again");
    again.addEventListener("click", act);
    this.#frame.append(again);
  }

  #element(address, sort, shelf) {
    const element = document.createElement({ image: "img", video: "video", audio: "audio" }[sort]);
    const why = sort === "image" ? "unloaded" : "unplayable";
    element.addEventListener("error", () => this.#fail(element, shelf, why), { once: true });
    if (sort === "image") {
      element.alt = this.#title;
      element.decoding = "async";
    } else {
      element.controls = true;
      element.preload = "metadata";
      element.playsInline = true;
      element.setAttribute("aria-label", `${text(sort)}: ${this.#title}`);
    }
    // Some phones paint nothing of a film before it plays, unless they are asked for a moment of it.
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

  #pages() {
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
    this.#turned();
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
    const count = this.#shelves[0].urls.length;
    this.#n = (this.#n + by + count) % count;
    this.#show();
  }

  #turned() {
    const count = this.#shelves[0].urls.length;
    if (this.#pager === null) return;
    this.#pager.hidden = count < 2;
    this.#pager.children[1].textContent = text("place", Math.min(this.#n, count - 1) + 1, count);
  }
}

function waiting() {
  const ring = document.createElement("span");
  ring.className = "ring";
  ring.role = "img";
  ring.ariaLabel = text("fetching");
  return ring;
}

/** Return a plain sentence in the place of a picture. */
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
