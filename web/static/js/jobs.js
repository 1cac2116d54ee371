/** The list of jobs. Rows are updated in place, so that focus and scroll position are kept. */

import { isFinished } from "./api.js";
import { byId, element, setText } from "./dom.js";
import { ago, clock, counted, jobName, phaseWords, statusWord } from "./format.js";
import { groupOf } from "./job_filter.js";
import { jobAddress } from "./router.js";

const CLOCK_MS = 30_000;

/** @typedef {import("./api.js").Job} Job */

class JobRow {
  /** @param {(group: string) => void} onGroup */
  constructor(onGroup) {
    this.name = element("span", { className: "row-name" });
    this.status = element("span", { className: "chip" });
    this.about = element("span", { className: "row-about" });
    this.bar = element("span", { className: "row-bar" });
    this.link = element("a", { className: "row" }, this.name, this.status, this.about, this.bar);
    this.group = element("button", { type: "button", className: "row-group", hidden: true });
    this.group.addEventListener("click", () => onGroup(this.group.value));
    this.node = element("li", {}, this.group, this.link);
  }

  /** Head a group of recordings that were dropped together. @param {string} group @param {number} count 0: no head */
  head(group, count) {
    this.group.hidden = count < 2;
    this.group.value = group;
    setText(this.group, `${counted(count, "recording")} dropped together`);
  }

  /** @param {Job} job @param {boolean} selected @param {(model: string) => string} modelTitle */
  update(job, selected, modelTitle) {
    this.link.href = jobAddress(job.id);
    this.link.dataset.status = job.status;
    if (selected) this.link.setAttribute("aria-current", "page");
    else this.link.removeAttribute("aria-current");
    setText(this.name, jobName(job));
    this.name.title = jobName(job);
    setText(this.status, statusWord(job.status));
    this.status.dataset.status = job.status;
    setText(this.about, about(job, modelTitle));
    this.about.classList.toggle("row-reason", job.status === "failed");
    this.bar.hidden = job.status !== "processing";
    this.bar.style.transform = `scaleX(${job.progress?.fraction ?? 0})`;
  }
}

/** @param {Job} job @param {(model: string) => string} modelTitle */
function about(job, modelTitle) {
  if (!isFinished(job)) return phaseWords(job);
  if (job.status === "failed" && job.error) return `${job.error.detail} · ${ago(job.created_at)}`;
  const seconds = job.progress?.audio_seconds_total;
  return [
    modelTitle(job.model),
    seconds ? clock(seconds) : "",
    typeof job.note_count === "number" ? counted(job.note_count, "note") : "",
    ago(job.created_at),
  ]
    .filter(Boolean)
    .join(" · ");
}

export class JobList {
  /** @type {Map<string, JobRow>} */
  #rows = new Map();
  /** @type {string | null} */
  #selected = null;

  /**
   * @param {import("./job_store.js").JobStore} store @param {(model: string) => string} modelTitle
   * @param {import("./library_tools.js").LibraryTools} tools
   */
  constructor(store, modelTitle, tools) {
    this.store = store;
    this.modelTitle = modelTitle;
    this.tools = tools;
    this.list = byId("jobs");
    this.more = byId("jobs-more", HTMLButtonElement);
    this.problem = byId("jobs-error");
    store.addEventListener("change", () => this.render());
    this.more.addEventListener("click", () => this.#loadMore());
    setInterval(() => this.render(), CLOCK_MS);
  }

  /** @param {string | null} id */
  select(id) {
    this.#selected = id;
    this.render();
  }

  /** @param {Error} error */
  showProblem(error) {
    this.problem.hidden = false;
    setText(this.problem, error.message);
  }

  render() {
    const jobs = this.store.jobs;
    const ids = new Set(jobs.map((job) => job.id));
    for (const [id, row] of this.#rows) {
      if (ids.has(id)) continue;
      row.node.remove();
      this.#rows.delete(id);
    }
    jobs.forEach((job, place) => this.#place(this.#rowOf(job), place));
    this.#headGroups(jobs);
    const { isFiltered, loaded } = this.store;
    byId("jobs-empty").hidden = jobs.length > 0 || !loaded || isFiltered;
    byId("jobs-none").hidden = jobs.length > 0 || !loaded || !isFiltered;
    this.tools.show(jobs);
    this.more.hidden = !this.store.hasMore;
  }

  /** @param {Job} job */
  #rowOf(job) {
    let row = this.#rows.get(job.id);
    if (!row) {
      row = new JobRow((group) => this.tools.showGroup(group));
      this.#rows.set(job.id, row);
    }
    row.update(job, job.id === this.#selected, this.modelTitle);
    return row;
  }

  /** Put a head above neighbors that were dropped together, unless only they are listed. @param {Job[]} jobs */
  #headGroups(jobs) {
    let first = 0;
    jobs.forEach((job, n) => {
      const group = groupOf(job);
      if (n > 0 && group && group === groupOf(jobs[n - 1])) this.#rows.get(job.id)?.head("", 0);
      else first = n;
      const count = group && !this.tools.filter.group ? n - first + 1 : 0;
      this.#rows.get(jobs[first].id)?.head(group, count);
    });
  }

  /** @param {JobRow} row @param {number} place */
  #place(row, place) {
    if (this.list.children[place] !== row.node) this.list.insertBefore(row.node, this.list.children[place] ?? null);
  }

  async #loadMore() {
    this.more.disabled = true;
    try {
      await this.store.loadMore();
      this.problem.hidden = true;
    } catch (error) {
      this.showProblem(/** @type {Error} */ (error));
    } finally {
      this.more.disabled = false;
    }
  }
}
