/** What is known of a job that has not ended: its phase, the time left, and the notes found so far. */

import { isFinished } from "./api.js";
import { element, setText } from "./dom.js";
import { phaseWords } from "./format.js";
import { LiveNotes } from "./live_notes.js";
import { LiveRoll } from "./live_roll.js";
import { MelodyProgress } from "./melody_progress.js";
import { TimeLeft } from "./time_left.js";

export class ProgressView {
  #timeLeft = new TimeLeft();
  #live = new LiveNotes();
  #roll = new LiveRoll(this.#live);
  #melody = new MelodyProgress();

  constructor() {
    this.phase = element("p", { className: "phase", id: "job-phase" });
    this.eta = element("p", { className: "eta" });
    const line = element("div", { className: "phase-line" }, this.phase, this.eta);
    this.node = element("div", { className: "progress-panel" }, line, this.#roll.node, this.#melody.node);
  }

  /** @param {import("./api.js").Job} job */
  show(job) {
    this.node.hidden = isFinished(job);
    if (isFinished(job)) return this.stop();
    const words = phaseWords(job);
    setText(this.phase, words);
    setText(this.eta, this.#timeLeft.words(job));
    this.node.classList.toggle("queued", job.status === "queued");
    this.#melody.show(job.status === "queued" ? null : (job.progress?.fraction ?? null), words);
    if (job.status === "processing") this.#live.follow(job.id);
    this.#roll.setLength(job.progress?.audio_seconds_total);
  }

  stop() {
    this.#live.stop();
  }
}
