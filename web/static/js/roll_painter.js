/** Draws the piano roll onto canvases. */

import { BLACK_KEYS, paintKey, paintKeys } from "./keys_painter.js";
import { AXIS_HEIGHT, KEYS_WIDTH } from "./roll_layout.js";
import { paintLoop, paintRuler, paintTimeLines } from "./ruler_painter.js";

const MANY_NOTES = 4000; // above it, rounded corners are too slow

/** @typedef {import("./notes.js").NoteSequence} NoteSequence */
/** @typedef {import("./roll_layout.js").RollLayout} RollLayout */
/** @typedef {import("./palette.js").Palette} Palette */
/** @typedef {CanvasRenderingContext2D} Canvas */

/**
 * @typedef {object} Scene what is drawn
 * @property {RollLayout} layout
 * @property {NoteSequence} sequence
 * @property {import("./grid.js").Grid} grid
 * @property {Palette} palette
 * @property {Set<number>} hidden tracks
 * @property {import("./palette.js").ColorBy} colorBy
 */
/**
 * @typedef {object} Moving what changes during playback
 * @property {number} position s
 * @property {boolean} playing
 * @property {number} hovered note, or -1
 * @property {number} picked note, or -1
 * @property {import("./transport.js").Loop | null} loop
 * @property {import("./api.js").Note | null} ghost where a note that is dragged would be
 */

/** Return the color of a note. @param {Scene} scene @param {number} n */
function colorOf({ sequence, palette, colorBy }, n) {
  if (colorBy === "instrument") return palette.tracks[sequence.trackOf[n]];
  return palette.heat[Math.min(palette.heat.length - 1, Math.floor((sequence.velocities[n] * palette.heat.length) / 128))];
}

/** Return the opacity of a note: its confidence where that is known, else its velocity. @param {Scene} scene @param {number} n */
function opacityOf({ sequence, colorBy }, n) {
  if (sequence.hasConfidence) {
    const confidence = sequence.confidences[n];
    return Number.isNaN(confidence) ? 1 : 0.25 + 0.75 * confidence;
  }
  return colorBy === "velocity" ? 1 : 0.4 + 0.6 * (sequence.velocities[n] / 127);
}

/** Return how many notes are in view, at most. @param {Scene} scene */
export function countInView({ layout, sequence }) {
  const { first, end } = sequence.range(layout.start, layout.end);
  return end - first;
}

/** Draw everything that does not move during playback. @param {Canvas} ctx @param {Scene} scene */
export function paintRoll(ctx, scene) {
  const { layout } = scene;
  paintPart(ctx, scene, KEYS_WIDTH, layout.width);
  paintEdges(ctx, scene);
}

/**
 * Draw the roll again after a scroll: what was in view is moved, and only the rest is drawn.
 * @param {Canvas} ctx @param {Scene} scene @param {number} pixels by which the view moved to the right, in CSS pixels
 */
export function paintScrolled(ctx, scene, pixels) {
  const { layout } = scene;
  const ratio = ctx.getTransform().a;
  const [left, top] = [Math.round(KEYS_WIDTH * ratio), Math.round(AXIS_HEIGHT * ratio)];
  const shift = Math.round(pixels * ratio);
  const [width, height] = [ctx.canvas.width - left - Math.abs(shift), ctx.canvas.height - top];
  const [from, to] = [left + Math.max(0, shift), left + Math.max(0, -shift)];
  ctx.save();
  ctx.setTransform(1, 0, 0, 1, 0, 0);
  ctx.imageSmoothingEnabled = false; // it is moved by whole pixels
  ctx.drawImage(ctx.canvas, from, top, width, height, to, top, width, height);
  ctx.restore();
  if (pixels > 0) paintPart(ctx, scene, layout.width - pixels, layout.width);
  else paintPart(ctx, scene, KEYS_WIDTH, KEYS_WIDTH - pixels);
  paintEdges(ctx, scene);
}

