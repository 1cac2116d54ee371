/** The entry point: creates the parts of the page and shows the view that the address names. */

import { listModels, shareToken } from "./api.js";
import { ByAddress } from "./by_address.js";
import { byId, setText } from "./dom.js";
import { acceptFiles } from "./drop_zone.js";
import { JobStore } from "./job_store.js";
import { JobList } from "./jobs.js";
import { LibraryTools } from "./library_tools.js";
import { watchLogin } from "./login.js";
import { ModelForm } from "./model_form.js";
import { fetchParts, Part } from "./part.js";
import { Connection, poll } from "./polling.js";
import { expectedWords } from "./purposes.js";
import { Recorder } from "./recorder.js";
import { currentJob, goTo } from "./router.js";

const MODELS_MS = 5_000; // between two looks at a model that is being downloaded

const connection = new Connection();
const store = new JobStore();
const form = new ModelForm();
const modelTitle = (/** @type {string} */ name) => form.titleOf(name);
const tools = new LibraryTools({
  onFilter: (filter) => store.filterBy(filter),
  onOrder: (order) => store.sortBy(order),
});
const list = new JobList(store, modelTitle, tools);

const loader = { connection, onError: (/** @type {Error} */ error) => list.showProblem(error) };

/** The view of one job. */
const view = new Part(async () => {
  const { JobView } = await import("./job.js");
  return new JobView({ store, connection, models: form, onGone: leave });
}, loader);

const uploads = new Part(async () => {
  const { Uploads } = await import("./upload.js");
  return new Uploads({ choice: () => form.choice, onJob: takeJob, expect });
}, loader);

const recorder = new Recorder((file) => uploads.with((each) => each.add([file])));
const byAddress = new ByAddress({ choice: () => form.choice, onJob: (job, askedAt) => takeJob(job, askedAt, true) });

/** @param {import("./api.js").Job} job @param {number} askedAt @param {boolean} alone show it at once */
function takeJob(job, askedAt, alone) {
  store.take(job, askedAt);
  store.wake();
  if (alone && currentJob() === null) goTo(job.id);
}

/** Return how long a recording is, and its transcription will take. @param {File} file */
async function expect(file) {
  const { durationOf } = await import("./duration.js");
  const seconds = await durationOf(file);
  return seconds === null ? null : { seconds, words: expectedWords(form.modelInUse, seconds) };
}

function route() {
  const id = currentJob();
  byId("home").hidden = id !== null;
  byId("job").hidden = id === null;
  byId("new-link").hidden = id === null;
  list.select(id);
  if (id === null) {
    view.loaded?.close();
    document.title = "MT3-Infer";
  } else {
    view.with((each) => currentJob() === id && each.open(id));
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
  view.loaded?.render();
  return form.isWaiting ? MODELS_MS : null;
}

/** Load the rest when the page can be used, and continue uploads that were not finished. */
function continueStart() {
  fetchParts();
  uploads.with((each) => each.restore());
}

/** Show the one transcription that a share link opens, and nothing else. */
function showShared(/** @type {string} */ token) {
  document.body.classList.add("shared");
  byId("brand", HTMLAnchorElement).href = "/";
  byId("job").hidden = false;
  view.with((each) => each.open(token));
  loadModels().catch(() => undefined); // titles of the models, where a friend may read them
}

/** All modules are here: forget how often the page was loaded again for them; see boot.js. */
function forgetLoads() {
  try {
    sessionStorage.removeItem("mt3-infer.loads");
  } catch {
    // Storage is disabled, and nothing was counted.
  }
}

function start() {
  watchLogin();
  window.addEventListener("hashchange", route);
  acceptFiles((files) => {
    if (currentJob() !== null) goTo(null);
    uploads.with((each) => each.add(files));
  });
  byId("other-sources").append(recorder.node, byAddress.node);
  form.addEventListener("shown", () => setTimeout(continueStart), { once: true }); // the page is drawn first
  poll(loadModels, { connection, onError: (error) => form.showProblem(error) });
  store.start({ connection, onError: (error) => list.showProblem(error) });
  route();
}

connection.addEventListener("change", showConnection);
forgetLoads();
if (shareToken) showShared(shareToken);
else start();
