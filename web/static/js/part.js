/** A part of the page whose modules are fetched after the page can be used, or when the part is wanted. */

import { ApiError } from "./api.js";
import { poll } from "./polling.js";

/** Fetch the modules of all parts at once: the service lists them in the page. */
export function fetchParts() {
  document.querySelectorAll("link[rel=later]").forEach((link) => link.setAttribute("rel", "modulepreload"));
}

/** @template T */
export class Part {
  /** @type {T | null} */
  #part = null;
  /** @type {Promise<T> | null} */
  #loading = null;

  /**
   * @param {() => Promise<T>} load imports the modules and creates the part
   * @param {{ connection: import("./polling.js").Connection, onError: (error: Error) => void }} collaborators
   */
  constructor(load, collaborators) {
    this.load = load;
    this.collaborators = collaborators;
  }

  /** The part; null until it is loaded. */
  get loaded() {
    return this.#part;
  }

  /** Call a function with the part: now, or as soon as the modules could be fetched. @param {(part: T) => void} use */
  with(use) {
    if (this.#part) return use(this.#part);
    fetchParts();
    poll(async () => {
      use(await this.#attempt());
      return null;
    }, this.collaborators);
  }

  async #attempt() {
    this.#loading ??= this.load();
    try {
      return (this.#part = await this.#loading);
    } catch (error) {
      this.#loading = null;
      throw new ApiError(`A part of this page could not be loaded. Reload the page. (${error})`);
    }
  }
}
