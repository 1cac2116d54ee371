/** Files that the worker makes from the notes when they are wanted: sounds, the waveform, the score. */

import { ApiError, getExport, listExports, requestExport, shareToken } from "./api.js";

const FIRST_WAIT_MS = 250;
const LONGEST_WAIT_MS = 2_000;

/** @typedef {{ format: string, options?: Record<string, unknown>, source?: "original" | "corrected" }} Wanted */

/**
 * Return an export's file once it is made.
 * @param {string} id of the job @param {Wanted} wanted
 * @param {{ signal: AbortSignal, onProgress?: (fraction: number) => void }} options
 * @returns {Promise<import("./api.js").Artifact>}
 */
export async function exported(id, wanted, { signal, onProgress = () => {} }) {
  if (shareToken) return exportedBefore(id, wanted, signal);
  let state = await requestExport(id, wanted, signal);
  for (let wait = FIRST_WAIT_MS; ; wait = Math.min(LONGEST_WAIT_MS, wait * 1.4)) {
    if (state.artifact) return state.artifact;
    if (state.error) throw new ApiError(state.error.detail, { status: 422, code: state.error.code });
    onProgress(state.fraction);
    await pause(wait, signal);
    state = await getExport(id, state.id, signal);
  }
}

/** Options that a friend cannot choose. @type {Record<string, unknown>} */
const PLAIN = {
  ...{ pitch: "written", programs: [], tempo: "map", split: "none" },
  ...{ level: null, meter: null, tempo_bpm: null, one_at: null, first_beat: null },
};

/**
 * Return an export of a shared transcription, which its owner has asked for; undefined if there is none.
 * @param {import("./api.js").Export[]} exports oldest first @param {Wanted} wanted
 */
export function findShared(exports, { format, options = {}, source = "original" }) {
  const wanted = /** @type {Record<string, unknown>} */ ({ ...PLAIN, ...options });
  const differs = (/** @type {[string, unknown]} */ [name, value]) =>
    name in wanted && name !== "title" && name !== "page_size" && JSON.stringify(wanted[name]) !== JSON.stringify(value);
  const same = (/** @type {import("./api.js").Export} */ made) =>
    made.format === format && made.source === source && !made.error && !Object.entries(made.options).some(differs);
  return exports.findLast(same); // of corrected notes, the last version
}

/**
 * Return the file of an export of a shared transcription once it is made.
 * @param {string} id @param {Wanted} wanted @param {AbortSignal} signal
 */
async function exportedBefore(id, wanted, signal) {
  for (;;) {
    const made = findShared((await listExports(id, signal)).items, wanted);
    if (made?.artifact) return made.artifact;
    if (!made) throw new ApiError("This file has not been made. Ask the person who shared the link to export it.", { status: 404 });
    await pause(LONGEST_WAIT_MS, signal);
  }
}

/**
 * Have files made for friends, who cannot ask for them. One that is refused is left out.
 * @param {string} id @param {Wanted[]} wanted @param {AbortSignal} signal
 */
export async function prepare(id, wanted, signal) {
  for (const each of wanted) await requestExport(id, each, signal).catch(() => undefined);
}

/** @param {number} ms @param {AbortSignal} signal */
function pause(ms, signal) {
  return new Promise((/** @type {(value: void) => void} */ resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    const stop = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    signal.addEventListener("abort", stop, { once: true });
  });
}
