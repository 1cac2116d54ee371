/** The fields of a form, one for each option of a model, built from its JSON Schema. */

import { element } from "./dom.js";
import { label } from "./format.js";

const SLIDER_STEPS = 1000;
/** @type {Record<string, string>} */
const CAPTIONS = { single_instrument: "What do you hear? (optional)" };

/** @typedef {import("./api.js").OptionSchema} OptionSchema */
/** @typedef {import("./api.js").OptionValue} OptionValue */
/** @typedef {{ node: HTMLElement, value: () => OptionValue, reset: () => void }} Field value null: not set */

/** Return the schema of a value that may be null, without the null. @param {OptionSchema} schema @returns {OptionSchema} */
export function schemaOf(schema) {
  const real = schema.anyOf?.find((each) => each.type !== "null");
  return real ? { ...real, ...schema, anyOf: undefined } : schema;
}

/** Compare two values of an option by content. @param {unknown} a @param {unknown} b */
export function same(a, b) {
  return JSON.stringify(a) === JSON.stringify(b);
}

/** @param {string} name @param {OptionSchema} schema @returns {Field} */
export function field(name, schema) {
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
