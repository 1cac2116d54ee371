/** The recording: one deck sounds; while a passage is looped, a second one waits at the start of the passage. */

import { Deck } from "./deck.js";

/** Fires "change" when it becomes playable, and when it turns out not to be. */
export class Recording extends EventTarget {
  /** @type {"none" | "loading" | "ready" | "failed"} */
  state = "none";
  #rate = 1;
  #deck = this.#addDeck();
  /** @type {Deck | null} */
  #standby = null;
  /** @type {[AudioContext, AudioNode] | null} */
  #outlet = null;

  /** @param {string | null} href null: there is none */
  load(href) {
    this.state = href ? "loading" : "none";
    this.#standby?.load(null);
    this.#deck.load(href);
    this.dispatchEvent(new Event("change"));
  }

  get usable() {
    return this.state === "ready" || this.state === "loading";
  }

  /** The deck that sounds. */
  get deck() {
    return this.#deck;
  }

  /** The other deck, of the same recording and at the same speed. */
  get standby() {
    const standby = (this.#standby ??= this.#addDeck());
    if (this.#outlet) standby.connect(...this.#outlet);
    if (standby.href !== this.#deck.href) standby.load(this.#deck.href);
    standby.rate = this.#rate;
    return standby;
  }

  /** Make the other deck the one that sounds, and stop the one that did. */
  swap() {
    const stopped = this.#deck;
    [this.#deck, this.#standby] = [this.standby, stopped];
    stopped.stop();
  }

  /** @param {AudioContext} context @param {AudioNode} destination */
  connect(context, destination) {
    this.#outlet = [context, destination];
    this.#deck.connect(context, destination);
  }

  /** @param {number} rate */
  set rate(rate) {
    this.#rate = rate;
    this.#deck.rate = rate;
  }

  /** Move to a position, and wait until it can be played from there. @param {number} position s */
  async prepare(position) {
    if (this.usable) await this.#deck.prepare(position);
  }

  start() {
    this.#deck.start().catch(() => this.#become("failed"));
  }

  stop() {
    this.#deck.stop();
  }

  /** The position that sounds, in s; null while it does not move. */
  get position() {
    return this.#deck.position;
  }

  /** True after the end of the recording, which may come before that of the notes. */
  get ended() {
    return this.#deck.element.ended;
  }

  /** Return true if it has sound at a position. @param {number} position s */
  covers(position) {
    const { duration } = this.#deck.element;
    return this.usable && !(position >= duration);
  }

  #addDeck() {
    const deck = new Deck();
    deck.element.addEventListener("loadedmetadata", () => {
      if (deck === this.#deck && this.state === "loading") this.#become("ready");
    });
    deck.element.addEventListener("error", () => {
      if (deck === this.#deck && this.state !== "none") this.#become("failed");
    });
    return deck;
  }

  /** @param {"ready" | "failed"} state */
  #become(state) {
    this.state = state;
    this.dispatchEvent(new Event("change"));
  }
}
