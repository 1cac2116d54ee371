/** The dialog that shares a transcription by a link. */

import { ApiError, revokeShare, shareJob } from "./api.js";
import { announce, byId, setText } from "./dom.js";

/** @typedef {{ id: string, url: string, expires_at: string | null }} Share */

export class ShareDialog {
  /** A job was shared. */
  onShare = () => {};
  #job = "";
  /** @type {Share | null} */
  #share = null;

  constructor() {
    this.dialog = byId("share", HTMLDialogElement);
    this.field = byId("share-url", HTMLInputElement);
    this.copy = byId("share-copy", HTMLButtonElement);
    this.revoke = byId("share-revoke", HTMLButtonElement);
    this.about = byId("share-about");
    this.problem = byId("share-problem");
    this.copy.addEventListener("click", () => this.#copy());
    this.revoke.addEventListener("click", () => this.#revoke());
    this.field.addEventListener("focus", () => this.field.select());
  }

  /** Make a link to a job and show it. @param {string} job its id */
  async open(job) {
    this.#job = job;
    this.#show(null);
    this.dialog.showModal();
    await this.#attempt(async () => {
      this.#show(await shareJob(job));
      this.onShare();
    });
  }

  /** @param {Share | null} share */
  #show(share) {
    this.#share = share;
    this.problem.hidden = true;
    this.field.value = share ? new URL(share.url, location.href).href : "";
    this.copy.disabled = this.revoke.disabled = share === null;
    setText(this.copy, "Copy");
    const until = share?.expires_at ? ` until ${new Date(share.expires_at).toLocaleDateString()}` : "";
    setText(this.about, `Everybody who has this link can look, listen and download${until}, without a key.`);
  }

  async #copy() {
    this.field.select();
    try {
      await navigator.clipboard.writeText(this.field.value);
      setText(this.copy, "Copied");
      announce("The link was copied.");
    } catch {
      this.field.focus(); // over plain HTTP there is no clipboard: the link is selected
    }
  }

  async #revoke() {
    const share = this.#share;
    if (!share) return;
    await this.#attempt(async () => {
      await revokeShare(this.#job, share.id);
      this.dialog.close();
      announce("The link was revoked.");
    });
  }

  /** @param {() => Promise<void>} action */
  async #attempt(action) {
    try {
      await action();
    } catch (error) {
      this.problem.hidden = false;
      setText(this.problem, error instanceof ApiError ? error.message : "The link could not be made. Try again.");
    }
  }
}