/** Draw the notes and what is behind them, from one x to another. */
function paintPart(/** @type {Canvas} */ ctx, /** @type {Scene} */ scene, /** @type {number} */ left, /** @type {number} */ right) {
  const { layout, grid, palette } = scene;
  ctx.save();
  ctx.beginPath();
  ctx.rect(left, AXIS_HEIGHT, right - left, layout.plotHeight);
  ctx.clip();
  ctx.fillStyle = palette.paper;
  ctx.fillRect(left, AXIS_HEIGHT, right - left, layout.plotHeight);
  paintRows(ctx, layout, palette);
  paintTimeLines(ctx, layout, grid, palette);
  paintNotes(ctx, scene, layout.timeAt(left), layout.timeAt(right));
  ctx.restore();
}

/** Draw the ruler and the keyboard. @param {Canvas} ctx @param {Scene} scene */
function paintEdges(ctx, { layout, grid, palette }) {
  ctx.fillStyle = palette.paper;
  ctx.fillRect(0, 0, layout.width, AXIS_HEIGHT);
  paintRuler(ctx, layout, grid, palette);
  paintKeys(ctx, layout, palette);
}

/** @param {Canvas} ctx @param {RollLayout} layout @param {Palette} palette */
function paintRows(ctx, layout, palette) {
  for (let pitch = layout.lowest; pitch <= layout.highest; pitch += 1) {
    const y = layout.y(pitch);
    if (BLACK_KEYS.has(pitch % 12)) {
      ctx.fillStyle = palette.shade;
      ctx.fillRect(KEYS_WIDTH, y, layout.plotWidth, layout.rowHeight);
    }
    if (pitch % 12 === 0) {
      ctx.fillStyle = palette.octave;
      ctx.fillRect(KEYS_WIDTH, Math.round(y + layout.rowHeight) - 0.5, layout.plotWidth, 1);
    }
  }
}

/**
 * Draw the notes of some seconds; of those narrower than a pixel, one for each pixel and pitch.
 * @param {Canvas} ctx @param {Scene} scene @param {number} from @param {number} to
 */
function paintNotes(ctx, scene, from, to) {
  const { layout, sequence, hidden } = scene;
  const start = from - 1 / layout.pixelsPerSecond; // a note is a pixel wide at least
  const { first, end } = sequence.range(start, to);
  const rounded = countInView(scene) < MANY_NOTES;
  const lastPixel = new Int32Array(128).fill(-1);
  let color = "";
  for (let n = first; n < end; n += 1) {
    if (sequence.offsets[n] < start || hidden.has(sequence.trackOf[n])) continue;
    const { x, y, width, height } = noteBox(layout, sequence, n);
    const pixel = Math.floor(x);
    if (width < 1.5 && lastPixel[sequence.pitches[n]] === pixel) continue;
    lastPixel[sequence.pitches[n]] = pixel;
    const own = colorOf(scene, n);
    if (own !== color) ctx.fillStyle = color = own;
    ctx.globalAlpha = opacityOf(scene, n);
    if (rounded && width > 3) fillRounded(ctx, x, y, width, height);
    else ctx.fillRect(x, y, Math.max(1, width), height);
  }
  ctx.globalAlpha = 1;
}

/** Return the place of a note, in CSS pixels. @param {RollLayout} layout @param {NoteSequence} sequence @param {number} n */
export function noteBox(layout, sequence, n) {
  const x = layout.x(sequence.onsets[n]);
  const gap = layout.rowHeight > 5 ? 1 : 0;
  const width = (sequence.offsets[n] - sequence.onsets[n]) * layout.pixelsPerSecond;
  return {
    x,
    y: layout.y(sequence.pitches[n]) + gap / 2,
    width: width > 6 ? width - 1 : width,
    height: layout.rowHeight - gap,
  };
}

/** @type {(ctx: Canvas, x: number, y: number, width: number, height: number) => void} */
function fillRounded(ctx, x, y, width, height) {
  ctx.beginPath();
  ctx.roundRect(x, y, width, height, Math.min(3.5, width / 2, height / 2));
  ctx.fill();
}

