/** The result of a job: the piano roll with its tools, the legend and the player. */

import { element, setText } from "./dom.js";
import { clock, counted } from "./format.js";
import { NoteSequence } from "./notes.js";
import { PianoRoll } from "./piano_roll.js";
import { Player } from "./player.js";
import { trackClass } from "./roll_painter.js";

export class ResultView {
  #sequence = new NoteSequence({ notes: [] });
  /** @type {Set<number>} */
  #hidden = new Set();
  #animation = 0;

  constructor() {
    this.player = new Player();
    this.roll = new PianoRoll();
    this.playButton = element("button", { type: "button", className: "play", id: "play" });
    this.time = element("p", { className: "time", id: "time" });
    this.count = element("p", { className: "note-count", id: "note-count" });
    this.legend = element("ul", { className: "legend", "aria-label": "Instruments" });
    this.none = element(
      "p",
      { className: "empty", hidden: true },
      "No notes were found in this recording. Try another model, or lower the thresholds under Options.",
    );
    const words = element("div", { className: "roll-words" }, this.time, this.count);
    const tools = element("div", { className: "roll-tools" }, this.playButton, words, this.#zoomTools());
    this.frame = element("div", { className: "roll-frame" }, tools, this.roll.node);
    this.node = element("div", { className: "result", hidden: true }, this.none, this.frame, this.legend);
    this.#connect();
  }

  #zoomTools() {
    const tool = (/** @type {string} */ sign, /** @type {string} */ name, /** @type {() => void} */ act) => {
      const node = element("button", { type: "button", className: "tool", "aria-label": name, title: name }, sign);
      node.addEventListener("click", act);
      return node;
    };
    return element(
      "div",
      { className: "zoom-tools", role: "group", "aria-label": "Zoom" },
      tool("−", "Zoom out", () => this.roll.zoomOut()),
      tool("+", "Zoom in", () => this.roll.zoomIn()),
      tool("Fit", "Fit the whole recording", () => this.roll.fit()),
    );
  }

  #connect() {
    this.playButton.addEventListener("click", () => this.player.toggle());
    this.player.addEventListener("change", () => this.#showPlayer());
    this.roll.onSeek = (time) => this.player.seek(time);
    this.roll.moving.addEventListener("keydown", (event) => {
      if (event.key !== " ") return;
      event.preventDefault();
      this.player.toggle();
    });
  }

  /** @param {import("./api.js").NotesFile} json notes.json */
  show(json) {
    const sequence = new NoteSequence(json);
    this.#sequence = sequence;
    this.#hidden = new Set();
    this.node.hidden = false;
    this.none.hidden = sequence.count > 0;
    this.frame.hidden = sequence.count === 0;
    setText(this.count, counted(sequence.count, "note"));
    this.player.muted = this.#hidden;
    this.player.load(sequence);
    this.roll.show(sequence);
    this.#showLegend();
    this.#showPlayer();
  }

  hide() {
    this.stop();
    this.node.hidden = true;
  }

  stop() {
    this.player.pause();
  }

  #showLegend() {
    const { tracks } = this.#sequence;
    this.legend.replaceChildren(...tracks.map((_, n) => element("li", {}, this.#legendEntry(n))));
    this.legend.hidden = tracks.length === 0;
  }

  /** @param {number} n */
  #legendEntry(n) {
    const track = this.#sequence.tracks[n];
    const swatch = element("span", { className: `swatch ${trackClass(this.#sequence, n)}` });
    const count = element("span", { className: "legend-count" }, track.count.toLocaleString("en"));
    const node = element("button", { type: "button", className: "legend-entry", "aria-pressed": "true" });
    node.title = "Show and play this instrument, or hide and mute it";
    node.append(swatch, track.name, count);
    node.addEventListener("click", () => {
      if (!this.#hidden.delete(n)) this.#hidden.add(n);
      node.setAttribute("aria-pressed", String(!this.#hidden.has(n)));
      this.roll.hideTracks(this.#hidden);
    });
    return node;
  }

  #showPlayer() {
    const { playing, position } = this.player;
    this.playButton.classList.toggle("playing", playing);
    this.playButton.setAttribute("aria-label", playing ? "Pause" : "Play");
    this.playButton.title = playing ? "Pause" : "Play";
    this.roll.setPosition(Math.min(position, this.#sequence.duration), playing);
    setText(this.time, `${clock(Math.min(position, this.#sequence.duration))} / ${clock(this.#sequence.duration)}`);
    cancelAnimationFrame(this.#animation);
    if (playing) this.#animation = requestAnimationFrame(() => this.#showPlayer());
  }
}
