/** Draws the piano roll onto canvases. */

import { clock, preciseClock } from "./format.js";
import { AXIS_HEIGHT, KEYS_WIDTH } from "./roll_layout.js";

export const TRACK_COLORS = 8;

const MANY_NOTES = 4000; // above it, rounded corners are too slow
const BLACK_KEY_WIDTH = Math.round(KEYS_WIDTH * 0.58);
const BLACK_KEYS = new Set([1, 3, 6, 8, 10]);

/** @typedef {import("./notes.js").NoteSequence} NoteSequence */
/** @typedef {import("./roll_layout.js").RollLayout} RollLayout */

/** Return the name of the CSS class and property of a track's color. */
export function trackClass(/** @type {NoteSequence} */ sequence, /** @type {number} */ track) {
  return sequence.tracks[track].isDrum ? "track-drums" : `track-${track % TRACK_COLORS}`;
}

/** Read the colors from the style sheet, where both themes are defined. */
export function readPalette(/** @type {Element} */ node, /** @type {NoteSequence} */ sequence) {
  const style = getComputedStyle(node);
  const color = (/** @type {string} */ name) => style.getPropertyValue(`--${name}`).trim();
  return {
    paper: color("roll-paper"),
    shade: color("roll-shade"),
    line: color("roll-line"),
    octave: color("roll-octave"),
    ink: color("roll-ink"),
    white: color("key-white"),
    black: color("key-black"),
    keyInk: color("key-ink"),
    playhead: color("playhead"),
    veil: color("roll-veil"),
    window: color("roll-window"),
    font: style.fontFamily,
    tracks: sequence.tracks.map((_, n) => color(trackClass(sequence, n))),
  };
}

/** @typedef {ReturnType<typeof readPalette>} Palette */

/** Velocity as opacity. @param {number} velocity 0-127 */
const opacity = (velocity) => 0.3 + 0.7 * (velocity / 127);

/** Draw everything that does not move during playback. */
export function paintRoll(
  /** @type {CanvasRenderingContext2D} */ ctx,
  /** @type {RollLayout} */ layout,
  /** @type {NoteSequence} */ sequence,
  /** @type {Palette} */ palette,
  /** @type {Set<number>} */ hidden,
) {
  ctx.fillStyle = palette.paper;
  ctx.fillRect(0, 0, layout.width, layout.height);
  paintRows(ctx, layout, palette);
  paintTimeLines(ctx, layout, palette);
  ctx.save();
  ctx.beginPath();
  ctx.rect(KEYS_WIDTH, AXIS_HEIGHT, layout.plotWidth, layout.plotHeight);
  ctx.clip();
  paintNotes(ctx, layout, sequence, palette, hidden);
  ctx.restore();
  paintTimeLabels(ctx, layout, palette);
  paintKeys(ctx, layout, palette);
}

/** @param {CanvasRenderingContext2D} ctx @param {RollLayout} layout @param {Palette} palette */
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

/** Call `each(time, x)` for the labeled lines in view. */
function ticks(/** @type {RollLayout} */ layout, /** @type {(time: number, x: number) => void} */ each) {
  const { tick } = layout;
  for (let n = Math.ceil(layout.start / tick - 1e-6); n * tick <= layout.end + 1e-6; n += 1) {
    each(n * tick, layout.x(n * tick));
  }
}

/** @param {CanvasRenderingContext2D} ctx @param {RollLayout} layout @param {Palette} palette */
function paintTimeLines(ctx, layout, palette) {
  ctx.fillStyle = palette.line;
  ticks(layout, (_, x) => ctx.fillRect(Math.round(x), AXIS_HEIGHT, 1, layout.plotHeight));
}

/** @param {CanvasRenderingContext2D} ctx @param {RollLayout} layout @param {Palette} palette */
function paintTimeLabels(ctx, layout, palette) {
  ctx.fillStyle = palette.line;
  ctx.fillRect(0, AXIS_HEIGHT - 1, layout.width, 1);
  ctx.fillStyle = palette.ink;
  ctx.font = `11px ${palette.font}`;
  ctx.textBaseline = "middle";
  ctx.textAlign = "left";
  ticks(layout, (time, x) => {
    const words = layout.tick < 1 ? preciseClock(time) : clock(time);
    if (x + ctx.measureText(words).width + 6 < layout.width) ctx.fillText(words, Math.round(x) + 5, 11);
    ctx.fillRect(Math.round(x), AXIS_HEIGHT - 6, 1, 6);
  });
}

