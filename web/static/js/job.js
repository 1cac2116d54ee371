/** The view of one job: its progress, its error, or its notes. */

import { ApiError, artifact, cancelJob, deleteJob, fetchNotes, getJob, isFinished, retryJob, shareToken } from "./api.js";
import { button, showDownload } from "./controls.js";
import { announce, byId, element, setText } from "./dom.js";
import { ago, clock, jobName, label, pageTitle, phaseWords, span, statusWord, stemOf } from "./format.js";
import { JobTools } from "./job_tools.js";
import { poll } from "./polling.js";
import { ProgressView } from "./progress_view.js";
import { ResultView } from "./result_view.js";
import { goTo } from "./router.js";
import { ShareDialog } from "./share.js";
import { UndoStack } from "./undo.js";

const QUICK_MS = 500;
const SLOW_MS = 4_000;

// The recording is at fault: a retry would fail in the same way.
const RECORDING_ERRORS = new Set([
  "undecodable_audio",
  "no_audio_stream",
  "empty_audio",
  "truncated_audio",
  "protected_audio",
  "audio_too_costly",
  "audio_too_long",
  "silent_audio",
]);

/** @typedef {import("./api.js").Job} Job */

export class JobView {
  /** @type {Job | null} */
  #job = null;
  #id = "";
  #notesOf = ""; // sha256 of the notes that are shown or being loaded
  #poller = { stop() {}, wake() {} };
  #notesLoader = { stop() {} };
  #share = new ShareDialog();
  #undo = new UndoStack();

