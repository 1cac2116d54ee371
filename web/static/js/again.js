/** Transcribes the recording of a finished job with another model, without a second upload. */

import { byId, element, setText } from "./dom.js";
import { createFrom } from "./library_api.js";
import { expectedWords, PURPOSE_WORDS, suggestion } from "./purposes.js";

/** @typedef {import("./api.js").Job} Job */
/** @typedef {import("./api.js").Model} Model */

/** Return the job that was the first of its recording. @param {Job} job */
export function recordingOf(job) {
  const first = job.metadata?.recording;
  return typeof first === "string" ? first : job.id;
}

export class Again {
  /** @type {Job | null} */
  #job = null;

  /** @param {{ models: import("./model_form.js").ModelForm, onJob: (job: Job, askedAt: number) => void }} collaborators */
  constructor({ models, onJob }) {
    this.models = models;
    this.onJob = onJob;
    this.button = element("button", { type: "button", className: "button", id: "again" }, "Transcribe again with…");
    this.select = element("select", { id: "again-model" });
    this.about = element("p", { className: "again-about" });
    this.problem = element("p", { className: "field-problem", role: "alert", hidden: true });
    this.start = element("button", { type: "button", className: "button primary" }, "Transcribe");
    const cancel = element("button", { type: "button", className: "button" }, "Cancel");
    this.dialog = element(
      "dialog",
      { className: "confirm", "aria-labelledby": "again-title" },
      element("h2", { id: "again-title" }, "Transcribe again"),
      element("p", {}, "The recording is not uploaded again, and this result is kept."),
      element("label", { className: "again-label", for: "again-model" }, "Model"),
      this.select,
      this.about,
      this.problem,
      element("div", { className: "confirm-buttons" }, cancel, this.start),
    );
    byId("main").append(this.dialog);
    this.button.addEventListener("click", () => this.open());
    this.select.addEventListener("change", () => this.#describe());
    this.start.addEventListener("click", () => this.#create());
    cancel.addEventListener("click", () => this.dialog.close());
  }

  /** @param {Job} job */
  show(job) {
    this.#job = job;
  }

  /** Ask for the model. @param {string} [purpose] suggests one that is made for it */
  open(purpose) {
    const others = this.models.models.filter((model) => model.name !== this.#job?.model);
    const groups = Object.entries(PURPOSE_WORDS).map(([name, words]) => {
      const fitting = others.filter((model) => model.purpose === name);
      return element("optgroup", { label: words }, ...fitting.map((m) => element("option", { value: m.name }, m.title)));
    });
    this.select.replaceChildren(...groups.filter((group) => group.children.length));
    const suggested = purpose && suggestion(others, purpose);
    if (suggested) this.select.value = suggested.name;
    this.problem.hidden = true;
    this.#describe();
    this.dialog.showModal();
    this.select.focus();
  }

  #describe() {
    const model = this.models.model(this.select.value);
    const seconds = this.#job?.progress?.audio_seconds_total ?? null;
    const words = [model?.installed === false ? "downloaded on first use" : "", expectedWords(model, seconds)];
    setText(this.about, [model?.description, ...words].filter(Boolean).join(" · "));
  }

  async #create() {
    const job = this.#job;
    if (!job) return;
    const askedAt = performance.now();
    const metadata = { ...job.metadata, recording: recordingOf(job) };
    const body = { transcription_id: job.id, model: this.select.value, metadata };
    this.start.disabled = true;
    try {
      const created = await createFrom(body, `again ${job.id} ${body.model}`);
      this.dialog.close();
      this.onJob(created, askedAt);
    } catch (error) {
      this.problem.hidden = false;
      setText(this.problem, /** @type {Error} */ (error).message);
    } finally {
      this.start.disabled = false;
    }
  }
}