/** Draw the notes in view; of those narrower than a pixel, one for each pixel and pitch. */
function paintNotes(
  /** @type {CanvasRenderingContext2D} */ ctx,
  /** @type {RollLayout} */ layout,
  /** @type {NoteSequence} */ sequence,
  /** @type {Palette} */ palette,
  /** @type {Set<number>} */ hidden,
) {
  const { first, end } = sequence.range(layout.start, layout.end);
  const rounded = end - first < MANY_NOTES;
  const lastPixel = new Int32Array(128).fill(-1);
  let track = -1;
  for (let n = first; n < end; n += 1) {
    if (sequence.offsets[n] < layout.start || hidden.has(sequence.trackOf[n])) continue;
    const { x, y, width, height } = noteBox(layout, sequence, n);
    const pixel = Math.floor(x);
    if (width < 1.5 && lastPixel[sequence.pitches[n]] === pixel) continue;
    lastPixel[sequence.pitches[n]] = pixel;
    if (sequence.trackOf[n] !== track) {
      track = sequence.trackOf[n];
      ctx.fillStyle = palette.tracks[track];
    }
    ctx.globalAlpha = opacity(sequence.velocities[n]);
    if (rounded && width > 3) fillRounded(ctx, x, y, width, height);
    else ctx.fillRect(x, y, Math.max(1, width), height);
  }
  ctx.globalAlpha = 1;
}

