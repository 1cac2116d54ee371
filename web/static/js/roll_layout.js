/** The geometry of the roll: seconds ↔ x, pitch ↔ y, in CSS pixels. Pure arithmetic. */

export const KEYS_WIDTH = 46;
export const AXIS_HEIGHT = 44;

const MOST_PIXELS_PER_SECOND = 800;
const LEAST_ROWS = 26;
const FIRST_VIEW = { wide: { bars: 8, seconds: 16 }, narrow: { bars: 4, seconds: 8 } };
const NARROW = 640; // px
const LEAST_BAR_PIXELS = 46; // between bars that are numbered
const TICKS = [0.1, 0.25, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600]; // s
const LEAST_TICK_PIXELS = 70;

export class RollLayout {
  width = 0;
  height = 0;
  duration = 1;
  start = 0; // s at the left edge of the plot
  pixelsPerSecond = 1;
  lowest = 48;
  highest = 84;
  #pixel = 1; // size of a pixel of the screen

  /** Show the pitches of some notes. @param {import("./notes.js").NoteSequence} sequence */
  frame(sequence) {
    this.duration = Math.max(0.5, sequence.duration);
    const { lowest, highest } = rangeOf(sequence);
    const missing = Math.max(4, LEAST_ROWS - (highest - lowest + 1));
    this.lowest = Math.max(0, lowest - Math.ceil(missing / 2));
    this.highest = Math.min(127, highest + Math.ceil(missing / 2));
  }

  /** Show more pitches where changed notes need them. @param {import("./notes.js").NoteSequence} sequence */
  widen(sequence) {
    this.duration = Math.max(0.5, sequence.duration);
    const { lowest, highest } = rangeOf(sequence);
    this.lowest = Math.max(0, Math.min(this.lowest, lowest - 2));
    this.highest = Math.min(127, Math.max(this.highest, highest + 2));
  }

  /** @param {number} width @param {number} height @param {number} [ratio] pixels of the screen in one of CSS */
  resize(width, height, ratio = 1) {
    const fitted = this.isFitted;
    this.#pixel = 1 / ratio;
    this.width = width;
    this.height = height;
    if (fitted) this.fit();
    else this.#clamp();
  }

  get plotWidth() {
    return Math.max(1, this.width - KEYS_WIDTH);
  }

  get plotHeight() {
    return Math.max(1, this.height - AXIS_HEIGHT);
  }

  get rowHeight() {
    return this.plotHeight / (this.highest - this.lowest + 1);
  }

  get end() {
    return this.start + this.plotWidth / this.pixelsPerSecond;
  }

  get #fitScale() {
    return this.plotWidth / this.duration;
  }

  get isFitted() {
    return this.pixelsPerSecond <= this.#fitScale * 1.0001;
  }

  fit() {
    this.start = 0;
    this.pixelsPerSecond = this.#fitScale;
  }

  /** Show the first bars, or the first seconds where no bars are known. @param {import("./grid.js").Grid} grid */
  firstView(grid) {
    this.fit();
    const { bars, seconds } = this.width < NARROW ? FIRST_VIEW.narrow : FIRST_VIEW.wide;
    const shown = grid.known ? grid.barOf(bars).end : seconds;
    this.pixelsPerSecond = this.plotWidth / Math.min(Math.max(2, shown), this.duration);
    this.#clamp();
  }

  /** @param {number} factor @param {number} [x] the point that stays in place, by default the middle */
  zoom(factor, x = KEYS_WIDTH + this.plotWidth / 2) {
    const held = this.timeAt(x);
    const most = Math.max(MOST_PIXELS_PER_SECOND, this.#fitScale);
    this.pixelsPerSecond = Math.min(most, Math.max(this.#fitScale, this.pixelsPerSecond * factor));
    this.start = held - (x - KEYS_WIDTH) / this.pixelsPerSecond;
    this.#clamp();
  }

  /** @param {number} pixels to the right; false where the end was reached already */
  pan(pixels) {
    const before = this.start;
    this.start += pixels / this.pixelsPerSecond;
    this.#clamp();
    return this.start !== before;
  }

  /** @param {number} start s */
  scrollTo(start) {
    this.start = start;
    this.#clamp();
  }

  /** Keep the view within the piece, and move it by whole pixels of the screen. */
  #clamp() {
    this.pixelsPerSecond = Math.max(this.pixelsPerSecond, this.#fitScale);
    const latest = this.duration - this.plotWidth / this.pixelsPerSecond;
    const step = this.#pixel / this.pixelsPerSecond;
    this.start = Math.round(Math.max(0, Math.min(this.start, latest)) / step) * step;
  }

  /** @param {number} time s */
  x(time) {
    return KEYS_WIDTH + (time - this.start) * this.pixelsPerSecond;
  }

  /** Return the nearest edge of a pixel of the screen. @param {number} x */
  align(x) {
    return Math.round(x / this.#pixel) * this.#pixel;
  }

  /** Return the top of a pitch's row. @param {number} pitch */
  y(pitch) {
    return AXIS_HEIGHT + (this.highest - pitch) * this.rowHeight;
  }

  /** @param {number} x */
  timeAt(x) {
    return Math.min(this.duration, Math.max(0, this.start + (x - KEYS_WIDTH) / this.pixelsPerSecond));
  }

  /** @param {number} y */
  pitchAt(y) {
    return this.highest - Math.floor((y - AXIS_HEIGHT) / this.rowHeight);
  }

  /** Seconds between labeled lines: the smallest step that leaves room for the labels. */
  get tick() {
    return TICKS.find((tick) => tick * this.pixelsPerSecond >= LEAST_TICK_PIXELS) ?? TICKS[TICKS.length - 1];
  }

  /** Bars between numbered ones: 1, 2, 4 and so on. @param {import("./grid.js").Grid} grid */
  barStep(grid) {
    const pixels = grid.beatLength(this.start) * grid.beatsInBar * this.pixelsPerSecond;
    return 2 ** Math.max(0, Math.ceil(Math.log2(LEAST_BAR_PIXELS / pixels)));
  }

  /** @param {number} time s */
  shows(time) {
    return time >= this.start && time <= this.end;
  }
}

/** Return the lowest and the highest pitch. @param {import("./notes.js").NoteSequence} sequence */
function rangeOf({ count, pitches }) {
  if (count === 0) return { lowest: 54, highest: 78 };
  return pitches.reduce(
    ({ lowest, highest }, pitch) => ({ lowest: Math.min(lowest, pitch), highest: Math.max(highest, pitch) }),
    { lowest: 127, highest: 0 },
  );
}
