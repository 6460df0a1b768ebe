// The cards on display, in order of age; knows which are on their way and tells what became of them.

import { Card, standing, titled } from "./card.js";
import { text } from "./texts.js";

export class Cards {
  #list;
  #ways;
  #tell;
  #cards = new Map();

  /** 1 where the newest come first, -1 where the oldest do. */
  order = 1;

  /** `tell` says a sentence to those who listen to the page. */
  constructor(list, ways, tell) {
    this.#list = list;
    this.#ways = ways;
    this.#tell = tell;
  }

  get size() {
    return this.#cards.size;
  }

  /** Whether this generation is on display. */
  has(id) {
    return this.#cards.has(id);
  }

  /** The ids of those that are on their way. */
  working() {
    return [...this.#cards.values()].filter((card) => standing(card.item) === "working").map((card) => card.item.id);
  }

  /** Show a generation as it now stands, in its place by age. */
  put(item) {
    const card = this.#cards.get(item.id);
    if (card === undefined) return this.#add(item);
    const before = standing(card.item);
    card.put(item);
    const after = standing(item);
    if (before !== after && after === "ready") this.#tell(text("nowReady", titled(item)));
    if (before !== after && after === "failed") this.#tell(text("nowFailed", titled(item)));
  }

  /** Show a first page: what would stand before its end and is not on it is not there any more. */
  putPage(items, last) {
    const ids = new Set(items.map((item) => item.id));
    const end = last ? null : items.at(-1);
    for (const [id, card] of this.#cards) {
      if (!ids.has(id) && (last || this.#behind(end, card.item))) this.drop(id);
    }
    for (const item of items) this.put(item);
  }

  /** Take a generation away. */
  drop(id) {
    const card = this.#cards.get(id);
    if (card === undefined) return;
    const next = card.element.nextElementSibling ?? card.element.previousElementSibling;
    if (card.element.contains(document.activeElement)) next?.querySelector("a")?.focus();
    card.element.remove();
    this.#cards.delete(id);
  }

  /** Take everything away. */
  clear() {
    this.#list.replaceChildren();
    this.#cards.clear();
  }

  /** Let time pass on every card. */
  tick() {
    for (const card of this.#cards.values()) card.tick();
  }

  /** Say every card anew, in the language of now. */
  repaint() {
    for (const card of this.#cards.values()) card.put(card.item);
  }

  /** Try again what could not be shown. */
  retry() {
    for (const card of this.#cards.values()) card.retry();
  }

  #add(item) {
    const card = new Card(item, this.#ways);
    const after = [...this.#list.children].find((other) => this.#behind(this.#cards.get(other.dataset.id).item, item));
    this.#cards.set(item.id, card);
    this.#list.insertBefore(card.element, after ?? null);
  }

  /** Whether the first stands behind the second; the server breaks ties by the id. */
  #behind(one, two) {
    const apart = Date.parse(two.createdAt) - Date.parse(one.createdAt) || (one.id < two.id ? 1 : -1);
    return apart * this.order > 0;
  }
}
