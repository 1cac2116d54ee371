/** A progress bar drawn as a line of notes that fill in one by one. */

import { element } from "./dom.js";

const NOTES = 56;

export class MelodyProgress {
  constructor() {
    this.notes = Array.from({ length: NOTES }, (_, n) => melodyNote(n));
    this.node = element(
      "div",
      { className: "melody", role: "progressbar", "aria-label": "Transcription", "aria-valuemin": 0, "aria-valuemax": 100 },
      ...this.notes,
    );
  }

  /** @param {number | null} fraction null: not known yet @param {string} words */
  show(fraction, words) {
    this.node.classList.toggle("unknown", fraction === null);
    this.node.setAttribute("aria-valuetext", words);
    if (fraction === null) this.node.removeAttribute("aria-valuenow");
    else this.node.setAttribute("aria-valuenow", String(Math.round(fraction * 100)));
    const inked = Math.round((fraction ?? 0) * NOTES);
    this.notes.forEach((note, n) => note.classList.toggle("inked", n < inked));
  }
}

/** @param {number} n */
function melodyNote(n) {
  const note = element("span");
  const height = 0.5 + 0.34 * Math.sin(n / 3.1) + 0.16 * Math.sin(n * 1.7);
  note.style.setProperty("--height", height.toFixed(3));
  note.style.setProperty("--turn", String(n));
  return note;
}
