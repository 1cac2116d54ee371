/** The keyboard on the piano roll, and the list of its keys. */

import { element } from "./dom.js";

/** @typedef {{ keys: string, words: string }} Line */
/** @typedef {Record<string, () => void>} Bindings by key, with "Shift+" before it where Shift is held */

/** @type {Line[]} */
export const LISTENING_KEYS = [
  { keys: "Space", words: "Play or pause" },
  { keys: "← →", words: "Back or forward by a beat; with Shift, by a bar" },
  { keys: "Home End", words: "To the beginning or the end" },
  { keys: "+ − 0", words: "Zoom in, zoom out, fit the whole recording" },
  { keys: "Page Up, Page Down", words: "Scroll the view" },
  { keys: "[ ]", words: "Start or end the loop at the playhead" },
  { keys: "L", words: "Loop on or off" },
  { keys: "N", words: "Select the next note; with Shift, the one before" },
  { keys: "Escape", words: "Deselect the note" },
];

/** @type {Line[]} */
export const EDITING_KEYS = [
  { keys: "↑ ↓", words: "Change the pitch of the selected note by a semitone; with Shift, by an octave" },
  { keys: "← →", words: "Move the selected note; with Shift, change its length" },
  { keys: "Delete", words: "Delete the selected note" },
  { keys: "A", words: "Add a note at the playhead" },
  { keys: "S J", words: "Split the selected note at the playhead, or join it with the next of its pitch" },
  { keys: "Ctrl+Z, Ctrl+Y", words: "Undo, redo" },
];

/** Return the name of a key press. @param {KeyboardEvent} event */
export function keyName(event) {
  const name = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const control = event.ctrlKey || event.metaKey ? "Ctrl+" : "";
  return `${control}${event.shiftKey && /^[a-z]$|^Arrow/.test(name) ? "Shift+" : ""}${name}`;
}

/** Call the action bound to a key press, if there is one. @param {HTMLElement} node @param {() => Bindings} bindings */
export function bindKeys(node, bindings) {
  node.addEventListener("keydown", (event) => {
    if (event.altKey) return;
    const action = bindings()[keyName(event)];
    if (!action) return;
    event.preventDefault();
    action();
  });
}

/** Return what the keys do on the roll and on the overview while listening. */
export function listeningKeys(
  /** @type {import("./transport.js").Transport} */ transport,
  /** @type {import("./piano_roll.js").PianoRoll} */ roll,
  /** @type {import("./grid.js").Grid} */ grid,
) {
  const step = (/** @type {number} */ beats) => () => transport.seek(grid.shift(transport.position, beats));
  const bar = grid.beatsInBar;
  const page = () => roll.layout.plotWidth * 0.9;
  const { duration, position, loop } = transport;
  /** @type {Bindings} */
  return {
    " ": () => transport.toggle(),
    ArrowLeft: step(-1),
    ArrowRight: step(1),
    "Shift+ArrowLeft": step(-bar),
    "Shift+ArrowRight": step(bar),
    Home: () => transport.seek(0),
    End: () => transport.seek(duration),
    PageUp: () => void roll.pan(-page()),
    PageDown: () => void roll.pan(page()),
    "+": () => roll.zoomIn(),
    "=": () => roll.zoomIn(),
    "-": () => roll.zoomOut(),
    0: () => roll.fit(),
    "[": () => transport.setLoop({ start: position, end: loop && loop.end > position ? loop.end : duration }),
    "]": () => transport.setLoop({ start: loop && loop.start < position ? loop.start : 0, end: position }),
  };
}

/** Return what the keys do while notes are edited; arrows move the selected note, if there is one. */
export function editingKeys(
  /** @type {import("./mender.js").Mender} */ mender,
  /** @type {import("./transport.js").Transport} */ transport,
  /** @type {boolean} */ picked,
) {
  const run = (/** @type {import("./mend_tools.js").Command} */ command) => () => mender.run(command);
  /** @type {Bindings} */
  const always = {
    "Ctrl+z": run("undo"),
    "Ctrl+y": run("redo"),
    "Ctrl+Shift+z": run("redo"),
    a: () => mender.addAt(transport.position),
  };
  if (!picked) return always;
  return {
    ...always,
    ArrowUp: run("up"),
    ArrowDown: run("down"),
    "Shift+ArrowUp": () => mender.transpose(12),
    "Shift+ArrowDown": () => mender.transpose(-12),
    ArrowLeft: run("earlier"),
    ArrowRight: run("later"),
    "Shift+ArrowLeft": run("shorter"),
    "Shift+ArrowRight": run("longer"),
    Delete: run("remove"),
    Backspace: run("remove"),
    s: run("split"),
    j: run("join"),
  };
}

/** A dialog with the list of keys. */
export class KeysHelp {
  constructor() {
    const table = (/** @type {Line[]} */ lines) =>
      element("dl", {}, ...lines.flatMap(({ keys, words }) => [element("dt", {}, keys), element("dd", {}, words)]));
    const close = element("button", { className: "button", value: "close" }, "Close");
    const title = element("h2", { id: "keys-title" }, "Keys on the piano roll");
    const editing = element("h3", {}, "While editing");
    const form = element("form", { method: "dialog" }, title, table(LISTENING_KEYS), editing, table(EDITING_KEYS), close);
    this.node = element("dialog", { className: "keys-help", "aria-labelledby": "keys-title" }, form);
    this.button = element("button", { type: "button", className: "tool", title: "Keys on the piano roll" }, "?");
    this.button.setAttribute("aria-label", "Keys on the piano roll");
    this.button.addEventListener("click", () => this.open());
  }

  open() {
    this.node.showModal();
  }
}
