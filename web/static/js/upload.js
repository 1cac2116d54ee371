/** Uploads: three at a time, each with its row. They survive lost connections and, if they are large, reloads. */

import { ApiError, createJob } from "./api.js";
import { byId } from "./dom.js";
import { wrongFileWords } from "./file_check.js";
import { createFrom, freshKey } from "./library_api.js";
import { retryDelay } from "./polling.js";
import { deleteUpload, sendInParts } from "./resumable.js";
import { exclusively, forget, isSameFile, remember, unfinishedUploads } from "./upload_records.js";
import { UploadRow } from "./upload_row.js";
import { UploadSummary } from "./upload_summary.js";

const AT_ONCE = 3; // browsers open six connections to one service, and polls need some
const TRIES = 6; // while the service answers; without a connection, the upload waits for it
const SMALL = 4e6; // bytes of a file that is sent in one request

/** @typedef {{ model: string | null, options: Record<string, unknown> }} Choice */
/** @typedef {import("./upload_records.js").UploadRecord} UploadRecord */
/** @typedef {import("./api.js").Job} Job */

/** One file and its row. */
class Upload {
  controller = new AbortController();
  /** @type {"checking" | "waiting" | "sending" | "asking" | "failed" | "done"} */
  state = "checking";
  alone = false;

  /** @param {UploadRecord} record @param {File | null} file null: the user has to choose it @param {Uploads} uploads */
  constructor(record, file, uploads) {
    this.record = record;
    this.file = file;
    this.row = new UploadRow(record.name, record.size, {
      again: () => uploads.again(this),
      drop: () => uploads.drop(this),
      choose: (chosen) => uploads.choose(this, chosen),
    });
    if (file) this.row.wait();
    else {
      this.state = "asking";
      this.row.ask();
    }
  }

  /** @param {Error} error */
  fail(error) {
    this.state = "failed";
    this.row.fail(error);
  }
}

export class Uploads {
  /** @type {Upload[]} */
  #uploads = [];
  #summary = new UploadSummary();

