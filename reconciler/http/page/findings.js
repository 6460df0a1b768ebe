// The operator's banner: the open findings, each with what to do. It says what `kie-reconciler status` says.

const FRESH = 15_000; // the leader publishes as often

export class Findings {
  #element;
  #asked = -Infinity;

  constructor(element) {
    this.#element = element;
  }

  /** Ask for the findings, unless they were asked for within the last fifteen seconds; without an answer the last ones stay. */
  async update(api, signal) {
    if (performance.now() - this.#asked < FRESH) return;
    this.#asked = performance.now();
    const answer = await api.status(signal).catch(() => null);
    if (answer !== null && !signal.aborted) this.#show(answer.findings);
  }

  /** Show none, and ask anew at the next update. */
  clear() {
    this.#asked = -Infinity;
    this.#show([]);
  }

  #show(findings) {
    const lines = findings.map((finding) => {
      const line = document.createElement("li");
      line.dataset.severity = finding.severity;
      const name = document.createElement("strong");
      name.textContent = finding.name;
      line.append(name, `: ${finding.says} ${finding.do}`);
      return line;
    });
    this.#element.hidden = lines.length === 0;
    const list = this.#element.querySelector("ul");
    // A screen reader tells a status again whenever it is written, so it is written only when it is another one.
    const shown = lines.map((line) => line.textContent).join("\n");
    if ([...list.children].map((line) => line.textContent).join("\n") !== shown) list.replaceChildren(...lines);
  }
}
