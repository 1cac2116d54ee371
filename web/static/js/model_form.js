/** The form for the model and its options, built from /v1/models. */

import { byId, element, setText } from "./dom.js";
import { fileSize } from "./format.js";
import { field, same, schemaOf } from "./option_fields.js";
import { PurposeChoice, speedWords } from "./purposes.js";

const STORAGE_KEY = "mt3-infer.model";
const AUTO = "auto";
const QUESTION = "single_instrument"; // the option that everyone can answer stands before the others

/** @typedef {import("./api.js").Model} Model */
/** @typedef {import("./option_fields.js").Field} Field */

/** Fires "shown" when a model can be chosen. */
export class ModelForm extends EventTarget {
  /** @type {Model[]} */
  #models = [];
  #preferred = "";
  /** @type {Map<string, Field>} */
  #fields = new Map();

  purposes = new PurposeChoice(byId("purposes"), (name) => this.#choose(name));

  constructor() {
    super();
    this.select = byId("model", HTMLSelectElement);
    this.about = byId("model-about");
    this.question = byId("question");
    this.options = byId("options");
    this.fields = byId("options-fields");
    this.select.addEventListener("change", () => this.#choose(this.select.value));
    byId("model-form").addEventListener("submit", (event) => event.preventDefault());
  }

  /** Show the models; called again, only refresh what is known about them. @param {import("./api.js").ModelList} list */
  show(list) {
    const isFirst = this.#models.length === 0;
    this.#models = list.items;
    this.#preferred = list.preferred;
    this.purposes.show(list);
    if (!isFirst) {
      this.#describe();
      return;
    }
    const automatic = list.default === AUTO ? [element("option", { value: AUTO }, "Automatic")] : [];
    this.select.replaceChildren(...automatic, ...choices(list.items));
    this.select.disabled = this.select.options.length === 0;
    const names = [...this.select.options].map((option) => option.value);
    const chosen = [remembered(), list.default, names[0]].find((name) => name && names.includes(name));
    if (chosen) this.#choose(chosen);
    this.dispatchEvent(new Event("shown"));
  }

  /** True while the weights of the preferred model may still be fetched in the background. */
  get isWaiting() {
    const preferred = this.#preferredModel();
    return this.select.options[0]?.value === AUTO && preferred !== undefined && !preferred.installed && !preferred.error;
  }

  /** @param {Error} error */
  showProblem(error) {
    setText(this.about, error.message);
  }

  /** Return the title of a model, or its name if the model is unknown. @param {string} name */
  titleOf(name) {
    return this.model(name)?.title || name;
  }

  /** Return a model; undefined if it is unknown. @param {string} name */
  model(name) {
    return this.#models.find((model) => model.name === name);
  }

  get models() {
    return this.#models;
  }

  /** Return the model that a job gets now: the chosen one, or the one that the service chooses. */
  get modelInUse() {
    return this.#current() ?? this.#models.find((each) => each.default);
  }

  /** Return the options of a job that differ from the model's defaults. @param {import("./api.js").Job} job */
  changedOptions(job) {
    const schemas = this.#models.find((model) => model.name === job.model)?.options ?? {};
    return Object.entries(job.options ?? {}).filter(
      ([name, value]) => !same(schemaOf(schemas[name] ?? {}).default, value),
    );
  }

  /** The model (null: the service's default) and the options that differ from its defaults. */
  get choice() {
    /** @type {Record<string, unknown>} */
    const options = {};
    const schemas = this.#schemas();
    for (const [name, field] of this.#fields) {
      const value = field.value();
      if (value !== null && !same(value, schemaOf(schemas[name] ?? {}).default)) options[name] = value;
    }
    return { model: this.#current()?.name ?? null, options };
  }

  /** The chosen model; undefined if the service chooses. */
  #current() {
    return this.#models.find((model) => model.name === this.select.value);
  }

  #preferredModel() {
    return this.#models.find((model) => model.name === this.#preferred);
  }

  /** The options of the chosen model; if the service chooses, those of each model that it may choose. */
  #schemas() {
    const model = this.#current();
    if (model) return model.options;
    const preferred = this.#preferredModel()?.options ?? {};
    const now = this.#models.find((each) => each.default)?.options ?? {};
    return Object.fromEntries(Object.entries(now).filter(([name]) => name in preferred));
  }

  #describe() {
    const model = this.#current();
    if (model) setText(this.about, aboutModel(model));
    else setText(this.about, aboutAutomatic(this.#models.find((each) => each.default), this.#preferredModel()));
  }

  /** @param {string} name */
  #choose(name) {
    remember(name);
    this.select.value = name;
    this.purposes.mark(name);
    this.#describe();
    const entries = Object.entries(this.#schemas());
    this.#fields = new Map(entries.map(([option, schema]) => [option, field(option, schemaOf(schema))]));
    const first = this.#fields.get(QUESTION);
    const others = [...this.#fields.values()].filter((each) => each !== first);
    this.question.replaceChildren(...(first ? [first.node] : []));
    this.options.hidden = others.length === 0;
    const reset = element("button", { type: "button", className: "button small" }, "Reset to defaults");
    reset.addEventListener("click", () => this.#fields.forEach((each) => each.reset()));
    this.fields.replaceChildren(...others.map((each) => each.node), reset);
  }
}

/** Return an option for each model, and a group for the variants of a model. @param {Model[]} models */
function choices(models) {
  const option = (/** @type {Model} */ m) => element("option", { value: m.name }, m.title || m.name);
  return models.filter((m) => !m.variant_of).flatMap((main) => {
    const variants = models.filter((m) => m.variant_of === main.name);
    const group = element("optgroup", { label: `Variants of ${main.title}` }, ...variants.map(option));
    return variants.length ? [option(main), group] : [option(main)];
  });
}

/** @param {Model | undefined} now @param {Model | undefined} preferred */
function aboutAutomatic(now, preferred) {
  if (!now || !preferred) return "";
  if (now.name === preferred.name) return `${now.title}: ${aboutModel(now)}`;
  const { download, error, title } = preferred;
  const done = download?.bytes_total ? Math.floor((100 * download.bytes_done) / download.bytes_total) : 0;
  const later = download
    ? `${title}, which is more accurate, is being downloaded (${done} % of ${fileSize(download.bytes_total)}).`
    : `${title}, which is more accurate, is used as soon as it is installed.`;
  return `Uses ${now.title} for now. ${error ? `${title} could not be downloaded: ${error}` : later}`;
}

/** @param {Model} model */
function aboutModel(model) {
  const facts = [
    model.installed ? "installed" : `${model.size ? `${fileSize(model.size)} ` : ""}download on first use`,
    speedWords(model),
    model.license ? `license: ${model.license}` : "",
  ].filter(Boolean);
  return [model.description, facts.length ? `${facts.join(" · ")}.`.replace(/^./, (c) => c.toUpperCase()) : ""]
    .filter(Boolean)
    .join(" ");
}

function remembered() {
  try {
    return localStorage.getItem(STORAGE_KEY);
  } catch {
    return null;
  }
}

/** @param {string} name */
function remember(name) {
  try {
    localStorage.setItem(STORAGE_KEY, name);
  } catch {
    // Storage is disabled: the default model is selected on the next visit.
  }
}
