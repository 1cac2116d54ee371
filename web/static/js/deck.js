/** A media element that streams a recording into the audio graph, through a delay and a gate. */

const PREPARE_MS = 8_000; // until playback goes on without the recording, which is still loading
/** The longest delay of a deck, in s. */
export const MAX_DELAY = 2;
const CROSSFADE = 0.004; // s

/**
 * Return how far what sounds is ahead of `currentTime`, in s of the piece. Changing the speed without the pitch takes
 * windows of sound from around the current time. Measured in Chromium with clicks at known times.
 * @param {number} rate
 */
function stretchLead(rate) {
  return rate === 1 ? 0 : 0.052 - 0.033 * rate;
}

export class Deck {
  href = "";
  #rate = 1;
  #wait = 0; // s by which its sound is delayed
  /** @type {DelayNode | null} */
  #delay = null;
  /** @type {GainNode | null} */
  #gate = null;

  constructor() {
    this.element = new Audio();
    this.element.preload = "metadata";
    this.element.preservesPitch = true;
  }

  /** @param {string | null} href null: there is none */
  load(href) {
    this.element.pause();
    this.href = href ?? "";
    if (href) this.element.src = href;
    else this.element.removeAttribute("src");
  }

  /** @param {AudioContext} context @param {AudioNode} destination */
  connect(context, destination) {
    if (this.#gate) return;
    this.#delay = new DelayNode(context, { maxDelayTime: MAX_DELAY });
    this.#gate = new GainNode(context);
    const source = new MediaElementAudioSourceNode(context, { mediaElement: this.element });
    source.connect(this.#delay).connect(this.#gate).connect(destination);
  }

  /** @param {number} rate */
  set rate(rate) {
    this.#rate = rate;
    this.element.playbackRate = rate;
  }

  /** How long its sound is delayed, in s of the audio clock. */
  get delay() {
    return this.#wait;
  }

  /** Delay its sound; the gate should be closed meanwhile. @param {number} seconds 0 - MAX_DELAY */
  set delay(seconds) {
    this.#wait = seconds;
    if (this.#delay) this.#delay.delayTime.value = this.#wait;
  }

  /** Move to a position, and wait until it can be played from there. @param {number} position s */
  async prepare(position) {
    const { element } = this;
    if (element.readyState === 0) {
      element.preload = "auto";
      await settled(element, ["loadedmetadata", "error"]);
    }
    if (element.readyState === 0) return;
    const target = Math.min(position, Number.isFinite(element.duration) ? element.duration : position);
    if (Math.abs(element.currentTime - target) > 1e-4 || element.ended) {
      element.currentTime = target;
      await settled(element, ["seeked", "error"]);
    }
    if (element.readyState < HTMLMediaElement.HAVE_FUTURE_DATA && !element.ended) {
      await settled(element, ["canplay", "error", "ended"]);
    }
  }

  /** Start without a delay. Rejected where the browser cannot play it. */
  async start() {
    this.delay = 0;
    this.element.playbackRate = this.#rate;
    try {
      await this.element.play();
    } catch (error) {
      const stopped = error instanceof DOMException && error.name === "AbortError"; // before it started
      if (!stopped) throw error;
    }
  }

  stop() {
    this.element.pause();
    if (this.#wait) this.closeGateAt(0); // what is delayed would sound on
  }

  /** The position that sounds, in s; null while it does not move. */
  get position() {
    const { element } = this;
    const moves = !element.paused && !element.seeking && !element.ended;
    if (!moves || element.readyState < HTMLMediaElement.HAVE_FUTURE_DATA) return null;
    return this.place + stretchLead(this.#rate);
  }

  /** The position that sounds or will sound next, in s; less exact than `position`. */
  get place() {
    return this.element.currentTime - this.#wait * this.#rate;
  }

  /** Silence it until the gate is opened. */
  closeGate() {
    if (!this.#gate) return;
    this.#gate.gain.cancelScheduledValues(0);
    this.#gate.gain.value = 0;
  }

  /** Silence it from a time on. @param {number} time of the audio clock; now if it has passed */
  closeGateAt(time) {
    this.#target(0, time, 0.002);
  }

  /** Make it audible from a time on. @param {number} time of the audio clock; now if it has passed */
  openGate(time) {
    this.#target(1, time, 0.003);
  }

  /** Fade it in or out within a few ms that end at a time in the future. @param {0 | 1} gain @param {number} time of the audio clock */
  fade(gain, time) {
    if (!this.#gate) return;
    const value = this.#gate.gain;
    value.cancelScheduledValues(this.#gate.context.currentTime);
    value.setValueAtTime(1 - gain, time - CROSSFADE);
    value.linearRampToValueAtTime(gain, time);
  }

  /** @param {number} gain @param {number} time @param {number} constant s */
  #target(gain, time, constant) {
    if (!this.#gate) return;
    const now = this.#gate.context.currentTime;
    this.#gate.gain.cancelScheduledValues(now);
    this.#gate.gain.setTargetAtTime(gain, Math.max(time, now), constant);
  }
}

/** Wait for one of some events, or for a while. @param {EventTarget} target @param {string[]} types */
function settled(target, types) {
  return new Promise((/** @type {(value: void) => void} */ resolve) => {
    const done = () => {
      clearTimeout(timer);
      types.forEach((type) => target.removeEventListener(type, done));
      resolve();
    };
    const timer = setTimeout(done, PREPARE_MS);
    types.forEach((type) => target.addEventListener(type, done));
  });
}
