/** The engraved score: made by the worker when it is opened, follows the playhead, printed alone. */

import { ApiError, fetchBytes, shareToken } from "./api.js";
import { element, setText } from "./dom.js";
import { exported } from "./exports.js";
import { measureAt, readScore } from "./score_pages.js";

const PITCHES = {
  written: "As each player reads it",
  concert: "Concert pitch",
  b_flat: "B♭ instruments",
  e_flat: "E♭ instruments",
  f: "F instruments",
};
const LETTER_REGIONS = /-(US|CA|MX|PH|CO|CL|VE)$/; // where paper is not A4
const DRUMS = 128;
const MARGIN = 0.12; // share of the window that is left above a system

/** @typedef {import("./score_pages.js").Measure} Measure */

export class ScoreView {
  /** @type {(time: number) => void} */
  onSeek = () => {};
  /** @type {Measure[]} */
  #measures = [];
  /** @type {HTMLElement[]} */
  #sheets = [];
  /** @type {Measure | null} */
  #shown = null;
  #wanted = ""; // what is shown or being made
  #job = { id: "", title: "", source: /** @type {"original" | "corrected"} */ ("original"), version: "" };
  #loading = new AbortController();

  constructor() {
    const options = Object.entries(PITCHES).map(([value, words]) => new Option(words, value));
    this.pitch = element("select", {}, ...options);
    this.parts = element("fieldset", { className: "score-parts" });
    this.print = element("button", { type: "button", className: "tool" }, "Print");
    this.pdf = element("button", { type: "button", className: "tool" }, "PDF");
    this.status = element("p", { className: "score-status", role: "status" });
    this.cursor = element("div", { className: "score-cursor", hidden: true });
    this.pages = element("div", { className: "score-pages", tabIndex: 0, role: "region", "aria-label": "Score pages" });
    const pitch = element("label", { className: "listen-field" }, "Written for", this.pitch);
    pitch.hidden = shareToken !== null;
    const tools = element("div", { className: "score-tools" }, pitch, this.print, this.pdf, this.parts);
    this.node = element("section", { className: "score", "aria-label": "Score", hidden: true }, tools, this.status, this.pages);
    this.pitch.addEventListener("change", () => this.#load());
    this.parts.addEventListener("change", () => this.#load());
    this.print.addEventListener("click", () => window.print());
    this.pdf.addEventListener("click", () => this.#download());
    this.pages.addEventListener("click", (event) => this.#click(event));
  }

  /**
   * @param {string} id of the job @param {string} title @param {import("./notes.js").Track[]} tracks
   * @param {"original" | "corrected"} source @param {string} version changes with the notes
   */
  use(id, title, tracks, source, version) {
    this.#job = { id, title, source, version };
    this.#showParts(tracks);
    if (!this.node.hidden) this.#load();
  }

  /** @param {boolean} open */
  show(open) {
    this.node.hidden = !open;
    if (open) this.#load();
  }

  /** @param {import("./notes.js").Track[]} tracks */
  #showParts(tracks) {
    const names = tracks.map((track) => track.name).join("|");
    if (this.parts.dataset.names === names) return;
    this.parts.dataset.names = names;
    this.parts.hidden = tracks.length < 2 || shareToken !== null;
    const boxes = tracks.map(({ name, program, isDrum }) => {
      const input = element("input", { type: "checkbox", checked: true, value: String(isDrum ? DRUMS : program) });
      return element("label", { className: "tick" }, input, name);
    });
    this.parts.replaceChildren(element("legend", { className: "visually-hidden" }, "Instruments of the score"), ...boxes);
  }

  get #options() {
    const boxes = /** @type {HTMLInputElement[]} */ ([...this.parts.querySelectorAll("input")]);
    const chosen = boxes.filter((box) => box.checked).map((box) => Number(box.value));
    const programs = chosen.length === boxes.length ? [] : chosen;
    return { ...this.plainOptions, pitch: this.pitch.value, programs };
  }

  /** The options of the score of all instruments, each as its player reads it. */
  get plainOptions() {
    const page_size = LETTER_REGIONS.test(navigator.language) ? "letter" : "a4";
    return { title: this.#job.title, page_size };
  }

  async #load() {
    const { id, source, version } = this.#job;
    const options = this.#options;
    const wanted = JSON.stringify([id, source, version, options]);
    if (wanted === this.#wanted) return;
    this.#wanted = wanted;
    this.#loading.abort();
    this.#loading = new AbortController();
    const { signal } = this.#loading;
    this.#clear();
    if (options.programs.length === 0 && this.parts.querySelector("input:not(:checked)")) {
      setText(this.status, "Choose at least one instrument.");
      return;
    }
    setText(this.status, "Engraving the score…");
    try {
      const artifact = await exported(id, { format: "svg", options, source }, { signal });
      const score = await readScore(await fetchBytes(artifact.href, signal));
      if (!signal.aborted) this.#render(score);
    } catch (error) {
      if (signal.aborted) return;
      this.#wanted = "";
      setText(this.status, error instanceof ApiError ? error.message : "The score cannot be shown. Download the PDF.");
    }
  }

  #clear() {
    for (const image of this.pages.querySelectorAll("img")) URL.revokeObjectURL(image.src);
    this.pages.replaceChildren();
    this.#measures = [];
    this.#sheets = [];
    this.#shown = null;
  }

  /** @param {{ pages: import("./score_pages.js").Page[], measures: Measure[] }} score */
  #render({ pages, measures }) {
    setText(this.status, "");
    this.#measures = measures;
    this.#sheets = pages.map(({ url, width, height }, n) => {
      const alt = `Score, page ${n + 1} of ${pages.length}`;
      return element("div", { className: "score-page" }, element("img", { src: url, alt, width, height, draggable: false }));
    });
    this.pages.replaceChildren(...this.#sheets);
  }

