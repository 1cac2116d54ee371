/** Draws the ruler of the piano roll, in bars and seconds, the lines of bars and beats, and the loop. */

import { clock, preciseClock } from "./format.js";
import { AXIS_HEIGHT, KEYS_WIDTH } from "./roll_layout.js";

const LEAST_BEAT_PIXELS = 14;
const BAR_ROW = 13; // middle of the upper row of labels
const TIME_ROW = 30;

/** @typedef {import("./roll_layout.js").RollLayout} RollLayout */
/** @typedef {import("./palette.js").Palette} Palette */
/** @typedef {import("./grid.js").Grid} Grid */

/** Call `each(time, x)` for the labeled times in view. */
function ticks(/** @type {RollLayout} */ layout, /** @type {(time: number, x: number) => void} */ each) {
  const { tick } = layout;
  for (let n = Math.ceil(layout.start / tick - 1e-6); n * tick <= layout.end + 1e-6; n += 1) {
    each(n * tick, layout.x(n * tick));
  }
}

/** Draw lines at bars and beats, or at the labeled times where no beats are known. */
export function paintTimeLines(
  /** @type {CanvasRenderingContext2D} */ ctx,
  /** @type {RollLayout} */ layout,
  /** @type {Grid} */ grid,
  /** @type {Palette} */ palette,
) {
  const line = (/** @type {number} */ x) => {
    if (x >= KEYS_WIDTH) ctx.fillRect(layout.align(x), AXIS_HEIGHT, 1, layout.plotHeight);
  };
  ctx.fillStyle = palette.line;
  if (!grid.known) {
    ticks(layout, (_, x) => line(x));
    return;
  }
  if (grid.beatLength(layout.start) * layout.pixelsPerSecond >= LEAST_BEAT_PIXELS) {
    for (const beat of grid.beats) if (layout.shows(beat)) line(layout.x(beat));
  }
  ctx.fillStyle = palette.beat;
  const step = layout.barStep(grid);
  grid.forBars(layout.start, layout.end, (number, start) => {
    if ((number - 1) % step === 0) line(layout.x(start));
  });
}

/** Draw the labels. */
export function paintRuler(
  /** @type {CanvasRenderingContext2D} */ ctx,
  /** @type {RollLayout} */ layout,
  /** @type {Grid} */ grid,
  /** @type {Palette} */ palette,
) {
  ctx.fillStyle = palette.line;
  ctx.fillRect(0, AXIS_HEIGHT - 1, layout.width, 1);
  ctx.textBaseline = "middle";
  ctx.textAlign = "left";
  ctx.fillStyle = palette.ink;
  if (grid.known) paintBarNumbers(ctx, layout, grid, palette);
  ctx.font = `11px ${palette.font}`;
  const row = grid.known ? TIME_ROW : AXIS_HEIGHT / 2;
  ticks(layout, (time, x) => {
    const words = layout.tick < 1 ? preciseClock(time) : clock(time);
    if (x + ctx.measureText(words).width + 6 < layout.width) ctx.fillText(words, Math.round(x) + 5, row);
    ctx.fillRect(Math.round(x), row + 5, 1, AXIS_HEIGHT - row - 5);
  });
}

/** @type {(ctx: CanvasRenderingContext2D, layout: RollLayout, grid: Grid, palette: Palette) => void} */
function paintBarNumbers(ctx, layout, grid, palette) {
  ctx.font = `650 12px ${palette.font}`;
  ctx.fillText("Bar", 6, BAR_ROW);
  const step = layout.barStep(grid);
  grid.forBars(layout.start, layout.end, (number, start) => {
    const x = layout.x(start);
    if ((number - 1) % step || x < KEYS_WIDTH - 1) return;
    ctx.fillRect(Math.round(x), 4, 1, BAR_ROW + 4);
    if (x + ctx.measureText(String(number)).width + 6 < layout.width) ctx.fillText(String(number), Math.round(x) + 5, BAR_ROW);
  });
}

/** Draw the loop over the ruler and, lightly, over the notes. */
export function paintLoop(
  /** @type {CanvasRenderingContext2D} */ ctx,
  /** @type {RollLayout} */ layout,
  /** @type {Palette} */ palette,
  /** @type {import("./transport.js").Loop} */ loop,
) {
  const left = Math.max(KEYS_WIDTH, layout.x(loop.start));
  const right = Math.min(layout.width, layout.x(loop.end));
  if (right <= left) return;
  ctx.fillStyle = palette.loop;
  ctx.fillRect(left, 0, right - left, layout.height);
  ctx.fillStyle = palette.loopEdge;
  ctx.fillRect(left, AXIS_HEIGHT - 4, right - left, 3);
  for (const time of [loop.start, loop.end]) {
    if (layout.shows(time)) ctx.fillRect(layout.x(time) - 1, 0, 2, AXIS_HEIGHT);
  }
}
