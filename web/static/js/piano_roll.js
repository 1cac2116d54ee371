/** The piano roll: one canvas for the notes, one for what moves, and the overview below. */

import { sized } from "./canvas.js";
import { element, oncePerFrame, setText } from "./dom.js";
import { counted, span } from "./format.js";
import { Grid } from "./grid.js";
import { NoteSequence } from "./notes.js";
import { noteWords } from "./note_card.js";
import { Overview } from "./overview.js";
import { readPalette } from "./palette.js";
import { AXIS_HEIGHT, RollLayout } from "./roll_layout.js";
import { countInView, paintMoving, paintRoll, paintScrolled } from "./roll_painter.js";
import { RollPointer } from "./roll_pointer.js";

const ZOOM_STEP = 1.5;
const PAGE_TURN = 0.92; // share of the view at which the page turns while playing
const MANY_NOTES = 500; // above it, drawing what is in view anew takes longer than moving it
const NOTHING = new NoteSequence({ notes: [] });

/** @typedef {import("./roll_pointer.js").Point} Point */

export class PianoRoll {
  /** @type {(time: number) => void} */
  onSeek = () => {};
  /** @type {(loop: import("./transport.js").Loop) => void} */
  onLoop = () => {};
  /** @type {(n: number) => void} a note was picked; -1: none */
  onPick = () => {};
  /** @type {(from: Point) => ((to: Point, done: boolean) => void) | null} takes over a drag, to edit */
  onGrab = () => null;
  /** @type {(point: Point) => boolean} a tap on the roll was taken for something else */
  onTap = () => false;

  layout = new RollLayout();
  overview = new Overview();
  #sequence = NOTHING;
  #grid = new Grid();
  /** @type {Set<number>} tracks that are switched off */
  #hidden = new Set();
  /** @type {import("./palette.js").ColorBy} */
  #colorBy = "instrument";
  /** @type {import("./roll_painter.js").Moving} */
  #moving = { position: 0, playing: false, hovered: -1, picked: -1, loop: null, ghost: null };
  #follows = true; // the view follows the playhead until it is moved away
  #fresh = true;
  /** What the canvas shows; null: it has to be drawn anew. @type {{ start: number, scale: number } | null} */
  #drawn = null;

