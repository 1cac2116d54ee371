/** Reads ZIP archives (APPNOTE 6.3.10): stored and deflated members, without encryption. */

const END = 0x06054b50;
const END_SIZE = 22;
const ENTRY = 0x02014b50;
const ENTRY_SIZE = 46;
const LOCAL_SIZE = 30;

/** Return the members of an archive by name. @param {ArrayBuffer} archive @returns {Promise<Map<string, ArrayBuffer>>} */
export async function unzip(archive) {
  const view = new DataView(archive);
  let end = archive.byteLength - END_SIZE;
  while (end >= 0 && view.getUint32(end, true) !== END) end -= 1;
  if (end < 0) throw new Error("This is not a ZIP archive.");
  const members = new Map();
  let at = view.getUint32(end + 16, true);
  for (let left = view.getUint16(end + 10, true); left > 0 && view.getUint32(at, true) === ENTRY; left -= 1) {
    const method = view.getUint16(at + 10, true);
    const size = view.getUint32(at + 20, true);
    const [name, extra, comment] = [28, 30, 32].map((offset) => view.getUint16(at + offset, true));
    const local = view.getUint32(at + 42, true);
    const start = local + LOCAL_SIZE + view.getUint16(local + 26, true) + view.getUint16(local + 28, true);
    const text = new TextDecoder().decode(new Uint8Array(archive, at + ENTRY_SIZE, name));
    members.set(text, await unpacked(archive.slice(start, start + size), method));
    at += ENTRY_SIZE + name + extra + comment;
  }
  return members;
}

/** @param {ArrayBuffer} bytes @param {number} method */
async function unpacked(bytes, method) {
  if (method === 0) return bytes;
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  return new Response(stream).arrayBuffer();
}
