// The displayed cards in order of age; it announces which generations became ready or failed.

import { Card, standing, titled } from "./card.js";
import { text } from "./texts.js";

export class Cards {
  #list;
  #actions;
  #announce;
  #cards = new Map();

  /** 1 where the newest come first, -1 where the oldest do. */
  order = 1;

  /** `announce` passes a sentence to screen readers. */
  constructor(list, actions, announce) {
    this.#list = list;
    this.#actions = actions;
    this.#announce = announce;
  }

  get size() {
    return this.#cards.size;
  }

  /** Whether this generation is on display. */
  has(id) {
    return this.#cards.has(id);
  }

  /** The ids of the generations in progress. */
  working() {
    return [...this.#cards.values()].filter((card) => standing(card.item) === "working").map((card) => card.item.id);
  }

  /** Show the present state of a generation, in its place by age. */
  put(item) {
    const card = this.#cards.get(item.id);
    if (card === undefined) return this.#add(item);
    const before = standing(card.item);
    card.put(item);
    const after = standing(item);
    if (before !== after && after === "ready") this.#announce(text("nowReady", titled(item)));
    if (before !== after && after === "failed") this.#announce(text("nowFailed", titled(item)));
  }

  /** Show the first page, and drop each card that belongs on it and is missing there: its generation is gone. */
  putPage(items, last) {
    const ids = new Set(items.map((item) => item.id));
    const end = last ? null : items.at(-1);
    for (const [id, card] of this.#cards) {
      if (!ids.has(id) && (last || this.#behind(end, card.item))) this.drop(id);
    }
    for (const item of items) this.put(item);
  }

  /** Remove a generation. */
  drop(id) {
    const card = this.#cards.get(id);
    if (card === undefined) return;
    const next = card.element.nextElementSibling ?? card.element.previousElementSibling;
    if (card.element.contains(document.activeElement)) next?.querySelector("a")?.focus();
    card.element.remove();
    this.#cards.delete(id);
  }

  /** Remove all generations. */
  clear() {
    this.#list.replaceChildren();
    this.#cards.clear();
  }

  /** Update the times on every card. */
  tick() {
    for (const card of this.#cards.values()) card.tick();
  }

  /** Paint every card again in the current language. */
  repaint() {
    for (const card of this.#cards.values()) card.put(card.item);
  }

  /** Try again to show each result that could not be shown. */
  retry() {
    for (const card of this.#cards.values()) card.retry();
  }

  #add(item) {
    const card = new Card(item, this.#actions);
    const after = [...this.#list.children].find((other) => this.#behind(this.#cards.get(other.dataset.id).item, item));
    this.#cards.set(item.id, card);
    this.#list.insertBefore(card.element, after ?? null);
  }

  /** Whether the first card comes after the second; equal times are ordered by id, as on the server. */
  #behind(one, two) {
    const difference = Date.parse(two.createdAt) - Date.parse(one.createdAt) || (one.id < two.id ? 1 : -1);
    return difference * this.order > 0;
  }
}
