/** The instruments: shown and played or not, or alone. */

import { element } from "./dom.js";
import { trackClass } from "./palette.js";

/** @typedef {import("./notes.js").NoteSequence} NoteSequence */

/** Fires "change" when an instrument is switched on or off. */
export class Legend extends EventTarget {
  /** @type {Set<number>} tracks that are switched off */
  off = new Set();
  #solo = -1;
  /** @type {NoteSequence | null} */
  #sequence = null;

  constructor() {
    super();
    this.node = element("ul", { className: "legend", "aria-label": "Instruments" });
  }

  /** @param {NoteSequence} sequence */
  show(sequence) {
    const same = this.#sequence && namesOf(this.#sequence) === namesOf(sequence);
    this.#sequence = sequence;
    if (!same) {
      this.off = new Set();
      this.#solo = -1;
    }
    this.node.hidden = sequence.tracks.length === 0;
    this.#render();
  }

  /** Return the tracks that are neither shown nor played. @returns {Set<number>} */
  get hidden() {
    if (this.#solo < 0) return this.off;
    return new Set([...(this.#sequence?.tracks.keys() ?? [])].filter((n) => n !== this.#solo));
  }

  #render() {
    const tracks = this.#sequence?.tracks ?? [];
    this.node.replaceChildren(...tracks.map((_, n) => element("li", { className: "legend-item" }, ...this.#entry(n))));
  }

  /** @param {number} n */
  #entry(n) {
    const sequence = /** @type {NoteSequence} */ (this.#sequence);
    const track = sequence.tracks[n];
    const swatch = element("span", { className: `swatch ${trackClass(sequence, n)}` });
    const count = element("span", { className: "legend-count" }, track.count.toLocaleString("en"));
    const node = element("button", { type: "button", className: "legend-entry", "aria-pressed": String(!this.hidden.has(n)) });
    node.title = "Show and play this instrument, or hide and mute it";
    node.append(swatch, track.name, count);
    node.addEventListener("click", () => this.#toggle(n));
    if (sequence.tracks.length < 2) return [node];
    const solo = element("button", { type: "button", className: "legend-solo", "aria-pressed": String(this.#solo === n) });
    solo.title = `Only ${track.name}`;
    solo.setAttribute("aria-label", `Only ${track.name}`);
    solo.append("Solo");
    solo.addEventListener("click", () => this.#toggleSolo(n));
    return [node, solo];
  }

  /** @param {number} n */
  #toggle(n) {
    if (this.#solo >= 0) {
      this.off = new Set(this.hidden);
      this.#solo = -1;
    }
    if (!this.off.delete(n)) this.off.add(n);
    this.#changed(n, ".legend-entry");
  }

  /** @param {number} n */
  #toggleSolo(n) {
    this.#solo = this.#solo === n ? -1 : n;
    this.#changed(n, ".legend-solo");
  }

  /** @param {number} n @param {string} focused */
  #changed(n, focused) {
    this.#render();
    /** @type {HTMLElement | null | undefined} */ (this.node.children[n]?.querySelector(focused))?.focus();
    this.dispatchEvent(new Event("change"));
  }
}

/** @param {NoteSequence} sequence */
const namesOf = (sequence) => sequence.tracks.map((track) => track.name).join("|");
