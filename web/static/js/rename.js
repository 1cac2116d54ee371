/** The name of a job, which can be changed in place. */

import { renameJob } from "./library_api.js";
import { element } from "./dom.js";

export class Rename {
  /** @type {import("./api.js").Job | null} */
  #job = null;

  /** @param {HTMLElement} title @param {(job: import("./api.js").Job, askedAt: number) => void} onJob */
  constructor(title, onJob) {
    this.title = title;
    this.onJob = onJob;
    this.button = element("button", { type: "button", className: "button small quiet-action", id: "rename" }, "Rename");
    this.input = element("input", { type: "text", maxLength: 255, "aria-label": "Name of the transcription" });
    this.problem = element("p", { className: "field-problem", role: "alert", hidden: true });
    const save = element("button", { type: "submit", className: "button small primary" }, "Save");
    const cancel = element("button", { type: "button", className: "button small" }, "Cancel");
    const line = element("div", { className: "rename-line" }, this.input, save, cancel);
    this.form = element("form", { className: "rename", hidden: true }, line, this.problem);
    this.button.addEventListener("click", () => this.#open());
    cancel.addEventListener("click", () => this.close());
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#save();
    });
    this.form.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.close();
    });
  }

  /** @param {import("./api.js").Job} job */
  show(job) {
    if (this.#job?.id !== job.id) this.close(false);
    this.#job = job;
  }

  #open() {
    if (!this.#job) return;
    this.input.value = this.#job.filename ?? "";
    this.#toggle(true);
    this.input.focus();
    const stem = this.input.value.lastIndexOf(".");
    this.input.setSelectionRange(0, stem > 0 ? stem : this.input.value.length);
  }

  close(focus = true) {
    if (this.form.hidden) return;
    this.#toggle(false);
    if (focus) this.button.focus();
  }

  /** @param {boolean} editing */
  #toggle(editing) {
    this.form.hidden = !editing;
    this.title.classList.toggle("visually-hidden", editing); // it remains the heading of the page
    this.button.hidden = editing;
    this.problem.hidden = true;
  }

  async #save() {
    const job = this.#job;
    const name = this.input.value.trim();
    if (!job || !name || name === job.filename) return this.close();
    const askedAt = performance.now();
    try {
      this.onJob(await renameJob(job.id, name), askedAt);
      this.close();
    } catch (error) {
      this.problem.hidden = false;
      this.problem.textContent = /** @type {Error} */ (error).message;
    }
  }
}
