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
