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

/**
 * Return an export's file if the owner of a shared transcription had it made.
 * @param {string} id @param {Wanted} wanted @param {AbortSignal} signal
 */
async function exportedBefore(id, { format, options = {} }, signal) {
  const { items } = await listExports(id, signal);
  const same = (/** @type {import("./api.js").Export} */ made) =>
    made.format === format &&
    Object.entries(options).every(([name, value]) => JSON.stringify(made.options[name]) === JSON.stringify(value));
  const artifact = items.filter(same).find((made) => made.artifact)?.artifact;
  if (artifact) return artifact;
  throw new ApiError("This file was not made before the transcription was shared.", { status: 404 });
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
