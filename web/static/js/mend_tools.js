/** The buttons for editing notes, and what has been saved. */

import { element, setText } from "./dom.js";

/** @typedef {"undo" | "redo" | "up" | "down" | "earlier" | "later" | "shorter" | "longer" | "split" | "join" | "remove"} Command */

/** @type {Record<Command, [string, string]>} sign and name */
const COMMANDS = {
  undo: ["Undo", "Undo the last change"],
  redo: ["Redo", "Redo the change"],
  up: ["♯", "Raise the note by a semitone"],
  down: ["♭", "Lower the note by a semitone"],
  earlier: ["←", "Move the note earlier"],
  later: ["→", "Move the note later"],
  shorter: ["⇤", "Shorten the note"],
  longer: ["⇥", "Lengthen the note"],
  split: ["Split", "Split the note at the playhead"],
  join: ["Join", "Join the note with the next of its pitch"],
  remove: ["Delete note", "Delete the note"],
};

export class MendTools {
  /**
   * @param {{ run: (command: Command) => void, toggle: () => void, add: () => void, revert: () => void }} actions
   */
  constructor({ run, toggle, add, revert }) {
    this.edit = button("Edit notes", "Move, add, delete and change notes", toggle);
    this.edit.setAttribute("aria-pressed", "false");
    this.add = button("Add note", "Add a note where you tap on the roll", add);
    this.add.setAttribute("aria-pressed", "false");
    this.revert = button("Discard corrections", "Return to the notes as they were transcribed", revert);
    const names = /** @type {Command[]} */ (Object.keys(COMMANDS));
    this.commands = names.map((name) => ({ name, node: button(...COMMANDS[name], () => run(name)) }));
    this.status = element("p", { className: "mend-status", role: "status" });
    this.panel = element("div", { className: "mend-commands", role: "group", "aria-label": "Edit notes" });
    this.panel.append(this.add, ...this.commands.map((each) => each.node));
    this.node = element("div", { className: "mend" }, this.edit, this.panel, this.revert, this.status);
  }

  /** @param {{ editing: boolean, adds: boolean, picked: boolean, corrected: boolean, canUndo: boolean, canRedo: boolean }} state */
  show({ editing, adds, picked, corrected, canUndo, canRedo }) {
    this.edit.setAttribute("aria-pressed", String(editing));
    this.add.setAttribute("aria-pressed", String(adds));
    this.panel.hidden = !editing;
    this.revert.hidden = !corrected;
    for (const { name, node } of this.commands) {
      node.disabled = name === "undo" ? !canUndo : name === "redo" ? !canRedo : !picked;
    }
  }

  /** @param {string} words */
  report(words) {
    setText(this.status, words);
  }
}

/** @param {string} sign @param {string} name @param {() => void} act */
function button(sign, name, act) {
  const node = element("button", { type: "button", className: "tool", title: name }, sign);
  if (!/^[A-Z]/.test(sign)) node.setAttribute("aria-label", name);
  node.addEventListener("click", act);
  return node;
}
