/** Reads how long a recording is, from its header and without decoding it. */

const PATIENCE_MS = 8_000;

/** Return the length of a recording in seconds; null if the browser does not know the format. @param {Blob} file */
export async function durationOf(file) {
  const audio = document.createElement("audio");
  const url = URL.createObjectURL(file);
  audio.preload = "metadata";
  /** @type {number | null} */
  const seconds = await new Promise((resolve) => {
    const timer = setTimeout(() => resolve(null), PATIENCE_MS);
    const end = (/** @type {number | null} */ found) => {
      clearTimeout(timer);
      resolve(found);
    };
    audio.addEventListener("loadedmetadata", () => end(Number.isFinite(audio.duration) ? audio.duration : null));
    audio.addEventListener("error", () => end(null));
    audio.src = url;
  });
  audio.removeAttribute("src");
  URL.revokeObjectURL(url);
  return seconds;
}
