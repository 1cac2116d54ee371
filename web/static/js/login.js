/** Logs in with a key where the service needs one. */

import { ApiError } from "./api.js";
import { byId, element, setText } from "./dom.js";
import { getSession, logIn, logOut } from "./library_api.js";

/** Show who is logged in, or a form to log in; return true if the page may be used. */
export async function enter() {
  try {
    const session = await getSession();
    if (session.auth === "keys") showLogOut(session.name ?? "");
    return true;
  } catch (error) {
    if (!(error instanceof ApiError && error.status === 401)) return true; // the polls report what is wrong
    showForm();
    return false;
  }
}

/** Show the form if an error means that the log-in has ended. @param {Error} error */
export function isLoggedOut(error) {
  if (!(error instanceof ApiError && error.status === 401)) return false;
  showForm();
  return true;
}

/** @param {string} name */
function showLogOut(name) {
  const button = element("button", { type: "button", className: "button small", title: `Logged in with the key “${name}”` }, "Log out");
  button.addEventListener("click", async () => {
    await logOut().catch(() => undefined);
    location.reload();
  });
  document.querySelector(".top-links")?.append(button);
}

function showForm() {
  if (document.getElementById("login")) return;
  const input = element("input", { type: "password", id: "login-key", autocomplete: "current-password", required: true });
  const problem = element("p", { className: "field-problem", role: "alert", hidden: true });
  const button = element("button", { type: "submit", className: "button primary" }, "Log in");
  const form = element(
    "form",
    { id: "login", className: "login", "aria-labelledby": "login-title" },
    element("h1", { id: "login-title", className: "hero-title" }, "Log in"),
    element("p", {}, "This service needs a key, which its operator makes with “mt3-infer keys create”."),
    element("label", { for: "login-key" }, "Key"),
    element("div", { className: "login-line" }, input, button),
    problem,
  );
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    button.disabled = true;
    try {
      await logIn(input.value.trim());
      location.reload();
    } catch (error) {
      problem.hidden = false;
      setText(problem, /** @type {Error} */ (error).message);
      button.disabled = false;
    }
  });
  document.body.classList.add("logged-out");
  byId("main").replaceChildren(form);
  input.focus();
}
