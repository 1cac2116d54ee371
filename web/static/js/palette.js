/** The colors of the piano roll, read from the style sheet, where both themes are defined. */

export const TRACK_COLORS = 8;
export const HEAT_COLORS = 5;

/** @typedef {import("./notes.js").NoteSequence} NoteSequence */
/** @typedef {"instrument" | "velocity"} ColorBy */

/** Return the name of the CSS class and property of a track's color. */
export function trackClass(/** @type {NoteSequence} */ sequence, /** @type {number} */ track) {
  return sequence.tracks[track].isDrum ? "track-drums" : `track-${track % TRACK_COLORS}`;
}

export function readPalette(/** @type {Element} */ node, /** @type {NoteSequence} */ sequence) {
  const style = getComputedStyle(node);
  const color = (/** @type {string} */ name) => style.getPropertyValue(`--${name}`).trim();
  return {
    paper: color("roll-paper"),
    shade: color("roll-shade"),
    line: color("roll-line"),
    beat: color("roll-beat"),
    octave: color("roll-octave"),
    ink: color("roll-ink"),
    white: color("key-white"),
    black: color("key-black"),
    keyInk: color("key-ink"),
    playhead: color("playhead"),
    veil: color("roll-veil"),
    window: color("roll-window"),
    wave: color("roll-wave"),
    loop: color("roll-loop"),
    loopEdge: color("roll-loop-edge"),
    font: style.fontFamily,
    tracks: sequence.tracks.map((_, n) => color(trackClass(sequence, n))),
    heat: Array.from({ length: HEAT_COLORS }, (_, n) => color(`heat-${n}`)),
  };
}

/** @typedef {ReturnType<typeof readPalette>} Palette */
