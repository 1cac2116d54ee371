/** Downloads of the notes in every format, of the corrected ones where there are corrections. */

import { ApiError, listExports } from "./api.js";
import { element, setText } from "./dom.js";
import { exported, findShared } from "./exports.js";

/** @typedef {import("./exports.js").Wanted} Wanted */

/** @type {Record<string, Wanted>} by the words on the button */
const CHOICES = {
  MIDI: { format: "midi" },
  MusicXML: { format: "musicxml" },
  PDF: { format: "pdf" },
  CSV: { format: "csv" },
  MP3: { format: "audio", options: { encoding: "mp3" } },
  Stems: { format: "stems.zip" },
};

/** @type {Record<string, Wanted>} what is downloaded by other buttons, if it has been corrected */
const OTHERS = { "notes.json": { format: "notes.json" } };

/** What a friend can download: all but what is too large to be made for nobody. */
export const FOR_FRIENDS = [...Object.values(CHOICES), ...Object.values(OTHERS)].filter(({ format }) => format !== "stems.zip");

export class Downloads {
  /** @param {{ id: () => string, source: () => Promise<"original" | "corrected"> }} job */
  constructor(job) {
    this.job = job;
    this.status = element("p", { className: "download-status", role: "status" });
    this.buttons = Object.entries(CHOICES).map(([words, wanted]) => {
      const node = element("button", { type: "button", className: "tool", "aria-label": `Export ${words}` }, words);
      node.addEventListener("click", () => this.fetch(words));
      return { node, wanted };
    });
    const title = element("h2", { id: "downloads-title" }, "Export");
    const row = element("div", { className: "download-buttons" }, ...this.buttons.map((each) => each.node));
    this.node = element("section", { className: "downloads", "aria-labelledby": "downloads-title" }, title, row, this.status);
  }

  /** Show a friend what can be downloaded; return true if that includes the score. @param {"original" | "corrected"} source */
  async showShared(source) {
    const { items } = await listExports(this.job.id(), AbortSignal.timeout(60_000));
    for (const { node, wanted } of this.buttons) node.hidden = !findShared(items, { ...wanted, source });
    this.node.hidden = this.buttons.every((each) => each.node.hidden);
    return findShared(items, { format: "svg", source }) !== undefined;
  }

  /** @param {string} words a key of `CHOICES` or `OTHERS` */
  async fetch(words) {
    const id = this.job.id();
    setText(this.status, `Making the ${words} file…`);
    try {
      const source = await this.job.source();
      const artifact = await exported(id, { ...(CHOICES[words] ?? OTHERS[words]), source }, { signal: AbortSignal.timeout(600_000) });
      element("a", { href: artifact.href, download: "" }).click();
      setText(this.status, source === "corrected" ? `${words} of the corrected notes` : "");
    } catch (error) {
      setText(this.status, error instanceof ApiError ? error.message : `The ${words} file could not be made. Try again.`);
    }
  }
}
