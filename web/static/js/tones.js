/** Simple tones, until the sounds of the instruments are loaded: struck strings, noise and thumps for drums. */

const RELEASE = 0.14; // s
const PARTIALS = [0, 1, 0.42, 0.2, 0.12, 0.07, 0.04, 0.025, 0.012];

export class Tones {
  /** @param {AudioContext} context */
  constructor(context) {
    this.context = context;
    this.wave = context.createPeriodicWave(new Float32Array(PARTIALS.length), new Float32Array(PARTIALS));
    this.noise = noiseOf(context);
  }

  /** Play a struck string: bright at first, then darker and softer. */
  key(
    /** @type {AudioNode} */ destination,
    /** @type {number} */ pitch,
    /** @type {number} */ velocity,
    /** @type {number} */ at,
    /** @type {number} */ length,
  ) {
    const { context } = this;
    const loudness = loudnessOf(velocity);
    const frequency = 440 * 2 ** ((pitch - 69) / 12); // Hz
    const oscillator = new OscillatorNode(context, { frequency, periodicWave: this.wave });
    const top = Math.min(12_000, frequency * (4 + 14 * loudness) + 600);
    const filter = new BiquadFilterNode(context, { type: "lowpass", frequency: top, Q: 0.3 });
    filter.frequency.setTargetAtTime(Math.min(top, frequency * 2.2 + 200), at, 0.25);
    const envelope = new GainNode(context, { gain: 0 });
    envelope.gain.setValueAtTime(0, at);
    envelope.gain.linearRampToValueAtTime(loudness, at + 0.006);
    envelope.gain.setTargetAtTime(loudness * 0.12, at + 0.006, 0.5 + 60 / frequency); // low strings sound longer
    envelope.gain.setTargetAtTime(0, at + length, RELEASE / 3);
    oscillator.connect(filter).connect(envelope).connect(destination);
    oscillator.start(at);
    oscillator.stop(at + length + 2 * RELEASE);
    return oscillator;
  }
}

/** Play a drum: a falling sine for kicks, filtered noise for all others. */
export function drumTone(
  /** @type {Tones} */ { context, noise },
  /** @type {AudioNode} */ destination,
  /** @type {number} */ pitch,
  /** @type {number} */ velocity,
  /** @type {number} */ at,
) {
  const kick = pitch <= 36;
  const length = kick ? 0.25 : pitch >= 49 ? 0.5 : 0.14; // cymbals last
  const envelope = new GainNode(context, { gain: 0 });
  envelope.gain.setValueAtTime(loudnessOf(velocity) * (kick ? 2.4 : 0.8), at);
  envelope.gain.setTargetAtTime(0, at, length / 4);
  envelope.connect(destination);
  const source = kick ? thump(context, at) : new AudioBufferSourceNode(context, { buffer: noise });
  const band = new BiquadFilterNode(context, { type: kick ? "lowpass" : "highpass", frequency: bandOf(pitch) });
  source.connect(band).connect(envelope);
  source.start(at);
  source.stop(at + length + 0.05);
  return source;
}

/** @param {number} velocity 0-127 */
const loudnessOf = (velocity) => 0.22 * (velocity / 127) ** 1.5 + 0.01;

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
