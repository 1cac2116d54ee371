/** Recognizes files that are no recordings by how they begin, so that they are not sent. */

const LOOKED_AT = 1024; // bytes
const TYPES = [
  ["%PDF", "a PDF document"],
  ["PK\x03\x04", "a ZIP archive or a document"],
  ["\x89PNG", "a picture"],
  ["\xff\xd8\xff", "a picture"],
  ["GIF8", "a picture"],
  ["MThd", "a MIDI file, which has notes already"],
  ["\x1f\x8b", "a compressed file"],
  ["7z\xbc\xaf", "a compressed archive"],
  ["Rar!", "a compressed archive"],
  ["\xd0\xcf\x11\xe0", "a document"],
  ["\x7fELF", "a program"],
  ["MZ", "a program"],
];

/** Return what is wrong with a file, for the user; "" if it may be a recording. @param {Blob} file */
export async function wrongFileWords(file) {
  if (file.size === 0) return "The file is empty. Choose another one.";
  let bytes;
  try {
    bytes = new Uint8Array(await file.slice(0, LOOKED_AT).arrayBuffer());
  } catch {
    return "The file cannot be read. If it is a folder, choose the recordings in it.";
  }
  const found = kindOf(bytes);
  return found ? `This is ${found}, not a recording. Choose a file with sound.` : "";
}

/** Return the kind of a file that is no recording; "" if it may be one. @param {Uint8Array} bytes its beginning */
export function kindOf(bytes) {
  const start = String.fromCharCode(...bytes.subarray(0, 8));
  const known = TYPES.find(([magic]) => start.startsWith(magic));
  if (known) return known[1];
  return isText(bytes) ? "a text file" : "";
}

/** @param {Uint8Array} bytes */
function isText(bytes) {
  if (bytes.some((byte) => byte < 9 || (byte > 13 && byte < 32 && byte !== 27))) return false;
  try {
    new TextDecoder("utf-8", { fatal: true }).decode(bytes, { stream: true }); // its last character may be cut
    return true;
  } catch {
    return false;
  }
}