  /**
   * @param {{ choice: () => Choice, onJob: (job: Job, askedAt: number, alone: boolean) => void,
   *           expect?: (file: File) => Promise<{ seconds: number, words: string } | null> }} collaborators
   *        alone: it was the only file; expect: returns how long a recording is, and its transcription will take
   */
  constructor({ choice, onJob, expect = async () => null }) {
    this.choice = choice;
    this.onJob = onJob;
    this.expect = expect;
    this.list = byId("uploads");
    window.addEventListener("beforeunload", (event) => {
      const isLost = (/** @type {Upload} */ each) => !["asking", "failed"].includes(each.state) && !each.record.uploadId;
      if (this.#uploads.some(isLost)) event.preventDefault();
    });
    window.addEventListener("online", () => this.#fill());
  }

  /** Go on with uploads that were not finished when the page was left. */
  async restore() {
    for (const record of await unfinishedUploads()) {
      if (this.#uploads.some((each) => each.record.key === record.key)) continue;
      const upload = new Upload(record, record.file ?? null, this);
      if (upload.file) upload.state = "waiting";
      this.#append([upload]);
    }
    this.#fill();
  }

  /** @param {Iterable<File>} files */
  add(files) {
    const chosen = [...files].filter((file) => !this.#continueWith(file));
    const metadata = chosen.length > 1 ? { group: freshKey() } : {};
    const added = chosen.map((file) => new Upload(this.#record(file, metadata), file, this));
    if (added.length === 1) added[0].alone = this.#uploads.every((each) => ["failed", "asking"].includes(each.state));
    this.#append(added);
    added.forEach((upload) => this.#check(upload));
  }

  /** @param {Upload} upload */
  again(upload) {
    upload.state = "waiting";
    upload.controller = new AbortController();
    upload.row.wait();
    this.#fill();
  }

  /** @param {Upload} upload @param {File} file */
  choose(upload, file) {
    if (!isSameFile(upload.record, file)) {
      upload.row.ask("This is another file, or it has changed.");
      return;
    }
    upload.file = file;
    this.again(upload);
  }

  /** @param {Upload} upload */
  drop(upload) {
    upload.controller.abort();
    upload.state = "done";
    this.#remove(upload);
    if (upload.record.uploadId) deleteUpload(upload.record.uploadId).catch(() => undefined);
    this.#fill();
  }

  /** @param {File} file @param {Record<string, unknown>} metadata @returns {UploadRecord} */
  #record(file, metadata) {
    const { name, size, type, lastModified } = file;
    const now = Date.now();
    return { key: freshKey(), name, size, type, lastModified, uploadId: "", choice: this.choice(), metadata, createdAt: now };
  }

  /** Continue the upload that asks for this file; return whether there is one. @param {File} file */
  #continueWith(file) {
    const upload = this.#uploads.find((each) => each.state === "asking" && isSameFile(each.record, file));
    if (upload) this.choose(upload, file);
    return upload !== undefined;
  }

  /** @param {Upload[]} added */
  #append(added) {
    this.#uploads.push(...added);
    this.list.append(...added.map((each) => each.row.node));
  }

  /** Refuse a file that is no recording before its turn comes; otherwise show how long it is. @param {Upload} upload */
  async #check(upload) {
    const file = /** @type {File} */ (upload.file);
    const problem = await wrongFileWords(file);
    if (upload.state !== "checking") return; // it was dropped meanwhile
    if (problem) upload.fail(new ApiError(problem, { status: 422 }));
    else upload.state = "waiting";
    this.#fill();
    const expected = problem ? null : await this.expect(file);
    if (expected) upload.row.describe(expected.seconds, expected.words);
  }

  /** Start uploads until enough are in progress. */
  #fill() {
    const sending = this.#uploads.filter((each) => each.state === "sending").length;
    const waiting = this.#uploads.filter((each) => each.state === "waiting");
    waiting.slice(0, Math.max(0, AT_ONCE - sending)).forEach((each) => this.#send(each));
    this.#summary.show(this.#uploads);
  }

  /** @param {Upload} upload */
  async #send(upload) {
    upload.state = "sending";
    const askedAt = performance.now();
    try {
      const ran = await exclusively(upload.record.key, async () => {
        const job = await this.#sendWithRetries(upload);
        upload.state = "done";
        this.#summary.count(upload.record.size);
        this.#remove(upload);
        this.onJob(job, askedAt, upload.alone);
      });
      if (!ran) this.#leave(upload);
    } catch (error) {
      if (!upload.controller.signal.aborted) upload.fail(/** @type {Error} */ (error));
    }
    this.#fill();
  }

  /** Leave an upload to the other tab that is at it. @param {Upload} upload */
  #leave(upload) {
    this.#uploads = this.#uploads.filter((each) => each !== upload);
    upload.row.node.remove();
  }

  /** @param {Upload} upload */
  async #sendWithRetries(upload) {
    const file = /** @type {File} */ (upload.file);
    const { signal } = upload.controller;
    for (let failures = 0; ; failures += 1) {
      try {
        return await this.#sendOnce(upload, file);
      } catch (error) {
        if (signal.aborted || !(error instanceof ApiError && error.transient)) throw error;
        if (error.status !== 0 && failures + 1 >= TRIES) throw error;
        const ms = retryDelay(failures, error.retryAfter);
        upload.row.pauseFor(ms);
        await pause(ms, signal);
      }
    }
  }

  /** @param {Upload} upload @param {File} file @returns {Promise<Job>} */
  async #sendOnce(upload, file) {
    const { record, row } = upload;
    const { signal } = upload.controller;
    const onProgress = (/** @type {number} */ bytes) => {
      row.progress(bytes);
      this.#summary.show(this.#uploads);
    };
    const { choice, metadata, key } = record;
    if (file.size <= SMALL) return createJob({ file, key, signal, ...choice, metadata, onProgress });
    const onBegin = (/** @type {string} */ id) => {
      record.uploadId = id;
      remember(record, file);
    };
    const id = await sendInParts(file, record.uploadId, { signal, onProgress, onBegin });
    return createFrom({ upload_id: id, ...choice, metadata }, key);
  }

  /** @param {Upload} upload */
  #remove(upload) {
    this.#leave(upload);
    forget(upload.record.key);
  }
}

/** Wait for a time, for the network, or for the signal, which throws. @param {number} ms @param {AbortSignal} signal */
async function pause(ms, signal) {
  await new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    const wake = () => {
      clearTimeout(timer);
      resolve(undefined);
    };
    window.addEventListener("online", wake, { once: true });
    signal.addEventListener("abort", wake, { once: true });
  });
  signal.throwIfAborted();
}
