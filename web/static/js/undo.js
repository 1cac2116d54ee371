/** Offers to undo an action for a few seconds, before it is done for good. */

import { announce, element, setText } from "./dom.js";

const UNDO_MS = 8_000;

/** @typedef {{ commit: () => Promise<void>, undo: () => void }} Action */

class Offer {
  /** @param {string} words @param {Action} action @param {() => void} onEnd */
  constructor(words, action, onEnd) {
    this.action = action;
    this.onEnd = onEnd;
    this.button = element("button", { type: "button", className: "button small" }, "Undo");
    this.node = element("div", { className: "toast", role: "group", "aria-label": words }, element("p", {}, words), this.button);
    this.button.addEventListener("click", () => this.undo());
    this.timer = setTimeout(() => this.commit(), UNDO_MS);
  }

  undo() {
    this.#end();
    this.action.undo();
  }

  async commit() {
    this.#end();
    try {
      await this.action.commit();
    } catch (error) {
      this.action.undo();
      announce(/** @type {Error} */ (error).message);
    }
  }

  #end() {
    clearTimeout(this.timer);
    this.onEnd();
  }
}

/** The offers that are open, one below the other. */
export class UndoStack {
  /** @type {Set<Offer>} */
  #offers = new Set();

  constructor() {
    this.node = element("section", { className: "toasts", "aria-label": "Undo" });
    document.body.append(this.node);
    // What was announced as deleted is deleted, also if the tab is closed before the time is over.
    window.addEventListener("pagehide", () => [...this.#offers].forEach((offer) => offer.commit()));
  }

  /** @param {string} words @param {Action} action */
  offer(words, action) {
    const offer = new Offer(words, action, () => {
      this.#offers.delete(offer);
      offer.node.remove();
    });
    this.#offers.add(offer);
    this.node.append(offer.node);
    setText(offer.button, "Undo");
    announce(`${words} You can undo this for ${UNDO_MS / 1000} seconds.`);
  }
}
