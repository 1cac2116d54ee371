/** The form for the model and its options, built from /v1/models. */

import { byId, element, setText } from "./dom.js";
import { fileSize, label } from "./format.js";

const STORAGE_KEY = "mt3-infer.model";
const SLIDER_STEPS = 1000;
const AUTO = "auto";
const QUESTION = "single_instrument"; // the option that everyone can answer stands before the others
/** @type {Record<string, string>} */
const CAPTIONS = { [QUESTION]: "What do you hear? (optional)" };

/** @typedef {import("./api.js").Model} Model */
/** @typedef {import("./api.js").OptionSchema} OptionSchema */
/** @typedef {import("./api.js").OptionValue} OptionValue */
/** @typedef {{ node: HTMLElement, value: () => OptionValue, reset: () => void }} Field value null: not set */

export class ModelForm {
  /** @type {Model[]} */
  #models = [];
  #preferred = "";
  /** @type {Map<string, Field>} */
  #fields = new Map();

  constructor() {
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
    if (!isFirst) {
      this.#describe();
      return;
    }
    const automatic = list.default === AUTO ? [element("option", { value: AUTO }, "Automatic")] : [];
    this.select.replaceChildren(...automatic, ...choices(list.items));
    this.select.disabled = this.select.options.length === 0;
    const names = [...this.select.options].map((option) => option.value);
    const chosen = [remembered(), list.default, names[0]].find((name) => name && names.includes(name));
    if (!chosen) return;
    this.select.value = chosen;
    this.#choose(chosen);
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
    return this.#models.find((model) => model.name === name)?.title || name;
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
    model.installed ? "" : `${model.size ? `${fileSize(model.size)} ` : ""}download on first use`,
    model.realtime_factor ? `about ${Number(model.realtime_factor.toPrecision(2))}× real-time speed on this server` : "",
    model.license ? `license: ${model.license}` : "",
  ].filter(Boolean);
  return [model.description, facts.length ? `${facts.join(" · ")}.`.replace(/^./, (c) => c.toUpperCase()) : ""]
    .filter(Boolean)
    .join(" ");
}

/** Return the schema of a value that may be null, without the null. @param {OptionSchema} schema @returns {OptionSchema} */
function schemaOf(schema) {
  const real = schema.anyOf?.find((each) => each.type !== "null");
  return real ? { ...real, ...schema, anyOf: undefined } : schema;
}

/** Compare two values of an option by content. @param {unknown} a @param {unknown} b */
function same(a, b) {
  return JSON.stringify(a) === JSON.stringify(b);
}

/** @param {string} name @param {OptionSchema} schema @returns {Field} */
function field(name, schema) {
  if (schema.type === "boolean") return checkbox(name, schema);
  if (schema.enum) return choice(name, schema);
  if (schema.type === "array" && schemaOf(schema.items ?? {}).enum) return severalOf(name, schema);
  if (schema.type === "number" || schema.type === "integer") return number(name, schema);
  return text(name, schema);
}

/** @param {string} name @param {OptionSchema} schema @param {HTMLElement[]} controls */
function labeled(name, schema, ...controls) {
  const hint = element("p", { className: "hint", id: `hint-${name}` }, schema.description ?? "");
  controls.forEach((control) => control.setAttribute("aria-describedby", hint.id));
  const caption = element("label", { for: `option-${name}` }, CAPTIONS[name] ?? label(name));
  return element("div", { className: "field" }, caption, element("div", { className: "controls" }, ...controls), hint);
}

/** @param {string} name @param {OptionSchema} schema @returns {Field} */
function checkbox(name, schema) {
  const input = element("input", { type: "checkbox", id: `option-${name}`, checked: Boolean(schema.default) });
  const reset = () => (input.checked = Boolean(schema.default));
  return { node: labeled(name, schema, input), value: () => input.checked, reset };
}

/** @param {string} name @param {OptionSchema} schema @returns {Field} */
function choice(name, schema) {
  const options = (schema.enum ?? []).map((value) => element("option", { value }, label(String(value))));
  const select = element("select", { id: `option-${name}` }, ...options);
  const reset = () => (select.value = String(schema.default ?? ""));
  reset();
  return { node: labeled(name, schema, select), value: () => select.value || null, reset };
}

