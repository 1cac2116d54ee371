/** The piano roll: one canvas for the notes, one for what moves, an overview, pointer and keyboard input. */

import { element, oncePerFrame, setText } from "./dom.js";
import { counted, preciseClock, span } from "./format.js";
import { NoteSequence } from "./notes.js";
import { AXIS_HEIGHT, KEYS_WIDTH, RollLayout } from "./roll_layout.js";
import { paintMoving, paintOverview, paintOverviewWindow, paintRoll, readPalette } from "./roll_painter.js";

const ZOOM_STEP = 1.5;
const CLICK_SLACK = 5; // px that the pointer may move during a click
const PAGE_TURN = 0.92; // share of the view at which the page turns while playing

const NOTHING = new NoteSequence({ notes: [] });

export class PianoRoll {
  /** @type {(time: number) => void} */
  onSeek = () => {};

  #sequence = NOTHING;
  #layout = new RollLayout();
  /** @type {Set<number>} tracks that are switched off */
  #hidden = new Set();
  #position = 0;
  #playing = false;
  #hovered = -1;
  /** @type {Map<number, { x: number, y: number }>} */
  #pointers = new Map();
  #travelled = 0;
  #fresh = true;

  constructor() {
    this.base = element("canvas", { className: "roll-base" });
    this.moving = element("canvas", { className: "roll-moving", tabIndex: 0, role: "img" });
    this.tip = element("p", { className: "roll-tip", hidden: true });
    this.stage = element("div", { className: "roll-stage" }, this.base, this.moving, this.tip);
    this.strip = element("canvas", { "aria-hidden": "true" });
    this.stripWindow = element("canvas", { className: "roll-moving", "aria-hidden": "true" });
    this.overview = element("div", { className: "roll-overview" }, this.strip, this.stripWindow);
    this.node = element("div", { className: "roll" }, this.stage, this.overview);
    this.palette = readPalette(this.node, NOTHING);
    this.drawAll = oncePerFrame(() => this.#drawAll());
    this.drawView = oncePerFrame(() => this.#drawView());
    this.drawMoving = oncePerFrame(() => this.#drawMoving());
    this.#listen();
  }

  /** @param {NoteSequence} sequence */
  show(sequence) {
    this.#sequence = sequence;
    this.#hidden = new Set();
    this.#position = 0;
    this.#hovered = -1;
    this.#fresh = true;
    this.#layout.frame(sequence);
    const words = `Piano roll: ${counted(sequence.count, "note")} in ${span(sequence.duration)}. `;
    this.moving.setAttribute(
      "aria-label",
      `${words}Arrow keys scroll, plus and minus zoom, 0 fits the whole recording, the space bar plays or pauses.`,
    );
    this.#resize();
  }

  /** @param {Set<number>} hidden */
  hideTracks(hidden) {
    this.#hidden = hidden;
    this.drawAll();
  }

  /** @param {number} position s @param {boolean} playing */
  setPosition(position, playing) {
    if (playing && this.#playing) this.#turnPage(position);
    this.#position = position;
    this.#playing = playing;
    this.drawMoving();
  }

  zoomIn() {
    this.#zoom(ZOOM_STEP);
  }

  zoomOut() {
    this.#zoom(1 / ZOOM_STEP);
  }

  fit() {
    this.#layout.fit();
    this.drawView();
  }

  /** Follow the playhead, unless the view has been moved away from it. @param {number} position */
  #turnPage(position) {
    const { start, end } = this.#layout;
    const edge = start + PAGE_TURN * (end - start);
    if (this.#layout.isFitted || this.#position < start || this.#position > end || position < edge) return;
    this.#layout.scrollTo(position - 0.08 * (end - start));
    this.drawView();
  }

  /** @param {number} factor @param {number} [x] */
  #zoom(factor, x) {
    const playheadX = this.#layout.x(this.#position);
    const inView = playheadX >= KEYS_WIDTH && playheadX <= this.#layout.width && this.#position > 0;
    this.#layout.zoom(factor, x ?? (inView ? playheadX : undefined));
    this.drawView();
  }

  #listen() {
    new ResizeObserver(() => this.#resize()).observe(this.stage);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.drawAll());
    const on = this.moving.addEventListener.bind(this.moving);
    on("wheel", (event) => this.#wheel(/** @type {WheelEvent} */ (event)), { passive: false });
    on("pointerdown", (event) => this.#down(/** @type {PointerEvent} */ (event)));
    on("pointermove", (event) => this.#move(/** @type {PointerEvent} */ (event)));
    on("pointerup", (event) => this.#up(/** @type {PointerEvent} */ (event)));
    on("pointercancel", (event) => this.#release(/** @type {PointerEvent} */ (event)));
    on("pointerleave", () => this.#hover(-1));
    on("keydown", (event) => this.#key(/** @type {KeyboardEvent} */ (event)));
    for (const type of ["pointerdown", "pointermove"]) {
      this.stripWindow.addEventListener(type, (event) => this.#stripPointer(/** @type {PointerEvent} */ (event)));
    }
  }

  #resize() {
    const { clientWidth, clientHeight } = this.stage;
    if (!clientWidth || !clientHeight) return;
    this.#layout.resize(clientWidth, clientHeight);
    if (this.#fresh) this.#layout.firstView();
    this.#fresh = false;
    this.#drawAll(); // at once: a resized canvas is blank
  }

  /** @param {WheelEvent} event */
  #wheel(event) {
    if (event.ctrlKey || event.metaKey) {
      event.preventDefault();
      this.#zoom(Math.exp(-wheelPixels(event, event.deltaY) * 0.008), event.offsetX);
      return;
    }
    const sideways = Math.abs(event.deltaX) > Math.abs(event.deltaY) ? event.deltaX : event.deltaY;
    if (!this.#layout.pan(wheelPixels(event, sideways))) return; // at the end: let the page scroll
    event.preventDefault();
    this.drawView();
  }

  /** @param {PointerEvent} event */
  #down(event) {
    this.moving.setPointerCapture(event.pointerId);
    this.#pointers.set(event.pointerId, { x: event.offsetX, y: event.offsetY });
    this.#travelled = this.#pointers.size > 1 ? Infinity : 0;
  }

  /** @param {PointerEvent} event */
  #move(event) {
    const before = this.#pointers.get(event.pointerId);
    if (!before) {
      this.#hoverAt(event);
      return;
    }
    const now = { x: event.offsetX, y: event.offsetY };
    if (this.#pointers.size === 2) this.#pinch(event.pointerId, before, now);
    else this.#drag(before, now);
    this.#pointers.set(event.pointerId, now);
  }

  /** @param {{ x: number, y: number }} before @param {{ x: number, y: number }} now */
  #drag(before, now) {
    this.#travelled += Math.abs(now.x - before.x) + Math.abs(now.y - before.y);
    if (this.#travelled <= CLICK_SLACK) return;
    this.#hover(-1);
    this.stage.classList.add("dragged");
    if (this.#layout.pan(before.x - now.x)) this.drawView();
  }

  /** @param {number} id @param {{ x: number, y: number }} before @param {{ x: number, y: number }} now */
  #pinch(id, before, now) {
    const other = [...this.#pointers].find(([each]) => each !== id)?.[1];
    if (!other) return;
    const factor = Math.max(20, Math.abs(now.x - other.x)) / Math.max(20, Math.abs(before.x - other.x));
    this.#zoom(factor, other.x);
  }

  /** @param {PointerEvent} event */
  #up(event) {
    const clicked = this.#release(event) && this.#travelled <= CLICK_SLACK;
    if (clicked && event.offsetX >= KEYS_WIDTH) this.onSeek(this.#layout.timeAt(event.offsetX));
  }

  /** @param {PointerEvent} event */
  #release(event) {
    this.stage.classList.remove("dragged");
    return this.#pointers.delete(event.pointerId);
  }

  /** @param {PointerEvent} event */
  #hoverAt(event) {
    const { offsetX: x, offsetY: y } = event;
    const inside = x >= KEYS_WIDTH && y >= AXIS_HEIGHT;
    const slack = 2 / this.#layout.pixelsPerSecond;
    const n = inside ? this.#sequence.at(this.#layout.timeAt(x), this.#layout.pitchAt(y), slack) : -1;
    this.#hover(n >= 0 && this.#hidden.has(this.#sequence.trackOf[n]) ? -1 : n, x, y);
  }

  /** @param {number} n the note, or -1 for none */
  #hover(n, x = 0, y = 0) {
    this.tip.hidden = n < 0;
    if (n >= 0) {
      setText(this.tip, this.#describe(n));
      const right = Math.min(x + 14, this.#layout.width - this.tip.offsetWidth - 6);
      const above = y - this.tip.offsetHeight - 12;
      this.tip.style.transform = `translate(${Math.max(0, right)}px, ${above < 0 ? y + 18 : above}px)`;
    }
    if (n === this.#hovered) return;
    this.#hovered = n;
    this.drawMoving();
  }

  /** @param {number} n */
  #describe(n) {
    const { onsets, offsets, velocities, tracks, trackOf } = this.#sequence;
    const track = tracks[trackOf[n]];
    return [
      this.#sequence.nameOf(n),
      track.isDrum ? "drums" : track.name.toLowerCase(),
      `at ${preciseClock(onsets[n])}`,
      `for ${(offsets[n] - onsets[n]).toFixed(2)} s`,
      `velocity ${velocities[n]}`,
    ].join(" · ");
  }

  /** @param {PointerEvent} event */
  #stripPointer(event) {
    if (event.type === "pointerdown") this.stripWindow.setPointerCapture(event.pointerId);
    else if (!event.buttons) return;
    const { start, end, duration, isFitted } = this.#layout;
    const time = (event.offsetX / this.stripWindow.clientWidth) * duration;
    if (isFitted) {
      this.onSeek(Math.min(duration, Math.max(0, time)));
      return;
    }
    this.#layout.scrollTo(time - (end - start) / 2);
    this.drawView();
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const step = this.#layout.plotWidth / 8;
    /** @type {Record<string, () => void>} */
    const actions = {
      ArrowLeft: () => this.#layout.pan(-step),
      ArrowRight: () => this.#layout.pan(step),
      PageUp: () => this.#layout.pan(-8 * step),
      PageDown: () => this.#layout.pan(8 * step),
      Home: () => this.#layout.scrollTo(0),
      End: () => this.#layout.scrollTo(Infinity),
      "+": () => this.zoomIn(),
      "=": () => this.zoomIn(),
      "-": () => this.zoomOut(),
      0: () => this.fit(),
    };
    const action = actions[event.key];
    if (!action) return;
    event.preventDefault();
    action();
    this.drawView();
  }

  #drawAll() {
    if (!this.stage.clientWidth) return;
    this.palette = readPalette(this.node, this.#sequence);
    const size = { width: this.overview.clientWidth, height: this.overview.clientHeight };
    const ctx = sized(this.strip, size.width, size.height);
    paintOverview(ctx, size, this.#layout, this.#sequence, this.palette, this.#hidden);
    this.#drawView();
  }

  #drawView() {
    const { width, height } = this.#layout;
    if (!width) return;
    paintRoll(sized(this.base, width, height), this.#layout, this.#sequence, this.palette, this.#hidden);
    this.#drawMoving();
  }

  #drawMoving() {
    const { width, height } = this.#layout;
    if (!width) return;
    const state = { position: this.#position, playing: this.#playing, hovered: this.#hovered, hidden: this.#hidden };
    paintMoving(sized(this.moving, width, height), this.#layout, this.#sequence, this.palette, state);
    const size = { width: this.overview.clientWidth, height: this.overview.clientHeight };
    const ctx = sized(this.stripWindow, size.width, size.height);
    paintOverviewWindow(ctx, size, this.#layout, this.palette, this.#position);
  }
}

/** Convert a wheel's lines and pages to pixels. @param {WheelEvent} event @param {number} delta */
function wheelPixels(event, delta) {
  return delta * [1, 16, 400][event.deltaMode];
}

/** Size a canvas for the screen's resolution and return its context, which draws in CSS pixels. */
function sized(/** @type {HTMLCanvasElement} */ canvas, /** @type {number} */ width, /** @type {number} */ height) {
  const ratio = window.devicePixelRatio || 1;
  const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== w || canvas.height !== h) [canvas.width, canvas.height] = [w, h];
  const ctx = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
  return ctx;
}
