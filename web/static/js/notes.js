/** The notes of one transcription as columns, efficient for fifty thousand notes. */

import { drumName, programName } from "./instruments.js";
import { noteName } from "./format.js";

/** @typedef {import("./api.js").Note} Note */
/** @typedef {{ program: number, isDrum: boolean, name: string, count: number }} Track */

export class NoteSequence {
  /** @param {import("./api.js").NotesFile} json notes.json */
  constructor(json) {
    const notes = [...(json.notes ?? [])].sort((a, b) => a.onset - b.onset || a.pitch - b.pitch);
    this.notes = notes;
    this.count = notes.length;
    this.onsets = Float64Array.from(notes, (note) => note.onset); // (N,) s
    this.offsets = Float64Array.from(notes, (note) => note.offset); // (N,) s
    this.pitches = Uint8Array.from(notes, (note) => note.pitch); // (N,)
    this.velocities = Uint8Array.from(notes, (note) => note.velocity); // (N,) 0-127
    this.confidences = Float32Array.from(notes, (note) => note.confidence ?? NaN); // (N,) 0-1; NaN: unknown
    this.hasConfidence = notes.some((note) => typeof note.confidence === "number");
    /** Largest offset of notes 0…n. It never decreases: a binary search finds the first note that may still sound. */
    this.reach = runningMaximum(this.offsets);
    this.tracks = tracksOf(notes);
    this.trackOf = trackIndices(notes, this.tracks); // (N,) index into tracks
    this.recorded = json.duration ?? 0; // s of the recording
    this.duration = Math.max(this.recorded, this.reach.at(-1) ?? 0);
  }

  /** Return the notes that may sound within [from, to]: indices first … end - 1. @param {number} from @param {number} to */
  range(from, to) {
    return { first: firstAbove(this.reach, from), end: firstAbove(this.onsets, to) };
  }

  /** Return the topmost note at a point, or -1. @param {number} time @param {number} pitch */
  at(time, pitch, slack = 0) {
    const { first, end } = this.range(time - slack, time + slack);
    for (let n = end - 1; n >= first; n -= 1) {
      if (this.pitches[n] === pitch && this.offsets[n] >= time - slack) return n;
    }
    return -1;
  }

  /** Return the name of note n: its pitch, or the drum. @param {number} n */
  nameOf(n) {
    return this.tracks[this.trackOf[n]].isDrum ? drumName(this.pitches[n]) : noteName(this.pitches[n]);
  }
}

/** Return the index of the first value > limit in a sorted array. @param {Float64Array} values @param {number} limit */
export function firstAbove(values, limit) {
  let low = 0;
  let high = values.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (values[middle] > limit) high = middle;
    else low = middle + 1;
  }
  return low;
}

/** @param {Float64Array} values */
function runningMaximum(values) {
  let most = -Infinity;
  return values.map((value) => (most = Math.max(most, value)));
}

/** @param {Pick<Note, "program" | "is_drum">} note */
const trackKey = (note) => (note.is_drum ? "drums" : String(note.program));

/** Return the instruments by number of notes, drums last. @param {Note[]} notes @returns {Track[]} */
function tracksOf(notes) {
  /** @type {Map<string, Track>} */
  const tracks = new Map();
  for (const note of notes) {
    const key = trackKey(note);
    const isDrum = Boolean(note.is_drum);
    const name = isDrum ? "Drums" : programName(note.program);
    const track = tracks.get(key) ?? { program: note.program, isDrum, name, count: 0 };
    track.count += 1;
    tracks.set(key, track);
  }
  return [...tracks.values()].sort((a, b) => Number(a.isDrum) - Number(b.isDrum) || b.count - a.count);
}

/** @param {Note[]} notes @param {Track[]} tracks */
function trackIndices(notes, tracks) {
  const index = new Map(tracks.map((track, n) => [trackKey({ is_drum: track.isDrum, program: track.program }), n]));
  return Uint8Array.from(notes, (note) => index.get(trackKey(note)) ?? 0);
}
