/** Playback with Web Audio: a soft, piano-like sound for every program, noise and thumps for drums. */

import { firstAbove } from "./notes.js";

const SCHEDULE_MS = 60; // how often notes are scheduled
const AHEAD = 0.35; // s scheduled in advance
const AHEAD_HIDDEN = 2.5; // timers of a hidden tab run once a second
const MOST_VOICES = 80;
const RELEASE = 0.14; // s
const LONGEST = 12; // s after which a held note has died away
const PARTIALS = [0, 1, 0.42, 0.2, 0.12, 0.07, 0.04, 0.025, 0.012];

/** Fires "change" when it starts, stops, seeks or reaches the end. */
export class Player extends EventTarget {
  playing = false;
  /** @type {Set<number>} tracks */
  muted = new Set();

  /** @type {import("./notes.js").NoteSequence | null} */
  #sequence = null;
  /** @type {AudioContext | null} */
  #context = null;
  /** @type {AudioNode | undefined} */
  #limiter;
  /** @type {PeriodicWave | undefined} one struck string */
  #wave;
  /** @type {AudioBuffer | undefined} */
  #noise;
  /** @type {GainNode | null} one for each run of playback, so that a stop can fade it out */
  #output = null;
  #position = 0; // s, while stopped
  #startedAt = 0; // audio clock at which position 0 would have sounded
  #next = 0; // first note not yet scheduled
  #timer = 0;
  /** @type {Set<{ stop(at: number): void }>} */
  #voices = new Set();

  /** @param {import("./notes.js").NoteSequence} sequence */
  load(sequence) {
    this.pause();
    this.#sequence = sequence;
    this.#position = 0;
  }