/** A checkbox for each value of a list. @returns {Field} */
function severalOf(/** @type {string} */ name, /** @type {OptionSchema} */ schema) {
  const boxes = (schemaOf(schema.items ?? {}).enum ?? []).map((value) => element("input", { type: "checkbox", value }));
  const hint = element("p", { className: "hint", id: `hint-${name}` }, schema.description ?? "");
  const node = element(
    "fieldset",
    { className: "field wide", "aria-describedby": hint.id },
    element("legend", {}, label(name)),
    element("div", { className: "ticks" }, ...boxes.map((box) => element("label", {}, box, label(box.value)))),
    hint,
  );
  const checked = Array.isArray(schema.default) ? schema.default : [];
  const reset = () => boxes.forEach((box) => (box.checked = checked.includes(box.value)));
  reset();
  return { node, value: () => boxes.filter((box) => box.checked).map((box) => box.value), reset };
}

/** A text field; the schema's examples are suggested. @returns {Field} */
function text(/** @type {string} */ name, /** @type {OptionSchema} */ schema) {
  const input = element("input", { type: "text", id: `option-${name}` });
  const examples = element("datalist", { id: `examples-${name}` });
  examples.append(...(schema.examples ?? []).map((value) => element("option", { value: String(value) })));
  input.setAttribute("list", examples.id);
  const reset = () => (input.value = String(schema.default ?? ""));
  reset();
  return { node: labeled(name, schema, input, examples), value: () => input.value.trim() || null, reset };
}

/** A number field, with a slider if the range is known. @returns {Field} */
function number(/** @type {string} */ name, /** @type {OptionSchema} */ schema) {
  const input = element("input", { type: "number", id: `option-${name}`, className: "number" });
  input.step = schema.type === "integer" ? "1" : "any";
  if (schema.minimum !== undefined) input.min = String(schema.minimum);
  if (schema.maximum !== undefined) input.max = String(schema.maximum);
  const slider = hasRange(schema) ? sliderFor(name, schema, input) : null;
  const reset = () => {
    input.value = schema.default === undefined || schema.default === null ? "" : String(schema.default);
    input.dispatchEvent(new Event("input"));
  };
  reset();
  const value = () => (input.value === "" || !input.validity.valid ? null : Number(input.value));
  return { node: labeled(name, schema, ...(slider ? [slider, input] : [input])), value, reset };
}

/** @param {OptionSchema} schema */
function hasRange(schema) {
  return schema.minimum !== undefined && schema.maximum !== undefined && schema.maximum > schema.minimum;
}

/** @param {string} name @param {OptionSchema} schema @param {HTMLInputElement} input */
function sliderFor(name, schema, input) {
  const scale = sliderScale(schema);
  const slider = element("input", { type: "range", min: "0", max: String(SLIDER_STEPS), step: "1" });
  slider.setAttribute("aria-label", label(name));
  const fill = () => {
    slider.style.setProperty("--filled", `${(100 * Number(slider.value)) / SLIDER_STEPS}%`);
    slider.setAttribute("aria-valuetext", input.value);
  };
  slider.addEventListener("input", () => {
    input.value = String(scale.value(Number(slider.value) / SLIDER_STEPS));
    fill();
  });
  input.addEventListener("input", () => {
    if (input.value !== "") slider.value = String(Math.round(scale.place(Number(input.value)) * SLIDER_STEPS));
    fill();
  });
  return slider;
}

/**
 * Slider position (0-1) ↔ value. The scale is cubic if the default is in the lowest tenth of the range, so that
 * the useful values are not crammed together at its start.
 * @param {OptionSchema} schema
 */
export function sliderScale(schema) {
  const low = schema.minimum ?? 0;
  const width = (schema.maximum ?? 1) - low;
  const initial = typeof schema.default === "number" ? schema.default : low;
  const power = schema.type === "number" && initial > low && (initial - low) / width < 0.1 ? 3 : 1;
  const digits = schema.type === "integer" ? 0 : width > 100 ? 0 : 2;
  return {
    value: (/** @type {number} */ place) => Number((low + width * place ** power).toFixed(digits)),
    place: (/** @type {number} */ value) => Math.min(1, Math.max(0, (value - low) / width)) ** (1 / power),
  };
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
