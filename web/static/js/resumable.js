/** Sends a recording in parts. After an interruption, only the parts that are missing are sent. */

import { ApiError, jsonOf, problemOf, request } from "./api.js";

const UPLOADS = "/v1/uploads";
const LOOK_MS = 1_000; // between two looks at an upload that is being verified
const COMPLETE_TIMEOUT_MS = 120_000;
const STALL_MS = 30_000; // without progress, the connection counts as lost

/** @typedef {{ number: number, offset: number, size: number, url: string }} Part */
/**
 * @typedef {{ id: string, status: string, size: number, part_size: number, missing_count: number, missing: Part[],
 *             received: number[] }} PartedUpload
 */
/** @typedef {{ signal: AbortSignal, onProgress: (bytes: number) => void, onBegin: (id: string) => void }} Watch */

/**
 * Send all parts of a file that are missing, and complete the upload.
 * @param {File} file @param {string} id of the upload; "": begin one @param {Watch} watch
 * @returns {Promise<string>} the id of the upload
 */
export async function sendInParts(file, id, watch) {
  let upload = id ? await find(id, watch.signal) : null;
  if (!upload) {
    upload = await begin(file, watch.signal);
    watch.onBegin(upload.id);
  }
  while (upload.missing_count > 0) {
    let arrived = upload.size - missingBytes(upload);
    watch.onProgress(arrived);
    for (const part of upload.missing) {
      const before = arrived;
      await sendPart(file, part, { ...watch, onProgress: (bytes) => watch.onProgress(before + bytes) });
      arrived += part.size;
    }
    upload = (await find(upload.id, watch.signal)) ?? gone();
  }
  watch.onProgress(upload.size);
  await complete(upload.id, watch.signal);
  return upload.id;
}

/** @param {string} id */
export async function deleteUpload(id) {
  await request(`${UPLOADS}/${id}`, { method: "DELETE" });
}

/** @param {File} file @param {AbortSignal} signal @returns {Promise<PartedUpload>} */
async function begin(file, signal) {
  const type = /^[\w.+-]+\/[\w.+-]+$/.test(file.type) ? file.type : "application/octet-stream";
  const body = { name: file.name, size: file.size, content_type: type };
  return jsonOf(await request(UPLOADS, { method: "POST", body, signal }));
}

/** Return an upload; null if it is gone. @param {string} id @param {AbortSignal} signal */
async function find(id, signal) {
  try {
    /** @type {PartedUpload} */
    const upload = await jsonOf(await request(`${UPLOADS}/${id}`, { signal }));
    return upload;
  } catch (error) {
    if (error instanceof ApiError && error.status === 404) return null;
    throw error;
  }
}

/** @returns {never} */
function gone() {
  throw new ApiError("The upload was removed from the service. Upload the file again.", { status: 410 });
}

/** Return the size of what is missing: also of parts after the first hundred, which are not listed. */
function missingBytes(/** @type {PartedUpload} */ upload) {
  const listed = upload.missing.reduce((sum, part) => sum + part.size, 0);
  const others = upload.missing_count - upload.missing.length;
  if (others === 0) return listed;
  const last = Math.ceil(upload.size / upload.part_size);
  const shorter = upload.received.includes(last) ? 0 : last * upload.part_size - upload.size;
  return listed + others * upload.part_size - shorter;
}

/** @param {string} id @param {AbortSignal} signal */
async function complete(id, signal) {
  await request(`${UPLOADS}/${id}/complete`, { method: "POST", body: {}, signal, timeout: COMPLETE_TIMEOUT_MS });
  for (;;) {
    const upload = (await find(id, signal)) ?? gone();
    if (upload.status === "completed") return;
    await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
    signal.throwIfAborted();
  }
}

/**
 * Send a part. XMLHttpRequest, because fetch does not report upload progress.
 * @param {File} file @param {Part} part @param {Watch} watch @returns {Promise<void>}
 */
function sendPart(file, part, { signal, onProgress }) {
  signal.throwIfAborted();
  return new Promise((resolve, reject) => {
    const xhr = new XMLHttpRequest();
    const lost = () => {
      reject(new ApiError("The connection was lost during the upload."));
      xhr.abort();
    };
    const stop = () => {
      reject(signal.reason);
      xhr.abort();
    };
    let stall = setTimeout(lost, STALL_MS);
    xhr.open("PUT", part.url);
    xhr.upload.addEventListener("progress", (event) => {
      clearTimeout(stall);
      stall = setTimeout(lost, STALL_MS);
      onProgress(Math.min(part.size, event.loaded));
    });
    xhr.addEventListener("load", () => {
      if (xhr.status >= 200 && xhr.status < 300) resolve();
      else reject(partProblem(xhr));
    });
    xhr.addEventListener("error", lost);
    xhr.addEventListener("loadend", () => {
      clearTimeout(stall);
      signal.removeEventListener("abort", stop);
      window.removeEventListener("offline", lost);
    });
    signal.addEventListener("abort", stop);
    window.addEventListener("offline", lost);
    xhr.send(file.slice(part.offset, part.offset + part.size));
  });
}

/** @param {XMLHttpRequest} xhr */
function partProblem(xhr) {
  // The link of a bucket has expired: the next look at the upload brings a new one.
  if (xhr.status === 403) return new ApiError("The link of a part has expired.", { status: 408 });
  return problemOf(xhr.status, xhr.responseText, xhr.getResponseHeader("Retry-After"));
}
