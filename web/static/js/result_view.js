/** The result of a job: the player, the piano roll or the score, editing, instruments and exports. */

import { fetchBytes, recordingAddress, shareToken } from "./api.js";
import { BeatTools } from "./beat_tools.js";
import { Downloads, FOR_FRIENDS } from "./downloads.js";
import { element, segments, setText } from "./dom.js";
import { exported, prepare } from "./exports.js";
import { clock, counted } from "./format.js";
import { Grid } from "./grid.js";
import { Legend } from "./legend.js";
import { ListenBar } from "./listen_bar.js";
import { Mender } from "./mender.js";
import { NoteCard } from "./note_card.js";
import { NoteSequence } from "./notes.js";
import { PianoRoll } from "./piano_roll.js";
import { bindKeys, editingKeys, KeysHelp, listeningKeys } from "./roll_keys.js";
import { RollTools } from "./roll_tools.js";
import { ScoreView } from "./score_view.js";
import { Sounds } from "./sounds.js";
import { Transport } from "./transport.js";

const PREPARE_MS = 60_000; // to ask for all files that friends may want

export class ResultView {
  /** The corrections were discarded. */
  onRevert = () => {};

  grid = new Grid();
  #sequence = new NoteSequence({ notes: [] });
  #recorded = 0; // s of the recording
  #isCopy = false; // the recording that is played was made by the worker
  #title = "";
  #picked = -1;
  #id = "";
  #sharedId = ""; // of the job that was shared last
  #animation = 0;
  #loading = new AbortController();
  /** @type {Promise<void> | null} */
  #sounds = null;