  /** s into the piece */
  get position() {
    if (!this.playing || !this.#context) return this.#position;
    return Math.max(0, this.#context.currentTime - this.#startedAt);
  }

  toggle() {
    if (this.playing) this.pause();
    else this.play();
  }

  play() {
    const sequence = this.#sequence;
    if (this.playing || !sequence || sequence.count === 0) return;
    if (this.#position >= sequence.duration - 0.01) this.#position = 0;
    const context = this.#ready();
    context.resume();
    this.#startedAt = context.currentTime + 0.06 - this.#position;
    this.#next = firstAbove(sequence.onsets, this.#position - 1e-6);
    this.playing = true;
    this.#timer = window.setInterval(() => this.#schedule(), SCHEDULE_MS);
    this.#schedule();
    this.#changed();
  }

  pause() {
    if (!this.playing) return;
    this.#position = this.position;
    this.#silence();
    this.#changed();
  }

  /** @param {number} position s */
  seek(position) {
    const wasPlaying = this.playing;
    if (wasPlaying) this.#silence();
    this.#position = Math.max(0, position);
    if (wasPlaying) this.play();
    else this.#changed();
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }

  /** Return the audio context. Created on the first play: browsers allow sound only after a user gesture. */
  #ready() {
    if (this.#context) return this.#context;
    const context = new AudioContext({ latencyHint: "interactive" });
    const limiter = new DynamicsCompressorNode(context, { threshold: -18, ratio: 6, release: 0.2 });
    limiter.connect(context.destination);
    this.#context = context;
    this.#limiter = limiter;
    this.#wave = context.createPeriodicWave(new Float32Array(PARTIALS.length), new Float32Array(PARTIALS));
    this.#noise = noiseOf(context);
    return context;
  }

  #silence() {
    clearInterval(this.#timer);
    this.playing = false;
    const now = this.#context?.currentTime ?? 0;
    this.#output?.gain.setTargetAtTime(0, now, 0.02);
    this.#output = null;
    for (const voice of this.#voices) voice.stop(now + 0.15);
    this.#voices.clear();
  }

  #schedule() {
    const sequence = this.#sequence;
    const context = this.#context;
    if (!sequence || !context) return;
    if (this.position > sequence.duration + 0.3) {
      this.#position = 0;
      this.#silence();
      this.#changed();
      return;
    }
    const until = this.position + (document.hidden ? AHEAD_HIDDEN : AHEAD);
    for (; this.#next < sequence.count && sequence.onsets[this.#next] < until; this.#next += 1) {
      if (!this.muted.has(sequence.trackOf[this.#next]) && this.#voices.size < MOST_VOICES) this.#sound(this.#next);
    }
  }

  /** @param {number} n */
  #sound(n) {
    const sequence = /** @type {import("./notes.js").NoteSequence} */ (this.#sequence);
    const context = /** @type {AudioContext} */ (this.#context);
    const at = Math.max(context.currentTime, this.#startedAt + sequence.onsets[n]);
    const loudness = 0.22 * (sequence.velocities[n] / 127) ** 1.5 + 0.01;
    const length = Math.min(LONGEST, Math.max(0.05, sequence.offsets[n] - sequence.onsets[n]));
    const pitch = sequence.pitches[n];
    const drum = sequence.tracks[sequence.trackOf[n]].isDrum;
    const source = drum ? this.#drum(pitch, at, loudness) : this.#key(pitch, at, length, loudness);
    this.#voices.add(source);
    source.addEventListener("ended", () => this.#voices.delete(source));
  }

  #destination() {
    const context = /** @type {AudioContext} */ (this.#context);
    if (!this.#output) {
      this.#output = new GainNode(context, { gain: 0.9 });
      this.#output.connect(/** @type {AudioNode} */ (this.#limiter));
    }
    return this.#output;
  }

  /** Play a struck string: bright at first, then darker and softer. */
  #key(/** @type {number} */ pitch, /** @type {number} */ at, /** @type {number} */ length, /** @type {number} */ loudness) {
    const context = /** @type {AudioContext} */ (this.#context);
    const frequency = 440 * 2 ** ((pitch - 69) / 12); // Hz
    const oscillator = new OscillatorNode(context, { frequency, periodicWave: this.#wave });
    const top = Math.min(12_000, frequency * (4 + 14 * loudness) + 600);
    const filter = new BiquadFilterNode(context, { type: "lowpass", frequency: top, Q: 0.3 });
    filter.frequency.setTargetAtTime(Math.min(top, frequency * 2.2 + 200), at, 0.25);
    const envelope = new GainNode(context, { gain: 0 });
    envelope.gain.setValueAtTime(0, at);
    envelope.gain.linearRampToValueAtTime(loudness, at + 0.006);
    envelope.gain.setTargetAtTime(loudness * 0.12, at + 0.006, 0.5 + 60 / frequency); // low strings ring longer
    envelope.gain.setTargetAtTime(0, at + length, RELEASE / 3);
    oscillator.connect(filter).connect(envelope).connect(this.#destination());
    oscillator.start(at);
    oscillator.stop(at + length + 2 * RELEASE);
    return oscillator;
  }

  /** Play a drum: a falling sine for kicks, filtered noise for all others. */
  #drum(/** @type {number} */ pitch, /** @type {number} */ at, /** @type {number} */ loudness) {
    const context = /** @type {AudioContext} */ (this.#context);
    const kick = pitch <= 36;
    const length = kick ? 0.25 : pitch >= 49 ? 0.5 : 0.14; // cymbals ring
    const envelope = new GainNode(context, { gain: 0 });
    envelope.gain.setValueAtTime(loudness * (kick ? 2.4 : 0.8), at);
    envelope.gain.setTargetAtTime(0, at, length / 4);
    envelope.connect(this.#destination());
    const source = kick ? thump(context, at) : new AudioBufferSourceNode(context, { buffer: this.#noise });
    const band = new BiquadFilterNode(context, { type: kick ? "lowpass" : "highpass", frequency: bandOf(pitch) });
    source.connect(band).connect(envelope);
    source.start(at);
    source.stop(at + length + 0.05);
    return source;
  }
}

/** Return the cutoff frequency of a drum's filter in Hz. @param {number} pitch */
function bandOf(pitch) {
  if (pitch <= 36) return 400;
  return pitch >= 42 && pitch !== 43 && pitch !== 45 && pitch !== 47 ? 5000 : 900;
}

/** @param {AudioContext} context @param {number} at */
function thump(context, at) {
  const oscillator = new OscillatorNode(context, { frequency: 140 });
  oscillator.frequency.setTargetAtTime(45, at, 0.04);
  return oscillator;
}

/** @param {AudioContext} context one second of white noise */
function noiseOf(context) {
  const buffer = context.createBuffer(1, context.sampleRate, context.sampleRate);
  const samples = buffer.getChannelData(0);
  for (let n = 0; n < samples.length; n += 1) samples[n] = Math.random() * 2 - 1;
  return buffer;
}
