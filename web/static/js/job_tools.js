/** What can be done with a job beside downloads: rename, transcribe again, compare, be notified. */

import { isFinished, shareToken } from "./api.js";
import { Again } from "./again.js";
import { Compare } from "./compare.js";
import { element, setText } from "./dom.js";
import { doubtOf } from "./doubts.js";
import { NoteSequence } from "./notes.js";
import { Notifier } from "./notify.js";
import { Rename } from "./rename.js";
import { goTo } from "./router.js";

const LONGEST_DAYS = 400; // a result that is kept for longer is kept for good, as far as users are concerned

/** @typedef {import("./api.js").Job} Job */

export class JobTools {
  /** @type {Job | null} */
  #job = null;
  #purpose = "";
  /** @type {NoteSequence | null} */
  #notes = null;

  /**
   * @param {HTMLElement} title
   * @param {{ store: import("./job_store.js").JobStore, models: import("./model_form.js").ModelForm,
   *           onChange: (job: Job) => void }} collaborators
   */
  constructor(title, { store, models, onChange }) {
    this.models = models;
    this.rename = new Rename(title, (job, askedAt) => {
      store.take(job, askedAt);
      onChange(job);
    });
    this.again = new Again({
      models,
      onJob(job, askedAt) {
        store.take(job, askedAt);
        store.wake();
        goTo(job.id);
      },
    });
    this.compare = new Compare((name) => models.titleOf(name));
    this.notifier = new Notifier();
    this.kept = element("p", { className: "kept" });
    this.doubtWords = element("p");
    this.doubtButton = element("button", { type: "button", className: "button small" }, "Transcribe again with…");
    this.doubtButton.addEventListener("click", () => this.again.open(this.#purpose));
    this.doubt = element("div", { className: "doubt", id: "doubt", hidden: true }, this.doubtWords, this.doubtButton);
    this.row = element("div", { className: "job-tools" }, this.again.button, this.compare.bar, this.kept);
    this.node = element("div", { className: "job-more" }, this.row, this.doubt, this.compare.problem, this.compare.node);
  }

  /** @param {Job} job */
  show(job) {
    if (this.#job?.id !== job.id) {
      this.doubt.hidden = true;
      this.#notes = null;
    }
    const isSameModel = this.#job?.model === job.model;
    this.#job = job;
    if (!isSameModel) this.showDoubt();
    const ended = isFinished(job);
    const done = job.status === "succeeded";
    this.rename.show(job);
    this.rename.button.hidden = shareToken !== null || !this.rename.form.hidden;
    this.node.hidden = !ended || shareToken !== null;
    this.again.show(job);
    setText(this.kept, keptWords(job));
    if (shareToken !== null) return;
    if (ended) this.notifier.button.hidden = true;
    else this.notifier.show(job);
    if (done) this.compare.show(job);
    else this.compare.hide();
  }

  hide() {
    this.#job = null;
    this.#notes = null;
    this.node.hidden = true;
    this.rename.close(false);
    this.rename.button.hidden = true;
    this.compare.hide();
  }

  /** @param {import("./api.js").NotesFile} json notes of the job that is shown */
  showNotes(json) {
    this.#notes = new NoteSequence(json);
    this.showDoubt();
  }

  /** Show a hint if the notes look as if the model did not fit; again when the models are known. */
  showDoubt() {
    const purpose = this.models.model(this.#job?.model ?? "")?.purpose ?? "";
    const doubt = this.#notes && shareToken === null ? doubtOf(purpose, this.#notes) : null;
    this.doubt.hidden = doubt === null;
    this.#purpose = doubt?.purpose ?? "";
    setText(this.doubtWords, doubt?.words ?? "");
  }
}

/** @param {Job} job */
function keptWords(job) {
  if (!job.expires_at) return "";
  const until = new Date(job.expires_at);
  if (until.getTime() - Date.now() > LONGEST_DAYS * 86_400_000) return "";
  return `Kept until ${until.toLocaleDateString(undefined, { day: "numeric", month: "long", year: "numeric" })}`;
}
