/** Polling that pauses while the page is hidden and backs off while the service is unavailable. */

import { ApiError } from "./api.js";

const FIRST_RETRY_MS = 1_000;
const LAST_RETRY_MS = 15_000;

/** The state of the connection to the service. One for the page; fires "change". */
export class Connection extends EventTarget {
  lost = false;

  /** @param {boolean} lost */
  report(lost) {
    if (lost === this.lost) return;
    this.lost = lost;
    this.dispatchEvent(new Event("change"));
  }
}

/**
 * Sleep until the time is over, the signal aborts, `wake` fires, or the page or the network becomes available.
 * @param {number} ms @param {AbortSignal} signal @param {EventTarget} wake
 */
function pause(ms, signal, wake) {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      wake.removeEventListener("wake", done);
      window.removeEventListener("online", done);
      document.removeEventListener("visibilitychange", done);
      resolve(undefined);
    };
    const timer = setTimeout(done, ms);
    signal.addEventListener("abort", done);
    wake.addEventListener("wake", done);
    window.addEventListener("online", done);
    document.addEventListener("visibilitychange", done);
  });
}

/** @param {AbortSignal} signal */
function visible(signal) {
  if (!document.hidden || signal.aborted) return Promise.resolve();
  return new Promise((resolve) => {
    const done = () => {
      document.removeEventListener("visibilitychange", done);
      signal.removeEventListener("abort", done);
      resolve(undefined);
    };
    document.addEventListener("visibilitychange", done);
    signal.addEventListener("abort", done);
  });
}

/**
 * Call `step` until it returns null, waiting as many milliseconds in between as it returned. A transient error
 * is reported to the connection and tried again with growing pauses; any other goes to `onError` and ends it.
 *
 * @param {(signal: AbortSignal) => Promise<number | null>} step
 * @param {{ connection: Connection, onError: (error: Error) => void }} collaborators
 * @returns {{ stop(): void, wake(): void }}
 */
export function poll(step, { connection, onError }) {
  const controller = new AbortController();
  const { signal } = controller;
  const waker = new EventTarget();

  async function run() {
    let failures = 0;
    while (!signal.aborted) {
      let wait;
      try {
        wait = await step(signal);
        failures = 0;
        connection.report(false);
      } catch (error) {
        if (signal.aborted) return;
        if (!(error instanceof ApiError && error.transient)) {
          onError(/** @type {Error} */ (error));
          return;
        }
        connection.report(true);
        wait = retryDelay(failures, error.retryAfter);
        failures += 1;
      }
      if (wait === null) return;
      await pause(wait, signal, waker);
      await visible(signal);
    }
  }

  run();
  return { stop: () => controller.abort(), wake: () => waker.dispatchEvent(new Event("wake")) };
}

/** Return the pause before a retry in ms: 1, 2, 4, … 15 s with jitter, or what the service asked for. */
export function retryDelay(/** @type {number} */ failures, /** @type {number | null} */ retryAfter = null) {
  if (retryAfter) return Math.min(retryAfter, 60) * 1000;
  const ceiling = Math.min(LAST_RETRY_MS, FIRST_RETRY_MS * 2 ** failures);
  return ceiling * (0.75 + Math.random() / 2);
}
