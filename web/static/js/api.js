/**
 * A client of the service's JSON API. Every failure is an ApiError whose message can be shown to the user.
 *
 * @typedef {{ name: string, content_type: string, size: number, sha256: string, href: string }} Artifact
 * @typedef {{ audio_seconds_done: number | null, audio_seconds_total: number | null,
 *             fraction: number | null, eta_seconds: number | null, download: Download | null,
 *             shards_done: number | null, shards_total: number | null }} Progress
 * @typedef {{ bytes_done: number, bytes_total: number, bytes_per_second: number, eta_seconds: number | null,
 *             waiting: boolean }} Download
 * @typedef {{ id: string, status: "queued" | "processing" | "succeeded" | "failed" | "canceled",
 *             phase: string | null, progress: Progress | null,
 *             queue: { position: number, eta_seconds: number | null } | null,
 *             model: string, options: Record<string, unknown>, filename: string | null, created_at: string,
 *             started_at: string | null, finished_at: string | null, expires_at: string | null, attempts: number,
 *             metadata: Record<string, unknown>,
 *             note_count: number | null, error: { code: string, detail: string } | null,
 *             last_error: { code: string, detail: string } | null, hint: string | null,
 *             warnings: { code: string, detail: string }[],
 *             artifacts: Artifact[] }} Job
 * @typedef {boolean | number | string | string[] | null} OptionValue
 * @typedef {{ type?: string, default?: OptionValue, minimum?: number, maximum?: number, multipleOf?: number,
 *             enum?: string[], title?: string, description?: string, anyOf?: OptionSchema[],
 *             items?: OptionSchema, examples?: string[] }} OptionSchema
 * @typedef {{ name: string, title: string, description: string, purpose: string, license: string, size: number,
 *             installed: boolean, download: Download | null, error: string | null, default: boolean, variant_of: string | null, options: Record<string, OptionSchema>,
 *             realtime_factor: number | null }} Model
 * @typedef {{ items: Model[], default: string, preferred: string }} ModelList
 * @typedef {{ onset: number, offset: number, pitch: number, velocity: number, program: number, is_drum: boolean,
 *             confidence?: number | null }} Note
 * @typedef {{ duration?: number, notes?: Note[], beats?: number[], downbeats?: number[], meter?: string,
 *             tempo_bpm?: number, key?: string, confidence?: Record<string, number>, format?: string, version?: number }} NotesFile the fields of
 *             notes.json that the page reads
 * @typedef {{ id: string, format: string, options: Record<string, unknown>, source: string, status: string, fraction: number,
 *             error: { code: string, detail: string } | null, artifact: Artifact | null }} Export
 */

const ROOT = "/v1";

/** The token of the share link that this page was opened with; null: it is the owner's page. */
export const shareToken = /^\/s\/([\w-]+)$/.exec(location.pathname)?.[1] ?? null;

const refusals = new EventTarget();

/** Call a function whenever the service wants a key. @param {() => void} listener */
export function onUnauthorized(listener) {
  refusals.addEventListener("unauthorized", listener);
}

const TIMEOUT_MS = 20_000;
const NOTES_TIMEOUT_MS = 300_000; // the notes of a long recording over a slow connection
const CUT_OFF = "The response was cut off. Try again.";

export class ApiError extends Error {
  /**
   * @param {string} detail one sentence for the user
   * @param {{ status?: number, code?: string, retryAfter?: number | null }} [more] status 0: there was no response
   */
  constructor(detail, { status = 0, code = "", retryAfter = null } = {}) {
    super(detail);
    this.status = status;
    this.code = code;
    this.retryAfter = retryAfter;
  }

  /** True if the same request may succeed later. */
  get transient() {
    return this.status === 0 || this.status === 408 || this.status === 429 || this.status >= 500;
  }
}

/** Return true if the job has ended. @param {Job} job */
export function isFinished(job) {
  return job.status === "succeeded" || job.status === "failed" || job.status === "canceled";
}

/** @param {Job} job @param {string} name */
export function artifact(job, name) {
  return (job.artifacts ?? []).find((each) => each.name === name) ?? null;
}

/**
 * Convert an error response to an ApiError.
 * @param {number} status @param {string} text @param {string | null} retryAfter
 */
export function problemOf(status, text, retryAfter = null) {
  /** @type {{ detail?: unknown, title?: unknown, code?: unknown }} */
  let problem = {};
  try {
    problem = JSON.parse(text) ?? {};
  } catch {
    // Not from the service, for example a proxy's error page: only the status is known.
  }
  if (status === 401) refusals.dispatchEvent(new Event("unauthorized"));
  const message = [problem.detail, problem.title].find((each) => typeof each === "string" && each);
  return new ApiError(String(message ?? statusSentence(status)), {
    status,
    code: typeof problem.code === "string" ? problem.code : "",
    retryAfter: secondsOf(retryAfter),
  });
}