  title = element("h1", { id: "job-title", className: "job-title" });
  chip = element("span", { className: "chip", id: "job-status" });
  meta = element("p", { className: "job-meta" });
  buttons = {
    midi: element("a", { className: "button primary", id: "download-midi" }, "Download MIDI"),
    notes: element("a", { className: "button", id: "download-notes" }, "notes.json"),
    retry: button("Try again", "primary", () => this.#act(retryJob)),
    cancel: button("Cancel", "", () => this.#act(cancelJob)),
    share: button("Share", "", () => this.#share.open(this.#id)),
    remove: button("Delete", "quiet", () => this.#remove()),
  };
  problem = element("p", { className: "problem", role: "alert", id: "job-problem", hidden: true });
  warnings = element("ul", { className: "warnings", "aria-label": "Warnings", id: "job-warnings", hidden: true });
  progress = new ProgressView();
  result = new ResultView();

  /**
   * @param {{ store: import("./job_store.js").JobStore, connection: import("./polling.js").Connection,
   *           models: import("./model_form.js").ModelForm, onGone: () => void }} collaborators
   */
  constructor({ store, connection, models, onGone }) {
    this.store = store;
    this.connection = connection;
    this.models = models;
    this.onGone = onGone;
    this.tools = new JobTools(this.title, { store, models, onChange: (job) => this.#id === job.id && this.#show(job) });
    const actions = element("div", { className: "job-actions" }, ...Object.values(this.buttons));
    const names = element("div", { className: "job-names" }, this.chip, this.#titleLine(), this.meta);
    const head = element("header", { className: "job-head" }, names, actions);
    this.progress.node.append(this.tools.notifier.button);
    this.#share.onShare = () => this.result.prepareForFriends();
    this.result.onRevert = () => this.#watch();
    this.buttons.midi.addEventListener("click", (event) => this.result.downloadCorrected(event, "MIDI"));
    this.buttons.notes.addEventListener("click", (event) => this.result.downloadCorrected(event, "notes.json"));
    byId("job").replaceChildren(head, this.tools.node, this.problem, this.warnings, this.progress.node, this.result.node);
  }

  #titleLine() {
    const { rename } = this.tools;
    return element("div", { className: "title-line" }, this.title, rename.button, rename.form);
  }

  /** @param {string} id */
  open(id) {
    this.close();
    this.#id = id;
    this.#blank();
    const known = this.store.get(id);
    if (known) this.#show(known);
    this.#watch();
  }

  close() {
    this.#poller.stop();
    this.#notesLoader.stop();
    this.progress.stop();
    this.result.stop();
    this.#job = null;
    this.#id = "";
    this.#notesOf = "";
  }

  /** Update what depends on the list of models. */
  render() {
    if (!this.#job) return;
    setText(this.meta, this.#metaWords(this.#job));
    this.tools.showDoubt();
  }

  #blank() {
    setText(this.title, " ");
    setText(this.meta, "");
    this.chip.hidden = true;
    this.problem.hidden = true;
    this.warnings.hidden = true;
    this.progress.node.hidden = true;
    this.result.node.hidden = true;
    this.tools.hide();
    Object.values(this.buttons).forEach((each) => (each.hidden = true));
  }

  #watch() {
    this.#poller.stop();
    const id = this.#id;
    /** @type {string | null} */
    let etag = null;
    let wait = QUICK_MS;
    const step = async (/** @type {AbortSignal} */ signal) => {
      const askedAt = performance.now();
      const answer = await getJob(id, { etag, signal });
      etag = answer.etag;
      wait = answer.job ? QUICK_MS : Math.min(SLOW_MS, wait * 1.3);
      if (answer.job && this.#id === id) {
        this.store.take(answer.job, askedAt);
        this.#show(answer.job);
      }
      if (this.#job && isFinished(this.#job)) return null;
      return Math.max(wait, Math.min(SLOW_MS, (answer.retryAfter ?? 0) * 1000));
    };
    this.#poller = poll(step, { connection: this.connection, onError: (error) => this.#showMissing(error) });
  }

  /** @param {Error} error */
  #showMissing(error) {
    const gone = error instanceof ApiError && error.status === 404;
    this.#blank();
    setText(this.title, gone ? "Transcription not found" : "Could not load this transcription");
    document.title = `${this.title.textContent} · MT3-Infer`;
    this.#showProblem(gone ? "It may have been deleted, or the link is incomplete." : error.message);
    if (gone) this.store.remove(this.#id);
  }

  /** @param {Job} job */
  #show(job) {
    const before = this.#job;
    this.#job = job;
    setText(this.title, jobName(job));
    this.title.title = jobName(job); // at most three lines of it are visible
    this.chip.hidden = false;
    this.chip.dataset.status = job.status;
    setText(this.chip, statusWord(job.status));
    setText(this.meta, this.#metaWords(job));
    document.title = pageTitle(job);
    this.#showProblem(job.status === "failed" ? (job.error?.detail ?? "The transcription failed. Try again.") : "");
    this.#showWarnings(job);
    this.progress.show(job);
    this.#showButtons(job);
    this.tools.show(job);
    if (before && before.status !== job.status) announce(`${jobName(job)}: ${statusWord(job.status)}`);
    else if (before && before.phase !== job.phase) announce(phaseWords(job));
    this.#showNotes(job);
  }

  /** @param {Job} job */
  #metaWords(job) {
    const seconds = job.progress?.audio_seconds_total;
    const took = job.started_at && job.finished_at && job.status === "succeeded";
    const options = this.models.changedOptions(job).map(([name, value]) => `${label(name).toLowerCase()} ${value}`);
    return [
      this.models.titleOf(job.model),
      seconds ? clock(seconds) : "",
      ago(job.created_at),
      took ? `took ${span((Date.parse(job.finished_at ?? "") - Date.parse(job.started_at ?? "")) / 1000)}` : "",
      job.attempts > 1 ? `attempt ${job.attempts}` : "",
      ...options,
    ]
      .filter(Boolean)
      .join(" · ");
  }

  /** @param {string} words "" hides the message */
  #showProblem(words) {
    this.problem.hidden = !words;
    setText(this.problem, words);
  }

  /** @param {Job} job */
  #showWarnings(job) {
    this.warnings.hidden = job.warnings.length === 0;
    this.warnings.replaceChildren(...job.warnings.map((warning) => element("li", {}, warning.detail)));
  }

  /** @param {Job} job */
  #showButtons(job) {
    const { retry, cancel, remove, share } = this.buttons;
    const midi = artifact(job, "transcription.mid");
    const notes = artifact(job, "notes.json");
    const stem = stemOf(job);
    showDownload(this.buttons.midi, midi?.href, `${stem}.mid`);
    showDownload(this.buttons.notes, notes?.href, `${stem}.notes.json`);
    const mayHelp = job.status === "failed" && !RECORDING_ERRORS.has(job.error?.code ?? "");
    retry.hidden = !mayHelp && job.status !== "canceled";
    cancel.hidden = isFinished(job);
    remove.hidden = !isFinished(job);
    share.hidden = job.status !== "succeeded";
    if (shareToken) [retry, cancel, remove, share].forEach((each) => (each.hidden = true));
  }

  /** @param {Job} job */
  #showNotes(job) {
    const corrections = artifact(job, "corrections.json");
    const notes = job.status === "succeeded" ? (corrections ?? artifact(job, "notes.json")) : null;
    if (!notes) {
      this.#notesOf = "";
      this.result.hide();
    } else if (this.#notesOf !== notes.sha256) {
      this.#notesOf = notes.sha256;
      this.#loadNotes(notes.href, job.id, corrections?.sha256 ?? "");
    }
  }

  /** @param {string} href @param {string} id @param {string} version of the corrections */
  #loadNotes(href, id, version) {
    this.#notesLoader.stop();
    const step = async (/** @type {AbortSignal} */ signal) => {
      const json = await fetchNotes(href, signal);
      if (signal.aborted) return null;
      this.result.show(json, id, this.#job ? stemOf(this.#job) : "", version);
      this.tools.showNotes(json);
      return null;
    };
    const onError = (/** @type {Error} */ error) => {
      this.#showProblem(`Could not load the notes. ${error.message}`);
    };
    this.#notesLoader = poll(step, { connection: this.connection, onError });
  }

  /** @param {(id: string) => Promise<Job>} action */
  async #act(action) {
    const id = this.#id;
    const askedAt = performance.now();
    this.#enable(false);
    try {
      const job = await action(id);
      this.store.take(job, askedAt);
      if (this.#id === id) this.#show(job);
    } catch (error) {
      if (this.#id === id) this.#showProblem(/** @type {Error} */ (error).message);
    } finally {
      this.#enable(true);
    }
    if (this.#id === id) this.#watch();
    this.store.wake();
  }

  #remove() {
    const id = this.#id;
    const name = this.#job ? jobName(this.#job) : "The transcription";
    this.store.hide(id);
    this.onGone();
    this.#undo.offer(`${name} is deleted.`, {
      commit: async () => {
        await deleteJob(id);
        this.store.remove(id);
      },
      undo: () => {
        this.store.hide(id, false);
        goTo(id);
      },
    });
  }

  /** @param {boolean} enabled */
  #enable(enabled) {
    this.buttons.retry.disabled = !enabled;
    this.buttons.cancel.disabled = !enabled;
  }
}
