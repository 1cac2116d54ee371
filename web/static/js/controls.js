/** Buttons and links that are made in several places. */

import { element } from "./dom.js";

/** @param {string} words @param {string} kind @param {() => void} onClick */
export function button(words, kind, onClick) {
  const node = element("button", { type: "button", className: `button ${kind}` }, words);
  node.addEventListener("click", onClick);
  return node;
}

/** @param {HTMLAnchorElement} link @param {string | undefined} href @param {string} name */
export function showDownload(link, href, name) {
  link.hidden = !href;
  if (!href) return;
  link.href = href;
  link.download = name;
}
