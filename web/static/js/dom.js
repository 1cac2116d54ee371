/** Helpers for the DOM. Text is only ever set through textContent. */

/**
 * Create an element with properties and children.
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {Record<string, unknown>} [properties] DOM properties; names with a dash are set as attributes
 * @param {...(Node | string)} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function element(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role" || name === "for") node.setAttribute(name, String(value));
    else Object.assign(node, { [name]: value });
  }
  node.append(...children);
  return node;
}

/**
 * Return an element of index.html.
 * @overload
 * @param {string} id
 * @returns {HTMLElement}
 */
/**
 * @template {Element} T
 * @overload
 * @param {string} id
 * @param {new () => T} kind
 * @returns {T}
 */
/** @param {string} id @param {new () => Element} [kind] the class that the element has */
export function byId(id, kind = HTMLElement) {
  const node = document.getElementById(id);
  if (!(node instanceof kind)) throw new Error(`index.html has no ${kind.name} #${id}`);
  return node;
}

/** Set text only if it has changed, so as not to disturb screen readers and selections. */
export function setText(/** @type {Element} */ node, /** @type {string} */ text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Announce a message to screen readers. @param {string} text */
export function announce(text) {
  setText(byId("announcer"), text);
}

/** Ask for confirmation of an action that cannot be undone. @returns {Promise<boolean>} */
export function confirmed(/** @type {string} */ title, /** @type {string} */ text, /** @type {string} */ verb) {
  const dialog = byId("confirm", HTMLDialogElement);
  setText(byId("confirm-title"), title);
  setText(byId("confirm-text"), text);
  setText(byId("confirm-yes"), verb);
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

/** Return a function that calls `draw` at most once per animation frame. @param {() => void} draw */
export function oncePerFrame(draw) {
  let request = 0;
  return () => {
    request ||= requestAnimationFrame(() => {
      request = 0;
      draw();
    });
  };
}

/**
 * Create a row of choices of which one is made.
 * @template {string} T
 * @param {string} legend @param {Record<T, string>} choices words by name @param {(name: T) => void} onChange
 */
export function segments(legend, choices, onChange) {
  const group = `${legend} ${Math.random()}`; // radio buttons of one name exclude each other
  const inputs = /** @type {Record<T, HTMLInputElement>} */ ({});
  const labels = /** @type {[T, string][]} */ (Object.entries(choices)).map(([name, words], n) => {
    const input = element("input", { type: "radio", name: group, className: "visually-hidden", checked: n === 0 });
    input.addEventListener("change", () => onChange(name));
    inputs[name] = input;
    return element("label", { className: "segment" }, input, element("span", {}, words));
  });
  const title = element("legend", { className: "visually-hidden" }, legend);
  return { inputs, node: element("fieldset", { className: "segments" }, title, ...labels) };
}
