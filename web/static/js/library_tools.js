/** The tools above the list of jobs: search, filters, order, and a download of all that is listed. */

import { byId, element, setText } from "./dom.js";
import { JobFilter } from "./job_filter.js";

const TYPING_MS = 250; // the search starts when no key was pressed for so long
const ARCHIVE = "/v1/transcriptions/archive";
const STATUSES = [
  ["", "Any state"],
  ["succeeded", "Done"],
  ["queued,processing", "In progress"],
  ["failed", "Failed"],
  ["canceled", "Canceled"],
];
const TIMES = [
  ["0", "Any date"],
  ["1", "Today"],
  ["7", "Last 7 days"],
  ["30", "Last 30 days"],
];
const ORDERS = [
  ["date", "Newest"],
  ["oldest", "Oldest"],
  ["name", "By name"],
];

export class LibraryTools {
  filter = new JobFilter();

  /** @param {{ onFilter: (filter: JobFilter) => void, onOrder: (order: string) => void }} collaborators */
  constructor({ onFilter, onOrder }) {
    this.onFilter = onFilter;
    this.search = element("input", { type: "search", className: "search", placeholder: "Search names", "aria-label": "Search names" });
    this.status = choice("State", STATUSES);
    this.days = choice("Date", TIMES);
    this.order = choice("Order", ORDERS);
    this.group = element("button", { type: "button", className: "button small group-filter", hidden: true }, "Show all recordings");
    this.archive = element("a", { className: "button small", id: "download-all" }, "Download all (zip)");
    byId("library-tools").append(this.search, this.status, this.days, this.order, this.group);
    byId("library-foot").append(this.archive);
    let timer = 0;
    this.search.addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(() => this.#change(), TYPING_MS);
    });
    this.status.addEventListener("change", () => this.#change());
    this.days.addEventListener("change", () => this.#change());
    this.order.addEventListener("change", () => onOrder(this.order.value));
    this.group.addEventListener("click", () => this.showGroup(""));
    this.archive.href = ARCHIVE;
  }

  /** Show only recordings that were dropped together. @param {string} group "": all */
  showGroup(group) {
    this.filter.group = group;
    this.#change();
    if (group) this.group.focus();
    else this.search.focus();
  }

  /** @param {import("./api.js").Job[]} jobs that are listed */
  show(jobs) {
    this.archive.hidden = !jobs.some((job) => job.status === "succeeded");
    setText(this.archive, this.filter.isActive ? "Download these (zip)" : "Download all (zip)");
  }

  #change() {
    this.filter.text = this.search.value.trim();
    this.filter.status = this.status.value;
    this.filter.days = Number(this.days.value);
    this.group.hidden = !this.filter.group;
    this.archive.href = `${ARCHIVE}?${new URLSearchParams(this.filter.query)}`;
    this.onFilter(this.filter);
  }
}

/** @param {string} name @param {string[][]} options value and words of each */
function choice(name, options) {
  return element("select", { "aria-label": name }, ...options.map(([value, words]) => element("option", { value }, words)));
}
