/** The tools of the piano roll: zoom, snap, colors, the whole screen. */

import { element } from "./dom.js";

export class RollTools {
  snaps = true;

  /** @param {import("./piano_roll.js").PianoRoll} roll @param {HTMLElement} frame @param {HTMLElement} help */
  constructor(roll, frame, help) {
    this.snap = tool("Snap", "Snap to the beats", () => this.#toggleSnap());
    this.snap.setAttribute("aria-pressed", "true");
    this.colors = element(
      "select",
      { className: "tool", "aria-label": "Color the notes by" },
      new Option("By instrument", "instrument"),
      new Option("By velocity", "velocity"),
    );
    this.colors.addEventListener("change", () => roll.colorBy(/** @type {"instrument" | "velocity"} */ (this.colors.value)));
    const whole = tool("Full", "Whole screen", () => toggleFullscreen(frame));
    whole.hidden = !document.fullscreenEnabled;
    this.node = element(
      "div",
      { className: "zoom-tools", role: "group", "aria-label": "View" },
      this.snap,
      this.colors,
      tool("−", "Zoom out", () => roll.zoomOut()),
      tool("+", "Zoom in", () => roll.zoomIn()),
      tool("Fit", "Fit the whole recording", () => roll.fit()),
      whole,
      help,
    );
  }

  /** @param {import("./grid.js").Grid} grid */
  load(grid) {
    this.snap.hidden = !grid.known;
  }

  #toggleSnap() {
    this.snaps = !this.snaps;
    this.snap.setAttribute("aria-pressed", String(this.snaps));
  }
}

/** @param {HTMLElement} frame */
function toggleFullscreen(frame) {
  if (document.fullscreenElement) document.exitFullscreen();
  else frame.requestFullscreen().catch(() => {}); // refused: the page stays as it is
}

/** @param {string} sign @param {string} name @param {() => void} act */
function tool(sign, name, act) {
  const node = element("button", { type: "button", className: "tool", title: name }, sign);
  if (sign !== "Snap") node.setAttribute("aria-label", name);
  node.addEventListener("click", act);
  return node;
}
