/** Requests of the library: rename, and transcribe what the service has or fetches. */

import { jobPath, jsonOf, request } from "./api.js";

/** @typedef {import("./api.js").Job} Job */

/** @param {string} id @param {string} name @returns {Promise<Job>} */
export async function renameJob(id, name) {
  return jsonOf(await request(jobPath(id), { method: "PATCH", body: { name } }));
}

/**
 * Create a job from what the service has, or fetches.
 * @param {{ upload_id?: string, source_url?: string, transcription_id?: string, model?: string | null,
 *           options?: Record<string, unknown>, metadata?: Record<string, unknown> }} body
 * @param {string} key Idempotency-Key @returns {Promise<Job>}
 */
export async function createFrom(body, key) {
  return jsonOf(await request("/v1/transcriptions", { method: "POST", body, key }));
}

/** Return a new random Idempotency-Key. crypto.randomUUID is missing on plain HTTP outside localhost. */
export function freshKey() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((b) => b.toString(16).padStart(2, "0")).join("");
}