/** @param {number} status */
function statusSentence(status) {
  if (status === 404) return "Not found. Check the address.";
  if (status === 413) return "The file is too large. Upload a shorter or more compressed recording.";
  if (status === 429) return "Too many requests. Wait a moment and try again.";
  if (status >= 500) return "The service is temporarily unavailable. Try again in a moment.";
  return `The service rejected the request (HTTP ${status}).`;
}

/** @param {string | null} header */
function secondsOf(header) {
  const seconds = Number(header);
  return header !== null && Number.isFinite(seconds) ? seconds : null;
}

/**
 * @param {string} path
 * @param {{ method?: string, body?: unknown, key?: string, etag?: string | null, version?: string,
 *           signal?: AbortSignal, timeout?: number }} [options]
 *        body: sent as JSON; key: of idempotency; version: of what is replaced, "": nothing is
 */
export async function request(path, { method = "GET", body, key, etag = null, version, signal, timeout = TIMEOUT_MS } = {}) {
  const limit = AbortSignal.timeout(timeout);
  let response;
  try {
    response = await fetch(path, {
      method,
      keepalive: method === "DELETE", // also when the tab is being closed
      cache: "no-store", // the page revalidates by itself and has to see the 304
      headers: {
        Accept: "application/json",
        ...(key ? { "Idempotency-Key": key } : {}),
        ...(etag ? { "If-None-Match": etag } : {}),
        ...(version === undefined ? {} : version ? { "If-Match": `"${version}"` } : { "If-None-Match": "*" }),
        ...(body === undefined ? {} : { "Content-Type": "application/json" }),
      },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      signal: signal ? AbortSignal.any([signal, limit]) : limit,
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError("Cannot reach the service. Check your connection and try again.");
  }
  if (response.ok || response.status === 304) return response;
  throw problemOf(response.status, await response.text().catch(() => ""), response.headers.get("Retry-After"));
}

/** @param {Response} response @returns {Promise<any>} the caller declares its type */
export async function jsonOf(response) {
  try {
    return await response.json();
  } catch {
    throw new ApiError(CUT_OFF);
  }
}

/** @returns {Promise<ModelList>} */
export async function listModels() {
  return jsonOf(await request(`${ROOT}/models`));
}

/**
 * @param {{ cursor?: string | null, limit?: number, query?: Record<string, string> }} page query: filters
 * @returns {Promise<{ items: Job[], next_cursor: string | null }>}
 */
export async function listJobs({ cursor = null, limit = 20, query: filters = {} } = {}) {
  const query = new URLSearchParams({ limit: String(limit), ...filters, ...(cursor ? { cursor } : {}) });
  return jsonOf(await request(`${ROOT}/transcriptions?${query}`));
}

/** @param {string} id */
export const jobPath = (id) =>
  shareToken ? `${ROOT}/shared/${shareToken}` : `${ROOT}/transcriptions/${encodeURIComponent(id)}`;

/**
 * Fetch one job; `job` is null if it has not changed since `etag`.
 * @param {string} id @param {{ etag?: string | null, signal?: AbortSignal }} [options]
 * @returns {Promise<{ job: Job | null, etag: string | null, retryAfter: number | null }>}
 */
export async function getJob(id, options = {}) {
  const response = await request(jobPath(id), options);
  return {
    job: response.status === 304 ? null : await jsonOf(response),
    etag: response.headers.get("ETag") ?? options.etag ?? null,
    retryAfter: secondsOf(response.headers.get("Retry-After")),
  };
}

/** @param {string} id @returns {Promise<Job>} */
export async function cancelJob(id) {
  return jsonOf(await request(`${jobPath(id)}/cancel`, { method: "POST" }));
}

/** @param {string} id @returns {Promise<Job>} */
export async function retryJob(id) {
  return jsonOf(await request(`${jobPath(id)}/retry`, { method: "POST" }));
}

/** @param {string} id */
export async function deleteJob(id) {
  await request(jobPath(id), { method: "DELETE" });
}

/** @returns {Promise<{ auth: string, name: string | null }>} */
export async function getSession() {
  return jsonOf(await request(`${ROOT}/session`));
}

/** @param {string} key */
export async function logIn(key) {
  await request(`${ROOT}/session`, { method: "POST", body: { key } });
}

export async function logOut() {
  await request(`${ROOT}/session`, { method: "DELETE" });
}

/** Make a link that shares a job. @param {string} id @returns {Promise<import("./share.js").Share>} */
export async function shareJob(id) {
  return jsonOf(await request(`${jobPath(id)}/shares`, { method: "POST", body: {} }));
}

/** @param {string} id @param {string} share its id */
export async function revokeShare(id, share) {
  await request(`${jobPath(id)}/shares/${encodeURIComponent(share)}`, { method: "DELETE" });
}

/** @param {string} id @param {AbortSignal} signal @returns {Promise<{ items: Export[] }>} */
export async function listExports(id, signal) {
  return jsonOf(await request(`${jobPath(id)}/exports`, { signal }));
}

/** Return the address of a job's recording, of the same origin as the page. @param {string} id */
export function recordingAddress(id) {
  return `${jobPath(id)}/audio?redirect=false`;
}

/**
 * Ask for a file made from the notes; the same request again returns the same export.
 * @param {string} id @param {import("./exports.js").Wanted} wanted @param {AbortSignal} signal @returns {Promise<Export>}
 */
export async function requestExport(id, wanted, signal) {
  return jsonOf(await request(`${jobPath(id)}/exports`, { method: "POST", body: wanted, signal }));
}

/** @param {string} id @param {string} exportId @param {AbortSignal} signal @returns {Promise<Export>} */
export async function getExport(id, exportId, signal) {
  return jsonOf(await request(`${jobPath(id)}/exports/${encodeURIComponent(exportId)}`, { signal }));
}

/**
 * Store corrected notes beside the original.
 * @param {string} id @param {NotesFile} body a whole notes.json
 * @param {string} version of the corrections that they replace: 412 if others are stored; "": there are none
 * @returns {Promise<Artifact>}
 */
export async function putCorrections(id, body, version) {
  const options = { method: "PUT", body, version, timeout: NOTES_TIMEOUT_MS };
  return jsonOf(await request(`${jobPath(id)}/corrections`, options));
}

/** @param {string} id */
export async function deleteCorrections(id) {
  await request(`${jobPath(id)}/corrections`, { method: "DELETE" });
}

/**
 * Fetch a file, without the redirect to the storage, which is another origin.
 * @param {string} href @param {AbortSignal} signal
 */
export async function fetchBytes(href, signal) {
  const response = await request(`${href}?redirect=false`, { signal, timeout: NOTES_TIMEOUT_MS });
  return response.arrayBuffer();
}

/**
 * Fetch the notes of a job, without the redirect to the storage, which is another origin.
 * @param {string} href @param {AbortSignal} [signal] @returns {Promise<NotesFile>}
 */
export async function fetchNotes(href, signal) {
  return jsonOf(await request(`${href}?redirect=false`, { signal, timeout: NOTES_TIMEOUT_MS }));
}

/**
 * Upload one recording. XMLHttpRequest, because fetch does not report upload progress.
 * @param {{ file: File, model: string | null, options: Record<string, unknown>, key: string,
 *           metadata?: Record<string, unknown>, onProgress: (bytes: number) => void, signal: AbortSignal }} upload
 *        key: the same for every attempt at one upload, so that a lost response creates no second job
 * @returns {Promise<Job>}
 */
export function createJob({ file, model, options, metadata = {}, key, onProgress, signal }) {
  const form = new FormData();
  form.set("file", file, file.name);
  if (model) form.set("model", model);
  if (Object.keys(options).length) form.set("options", JSON.stringify(options));
  if (Object.keys(metadata).length) form.set("metadata", JSON.stringify(metadata));
  return new Promise((resolve, reject) => {
    const xhr = new XMLHttpRequest();
    xhr.open("POST", `${ROOT}/transcriptions`);
    xhr.setRequestHeader("Accept", "application/json");
    xhr.setRequestHeader("Idempotency-Key", key);
    xhr.upload.addEventListener("progress", (event) => {
      if (event.lengthComputable) onProgress(file.size * (event.loaded / event.total));
    });
    xhr.addEventListener("load", () => settle(xhr, resolve, reject));
    xhr.addEventListener("error", () => reject(new ApiError("The connection was lost during the upload. Try again.")));
    signal.addEventListener("abort", () => xhr.abort(), { once: true });
    xhr.addEventListener("abort", () => reject(signal.reason));
    xhr.send(form);
  });
}

/** @param {XMLHttpRequest} xhr @param {(job: Job) => void} resolve @param {(error: Error) => void} reject */
function settle(xhr, resolve, reject) {
  if (xhr.status < 200 || xhr.status >= 300) {
    reject(problemOf(xhr.status, xhr.responseText, xhr.getResponseHeader("Retry-After")));
    return;
  }
  try {
    resolve(JSON.parse(xhr.responseText));
  } catch {
    reject(new ApiError(CUT_OFF));
  }
}
