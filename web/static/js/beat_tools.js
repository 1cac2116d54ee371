/** Corrections of the beats: their level, where bars begin, the meter and the tempo. The worker applies them. */

import { ApiError } from "./api.js";
import { element, setText } from "./dom.js";

const LEVELS = {
  half: ["½×", "Half as many beats"],
  double: ["2×", "Twice as many beats"],
  "3:2": ["3:2", "Three beats for two"],
  "2:3": ["2:3", "Two beats for three"],
};
const METERS = ["2/4", "3/4", "4/4", "5/4", "7/8", "6/8", "9/8", "12/8"];
const SLOWEST = 10;
const FASTEST = 400;

/** @typedef {Record<string, string | number>} Correction options of an export */

export class BeatTools {
  /** @type {(correction: Correction) => Promise<void>} */
  onCorrect = async () => {};
  /** @type {() => Promise<void>} */
  onReset = async () => {};
  #queue = Promise.resolve(); // each correction is one of the beats that the one before left
  /** @type {Correction} where a bar begins, as the user has set it: other corrections keep it */
  #one = {};

  /** @param {() => number} position of the playhead, in s */
  constructor(position) {
    const levels = Object.entries(LEVELS).map(([level, [sign, name]]) => this.#button(sign, name, () => ({ level })));
    const one = this.#button("One is here", "Begin a bar at the beat nearest to the playhead", () => (this.#one = { one_at: position() }));
    this.meter = element("select", { ariaLabel: "Meter" });
    this.tempo = element("input", { type: "number", className: "number tempo-number", min: SLOWEST, max: FASTEST, step: "any" });
    this.tempo.title = "A steady tempo, such as that of a click track. It replaces the beats that were found.";
    this.meter.addEventListener("change", () => this.#correct({ meter: this.meter.value }));
    this.tempo.addEventListener("change", () => this.#setTempo());
    this.reset = element("button", { type: "button", className: "tool" }, "Reset beats");
    this.reset.title = "Return to the beats that were found";
    this.reset.addEventListener("click", () => {
      this.forget();
      this.#run(() => this.onReset());
    });
    this.status = element("p", { className: "beat-status", role: "status" });
    const meter = element("label", { className: "listen-field" }, "Meter", this.meter);
    const tempo = element("label", { className: "listen-field" }, "Tempo", this.tempo);
    this.fields = element("fieldset", { className: "beat-fields" }, ...levels, one, meter, tempo, this.reset, this.status);
    this.fields.setAttribute("aria-label", "Beats");
    this.node = element("details", { className: "beat-tools" }, element("summary", {}, "Correct the beats"), this.fields);
  }

  /** Forget where a bar begins: other beats are shown. */
  forget() {
    this.#one = {};
  }

  /** @param {import("./grid.js").Grid} grid */
  show(grid) {
    const meters = METERS.includes(grid.meter) || !grid.meter ? METERS : [grid.meter, ...METERS];
    this.meter.replaceChildren(...meters.map((meter) => new Option(meter, meter)));
    this.meter.value = grid.meter;
    this.tempo.value = grid.tempo ? String(Math.round(grid.tempo * 10) / 10) : "";
  }

  /** @param {string} sign @param {string} name @param {() => Correction} correction */
  #button(sign, name, correction) {
    const node = element("button", { type: "button", className: "tool", title: name }, sign);
    if (!/^[A-Z]/.test(sign)) node.setAttribute("aria-label", name);
    node.addEventListener("click", () => this.#correct(correction()));
    return node;
  }

  #setTempo() {
    if (this.tempo.value && this.tempo.checkValidity()) this.#correct({ tempo_bpm: Number(this.tempo.value) });
    else setText(this.status, `A tempo is a number from ${SLOWEST} to ${FASTEST}.`);
  }

  /** @param {Correction} correction */
  #correct(correction) {
    const wanted = { ...this.#one, ...correction };
    this.#run(() => this.onCorrect(wanted));
  }

  /** @param {() => Promise<void>} act */
  #run(act) {
    this.#queue = this.#queue.then(async () => {
      setText(this.status, "Correcting the beats…");
      try {
        await act();
        setText(this.status, "");
      } catch (error) {
        setText(this.status, error instanceof ApiError ? error.message : "The beats could not be corrected. Try again.");
      }
    });
  }
}
