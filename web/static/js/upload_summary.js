/** One line for several uploads: how many have arrived, how much is left, and what failed. */

import { byId, setText } from "./dom.js";
import { counted, fileSize } from "./format.js";

export class UploadSummary {
  #done = 0;
  #bytes = 0; // of uploads that are done

  constructor() {
    this.node = byId("uploads-summary");
  }

  /** @param {number} bytes */
  count(bytes) {
    this.#done += 1;
    this.#bytes += bytes;
  }

  /** @param {{ state: string, row: { bytes: number, size: number } }[]} uploads that are not done */
  show(uploads) {
    const failed = uploads.filter((each) => each.state === "failed").length;
    const left = uploads.length - failed;
    const all = this.#done + uploads.length;
    this.node.hidden = all < 2;
    if (left === 0) {
      const problems = failed ? ` ${failed} could not be uploaded: see below.` : "";
      setText(this.node, `${counted(this.#done, "recording")} uploaded.${problems}`);
      if (!failed) this.#done = this.#bytes = 0; // the next drop is counted anew
      return;
    }
    const sum = (/** @type {(row: { bytes: number, size: number }) => number} */ of) =>
      uploads.filter((each) => each.state !== "failed").reduce((total, each) => total + of(each.row), this.#bytes);
    const sent = `${fileSize(sum((row) => row.bytes))} of ${fileSize(sum((row) => row.size))}`;
    const problems = failed ? ` · ${failed} failed` : "";
    setText(this.node, `${this.#done} of ${counted(all, "recording")} uploaded · ${sent}${problems}`);
  }
}
