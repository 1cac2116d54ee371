/** Edits of notes, each of which can be undone: notes that are taken away and notes that come in their place. */

const SHORTEST = 0.03; // s

/** @typedef {import("./api.js").Note} Note */
/** @typedef {{ removed: Note[], added: Note[] }} Edit */

/** Fires "change" after each edit. */
export class Editor extends EventTarget {
  /** @type {Set<Note>} */
  #notes = new Set();
  /** @type {Edit[]} */
  #done = [];
  /** @type {Edit[]} */
  #undone = [];

  /** @param {Note[]} notes */
  load(notes) {
    this.#notes = new Set(notes);
    this.#done = [];
    this.#undone = [];
  }

  get notes() {
    return [...this.#notes];
  }

  get canUndo() {
    return this.#done.length > 0;
  }

  get canRedo() {
    return this.#undone.length > 0;
  }

  /** @param {Note[]} removed @param {Note[]} added @returns {Note | null} the first that was added */
  apply(removed, added) {
    const edit = { removed, added };
    this.#done.push(edit);
    this.#undone = [];
    this.#perform(edit);
    return added[0] ?? null;
  }

  /** @returns {Note | null} a note that came back */
  undo() {
    const edit = this.#done.pop();
    if (!edit) return null;
    this.#undone.push(edit);
    this.#perform({ removed: edit.added, added: edit.removed });
    return edit.removed[0] ?? null;
  }

  /** @returns {Note | null} */
  redo() {
    const edit = this.#undone.pop();
    if (!edit) return null;
    this.#done.push(edit);
    this.#perform(edit);
    return edit.added[0] ?? null;
  }

  /** @param {Edit} edit */
  #perform({ removed, added }) {
    for (const note of removed) this.#notes.delete(note);
    for (const note of added) this.#notes.add(note);
    this.dispatchEvent(new Event("change"));
  }

  /** Replace a note by a changed one; null where nothing changes. @param {Note} note @param {Partial<Note>} changes */
  change(note, changes) {
    const changed = { ...note, ...changes };
    changed.onset = Math.max(0, changed.onset);
    changed.offset = Math.max(changed.offset, changed.onset + SHORTEST);
    changed.pitch = Math.min(127, Math.max(0, changed.pitch));
    const same = changed.onset === note.onset && changed.offset === note.offset && changed.pitch === note.pitch;
    return same ? null : this.apply([note], [withoutConfidence(changed)]);
  }

  /** Cut a note in two; null if the time is not within it. @param {Note} note @param {number} time s */
  split(note, time) {
    if (time < note.onset + SHORTEST || time > note.offset - SHORTEST) return null;
    return this.apply([note], [{ ...note, offset: time }, { ...note, onset: time }]);
  }

  /** Make a note and the next of its pitch and instrument one; null if there is none. @param {Note} note */
  join(note) {
    const later = this.notes.filter((each) => each !== note && each.onset >= note.onset && isSameVoice(each, note));
    const next = later.sort((a, b) => a.onset - b.onset)[0];
    if (!next) return null;
    return this.apply([note, next], [{ ...note, offset: Math.max(note.offset, next.offset) }]);
  }
}

/** Return a note that a user has set: nothing is uncertain about it. @param {Note} note @returns {Note} */
const withoutConfidence = (note) => ({ ...note, confidence: null });

/** @param {Note} a @param {Note} b */
const isSameVoice = (a, b) => a.pitch === b.pitch && a.program === b.program && a.is_drum === b.is_drum;
