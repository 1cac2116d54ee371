/**
 * Playback: the recording, the notes and the clicks, in step and from one position.
 *
 * The recording leads, because a media element starts and seeks when it can. Its position is compared with the clock
 * of the audio graph, and notes and clicks are scheduled on that clock. Without a recording the clock runs alone.
 */

import { Clock, Drift } from "./clock.js";
import { Grid } from "./grid.js";
import { Handover } from "./handover.js";
import { NoteSequence } from "./notes.js";
import { Recording } from "./recording.js";
import { Studio } from "./studio.js";

const TICK = 0.025; // s
const LEAD = 0.06; // s until the recording or the notes start
const PREROLL = 0.2; // s that the recording plays in silence, until it is known where it is
const LOOP_PREROLL = 0.06; // s, so that the pause is short at the end of a loop that could not be prepared
const AHEAD = 0.3; // s that are scheduled in advance
const AHEAD_HIDDEN = 2.5; // timers of a hidden tab run once a second
const TOLERANCE = 0.002; // s; differences above it are corrected
const JUMP = 0.12; // s; above it notes are scheduled anew
const TAIL = 0.4; // s after the end
const JUST_PASSED = 0.5; // s after the end of a loop that was set at the playhead
const FIRST_LATENCY = 0.04; // s that a media element takes to start; measured at each start

/** @typedef {{ start: number, end: number }} Loop in s */
/** Fires "change" when it starts, stops or seeks, and when a setting or the recording changes. */
export class Transport extends EventTarget {
  playing = false;
  recording = new Recording();
  /** @type {Loop | null} */
  loop = null;
  /** @type {(track: number) => boolean} */
  isAudible = () => true;
  clicksOn = false;
  countInOn = false;

  #sequence = new NoteSequence({ notes: [] });
  #grid = new Grid();
  /** @type {Studio | null} */
  #studio = null;
  #clock = new Clock(0, 0, 1);
  /** @type {Clock | null} of the next pass of the loop, once its notes are scheduled */
  #next = null;
  #handover = new Handover(this.recording);
  #position = 0; // s, while stopped
  #rate = 1;
  #balance = 0;
  #volume = 1;
  #turn = 0; // of attempts to start: a later one replaces an earlier one
  #timer = 0;
  #cue = 0;
  #running = false;
  #starts = false; // the recording has been started and not been compared yet
  #held = false; // until the recording, which is loading, goes on
  #loops = false; // at the end of the loop, if playback started before it
  #latency = FIRST_LATENCY;
  #drift = new Drift();

  constructor() {
    super();
    this.recording.addEventListener("change", () => {
      if (!this.recording.usable) this.#held = this.#starts = false;
      this.#mix();
      this.#changed();
    });
  }

  /** @param {NoteSequence} sequence @param {Grid} grid @param {string | null} recording its address */
  load(sequence, grid, recording) {
    this.pause();
    this.#sequence = sequence;
    this.#grid = grid;
    this.#position = 0;
    this.loop = null;
    this.recording.load(recording);
  }

