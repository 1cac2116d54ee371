/** Requests of the library: rename, share, transcribe again, log in and out. */

import { jobPath, jsonOf, request } from "./api.js";

/** @typedef {import("./api.js").Job} Job */
/** @typedef {{ id: string, token: string, url: string, expires_at: string | null }} ShareLink */
/** @typedef {{ auth: string, name: string | null, scope: string }} Session */

const SESSION = "/v1/session";

/** @param {string} id @param {string} name @returns {Promise<Job>} */
export async function renameJob(id, name) {
  return jsonOf(await request(jobPath(id), { method: "PATCH", body: { name } }));
}

/** @param {string} id @returns {Promise<ShareLink>} */
export async function createShare(id) {
  return jsonOf(await request(`${jobPath(id)}/shares`, { method: "POST", body: {} }));
}

/** @param {string} id @param {string} token */
export async function revokeShare(id, token) {
  await request(`${jobPath(id)}/shares/${token}`, { method: "DELETE" });
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

/** @returns {Promise<Session>} */
export async function getSession() {
  return jsonOf(await request(SESSION));
}

/** @param {string} key @returns {Promise<Session>} */
export async function logIn(key) {
  return jsonOf(await request(SESSION, { method: "POST", body: { key } }));
}

export async function logOut() {
  await request(SESSION, { method: "DELETE" });
}
