/** Maps the clock of the audio graph to positions in the piece; all in seconds. */

export class Clock {
  /** @param {number} time of the audio clock @param {number} position that sounds then @param {number} rate */
  constructor(time, position, rate) {
    this.rate = rate; // 1: as recorded, 0.5: half as fast
    this.start = position;
    this.offset = position - time * rate;
  }

  /** @param {number} time */
  positionAt(time) {
    return this.offset + time * this.rate;
  }

  /** @param {number} position */
  timeOf(position) {
    return (position - this.offset) / this.rate;
  }

  /** Move the mapping. @param {number} seconds later in the piece */
  shift(seconds) {
    this.offset += seconds;
  }
}

const COMPARED = 5; // differences whose median is taken

/** How far the recording is from the clock: single measurements are up to 10 ms off. */
export class Drift {
  /** @type {number[]} */
  #differences = [];

  reset() {
    this.#differences = [];
  }

  /** Return the median of the last differences; null while there are too few. @param {number} difference s @param {boolean} now */
  add(difference, now) {
    this.#differences.push(difference);
    if (this.#differences.length < COMPARED && !now) return null;
    const sorted = this.#differences.sort((a, b) => a - b);
    this.#differences = [];
    return sorted[sorted.length >> 1];
  }
}
