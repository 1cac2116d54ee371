/** The time left and the speed of a job, as the user sees them. */

import { isFinished } from "./api.js";
import { etaWords, span } from "./format.js";

const GROWTH = 1.25; // a longer estimate is shown only beyond this factor,
const PATIENCE_MS = 15_000; // and only if it lasts: short jobs that pass by do not make the time grow
const SPEED_MS = 30_000; // over which the speed is measured
const LEAST_SPEED_MS = 3_000;
const NEARLY_ALL = 0.9; // of a recording

/** @typedef {import("./api.js").Job} Job */

export class TimeLeft {
  #id = "";
  #end = 0; // ms, when the job is expected to end; 0: unknown
  #longerSince = 0;
  /** @type {{ at: number, done: number }[]} */
  #samples = [];

  /** Return the words for a job. @param {Job} job @param {number} [now] ms */
  words(job, now = performance.now()) {
    if (job.id !== this.#id) this.#reset(job.id);
    if (isFinished(job)) return "";
    if (job.hint) {
      this.#pause(now);
      return "";
    }
    if (job.status !== "processing" || job.phase !== "transcribing") return etaWords(job);
    const eta = job.progress?.eta_seconds;
    if (typeof eta === "number") this.#expect(now + 1000 * eta, now);
    return [this.#leftWords(job, now), this.#speedWords(job, now)].filter(Boolean).join(" · ");
  }

  /** @param {string} id */
  #reset(id) {
    this.#id = id;
    this.#end = this.#longerSince = 0;
    this.#samples = [];
  }

  /** While a job is paused, its end moves away and its speed means nothing. @param {number} now */
  #pause(now) {
    const last = this.#samples.at(-1);
    if (this.#end && last) this.#end += now - last.at;
    this.#samples = last ? [{ at: now, done: last.done }] : [];
  }

  /** @param {number} end ms @param {number} now */
  #expect(end, now) {
    const isLonger = this.#end !== 0 && end - now > GROWTH * Math.max(1000, this.#end - now);
    if (!isLonger) {
      this.#longerSince = 0;
      this.#end = this.#end ? Math.min(this.#end, end) : end;
    } else if (!this.#longerSince) this.#longerSince = now;
    else if (now - this.#longerSince > PATIENCE_MS) {
      this.#longerSince = 0;
      this.#end = end;
    }
  }

  /** @param {Job} job @param {number} now */
  #leftWords(job, now) {
    if (!this.#end) return "";
    const left = Math.max(0, (this.#end - now) / 1000);
    if (left >= 1.5) return `about ${span(Math.ceil(left))} left`;
    const fraction = job.progress?.fraction ?? 1;
    return fraction < NEARLY_ALL ? "takes a little longer than expected" : "almost done";
  }

  /** @param {Job} job @param {number} now */
  #speedWords(job, now) {
    const done = job.progress?.audio_seconds_done ?? 0;
    const before = this.#samples.at(-1);
    if (before && done < before.done) this.#samples = []; // another attempt
    if (!before || done !== before.done || now - before.at > 1000) this.#samples.push({ at: now, done });
    while (this.#samples.length > 2 && now - this.#samples[0].at > SPEED_MS) this.#samples.shift();
    const [first, last] = [this.#samples[0], this.#samples.at(-1)];
    if (!last || last.at - first.at < LEAST_SPEED_MS || last.done <= first.done) return "";
    const speed = (1000 * (last.done - first.done)) / (last.at - first.at);
    return `${speed >= 10 ? Math.round(speed) : Number(speed.toPrecision(2))}× the speed of the music`;
  }
}
