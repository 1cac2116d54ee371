/** Draws the notes of a job while they are found: all of the recording in one view. */

import { sized } from "./canvas.js";
import { element, oncePerFrame, setText } from "./dom.js";
import { counted } from "./format.js";

const COLORS = 8;
const LOWEST = 24;
const HIGHEST = 100;

export class LiveRoll {
  #seconds = 0; // of the recording; 0: unknown

  /** @param {import("./live_notes.js").LiveNotes} live */
  constructor(live) {
    this.live = live;
    this.canvas = element("canvas", { className: "live-canvas", "aria-hidden": "true" });
    this.words = element("p", { className: "live-words" });
    this.node = element("div", { className: "live", hidden: true }, this.canvas, this.words);
    this.draw = oncePerFrame(() => this.#draw());
    live.addEventListener("change", () => this.#change());
    new ResizeObserver(() => this.draw()).observe(this.canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  /** @param {number | null | undefined} seconds */
  setLength(seconds) {
    this.#seconds = seconds ?? 0;
    this.draw();
  }

  #change() {
    const { size } = this.live.notes;
    this.node.hidden = size === 0;
    setText(this.words, `${counted(size, "note")} found so far`);
    this.draw();
  }

  #draw() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    if (!width || this.node.hidden) return;
    const ctx = sized(this.canvas, width, height);
    const style = getComputedStyle(this.canvas);
    const colors = Array.from({ length: COLORS }, (_, n) => style.getPropertyValue(`--track-${n}`));
    const drums = style.getPropertyValue("--track-drums");
    /** @type {Map<number, number>} color of each program, in the order in which they came */
    const programs = new Map();
    const notes = [...this.live.notes.values()];
    const end = this.#seconds || notes.reduce((latest, note) => Math.max(latest, note.offset), 1);
    const row = height / (HIGHEST - LOWEST + 1);
    for (const note of notes) {
      if (!note.is_drum && !programs.has(note.program)) programs.set(note.program, programs.size % COLORS);
      ctx.fillStyle = note.is_drum ? drums : colors[programs.get(note.program) ?? 0];
      const pitch = Math.min(HIGHEST, Math.max(LOWEST, note.pitch));
      const length = Math.max(1.5, ((note.offset - note.onset) / end) * width);
      ctx.fillRect((note.onset / end) * width, (HIGHEST - pitch) * row, length, Math.max(2, row - 0.5));
    }
  }
}
