/** The notes of a job while it runs: as a stream of events, or by polling where there is no stream. */

import { jobPath, jsonOf, request, shareToken } from "./api.js";

const LOOK_MS = 2_000;
const GIVE_UP = 3; // failures of the stream in a row; then the notes are polled

/** @typedef {import("./api.js").Note & { id: number }} LiveNote */

/**
 * Fires "change" when notes came or went.
 *
 * A hidden tab has no stream: over HTTP/1.1 a browser opens six connections to a service, for all its tabs together,
 * and streams in six of them would leave none to load another page with.
 */
export class LiveNotes extends EventTarget {
  #id = "";
  /** @type {Map<number, LiveNote>} */
  notes = new Map();
  /** @type {EventSource | null} */
  #source = null;
  #polling = new AbortController();
  #paused = false; // until the tab is visible
  #last = ""; // id of the last event

  constructor() {
    super();
    document.addEventListener("visibilitychange", () => this.#pauseOrResume());
  }

  /** Follow a job; again for the same one, go on. @param {string} id */
  follow(id) {
    if (this.#id === id || shareToken !== null) return;
    this.stop();
    this.#id = id;
    this.#paused = true;
    this.#pauseOrResume();
  }

  #pauseOrResume() {
    if (document.hidden && this.#source) {
      this.#source.close();
      this.#source = null;
      this.#paused = true;
    } else if (!document.hidden && this.#paused) {
      this.#paused = false;
      this.#stream();
    }
  }

  stop() {
    this.#id = "";
    this.#source?.close();
    this.#source = null;
    this.#paused = false;
    this.#last = "";
    this.#polling.abort();
    if (this.notes.size) this.#change([], [...this.notes.keys()]);
  }

  #stream() {
    const after = this.#last ? `?after=${encodeURIComponent(this.#last)}` : "";
    const source = new EventSource(`${jobPath(this.#id)}/events${after}`);
    let failures = 0;
    this.#source = source;
    source.addEventListener("open", () => (failures = 0));
    source.addEventListener("notes", (event) => this.#take(event, JSON.parse(event.data).notes, []));
    source.addEventListener("notes_withdrawn", (event) => this.#take(event, [], JSON.parse(event.data).ids));
    source.addEventListener("end", () => source.close());
    source.addEventListener("error", () => {
      failures += 1;
      // Closed by the browser: the answer was no stream, for example because there are too many of them.
      if (source.readyState !== EventSource.CLOSED && failures < GIVE_UP) return;
      source.close();
      if (this.#source !== source) return;
      this.#source = null;
      this.#poll();
    });
  }

  async #poll() {
    this.#polling = new AbortController();
    const { signal } = this.#polling;
    if (this.notes.size) this.#change([], [...this.notes.keys()]); // polling starts from the first note
    let cursor = "0";
    while (!signal.aborted) {
      let wait = LOOK_MS;
      try {
        const page = await jsonOf(await request(`${jobPath(this.#id)}/notes?after=${cursor}`, { signal }));
        this.#change(page.notes, page.withdrawn);
        if (page.complete) return;
        if (page.cursor !== cursor) wait = 0;
        cursor = page.cursor;
      } catch (error) {
        if (signal.aborted || !(/** @type {import("./api.js").ApiError} */ (error).transient)) return;
      }
      await new Promise((resolve) => setTimeout(resolve, wait));
    }
  }

  /** @param {MessageEvent} event @param {LiveNote[]} added @param {number[]} withdrawn */
  #take(event, added, withdrawn) {
    this.#last = event.lastEventId;
    this.#change(added, withdrawn);
  }

  /** @param {LiveNote[]} added @param {number[]} withdrawn */
  #change(added, withdrawn) {
    withdrawn.forEach((id) => this.notes.delete(id));
    added.forEach((note) => this.notes.set(note.id, note));
    if (added.length || withdrawn.length) this.dispatchEvent(new Event("change"));
  }
}
