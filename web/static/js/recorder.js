/** Records with the microphone. */

import { announce, element, setText } from "./dom.js";
import { clock } from "./format.js";

const TYPES = ["audio/webm;codecs=opus", "audio/mp4", "audio/ogg;codecs=opus"];
const SLICE_MS = 1_000;
const BITS_PER_SECOND = 128_000;
// What improves speech would damage music.
const SOUND = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };

export class Recorder {
  /** @type {MediaRecorder | null} */
  #recorder = null;
  /** @type {Blob[]} */
  #pieces = [];
  #startedAt = 0;
  #clock = 0;

  /** @param {(file: File) => void} onRecording */
  constructor(onRecording) {
    this.onRecording = onRecording;
    this.button = element("button", { type: "button", className: "button", id: "record" }, "Record");
    this.cancel = element("button", { type: "button", className: "button quiet", hidden: true }, "Discard");
    this.words = element("p", { className: "recorder-words", role: "status" });
    this.node = element("div", { className: "recorder" }, this.button, this.cancel, this.words);
    // Browsers offer the microphone to pages over TLS and on localhost only.
    this.node.hidden = !navigator.mediaDevices || typeof MediaRecorder !== "function";
    this.button.addEventListener("click", () => (this.#recorder ? this.#recorder.stop() : this.#start()));
    this.cancel.addEventListener("click", () => {
      this.#pieces = [];
      this.#startedAt = 0;
      this.#recorder?.stop();
    });
  }

  async #start() {
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ audio: SOUND });
    } catch {
      setText(this.words, "No microphone can be used. Connect one, and allow this page to use it.");
      return;
    }
    const mimeType = TYPES.find((type) => MediaRecorder.isTypeSupported(type));
    const recorder = new MediaRecorder(stream, { mimeType, audioBitsPerSecond: BITS_PER_SECOND });
    this.#recorder = recorder;
    this.#pieces = [];
    this.#startedAt = performance.now();
    recorder.addEventListener("dataavailable", (event) => {
      if (this.#startedAt) this.#pieces.push(event.data);
    });
    recorder.addEventListener("stop", () => this.#end(stream));
    recorder.start(SLICE_MS);
    this.#clock = setInterval(() => this.#show(), 250);
    this.#show();
    announce("Recording.");
  }

  /** @param {MediaStream} stream */
  #end(stream) {
    const type = (this.#recorder?.mimeType ?? "").split(";")[0];
    stream.getTracks().forEach((track) => track.stop());
    clearInterval(this.#clock);
    this.#recorder = null;
    this.#show();
    const pieces = this.#pieces;
    this.#pieces = [];
    if (pieces.length) this.onRecording(new File(pieces, recordingName(type), { type, lastModified: Date.now() }));
  }

  #show() {
    const running = this.#recorder !== null;
    setText(this.button, running ? "Stop and transcribe" : "Record");
    this.node.classList.toggle("recording", running);
    this.cancel.hidden = !running;
    setText(this.words, running ? clock((performance.now() - this.#startedAt) / 1000) : "");
  }
}

/** @param {string} type */
function recordingName(type) {
  const now = new Date();
  const pad = (/** @type {number} */ n) => String(n).padStart(2, "0");
  const day = `${now.getFullYear()}-${pad(now.getMonth() + 1)}-${pad(now.getDate())}`;
  return `Recording ${day} ${pad(now.getHours())}.${pad(now.getMinutes())}.${type.endsWith("mp4") ? "m4a" : type.split("/")[1] || "webm"}`;
}
