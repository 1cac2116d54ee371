/** What is known of one note, in words, and the card that shows it. */

import { element, setText } from "./dom.js";
import { preciseClock } from "./format.js";

/** @typedef {import("./notes.js").NoteSequence} NoteSequence */
/** @typedef {import("./grid.js").Grid} Grid */

/** Return the facts about note n. @param {NoteSequence} sequence @param {Grid} grid @param {number} n */
export function noteWords(sequence, grid, n) {
  const track = sequence.tracks[sequence.trackOf[n]];
  const length = sequence.offsets[n] - sequence.onsets[n];
  const confidence = sequence.confidences[n];
  return [
    sequence.nameOf(n),
    track.isDrum ? "drums" : track.name.toLowerCase(),
    `at ${preciseClock(sequence.onsets[n])}`,
    grid.placeWords(sequence.onsets[n]),
    `for ${length.toFixed(2)} s${grid.known ? ` (${beatsWords(grid, sequence.onsets[n], sequence.offsets[n])})` : ""}`,
    `velocity ${sequence.velocities[n]}`,
    Number.isNaN(confidence) ? "" : `confidence ${Math.round(confidence * 100)} %`,
  ].filter(Boolean);
}

/** @param {Grid} grid @param {number} onset @param {number} offset */
function beatsWords(grid, onset, offset) {
  const beats = grid.beatsBetween(onset, offset);
  const words = beats < 10 ? beats.toFixed(1) : String(Math.round(beats));
  return `${words} ${words === "1.0" ? "beat" : "beats"}`;
}

export class NoteCard {
  /** @param {() => void} onClose */
  constructor(onClose) {
    this.name = element("strong", { className: "note-name" });
    this.facts = element("span", { className: "note-facts" });
    const close = element("button", { type: "button", className: "tool", "aria-label": "Deselect the note" }, "×");
    close.addEventListener("click", onClose);
    this.node = element("div", { className: "note-card", role: "status", "aria-label": "Selected note", hidden: true });
    this.node.append(this.name, this.facts, close);
  }

  /** @param {NoteSequence} sequence @param {Grid} grid @param {number} n -1: none */
  show(sequence, grid, n) {
    this.node.hidden = n < 0;
    if (n < 0) return;
    const [name, ...facts] = noteWords(sequence, grid, n);
    setText(this.name, name);
    setText(this.facts, facts.join(" · "));
  }
}