  /** Show where a time is. @param {number} time s @param {boolean} playing */
  follow(time, playing) {
    if (this.node.hidden) return;
    const measure = measureAt(this.#measures, time);
    this.cursor.hidden = !measure;
    if (!measure) return;
    const sheet = this.#sheets[measure.page];
    if (measure !== this.#shown) {
      this.#shown = measure;
      const { left, right, top, bottom } = measure;
      sheet.append(this.cursor);
      const place = { left, width: right - left, top: top - 0.004, height: bottom - top + 0.008 };
      for (const [name, share] of Object.entries(place)) this.cursor.style.setProperty(name, `${share * 100}%`);
      if (playing) this.#reveal(sheet, measure);
    }
    const played = Math.min(1, Math.max(0, (time - measure.start) / (measure.end - measure.start)));
    this.cursor.style.setProperty("--played", `${played * 100}%`);
  }

  /** Turn the page where the system is out of view. @param {HTMLElement} sheet @param {Measure} measure */
  #reveal(sheet, measure) {
    const { pages } = this;
    const top = sheet.offsetTop + measure.top * sheet.offsetHeight;
    const bottom = sheet.offsetTop + measure.bottom * sheet.offsetHeight;
    if (top >= pages.scrollTop && bottom <= pages.scrollTop + pages.clientHeight) return;
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    pages.scrollTo({ top: top - MARGIN * pages.clientHeight, behavior: calm ? "instant" : "smooth" });
  }

  /** @param {MouseEvent} event */
  #click(event) {
    const sheet = /** @type {Element} */ (event.target).closest(".score-page");
    if (!sheet) return;
    const page = this.#sheets.indexOf(/** @type {HTMLElement} */ (sheet));
    const box = sheet.getBoundingClientRect();
    const [x, y] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    const near = this.#measures.filter((each) => each.page === page && x >= each.left && x <= each.right);
    const distance = (/** @type {Measure} */ each) => Math.max(each.top - y, y - each.bottom, 0);
    const measure = near.sort((a, b) => distance(a) - distance(b))[0];
    if (measure) this.onSeek(measure.start);
  }

  async #download() {
    const { id, source, title } = this.#job;
    this.pdf.disabled = true;
    setText(this.status, "Making the PDF…");
    try {
      const wanted = { format: "pdf", options: this.#options, source };
      const artifact = await exported(id, wanted, { signal: this.#loading.signal });
      element("a", { href: artifact.href, download: `${title}.pdf` }).click();
      setText(this.status, "");
    } catch (error) {
      setText(this.status, error instanceof ApiError ? error.message : "The PDF could not be made. Try again.");
    } finally {
      this.pdf.disabled = false;
    }
  }
}
