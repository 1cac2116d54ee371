/** Beats and bars of a recording, and the words for places in them. Pure arithmetic. */

import { firstAbove } from "./notes.js";

/** @typedef {{ number: number, start: number, end: number }} Bar a bar and its times in seconds; the first is number 1 */

export class Grid {
  /** @param {import("./api.js").NotesFile} json notes.json */
  constructor(json = {}) {
    this.beats = Float64Array.from(json.beats ?? []); // s
    this.downbeats = Float64Array.from(json.downbeats ?? []); // s
    this.meter = json.meter ?? "";
    this.tempo = json.tempo_bpm ?? 0; // beats per minute
    this.key = json.key ?? "";
  }

  /** True if there are beats to count and bars to number. */
  get known() {
    return this.beats.length > 1 && this.downbeats.length > 0;
  }

  /** Return the length of the beat at a time, in s. @param {number} time */
  beatLength(time) {
    if (this.beats.length < 2) return 0.5;
    const n = Math.min(this.beats.length - 2, Math.max(0, firstAbove(this.beats, time) - 1));
    return this.beats[n + 1] - this.beats[n];
  }

  /** Beats in a bar, as the meter says. */
  get beatsInBar() {
    const [count, unit] = this.meter.split("/").map(Number);
    if (!count) return 4;
    return unit >= 8 && count > 3 && count % 3 === 0 ? count / 3 : count;
  }

  /** Return the bar at a time. Before the first downbeat is bar 0, an upbeat. @param {number} time @returns {Bar} */
  barAt(time) {
    return this.barOf(firstAbove(this.downbeats, time + 1e-4));
  }

  /** Return a bar by its number. @param {number} number @returns {Bar} */
  barOf(number) {
    return { number, start: this.#edge(number - 1), end: this.#edge(number) };
  }

  /** Return the n-th downbeat, from 0; beyond the ends bars go on in the length of the nearest. @param {number} n */
  #edge(n) {
    const { downbeats } = this;
    const last = downbeats.length - 1;
    if (n >= 0 && n <= last) return downbeats[n];
    const bar = this.beatLength(n < 0 ? 0 : Infinity) * this.beatsInBar;
    return n < 0 ? Math.max(0, downbeats[0] + n * bar) : downbeats[last] + (n - last) * bar;
  }

  /** Return the nearest beat, or part of a beat. @param {number} time @param {number} [parts] of a beat */
  snap(time, parts = 1) {
    if (!this.known) return time;
    const n = Math.max(0, firstAbove(this.beats, time) - 1);
    const start = this.beats[n];
    const step = this.beatLength(time) / parts;
    return Math.max(0, start + Math.round((time - start) / step) * step);
  }

  /** Return the time that lies some beats later. @param {number} time @param {number} beats may be negative */
  shift(time, beats) {
    if (!this.known) return time + beats * 0.5;
    const at = this.#beatAt(time) + beats;
    const n = Math.min(this.beats.length - 2, Math.max(0, Math.floor(at)));
    return Math.max(0, this.beats[n] + (at - n) * (this.beats[n + 1] - this.beats[n]));
  }

  /** @param {number} time */
  #beatAt(time) {
    const n = Math.min(this.beats.length - 2, Math.max(0, firstAbove(this.beats, time + 1e-4) - 1));
    return n + (time - this.beats[n]) / (this.beats[n + 1] - this.beats[n]);
  }

  /** Return how many beats lie between two times. @param {number} from @param {number} to */
  beatsBetween(from, to) {
    return this.known ? this.#beatAt(to) - this.#beatAt(from) : (to - from) / 0.5;
  }

  /** Return the place of a time, as "bar 12, beat 3"; "" without beats. @param {number} time */
  placeWords(time) {
    if (!this.known) return "";
    const bar = this.barAt(time);
    const beat = firstAbove(this.beats, time + 1e-4) - firstAbove(this.beats, bar.start - 1e-4);
    return bar.number === 0 ? "upbeat" : `bar ${bar.number}, beat ${Math.max(1, beat)}`;
  }

  /** Call `each` for the bars from one time to another. */
  forBars(/** @type {number} */ from, /** @type {number} */ to, /** @type {(number: number, start: number) => void} */ each) {
    for (let n = Math.max(0, firstAbove(this.downbeats, from) - 1); n < this.downbeats.length; n += 1) {
      if (this.downbeats[n] > to) return;
      each(n + 1, this.downbeats[n]);
    }
  }

  /** Tempo, meter and key in words; "" if nothing is known. */
  get words() {
    const tempo = this.tempo ? `${Math.round(this.tempo)} beats per minute` : "";
    return [this.meter && `${this.meter} time`, tempo, keyName(this.key)].filter(Boolean).join(" · ");
  }
}

/** "Bb minor" → "B♭ minor". @param {string} key */
export function keyName(key) {
  return key.replace(/^([A-G])b/, "$1♭").replace(/^([A-G])#/, "$1♯");
}
