/** Transcribes the recording of a finished job with another model or instrument, without a second upload. */

import { listModels } from "./api.js";
import { byId, element, setText } from "./dom.js";
import { createFrom, freshKey } from "./library_api.js";
import { schemaOf } from "./option_fields.js";
import { expectedWords, PURPOSE_WORDS, stateWords, suggestion } from "./purposes.js";

const QUESTION = "single_instrument";

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
  #sent = { content: "", key: "" }; // the last request: sent again, it creates no second job

  /** @param {{ models: import("./model_form.js").ModelForm, onJob: (job: Job, askedAt: number) => void }} collaborators */
  constructor({ models, onJob }) {
    this.models = models;
    this.onJob = onJob;
    this.button = element("button", { type: "button", className: "button", id: "again" }, "Transcribe again with…");
    this.select = element("select", { id: "again-model" });
    this.about = element("p", { className: "again-about" });
    this.instrument = element("input", { id: "again-instrument", className: "field", autocomplete: "off" });
    this.instruments = element("datalist", { id: "again-instruments" });
    this.instrument.setAttribute("list", this.instruments.id);
    const question = element("label", { className: "again-label", for: "again-instrument" }, "What do you hear? (optional)");
    this.question = element("div", {}, question, this.instrument, this.instruments);
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
      this.question,
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
    const { models } = this.models;
    const before = this.#job?.model;
    const option = (/** @type {Model} */ { name, title }) =>
      element("option", { value: name }, name === before ? `${title}, as before` : title);
    const groups = Object.entries(PURPOSE_WORDS).map(([name, words]) => {
      const fitting = models.filter((model) => model.purpose === name);
      return element("optgroup", { label: words }, ...fitting.map(option));
    });
    this.select.replaceChildren(...groups.filter((group) => group.children.length));
    const others = models.filter((model) => model.name !== before);
    const suggested = (purpose && suggestion(others, purpose)) || others[0];
    if (suggested) this.select.value = suggested.name;
    this.instrument.value = "";
    this.problem.hidden = true;
    this.#describe();
    this.dialog.showModal();
    this.select.focus();
    this.#refresh();
  }

  /** Learn which models have been installed since the page was opened. */
  async #refresh() {
    try {
      this.models.show(await listModels());
      this.#describe();
    } catch {
      // What was known is shown.
    }
  }

  #describe() {
    const model = this.models.model(this.select.value);
    const seconds = this.#job?.progress?.audio_seconds_total ?? null;
    const facts = model ? [stateWords(model), expectedWords(model, seconds), model.license] : [];
    setText(this.about, [model?.description, ...facts].filter(Boolean).join(" · "));
    const schema = model?.options[QUESTION];
    this.question.hidden = !schema;
    const examples = schemaOf(schema ?? {}).examples ?? [];
    this.instruments.replaceChildren(...examples.map((value) => element("option", { value })));
  }

  /** The options of the new job: those of the job before, if it is the same model's, and the instrument. @param {Job} job */
  #options(job) {
    const kept = job.model === this.select.value ? job.options : {};
    const instrument = this.question.hidden ? "" : this.instrument.value.trim();
    return instrument ? { ...kept, [QUESTION]: instrument } : kept;
  }

  async #create() {
    const job = this.#job;
    if (!job) return;
    const askedAt = performance.now();
    const metadata = { ...job.metadata, recording: recordingOf(job) };
    const body = { transcription_id: job.id, model: this.select.value, options: this.#options(job), metadata };
    this.start.disabled = true;
    const content = JSON.stringify(body);
    if (content !== this.#sent.content) this.#sent = { content, key: freshKey() };
    try {
      const created = await createFrom(body, this.#sent.key);
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
