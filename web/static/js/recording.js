/** The recording: a media element that streams, routed through the audio graph. */

const PREPARE_MS = 8_000; // until playback goes on without the recording, which is still loading

/**
 * Return how far what sounds is ahead of `currentTime`, in s of the piece. Changing the speed without the pitch takes
 * windows of sound from around the current time. Measured in Chromium with clicks at known times.
 * @param {number} rate
 */
function stretchLead(rate) {
  return rate === 1 ? 0 : 0.052 - 0.033 * rate;
}

/** Fires "change" when it becomes playable, and when it turns out not to be. */
export class Recording extends EventTarget {
  /** @type {"none" | "loading" | "ready" | "failed"} */
  state = "none";
  #rate = 1;
  /** @type {MediaElementAudioSourceNode | null} */
  #source = null;

  constructor() {
    super();
    this.element = new Audio();
    this.element.preload = "metadata";
    this.element.preservesPitch = true;
    this.element.addEventListener("loadedmetadata", () => this.#become("ready"));
    this.element.addEventListener("error", () => {
      if (this.state !== "none") this.#become("failed");
    });
  }

  /** @param {string | null} href null: there is none */
  load(href) {
    this.element.pause();
    this.state = href ? "loading" : "none";
    if (href) this.element.src = href;
    else this.element.removeAttribute("src");
    this.dispatchEvent(new Event("change"));
  }

  get usable() {
    return this.state === "ready" || this.state === "loading";
  }

  /** @param {AudioContext} context @param {AudioNode} destination */
  connect(context, destination) {
    this.#source ??= new MediaElementAudioSourceNode(context, { mediaElement: this.element });
    this.#source.connect(destination);
  }

  /** @param {number} rate */
  set rate(rate) {
    this.#rate = rate;
    this.element.playbackRate = rate;
  }

  /** Move to a position, and wait until it can be played from there. @param {number} position s */
  async prepare(position) {
    const { element } = this;
    if (!this.usable) return;
    if (element.readyState === 0) {
      element.preload = "auto";
      await settled(element, ["loadedmetadata", "error"]);
    }
    if (!this.usable) return;
    const target = Math.min(position, Number.isFinite(element.duration) ? element.duration : position);
    if (Math.abs(element.currentTime - target) > 1e-4 || element.ended) {
      element.currentTime = target;
      await settled(element, ["seeked", "error"]);
    }
    if (element.readyState < HTMLMediaElement.HAVE_FUTURE_DATA && !element.ended) {
      await settled(element, ["canplay", "error", "ended"]);
    }
  }

  start() {
    this.element.playbackRate = this.#rate;
    this.element.play().catch((error) => {
      if (error.name !== "AbortError") this.#become("failed"); // that one: stopped before it started
    });
  }

  stop() {
    this.element.pause();
  }

  /** The position that sounds, in s; null while it does not move. */
  get position() {
    const { element } = this;
    const moves = !element.paused && !element.seeking && !element.ended;
    if (!moves || element.readyState < HTMLMediaElement.HAVE_FUTURE_DATA) return null;
    return element.currentTime + stretchLead(this.#rate);
  }

  /** True after the end of the recording, which may come before that of the notes. */
  get ended() {
    return this.element.ended;
  }

  /** @param {"ready" | "failed"} state */
  #become(state) {
    this.state = state;
    this.dispatchEvent(new Event("change"));
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
