/** Plays notes with Web Audio: with samples of their instruments where they are loaded, else with simple tones. */

import { firstAbove } from "./notes.js";
import { drumTone, Tones } from "./tones.js";

const MOST_VOICES = 96;
const LONGEST = 20; // s
const LIMITER_DELAY = 0.006; // s that a DynamicsCompressorNode looks ahead (Web Audio API, 1.19)
const RELEASE = { piano: 0.12, other: 0.09 }; // s

/** @typedef {import("./notes.js").NoteSequence} NoteSequence */

export class Synth {
  /** @type {NoteSequence | null} */
  #sequence = null;
  #next = 0; // first note not yet scheduled
  /** @type {GainNode | null} one for each run of playback, so that a stop can fade it out */
  #output = null;
  /** @type {GainNode | null} the one before, which may still sound */
  #fading = null;
  /** @type {Set<AudioScheduledSourceNode>} */
  #voices = new Set();
  /** @type {import("./sounds.js").Sounds | null} */
  sounds = null;
  /** @type {(track: number) => boolean} */
  isAudible = () => true;

  /** @param {AudioContext} context @param {AudioNode} destination */
  constructor(context, destination) {
    this.context = context;
    this.limiter = new DynamicsCompressorNode(context, { threshold: -12, ratio: 8, attack: 0.002, release: 0.2 });
    this.limiter.connect(destination);
    this.tones = new Tones(context);
  }

  /** @param {NoteSequence} sequence @param {number} position s */
  begin(sequence, position) {
    this.#sequence = sequence;
    this.#next = firstAbove(sequence.onsets, position - 1e-3);
  }

  /** Schedule the notes before a position. @param {import("./clock.js").Clock} clock @param {number} until s */
  schedule(clock, until) {
    const sequence = this.#sequence;
    if (!sequence) return;
    for (; this.#next < sequence.count && sequence.onsets[this.#next] < until; this.#next += 1) {
      const n = this.#next;
      if (!this.isAudible(sequence.trackOf[n]) || this.#voices.size >= MOST_VOICES) continue;
      const at = clock.timeOf(sequence.onsets[n]) - LIMITER_DELAY;
      const length = (sequence.offsets[n] - sequence.onsets[n]) / clock.rate;
      const track = sequence.tracks[sequence.trackOf[n]];
      this.#sound(track, sequence.pitches[n], sequence.velocities[n], at, length);
    }
  }

  /** Play one note now. @param {{ program: number, isDrum: boolean }} track @param {number} pitch */
  audition(track, pitch, velocity = 90, length = 0.6) {
    this.#sound(track, pitch, velocity, this.context.currentTime + 0.02, length);
  }

  silence() {
    const now = this.context.currentTime;
    for (const output of [this.#output, this.#fading]) output?.gain.setTargetAtTime(0, now, 0.015);
    this.#output = this.#fading = null;
    for (const voice of this.#voices) voice.stop(now + 0.1);
    this.#voices.clear();
  }

  /** Fade out at a time what has been scheduled until now; what comes later is unaffected. @param {number} time of the audio clock */
  silenceAt(time) {
    this.#output?.gain.setTargetAtTime(0, time, 0.015);
    this.#fading = this.#output;
    this.#output = null;
    for (const voice of this.#voices) voice.stop(time + 0.1);
  }

  /** @type {(track: { program: number, isDrum: boolean }, pitch: number, velocity: number, at: number, length: number) => void} */
  #sound(track, pitch, velocity, at, length) {
    const { context } = this;
    const time = Math.max(context.currentTime, at);
    const lasts = Math.min(LONGEST, Math.max(0.05, length));
    const sample = this.sounds?.find(track.program, track.isDrum, pitch);
    const voice = sample
      ? this.#sample(sample, track, pitch, velocity, time, lasts)
      : track.isDrum
        ? drumTone(this.tones, this.#destination(), pitch, velocity, time)
        : this.tones.key(this.#destination(), pitch, velocity, time, lasts);
    this.#voices.add(voice);
    voice.addEventListener("ended", () => this.#voices.delete(voice));
  }

  /** @type {(sample: import("./sounds.js").Sample, track: { program: number, isDrum: boolean }, pitch: number, velocity: number, at: number, length: number) => AudioBufferSourceNode} */
  #sample(sample, track, pitch, velocity, at, length) {
    const { context } = this;
    const source = new AudioBufferSourceNode(context, { buffer: sample.buffer });
    source.playbackRate.value = track.isDrum ? 1 : 2 ** ((pitch - sample.pitch) / 12);
    if (sample.loop) Object.assign(source, { loop: true, loopStart: sample.loop[0], loopEnd: sample.loop[1] });
    const envelope = new GainNode(context, { gain: (velocity / sample.velocity) ** 2 });
    source.connect(envelope).connect(this.#destination());
    source.start(at);
    if (track.isDrum) return source; // it ends by itself
    const release = track.program < 8 ? RELEASE.piano : RELEASE.other;
    envelope.gain.setTargetAtTime(0, at + length, release / 3);
    source.stop(at + length + 2 * release);
    return source;
  }

  #destination() {
    if (!this.#output) {
      this.#output = new GainNode(this.context, { gain: 0.9 });
      this.#output.connect(this.limiter);
    }
    return this.#output;
  }
}
