/** Makes a link that shows one transcription to everybody who has it, and revokes it. */

import { createShare, revokeShare } from "./library_api.js";
import { announce, byId, element, setText } from "./dom.js";

export class Share {
  #id = "";
  #token = "";

  constructor() {
    this.button = element("button", { type: "button", className: "button", id: "share" }, "Share…");
    this.words = element("p", { id: "share-words" });
    this.link = element("input", { type: "text", readOnly: true, "aria-label": "Link", id: "share-link" });
    this.copy = element("button", { type: "button", className: "button primary" }, "Copy the link");
    this.stop = element("button", { type: "button", className: "button" }, "Stop sharing");
    const done = element("button", { type: "button", className: "button" }, "Close");
    this.dialog = element(
      "dialog",
      { className: "confirm", "aria-labelledby": "share-title" },
      element("h2", { id: "share-title" }, "Share this transcription"),
      this.words,
      this.link,
      element("div", { className: "confirm-buttons" }, this.stop, this.copy, done),
    );
    byId("main").append(this.dialog);
    this.button.addEventListener("click", () => this.#create());
    this.copy.addEventListener("click", () => this.#copy());
    this.stop.addEventListener("click", () => this.#revoke());
    done.addEventListener("click", () => this.dialog.close());
  }

  /** @param {import("./api.js").Job} job */
  show(job) {
    if (this.#id !== job.id) this.#token = "";
    this.#id = job.id;
  }

  async #create() {
    this.button.disabled = true;
    try {
      if (!this.#token) {
        const share = await createShare(this.#id);
        this.#token = share.token;
        this.link.value = new URL(share.url, location.href).href;
        const until = share.expires_at ? ` until ${new Date(share.expires_at).toLocaleDateString()}` : "";
        this.#explain(`Everybody who has this link may look, listen and download${until}, and change nothing.`, true);
      }
    } catch (error) {
      this.#explain(/** @type {Error} */ (error).message, false);
    }
    this.button.disabled = false;
    this.dialog.showModal();
    if (this.#token) this.link.select();
  }

  /** @param {string} words @param {boolean} isShared */
  #explain(words, isShared) {
    setText(this.words, words);
    for (const node of [this.link, this.copy, this.stop]) node.hidden = !isShared;
    setText(this.copy, "Copy the link");
  }

  async #copy() {
    try {
      await navigator.clipboard.writeText(this.link.value);
      setText(this.copy, "Copied");
      announce("The link is copied.");
    } catch {
      this.link.select(); // the clipboard is out of reach on plain HTTP: the user copies what is selected
      setText(this.copy, "Press Ctrl+C to copy");
    }
  }

  async #revoke() {
    try {
      await revokeShare(this.#id, this.#token);
      this.#token = "";
      this.#explain("The link no longer works.", false);
    } catch (error) {
      setText(this.words, /** @type {Error} */ (error).message);
    }
  }
}
