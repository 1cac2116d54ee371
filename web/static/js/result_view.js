/** The result of a job: the piano roll with its tools, what is heard, and the instruments. */

import { fetchBytes, recordingAddress } from "./api.js";
import { element, segments, setText } from "./dom.js";
import { exported } from "./exports.js";
import { clock, counted } from "./format.js";
import { Grid } from "./grid.js";
import { Legend } from "./legend.js";
import { ListenBar } from "./listen_bar.js";
import { NoteCard } from "./note_card.js";
import { NoteSequence } from "./notes.js";
import { PianoRoll } from "./piano_roll.js";
import { bindKeys, KeysHelp, listeningKeys } from "./roll_keys.js";
import { RollTools } from "./roll_tools.js";
import { ScoreView } from "./score_view.js";
import { Sounds } from "./sounds.js";
import { Transport } from "./transport.js";

export class ResultView {
  #sequence = new NoteSequence({ notes: [] });
  #grid = new Grid();
  #picked = -1;
  #id = "";
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
    const words = element("div", { className: "roll-words" }, this.time, this.place, this.count, this.facts);
    const head = element("div", { className: "roll-tools" }, this.playButton, words, this.views.node);
    this.rollPart = element("div", { className: "roll-part" }, this.roll.node, this.card.node, this.tools.node);
    this.frame.append(head, this.bar.node, this.rollPart, this.score.node);
    this.node = element("div", { className: "result", hidden: true }, this.none, this.frame, this.legend.node, this.keys.node);
    this.#connect();
  }

  #connect() {
    const { transport, roll } = this;
    this.playButton.addEventListener("click", () => transport.toggle());
    transport.addEventListener("change", () => this.#showTransport());
    roll.onSeek = (time) => transport.seek(this.tools.snaps ? this.#grid.snap(time) : time);
    roll.overview.onSeek = (time) => transport.seek(time);
    this.score.onSeek = (time) => transport.seek(time);
    roll.onLoop = (loop) => transport.setLoop(loop);
    roll.onPick = (n) => {
      this.pick(n);
      if (n >= 0 && !transport.playing) {
        transport.audition(this.#sequence.tracks[this.#sequence.trackOf[n]], this.#sequence.pitches[n]);
      }
    };
    this.legend.addEventListener("change", () => this.#showTracks());
    bindKeys(roll.moving, () => this.#bindings());
    bindKeys(roll.overview.node, () => listeningKeys(transport, roll, this.#grid));
  }

  /** @returns {import("./roll_keys.js").Bindings} */
  #bindings() {
    return {
      ...listeningKeys(this.transport, this.roll, this.#grid),
      l: () => this.bar.loop.toggle(),
      n: () => this.#pickNext(1),
      "Shift+n": () => this.#pickNext(-1),
      Escape: () => this.pick(-1),
      "?": () => this.keys.open(),
    };
  }

  /** @param {"roll" | "score"} name */
  #showView(name) {
    this.rollPart.hidden = name !== "roll";
    this.score.show(name === "score");
    this.#showTransport();
  }

  /** @param {import("./api.js").NotesFile} json notes.json @param {string} id of the job @param {string} title */
  show(json, id, title) {
    this.#loading.abort();
    this.#loading = new AbortController();
    this.#id = id;
    this.#sounds = null;
    const sequence = new NoteSequence(json);
    const grid = new Grid(json);
    this.#sequence = sequence;
    this.#grid = grid;
    this.node.hidden = false;
    this.none.hidden = sequence.count > 0;
    this.frame.hidden = sequence.count === 0;
    setText(this.count, counted(sequence.count, "note"));
    setText(this.facts, grid.words);
    this.transport.load(sequence, grid, sequence.count ? recordingAddress(id) : null);
    this.legend.show(sequence);
    this.tools.load(grid);
    this.bar.load(grid);
    this.score.use(id, title, sequence.tracks, "original", "");
    this.roll.show(sequence, grid);
    this.pick(-1);
    this.#showTracks();
    this.#showTransport();
    if (sequence.count) this.#loadWaveform();
  }

  hide() {
    this.stop();
    this.node.hidden = true;
  }

  stop() {
    this.#loading.abort();
    this.transport.pause();
  }

  /** @param {number} n a note; -1: none */
  pick(n) {
    this.#picked = n;
    this.roll.pick(n);
    this.card.show(this.#sequence, this.#grid, n);
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
    setText(this.place, this.#grid.placeWords(position));
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
