/** A click on every beat, and one bar of them before playback starts. */

import { firstAbove } from "./notes.js";

const LENGTH = 0.05; // s

export class Clicks {
  /** @type {import("./grid.js").Grid | null} */
  #grid = null;
  #next = 0;
  /** @type {Set<OscillatorNode>} */
  #sounding = new Set();

  /** @param {AudioContext} context @param {AudioNode} destination */
  constructor(context, destination) {
    this.context = context;
    this.destination = destination;
  }

  /** @param {import("./grid.js").Grid} grid @param {number} position s */
  begin(grid, position) {
    this.#grid = grid;
    this.#next = firstAbove(grid.beats, position - 1e-3);
  }

  /** Schedule the beats before a position. @param {import("./clock.js").Clock} clock @param {number} until s */
  schedule(clock, until) {
    const grid = this.#grid;
    if (!grid) return;
    for (; this.#next < grid.beats.length && grid.beats[this.#next] < until; this.#next += 1) {
      const beat = grid.beats[this.#next];
      this.#sound(clock.timeOf(beat), isDownbeat(grid, beat));
    }
  }

  /** Skip the beats before a position. @param {number} until s */
  skip(until) {
    const beats = this.#grid?.beats;
    while (beats && this.#next < beats.length && beats[this.#next] < until) this.#next += 1;
  }

  /**
   * Schedule a bar of clicks; return how long it lasts, in s of the audio clock.
   * @param {import("./grid.js").Grid} grid @param {number} position where playback will start @param {number} rate
   */
  countIn(grid, position, rate, /** @type {number} */ at) {
    const length = grid.beatLength(position) / rate;
    for (let n = 0; n < grid.beatsInBar; n += 1) this.#sound(at + n * length, n === 0);
    return grid.beatsInBar * length;
  }

  silence() {
    for (const each of this.#sounding) each.stop();
    this.#sounding.clear();
  }

  /** @param {number} at @param {boolean} accent */
  #sound(at, accent) {
    const { context } = this;
    const time = Math.max(at, context.currentTime);
    const oscillator = new OscillatorNode(context, { frequency: accent ? 1760 : 1175 });
    const envelope = new GainNode(context, { gain: 0 });
    envelope.gain.setValueAtTime(accent ? 0.5 : 0.3, time);
    envelope.gain.setTargetAtTime(0, time + 0.004, 0.012);
    oscillator.connect(envelope).connect(this.destination);
    oscillator.start(time);
    oscillator.stop(time + LENGTH);
    this.#sounding.add(oscillator);
    oscillator.addEventListener("ended", () => this.#sounding.delete(oscillator));
  }
}

/** @param {import("./grid.js").Grid} grid @param {number} beat */
function isDownbeat(grid, beat) {
  const before = grid.downbeats[firstAbove(grid.downbeats, beat + 1e-3) - 1];
  return Math.abs(before - beat) < 1e-2;
}
