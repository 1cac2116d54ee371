/** The jobs that the page has loaded, newest first, refreshed while the page is visible. */

import { ApiError, getJob, isFinished, listJobs } from "./api.js";
import { jobName } from "./format.js";
import { JobFilter } from "./job_filter.js";
import { poll } from "./polling.js";

const BUSY_MS = 2_500;
const IDLE_MS = 15_000;
const PAGE = 100; // jobs in a request for more of them
const MOST_SORTED = 1000; // jobs that are loaded to sort them by name
const STRAGGLERS = 5; // unfinished jobs below the first page that are fetched in one round

/** @typedef {import("./api.js").Job} Job */

/** Fires "change" when a job is added, changed or removed. */
export class JobStore extends EventTarget {
  /** @type {Map<string, { job: Job, askedAt: number }>} askedAt: when the request was sent */
  #known = new Map();
  /** @type {Map<string, number>} */
  #removed = new Map();
  /** @type {string | null} */
  #cursor = null;
  #pages = 0;
  /** @type {Set<string>} jobs that will be deleted unless that is undone */
  #hidden = new Set();
  #filter = new JobFilter();
  #order = "date";
  #poller = { stop() {}, wake() {} };

  loaded = false;

  /** @returns {Job[]} those that the filter admits, in order */
  get jobs() {
    const compare = { name: byName, oldest: (/** @type {Job} */ a, /** @type {Job} */ b) => newestFirst(b, a) }[this.#order];
    return this.#listed.sort(compare ?? newestFirst);
  }

  get #listed() {
    const jobs = [...this.#known.values()].map((each) => each.job);
    return jobs.filter((job) => !this.#hidden.has(job.id) && this.#filter.matches(job));
  }

  get isFiltered() {
    return this.#filter.isActive;
  }

  /** List other jobs. @param {JobFilter} filter */
  filterBy(filter) {
    this.#filter = filter;
    this.#startOver();
  }

  /** @param {string} order "date", "oldest" or "name" */
  sortBy(order) {
    this.#order = order;
    this.#startOver();
  }

  #startOver() {
    this.#cursor = null;
    this.#pages = 0;
    this.#changed();
    this.wake();
  }

  /** Leave a job out of the list, or list it again. @param {string} id @param {boolean} hidden */
  hide(id, hidden = true) {
    if (hidden) this.#hidden.add(id);
    else this.#hidden.delete(id);
    this.#changed();
  }

  get hasMore() {
    return this.#cursor !== null;
  }

  /** @param {string} id */
  get(id) {
    return this.#known.get(id)?.job ?? null;
  }

  /**
   * Start refreshing the list.
   * @param {{ connection: import("./polling.js").Connection, onError: (error: Error) => void }} collaborators
   */
  start(collaborators) {
    this.#poller = poll(() => this.#refresh(), collaborators);
  }

  /** Refresh the list now, after an action that changes it. */
  wake() {
    this.#poller.wake();
  }

  /**
   * Store a response for a job, unless a response to a later request is already stored.
   * @param {Job} job @param {number} askedAt performance.now() when the request was sent
   */
  take(job, askedAt) {
    if (this.#put(job, askedAt)) this.#changed();
  }

  /** @param {string} id */
  remove(id) {
    this.#removed.set(id, performance.now());
    if (this.#known.delete(id)) this.#changed();
  }

  async loadMore() {
    const askedAt = performance.now();
    const query = this.#filter.query;
    const page = await listJobs({ cursor: this.#cursor, limit: PAGE, query });
    if (JSON.stringify(query) !== JSON.stringify(this.#filter.query)) return; // another filter was chosen meanwhile
    this.#pages += 1;
    this.#cursor = page.next_cursor;
    page.items.forEach((job) => this.#put(job, askedAt));
    this.#changed();
  }

  /** @param {Job} job @param {number} askedAt */
  #put(job, askedAt) {
    const known = this.#known.get(job.id);
    if (known && known.askedAt > askedAt) return false;
    if ((this.#removed.get(job.id) ?? -1) > askedAt) return false;
    this.#known.set(job.id, { job, askedAt });
    return true;
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }

  async #refresh() {
    const askedAt = performance.now();
    const query = this.#filter.query;
    const page = await listJobs({ query });
    if (JSON.stringify(query) !== JSON.stringify(this.#filter.query)) return 0;
    this.#removeMissing(page, askedAt);
    page.items.forEach((job) => this.#put(job, askedAt));
    if (this.#pages === 0) this.#pages = 1;
    if (this.#pages === 1) this.#cursor = page.next_cursor;
    while (this.#order !== "date" && this.#cursor && this.#known.size < MOST_SORTED) await this.loadMore();
    await this.#refreshStragglers(page.items);
    this.loaded = true;
    this.#changed();
    return this.jobs.every(isFinished) ? IDLE_MS : BUSY_MS;
  }

  /** Remove jobs that belong on the first page and are not on it: they were deleted elsewhere. */
  #removeMissing(/** @type {{ items: Job[], next_cursor: string | null }} */ page, /** @type {number} */ askedAt) {
    const present = new Set(page.items.map((job) => job.id));
    const oldest = page.items.at(-1);
    for (const [id, known] of this.#known) {
      if (!this.#filter.matches(known.job)) continue;
      const covered = page.next_cursor === null || (oldest && newestFirst(known.job, oldest) <= 0);
      if (covered && !present.has(id) && known.askedAt < askedAt) this.#known.delete(id);
    }
  }

  /** @param {Job[]} fresh */
  async #refreshStragglers(fresh) {
    const ids = new Set(fresh.map((job) => job.id));
    const waiting = this.jobs.filter((job) => !isFinished(job) && !ids.has(job.id));
    for (const { id } of waiting.slice(-STRAGGLERS)) {
      const askedAt = performance.now();
      try {
        const { job } = await getJob(id);
        if (job) this.#put(job, askedAt);
      } catch (error) {
        if (!(error instanceof ApiError && error.status === 404)) throw error;
        this.#known.delete(id);
      }
    }
  }
}

/** @param {Job} a @param {Job} b */
function byName(a, b) {
  return jobName(a).localeCompare(jobName(b), undefined, { numeric: true }) || newestFirst(a, b);
}

/** @param {Job} a @param {Job} b */
function newestFirst(a, b) {
  if (a.created_at !== b.created_at) return a.created_at < b.created_at ? 1 : -1;
  return a.id < b.id ? 1 : a.id > b.id ? -1 : 0;
}
