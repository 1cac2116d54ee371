/**
 * The service's JSON API, as functions. Everything that goes wrong is an ApiError with a sentence for a person.
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
 *             started_at: string | null, finished_at: string | null, attempts: number,
 *             note_count: number | null, error: { code: string, detail: string } | null,
 *             warnings: { code: string, detail: string }[],
 *             artifacts: Artifact[] }} Job
 * @typedef {{ type?: string, default?: any, minimum?: number, maximum?: number, multipleOf?: number,
 *             enum?: string[], title?: string, description?: string, anyOf?: OptionSchema[],
 *             items?: OptionSchema }} OptionSchema
 * @typedef {{ name: string, title: string, description: string, licence: string, size: number,
 *             installed: boolean, default: boolean, variant_of: string | null, options: Record<string, OptionSchema>,
 *             realtime_factor: number | null }} Model
 */

const ROOT = "/v1";
const PATIENCE_MS = 20_000;
const NOTES_PATIENCE_MS = 300_000; // hours of music over a slow line

export class ApiError extends Error {
  /**
   * @param {string} detail one readable sentence
   * @param {{ status?: number, code?: string, retryAfter?: number | null }} [more] status 0: no answer came
   */
  constructor(detail, { status = 0, code = "", retryAfter = null } = {}) {
    super(detail);
    this.status = status;
    this.code = code;
    this.retryAfter = retryAfter;
  }

  /** Another try may succeed with nothing changed. */
  get transient() {
    return this.status === 0 || this.status === 408 || this.status === 429 || this.status >= 500;
  }
}

/** Has the service nothing to do for this job any more? @param {Job} job */
export function isFinished(job) {
  return job.status === "succeeded" || job.status === "failed" || job.status === "canceled";
}

/** @param {Job} job @param {string} name */
export function artifact(job, name) {
  return (job.artifacts ?? []).find((each) => each.name === name) ?? null;
}

/**
 * An answer that says no, as an error that says why.
 * @param {number} status @param {string} text @param {string | null} retryAfter
 */
export function problemOf(status, text, retryAfter = null) {
  /** @type {{ detail?: unknown, title?: unknown, code?: unknown }} */
  let problem = {};
  try {
    problem = JSON.parse(text) ?? {};
  } catch {
    // Not ours: a proxy's error page, say. The status alone has to do.
  }
  const said = [problem.detail, problem.title].find((each) => typeof each === "string" && each);
  return new ApiError(String(said ?? statusSentence(status)), {
    status,
    code: typeof problem.code === "string" ? problem.code : "",
    retryAfter: secondsOf(retryAfter),
  });
}

/** @param {number} status */
function statusSentence(status) {
  if (status === 404) return "There is nothing at this address.";
  if (status === 413) return "The file is larger than the service takes.";
  if (status === 429) return "Too many requests just now. Please wait a little.";
  if (status >= 500) return "The service has a problem just now. Please try again.";
  return `The service declined the request (status ${status}).`;
}

/** @param {string | null} header */
function secondsOf(header) {
  const seconds = Number(header);
  return header !== null && Number.isFinite(seconds) ? seconds : null;
}

/**
 * @param {string} path
 * @param {{ method?: string, etag?: string | null, signal?: AbortSignal, patience?: number }} [options]
 */
async function request(path, { method = "GET", etag = null, signal, patience = PATIENCE_MS } = {}) {
  const limit = AbortSignal.timeout(patience);
  let response;
  try {
    response = await fetch(path, {
      method,
      cache: "no-store", // revalidation is ours: a 304 shall be seen as one
      headers: { Accept: "application/json", ...(etag ? { "If-None-Match": etag } : {}) },
      signal: signal ? AbortSignal.any([signal, limit]) : limit,
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError("The service cannot be reached.");
  }
  if (response.ok || response.status === 304) return response;
  throw problemOf(response.status, await response.text().catch(() => ""), response.headers.get("Retry-After"));
}

/** @param {Response} response */
async function jsonOf(response) {
  try {
    return await response.json();
  } catch {
    throw new ApiError("The answer of the service broke off.");
  }
}

/** @returns {Promise<Model[]>} */
export async function listModels() {
  return (await jsonOf(await request(`${ROOT}/models`))).items;
}

/**
 * @param {{ cursor?: string | null, limit?: number }} page
 * @returns {Promise<{ items: Job[], next_cursor: string | null }>}
 */
export async function listJobs({ cursor = null, limit = 20 } = {}) {
  const query = new URLSearchParams({ limit: String(limit), ...(cursor ? { cursor } : {}) });
  return jsonOf(await request(`${ROOT}/transcriptions?${query}`));
}

/** @param {string} id */
const jobPath = (id) => `${ROOT}/transcriptions/${encodeURIComponent(id)}`;

/**
 * One job; `job` is null where it has not changed since `etag`.
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

/**
 * The notes of a job. They are asked of the service itself: a redirect into the storage would be another origin.
 * @param {string} href @param {AbortSignal} [signal]
 */
export async function fetchNotes(href, signal) {
  return jsonOf(await request(`${href}?redirect=false`, { signal, patience: NOTES_PATIENCE_MS }));
}

/**
 * Upload one recording. XMLHttpRequest, because fetch does not tell how much has been sent.
 * @param {{ file: File, model: string | null, options: Record<string, unknown>, key: string,
 *           onProgress: (fraction: number) => void, signal: AbortSignal }} upload
 *        key: the same for every try of one upload, so that a lost answer makes no second job
 * @returns {Promise<Job>}
 */
export function createJob({ file, model, options, key, onProgress, signal }) {
  const form = new FormData();
  form.set("file", file, file.name);
  if (model) form.set("model", model);
  if (Object.keys(options).length) form.set("options", JSON.stringify(options));
  return new Promise((resolve, reject) => {
    const xhr = new XMLHttpRequest();
    xhr.open("POST", `${ROOT}/transcriptions`);
    xhr.setRequestHeader("Accept", "application/json");
    xhr.setRequestHeader("Idempotency-Key", key);
    xhr.upload.addEventListener("progress", (event) => {
      if (event.lengthComputable) onProgress(event.loaded / event.total);
    });
    xhr.addEventListener("load", () => settle(xhr, resolve, reject));
    xhr.addEventListener("error", () => reject(new ApiError("The connection broke off during the upload.")));
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
    reject(new ApiError("The answer of the service broke off."));
  }
}
