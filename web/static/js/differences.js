/** What two results of one recording have in common. Pure functions. */

import { NoteSequence } from "./notes.js";

const SAME_ONSET = 0.05; // s between notes that count as the same

/** @typedef {import("./api.js").NotesFile} NotesFile */

/**
 * Return for each note whether the other result has it too: same pitch, onset within 50 ms, each note once.
 * @param {NoteSequence} one @param {NoteSequence} other
 * @returns {[Uint8Array, Uint8Array]} (N,) and (M,), 1 if both have it
 */
export function match(one, other) {
  const common = new Uint8Array(one.count);
  const taken = new Uint8Array(other.count);
  let from = 0;
  for (let n = 0; n < one.count; n += 1) {
    while (from < other.count && other.onsets[from] < one.onsets[n] - SAME_ONSET) from += 1;
    for (let m = from; m < other.count && other.onsets[m] <= one.onsets[n] + SAME_ONSET; m += 1) {
      if (taken[m] || other.pitches[m] !== one.pitches[n]) continue;
      common[n] = 1;
      taken[m] = 1;
      break;
    }
  }
  return [common, taken];
}

/** Return a sequence with two tracks instead of instruments: what both found, and what only this one found. */
export function inTwoTracks(/** @type {NoteSequence} */ sequence, /** @type {Uint8Array} */ common) {
  const counts = [0, 0];
  sequence.trackOf = common.map((both) => (both ? 0 : 1));
  sequence.trackOf.forEach((track) => (counts[track] += 1));
  sequence.tracks = ["In both", "Only here"].map((name, n) => ({ program: 0, isDrum: false, name, count: counts[n] }));
  return sequence;
}
