/** Transcribes a recording that the service fetches from an address. */

import { element, setText } from "./dom.js";
import { createFrom, freshKey } from "./library_api.js";

export class ByAddress {
  /** @param {{ choice: () => import("./upload.js").Choice, onJob: (job: import("./api.js").Job, askedAt: number) => void }} collaborators */
  constructor({ choice, onJob }) {
    this.choice = choice;
    this.onJob = onJob;
    this.input = element("input", { type: "url", id: "address", placeholder: "https://…", required: true });
    this.button = element("button", { type: "submit", className: "button" }, "Transcribe");
    this.problem = element("p", { className: "field-problem", role: "alert", hidden: true });
    const label = element("label", { for: "address" }, "Address of a recording");
    const line = element("div", { className: "address-line" }, this.input, this.button);
    this.node = element("form", { className: "by-address" }, label, line, this.problem);
    this.node.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#create();
    });
  }

  async #create() {
    const askedAt = performance.now();
    this.button.disabled = true;
    this.problem.hidden = true;
    try {
      const job = await createFrom({ source_url: this.input.value.trim(), ...this.choice() }, freshKey());
      this.input.value = "";
      this.onJob(job, askedAt);
    } catch (error) {
      this.problem.hidden = false;
      setText(this.problem, /** @type {Error} */ (error).message);
    } finally {
      this.button.disabled = false;
    }
  }
}
