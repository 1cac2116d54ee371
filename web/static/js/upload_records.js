/** Remembers unfinished uploads across reloads and days, in the browser's database. */

const DATABASE = "mt3-infer";
const STORE = "uploads";
const MOST_KEPT = 512e6; // bytes of a file that is kept; a larger one has to be chosen again after a reload

/**
 * @typedef {{ key: string, name: string, size: number, type: string, lastModified: number, uploadId: string,
 *             choice: import("./upload.js").Choice, metadata: Record<string, unknown>, createdAt: number,
 *             file?: File }} UploadRecord
 */

/** @type {Promise<IDBDatabase> | null} */
let opened = null;

function open() {
  opened ??= new Promise((resolve, reject) => {
    const request = indexedDB.open(DATABASE, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(STORE, { keyPath: "key" });
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
  return opened;
}

/**
 * @template T
 * @param {IDBTransactionMode} mode @param {(store: IDBObjectStore) => IDBRequest<T>} action @returns {Promise<T>}
 */
async function run(mode, action) {
  const transaction = (await open()).transaction(STORE, mode);
  const request = action(transaction.objectStore(STORE));
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve(request.result);
    transaction.onerror = () => reject(transaction.error);
    transaction.onabort = () => reject(transaction.error);
  });
}

/** Return the uploads that were not finished, oldest first; none where the browser keeps nothing. */
export async function unfinishedUploads() {
  /** @type {UploadRecord[]} */
  const records = await run("readonly", (store) => store.getAll()).catch(() => []);
  return records.sort((a, b) => a.createdAt - b.createdAt);
}

/** Remember an upload, and its file if it is not too large. @param {UploadRecord} record @param {File} file */
export async function remember(record, file) {
  try {
    await run("readwrite", (store) => store.put(record));
    if (file.size <= MOST_KEPT) await run("readwrite", (store) => store.put({ ...record, file }));
  } catch {
    // No database, or no room for the file: after a reload the upload starts anew, or asks for the file.
  }
}

/** @param {string} key */
export async function forget(key) {
  await run("readwrite", (store) => store.delete(key)).catch(() => undefined);
}

/** Return true if a file is the one of a record. @param {UploadRecord} record @param {File} file */
export function isSameFile(record, file) {
  return file.name === record.name && file.size === record.size && file.lastModified === record.lastModified;
}

/** Run an action unless another tab is at the same upload; return whether it ran. */
export async function exclusively(/** @type {string} */ key, /** @type {() => Promise<void>} */ action) {
  if (!navigator.locks) {
    await action(); // over plain HTTP
    return true;
  }
  return navigator.locks.request(`mt3-infer upload ${key}`, { ifAvailable: true }, async (lock) => {
    if (lock) await action();
    return lock !== null;
  });
}
