/** What the list of jobs shows: the same rule as a query of the service and as a test of one job. */

import { jobName } from "./format.js";

const DAY_MS = 86_400_000;

/** @typedef {import("./api.js").Job} Job */

export class JobFilter {
  text = "";
  status = ""; // "": any
  days = 0; // 0: at any time
  group = ""; // of recordings that were dropped together; "": any

  get isActive() {
    return Boolean(this.text || this.status || this.days || this.group);
  }

  /** The filter as query parameters of GET /v1/transcriptions. @returns {Record<string, string>} */
  get query() {
    return {
      ...(this.text ? { q: this.text } : {}),
      ...(this.status ? { status: this.status } : {}),
      ...(this.days ? { created_after: new Date(this.#earliest).toISOString() } : {}),
      ...(this.group ? { "metadata.group": this.group } : {}),
    };
  }

  /** Return true if the list shows a job. @param {Job} job */
  matches(job) {
    return (
      (!this.text || jobName(job).toLowerCase().includes(this.text.toLowerCase())) &&
      (!this.status || this.status.split(",").includes(job.status)) &&
      (!this.days || Date.parse(job.created_at) >= this.#earliest) &&
      (!this.group || groupOf(job) === this.group)
    );
  }

  get #earliest() {
    return new Date().setHours(0, 0, 0, 0) - (this.days - 1) * DAY_MS;
  }
}

/** Return what recordings that were dropped together have in common; "" if a job came alone. @param {Job} job */
export function groupOf(job) {
  const group = job.metadata?.group;
  return typeof group === "string" ? group : "";
}
