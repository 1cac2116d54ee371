/** Two results of one recording, one above the other, with what only one of them found. */

import { artifact, fetchNotes, getJob, listJobs } from "./api.js";
import { recordingOf } from "./again.js";
import { element, setText } from "./dom.js";
import { inTwoTracks, match } from "./differences.js";
import { ago, counted } from "./format.js";
import { Grid } from "./grid.js";
import { NoteSequence } from "./notes.js";
import { PianoRoll } from "./piano_roll.js";

/** @typedef {import("./api.js").Job} Job */

class Side {
  constructor() {
    this.words = element("p", { className: "compare-words" });
    this.roll = new PianoRoll();
    this.roll.node.classList.add("compare-roll");
    this.node = element("section", { className: "compare-side" }, this.words, this.roll.node);
  }

  /** @param {string} title @param {NoteSequence} sequence @param {Grid} grid */
  show(title, sequence, grid) {
    const [both, only] = sequence.tracks;
    setText(this.words, `${title}: ${counted(both.count, "note")} in both, ${counted(only.count, "note")} only here`);
    this.node.setAttribute("aria-label", title);
    this.roll.show(sequence, grid);
    this.roll.moving.setAttribute("aria-label", `Notes of ${title}`);
    this.roll.fit();
  }
}

export class Compare {
  #id = "";
  #loading = new AbortController();

  /** @param {(model: string) => string} modelTitle */
  constructor(modelTitle) {
    this.modelTitle = modelTitle;
    this.select = element("select", { id: "compare-with" });
    const label = element("label", { for: "compare-with" }, "Compare with");
    this.bar = element("div", { className: "compare-bar", hidden: true }, label, this.select);
    /** @type {Side[]} made when two results are compared */
    this.sides = [];
    this.problem = element("p", { className: "field-problem", role: "alert", hidden: true });
    this.node = element("div", { className: "compare", hidden: true });
    this.select.addEventListener("change", () => this.#open(this.select.value));
  }

  /** Zoom and scroll the other roll with this one. @param {PianoRoll} roll @param {PianoRoll} other */
  #link(roll, other) {
    const follow = () => {
      if (other.layout.start === roll.layout.start && other.layout.pixelsPerSecond === roll.layout.pixelsPerSecond) return;
      other.layout.pixelsPerSecond = roll.layout.pixelsPerSecond;
      other.layout.scrollTo(roll.layout.start);
      other.drawView();
    };
    for (const type of ["wheel", "pointermove", "pointerup", "touchmove"]) {
      roll.stage.addEventListener(type, () => requestAnimationFrame(follow), { passive: true });
    }
  }

  /** Offer the other results of a job's recording. @param {Job} job */
  async show(job) {
    if (this.#id === job.id) return;
    this.hide();
    this.#id = job.id;
    const others = await resultsOf(job).catch(() => []);
    if (this.#id !== job.id) return;
    this.bar.hidden = others.length === 0;
    const none = element("option", { value: "" }, "Nothing");
    const options = others.map((each) => {
      return element("option", { value: each.id }, `${this.modelTitle(each.model)}, ${ago(each.created_at)}`);
    });
    this.select.replaceChildren(none, ...options);
  }

  hide() {
    this.#id = "";
    this.#loading.abort();
    this.bar.hidden = true;
    this.#clear();
  }

  #clear() {
    this.sides = [];
    this.node.replaceChildren();
    this.node.hidden = true;
    this.problem.hidden = true;
  }

  /** @param {string} otherId "": none */
  async #open(otherId) {
    this.#loading.abort();
    this.#loading = new AbortController();
    this.#clear();
    if (!otherId) return;
    const { signal } = this.#loading;
    try {
      const loaded = await Promise.all([this.#id, otherId].map((id) => load(id, signal)));
      if (!signal.aborted) this.#draw(loaded);
    } catch (error) {
      if (signal.aborted) return;
      this.problem.hidden = false;
      setText(this.problem, `Could not compare. ${/** @type {Error} */ (error).message}`);
    }
  }

  /** @param {{ job: Job, json: import("./api.js").NotesFile }[]} loaded */
  #draw(loaded) {
    const sequences = loaded.map(({ json }) => new NoteSequence(json));
    const common = match(sequences[0], sequences[1]);
    const all = new NoteSequence({ notes: loaded.flatMap(({ json }) => json.notes ?? []), duration: loaded[0].json.duration });
    const grid = new Grid(loaded[0].json);
    this.sides = [new Side(), new Side()];
    this.node.append(...this.sides.map((side) => side.node));
    this.node.hidden = false;
    this.#link(this.sides[0].roll, this.sides[1].roll);
    this.#link(this.sides[1].roll, this.sides[0].roll);
    this.sides.forEach((side, n) => {
      sequences[n].duration = all.duration;
      side.show(this.modelTitle(loaded[n].job.model), inTwoTracks(sequences[n], common[n]), grid);
      side.roll.layout.frame(all); // the same pitches in both
      side.roll.drawAll();
    });
  }
}

/** @param {string} id @param {AbortSignal} signal */
async function load(id, signal) {
  const { job } = await getJob(id, { signal });
  const notes = job && artifact(job, "notes.json");
  if (!job || !notes) throw new Error("The other result has no notes.");
  return { job, json: await fetchNotes(notes.href, signal) };
}

/** Return the other finished results of a job's recording. @param {Job} job */
async function resultsOf(job) {
  const first = recordingOf(job);
  const { items } = await listJobs({ query: { "metadata.recording": first, status: "succeeded" } });
  if (first !== job.id) {
    const original = await getJob(first).catch(() => ({ job: null }));
    if (original.job?.status === "succeeded") items.push(original.job);
  }
  return items.filter((each) => each.id !== job.id);
}
