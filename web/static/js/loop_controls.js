/** The loop: on or off, and its ends in bars, or in seconds where no beats are known. */

import { element, setText } from "./dom.js";
import { preciseClock } from "./format.js";
import { Grid } from "./grid.js";

const BARS = 4; // of a new loop
const SECONDS = 8; // without bars

export class LoopControls {
  #grid = new Grid();

  /** @param {import("./transport.js").Transport} transport */
  constructor(transport) {
    this.transport = transport;
    this.button = element("button", { type: "button", className: "tool", "aria-pressed": "false" }, "Loop");
    this.button.title = "Repeat a passage. Drag across the ruler to choose one.";
    this.first = number("Loop from bar");
    this.last = number("Loop to bar");
    this.words = element("span", { className: "loop-words" });
    this.bars = element("span", { className: "loop-bars" }, "bars", this.first, "to", this.last);
    this.node = element("span", { className: "loop" }, this.button, this.bars, this.words);
    this.button.addEventListener("click", () => this.toggle());
    for (const input of [this.first, this.last]) input.addEventListener("change", () => this.#read(input));
  }

  /** @param {Grid} grid */
  load(grid) {
    this.#grid = grid;
  }

  /** Start or end the loop; a new one begins with the bar at the playhead, or after an upbeat. */
  toggle() {
    const { transport } = this;
    if (transport.loop) {
      transport.setLoop(null);
      return;
    }
    const { position, duration } = transport;
    if (!this.#grid.known) {
      const start = Math.max(0, Math.min(position, duration - SECONDS));
      transport.setLoop({ start, end: Math.min(duration, start + SECONDS) });
      return;
    }
    const first = Math.max(1, this.#grid.barAt(Math.min(position, duration - 0.1)).number); // no upbeat
    transport.setLoop(this.#barsFrom(first, first + BARS - 1));
  }

  /** @param {number} first @param {number} last number of a bar */
  #barsFrom(first, last) {
    const end = Math.min(this.transport.duration, this.#grid.barOf(last).end);
    return { start: this.#grid.barOf(first).start, end };
  }

  /** @param {HTMLInputElement} changed */
  #read(changed) {
    let [first, last] = [this.first, this.last].map((input) => Math.max(0, Math.round(Number(input.value))));
    if (last < first) [first, last] = changed === this.first ? [first, first] : [last, last];
    this.transport.setLoop(this.#barsFrom(first, last));
  }

  show() {
    const { loop } = this.transport;
    this.button.setAttribute("aria-pressed", String(loop !== null));
    this.bars.hidden = !loop || !this.#grid.known;
    this.words.hidden = !loop || this.#grid.known;
    if (!loop) return;
    setText(this.words, `${preciseClock(loop.start)} to ${preciseClock(loop.end)}`);
    this.first.value = String(this.#grid.barAt(loop.start).number);
    this.last.value = String(this.#grid.barAt(loop.end - 0.02).number);
  }
}

/** @param {string} name */
function number(name) {
  return element("input", { type: "number", className: "number bar-number", min: "0", "aria-label": name });
}