/** Draw what moves: the playhead, the loop, the notes and keys that sound, the notes that are pointed at and picked. */
export function paintMoving(/** @type {Canvas} */ ctx, /** @type {Scene} */ scene, /** @type {Moving} */ moving) {
  const { layout, sequence, palette, hidden } = scene;
  ctx.clearRect(0, 0, layout.width, layout.height);
  ctx.save();
  ctx.beginPath();
  ctx.rect(KEYS_WIDTH, 0, layout.plotWidth, layout.height);
  ctx.clip();
  if (moving.loop) paintLoop(ctx, layout, palette, moving.loop);
  const sounding = moving.playing ? soundingAt(sequence, moving.position, hidden) : [];
  for (const n of sounding) lightNote(ctx, scene, n);
  if (moving.hovered >= 0) outlineNote(ctx, scene, moving.hovered, 1.5);
  if (moving.picked >= 0) outlineNote(ctx, scene, moving.picked, 3);
  if (moving.ghost) paintGhost(ctx, layout, palette, moving.ghost);
  if (layout.shows(moving.position)) paintPlayhead(ctx, layout, palette, moving.position);
  ctx.restore();
  for (const n of sounding) paintKey(ctx, layout, palette, sequence.pitches[n], colorOf(scene, n));
}

/** @param {NoteSequence} sequence @param {number} time @param {Set<number>} hidden */
function soundingAt(sequence, time, hidden) {
  const { first, end } = sequence.range(time, time);
  const sounding = [];
  for (let n = first; n < end; n += 1) {
    if (sequence.offsets[n] >= time && !hidden.has(sequence.trackOf[n])) sounding.push(n);
  }
  return sounding;
}

/** @param {Canvas} ctx @param {Scene} scene @param {number} n */
function lightNote(ctx, scene, n) {
  const { x, y, width, height } = noteBox(scene.layout, scene.sequence, n);
  ctx.fillStyle = colorOf(scene, n);
  ctx.globalAlpha = 0.25;
  fillRounded(ctx, x - 3, y - 3, width + 6, height + 6);
  ctx.globalAlpha = 1;
  fillRounded(ctx, x, y, Math.max(2, width), height);
}

/** @type {(ctx: Canvas, scene: Scene, n: number, line: number) => void} */
function outlineNote(ctx, { layout, sequence, palette }, n, line) {
  const { x, y, width, height } = noteBox(layout, sequence, n);
  ctx.strokeStyle = palette.ink;
  ctx.lineWidth = line;
  ctx.beginPath();
  ctx.roundRect(x - 1, y - 1, Math.max(3, width + 2), height + 2, Math.min(4, height / 2));
  ctx.stroke();
}

/** @type {(ctx: Canvas, layout: RollLayout, palette: Palette, note: import("./api.js").Note) => void} */
function paintGhost(ctx, layout, palette, { onset, offset, pitch }) {
  ctx.fillStyle = palette.playhead;
  ctx.globalAlpha = 0.6;
  fillRounded(ctx, layout.x(onset), layout.y(pitch), Math.max(3, (offset - onset) * layout.pixelsPerSecond), layout.rowHeight);
  ctx.globalAlpha = 1;
}

/** @type {(ctx: Canvas, layout: RollLayout, palette: Palette, position: number) => void} */
function paintPlayhead(ctx, layout, palette, position) {
  const x = Math.max(layout.x(position), KEYS_WIDTH + 0.75);
  ctx.fillStyle = palette.playhead;
  ctx.fillRect(x - 0.75, AXIS_HEIGHT - 4, 1.5, layout.plotHeight + 4);
  ctx.beginPath();
  ctx.moveTo(x - 6, AXIS_HEIGHT - 11);
  ctx.lineTo(x + 6, AXIS_HEIGHT - 11);
  ctx.lineTo(x, AXIS_HEIGHT - 3);
  ctx.fill();
}
