/** Editing on the roll: what drags, taps, keys and buttons do to the notes, and when the corrections are saved. */

import { ApiError, deleteCorrections, fetchNotes, jobPath, putCorrections } from "./api.js";
import { confirmed } from "./dom.js";
import { Editor } from "./editor.js";
import { exported } from "./exports.js";
import { MendTools } from "./mend_tools.js";
import { retryDelay } from "./polling.js";

const SAVE_MS = 1_000; // after the last change
const GRID_PARTS = 4; // of a beat that edits snap to
const EDGE = 12; // px at the end of a note that change its length
const FREE_STEP = 0.05; // s, where there are no beats
const NEW_VELOCITY = 80;
const CORRECT_MS = 60_000; // until a correction of the beats is given up

/** @typedef {import("./api.js").Note} Note */
/** @typedef {import("./roll_pointer.js").Point} Point */

/**
 * Fires "change" when notes or the mode change, "beats" when the beats do, and "save" when the stored corrections have changed.
 */
export class Mender extends EventTarget {
  editing = false;
  corrected = false; // corrections are stored, or about to be
  version = ""; // of the stored corrections, as last shown or saved
  editor = new Editor();
  #adds = false;
  #id = "";
  /** @type {import("./api.js").NotesFile} */
  #json = {};
  #timer = 0;
  #saving = Promise.resolve();
  #turn = 0; // of attempts to save: a later one has all changes of an earlier one
  /** @type {Set<string>} jobs with changes that are not stored */
  #unsaved = new Set();
  #base = { version: "" }; // the stored corrections that the changes in view are made to

  /** @param {import("./result_view.js").ResultView} view */
  constructor(view) {
    super();
    this.view = view;
    this.tools = new MendTools({
      run: (command) => this.run(command),
      toggle: () => this.#toggle(),
      add: () => this.#toggleAdding(),
      revert: () => this.#revert(),
    });
    this.editor.addEventListener("change", () => this.#edited());
    view.roll.onGrab = (from) => this.#grab(from);
    window.addEventListener("beforeunload", (event) => {
      if (this.#unsaved.size) event.preventDefault();
    });
  }

  /** @param {string} id of the job @param {import("./api.js").NotesFile} json @param {string} version "": the original */
  load(id, json, version) {
    this.flush();
    this.#id = id;
    this.#json = json;
    this.version = version;
    this.#base = { version };
    this.corrected = version !== "";
    this.editing = false;
    this.#adds = false;
    this.editor.load(json.notes ?? []);
    this.tools.report(this.corrected ? "These notes have been corrected." : "");
    this.show();
  }

  show() {
    const { editing, corrected, editor } = this;
    const picked = this.view.pickedNote !== null;
    this.view.roll.stage.classList.toggle("editing", editing);
    this.tools.show({ editing, adds: this.#adds, picked, corrected, canUndo: editor.canUndo, canRedo: editor.canRedo });
  }

  #toggle() {
    this.editing = !this.editing;
    this.#adds = false;
    this.show();
  }

  #toggleAdding() {
    this.#adds = !this.#adds;
    this.show();
  }

  /** @param {import("./mend_tools.js").Command} command */
  run(command) {
    if (command === "undo") this.#pick(this.editor.undo());
    else if (command === "redo") this.#pick(this.editor.redo());
    const note = this.view.pickedNote;
    if (!note) return;
    const { onset, offset, pitch } = note;
    const step = this.#step(onset);
    const edit = {
      up: () => this.editor.change(note, { pitch: pitch + 1 }),
      down: () => this.editor.change(note, { pitch: pitch - 1 }),
      earlier: () => this.editor.change(note, { onset: onset - step, offset: Math.max(step, offset - step) }),
      later: () => this.editor.change(note, { onset: onset + step, offset: offset + step }),
      shorter: () => this.editor.change(note, { offset: Math.max(onset + step / 2, offset - step) }),
      longer: () => this.editor.change(note, { offset: offset + step }),
      split: () => this.editor.split(note, this.view.transport.position) ?? this.#cannot("Put the playhead within the note."),
      join: () => this.editor.join(note) ?? this.#cannot("No later note has this pitch."),
      remove: () => this.editor.apply([note], []),
      undo: () => undefined,
      redo: () => undefined,
    }[command]();
    if (command === "remove") this.#pick(null);
    else if (edit) this.#pick(edit);
  }

  /** Change the pitch of the selected note. @param {number} semitones */
  transpose(semitones) {
    const note = this.view.pickedNote;
    if (note) this.#pick(this.editor.change(note, { pitch: note.pitch + semitones }) ?? note);
  }

  /** @param {string} words */
  #cannot(words) {
    this.tools.report(words);
    return null;
  }

  /** Return how far a note moves at once. @param {number} time s */
  #step(time) {
    const { grid, tools } = this.view;
    return grid.known && tools.snaps ? grid.beatLength(time) / GRID_PARTS : FREE_STEP;
  }

