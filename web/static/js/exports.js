/** Files that the worker makes from the notes when they are wanted: sounds, the waveform, the score. */

import { ApiError, getExport, requestExport } from "./api.js";

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
  let state = await requestExport(id, wanted, signal);
  for (let wait = FIRST_WAIT_MS; ; wait = Math.min(LONGEST_WAIT_MS, wait * 1.4)) {
    if (state.artifact) return state.artifact;
    if (state.error) throw new ApiError(state.error.detail, { status: 422, code: state.error.code });
    onProgress(state.fraction);
    await pause(wait, signal);
    state = await getExport(id, state.id, signal);
  }
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
