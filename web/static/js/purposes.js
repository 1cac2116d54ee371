/** The choice of a model by what is in the recording. */

import { element, setText } from "./dom.js";
import { fileSize, span } from "./format.js";

const AUTO = "auto";
/** @type {Record<string, string>} */
export const PURPOSE_WORDS = {
  piano: "Piano",
  one_instrument: "A singer or one instrument",
  several_instruments: "A band, orchestra or choir: several instruments",
};

/** @typedef {import("./api.js").Model} Model */

/** Return the model to suggest for a purpose: the first that is installed, or the first. */
export function suggestion(/** @type {Model[]} */ models, /** @type {string} */ purpose) {
  const fitting = models.filter((model) => model.purpose === purpose);
  return fitting.find((model) => model.installed) ?? fitting[0];
}

/** Return how long a model takes; "" if that has not been measured. @param {Model} model */
export function speedWords(model) {
  return model.realtime_factor ? `about ${span(60 / model.realtime_factor)} for a minute of music` : "";
}

/** Return how long a model takes for a recording; "" if that is unknown. */
export function expectedWords(/** @type {Model | undefined} */ model, /** @type {number | null} */ seconds) {
  if (!model?.realtime_factor || !seconds) return "";
  return `about ${span(Math.max(1, seconds / model.realtime_factor))} with ${model.title}`;
}

/** Return whether a model is installed, or how large it is. @param {Model} model */
export function stateWords(model) {
  const { download } = model;
  if (model.installed) return "installed";
  if (download) return `being downloaded, ${Math.floor((100 * download.bytes_done) / (download.bytes_total || 1))} %`;
  return `${fileSize(model.size)} to download first`;
}

class Card {
  /** @param {string} value @param {string} words @param {() => void} onChoose */
  constructor(value, words, onChoose) {
    this.input = element("input", { type: "radio", name: "purpose", value, id: `purpose-${value}` });
    this.about = element("span", { className: "purpose-about" });
    this.input.addEventListener("change", onChoose);
    const text = element("span", { className: "purpose-words" }, words);
    this.node = element("label", { className: "purpose" }, this.input, text, this.about);
  }
}

export class PurposeChoice {
  /** @type {Map<string, Card>} */
  #cards = new Map();
  /** @type {Model[]} */
  #models = [];

  /** @param {HTMLElement} node @param {(model: string) => void} onChoose */
  constructor(node, onChoose) {
    this.node = node;
    this.onChoose = onChoose;
  }

  /** @param {import("./api.js").ModelList} list */
  show(list) {
    this.#models = list.items;
    if (list.default === AUTO) this.#card(AUTO, "Not sure: choose for me");
    for (const [purpose, words] of Object.entries(PURPOSE_WORDS)) {
      const model = suggestion(list.items, purpose);
      if (!model) continue;
      const about = [model.title, stateWords(model), speedWords(model)].filter(Boolean).join(" · ");
      setText(this.#card(purpose, words).about, about);
    }
    this.node.hidden = this.#cards.size < 2;
  }

  /** Check the purpose of a model. @param {string} name */
  mark(name) {
    const purpose = this.#models.find((model) => model.name === name)?.purpose ?? AUTO;
    for (const [value, card] of this.#cards) card.input.checked = value === purpose;
  }

  /** @param {string} purpose @param {string} words */
  #card(purpose, words) {
    let card = this.#cards.get(purpose);
    if (!card) {
      card = new Card(purpose, words, () => this.onChoose(suggestion(this.#models, purpose)?.name ?? AUTO));
      this.#cards.set(purpose, card);
      this.node.append(card.node);
    }
    return card;
  }
}
