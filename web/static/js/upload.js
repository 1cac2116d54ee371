/** Uploads: two at a time, each with its row, its progress and its retries. */

import { ApiError, createJob } from "./api.js";
import { announce, byId, element, setText } from "./dom.js";
import { fileSize } from "./format.js";
import { retryDelay } from "./polling.js";

const AT_ONCE = 2;
const TRIES = 4;

/** @typedef {{ model: string | null, options: Record<string, unknown> }} Choice */

/** Return a new idempotency key. crypto.randomUUID is missing on plain HTTP outside localhost. */
function freshKey() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((b) => b.toString(16).padStart(2, "0")).join("");
}

/** One file and its row. */
class Upload {
  key = freshKey();
  controller = new AbortController();
  /** @type {"waiting" | "sending" | "failed" | "done"} */
  state = "waiting";
  alone = false;

  /** @param {File} file @param {Choice} choice @param {{ again(u: Upload): void, drop(u: Upload): void }} actions */
  constructor(file, choice, actions) {
    this.file = file;
    this.choice = choice;
    this.words = element("p", { className: "upload-words" });
    this.bar = element("progress", { max: 1, value: 0, "aria-label": `Upload of ${file.name}` });
    this.againButton = element("button", { type: "button", className: "button small", hidden: true }, "Try again");
    this.dropButton = element("button", { type: "button", className: "button small quiet" }, "Cancel");
    this.againButton.addEventListener("click", () => actions.again(this));
    this.dropButton.addEventListener("click", () => actions.drop(this));
    const name = element("p", { className: "upload-name", title: file.name }, file.name);
    const buttons = element("div", { className: "upload-buttons" }, this.againButton, this.dropButton);
    this.node = element("li", { className: "upload" }, name, buttons, this.bar, this.words);
    this.wait();
  }

  wait() {
    this.state = "waiting";
    this.controller = new AbortController();
    this.#show("Waiting to upload", { busy: true });
  }

  /** @param {number} fraction */
  progress(fraction) {
    this.state = "sending";
    this.bar.value = fraction;
    const sent = `${Math.floor(fraction * 100)}% of ${fileSize(this.file.size)}`;
    this.#show(fraction < 1 ? `Uploading: ${sent}` : "Uploaded. Waiting for the service to accept it…", { busy: true });
  }

  pauseFor(/** @type {number} */ ms) {
    this.#show(`Upload interrupted. Retrying in ${Math.max(1, Math.round(ms / 1000))} s…`, { busy: true });
  }

  /** @param {Error} error */
  fail(error) {
    this.state = "failed";
    this.#show(error.message, { busy: false, final: error instanceof ApiError && !error.transient });
    announce(`${this.file.name}: ${error.message}`);
  }

  /** @param {string} text @param {{ busy: boolean, final?: boolean }} state final: a retry would fail in the same way */
  #show(text, { busy, final = false }) {
    setText(this.words, text);
    this.node.classList.toggle("failed", !busy);
    this.bar.hidden = !busy;
    this.againButton.hidden = busy || final;
    setText(this.dropButton, busy ? "Cancel" : "Dismiss");
  }
}

export class Uploads {
  /** @type {Upload[]} */
  #uploads = [];

  /**
   * @param {{ choice: () => Choice, onJob: (job: import("./api.js").Job, askedAt: number, alone: boolean) => void }}
   *        collaborators alone: it was the only file
   */
  constructor({ choice, onJob }) {
    this.choice = choice;
    this.onJob = onJob;
    this.list = byId("uploads");
    window.addEventListener("beforeunload", (event) => {
      if (this.#uploads.some((each) => each.state !== "failed")) event.preventDefault();
    });
  }

  /** @param {Iterable<File>} files */
  add(files) {
    const actions = {
      again: (/** @type {Upload} */ upload) => {
        upload.wait();
        this.#fill();
      },
      drop: (/** @type {Upload} */ upload) => this.#drop(upload),
    };
    const added = [...files].map((file) => new Upload(file, this.choice(), actions));
    if (added.length === 1) added[0].alone = this.#uploads.every((each) => each.state === "failed");
    this.#uploads.push(...added);
    this.list.append(...added.map((each) => each.node));
    this.#fill();
  }

  /** Start uploads until two are in progress. */
  #fill() {
    const sending = this.#uploads.filter((each) => each.state === "sending").length;
    const waiting = this.#uploads.filter((each) => each.state === "waiting");
    waiting.slice(0, Math.max(0, AT_ONCE - sending)).forEach((each) => this.#send(each));
  }

  /** @param {Upload} upload */
  async #send(upload) {
    upload.progress(0);
    const askedAt = performance.now();
    try {
      const job = await this.#sendWithRetries(upload);
      upload.state = "done";
      this.#remove(upload);
      this.onJob(job, askedAt, upload.alone);
    } catch (error) {
      if (!upload.controller.signal.aborted) upload.fail(/** @type {Error} */ (error));
    }
    this.#fill();
  }

  /** @param {Upload} upload */
  async #sendWithRetries(upload) {
    const { file, choice, key } = upload;
    const { signal } = upload.controller;
    for (let failures = 0; ; failures += 1) {
      try {
        return await createJob({ file, key, signal, ...choice, onProgress: (fraction) => upload.progress(fraction) });
      } catch (error) {
        const again = error instanceof ApiError && error.transient && failures + 1 < TRIES;
        if (!again || signal.aborted) throw error;
        const ms = retryDelay(failures, error.retryAfter);
        upload.pauseFor(ms);
        await new Promise((resolve) => setTimeout(resolve, ms));
        signal.throwIfAborted();
      }
    }
  }

  /** @param {Upload} upload */
  #drop(upload) {
    upload.controller.abort();
    this.#remove(upload);
    this.#fill();
  }

  /** @param {Upload} upload */
  #remove(upload) {
    this.#uploads = this.#uploads.filter((each) => each !== upload);
    upload.node.remove();
  }
}