  /** Replace the notes during playback. @param {NoteSequence} sequence */
  replace(sequence) {
    this.#sequence = sequence;
    if (this.#running) this.#reschedule();
  }

  /** Replace the beats during playback. @param {Grid} grid */
  useGrid(grid) {
    this.#grid = grid;
    if (this.#running) this.#reschedule();
  }

  /** The position that is audible now, in s. */
  get position() {
    if (!this.#running || !this.#studio) return this.#position;
    return Math.max(this.#clock.start, this.#clock.positionAt(this.#studio.audibleTime));
  }

  get duration() {
    return this.#sequence.duration;
  }

  get rate() {
    return this.#rate;
  }

  /** 0: only the recording, 1: only the notes. */
  get balance() {
    return this.recording.usable ? this.#balance : 1;
  }

  get volume() {
    return this.#volume;
  }

  /** @param {number} rate */
  setRate(rate) {
    const position = this.position;
    this.#rate = rate;
    this.recording.rate = rate;
    this.#handover.cancel();
    if (this.#running && this.recording.deck.delay) {
      this.#jump(position, PREROLL);
    } else if (this.#running) {
      this.#clock = new Clock(this.studio.audibleTime, position, rate);
      this.#drift.reset();
      this.#reschedule();
    }
    this.#changed();
  }

  /** @param {number} balance */
  setBalance(balance) {
    this.#balance = balance;
    this.#mix();
    this.#changed();
  }

  /** @param {number} volume 0-1 */
  setVolume(volume) {
    this.#volume = volume;
    this.#mix();
    this.#changed();
  }

  /** @param {Loop | null} loop */
  setLoop(loop) {
    this.loop = loop && loop.end - loop.start > 0.1 ? loop : null;
    this.#handover.cancel();
    if (this.#running && !this.#starts) this.recording.deck.openGate(this.studio.context.currentTime);
    if (this.#running && this.#justPassedLoop) this.#jump(this.loop?.start ?? 0, LOOP_PREROLL);
    else if (this.#running) this.#reschedule();
    this.#changed();
  }

  /** True right after the end of the loop, as when it was just set there: playback goes on at its start. */
  get #justPassedLoop() {
    const late = this.loop ? this.position - this.loop.end : -1;
    return late > -0.01 && late < JUST_PASSED;
  }

  /** @param {import("./sounds.js").Sounds} sounds */
  useSounds(sounds) {
    this.studio.synth.sounds = sounds;
  }

  toggle() {
    if (this.playing) this.pause();
    else this.play();
  }

  play() {
    if (this.playing || this.duration === 0) return;
    if (this.#position >= this.duration - 0.01) this.#position = this.loop?.start ?? 0;
    if (this.loop && this.#justPassedLoop) this.#position = this.loop.start;
    if (this.countInOn && this.#grid.known) this.#position = this.#grid.snap(this.#position);
    this.playing = true;
    this.studio.context.resume();
    this.#begin(this.countInOn);
    this.#changed();
  }

  pause() {
    if (!this.playing) return;
    this.#position = Math.min(this.position, this.duration);
    this.#halt();
    this.playing = false;
    this.#changed();
  }

  /** @param {number} position s */
  seek(position) {
    this.#jump(position, PREROLL);
  }

  /** @param {number} position s @param {number} preroll s */
  #jump(position, preroll) {
    const target = Math.min(this.duration, Math.max(0, position));
    if (this.playing) this.#halt();
    this.#position = target;
    if (this.playing) this.#begin(false, preroll);
    this.#changed();
  }

  /** Play one note, to hear what is edited. @param {{ program: number, isDrum: boolean }} track @param {number} pitch */
  audition(track, pitch) {
    this.studio.context.resume();
    this.studio.synth.audition(track, pitch);
  }

  /** The audio graph, created when it is first needed: browsers allow sound only after a user gesture. */
  get studio() {
    if (!this.#studio) {
      this.#studio = new Studio(this.recording);
      this.#studio.synth.isAudible = (track) => this.isAudible(track);
      this.#mix();
    }
    return this.#studio;
  }

  #mix() {
    this.#studio?.mix(this.balance, this.#volume);
  }

  /** @param {boolean} countsIn @param {number} [preroll] s */
  async #begin(countsIn, preroll = PREROLL) {
    const turn = (this.#turn += 1);
    const { context, clicks } = this.studio;
    const position = this.#position;
    const early = this.recording.usable ? Math.min(position, preroll * this.#rate) : 0;
    await this.recording.prepare(position - early);
    if (turn !== this.#turn) return;
    let at = context.currentTime + Math.min(LEAD, preroll / 2) + early / this.#rate;
    if (countsIn && this.#grid.known) at += clicks.countIn(this.#grid, position, this.#rate, at);
    this.#clock = new Clock(at, position, this.#rate);
    this.#drift.reset();
    this.#held = false;
    this.#starts = this.recording.usable && !this.recording.ended;
    if (this.#starts) {
      this.recording.deck.closeGate();
      const cue = this.#clock.timeOf(position - early) - this.#latency;
      this.#cue = window.setTimeout(() => this.recording.start(), (cue - context.currentTime) * 1000);
    }
    this.#running = true;
    this.#reschedule();
    this.#timer = window.setInterval(() => this.#tick(), TICK * 1000);
  }

  #halt() {
    this.#turn += 1;
    clearInterval(this.#timer);
    clearTimeout(this.#cue);
    this.#running = false;
    this.#handover.cancel();
    this.recording.stop();
    this.#studio?.silence();
  }

  /** Schedule notes and clicks anew from the position that will be reached next. */
  #reschedule() {
    const { context, synth, clicks } = this.studio;
    const position = Math.max(this.#clock.start, this.#clock.positionAt(context.currentTime));
    this.#next = null;
    synth.silence();
    synth.begin(this.#sequence, position);
    if (context.currentTime >= this.#clock.timeOf(this.#clock.start)) clicks.silence();
    clicks.begin(this.#grid, position);
    this.#loops = this.loop !== null && position < this.loop.end;
    if (!this.#starts) this.#schedule();
  }

  #tick() {
    this.#follow(this.studio.context.currentTime);
    if (this.#running && !this.#held && !this.#starts) this.#schedule();
  }

  #schedule() {
    const now = this.studio.context.currentTime;
    const position = this.#clock.positionAt(now);
    const loop = this.#loops ? this.loop : null;
    if (loop && position >= loop.end) {
      if (this.#next) this.#repeat(this.#next);
      else this.#jump(loop.start, LOOP_PREROLL);
    } else if (position > this.duration + TAIL) {
      this.pause();
      this.#position = 0;
      this.#changed();
    } else {
      const until = now + (document.hidden ? AHEAD_HIDDEN : AHEAD);
      if (!this.#next) this.#sound(this.#clock, Math.min(loop?.end ?? Infinity, this.#clock.positionAt(until)));
      if (loop) this.#approach(loop, now, until);
    }
  }

  /** Schedule the notes and clicks before a position. @param {Clock} clock @param {number} position s */
  #sound(clock, position) {
    const { synth, clicks } = this.studio;
    synth.schedule(clock, position);
    if (this.clicksOn) clicks.schedule(clock, position);
    else clicks.skip(position);
  }

  /** Prepare the next pass of the loop. @param {Loop} loop @param {number} now @param {number} until of the audio clock */
  #approach(loop, now, until) {
    const { synth, clicks } = this.studio;
    const { recording } = this;
    const end = this.#clock.timeOf(loop.end);
    const recorded = recording.covers(loop.start);
    if (recorded) this.#handover.approach(now, end, loop.start, this.#rate);
    if (until < end) return;
    if (recorded && !this.#handover.ready) {
      if (now > this.#clock.timeOf(this.#clock.start)) recording.deck.closeGateAt(end);
      return;
    }
    if (!this.#next) {
      this.#next = new Clock(end, loop.start, this.#rate);
      synth.silenceAt(end);
      synth.begin(this.#sequence, loop.start);
      clicks.begin(this.#grid, loop.start);
    }
    this.#sound(this.#next, Math.min(loop.end, this.#next.positionAt(until)));
  }

  /** Go on with the next pass of the loop. @param {Clock} clock */
  #repeat(clock) {
    this.#clock = clock;
    this.#next = null;
    this.#handover.finish();
    this.#drift.reset();
    this.#changed();
  }

  /** Correct the clock by the position of the recording. @param {number} now of the audio clock */
  #follow(now) {
    const measured = this.recording.position;
    if (measured === null) {
      this.#hold(now);
    } else if (this.#held) {
      this.#held = false;
      this.#starts = false;
      this.#clock = new Clock(now, measured, this.#rate);
      this.recording.deck.openGate(now);
      this.#reschedule();
    } else {
      this.#compare(measured, measured - this.#clock.positionAt(now));
    }
  }

  /** @param {number} measured position of the recording, in s @param {number} difference from the clock, in s */
  #compare(measured, difference) {
    const arrives = this.#starts && measured > this.#clock.start - 2 * TICK;
    const median = this.#drift.add(difference, arrives);
    if (median === null || (!this.#starts && Math.abs(median) < TOLERANCE)) return;
    this.#clock.shift(median);
    this.#next?.shift(median);
    if (this.#starts) {
      this.#starts = false;
      this.#latency = Math.min(0.15, Math.max(0, this.#latency - median / this.#rate));
      this.recording.deck.openGate(this.#clock.timeOf(this.#clock.start));
    } else if (Math.abs(median) > JUMP) {
      this.#reschedule();
    }
  }

  /** Stop the clock and the notes while the recording is loading. @param {number} now */
  #hold(now) {
    const { usable, ended, deck } = this.recording;
    const late = now - this.#clock.timeOf(this.#clock.start);
    if (!usable || ended || deck.element.paused || (late < JUMP && !this.#held)) return;
    if (!this.#held) {
      this.studio.silence();
      this.#handover.cancel();
      this.#next = null;
    }
    this.#held = true;
    this.#drift.reset();
    this.#clock = new Clock(now, deck.place, this.#rate);
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}