/** @param {RollLayout} layout @param {NoteSequence} sequence @param {number} n */
function noteBox(layout, sequence, n) {
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

/** @type {(ctx: CanvasRenderingContext2D, x: number, y: number, width: number, height: number) => void} */
function fillRounded(ctx, x, y, width, height) {
  ctx.beginPath();
  ctx.roundRect(x, y, width, height, Math.min(3.5, width / 2, height / 2));
  ctx.fill();
}

/** Draw the keyboard at the left, with a label on every C. */
function paintKeys(
  /** @type {CanvasRenderingContext2D} */ ctx,
  /** @type {RollLayout} */ layout,
  /** @type {Palette} */ palette,
) {
  ctx.fillStyle = palette.white;
  ctx.fillRect(0, AXIS_HEIGHT, KEYS_WIDTH, layout.plotHeight);
  for (let pitch = layout.lowest; pitch <= layout.highest; pitch += 1) paintKey(ctx, layout, palette, pitch, null);
  ctx.fillStyle = palette.octave;
  ctx.fillRect(KEYS_WIDTH - 1, AXIS_HEIGHT, 1, layout.plotHeight);
}

/** @param {string | null} lit color of a key that sounds */
function paintKey(
  /** @type {CanvasRenderingContext2D} */ ctx,
  /** @type {RollLayout} */ layout,
  /** @type {Palette} */ palette,
  /** @type {number} */ pitch,
  lit,
) {
  const y = layout.y(pitch);
  const row = layout.rowHeight;
  const step = pitch % 12;
  if (BLACK_KEYS.has(step)) {
    ctx.fillStyle = lit ?? palette.black;
    ctx.fillRect(0, y, BLACK_KEY_WIDTH, row);
    if (lit) return;
    ctx.fillStyle = palette.octave; // its two white neighbours meet behind it
    ctx.fillRect(BLACK_KEY_WIDTH, Math.round(y + row / 2) - 0.5, KEYS_WIDTH - BLACK_KEY_WIDTH, 1);
    return;
  }
  if (lit) {
    ctx.fillStyle = lit;
    ctx.fillRect(0, y, KEYS_WIDTH - 1, row);
  }
  if (step === 0 || step === 5) {
    ctx.fillStyle = palette.octave; // where two white keys meet
    ctx.fillRect(0, Math.round(y + row) - 0.5, KEYS_WIDTH, 1);
  }
  if (step === 0) paintKeyName(ctx, layout, palette, pitch);
}

/** @type {(ctx: CanvasRenderingContext2D, layout: RollLayout, palette: Palette, pitch: number) => void} */
function paintKeyName(ctx, layout, palette, pitch) {
  ctx.fillStyle = palette.keyInk;
  ctx.font = `${Math.max(8, Math.min(11, layout.rowHeight * 1.4))}px ${palette.font}`;
  ctx.textAlign = "right";
  ctx.textBaseline = "middle";
  ctx.fillText(`C${pitch / 12 - 1}`, KEYS_WIDTH - 4, layout.y(pitch) + layout.rowHeight / 2);
}

/** Draw what moves: the playhead, the notes and keys that sound, the note under the pointer. */
export function paintMoving(
  /** @type {CanvasRenderingContext2D} */ ctx,
  /** @type {RollLayout} */ layout,
  /** @type {NoteSequence} */ sequence,
  /** @type {Palette} */ palette,
  /** @type {{ position: number, playing: boolean, hovered: number, hidden: Set<number> }} */ state,
) {
  ctx.clearRect(0, 0, layout.width, layout.height);
  ctx.save();
  ctx.beginPath();
  ctx.rect(KEYS_WIDTH, 0, layout.plotWidth, layout.height);
  ctx.clip();
  const sounding = state.playing ? soundingAt(sequence, state.position, state.hidden) : [];
  for (const n of sounding) lightNote(ctx, layout, sequence, palette, n);
  if (state.hovered >= 0) outlineNote(ctx, layout, sequence, palette, state.hovered);
  paintPlayhead(ctx, layout, palette, state.position);
  ctx.restore();
  for (const n of sounding) {
    paintKey(ctx, layout, palette, sequence.pitches[n], palette.tracks[sequence.trackOf[n]]);
  }
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

/** @type {(ctx: CanvasRenderingContext2D, l: RollLayout, s: NoteSequence, p: Palette, n: number) => void} */
function lightNote(ctx, layout, sequence, palette, n) {
  const { x, y, width, height } = noteBox(layout, sequence, n);
  ctx.fillStyle = palette.tracks[sequence.trackOf[n]];
  ctx.globalAlpha = 0.25;
  fillRounded(ctx, x - 3, y - 3, width + 6, height + 6);
  ctx.globalAlpha = 1;
  fillRounded(ctx, x, y, Math.max(2, width), height);
}

/** @type {(ctx: CanvasRenderingContext2D, l: RollLayout, s: NoteSequence, p: Palette, n: number) => void} */
function outlineNote(ctx, layout, sequence, palette, n) {
  const { x, y, width, height } = noteBox(layout, sequence, n);
  ctx.strokeStyle = palette.ink;
  ctx.lineWidth = 1.5;
  ctx.beginPath();
  ctx.roundRect(x - 1, y - 1, Math.max(3, width + 2), height + 2, Math.min(4, height / 2));
  ctx.stroke();
}

/** @type {(ctx: CanvasRenderingContext2D, layout: RollLayout, palette: Palette, position: number) => void} */
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

/** Draw the overview of the whole piece. */
export function paintOverview(
  /** @type {CanvasRenderingContext2D} */ ctx,
  /** @type {{ width: number, height: number }} */ size,
  /** @type {RollLayout} */ layout,
  /** @type {NoteSequence} */ sequence,
  /** @type {Palette} */ palette,
  /** @type {Set<number>} */ hidden,
) {
  ctx.fillStyle = palette.paper;
  ctx.fillRect(0, 0, size.width, size.height);
  const scale = size.width / layout.duration;
  const row = (size.height - 8) / (layout.highest - layout.lowest + 1);
  const lastPixel = new Int32Array(128).fill(-1);
  ctx.globalAlpha = 0.75;
  for (let n = 0; n < sequence.count; n += 1) {
    if (hidden.has(sequence.trackOf[n])) continue;
    const pitch = sequence.pitches[n];
    const x = sequence.onsets[n] * scale;
    const width = (sequence.offsets[n] - sequence.onsets[n]) * scale;
    if (width < 1.5 && lastPixel[pitch] === Math.floor(x)) continue;
    lastPixel[pitch] = Math.floor(x);
    ctx.fillStyle = palette.tracks[sequence.trackOf[n]];
    ctx.fillRect(x, 4 + (layout.highest - pitch) * row, Math.max(1, width), Math.max(1, row));
  }
  ctx.globalAlpha = 1;
}

/** Draw the visible window and the playhead on the overview. */
export function paintOverviewWindow(
  /** @type {CanvasRenderingContext2D} */ ctx,
  /** @type {{ width: number, height: number }} */ size,
  /** @type {RollLayout} */ layout,
  /** @type {Palette} */ palette,
  /** @type {number} */ position,
) {
  ctx.clearRect(0, 0, size.width, size.height);
  const scale = size.width / layout.duration;
  const left = layout.start * scale;
  const right = Math.min(size.width, layout.end * scale);
  if (!layout.isFitted) {
    ctx.fillStyle = palette.veil;
    ctx.fillRect(0, 0, left, size.height);
    ctx.fillRect(right, 0, size.width - right, size.height);
    ctx.strokeStyle = palette.window;
    ctx.lineWidth = 2;
    ctx.beginPath();
    ctx.roundRect(left + 1, 1, Math.max(4, right - left - 2), size.height - 2, 4);
    ctx.stroke();
  }
  ctx.fillStyle = palette.playhead;
  ctx.fillRect(Math.max(0, position * scale - 0.75), 0, 1.5, size.height);
}
