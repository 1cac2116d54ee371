/** Draws the keyboard at the left of the piano roll. */

import { AXIS_HEIGHT, KEYS_WIDTH } from "./roll_layout.js";

const BLACK_KEY_WIDTH = Math.round(KEYS_WIDTH * 0.58);
export const BLACK_KEYS = new Set([1, 3, 6, 8, 10]);

/** @typedef {import("./roll_layout.js").RollLayout} RollLayout */
/** @typedef {import("./palette.js").Palette} Palette */

/** Draw the keyboard at the left, with a label on every C. */
export function paintKeys(
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
export function paintKey(
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
