/** The address: `#/` is the home view, `#/t/{id}` one job. */

/** @returns {string | null} the id of the job that the address names */
export function currentJob() {
  const match = /^#\/t\/([\w-]+)$/.exec(location.hash);
  return match ? match[1] : null;
}

/** @param {string} id */
export function jobAddress(id) {
  return `#/t/${id}`;
}

/** @param {string | null} id null: home */
export function goTo(id) {
  location.hash = id ? jobAddress(id) : "#/";
}
