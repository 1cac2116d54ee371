/** The row of one upload: its name, what happens to it, and what the user can do. */

import { ApiError } from "./api.js";
import { announce, element, setText } from "./dom.js";
import { clock, fileSize } from "./format.js";
import { UploadRate } from "./upload_rate.js";

/** @typedef {{ again: () => void, drop: () => void, choose: (file: File) => void }} Actions */

export class UploadRow {
  #rate = new UploadRate();
  #bytes = 0;
  about = ""; // the length of the recording, and how long its transcription will take

  /** @param {string} name @param {number} size bytes @param {Actions} actions */
  constructor(name, size, actions) {
    this.name = name;
    this.size = size;
    this.words = element("p", { className: "upload-words" });
    this.bar = element("progress", { max: 1, value: 0, "aria-label": `Upload of ${name}` });
    this.againButton = element("button", { type: "button", className: "button small", hidden: true }, "Try again");
    this.dropButton = element("button", { type: "button", className: "button small quiet" }, "Cancel");
    this.input = element("input", { type: "file", className: "visually-hidden", tabIndex: -1, "aria-hidden": "true" });
    this.chooseButton = element("button", { type: "button", className: "button small", hidden: true }, "Choose the file");
    this.againButton.addEventListener("click", () => actions.again());
    this.dropButton.addEventListener("click", () => actions.drop());
    this.chooseButton.addEventListener("click", () => this.input.click());
    this.input.addEventListener("change", () => {
      const file = this.input.files?.[0];
      if (file) actions.choose(file);
      this.input.value = "";
    });
    const title = element("p", { className: "upload-name", title: name }, name);
    const buttons = element("div", { className: "upload-buttons" }, this.chooseButton, this.againButton, this.dropButton, this.input);
    this.node = element("li", { className: "upload" }, title, buttons, this.bar, this.words);
  }

  get bytes() {
    return this.#bytes;
  }

  /** @param {string} [words] */
  wait(words = "Waiting to upload") {
    this.#show(words, { busy: true });
  }

  /** @param {number} bytes that have arrived or are on their way */
  progress(bytes) {
    this.#bytes = bytes;
    this.#rate.add(bytes);
    this.bar.value = this.size ? bytes / this.size : 0;
    const sent = `${Math.floor(this.bar.value * 100)}% of ${fileSize(this.size)}`;
    const words = `Uploading: ${sent}${this.#rate.words(this.size)}`;
    this.#show(bytes < this.size ? words : "Uploaded. Waiting for the service to accept it…", { busy: true });
  }

  /** @param {number} ms until the next try */
  pauseFor(ms) {
    this.#rate.reset();
    const seconds = Math.max(1, Math.round(ms / 1000));
    const words = navigator.onLine
      ? `Upload interrupted. It goes on in ${seconds} s…`
      : "No network. The upload goes on when the network is back.";
    this.#show(words, { busy: true });
  }

  /** Ask for the file of an upload that was begun before. @param {string} [problem] */
  ask(problem = "") {
    this.#show(`${problem || "Not finished yet."} Choose ${this.name} (${fileSize(this.size)}) again: only what is missing is sent.`, {
      busy: false,
      final: true,
    });
    this.node.classList.toggle("failed", Boolean(problem));
    this.chooseButton.hidden = false;
  }

  /** @param {Error} error */
  fail(error) {
    this.#show(error.message, { busy: false, final: error instanceof ApiError && !error.transient });
    announce(`${this.name}: ${error.message}`);
  }

  /** @param {number} seconds @param {string} expected how long the transcription takes; "" if unknown */
  describe(seconds, expected) {
    this.about = ` · ${clock(seconds)} long${expected ? `, ${expected}` : ""}`;
  }

  /** @param {string} text @param {{ busy: boolean, final?: boolean }} state final: a retry would fail in the same way */
  #show(text, { busy, final = false }) {
    setText(this.words, busy ? text + this.about : text);
    this.node.classList.toggle("failed", !busy);
    this.bar.hidden = !busy;
    this.againButton.hidden = busy || final;
    this.chooseButton.hidden = true;
    setText(this.dropButton, busy ? "Cancel" : "Dismiss");
  }
}
