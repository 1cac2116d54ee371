/** Accepts files from the button, from drag and drop, and from the clipboard. */

import { byId } from "./dom.js";

const SVG = "http://www.w3.org/2000/svg";

/** @param {(files: File[]) => void} onFiles */
export function acceptFiles(onFiles) {
  const input = byId("file-input", HTMLInputElement);
  input.addEventListener("change", () => {
    onFiles([...(input.files ?? [])]);
    input.value = ""; // so that the same file can be chosen again
  });
  byId("drop-zone").addEventListener("click", (event) => {
    if (!(/** @type {Element} */ (event.target).closest("label, input"))) input.click();
  });
  window.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (files.length) onFiles(files);
  });
  acceptDrops(onFiles);
  drawPerforations(byId("perforations", SVGElement));
}

/** @param {(files: File[]) => void} onFiles */
function acceptDrops(onFiles) {
  let depth = 0; // dragenter and dragleave fire for every element on the way
  const hasFiles = (/** @type {DragEvent} */ event) => event.dataTransfer?.types.includes("Files") ?? false;
  const show = (/** @type {boolean} */ over) => {
    document.body.classList.toggle("dragging", over);
    byId("drop-veil").hidden = !over || !byId("home").hidden;
  };
  window.addEventListener("dragenter", (event) => {
    if (!hasFiles(event)) return;
    depth += 1;
    show(true);
  });
  window.addEventListener("dragleave", (event) => {
    if (hasFiles(event)) depth -= 1;
    if (depth <= 0) show(false);
  });
  window.addEventListener("dragover", (event) => {
    if (hasFiles(event)) event.preventDefault();
  });
  window.addEventListener("drop", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    depth = 0;
    show(false);
    const files = [...(event.dataTransfer?.files ?? [])];
    if (files.length) onFiles(files);
  });
}

/** Draw the punched paper of a player piano: rows of slots, repeated once so that it scrolls without a seam. */
function drawPerforations(/** @type {Element} */ group) {
  const width = 640;
  for (let row = 0; row < 15; row += 1) {
    let x = ((row * 97) % 90) - 20;
    for (let slot = 0; x < width - 70; slot += 1) {
      const length = 10 + ((row * 31 + slot * 47) % 54);
      const tone = (row * 5 + slot * 3) % 11;
      for (const shift of [0, width]) group.append(perforation(x + shift, 8 + row * 16, length, tone));
      x += length + 16 + ((row * 53 + slot * 71) % 80);
    }
  }
}

/** @param {number} x @param {number} y @param {number} length @param {number} tone */
function perforation(x, y, length, tone) {
  const slot = document.createElementNS(SVG, "rect");
  Object.entries({ x, y, width: length, height: 6, rx: 3 }).forEach(([k, v]) => slot.setAttribute(k, String(v)));
  if (tone < 2) slot.setAttribute("class", `tone-${tone}`);
  return slot;
}
