/** Formats numbers, times and states as text. Pure functions. */

const MOST_COUNTED = 1000; // the service gives all jobs after them the same position
const NAMES = ["C", "C♯", "D", "D♯", "E", "F", "F♯", "G", "G♯", "A", "A♯", "B"];

/** MIDI pitch → "C4" (60 is middle C, C4). @param {number} pitch */
export function noteName(pitch) {
  return `${NAMES[pitch % 12]}${Math.floor(pitch / 12) - 1}`;
}

/** Seconds → "1:02:03" or "0:24". @param {number} seconds */
export function clock(seconds) {
  const whole = Math.max(0, Math.floor(seconds + 1e-6));
  const pad = (/** @type {number} */ n) => String(n).padStart(2, "0");
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes}:${pad(whole % 60)}`;
  return `${Math.floor(minutes / 60)}:${pad(minutes % 60)}:${pad(whole % 60)}`;
}

/** Seconds → "0:03.42", for the onset of a note. @param {number} seconds */
export function preciseClock(seconds) {
  const hundredths = Math.round(Math.max(0, seconds) * 100);
  return `${clock(Math.floor(hundredths / 100))}.${String(hundredths % 100).padStart(2, "0")}`;
}

/** Seconds → "8.2 s", "3 min", "1 h 20 min", for a duration. @param {number} seconds */
export function span(seconds) {
  if (seconds < 10) return `${Number(seconds.toFixed(1))} s`;
  if (seconds < 90) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  return minutes % 60 ? `${Math.floor(minutes / 60)} h ${minutes % 60} min` : `${minutes / 60} h`;
}

/** Bytes → "1.2 MB", with a no-break space. @param {number} bytes */
export function fileSize(bytes) {
  const units = ["bytes", "kB", "MB", "GB"];
  let value = bytes;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit && value < 100 ? value.toFixed(1) : Math.round(value)}\u00a0${units[unit]}`;
}

/** RFC 3339 time → "just now", "5 min ago", "yesterday", "3 Mar". @param {string} time */
export function ago(time, now = Date.now()) {
  const then = new Date(time);
  const seconds = (now - then.getTime()) / 1000;
  if (seconds < 45) return "just now";
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return `${minutes} min ago`;
  const hours = Math.round(minutes / 60);
  if (hours < 24) return `${hours} h ago`;
  const days = Math.round(hours / 24);
  if (days === 1) return "yesterday";
  if (days < 7) return `${days} days ago`;
  const sameYear = then.getFullYear() === new Date(now).getFullYear();
  return then.toLocaleDateString(undefined, { day: "numeric", month: "short", ...(sameYear ? {} : { year: "numeric" }) });
}

/** 1 → "1 note", 4200 → "4,200 notes". @param {number} count @param {string} noun */
export function counted(count, noun) {
  return `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
}

/** "onset_threshold" → "Onset threshold". @param {string} name */
export function label(name) {
  const words = name.replaceAll("_", " ");
  return words.charAt(0).toUpperCase() + words.slice(1);
}

/** Return the display name of a job. @param {import("./api.js").Job} job */
export function jobName(job) {
  return job.filename || "Untitled recording";
}

/** Return the name of a job without its ending. @param {import("./api.js").Job} job */
export function stemOf(job) {
  return jobName(job).replace(/\.[^.]+$/, "");
}

const STATUS_WORDS = {
  queued: "Queued",
  processing: "Processing",
  succeeded: "Done",
  failed: "Failed",
  canceled: "Canceled",
};

/** @param {string} status */
export function statusWord(status) {
  return STATUS_WORDS[/** @type {keyof STATUS_WORDS} */ (status)] ?? label(status);
}

const FINAL = new Set(["succeeded", "failed", "canceled"]);
const PHASE_WORDS = {
  fetching_source: "Fetching the recording…",
  fetching_checkpoint: "Downloading the model…",
  loading_model: "Loading the model…",
  decoding_audio: "Decoding the audio…",
  transcribing: "Transcribing…",
  writing_results: "Writing the results…",
};

/** Describe the state of a job: its phase, progress or place in the queue. @param {import("./api.js").Job} job */
export function phaseWords(job) {
  if (job.hint) return job.hint;
  if (job.status === "queued") return queueWords(job);
  if (job.status !== "processing") return statusWord(job.status);
  const { audio_seconds_done: done, audio_seconds_total: total } = job.progress ?? {};
  if (job.phase === "transcribing" && total) return `Transcribing ${clock(done ?? 0)} of ${clock(total)}${shardWords(job)}`;
  if (job.phase === "transcribing" && done) return `Transcribing, ${clock(done)} so far`;
  if (job.progress?.download?.bytes_total || job.progress?.download?.bytes_done) return downloadWords(job, job.progress.download);
  if (!job.phase) return "Starting…";
  return PHASE_WORDS[/** @type {keyof PHASE_WORDS} */ (job.phase)] ?? `${label(job.phase)}…`;
}

/** @param {import("./api.js").Job} job */
function shardWords(job) {
  const { shards_done: done, shards_total: total } = job.progress ?? {};
  return total && total > 1 ? `, ${done} of ${total} parts done` : "";
}

/** @param {import("./api.js").Job} job @param {import("./api.js").Download} download of the model or of the recording */
function downloadWords(job, download) {
  const total = download.bytes_total ? ` of ${fileSize(download.bytes_total)}` : ""; // not every server states it
  const speed = download.bytes_per_second ? `, ${fileSize(download.bytes_per_second)}/s` : "";
  const model = download.waiting ? "Another worker is downloading the model" : "Downloading the model";
  const action = job.phase === "fetching_source" ? "Fetching the recording" : model;
  return `${action}: ${fileSize(download.bytes_done)}${total}${speed}`;
}

/** @param {import("./api.js").Job} job */
function queueWords(job) {
  const position = job.queue?.position;
  if (!position) return "Waiting in the queue…";
  if (position > MOST_COUNTED) return `More than ${counted(MOST_COUNTED, "job")} ahead in the queue`;
  return position === 1 ? "Next in the queue" : `Position ${position.toLocaleString("en")} in the queue`;
}

/** Describe the time left; "" if it is unknown. @param {import("./api.js").Job} job */
export function etaWords(job) {
  const eta = job.status === "queued" ? job.queue?.eta_seconds : (job.progress?.eta_seconds ?? job.progress?.download?.eta_seconds);
  if (eta === null || eta === undefined) return "";
  if (job.status === "queued") return `starts in about ${span(Math.max(1, eta))}`;
  return eta < 1.5 ? "almost done" : `about ${span(Math.ceil(eta))} left`;
}

/** Return the title of the tab that shows a job. @param {import("./api.js").Job} job */
export function pageTitle(job) {
  const fraction = job.status === "processing" ? job.progress?.fraction : null;
  const state = fraction ? `${Math.round(fraction * 100)}%` : FINAL.has(job.status) ? "" : statusWord(job.status);
  return [state, jobName(job), "MT3-Infer"].filter(Boolean).join(" · ");
}
