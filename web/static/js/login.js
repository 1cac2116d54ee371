/** Logging in with a key, if the service needs one, and out. */

import { ApiError, getSession, logIn, logOut, onUnauthorized } from "./api.js";
import { byId, setText } from "./dom.js";

/** Ask for a key as soon as the service refuses a request, and show a button to log out. */
export function watchLogin() {
  const dialog = byId("login", HTMLDialogElement);
  const field = byId("login-key", HTMLInputElement);
  const button = byId("session", HTMLButtonElement);
  const submit = byId("login-submit", HTMLButtonElement);
  let loggedIn = false;

  const ask = () => {
    loggedIn = false;
    showButton();
    if (!dialog.open) dialog.showModal();
  };
  const showButton = () => {
    button.hidden = false;
    setText(button, loggedIn ? "Log out" : "Log in");
  };

  onUnauthorized(ask);
  button.addEventListener("click", async () => {
    if (!loggedIn) return ask();
    await logOut().catch(() => {});
    location.reload();
  });
  byId("login-form", HTMLFormElement).addEventListener("submit", async (event) => {
    event.preventDefault();
    submit.disabled = true;
    showProblem("");
    try {
      await logIn(field.value.trim());
      location.reload(); // everything on the page begins anew
    } catch (error) {
      showProblem(error instanceof ApiError ? error.message : "The log-in failed. Try again.");
      field.focus();
      field.select();
    } finally {
      submit.disabled = false;
    }
  });
  getSession().then(
    (session) => {
      if (session.auth !== "keys") return;
      loggedIn = true;
      button.title = session.name ? `Logged in with the key ${session.name}` : "";
      showButton();
    },
    () => {}, // without a key: `ask` was called
  );
}

/** @param {string} words "" hides the message */
function showProblem(words) {
  const problem = byId("login-problem");
  const field = byId("login-key");
  problem.hidden = !words;
  setText(problem, words);
  field.setAttribute("aria-invalid", String(Boolean(words)));
}
