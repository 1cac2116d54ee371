/** The audio graph: the recording, the notes and the clicks, mixed. */

import { Clicks } from "./click.js";
import { Synth } from "./synth.js";

const FADE = 0.015; // s

export class Studio {
  /** @param {import("./recording.js").Recording} recording */
  constructor(recording) {
    const context = new AudioContext({ latencyHint: "interactive" });
    this.context = context;
    this.master = new GainNode(context);
    this.recorded = new GainNode(context);
    this.played = new GainNode(context);
    this.master.connect(context.destination);
    this.recorded.connect(this.master);
    this.played.connect(this.master);
    recording.connect(context, this.recorded);
    this.synth = new Synth(context, this.played);
    this.clicks = new Clicks(context, this.master);
  }

  /** Time of what leaves the loudspeaker now, in s of the audio clock. */
  get audibleTime() {
    return this.context.currentTime - (this.context.outputLatency || 0);
  }

  /** @param {number} balance 0: only the recording, 1: only the notes @param {number} volume 0-1 */
  mix(balance, volume) {
    const angle = (balance * Math.PI) / 2; // equal power
    const set = (/** @type {GainNode} */ node, /** @type {number} */ gain) =>
      node.gain.setTargetAtTime(gain, this.context.currentTime, FADE);
    set(this.recorded, Math.cos(angle));
    set(this.played, Math.sin(angle));
    set(this.master, volume ** 2); // as loudness is felt
  }

  silence() {
    this.synth.silence();
    this.clicks.silence();
  }
}