  /** @param {number} time s */
  #snapped(time) {
    const { grid, tools } = this.view;
    return tools.snaps ? grid.snap(time, GRID_PARTS) : Math.max(0, time);
  }

  /** The notes and beats as they are now. */
  get json() {
    return { ...this.#json, notes: this.editor.notes };
  }

  /** Correct the beats; see `GridCorrection` of the library. @param {import("./beat_tools.js").Correction} options */
  async correctBeats(options) {
    const id = this.#id;
    await this.flush();
    const source = this.corrected ? "corrected" : "original";
    const wanted = { format: "notes.json", options, source: /** @type {"corrected" | "original"} */ (source) };
    const artifact = await exported(id, wanted, { signal: AbortSignal.timeout(CORRECT_MS) });
    this.#useBeats(id, await fetchNotes(artifact.href));
  }

  /** Return to the beats that were found in the notes as they were transcribed. */
  async resetBeats() {
    this.#useBeats(this.#id, await fetchNotes(`${jobPath(this.#id)}/artifacts/notes.json`));
  }

  /** @param {string} id @param {import("./api.js").NotesFile} json */
  #useBeats(id, { beats, downbeats, meter, tempo_bpm, key, confidence }) {
    if (id !== this.#id) return; // another job is in view now
    this.#json = { ...this.#json, beats, downbeats, meter, tempo_bpm, key, confidence };
    this.dispatchEvent(new Event("beats"));
    this.#edited();
  }

  /** Select a note of the notes as they are now. @param {Note | null} note */
  #pick(note) {
    this.view.pickNote(note);
    if (note) this.view.audition(note);
  }

  /** Add a note where the roll was tapped; false: taps do not add notes now. @param {Point} point */
  tap(point) {
    if (!this.#adds) return false;
    const { layout } = this.view.roll;
    const { grid, tools } = this.view;
    const time = layout.timeAt(point.x);
    const onset = tools.snaps && grid.known ? Math.max(0, grid.snap(time - this.#step(time) / 2, GRID_PARTS)) : time;
    this.addAt(onset, layout.pitchAt(point.y));
    return true;
  }

  /** @param {number} onset s @param {number} [pitch] */
  addAt(onset, pitch) {
    const like = this.view.likelyNote;
    const { program, is_drum } = like ?? { program: 0, is_drum: false };
    const offset = onset + this.view.grid.beatLength(onset);
    const note = { onset, offset, pitch: pitch ?? like?.pitch ?? 60, velocity: NEW_VELOCITY, program, is_drum, confidence: null };
    this.#pick(this.editor.apply([], [note]));
  }

  /** Move a note, or change its length, with the pointer. @param {Point} from */
  #grab(from) {
    if (!this.editing || this.#adds) return null;
    const { roll } = this.view;
    const n = roll.noteAt(from);
    if (n < 0) return null;
    this.view.pick(n);
    const note = /** @type {Note} */ (this.view.pickedNote);
    const { layout } = roll;
    const right = layout.x(note.offset);
    const lengthens = from.x > right - Math.min(EDGE, (right - layout.x(note.onset)) / 3);
    return (/** @type {Point} */ to, /** @type {boolean} */ done) => {
      const moved = (to.x - from.x) / layout.pixelsPerSecond;
      const sideways = Math.abs(to.x - from.x) > EDGE / 2;
      const changes = lengthens
        ? { offset: this.#snapped(note.offset + moved) }
        : this.#placed(note, sideways ? moved : 0, layout.pitchAt(to.y) - layout.pitchAt(from.y));
      roll.showGhost(done ? null : { ...note, ...changes });
      if (done) this.#pick(this.editor.change(note, changes) ?? note);
    };
  }

  /** @param {Note} note @param {number} seconds @param {number} semitones */
  #placed(note, seconds, semitones) {
    const onset = seconds ? this.#snapped(note.onset + seconds) : note.onset;
    return { onset, offset: onset + note.offset - note.onset, pitch: note.pitch + semitones };
  }

  #edited() {
    this.corrected = true;
    this.#unsaved.add(this.#id);
    this.dispatchEvent(new Event("change"));
    this.tools.report("Not saved yet");
    clearTimeout(this.#timer);
    this.#timer = window.setTimeout(() => this.flush(), SAVE_MS);
    this.show();
  }

  /** Save now what has not been saved. */
  flush() {
    if (!this.#timer) return this.#saving;
    clearTimeout(this.#timer);
    this.#timer = 0;
    const id = this.#id;
    const turn = (this.#turn += 1);
    const body = { ...this.json, format: "mt3-infer/notes", version: 2 };
    const base = this.#base;
    this.#saving = this.#saving.then(() => this.#save(id, body, turn, base));
    return this.#saving;
  }

  /** Store corrections, as soon as the service can be reached. @type {(id: string, body: import("./api.js").NotesFile, turn: number, base: { version: string }) => Promise<void>} */
  async #save(id, body, turn, base) {
    this.tools.report("Saving…");
    for (let failures = 0; ; failures += 1) {
      try {
        const artifact = await putCorrections(id, body, base.version);
        base.version = artifact.sha256;
        if (turn === this.#turn && !this.#timer) this.#unsaved.delete(id);
        if (id === this.#id) this.#saved(artifact.sha256);
        return;
      } catch (error) {
        const { message, status } = /** @type {ApiError} */ (error);
        if (id === this.#id) this.tools.report(`Not saved. ${message}`);
        if (status === 404) this.#unsaved.delete(id); // the job has been deleted
        if (!(error instanceof ApiError && error.transient)) return;
        await new Promise((resolve) => setTimeout(resolve, retryDelay(failures, error.retryAfter)));
        if (turn !== this.#turn) return;
      }
    }
  }

  /** @param {string} version */
  #saved(version) {
    this.version = version;
    if (!this.#timer) this.tools.report("Saved beside the original");
    this.dispatchEvent(new Event("save"));
  }

  async #revert() {
    const text = "This permanently deletes your corrections. The notes are again as they were transcribed.";
    if (!(await confirmed("Discard the corrections?", text, "Discard"))) return;
    clearTimeout(this.#timer);
    this.#timer = 0;
    try {
      await this.#saving;
      await deleteCorrections(this.#id);
      this.#unsaved.delete(this.#id);
      this.#base.version = "";
      this.view.onRevert();
    } catch (error) {
      this.tools.report(/** @type {Error} */ (error).message);
    }
  }
}