  constructor() {
    this.transport = new Transport();
    this.roll = new PianoRoll();
    this.bar = new ListenBar(this.transport);
    this.legend = new Legend();
    this.score = new ScoreView();
    this.views = segments("View", { roll: "Piano roll", score: "Score" }, (name) => this.#showView(name));
    this.card = new NoteCard(() => this.pick(-1));
    this.keys = new KeysHelp();
    this.playButton = element("button", { type: "button", className: "play", id: "play" });
    this.time = element("p", { className: "time", id: "time" });
    this.place = element("p", { className: "place" });
    this.count = element("p", { className: "note-count", id: "note-count" });
    this.facts = element("p", { className: "facts" });
    this.none = element(
      "p",
      { className: "empty", hidden: true },
      "No notes were found in this recording. Try another model, or lower the thresholds under Options.",
    );
    this.frame = element("div", { className: "roll-frame" });
    this.tools = new RollTools(this.roll, this.frame, this.keys.button);
    this.mender = new Mender(this);
    this.beats = new BeatTools(() => this.transport.position);
    this.mender.tools.node.hidden = this.beats.node.hidden = shareToken !== null;
    this.downloads = new Downloads({ id: () => this.#id, source: () => this.#savedSource() });
    const words = element("div", { className: "roll-words" }, this.time, this.place, this.count, this.facts);
    const head = element("div", { className: "roll-tools" }, this.playButton, words, this.views.node);
    this.rollPart = element("div", { className: "roll-part" }, this.roll.node, this.card.node, this.mender.tools.node);
    this.rollPart.append(this.tools.node);
    this.frame.append(head, this.bar.node, this.beats.node, this.rollPart, this.score.node);
    this.node = element("div", { className: "result", hidden: true }, this.none, this.frame, this.legend.node, this.downloads.node, this.keys.node);
    this.#connect();
  }

  #connect() {
    const { transport, roll } = this;
    this.playButton.addEventListener("click", () => transport.toggle());
    transport.addEventListener("change", () => this.#showTransport());
    transport.recording.addEventListener("change", () => this.#replaceRecording());
    roll.onSeek = (time) => transport.seek(this.tools.snaps ? this.grid.snap(time) : time);
    roll.overview.onSeek = (time) => transport.seek(time);
    this.score.onSeek = (time) => transport.seek(time);
    roll.onLoop = (loop) => transport.setLoop(loop);
    roll.onPick = (n) => {
      this.pick(n);
      if (this.pickedNote) this.audition(this.pickedNote);
    };
    roll.onTap = (point) => this.mender.tap(point);
    this.legend.addEventListener("change", () => this.#showTracks());
    this.mender.addEventListener("change", () => this.#showNotes(this.mender.editor.notes));
    this.mender.addEventListener("beats", () => this.#useGrid(new Grid(this.mender.json)));
    this.beats.onCorrect = (correction) => this.mender.correctBeats(correction);
    this.beats.onReset = () => this.mender.resetBeats();
    this.mender.addEventListener("save", () => {
      this.#showScore();
      if (this.#sharedId === this.#id) this.prepareForFriends();
    });
    bindKeys(roll.moving, () => this.#bindings());
    bindKeys(roll.overview.node, () => listeningKeys(transport, roll, this.grid));
  }

  /** @returns {import("./roll_keys.js").Bindings} */
  #bindings() {
    return {
      ...listeningKeys(this.transport, this.roll, this.grid),
      l: () => this.bar.loop.toggle(),
      n: () => this.#pickNext(1),
      "Shift+n": () => this.#pickNext(-1),
      Escape: () => this.pick(-1),
      "?": () => this.keys.open(),
      ...(this.mender.editing ? editingKeys(this.mender, this.transport, this.pickedNote !== null) : {}),
    };
  }

  /** @param {"roll" | "score"} name */
  #showView(name) {
    this.rollPart.hidden = name !== "roll";
    this.score.show(name === "score");
    this.#showTransport();
  }

  /**
   * @param {import("./api.js").NotesFile} json notes.json @param {string} id of the job @param {string} title
   * @param {string} [version] of the corrections that these notes are; "": they are as they were transcribed
   */
  show(json, id, title, version = "") {
    this.#loading.abort();
    this.#loading = new AbortController();
    this.#id = id;
    this.#title = title;
    this.#sounds = null;
    this.#isCopy = false;
    this.#recorded = json.duration ?? 0;
    const grid = new Grid(json);
    const sequence = new NoteSequence(json);
    this.node.hidden = false;
    this.none.hidden = sequence.count > 0;
    this.frame.hidden = sequence.count === 0;
    this.downloads.node.hidden = sequence.count === 0;
    this.transport.load(sequence, grid, sequence.count ? recordingAddress(id) : null);
    this.roll.show(sequence, grid);
    this.beats.forget();
    this.#useGrid(grid);
    this.mender.load(id, json, version);
    this.#showNotes(json.notes ?? []);
    this.pick(-1);
    this.#showScore();
    this.#showTransport();
    if (sequence.count) this.#loadWaveform();
    if (sequence.count && shareToken) this.#showShared();
  }

  /** @param {Grid} grid */
  #useGrid(grid) {
    this.grid = grid;
    setText(this.facts, grid.words);
    this.transport.useGrid(grid);
    this.roll.useGrid(grid);
    this.tools.load(grid);
    this.bar.load(grid);
    this.beats.show(grid);
    this.#showTransport();
  }

  /** @param {import("./api.js").Note[]} notes */
  #showNotes(notes) {
    const sequence = new NoteSequence({ duration: this.#recorded, notes });
    this.#sequence = sequence;
    setText(this.count, counted(sequence.count, "note"));
    this.transport.replace(sequence);
    this.legend.show(sequence);
    this.roll.replace(sequence);
    this.#showTracks();
  }

  #showScore() {
    this.score.use(this.#id, this.#title, this.#sequence.tracks, this.#source, this.mender.version);
  }

  get #source() {
    return this.mender.corrected ? /** @type {const} */ ("corrected") : /** @type {const} */ ("original");
  }

  /** Return the source of exports once all changes are stored. */
  async #savedSource() {
    await this.mender.flush();
    return this.#source;
  }

  /** Have the files made that a friend with a link may want: friends can ask for none. */
  async prepareForFriends() {
    const id = (this.#sharedId = this.#id);
    const source = await this.#savedSource();
    const score = { format: "svg", options: this.score.plainOptions };
    const files = [score, ...FOR_FRIENDS].map((wanted) => ({ ...wanted, source }));
    prepare(id, [{ format: "sounds" }, ...files], AbortSignal.timeout(PREPARE_MS));
  }

  /** Show a friend what the owner has had made. */
  async #showShared() {
    const hasScore = await this.downloads.showShared(this.#source).catch(() => false);
    this.views.node.hidden = !hasScore;
  }

  hide() {
    this.stop();
    this.node.hidden = true;
  }

  stop() {
    this.mender.flush();
    this.#loading.abort();
    this.transport.pause();
  }

  /** Download the corrected notes instead of the original, where there are any. @param {Event} event @param {string} words */
  downloadCorrected(event, words) {
    if (!this.mender.corrected) return;
    event.preventDefault();
    this.downloads.fetch(words);
  }

  /** @param {number} n a note; -1: none */
  pick(n) {
    this.#picked = n;
    this.roll.pick(n);
    this.card.show(this.#sequence, this.grid, n);
    this.mender.show();
  }

  /** Select a note by itself. @param {import("./api.js").Note | null} note */
  pickNote(note) {
    this.pick(note ? this.#sequence.notes.indexOf(note) : -1);
  }

  get pickedNote() {
    return this.#sequence.notes[this.#picked] ?? null;
  }

  /** A note that a new one is like: the selected one, or one near the playhead. */
  get likelyNote() {
    const near = Math.min(this.#sequence.count - 1, this.#sequence.range(0, this.transport.position).end);
    return this.pickedNote ?? this.#sequence.notes[near] ?? null;
  }

  /** Play a note, unless the music plays. @param {import("./api.js").Note} note */
  audition({ program, is_drum, pitch }) {
    if (!this.transport.playing) this.transport.audition({ program, isDrum: is_drum }, pitch);
  }

  /** Select the next note that is shown, or from the playhead if none is selected. @param {1 | -1} step */
  #pickNext(step) {
    const { hidden } = this.legend;
    const from = this.#picked >= 0 ? this.#picked + step : this.#sequence.range(this.transport.position, Infinity).first;
    for (let n = from; n >= 0 && n < this.#sequence.count; n += step) {
      if (hidden.has(this.#sequence.trackOf[n])) continue;
      this.roll.onPick(n);
      return;
    }
  }

  #showTracks() {
    const { hidden } = this.legend;
    this.roll.hideTracks(hidden);
    this.transport.isAudible = (track) => !hidden.has(track);
  }

  #showTransport() {
    const { transport } = this;
    const { playing } = transport;
    const position = Math.min(transport.position, transport.duration);
    this.playButton.classList.toggle("playing", playing);
    this.playButton.setAttribute("aria-label", playing ? "Pause" : "Play");
    this.playButton.title = playing ? "Pause" : "Play";
    this.#showPosition(position);
    this.bar.show();
    if (transport.balance > 0) this.#sounds ??= this.#loadSounds();
    cancelAnimationFrame(this.#animation);
    if (playing) this.#animation = requestAnimationFrame(() => this.#animate());
  }

  #animate() {
    this.#showPosition(Math.min(this.transport.position, this.transport.duration));
    if (this.transport.playing) this.#animation = requestAnimationFrame(() => this.#animate());
  }

  /** @param {number} position s */
  #showPosition(position) {
    this.roll.follow({ position, playing: this.transport.playing, loop: this.transport.loop });
    this.score.follow(position, this.transport.playing);
    setText(this.time, `${clock(position)} / ${clock(this.transport.duration)}`);
    setText(this.place, this.grid.placeWords(position));
  }

  /** Load the sounds of the instruments; until then, and if there are none, simple tones are played. */
  async #loadSounds() {
    const { signal } = this.#loading;
    try {
      const artifact = await exported(this.#id, { format: "sounds" }, { signal });
      const bytes = await fetchBytes(artifact.href, signal);
      const sounds = await Sounds.read(bytes, this.transport.studio.context);
      if (!signal.aborted) this.transport.useSounds(sounds);
    } catch {
      // The notes are played with simple tones.
    }
  }

  /** Play a copy of a recording whose format the browser cannot play. */
  async #replaceRecording() {
    const { recording } = this.transport;
    if (recording.state !== "failed" || this.#isCopy) return;
    this.#isCopy = true;
    const { signal } = this.#loading;
    try {
      const artifact = await exported(this.#id, { format: "recording" }, { signal });
      if (!signal.aborted) recording.load(`${artifact.href}?redirect=false`);
    } catch {
      // The notes are played alone.
    }
  }

  async #loadWaveform() {
    const { signal } = this.#loading;
    this.roll.overview.showWaveform([]);
    try {
      const artifact = await exported(this.#id, { format: "peaks" }, { signal });
      const peaks = JSON.parse(new TextDecoder().decode(await fetchBytes(artifact.href, signal)));
      if (!signal.aborted) this.roll.overview.showWaveform(peaks.levels);
    } catch {
      // The overview shows the notes alone.
    }
  }
}
