/** The speed of an upload, and the time left, from what was sent in the last seconds. */

import { fileSize, span } from "./format.js";

const WINDOW_MS = 8_000;
const LEAST_MS = 1_000; // nothing is stated before

export class UploadRate {
  /** @type {{ at: number, bytes: number }[]} */
  #samples = [];

  /** @param {number} bytes sent so far */
  add(bytes, at = performance.now()) {
    const last = this.#samples.at(-1);
    if (last && bytes < last.bytes) this.#samples = []; // a part is sent again
    this.#samples.push({ at, bytes });
    while (this.#samples.length > 2 && at - this.#samples[0].at > WINDOW_MS) this.#samples.shift();
  }

  /** Forget what was measured before a pause. */
  reset() {
    this.#samples = [];
  }

  /** Bytes in a second; 0 if that is unknown. */
  get speed() {
    const [first, last] = [this.#samples[0], this.#samples.at(-1)];
    if (!first || !last || last.at - first.at < LEAST_MS) return 0;
    return (1000 * (last.bytes - first.bytes)) / (last.at - first.at);
  }

  /** Return " · 2.1 MB/s · about 3 min left", or "" if the speed is unknown. @param {number} total */
  words(total) {
    const { speed } = this;
    if (speed <= 0) return "";
    const left = (total - (this.#samples.at(-1)?.bytes ?? 0)) / speed;
    return ` · ${fileSize(speed)}/s · about ${span(Math.max(1, Math.ceil(left)))} left`;
  }
}
