/** Signs that a result was made by a model that does not fit the recording. Pure functions. */

const MANY_VOICES = 6; // notes at once that one instrument other than a keyboard does not play
const MANY_SHARE = 0.25; // of the time in which anything sounds
const FEW_PER_SECOND = 0.15; // of the recording
const LEAST_SECONDS = 5; // a shorter recording shows nothing

/** @typedef {import("./notes.js").NoteSequence} NoteSequence */
/** @typedef {{ words: string, purpose: string }} Doubt purpose: of a model that may fit better */

/** Return why a result may be of the wrong model; null if nothing shows it. */
export function doubtOf(/** @type {string} */ purpose, /** @type {NoteSequence} */ notes) {
  if (notes.duration < LEAST_SECONDS) return null;
  const few = notes.count / notes.duration < FEW_PER_SECOND;
  if (purpose === "one_instrument" && shareWithManyVoices(notes) > MANY_SHARE) {
    const words = "Many notes sound at once for one instrument. If several play, a model for bands and orchestras fits better.";
    return { words, purpose: "several_instruments" };
  }
  if (purpose === "piano" && few) {
    const words = "Few notes were found. This model knows the piano only; another one fits other instruments better.";
    return { words, purpose: "one_instrument" };
  }
  if (purpose === "several_instruments" && isPianoOnly(notes)) {
    return { words: "Only piano was found. A model made for the piano is more exact.", purpose: "piano" };
  }
  return null;
}

/** Return the share of the sounding time in which many notes sound. @param {NoteSequence} notes */
export function shareWithManyVoices(notes) {
  const events = [...notes.onsets].map((time) => ({ time, step: 1 }));
  events.push(...[...notes.offsets].map((time) => ({ time, step: -1 })));
  events.sort((a, b) => a.time - b.time || a.step - b.step);
  let [sounding, before, some, many] = [0, 0, 0, 0];
  for (const { time, step } of events) {
    if (sounding > 0) some += time - before;
    if (sounding >= MANY_VOICES) many += time - before;
    sounding += step;
    before = time;
  }
  return some ? many / some : 0;
}

/** @param {NoteSequence} notes */
function isPianoOnly(notes) {
  return notes.tracks.length > 0 && notes.tracks.every((track) => !track.isDrum && track.program < 8);
}
