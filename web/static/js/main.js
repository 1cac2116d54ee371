/** The entry point: creates the parts of the page and shows the view that the address names. */

import { listModels, shareToken } from "./api.js";
import { byId, setText } from "./dom.js";
import { acceptFiles } from "./drop_zone.js";
import { JobView } from "./job.js";
import { JobStore } from "./job_store.js";
import { JobList } from "./jobs.js";
import { watchLogin } from "./login.js";
import { ModelForm } from "./model_form.js";
import { Connection, poll } from "./polling.js";
import { currentJob, goTo } from "./router.js";
import { Uploads } from "./upload.js";

const MODELS_MS = 5_000; // between two looks at a model that is being downloaded

const connection = new Connection();
const store = new JobStore();
const form = new ModelForm();
const modelTitle = (/** @type {string} */ name) => form.titleOf(name);
const list = new JobList(store, modelTitle);
const view = new JobView({ store, connection, models: form, onGone: leave });

const uploads = new Uploads({
  choice: () => form.choice,
  onJob(job, askedAt, alone) {
    store.take(job, askedAt);
    store.wake();
    if (alone && currentJob() === null) goTo(job.id);
  },
});

function route() {
  const id = currentJob();
  byId("home").hidden = id !== null;
  byId("job").hidden = id === null;
  byId("new-link").hidden = id === null;
  list.select(id);
  if (id === null) {
    view.close();
    document.title = "MT3-Infer";
  } else {
    view.open(id);
    window.scrollTo(0, 0);
  }
}

/** Return to the home view after the job in view has been deleted. */
function leave() {
  goTo(null);
  byId("main").focus({ preventScroll: true });
}

function showConnection() {
  setText(byId("connection"), connection.lost ? "Reconnecting…" : "");
  byId("connection").classList.toggle("lost", connection.lost);
}

async function loadModels() {
  form.show(await listModels());
  list.render(); // titles of the models are known now
  view.render();
  return form.isWaiting ? MODELS_MS : null;
}

/** Show the one transcription that a share link opens, and nothing else. */
function showShared(/** @type {string} */ token) {
  document.body.classList.add("shared");
  byId("brand", HTMLAnchorElement).href = "/";
  byId("job").hidden = false;
  view.open(token);
}

function start() {
  watchLogin();
  window.addEventListener("hashchange", route);
  acceptFiles((files) => {
    if (currentJob() !== null) goTo(null);
    uploads.add(files);
  });
  poll(loadModels, { connection, onError: (error) => form.showProblem(error) });
  store.start({ connection, onError: (error) => list.showProblem(error) });
  route();
}

connection.addEventListener("change", showConnection);
if (shareToken) showShared(shareToken);
else start();
