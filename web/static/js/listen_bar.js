/** The controls of playback: recording or notes, volume, speed, clicks, loop. */

import { element, segments, setText } from "./dom.js";
import { LoopControls } from "./loop_controls.js";

const SPEEDS = [50, 55, 60, 65, 70, 75, 80, 85, 90, 95, 100]; // %
const SOURCES = /** @type {const} */ ({ original: 0, both: null, transcription: 1 }); // balance

const WIDE = "(min-width: 48rem)"; // where there is room for all of it

/** @typedef {keyof SOURCES} Source */

export class ListenBar {
  #fader = 0.5;
  /** @type {Source} */
  #source = "original";

  /** @param {import("./transport.js").Transport} transport */
  constructor(transport) {
    this.transport = transport;
    const words = { original: "Original", both: "Both", transcription: "Transcription" };
    this.sources = segments("What you hear", words, (source) => this.choose(source));
    this.balance = slider("Balance", "More of the original at the left, more of the transcription at the right", 0.5);
    this.volume = slider("Volume", "Volume", 1);
    this.speed = element("select", { id: "speed" }, ...SPEEDS.map((each) => new Option(`${each} %`, String(each))));
    this.clicks = toggle("Click", "Click on the beats");
    this.countIn = toggle("Count-in", "Count one bar before playback starts");
    this.loop = new LoopControls(transport);
    this.trouble = element("p", { className: "listen-trouble", role: "status" });
    this.node = this.#layout();
    this.#connect();
  }

  #layout() {
    const speed = element("label", { className: "listen-field" }, "Speed", this.speed);
    const fields = element("div", { className: "practice-fields" }, speed, this.clicks, this.countIn, this.loop.node);
    const practice = element("details", { className: "practice" }, element("summary", {}, "Practice"), fields);
    const wide = matchMedia(WIDE);
    practice.open = wide.matches;
    wide.addEventListener("change", () => (practice.open ||= wide.matches)); // there, it cannot be opened by hand
    const mixer = element("div", { className: "mixer" }, this.sources.node, this.balance.label, this.volume.label);
    return element("div", { className: "listen", role: "group", "aria-label": "Listening" }, mixer, practice, this.trouble);
  }

  #connect() {
    const { transport } = this;
    this.balance.input.addEventListener("input", () => {
      this.#fader = Number(this.balance.input.value);
      this.choose("both");
    });
    this.volume.input.addEventListener("input", () => transport.setVolume(Number(this.volume.input.value)));
    this.speed.addEventListener("change", () => transport.setRate(Number(this.speed.value) / 100));
    this.clicks.addEventListener("click", () => {
      transport.clicksOn = !transport.clicksOn;
      this.show();
    });
    this.countIn.addEventListener("click", () => {
      transport.countInOn = !transport.countInOn;
      this.show();
    });
  }

  /** @param {Source} source */
  choose(source) {
    this.#source = source;
    this.transport.setBalance(SOURCES[source] ?? this.#fader);
    this.show();
  }

  /** @param {import("./grid.js").Grid} grid */
  load(grid) {
    this.clicks.hidden = !grid.known;
    this.countIn.hidden = !grid.known;
    this.loop.load(grid);
    this.show();
  }

  show() {
    const { transport } = this;
    const { state } = transport.recording;
    const source = transport.recording.usable ? this.#source : "transcription";
    for (const [name, input] of Object.entries(this.sources.inputs)) {
      input.checked = name === source;
      input.disabled = name !== "transcription" && !transport.recording.usable;
    }
    this.balance.label.hidden = source !== "both";
    fill(this.balance.input, this.#fader);
    fill(this.volume.input, transport.volume);
    this.speed.value = String(Math.round(transport.rate * 100));
    this.clicks.setAttribute("aria-pressed", String(transport.clicksOn));
    this.countIn.setAttribute("aria-pressed", String(transport.countInOn));
    const trouble = state === "failed" ? "This browser cannot play the recording, only its notes." : "";
    setText(this.trouble, trouble);
    this.trouble.hidden = !trouble;
    this.loop.show();
  }
}

/** @param {string} words @param {string} title @param {number} value */
function slider(words, title, value) {
  const input = element("input", { type: "range", min: "0", max: "1", step: "0.01", title });
  fill(input, value);
  return { input, label: element("label", { className: "listen-field" }, words, input) };
}

/** @param {HTMLInputElement} input @param {number} value 0-1 */
function fill(input, value) {
  input.value = String(value);
  input.style.setProperty("--filled", `${value * 100}%`);
}

/** @param {string} words @param {string} title */
function toggle(words, title) {
  return element("button", { type: "button", className: "tool", title, "aria-pressed": "false" }, words);
}
