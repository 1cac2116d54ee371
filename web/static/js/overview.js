/** The overview of the whole recording, with its waveform: a slider for the position. */

import { sized } from "./canvas.js";
import { element, oncePerFrame } from "./dom.js";
import { clock } from "./format.js";

/** @typedef {import("./roll_painter.js").Scene} Scene */
/** @typedef {import("./roll_painter.js").Moving} Moving */
/** @typedef {{ seconds_per_bin: number, min: number[], max: number[] }} Level of the export "peaks": -127 to 127 */

const FULL_SCALE = 127;

export class Overview {
  /** @type {(time: number) => void} */
  onSeek = () => {};
  /** @type {Level[]} the finest first */
  #levels = [];
  #loudest = FULL_SCALE;
  /** @type {Scene | null} */
  #scene = null;

  constructor() {
    this.strip = element("canvas", { "aria-hidden": "true" });
    this.cover = element("canvas", { className: "roll-moving", "aria-hidden": "true" });
    this.node = element("div", { className: "roll-overview", tabIndex: 0, role: "slider", "aria-label": "Position" });
    this.node.setAttribute("aria-valuemin", "0");
    this.node.append(this.strip, this.cover);
    this.drawSoon = oncePerFrame(() => this.draw());
    for (const type of ["pointerdown", "pointermove"]) {
      this.cover.addEventListener(type, (event) => this.#pointer(/** @type {PointerEvent} */ (event)));
    }
  }

  /** @param {Level[]} levels */
  showWaveform(levels) {
    this.#levels = levels;
    const coarsest = levels.at(-1);
    this.#loudest = (coarsest ? [...coarsest.max, ...coarsest.min.map((low) => -low)] : []).reduce((a, b) => Math.max(a, b), 1);
    this.drawSoon();
  }

  /** @param {Scene} scene */
  show(scene) {
    this.#scene = scene;
    this.node.setAttribute("aria-valuemax", String(Math.round(scene.layout.duration)));
    this.draw();
  }

  draw() {
    const scene = this.#scene;
    const { clientWidth: width, clientHeight: height } = this.strip;
    if (!scene || !width) return;
    const ctx = sized(this.strip, width, height);
    ctx.fillStyle = scene.palette.paper;
    ctx.fillRect(0, 0, width, height);
    this.#paintWaveform(ctx, width, height);
    paintNotes(ctx, scene, width, height);
  }

  /** @param {Moving} moving */
  drawMoving(moving) {
    const scene = this.#scene;
    const { clientWidth: width, clientHeight: height } = this.cover;
    if (!scene || !width) return;
    const words = [clock(moving.position), scene.grid.placeWords(moving.position)].filter(Boolean).join(", ");
    if (this.node.getAttribute("aria-valuetext") !== words) {
      this.node.setAttribute("aria-valuenow", String(Math.round(moving.position)));
      this.node.setAttribute("aria-valuetext", words);
    }
    paintCover(sized(this.cover, width, height), scene, moving, width, height);
  }

  /** @type {(ctx: CanvasRenderingContext2D, width: number, height: number) => void} */
  #paintWaveform(ctx, width, height) {
    const scene = /** @type {Scene} */ (this.#scene);
    const perPixel = scene.layout.duration / width; // s
    const level = this.#levels.findLast((each) => each.seconds_per_bin <= perPixel) ?? this.#levels[0];
    if (!level) return;
    ctx.fillStyle = scene.palette.wave;
    const middle = height / 2;
    for (let x = 0; x < width; x += 1) {
      const first = Math.floor((x * perPixel) / level.seconds_per_bin);
      const end = Math.max(first + 1, Math.floor(((x + 1) * perPixel) / level.seconds_per_bin));
      let [low, high] = [0, 0];
      for (let n = first; n < end && n < level.min.length; n += 1) {
        low = Math.min(low, level.min[n]);
        high = Math.max(high, level.max[n]);
      }
      const scale = (middle - 2) / this.#loudest;
      ctx.fillRect(x, middle - high * scale, 1, Math.max(1, (high - low) * scale));
    }
  }

  /** @param {PointerEvent} event */
  #pointer(event) {
    if (event.type === "pointerdown") this.cover.setPointerCapture(event.pointerId);
    else if (!event.buttons) return;
    const { duration } = /** @type {Scene} */ (this.#scene).layout;
    this.onSeek(Math.min(duration, Math.max(0, (event.offsetX / this.cover.clientWidth) * duration)));
  }
}

/** @type {(ctx: CanvasRenderingContext2D, scene: Scene, width: number, height: number) => void} */
function paintNotes(ctx, { layout, sequence, palette, hidden }, width, height) {
  const scale = width / layout.duration;
  const row = (height - 8) / (layout.highest - layout.lowest + 1);
  const lastPixel = new Int32Array(128).fill(-1);
  ctx.globalAlpha = 0.8;
  for (let n = 0; n < sequence.count; n += 1) {
    if (hidden.has(sequence.trackOf[n])) continue;
    const pitch = sequence.pitches[n];
    const x = sequence.onsets[n] * scale;
    const length = (sequence.offsets[n] - sequence.onsets[n]) * scale;
    if (length < 1.5 && lastPixel[pitch] === Math.floor(x)) continue;
    lastPixel[pitch] = Math.floor(x);
    ctx.fillStyle = palette.tracks[sequence.trackOf[n]];
    ctx.fillRect(x, 4 + (layout.highest - pitch) * row, Math.max(1, length), Math.max(1, row));
  }
  ctx.globalAlpha = 1;
}

/** Draw the visible window, the loop and the playhead. */
function paintCover(
  /** @type {CanvasRenderingContext2D} */ ctx,
  /** @type {Scene} */ { layout, palette },
  /** @type {Moving} */ moving,
  /** @type {number} */ width,
  /** @type {number} */ height,
) {
  ctx.clearRect(0, 0, width, height);
  const scale = width / layout.duration;
  const left = layout.start * scale;
  const right = Math.min(width, layout.end * scale);
  if (moving.loop) {
    ctx.fillStyle = palette.loop;
    ctx.fillRect(moving.loop.start * scale, 0, (moving.loop.end - moving.loop.start) * scale, height);
  }
  if (!layout.isFitted) {
    ctx.fillStyle = palette.veil;
    ctx.fillRect(0, 0, left, height);
    ctx.fillRect(right, 0, width - right, height);
    ctx.strokeStyle = palette.window;
    ctx.lineWidth = 2;
    ctx.beginPath();
    ctx.roundRect(left + 1, 1, Math.max(4, right - left - 2), height - 2, 4);
    ctx.stroke();
  }
  ctx.fillStyle = palette.playhead;
  ctx.fillRect(Math.max(0, moving.position * scale - 0.75), 0, 1.5, height);
}
