/**
 * The recording at the end of a loop. A media element starts and seeks when it can, so a second one is started before
 * the end, in silence; its sound is delayed until the loop starts with it exactly at the end, and fades in there.
 */

import { MAX_DELAY } from "./deck.js";

const HEAD = 1; // s before the end at which the second deck is started
const LEAD_IN = 0.15; // s that it plays before the start of the loop
const COMPARED = 9; // last measurements whose median is taken: single ones are up to 10 ms off
const FEWEST = 5;
const FIXED = 0.04; // s before the end from which nothing is changed any more

export class Handover {
  /** @type {import("./recording.js").Recording} */
  #recording;
  /** @type {"idle" | "loading" | "waiting" | "playing"} of the second deck */
  #state = "idle";
  #turn = 0;
  /** @type {number[]} when the start of the loop would sound without a delay, in s of the audio clock */
  #arrivals = [];
  /** True if the second deck will take over at the end of the loop. */
  ready = false;

  /** @param {import("./recording.js").Recording} recording */
  constructor(recording) {
    this.#recording = recording;
  }

  /** Bring the second deck closer to its entry, at every tick. @type {(now: number, end: number, start: number, rate: number) => void} */
  approach(now, end, start, rate) {
    if (this.#state === "idle") this.#load(Math.max(0, start - LEAD_IN * rate));
    else if (this.#state === "waiting" && end - now < HEAD) this.#start();
    else if (this.#state === "playing" && end - now > FIXED) this.#align(now, end, start, rate);
  }

  /** Swap the decks, after the end of the loop. */
  finish() {
    if (this.ready) this.#recording.swap();
    this.#reset();
  }

  /** Stop the second deck; the first one plays on. */
  cancel() {
    if (this.ready) this.#recording.deck.openGate(0);
    if (this.#state === "playing") {
      this.#recording.standby.closeGate();
      this.#recording.standby.stop();
    }
    this.#reset();
  }

  #reset() {
    this.#turn += 1;
    this.#state = "idle";
    this.#arrivals = [];
    this.ready = false;
  }

  /** @param {number} position s */
  async #load(position) {
    const turn = this.#turn;
    this.#state = "loading";
    await this.#recording.standby.prepare(position);
    if (turn === this.#turn) this.#state = "waiting";
  }

  #start() {
    const { standby } = this.#recording;
    this.#state = "playing";
    standby.closeGate();
    standby.start().catch(() => {}); // the first deck is sought instead
  }

  /** @type {(now: number, end: number, start: number, rate: number) => void} */
  #align(now, end, start, rate) {
    const { deck, standby } = this.#recording;
    const { position } = standby;
    if (position === null) return;
    this.#arrivals.push(now - standby.delay - (position - start) / rate);
    const last = this.#arrivals.slice(-COMPARED).sort((a, b) => a - b);
    const delay = end - last[last.length >> 1];
    if (last.length < FEWEST || delay < 0 || delay > MAX_DELAY) return;
    standby.delay = delay;
    standby.fade(1, end);
    deck.fade(0, end);
    this.ready = true;
  }
}
