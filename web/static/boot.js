/**
 * Loads the page again if a module of it could not be fetched, as when the network changes: nothing would work, and no
 * module could report it. No module itself.
 */

{
  const LOADS = "mt3-infer.loads"; // main.js removes it
  const MOST = 5;
  const FIRST_WAIT_MS = 1_000;

  const count = () => {
    try {
      const loads = Number(sessionStorage.getItem(LOADS));
      sessionStorage.setItem(LOADS, String(loads + 1));
      return loads;
    } catch {
      return MOST; // without a count it might never end
    }
  };

  /** @param {Event} event */
  const recover = ({ target }) => {
    if (!(target instanceof HTMLScriptElement) || target.type !== "module") return;
    const loads = count();
    const words = loads < MOST ? "Reconnecting…" : "The page could not be loaded. Reload it.";
    document.getElementById("connection")?.replaceChildren(words);
    if (loads < MOST) setTimeout(() => location.reload(), FIRST_WAIT_MS * 2 ** loads);
  };

  window.addEventListener("error", recover, true);
}
