/** Notifies of the end of a job, if the user asked for that, also while the page is hidden. */

import { getJob, isFinished } from "./api.js";
import { element, setText } from "./dom.js";
import { jobName, statusWord } from "./format.js";
import { goTo, jobAddress } from "./router.js";

const LOOK_MS = 5_000;

export class Notifier {
  #id = "";
  /** @type {Set<string>} */
  #asked = new Set();

  constructor() {
    this.button = element("button", { type: "button", className: "button small", id: "notify" });
    this.button.addEventListener("click", () => this.#ask());
  }

  /** @param {import("./api.js").Job} job */
  show(job) {
    this.#id = job.id;
    this.#label();
  }

  #label() {
    const known = typeof Notification === "function";
    this.button.hidden = !known;
    const denied = known && Notification.permission === "denied";
    const asked = this.#asked.has(this.#id);
    this.button.disabled = denied || asked;
    const words = denied ? "Notifications are blocked in the browser" : "Notify me when it is done";
    setText(this.button, asked ? "You will be notified" : words);
  }

  async #ask() {
    const id = this.#id;
    if ((await Notification.requestPermission()) === "granted") {
      this.#asked.add(id);
      this.#watch(id);
    }
    this.#label();
  }

  /** @param {string} id */
  async #watch(id) {
    while (this.#asked.has(id)) {
      await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
      const { job } = await getJob(id).catch((error) => {
        if (!error.transient) this.#asked.delete(id); // it was deleted
        return { job: null };
      });
      if (!job || !isFinished(job)) continue;
      this.#asked.delete(id);
      this.#notify(job);
    }
  }

  /** @param {import("./api.js").Job} job */
  async #notify(job) {
    const words = { body: statusWord(job.status), tag: job.id };
    try {
      const notification = new Notification(jobName(job), words);
      notification.addEventListener("click", () => {
        window.focus();
        goTo(job.id);
      });
    } catch {
      // Phones show notifications of service workers only.
      const worker = await activeWorker();
      const address = new URL(jobAddress(job.id), location.href).href;
      await worker?.showNotification(jobName(job), { ...words, data: { address } });
    }
  }
}

/** Return the service worker of notifications; undefined over plain HTTP, where there are none. */
async function activeWorker() {
  const registration = await navigator.serviceWorker?.register("/static/notifications.js");
  const starting = registration?.installing ?? registration?.waiting;
  if (starting && !registration.active) {
    await new Promise((resolve) => starting.addEventListener("statechange", () => starting.state === "activated" && resolve(0)));
  }
  return registration;
}