  constructor() {
    this.base = element("canvas", { className: "roll-base" });
    this.moving = element("canvas", { className: "roll-moving", tabIndex: 0, role: "application" });
    this.tip = element("p", { className: "roll-tip", hidden: true });
    this.stage = element("div", { className: "roll-stage" }, this.base, this.moving, this.tip);
    this.node = element("div", { className: "roll" }, this.stage, this.overview.node);
    this.palette = readPalette(this.node, NOTHING);
    this.drawAll = oncePerFrame(() => this.#drawAll());
    this.drawView = oncePerFrame(() => this.#drawView());
    this.drawMoving = oncePerFrame(() => this.#drawMoving());
    this.#listen();
  }

  /** @param {NoteSequence} sequence @param {Grid} grid */
  show(sequence, grid) {
    this.#hidden = new Set();
    this.#grid = grid;
    this.#moving = { position: 0, playing: false, hovered: -1, picked: -1, loop: null, ghost: null };
    this.#fresh = true;
    this.#follows = true;
    this.layout.frame(sequence);
    this.replace(sequence);
    const words = `Piano roll: ${counted(sequence.count, "note")} in ${span(sequence.duration)}. `;
    this.moving.setAttribute("aria-label", `${words}Press question mark for the keys.`);
    this.#resize();
  }

  /** Show other notes in the same view. @param {NoteSequence} sequence */
  replace(sequence) {
    this.#sequence = sequence;
    this.#moving.hovered = -1;
    this.layout.widen(sequence);
    this.drawAll();
  }

  /** Show other beats. @param {Grid} grid */
  useGrid(grid) {
    if (grid === this.#grid) return;
    this.#grid = grid;
    this.drawAll();
  }

  /** @param {Set<number>} hidden */
  hideTracks(hidden) {
    this.#hidden = hidden;
    this.drawAll();
  }

  /** @param {import("./palette.js").ColorBy} by */
  colorBy(by) {
    this.#colorBy = by;
    this.drawAll();
  }

  /** @param {number} n a note; -1: none */
  pick(n) {
    this.#moving.picked = n;
    if (n >= 0 && !this.layout.shows(this.#sequence.onsets[n])) this.#scrollTo(this.#sequence.onsets[n]);
    this.drawMoving();
  }

  /** Show where a note would be, while it is dragged. @param {import("./api.js").Note | null} note */
  showGhost(note) {
    this.#moving.ghost = note;
    this.drawMoving();
  }

  /** @param {{ position: number, playing: boolean, loop: import("./transport.js").Loop | null }} transport */
  follow({ position, playing, loop }) {
    const before = this.#moving;
    const jumped = Math.abs(position - before.position) > 1;
    if ((playing && !before.playing) || jumped) this.#follows = true;
    this.#moving = { ...before, position, playing, loop };
    if (this.#follows && (playing || jumped)) this.#turnPage(position);
    this.drawMoving();
  }

  zoomIn() {
    this.#zoom(ZOOM_STEP);
  }

  zoomOut() {
    this.#zoom(1 / ZOOM_STEP);
  }

  fit() {
    this.layout.fit();
    this.drawView();
  }

  /** @param {number} pixels to the right; false where the end was reached already */
  pan(pixels) {
    const moved = this.layout.pan(pixels);
    if (moved) this.#follows = false;
    this.drawView();
    return moved;
  }

  /** Bring the playhead into view, and the next bars with it. @param {number} position s */
  #turnPage(position) {
    const { start, end } = this.layout;
    if (this.layout.isFitted || (position >= start && position < start + PAGE_TURN * (end - start))) return;
    this.#scrollTo(position);
  }

  /** @param {number} position s */
  #scrollTo(position) {
    const { start, end } = this.layout;
    this.layout.scrollTo(position - 0.08 * (end - start));
    this.drawView();
  }

  /** @param {number} factor @param {number} [x] the point that stays in place; by default the playhead */
  #zoom(factor, x) {
    const { position } = this.#moving;
    if (x === undefined && this.#follows && !this.layout.shows(position)) this.#scrollTo(position);
    this.layout.zoom(factor, x ?? (this.layout.shows(position) ? this.layout.x(position) : undefined));
    this.drawView();
  }

  #listen() {
    new ResizeObserver(() => this.#resize()).observe(this.stage);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.drawAll());
    new RollPointer(this.moving, {
      pan: (pixels) => this.pan(pixels),
      zoom: (factor, x) => this.#zoom(factor, x),
      tap: (point) => this.#tap(point),
      select: (from, to) => this.#select(from, to),
      hover: (point) => this.#hover(point),
      grab: (from) => this.onGrab(from),
    });
  }

  /** Return the note at a point, or -1. @param {Point} point */
  noteAt({ x, y }) {
    const slack = 4 / this.layout.pixelsPerSecond;
    const n = this.#sequence.at(this.layout.timeAt(x), this.layout.pitchAt(y), slack);
    return n >= 0 && this.#hidden.has(this.#sequence.trackOf[n]) ? -1 : n;
  }

  /** @param {Point} point */
  #tap(point) {
    if (point.y >= AXIS_HEIGHT && this.onTap(point)) return;
    const n = point.y < AXIS_HEIGHT ? -1 : this.noteAt(point);
    this.onPick(n);
    if (n < 0) this.onSeek(this.layout.timeAt(point.x));
  }

  /** @param {Point} from @param {Point} to */
  #select(from, to) {
    const [start, end] = [from.x, to.x].map((x) => this.#grid.snap(this.layout.timeAt(x))).sort((a, b) => a - b);
    this.onLoop({ start, end });
  }

  /** @param {Point | null} point */
  #hover(point) {
    const n = point ? this.noteAt(point) : -1;
    this.tip.hidden = n < 0;
    if (point && n >= 0) {
      setText(this.tip, noteWords(this.#sequence, this.#grid, n).join(" · "));
      const right = Math.min(point.x + 14, this.layout.width - this.tip.offsetWidth - 6);
      const above = point.y - this.tip.offsetHeight - 12;
      this.tip.style.transform = `translate(${Math.max(0, right)}px, ${above < 0 ? point.y + 18 : above}px)`;
    }
    if (n === this.#moving.hovered) return;
    this.#moving.hovered = n;
    this.drawMoving();
  }

  #resize() {
    const { clientWidth, clientHeight } = this.stage;
    if (!clientWidth || !clientHeight) return;
    this.layout.resize(clientWidth, clientHeight, window.devicePixelRatio);
    if (this.#fresh) this.layout.firstView(this.#grid);
    this.#fresh = false;
    this.#drawAll(); // at once: a resized canvas is blank
  }

  get #scene() {
    const [sequence, grid, hidden, colorBy] = [this.#sequence, this.#grid, this.#hidden, this.#colorBy];
    return { layout: this.layout, sequence, grid, palette: this.palette, hidden, colorBy };
  }

  #drawAll() {
    if (!this.stage.clientWidth) return;
    this.palette = readPalette(this.node, this.#sequence);
    this.overview.show(this.#scene);
    this.#drawn = null;
    this.#drawView();
  }

  #drawView() {
    const { width, height } = this.layout;
    if (!width) return;
    const ctx = sized(this.base, width, height);
    const moved = this.#pixelsMoved;
    if (moved === null) paintRoll(ctx, this.#scene);
    else if (moved) paintScrolled(ctx, this.#scene, moved);
    this.#drawn = { start: this.layout.start, scale: this.layout.pixelsPerSecond };
    this.#drawMoving();
  }

  /** The pixels by which the view moved since it was drawn; null: more has changed, or drawing anew is as quick. */
  get #pixelsMoved() {
    const { start, pixelsPerSecond, plotWidth } = this.layout;
    if (this.#drawn?.scale !== pixelsPerSecond || countInView(this.#scene) < MANY_NOTES) return null;
    const pixels = this.layout.align((start - this.#drawn.start) * pixelsPerSecond);
    return Math.abs(pixels) < plotWidth / 2 ? pixels : null;
  }

  #drawMoving() {
    const { width, height } = this.layout;
    if (!width) return;
    paintMoving(sized(this.moving, width, height), this.#scene, this.#moving);
    this.overview.drawMoving(this.#moving);
  }
}
