/** The pages of an engraved score, and where its measures are on them. */

import { unzip } from "./zip.js";

/**
 * @typedef {{ start: number, end: number, page: number, left: number, right: number, top: number, bottom: number }}
 *          Measure times in s, places as shares of the page's width and height
 * @typedef {{ url: string, width: number, height: number }} Page an address of its image, and its size in pixels
 */

/** Read the export "svg". @param {ArrayBuffer} archive @returns {Promise<{ pages: Page[], measures: Measure[] }>} */
export async function readScore(archive) {
  const members = await unzip(archive);
  const text = (/** @type {string} */ name) => new TextDecoder().decode(members.get(name));
  /** @type {{ measures: { start: number, end: number }[] }} */
  const times = JSON.parse(text("measures.json"));
  const names = [...members.keys()].filter((name) => name.endsWith(".svg")).sort();
  /** @type {Page[]} */
  const pages = [];
  /** @type {Measure[]} */
  const measures = [];
  for (const [number, name] of names.entries()) {
    const source = text(name);
    const unstyled = source.replace(/<style[^]*?<\/style>/g, ""); // the content policy refuses them outside of images
    const root = new DOMParser().parseFromString(unstyled, "image/svg+xml").documentElement;
    pages.push({
      url: URL.createObjectURL(new Blob([source], { type: "image/svg+xml" })),
      width: parseFloat(root.getAttribute("width") ?? "2100"),
      height: parseFloat(root.getAttribute("height") ?? "2970"),
    });
    for (const place of placesOf(root)) {
      const time = times.measures[measures.length];
      if (time) measures.push({ ...time, ...place, page: number });
    }
  }
  return { pages, measures };
}

/** Return where the measures of a page are: around the lines of their staves. @param {Element} root */
function placesOf(root) {
  const drawing = root.querySelector("svg[viewBox]") ?? root;
  const [, , width, height] = (drawing.getAttribute("viewBox") ?? "0 0 1 1").split(/[ ,]+/).map(Number);
  const margin = root.querySelector("g.page-margin")?.getAttribute("transform") ?? "";
  const [dx, dy] = /translate\(([-\d.]+)[ ,]+([-\d.]+)\)/.exec(margin)?.slice(1).map(Number) ?? [0, 0];
  return [...root.querySelectorAll("g.measure")].map((measure) => {
    const [xs, ys] = [/** @type {number[]} */ ([]), /** @type {number[]} */ ([])];
    for (const line of measure.querySelectorAll(":scope > g.staff > path")) {
      const ends = /^M([-\d.]+) ([-\d.]+) L([-\d.]+) ([-\d.]+)/.exec(line.getAttribute("d") ?? "");
      if (!ends) continue;
      xs.push(Number(ends[1]), Number(ends[3]));
      ys.push(Number(ends[2]), Number(ends[4]));
    }
    return {
      left: (Math.min(...xs) + dx) / width,
      right: (Math.max(...xs) + dx) / width,
      top: (Math.min(...ys) + dy) / height,
      bottom: (Math.max(...ys) + dy) / height,
    };
  });
}

/** Return the measure at a time; null before the first and without measures. @param {Measure[]} measures @param {number} time */
export function measureAt(measures, time) {
  return measures.findLast((measure) => measure.start <= time + 1e-3) ?? measures[0] ?? null;
}
